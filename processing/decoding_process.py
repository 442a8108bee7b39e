"""Decodes video in a helper process, so that a decoder that crashes or hangs on a bad file only raises an error.

Each process has one helper, started on first use and kept: `decoding_server`, run by `sys.executable`.
Nothing is forked or imported from the caller's main module, so this works in notebooks, in workers of a `DataLoader`
(each gets its own helper) and for code loaded from the Hub's cache. A second helper exists only while two clips are
read at the same time. Helpers end with the process that started them.

Frames are passed through a ring buffer in shared memory, which the helper fills while the caller uses earlier frames.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .decoding_server import SCRIPT
from .video_decoding import DamagedVideoError, NotAVideoError, VideoReadError, VideoTooLargeError

_SERVER = os.path.dirname(SCRIPT), os.path.splitext(os.path.basename(SCRIPT))[0]
_ERRORS = {kind.__name__: kind for kind in (VideoReadError, DamagedVideoError, NotAVideoError, VideoTooLargeError)}

RING_BYTES = 8 * 2**20
"""Maximum memory for frames decoded ahead. At least two frames are always decoded ahead."""

# `-S`: the helper gets the caller's sys.path, so it does not need the site module. Its modules are imported from the
# folder they lie in, whatever package that is for the caller, without running the package's own `__init__`.
_START = """
import importlib, json, os, sys, types
channel, folder, server, path = sys.argv[1:]
try:
    sys.path[:] = json.loads(path)
    package = types.ModuleType("decoding_helper")
    package.__path__ = [folder]
    sys.modules["decoding_helper"] = package
    importlib.import_module(f"decoding_helper.{server}").serve(int(channel))
except Exception as error:
    os.write(int(channel), json.dumps({"refused": f"{type(error).__name__}: {error}"}).encode() + b"\\n")
