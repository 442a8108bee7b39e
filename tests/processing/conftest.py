"""Small encoded clips in every container and codec that the reader's tests go through."""

import numpy as np
import pytest
from transformers.utils import logging

from tests.processing import barcodes


def numbered_frames(count: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8. Smooth colours that drift; the mean grey level of frame k is about 40 + 6 k."""
    rows, columns = np.mgrid[:height, :width]
    k = np.arange(count)[:, None, None]
    pattern = 25 * np.sin((columns + 2 * k) / 9) * np.cos((rows + k) / 7)
    frames = 40 + 6.0 * k[..., None] + pattern[..., None] * np.array([1.0, 0.6, -0.8])
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


# name: container, codec, pixel format, options
ENCODINGS = {
    "mp4_b_frames": ("mp4", "libx264", "yuv420p", {"bf": "3", "g": "12", "crf": "18"}),
    "mp4_444": ("mp4", "libx264", "yuv444p", {"crf": "18"}),
    "mp4_10_bits": ("mp4", "libx264", "yuv420p10le", {"crf": "18"}),
    "mp4_grey": ("mp4", "libx264", "gray", {"crf": "18"}),
    "mp4_mpeg4": ("mp4", "mpeg4", "yuv420p", {"b": "4M", "bf": "2"}),
    "mov_png_alpha": ("mov", "png", "rgba", {}),
    "mov_png_16_bits": ("mov", "png", "rgb48be", {}),
    "avi_mjpeg": ("avi", "mjpeg", "yuvj420p", {"b": "8M"}),
    "avi_mpeg4": ("avi", "mpeg4", "yuv420p", {"b": "4M"}),
    "avi_raw": ("avi", "rawvideo", "bgr24", {}),
    "avi_h264_b_frames": ("avi", "libx264", "yuv420p", {"bf": "2", "crf": "18"}),
    "mkv_ffv1": ("matroska", "ffv1", "yuv420p", {}),
    "webm_vp8": ("webm", "libvpx", "yuv420p", {"crf": "10", "b": "1M"}),
    "webm_vp9": ("webm", "libvpx-vp9", "yuv420p", {"crf": "20", "cpu-used": "8"}),
    "webm_vp9_alpha": ("webm", "libvpx-vp9", "yuva420p", {"crf": "20", "cpu-used": "8"}),
    "ts_h264": ("mpegts", "libx264", "yuv420p", {"bf": "2", "crf": "18"}),
    "gif": ("gif", "gif", "rgb8", {}),
}


@pytest.fixture
def hears_warnings(caplog):
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


@pytest.fixture(scope="session")
def encode():
    return encode_frames


@pytest.fixture(scope="session", params=ENCODINGS)
def encoded(request):
    """(name, bytes) of each encoding of `numbered_frames()`."""
    return request.param, encode_frames(request.param, numbered_frames())


@pytest.fixture(scope="session")
def numbered():
    return numbered_frames


def encode_frames(
    name: str, frames: np.ndarray, *, fps: int = 25, times: list[int] | None = None, **options: str
) -> bytes:
    """A video file with these frames; `times` are their time stamps in 1/1000 s, for a variable frame rate."""
    container, codec, pixels, own = ENCODINGS[name]
    return barcodes.encoded(container, codec, pixels, frames, rate=fps, times=times, **{**own, **options})
