"""The picture of a flow field over a face, the same one wherever it is drawn.

This module imports nothing of the package, so that all of it may draw; matplotlib is imported by those who call it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ARROW_SCALE = 10
"""Arrows are this many times as long as the motion, because their true length would be too small to see."""
_LEAST_SPAN = 0.5  # percent of the crop's width, so that noise is not drawn in bright colours
_ARROWS_ACROSS = 16  # closer together they hide each other and the face


def draw_crop(axis: Any, crop: np.ndarray, *, faded: bool = False) -> None:
    """Draws a face crop into the unit square, x to the right and y down, without ticks.

    Args:
        axis (`matplotlib.axes.Axes`): where to draw.
        crop (`np.ndarray` of shape `(side, side, 3)`): RGB, uint8 or floats from 0 to 1.
        faded (`bool`): in light grey, as the ground for arrows and outlines.
    """
    image = np.asarray(crop, np.float64) / (255 if crop.dtype == np.uint8 else 1)
    if faded:
        image = np.repeat(image.mean(-1, keepdims=True), 3, -1) * 0.6 + 0.4
    axis.imshow(image, extent=(0, 1, 1, 0), vmin=0, vmax=1, interpolation="bilinear")
    as_unit_square(axis)


def as_unit_square(axis: Any) -> None:
    """Makes an axis the unit square of the canonical crop, without ticks.

    Args:
        axis (`matplotlib.axes.Axes`): the axis.
    """
    axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), aspect="equal")


def draw_flow(axis: Any, flow: np.ndarray, *, scale: float = ARROW_SCALE, top: float | None = None) -> Any:
    """Draws the arrows of a flow field into the unit square.

    Args:
        axis (`matplotlib.axes.Axes`): where to draw; see `as_unit_square`.
        flow (`np.ndarray` of shape `(2, height, width)`): motion in percent of the crop's width, +x right, +y down.
        scale (`float`): how many times longer than the motion the arrows are.
        top (`float`, *optional*): the motion that the brightest colour stands for, in percent of the crop's width; by
            default the largest in the field, and at least 0.5.

    Returns:
        `matplotlib.quiver.Quiver`: the arrows, for a colour bar.
    """
    _, height, width = flow.shape
    step = max(1, width // _ARROWS_ACROSS)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    shown = flow[:, y, x]
    strength = np.hypot(*shown)
    return axis.quiver(
        (x + 0.5) / width,
        (y + 0.5) / height,
        *(scale * shown / 100),
        strength,
        cmap="plasma",
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.007,
        clim=(0, max(_LEAST_SPAN, float(strength.max())) if top is None else top),
    )
