import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deft_llm.processing.action_units import ACTION_UNITS, REGIONS
from deft_llm.processing.expression_report import (
    INSUFFICIENT,
    MEASURED,
    NOT_MEASURABLE,
    ActionUnitFinding,
    ExpressionReport,
    MotionEvidence,
    format_answer,
    parse_answer,
)
from deft_llm.processing.motion_evidence import DIRECTIONS, NO_DIRECTION

LABELS = ("happiness", "surprise", "anger")
ANSWER = (
    "Class: surprise\n"
    "Evidence: AU1 inner brow raiser, both sides, inner brow moves up by 0.9 %\n"
    "Evidence: AU2 outer brow raiser, left side, outer brow moves up and laterally by 0.6 %\n"
    "Rationale: The inner brows rise and the outer brows rise."
)


@st.composite
def reports(draw):
    codes = draw(st.lists(st.sampled_from(sorted(ACTION_UNITS)), max_size=5, unique=True))
    findings = [
        ActionUnitFinding(code, ACTION_UNITS[code].name, draw(st.sampled_from(["both", "left", "right"])))
        for code in codes
    ]
    evidence = [
        MotionEvidence(
            code,
            draw(st.sampled_from(REGIONS)),
            draw(st.sampled_from((*DIRECTIONS, NO_DIRECTION))),
            draw(st.integers(0, 99)) / 10,
        )
        for code in codes
    ]
    still = draw(st.booleans())
    return ExpressionReport(
        emotion=None if still else draw(st.sampled_from(LABELS)),
        action_units=findings,
        evidence=evidence,
        rationale=draw(st.sampled_from(["The brows lower.", "Nothing: really nothing moves."])),
        status=INSUFFICIENT if still else MEASURED,
    )


@given(reports())
def test_what_is_written_is_read_back(report):
    read = parse_answer(format_answer(report), emotion_labels=LABELS)
    assert read.parsed, read.warnings
    for name in ("emotion", "action_units", "evidence", "rationale", "status"):
        assert getattr(read, name) == getattr(report, name)


def test_an_answer_in_full():
    report = parse_answer(ANSWER, emotion_labels=LABELS)
    assert report.emotion == "surprise"
    assert [(unit.code, unit.side) for unit in report.action_units] == [("AU1", "both"), ("AU2", "left")]
    assert report.evidence[1] == MotionEvidence("AU2", "outer brow", "up and laterally", 0.6)
    assert report.rationale.startswith("The inner brows")


def test_field_names_are_configurable():
    fields = ("Klasse", "Beleg", "Begründung")
    report = parse_answer(ANSWER)
    text = format_answer(report, fields=fields)
    assert text.startswith("Klasse: surprise\nBeleg: AU1")
    assert parse_answer(text, fields=fields).evidence == report.evidence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "one line of Class, found 0"),
        ("I think he is happy.", "belongs to none of the fields"),
        (ANSWER.replace("Class: surprise\n", ""), "one line of Class, found 0"),
        (ANSWER + "\nClass: anger", "one line of Class, found 2"),
        (ANSWER.replace("surprise", "joy"), "'joy' is not one of"),
        ("Class: anger\nRationale: So it is.", "no line of Evidence"),
        (ANSWER.replace("surprise", "not measurable"), "has no Evidence"),
        (ANSWER.replace("AU1 inner", "AU99 inner"), "AU99"),
        (ANSWER.replace("AU1 inner brow raiser", "AU1 brow lowerer"), "AU1 is the inner brow raiser"),
        (ANSWER.replace("0.9 %", "a lot"), "does not have the form"),
    ],
)
def test_unreadable_text_says_so_and_claims_nothing(text, reason):
    report = parse_answer(text, emotion_labels=LABELS)
    assert not report.parsed
    assert reason in report.warnings[0]
    assert (report.emotion, report.action_units, report.evidence) == (None, [], [])
    assert report.text == text


def test_json_and_print():
    report = parse_answer(ANSWER)
    report.scores = {"anger": 0.25, "surprise": 0.75}
    report.coarse_emotion = "surprise"
    assert json.loads(report.to_json())["evidence"][0]["magnitude"] == 0.9
    shown = str(report)
    assert "surprise 0.75 · anger 0.25" in shown
    assert "AU2 outer brow raiser, left side: outer brow moves up and laterally by 0.6 %" in shown
    assert "insufficient motion" in str(ExpressionReport(status=INSUFFICIENT))
    assert "Rationale  Nothing moves." in str(ExpressionReport(status=INSUFFICIENT, reason="Nothing moves."))
    assert report.to_dict()["insufficient_motion"] is False
    assert ExpressionReport(status=INSUFFICIENT).to_dict()["insufficient_motion"] is True


def test_a_clip_that_cannot_be_measured_says_why_and_nothing_else():
    report = ExpressionReport.not_measurable("The face leaves the picture\nin frame 12.")
    reason = "The face leaves the picture in frame 12."
    assert str(report) == f"Class      not measurable\nReason     {reason}"
    shown = json.loads(report.to_json())
    assert (shown["status"], shown["reason"]) == ("not_measurable", reason)
    assert [shown[name] for name in ("emotion", "scores", "action_units", "evidence")] == [None, {}, [], []]
    text = format_answer(report)
    read = parse_answer(text, emotion_labels=LABELS)
    assert (read.parsed, read.status, read.reason, read.text) == (True, NOT_MEASURABLE, reason, text)
    assert format_answer(read) == text
    with pytest.raises(ValueError, match="needs a reason"):
        ExpressionReport.not_measurable(" ")


