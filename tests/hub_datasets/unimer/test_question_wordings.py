import pytest

from deft_llm.hub_datasets.unimer.answer_parsing import convention_in, region_in, unit_in
from deft_llm.hub_datasets.unimer.question_wordings import QUESTIONS, wording_of
from tests.hub_datasets.unimer.written_sentences import sentences


def test_every_task_asks_in_many_ways_and_names_the_convention_where_it_decides():
    for task, questions in QUESTIONS.items():
        assert len(set(questions)) == len(questions)
        if not task.startswith("me_vqa"):
            assert len(questions) >= 8, task
        for question in questions:
            decides = task in "explain emotion emotion_coarse me_vqa_coarse me_vqa_fine me_vqa_combined".split()
            assert ("{convention}" in question) == decides, question
            filled = question.format(
                convention="CAS(ME)^3",
                unit="AU12 (lip corner puller)",
                name="lip corner puller",
                side="left",
                region="lower lid",
            )
            assert convention_in(filled) == ("CAS(ME)^3" if decides else None)
            if "{unit}" in question or "{name}" in question:
                assert unit_in(filled) == "AU12"
            if "{region}" in question:
                assert region_in(filled) == ("lower lid", "left")


def test_the_wording_of_a_written_question_is_found_and_only_that():
    seen = set()
    for _, task, question, _ in sentences(3000, seed=2):
        index = wording_of(task, question)
        seen.add((task, index))
        fields = dict.fromkeys(("convention", "unit", "name", "side", "region"), "…")
        fixed = QUESTIONS[task][index].format(**fields).split("…")
        assert all(part in question for part in fixed)
        others = [wording for wording in QUESTIONS[task] if wording != QUESTIONS[task][index]]
        assert not any(all(part in question for part in other.format(**fields).split("…")) for other in others)
    assert len(seen) > 60
    with pytest.raises(ValueError, match="'What now\\?' has none of the wordings of the task side"):
        wording_of("side", "What now?")
