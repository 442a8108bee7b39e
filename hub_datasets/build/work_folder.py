"""The folder that a build works in: one build at a time, and files that stand there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .settings import BuildError


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """One build at a time. The lock is the kernel's, so it ends with the process however that ends."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "Another process"
            file.close()
            raise BuildError(
                f"{holder} is building into {work.name.removesuffix('.building')} already. Wait for it to end, or "
                "choose another --output-dir."
            ) from None
        if os.path.exists(work / "lock") and os.path.samestat(os.fstat(file.fileno()), os.stat(work / "lock")):
            break
        file.close()  # its holder has tidied up in between: this is no longer the file of that name
    with file:
        file.truncate(0)
        file.write(f"Process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if work.is_dir() and not (work / "job.json").exists():
                shutil.rmtree(work)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under another name first, so that it is whole wherever it stands."""
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial_path.write_bytes(content)
    settle(partial_path, path)


def settle(partial_path: Path, path: Path) -> int:
    """Renames a file that is on the disk to its last byte; returns its size."""
    with partial_path.open("rb") as file:
        os.fsync(file.fileno())
    size = partial_path.stat().st_size
    partial_path.rename(path)
    return size
