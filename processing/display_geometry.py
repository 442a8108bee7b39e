"""How a video file asks for its pictures to be shown: turned, mirrored, and with pixels that are not square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

SQUARE_ENOUGH = 0.01
"""Pixels whose sides differ by less are taken as square: scaling would blur the picture for nothing."""
LONGEST_PIXEL = 4
"""The largest ratio of a pixel's sides that is believed."""


class Orientation(NamedTuple):
    """One of the eight ways to place a picture upright: swap rows and columns first, then flip.

    Args:
        swapped: Whether rows become columns.
        upside_down: Whether the order of the rows is reversed afterwards.
        left_right: Whether the order of the columns is reversed afterwards.
        leftover: Degrees, clockwise, that the file asks for beyond this, because it asks for no quarter turn.
    """

    swapped: bool = False
    upside_down: bool = False
    left_right: bool = False
    leftover: float = 0.0

    @property
    def mirrored(self) -> bool:
        """Whether left and right of what is shown are exchanged, which no turn does."""
        return self.swapped ^ self.upside_down ^ self.left_right

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The picture as it is to be shown, as a view.

        Args:
            image: (H, W, C).
        """
        image = image.transpose(1, 0, 2) if self.swapped else image
        image = image[::-1] if self.upside_down else image
        return image[:, ::-1] if self.left_right else image


def nearest_orientation(matrix: Sequence[int] | None) -> Orientation:
    """The quarter turn, with or without a mirror, that is nearest to a display matrix.

    Args:
        matrix: The nine numbers of FFmpeg's display matrix (ISO 14496-12, 8.3.2): a point (x, y) is shown at
            (m0 x + m3 y, m1 x + m4 y), +y down. `None`, or one that maps the picture to a line or a point, is none.
    """
    if matrix is None:
        return Orientation()
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    if a * d - b * c == 0:
        return Orientation()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    to_x, to_y = (math.copysign(1, sign) for sign in ((c, b) if swapped else (a, d)))
    # The turn that remains after the picture has been placed: the matrix times the inverse of the placement.
    if swapped:
        cosine, sine = c * to_x + b * to_y, d * to_x - a * to_y
    else:
        cosine, sine = a * to_x + d * to_y, b * to_x - c * to_y
    return Orientation(swapped, to_y < 0, to_x < 0, math.degrees(math.atan2(sine, cosine)))


def square_size(width: int, height: int, ratio: Fraction | None) -> tuple[int, int]:
    """The size (width, height) at which pixels are square. Sides are only ever lengthened, so no detail is lost.

    Args:
        width: Stored pixels per row.
        height: Stored rows.
        ratio: Width of a pixel by its height (sample aspect ratio), or `None` if the file does not state it.
    """
    if not ratio or ratio < 0 or abs(math.log(ratio)) < SQUARE_ENOUGH:
        return width, height
    if not 1 / LONGEST_PIXEL <= ratio <= LONGEST_PIXEL:
        return width, height
    return (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
