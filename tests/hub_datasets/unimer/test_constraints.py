import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.unimer.constraints import (
    CONTRADICTED,
    NOT_TESTABLE,
    NOT_VISIBLE,
    SUPPORTED,
    apex_in_doubt,
    judge_action_unit,
    judge_labels,
    unlabelled_motion,
)
from deft_llm.processing.motion_evidence import NO_DIRECTION, measure_motion
from tests.hub_datasets.unimer.written_sentences import measured


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
    judgement = judge_action_unit("AU1", side, measured(**moving))
    assert (judgement.verdict, judgement.agreement) == (verdict, agreement)


def test_the_evidence_is_what_was_measured():
    judgement = judge_action_unit(
        "AU1", "both", measured(inner_brow_left=("up", 1.0), inner_brow_right=("up and medially", 0.6))
    )
    assert judgement.direction == "up"
    assert judgement.magnitude == pytest.approx(0.8)


def test_unknown_units_are_named():
    with pytest.raises(ValueError, match="AU99"):
        judge_action_unit("AU99", "both", measured())


@pytest.fixture(scope="module")
def true_motion(face):
    """The exact flow of a face that shows some units, (1, 2, 32, 32) in percent of the crop's width."""

    def build(*units):
        shown = Expression(tuple(UnitRequest(code, side, 0.012) for code, side in units), onset=1, apex=6, offset=10)
        clip = render_clip(face, [shown], np.random.default_rng(0), count=12, disturbances=Disturbances())
        return 100 * clip.flow(1, 6, expression_only=True, grid=32)[None]

    return build


def verdicts(labels, flow):
    return [item.verdict for item in judge_labels(labels, flow, measure_motion(flow))]


def test_what_is_shown_is_supported_and_explains_everything(true_motion):
    for shown in ([("AU1", "both"), ("AU2", "both")], [("AU6", "both"), ("AU12", "left")], [("AU9", "both")]):
        flow = true_motion(*shown)
        assert set(verdicts(shown, flow)) == {SUPPORTED}
        assert unlabelled_motion(shown, flow) == []


def test_a_region_that_only_goes_along_does_not_support_its_unit(true_motion):
    """A pulled lip corner drags the nasolabial fold along; that is no AU9."""
    flow = true_motion(("AU12", "both"))
    cheeks = [item for item in measure_motion(flow) if item.region == "nasolabial fold"]
    assert all(item.significant for item in cheeks)
    assert verdicts([("AU12", "both"), ("AU9", "both")], flow) == [SUPPORTED, NOT_VISIBLE]


def test_the_wrong_side_is_not_supported_and_the_right_one_is_missed(true_motion):
    flow = true_motion(("AU12", "left"))
    assert verdicts([("AU12", "right")], flow) == [NOT_VISIBLE]
    found = unlabelled_motion([("AU12", "right")], flow)
    assert found[0].side == "left"
    assert found[0].direction == "up and laterally"


def test_motion_without_a_label_is_found_where_it_is(true_motion):
    flow = true_motion(("AU4", "both"), ("AU17", "both"))
    found = unlabelled_motion([("AU4", "both")], flow)
    assert {(item.region, item.side) for item in found} >= {("chin", "left"), ("chin", "right")}
    assert not {"inner brow", "outer brow"} & {item.region for item in found}
    assert {item.direction for item in found if item.region == "chin"} == {"up"}


def test_still_faces_and_untestable_labels(true_motion):
    still = np.zeros((1, 2, 32, 32))
    assert verdicts([("AU4", "both"), ("AU14", "both")], still) == [NOT_VISIBLE, NOT_TESTABLE]
    assert unlabelled_motion([("AU14", "both")], still) == []


def test_an_apex_is_in_doubt_by_time_and_not_by_frames():
    assert apex_in_doubt(20, 25, 200.0)
    assert not apex_in_doubt(20, 23, 200.0)
    assert apex_in_doubt(20, 22, 100.0)
    assert not apex_in_doubt(20, 20, 30.0)
