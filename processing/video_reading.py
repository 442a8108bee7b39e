"""Frames of a clip, whatever it comes as: video file, bytes, folder of images, list of images, array or tensor.

`open_clip` returns a reader with a `VideoMetadata` and two ways to frames: `frames(indices)` gives exactly the frames
asked for, in that order and with repetitions; `scan()` walks through all of them once without holding them.

Video files are decoded by decord where it is installed, else PyAV, else OpenCV; a decoder that cannot open a file
hands it to the next one, and only when all of them refuse is it an error.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from transformers.video_utils import VideoMetadata

try:
    import decord
except ImportError:  # optional: no wheel for every platform, and PyAV reads the same files
    decord = None

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class VideoReadError(ValueError):
    """A source that exists but holds no readable clip. The message names the source and the reason."""


class ClipReader:
    """Random and sequential access to the frames of one clip, (H, W, 3) uint8 RGB each."""

    name: str
    metadata: VideoMetadata

    def __len__(self) -> int:
        return self.metadata.total_num_frames

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), H, W, 3) uint8. Raises `VideoReadError` for an index outside the clip."""
        wanted = [int(index) for index in indices]
        outside = [index for index in wanted if not 0 <= index < len(self)]
        if outside:
            raise VideoReadError(f"{self.name}: no frame {outside[0]}; the clip has frames 0 to {len(self) - 1}.")
        return self._frames(wanted)

    def scan(self) -> Iterator[np.ndarray]:
        """All frames in order, one at a time."""
        for index in range(len(self)):
            yield self._frames([index])[0]

    def _frames(self, indices: list[int]) -> np.ndarray:
        raise NotImplementedError


class ArrayClip(ClipReader):
    """Frames that are in memory already."""

    def __init__(self, frames: np.ndarray, name: str, fps: float | None = None):
        self.name, self._array = name, frames
        height, width = frames.shape[1:3]
        self.metadata = VideoMetadata(
            total_num_frames=len(frames), fps=fps, width=width, height=height, video_backend="array"
        )

    def _frames(self, indices):
        return self._array[indices]


class FolderClip(ClipReader):
    """A folder of images, in natural order (img9 before img10)."""

    def __init__(self, folder: Path):
        self.name = str(folder)
        self._files = sorted(
            (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()),
            key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
        )
        if not self._files:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise VideoReadError(f"{folder}: the folder holds no image ({known}).")
        height, width = _read_image(self._files[0]).shape[:2]
        self.metadata = VideoMetadata(
            total_num_frames=len(self._files), width=width, height=height, video_backend="images"
        )

    def _frames(self, indices):
        cache = {index: _read_image(self._files[index]) for index in set(indices)}
        for index, image in cache.items():
            if image.shape[:2] != (self.metadata.height, self.metadata.width):
                raise VideoReadError(
                    f"{self._files[index]}: {image.shape[1]}×{image.shape[0]} pixels, while the clip's first frame "
                    f"has {self.metadata.width}×{self.metadata.height}. All frames of a clip must have one size."
                )
        return np.stack([cache[index] for index in indices])


class DecordClip(ClipReader):
    def __init__(self, source: str | bytes, name: str):
        self.name = name
        self._reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
        height, width = self._reader[0].shape[:2]
        self.metadata = VideoMetadata(
            total_num_frames=len(self._reader),
            fps=self._reader.get_avg_fps(),
            width=width,
            height=height,
            video_backend="decord",
        )

    def _frames(self, indices):
        return self._reader.get_batch(indices).asnumpy()


class StreamedClip(ClipReader):
    """Decoders without reliable random access (PyAV, OpenCV): every request is one pass up to the last frame wanted.

    Seeking by time is what loses or doubles frames in files with a bad index, so it is not used.
    """

    def __init__(self, source: str | bytes, name: str):
        self.name, self._source = name, source
        first, count = None, 0
        for first_or_later in self.scan():
            first = first_or_later if first is None else first
            count += 1
        if first is None:
            raise VideoReadError(f"{name}: no frame could be decoded.")
        self.metadata = VideoMetadata(
            total_num_frames=count,
            fps=self._fps(),
            width=first.shape[1],
            height=first.shape[0],
            video_backend=self.backend,
        )

    def _frames(self, indices):
        wanted, kept = set(indices), {}
        for index, frame in enumerate(self.scan()):
            if index in wanted:
                kept[index] = frame
            if len(kept) == len(wanted):
                break
        return np.stack([kept[index] for index in indices])


