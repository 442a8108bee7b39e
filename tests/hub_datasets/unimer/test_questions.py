import re
from collections import defaultdict

import pytest

from deft_llm.hub_datasets.unimer.answer_parsing import TASKS, convention_in, region_in, unit_in
from deft_llm.hub_datasets.unimer.questions import QUESTIONS, TURN_TASKS, emotion_in, task_of_turn, wording_of
from tests.hub_datasets.unimer.written_sentences import sentences

DECIDED_BY_CONVENTION = (
    "explain emotion emotion_coarse me_vqa_coarse me_vqa_fine me_vqa_combined could_be why_not".split()
)


def test_every_task_has_questions():
    assert set(QUESTIONS) == set(TASKS)


def test_every_task_asks_in_many_ways_and_names_the_convention_where_it_decides():
    for task, questions in QUESTIONS.items():
        assert len(set(questions)) == len(questions)
        if not task.startswith("me_vqa"):
            assert len(questions) >= 8, task
        for question in questions:
            decides = any(question in QUESTIONS[name] for name in DECIDED_BY_CONVENTION)
            assert ("{convention}" in question) == decides, question
            filled = question.format(
                convention="CAS(ME)^3",
                unit="AU12 (lip corner puller)",
                name="lip corner puller",
                side="left",
                region="lower lid",
                emotion="fear",
                options="fear, anger or disgust",
            )
            assert convention_in(filled) == ("CAS(ME)^3" if decides else None)
            if "{unit}" in question or "{name}" in question:
                assert unit_in(filled) == "AU12"
            if "{region}" in question:
                assert region_in(filled) == ("lower lid", "left")


def test_the_wording_of_every_written_question_is_found():
    found = defaultdict(set)
    for _, task, question, _ in sentences(10_000, seed=6):
        place = wording_of(task, question)
        # The words of the wording are those of the question, in their order.
        assert re.search(".*".join(map(re.escape, re.split("{.+?}", QUESTIONS[task][place]))), question)
        found[task].add(place)
    assert {task: len(places) for task, places in found.items()} == {
        task: len(forms) for task, forms in QUESTIONS.items()
    }


def test_each_wording_is_told_from_the_others():
    filled = {
        "convention": "CAS(ME)^3",
        "unit": "AU12 (lip corner puller)",
        "name": "lip corner puller",
        "side": "left",
        "region": "lower lid",
        "emotion": "fear",
        "options": "fear, anger or disgust",
    }
    for task, forms in QUESTIONS.items():
        assert [wording_of(task, form.format(**filled)) for form in forms] == list(range(len(forms)))


def test_a_question_of_another_wording_or_task_is_refused():
    question = "Does the face show AU12 (lip corner puller)?"
    assert wording_of("action_unit_presence", question) == 5
    for task, other in (
        ("side", question),
        ("action_unit_presence", f"{question} "),
        ("action_unit_presence", "Does the face show AU99 (lip corner puller)?"),
    ):
        with pytest.raises(ValueError, match="none of the wordings of the task"):
            wording_of(task, other)
    with pytest.raises(ValueError, match="Unknown task 'colour'"):
        wording_of("colour", question)


def test_the_task_and_the_emotion_of_a_turn():
    assert not set(TURN_TASKS) - set(TASKS)
    wordings = [form for task in TURN_TASKS for form in QUESTIONS[task]]
    assert len(set(wordings)) == len(wordings) == len(QUESTIONS["several_turns"])
    for _, task, question, _ in sentences(4000, seed=8):
        if task in TURN_TASKS:
            assert task_of_turn(question) == task
        if task in ("could_be", "why_not", "class_of_emotion"):
            assert f"{emotion_in(question)} " in f"{question} ".replace("?", " ").replace(".", " ").replace(",", " ")
    with pytest.raises(ValueError, match="none of the wordings of emotion"):
        task_of_turn("Is it anger?")
    with pytest.raises(ValueError, match="Expected an emotion"):
        emotion_in("Is it anger?")
