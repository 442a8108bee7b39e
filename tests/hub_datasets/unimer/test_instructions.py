import os
import re
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from deft_llm.hub_datasets.unimer.answer_parsing import EMOTIONS, TASKS, parse_facts, unit_in
from deft_llm.hub_datasets.unimer.constraints import (
    CONTRADICTED,
    NOT_TESTABLE,
    NOT_VISIBLE,
    SUPPORTED,
    Judgement,
)
from deft_llm.hub_datasets.unimer.instructions import (
    accept_facts,
    clip_generator,
    conversations_of,
    facts_of,
    write_answer,
)
from deft_llm.hub_datasets.unimer.questions import QUESTIONS, emotion_in, task_of_turn
from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES, get_action_unit
from deft_llm.processing.motion_evidence import DIRECTIONS, NO_DIRECTION, octants_apart
from tests.hub_datasets.unimer.written_sentences import (
    expected_facts,
    measured,
    random_clip,
    says_what_it_should,
    sentences,
)
from tests.processes import output_of


def judged(code, side, motions) -> Judgement:
    """A label judged by its unit's first region alone: supported if that region moves as expected on every side."""
    unit = get_action_unit(code)
    if not unit.testable:
        return Judgement(code, side, "", NOT_TESTABLE, 0.0)
    expected, sides = unit.motions[0], SIDES if side == "both" else (side,)
    moving = [m for m in motions if m.region == expected.region and m.side in sides and m.significant]
    apart = [octants_apart(item.direction, expected.phrase) for item in moving]
    verdict = SUPPORTED if len(moving) == len(sides) and None not in apart else NOT_VISIBLE
    if any(steps is not None and steps > 1 for steps in apart):
        verdict = CONTRADICTED
    strongest = max(moving, key=lambda item: item.magnitude, default=None)
    magnitude = sum(item.magnitude for item in moving) / max(len(moving), 1)
    direction = strongest.direction if strongest else ""
    return Judgement(code, side, expected.region, verdict, float(verdict == SUPPORTED), magnitude, direction)


BROWS_UP = measured(inner_brow_left=("up", 0.9), inner_brow_right=("up", 0.7), outer_brow_left=("up", 0.6))


def accepted(labels, motions, emotion="surprise", coarse="surprise", convention="casme2", **more):
    judgements = [judged(code, side, motions) for code, side in labels]
    return accept_facts(judgements, motions, emotion=emotion, emotion_coarse=coarse, convention=convention, **more)


def asked(facts, seed=0) -> dict[str, list[tuple[str, str]]]:
    """(question, answer) by task."""
    found = defaultdict(list)
    for item in conversations_of(facts, np.random.default_rng(seed)):
        for user, assistant in zip(item["messages"][::2], item["messages"][1::2], strict=True):
            found[item["task"]].append((user["content"][-1]["text"], assistant["content"][0]["text"]))
    return found


def test_twenty_thousand_answers_say_the_accepted_facts_and_nothing_else():
    """Every task, unit, side, direction and region occurs; what is expected comes from the labels, not the writer."""
    tasks, facts = Counter(), set()
    for clip, task, question, answer in sentences(20_000, seed=1):
        assert says_what_it_should(clip, task, question, answer), (task, question, answer)
        tasks[task] += 1
        facts |= expected_facts(clip, task, question)
    assert set(tasks) == set(TASKS)
    assert min(tasks.values()) > 300
    evidence = [fact for fact in facts if fact[0] == "evidence"]
    assert {fact[1] for fact in evidence} == set(ACTION_UNITS)
    assert {fact[2] for fact in evidence} == {"both", "left", "right"}
    assert {fact[3] for fact in evidence} == set(REGIONS)
    assert {fact[4] for fact in evidence} == set(DIRECTIONS)
    assert {fact[3] for fact in facts if fact[0] == "motion"} == {*DIRECTIONS, NO_DIRECTION}
    assert len({fact[4] for fact in facts if fact[0] == "motion"}) > 40
    assert {fact[1] for fact in facts if fact[0] == "emotion"} == EMOTIONS
    assert ("insufficient motion",) in facts


