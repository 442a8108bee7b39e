import pytest

from benchmarks.science.real_answers import contradictions
from deft_llm.processing.expression_report import ActionUnitFinding, ExpressionReport, MotionEvidence, format_answer
from deft_llm.processing.motion_evidence import RegionMotion


def report_of(magnitude=0.9, direction="up", side="both", emotion="surprise"):
    report = ExpressionReport(
        emotion=emotion,
        scores={"surprise": 0.7, "anger": 0.3},
        action_units=[ActionUnitFinding("AU1", "inner brow raiser", side)],
        evidence=[MotionEvidence("AU1", "inner brow", direction, magnitude)],
        rationale="The inner brows rise.",
    )
    report.text = format_answer(report)
    return report


def motions(magnitude=0.9, direction="up", significant=True):
    return [
        RegionMotion("inner brow", side, magnitude, direction, 1.0, significant, 0.05) for side in ("left", "right")
    ]


@pytest.mark.parametrize(
    ("report", "measured", "wrong"),
    [
        (report_of(), motions(), []),
        (report_of(), motions(direction="up and laterally"), []),
        (report_of(), motions(magnitude=1.03), []),
        (report_of(), motions(direction="down"), ["evidence without such motion"]),
        (report_of(), motions(significant=False), ["evidence without such motion"]),
        (report_of(), motions(magnitude=1.4), ["magnitude that was not measured"]),
        (report_of(emotion="anger"), motions(), ["class that is not the head's first"]),
        (report_of(magnitude=12.0), motions(magnitude=12.0), ["motion above 10 %"]),
        (ExpressionReport.not_measurable("the head turns too far"), [], []),
    ],
)
def test_an_answer_is_held_against_the_motion(report, measured, wrong):
    assert contradictions(report, measured) == wrong


def test_nothing_may_be_said_about_a_clip_that_was_not_measured():
    report = ExpressionReport.not_measurable("the head turns too far")
    report.scores = {"surprise": 1.0}
    assert contradictions(report, []) == ["statement about what was not measured"]
