"""Questions about the emotion by a made-up label convention, which the question explains.

Sources name the same movement differently. A model that is trained with the conventions of its sources alone answers
with their names, whatever a question says about others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TASKS = ("emotion",)  # whose answers name nothing that depends on the convention but the emotion
CONVENTIONS = (
    "harbour",
    "meadow",
    "laboratory A",
    "laboratory B",
    "the north group",
    "the south group",
    "amber",
    "cedar",
)
CLASSES = (
    "tension",
    "relief",
    "alarm",
    "calm",
    "worry",
    "delight",
    "shame",
    "pride",
    "boredom",
    "interest",
    "doubt",
    "comfort",
    "class A",
    "class B",
    "class C",
    "class D",
)
# How each class is introduced, how they are separated, and where the list stands.
WORDINGS = (
    ("{old} has the name {new}", ", ", "In the convention of {convention}, {names}. {question}"),
    ("{new} for {old}", ", ", "The convention of {convention} says {names}. {question}"),
    ("{old} = {new}", "; ", "{question} Its classes: {names}."),
    ("{old} counts as {new}", ", ", "By the convention of {convention}, {names}. {question}"),
    ("{new} stands for {old}", "; ", "{question} In that convention, {names}."),
)


def with_explained_convention(
    conversation: Mapping[str, Any], source: str, emotions: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Asks a question by a made-up convention, explains its names in the question, and answers with them.

    The names are those of other emotions, or words that are not emotions of the model. Two emotions may share a name.

    Args:
        conversation: A conversation with one question, of one of `TASKS`.
        source: The convention of the conversation.
        emotions: The model's emotions.
        rng: Random generator.
    """
    question, answer = conversation["messages"]
    *clip, block = question["content"]
    names = _new_names(emotions, rng, distinct=_pattern(emotions).search(block["text"]) is not None)
    convention = CONVENTIONS[int(rng.integers(len(CONVENTIONS)))]
    clause, separator, sentence = WORDINGS[int(rng.integers(len(WORDINGS)))]
    listed = separator.join(clause.format(old=old, new=names[old]) for old in rng.permutation(list(emotions)).tolist())

    def renamed(text: str) -> str:
        text = _pattern(emotions).sub(lambda match: names[match[0]], text)
        return re.sub(rf"convention of {re.escape(source)}(?!\w)", f"convention of {convention}", text)

    text = sentence.format(convention=convention, names=listed, question=renamed(block["text"]))
    asked = {**question, "content": [*clip, {**block, "text": text}]}
    (said,) = answer["content"]
    return {**conversation, "messages": [asked, {**answer, "content": [{**said, "text": renamed(said["text"])}]}]}


def _new_names(emotions: Sequence[str], rng: np.random.Generator, distinct: bool) -> dict[str, str]:
    order = rng.permutation(list(emotions)).tolist()
    words = rng.permutation([word for word in CLASSES if word not in emotions]).tolist()
    fewest = len(order) if distinct else min(2, len(order))
    if rng.random() < 0.5 or len(words) < fewest:
        return dict(zip(order, [*order[1:], *order[:1]], strict=True))
    count = int(rng.integers(fewest, len(order) + 1))
    return {name: words[place % count % len(words)] for place, name in enumerate(order)}


def _pattern(emotions: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(emotions, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
