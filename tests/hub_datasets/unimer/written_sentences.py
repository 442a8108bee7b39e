"""Sentences about clips that are drawn at random, and the facts that each has to hold.

What an answer must say is worked out here from the labels and the motions themselves, not by the code that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from deft_llm.hub_datasets.unimer.answer_parsing import (
    EMOTIONS,
    UnreadableAnswerError,
    parse_facts,
    region_in,
    unit_in,
)
from deft_llm.hub_datasets.unimer.constraints import CONTRADICTED, NOT_TESTABLE, NOT_VISIBLE, SUPPORTED, Judgement
from deft_llm.hub_datasets.unimer.instructions import accept_facts, conversations_of
from deft_llm.hub_datasets.unimer.questions import emotion_in, task_of_turn
from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES
from deft_llm.processing.emotion_prototypes import sets_of
from deft_llm.processing.motion_evidence import DIRECTIONS, NO_DIRECTION, RegionMotion, octants_apart

CONVENTIONS = ("synthetic", "synthetic-b", "casme2", "CASME II", "SAMM", "CAS(ME)^3", "DFME")


def measured(**moving) -> list[RegionMotion]:
    """All regions still, except those named: inner_brow_left=("up", 0.9)."""
    result = []
    for region in REGIONS:
        for side in SIDES:
            direction, magnitude = moving.get(f"{region.replace(' ', '_')}_{side}", ("up", 0.0))
            result.append(RegionMotion(region, side, magnitude, direction, 1.0, magnitude > 0.2))
    return result


@dataclass(frozen=True)
class Clip:
    """A clip's labels and measured motions, before anything is accepted."""

    judgements: tuple[Judgement, ...]
    motions: tuple[RegionMotion, ...]
    emotion: str | None
    emotion_coarse: str | None
    convention: str

    @property
    def supported(self) -> dict[str, Judgement]:
        return {item.code: item for item in self.judgements if item.verdict == SUPPORTED}

    @property
    def still(self) -> bool:
        return not self.supported and not any(item.significant for item in self.motions)


def sentences(count: int, seed: int) -> Iterator[tuple[Clip, str, str, str]]:
    """`count` times (clip, task, question, answer)."""
    rng = np.random.default_rng(seed)
    written = 0
    while True:
        clip = random_clip(rng)
        facts = accept_facts(
            clip.judgements,
            clip.motions,
            emotion=clip.emotion,
            emotion_coarse=clip.emotion_coarse,
            convention=clip.convention,
        )
        for conversation in conversations_of(facts, rng):
            for user, assistant in zip(conversation["messages"][::2], conversation["messages"][1::2], strict=True):
                if written == count:
                    return
                written += 1
                yield clip, conversation["task"], user["content"][-1]["text"], assistant["content"][0]["text"]


def random_clip(rng: np.random.Generator) -> Clip:
    """One in eight stands still; one in eight has no labelled action units."""
    share = rng.choice([0.0, 0.1, 0.5, 1.0], p=[0.125, 0.375, 0.375, 0.125])
    motions = tuple(
        RegionMotion(
            region,
            side,
            rng.uniform(0.0, 6.0),
            str(rng.choice((*DIRECTIONS, NO_DIRECTION))),
            0.8,
            bool(rng.random() < share),
        )
        for region in REGIONS
        for side in SIDES
    )
    codes = rng.permutation(list(ACTION_UNITS))[: 0 if rng.random() < 0.125 else rng.integers(1, 6)]
    verdicts = (CONTRADICTED, NOT_VISIBLE, NOT_TESTABLE)
    trusted = rng.choice([0.5, 1.0]) if share else 0.0
    judgements = tuple(
        Judgement(
            str(code),
            str(rng.choice(("both", *SIDES))),
            str(rng.choice(REGIONS)),
            SUPPORTED if rng.random() < trusted else str(rng.choice(verdicts)),
            1.0,
            rng.uniform(0.3, 12.0),
            str(rng.choice(DIRECTIONS)),
        )
        for code in codes
    )
    emotion = str(rng.choice(sorted(EMOTIONS))) if rng.random() < 0.9 else None
    if emotion and rng.random() < 0.2:
        emotion = emotion.capitalize()
    coarse = str(rng.choice(["negative", "positive", "surprise", "others"])) if rng.random() < 0.9 else None
    return Clip(judgements, motions, emotion, coarse, str(rng.choice(CONVENTIONS)))