def test_answers_come_in_several_forms():
    forms = defaultdict(set)
    facts = accepted([("AU1", "both"), ("AU2", "left")], BROWS_UP)
    for seed in range(200):
        for task, pairs in asked(facts, seed).items():
            forms[task] |= {answer for _, answer in pairs}
    for task in ("explain", "emotion", "emotion_coarse", "action_units", "side", "region_motion", "motions"):
        assert len(forms[task]) >= 3, task


def test_the_questions_of_the_me_vqa_track_word_for_word():
    one = asked(accepted([("AU1", "both")], BROWS_UP))
    two = asked(accepted([("AU1", "both"), ("AU2", "left")], BROWS_UP, emotion="Surprise"))
    line = "Label convention: casme2\n"
    assert one["me_vqa_coarse"] == [(line + "What is the coarse expression class?", "surprise")]
    assert two["me_vqa_fine"] == [(line + "What is the fine-grained expression class?", "Surprise")]
    assert one["me_vqa_action_units"] == [("What is the action unit?", "inner brow raiser")]
    assert two["me_vqa_action_units"] == [("What are the action units?", "inner brow raiser, outer brow raiser")]
    assert two["me_vqa_side"] == [("Is the action unit outer brow raiser located on the left or right face?", "left")]
    assert "me_vqa_side" not in one
    assert ("Is the action unit inner brow raiser shown on the face?", "yes") in one["me_vqa_presence"]
    assert one["me_vqa_combined"] == [
        (
            line + "What is the action unit present, and based on it, what is the fine-grained expression and the "
            "coarse expression class?",
            "The action unit present is: inner brow raiser. Therefore, the fine-grained expression class is surprise, "
            "and the coarse expression class is surprise.",
        )
    ]
    assert two["me_vqa_combined"] == [
        (
            line + "What are the action units present, and based on them, what is the fine-grained expression and "
            "the coarse expression class?",
            "The action units present are: inner brow raiser, outer brow raiser. Therefore, the fine-grained "
            "expression class is Surprise, and the coarse expression class is surprise.",
        )
    ]


def test_what_a_clip_lacks_is_not_asked():
    everything = set(asked(accepted([("AU1", "left")], BROWS_UP)))
    assert everything == set(TASKS)
    no_emotion = set(asked(accepted([("AU1", "left")], BROWS_UP, emotion=None)))
    assert everything - no_emotion == {
        "explain",
        "emotion",
        "me_vqa_fine",
        "me_vqa_combined",
        "could_be",
        "why_not",
    }
    no_coarse = set(asked(accepted([("AU1", "left")], BROWS_UP, coarse=None)))
    assert everything - no_coarse == {"emotion_coarse", "me_vqa_coarse", "me_vqa_combined"}
    # AU14 cannot be tested in the image plane: a list of all action units would hold an unaccepted one.
    partly = asked(accepted([("AU1", "left"), ("AU14", "both")], BROWS_UP))
    assert everything - set(partly) == {"me_vqa_action_units", "me_vqa_combined"}
    assert "AU14" not in str(dict(partly))
    assert "dimpler" not in str(dict(partly))