"""


class DecoderDied(Exception):  # noqa: N818 - describes the decoder; the reader turns it into an error
    """The helper process crashed, or it did not answer in time and was terminated."""


class DecoderRefused(Exception):  # noqa: N818
    """The decoder cannot read the file. Another decoder may be able to."""


def memory_file(size: int) -> int:
    """An open, unnamed file of `size` bytes, in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("deft-frames", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


class DecodingProcess:
    """A helper process and the channel to it."""

    def __init__(self, timeout: float):
        if not sys.executable:
            raise DecoderRefused("there is no Python interpreter for decoding (sys.executable); pass isolate=False")
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                # Own session: Ctrl+C goes to the caller, which then stops the helper.
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-c", _START, str(theirs.fileno()), *_SERVER, json.dumps(sys.path)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                self._channel.close()
                raise DecoderRefused(f"no process can be started for decoding ({error}); pass isolate=False") from None
        self._answers = b""
        self._ring: mmap.mmap | None = None
        self.busy = False  # whether the last answer to a command is still outstanding
        try:
            # Importing libraries from a slow disk does not count as a hanging decoder.
            self._answer(max(timeout, 60.0))
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def probe(self, command: dict[str, Any], files: Sequence[int], timeout: float) -> dict[str, Any]:
        self.busy = True
        self._tell(command, files)
        info = self._answer(timeout)["info"]
        self.busy = False
        return info

    def stream(
        self, command: dict[str, Any], files: Sequence[int], size: tuple[int, int], timeout: float
    ) -> Iterator[np.ndarray]:
        """Yields frames as views of the ring buffer. Each is valid until the next one is requested."""
        height, width = size
        frame_bytes = height * width * 3
        slots = int(np.clip(RING_BYTES // frame_bytes, 2, 64))
        used, new_ring = slots * frame_bytes, 0
        if self._ring is None or len(self._ring) < used:
            new_ring = max(used, RING_BYTES)
            ring_file = memory_file(new_ring)
            try:
                self._ring = mmap.mmap(ring_file, new_ring)
                files = [*files, ring_file]
                self._tell({**command, "ring": [slots, height, width], "new_ring": new_ring}, files)
            finally:
                os.close(ring_file)
        else:
            self._tell({**command, "ring": [slots, height, width], "new_ring": 0}, files)
        ring = np.frombuffer(self._ring, np.uint8, used).reshape(slots, height, width, 3)
        ring.flags.writeable = False
        self.busy, number = True, 0
        try:
            while "frames" in (answer := self._answer(timeout)):
                for _ in range(answer["frames"]):
                    yield ring[number % slots]
                    number += 1
                self._send(b"f" * answer["frames"])
            self.busy = False
        finally:
            if self.busy and self.alive:
                self._stop(timeout)

    def _stop(self, timeout: float) -> None:
        """Ends a stream that is no longer read."""
        with contextlib.suppress(VideoReadError, DecoderRefused, DecoderDied):
            self._send(b"s")
            while "frames" in self._answer(timeout):
                continue
            self.busy = False

    def close(self) -> None:
        self._channel.close()
        if self.alive:
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """For a forked child: drops the helper and the channel, which belong to the parent."""
        self._channel.close()
        self._process.returncode = 0

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except OSError:
            raise DecoderDied(self._fate()) from None

    def _tell(self, command: dict[str, Any], files: Sequence[int]) -> None:
        line = json.dumps(command).encode() + b"\n"
        try:
            sent = socket.send_fds(self._channel, [line], list(files))
        except OSError:
            raise DecoderDied(self._fate()) from None
        self._send(line[sent:])

    def _answer(self, timeout: float) -> dict[str, Any]:
        until = time.monotonic() + timeout
        while True:
            line, found, rest = self._answers.partition(b"\n")
            if found:
                self._answers = rest
                answer = json.loads(line)
                if "error" in answer:
                    self.busy = False
                    raise _ERRORS[answer["error"]](answer["message"])
                if "refused" in answer:
                    self.busy = False
                    raise DecoderRefused(answer["refused"])
                if "alive" not in answer:
                    return answer
                until = time.monotonic() + timeout
                continue
            if not select.select([self._channel], [], [], max(0.0, until - time.monotonic()))[0]:
                self.close()
                raise DecoderDied(f"the decoder did not answer in {timeout:g} s")
            try:
                received = self._channel.recv(1 << 16)
            except ConnectionError:
                received = b""
            if not received:
                raise DecoderDied(self._fate())
            self._answers += received

    def _fate(self) -> str:
        self.close()
        code = self._process.returncode
        if code >= 0:
            return f"the decoder ended with exit status {code}"
        try:
            return f"the decoder crashed ({signal.Signals(-code).name})"
        except ValueError:
            return f"the decoder crashed (signal {-code})"


class _Pool:
    def __init__(self):
        # Re-entrant, because the garbage collector may close a stream while this thread holds the lock.
        self.lock = threading.RLock()
        self.idle: list[DecodingProcess] = []
        self.all: list[DecodingProcess] = []

    def close(self) -> None:
        for process in self.all:
            process.close()
        self.idle, self.all = [], []


_pool = _Pool()
atexit.register(_pool.close)


def _forget_parents_processes() -> None:
    for process in _pool.all:
        process.forget()
    # The lock may have been held by a thread that does not exist in the child.
    _pool.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_processes)


@contextlib.contextmanager
def decoding_process(timeout: float) -> Iterator[DecodingProcess]:
    """Yields the idle helper process, or a new one. One helper is kept afterwards."""
    owner = os.getpid()
    with _pool.lock:
        process = _pool.idle.pop() if _pool.idle else None
    if process is None or not process.alive:
        started = DecodingProcess(timeout)
        with _pool.lock:
            _pool.all = [other for other in _pool.all if other is not process] + [started]
        process = started
    try:
        yield process
    finally:
        if os.getpid() == owner:
            with _pool.lock:
                if process.alive and not process.busy and not _pool.idle:
                    _pool.idle.append(process)
                else:
                    _pool.all = [other for other in _pool.all if other is not process]
                    process.close()


def helper_processes() -> list[int]:
    """Process ids of the running helpers."""
    return [process._process.pid for process in _pool.all if process.alive]


def close_helper_processes() -> None:
    """Ends all helper processes. The next clip starts a new one."""
    with _pool.lock:
        _pool.close()
