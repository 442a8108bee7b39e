"""The folder that a build works in: one build at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deft_llm import files

from .settings import BuildError


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Holds the work folder; a folder in which no build was planned is removed at the end.

    Args:
        work (`Path`): the folder, made if it is missing.

    Raises:
        BuildError: another build is at work in it.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        # A second, for a holder that is just about to tidy up.
        with files.locked(work / "lock", timeout=1):
            try:
                yield
            finally:
                if work.is_dir() and not (work / "job.json").exists():
                    shutil.rmtree(work)
    except files.LockedError as error:
        raise BuildError(
            f"{error.holder} is building into {work.name.removesuffix('.building')} already. Wait for it to end, or "
            "choose another --output-dir."
        ) from None
