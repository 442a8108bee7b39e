"""A dataset folder to the Hub, as far as the licences of its rows allow; and the one commit that a push is.

Uploads are one commit each: `HfApi.upload_folder` may cut a folder into several, and a push that breaks off between
two of them leaves a mixture of old and new files under one revision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from deft_llm.files import write_whole

from ..sources.sharing_policy import check_may_share, check_repository, is_bound, licensed_sources, terms_of
from .manifest import with_sharing_note

_FILES = ["README.md", "manifest.json", "*/*.parquet"]  # and no picture that somebody drew into the folder


class PushError(OSError):
    """The Hub was asked and did not do it; says why, and what stands there now."""


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
        PushError: from the Hub; the files there are the old ones or the new ones, all of them.
    """
    folder, api = Path(folder), api or HfApi()
    card_path = folder / "README.md"
    files = sorted(folder.glob("*/*.parquet"))
    if not files or not card_path.is_file():
        raise FileNotFoundError(f"{folder}: no dataset folder; pass one that `build` or `synthesize` has written.")
    people, built = _origins(folder, files)
    terms = terms_of(people, built)
    reason = (i_may_share or "").strip()
    check_may_share("rows", str(folder), terms, visibility, reason)

    # Private until it is certain who may see what.
    told = explained(repo_id, "dataset", api)
    told(api.create_repo, repo_id, repo_type="dataset", private=visibility != "public", exist_ok=True)
    found = told(api.repo_info, repo_id, repo_type="dataset")
    check_repository(repo_id, terms, visibility, private=found.private, gated=found.gated)
    if reason and is_bound(terms):
        licensed = licensed_sources(people, chain(*people.values()))
        card = with_sharing_note(card_path.read_text(encoding="utf-8"), repo_id, visibility, licensed, reason)
        write_whole(card_path, card)
    if visibility == "gated":
        told(api.update_repo_settings, repo_id, repo_type="dataset", gated="manual")
    paths = [path for path in sorted(folder.rglob("*")) if _matches(path.relative_to(folder).as_posix(), _FILES)]
    # Shards of an earlier build with other names go with the same commit.
    commit_files(api, repo_id, "dataset", folder, paths, stale=["*/*.parquet"], message="Upload dataset")
    if visibility == "gated":
        told(api.update_repo_settings, repo_id, repo_type="dataset", private=False)
    return f"{getattr(api, 'endpoint', 'https://huggingface.co')}/datasets/{repo_id}"


def commit_files(
    api: Any,
    repo_id: str,
    kind: str,
    folder: Path,
    paths: Sequence[Path],
    *,
    stale: Sequence[str],
    message: str,
    revision: str | None = None,
) -> str:
    """Files of a folder to a repository in one commit on top of what is there now; returns the commit's hash.

    Args:
        kind: "model", "dataset" or "space".
        stale: patterns of files that are deleted in the same commit where the folder no longer has them.
        revision: branch, by default main.

    Raises:
        PushError: nothing was changed, or (when the answer was lost) what the branch holds now.
    """
    told = explained(repo_id, kind, api, revision)
    head = told(api.repo_info, repo_id, repo_type=kind, revision=revision).sha
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    present = told(api.list_repo_files, repo_id, repo_type=kind, revision=revision)
    gone = [name for name in present if name not in names and _matches(name, stale)]
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in names.items()]
    operations += [CommitOperationDelete(path_in_repo=name) for name in gone]
    told = explained(repo_id, kind, api, revision, head)
    done = told(
        api.create_commit,
        repo_id,
        operations,
        repo_type=kind,
        commit_message=message,
        revision=revision,
        parent_commit=head,
    )
    return done.oid


def explained(
    repo_id: str, kind: str, api: Any, revision: str | None = None, head: str | None = None
) -> Callable[..., Any]:
    """Calls a function of the Hub's client, and turns what it raises into a `PushError` in plain words.

    Args:
        head: the commit before a push; the message then says whether it is still the newest.
    """

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        # The client raises errors of its HTTP library, of its own and of the operating system, wrapped in one another.
        except Exception as error:
            text = in_plain_words(error, repo_id)
            if head is not None:
                text += f" {_state(api, repo_id, kind, revision, head)}"
            raise PushError(text) from error

    return call


def in_plain_words(error: BaseException, repo_id: str) -> str:
    """What went wrong between here and the Hub, what to do, and the Hub's own words."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    answers = [item.response for item in chain if getattr(item, "response", None) is not None]
    if not answers:
        # httpx's names, whichever httpx it is.
        names = " ".join(type(item).__name__ for item in chain)
        what = "did not answer in time" if "Timeout" in names else "could not be reached, or the connection broke off"
        if not any(word in names for word in ("Timeout", "Connect", "Network", "Protocol", "ReadError", "WriteError")):
            return f"{repo_id}: {_last_line(error)}"
        return f"{repo_id}: the Hub {what} ({_last_line(chain[-1])}). Check the network and push again."
    response = answers[0]
    status = response.status_code
    said = response.headers.get("X-Error-Message") or _last_line(error)
    owner = repo_id.partition("/")[0]
    advice = {
        400: "the Hub does not accept what was sent",
        401: "the Hub does not accept your token: it is missing, mistyped, expired or revoked. Log in again "
        "(`hf auth login`) or set HF_TOKEN",
        403: f"your token has no right to do this. Use one that may write to {owner}",
        404: "there is no such repository or revision, or your token may not see it. Check the name and the token",
        409: "the Hub refuses because something else is being changed there. Wait a moment and push again",
        412: "somebody else has changed it in the meantime. Look at what they did, then push again",
        413: "the Hub finds it too large",
        429: "the Hub asks you to slow down. Wait some minutes and push again",
    }
    why = advice.get(status, "the Hub has a fault of its own. Push again later" if status >= 500 else "refused")
    return f"{repo_id}: {why}. (The Hub said: {status}, {said.rstrip('.')}.)"


def _state(api: Any, repo_id: str, kind: str, revision: str | None, head: str) -> str:
    """What the branch holds after a push that failed."""
    try:
        now = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
    # Of the same kinds as above; that the Hub cannot even be asked is what the reader has to know.
    except Exception:
        return (
            f"Whether anything was changed cannot be asked now; before the push it was at {head[:7]}, and a push is "
            "one commit: all of it is there or nothing."
        )
    if now == head:
        return f"Nothing was changed: it is still at {head[:7]}."
    return f"It is now at {now[:7]}, before the push it was at {head[:7]}."


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Like `fnmatch`, but a star stays within one folder."""
    parts = name.split("/")
    return any(
        len(pattern.split("/")) == len(parts)
        and all(fnmatch(part, piece) for part, piece in zip(parts, pattern.split("/"), strict=True))
        for pattern in patterns
    )


def _origins(folder: Path, files: list[Path]) -> tuple[dict[str, set[str]], dict[str, Any]]:
    """The subjects of each source, and the sources of the manifest, which may name more and cannot take any away."""
    people: dict[str, set[str]] = {}
    for path in files:
        names = pq.read_schema(path).names
        if "source" not in names:
            continue  # the truth beside synthetic rows
        table = pq.read_table(path, columns=["source", "subject"])
        for source, subject in zip(table["source"].to_pylist(), table["subject"].to_pylist(), strict=True):
            people.setdefault(source, set()).add(subject)
    manifest = folder / "manifest.json"
    built = json.loads(manifest.read_text(encoding="utf-8"))["sources"] if manifest.exists() else {}
    return {**{name: set() for name in built}, **people}, built
