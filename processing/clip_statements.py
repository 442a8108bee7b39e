"""All true statements about a clip, each a sentence that is true whatever was asked.

What is visible, absent or open is decided in `grounded_answer`; here it is put into sentences. The training data has
the same sentences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from .action_units import ACTION_UNITS, REGIONS, SIDES, get_action_unit
from .emotion_prototypes import COARSE_EMOTION, prototypes_of, sets_of
from .expression_report import ExpressionReport, MotionEvidence
from .grounded_answer import STILL_REASON, UNCLEAR_REASON, UNNAMED_CONVENTION, absent_units
from .motion_evidence import RegionMotion

MOST_MOTIONS = 3  # in one statement
WHERE = {"both": "both sides", "left": "the left side", "right": "the right side"}

OPEN = "The clip does not show that."
INSUFFICIENT_SENTENCE = "The clip shows insufficient motion."
PRESENT = "Yes, {unit} is visible in the motion."
ABSENT = "No, {unit} is not visible in the motion."
SIDE = "{unit} shows on {where}."
IS = "It is {emotion} by the convention of {convention}."
# After what it is, if that is known.
COULD_BE = "it could be {emotion} by {convention}: {units} {are} visible in the motion."
COULD_NOT_BE = "it could not be {emotion} by {convention}: {units} {are} not visible in the motion."
WHY_NOT = "It is not {emotion} by {convention}: {expected}, and the motion does not show it."
UNTESTABLE = "Motion in the image cannot show {unit}."
KNOWLEDGE = ("expected", "class_of_emotion")  # topics that need no clip
# Emotions that are not coarse classes themselves, and surprise, which is both.
CLASSED = tuple(name for name in COARSE_EMOTION if name == "surprise" or name not in COARSE_EMOTION.values())


@dataclass(frozen=True)
class Statement:
    """One true sentence about a clip.

    Args:
        text (`str`): The sentence.
        topic (`str`): What it is about: status, units, presence, side, evidence, region, motions, emotion, coarse,
            could_be, why_not, expected, class_of_emotion, differs or open.
        units (`frozenset[str]`): Codes of the action units that it is about.
        regions (`frozenset[tuple[str, str]]`): (region, side) of the regions that it is about.
        emotion (`str | None`): Emotion that it is about, in lower case.
        clip (`int | None`): 0 or 1, if there are two clips and it is about one of them.
    """

    text: str
    topic: str
    units: frozenset[str] = frozenset()
    regions: frozenset[tuple[str, str]] = frozenset()
    emotion: str | None = None
    clip: int | None = None


@dataclass(frozen=True)
class ClipFacts:
    """What is certain about a clip.

    Args:
        sides (`Mapping[str, str | None]`): Code -> both, left or right of every visible unit; `None` if the side is
            open.
        absent (`tuple[str, ...]`): Codes of the units that are certainly absent.
        evidence (`Mapping[str, MotionEvidence]`): Code -> motion that bears the unit out.
        motions (`tuple[RegionMotion, ...]`): Motions, strongest first. Those that are not significant are still.
        emotions (`tuple[str, ...]`): Classes that may be named, the most probable one first.
        coarse_emotion (`str | None`): Coarse class.
        convention (`str`): Label convention of the classes.
        doubted (`tuple[str, ...]`): Units that were recognised and that the motion does not bear out.
        reason (`str`): Why the clip cannot be measured, if it cannot be.
    """

    sides: Mapping[str, str | None] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    evidence: Mapping[str, MotionEvidence] = field(default_factory=dict)
    motions: tuple[RegionMotion, ...] = ()
    emotions: tuple[str, ...] = ()
    coarse_emotion: str | None = None
    convention: str = ""
    doubted: tuple[str, ...] = ()
    reason: str = ""

    @property
    def moving(self) -> tuple[RegionMotion, ...]:
        """The significant motions."""
        return tuple(item for item in self.motions if item.significant)

    @property
    def still(self) -> bool:
        """Nothing moves above the clip's noise."""
        return not self.moving and not self.sides

    @property
    def named_convention(self) -> str:
        return self.convention or UNNAMED_CONVENTION


