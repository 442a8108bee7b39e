"""Frames of a clip, whatever it comes as: video file, URL, bytes, folder of images, list of images, array or tensor.

`open_clip` returns a reader with a `VideoMetadata` and three ways to frames: `frames(indices)` gives exactly the
frames asked for, in that order and with repetitions; `stream(indices)` gives them one at a time, and `scan()` all of
them, in memory that does not grow with the clip.

Video files are decoded in a helper process (`decoding_process`), by PyAV, else decord where it is installed, else
OpenCV. PyAV comes first because it alone reports damage: decord and OpenCV fill what is missing with made-up pixels,
and the motion measured there would be made up as well. They are asked when PyAV cannot open a file or crashes.

What a clip is made of is kept: frames are counted, not timed (variable frame rate changes nothing), what an edit list
hides is not shown, alpha is dropped (colours as stored, not blended with a background), 16 bits are scaled to 8, grey
becomes three equal channels. Turns and mirrors that the file asks for are applied, and pictures whose pixels are not
square are scaled until they are (PyAV; decord and OpenCV only turn). What the file says of its frames and cannot be
applied, such as interlacing, is logged as a warning.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import operator
import os
import re
import urllib.parse
import urllib.request
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import get_session, httpx
from PIL import Image
from transformers.utils import logging
from transformers.video_utils import VideoMetadata

from .decoding_process import DecoderDied, DecoderRefused, decoding_process, memory_file
from .frame_folder import FrameSeriesError, folder_series
from .frame_pixels import frames_of_array, looks_like_twelve_bits, read_image, rgb_bytes, to_numpy
from .video_decoding import (
    DECODERS,
    TWELVE_BITS_NOTE,
    DamagedVideoError,
    NotAVideoError,
    VideoReadError,
    VideoTooLargeError,
    decode_wanted,
    last_line,
    load_decoder,
)

logger = logging.get_logger(__name__)

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
"""Suffixes by which folders and sheets know a video. What a file is, its content decides."""
DECODER_TIMEOUT = 30.0
"""Seconds without any sign of progress after which a decoder counts as hanging."""
MAX_DOWNLOAD_BYTES = 512 * 2**20
"""The largest video that is fetched from a URL; it is held in memory."""
DOWNLOAD_TIMEOUT = 30.0
"""Seconds without a byte after which a download is given up."""
MAX_HELD_BYTES = 128 * 2**20
"""The most that `ClipReader.in_memory` decodes at once."""


class ClipReader:
    """Random and sequential access to the frames of one clip, (H, W, 3) uint8 RGB each."""

    name: str
    metadata: VideoMetadata

    def __len__(self) -> int:
        return self.metadata.total_num_frames

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), H, W, 3) uint8: frame `indices[k]` at k, in any order, repeated ones included.

        Raises:
            VideoReadError: an index lies outside the clip, or the clip cannot be decoded up to there.
            TypeError: an index is no integer (a mask of booleans is none either).
        """
        wanted = self._checked(indices)
        numbers, positions = np.unique(np.asarray(wanted, np.int64), return_inverse=True)
        found = np.empty((len(numbers), self.metadata.height, self.metadata.width, 3), np.uint8)
        with closing(self._views(numbers.tolist())) as views:
            for position, view in enumerate(views):
                found[position] = view
        return found if wanted == numbers.tolist() else found[positions]

    def stream(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 of non-decreasing `indices`, one at a time, repeated ones included.

        One pass over the clip in constant memory; decoding runs ahead of the caller by a few frames. Raises like
        `frames`, and `VideoReadError` for indices that go back.
        """
        wanted = self._checked(indices)
        for earlier, later in itertools.pairwise(wanted):
            if later < earlier:
                raise VideoReadError(
                    f"{self.name}: frame {later} is asked for after frame {earlier}. A stream does not go back: sort "
                    f"the indices, or use frames()."
                )
        return self._repeated(wanted)

    def scan(self) -> Iterator[np.ndarray]:
        """All frames in order, one at a time, in constant memory.

        Raises `VideoReadError` if the clip turns out to have fewer or more frames than it says.
        """
        with closing(self._views(None)) as views:
            for view in views:
                yield view.copy()

    def times(self) -> np.ndarray | None:
        """Seconds from the first frame to each frame, (T,): the file's own where it has them, else by the frame rate.

        None where neither is known.
        """
        rate = self.metadata.fps
        return np.arange(len(self)) / rate if rate else None

    def window(self, start: int, stop: int, *, name: str | None = None, fps: float | None = None) -> ClipWindow:
        """Frames `start` to `stop - 1` as a clip of their own, whose frame 0 is frame `start` of this one.

        Args:
            start (`int`): first frame of the window.
            stop (`int`): one more than its last frame.
            name (`str`, *optional*): what errors call the window; by default the clip's own name.
            fps (`float`, *optional*): frames per second, for a clip that states none.

        Raises:
            VideoReadError: the window is empty or leaves the clip.
        """
        return ClipWindow(self, start, stop, name=name, fps=fps)

    def in_memory(self, limit: int = MAX_HELD_BYTES) -> ClipReader:
        """The clip with its frames decoded, for callers that look at them several times.

        Args:
            limit (`int`): bytes of decoded frames; a larger clip is returned as it is.
        """
        known = self.metadata
        if len(self) * known.height * known.width * 3 > limit:
            return self
        return ArrayClip(np.stack(list(self.scan())), self.name, known.fps)

    def _repeated(self, wanted: list[int]) -> Iterator[np.ndarray]:
        counts = [(number, sum(1 for _ in group)) for number, group in itertools.groupby(wanted)]
        with closing(self._views([number for number, _ in counts])) as views:
            for (_, count), view in zip(counts, views, strict=True):
                for _ in range(count):
                    yield view.copy()

    def _checked(self, indices: Sequence[int]) -> list[int]:
        wanted = []
        for index in indices:
            if isinstance(index, (bool, np.bool_)) or "bool" in str(getattr(index, "dtype", "")):
                raise TypeError(f"{self.name}: a frame number must be an integer, not the boolean {index}.")
            try:
                wanted.append(operator.index(index))
            except TypeError:
                raise TypeError(f"{self.name}: a frame number must be an integer, not {index!r}.") from None
        outside = next((index for index in wanted if not 0 <= index < len(self)), None)
        if outside is not None:
            raise VideoReadError(f"{self.name}: no frame {outside}; the clip has frames 0 to {len(self) - 1}.")
        return wanted

    def _views(self, wanted: list[int] | None) -> Iterator[np.ndarray]:
        """The frames of increasing numbers, all for None; each valid until the next one is asked for."""
        raise NotImplementedError


class ClipWindow(ClipReader):
    """Consecutive frames of another clip; made by `ClipReader.window`.

    Args:
        clip: The other clip.
        start: Number of the first frame.
        stop: Number of the frame after the last one.
        name: Name in error messages; by default that of the clip.
        fps: Frames per second; by default those of the clip.
    """

    def __init__(self, clip: ClipReader, start: int, stop: int, *, name: str | None = None, fps: float | None = None):
        if not 0 <= start < stop <= len(clip):
            raise VideoReadError(
                f"{name or clip.name}: no frames {start} to {stop - 1}; the clip has frames 0 to {len(clip) - 1}."
            )
        self.name, self._clip, self._start = name or clip.name, clip, start
        known = clip.metadata
        self.metadata = VideoMetadata(
            total_num_frames=stop - start,
            fps=known.fps if fps is None else fps,
            width=known.width,
            height=known.height,
            video_backend=known.video_backend,
        )

    def times(self):
        times = self._clip.times() if self._clip.metadata.fps == self.metadata.fps else None
        if times is None:
            return super().times()
        return times[self._start : self._start + len(self)] - times[self._start]

    def _views(self, wanted):
        numbers = range(len(self)) if wanted is None else wanted
        return self._clip.stream([self._start + number for number in numbers])


class ArrayClip(ClipReader):
    """Frames in memory.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        name: Name in error messages.
        fps: Frames per second, if known.
    """

    def __init__(self, frames: np.ndarray, name: str, fps: float | None = None):
        self.name, self._array = name, frames
        height, width = frames.shape[1:3]
        self.metadata = VideoMetadata(
            total_num_frames=len(frames), fps=fps, width=width, height=height, video_backend="array"
        )

    def _views(self, wanted):
        for index in range(len(self)) if wanted is None else wanted:
            yield self._array[index]


class ImagesClip(ClipReader):
    """Image files or PIL images, read when they are needed.

    Args:
        images: Paths or PIL images, in order.
        name: Name in error messages.
        fps: Frames per second, if known.
    """

    def __init__(self, images: Sequence[Any], name: str, fps: float | None = None):
        self.name, self._images = name, images
        height, width = read_image(images[0], self._name_of(0)).shape[:2]
        if looks_like_twelve_bits(images[0]):
            logger.warning(f"{self._name_of(0)}: {TWELVE_BITS_NOTE}")
        self.metadata = VideoMetadata(
            total_num_frames=len(images), fps=fps, width=width, height=height, video_backend="images"
        )

    def _name_of(self, index: int) -> str:
        image = self._images[index]
        return f"{self.name}, image {index}" if isinstance(image, Image.Image) else str(image)

    def _views(self, wanted):
        for index in range(len(self)) if wanted is None else wanted:
            image = read_image(self._images[index], self._name_of(index))
            if image.shape[:2] != (self.metadata.height, self.metadata.width):
                raise VideoReadError(
                    f"{self._name_of(index)}: {image.shape[1]}×{image.shape[0]} pixels, while the clip's first frame "
                    f"has {self.metadata.width}×{self.metadata.height}. All frames of a clip must have one size."
                )
            yield image


class EncodedClip(ClipReader):
    """A video file, or the bytes of one.

    Args:
        source: Absolute path, or bytes.
        name: Name in error messages.
        fps: Frames per second, if the file states none.
        decoders: As in `open_clip`.
        isolate: As in `open_clip`.
        timeout: As in `open_clip`.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        source: str | bytes,
        name: str,
        fps: float | None,
        *,
        decoders: Sequence[str],
        isolate: bool,
        timeout: float,
    ):
        self.name, self._isolate, self._timeout = name, isolate, timeout
        self._number = next(self._numbers)
        self._path, self._file = (source, None) if isinstance(source, str) else (None, _file_of_bytes(source))
        if self._file is not None:
            weakref.finalize(self, os.close, self._file)
        self._remaining, self._reasons, self._in_process = list(decoders), [], None
        info = self._next_decoder()
        self.metadata = VideoMetadata(
            total_num_frames=info["count"],
            fps=info["fps"] or fps,
            width=info["width"],
            height=info["height"],
            video_backend=self._decoder,
        )
        self._mirrored = info.get("mirrored", False)
        for note in info.get("notes", ()):
            logger.warning(f"{self.name}: {note}")

    def _next_decoder(self) -> dict[str, Any]:
        """What the next decoder that can open the file says of it."""
        while self._remaining:
            self._decoder = self._remaining.pop(0)
            try:
                return self._probe()
            except VideoReadError as error:
                raise type(error)(f"{self.name}: {error}.") from None
            except (DecoderDied, DecoderRefused) as error:
                self._reasons.append(f"{self._decoder}: {error}")
        raise NotAVideoError(f"{self.name}: not a video that can be decoded ({'; '.join(self._reasons)}).")

    def _probe(self) -> dict[str, Any]:
        if self._isolate:
            with decoding_process(self._timeout) as process:
                return process.probe(self._command(), self._files(), self._timeout)
        try:
            self._in_process = load_decoder(self._decoder, self._path or f"/dev/fd/{self._file}")
            return self._in_process.probe()
        except VideoReadError:
            raise
        # Each decoder has exceptions of its own (decord's is a bare RuntimeError); the reasons are kept and shown.
        except Exception as error:
            raise DecoderRefused(last_line(error)) from error

    def times(self):
        try:
            if self._isolate:
                with decoding_process(self._timeout) as process:
                    command = {**self._command(), "times": True}
                    found = process.probe(command, self._files(), self._timeout)["times"]
            else:
                found = getattr(self._in_process, "times", lambda: None)()
        except (DecoderDied, DecoderRefused):
            found = None  # the frames themselves will tell
        return super().times() if found is None else np.array(found)

    def _command(self) -> dict[str, Any]:
        return {"decoder": self._decoder, "clip": self._number, "path": self._path}

    def _files(self) -> list[int]:
        return [] if self._file is None else [self._file]

    def _views(self, wanted):
        done = 0
        while wanted is None or done < len(wanted):
            rest = wanted if done == 0 else (range(len(self)) if wanted is None else wanted)[done:]
            try:
                for view in self._decode(None if rest is None else list(rest)):
                    yield view
                    done += 1
                return
            except DecoderDied as error:
                self._reasons.append(f"{self._decoder}: {error}")
                self._hand_over()
            except VideoReadError as error:
                raise type(error)(f"{self.name}: {error}.") from None
            except DecoderRefused as error:
                raise DamagedVideoError(f"{self.name}: {error}.") from None
            if wanted is None and done == len(self):
                return

    def _hand_over(self) -> None:
        """Goes on with the next decoder, which must have the same clip before it."""
        info = self._next_decoder()
        known = self.metadata
        if (info["count"], info["width"], info["height"]) != (known.total_num_frames, known.width, known.height):
            raise DamagedVideoError(
                f"{self.name}: {'; '.join(self._reasons)}; and {self._decoder} sees {info['count']} frames of "
                f"{info['width']}×{info['height']} pixels instead of {len(self)} of {known.width}×{known.height}."
            )
        if self._mirrored and "mirrored" not in info:
            raise DamagedVideoError(
                f"{self.name}: {'; '.join(self._reasons)}; and {self._decoder} does not mirror, as the file asks."
            )
        known.video_backend = self._decoder

    def _decode(self, wanted: list[int] | None) -> Iterator[np.ndarray]:
        if not self._isolate:
            try:
                yield from decode_wanted(self._in_process, wanted)
            except (VideoReadError, GeneratorExit):
                raise
            except Exception as error:
                raise DamagedVideoError(last_line(error)) from error
            return
        size = self.metadata.height, self.metadata.width
        with decoding_process(self._timeout) as process:
            command = {**self._command(), "wanted": wanted}
            with closing(process.stream(command, self._files(), size, self._timeout)) as views:
                yield from views


