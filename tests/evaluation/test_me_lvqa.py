import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from deft_llm.evaluation import me_lvqa
from deft_llm.evaluation.me_lvqa import (
    KINDS,
    Event,
    answer,
    answer_long_questions,
    asked_for,
    compared,
    is_long,
    majority_answers,
    prior_answers,
    recognise_by_rule,
    recognise_with,
    score_long_answers,
    timeline,
    units_in,
)
from deft_llm.evaluation.me_vqa import Question, read_questions, write_submission
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import AlignedClip

MICRO, MACRO = KINDS
TEXTS = {
    "events": "How many expression events appear in this video?",
    "micro": "How many micro-expression events appear in this video?",
    "macro": "How many macro-expression events appear in this video?",
    "units": "What distinct action units appear in this video?",
    "2": "What is the expression type of the 2-th expression event in this video?",
}
EVENTS = [
    Event(10, 20, 30, MICRO, ("AU12",)),
    Event(60, 120, 200, MACRO, ("AU4", "AU12")),
    Event(300, 310, 330, MICRO),
]


def about(video, **answers):
    """Questions about a video with these answers, by the keys of `TEXTS`."""
    return [Question(f"{video}_{key}", video, TEXTS[key.removeprefix("_")], text) for key, text in answers.items()]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """A rendered video with a micro- and a macro-expression."""
    rng = np.random.default_rng(5)
    shown = [
        Expression((UnitRequest("AU12", "both", 0.02),), 60, 78, 96),
        Expression((UnitRequest("AU4", "both", 0.02),), 190, 230, 270),
    ]
    clip = render_clip(render_face(rng, size=160), shown, rng, count=360, fps=100.0)
    path = tmp_path_factory.mktemp("long") / "made_up_1.mp4"
    path.write_bytes(encode_mp4(clip))
    return path


def test_questions_are_told_apart_by_their_words():
    assert [asked_for(text) for text in TEXTS.values()] == [
        ("events", 0),
        ("micro", 0),
        ("macro", 0),
        ("units", 0),
        ("kind", 2),
    ]
    assert asked_for("What is the expression type of the 10-th expression event in this video?") == ("kind", 10)
    assert asked_for("What is the coarse expression class?") is None


def test_a_file_is_about_long_videos_or_about_clips():
    clip = Question("c_1", "c", "What is the coarse expression class?")
    assert is_long(about("v", events="3"))
    assert not is_long([clip])
    with pytest.raises(ValueError, match=r"c_1: .*not a question about a long video"):
        is_long([*about("v", events="3"), clip])


@pytest.mark.parametrize(
    ("key", "events", "expected"),
    [
        ("events", EVENTS, "3"),
        ("micro", EVENTS, "2"),
        ("macro", EVENTS, "1"),
        ("units", EVENTS, "brow lowerer, lip corner puller"),
        ("2", EVENTS, MACRO),
        ("2", EVENTS[:1], MICRO),  # not spotted: as most of those that were
        ("2", [], MACRO),
        ("units", [], "none"),
        ("events", [], "0"),
    ],
)
def test_answers_are_read_from_the_timeline(key, events, expected):
    (question,) = about("v", **{f"_{key}": None})
    assert answer(question, events) == expected