def facts_of_report(
    report: ExpressionReport,
    motions: Sequence[RegionMotion],
    emotions: Sequence[str],
    *,
    coarse_emotion: str | None = None,
    convention: str = "",
) -> ClipFacts:
    """What is certain about a clip by a report of `grounded_answer.measured_report`.

    Args:
        report (`ExpressionReport`): What the heads decide and the motion bears out.
        motions (`Sequence[RegionMotion]`): Motion of all regions of the clip.
        emotions (`Sequence[str]`): Allowed classes, from `grounded_answer.allowed_classes`.
        coarse_emotion (`str | None`, *optional*): Their coarse class.
        convention (`str`, *optional*): Label convention that was asked for.
    """
    sides = {unit.code: unit.side for unit in report.action_units if unit.borne_out}
    evidence = {item.action_unit: item for item in report.evidence}
    explained = {
        (evidence[code].region, one) for code, side in sides.items() for one in SIDES if side in ("both", one)
    }
    named = {unit.code for unit in report.action_units}
    return ClipFacts(
        sides=sides,
        absent=absent_units(named, explained, motions),
        evidence=evidence,
        motions=tuple(sorted(motions, key=lambda item: -item.magnitude)),
        emotions=tuple(emotions) if report.emotion is not None else (),
        coarse_emotion=coarse_emotion if report.emotion is not None else None,
        convention=convention,
        doubted=tuple(sorted(named - set(sides))),
    )


def unit_words(code: str) -> str:
    """Code and name, such as "AU4 (brow lowerer)"."""
    return f"{code} ({get_action_unit(code).name})"


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


@lru_cache(maxsize=128)
def expected_motion(code: str) -> str:
    """What a unit would move where to, such as "AU9 (nose wrinkler) would move the nose wing up"."""
    motions = [f"the {motion.region} {motion.phrase}" for motion in get_action_unit(code).motions]
    return f"{unit_words(code)} would move {joined(motions)}"


def knowledge(code: str) -> str:
    """The sentence that says what is to be expected of a unit in the motion."""
    unit = get_action_unit(code)
    return f"{expected_motion(code)}." if unit.testable and unit.motions else UNTESTABLE.format(unit=unit_words(code))


def class_of_emotion(emotion: str) -> str:
    """The sentence that says to which coarse class an emotion belongs.

    Args:
        emotion (`str`): One of `CLASSED`.
    """
    return f"{emotion.capitalize()} belongs to the coarse class {COARSE_EMOTION[emotion]}."


def could_be(emotion: str, facts: ClipFacts) -> tuple[str, str, tuple[str, ...]]:
    """Whether the visible and the absent units of a clip fit an emotion.

    Args:
        emotion (`str`): The emotion.
        facts (`ClipFacts`): What is certain about the clip.

    Returns:
        ("is" | "yes" | "no" | "open" | "insufficient", the sentence, codes of the units that decide).
    """
    by, _ = prototypes_of(facts.convention)
    if not facts.sides:
        return "insufficient", INSUFFICIENT_SENTENCE, ()
    own = {name.casefold() for name in (*facts.emotions, facts.coarse_emotion) if name}
    if emotion.casefold() in own:
        return "is", IS.format(emotion=emotion, convention=facts.named_convention), ()
    sets = sets_of(emotion.casefold(), facts.convention)
    full = [codes for codes in sets if all(code in facts.sides for code in codes)]
    if full:
        codes = max(full, key=len)
        return "yes", _deciding(COULD_BE, emotion, by, codes, facts), codes
    blocking = _blocking(sets, facts.absent)
    if not blocking:
        return "open", OPEN, ()
    return "no", _deciding(COULD_NOT_BE, emotion, by, blocking, facts), blocking


def _blocking(sets: Sequence[Sequence[str]], absent: Collection[str]) -> tuple[str, ...]:
    """An absent unit of every set, or nothing if a set has none: few units, in the order of the sets."""
    if not sets or not all(set(codes) & set(absent) for codes in sets):
        return ()
    chosen: list[str] = []
    left = [set(codes) & set(absent) for codes in sets]
    while left:
        counts = {code: sum(code in codes for codes in left) for codes in left for code in codes}
        best = max(sorted(counts, key=_order), key=counts.get)
        chosen.append(best)
        left = [codes for codes in left if best not in codes]
    return tuple(sorted(chosen, key=_order))


def _order(code: str) -> tuple[str, int]:
    unit = get_action_unit(code)
    return unit.kind, unit.number