def open_clip(
    source: Any,
    *,
    fps: float | None = None,
    isolate: bool = True,
    decoders: Sequence[str] = tuple(DECODERS),
    timeout: float = DECODER_TIMEOUT,
) -> ClipReader:
    """Opens a clip.

    Args:
        source: path of a video file or of a folder of images (`str` or `os.PathLike`); a URL of a video, `http://`,
            `https://`, `file://` or `data:`; the bytes of a video file, also
            as `{"bytes": …}` or `{"path": …}` the way `datasets.Video(decode=False)` returns them; a list of PIL
            images, of arrays or of image paths; an array or tensor (T, H, W), (T, H, W, C) or (T, C, H, W) with 1, 3
            or 4 channels, uint8, or integers in 0–255, or floats in 0–1 or 0–255. Which images of a
            folder are frames, and in which order, is the rule of `frame_folder`.
        fps: frames a second of sources that do not carry a rate (images, arrays, raw video streams).
        isolate: decode video files in a helper process, so that a decoder that crashes or hangs on a broken file is
            an error. False decodes in this process: for files of your own making, or where no process can be started.
        decoders: which to try, in this order: "pyav", "decord", "opencv", or "module:Class" for one of your own
            (`video_decoding.Decoder`).
        timeout: seconds after which a decoder of the helper process that shows no progress is ended.

    Raises:
        FileNotFoundError: the path does not exist.
        VideoReadError: the source exists but is no readable clip (a `ValueError`).
        TypeError: the source is of no known kind.
        ValueError: `fps` is no positive number.
    """
    if isinstance(source, ClipReader):
        return source
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"`fps` must be a positive number of frames a second, got {fps}.")
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    # Windows has neither descriptors that can be handed over nor /dev/fd.
    options = {"decoders": decoders, "isolate": isolate and os.name == "posix", "timeout": timeout}
    if isinstance(source, str):
        check_url(source)
        if _URL.match(source):
            return _open_url(source, fps, options)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source), fps, options)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise NotAVideoError("<0 bytes of video>: not a video, there are no bytes in it.")
        return EncodedClip(bytes(source), f"<{len(source)} bytes of video>", fps, **options)
    if isinstance(source, (list, tuple)):
        return _open_list(source, fps)
    if hasattr(source, "__array__") or hasattr(source, "detach"):
        array = to_numpy(source)
        return ArrayClip(frames_of_array(array), f"<array of shape {tuple(array.shape)}>", fps)
    raise TypeError(
        f"A clip must be a path, bytes, a list of images or an array of frames, not {type(source).__name__}."
    )


