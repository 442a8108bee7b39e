"""The result's HTML: whatever a model or a file says stays text, and clips of every kind can be drawn."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from deft_llm.processing import ExpressionReport
from drawing import Side, differences, draw, draw_comparison, draw_problem, draw_turns, side_of

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


# --- two results ----------------------------------------------------------------------------------------------------


def measured(*units, limits=None, **more):
    """A report: (code, region, magnitude, standard error) per unit."""
    names = {"AU4": "brow lowerer", "AU12": "lip corner puller"}
    return {
        "status": "measured",
        "reason": "",
        "emotion": "anger",
        "action_units": [{"code": code, "name": names[code], "side": "both"} for code, *_ in units],
        "evidence": [
            {"action_unit": code, "region": region, "direction": "down", "magnitude": size, "standard_error": error}
            for code, region, size, error in units
        ],
        "detection_limits": limits or {},
        **more,
    }


BROW = measured(("AU4", "inner brow", 1.2, 0.04), limits={"inner brow": 0.3, "mouth corner": 0.5})
BOTH = "AU4 (brow lowerer) is in both."
ONLY = "AU4 (brow lowerer) is only in A. The inner brow moves down by 1.2 ± 0.04 %."


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            measured(("AU4", "inner brow", 0.7, 0.1)),
            [f"{BOTH} The inner brow moves down by 1.2 ± 0.04 % in A and 0.7 ± 0.1 % in B, farther in A."],
        ),
        (
            measured(("AU4", "inner brow", 1.3, 0.1)),
            [
                f"{BOTH} The inner brow moves down by 1.2 ± 0.04 % in A and 1.3 ± 0.1 % in B, which is the same "
                "within the errors."
            ],
        ),
        (
            measured(("AU12", "mouth corner", 0.4, 0.1), limits={"inner brow": 1.5}),
            [
                f"{ONLY} In B, motion there is seen from 1.50 %, so as much may have been overlooked.",
                "AU12 (lip corner puller) is only in B. The mouth corner moves down by 0.4 ± 0.1 %. In A, motion "
                "there is seen from 0.50 %, so as much may have been overlooked.",
            ],
        ),
        (
            measured(limits={"inner brow": 0.4}),
            [f"{ONLY} In B, motion there is seen from 0.40 %, so as much would probably have been seen."],
        ),
        (ExpressionReport.not_measurable("gone").to_dict(), ["B cannot be measured, so there is nothing to compare."]),
    ],
    ids=["farther", "the same", "others", "not seen", "lost"],
)
def test_what_differs_is_said_with_its_errors_and_limits(other, said):
    assert differences(BROW, other) == said


def test_nothing_and_sides_are_compared_too():
    assert differences(measured(), measured()) == ["Neither shows an action unit."]
    left = measured(("AU4", "inner brow", 1.0, None))
    left["action_units"][0]["side"] = "left"
    assert differences(left, BROW) == [
        "AU4 (brow lowerer) is in both, left side in A and both sides in B. The inner brow moves down by 1 % in A and "
        "1.2 ± 0.04 % in B."
    ]


def test_two_results_are_drawn_next_to_each_other(explanation):
    kept = side_of(explanation, NASTY)
    lost = Side("second", ExpressionReport.not_measurable("the head turns too far").to_dict(), None)
    drawn = draw_comparison(kept, lost)
    page = Tags(drawn)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.opened}
    assert sum(tag == "article" for tag, _ in page.opened) == 2
    assert [attributes["alt"] for tag, attributes in page.opened if tag == "img"] == ["A at the apex"]
    for said in (
        "B: second",
        "The head turns too far.",
        "AU4 brow lowerer, both sides: inner brow moves down by 0.7 %",
    ):
        assert said in page.text
    assert "${" not in drawn


def test_the_plot_of_an_interval_has_the_times_of_the_video(explanation):
    moved = replace(explanation, first=1000, keys=(1002, 1010, 1014), title="Expression 2, 5.01 to 5.07 s")
    page = Tags(draw(replace(moved, film_indices=[1000 + n for n in range(16)], indices=[1002, 1006, 1010, 1014])))
    assert "Expression 2, 5.01 to 5.07 s" in page.text
    assert "Onset 5010 ms, apex 5050 ms, offset 5070 ms" in page.text
    places = [float(item["x1"]) for tag, item in page.opened if tag == "line" and item.get("class") == "deft-mark"]
    assert all(44 <= place <= 560 for place in places)
    assert places == sorted(places)
