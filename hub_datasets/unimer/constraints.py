"""The dual constraint: text may mention an action unit only if the label and the measured motion agree.

Each label gets a verdict:

- *supported*: the unit's own region moves above the clip's noise, within one octant of the direction in which its
  muscle pulls, and this motion is not explained by another unit;
- *contradicted*: the region moves in another direction;
- *not visible in motion*: the region does not move enough, or only follows another moving region;
- *not testable*: flow in the image plane cannot show the unit (a dimple, pressed lips, a turn of the eyes). This says
  nothing against the label.

Motion that no label explains is *unlabelled motion*. If the motion peaks far from the labelled apex, the apex is in
doubt.

The thresholds were set on rendered clips (`benchmarks/science/dual_constraint.py`, with other seeds than it reports).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import nnls

from deft_llm.processing.action_units import (
    ACTION_UNITS,
    REGIONS,
    SIDES,
    ellipse_mask,
    get_action_unit,
    region_ellipse,
)
from deft_llm.processing.motion_evidence import RegionMotion, direction_of, noise_floor, octants_apart

SUPPORTED, CONTRADICTED, NOT_VISIBLE = "supported", "contradicted", "not_visible_in_motion"
NOT_TESTABLE = "not_testable"

_REACH = 1.2  # standard deviation of a muscle's pull on the skin, in radii of its region
_OWN_SHARE = 0.4  # least share of a region's motion that must be due to the unit itself
_LEFT_SHARE = 0.5  # unexplained motion above this share of the strongest motion is unlabelled motion
_APEX_SECONDS = 0.0175  # a labelled apex further than this from the spotted one is in doubt


@dataclass(frozen=True)
class Judgement:
    """The verdict on one label.

    If the verdict is `NOT_TESTABLE`, nothing was compared: agreement and magnitude are 0, region and direction empty.

    Args:
        code (`str`): Action unit, such as `"AU4"`.
        side (`str`): Both, left or right.
        region (`str`): The region that was compared.
        verdict (`str`): `SUPPORTED`, `CONTRADICTED`, `NOT_VISIBLE` or `NOT_TESTABLE`.
        agreement (`float`): 1 for the expected octant, 0.5 for its neighbours, 0 otherwise, averaged over the sides.
        magnitude (`float`, *optional*, defaults to `0.0`): Motion of the strongest supporting side in percent of the
            crop width.
        direction (`str`, *optional*, defaults to `""`): Direction of the strongest supporting side.
    """

    code: str
    side: str
    region: str
    verdict: str
    agreement: float
    magnitude: float = 0.0
    direction: str = ""


def judge_action_unit(code: str, side: str, motions: Sequence[RegionMotion]) -> Judgement:
    """Compares one label with the clip's motion.

    Args:
        code (`str`): Action unit, such as `"AU4"`.
        side (`str`): Both, left or right; `both` needs motion on both sides.
        motions (`Sequence[RegionMotion]`): Region motions from `measure_motion`.

    Raises:
        ValueError: the action unit is unknown.
    """
    unit = get_action_unit(code)
    if not unit.testable or not unit.motions:
        return Judgement(code, side, "", NOT_TESTABLE, 0.0)
    expected = unit.motions[0]
    measured = {item.side: item for item in motions if item.region == expected.region}
    sides = SIDES if side == "both" else (side,)
    scores, moving = [], []
    for one in sides:
        item = measured[one]
        apart = octants_apart(item.direction, expected.phrase)
        if not item.significant or apart is None:
            scores.append(None)
        else:
            scores.append({0: 1.0, 1: 0.5}.get(apart, 0.0))
            moving.append(item)
    agreement = sum(score or 0.0 for score in scores) / len(scores)
    if any(score == 0 for score in scores):
        verdict = CONTRADICTED
    elif None in scores:
        verdict = NOT_VISIBLE
    else:
        verdict = SUPPORTED
    strongest = max(moving, key=lambda item: item.magnitude, default=None)
    magnitude = sum(item.magnitude for item in moving) / max(len(moving), 1)
    return Judgement(
        code, side, expected.region, verdict, agreement, magnitude, strongest.direction if strongest else ""
    )


def judge_labels(
    labels: Sequence[tuple[str, str]], flow: np.ndarray, motions: Sequence[RegionMotion]
) -> list[Judgement]:
    """Applies `judge_action_unit` to all labels of a clip, and checks whether a region's motion is its own.

    The flow at its strongest frame is explained by the pulls of all testable units at once (non-negative least
    squares). Other units that pull the label's own region are left out, because they cannot be distinguished from it.
    If the explanation hardly uses a supported label, its region only follows another one, and the verdict becomes
    `NOT_VISIBLE`.

    Args:
        labels (`Sequence[tuple[str, str]]`): (code, side) pairs, where side is both, left or right.
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        motions (`Sequence[RegionMotion]`): Region motions from `measure_motion(flow)`.

    Returns:
        One `Judgement` per label, in the same order.

    Raises:
        ValueError: an action unit or side is unknown.
    """
    strongest = _strongest_field(flow)
    judgements = []
    for code, side in labels:
        judgement = judge_action_unit(code, side, motions)
        sides = SIDES if side == "both" else (side,)
        if judgement.verdict == SUPPORTED and not all(_is_its_own(code, one, strongest) for one in sides):
            judgement = replace(judgement, verdict=NOT_VISIBLE, agreement=0.0)
        judgements.append(judgement)
    return judgements


def unlabelled_motion(labels: Sequence[tuple[str, str]], flow: np.ndarray) -> list[RegionMotion]:
    """Region motions that no label explains: above the noise, and at least half as strong as the strongest motion.

    Args:
        labels (`Sequence[tuple[str, str]]`): (code, side) pairs as in `judge_labels`. Labels that are not testable
            explain nothing.
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
    """
    strongest = _strongest_field(flow)
    keys, pulls, _ = _pulls(*strongest.shape[1:])
    named = {(code, one) for code, side in labels for one in (SIDES if side == "both" else (side,))}
    rows = [row for row, key in enumerate(keys) if key in named]
    rest = strongest.ravel()
    if rows:
        rest = rest - nnls(pulls[rows].T, rest)[0] @ pulls[rows]
    rest = rest.reshape(strongest.shape)
    masks = _region_masks(*strongest.shape[1:])
    peak = max(float(np.hypot(*strongest[:, mask].mean(1))) for mask in masks.values())
    least = max(2 * noise_floor(flow), _LEFT_SHARE * peak)
    found = []
    for (region, side), mask in masks.items():
        u, v = rest[:, mask].mean(1)
        magnitude = float(np.hypot(u, v))
        if magnitude > least:
            concentration = magnitude / float(np.hypot(*rest[:, mask]).mean())
            found.append(RegionMotion(region, side, magnitude, direction_of(u, v, side), concentration, True))
    return sorted(found, key=lambda motion: -motion.magnitude)


def apex_in_doubt(labelled: int, spotted: int, fps: float) -> bool:
    """Whether the spotted apex is too far from the labelled one for the label to be right.

    Args:
        labelled: Frame number of the labelled apex.
        spotted: Frame number of the spotted apex.
        fps: Frames per second.
    """
    return abs(labelled - spotted) / fps > _APEX_SECONDS


def _is_its_own(code: str, side: str, field: np.ndarray) -> bool:
    keys, pulls, regions = _pulls(*field.shape[1:])
    row = keys.index((code, side))
    own = get_action_unit(code).motions[0].region
    # Units that pull the same region cannot be distinguished, so the label is accepted.
    others = [i for i, (_, other) in enumerate(keys) if i != row and not (own in regions[i] and other == side)]
    target = field.ravel()
    with_it = nnls(pulls[[*others, row]].T, target)[0]
    inside = np.tile(_region_masks(*field.shape[1:])[own, side].ravel(), 2)
    share = np.linalg.norm(with_it[-1] * pulls[row][inside]) / max(np.linalg.norm(target[inside]), 1e-9)
    return share >= _OWN_SHARE


def _strongest_field(flow: np.ndarray) -> np.ndarray:
    """(2, h, w) float64: the flow of the frame in which some region moves most."""
    flow = np.asarray(flow, np.float64)
    means = [np.hypot(*flow[:, :, mask].mean(-1).T) for mask in _region_masks(*flow.shape[2:]).values()]
    return flow[int(np.argmax(np.max(means, axis=0)))]


@lru_cache(maxsize=4)
def _region_masks(height: int, width: int) -> dict[tuple[str, str], np.ndarray]:
    return {
        (region, side): ellipse_mask(region_ellipse(region, side), height, width)
        for region in REGIONS
        for side in SIDES
    }


@lru_cache(maxsize=4)
def _pulls(height: int, width: int) -> tuple[list[tuple[str, str]], np.ndarray, list[set[str]]]:
    """(code, side) of each half of the testable units, the fields they pull, (K, 2 · h · w), the regions they name."""
    y, x = np.mgrid[0:height, 0:width]
    x, y = (x + 0.5) / width, (y + 0.5) / height
    keys, pulls, regions = [], [], []
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
            regions.append({motion.region for motion in unit.motions})
    return keys, np.array(pulls), regions
