import cv2
import numpy as np
import pytest

from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_alignment import FaceAlignmentError, crop_transform, warp_to_crop

CANONICAL = np.array(list(CANONICAL_LANDMARKS.values()))


def test_landmarks_land_on_their_canonical_positions():
    angle, scale = np.radians(12), 180.0
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = CANONICAL @ rotation.T + (60, 25)
    transform = crop_transform(400, 400, landmarks=points)
    np.testing.assert_allclose(points @ transform[:, :2].T + transform[:, 2], CANONICAL, atol=1e-9)


def test_a_face_of_other_proportions_is_not_sheared():
    points = CANONICAL * (200, 240)
    linear = crop_transform(400, 400, landmarks=points)[:, :2]
    assert linear[0, 0] == pytest.approx(linear[1, 1])
    assert linear[0, 1] == pytest.approx(-linear[1, 0])


def test_the_whole_frame_is_the_crop_by_default():
    frame = np.random.default_rng(0).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(warp_to_crop(frame, crop_transform(64, 64), 64), frame, atol=1e-3)


def test_a_wide_frame_is_cut_to_its_middle():
    frame = np.zeros((40, 80), np.float32)
    frame[:, 20:60] = np.arange(40)
    np.testing.assert_allclose(warp_to_crop(frame, crop_transform(40, 80), 40), frame[:, 20:60], atol=1e-3)


def test_a_box_cuts_its_pixels():
    frame = np.random.default_rng(0).uniform(0, 255, (100, 120)).astype(np.float32)
    crop = warp_to_crop(frame, crop_transform(100, 120, box=(30, 20, 78, 68)), 48)
    np.testing.assert_allclose(crop, frame[20:68, 30:78], atol=1e-3)


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((256, 256), np.float32)
    stripes[:, ::2] = 200
    small = warp_to_crop(cv2.UMat(stripes).get(), crop_transform(256, 256), 60)
    assert np.abs(small[5:-5, 5:-5] - 100).max() < 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"landmarks": [(1, 2), (3, 4)]}, r"shape \(2, 2\)"),
        ({"landmarks": [(50, 50), (51, 50), (50, 80)]}, "less than 4 pixels apart"),
        ({"landmarks": [(np.nan, 0), (9, 9), (3, 3)]}, "three"),
        ({"box": (10, 10, 12, 50)}, "at least 8 pixels"),
        ({"box": (1, 2, 3)}, "left, top, right, bottom"),
        ({"box": (0, 0, 50, 50), "landmarks": CANONICAL * 100}, "not both"),
    ],
)
def test_what_is_no_face_is_refused(arguments, message):
    with pytest.raises(FaceAlignmentError, match=message):
        crop_transform(100, 100, **arguments)
