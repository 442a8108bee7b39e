"""Decodes video to RGB frames: one class per decoder, and the loop that runs in the helper process.

`decoding_process` runs this file as a script in a separate interpreter, so that a decoder that crashes or hangs on a
bad file only ends that interpreter. For this reason the file imports nothing else of this package.

Frames are numbered in display order, without regard to time. With a variable frame rate, frame 7 is still the eighth
picture, and no picture is duplicated or dropped to keep a rate.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import re
import select
import socket
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter

SCRIPT = __file__
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


class DamagedVideo(Exception):  # noqa: N818 - describes the file, not the program
    """The format is known but the content is damaged. No other decoder is tried, because it might hide the damage."""


class Decoder(Protocol):
    """Interface of a decoder. `path` is a file; `progress()` is called while the decoder works without yielding."""

    def __init__(self, path: str, progress: Callable[[], None]): ...

    def probe(self) -> dict[str, Any]:
        """{"width", "height", "count", "fps"}: displayed size in pixels, number of frames, frames/s or None."""

    def decode(self, start: int, wants: Callable[[int], bool]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, (H, W, 3) uint8 RGB) of the wanted frames from `start` on, in order. Arrays may be views."""


def check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise DamagedVideo(
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
        self._keys: np.ndarray | None = None  # numbers of frames at which decoding can start; None: no seeking
        self._reformatter = VideoReformatter()

    @contextmanager
    def _open(self):
        with av.open(self._path, options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED_PICTURE]
            if not streams:
                kinds = sorted({stream.type for stream in container.streams})
                raise DamagedVideo(f"it contains no video, only {', '.join(kinds) or 'nothing'}")
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
            first, times, keys, plain = None, array("q"), [], True
            try:
                for packet in container.demux(stream):
                    self._progress()
                    if first is None:
                        first = next(iter(packet.decode()), None)
                    if packet.size == 0 and packet.dts is None:  # the end
                        continue
                    if packet.is_corrupt:
                        raise DamagedVideo(f"it is cut off or damaged after frame {len(times)}")
                    if packet.is_discard:  # outside the edit list: stored but not shown
                        continue
                    hidden = stream.codec_context.name.startswith(("vp8", "libvpx")) and not memoryview(packet)[0] & 16
                    # Depending on the codec, packets of a few bytes mean "repeat the last frame" or nothing.
                    plain &= packet.pts is not None and packet.size > 8 and not hidden
                    if packet.is_keyframe:
                        keys.append(packet.pts or 0)
                    times.append(packet.pts or 0)
            except av.FFmpegError as error:
                raise DamagedVideo(f"it is damaged ({last_line(error)})") from error
            if first is None:
                raise DamagedVideo("no frame can be decoded")
            is_mp4 = "mp4" in container.format.name
            entries = getattr(stream, "index_entries", None) if is_mp4 else None
            listed = len(entries) if entries is not None else stream.frames
            if plain and len(times) < listed:
                raise DamagedVideo(f"it is cut off: it lists {listed} frames and contains {len(times)}")
            if _is_cut_off(self._path, container.format.name):
                raise DamagedVideo(f"it is cut off after about {len(times)} frames")
            shown = np.sort(np.frombuffer(times, np.int64))
            counted = plain and not first.interlaced_frame
            if container.format.name != "avi":  # AVI has no time stamps, and those that FFmpeg invents swap B-frames
                counted = counted and bool((np.diff(shown) > 0).all())
                self._times = shown if counted else None
            if counted and is_mp4:  # elsewhere, the picture may recover only gradually after a "key frame"
                self._keys = np.searchsorted(shown, np.sort(keys))
            rate = stream.average_rate or stream.guessed_rate
            width, height = first.width, first.height
            if getattr(first, "rotation", 0) % 180:
                width, height = height, width
            self._info = {
                "width": width,
                "height": height,
                "fps": float(rate) if rate else None,
                "count": len(shown) if counted else None,
            }
        if not counted:
            # With fields, hidden or empty packets, a packet is not always a frame, so frames are counted by decoding.
            self._info["count"] = sum(1 for _ in self._shown(0))
        return self._info

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
            key = int(self._keys[np.searchsorted(self._keys, start, side="right") - 1])
        if key >= SEEK_FROM:
            reached = False
            try:
                for number, frame in self._from(key):
                    if number > start and not reached:  # the seek went too far
                        break
                    if number >= start:
                        reached = True
                        yield number, frame
            except (av.FFmpegError, DamagedVideo):
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
                        raise DamagedVideo(f"frame {number} is damaged")
                    if self._times is not None and (number >= len(self._times) or frame.pts != self._times[number]):
                        raise DamagedVideo(f"frame {number} is missing or is not where the file says")
                    yield number, frame
                    self._progress()
                    number += 1
            except av.FFmpegError as error:
                raise DamagedVideo(f"it is damaged after frame {number} ({last_line(error)})") from error

    def _rgb(self, frame: av.VideoFrame, number: int, info: dict[str, Any]) -> np.ndarray:
        # One reformatter for all frames, because creating one costs more than the conversion.
        plane = self._reformatter.reformat(frame, format="rgb24").planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)[:, : 3 * frame.width]
        image = rows.reshape(frame.height, frame.width, 3)
        turns = getattr(frame, "rotation", 0) // 90 % 4
        image = np.rot90(image, turns) if turns else image
        if image.shape[:2] != (info["height"], info["width"]):
            raise DamagedVideo(
                f"frame {number} has {image.shape[1]}×{image.shape[0]} pixels, the first one "
                f"{info['width']}×{info['height']}; all frames of a clip must have one size"
            )
        return image