class PyAVClip(StreamedClip):
    backend = "pyav"

    def _open(self):
        return av.open(io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source)

    def _fps(self):
        with self._open() as container:
            rate = container.streams.video[0].average_rate
        return None if rate is None else float(rate)

    def scan(self):
        with self._open() as container:
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_ndarray(format="rgb24")


class OpenCVClip(StreamedClip):
    backend = "opencv"

    def __init__(self, source: str | bytes, name: str):
        if isinstance(source, bytes):
            raise VideoReadError(f"{name}: OpenCV decodes files only, not bytes.")
        super().__init__(source, name)

    def _fps(self):
        return cv2.VideoCapture(self._source).get(cv2.CAP_PROP_FPS) or None

    def scan(self):
        capture = cv2.VideoCapture(self._source)
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


DECODERS: dict[str, type[ClipReader]] = {"decord": DecordClip, "pyav": PyAVClip, "opencv": OpenCVClip}


def open_clip(source: Any, *, fps: float | None = None) -> ClipReader:
    """Opens a clip.

    Args:
        source: path of a video file or of a folder of images (`str` or `os.PathLike`); the bytes of a video file, also
            as `{"bytes": …}` or `{"path": …}` the way `datasets.Video(decode=False)` returns them; a list of PIL
            images, of arrays or of image paths; an array or tensor (T, H, W), (T, H, W, 3) or (T, 3, H, W), uint8, or
            float in 0–1.
        fps: frame rate of sources that do not carry one.

    Raises:
        FileNotFoundError: the path does not exist.
        VideoReadError: the source exists but is no readable clip (a `ValueError`).
        TypeError: the source is of no known kind.
    """
    if isinstance(source, ClipReader):
        return source
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_encoded(bytes(source), f"<{len(source)} bytes of video>")
    if isinstance(source, (list, tuple)):
        return ArrayClip(_stack_images(source), "<list of frames>", fps)
    if hasattr(source, "__array__") or hasattr(source, "detach"):
        array = source.detach().cpu().numpy() if hasattr(source, "detach") else np.asarray(source)
        return ArrayClip(_frames_of_array(array), f"<array of shape {tuple(array.shape)}>", fps)
    raise TypeError(
        f"A clip must be a path, bytes, a list of images or an array of frames, not {type(source).__name__}."
    )


def _open_path(path: Path) -> ClipReader:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.is_dir():
        return FolderClip(path)
    if path.stat().st_size == 0:
        raise VideoReadError(f"{path}: the file is empty.")
    return _open_encoded(str(path), str(path))


def _open_encoded(source: str | bytes, name: str) -> ClipReader:
    reasons = []
    for backend, decoder in DECODERS.items():
        if backend == "decord" and decord is None:
            continue
        try:
            return decoder(source, name)
        # Each decoder has exceptions of its own (decord's is a bare RuntimeError); the reasons are kept and shown.
        except Exception as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            reasons.append(f"{backend}: {first_line.removeprefix(name + ': ')}")
    raise VideoReadError(f"{name}: not a video that can be decoded ({'; '.join(reasons)}).")


def _read_image(source: Any) -> np.ndarray:
    """(H, W, 3) uint8 from a path or a PIL image; 16-bit images keep their upper eight bits, alpha is dropped."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image, dtype=np.float64)
            image = Image.fromarray((values / (257.0 if values.max() > 255 else 1.0)).astype(np.uint8))
        return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise VideoReadError(f"{source}: not an image that can be read ({error}).") from error


def _stack_images(images: Sequence[Any]) -> np.ndarray:
    if not images:
        raise VideoReadError("A clip was given as an empty list of frames.")
    if all(isinstance(image, (str, os.PathLike, Image.Image)) for image in images):
        frames = [_read_image(image) for image in images]
    else:
        frames = [_frames_of_array(np.asarray(image)[None])[0] for image in images]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        listed = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise VideoReadError(f"All frames of a clip must have one size; this list holds {listed}.")
    return np.stack(frames)


def _frames_of_array(array: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 from the layouts `open_clip` documents."""
    shape = tuple(array.shape)
    if array.ndim == 3:
        array = np.repeat(array[..., None], 3, axis=-1)
    elif array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or 0 in shape:
        raise VideoReadError(
            f"An array of shape {shape} is no clip: expected (frames, H, W), (frames, H, W, 3) or (frames, 3, H, W)."
        )
    array = np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise VideoReadError(f"An array of shape {shape} holds NaN or infinite values.")
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1:
        array = array * 255.0
    elif low < 0 or high > 255:
        raise VideoReadError(
            f"Pixel values must lie in 0–255, or 0–1 for floats; this array spans {low:g} to {high:g}."
        )
    return np.rint(array).astype(np.uint8)
