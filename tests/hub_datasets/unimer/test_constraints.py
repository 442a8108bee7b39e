import numpy as np
import pytest

from benchmarks.science.real_features import area_under_curve, data_folder, read_clips, verdict_rates
from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.unimer.constraints import (
    CONTRADICTED,
    NOT_TESTABLE,
    NOT_VISIBLE,
    SUPPORTED,
    apex_in_doubt,
    judge_labels,
    unlabelled_motion,
)
from deft_llm.processing.action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from deft_llm.processing.motion_evidence import measure_motion


def moving(**regions):
    """Flow of one frame, (1, 2, 32, 32): inner_brow_left=(u, v) in percent of the crop width, still elsewhere."""
    flow = np.zeros((1, 2, 32, 32))
    for region in REGIONS:
        for side in SIDES:
            vector = regions.get(f"{region.replace(' ', '_')}_{side}", (0, 0))
            flow[0][:, ellipse_mask(region_ellipse(region, side), 32, 32)] += np.reshape(vector, (2, 1))
    return flow


def judged(code, side, flow):
    (judgement,) = judge_labels([(code, side)], flow, measure_motion(flow))
    return judgement


@pytest.mark.parametrize(
    ("side", "regions", "verdict", "agreement"),
    [
        ("both", {"inner_brow_left": (0, -1.0), "inner_brow_right": (0, -0.6)}, SUPPORTED, 1.0),
        ("both", {"inner_brow_left": (0, -1.0), "inner_brow_right": (0.5, -0.5)}, SUPPORTED, 0.75),
        ("both", {"inner_brow_left": (0, -1.0)}, NOT_VISIBLE, 0.5),
        ("both", {}, NOT_VISIBLE, 0.0),
        ("both", {"inner_brow_left": (0, 1.0), "inner_brow_right": (0, 1.0)}, CONTRADICTED, 0.0),
        ("left", {"inner_brow_left": (0, -1.0)}, SUPPORTED, 1.0),
        ("right", {"inner_brow_left": (0, -1.0)}, NOT_VISIBLE, 0.0),
        ("left", {"inner_brow_left": (-1.0, 0)}, NOT_VISIBLE, 0.0),
    ],
)
def test_verdicts(side, regions, verdict, agreement):
    judgement = judged("AU1", side, moving(**regions))
    assert (judgement.verdict, judgement.agreement) == (verdict, agreement)


def test_the_evidence_is_what_was_measured():
    judgement = judged("AU1", "both", moving(inner_brow_left=(0, -1.0), inner_brow_right=(0.42, -0.42)))
    assert judgement.direction == "up"
    assert judgement.magnitude == pytest.approx(0.8, abs=0.02)


def test_two_weak_sides_together_support_a_label_on_both():
    """Each side alone is within the errors of a noisy clip; a right label needs evidence in their sum only."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.06, (7, 2, 32, 32))
    course = np.array([0.15, 0.5, 0.85, 1.0, 0.8, 0.4, 0.1])[:, None, None, None]
    flow = noise + course * moving(
        inner_brow_left=(-0.15, 0.15),
        inner_brow_right=(0.15, 0.15),
        outer_brow_left=(0, 0.1),
        outer_brow_right=(0, 0.1),
    )
    assert judged("AU4", "both", flow).verdict == SUPPORTED


def test_probability_follows_the_evidence():
    up = {"inner_brow_left": (0, -1.0), "inner_brow_right": (0, -1.0)}
    down = {"inner_brow_left": (0, 1.0), "inner_brow_right": (0, 1.0)}
    probabilities = [judged("AU1", "both", moving(**regions)).probability for regions in (up, {}, down)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[0] > 0.9 > 0.1 > probabilities[1]


def test_large_errors_of_the_flow_support_nothing():
    flow = moving(inner_brow_left=(0, -1.0), inner_brow_right=(0, -1.0))
    sure, unsure = (
        judge_labels([("AU1", "both")], flow, measure_motion(flow), deviation=np.full((1, 32, 32), deviation))[0]
        for deviation in (0.01, 2.0)
    )
    assert (sure.verdict, unsure.verdict) == (SUPPORTED, NOT_VISIBLE)


def test_unknown_units_and_sides_are_named():
    with pytest.raises(ValueError, match="AU99"):
        judged("AU99", "both", moving())
    with pytest.raises(ValueError, match="middle"):
        judged("AU1", "middle", moving())


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


@pytest.fixture(scope="module")
def people():
    folder = data_folder() / "real-features" / "casme2-half"
    if not folder.is_dir():
        pytest.skip(f"The features of people are not in {folder}.")
    return read_clips(folder)


def test_the_motion_of_people_bears_out_their_labels(people):
    count, supported, contradicted = verdict_rates(people)
    assert count > 100
    assert supported >= 0.55
    assert contradicted <= 0.05


def test_units_of_people_are_told_apart(people):
    areas = [area_under_curve(people.scores[:, i], people.labelled[:, i]) for i in range(people.labelled.shape[1])]
    assert np.mean(areas) >= 0.78
