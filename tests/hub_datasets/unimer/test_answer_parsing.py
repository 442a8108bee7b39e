import re
from collections import Counter

import pytest

from deft_llm.hub_datasets.unimer.answer_parsing import EMOTIONS, TASKS, UnreadableAnswerError, parse_facts
from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, get_action_unit
from deft_llm.processing.motion_evidence import DIRECTIONS
from tests.hub_datasets.unimer.written_sentences import CONVENTIONS, sentences

_WORDS = {
    "side": ("left", "right", "both"),
    "direction": DIRECTIONS,
    "code": tuple(ACTION_UNITS),
    "name": tuple(unit.name for unit in ACTION_UNITS.values()),
    "unit": tuple(f"{unit.code} ({unit.name})" for unit in ACTION_UNITS.values()),
    "unit of a list": tuple(f"{unit.code} {unit.name}" for unit in ACTION_UNITS.values()),
    "action": tuple(unit.action for unit in ACTION_UNITS.values()),
    "region": REGIONS,
    "emotion": tuple(sorted(EMOTIONS)),
    "answer": ("yes", "no", "Yes", "No"),
    "convention": tuple(f"convention of {name}" for name in CONVENTIONS),
}
_PATTERNS = {
    kind: re.compile("|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in sorted(words, key=len)[::-1]))
    for kind, words in _WORDS.items()
}
_PATTERNS["number"] = re.compile(r"\d+\.\d")
_PATTERNS["no longer denied"] = re.compile(r"\bnot ")


def altered(answer: str, turn: int):
    """(kind, answer with one statement changed) for every statement in it."""
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(answer):
            if kind == "number":
                other = f"{float(match[0]) + (0.1, 1.0, 0.05)[turn % 3]:g}"
            elif kind == "no longer denied":
                other = ""
            else:
                words = [word for word in _WORDS[kind] if word.lower() != match[0].lower()]
                other = words[(turn * 7919) % len(words)]
            yield kind, answer[: match.start()] + other + answer[match.end() :]
    for verb in (" is ", " are ", " shows ", " show ", " moves ", " move "):
        if verb in answer:
            yield "denied", answer.replace(verb, f"{verb}not ", 1)


def test_every_altered_statement_is_read_as_something_else_or_refused():
    caught, tasks = Counter(), set()
    for turn, (clip, task, question, answer) in enumerate(sentences(4000, seed=3)):
        emotions = {word for word in (clip.emotion, clip.emotion_coarse) if word}
        facts = parse_facts(task, question, answer, emotions=emotions)
        for kind, changed in altered(answer, turn):
            try:
                read = parse_facts(task, question, changed, emotions=emotions)
            except UnreadableAnswerError:
                read = None
            assert read != facts, (task, kind, question, answer, changed)
            caught[kind, read is None] += 1
            tasks.add(task)
    assert tasks == set(TASKS)
    for kind in (*_PATTERNS, "denied"):
        assert caught[kind, True] + caught[kind, False] > 50, (kind, caught)
    # Not everything is refused: a changed fact is read as what it now says.
    for kind in ("side", "direction", "number", "emotion", "name", "unit of a list"):
        assert caught[kind, False] > 50, kind


PRESENCE = "Can AU4 (brow lowerer) be seen in this clip?"
SIDE = "Where is AU12 (lip corner puller): left, right or both sides?"
REGION = "How does the lower lid on the left move?"
EMOTION = "Which emotion is this by the convention of casme2?"
LIST = "Name every action unit that the motion shows."
MOTIONS = "Which regions of the face move most? Describe at most three."


@pytest.mark.parametrize(
    ("task", "question", "answer", "facts"),
    [
        ("emotion", EMOTION, "Disgust", {("emotion", "disgust")}),
        ("emotion", EMOTION, "Under the convention of casme2 the face shows disgust.", {("emotion", "disgust")}),
        ("action_unit_presence", PRESENCE, "Yes.", {("unit", "AU4", "present")}),
        ("action_unit_presence", PRESENCE, "No.", {("unit", "AU4", "absent")}),
        ("action_unit_presence", PRESENCE, "Yes, the brow lowerer is seen.", {("unit", "AU4", "present")}),
        ("action_unit_presence", PRESENCE, "No, it is not seen.", {("unit", "AU4", "absent")}),
        ("action_unit_presence", PRESENCE, "No, the brow lowerer (AU4) isn't visible.", {("unit", "AU4", "absent")}),
        ("side", SIDE, "The lip corner puller is bilateral.", {("side", "AU12", "both")}),
        ("side", SIDE, "On the subject's right side.", {("side", "AU12", "right")}),
        ("region_motion", REGION, "By 1.2 percent it shifts upwards.", {("motion", "lower lid", "left", "up", "1.2")}),
        (
            "region_motion",
            REGION,
            "The left lower lid moves laterally and up, 1.2 %.",
            {("motion", "lower lid", "left", "up and laterally", "1.2")},
        ),
        (
            "motions",
            MOTIONS,
            "A movement of 0.9 % is seen in the left cheek, upwards. The chin on the right moves 0.5 % down.",
            {("motion", "cheek", "left", "up", "0.9"), ("motion", "chin", "right", "down", "0.5")},
        ),
        ("action_units", LIST, "AU 4 and AU7.", {("unit", "AU4", "present"), ("unit", "AU7", "present")}),
        ("action_units", LIST, "Brow lowerer (AU4) is active.", {("unit", "AU4", "present")}),
    ],
)
def test_free_wording_is_read(task, question, answer, facts):
    assert parse_facts(task, question, answer) == facts


@pytest.mark.parametrize(
    ("task", "question", "answer", "reason"),
    [
        ("emotion", EMOTION, "It is not disgust.", "'not'"),
        ("emotion", EMOTION, "disgust or anger", "'or'"),
        ("emotion", EMOTION, "disgust, anger", "expected one emotion"),
        ("emotion", EMOTION, "Perhaps disgust.", "'Perhaps'"),
        ("emotion", EMOTION, "Disgust, and the person lies.", "'lies'"),
        ("emotion", EMOTION, "Disgust with AU4.", "does not ask for"),
        ("emotion", EMOTION, "By the convention of samm this is disgust.", "'convention'"),
        ("emotion", EMOTION, "nothing", "'nothing'"),
        ("emotion", EMOTION, "", "expected one emotion"),
        ("emotion_coarse", EMOTION, "disgust", "not a known emotion"),
        ("action_unit_presence", PRESENCE, "Yes, it is not seen.", "contradicts itself"),
        ("action_unit_presence", PRESENCE, "No, AU4 is visible.", "contradicts itself"),
        ("action_unit_presence", PRESENCE, "No, it is seen.", "contradicts itself"),
        ("action_unit_presence", PRESENCE, "No, AU4 is visible, nothing moves.", "denies"),
        ("action_unit_presence", PRESENCE, "No, AU4 is visible and the face does not move.", "denies"),
        ("action_unit_presence", PRESENCE, "No, AU4 is not absent.", "contradicts itself"),
        ("action_unit_presence", PRESENCE, "AU4 is seen.", "begins with neither"),
        ("action_unit_presence", PRESENCE, "Yes, AU7 is seen.", "about AU4"),
        ("side", SIDE, "On the left, not on the right.", "not"),
        ("side", SIDE, "left and right", "expected one side"),
        ("side", SIDE, "AU6 shows on the left.", "about AU12"),
        ("region_motion", REGION, "It moves up by 1.25 %.", "more than one decimal"),
        ("region_motion", REGION, "It moves up by -1.2 %.", "'-'"),
        ("region_motion", REGION, "It moves up by 1.2 pixels.", "'1'"),
        ("region_motion", REGION, "The right lower lid moves up by 1.2 %.", "left lower lid"),
        ("region_motion", REGION, "It moves slightly up by 1.2 %.", "'slightly'"),
        ("region_motion", REGION, "It moves up by 1.2 % and down by 0.4 %.", "expected one direction"),
        ("motions", MOTIONS, "The left cheek and the right chin move up by 0.9 %.", "expected one region"),
        ("motions", MOTIONS, "Both cheeks move up by 0.9 %.", "side of its own|motion of its own"),
        ("motions", MOTIONS, "left chin: up, 0.9 %; left chin: up, 0.8 %", "twice"),
        ("action_units", LIST, "AU4 lid tightener.", "two action units"),
        ("action_units", LIST, "Brow lowerer (AU7).", "two action units"),
        ("action_units", LIST, "AU4, AU4.", "twice"),
        ("action_units", LIST, "AU4 without AU7.", "'without'"),
        ("action_units", LIST, "AU99", "AU99"),
        ("action_units", LIST, "none", "'none'"),
        ("action_units", LIST, "insufficient motion, AU4", "does not ask for"),
        ("me_vqa_presence", "Is the action unit brow lowerer shown on the face?", "Yes.", "neither yes nor no"),
        ("me_vqa_action_units", "What is the action unit?", "brow lowerer, lid tightener", "does not answer"),
        ("class_of_emotion", "How is joy classed coarsely?", "Joy belongs to the coarse class positive.", "of joy"),
        ("class_of_emotion", "How is fear classed coarsely?", "Fear belongs to the coarse class positive.", "of fear"),
    ],
)
def test_what_is_not_certain_is_refused(task, question, answer, reason):
    with pytest.raises(UnreadableAnswerError, match=reason):
        parse_facts(task, question, answer)


EXPLAIN = "Explain the micro-expression by the convention of samm. Answer in three fields."
REPORT = (
    "Class: anger\n"
    "Evidence: AU4 brow lowerer, both sides, inner brow moves down and medially by 0.9 %\n"
    "Evidence: AU12 lip corner puller, left side, mouth corner moves up by 1.1 %\n"
    "Rationale: {}"
)
GOOD = "The brows lower and draw together and the lip corners pull up and out on the left; this is anger."


@pytest.mark.parametrize(
    "rationale",
    [
        GOOD,
        "By the convention of samm this is anger: brow lowerer, with the lip corner puller (AU12) on the left side.",
        "AU4 is seen on both sides together with AU12 on the left, which the samm convention reads as anger.",
    ],
)
def test_rationales_say_what_the_evidence_says(rationale):
    assert parse_facts("explain", EXPLAIN, REPORT.format(rationale)) == {
        ("emotion", "anger"),
        ("evidence", "AU4", "both", "inner brow", "down and medially", "0.9"),
        ("evidence", "AU12", "left", "mouth corner", "up", "1.1"),
    }


@pytest.mark.parametrize(
    "rationale",
    [
        GOOD.replace("anger", "disgust"),
        GOOD.replace("on the left", "on the right"),
        GOOD.replace(" on the left", ""),
        GOOD.replace("the lip corners pull up and out", "the lip corners drop"),
        GOOD.replace(" and the lip corners pull up and out on the left", ""),
        GOOD.replace("; this", " and the jaw drops; this"),
        GOOD.replace("this is anger", "this is not anger"),
        GOOD.replace("; this is anger", ""),
        GOOD.replace("anger", "strong anger"),
        GOOD.replace("this", "by the convention of casme2 this"),
    ],
)
def test_rationales_that_say_something_else_are_refused(rationale):
    with pytest.raises(UnreadableAnswerError):
        parse_facts("explain", EXPLAIN, REPORT.format(rationale))


def test_reports_that_abstain_give_neither_evidence_nor_a_made_up_reason():
    still = "Class: insufficient motion\nEvidence: none\nRationale: {}"
    reason = "No region of the face moves clearly above the noise of the clip."
    assert parse_facts("explain", EXPLAIN, still.format(reason)) == {("insufficient motion",), ("still",)}
    for answer in (
        still.format("The person hides something."),
        REPORT.format(reason).replace("anger", "insufficient motion"),
        still.format(reason).replace("insufficient motion", "anger"),
        "anger",
    ):
        with pytest.raises(UnreadableAnswerError):
            parse_facts("explain", EXPLAIN, answer)


def test_every_actions_sentence_and_name_is_its_own_unit():
    for unit in ACTION_UNITS.values():
        for text in (unit.action, unit.name, unit.code, f"{unit.name} ({unit.code})"):
            assert parse_facts("action_units", LIST, text) == {("unit", unit.code, "present")}, text
    assert parse_facts("action_units", LIST, "AD38") == {("unit", get_action_unit("AD38").code, "present")}


def test_unknown_tasks_and_questions_without_a_target_are_named():
    with pytest.raises(ValueError, match="Unknown task 'guess'"):
        parse_facts("guess", EMOTION, "disgust")
    with pytest.raises(ValueError, match="one action unit in the question"):
        parse_facts("side", "Where is it?", "left")
    with pytest.raises(ValueError, match="one region in the question"):
        parse_facts("region_motion", "How does it move?", "up, 0.9 %")
