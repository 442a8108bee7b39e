import re
from dataclasses import replace

import pytest

from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES
from deft_llm.processing.clip_statements import (
    CLASSED,
    KNOWLEDGE,
    OPEN,
    ClipFacts,
    class_of_emotion,
    could_be,
    expected_motion,
    facts_of_report,
    joined,
    knowledge,
    statements,
    statements_of_two,
    why_not,
)
from deft_llm.processing.emotion_prototypes import prototypes_of
from deft_llm.processing.grounded_answer import measured_report
from deft_llm.processing.motion_evidence import RegionMotion


def motions(**moving):
    """All regions still, except those named: mouth_corner_left=("up and laterally", 0.9)."""
    found = []
    for region in REGIONS:
        for side in SIDES:
            direction, magnitude = moving.get(f"{region.replace(' ', '_')}_{side}", ("up", 0.05))
            found.append(RegionMotion(region, side, magnitude, direction, 0.9, magnitude > 0.2, 0.06))
    return found


SMILE = motions(mouth_corner_left=("up and laterally", 0.9))


def facts(recognised, measured, emotion="happiness", coarse="positive", convention="synthetic") -> ClipFacts:
    report = measured_report(recognised, emotion, measured)
    return facts_of_report(report, measured, [emotion], coarse_emotion=coarse, convention=convention)


def said(items, topic, unit=None):
    return {item.text for item in items if item.topic == topic and (unit is None or unit in item.units)}


def test_what_is_visible_absent_doubted_and_open():
    # The chin moves, and no recognised unit explains it: whether AU17 is there is open.
    measured = motions(mouth_corner_left=("up and laterally", 0.9), chin_left=("up", 0.5))
    found = statements(facts({"AU12": "both", "AU4": "both"}, measured))
    assert said(found, "presence", "AU12") == {
        "Yes, AU12 (lip corner puller) is visible in the motion, on the left side."
    }
    assert said(found, "side", "AU12") == {"AU12 (lip corner puller) shows on the left side."}
    assert said(found, "evidence", "AU12") == {
        "AU12 (lip corner puller) moves the mouth corner up and laterally by 0.9 ± 0.1 % of the crop width."
    }
    doubted = {"AU4 (brow lowerer) is recognised, but the motion does not bear it out."}
    assert said(found, "presence", "AU4") == said(found, "side", "AU4") == doubted
    assert said(found, "presence", "AU9") == {"No, AU9 (nose wrinkler) is not visible in the motion."}
    assert said(found, "presence", "AU17") == {OPEN}
    assert said(found, "presence", "AU14") == {"Motion in the image cannot show AU14 (dimpler)."}
    assert said(found, "units") == {"The motion shows AU12 (lip corner puller)."}
    assert said(found, "motions") == {
        "The left mouth corner moves up and laterally by 0.9 ± 0.1 % of the crop width; the left chin moves up by "
        "0.5 ± 0.1 % of the crop width."
    }
    assert said(found, "emotion") == {"It is happiness by the convention of synthetic."}
    assert said(found, "coarse") == {"The coarse class is positive by the convention of synthetic."}


def test_every_unit_region_and_emotion_has_a_statement():
    for measured in (SMILE, motions()):
        found = statements(facts({"AU12": "left"}, measured))
        for topic in ("presence", "side", "expected"):
            assert set().union(*(item.units for item in found if item.topic == topic)) == set(ACTION_UNITS)
        regions = set().union(*(item.regions for item in found))
        assert regions == {(region, side) for region in REGIONS for side in SIDES}
        for topic in ("could_be", "why_not"):
            asked = {item.emotion for item in found if item.topic == topic}
            assert asked == {*prototypes_of("synthetic")[1], "positive", "negative"}
        assert all(re.match(r"[A-Z].*\.$", item.text) for item in found)


def test_nothing_is_claimed_about_a_still_clip():
    found = statements(facts({}, motions()))
    text = " ".join(item.text for item in found if item.topic not in KNOWLEDGE)
    assert "Yes" not in text
    assert "happiness" not in text
    assert said(found, "status") == said(found, "motions") == {"No region moves above the noise of the clip."}
    assert said(found, "emotion") == said(found, "could_be") == {"The clip shows insufficient motion."}


def test_of_a_clip_that_cannot_be_measured_only_the_reason_is_known():
    found = statements(ClipFacts(reason="The face is lost in frame 3."))
    assert {item.topic for item in found} == {"status", *KNOWLEDGE}
    assert said(found, "status") == {"The clip cannot be measured: The face is lost in frame 3."}