_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)  # one letter and a colon are a drive of Windows


def check_url(source: str) -> None:
    """Checks that the colon of a web address is followed by two slashes. Shells and editors join two into one.

    Raises:
        VideoReadError: It is not, and no file has that name.
    """
    if (
        (typed := re.match(r"(https?):(/*)", source, re.IGNORECASE))
        and typed[2] != "//"
        and not os.path.exists(source)
    ):
        raise VideoReadError(
            f"{source}: a mistyped URL. Two slashes follow the colon: {typed[1]}://{source[typed.end() :]}"
        )


def _open_url(url: str, fps: float | None, options: dict[str, Any]) -> ClipReader:
    scheme = url.partition(":")[0].lower()
    if scheme == "file":
        return _open_path(Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)), fps, options)
    if scheme == "data":
        header, _, payload = url.partition(",")
        try:
            content = base64.b64decode(payload, validate=True) if header.endswith(";base64") else None
        except binascii.Error:
            content = None
        if not content:
            raise VideoReadError(f"{header[:60]}: a `data:` URL of a clip must be `data:video/mp4;base64,…`.")
        return EncodedClip(content, f"<{len(content)} bytes of video>", fps, **options)
    if scheme in ("http", "https"):
        return EncodedClip(_fetched(url), url, fps, **options)
    raise VideoReadError(f"{url}: clips are read from http://, https://, file:// and data: URLs, not {scheme}://.")