def test_an_emotion_stands_on_motion_that_agrees():
    """Where labels and motion disagree, only the motion is left; a source without units has its emotion kept."""
    disagree = asked(accepted([("AU4", "both")], BROWS_UP, emotion="anger", coarse="negative"))
    always = {"region_motion", "motions", "expected_motion", "class_of_emotion", "several_turns"}
    assert set(disagree) == always
    turns = [
        (task_of_turn(question) if task == "several_turns" else task, answer)
        for task, pairs in disagree.items()
        for question, answer in pairs
    ]
    assert "anger" not in str([answer for task, answer in turns if task != "class_of_emotion"])
    without_units = asked(accepted([], BROWS_UP, emotion=None, coarse="negative"))
    assert set(without_units) == {"emotion_coarse", "me_vqa_coarse"} | always
    unlabelled = asked(accepted([], BROWS_UP, emotion=None, coarse=None))
    assert set(unlabelled) == {"explain"} | always
    ((_, answer),) = unlabelled["explain"]
    assert answer.startswith("Class: insufficient motion\nEvidence: none\nRationale: What moves is not enough")


@pytest.mark.parametrize("labels", [[], [("AU4", "both")], [("AU14", "left")]])
def test_a_still_clip_is_answered_with_insufficient_motion(labels):
    facts = accepted(labels, measured(), emotion="anger", coarse="negative")
    for seed in range(30):
        pairs = asked(facts, seed)
        assert set(pairs) == {task for task in TASKS if not task.startswith("me_vqa")}
        for task, answers in pairs.items():
            for question, answer in answers:
                turn = task_of_turn(question) if task == "several_turns" else task
                assert ("insufficient motion" in answer) == (turn not in ("expected_motion", "class_of_emotion"))
                assert turn == "class_of_emotion" or "anger" not in answer


def test_yes_is_as_frequent_as_no_and_no_is_certain():
    rng = np.random.default_rng(5)
    said = Counter()
    for _ in range(600):
        clip = random_clip(rng)
        facts = accept_facts(
            clip.judgements, clip.motions, emotion=clip.emotion, emotion_coarse=clip.emotion_coarse, convention="samm"
        )
        named = {item.code for item in clip.judgements}
        measured = {(item.region, item.side): item for item in clip.motions}
        explained = {(item.region, side) for item in clip.supported.values() for side in SIDES}
        for task in ("action_unit_presence", "me_vqa_presence"):
            for question, answer in asked(facts, int(rng.integers(1000)))[task]:
                if "insufficient" in answer:
                    continue
                code = unit_in(question)
                ((_, _, polarity),) = parse_facts(task, question, answer)
                said[task, polarity] += 1
                assert (polarity == "present") == (code in clip.supported)
                if polarity == "absent":
                    assert code not in named
                    expected = get_action_unit(code).motions[0]
                    for side in SIDES:
                        item = measured[expected.region, side]
                        if item.significant:
                            assert octants_apart(item.direction, expected.phrase) >= 3
                            assert (expected.region, side) in explained
    for task in ("action_unit_presence", "me_vqa_presence"):
        assert said[task, "present"] == said[task, "absent"] > 100


def test_a_unit_is_absent_only_where_label_and_motion_agree_on_it():
    facts = accepted([("AU1", "both"), ("AU14", "both"), ("AU5", "left")], BROWS_UP, also_named=["AU12"])
    assert "AU4" in facts.absent  # the inner brows go up, which AU1 explains: they are not lowered
    assert not {"AU1", "AU5", "AU14", "AU12"} & set(facts.absent)  # labelled, or an alternative of the sheet
    assert "AU2" not in facts.absent  # the left outer brow rises, and nobody labelled it
    assert {"AU9", "AU15", "AU17"} <= set(facts.absent)  # neither labelled nor moving
    unexplained = accepted([], BROWS_UP)
    assert "AU4" not in unexplained.absent  # something moves there, and no label says what


def test_left_and_right_labels_of_one_unit_are_one_on_both_sides():
    facts = accepted([("AU1", "left"), ("AU1", "right")], BROWS_UP)
    assert [(item.code, item.side) for item in facts.units] == [("AU1", "both")]
    assert facts.units[0].magnitude == pytest.approx(0.8)
    assert len(accepted([("AU1", "left"), ("AU1", "left")], BROWS_UP).units) == 1
    assert accepted([("AU1", "left"), ("AU1", "both")], BROWS_UP).units[0].side == "both"