def _deciding(template: str, emotion: str, by: str, codes: Sequence[str], facts: ClipFacts) -> str:
    are, units = "are" if len(codes) > 1 else "is", joined([unit_words(code) for code in codes])
    own = facts.emotions[0] if facts.emotions else None
    return beside_own(template.format(emotion=emotion, convention=by, units=units, are=are), own, facts.convention)


def beside_own(text: str, own: str | None, convention: str) -> str:
    """A sentence about what a clip could be, after the emotion that it shows.

    The emotion comes first, because a language model that has said it compares it with the one that was asked about;
    "yes" or "no" as the first word would have to be right before anything is said.

    Args:
        text (`str`): The sentence, beginning with a small letter.
        own (`str | None`): The emotion that the clip shows, if it is known.
        convention (`str`): Label convention.
    """
    if own is None:
        return text[0].upper() + text[1:]
    return f"{IS.format(emotion=own, convention=convention or UNNAMED_CONVENTION).rstrip('.')}, and {text}"


def emotions_to_ask(convention: str) -> tuple[str, ...]:
    """The emotions and the coarse classes that a convention reads from action units."""
    _, prototypes = prototypes_of(convention)
    return tuple(dict.fromkeys([*prototypes, *(COARSE_EMOTION[name] for name in prototypes)]))


def why_not(emotion: str, facts: ClipFacts) -> tuple[str, tuple[str, ...]]:
    """Why a clip does not show an emotion, and the units that decide; another sentence if it may show it."""
    decision, text, codes = could_be(emotion, facts)
    if decision != "no":
        return text, ()
    by, _ = prototypes_of(facts.convention)
    expected = joined([expected_motion(code) for code in codes])
    return WHY_NOT.format(emotion=emotion, convention=by, expected=expected), codes


def statements(facts: ClipFacts) -> list[Statement]:
    """All true statements about one clip, what is to be expected of every action unit, and the class of every emotion.

    Args:
        facts (`ClipFacts`): What is certain about the clip.
    """
    known = [Statement(knowledge(code), "expected", frozenset({code})) for code in ACTION_UNITS]
    known += [Statement(class_of_emotion(name), "class_of_emotion", emotion=name) for name in CLASSED]
    if facts.reason:
        return [Statement(f"The clip cannot be measured: {facts.reason.rstrip('.')}.", "status"), *known]
    found = [*_about_clip(facts), *_about_units(facts), *_about_regions(facts), *known]
    for emotion in dict.fromkeys([*map(str.casefold, facts.emotions), *emotions_to_ask(facts.convention)]):
        found.append(Statement(could_be(emotion, facts)[1], "could_be", emotion=emotion))
        found.append(Statement(why_not(emotion, facts)[0], "why_not", emotion=emotion))
    return [*found, Statement(OPEN, "open")]


def _about_clip(facts: ClipFacts) -> list[Statement]:
    found = []
    if facts.still:
        found.append(Statement(STILL_REASON, "status"))
    elif facts.sides:
        units = [unit_words(code) for code in sorted(facts.sides, key=_order)]
        found.append(Statement(f"The motion shows {joined(units)}.", "units"))
    else:
        found.append(Statement(UNCLEAR_REASON, "units"))
    if facts.moving:
        strongest = facts.moving[:MOST_MOTIONS]
        text = "; ".join(_motion_words(item) for item in strongest)
        found.append(Statement(f"{text[0].upper()}{text[1:]}.", "motions"))
    else:
        found.append(Statement(STILL_REASON, "motions"))
    if not facts.emotions:
        found += [Statement(INSUFFICIENT_SENTENCE, topic) for topic in ("emotion", "coarse")]
    for emotion in facts.emotions:
        text = IS.format(emotion=emotion, convention=facts.named_convention)
        found.append(Statement(text, "emotion", emotion=emotion.casefold()))
    if facts.coarse_emotion:
        text = f"The coarse class is {facts.coarse_emotion} by the convention of {facts.named_convention}."
        found.append(Statement(text, "coarse", emotion=facts.coarse_emotion.casefold()))
    return found