_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: the cover of a song is not video


def _is_cut_off(path: str, container: str) -> bool:
    """Whether the file ends too early, for containers in which FFmpeg silently reads what is left."""
    size = os.path.getsize(path)
    if container == "gif":
        return not _gif_ends(path)
    if container == "mpegts":  # packets have 188 bytes, 192 with time code, 204 with checksum
        return all(size % packet for packet in (188, 192, 204))
    return "matroska" in container and _segment_end(path) > size


def _segment_end(path: str) -> int:
    """The declared end of a Matroska file in bytes, or 0 if it is not declared (RFC 8794, RFC 9559)."""
    with open(path, "rb") as file:
        head = file.read(4096)
    position = 0

    def number(marker: bool) -> int:
        nonlocal position
        length = 9 - head[position].bit_length()
        value = int.from_bytes(head[position : position + length], "big")
        position += length
        return value if marker else value & ((1 << 7 * length) - 1)

    try:
        while True:
            identifier, before = number(marker=True), position
            size = number(marker=False)
            if identifier == 0x18538067:  # Segment; all ones mean "until the end of the file"
                return 0 if size == (1 << 7 * (position - before)) - 1 else position + size
            position += size
    except IndexError:
        return 0


def _gif_ends(path: str) -> bool:
    """Whether the blocks of a GIF end with its trailer (GIF89a specification)."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            position = 13 + table(data[10])
            while (kind := data[position]) != 0x3B:
                if kind == 0x2C:  # image: descriptor, colours, code size
                    position += 11 + table(data[position + 9])
                elif kind == 0x21:  # extension
                    position += 2
                else:
                    return False
                while length := data[position]:
                    position += 1 + length
                position += 1
        except IndexError:
            return False
    return True


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
                    raise DamagedVideo(f"frame {number} is damaged")
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
        DamagedVideo: The first bytes of the file do not match any video format.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if not any(head[at:].startswith(signatures) for at, signatures in _SIGNATURES):
        raise DamagedVideo("not a video: its first bytes do not match any video format")
    if ":" not in name:
        return DECODERS[name](path, progress)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(path, progress)


def decode_wanted(decoder: Decoder, wanted: Sequence[int] | None) -> Iterator[np.ndarray]:
    """Yields the frames numbered `wanted` (increasing), or all for `None`. Raises `DamagedVideo` if one is missing.

    Nothing is decoded after the last wanted frame. `None` also checks that the clip ends where it should.
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
            raise DamagedVideo(f"it lists {count} frames, but more can be decoded")
        if number != expected:
            break
        yield image
        expected = next(numbers, count)
        if expected == count and wanted is not None:
            return
    if expected < count:
        raise DamagedVideo(f"it lists {count} frames, but frame {expected} cannot be decoded")