def test_a_side_is_not_asked_where_the_other_ones_label_is_not_supported():
    facts = accepted([("AU2", "left"), ("AU2", "right")], BROWS_UP)
    assert [(item.code, item.side) for item in facts.units] == [("AU2", "left")]
    assert not {"side", "me_vqa_side"} & set(asked(facts))
    with pytest.raises(ValueError, match="do not answer"):
        facts_of("side", "Where is AU2 (outer brow raiser): left, right or both sides?", facts)


@pytest.mark.parametrize("verdict", [CONTRADICTED, NOT_VISIBLE, NOT_TESTABLE])
def test_only_supported_labels_are_accepted(verdict):
    item = Judgement("AU1", "both", "inner brow", SUPPORTED, 1.0, 0.9, "up")
    common = {"emotion": "surprise", "emotion_coarse": "surprise", "convention": "casme2"}
    assert accept_facts([item], BROWS_UP, **common).units == (item,)
    facts = accept_facts([replace(item, verdict=verdict)], BROWS_UP, **common)
    assert (facts.units, facts.emotion, facts.emotion_coarse, facts.all_supported) == ((), None, None, False)


def _texts(clip_ids):
    facts = accepted([("AU1", "both"), ("AU2", "left")], BROWS_UP)
    return {clip_id: conversations_of(facts, clip_generator(clip_id, 7)) for clip_id in clip_ids}


def test_a_clips_text_depends_on_its_name_and_the_seed_alone():
    names = [f"casme2/sub{index:02d}/EP01" for index in range(12)]
    alone = _texts(names)
    assert len({str(conversations) for conversations in alone.values()}) == len(names)
    assert _texts(names[::-2])[names[3]] == alone[names[3]]
    assert clip_generator(names[0], 8).random() != clip_generator(names[0], 7).random()


