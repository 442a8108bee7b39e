"""Turns flow into statements about the face: which region moved, where to, how far, and whether that is noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .action_units import REGIONS, SIDES, ellipse_mask, region_ellipse, stable_mask

# Clockwise from "lateral" in steps of 45°. Lateral points away from the midline on both sides.
DIRECTIONS = (
    "laterally",
    "down and laterally",
    "down",
    "down and medially",
    "medially",
    "up and medially",
    "up",
    "up and laterally",
)
NO_DIRECTION = "in no clear direction"


def octants_apart(first: str, second: str) -> int | None:
    """Number of 45° steps between two directions, 0 to 4; `None` if one of them is not clear."""
    if first not in DIRECTIONS or second not in DIRECTIONS:
        return None
    steps = (DIRECTIONS.index(first) - DIRECTIONS.index(second)) % len(DIRECTIONS)
    return min(steps, len(DIRECTIONS) - steps)


def direction_of(u: float, v: float, side: str) -> str:
    """The octant of an image vector on one side of the face.

    Args:
        u (`float`): Horizontal motion, positive to the right of the image.
        v (`float`): Vertical motion, positive downwards.
        side (`str`): left or right; the person's own side.

    Returns:
        `str`: One of `DIRECTIONS`.
    """
    lateral = -u if side == "right" else u
    return DIRECTIONS[round(np.degrees(np.arctan2(v, lateral)) / 45) % 8]


@dataclass(frozen=True)
class RegionMotion:
    """Motion of one region on one side at the apex.

    Args:
        region (`str`): Name of the region.
        side (`str`): left or right; the person's own side.
        magnitude (`float`): Mean motion in percent of the crop width.
        direction (`str`): Direction in words, one of `DIRECTIONS`.
        concentration (`float`): Resultant length |Σv|/Σ|v| of directional statistics (Mardia & Jupp 2000), from 0 to
            1. It is 1 if all cells move alike.
        significant (`bool`): Whether the motion is above the clip's noise.
    """

    region: str
    side: str
    magnitude: float
    direction: str
    concentration: float
    significant: bool


def noise_floor(
    flow: np.ndarray, *, lead_in: np.ndarray | None = None, factor: float = 4.0, minimum: float = 0.12
) -> float:
    """The largest region motion that the clip's noise can produce, in the flow's unit (percent of the crop width).

    This is `factor` times a robust standard deviation: that of the flow in stable parts of the face, or that of region
    motion in neutral frames, whichever is larger. It is at least `minimum`, which remaining compression and head
    motion reach (0.15 pixels of a 128-pixel crop). Both values were set on rendered clips without an expression.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        lead_in (`np.ndarray | None`, *optional*): (L, 2, h, w), the flow of neutral frames before the onset, if there
            are any.
        factor (`float`, *optional*, defaults to `4.0`): Multiple of the standard deviation.
        minimum (`float`, *optional*, defaults to `0.12`): Least value returned, percent of the crop width.
    """
    _, _, height, width = flow.shape
    deviation = 1.4826 * float(np.median(np.abs(flow[:, :, stable_mask(height, width)])))
    if lead_in is not None and len(lead_in):
        masks = [ellipse_mask(region_ellipse(region, side), height, width) for region in REGIONS for side in SIDES]
        means = np.stack([lead_in[:, :, mask].mean(-1) for mask in masks])
        deviation = max(deviation, 1.4826 * float(np.median(np.abs(means))))
    return max(minimum, factor * deviation)


def measure_motion(
    flow: np.ndarray, *, lead_in: np.ndarray | None = None, minimum_concentration: float = 0.5
) -> list[RegionMotion]:
    """Measures the motion of every region at the frame where the face moves most. The strongest comes first.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        lead_in (`np.ndarray | None`, *optional*): (L, 2, h, w), the flow of neutral frames before the onset. Only used
            to measure the clip's noise.
        minimum_concentration (`float`, *optional*, defaults to `0.5`): Least concentration, 0 to 1, of a significant
            motion.

    Raises:
        ValueError: `flow` has another shape, or contains values that are not finite.
    """
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"Flow must have shape (frames, 2, h, w); got {flow.shape}.")
    if not np.isfinite(flow).all():
        raise ValueError("Flow contains NaN or infinite values.")
    _, _, height, width = flow.shape
    floor = noise_floor(flow, lead_in=lead_in)
    motions = []
    for region in REGIONS:
        for side in SIDES:
            vectors = flow[:, :, ellipse_mask(region_ellipse(region, side), height, width)]  # (T, 2, cells)
            means = vectors.mean(-1)
            apex = int(np.argmax(np.hypot(means[:, 0], means[:, 1])))
            u, v = means[apex]
            magnitude = float(np.hypot(u, v))
            concentration = magnitude / max(float(np.hypot(*vectors[apex]).mean()), 1e-6)
            direction = direction_of(u, v, side) if concentration >= minimum_concentration else NO_DIRECTION
            motions.append(RegionMotion(region, side, magnitude, direction, concentration, magnitude > floor))
    return sorted(motions, key=lambda motion: -motion.magnitude)


def format_motion(motions: Sequence[RegionMotion]) -> str:
    """Formats one sentence per line, which `parse_motion` parses. Magnitudes and concentrations have two decimals."""
    return "\n".join(
        f"The {motion.side} {motion.region} moves {motion.direction} by {motion.magnitude:.2f} % of the face's width "
        f"(concentration {motion.concentration:.2f}), {_ABOVE if motion.significant else _WITHIN}."
        for motion in motions
    )


def parse_motion(text: str) -> list[RegionMotion]:
    """Parses the sentences of `format_motion`.

    Raises:
        ValueError: a line is not such a sentence, or names an unknown region, side or direction.
    """
    motions = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _SENTENCE.fullmatch(line)
        if match is None:
            raise ValueError(f"Not a statement about a region's motion: {line!r}.")
        side, region, direction, magnitude, concentration, significance = match.groups()
        motions.append(
            RegionMotion(region, side, float(magnitude), direction, float(concentration), significance == _ABOVE)
        )
    return motions


_ABOVE, _WITHIN = "above the noise of the clip", "within the noise of the clip"
_SENTENCE = re.compile(
    rf"The ({'|'.join(SIDES)}) ({'|'.join(map(re.escape, REGIONS))}) moves "
    rf"({'|'.join(map(re.escape, (*DIRECTIONS, NO_DIRECTION)))}) by ([0-9]+\.[0-9]{{2}}) % of the face's width "
    rf"\(concentration ([0-9]+\.[0-9]{{2}})\), ({_ABOVE}|{_WITHIN})\."
)
