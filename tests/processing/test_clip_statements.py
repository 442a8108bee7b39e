"""True sentences about clips, and those that answer a question."""

import pytest

from deft_llm.processing.action_units import ACTION_UNITS
from deft_llm.processing.clip_statements import NOT_SHOWN, answering, clip_statements, differences, replies
from deft_llm.processing.grounded_answer import measured_report
from tests.processing.test_grounded_answer import COARSE, SMILE, face, moves

SCORES = {"happiness": 0.91, "surprise": 0.06, "anger": 0.03}
BROWS = face(moves("inner brow", "left", "up", 1.4), moves("inner brow", "right", "up", 1.2))


def statements(recognised, emotion, motions):
    report = measured_report(recognised, emotion, motions)
    return clip_statements(report, motions, scores=SCORES, coarse_emotion_of=COARSE, convention="samm")


@pytest.fixture
def smile():
    return statements({"AU12": "both"}, "happiness", SMILE)


def asked(question, known):
    return [item.text for item in answering(question, known)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("which side moved?", ["AU12 (lip corner puller) shows on both sides."]),
        (
            "could this be a smile?",
            [
                "Yes, AU12 (lip corner puller) is visible in the motion: the mouth corner moves up and laterally by "
                "1.1 %, on both sides."
            ],
        ),
        ("Is AU9 there?", ["No, AU9 (nose wrinkler) is not visible in the motion."]),
        ("Is the nose wrinkler active on the left?", ["No, AU9 (nose wrinkler) is not visible in the motion."]),
        (
            "why not surprise?",
            [
                "By the convention of samm this is happiness (91 %) and not surprise (6 %): the motion shows AU12 lip "
                "corner puller."
            ],
        ),
        ("what would you expect to see for AU4?", ["AU4 (brow lowerer) would move"]),
        ("Which action units are there?", ["The motion shows AU12 lip corner puller."]),
        ("How does the left mouth corner move?", ["The left mouth corner moves up and laterally by 1.2 %"]),
        ("What does the right chin do?", ["The right chin does not move above the noise of the clip."]),
        (
            "Which emotion is it?",
            [
                "By the convention of samm this is happiness (91 %).",
                "By the convention of samm the coarse class is positive.",
            ],
        ),
        ("Does the head nod, M59?", [f"{NOT_SHOWN} Motion cannot tell M59 ("]),
    ],
)
def test_a_question_is_answered_about_what_it_names(smile, question, expected):
    found = asked(question, smile)
    assert len(found) == len(expected), found
    for text, start in zip(found, expected, strict=True):
        assert text.startswith(start)


def test_a_question_that_is_not_understood_leaves_what_the_clip_shows(smile):
    found = answering("Hm?", smile)
    assert all(item.shown for item in found)
    assert {item.kind for item in found} == {"unit", "units", "side", "motion", "class"}


def test_what_is_recognised_but_not_measured_is_not_called_visible():
    known = statements({"AU12": "both", "AU4": "both"}, "anger", SMILE)
    assert asked("Is AU4 there?", known) == ["AU4 (brow lowerer) is recognised, but the motion does not bear it out."]
    assert asked("Which action units?", known) == ["The motion shows AU12 lip corner puller."]


def test_a_moving_region_without_a_recognised_unit_is_not_denied():
    known = statements({}, "surprise", BROWS)
    assert asked("Is AU1 there?", known) == [
        f"{NOT_SHOWN} The inner brow moves, but AU1 (inner brow raiser) is not recognised."
    ]
    assert asked("Is it surprise? Which emotion?", known) == [
        "The clip shows no action unit: No recognised action unit is borne out by the motion."
    ]


def test_a_still_clip_claims_nothing():
    known = statements({"AU12": "both"}, "happiness", face())
    for question in ("which side moved?", "which emotion?", "Which action units?", "what do you see?"):
        assert asked(question, known) == [
            "The clip shows no action unit: No region moves above the noise of the clip."
        ]
    for code in ACTION_UNITS:
        (text,) = asked(f"Is {code} there?", known)
        assert not text.startswith("Yes")


def test_two_clips_are_compared(smile):
    brows = statements({"AU1": "both"}, "surprise", BROWS)
    assert asked("what differs?", differences(smile, brows)) == [
        "The first clip shows AU12 lip corner puller, the second does not.",
        "The second clip shows AU1 inner brow raiser, the first does not.",
        "In the first clip, by the convention of samm this is happiness (91 %). In the second clip, by the convention "
        "of samm this is surprise (6 %).",
    ]
    assert asked("Do both smile?", differences(smile, brows)) == [
        "The first clip shows AU12 lip corner puller, the second does not."
    ]
    still = statements({}, "happiness", face())
    assert asked("what differs?", differences(still, still)) == ["Neither clip shows an action unit."]
    assert asked("what differs?", differences(smile, smile))[0] == "Both clips show AU12 lip corner puller."


def test_few_statements_may_be_said_together(smile):
    both = answering("Which emotion is it?", smile)
    texts = [item.text for item in both]
    assert replies(both) == [*texts, " ".join(texts)]
    assert replies(both[:1]) == texts[:1]
    many = answering("Hm?", smile)
    assert replies(many) == [item.text for item in many]
