"""The dual constraint: an action unit may be written about only where the measured motion shows it.

The label says which muscle, the flow says what moved. A label is *supported* when the unit's own region moves, above
the clip's noise, within one octant of the direction its muscle pulls; *contradicted* when it moves another way; and
*not visible in motion* when it does not move enough to tell. What flow in the image plane cannot speak about at all
(a dimple, pressed lips, a turn of the eyes) is *not testable*, which is no objection to the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deft_llm.processing.action_units import SIDES, get_action_unit
from deft_llm.processing.motion_evidence import RegionMotion, octants_apart

SUPPORTED, CONTRADICTED, NOT_VISIBLE = "supported", "contradicted", "not_visible_in_motion"
NOT_TESTABLE = "not_testable"


@dataclass(frozen=True)
class Judgement:
    """`agreement` is 1 for the expected octant, 0.5 for its neighbours, 0 otherwise, averaged over the sides;
    `magnitude` in percent of the crop width and `direction` are the strongest supporting side's. Where the verdict is
    `NOT_TESTABLE` nothing was compared: agreement and magnitude are 0, `region` and `direction` empty."""

    code: str
    side: str
    region: str
    verdict: str
    agreement: float
    magnitude: float = 0.0
    direction: str = ""


def judge_action_unit(code: str, side: str, motions: Sequence[RegionMotion]) -> Judgement:
    """Holds one label against the clip's motion.

    Args:
        code: such as `"AU4"`. side: both, left or right; `both` needs both sides.
        motions: from `measure_motion`.

    Raises:
        ValueError: unknown action unit.
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
