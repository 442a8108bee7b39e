"""Pixels of images and arrays as 8-bit RGB."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .video_decoding import MAX_FRAME_PIXELS, TWELVE_BITS, VideoReadError, VideoTooLargeError


def read_image(source: Any, name: str) -> np.ndarray:
    """(H, W, 3) uint8 from a path or a PIL image, turned as its EXIF says; alpha is dropped, 16 bits become 8."""
    try:
        if isinstance(source, Image.Image):
            return _pixels(source)
        with Image.open(source) as image:
            return _pixels(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such file.") from None
    except VideoReadError as error:
        raise type(error)(f"{name}: {error}.") from None
    # Pillow's readers raise what they stumble over: OSError, SyntaxError, struct.error, DecompressionBombError, …
    except Exception as error:
        raise VideoReadError(f"{name}: not an image that can be read ({error}).") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.width * image.height > MAX_FRAME_PIXELS:
        raise VideoTooLargeError(
            f"{image.width}×{image.height} pixels; at most {MAX_FRAME_PIXELS / 1e6:.1f} million are read "
            f"(MAX_FRAME_PIXELS), scale it down first"
        )
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise VideoReadError(f"{image.n_frames} images in one; a frame must be one image")
    white = _white(image)
    image = ImageOps.exif_transpose(image)
    if white:
        # The same for every frame of a clip, however dark: 65535 becomes 255.
        grey = np.rint(np.asarray(image).astype(np.float32) / (white / 255)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise VideoReadError(f"its pixels are of mode {image.mode}, whose range is open; convert it to 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def _white(image: Image.Image) -> int:
    """The value of white in a grey image of more than 8 bits per pixel, else 0."""
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales those of PGM to 16 bits
        return 65535
    if not image.mode.startswith("I;16"):
        return 0
    bits = getattr(image, "tag_v2", {}).get(258, (16,))  # TIFF's BitsPerSample
    return 2 ** bits[0] - 1


def looks_like_twelve_bits(source: Any) -> bool:
    """Whether an image has 16 bits per pixel, of which only 12 are used, so that it would be read as almost black.

    Args:
        source: Path or PIL image that `read_image` has read.
    """
    if isinstance(source, Image.Image):
        return _white(source) == 65535 and 0 < int(np.asarray(source).max()) <= TWELVE_BITS
    with Image.open(source) as image:
        return looks_like_twelve_bits(image)


def to_numpy(source: Any) -> np.ndarray:
    try:
        if hasattr(source, "detach"):
            tensor = source.detach().cpu()
            # NumPy has no bfloat16, and half of it would be lost in the arithmetic of float16.
            source = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array = np.asarray(source)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        kind = type(source).__name__
        raise VideoReadError(f"A frame of type {kind} cannot be turned into an array of numbers ({error}).") from error
    if np.ma.is_masked(source):
        raise VideoReadError("An array with masked values is not a clip: fill them first.")
    return array


def frames_of_array(array: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 from the layouts `open_clip` documents."""
    shape = array.shape
    last = array.ndim == 4 and shape[-1] in (1, 3, 4)
    first = array.ndim == 4 and shape[1] in (1, 3, 4)
    # (H, W, 3) is one picture rather than H pictures three pixels wide.
    grey = array.ndim == 3 and shape[-1] not in (1, 3, 4)
    if not (last or first or grey):
        raise VideoReadError(
            f"An array of shape {shape} is not a clip: expected (frames, H, W), (frames, H, W, 3) or "
            "(frames, 3, H, W)."
        )
    if first and last:
        raise VideoReadError(
            f"An array of shape {shape} may have its channels first or last; frames that small cannot be told apart."
        )
    return rgb_bytes(array[..., None] if grey else array.transpose(0, 2, 3, 1) if first else array)


def rgb_bytes(array: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 from (T, H, W, C) numbers with 1, 3 or 4 channels."""
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise VideoReadError(f"An array of {array.dtype} is not a clip: pixels must be integers or floats.")
    if 0 in array.shape:
        raise VideoReadError(f"An array of shape {array.shape} is not a clip: there is nothing in it.")
    if array.shape[1] * array.shape[2] > MAX_FRAME_PIXELS:
        raise VideoTooLargeError(
            f"Frames of {array.shape[2]}×{array.shape[1]} pixels are too large; at most "
            f"{MAX_FRAME_PIXELS / 1e6:.1f} million are read (MAX_FRAME_PIXELS)."
        )
    array = array[..., :3]
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise VideoReadError("The array holds NaN or infinite values.")
        if low < 0 or high > 255:
            raise VideoReadError(
                f"Pixel values must lie in 0–255, or 0–1 for floats; this array spans {low:g} to {high:g}. "
                f"Scale it first (16 bits: divide by 257)."
            )
        scale = 255 if np.issubdtype(array.dtype, np.floating) and high <= 1 else 1
        numbers, array = array, np.empty(array.shape, np.uint8)
        for values, converted in zip(numbers, array, strict=True):  # frame by frame: no second clip in floats
            converted[...] = np.rint(values.astype(np.float32) * scale)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array
