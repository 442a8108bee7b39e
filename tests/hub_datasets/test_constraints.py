import pytest

from deft_llm.hub_datasets.constraints import CONTRADICTED, NOT_VISIBLE, SUPPORTED, judge_action_unit
from deft_llm.processing.action_units import REGIONS, SIDES
from deft_llm.processing.motion_evidence import NO_DIRECTION, RegionMotion


def motions(**moving):
    """All regions still, except those named: inner_brow_left=(direction, magnitude)."""
    result = []
    for region in REGIONS:
        for side in SIDES:
            direction, magnitude = moving.get(f"{region.replace(' ', '_')}_{side}", ("up", 0.0))
            result.append(RegionMotion(region, side, magnitude, direction, 1.0, magnitude > 0.2))
    return result


@pytest.mark.parametrize(
    ("side", "moving", "verdict", "agreement"),
    [
        ("both", {"inner_brow_left": ("up", 1.0), "inner_brow_right": ("up", 0.6)}, SUPPORTED, 1.0),
        ("both", {"inner_brow_left": ("up", 1.0), "inner_brow_right": ("up and medially", 0.6)}, SUPPORTED, 0.75),
        ("both", {"inner_brow_left": ("up", 1.0)}, NOT_VISIBLE, 0.5),
        ("both", {}, NOT_VISIBLE, 0.0),
        ("both", {"inner_brow_left": ("down", 1.0), "inner_brow_right": ("up", 1.0)}, CONTRADICTED, 0.5),
        ("left", {"inner_brow_left": ("up", 1.0)}, SUPPORTED, 1.0),
        ("right", {"inner_brow_left": ("up", 1.0)}, NOT_VISIBLE, 0.0),
        ("left", {"inner_brow_left": (NO_DIRECTION, 1.0)}, NOT_VISIBLE, 0.0),
    ],
)
def test_verdicts(side, moving, verdict, agreement):
    judgement = judge_action_unit("AU1", side, motions(**moving))
    assert (judgement.verdict, judgement.agreement) == (verdict, agreement)


def test_the_evidence_is_what_was_measured():
    judgement = judge_action_unit(
        "AU1", "both", motions(inner_brow_left=("up", 1.0), inner_brow_right=("up and medially", 0.6))
    )
    assert judgement.direction == "up"
    assert judgement.magnitude == pytest.approx(0.8)


def test_unknown_units_are_named():
    with pytest.raises(ValueError, match="AU99"):
        judge_action_unit("AU99", "both", motions())
