"""Lock the work folder, so that only one build at a time uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deft_llm import files

from .settings import BuildError


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Locks the work folder. At the end, a folder without a plan is deleted.

    Args:
        work (`Path`): The folder. It is created if it does not exist.

    Raises:
        BuildError: Another build is using the folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        # Wait a second, because another build may be about to finish.
        with files.locked(work / "lock", timeout=1):
            try:
                yield
            finally:
                if work.is_dir() and not (work / "job.json").exists():
                    shutil.rmtree(work)
    except files.LockedError as error:
        raise BuildError(
            f"{error.holder} is building into {work.name.removesuffix('.building')} already. Wait until it has "
            "finished, or choose another --output-dir."
        ) from None
