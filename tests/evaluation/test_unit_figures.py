import numpy as np
import pytest

from deft_llm.evaluation.unit_figures import intraclass_correlation, rule_figures, unit_calibration, unit_figures
from deft_llm.processing.unit_patterns import UNITS_SEEN
from tests.evaluation.made_up_rows import make_row
from tests.evaluation.test_recognition import region_rows


def rows_with(*named) -> dict[str, dict]:
    rows = [
        make_row(
            "casme2", number, 0, "negative", action_units=[{"code": c, "side": "both", **more} for c, more in one]
        )
        for number, one in enumerate(named)
    ]
    return {row["clip_id"]: row for row in rows}


def test_f1_auc_and_calibration_per_unit():
    by_id = rows_with([("AU4", {})], [("AU4", {})], [("AU12", {})], [("AU12", {})])
    said = [{"AU4": 0.9}, {"AU4": 0.4}, {"AU4": 0.6}, {"AU4": 0.1}]
    predictions = {clip: {"action_units": one} for clip, one in zip(by_id, said, strict=True)}
    figures = unit_figures(predictions, list(by_id), by_id)
    assert figures["per_unit"]["AU4"]["auc"] == pytest.approx(0.75)
    assert figures["per_unit"]["AU4"]["f1"] == pytest.approx(0.5)
    assert figures["per_unit"]["AU12"] == {
        "clips": 2,
        "f1": 0.0,
        "f1_macro": pytest.approx(1 / 3),
        "auc": 0.5,
        "icc": None,
    }
    assert figures["auc"] == figures["auc_of_sought"] == pytest.approx(0.625)
    # Bins: the four 0 of AU12, of which two are labelled; then 0.1, 0.4, 0.6 and 0.9 alone.
    assert figures["calibration_error"] == pytest.approx((2 + 0.1 + 0.6 + 0.6 + 0.1) / 8)


def test_a_unit_of_all_clips_has_no_auc_and_no_units_no_figures():
    by_id = rows_with([("AU4", {})], [("AU4", {})])
    figures = unit_figures({clip: {"action_units": {"AU4": 0.7}} for clip in by_id}, list(by_id), by_id)
    assert figures["per_unit"]["AU4"]["auc"] is None
    assert figures["auc"] is None
    assert unit_figures({clip: {} for clip in by_id}, list(by_id), by_id) is None


def test_icc_of_the_intensities():
    by_id = rows_with(*([("AU4", {"intensity": letter})] for letter in "ABE"), [("AU12", {})])
    said = ["A", "B", "E", None]

    def icc(letters):
        predictions = {
            clip: {"action_units": {"AU4": 1.0}, "intensities": {"AU4": letter}}
            for clip, letter in zip(by_id, letters, strict=True)
        }
        return unit_figures(predictions, list(by_id), by_id)["icc"]

    assert icc(said) == pytest.approx(1.0)
    assert icc(["B", "C", "E", "A"]) < 1
    assert icc(["E", "B", "A", "E"]) < 0


def test_icc_is_that_of_shrout_and_fleiss():
    """Their table 2: six targets and four judges; table 4 gives .71 for ICC(3,1)."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert intraclass_correlation(np.array(ratings, float)) == pytest.approx(0.71, abs=0.006)
    assert intraclass_correlation(np.ones((4, 2))) is None


def test_calibration_of_certain_and_of_wrong_units():
    truth = np.array([[True, False]])
    assert unit_calibration(np.array([[1.0, 0.0]]), truth) == 0
    assert unit_calibration(np.array([[0.0, 1.0]]), truth) == 1


def test_rules_find_what_moves():
    by_id = {row["clip_id"]: row for row in region_rows(9)}
    figures = rule_figures(list(by_id), by_id)
    assert figures["clips"] == 9
    assert {*figures["per_unit"]} == {"AU2", "AU4", "AU12"} <= {*UNITS_SEEN}
    assert figures["per_unit"]["AU4"]["auc"] == 1.0
    assert rule_figures(list(by_id), {clip: {**row, "flow": None} for clip, row in by_id.items()}) is None
