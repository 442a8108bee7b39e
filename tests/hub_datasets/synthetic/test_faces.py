import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.faces import FaceStyle, photograph, render_face
from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_alignment import FaceAlignmentError


def face_of(seed, **style):
    return render_face(np.random.default_rng(seed), size=128, style=FaceStyle(**style))


def test_a_seed_is_a_face():
    first, again, other = face_of(1), face_of(1), face_of(2)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.offsets == again.offsets
    assert np.abs(first.image - other.image).mean() > 5


def test_the_eyes_are_where_the_atlas_has_them():
    """Pupils are the darkest, the white of the eye among the brightest of the eye's surroundings."""
    for seed in range(5):
        face = face_of(seed, glasses=False)
        grey = face.image.mean(-1)
        for side in ("left", "right"):
            (x, top, *_), (_, bottom, *_) = face.region("upper lid", side), face.region("lower lid", side)
            row, column = round((top + bottom) / 2 * 128), round(x * 128)
            eye = grey[row - 4 : row + 4, column - 9 : column + 9]
            assert eye.min() < 60
            assert eye.max() > eye.min() + 60


@pytest.mark.parametrize(
    ("style", "region", "brighter"),
    [
        ({"skin": 0.0}, (slice(60, 70), slice(30, 40)), True),
        ({"background": (250, 250, 250)}, (slice(118, 126), slice(0, 4)), True),
    ],
)
def test_traits_can_be_fixed(style, region, brighter):
    opposite = {"skin": 1.0} if "skin" in style else {"background": (10, 10, 10)}
    for seed in range(3):
        light, dark = face_of(seed, **style).image[region].mean(), face_of(seed, **opposite).image[region].mean()
        assert (light > dark + 40) == brighter


def test_fixing_one_trait_leaves_the_others_alone():
    with_glasses, without = face_of(4, glasses=True), face_of(4, glasses=False)
    changed = np.abs(with_glasses.image - without.image).max(-1) > 1
    assert changed[35:65].any()
    assert not changed[80:].any()
    assert with_glasses.offsets == without.offsets


def test_a_photograph_is_brought_to_the_canonical_crop():
    image = np.full((300, 300, 3), 40, np.uint8)
    points = {name: (60 + 160 * x, 50 + 160 * y) for name, (x, y) in CANONICAL_LANDMARKS.items()}
    for point in points.values():
        cv2.circle(image, tuple(round(value) for value in point), 4, (250, 250, 250), -1)
    crop = photograph(image, list(points.values()), size=192).image
    for x, y in CANONICAL_LANDMARKS.values():
        assert crop[round(y * 192), round(x * 192)].min() > 200


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        ([(10, 10), (20, 10), (15, 20)], r"a face 2\d pixels wide"),
        ([(10, 50), (310, 50), (160, 250)], "inside the picture"),
        ([(10, 10), (11, 10), (10, 20)], "less than 4 pixels"),
    ],
)
def test_a_photograph_without_a_face_sized_area_is_refused(landmarks, message):
    with pytest.raises(FaceAlignmentError, match=message):
        photograph(np.zeros((200, 200, 3), np.uint8), landmarks)
