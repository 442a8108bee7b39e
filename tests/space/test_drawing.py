"""The result's HTML: whatever a model or a file says stays text, and clips of every kind can be drawn."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from deft_llm.processing import ExpressionReport
from drawing import draw, draw_problem, draw_turns

NASTY = "<script>alert(1)</script> ${window} {{value}} \"'&"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.opened, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.opened.append((tag, dict(attributes)))
        if tag not in ("img", "input", "image", "line", "circle", "rect", "path", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_it_says_what_was_found(explanation):
    page = Tags(draw(explanation))
    assert page.open == []
    for said in (
        "Anger",
        "negative",
        "75 %",
        "AU4",
        "inner brow moves down by 0.7 %",
        "The brows lower.",
        "slowed 8 ×",
    ):
        assert said in page.text, said
    assert sum(tag == "input" for tag, _ in page.opened) == 2
    assert all("alt" in attributes for tag, attributes in page.opened if tag == "img")
    # Nothing is fetched from anywhere.
    sources = [attributes.get("src") or attributes.get("href") for _, attributes in page.opened]
    assert all(source.startswith("data:") for source in sources if source)


def test_what_a_model_writes_stays_text(explanation):
    report = explanation.report | {
        "emotion": NASTY,
        "coarse_emotion": NASTY,
        "scores": {NASTY: 1.0},
        "rationale": NASTY,
        "warnings": [NASTY],
        "evidence": [{"action_unit": "AU4", "region": NASTY, "direction": NASTY, "magnitude": 1.0}],
    }
    drawn = draw(replace(explanation, report=report, region=NASTY, notes=[NASTY]))
    page = Tags(drawn)
    assert "script" not in {tag for tag, _ in page.opened}
    assert "alert(1)" in page.text
    assert "${" not in drawn
    assert "{{" not in drawn
    assert "script" not in {tag for tag, _ in Tags(draw_problem(NASTY)).opened}


def test_without_motion_no_emotion_and_no_rationale(explanation):
    report = explanation.report | {
        "emotion": None,
        "status": "insufficient_motion",
        "reason": "No region moves above the noise of the clip.",
        "insufficient_motion": True,
        "evidence": [],
        "action_units": [],
    }
    text = Tags(draw(replace(explanation, report=report))).text
    assert "No region moves above the noise of the clip. So no emotion is named." in text
    assert "No expression" in text
    assert "The brows lower" not in text.partition("JSON")[0]


def test_what_would_have_been_seen_is_said_under_the_class(explanation):
    for status in ("measured", "insufficient_motion"):
        limits = {"inner brow": 0.312, "cheek": 0.5, "chin": 0.904}
        report = explanation.report | {"status": status, "detection_limits": limits}
        said = "motion is seen from 0.31 % (inner brow) to 0.90 % (chin) of the face’s width"
        assert said in Tags(draw(replace(explanation, report=report))).text
    assert "motion is seen from" not in Tags(draw(explanation)).text


def test_a_clip_that_cannot_be_measured_shows_the_reason_only(explanation):
    report = ExpressionReport.not_measurable("the face leaves the <picture>").to_dict()
    shown = replace(explanation, report=report)
    drawn = draw(shown)
    page = Tags(drawn)
    assert page.open == []
    assert "Not measurable" in page.text
    assert "The face leaves the <picture>." in page.text.partition("JSON")[0]
    assert not {"svg", "video", "input", "img"} & {tag for tag, _ in page.opened}
    assert "AU4" not in page.text
    written = shown.to_json()
    assert (written["action_unit_scores"], written["experts"], written["status"]) == ({}, {}, "not_measurable")


def test_errors_and_units_without_motion_are_shown(explanation):
    (evidence,) = explanation.report["evidence"]
    units = [*explanation.report["action_units"], {"code": "AU12", "side": "both", "borne_out": False}]
    report = explanation.report | {"evidence": [evidence | {"standard_error": 0.12}], "action_units": units}
    text = Tags(draw(replace(explanation, report=report))).text
    assert "inner brow moves down by 0.7 ± 0.1 %" in text
    assert "both sides · not borne out by the motion" in text


def test_an_answer_that_cannot_be_read(explanation):
    report = explanation.report | {"emotion": None, "parsed": False}
    assert "No readable answer" in Tags(draw(replace(explanation, report=report))).text


@pytest.mark.parametrize(
    "changes",
    [
        {"fps": None},
        {"fps": 25.0},
        {"motion": np.zeros(16)},
        {"motion": np.full(16, 80.0)},
        {"flow": np.zeros((2, 32, 32), np.float32)},
        {"keys": (0, 1, 15), "motion": np.linspace(-3, 0, 16)},
    ],
    ids=["no rate", "slow camera", "no motion", "wild motion", "no flow", "backwards"],
)
def test_odd_clips_can_be_drawn(explanation, changes):
    drawn = draw(replace(explanation, **changes))
    assert Tags(drawn).open == []
    assert "nan" not in re.sub('base64,[^"]*', "", drawn)


def test_questions_and_answers_stay_text():
    tags = Tags(draw_turns([(NASTY, "Yes."), ("Why?", NASTY)], NASTY))
    assert tags.open == []
    assert "script" not in {tag for tag, _ in tags.opened}
    assert tags.text.count(NASTY) == 3
    assert [tag for tag, _ in tags.opened if tag in ("dt", "dd")] == ["dt", "dd"] * 2
    assert [attributes["role"] for _, attributes in tags.opened if "role" in attributes] == ["log", "alert"]
    assert "alert" not in draw_turns([])
