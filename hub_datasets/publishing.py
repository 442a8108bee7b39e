"""A dataset folder to the Hub, as far as the licences of its rows allow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import HfApi

from .build_synthetic import CONVENTIONS
from .manifest import LicenceError, licensed_sources, with_sharing_note
from .sources import SOURCES

VISIBILITIES = ("public", "gated", "private")
_FILES = ["README.md", "manifest.json", "*/*.parquet"]  # and no picture that somebody drew into the folder


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    visibility: str = "public",
    i_may_share: str | None = None,
    api: Any = None,
) -> str:
    """Uploads a dataset folder. Whose rows they are is read from the Parquet files and not from what is said of them.

    Args:
        visibility: "public"; "gated", visible but its files given on request; "private".
        i_may_share: why the licences allow it; needed for rows derived from a licensed data set, and for own
            recordings unless the repository is private. Written into the data card, here and on the Hub.
        api: an `HfApi`.

    Returns:
        The repository's address.

    Raises:
        FileNotFoundError: no dataset folder.
        LicenceError: rows derived from a licensed data set and a public repository, or no statement.
        OSError: from the Hub.
    """
    folder, api = Path(folder), api or HfApi()
    if visibility not in VISIBILITIES:
        raise ValueError(f"`visibility` must be one of {', '.join(VISIBILITIES)}, not {visibility!r}.")
    card_path = folder / "README.md"
    files = sorted(folder.glob("*/*.parquet"))
    if not files or not card_path.is_file():
        raise FileNotFoundError(f"{folder}: no dataset folder; pass one that `build` or `synthesize` has written.")
    sources, subjects = _origins(folder, files)
    licensed = licensed_sources(sources, subjects)
    own = sorted(sources - set(SOURCES) - (set() if (folder / "manifest.json").exists() else set(CONVENTIONS)))
    reason = (i_may_share or "").strip()
    if licensed:
        terms = "\n".join(_terms(name) for name in licensed)
        titles = ", ".join(dict.fromkeys(SOURCES[name].title for name in licensed))
        if visibility == "public":
            raise LicenceError(
                f"{folder} holds rows derived from {titles}; they cannot go to a public repository.\n{terms}\n"
                "Choose --private or --gated and say with --i-may-share why your licences allow that."
            )
        if not reason:
            raise LicenceError(
                f"{folder} holds rows derived from {titles}.\n{terms}\nIf your licences allow a {visibility} "
                "repository all the same, say why: --i-may-share REASON. It is written into the data card."
            )
    elif own and visibility != "private" and not reason:
        raise LicenceError(
            f"{folder} holds recordings of {', '.join(own)}, whose terms are not known here. Choose --private, or say "
            "with --i-may-share why they may be shared. It is written into the data card."
        )

    # Private until it is certain who may see what.
    api.create_repo(repo_id, repo_type="dataset", private=visibility != "public", exist_ok=True)
    if licensed or own:
        found = api.repo_info(repo_id, repo_type="dataset")
        if not (found.private or (visibility == "gated" and found.gated) or (visibility == "public" and not licensed)):
            raise LicenceError(
                f"{repo_id} exists and is {'gated' if found.gated else 'public'}, not {visibility}. Change that on "
                "the Hub first, or choose another repository."
            )
    if reason and (licensed or own):
        card = with_sharing_note(card_path.read_text(encoding="utf-8"), repo_id, visibility, licensed, reason)
        partial = card_path.with_name(f".README.md.{os.getpid()}.tmp")
        partial.write_text(card, encoding="utf-8")
        partial.rename(card_path)
    if visibility == "gated":
        api.update_repo_settings(repo_id, repo_type="dataset", gated="manual")
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=_FILES,
        delete_patterns=["*/*.parquet"],  # shards of an earlier build with other names
        commit_message="Upload dataset",
    )
    if visibility == "gated":
        api.update_repo_settings(repo_id, repo_type="dataset", private=False)
    return f"{getattr(api, 'endpoint', 'https://huggingface.co')}/datasets/{repo_id}"


def _origins(folder: Path, files: list[Path]) -> tuple[set[str], set[str]]:
    """Sources and subjects of all rows; a manifest may name further sources and cannot take any away."""
    sources: set[str] = set()
    subjects: set[str] = set()
    for path in files:
        names = pq.read_schema(path).names
        if "source" not in names:
            continue  # the truth beside synthetic rows
        table = pq.read_table(path, columns=["source", "subject"])
        sources |= set(table["source"].unique().to_pylist())
        subjects |= set(table["subject"].unique().to_pylist())
    manifest = folder / "manifest.json"
    if manifest.exists():
        sources |= set(json.loads(manifest.read_text(encoding="utf-8"))["sources"])
    return sources, subjects


def _terms(name: str) -> str:
    licence = SOURCES[name].licence
    return "\n".join(
        [f"  {SOURCES[name].title}: {licence.summary}", *(f"    {no}. {text}" for no, text in licence.clauses)]
    )
