import pytest

from deft_llm.hub_datasets.unimer.questions import QUESTIONS, TURN_TASKS
from deft_llm.processing.clip_statements import OPEN, class_of_emotion, knowledge, statements, statements_of_two
from deft_llm.processing.question_targets import MOST_STATEMENTS, answering, answers_of, asked_in
from tests.processing.test_clip_statements import SMILE, facts, motions

EMOTIONS = ("happiness", "surprise", "sadness", "disgust", "anger")
HERE = statements(facts({"AU12": "left"}, SMILE))


def answers(*questions, known=HERE):
    return [item.text for item in answering(known, questions, EMOTIONS)]


@pytest.mark.parametrize(
    ("question", "units", "regions", "emotions"),
    [
        ("Is AU9 there?", {"AU9"}, set(), set()),
        ("is there an au 12 or a brow lowerer", {"AU12", "AU4"}, set(), set()),
        ("Does the upper lip raiser show?", {"AU10"}, set(), set()),
        ("Could this be a smile?", {"AU12"}, set(), {"happiness"}),
        ("How does the left mouth corner move?", set(), {("mouth corner", "left")}, set()),
        (
            "Do the eyebrows move?",
            set(),
            {("inner brow", s) for s in ("left", "right")} | {("outer brow", s) for s in ("left", "right")},
            set(),
        ),
        ("Why not surprise?", set(), set(), {"surprise"}),
        ("Is he angry?", set(), set(), {"anger"}),
        ("What is it by the convention of surprise?", set(), set(), set()),
        ("Is the person lying?", set(), set(), set()),
    ],
)
def test_what_a_question_names(question, units, regions, emotions):
    asked = asked_in(question, EMOTIONS)
    assert (asked.units, asked.regions, asked.emotions) == (units, regions, emotions)


def test_a_unit_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="AU99"):
        asked_in("Is AU99 there?")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is AU9 there?", ["No, AU9 (nose wrinkler) is not visible in the motion."]),
        ("Does the face show AU12?", ["Yes, AU12 (lip corner puller) is visible in the motion, on the left side."]),
        ("Which side is AU12 on?", ["AU12 (lip corner puller) shows on the left side."]),
        ("Which side moved?", ["AU12 (lip corner puller) shows on the left side."]),
        ("What would you expect to see for AU9?", [knowledge("AU9")]),
        ("What does AU9 do?", [knowledge("AU9")]),
        ("Which action units are there?", ["The motion shows AU12 (lip corner puller)."]),
        ("Which emotion is it?", ["It is happiness by the convention of synthetic."]),
        ("Is it happiness, disgust or anger?", ["It is happiness by the convention of synthetic."]),
        ("Is it positive or negative?", ["The coarse class is positive by the convention of synthetic."]),
        ("Is anger positive or negative?", [class_of_emotion("anger")]),
        ("What is the coarse class of surprise?", [class_of_emotion("surprise")]),
        ("How strong is the brow lowerer?", ["No, AU4 (brow lowerer) is not visible in the motion."]),
        ("Did the left cheek move?", ["The left cheek does not move above the noise of the clip."]),
    ],
)
def test_the_answer_is_about_what_was_asked(question, expected):
    assert answers(question) == expected


def test_could_be_and_why_not():
    (no,) = answers("Could it be surprise?")
    assert no.startswith("It is happiness by the convention of synthetic, and it could not be surprise")
    (coarse,) = answers("Could it be negative?")
    assert coarse.endswith("AU15 (lip corner depressor) are not visible in the motion.")
    assert answers("Could the coarse class be surprise?") == [no]  # about this clip, and not about surprise in general
    (why,) = answers("Why not surprise?")
    assert "AU2 (outer brow raiser) would move the outer brow up" in why
    assert len(answers("Why not surprise or anger?")) == 2
    assert answers("Could this be a smile?") == [
        "Yes, AU12 (lip corner puller) is visible in the motion, on the left side.",
        "It is happiness by the convention of synthetic.",
    ]


def test_a_question_may_refer_to_an_earlier_one():
    assert answers("Is AU12 there?", "Which side is it on?") == ["AU12 (lip corner puller) shows on the left side."]
    assert answers("Is AU9 there?", "And how far does it move?") == [
        "No, AU9 (nose wrinkler) is not visible in the motion."
    ]
    assert answers("Is AU9 there?", "Which emotion is it?") == ["It is happiness by the convention of synthetic."]


def test_a_question_about_nothing_measured_may_be_refused():
    assert OPEN in answers("Is the person lying?")
    assert answers("Is there an AU17?", known=statements(facts({}, motions(chin_left=("up", 0.5))))) == [OPEN]


def test_one_of_two_clips():
    known = statements_of_two(facts({"AU12": "left"}, SMILE), facts({}, motions()))
    assert answers("Is AU12 there in the second clip?", known=known) == [
        "In the second clip: no, AU12 (lip corner puller) is not visible in the motion."
    ]
    assert "The first clip shows AU12 (lip corner puller), the second does not." in answers(
        "What differs?", known=known
    )
    assert answers("Does AU12 differ?", known=known) == [
        "The first clip shows AU12 (lip corner puller), the second does not."
    ]


def test_an_answer_has_at_most_three_statements_in_their_order():
    some = answering(HERE, ["What do you see?"], EMOTIONS)
    texts = [item.text for item in some]
    assert len(texts) == MOST_STATEMENTS
    assert answers_of(some)[-1] == " ".join(texts)
    assert len(answers_of(some)) == 7
    assert answers_of(HERE) == [item.text for item in HERE]


TOPIC_OF_TASK = {
    "emotion": "emotion",
    "emotion_coarse": "coarse",
    "action_units": "units",
    "action_unit_presence": "presence",
    "side": "side",
    "region_motion": "region",
    "motions": "motions",
    "could_be": "could_be",
    "why_not": "why_not",
    "expected_motion": "expected",
    "class_of_emotion": "class_of_emotion",
}


@pytest.mark.parametrize("task", TURN_TASKS)
def test_the_questions_of_the_training_data_are_answered_about_their_topic(task):
    filled = {"unit": "AU12 (lip corner puller)", "side": "left", "region": "mouth corner", "emotion": "surprise"}
    filled["options"] = "surprise, anger or disgust"
    for wording in QUESTIONS[task]:
        question = wording.format(convention="synthetic", **filled)
        chosen = answering(HERE, [question], EMOTIONS)
        assert {item.topic for item in chosen} == {TOPIC_OF_TASK[task]}, question
