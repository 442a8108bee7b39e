import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from deft_llm.evaluation import practice
from deft_llm.evaluation.me_lvqa import KINDS, asked_for
from deft_llm.evaluation.me_vqa import read_questions


@pytest.fixture
def small(monkeypatch):
    """Videos of strong micro-expressions without disturbances."""
    plain = replace(practice.PRESET.disturbances, talking=0.0, turn=0.0, blinks=0.0)
    short = {"rise": (0.08, 0.2), "fall": (0.08, 0.2), "expressions": (2, 2)}
    settings = {**short, "intensities": {"D": 1.0}, "disturbances": plain}
    monkeypatch.setattr(practice, "PRESET", replace(practice.PRESET, **settings))
    monkeypatch.setattr(practice, "TRAINING_VIDEOS", 6)


def test_training_videos_are_answers_only_and_other_videos():
    drawn = [practice.draw_video(index, None) for index in range(30)]
    assert practice.draw_video(3, None) == drawn[3]
    assert len({video.events for video in drawn}) == 30
    kinds = {event.kind for video in drawn for event in video.events}
    assert kinds == set(KINDS)
    for video in drawn:
        counts = {asked_for(item.question)[0]: item.answer for item in video.questions}
        assert int(counts["events"]) == len(video.events) == int(counts["micro"]) + int(counts["macro"])
        assert len({item.question for item in video.questions}) == len(video.questions)


def test_the_practice_set_is_answered_scored_and_written(small, tmp_path):
    out = tmp_path / "out"
    figures = practice.practise(out, videos=1, workers=1)
    assert json.loads((out / "megc.json").read_text(encoding="utf-8")) == json.loads(json.dumps(figures))
    asked = read_questions(out / "me_lvqa_practice_test_to_answer.jsonl")
    assert all(item.answer is None for item in asked)
    right = read_questions(out / "me_lvqa_practice_test_answers.jsonl")
    said = read_questions(out / "me_lvqa_practice_test_pred.jsonl")
    assert [item.question for item in asked] == [item.question for item in right] == [item.question for item in said]
    assert all((out / "videos" / f"{item.video}.mp4").is_file() for item in asked)
    trained = read_questions(out / "me_lvqa_practice_train.jsonl")
    assert not {item.video for item in trained} & {item.video for item in asked}
    # Strong expressions of a face that does nothing else are all found.
    assert figures["answers"]["mae_events"] == 0
    assert figures["strs"]["f1_spot"] == 1
    assert set(figures["per_video"]) == {item.video for item in asked}
    console = Console(file=StringIO(), width=200)
    console.print(practice.practice_table(figures))
    text = console.file.getvalue()
    assert "The floors see no video" in text
    assert f"{figures['answers']['f1_units']:.3f}" in text
    with pytest.raises(FileExistsError):
        practice.practise(out, videos=1, workers=1)
