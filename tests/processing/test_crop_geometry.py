"""Face crops that are and are not the canonical crop."""

import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.faces import FaceStyle, render_face
from deft_llm.processing.crop_geometry import CANONICAL, ELSEWHERE, LEAST_PIXELS, UNCLEAR, inspect_crop
from tests.processing.painted_faces import painted_face


@pytest.mark.parametrize(("height", "width"), [(64, 64), (224, 224), (170, 140), (96, 120)])
def test_a_face_in_the_canonical_place_is_left_there(height, width):
    side = min(height, width)
    frame, truth = painted_face(height, width, crop=side, middle=(width / 2, height / 2))
    found = inspect_crop(frame)
    assert found.verdict == CANONICAL
    np.testing.assert_allclose(found.landmarks, truth, atol=0.05 * side)


@pytest.mark.parametrize(
    ("crop", "aside", "down"), [(0.7, 0.0, 0.0), (0.75, 0.06, 0.10), (0.75, -0.06, 0.10), (1.2, 0, 0.1)]
)
@pytest.mark.parametrize("side_light", [0.0, 90.0])
def test_a_face_elsewhere_is_found(crop, aside, down, side_light):
    height, width = 340, 280
    middle = ((0.5 + aside) * width, (0.5 + down) * height)
    frame, truth = painted_face(height, width, crop=crop * width, middle=middle, side_light=side_light)
    found = inspect_crop(frame)
    assert found.verdict == ELSEWHERE
    np.testing.assert_allclose(found.landmarks, truth, atol=0.05 * crop * width)
    canonical = (np.array([(0.31, 0.35), (0.69, 0.35), (0.5, 0.76)]) - 0.5) * width + (width / 2, height / 2)
    assert found.shift == pytest.approx(np.hypot(*(truth - canonical).T).max() / width, abs=0.05)


@pytest.mark.parametrize("picture", ["flat", "noise", "stripes"])
def test_without_a_face_it_is_not_clear(picture):
    shape, rng = (120, 100, 3), np.random.default_rng(1)
    frame = {
        "flat": np.full(shape, 128, np.uint8),
        "noise": rng.integers(0, 256, shape, np.uint8),
        "stripes": np.broadcast_to(np.uint8(128 + 90 * np.sin(np.arange(120) / 3))[:, None, None], shape),
    }[picture]
    assert inspect_crop(frame).verdict == UNCLEAR


@pytest.mark.parametrize(
    "style", [FaceStyle(), FaceStyle(glasses=True), FaceStyle(beard=True), FaceStyle(skin=0.0), FaceStyle(skin=1.0)]
)
def test_rendered_faces_are_canonical(style):
    face = render_face(np.random.default_rng(9), size=96, style=style)
    assert inspect_crop(np.uint8(face.image)).verdict == CANONICAL


def test_nothing_is_said_of_a_picture_that_is_too_small():
    frame = np.zeros((LEAST_PIXELS - 1, 200, 3), np.uint8)
    assert inspect_crop(frame).verdict == CANONICAL
    assert inspect_crop(np.zeros((LEAST_PIXELS, 200, 3), np.uint8)).verdict == UNCLEAR
