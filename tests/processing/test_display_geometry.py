import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageOps

from deft_llm.processing.display_geometry import Orientation, nearest_orientation, square_size

UNIT = 1 << 16
# name: (a, b, c, d), the number of the same orientation in EXIF
EIGHT = {
    "as stored": ((1, 0, 0, 1), 1),
    "mirrored": ((-1, 0, 0, 1), 2),
    "half turn": ((-1, 0, 0, -1), 3),
    "upside down": ((1, 0, 0, -1), 4),
    "transposed": ((0, 1, 1, 0), 5),
    "quarter turn": ((0, 1, -1, 0), 6),
    "transposed the other way": ((0, -1, -1, 0), 7),
    "quarter turn back": ((0, -1, 1, 0), 8),
}


def display_matrix(a, b, c, d):
    return [round(UNIT * value) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]


@pytest.mark.parametrize("name", EIGHT)
def test_the_eight_orientations_are_those_of_exif(name):
    entries, exif = EIGHT[name]
    picture = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = exif
    found = nearest_orientation(display_matrix(*entries))
    np.testing.assert_array_equal(found.apply(picture), np.asarray(ImageOps.exif_transpose(image)))
    assert found.mirrored == (exif in (2, 4, 5, 7))
    assert found.leftover == 0


@pytest.mark.parametrize("degrees", [-44, -10, -1, 1, 10, 44])
@pytest.mark.parametrize("name", EIGHT)
def test_another_angle_goes_to_the_nearest_quarter_turn_and_says_what_is_left(name, degrees):
    a, b, c, d = EIGHT[name][0]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The picture is placed, and then turned clockwise.
    turned = (cosine * a - sine * b, sine * a + cosine * b, cosine * c - sine * d, sine * c + cosine * d)
    found = nearest_orientation(display_matrix(*turned))
    assert found[:3] == nearest_orientation(display_matrix(a, b, c, d))[:3]
    assert found.leftover == pytest.approx(degrees, abs=0.01)


@pytest.mark.parametrize("matrix", [None, [0] * 9, [UNIT, 0, 0, 0, 0, 0, 0, 0, 1 << 30], [UNIT] * 9])
def test_a_matrix_that_shows_no_picture_is_none(matrix):
    assert nearest_orientation(matrix) == Orientation()


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        (None, (720, 576)),
        (Fraction(0), (720, 576)),
        (Fraction(1), (720, 576)),
        (Fraction(405, 404), (720, 576)),  # a rounding error of the encoder
        (Fraction(16, 15), (768, 576)),
        (Fraction(8, 9), (720, 648)),
        (Fraction(1, 1000), (720, 576)),
    ],
)
def test_sides_are_lengthened_until_pixels_are_square(ratio, size):
    assert square_size(720, 576, ratio) == size
