"""The generic face has the proportions that its docstring states, and no step that would tear a picture."""

import numpy as np
import pytest

from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_shape import depth_at, face_depth

MILLIMETRES = 166  # width of the crop


def test_the_eyes_are_the_origin():
    for side in ("right_eye", "left_eye"):
        assert depth_at(*CANONICAL_LANDMARKS[side]) == pytest.approx(0, abs=1e-9)


def test_proportions_in_millimetres():
    def between(near, far):
        return MILLIMETRES * float(depth_at(*near) - depth_at(*far))

    assert 17 <= between((0.5, 0.565), (0.5, 0.645)) <= 25  # tip of the nose, its base
    assert 8 <= between((0.40, 0.235), CANONICAL_LANDMARKS["right_eye"]) <= 20  # brow ridge, pupil
    assert 50 <= between((0.5, 0.235), (0.08, 0.45)) <= 68  # brow, side of the face
    assert 8 <= between((0.5, 0.235), (0.5, 0.0)) <= 25  # brow, hair line
    assert 2 <= between((0.5, 0.93), (0.5, 0.84)) <= 10  # chin, the fold above it


def test_both_sides_are_alike_and_the_surface_is_smooth():
    depth = face_depth(256, 256)
    assert depth.shape == (256, 256)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, depth[:, ::-1], atol=1e-5)
    # Nowhere steeper than the side of a nose or of a head; a head turned by 15° then hides nothing that shows here.
    down, across = np.gradient(depth, 1 / 256)
    assert np.abs(across).max() < 3.7
    assert np.abs(down).max() < 3.7


def test_sizes_sample_the_same_surface():
    coarse = face_depth(64, 64)
    fine = face_depth(192, 192)[1::3, 1::3]  # every third pixel's centre is that of a coarse pixel
    np.testing.assert_allclose(coarse, fine, atol=1e-6)
