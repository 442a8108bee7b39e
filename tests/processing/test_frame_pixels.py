import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from deft_llm.processing.frame_folder import IMAGE_SUFFIXES
from deft_llm.processing.frame_pixels import looks_like_twelve_bits, read_image
from deft_llm.processing.video_reading import VideoTooLargeError, open_clip
from tests.processing.barcodes import barcoded

UPRIGHT = barcoded(2)[1]
# What is stored so that EXIF's orientation shows it upright; Pillow's names for the inverses.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_images_are_turned_and_mirrored_as_they_ask(orientation, suffix, tmp_path):
    image = Image.fromarray(UPRIGHT)
    image = image if STORED[orientation] is None else image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"1.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    read = open_clip(tmp_path).frames([0])[0]
    assert read.shape == UPRIGHT.shape
    assert np.abs(read.astype(int) - UPRIGHT).mean() < (3 if suffix == "jpg" else 1e-9)
    opened = Image.open(tmp_path / f"1.{suffix}")
    np.testing.assert_array_equal(read_image(opened, "opened"), read)
    np.testing.assert_array_equal(read_image(ImageOps.exif_transpose(opened), "turned"), read)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_of_an_image_is_read(suffix, tmp_path):
    grey = Image.fromarray(UPRIGHT).convert("L")
    for number in (1, 2):
        (grey if suffix in (".pgm", ".gif") else Image.fromarray(UPRIGHT)).save(tmp_path / f"{number}{suffix}")
    read = open_clip(tmp_path).frames([0, 1])
    assert np.abs(read.astype(int) - UPRIGHT).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
@pytest.mark.parametrize(("high", "told"), [(4095, True), (4096, False), (65535, False), (0, False)])
def test_twelve_bits_in_sixteen_are_told(suffix, high, told, tmp_path, hears_warnings):
    ramp = np.linspace(0, high, 32 * 48).astype(np.uint16).reshape(32, 48)
    for number in (1, 2):
        Image.fromarray(ramp).save(tmp_path / f"{number}{suffix}")
    read = open_clip(tmp_path).frames([0, 1])
    np.testing.assert_array_equal(read[1, :, :, 0], np.rint(ramp / 257).astype(np.uint8))
    assert looks_like_twelve_bits(tmp_path / f"1{suffix}") == told
    assert hears_warnings.text.count(f"1{suffix}: Its 16-bit values do not exceed 4095") == told
    assert f"2{suffix}" not in hears_warnings.text  # once per clip


def test_twelve_bits_that_are_stated_are_scaled(tmp_path, hears_warnings):
    ramp = np.linspace(0, 4095, 32 * 48).astype(np.uint16).reshape(32, 48)
    (tmp_path / "1.pgm").write_bytes(b"P5 48 32 4095\n" + ramp.astype(">u2").tobytes())
    pairs = ramp.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    entries = [(256, 4, 48), (257, 4, 32), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 32), (279, 4, packed.size)]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *row[:2], 1, row[2]) for row in entries
    )
    content = struct.pack("<2sHI", b"II", 42, 8 + packed.size) + packed.astype(np.uint8).tobytes()
    (tmp_path / "2.tif").write_bytes(content + directory + bytes(4))
    for frame in open_clip([tmp_path / "1.pgm", tmp_path / "2.tif"]).frames([0, 1]):
        assert np.abs(frame[:, :, 0] - ramp / (4095 / 255)).max() <= 0.51
    assert hears_warnings.text == ""


def test_the_class_of_an_error_says_what_it_is_about(monkeypatch):
    monkeypatch.setattr("deft_llm.processing.frame_pixels.MAX_FRAME_PIXELS", 100)
    with pytest.raises(VideoTooLargeError, match="48×32 pixels; at most"):
        read_image(Image.fromarray(UPRIGHT), "large")
    with pytest.raises(VideoTooLargeError, match="48×32 pixels are too large"):
        open_clip(barcoded(2))
