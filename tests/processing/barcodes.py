"""Small videos whose frames carry their own number, and the boxes of an mp4 that say how it is to be shown."""

import struct
from fractions import Fraction
from io import BytesIO

import av
import numpy as np


def barcoded(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(count, height, width, 3) uint8. Six blocks at the top are the bits of the frame's number, lowest first.

    Below them lies a slope that tells left from right and top from bottom.
    """
    rows, columns = np.mgrid[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (50 + 100 * columns / width + 60 * rows / height)[None, :, :, None]
    for bit in range(6):
        values = np.where(np.arange(count) >> bit & 1, 235, 20)
        frames[:, : height // 4, bit * width // 6 : (bit + 1) * width // 6] = values[:, None, None, None]
    return frames


def read_barcodes(frames) -> list[int]:
    """The numbers in frames of any size."""
    frames = np.asarray(frames, np.float32).mean(-1)
    height, width = frames.shape[1] / 4, frames.shape[2] / 6
    numbers = np.zeros(len(frames), int)
    for bit in range(6):
        left, right = round((bit + 0.25) * width), round((bit + 0.75) * width)
        block = frames[:, round(0.25 * height) : round(0.75 * height), left:right]
        numbers += (block.mean((1, 2)) > 128).astype(int) << bit
    return numbers.tolist()


class _Pipe:
    """A file that cannot be gone back in."""

    def __init__(self):
        self.content = bytearray()

    def write(self, data) -> int:
        self.content += data
        return len(data)


def encoded(
    container: str,
    codec: str,
    pixels: str,
    frames: np.ndarray,
    *,
    rate: Fraction | int = 25,
    times: list[int] | None = None,
    ratio: Fraction | None = None,
    piped: bool = False,
    settings: dict[str, str] | None = None,
    **options: str,
) -> bytes:
    """A video file.

    Args:
        container: FFmpeg's name of it.
        codec: Name of the encoder.
        pixels: Pixel format.
        frames: (T, H, W, 3) uint8 RGB.
        rate: Frames per second.
        times: Time stamps in 1/1000 s, for a variable frame rate.
        ratio: Sample aspect ratio.
        piped: Whether the file is written to a pipe, so that lengths which are known at the end are missing.
        settings: Options of the container.
        **options: Options of the encoder.
    """
    target = _Pipe() if piped else BytesIO()
    with av.open(target, "w", format=container, options=settings or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = pixels, options
        stream.codec_context.thread_count = 1
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return bytes(target.content) if piped else target.getvalue()


def with_matrix(content: bytes, a: float, b: float, c: float, d: float) -> bytes:
    """An mp4 with another display matrix: a point (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(content)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *(round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    return bytes(data)


def with_edits(content: bytes, *edits: tuple[int, int], rate: int = 25) -> bytes:
    """An mp4 that shows only some of its frames.

    Args:
        content: An mp4 with one track, whose tables come last and which has no edit list, or one.
        *edits: For each part that is shown the number of its first frame, and how many frames it has.
        rate: Frames per second.
    """
    data = bytearray(content)
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    shift = 0
    old = data.find(b"edts") - 4
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    if old >= 0:
        (length,) = struct.unpack_from(">I", data, old)
        (shift,) = struct.unpack_from(">i", data, old + 8 + 8 + 4 + 4 + 4)  # the time of the first frame
        del data[old : old + length]
        _lengthen(data, (moov, trak), -length)
    entries = b"".join(
        struct.pack(">IiI", round(count * movie_scale / rate), shift + round(first * timescale / rate), 1 << 16)
        for first, count in edits
    )
    elst = _box(b"elst", struct.pack(">II", 0, len(edits)) + entries)
    edts = _box(b"edts", elst)
    at = data.index(b"mdia") - 4
    data[at:at] = edts
    _lengthen(data, (moov, trak), len(edts))
    return bytes(data)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _lengthen(data: bytearray, boxes: tuple[int, ...], by: int) -> None:
    for at in boxes:
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + by)
