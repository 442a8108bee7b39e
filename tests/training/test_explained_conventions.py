import re

import numpy as np
import pytest

from deft_llm.training.explained_conventions import CLASSES, CONVENTIONS, WORDINGS, with_explained_convention

EMOTIONS = ["anger", "disgust", "happiness", "sadness", "surprise"]


def asked(question, answer, source="synthetic", seed=0, emotions=EMOTIONS):
    """The question and the answer by a made-up convention."""
    clip = {"type": "video", "text": None}
    conversation = {
        "task": "emotion",
        "messages": [
            {"role": "user", "content": [clip, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
    }
    found = with_explained_convention(conversation, source, emotions, np.random.default_rng(seed))
    assert conversation["messages"][0]["content"][1]["text"] == question  # unchanged
    assert found["task"] == "emotion"
    (video, text), (said,) = (message["content"] for message in found["messages"])
    assert video == clip
    return text["text"], said["text"]


def listed_names(text):
    """Emotion → its name, as the list in a question says."""
    for clause, separator, sentence in WORDINGS:
        before, after = sentence.format(convention="\0", names="\1", question="\2").split("\1")
        edges = (re.escape(part).replace("\0", ".+?").replace("\2", ".+?") for part in (before, after))
        found = re.fullmatch("(.+)".join(edges), text)
        pattern = re.escape(clause).replace(r"\{old\}", "(?P<old>.+)").replace(r"\{new\}", "(?P<new>.+)")
        pairs = found and [re.fullmatch(pattern, item) for item in found[1].split(separator)]
        if pairs and all(pairs):
            return {pair["old"]: pair["new"] for pair in pairs}
    raise AssertionError(f"no list in {text!r}")


@pytest.mark.parametrize("seed", range(40))
def test_the_answer_is_the_name_that_the_question_explains(seed):
    text, said = asked(
        "Which emotion is this by the convention of synthetic?",
        "It is sadness by the convention of synthetic.",
        seed=seed,
    )
    names = listed_names(text)
    assert sorted(names) == EMOTIONS
    convention = next(name for name in CONVENTIONS if f"convention of {name}" in text)
    assert said == f"It is {names['sadness']} by the convention of {convention}."
    assert "synthetic" not in text
    if set(names.values()) <= set(EMOTIONS):
        assert all(old != new for old, new in names.items())


def test_names_are_those_of_other_emotions_or_words_of_their_own_and_may_be_shared():
    lists = [
        listed_names(asked("Which emotion is this by the convention of synthetic?", "anger", seed=seed)[0])
        for seed in range(200)
    ]
    borrowed = [names for names in lists if set(names.values()) == set(EMOTIONS)]
    own = [names for names in lists if set(names.values()) <= set(CLASSES)]
    assert len(borrowed) + len(own) == 200
    assert 70 < len(borrowed) < 130
    assert {len(set(names.values())) for names in own} == {2, 3, 4, 5}


@pytest.mark.parametrize("seed", range(40))
def test_answers_to_choose_from_are_renamed_and_stay_different(seed):
    text, said = asked(
        "Is it anger or disgust by the convention of synthetic? Reply in one word.", "disgust", seed=seed
    )
    names = listed_names(text)
    assert f"Is it {names['anger']} or {names['disgust']} by the convention of" in text
    assert said == names["disgust"] != names["anger"]


def test_an_answer_without_an_emotion_stays():
    said = asked("Which emotion is this by the convention of synthetic?", "The clip shows insufficient motion.")[1]
    assert said == "The clip shows insufficient motion."


def test_a_name_inside_a_longer_one_and_a_word_of_the_model_are_not_mistaken():
    emotions = ["happiness", "happiness or surprise", "calm", "tension"]
    for seed in range(40):
        text, said = asked(
            "Which emotion is this by the convention of A.B?", "happiness or surprise", "A.B", seed, emotions
        )
        names = listed_names(text)
        assert said == names["happiness or surprise"]
        new = set(names.values())
        assert new == set(emotions) or not new & set(emotions)


def test_more_emotions_than_words_get_the_names_of_others():
    emotions = [f"class {number}" for number in range(len(CLASSES) + 1)]
    question = "Is it class 1 or class 2 by the convention of synthetic?"
    for seed in range(10):
        names = listed_names(asked(question, "class 2", seed=seed, emotions=emotions)[0])
        assert sorted(names.values()) == sorted(emotions)