def _fetched(url: str) -> bytes:
    """The content behind a URL, with the client that transformers fetches videos with.

    Raises:
        VideoReadError: it cannot be reached, or it is larger than `MAX_DOWNLOAD_BYTES`.
    """
    content = bytearray()
    try:
        with get_session().stream("GET", url, follow_redirects=True, timeout=DOWNLOAD_TIMEOUT) as response:
            response.raise_for_status()
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_DOWNLOAD_BYTES:
                    raise VideoTooLargeError(
                        f"{url}: larger than {MAX_DOWNLOAD_BYTES / 2**20:.0f} MiB (MAX_DOWNLOAD_BYTES). Download the "
                        "file and pass its path."
                    )
    except OfflineModeIsEnabled:
        raise VideoReadError(
            f"{url}: not fetched, because HF_HUB_OFFLINE is set. Unset it, or download the file and pass its path."
        ) from None
    except httpx.HTTPStatusError as error:
        raise VideoReadError(f"{url}: the server answered {error.response.status_code}.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = last_line(error) or type(error).__name__
        raise VideoReadError(f"{url}: could not be fetched ({reason}). Is this machine online?") from None
    return bytes(content)


def _open_path(path: Path, fps: float | None, options: dict[str, Any]) -> ClipReader:
    if not path.exists():
        hint = " A URL must be passed as a string." if re.match(r"https?:/", str(path)) else ""
        raise FileNotFoundError(f"{path}: no such file or folder.{hint}")
    if path.is_dir():
        return _open_folder(path, fps)
    if not path.is_file():
        raise VideoReadError(f"{path}: neither a file nor a folder.")
    if path.stat().st_size == 0:
        raise VideoReadError(f"{path}: the file is empty.")
    # Absolute: the helper process stays in the folder in which it was started.
    return EncodedClip(os.path.abspath(path), str(path), fps, **options)


def _open_folder(folder: Path, fps: float | None) -> ClipReader:
    try:
        series = folder_series(folder)
    except FrameSeriesError as error:
        raise VideoReadError(f"{folder}: {error}, or pass a list of its files in order.") from None
    for remark in series.remarks:
        logger.warning(f"{folder}: {remark}")
    return ImagesClip([folder / name for name in series.frames.values()], str(folder), fps)


def _open_list(source: Sequence[Any], fps: float | None) -> ClipReader:
    if not source:
        raise VideoReadError("A clip was given as an empty list of frames.")
    images = [isinstance(item, (str, os.PathLike, Image.Image)) for item in source]
    if all(images):
        return ImagesClip(source, "<list of frames>", fps)
    if any(images):
        raise VideoReadError("<list of frames>: it mixes images or paths with arrays; make them one kind.")
    arrays = [to_numpy(item) for item in source]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        listed = ", ".join(
            f"{shape[1]}×{shape[0]}" if len(shape) > 1 else str(shape) for shape in sorted(shapes, key=str)
        )
        raise VideoReadError(f"All frames of a clip must have one size and layout; this list holds {listed}.")
    kinds = sorted({str(array.dtype) for array in arrays})
    if len(kinds) > 1:
        raise VideoReadError(f"All frames of a clip must have one type of values; this list holds {', '.join(kinds)}.")
    # Together, because whether floats span 0–1 or 0–255 is not to be decided frame by frame.
    stacked = np.stack(arrays)
    frames = rgb_bytes(stacked[..., None]) if arrays[0].ndim == 2 else frames_of_array(stacked)
    return ArrayClip(frames, "<list of frames>", fps)


def _file_of_bytes(content: bytes) -> int:
    file = memory_file(0)
    with open(file, "wb", closefd=False) as opened:
        opened.write(content)
    return file