def test_another_process_writes_the_same():
    """Sets of strings are in another order there."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from tests.hub_datasets.unimer.written_sentences import sentences\n"
        "print(*(row[1:] for row in sentences(300, seed=4)), sep='\\n')"
    )
    told = output_of([sys.executable, "-c", code, *sys.path], env={**os.environ, "PYTHONHASHSEED": "1"})
    assert told.splitlines() == [str(row[1:]) for row in sentences(300, seed=4)]


def test_a_fact_more_leaves_the_other_tasks_words_alone():
    with_coarse = asked(accepted([("AU1", "both")], BROWS_UP))
    without = asked(accepted([("AU1", "both")], BROWS_UP, coarse=None))
    del without["several_turns"]  # its turns are drawn from all that is known
    assert {task: with_coarse[task] for task in without} == without


def test_a_task_more_leaves_the_other_tasks_words_alone(monkeypatch):
    facts = accepted([("AU1", "both"), ("AU2", "left")], BROWS_UP)
    every = asked(facts)
    stated = {"could_be", "why_not", "expected_motion", "class_of_emotion", "several_turns"}
    fewer = tuple(task for task in TASKS if task not in stated)
    monkeypatch.setattr("deft_llm.hub_datasets.unimer.instructions.TASKS", fewer)
    assert len(fewer) == 14
    assert asked(facts) == {task: every[task] for task in fewer}


def test_what_could_be_and_why_not():
    """AU15 alone, by a convention with prototypes of its own and by one without."""
    own = accepted([("AU15", "both")], measured(mouth_corner_left=("down", 0.9), mouth_corner_right=("down", 0.8)))
    own = replace(own, convention="synthetic", emotion="sadness", emotion_coarse="negative")
    answers = defaultdict(set)
    for seed in range(100):
        for task, pairs in asked(own, seed).items():
            if task in ("could_be", "why_not"):
                answers[task] |= {(emotion_in(question), answer) for question, answer in pairs}
    by = "by the convention of synthetic"
    other = f"It is sadness {by}, and it could not be"
    assert answers["could_be"] == {
        ("sadness", f"It is sadness {by}."),
        ("negative", f"It is negative {by}."),
        ("happiness", f"{other} happiness {by}: AU12 (lip corner puller) is not visible in the motion."),
        ("positive", f"{other} positive {by}: AU12 (lip corner puller) is not visible in the motion."),
        ("surprise", f"{other} surprise {by}: AU2 (outer brow raiser) is not visible in the motion."),
        ("disgust", f"{other} disgust {by}: AU9 (nose wrinkler) is not visible in the motion."),
        ("anger", f"{other} anger {by}: AU4 (brow lowerer) is not visible in the motion."),
    }
    excluded = {"happiness", "positive", "surprise", "disgust", "anger"}
    assert {emotion for emotion, _ in answers["why_not"]} == excluded
    assert (
        "disgust",
        f"It is not disgust {by}: AU9 (nose wrinkler) would move the nose wing up, the nose root up and the upper lip "
        "up, and the motion does not show it.",
    ) in answers["why_not"]
    facs = replace(own, convention="casme2")
    for emotion, sentence in (
        ("sadness", "It is sadness by the convention of casme2."),
        (
            "disgust",
            "It is sadness by the convention of casme2, and it could be disgust by the prototypes of FACS: AU15 (lip "
            "corner depressor) is visible in the motion.",
        ),
        ("anger", "The clip does not show that."),  # AU23 cannot be seen in the motion
        ("repression", "The clip does not show that."),
    ):
        question = QUESTIONS["could_be"][0].format(emotion=emotion, convention="casme2")
        written = write_answer("could_be", question, facts_of("could_be", question, facs), facs, None)
        assert written.startswith(sentence)


def test_conversations_have_the_rows_form():
    for item in conversations_of(accepted([("AU1", "both")], BROWS_UP), np.random.default_rng(0)):
        assert set(item) == {"task", "messages"}
        turns = len(item["messages"]) // 2
        assert turns in ((2, 3, 4) if item["task"] == "several_turns" else (1,))
        assert [message["role"] for message in item["messages"]] == ["user", "assistant"] * turns
        first, *others = [message["content"] for message in item["messages"]]
        assert first[0] == {"type": "video", "text": None}
        assert [block["type"] for block in first] == ["video", "text"]
        assert [[block["type"] for block in content] for content in others] == [["text"]] * len(others)


def test_the_sources_own_word_is_kept_and_a_misleading_one_refused():
    joy = asked(accepted([("AU1", "both")], BROWS_UP, emotion="Schadenfreude"))
    assert "Class: Schadenfreude" in joy["explain"][0][1]
    with pytest.raises(ValueError, match="cannot be parsed"):
        asked(accepted([("AU1", "both")], BROWS_UP, emotion="left"))
    for convention in ("", "CASME II, updated", "a.b"):
        with pytest.raises(ValueError, match="label convention"):
            accepted([("AU1", "both")], BROWS_UP, convention=convention)


def test_facts_that_do_not_answer_a_question_are_not_made_up():
    facts = accepted([("AU1", "both")], BROWS_UP, emotion=None)
    for task, question in (
        ("emotion", "Which emotion is this by the convention of casme2?"),
        ("side", "Where is AU12 (lip corner puller): left, right or both sides?"),
        ("action_unit_presence", "Can AU2 (outer brow raiser) be seen in this clip?"),
        ("region_motion", "How does the chin on the left move?"),
    ):
        with pytest.raises(ValueError, match="do not answer"):
            facts_of(task, question, facts)


def test_one_sided_rationales_name_the_side():
    _, answer = asked(accepted([("AU1", "both"), ("AU2", "left")], BROWS_UP))["explain"][0]
    rationale = answer.splitlines()[-1]
    assert re.search("inner brows rise and the outer brows rise on the left", rationale)
