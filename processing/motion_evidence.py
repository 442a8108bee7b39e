"""Turns flow into statements about the face: which region moved, where to, how far, and whether that is noise.

Each region's motion has its own standard error. A motion is significant if errors alone would reach it somewhere on
the face in at most `FALSE_ALARMS` of the clips.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from .key_frames import apex_position
from .unit_patterns import GRID, error_growth, middle_of_face, on_grid, remainder_operators

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

FALSE_ALARMS = 0.05  # share of clips without motion in which any region may be significant
# With errors alone, the length of a motion exceeds x standard errors (per axis) with probability exp(-x² / 2). The
# strongest of a clip's frames is taken; as errors of neighbouring frames are alike, they count as two.
SIGNIFICANT_AT = float(np.sqrt(2 * np.log(2 * len(REGIONS) * len(SIDES) / FALSE_ALARMS)))
_SEEN_QUANTILE = 1.2816  # of the normal distribution, for 90 %
# The part of a true motion near the detection limit that is measured in each region, because estimators shrink weak
# motion. They are medians of units planted into half of the files of a set of recordings and into their photographs
# (real_recordings.py, part `limits`).
RESPONSE = {
    "inner brow": 0.95,
    "outer brow": 1.02,
    "upper lid": 0.93,
    "lower lid": 0.77,
    "nose root": 0.77,
    "nose wing": 0.87,
    "cheek": 0.90,
    "nasolabial fold": 0.81,
    "upper lip": 0.86,
    "mouth corner": 0.98,
    "lower lip": 0.92,
    "chin": 0.97,
}
# Percent of the crop width. Compression and the fit of the head's motion leave at least this on rendered still clips.
_LEAST_ERROR = 0.04
# Of what neither units nor head explain. Set on recordings of people: with none of it, still faces seem to move; with
# all of it, most weak motion is missed.
_UNEXPLAINED_SHARE = 0.5
_COURSES = (0.5, 1.0, 2.0)  # powers of a raised cosine: courses that rise and fall faster or slower
FRAMES_FOR_COURSE = 6  # fewer frames do not tell a course from noise


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
    """Motion of one region on one side at the frame where it moves most.

    Args:
        region (`str`): Name of the region.
        side (`str`): left or right; the person's own side.
        magnitude (`float`): Mean motion in percent of the crop width.
        direction (`str`): Direction in words, one of `DIRECTIONS`.
        concentration (`float`): Resultant length |Σv|/Σ|v| of directional statistics (Mardia & Jupp 2000), from 0 to
            1. It is 1 if all cells move alike.
        significant (`bool`): Whether the motion is above the clip's noise.
        standard_error (`float`): Of the motion along each axis, in percent of the crop width; 0 if it is not known, as
            in older data.
    """

    region: str
    side: str
    magnitude: float
    direction: str
    concentration: float
    significant: bool
    standard_error: float = 0.0

    @property
    def detection_limit(self) -> float | None:
        """The smallest true motion that would be significant here in at least 90 % of clips like this one.

        In percent of the crop width; `None` if the standard error is not known. See `motion_seen_at` and `RESPONSE`.
        """
        if not self.standard_error:
            return None
        return motion_seen_at(_SEEN_QUANTILE, self.standard_error) / RESPONSE[self.region]

    @property
    def overlooked_limit(self) -> float | None:
        """The largest true motion that would be significant here in at most 10 % of clips like this one.

        In percent of the crop width; `None` if the standard error is not known. See `motion_seen_at`. The motion is
        assumed to be measured in full, so that the limit holds where the estimator does not shrink it.
        """
        return motion_seen_at(-_SEEN_QUANTILE, self.standard_error) if self.standard_error else None


def motion_seen_at(quantile: float, standard_error: float) -> float:
    """The motion that is significant as often as the normal distribution lies below a quantile.

    The measured motion is the true one with a normally distributed error along each axis, so its length follows the
    Rice distribution. That is nearly normal, around the true motion m plus (error across the motion)² / 2m. The result
    is solved for m. Against the exact distribution, the motion that is seen in 90 % is 0.3 % too large and that in
    10 % is 2.3 % too small, so both are on the safe side.

    Args:
        quantile (`float`): For example 1.28 for 90 %, and -1.28 for 10 %.
        standard_error (`float`): Of the motion along each axis.
    """
    length = SIGNIFICANT_AT + quantile
    return standard_error * (length + float(np.sqrt(length**2 - 2))) / 2


OVERLOOKED_PART = min(RESPONSE.values()) * motion_seen_at(-_SEEN_QUANTILE, 1.0) / motion_seen_at(_SEEN_QUANTILE, 1.0)
"""`overlooked_limit` as a part of `detection_limit`, in the region in which it is smallest."""


def standard_errors(
    flow: np.ndarray, *, lead_in: np.ndarray | None = None, deviation: np.ndarray | None = None
) -> dict[tuple[str, str], float]:
    """The standard error of each region's motion, per axis, in percent of the crop width.

    The error is estimated from the flow itself:

    - what neither units nor a motion of the head explain, over the whole face;
    - how far the region's motion over time is from a smooth rise and fall;
    - what may still be motion of the head in this region.

    With `deviation`, the root mean square of the deviations in the region is the main part. It includes what may be
    left of the head's motion. Errors within a region are alike, so averaging does not reduce them. A part of the other
    two errors is added, because estimators do not know what shadows, hair and compression do on people. Motion in
    neutral frames counts in both cases.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        lead_in (`np.ndarray | None`, *optional*): (L, 2, h, w), the flow of neutral frames before the onset.
        deviation (`np.ndarray | None`, *optional*): (T, h, w), standard deviation of the flow's errors per axis,
            percent of the crop width, as the flow estimator and the fit of the head's motion report it.

    Returns:
        (region, side) -> standard error.
    """
    count, _, height, width = flow.shape
    spread = flow_noise(flow)
    head = _head_left(flow) if deviation is None else None
    off_course = _off_course(count)
    errors = {}
    for key, mask in region_masks(height, width).items():
        coarse = region_masks(GRID, GRID)[key]
        unexplained = spread * float(error_growth()[coarse].mean())
        if off_course is not None:
            unexplained = max(unexplained, _root_mean_square(off_course @ flow[:, :, mask].mean(-1)))
        neutral = 0.0 if lead_in is None or not len(lead_in) else _root_mean_square(lead_in[:, :, mask].mean(-1))
        if deviation is None:
            left = _root_mean_square(head[:, :, coarse].mean(-1))
            errors[key] = float(np.sqrt(_LEAST_ERROR**2 + max(unexplained, neutral) ** 2 + left**2))
        else:
            stated = max(_root_mean_square(deviation[:, mask]), neutral)
            errors[key] = float(np.sqrt(_LEAST_ERROR**2 + stated**2 + (_UNEXPLAINED_SHARE * unexplained) ** 2))
    return errors


@lru_cache(maxsize=8)
def region_masks(height: int, width: int) -> dict[tuple[str, str], np.ndarray]:
    """(region, side) -> boolean mask (height, width) of every region of the atlas."""
    return {
        (region, side): ellipse_mask(region_ellipse(region, side), height, width)
        for region in REGIONS
        for side in SIDES
    }


def flow_noise(flow: np.ndarray) -> float:
    """The standard deviation of the flow's errors within the face, per axis, in the flow's unit.

    It is estimated from what neither action units nor a motion of the head explain.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), head motion removed.
    """
    errors_of, _, factor = remainder_operators()
    errors = (on_grid(flow) @ errors_of.T).reshape(-1, 2, GRID, GRID) / error_growth()
    return 1.4826 * factor * float(np.median(np.abs(errors[:, :, middle_of_face()])))


def _head_left(flow: np.ndarray) -> np.ndarray:
    """The head's motion that may be left in the flow, (T, 2, GRID, GRID)."""
    return (on_grid(flow) @ remainder_operators()[1].T).reshape(-1, 2, GRID, GRID)


