"""Push a dataset folder to the Hub, if the licences of its rows allow it.

Every push is one commit. `HfApi.upload_folder` may split a folder into several commits; if it is interrupted between
two of them, the repository contains a mixture of old and new files.
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

_FILES = ["README.md", "manifest.json", "*/*.parquet"]  # other files, such as pictures of clips, are not uploaded


class PushError(OSError):
    """A request to the Hub failed. The message says why, and what the repository contains now."""


def push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    visibility: str = "public",
    i_may_share: str | None = None,
    api: Any = None,
) -> str:
    """Uploads a dataset folder. The sources of the rows are read from the Parquet files.

    Args:
        folder: Folder that `build` or `synthesize` has written.
        repo_id: Hub repository.
        visibility: "public", "gated" (listed, but files need approval) or "private".
        i_may_share: Why the licences allow the upload. Required for rows derived from a licensed data set, and for
            own recordings unless the repository is private. It is written into the data card, here and on the Hub.
        api: An `HfApi`.

    Returns:
        The address of the repository.

    Raises:
        FileNotFoundError: The folder is not a dataset folder.
        LicenceError: The rows are derived from a licensed data set and the repository is public, or `i_may_share` is
            missing.
        PushError: The Hub refused or could not be reached. The repository has either all old or all new files.
    """
    folder, api = Path(folder), api or HfApi()
    card_path = folder / "README.md"
    files = sorted(folder.glob("*/*.parquet"))
    if not files or not card_path.is_file():
        raise FileNotFoundError(
            f"{folder} is not a dataset folder; pass one that `deft data build` or `deft data synthesize` has written."
        )
    people, built = _origins(folder, files)
    terms = terms_of(people, built)
    reason = (i_may_share or "").strip()
    check_may_share("rows", str(folder), terms, visibility, reason)

    # A new repository stays private until access is set up.
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
    # The same commit deletes shards of an earlier build that have other names.
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
    """Uploads files of a folder in one commit on top of the branch's newest commit.

    Args:
        api: An `HfApi`.
        repo_id: Hub repository.
        kind: "model", "dataset" or "space".
        folder: Folder that the names in the repository are relative to.
        paths: Files to upload.
        stale: Patterns of files in the repository that the same commit deletes if they are not among `paths`.
        message: Commit message.
        revision: Branch, by default main.

    Returns:
        The hash of the commit.

    Raises:
        PushError: The commit failed. The message says what the branch contains now.
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
    """Makes a function that calls the Hub's client and raises a readable `PushError` if the call fails.

    Args:
        repo_id: Hub repository.
        kind: "model", "dataset" or "space".
        api: An `HfApi`.
        revision: Branch, by default main.
        head: Hash of the commit before a push. If given, the message says whether it is still the newest.
    """

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        # The client raises its own errors and those of its HTTP library and the operating system, often nested.
        except Exception as error:
            text = in_plain_words(error, repo_id)
            if head is not None:
                text += f" {_state(api, repo_id, kind, revision, head)}"
            raise PushError(text) from error

    return call


def in_plain_words(error: BaseException, repo_id: str) -> str:
    """Explains an error of the Hub's client: what went wrong, what to do, and the Hub's own message.

    Args:
        error: The error.
        repo_id: Hub repository.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    answers = [item.response for item in chain if getattr(item, "response", None) is not None]
    if not answers:
        # By name, because the client's httpx may be another copy than the installed one.
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
        409: "another change of the repository is in progress. Wait a moment and push again",
        412: "somebody else has changed it in the meantime. Check their changes, then push again",
        413: "the Hub refuses the upload because it is too large",
        429: "there were too many requests. Wait some minutes and push again",
    }
    why = advice.get(status, "the Hub has a server error. Push again later" if status >= 500 else "the Hub refused")
    return f"{repo_id}: {why}. (The Hub said: {status}, {said.rstrip('.')}.)"


def _state(api: Any, repo_id: str, kind: str, revision: str | None, head: str) -> str:
    """Says what the branch contains after a failed push."""
    try:
        now = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
    # Any error of the client, as above. The message then says that the state is not known.
    except Exception:
        return (
            f"The Hub cannot be asked whether anything was changed. Before the push it was at {head[:7]}. A push is "
            "one commit, so either all files were changed or none."
        )
    if now == head:
        return f"Nothing was changed: it is still at {head[:7]}."
    return f"It is now at {now[:7]}; before the push it was at {head[:7]}."


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Like `fnmatch`, but a star does not match a slash."""
    parts = name.split("/")
    return any(
        len(pattern.split("/")) == len(parts)
        and all(fnmatch(part, piece) for part, piece in zip(parts, pattern.split("/"), strict=True))
        for pattern in patterns
    )


def _origins(folder: Path, files: list[Path]) -> tuple[dict[str, set[str]], dict[str, Any]]:
    """The subjects of each source, and the sources of the manifest.

    Sources that only the manifest names are added, without subjects. The manifest cannot remove a source.
    """
    people: dict[str, set[str]] = {}
    for path in files:
        names = pq.read_schema(path).names
        if "source" not in names:
            continue  # the ground truth of synthetic rows
        table = pq.read_table(path, columns=["source", "subject"])
        for source, subject in zip(table["source"].to_pylist(), table["subject"].to_pylist(), strict=True):
            people.setdefault(source, set()).add(subject)
    manifest = folder / "manifest.json"
    built = json.loads(manifest.read_text(encoding="utf-8"))["sources"] if manifest.exists() else {}
    return {**{name: set() for name in built}, **people}, built
