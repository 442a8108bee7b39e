import re

import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.dataset import CONVENTIONS
from deft_llm.hub_datasets.unimer.constraints import (
    CONTRADICTED,
    NOT_TESTABLE,
    NOT_VISIBLE,
    SUPPORTED,
    judge_labels,
)
from deft_llm.processing.action_units import (
    ACTION_UNITS,
    CANONICAL_LANDMARKS,
    REGIONS,
    SIDES,
    action_unit_ellipses,
    ellipse_mask,
    get_action_unit,
    region_ellipse,
)
from deft_llm.processing.grounded_answer import measured_report
from deft_llm.processing.motion_evidence import DIRECTIONS, measure_motion

UNITS = list(ACTION_UNITS.values())
TESTABLE = [unit for unit in UNITS if unit.testable]
UNTESTABLE = [unit for unit in UNITS if not unit.testable]
MOTIONS = [(unit, motion) for unit in UNITS for motion in unit.motions]


def by_code(unit):
    return unit.code


def flow_of(motion, sides=SIDES, sign=1.0):
    """1 % of the crop's width along a motion, at the second of two frames."""
    flow = np.zeros((2, 2, 32, 32), np.float32)
    for side in sides:
        inside = ellipse_mask(region_ellipse(motion.region, side), 32, 32)
        flow[1][:, inside] = sign * motion.vector(side)[:, None] / np.linalg.norm(motion.vector(side))
    return flow


# The table


@pytest.mark.parametrize("unit", UNITS, ids=by_code)
def test_row_is_complete(unit):
    assert ACTION_UNITS[unit.code] is unit
    assert re.fullmatch(r"(AU|AD|M)[1-9]\d?", unit.code)
    assert unit.code == f"{unit.kind}{unit.number}"
    assert unit.name
    assert unit.name == unit.name.strip().lower()
    assert unit.action.split()[0] in ("the", "one", "air")
    assert not unit.action.endswith(".")
    assert unit.muscles or unit.kind != "AU"
    assert unit.motions or not unit.testable


def test_the_codes_of_coding_sheets_are_there():
    numbers = {unit.number for unit in UNITS if unit.kind != "M"}
    assert numbers >= set(range(1, 29)) - {3} | set(range(38, 47)) | set(range(51, 59)) | set(range(61, 67))
    assert {"AD19", "AU31", "M57", "M58"} <= set(ACTION_UNITS)


def test_what_flow_cannot_test():
    assert {"AU14", "AU23", "AU24", "AU28", "AU31", "AD51", "AD61", "M57"} <= {unit.code for unit in UNTESTABLE}
    assert {"AU1", "AU16", "AU18", "AU25", "AU38", "AU45"} <= {unit.code for unit in TESTABLE}


def test_units_and_descriptors_share_their_numbers():
    assert get_action_unit("AD38") is get_action_unit("AU38")
    assert get_action_unit("AU19") is get_action_unit("AD19")
    assert get_action_unit("M57") is not get_action_unit("AD57")


@pytest.mark.parametrize("code", ["AU3", "AU99", "M12", "4", "au4", "", None, 4])
def test_unknown_code_is_named(code):
    with pytest.raises(ValueError, match=re.escape(repr(code))):
        get_action_unit(code)


@pytest.mark.parametrize(("unit", "motion"), MOTIONS, ids=lambda value: getattr(value, "code", ""))
def test_directions(unit, motion):
    right, left = motion.vector("right"), motion.vector("left")
    assert np.linalg.norm(right) == pytest.approx(motion.weight)
    assert left == pytest.approx(right * (-1, 1))
    assert motion.region in REGIONS
    assert motion.phrase in DIRECTIONS
    assert 0 < motion.weight <= 1


@pytest.mark.parametrize("unit", TESTABLE, ids=by_code)
def test_first_motion_is_the_strongest(unit):
    assert unit.motions[0].weight == max(motion.weight for motion in unit.motions) == 1
    assert len({motion.region for motion in unit.motions}) == len(unit.motions)


