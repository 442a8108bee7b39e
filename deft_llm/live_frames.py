"""Frames of a camera, a stream or a recorded video, one at a time with their time stamps, while they are measured.

A thread reads, and a short queue holds what has not been measured yet. If measuring is too slow, frames are dropped
evenly and counted, so that the queue does not get longer. Nothing is stored on disk.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import cv2
import numpy as np

from deft_llm.frame_motion import LEAST_RATE
from deft_llm.processing.aligned_clip import checked_rate
from deft_llm.processing.video_reading import VIDEO_SUFFIXES, ClipReader, check_url, open_clip

HELD_SECONDS = 0.1
"""The queue holds frames of at most this span of time."""
RATE_SECONDS = 2.0
"""Span of time over which frame rates are measured."""
PATIENCE_SECONDS = 1.0
"""How long a camera may give no frame before it counts as gone."""
_RETRY_SECONDS = 0.05

Clock = Callable[[], float]
Wait = Callable[[float], Any]


class Source(Protocol):
    """Where frames come from."""

    name: str

    def frames(self, clock: Clock, wait: Wait) -> Iterator[tuple[float, np.ndarray]]:
        """Time stamp, in the clock's seconds, and (H, W, 3) uint8 RGB of every frame.

        Args:
            clock (`Callable`): Tells the time in seconds.
            wait (`Callable`): Waits for some seconds.
        """


class Camera:
    """A camera or a stream, opened by OpenCV.

    Args:
        name (`str`): What errors call it.
        capture (`cv2.VideoCapture`): Anything with `read()` and `release()`.
    """

    def __init__(self, name: str, capture: Any):
        self.name, self._capture = name, capture

    def frames(self, clock, wait):
        """The frames; a frame's time stamp is when it arrived.

        Raises:
            OSError: The camera has stopped giving frames.
        """
        last = clock()
        try:
            while True:
                found, frame = self._capture.read()
                if found and frame is not None:
                    last = clock()
                    yield last, cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)
                elif clock() - last >= PATIENCE_SECONDS:
                    raise OSError(
                        f"{self.name} gives no more frames. Was it unplugged or switched off, or did the stream end?"
                    )
                else:
                    wait(_RETRY_SECONDS)
        finally:
            self._capture.release()


class Recording:
    """A recorded video, replayed as fast as it was recorded.

    Args:
        reader (`ClipReader`): The video.
        fps (`float`, *optional*): Frames per second, if it states none.

    Raises:
        ValueError: The frame rate is unknown or too low.
    """

    def __init__(self, reader: ClipReader, fps: float | None = None):
        self.name, self._reader = reader.name, reader
        rate = checked_rate(reader, fps)
        if not rate:
            raise ValueError(f"{self.name} does not state a frame rate; pass --fps (frames per second).")
        if rate < LEAST_RATE:
            raise ValueError(
                f"{self.name}: {rate:g} frames per second. A face moves too far from one frame to the next to be "
                f"followed; {LEAST_RATE:g} frames per second are needed."
            )
        reader.metadata.fps = rate
        self._times = reader.times()

    def frames(self, clock, wait):
        """The frames; their time stamps are the file's own, from when the first one was decoded.

        Raises:
            ValueError: The video cannot be decoded up to its end.
        """
        start = None
        for seconds, frame in zip(self._times.tolist(), self._reader.scan(), strict=False):
            start = clock() - seconds if start is None else start
            early = start + seconds - clock()
            if early > 0:
                wait(early)
            yield start + seconds, frame


def open_source(source: str, fps: float | None = None) -> Source:
    """Opens a camera, a stream, or a recorded video.

    Args:
        source (`str`): Number of a camera, such as "0", or its device file; URL of a stream; a video, a folder of
            frames, or the URL of a video file.
        fps (`float`, *optional*): Frames per second to ask a camera for, or those of a folder that states none.

    Raises:
        FileNotFoundError: The camera, stream or file does not exist.
        ValueError: The video cannot be read, or its frame rate is unknown or too low.
    """
    check_url(source)
    if is_recorded(source):
        if "://" not in source and not source.startswith("data:") and not os.path.exists(source):
            raise FileNotFoundError(
                f"{source}: no such video, folder of frames or camera. Cameras have numbers, such as 0."
            )
        return Recording(open_clip(source, fps=fps), fps)
    number = int(source) if source.isdecimal() else source
    name = f"Camera {source}" if source.isdecimal() else source
    with _quiet():
        capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        where = "Is the address right, and is the stream running?" if "://" in source else "Is it connected, and free?"
        raise FileNotFoundError(f"{name} cannot be opened. {where}")
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    return Camera(name, capture)


def is_recorded(source: str) -> bool:
    """Whether a source is replayed, and not a camera or a stream.

    Args:
        source (`str`): As in `open_source`.
    """
    if source.isdecimal():
        return False
    scheme, colon, rest = source.partition("://")
    if colon:
        path = rest.partition("?")[0]
        file = os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES
        return scheme.lower() == "file" or (file and scheme.lower() in ("http", "https"))
    return not (os.path.exists(source) and stat.S_ISCHR(os.stat(source).st_mode))


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV tries several drivers, and complains about each."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


class Feed:
    """Reads a source in a thread, and hands out its frames in order.

    Args:
        source (`Source`): Where frames come from.
        clock (`Callable`): Tells the time in seconds.
        held (`float`): Span of time of the frames that wait, at most. If they are more, every other one is dropped.
    """

    def __init__(self, source: Source, *, clock: Clock = time.monotonic, held: float = HELD_SECONDS):
        self.arrived = self.dropped = 0
        self._source, self._clock, self._held = source, clock, held
        self._waiting: deque[tuple[float, np.ndarray]] = deque()
        self._arrivals: deque[float] = deque()
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._ended = False
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="frames", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop.set()
        self._thread.join(2 * PATIENCE_SECONDS)  # a camera's driver may block for longer; the thread is a daemon

    @property
    def rate(self) -> float | None:
        """Frames per second that have arrived lately, dropped ones included; None while this is not known."""
        with self._changed:
            return rate_of(self._arrivals)

    def put(self, moment: float, frame: np.ndarray) -> None:
        """Adds a frame to those that wait. One that comes too late, as from a slow decoder, is dropped.

        Args:
            moment (`float`): Its time stamp.
            frame (`np.ndarray`): The frame.
        """
        with self._changed:
            self.arrived += 1
            note_moment(self._arrivals, moment)
            if self._clock() - moment > self._held:
                self.dropped += 1  # measuring less leaves more time for decoding
                return
            self._waiting.append((moment, frame))
            if moment - self._waiting[0][0] > self._held:
                # Every other one, so that what is left is even.
                kept = list(self._waiting)[::-1][::2][::-1]
                self.dropped += len(self._waiting) - len(kept)
                self._waiting = deque(kept)
            self._changed.notify()

    def take(self, until: float) -> tuple[float, np.ndarray] | None:
        """The next frame and its time stamp, or None if none comes until then, or none will come.

        Args:
            until (`float`): Time up to which is waited.
        """
        with self._changed:
            while not self._waiting and not self._ended:
                left = until - self._clock()
                if left <= 0 or not self._changed.wait(left):
                    return None
            return self._waiting.popleft() if self._waiting else None

    @property
    def ended(self) -> bool:
        """Whether all frames were taken, and none will come; `error` says why, if it is not the end of a video."""
        with self._changed:
            return self._ended and not self._waiting

    def _read(self) -> None:
        frames = self._source.frames(self._clock, self._stop.wait)
        try:
            for moment, frame in frames:
                if self._stop.is_set():
                    break
                self.put(moment, frame)
        # It is raised again in the thread that measures.
        except Exception as error:
            self.error = error
        finally:
            frames.close()
            with self._changed:
                self._ended = True
                self._changed.notify()


def note_moment(moments: deque[float], moment: float) -> None:
    """Adds a time stamp, and forgets those that are too old to measure a rate.

    Args:
        moments (`deque[float]`): Time stamps in order.
        moment (`float`): The new one.
    """
    moments.append(moment)
    while len(moments) > 2 and moments[-1] - moments[0] > RATE_SECONDS:
        moments.popleft()


def rate_of(moments: deque[float]) -> float | None:
    """Frames per second, or None where the time stamps span less than half of `RATE_SECONDS`.

    Args:
        moments (`deque[float]`): Time stamps in order.
    """
    if len(moments) < 2 or moments[-1] - moments[0] < RATE_SECONDS / 2:
        return None
    return (len(moments) - 1) / (moments[-1] - moments[0])
