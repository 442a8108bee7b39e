"""From a flow field to statements about the face: which region moved, where to, how far, and whether that is noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .action_units import REGIONS, SIDES, ellipse_mask, region_ellipse, stable_mask

# Clockwise from "lateral", in steps of 45°, in the frame in which lateral points away from the midline on both sides.
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
    """How many 45° steps lie between two directions, 0 to 4; `None` when one of them is not clear."""
    if first not in DIRECTIONS or second not in DIRECTIONS:
        return None
    steps = (DIRECTIONS.index(first) - DIRECTIONS.index(second)) % len(DIRECTIONS)
    return min(steps, len(DIRECTIONS) - steps)


def direction_of(u: float, v: float, side: str) -> str:
    """The direction's octant of a vector in the image, +u right and +v down, on one side of the face."""
    lateral = -u if side == "right" else u
    return DIRECTIONS[round(np.degrees(np.arctan2(v, lateral)) / 45) % 8]


@dataclass(frozen=True)
class RegionMotion:
    """Motion of one region on one side at the apex. `magnitude` is in percent of the crop width; `concentration`, the
    resultant length |Σv|/Σ|v| of directional statistics (Mardia & Jupp 2000), is 1 when all cells move alike."""

    region: str
    side: str
    magnitude: float
    direction: str
    concentration: float
    significant: bool


def noise_floor(
    flow: np.ndarray, *, lead_in: np.ndarray | None = None, factor: float = 4.0, minimum: float = 0.12
) -> float:
    """The region motion that this clip's noise can produce, in the flow's unit (percent of the crop width).

    `factor` robust standard deviations of the flow where a face stands still, or of a region's motion while it still
    stands still, whichever is larger, and never less than `minimum`, which the remains of compression and head motion
    reach: 0.15 pixels of a 128-pixel crop. Both were set on rendered clips in which nothing but the disturbances
    moves.

    Args:
        flow: (T, 2, h, w), head motion removed.
        lead_in: (L, 2, h, w), the same of neutral frames before the onset, if there are any.
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
    """Every region's motion at the frame where the face moves most, strongest first.

    Args:
        flow: (T, 2, h, w) in percent of the crop width, head motion removed.
        lead_in: (L, 2, h, w), the same of neutral frames before the onset; they only tell the clip's noise.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"Flow must have shape (frames, 2, h, w); got {flow.shape}.")
    if not np.isfinite(flow).all():
        raise ValueError("Flow holds NaN or infinite values.")
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
    """One sentence a line, which `parse_motion` reads back; magnitudes to 0.01 % and concentrations to 0.01."""
    return "\n".join(
        f"The {motion.side} {motion.region} moves {motion.direction} by {motion.magnitude:.2f} % of the face's width "
        f"(concentration {motion.concentration:.2f}), {_ABOVE if motion.significant else _WITHIN}."
        for motion in motions
    )


def parse_motion(text: str) -> list[RegionMotion]:
    """The statements of `format_motion`.

    Raises:
        ValueError: a line that is no such sentence, or names an unknown region, side or direction.
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