@pytest.mark.parametrize(
    ("code", "region", "direction"),
    [
        ("AU1", "inner brow", "up"),
        ("AU2", "outer brow", "up"),
        ("AU4", "inner brow", "down and medially"),
        ("AU5", "upper lid", "up"),
        ("AU6", "cheek", "up"),
        ("AU7", "lower lid", "up"),
        ("AU9", "nose wing", "up"),
        ("AU12", "mouth corner", "up and laterally"),
        ("AU15", "mouth corner", "down"),
        ("AU16", "lower lip", "down"),
        ("AU17", "chin", "up"),
        ("AU18", "mouth corner", "medially"),
        ("AU20", "mouth corner", "laterally"),
        ("AU25", "lower lip", "down"),
        ("AU26", "chin", "down"),
        ("AU38", "nose wing", "laterally"),
        ("AU39", "nose wing", "medially"),
        ("AU45", "upper lid", "down"),
    ],
)
def test_expected_motion(code, region, direction):
    motion = get_action_unit(code).motions[0]
    assert (motion.region, motion.phrase) == (region, direction)


def test_the_generator_shows_only_what_flow_can_test():
    shown = {
        code for convention in CONVENTIONS.values() for sets in convention.values() for units in sets for code in units
    }
    assert len(shown) == 11
    assert shown <= {unit.code for unit in TESTABLE}


# The atlas


@pytest.mark.parametrize("region", REGIONS)
def test_regions_lie_in_the_crop_on_their_own_side(region):
    for side in SIDES:
        cx, cy, rx, ry = region_ellipse(region, side)
        assert rx > 0
        assert ry > 0
        assert 0 <= cx - rx < cx + rx <= 1
        assert 0 <= cy - ry < cy + ry <= 1
        assert (cx < 0.5) == (side == "right")
        # At the size of the motion expert's input.
        assert ellipse_mask((cx, cy, rx, ry), 32, 32).sum() >= 2


def test_regions_stand_where_the_landmarks_say():
    """Anatomical order down the face, around the eyes and the mouth of the canonical crop."""
    height = {region: region_ellipse(region, "right")[1] for region in REGIONS}
    eye_x, eye_y = CANONICAL_LANDMARKS["right_eye"]
    assert height["inner brow"] < height["upper lid"] < eye_y < height["lower lid"] < height["cheek"]
    assert height["nose root"] < height["nose wing"] < height["nasolabial fold"] < height["upper lip"]
    assert height["upper lip"] < CANONICAL_LANDMARKS["mouth"][1] < height["lower lip"] < height["chin"]
    assert region_ellipse("outer brow", "right")[0] < eye_x < region_ellipse("inner brow", "right")[0]
    assert region_ellipse("upper lid", "right")[0] == eye_x


def test_ellipses_of_a_unit():
    regions = {"inner brow", "outer brow"}
    assert set(action_unit_ellipses("AU4")) == {region_ellipse(region, side) for region in regions for side in SIDES}
    assert action_unit_ellipses("AD61") == []


# The table in use


def judged(unit, side, flow):
    (judgement,) = judge_labels([(unit.code, side)], flow, measure_motion(flow))
    return judgement


@pytest.mark.parametrize("unit", TESTABLE, ids=by_code)
def test_own_motion_supports_a_unit(unit):
    motion = unit.motions[0]
    assert judged(unit, "both", flow_of(motion)).verdict == SUPPORTED
    assert judged(unit, "both", flow_of(motion, sign=-1)).verdict == CONTRADICTED
    one_sided = flow_of(motion, sides=["left"])
    assert judged(unit, "left", one_sided).verdict == SUPPORTED
    assert judged(unit, "right", one_sided).verdict == NOT_VISIBLE
    assert judged(unit, "both", one_sided).verdict == NOT_VISIBLE


@pytest.mark.parametrize("unit", UNTESTABLE, ids=by_code)
def test_motion_says_nothing_about_an_untestable_unit(unit):
    flow = sum((flow_of(motion) for motion in unit.motions), start=np.zeros((2, 2, 32, 32), np.float32))
    for sign in (1, -1):
        judgement = judged(unit, "both", sign * flow)
        assert judgement.verdict == NOT_TESTABLE
        assert (judgement.region, judgement.direction, judgement.magnitude) == ("", "", 0)
        assert judgement.probability is None


@pytest.mark.parametrize("unit", UNITS, ids=by_code)
def test_every_unit_can_be_recognised(unit):
    """A recognition head may know units that flow cannot test: named, without motion as evidence."""
    motion = unit.motions[0] if unit.motions else get_action_unit("AU12").motions[0]
    report = measured_report({unit.code: "both"}, "surprise", measure_motion(flow_of(motion)))
    assert [(found.code, found.name) for found in report.action_units] == [(unit.code, unit.name)]
    assert [item.region for item in report.evidence] == ([unit.motions[0].region] if unit.testable else [])
