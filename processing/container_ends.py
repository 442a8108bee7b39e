"""Whether a video file ends where its container says, and whether the pictures at its end follow one another.

FFmpeg reads what is left of a file without a word, so a recording that was cut off would pass for a shorter one. Most
containers state their length, of the file or of the piece that comes last. Where none is stated (a Matroska file that
was written to a pipe, a transport stream), a cut may lose pictures that are shown before the last one that is left,
because pictures are not stored in the order in which they are shown. Those leave a gap.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np

GAP = 1.6
"""Steps between pictures, in typical steps, above which something is missing at the end of a cut file."""

VARIABLE = 0.05
"""The share of such steps among the frames before, above which a frame rate counts as variable."""


class Ending(Enum):
    """How a file ends."""

    WHOLE = "where it says"
    CUT = "before it says"
    UNKNOWN = "it does not say"


def ending(path: str, container: str, frame_bytes: int = 0) -> Ending:
    """Compares the length of a file with what it states.

    Args:
        path: The file.
        container: FFmpeg's name of the container, such as "matroska,webm".
        frame_bytes: Size of a frame, for raw frames.
    """
    names = container.split(",")
    check = next((_CHECKS[name] for name in names if name in _CHECKS), None)
    if check is None:
        return Ending.UNKNOWN
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return check(data, frame_bytes) if check is _raw_frames else check(data)
        except (IndexError, struct.error):  # a header that should be there lies behind the end of the file
            return Ending.CUT


def frames_before_gap(times: Sequence[int], reordering: int, step: float | None) -> int | None:
    """The number of frames up to a gap that a cut may have left among the last ones, or `None` if there is none.

    Args:
        times: Time stamps of the frames in the order in which they are stored.
        reordering: The most frames that are stored before a frame and shown after it, as the decoder states it.
        step: Time from one frame to the next as the file states it, or `None`.
    """
    stored = np.asarray(times, np.int64)
    order = np.argsort(stored, kind="stable")
    late = np.empty_like(order)
    late[order] = np.arange(len(order))
    reordering = max(reordering, int((np.arange(len(order)) - late).max(initial=0)))
    steps = np.diff(stored[order])
    if not reordering or not len(steps):
        return None
    typical = min(float(np.median(steps)), step or np.inf)
    # A picture that is lost can be shown before as many of those that are left, and before no more.
    first, wide = max(0, len(steps) - reordering), steps > GAP * typical
    if first and wide[:first].mean() > VARIABLE:
        return None  # the time between frames varies anyway and tells nothing
    return first + int(wide[first:].argmax()) + 1 if wide[first:].any() else None


def empty_avi_chunks(path: str) -> int:
    """The number of video chunks without content, which stand for frames that a capture program dropped.

    Args:
        path: An AVI file with one video stream.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sum(1 for name, start, end in _riff_chunks(data) if name[2:] in (b"dc", b"db") and start == end)


def _riff_chunks(data: mmap.mmap):
    """Yields (name, start, end) of the chunks in the lists of frames, and of the lists themselves (as b"movi")."""
    position = 0
    while position + 8 <= len(data):
        name, (size,) = data[position : position + 4], struct.unpack_from("<I", data, position + 4)
        kind, position = data[position + 8 : position + 12], position + 8
        if name in (b"RIFF", b"LIST") and kind in (b"AVI ", b"AVIX", b"movi", b"rec "):
            if kind == b"movi":
                yield kind, position + 4, position + size
            position += 4  # descend
        else:
            yield name, position, position + size
            position += size + size % 2


def _avi(data: mmap.mmap) -> Ending:
    for name, start, end in _riff_chunks(data):
        # Capture programs that were ended by force leave a size of 0 or one that stands for "unknown".
        if name == b"movi" and start < end < 2**32 - 2**16:
            return Ending.CUT if end > len(data) else Ending.WHOLE
    return Ending.UNKNOWN