def says_what_it_should(clip: Clip, task: str, question: str, answer: str) -> bool:
    emotions = {word for word in (clip.emotion, clip.emotion_coarse) if word}
    try:
        return parse_facts(task, question, answer, emotions=emotions) == expected_facts(clip, task, question)
    except UnreadableAnswerError:
        return False


def expected_facts(clip: Clip, task: str, question: str) -> set[tuple[str, ...]]:
    """What the labels and the motions of a clip answer to a question."""
    units = {("unit", code, "present") for code in clip.supported}
    emotion, coarse = {("emotion", str(clip.emotion).lower())}, {("emotion_coarse", str(clip.emotion_coarse).lower())}
    moving = sorted((item for item in clip.motions if item.significant), key=lambda item: item.magnitude)[::-1]
    motions = [("motion", item.region, item.side, item.direction, f"{item.magnitude:.1f}") for item in moving]
    nothing_labelled = not clip.judgements and clip.emotion is None and clip.emotion_coarse is None
    if task == "explain" and (clip.still or nothing_labelled):
        return {("insufficient motion",)} | ({("still",)} if clip.still else set())
    if task == "several_turns":
        return expected_facts(clip, task_of_turn(question), question)
    if task == "expected_motion":
        unit = ACTION_UNITS[unit_in(question)]
        return {("expected" if unit.testable and unit.motions else "not testable", unit.code)}
    if task == "class_of_emotion":
        emotion = emotion_in(question)
        coarse_class = {"happiness": "positive", "surprise": "surprise", "tense": "others"}.get(emotion, "negative")
        return {("class_of", emotion, coarse_class)}
    if clip.still:
        return {("insufficient motion",)}
    if task in ("could_be", "why_not"):
        found = possibility(clip, emotion_in(question))
        decided = {fact[-1] for fact in found if fact[0] == "could_be"}
        beside = decided and not (task == "why_not" and decided == {"no"})
        return found | emotion if beside else found
    name = task.removeprefix("me_vqa_")
    if name == "explain":
        return emotion | {
            ("evidence", item.code, item.side, item.region, item.direction, f"{item.magnitude:.1f}")
            for item in clip.supported.values()
        }
    if name in ("emotion", "fine"):
        return emotion
    if name in ("emotion_coarse", "coarse"):
        return coarse
    if name == "action_units":
        return units
    if name == "combined":
        return emotion | coarse | units
    if name == "side":
        return {("side", unit_in(question), clip.supported[unit_in(question)].side)}
    if name in ("action_unit_presence", "presence"):
        code = unit_in(question)
        if code not in clip.supported:
            assert code not in {item.code for item in clip.judgements}
        return {("unit", code, "present" if code in clip.supported else "absent")}
    if name == "region_motion":
        return {fact for fact in motions if fact[1:3] == region_in(question)}
    return set(motions[:3])


def possibility(clip: Clip, emotion: str) -> set[tuple[str, ...]]:
    """Whether a clip may show an emotion, and by which units."""
    if emotion.lower() in {str(clip.emotion).lower(), str(clip.emotion_coarse).lower()}:
        return {("emotion", emotion.lower())}
    sets = sets_of(emotion.lower(), clip.convention)
    shown = [codes for codes in sets if set(codes) <= set(clip.supported)]
    if shown:
        most = max(len(codes) for codes in shown)
        codes = next(codes for codes in shown if len(codes) == most)
        return {("could_be", emotion.lower(), "yes"), *(("unit", code, "present") for code in codes)}
    lacking = [{code for code in codes if surely_absent(clip, code)} for codes in sets]
    if not lacking or not all(lacking):
        return {("not shown",)}
    # The fewest units that no set can do without.
    for count in range(1, len(lacking) + 1):
        for codes in combinations(sorted(set().union(*lacking), key=lambda code: int(code[2:])), count):
            if all(set(codes) & one for one in lacking):
                return {("could_be", emotion.lower(), "no"), *(("unit", code, "absent") for code in codes)}
    raise AssertionError


def surely_absent(clip: Clip, code: str) -> bool:
    """Nobody labelled the unit, and its region is still or is moved in another direction by a labelled unit."""
    unit = ACTION_UNITS[code]
    if code in {item.code for item in clip.judgements} or not unit.testable:
        return False
    expected = unit.motions[0]
    for item in clip.motions:
        if item.region != expected.region or not item.significant:
            continue
        explained = any(
            one.region == item.region and one.side in ("both", item.side) for one in clip.supported.values()
        )
        if not explained or (octants_apart(item.direction, expected.phrase) or 0) < 3:
            return False
    return True
