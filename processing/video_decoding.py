"""Decodes video to RGB frames: one class per decoder, and the errors of reading a clip.

`decoding_server` runs this in a separate interpreter, so that a decoder that crashes or hangs on a bad file only ends
that interpreter.

Frames are numbered in display order, without regard to time. With a variable frame rate, frame 7 is still the eighth
picture, and no picture is duplicated or dropped to keep a rate. Frames that an edit list hides are not counted.
"""

from __future__ import annotations

import importlib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from .container_ends import Ending, empty_avi_chunks, ending, frames_before_gap
from .display_geometry import LONGEST_PIXEL, Orientation, nearest_orientation, square_size

MAX_FRAME_PIXELS = 8192 * 4608
"""Maximum size of a decoded frame, in pixels. 8K (7680 × 4320, 8192 × 4320) is allowed."""

SEEK_FROM = 250
"""Number of unwanted frames above which seeking is faster than decoding."""

# First bytes of video files. FFmpeg would also "play" text (as ANSI art), and playlists and scripts that refer to
# other files or URLs. Those are not video, so the content is checked first.
_SIGNATURES = (
    (4, (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),  # mp4, mov
    (8, (b"AVI ", b"AVIX")),
    (0, (b"\x1a\x45\xdf\xa3",)),  # Matroska, WebM
    (0, (b"GIF87a", b"GIF89a")),
    (0, (b"\x30\x26\xb2\x75", b"FLV\x01", b"OggS", b"DKIF", b"YUV4MPEG2", b"nut/multimedia")),
    (0, (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x00\x00\x01\xb0", b"\x00\x00\x00\x01", b"\x00\x00\x01\x67")),
    (0, (b"\xff\xd8\xff",)),  # a stream of JPEGs
    (0, (b"\x06\x0e\x2b\x34",)),  # MXF
    (0, (b"\x47",)),  # MPEG transport stream
    (4, (b"\x47",)),
    (0, (b"ID3", b"RIFF", b"fLaC", b"\xff\xfb", b"\xff\xf1")),  # sound: opened, to report that it contains no video
)


_PICTURES = (b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")


TWELVE_BITS = 4095
TWELVE_BITS_NOTE = (
    "Its 16-bit values do not exceed 4095, as if a camera of 12 bits had written them. They are read as 16 bits, so "
    "the picture is almost black. If they are 12 bits, multiply them by 16 first."
)


class VideoReadError(ValueError):
    """A source that exists but cannot be read as a clip. The message says why.

    Decoders raise it without the name of the source, and the reader adds it. No other decoder is tried, because that
    might hide the damage.
    """


class NotAVideoError(VideoReadError):
    """The content is not a video, or of a kind that no decoder knows."""


class DamagedVideoError(VideoReadError):
    """The content is a video that is cut off or damaged."""


class VideoTooLargeError(VideoReadError):
    """The frames have more pixels than are decoded (`MAX_FRAME_PIXELS`)."""


class Decoder(Protocol):
    """Interface of a decoder. `path` is a file; `progress()` is called while the decoder works without yielding."""

    def __init__(self, path: str, progress: Callable[[], None]): ...

    def probe(self) -> dict[str, Any]:
        """{"width", "height", "count", "fps"}: displayed size in pixels, number of frames, frames/s or None.

        Optional: "notes", sentences for the user, and "mirrored", whether the frames are shown mirrored.
        """

    # Optional: `times() -> list[float] | None`, the seconds of each frame, as `PyAVDecoder` has it.

    def decode(self, start: int, wants: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, (H, W, 3) uint8 RGB) of the wanted frames from `start` on, in order. Arrays may be views."""


def check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise VideoTooLargeError(
            f"its frames have {width}×{height} pixels; at most {MAX_FRAME_PIXELS / 1e6:.1f} million are decoded "
            f"(MAX_FRAME_PIXELS). Scale it down first"
        )


class PyAVDecoder:
    """Strict FFmpeg decoding through PyAV. Anything that does not decode cleanly raises an error.

    Every frame's time stamp is compared with the container's. This detects frames that the decoder lost or duplicated,
    and seeks that end at the wrong frame.
    """

    def __init__(self, path: str, progress: Callable[[], None] = lambda: None):
        self._path, self._progress = path, progress
        self._info: dict[str, Any] | None = None
        self._times: np.ndarray | None = None  # time stamps in display order; None if they are not reliable
        self._tick = 0.0  # seconds per unit of a time stamp
        self._keys: np.ndarray | None = None  # numbers of frames at which decoding can start; None: no seeking
        self._orientation, self._ratio = Orientation(), None
        self._reformatter = VideoReformatter()

    @contextmanager
    def _open(self):
        with av.open(self._path, options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED_PICTURE]
            if not streams:
                kinds = {"a cover picture" if stream.type == "video" else stream.type for stream in container.streams}
                raise NotAVideoError(f"it contains no video, only {' and '.join(sorted(kinds)) or 'nothing'}")
            context = streams[0].codec_context
            if context is None:
                raise RuntimeError("its codec is not supported")
            check_size(context.width, context.height)
            # One thread, because several processes read clips in parallel, and so that errors appear at their frame.
            context.thread_count = 1
            context.options = {"err_detect": "crccheck+explode", "max_pixels": str(MAX_FRAME_PIXELS)}
            yield container, streams[0]

    def probe(self) -> dict[str, Any]:
        if self._info is not None:
            return self._info
        with self._open() as (container, stream):
            is_avi, is_mp4 = container.format.name == "avi", "mp4" in container.format.name
            first, times, keys, plain, hidden, largest = None, array("q"), [], True, 0, 0
            try:
                for packet in container.demux(stream):
                    self._progress()
                    if first is None:
                        first = next(iter(packet.decode()), None)
                    if packet.size == 0 and packet.dts is None:  # the end
                        continue
                    if packet.is_corrupt:
                        raise DamagedVideoError(f"it is cut off or damaged after frame {len(times)}")
                    if packet.is_discard:  # outside the edit list: stored but not shown
                        hidden += 1
                        continue
                    is_vp8 = stream.codec_context.name.startswith(("vp8", "libvpx"))
                    unshown = is_vp8 and not memoryview(packet)[0] & 16
                    # Depending on the codec, packets of a few bytes mean "repeat the last frame" or nothing.
                    plain &= packet.pts is not None and packet.size > 8 and not unshown
                    if packet.is_keyframe:
                        keys.append(packet.pts or 0)
                    times.append(packet.pts or 0)
                    largest = max(largest, packet.size)
            except av.FFmpegError as error:
                raise DamagedVideoError(f"it is damaged ({last_line(error)})") from error
            if first is None:
                raise DamagedVideoError("no frame can be decoded")
            entries = getattr(stream, "index_entries", None) if is_mp4 else None
            listed = len(entries) if entries is not None else stream.frames
            stored = len(times) + hidden
            if is_avi and stored < listed:
                stored += empty_avi_chunks(self._path)
            if (is_avi or plain) and stored < listed:
                raise DamagedVideoError(f"it is cut off: it lists {listed} frames and contains {stored}")
            # Capture programs that drop frames leave sizes in an AVI that are not kept; the number of frames is.
            end = Ending.WHOLE if is_avi and listed else ending(self._path, container.format.name, largest)
            if end is Ending.CUT:
                raise DamagedVideoError(f"it is cut off after about {len(times)} frames")
            shown = np.sort(np.frombuffer(times, np.int64))
            counted = plain and not first.interlaced_frame
            rate = _frame_rate(container, stream)
            depth = getattr(stream.codec_context, "reorder_depth", 2 * bool(stream.codec_context.has_b_frames))
            step = 1 / (rate * float(stream.time_base)) if rate else None
            if not is_avi:  # AVI has no time stamps, and those that FFmpeg invents swap B-frames
                counted = counted and bool((np.diff(shown) > 0).all())
                self._times = shown if counted else None
                self._tick = float(stream.time_base)
                if counted and end is Ending.UNKNOWN:
                    _check_last_frames(times, depth, step)
                if counted and not is_mp4 and rate is not None and len(shown) > 2:
                    measured = (len(shown) - 1) / float((shown[-1] - shown[0]) * stream.time_base)
                    # Where frames have no duration, FFmpeg may take the resolution of the clock for the rate.
                    rate = measured if abs(rate / measured - 1) > _RATE_TOLERANCE else rate
            if counted and is_mp4:  # elsewhere, the picture may recover only gradually after a "key frame"
                self._keys = np.searchsorted(shown, np.sort(keys))
            matrix = first.side_data.get("DISPLAYMATRIX")
            self._orientation = nearest_orientation(None if matrix is None else np.frombuffer(matrix, np.int32))
            self._ratio = stream.sample_aspect_ratio
            width, height = square_size(first.width, first.height, self._ratio)
            check_size(width, height)
            info = {
                "width": height if self._orientation.swapped else width,
                "height": width if self._orientation.swapped else height,
                "fps": rate,
                "count": len(shown) if counted else None,
                "mirrored": self._orientation.mirrored,
                "notes": _notes(first, self._orientation, (width, height), self._ratio),
            }
        if not counted:
            # With fields, hidden or empty packets, a packet is not always a frame, so frames are counted by decoding.
            times = [frame.pts for _, frame in self._shown(0)]
            info["count"] = len(times)
            if end is Ending.UNKNOWN and not is_avi:
                if None not in times:
                    _check_last_frames(times, depth, step)
                elif depth:
                    info["notes"].append(
                        f"It has no time stamps. If it is cut off, frames may be missing among the last {depth + 1}."
                    )
        self._info = info
        return info

    def times(self) -> list[float] | None:
        """The seconds from the first frame to each frame, or None where the time stamps are not reliable."""
        self.probe()
        if self._times is None:
            return None
        return np.round((self._times - self._times[0]) * self._tick, 6).tolist()

    def decode(self, start: int, wants: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        info = self.probe()
        for number, frame in self._shown(start):
            if wants(number):
                yield number, self._rgb(frame, number, info)
            else:
                self._progress()

    def _shown(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields decoded frames with their numbers. The first is at or before `start`."""
        key = 0
        if self._keys is not None and start >= SEEK_FROM:
            place = np.searchsorted(self._keys, start, side="right")
            # An edit list may hide the key frame that everything depends on.
            key = int(self._keys[place - 1]) if place else 0
        if key >= SEEK_FROM:
            reached = False
            try:
                for number, frame in self._from(key):
                    if number > start and not reached:  # the seek went too far
                        break
                    if number >= start:
                        reached = True
                        yield number, frame
            except (av.FFmpegError, DamagedVideoError):
                if reached:
                    raise
            if reached:
                return
        yield from self._from(0)

    def _from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        number = 0
        with self._open() as (container, stream):
            try:
                if key:
                    container.seek(int(self._times[key]), stream=stream)
                    number = None
                for frame in container.decode(stream):
                    if number is None:
                        number = int(np.searchsorted(self._times, frame.pts))
                    if frame.is_corrupt:
                        raise DamagedVideoError(f"frame {number} is damaged")
                    if self._times is not None and (number >= len(self._times) or frame.pts != self._times[number]):
                        raise DamagedVideoError(f"frame {number} is missing or is not where the file says")
                    yield number, frame
                    self._progress()
                    number += 1
            except av.FFmpegError as error:
                raise DamagedVideoError(f"it is damaged after frame {number} ({last_line(error)})") from error

    def _rgb(self, frame: av.VideoFrame, number: int, info: dict[str, Any]) -> np.ndarray:
        width, height = square_size(frame.width, frame.height, self._ratio)
        scaling = {} if (width, height) == (frame.width, frame.height) else {"interpolation": Interpolation.BICUBIC}
        # One reformatter for all frames, because creating one costs more than the conversion.
        plane = self._reformatter.reformat(frame, width, height, "rgb24", **scaling).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : 3 * width]
        image = self._orientation.apply(rows.reshape(height, width, 3))
        if image.shape[:2] != (info["height"], info["width"]):
            raise DamagedVideoError(
                f"frame {number} has {image.shape[1]}×{image.shape[0]} pixels, the first one "
                f"{info['width']}×{info['height']}; all frames of a clip must have one size"
            )
        return image


_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of a song is not video
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS: a raw stream
_RATE_TOLERANCE = 0.1  # a share, by which the stated frame rate may differ from that of the time stamps
_NOTED_ANGLE = 2.0  # degrees


def _frame_rate(container: Any, stream: Any) -> float | None:
    """The frame rate that the file states. FFmpeg makes one up for raw streams, which have no time stamps."""
    made_up = container.format.flags & _NO_TIMESTAMPS
    rate = stream.codec_context.framerate if made_up else stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _check_last_frames(times: Sequence[int], depth: int, step: float | None) -> None:
    """Raises `DamagedVideoError` if frames are missing among the last ones; arguments as in `frames_before_gap`."""
    whole = frames_before_gap(times, depth, step)
    if whole is not None:
        raise DamagedVideoError(
            f"it is cut off: frames are missing after the first {whole}. Up to there it can be used, for example with "
            f"`ffmpeg -i IN -frames:v {whole} OUT`"
        )


def _notes(first: av.VideoFrame, orientation: Orientation, size: tuple[int, int], ratio: Any) -> list[str]:
    """Sentences about what the file says of its frames and cannot be applied."""
    notes = []
    if first.interlaced_frame:
        notes.append(
            "It is interlaced: each frame mixes two moments, which looks like motion. Deinterlace it first, for "
            "example with `ffmpeg -i IN -vf bwdif=mode=send_frame OUT`."
        )
    if abs(orientation.leftover) > _NOTED_ANGLE:
        notes.append(f"It asks to be turned by another {orientation.leftover:.0f}°, which is not done.")
    if size == (first.width, first.height) and ratio and not 1 / LONGEST_PIXEL <= ratio <= LONGEST_PIXEL:
        notes.append(f"It says that its pixels are {float(ratio):g} times as wide as high, which is not believed.")
    if max(component.bits for component in first.format.components) == 16 and not first.format.name.startswith("p0"):
        with suppress(ValueError):  # PyAV converts most of the formats with 16 bits to arrays, not all
            if 0 < first.to_ndarray().max() <= TWELVE_BITS:
                notes.append(TWELVE_BITS_NOTE)
    return notes


class DecordDecoder:
    """decord, sequential only. Its random access may return a neighbouring frame, and it hides damage."""

    def __init__(self, path: str, progress: Callable[[], None] = lambda: None):
        import decord  # optional, no wheel for every platform

        self._progress = progress
        # One reader per pass, because a reader has a single position.
        self._open = lambda: decord.VideoReader(path, num_threads=1, fault_tol=1e-6)
        self.probe = cache(self.probe)

    def probe(self) -> dict[str, Any]:
        reader = self._open()
        height, width, channels = reader[0].shape
        check_size(width, height)
        if channels != 3:
            raise RuntimeError(f"decord returns {channels} channels and mixes up their pixels")
        self._count, fps = len(reader), reader.get_avg_fps()
        return {"width": width, "height": height, "count": self._count, "fps": float(fps) or None}

    def decode(self, start: int, wants: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        reader = self._open()
        for number in range(self._count):
            frame = reader.next()
            if wants(number):
                yield number, frame.asnumpy()
            else:
                self._progress()


class OpenCVDecoder:
    """OpenCV's own FFmpeg. Frames are counted by decoding, because OpenCV only estimates their number."""

    def __init__(self, path: str, progress: Callable[[], None] = lambda: None):
        self._path, self._progress = path, progress
        self.probe = cache(self.probe)  # counted once

    def _open(self):
        import cv2

        # No other backend, because one of them reads a picture as the first of a numbered series.
        capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise RuntimeError("cannot be opened")
        return capture, cv2

    def probe(self) -> dict[str, Any]:
        capture, cv2 = self._open()
        check_size(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        read, frame = capture.read()
        if not read:
            raise RuntimeError("no frame can be decoded")
        count = 1
        while capture.grab():
            count += 1
            self._progress()
        fps = capture.get(cv2.CAP_PROP_FPS) or None
        return {"width": frame.shape[1], "height": frame.shape[0], "count": count, "fps": fps}

    def decode(self, start: int, wants: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        capture, cv2 = self._open()
        number = 0
        while capture.grab():
            if wants(number):
                read, frame = capture.retrieve()
                if not read:
                    raise DamagedVideoError(f"frame {number} is damaged")
                yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            else:
                self._progress()
            number += 1


DECODERS: dict[str, type[Decoder]] = {"pyav": PyAVDecoder, "decord": DecordDecoder, "opencv": OpenCVDecoder}


def load_decoder(name: str, path: str, progress: Callable[[], None] = lambda: None) -> Decoder:
    """Creates a decoder for a file.

    Args:
        name: A key of `DECODERS`, or "module:Class".
        path: The file.
        progress: Called while the decoder works without yielding a frame.

    Raises:
        NotAVideoError: The first bytes of the file do not match any video format.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    is_video = any(head[at:].startswith(signatures) for at, signatures in _SIGNATURES)
    if head[8:12] == b"WEBP" or (head.startswith(_PICTURES) and not is_video):
        raise NotAVideoError(
            "not a video but a picture, or an animation of pictures that FFmpeg does not decode. Save its frames as "
            "images and pass their folder"
        )
    if not is_video:
        raise NotAVideoError("not a video: its first bytes do not match any video format")
    if ":" not in name:
        return DECODERS[name](path, progress)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(path, progress)


def decode_wanted(decoder: Decoder, wanted: Sequence[int] | None) -> Iterator[np.ndarray]:
    """Yields the frames numbered `wanted` (increasing), or all for `None`.

    Nothing is decoded after the last wanted frame. `None` also checks that the clip ends where it should.

    Raises:
        DamagedVideoError: A frame is missing.
    """
    count = decoder.probe()["count"]
    numbers = iter(range(count) if wanted is None else wanted)
    expected = first = next(numbers, None)
    if first is None:
        return

    def wants(number: int) -> bool:
        return number == expected or number >= count

    for number, image in decoder.decode(first, wants):
        if number >= count:
            raise DamagedVideoError(f"it lists {count} frames, but more can be decoded")
        if number != expected:
            break
        yield image
        expected = next(numbers, count)
        if expected == count and wanted is not None:
            return
    if expected < count:
        raise DamagedVideoError(f"it lists {count} frames, but frame {expected} cannot be decoded")


def last_line(error: BaseException) -> str:
    """The message of an exception, without C++ tracebacks and without the decoder's internal file name."""
    if isinstance(error, av.FFmpegError):
        return str(error.strerror)
    lines = str(error).strip().splitlines()
    return re.sub(r"/dev/fd/\d+", "the file", lines[-1]) if lines else type(error).__name__
