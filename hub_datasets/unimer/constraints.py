"""The dual constraint: text may mention an action unit only if the label and the measured motion agree.

Each label gets a score: how well the unit's pattern of motion explains the clip, beside all other units, what the fit
of the head's motion left, and the errors of the flow (`processing/unit_evidence.py`). The score gives the label a
probability and a verdict:

- *supported*: the pattern is in the motion, and at least one region of the unit moves in its direction. At most 5 % of
  the units that a clip does not show would be supported;
- *contradicted*: the face moves against the pattern, and the unit's own region moves in another direction. At most 5 %
  of right labels are contradicted;
- *not visible in motion*: neither;
- *not testable*: flow in the image plane cannot show the unit (a dimple, pressed lips, a turn of the eyes). This says
  nothing against the label.

Motion that no label explains is *unlabelled motion*. If the motion peaks far from the labelled apex, the apex is in
doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import nnls

from deft_llm.processing.action_units import (
    ACTION_UNITS,
    SIDES,
    Motion,
    get_action_unit,
    region_ellipse,
)
from deft_llm.processing.motion_evidence import (
    SIGNIFICANT_AT,
    RegionMotion,
    direction_of,
    octants_apart,
    region_masks,
    standard_errors,
)
from deft_llm.processing.unit_evidence import probability_of_score, unit_scores

SUPPORTED, CONTRADICTED, NOT_VISIBLE = "supported", "contradicted", "not_visible_in_motion"
NOT_TESTABLE = "not_testable"

# Scores. Set on people for the rates that are stated above (`benchmarks/science/real_features.py`), on both halves of
# the subjects with nearly the same result. Rendered clips are far from these limits (`dual_constraint.py`).
_SUPPORTED_AT = 1.35
_CONTRADICTED_AT = -0.5
_WEAKER_SIDE = 0.125  # least score of the weaker side of a unit on both sides, as a share of the stronger side's
_AGREEMENT = {0: 1.0, 1: 0.5}  # by octants between the measured and the expected direction
_REACH = 1.2  # standard deviation of a muscle's pull on the skin, in radii of its region
_LEFT_SHARE = 0.5  # unexplained motion above this share of the strongest motion is unlabelled motion
_LEFT_LIMIT = 1.5  # and it is above the limit of significance by this factor
_APEX_SECONDS = 0.0175  # a labelled apex further than this from the spotted one is in doubt


@dataclass(frozen=True)
class Judgement:
    """The verdict on one label.

    If the verdict is `NOT_TESTABLE`, nothing was compared: agreement and magnitude are 0, region and direction empty.

    Args:
        code (`str`): Action unit, such as `"AU4"`.
        side (`str`): Both, left or right.
        region (`str`): The region of the unit that shows it: the most characteristic one that moves in the expected
            direction, or the most characteristic one if none does.
        verdict (`str`): `SUPPORTED`, `CONTRADICTED`, `NOT_VISIBLE` or `NOT_TESTABLE`.
        agreement (`float`): 1 for the expected octant of that region, 0.5 for its neighbours, 0 otherwise, averaged
            over the sides.
        magnitude (`float`, *optional*, defaults to `0.0`): Motion of that region in percent of the crop width,
            averaged over the sides.
        direction (`str`, *optional*, defaults to `""`): Direction of the strongest side that agrees.
        probability (`float`, *optional*): Probability that the clip shows the unit, given its motion; `None` if the
            unit is not testable.
    """

    code: str
    side: str
    region: str
    verdict: str
    agreement: float
    magnitude: float = 0.0
    direction: str = ""
    probability: float | None = None


def judge_labels(
    labels: Sequence[tuple[str, str]],
    flow: np.ndarray,
    motions: Sequence[RegionMotion],
    *,
    deviation: np.ndarray | None = None,
) -> list[Judgement]:
    """Judges all labels of a clip by its motion.

    Args:
        labels (`Sequence[tuple[str, str]]`): (code, side) pairs, where side is both, left or right.
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        motions (`Sequence[RegionMotion]`): Region motions from `measure_motion(flow)`.
        deviation (`np.ndarray | None`, *optional*): (T, h, w), standard deviation of the flow's errors per axis,
            percent of the crop width, if it is known.

    Returns:
        One `Judgement` per label, in the same order.

    Raises:
        ValueError: an action unit or side is unknown.
    """
    units = [get_action_unit(code) for code, _ in labels]
    for _, side in labels:
        if side not in ("both", *SIDES):
            raise ValueError(f"Unknown side {side!r}; it must be both, {' or '.join(SIDES)}.")
    tested = tuple(dict.fromkeys(unit.code for unit in units if unit.testable and unit.motions))
    # A label makes its unit probable, so the strongest unit does not get all motion that both may have caused.
    scores = unit_scores(flow, tested, deviation=deviation, after_strongest=False)
    judgements = []
    for (code, side), unit in zip(labels, units, strict=True):
        if unit.code not in scores:
            judgements.append(Judgement(code, side, "", NOT_TESTABLE, 0.0))
            continue
        own = scores[unit.code]
        region, agreement, magnitude, direction = _most_telling(unit.motions, side, motions)
        weaker, stronger = sorted((own["left"], own["right"]))
        if own[side] <= _CONTRADICTED_AT and not agreement and _moves(unit.motions[0].region, side, motions):
            verdict = CONTRADICTED
        elif own[side] < _SUPPORTED_AT or not agreement or (side == "both" and weaker < _WEAKER_SIDE * stronger):
            verdict = NOT_VISIBLE
        else:
            verdict = SUPPORTED
        probability = probability_of_score(unit.code, own[side])
        judgements.append(Judgement(code, side, region, verdict, agreement, magnitude, direction, probability))
    return judgements


def _moves(region: str, side: str, motions: Sequence[RegionMotion]) -> bool:
    return any(item.significant and item.region == region and side in ("both", item.side) for item in motions)


def _most_telling(
    expected: Sequence[Motion], side: str, motions: Sequence[RegionMotion]
) -> tuple[str, float, float, str]:
    """Region, agreement, magnitude and direction of the region that shows a unit.

    It is the first that agrees on every side, or else the first that agrees on some side (see `Judgement`).
    """
    sides = SIDES if side == "both" else (side,)
    best = (expected[0].region, 0.0, 0.0, "")
    for motion in expected:
        items = [
            item for item in motions if item.region == motion.region and item.side in sides and item.magnitude > 0
        ]
        apart = [octants_apart(item.direction, motion.phrase) for item in items]
        agreeing = [item for item, steps in zip(items, apart, strict=True) if steps in _AGREEMENT]
        if not agreeing or (best[1] and len(agreeing) < len(sides)):
            continue
        strongest = max(agreeing, key=lambda item: item.magnitude)
        agreement = sum(_AGREEMENT.get(steps, 0.0) for steps in apart) / len(sides)
        magnitude = sum(item.magnitude for item in items) / len(sides)
        best = (motion.region, agreement, magnitude, strongest.direction)
        if len(agreeing) == len(sides):
            break
    return best


def unlabelled_motion(
    labels: Sequence[tuple[str, str]],
    flow: np.ndarray,
    *,
    lead_in: np.ndarray | None = None,
    deviation: np.ndarray | None = None,
) -> list[RegionMotion]:
    """Region motions that no label explains: above the noise, and at least half as strong as the strongest motion.

    Args:
        labels (`Sequence[tuple[str, str]]`): (code, side) pairs as in `judge_labels`. Labels that are not testable
            explain nothing.
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        lead_in (`np.ndarray | None`, *optional*): As in `standard_errors`.
        deviation (`np.ndarray | None`, *optional*): As in `standard_errors`.
    """
    strongest = _strongest_field(flow)
    keys, pulls = _pulls(*strongest.shape[1:])
    named = {(code, one) for code, side in labels for one in (SIDES if side == "both" else (side,))}
    rows = [row for row, key in enumerate(keys) if key in named]
    rest = strongest.ravel()
    if rows:
        rest = rest - nnls(pulls[rows].T, rest)[0] @ pulls[rows]
    rest = rest.reshape(strongest.shape)
    masks = region_masks(*strongest.shape[1:])
    peak = max(float(np.hypot(*strongest[:, mask].mean(1))) for mask in masks.values())
    errors = standard_errors(np.asarray(flow, np.float64), lead_in=lead_in, deviation=deviation)
    found = []
    for (region, side), mask in masks.items():
        u, v = rest[:, mask].mean(1)
        magnitude = float(np.hypot(u, v))
        error = errors[region, side]
        if magnitude > max(_LEFT_LIMIT * SIGNIFICANT_AT * error, _LEFT_SHARE * peak):
            concentration = magnitude / float(np.hypot(*rest[:, mask]).mean())
            found.append(RegionMotion(region, side, magnitude, direction_of(u, v, side), concentration, True, error))
    return sorted(found, key=lambda motion: -motion.magnitude)


def apex_in_doubt(labelled: int, spotted: int, fps: float) -> bool:
    """Whether the spotted apex is too far from the labelled one for the label to be right.

    Args:
        labelled: Frame number of the labelled apex.
        spotted: Frame number of the spotted apex.
        fps: Frames per second.
    """
    return abs(labelled - spotted) / fps > _APEX_SECONDS


def _strongest_field(flow: np.ndarray) -> np.ndarray:
    """(2, h, w) float64: the flow of the frame in which some region moves most."""
    flow = np.asarray(flow, np.float64)
    means = [np.hypot(*flow[:, :, mask].mean(-1).T) for mask in region_masks(*flow.shape[2:]).values()]
    return flow[int(np.argmax(np.max(means, axis=0)))]


@lru_cache(maxsize=4)
def _pulls(height: int, width: int) -> tuple[list[tuple[str, str]], np.ndarray]:
    """(code, side) of each half of the testable units, and the fields they pull, (K, 2 · h · w)."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = (x + 0.5) / width, (y + 0.5) / height
    keys, pulls = [], []
    for unit in ACTION_UNITS.values():
        if not unit.testable or not unit.motions:
            continue
        for side in SIDES:
            field = np.zeros((2, height, width))
            for motion in unit.motions:
                cx, cy, rx, ry = region_ellipse(motion.region, side)
                bump = np.exp(-0.5 * (((x - cx) / (_REACH * rx)) ** 2 + ((y - cy) / (_REACH * ry)) ** 2))
                field += motion.vector(side)[:, None, None] * bump
            keys.append((unit.code, side))
            pulls.append(field.ravel())
    return keys, np.array(pulls)
