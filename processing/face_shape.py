"""The depth of a generic face over the canonical crop, for everything that turns a head out of the image plane.

The shape is analytic: an ellipsoid for the skull, and Gaussian bumps for the nose, the sockets, the brow ridge, the
cheekbones, the mouth and the chin. It is the face of nobody. Its proportions are round numbers in the middle of what
anthropometry reports for adults (Farkas 1994, "Anthropometry of the Head and Face"; Young 1993, "Head and Face
Anthropometry of Adult U.S. Citizens"), divided by the crop's width of 166 mm, at which the pupils are 63 mm apart:

- the tip of the nose stands 20 to 22 mm in front of its base: 0.13 crop widths;
- the pupils lie about 15 mm behind the brow ridge, the outer corners of the eyes 20 to 25 mm behind the root of the
  nose;
- the side of the face, 70 mm from the midline in front of the ears, lies about 58 mm behind the brow: 0.35;
- the forehead slopes back by about 15 mm from the brow to the hair line;
- the teeth push the lips about 8 mm forward, and the chin stands about 4 mm in front of the fold above it.

Real faces differ from it by several millimetres. At a turn of 8° one millimetre of depth moves a point by 0.08 % of
the crop's width.
"""

from __future__ import annotations

import numpy as np

# Skull: semi-axes of an ellipsoid in crop widths, its middle height, and its half width at the chin's height.
_MIDDLE = 0.45
_HALF_WIDTH, _HALF_WIDTH_OF_JAW = 0.50, 0.42
_HALF_HEIGHT, _DEPTH = 1.05, 0.76
# An ellipsoid's edge is infinitely steep. Beyond this squared radius the depth levels off instead.
_EDGE, _BEYOND = 0.75, 0.12

# Nose: height of the tip, its place, and the spread of the ridge along the face above and below the tip.
_TIP, _TIP_Y, _RIDGE_ABOVE, _RIDGE_BELOW = 0.13, 0.565, 0.115, 0.032
_RIDGE_WIDTH, _WINGS_WIDTH = 0.038, 0.052

# Bumps (distance from the midline, y, spread across, spread along, height), on both sides.
_BUMPS = (
    (0.19, 0.350, 0.070, 0.045, -0.040),  # eye socket
    (0.10, 0.235, 0.090, 0.040, 0.020),  # brow ridge
    (0.25, 0.470, 0.080, 0.060, 0.020),  # cheekbone
    (0.00, 0.750, 0.130, 0.065, 0.050),  # dental arch
    (0.00, 0.750, 0.080, 0.040, 0.012),  # lips
    (0.00, 0.930, 0.090, 0.045, 0.085),  # chin
)


def depth_at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The depth of the generic face at points of the canonical crop.

    Args:
        x (`np.ndarray`): Distance from the left edge of the crop, in crop widths, any shape.
        y (`np.ndarray`): Distance from the top edge of the crop, in crop widths, the shape of `x`.

    Returns:
        `np.ndarray`: Depth in crop widths, float64, the shape of `x`. It is positive towards the camera, and zero at
        the centres of the eyes.
    """
    return _depth(np.asarray(x, np.float64), np.asarray(y, np.float64)) - _depth(np.float64(0.31), np.float64(0.35))


def face_depth(height: int, width: int) -> np.ndarray:
    """The depth of the generic face at the pixels of a canonical crop.

    Args:
        height (`int`): Height of the crop in pixels.
        width (`int`): Width of the crop in pixels.

    Returns:
        `np.ndarray` of shape `(height, width)`, float32: Depth at the pixels' centres in crop widths, positive towards
        the camera, and zero at the centres of the eyes.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return depth_at((x + 0.5) / width, (y + 0.5) / height).astype(np.float32)


def _depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    across = x - 0.5
    lower = 1 / (1 + np.exp(-(y - 0.75) / 0.06))  # the jaw is narrower than the cheekbones
    half_width = _HALF_WIDTH + (_HALF_WIDTH_OF_JAW - _HALF_WIDTH) * lower
    squared = (across / half_width) ** 2 + ((y - _MIDDLE) / _HALF_HEIGHT) ** 2
    slope = 0.5 * _DEPTH / np.sqrt(1 - _EDGE)
    level = _DEPTH * (np.sqrt(1 - np.minimum(squared, _EDGE)) - 1)
    depth = level - _BEYOND * np.tanh(np.maximum(squared - _EDGE, 0) * slope / _BEYOND)
    along = y - _TIP_Y
    ridge = _TIP * np.exp(-0.5 * (along / np.where(along < 0, _RIDGE_ABOVE, _RIDGE_BELOW)) ** 2)
    wings = np.exp(-0.5 * (along / 0.06) ** 2)
    width = _RIDGE_WIDTH + (_WINGS_WIDTH - _RIDGE_WIDTH) * wings
    depth = depth + ridge * np.exp(-0.5 * (across / width) ** 2)
    for offset, middle, wide, high, bump in _BUMPS:
        for side in (-1, 1) if offset else (1,):
            far = ((across - side * offset) / wide) ** 2 + ((y - middle) / high) ** 2
            depth = depth + bump * np.exp(-0.5 * far)
    return depth
