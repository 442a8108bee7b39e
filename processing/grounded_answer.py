"""What an answer may say about a clip: what the recognition heads decide and the motion bears out, and nothing else.

A recognised action unit is evidence if the region that it moves most moves significantly, within one octant of the
unit's direction. Sides, direction and magnitude are the measured ones. The class is the emotion head's. The sentences
of the rationale are those of the training data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .action_units import ACTION_UNITS, REGIONS, SIDES, ActionUnit, get_action_unit
from .expression_report import (
    FIELDS,
    INSUFFICIENT,
    INSUFFICIENT_MOTION,
    MEASURED,
    ActionUnitFinding,
    ExpressionReport,
    MotionEvidence,
    evidence_phrase,
    format_answer,
)
from .motion_evidence import DIRECTIONS, RegionMotion, octants_apart

RATIONALES = (
    "{actions}; by the convention of {convention} this is {emotion}.",
    "{actions}. By the convention of {convention} this is {emotion}.",
    "{actions}, which is read as {emotion} by the convention of {convention}.",
    "By the convention of {convention} this is {emotion}: {actions}.",
)
# Rationales of an answer without a class: for a face that does not move, and for a face whose motion bears out no
# action unit.
STILL_RATIONALES = (
    "No region of the face moves clearly above the noise of the clip.",
    "Nothing in the face moves clearly above the noise of the clip.",
    "The face stands still: no motion rises above the noise of the clip.",
)
UNCLEAR_RATIONALES = ("What moves is not enough to name an action unit.",)
STILL_REASON = "No region moves above the noise of the clip."
UNCLEAR_REASON = "No recognised action unit is borne out by the motion."
UNNAMED_CONVENTION = "the training data"  # in rationales, if the model does not know the name of a convention

CLASS_MARGIN = 0.05
"""A class whose probability is this much below the highest one, or less, does not contradict the emotion head."""

ONE_SIDED = 0.4
"""A unit shows on one side if the other side moves less than this part of it. On rendered faces, the skin that a
one-sided unit drags along on the other side moves at most .35 as far. Of two-sided units, the weaker side moves at
least .53 as far there, and on people at least .43 for 95 % of the labels."""


def write_rationale(template: str, sides: Mapping[str, str], emotion: str, convention: str) -> str:
    """Fills in one of `RATIONALES`.

    Args:
        template (`str`): The sentence.
        sides (`Mapping[str, str]`): Code -> side of the action units, in the order in which they are named.
        emotion (`str`): The class.
        convention (`str`): Label convention by which the action units have that class.
    """
    actions = " and ".join(
        get_action_unit(code).action + ("" if side == "both" else f" on the {side}") for code, side in sides.items()
    )
    text = template.format(actions=actions, convention=convention, emotion=emotion)
    return text[0].upper() + text[1:]


def allowed_classes(scores: Mapping[str, float], coarse_emotion_of: Mapping[str, str]) -> list[str]:
    """The classes that do not contradict the emotion head, the most probable one first.

    These are the most probable class, and those of the same coarse class whose probability is within `CLASS_MARGIN`.

    Args:
        scores (`Mapping[str, float]`): Class -> probability.
        coarse_emotion_of (`Mapping[str, str]`): Class -> coarse class.
    """
    best = max(scores, key=scores.get)
    near = [
        name
        for name, score in scores.items()
        if score >= scores[best] - CLASS_MARGIN and coarse_emotion_of.get(name) == coarse_emotion_of.get(best)
    ]
    return sorted(near, key=lambda name: -scores[name])


def measured_evidence(code: str, motions: Sequence[RegionMotion]) -> tuple[str, MotionEvidence] | None:
    """The side of an action unit and the motion that bears it out, or `None` if no motion does.

    Only the region that the unit moves most counts, as in the training data. A side that moves less than `ONE_SIDED`
    of the other is dragged along by it. If the region moves on both sides, the magnitude is the mean, and the
    direction is that of the stronger side; if the two sides are further apart than one octant, it is the unit's own
    direction, which is halfway between them.

    Args:
        code (`str`): Action unit.
        motions (`Sequence[RegionMotion]`): Motion of all regions of the clip.
    """
    unit = get_action_unit(code)
    if not unit.testable or not unit.motions:
        return None
    expected = unit.motions[0]
    shown = [item for item in motions if item.region == expected.region and _moves(item, expected.phrase)]
    shown.sort(key=lambda item: -item.magnitude)
    shown = [item for item in shown if item.magnitude >= ONE_SIDED * shown[0].magnitude]
    magnitude = round(sum(item.magnitude for item in shown) / max(len(shown), 1), 1)
    if magnitude == 0:  # nothing moves, or too little to be stated with one decimal
        return None
    direction = shown[0].direction
    if not all(_near(item.direction, direction) for item in shown):
        direction = expected.phrase
    side = "both" if len(shown) > 1 else shown[0].side
    return side, MotionEvidence(unit.code, expected.region, direction, magnitude, _error_of_mean(shown))


def measurement_in_words(motions: Sequence[RegionMotion], candidates: bool = True) -> str:
    """What was measured in a clip, as the prompt says it to the language model.

    It names the regions that move, the strongest first, and the action units that move the face in this way. Whether
    these units are there is not said: several units can move a region alike. The words are those of the answers.

    Args:
        motions (`Sequence[RegionMotion]`): Motion of all regions of the clip.
        candidates (`bool`, *optional*, defaults to `True`): Whether to name these action units.
    """
    moving = sorted((item for item in motions if item.significant), key=lambda item: -item.magnitude)
    if not moving:
        return "nothing moves above the noise"
    regions = "; ".join(f"{item.side} {item.region} {item.direction} {item.magnitude:.1f} %" for item in moving)
    if not candidates:
        return regions
    units = []
    for unit in sorted(ACTION_UNITS.values(), key=lambda unit: (unit.kind, unit.number)):
        found = measured_evidence(unit.code, motions)
        if found is not None:
            units.append(evidence_phrase(unit, *found))
    return f"{regions}. It could be: {'; '.join(units) or 'no action unit'}"


def recognition_in_words(report: ExpressionReport, coarse_emotion_of: Mapping[str, str]) -> str:
    """What was recognised in a clip, as the prompt says it to the language model, in the words of the answers.

    Args:
        report (`ExpressionReport`): What was recognised, from `measured_report`.
        coarse_emotion_of (`Mapping[str, str]`): Class -> coarse class.
    """
    evidence = {item.action_unit: item for item in report.evidence}
    units = [
        evidence_phrase(unit, unit.side, evidence[unit.code])
        if unit.code in evidence
        else f"{unit.code} {unit.name}, not borne out by the motion"
        for unit in report.action_units
    ]
    label = INSUFFICIENT_MOTION if report.emotion is None else report.emotion
    coarse = coarse_emotion_of.get(label)
    # Questions ask for "the emotion" and "the coarse class", so both have a name of their own.
    classes = f"Emotion: {label}" + (f". Coarse class: {coarse}" if coarse else "")
    return f"{'; '.join(units) or 'no action unit'}. {classes}"


def absent_units(
    named: Collection[str], explained: Collection[tuple[str, str]], motions: Sequence[RegionMotion]
) -> tuple[str, ...]:
    """The action units that are certainly absent: nobody names them, and their region is still on both sides.

    The region may also move if a visible unit explains this motion, and its direction is at least three octants from
    the one expected for the absent unit.

    Args:
        named (`Collection[str]`): Codes that somebody names, with or without certainty.
        explained (`Collection[tuple[str, str]]`): (region, side) of the motions that visible units explain.
        motions (`Sequence[RegionMotion]`): Motion of all regions of the clip.
    """
    measured = {(item.region, item.side): item for item in motions}
    absent = []
    for unit in ACTION_UNITS.values():
        if unit.code in named or not unit.testable or not unit.motions:
            continue
        expected = unit.motions[0]
        certain = []
        for side in SIDES:
            item = measured.get((expected.region, side))
            apart = None if item is None else octants_apart(item.direction, expected.phrase)
            opposed = apart is not None and apart >= 3 and (expected.region, side) in explained
            certain.append(item is not None and (not item.significant or opposed))
        if all(certain):
            absent.append(unit.code)
    return tuple(absent)


def measured_report(recognised: Mapping[str, str], emotion: str, motions: Sequence[RegionMotion]) -> ExpressionReport:
    """What the heads decide, as far as the motion bears it out.

    Recognised units that the motion does not bear out stay in `action_units`, with `borne_out=False` and without
    evidence. If no unit is left, the motion is insufficient for a class.

    Args:
        recognised (`Mapping[str, str]`): Code -> side of the recognised action units, by the recognition head. The
            head's side is kept only where the motion does not tell the side.
        emotion (`str`): The emotion head's class.
        motions (`Sequence[RegionMotion]`): Motion of all regions of the clip.
    """
    report = ExpressionReport(emotion=emotion)
    for unit in sorted(map(get_action_unit, recognised), key=lambda unit: (unit.kind, unit.number)):
        found = measured_evidence(unit.code, motions)
        side = recognised[unit.code] if found is None else found[0]
        report.action_units.append(ActionUnitFinding(unit.code, unit.name, side, borne_out=found is not None))
        if found is not None:
            report.evidence.append(found[1])
    if not report.evidence:
        moved = any(item.significant for item in motions)
        report.emotion, report.status = None, INSUFFICIENT
        report.reason = UNCLEAR_REASON if moved else STILL_REASON
    return report


def possible_answers(
    report: ExpressionReport, emotions: Sequence[str], convention: str = "", fields: Sequence[str] = FIELDS
) -> list[str]:
    """All answers that say what a report of `measured_report` says: every wording, with every allowed class.

    Args:
        report (`ExpressionReport`): What was measured.
        emotions (`Sequence[str]`): Allowed classes, from `allowed_classes`.
        convention (`str`, *optional*): Label convention named in the rationale.
        fields (`Sequence[str]`, *optional*, defaults to `FIELDS`): Names of the three fields.
    """
    if report.status == INSUFFICIENT:
        wordings = STILL_RATIONALES if report.reason == STILL_REASON else UNCLEAR_RATIONALES
        return [format_answer(replace(report, rationale=wording), fields=fields) for wording in wordings]
    sides = {unit.code: unit.side for unit in report.action_units if unit.borne_out}
    return [
        format_answer(
            replace(
                report,
                emotion=emotion,
                rationale=write_rationale(template, sides, emotion, convention or UNNAMED_CONVENTION),
            ),
            fields=fields,
        )
        for emotion in emotions
        for template in RATIONALES
    ]


def contradictions(
    report: ExpressionReport,
    motions: Sequence[RegionMotion] | None = None,
    scores: Mapping[str, float] | None = None,
    coarse_emotion_of: Mapping[str, str] | None = None,
) -> list[str]:
    """What a report says against the measured motion or the emotion head, one sentence per contradiction.

    Args:
        report (`ExpressionReport`): The report of an answer.
        motions (`Sequence[RegionMotion] | None`, *optional*): Motion of all regions of the clip. If `None`, the
            evidence is compared with the action units only.
        scores (`Mapping[str, float] | None`, *optional*): Class -> probability by the emotion head. If `None`, the
            class is not compared.
        coarse_emotion_of (`Mapping[str, str] | None`, *optional*): Class -> coarse class.
    """
    found = []
    if report.status != MEASURED and (report.emotion is not None or report.evidence):
        found.append(f"The status is {report.status}, but there is a class or evidence.")
    if report.emotion is not None and motions is not None and not any(item.significant for item in motions):
        found.append(f"The text says {report.emotion}, but no region moves above the noise of the clip.")
    if report.emotion is not None and scores:
        allowed = allowed_classes(scores, coarse_emotion_of or {})
        if report.emotion not in allowed:
            found.append(f"The text says {report.emotion}, the emotion head {allowed[0]}.")
        coarse = (coarse_emotion_of or {}).get(report.emotion)
        if None not in (coarse, report.coarse_emotion) and coarse != report.coarse_emotion:
            found.append(f"The coarse class of {report.emotion} is {coarse}, not {report.coarse_emotion}.")
    sides = {unit.code: unit.side for unit in report.action_units}
    for item in report.evidence:
        found += _contradictions_of_evidence(item, sides.get(item.action_unit), motions)
    shown = {item.action_unit: sides.get(item.action_unit) for item in report.evidence}
    return found + _contradictions_of_rationale(report, shown, motions or [], scores or {})


def magnitude_agrees(stated: float, measured: float) -> bool:
    """Whether two magnitudes, in percent of the crop width, differ by at most a quarter, or by at most 0.2."""
    return abs(stated - measured) <= max(0.25 * measured, 0.2)


def _contradictions_of_evidence(
    item: MotionEvidence, side: str | None, motions: Sequence[RegionMotion] | None
) -> list[str]:
    unit = get_action_unit(item.action_unit)
    expected = {motion.region: motion.phrase for motion in unit.motions if unit.testable}
    if item.region not in expected:
        return [f"{unit.code}: motion of the {item.region} is not evidence of the {unit.name}."]
    found = []
    if not _near(item.direction, expected[item.region]):
        found.append(
            f"{unit.code}: the {unit.name} moves the {item.region} {expected[item.region]}, not {item.direction}."
        )
    if motions is None:
        return found
    measured = {one.side: one for one in motions if one.region == item.region and one.significant}
    named = ("right", "left") if side in ("both", None) else (side,)
    for one in named:
        seen = measured.get(one)
        if seen is None or not _near(seen.direction, item.direction):
            what = "is still" if seen is None else f"moves {seen.direction}"
            found.append(
                f"{unit.code}: the answer says the {item.region} moves {item.direction}; on the {one} side it {what}."
            )
    found += [
        f"{unit.code}: the answer says the {item.region} moves on the {side} side; it moves on the {one} side too."
        for one, seen in measured.items()
        if one not in named
        and _near(seen.direction, expected[item.region])
        and round(seen.magnitude, 1) > 0
        and seen.magnitude
        >= ONE_SIDED * max((measured[name].magnitude for name in named if name in measured), default=0)
    ]
    if not found:
        mean = sum(measured[one].magnitude for one in named) / len(named)
        if not magnitude_agrees(item.magnitude, mean):
            stated = f"{item.magnitude:g} %; measured was {mean:.1f} %"
            found.append(f"{unit.code}: the answer says the {item.region} moves by {stated}.")
    return found


def _contradictions_of_rationale(
    report: ExpressionReport,
    shown: Mapping[str, str | None],
    motions: Sequence[RegionMotion],
    scores: Mapping[str, float],
) -> list[str]:
    """What the rationale says about classes, action units and motion that class and evidence do not say."""
    text, found = report.rationale, []
    for name in scores:
        said = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE)
        if said and name not in (report.emotion, report.coarse_emotion):
            found.append(f"The rationale says {name}; the class is {report.emotion or 'not named'}.")
    for match in _UNIT_MENTION.finditer(text):
        unit = _mentioned(match)
        if unit is None or unit.code not in shown:
            found.append(f"The rationale names {unit.code if unit else match[0]}, for which there is no evidence.")
        elif match["side"] and match["side"].lower() != shown[unit.code]:
            found.append(f"The rationale says {unit.code} is on the {match['side']}; the evidence says otherwise.")
    moving = [(item.region, item.direction) for item in report.evidence]
    moving += [(item.region, item.direction) for item in motions if item.significant]
    for match in _MOTION_MENTION.finditer(_UNIT_MENTION.sub(";", text)):
        region, direction = match["region"].lower(), match["direction"].lower()
        if not any(name == region and _near(other, direction) for name, other in moving):
            found.append(f"The rationale says the {region} moves {direction}, which was not measured.")
    return found


def _near(first: str, second: str) -> bool:
    """Whether two directions are clear and within one octant."""
    apart = octants_apart(first, second)
    return apart is not None and apart <= 1


def _moves(item: RegionMotion, direction: str) -> bool:
    return item.significant and _near(item.direction, direction)


def _error_of_mean(items: Sequence[RegionMotion]) -> float | None:
    """Standard error of the mean magnitude of independent motions, or `None` if one of them has no standard error."""
    # Estimators of motion may give no standard error.
    errors = [getattr(item, "standard_error", None) for item in items]
    if None in errors:
        return None
    return sum(error**2 for error in errors) ** 0.5 / len(errors)


def _any_of(phrases: Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


_UNIT_OF_PHRASE = {phrase: unit for unit in ACTION_UNITS.values() for phrase in (unit.name, unit.action)}
_UNIT_MENTION = re.compile(
    rf"(?<![\w-])(?:(?P<code>(?:AU|AD|M)\s?\d+)|(?P<phrase>{_any_of([*_UNIT_OF_PHRASE])}))"
    r"(?: on the (?P<side>left|right))?(?![\w-])",
    re.IGNORECASE,
)
_MOTION_MENTION = re.compile(
    rf"(?<![\w-])(?P<region>{_any_of(REGIONS)})s?\b[^.;,]*?\b(?P<direction>{_any_of(DIRECTIONS)})(?![\w-])",
    re.IGNORECASE,
)


def _mentioned(match: re.Match) -> ActionUnit | None:
    if match["phrase"]:
        return _UNIT_OF_PHRASE[match["phrase"].lower()]
    try:
        return get_action_unit(re.sub(r"\s", "", match["code"]).upper())
    except ValueError:
        return None