@pytest.mark.parametrize("report", [parse_answer(ANSWER), ExpressionReport(status=INSUFFICIENT)])
def test_what_would_have_been_seen_is_printed_and_not_part_of_the_answer(report):
    assert "Seen from" not in str(report)
    seen = replace(report, detection_limits={"inner brow": 0.312, "cheek": 0.5, "chin": 0.904})
    assert "Seen from  0.31 % (inner brow) to 0.90 % (chin) of the face's width" in str(seen).splitlines()
    assert json.loads(seen.to_json())["detection_limits"]["cheek"] == 0.5
    assert format_answer(seen) == format_answer(report)
    assert ExpressionReport.not_measurable("The face is hidden.").to_dict()["detection_limits"] == {}


@pytest.mark.parametrize(("error", "shown"), [(None, "0.8 %"), (0.12, "0.8 ± 0.1 %"), (0.031, "0.8 ± 0.03 %")])
def test_the_standard_error_is_printed_and_not_part_of_the_answer(error, shown):
    evidence = MotionEvidence("AU1", "inner brow", "up", 0.8, error)
    report = ExpressionReport("surprise", action_units=[ActionUnitFinding("AU1", "inner brow raiser", "both")])
    report.evidence, report.rationale = [evidence], "The inner brows rise."
    assert f"inner brow moves up by {shown}" in str(report)
    assert report.to_dict()["evidence"][0]["standard_error"] == error
    assert "moves up by 0.8 %" in format_answer(report)
    assert parse_answer(format_answer(report)).parsed


def test_units_that_the_motion_does_not_bear_out_are_marked():
    unit = ActionUnitFinding("AU6", "cheek raiser", "both", score=0.93, borne_out=False)
    assert "AU6 cheek raiser, both sides: not borne out by the motion  [0.93]" in str(
        ExpressionReport(action_units=[unit])
    )


# --- In notebooks ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The text of a page, its tags and their attributes. Every tag that is opened must be closed."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self.values, self.open = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [value for _, value in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


FULL = ExpressionReport(
    emotion="anger",
    coarse_emotion="negative",
    scores={"happiness": 0.2, "anger": 0.8},
    action_units=[
        ActionUnitFinding("AU4", "brow lowerer", "both", score=0.9),
        ActionUnitFinding("AU12", "lip corner puller", "left", borne_out=False),
    ],
    evidence=[MotionEvidence("AU4", "inner brow", "down", 1.0, 0.04)],
    rationale="The brows lower.",
    warnings=["The answer says more than was measured."],
    detection_limits={"chin": 0.4, "inner brow": 0.2},
)


def test_the_html_says_what_the_text_says():
    page = Page(FULL._repr_html_())
    for words in (
        "anger (negative)",
        "AU4 brow lowerer, both sides: inner brow moves down by 1 ± 0.04 % [0.90]",
        "AU12 lip corner puller, left side: not borne out by the motion",
        "The brows lower.",
        "0.20 % (inner brow) to 0.40 % (chin) of the face's width",
        "The answer says more than was measured.",
    ):
        assert words in page.text, words
    assert page.text.index("anger0.80") < page.text.index("happiness0.20")


def test_the_html_needs_nothing_and_has_no_colours_of_its_own():
    page = Page(FULL._repr_html_())
    assert set(page.tags) <= {"table", "tr", "th", "td", "div", "span", "strong"}
    assert not any("url(" in value or "//" in value or "#" in value or "rgb" in value for value in page.values)


def test_the_html_of_what_cannot_be_measured():
    page = Page(ExpressionReport.not_measurable("the head turns too far")._repr_html_())
    assert page.text == "Classnot measurableReasonthe head turns too far"
    still = Page(ExpressionReport(status=INSUFFICIENT, reason="Nothing moves.")._repr_html_())
    assert still.text == "Classinsufficient motionReasonNothing moves.Evidencenone"
    assert Page(ExpressionReport(parsed=False)._repr_html_()).text.startswith("Classnot readable")


def test_text_of_the_model_cannot_break_the_page():
    evil = "<script>alert(1)</script>&\"'"
    report = replace(
        FULL,
        emotion=evil,
        coarse_emotion=f"{evil}2",
        scores={evil: 2.0},
        rationale=evil,
        reason=evil,
        warnings=[evil],
        action_units=[ActionUnitFinding(evil, evil, "left")],
        evidence=[MotionEvidence(evil, evil, evil, 1.0)],
        detection_limits={evil: 1.0},
    )
    page = Page(report._repr_html_())
    assert "script" not in page.tags
    assert page.text.count(evil) == 11
    assert "script" not in Page(replace(report, status=INSUFFICIENT)._repr_html_()).tags


@given(reports())
def test_a_report_is_read_back_from_its_data(report):
    data = json.loads(report.to_json())
    assert ExpressionReport.from_dict(data) == report
    assert ExpressionReport.from_dict({**data, "of_a_later_version": 1}) == report
