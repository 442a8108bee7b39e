"""What a grounded answer may say, and what counts as a contradiction."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES
from deft_llm.processing.expression_report import ActionUnitFinding, ExpressionReport, MotionEvidence, parse_answer
from deft_llm.processing.grounded_answer import (
    CLASS_MARGIN,
    STILL_RATIONALES,
    UNCLEAR_RATIONALES,
    allowed_classes,
    contradictions,
    measured_evidence,
    measured_report,
    measurement_in_words,
    possible_answers,
    recognition_in_words,
)
from deft_llm.processing.motion_evidence import DIRECTIONS, NO_DIRECTION, RegionMotion, measure_motion

COARSE = {"happiness": "positive", "anger": "negative", "disgust": "negative", "surprise": "surprise"}


@dataclass(frozen=True)
class WithError(RegionMotion):
    standard_error: float | None = None


def face(*moving: RegionMotion) -> list[RegionMotion]:
    """The motion of a whole face that is still but for some regions."""
    given_regions = {(item.region, item.side) for item in moving}
    still = [
        RegionMotion(region, side, 0.05, NO_DIRECTION, 0.2, False)
        for region in REGIONS
        for side in SIDES
        if (region, side) not in given_regions
    ]
    return [*moving, *still]


def moves(region, side, direction, magnitude=0.8, significant=True):
    return RegionMotion(region, side, magnitude, direction, 0.9, significant)


SMILE = face(
    moves("mouth corner", "left", "up and laterally", 1.25), moves("mouth corner", "right", "up and laterally", 1.0)
)


def test_the_measurement_in_words_names_what_moves_and_what_could_do_it():
    assert measurement_in_words(face()) == "nothing moves above the noise"
    assert measurement_in_words(SMILE) == (
        "left mouth corner up and laterally 1.2 %; right mouth corner up and laterally 1.0 %. It could be: "
        "AU12 lip corner puller, both sides, mouth corner moves up and laterally by 1.1 %; "
        "AU13 sharp lip puller, both sides, mouth corner moves up and laterally by 1.1 %; "
        "AU20 lip stretcher, both sides, mouth corner moves up and laterally by 1.1 %"
    )
    assert measurement_in_words(face(moves("chin", "right", "medially"))).endswith("It could be: no action unit")
    assert measurement_in_words(SMILE, candidates=False) == (
        "left mouth corner up and laterally 1.2 %; right mouth corner up and laterally 1.0 %"
    )


def test_the_recognition_in_words_names_units_with_their_motion_and_the_class():
    report = measured_report({"AU12": "left", "AU4": "both"}, "happiness", SMILE)
    assert recognition_in_words(report, COARSE) == (
        "AU4 brow lowerer, not borne out by the motion; "
        "AU12 lip corner puller, both sides, mouth corner moves up and laterally by 1.1 %. "
        "Emotion: happiness. Coarse class: positive"
    )
    still = measured_report({}, "anger", face())
    assert recognition_in_words(still, COARSE) == "no action unit. Emotion: insufficient motion"
    assert recognition_in_words(measured_report({"AU12": "both"}, "fear", SMILE), COARSE).endswith(". Emotion: fear")


@pytest.mark.parametrize(("weaker", "side"), [(0.3, "left"), (0.5, "both")])
def test_a_side_that_is_dragged_along_is_not_a_side_of_the_unit(weaker, side):
    motions = face(moves("outer brow", "left", "up", 1.0), moves("outer brow", "right", "up", weaker))
    found, evidence = measured_evidence("AU2", motions)
    assert found == side
    assert evidence.magnitude == pytest.approx(1.0 if side == "left" else 0.8)
    report = measured_report({"AU2": "both"}, "surprise", motions)
    assert contradictions(report, motions) == []
    if side == "left":
        report.action_units[0].side = "both"
        assert any("measured was" in one for one in contradictions(report, motions))


@pytest.mark.parametrize(
    ("code", "motions", "expected"),
    [
        ("AU12", SMILE, ("both", "up and laterally", 1.1)),
        ("AU12", face(moves("mouth corner", "left", "laterally")), ("left", "laterally", 0.8)),
        (
            "AU12",
            face(moves("mouth corner", "left", "up"), moves("mouth corner", "right", "down")),
            ("left", "up", 0.8),
        ),
        # One octant to either side of the unit's direction: halfway is the unit's own.
        (
            "AU12",
            face(moves("mouth corner", "left", "up"), moves("mouth corner", "right", "laterally", 0.4)),
            ("both", "up and laterally", 0.6),
        ),
        ("AU12", face(moves("mouth corner", "left", "down")), None),
        ("AU12", face(moves("mouth corner", "left", NO_DIRECTION)), None),
        ("AU12", face(moves("mouth corner", "left", "up", significant=False)), None),
        ("AU12", face(moves("mouth corner", "left", "up", 0.04)), None),  # "0.0 %" says nothing
        ("AU14", face(moves("mouth corner", "left", "laterally")), None),  # flow cannot show it
        ("AD19", SMILE, None),
    ],
)
def test_evidence_is_as_measured(code, motions, expected):
    found = measured_evidence(code, motions)
    assert (found and (found[0], found[1].direction, found[1].magnitude)) == expected


def test_the_error_of_two_sides_is_that_of_their_mean():
    sides = [
        WithError("mouth corner", side, 1.0, "up", 0.9, True, error) for side, error in (("left", 0.3), ("right", 0.4))
    ]
    assert measured_evidence("AU12", face(*sides))[1].standard_error == pytest.approx(0.25)
    assert measured_evidence("AU12", face(sides[0]))[1].standard_error == pytest.approx(0.3)
    assert measured_evidence("AU12", face(sides[0], replace(sides[1], standard_error=None)))[1].standard_error is None


def test_only_classes_that_the_head_does_not_contradict():
    near = {"anger": 0.4, "disgust": 0.4 - CLASS_MARGIN + 1e-6, "surprise": 0.39, "happiness": 0.0}
    assert allowed_classes(near, COARSE) == ["anger", "disgust"]  # surprise is near, but of another coarse class
    assert allowed_classes(near | {"disgust": 0.4 - CLASS_MARGIN - 1e-6}, COARSE) == ["anger"]


def test_units_without_motion_are_kept_and_are_no_evidence():
    report = measured_report({"AU12": "right", "AU6": "left", "AU14": "right"}, "happiness", SMILE)
    assert [(unit.code, unit.side, unit.borne_out) for unit in report.action_units] == [
        ("AU6", "left", False),
        ("AU12", "both", True),
        ("AU14", "right", False),
    ]
    assert [item.action_unit for item in report.evidence] == ["AU12"]
    assert report.status == "measured"


@pytest.mark.parametrize(
    ("motions", "rationales"),
    [(face(), STILL_RATIONALES), (face(moves("chin", "left", "up")), UNCLEAR_RATIONALES)],
    ids=["still", "something else moves"],
)
def test_without_evidence_there_is_no_class(motions, rationales):
    report = measured_report({"AU12": "both"}, "happiness", motions)
    assert (report.emotion, report.status, report.evidence) == (None, "insufficient_motion", [])
    assert report.reason
    answers = [parse_answer(text) for text in possible_answers(report, ["happiness"])]
    assert [answer.rationale for answer in answers] == list(rationales)
    assert all(answer.insufficient_motion and not answer.evidence for answer in answers)


@st.composite
def measured(draw):
    return [
        RegionMotion(
            region,
            side,
            draw(st.floats(0, 30)),
            draw(st.sampled_from((*DIRECTIONS, NO_DIRECTION))),
            0.9,
            draw(st.booleans()),
        )
        for region in REGIONS
        for side in SIDES
    ]


@settings(max_examples=60, deadline=None)
@given(
    measured(),
    st.dictionaries(st.sampled_from(sorted(ACTION_UNITS)), st.sampled_from(("both", "left", "right")), max_size=12),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_no_possible_answer_contradicts_anything(motions, recognised, values):
    scores = dict(zip(COARSE, values, strict=True))
    classes = allowed_classes(scores, COARSE)
    report = measured_report(recognised, classes[0], motions)
    for text in possible_answers(report, classes, "casme2"):
        read = parse_answer(text, emotion_labels=list(COARSE))
        assert read.parsed, read.warnings
        assert contradictions(read, motions, scores, COARSE) == []
        assert {item.action_unit for item in read.evidence} <= set(recognised)


HEAD = {"happiness": 0.91, "anger": 0.04, "disgust": 0.03, "surprise": 0.02}


def happy(**changes) -> ExpressionReport:
    report = ExpressionReport(
        "happiness",
        action_units=[ActionUnitFinding("AU12", "lip corner puller", "both")],
        evidence=[MotionEvidence("AU12", "mouth corner", "up and laterally", 1.1)],
        rationale="The lip corners pull up and out; by the convention of casme2 this is happiness.",
    )
    return replace(report, **changes)


def evidence(*values):
    return [MotionEvidence(*values)]


def test_what_was_measured_is_no_contradiction():
    assert contradictions(happy(), SMILE, HEAD, COARSE) == []
    free = "AU12 pulls the mouth corners up and laterally on both sides, so this is happiness (positive)."
    assert contradictions(happy(rationale=free, coarse_emotion="positive"), SMILE, HEAD, COARSE) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"emotion": "anger"}, "The text says anger, the emotion head happiness"),
        ({"coarse_emotion": "negative"}, "coarse class of happiness is positive, not negative"),
        ({"status": "insufficient_motion"}, "status is insufficient_motion"),
        (
            {"evidence": evidence("AU12", "mouth corner", "down", 1.1)},
            "moves the mouth corner up and laterally, not down",
        ),
        ({"evidence": evidence("AU12", "mouth corner", "down", 1.1)}, "on the left side it moves up and laterally"),
        ({"evidence": evidence("AU12", "mouth corner", "up", 1.6)}, "moves by 1.6 %; measured was 1.1 %"),
        (
            {"evidence": evidence("AU12", "chin", "up", 1.1)},
            "motion of the chin is not evidence of the lip corner puller",
        ),
        ({"evidence": evidence("AU12", "nasolabial fold", "up", 0.5)}, "on the right side it is still"),
        (
            {"action_units": [ActionUnitFinding("AU12", "lip corner puller", "left")]},
            "on the left side; it moves on the right side too",
        ),
        ({"rationale": "This is anger."}, "The rationale says anger; the class is happiness"),
        ({"rationale": "AU4 is there."}, "names AU4, for which there is no evidence"),
        ({"rationale": "The brow lowerer is there."}, "names AU4, for which there is no evidence"),
        ({"rationale": "The inner brows rise."}, "names AU1, for which there is no evidence"),
        ({"rationale": "AU99 is there."}, "names AU99, for which there is no evidence"),
        ({"rationale": "The lip corners pull up and out on the left."}, "says AU12 is on the left"),
        ({"rationale": "The mouth corners move down."}, "says the mouth corner moves down, which was not measured"),
        ({"rationale": "The left chin moves up."}, "says the chin moves up, which was not measured"),
    ],
)
def test_a_contradiction_is_named(changes, said):
    found = contradictions(happy(**changes), SMILE, HEAD, COARSE)
    assert any(said in one for one in found), found


def test_a_class_for_a_still_face_is_a_contradiction():
    assert any("no region moves" in one for one in contradictions(happy(), face()))


def test_answers_of_the_training_data_are_possible_answers(dataset):
    """The model is trained on what the constraint lets through. Labels are judged by whole patterns: some are
    supported although their own region is within the noise. Those are not evidence in an answer."""
    checked = 0
    for row in dataset:
        explain = next((item for item in row["conversations"] if item["task"] == "explain"), None)
        if explain is None:
            continue
        text = explain["messages"][-1]["content"][0]["text"]
        motions = measure_motion(np.asarray(row["flow"], np.float32))
        labels = {unit["code"]: unit["side"] for unit in row["action_units"] if unit["verdict"] == "supported"}
        report = measured_report(labels, row["emotion"], motions)
        if any(labels[unit.code] != unit.side for unit in report.action_units):
            continue  # labelled on one side, but both sides moved
        if {item.action_unit for item in report.evidence} != set(labels):
            continue
        checked += 1
        assert text in possible_answers(report, [row["emotion"]], "synthetic")
        assert contradictions(parse_answer(text), motions) == []
    assert checked > 12