def _about_units(facts: ClipFacts) -> list[Statement]:
    found = []
    for code, unit in ACTION_UNITS.items():
        words, codes, side = unit_words(code), frozenset({code}), facts.sides.get(code)
        if code in facts.sides:
            present = PRESENT.format(unit=words)
            found.append(
                Statement(present if side is None else f"{present.rstrip('.')}, on {WHERE[side]}.", "presence", codes)
            )
            text = OPEN if side is None else SIDE.format(unit=words, where=WHERE[side])
            found.append(Statement(text, "side", codes))
            if code in facts.evidence:
                item = facts.evidence[code]
                text = f"{words} moves the {item.region} {item.direction} by {item.amount} of the crop width."
                found.append(Statement(text, "evidence", codes))
            continue
        if code in facts.absent:
            text = ABSENT.format(unit=words)
        elif not unit.testable or not unit.motions:
            text = UNTESTABLE.format(unit=words)
        elif code in facts.doubted:
            text = f"{words} is recognised, but the motion does not bear it out."
        else:
            text = OPEN
        found += [Statement(text, topic, codes) for topic in ("presence", "side", "evidence")]
    return found


def _about_regions(facts: ClipFacts) -> list[Statement]:
    found = []
    for item in facts.motions:
        words = _motion_words(item) if item.significant else f"the {item.side} {item.region} {_STILL}"
        regions = frozenset({(item.region, item.side)})
        found.append(Statement(f"{words[0].upper()}{words[1:]}.", "region", regions=regions))
    for region in REGIONS:
        seen = [item for item in facts.motions if item.region == region]
        if len(seen) == len(SIDES) and not any(item.significant for item in seen):
            regions = frozenset((region, side) for side in SIDES)
            found.append(Statement(f"The {region} {_STILL} on either side.", "region", regions=regions))
    return found


_STILL = "does not move above the noise of the clip"


def _motion_words(item: RegionMotion) -> str:
    amount = MotionEvidence("", item.region, item.direction, round(item.magnitude, 1), item.standard_error or None)
    return f"the {item.side} {item.region} moves {item.direction} by {amount.amount} of the crop width"


def statements_of_two(first: ClipFacts, second: ClipFacts) -> list[Statement]:
    """All true statements about two clips: what differs, what does not, and every statement about one of them."""
    found = _differences(first, second)
    for place, (facts, name) in enumerate(((first, "first"), (second, "second"))):
        for item in statements(facts):
            general = item.topic in (*KNOWLEDGE, "open")
            if general and place:
                continue
            text = item.text if general or item.text == OPEN else f"In the {name} clip: {_lowered(item.text)}"
            found.append(
                Statement(text, item.topic, item.units, item.regions, item.emotion, None if general else place)
            )
    return found


def _lowered(text: str) -> str:
    return text if text.startswith(("AU", "AD")) else text[0].lower() + text[1:]


def _differences(first: ClipFacts, second: ClipFacts) -> list[Statement]:
    if first.reason or second.reason:
        which = [name for name, one in (("first", first), ("second", second)) if one.reason]
        clips = f"The {which[0]} clip" if len(which) == 1 else "Neither clip"
        return [Statement(f"{clips} {'cannot' if len(which) == 1 else 'can'} be measured.", "differs")]
    found = []
    for code in sorted({*first.sides, *second.sides}, key=_order):
        words, codes = unit_words(code), frozenset({code})
        one, other = first.sides.get(code, ""), second.sides.get(code, "")
        if code in first.sides and code in second.sides:
            found.append(Statement(f"Both clips show {words}.", "same", codes))
            if one and other and one != other:
                text = f"{words} is on {WHERE[one]} in the first clip and on {WHERE[other]} in the second."
                found.append(Statement(text, "differs", codes))
            continue
        shown, lacking = ("first", second) if code in first.sides else ("second", first)
        rest = "does not" if code in lacking.absent else "leaves it open"
        text = f"The {shown} clip shows {words}, the {'second' if shown == 'first' else 'first'} {rest}."
        found.append(Statement(text, "differs", codes))
    if first.still and second.still:
        found.append(Statement("In neither clip does a region move above the noise of the clip.", "same"))
    for one, name in ((first, "first"), (second, "second")):
        if one.still and not (first.still and second.still):
            found.append(Statement(f"In the {name} clip no region moves above its noise.", "differs"))
    if first.emotions and second.emotions:
        one, other = first.emotions[0], second.emotions[0]
        by = f"by the convention of {first.named_convention}"
        text = (
            f"Both clips are {one} {by}." if one == other else f"The first clip is {one}, the second is {other}, {by}."
        )
        found.append(Statement(text, "same" if one == other else "differs"))
    if not any(item.topic == "differs" for item in found):
        found.append(Statement("The motion shows no difference in action units or class.", "differs"))
    return found
