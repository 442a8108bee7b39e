"""True sentences about measured clips, and those of them that answer a question.

A conversation about a clip is limited to these sentences. Each is true whatever was asked, so a language model can
choose an answer that does not fit the question, but not one that is false.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .action_units import ACTION_UNITS, REGIONS, SIDES, get_action_unit
from .expression_report import INSUFFICIENT, ExpressionReport
from .grounded_answer import STILL_REASON, UNNAMED_CONVENTION, is_ruled_out, mentioned_units
from .motion_evidence import RegionMotion

NOT_SHOWN = "The clip does not show that."
MOST_MOTIONS = 3
_WHERE = {"both": "both sides", "left": "the left side", "right": "the right side"}
# Everyday words for what an action unit does.
_EVERYDAY = {
    "AU1": ("raised brow", "raised brows", "raised eyebrow", "raised eyebrows"),
    "AU2": ("raised brow", "raised brows", "raised eyebrow", "raised eyebrows"),
    "AU4": ("frown", "frowning", "scowl"),
    "AU9": ("wrinkled nose", "nose wrinkle"),
    "AU12": ("smile", "smiling", "grin"),
    "AU15": ("downturned mouth",),
    "AU17": ("pout", "pouting"),
    "AU45": ("blink", "blinking"),
    "AU46": ("wink", "winking"),
}
_UNIT_OF_WORD = re.compile(
    rf"\b({'|'.join(sorted({word for words in _EVERYDAY.values() for word in words}, key=len, reverse=True))})\b"
)
_REGION = re.compile(rf"\b({'|'.join(sorted(map(re.escape, REGIONS), key=len, reverse=True))})s?\b")
_SIDE = re.compile(r"\b(left|right)\b")
_ASKS_SIDE = re.compile(r"\b(which|what) (side|half)|left or right|\bsides?\b|\bboth\b|symmetr")
_ASKS_EXPECTED = re.compile(
    r"\bexpect|\bwould\b|\busually\b|\blooks? like\b|\bmeans?\b|\bwhat (is|are) (an? )?(au|ad|m)\s?\d"
)
_ASKS_MOTION = re.compile(r"\bmov|\bmotion|\bregion|\bhow far\b|\bhow much\b|\bstrong|\bdirection|\bmagnitude")
_ASKS_CLASS = re.compile(r"\bemotion|\bclass|\bexpression|\bfeel|\bmood|\blabel")
_ASKS_UNITS = re.compile(r"\baction units?\b|\baus?\b|\bfacs\b|\bmuscle")


@dataclass(frozen=True)
class Statement:
    """A true sentence.

    Args:
        text (`str`): The sentence.
        kind (`str`): unit, side, units, motion, class, expected or difference.
        about (`frozenset[str]`): Codes, classes, or regions, alone and as "side region".
        shown (`bool`): Whether it says what the clip shows, and not what it does not show.
    """

    text: str
    kind: str
    about: frozenset[str] = frozenset()
    shown: bool = True


def clip_statements(
    report: ExpressionReport,
    motions: Sequence[RegionMotion],
    *,
    scores: Mapping[str, float] | None = None,
    coarse_emotion_of: Mapping[str, str] | None = None,
    convention: str = "",
) -> list[Statement]:
    """All statements about one clip.

    Args:
        report (`ExpressionReport`): What was recognised and borne out, from `grounded_answer.measured_report`.
        motions (`Sequence[RegionMotion]`): Motion of all regions.
        scores (`Mapping[str, float] | None`, *optional*): Class -> probability by the emotion head.
        coarse_emotion_of (`Mapping[str, str] | None`, *optional*): Class -> coarse class.
        convention (`str`, *optional*): Label convention of the classes.
    """
    evidence = {item.action_unit: item for item in report.evidence}
    sides = {unit.code: unit.side for unit in report.action_units}
    found: list[Statement] = []
    if evidence:
        listed = ", ".join(f"{code} {get_action_unit(code).name}" for code in evidence)
        found.append(Statement(f"The motion shows {listed}.", "units", frozenset(evidence)))
    else:
        text = f"The clip shows no action unit: {report.reason or STILL_REASON}"
        found += [Statement(text, kind) for kind in ("units", "side", "class")]
    explained = {
        (item.region, side) for code, item in evidence.items() for side in SIDES if sides[code] in ("both", side)
    }
    for unit in ACTION_UNITS.values():
        found += _of_unit(unit.code, evidence, sides, motions, explained)
    found += _of_motions(motions)
    if report.status != INSUFFICIENT and report.emotion is not None:
        named = convention or UNNAMED_CONVENTION
        found += _of_class(report.emotion, evidence, scores or {}, coarse_emotion_of or {}, named)
    return found


def differences(first: Sequence[Statement], second: Sequence[Statement]) -> list[Statement]:
    """Statements about how two clips differ.

    Args:
        first (`Sequence[Statement]`): The statements about the first clip, from `clip_statements`.
        second (`Sequence[Statement]`): Those about the second clip.
    """
    units = [next(iter(item.about for item in part if item.kind == "units")) for part in (first, second)]
    found = []
    for codes, text in (
        (units[0] & units[1], "Both clips show {units}."),
        (units[0] - units[1], "The first clip shows {units}, the second does not."),
        (units[1] - units[0], "The second clip shows {units}, the first does not."),
    ):
        if codes:
            ordered = sorted(map(get_action_unit, codes), key=lambda unit: (unit.kind, unit.number))
            listed = ", ".join(f"{unit.code} {unit.name}" for unit in ordered)
            found.append(Statement(text.format(units=listed), "difference", frozenset(codes)))
    if not units[0] | units[1]:
        found.append(Statement("Neither clip shows an action unit.", "difference"))
    classes = [
        [item.text for item in part if item.kind == "class" and item.shown and item.about] for part in (first, second)
    ]
    if all(classes):
        texts = [part[0][0].lower() + part[0][1:] for part in classes]
        found.append(Statement(f"In the first clip, {texts[0]} In the second clip, {texts[1]}", "difference"))
    return found


def answering(question: str, statements: Sequence[Statement]) -> list[Statement]:
    """The statements that can answer a question, never none.

    What the question names (action units, regions, sides, classes) and what it asks for decide. A question that is not
    recognised leaves all statements about what the clip shows.

    Args:
        question (`str`): The question, in English.
        statements (`Sequence[Statement]`): Statements about the clip.
    """
    words = question.casefold()
    apart = [item for item in statements if item.kind == "difference"]
    if apart:
        named = mentioned_units(question) | _everyday_units(words)
        return [item for item in apart if item.about & named] or apart

    def of(*kinds: str, about: Iterable[str] = ()) -> list[Statement]:
        wanted = frozenset(about)
        return [item for item in statements if item.kind in kinds and (not wanted or item.about & wanted)]

    units = mentioned_units(question) | _everyday_units(words)
    if units:
        asked = ("expected",) if _ASKS_EXPECTED.search(words) else ("side",) if _ASKS_SIDE.search(words) else ("unit",)
        return of(*asked, about=units) or of("unit", about=units) or [Statement(NOT_SHOWN, "unit", shown=False)]
    region, side = _REGION.search(words), _SIDE.search(words)
    if region:
        named = f"{side[1]} {region[1]}" if side else region[1]
        return of("motion", about=[named]) or [Statement(NOT_SHOWN, "motion", shown=False)]
    classes = {name for item in of("class") for name in item.about if re.search(rf"\b{re.escape(name)}\b", words)}
    if classes:
        return of("class", about=classes)
    if _ASKS_SIDE.search(words):
        return of("side")
    if _ASKS_UNITS.search(words):
        return of("units")
    if _ASKS_CLASS.search(words):
        return [item for item in of("class") if item.shown]
    shown = list({item.text: item for item in statements if item.shown}.values())
    if _ASKS_MOTION.search(words):
        return [item for item in shown if item.kind == "motion"] or of("units")
    return shown


def replies(statements: Sequence[Statement]) -> list[str]:
    """The answers that these statements allow: each alone, and all together if they are few.

    Args:
        statements (`Sequence[Statement]`): Statements from `answering`.
    """
    texts = list(dict.fromkeys(item.text for item in statements))
    return [*texts, " ".join(texts)] if 1 < len(texts) <= MOST_MOTIONS else texts


def _of_unit(code, evidence, sides, motions, explained) -> list[Statement]:
    unit = get_action_unit(code)
    named, about = f"{code} ({unit.name})", frozenset({code})
    found = []
    if unit.motions:
        moves = ", and ".join(f"the {motion.region} {motion.phrase}" for motion in unit.motions)
        found.append(Statement(f"{named} would move {moves}.", "expected", about, shown=False))
    if code in evidence:
        item, where = evidence[code], _WHERE[sides[code]]
        motion = f"the {item.region} moves {item.direction} by {item.magnitude:.1f} %"
        found.append(Statement(f"Yes, {named} is visible in the motion: {motion}, on {where}.", "unit", about))
        found.append(Statement(f"{named} shows on {where}.", "side", about))
    elif code in sides:
        text = f"{named} is recognised, but the motion does not bear it out."
        found.append(Statement(text, "unit", about, shown=False))
    elif not unit.testable or not unit.motions:
        found.append(Statement(f"{NOT_SHOWN} Motion cannot tell {named}.", "unit", about, shown=False))
    elif is_ruled_out(code, motions, explained):
        found.append(Statement(f"No, {named} is not visible in the motion.", "unit", about, shown=False))
    else:
        region = unit.motions[0].region
        text = f"{NOT_SHOWN} The {region} moves, but {named} is not recognised."
        found.append(Statement(text, "unit", about, shown=False))
    return found


def _of_motions(motions: Sequence[RegionMotion]) -> list[Statement]:
    found = []
    for item in motions:
        about = frozenset({item.region, f"{item.side} {item.region}"})
        where = f"The {item.side} {item.region}"
        if item.significant:
            error = f" (± {item.standard_error:.2f} %)" if item.standard_error else ""
            text = f"{where} moves {item.direction} by {item.magnitude:.1f} % of the crop width{error}."
        else:
            text = f"{where} does not move above the noise of the clip."
        found.append(Statement(text, "motion", about, shown=item.significant))
    return found


def _of_class(emotion, evidence, scores, coarse_emotion_of, convention) -> list[Statement]:
    because = ", ".join(f"{code} {get_action_unit(code).name}" for code in evidence)
    certainty = f" ({100 * scores[emotion]:.0f} %)" if emotion in scores else ""
    found = [
        Statement(f"By the convention of {convention} this is {emotion}{certainty}.", "class", frozenset({emotion}))
    ]
    coarse = coarse_emotion_of.get(emotion)
    if coarse is not None and coarse != emotion:
        text = f"By the convention of {convention} the coarse class is {coarse}."
        found.append(Statement(text, "class", frozenset({coarse})))
    for other, score in scores.items():
        if other != emotion:
            text = (
                f"By the convention of {convention} this is {emotion}{certainty} and not {other} "
                f"({100 * score:.0f} %): the motion shows {because}."
            )
            found.append(Statement(text, "class", frozenset({other}), shown=False))
    return found


def _everyday_units(words: str) -> set[str]:
    said = set(_UNIT_OF_WORD.findall(words))
    return {code for code, names in _EVERYDAY.items() if said & set(names)}