def _gif(data: mmap.mmap) -> Ending:
    """Whether the blocks end with the trailer (GIF89a specification)."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    position = 13 + table(data[10])
    while (kind := data[position]) != 0x3B:
        if kind == 0x2C:  # image: descriptor, colours, code size
            position += 11 + table(data[position + 9])
        elif kind == 0x21:  # extension
            position += 2
        else:
            return Ending.CUT
        while length := data[position]:
            position += 1 + length
        position += 1
    return Ending.WHOLE


def _mpegts(data: mmap.mmap) -> Ending:
    # Packets have 188 bytes, 192 with time code, 204 with check sum.
    return Ending.CUT if all(len(data) % packet for packet in (188, 192, 204)) else Ending.UNKNOWN


_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _matroska(data: mmap.mmap) -> Ending:
    """RFC 8794 and RFC 9559. The sizes of the segment and of clusters may be unknown; then what they hold is read."""
    position, size = 0, len(data)

    def number(marker: bool) -> int:
        nonlocal position
        length = 9 - data[position].bit_length()
        if position + length > size:
            raise IndexError
        value = int.from_bytes(data[position : position + length], "big")
        position += length
        if marker:
            return value
        value &= (1 << 7 * length) - 1
        return -1 if value == (1 << 7 * length) - 1 else value

    while position < size:
        if not data[position]:  # not an element
            return Ending.UNKNOWN
        identifier, length = number(marker=True), number(marker=False)
        if identifier == _SEGMENT and length >= 0:
            return Ending.CUT if position + length > size else Ending.WHOLE
        if length < 0:
            if identifier not in (_SEGMENT, _CLUSTER):
                return Ending.UNKNOWN
            continue
        position += length
        if position > size:
            return Ending.CUT
    return Ending.UNKNOWN


def _flv(data: mmap.mmap) -> Ending:
    """Video File Format Specification 10: tags, each followed by its size; `filesize` is stated by most programs."""
    stated = data.find(b"\x00\x08filesize\x00", 0, 1 << 16)
    if stated >= 0:
        (length,) = struct.unpack_from(">d", data, stated + 11)
        if length > 0:
            return Ending.CUT if length > len(data) else Ending.WHOLE
    (position,) = struct.unpack_from(">I", data, 5)
    position += 4
    ended = False
    while position < len(data):
        if data[position] & 0x1F not in (8, 9, 18):
            return Ending.UNKNOWN
        length = int.from_bytes(data[position + 1 : position + 4], "big")
        body, position = position + 11, position + 11 + length + 4
        if position > len(data):
            return Ending.CUT
        if data[body - 11] & 0x1F == 9 and length >= 2:
            # AVC's "end of sequence", which programs write after the last frame.
            ended = data[body] & 0x0F == 7 and data[body + 1] == 2
    return Ending.WHOLE if ended else Ending.UNKNOWN


def _ogg(data: mmap.mmap) -> Ending:
    """RFC 3533: the last page of every stream is marked."""
    position, open_streams = 0, set()
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            return Ending.UNKNOWN
        flags, serial, segments = data[position + 5], data[position + 14 : position + 18], data[position + 26]
        table = data[position + 27 : position + 27 + segments]
        position += 27 + segments + sum(table)
        if position > len(data) or len(table) < segments:
            return Ending.CUT
        (open_streams.discard if flags & 4 else open_streams.add)(serial)
    return Ending.CUT if open_streams else Ending.WHOLE


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _asf(data: mmap.mmap) -> Ending:
    position = 0
    while position < len(data):
        identifier, (size,) = data[position : position + 16], struct.unpack_from("<Q", data, position + 16)
        if identifier == _ASF_DATA:
            if size <= 50:  # a live recording
                return Ending.UNKNOWN
            return Ending.CUT if position + size > len(data) else Ending.WHOLE
        if size < 24:
            return Ending.UNKNOWN
        position += size
    return Ending.CUT


def _mp4(data: mmap.mmap) -> Ending:
    """ISO 14496-12. Only boxes that carry frames, or say where they are, must be whole."""
    position, kinds = 0, set()
    while position < len(data):
        header, kind = 8, data[position + 4 : position + 8]
        (size,) = struct.unpack_from(">I", data, position)
        if size == 1:
            header, (size,) = 16, struct.unpack_from(">Q", data, position + 8)
        if size == 0:  # until the end of the file
            return Ending.UNKNOWN
        if size < header:
            return Ending.UNKNOWN
        position += size
        kinds.add(kind)
        if position > len(data) and kind in (b"mdat", b"moov", b"moof"):
            return Ending.CUT
    # Fragments go on until the file ends, or until the index of fragments.
    return Ending.UNKNOWN if b"moof" in kinds and b"mfra" not in kinds else Ending.WHOLE


def _mxf(data: mmap.mmap) -> Ending:
    """SMPTE 377: keys, lengths, values; the header says where the footer is."""
    footer = struct.unpack_from(">Q", data, 16 + _ber(data, 16)[1] + 24)[0]
    if footer >= len(data):
        return Ending.CUT
    position = 0
    while position < len(data):
        length, header = _ber(data, position + 16)
        position += 16 + header + length
    if position > len(data):
        return Ending.CUT
    return Ending.WHOLE if footer else Ending.UNKNOWN


def _ber(data: mmap.mmap, position: int) -> tuple[int, int]:
    """(length of a value, bytes that state it)."""
    first = data[position]
    if first < 128:
        return first, 1
    return int.from_bytes(data[position + 1 : position + 1 + (first & 127)], "big"), 1 + (first & 127)


def _raw_frames(data: mmap.mmap, frame_bytes: int) -> Ending:
    """YUV4MPEG2: a line, and for every frame a line and its bytes."""
    position = data.find(b"\n") + 1
    while position < len(data):
        position = data.find(b"\n", position) + 1 + frame_bytes
        if position == frame_bytes or not frame_bytes:
            return Ending.CUT
    return Ending.WHOLE if position == len(data) else Ending.CUT


def _jpegs(data: mmap.mmap) -> Ending:
    """A stream of JPEGs: the last one ends with its marker."""
    return Ending.WHOLE if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xd8") else Ending.CUT


_CHECKS: dict[str, Callable[..., Ending]] = {
    "asf": _asf,
    "avi": _avi,
    "flv": _flv,
    "gif": _gif,
    "matroska": _matroska,
    "mjpeg": _jpegs,
    "mp4": _mp4,
    "mpegts": _mpegts,
    "mxf": _mxf,
    "ogg": _ogg,
    "yuv4mpegpipe": _raw_frames,
}