def last_line(error: BaseException) -> str:
    """The message of an exception, without C++ tracebacks and without the decoder's internal file name."""
    if isinstance(error, av.FFmpegError):
        return str(error.strerror)
    lines = str(error).strip().splitlines()
    return re.sub(r"/dev/fd/\d+", "the file", lines[-1]) if lines else type(error).__name__


# The helper process. The parent sends lines of JSON with open files attached. During a stream it sends single bytes:
# "f" means that a slot of the ring has been read, "s" means stop. Answers are lines of JSON. Frames go into the ring.


class _Server:
    KEPT = 4  # decoders whose index is remembered

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self._decoders: dict[str, tuple[Decoder, int | None]] = {}
        self._said = time.monotonic()
        self._commands, self._files = b"", []
        self._ring: mmap.mmap | None = None

    def _send(self, **message: Any) -> None:
        self._said = time.monotonic()
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _progress(self) -> None:
        if time.monotonic() - self._said > 0.5:
            self._send(alive=True)

    def run(self) -> None:
        self._send(ready=True)
        while True:
            command = self._next_command()
            if command is None:
                return
            try:
                if "ring" in command:
                    self._stream(command)
                else:
                    self._send(info=self._decoder(command).probe())
            except DamagedVideo as error:
                self._send(damaged=last_line(error))
            except (BrokenPipeError, ConnectionError):
                return
            # Decoders raise different exceptions. Their messages go to the parent, which tries the next decoder.
            except Exception as error:
                self._send(refused=last_line(error))
            finally:
                for file in self._files:
                    os.close(file)
                self._files.clear()

    def _next_command(self) -> dict[str, Any] | None:
        while True:
            line, found, rest = self._commands.partition(b"\n")
            if found:
                self._commands = rest
                return json.loads(line.lstrip(b"fs"))  # strips bytes that were sent to a stream that had already ended
            received, files, _, _ = socket.recv_fds(self._channel, 1 << 16, 2)
            if not received:
                return None
            self._commands += received
            self._files += files

    def _decoder(self, command: dict[str, Any]) -> Decoder:
        key = f"{command['decoder']} {command['clip']}"
        if key not in self._decoders:
            while len(self._decoders) >= self.KEPT:
                self._drop(next(iter(self._decoders)))
            file = None if command["path"] else self._files.pop(0)
            try:
                path = command["path"] or f"/dev/fd/{file}"
                self._decoders[key] = load_decoder(command["decoder"], path, self._progress), file
            except BaseException:
                if file is not None:
                    os.close(file)
                raise
        return self._decoders[key][0]

    def _drop(self, key: str) -> None:
        _, file = self._decoders.pop(key)
        if file is not None:
            os.close(file)

    def _stream(self, command: dict[str, Any]) -> None:
        slots, height, width = command["ring"]
        if command["new_ring"]:
            self._ring = mmap.mmap(self._files[-1], command["new_ring"])
        ring = np.frombuffer(self._ring, np.uint8, slots * height * width * 3).reshape(slots, height, width, 3)
        # Reported in batches, because waking the parent for each frame costs more than the copy.
        free, untold, batch = slots, 0, max(1, slots // 4)
        try:
            for number, image in enumerate(decode_wanted(self._decoder(command), command["wanted"])):
                if image.shape != ring.shape[1:]:
                    raise DamagedVideo(f"a frame has {image.shape[1]}×{image.shape[0]} pixels, not {width}×{height}")
                ring[number % slots] = image
                free -= 1
                untold += 1
                if untold == batch or not free:
                    self._send(frames=untold)
                    untold = 0
                while not free or select.select([self._channel], [], [], 0)[0]:
                    received = self._channel.recv(4096)
                    if b"s" in received or not received:
                        untold = 0
                        self._send(end=True)
                        return
                    free += len(received)
        finally:
            if untold:
                self._send(frames=untold)
        self._send(end=True)


def serve(channel_number: int) -> None:
    """Runs the helper process until the channel is closed or the parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        # A forked sibling may keep the channel open after the parent has died.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    _Server(socket.socket(fileno=channel_number)).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