@pytest.mark.parametrize(
    ("emotion", "decision", "sentence"),
    [
        ("happiness", "is", "It is happiness by the convention of synthetic."),
        ("Positive", "is", "It is Positive by the convention of synthetic."),
        (
            "surprise",
            "no",
            "It is happiness by the convention of synthetic, and it could not be surprise by the convention of "
            "synthetic: AU2 (outer brow raiser) is not visible in the motion.",
        ),
        (
            "negative",
            "no",
            "It is happiness by the convention of synthetic, and it could not be negative by the convention of "
            "synthetic: AU4 (brow lowerer), AU9 (nose wrinkler) and AU15 (lip corner depressor) are not visible in "
            "the motion.",
        ),
        ("contempt", "open", OPEN),
    ],
)
def test_what_a_clip_could_be(emotion, decision, sentence):
    assert could_be(emotion, facts({"AU12": "left"}, SMILE))[:2] == (decision, sentence)


def test_what_a_clip_could_be_beside_what_it_is():
    brows = motions(**{f"inner_brow_{side}": ("down and medially", 0.9) for side in SIDES})
    other = facts({"AU4": "both"}, brows, "disgust", "negative", "casme2")
    decision, sentence, codes = could_be("anger", other)
    assert (decision, codes) == ("yes", ("AU4",))
    possible = "t could be anger by the prototypes of FACS: AU4 (brow lowerer) is visible in the motion."
    assert sentence == f"It is disgust by the convention of casme2, and i{possible}"
    # The class may be unknown where the units are visible.
    assert could_be("anger", replace(other, emotions=()))[1] == f"I{possible}"
    assert why_not("anger", other) == (sentence, ())
    decision, sentence, codes = could_be("happiness", other)
    assert (decision, codes) == ("no", ("AU6", "AU12"))
    assert sentence.endswith("AU6 (cheek raiser) and AU12 (lip corner puller) are not visible in the motion.")
    # A unit that motion cannot show is never certainly absent.
    assert could_be("contempt", other)[0] == "open"


def test_why_it_is_not():
    sentence, codes = why_not("surprise", facts({"AU12": "left"}, SMILE))
    assert codes == ("AU2",)
    assert sentence == (
        "It is not surprise by the convention of synthetic: AU2 (outer brow raiser) would move the outer brow up, and "
        "the motion does not show it."
    )


def test_what_is_expected_of_a_unit():
    assert expected_motion("AU9") == (
        "AU9 (nose wrinkler) would move the nose wing up, the nose root up and the upper lip up"
    )
    assert knowledge("AU2") == "AU2 (outer brow raiser) would move the outer brow up."
    assert knowledge("AU14") == ("Motion in the image cannot show AU14 (dimpler).")
    assert joined(["a"]) == "a"
    assert joined(["a", "b"]) == "a and b"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_the_coarse_class_of_an_emotion():
    assert class_of_emotion("sadness") == "Sadness belongs to the coarse class negative."
    assert class_of_emotion("surprise") == "Surprise belongs to the coarse class surprise."
    assert set(CLASSED) >= {"anger", "happiness", "repression", "surprise", "tense"}
    assert not set(CLASSED) & {"negative", "positive", "others"}


def test_two_clips():
    both = motions(**{f"mouth_corner_{side}": ("up and laterally", 1.2) for side in SIDES})
    brows = motions(**{f"inner_brow_{side}": ("down and medially", 0.9) for side in SIDES})
    smile, angry, still = (
        facts({"AU12": "left"}, SMILE),
        facts({"AU4": "both"}, brows, "anger", "negative"),
        facts({}, motions()),
    )
    assert said(statements_of_two(smile, angry), "differs") == {
        "The first clip shows AU12 (lip corner puller), the second does not.",
        "The second clip shows AU4 (brow lowerer), the first does not.",
        "The first clip is happiness, the second is anger, by the convention of synthetic.",
    }
    found = statements_of_two(smile, facts({"AU12": "both"}, both))
    assert said(found, "differs") == {
        "AU12 (lip corner puller) is on the left side in the first clip and on both sides in the second."
    }
    assert "Both clips show AU12 (lip corner puller)." in said(found, "same")
    assert said(statements_of_two(smile, smile), "differs") == {
        "The motion shows no difference in action units or class."
    }
    assert "In the second clip no region moves above its noise." in said(statements_of_two(smile, still), "differs")
    assert "In the first clip: it is happiness by the convention of synthetic." in said(found, "emotion")
    lost = ClipFacts(reason="Too dark.")
    assert said(statements_of_two(smile, lost), "differs") == {"The second clip cannot be measured."}
    assert said(statements_of_two(lost, lost), "differs") == {"Neither clip can be measured."}


def test_where_the_other_clip_leaves_a_unit_open():
    chin = facts({}, motions(chin_left=("up", 0.5)))
    shown = facts({"AU17": "both"}, motions(chin_left=("up", 0.5)))
    assert "The first clip shows AU17 (chin raiser), the second leaves it open." in said(
        statements_of_two(shown, chin), "differs"
    )