def test_the_file_of_the_track_is_kept_but_for_the_answers(tmp_path, long_video):
    """A made-up twin of the public test file."""
    lines = [
        {"video_id": f"samm_test_made_up_1_{place}", "video": "made_up_1", "question": text, "answer": ""}
        for place, text in enumerate(TEXTS.values(), 1)
    ]
    source = tmp_path / "q.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    questions = read_questions(source)
    answers = answer_long_questions(questions, long_video.parent)
    write_submission(tmp_path / "pred.jsonl", questions, answers)
    written = [json.loads(line) for line in (tmp_path / "pred.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{**line, "answer": ""} for line in written] == lines
    assert [list(line) for line in written] == [list(line) for line in lines]  # in the order of the fields
    assert [line["answer"] for line in written] == ["2", "1", "1", "brow lowerer, lip corner puller", MACRO]


def test_a_timeline_has_what_is_shown(long_video, model, processor):
    events = timeline(AlignedClip.open(str(long_video)), partial(recognise_by_rule, convention="synthetic"))
    assert [event.kind for event in events] == [MICRO, MACRO]
    assert [event.action_units for event in events] == [("AU12",), ("AU4",)]
    assert [event.emotion for event in events] == ["happiness", "anger"]
    for event, apex in zip(events, (78, 230), strict=True):
        assert abs(event.apex - apex) <= 6
    # An untrained model recognises anything, but what the motion does not bear out is not said.
    for event in timeline(AlignedClip.open(str(long_video)), recognise_with(model, processor)):
        assert set(event.action_units) <= set(processor.action_units)


def test_the_face_is_placed_where_each_expression_begins(long_video):
    """In a long video, the face may be elsewhere than in the first frame."""
    seen = []

    def recognise(clip):
        seen.append((clip.placed_in, clip.key_frames.onset))
        return [], None

    events = timeline(AlignedClip.open(str(long_video)), recognise)
    assert seen == [(event.onset, event.onset) for event in events]
    assert len(seen) == 2


def test_a_run_goes_on_from_the_timelines_that_are_there(long_video, tmp_path, monkeypatch):
    questions, keep = about(long_video.name, events=None, units=None), tmp_path / "timelines"
    asked = {"keep": keep, "settings": {"model": None}}
    first = answer_long_questions(questions, long_video.parent, **asked)
    (path,) = keep.iterdir()
    written = path.read_text(encoding="utf-8")
    made = []
    monkeypatch.setattr(me_lvqa, "timeline", lambda clip, recognise: made.append(clip.name) or list(EVENTS))
    assert answer_long_questions(questions, long_video.parent, **asked) == first
    assert made == []
    assert path.read_text(encoding="utf-8") == written
    asked["settings"] = {"model": ["folder", me_lvqa.stamp(path)]}
    assert answer_long_questions(questions, long_video.parent, **asked)[0] == "3"
    assert len(made) == 1
    kept = json.loads(path.read_text(encoding="utf-8"))["events"]
    assert [Event(**{**event, "action_units": tuple(event["action_units"])}) for event in kept] == EVENTS


def test_a_video_that_is_missing_is_named_before_any_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: it does not exist; --videos must be the folder"):
        answer_long_questions(about("gone", events=None), tmp_path)
    for suffix in ("avi", "mp4"):
        (tmp_path / f"twice.{suffix}").touch()
    with pytest.raises(FileNotFoundError, match="2 files have this name"):
        answer_long_questions(about("twice", events=None), tmp_path)


def test_scores_by_hand():
    questions = [
        *about("a", events="3", units="brow lowerer, lip corner puller", _2=MICRO),
        *about("b", events="5", units="none", _2=MACRO),
    ]
    answers = ["5", "AU12", "It is a micro-expression.", "4 events", "none", "Micro-expression"]
    figures = score_long_answers(questions, answers)
    assert figures["exact_match"] == pytest.approx(2 / 6)
    assert figures["mae_events"] == pytest.approx(1.5)
    assert figures["rmse_events"] == pytest.approx(np.sqrt((4 + 1) / 2))
    assert figures["mae_micro"] is None
    assert figures["f1_units"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["jaccard_units"] == pytest.approx((1 / 2 + 1) / 2)
    assert figures["uf1_kind"] == pytest.approx((2 / 3 + 0) / 2)
    assert figures["uar_kind"] == pytest.approx(1 / 2)
    right = [item.answer for item in questions]
    assert score_long_answers(questions, right)["exact_match"] == 1


def test_an_answer_that_names_both_kinds_or_no_number_is_wrong():
    questions = about("a", _2=MICRO, events="2")
    figures = score_long_answers(questions, ["micro-expression or macro-expression", "several"])
    assert (figures["uf1_kind"], figures["mae_events"]) == (0, 2)


def test_references_that_cannot_be_read_are_named():
    with pytest.raises(ValueError, match="the reference 'both' is neither micro-expression nor macro-expression"):
        score_long_answers(about("a", _2="both"), [MICRO])
    with pytest.raises(ValueError, match="does not have a reference answer"):
        score_long_answers(about("a", events=None), ["1"])


def test_units_are_known_by_name_and_by_code():
    assert units_in("Brow lowerer, AU12, something else.") == {"AU4", "AU12", "something else"}
    assert units_in("none") == frozenset()


TRAINING = [
    *about("t1", events="2", units="brow lowerer", _2=MACRO),
    *about("t2", events="2", units="brow lowerer, chin raiser", _2=MACRO),
    *about("t3", events="9", units="lip corner puller", _2=MICRO),
]


def test_floors_know_the_training_answers_and_nothing_else():
    questions = about("a", events="3", units="brow lowerer", _2=MICRO)
    assert prior_answers(TRAINING, questions) == ["2", "brow lowerer", MACRO]
    assert majority_answers(TRAINING, questions) == ["2", "brow lowerer", MACRO]
    blind = [replace(item, answer=None) for item in questions]
    assert prior_answers(TRAINING, blind) == prior_answers(TRAINING, questions)


@pytest.mark.parametrize("floor", [prior_answers, majority_answers])
def test_a_leak_of_test_answers_is_refused(floor):
    questions = about("a", events="3")
    with pytest.raises(ValueError, match="1 videos are in the training file and in the questions, such as a"):
        floor([*TRAINING, *questions], questions)
    with pytest.raises(ValueError, match="does not answer questions like 'How many micro"):
        floor(TRAINING, about("a", micro="1"))


def test_the_gain_over_a_floor_has_an_interval_over_videos():
    questions = [
        item
        for place in range(12)
        for item in about(f"v{place}", events=str(place % 5), units="brow lowerer", _2=KINDS[place % 2])
    ]
    right = [item.answer for item in questions]
    floor = ["2" if asked_for(item.question)[0] == "events" else item.answer for item in questions]
    gains = compared(questions, right, floor)
    gain, low, high = gains["mae_events"]
    assert gain == pytest.approx(np.mean([abs(place % 5 - 2) for place in range(12)]))
    assert 0 < low < gain < high
    assert gains["f1_units"] == (0, 0, 0)