@lru_cache(maxsize=16)
def _off_course(count: int) -> np.ndarray | None:
    """Projects a course of `count` frames on what is not a smooth rise and fall; keeps the standard deviation of
    white noise. `None` if there are too few frames."""
    if count < FRAMES_FOR_COURSE:
        return None
    apex = apex_position(count + 1)
    ramp = np.interp(np.arange(1, count + 1), [0, apex, count], [0.0, 1.0, 0.0])
    cosine = 0.5 - 0.5 * np.cos(np.pi * ramp)
    rising = np.where(np.arange(1, count + 1) <= apex, cosine, 1.0)  # expressions that outlast the offset
    courses = np.stack([*(cosine**power for power in _COURSES), rising], 1)
    basis = np.linalg.qr(courses)[0]
    rest = np.eye(count) - basis @ basis.T
    return rest * np.sqrt(count / np.trace(rest))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def region_courses(flow: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(region, side) -> (T, 2): the mean motion of every region of the atlas, in the flow's unit.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), +x right, +y down.
    """
    masks = region_masks(*flow.shape[2:])
    return {key: flow[:, :, mask].mean(-1) for key, mask in masks.items()}


def measure_motion(
    flow: np.ndarray,
    *,
    lead_in: np.ndarray | None = None,
    deviation: np.ndarray | None = None,
    minimum_concentration: float = 0.5,
) -> list[RegionMotion]:
    """Measures the motion of every region at the frame where it moves most. The strongest comes first.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        lead_in (`np.ndarray | None`, *optional*): As in `standard_errors`.
        deviation (`np.ndarray | None`, *optional*): As in `standard_errors`.
        minimum_concentration (`float`, *optional*, defaults to `0.5`): Least concentration, 0 to 1, of a motion with
            a direction.

    Raises:
        ValueError: `flow` or `deviation` has another shape, or `flow` contains values that are not finite.
    """
    flow = np.asarray(flow, np.float32)
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"Flow must have shape (frames, 2, h, w); got {flow.shape}.")
    if not np.isfinite(flow).all():
        raise ValueError("Flow contains NaN or infinite values.")
    count, _, height, width = flow.shape
    if deviation is not None and np.shape(deviation) != (count, height, width):
        raise ValueError(f"The deviation must have shape {(count, height, width)}; got {np.shape(deviation)}.")
    errors = standard_errors(flow, lead_in=lead_in, deviation=deviation)
    motions = []
    for (region, side), course in region_courses(flow).items():
        error = errors[region, side]
        apex = int(np.argmax(np.hypot(course[:, 0], course[:, 1])))
        u, v = course[apex]
        magnitude = float(np.hypot(u, v))
        vectors = flow[apex][:, region_masks(height, width)[region, side]]  # (2, cells)
        concentration = magnitude / max(float(np.hypot(*vectors).mean()), 1e-6)
        direction = direction_of(u, v, side) if concentration >= minimum_concentration else NO_DIRECTION
        significant = magnitude > SIGNIFICANT_AT * error
        motions.append(RegionMotion(region, side, magnitude, direction, concentration, significant, error))
    return sorted(motions, key=lambda motion: -motion.magnitude)


def detection_limits(motions: Sequence[RegionMotion]) -> dict[str, float]:
    """Region -> the motion that would have been seen there, in percent of the crop width; the lowest limit first.

    It is the detection limit of the worse side, so it holds for both sides. Regions whose standard error is not known
    are left out.

    Args:
        motions (`Sequence[RegionMotion]`): Of one clip, from `measure_motion`.
    """
    limits: dict[str, float] = {}
    for motion in motions:
        if motion.detection_limit is not None:
            limits[motion.region] = max(limits.get(motion.region, 0.0), round(motion.detection_limit, 3))
    return dict(sorted(limits.items(), key=lambda item: item[1]))


def format_motion(motions: Sequence[RegionMotion]) -> str:
    """Formats one sentence per line, which `parse_motion` parses. Numbers have two decimals; so has the standard
    error, which is left out if it is not known."""
    return "\n".join(map(_sentence, motions))


def _sentence(motion: RegionMotion) -> str:
    error = f"± {motion.standard_error:.2f} " if motion.standard_error else ""
    return (
        f"The {motion.side} {motion.region} moves {motion.direction} by {motion.magnitude:.2f} {error}% of the face's "
        f"width (concentration {motion.concentration:.2f}), {_ABOVE if motion.significant else _WITHIN}."
    )


def parse_motion(text: str) -> list[RegionMotion]:
    """Parses the sentences of `format_motion`, with or without a standard error.

    Raises:
        ValueError: a line is not such a sentence, or names an unknown region, side or direction.
    """
    motions = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _SENTENCE.fullmatch(line)
        if match is None:
            raise ValueError(f"Not a statement about a region's motion: {line!r}.")
        side, region, direction, magnitude, error, concentration, significance = match.groups()
        significant = significance == _ABOVE
        motions.append(
            RegionMotion(
                region, side, float(magnitude), direction, float(concentration), significant, float(error or 0)
            )
        )
    return motions


_ABOVE, _WITHIN = "above the noise of the clip", "within the noise of the clip"
_SENTENCE = re.compile(
    rf"The ({'|'.join(SIDES)}) ({'|'.join(map(re.escape, REGIONS))}) moves "
    rf"({'|'.join(map(re.escape, (*DIRECTIONS, NO_DIRECTION)))}) by ([0-9]+\.[0-9]{{2}}) (?:± ([0-9]+\.[0-9]{{2}}) )?"
    rf"% of the face's width "
    rf"\(concentration ([0-9]+\.[0-9]{{2}})\), ({_ABOVE}|{_WITHIN})\."
)
