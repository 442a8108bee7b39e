"""Write files atomically, lock between processes, and fingerprint code.

This module does not import other modules of the package, so that all of them can use it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import socket
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(RuntimeError):
    """Another process holds the lock. `holder` says which one."""

    def __init__(self, path: Path, holder: str):
        super().__init__(f"{holder} holds {path}.")
        self.holder = holder


# --- Whole files ----------------------------------------------------------------------------------------------------


def write_whole(path: str | os.PathLike, content: str | bytes) -> int:
    """Writes a file atomically: readers see either the complete old content or the complete new content.

    Args:
        path (`str` or `os.PathLike`): the file; its folder must exist.
        content (`str` or `bytes`): the content. Text is written in UTF-8, with unchanged line ends.

    Returns:
        `int`: the size of the file in bytes.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path).stat().st_size


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Context to write a file under another name. It gets its final name when the block ends without an error.

    The content is synced to the disk before the file is renamed. After an error the file is deleted.

    Args:
        path (`str` or `os.PathLike`): the file; its folder must exist.

    Yields:
        `Path`: the file to write, in the same folder.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _settle(partial)
        os.replace(partial, path)
        _settle(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """As `whole_file`, for a file of the user's that must not replace another one.

    Args:
        path (`str` or `os.PathLike`): the file.

    Yields:
        `Path`: the file to write, in the same folder.

    Raises:
        FileExistsError: the file exists, or was made in the meantime.
        FileNotFoundError: its folder does not exist.
    """
    check_new(path)
    with whole_file(path) as partial:
        yield partial
        check_new(path)


def check_new(path: str | os.PathLike) -> None:
    """Checks that a file can be written without replacing another one, before the work for it is done.

    Args:
        path (`str` or `os.PathLike`): the file.

    Raises:
        FileExistsError: the file exists.
        FileNotFoundError: its folder does not exist.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists already and is not overwritten. Choose another name, or delete it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Context to fill a folder under another name. It gets its final name when the block ends without an error.

    Args:
        path (`str` or `os.PathLike`): the folder; it must be missing or empty.

    Yields:
        `Path`: the folder to fill, in the same parent folder.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        publish_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def files_together(folder: str | os.PathLike, *, last: str | None = None) -> Iterator[Path]:
    """Context to write several files. They replace those of `folder` when the block ends without an error.

    Args:
        folder (`str` or `os.PathLike`): the folder. It is created if it is missing. Its other files are kept.
        last (`str`, *optional*): the name of the file that is moved after all others, because readers use it to tell
            whether the folder is complete.

    Yields:
        `Path`: the folder to fill.
    """
    folder = Path(folder)
    partial = folder / ".files.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        written = sorted(partial.iterdir(), key=lambda path: (path.name == last, path.name))
        for path in written:
            _settle(path)
        for path in written:
            os.replace(path, folder / path.name)
        _settle(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_zip(path: str | os.PathLike, *files: str | os.PathLike) -> None:
    """Writes a zip of files, each under its own name. The zip gets its name when it is complete.

    Args:
        path (`str` or `os.PathLike`): the zip; an older one is replaced.
        *files (`str` or `os.PathLike`): the files.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # A fixed time, so that equal files make equal zips.
            archive.writestr(zipfile.ZipInfo(Path(file).name, (1980, 1, 1, 0, 0, 0)), Path(file).read_bytes())
    write_whole(path, buffer.getvalue())


def publish_folder(partial: Path, path: Path) -> None:
    """Syncs all files of a folder to the disk, then renames the folder to its final name.

    Args:
        partial (`Path`): the filled folder.
        path (`Path`): its final name, on the same disk; missing or an empty folder.
    """
    for file in sorted(partial.rglob("*"), reverse=True):
        _settle(file)
    if path.exists():
        path.rmdir()
    partial.rename(path)
    _settle(path.parent)


def _settle(path: Path) -> None:
    """Syncs a file, or the list of a folder's files, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX systems can open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems cannot do this for folders
            raise
    finally:
        os.close(descriptor)


# --- Locks ----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: str | os.PathLike, *, timeout: float = 0) -> Iterator[None]:
    """Context that holds a lock between processes. The lock is released when the process ends, even after a crash.

    Args:
        path (`str` or `os.PathLike`): the file of the lock; its folder must exist. `path` + ".holder" names the
            process that holds the lock.
        timeout (`float`): seconds to wait for the lock; -1 for no limit.

    Raises:
        LockedError: another process still holds the lock.
    """
    path = Path(path)
    note = path.with_name(path.name + ".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout, poll_interval=0.1)
    except Timeout:
        holder = "Another process"
        with suppress(OSError):
            holder = note.read_text(encoding="utf-8").strip() or holder
        raise LockedError(path, holder) from None
    try:
        note.write_text(f"Process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # the block may have deleted the folder
            note.unlink()
        lock.release()


# --- Fingerprints ---------------------------------------------------------------------------------------------------


def code_fingerprint(*modules: str | os.PathLike, libraries: Iterable[str] = ()) -> str:
    """Hash of code. A stored result that depends on the code is computed again when the hash changes.

    Args:
        *modules (`str` or `os.PathLike`): full names of modules, such as "deft_llm.processing". A package includes
            all its modules. A path names a single file.
        libraries (`Iterable[str]`): names of installed distributions, whose versions are included in the hash.

    Returns:
        `str`: SHA-256 in hexadecimal. It does not depend on the folder of the code.

    Raises:
        ModuleNotFoundError: a module does not exist.
        PackageNotFoundError: a library is not installed.
    """
    files: dict[str, Path] = {}
    for module in modules:
        files |= _files_of(module) if isinstance(module, str) else {Path(module).name: Path(module)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\0".encode() + content)
    for library in sorted(libraries):
        digest.update(f"{library} {importlib.metadata.version(library)}\0".encode())
    return digest.hexdigest()


def _files_of(module: str) -> dict[str, Path]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}.", name=module)
    if spec.submodule_search_locations is None:
        return {module: Path(spec.origin)}
    folder = Path(spec.origin).parent
    return {f"{module}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*.py")}


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path (`str` or `os.PathLike`): the file, or a folder, of which the names and contents of all files count.
    """
    if os.path.isdir(path):
        files = sorted(item for item in Path(path).rglob("*") if item.is_file())
        listed = "".join(f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
