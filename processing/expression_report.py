"""The three-field answer (Class / Evidence / Rationale) and its report. The text can be parsed back.

    Class: surprise
    Evidence: AU1 inner brow raiser, both sides, inner brow moves up by 0.9 %
    Evidence: AU2 outer brow raiser, left side, outer brow moves up by 0.6 %
    Rationale: The inner brows rise and the outer brows rise; by the convention "synthetic" this is surprise.

The answer has one line for the class, one line per piece of evidence and one paragraph of rationale. Magnitudes are in
percent of the crop width. `parse_answer(format_answer(report))` returns the same facts. Standard errors and detection
limits are in the report, and not in the answer.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from .action_units import ActionUnit, get_action_unit

FIELDS = ("Class", "Evidence", "Rationale")
DEFAULT_INSTRUCTION = (
    "Explain the micro-expression by the convention of {convention}. "
    "Answer in three fields: one line Class, one line a piece of Evidence, one paragraph Rationale."
)
INSUFFICIENT_MOTION = "insufficient motion"
"""The answer's class if the motion is not enough for one."""
NOT_MEASURABLE_CLASS = "not measurable"
"""The answer's class if the clip cannot be measured."""
MEASURED, INSUFFICIENT, NOT_MEASURABLE = "measured", "insufficient_motion", "not_measurable"
"""The status of a report."""
_SIDE_WORDS = {"both": "both sides", "left": "left side", "right": "right side"}
_SIDE_OF_WORDS = {words: side for side, words in _SIDE_WORDS.items()}
_EVIDENCE = re.compile(
    r"^(?P<code>[A-Z]+\d+) (?P<name>[^,]+), (?P<side>both sides|left side|right side), "
    r"(?P<region>[^,]+) moves (?P<direction>[^,]+) by (?P<magnitude>\d+(?:\.\d+)?) %$"
)


@dataclass
class ActionUnitFinding:
    """An action unit that was recognised or is named in the answer.

    Args:
        code (`str`): Code, such as `"AU4"`.
        name (`str`): FACS name.
        side (`str | None`, *optional*): Both, left or right.
        intensity (`str | None`, *optional*): A to E.
        score (`float | None`, *optional*): Probability by the recognition head.
        borne_out (`bool | None`, *optional*): Whether the measured motion bears the unit out; `None` if this was not
            checked.
    """

    code: str
    name: str
    side: str | None = None
    intensity: str | None = None
    score: float | None = None
    borne_out: bool | None = None


@dataclass
class MotionEvidence:
    """The motion that supports an action unit.

    Args:
        action_unit (`str`): Code of the action unit.
        region (`str`): Name of the region that moves.
        direction (`str`): Direction in words, one of `motion_evidence.DIRECTIONS`.
        magnitude (`float`): Motion in percent of the crop width.
        standard_error (`float`, *optional*): Of the magnitude, in percent of the crop width, if known.
    """

    action_unit: str
    region: str
    direction: str
    magnitude: float
    standard_error: float | None = None

    @property
    def amount(self) -> str:
        """The magnitude to read, such as `"0.8 ± 0.1 %"`."""
        if self.standard_error is None:
            return f"{self.magnitude:g} %"
        # A small error is shown with its first digit, because "± 0.0" would say that there is none.
        error = self.standard_error
        return f"{self.magnitude:g} ± {f'{error:.1f}' if error >= 0.05 else f'{error:.1g}'} %"


@dataclass
class ExpressionReport:
    """The findings in a clip.

    Args:
        emotion (`str`, *optional*): Emotion named in the answer; `None` if there is none.
        coarse_emotion (`str`, *optional*): Coarse class of the emotion.
        scores (`dict[str, float]`): Emotion → probability by the recognition head.
        action_units (`list[ActionUnitFinding]`): The action units of the answer.
        evidence (`list[MotionEvidence]`): The motion of the answer.
        rationale (`str`): The rationale of the answer.
        status (`str`): `"measured"`, `"insufficient_motion"` (the motion is not enough for a class) or
            `"not_measurable"` (the clip cannot be measured, and nothing is said about it).
        reason (`str`): Why the status is not `"measured"`.
        parsed (`bool`): Whether the answer could be parsed. If not, `warnings` says why.
        text (`str`): The answer as generated.
        warnings (`list[str]`): Sentences about problems with the answer.
        detection_limits (`dict[str, float]`): Region → the smallest motion that would have been seen there in 90 % of
            clips like this one, in percent of the crop width; empty if nothing was measured.
    """

    emotion: str | None = None
    coarse_emotion: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    action_units: list[ActionUnitFinding] = field(default_factory=list)
    evidence: list[MotionEvidence] = field(default_factory=list)
    rationale: str = ""
    status: str = MEASURED
    reason: str = ""
    parsed: bool = True
    text: str = ""
    warnings: list[str] = field(default_factory=list)
    detection_limits: dict[str, float] = field(default_factory=dict)

    @classmethod
    def not_measurable(cls, reason: str) -> ExpressionReport:
        """The report of a clip that cannot be measured: no class, no scores, no action units, no evidence.

        Args:
            reason (`str`): Why it cannot be measured.

        Raises:
            ValueError: the reason is empty.
        """
        reason = " ".join(reason.split())  # one line, as in the answer
        if not reason:
            raise ValueError("A clip that cannot be measured needs a reason.")
        return cls(status=NOT_MEASURABLE, reason=reason)

    @classmethod
    def from_dict(cls, data: Mapping) -> ExpressionReport:
        """The report of `to_dict`, such as the `report` of the pipeline's result.

        Args:
            data (`Mapping`): The report as JSON data. Names that a report does not have are left out.
        """
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        known["action_units"] = [ActionUnitFinding(**unit) for unit in known.get("action_units", ())]
        known["evidence"] = [MotionEvidence(**item) for item in known.get("evidence", ())]
        return cls(**known)

    @property
    def insufficient_motion(self) -> bool:
        return self.status == INSUFFICIENT

    def to_dict(self) -> dict:
        """Plain dictionaries, lists, strings and numbers."""
        return asdict(self) | {"insufficient_motion": self.insufficient_motion}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        if self.status == NOT_MEASURABLE:
            lines = [f"{'Class':<10} {NOT_MEASURABLE_CLASS}", f"{'Reason':<10} {self.reason}"]
            return "\n".join(lines + [f"{'Warning':<10} {warning}" for warning in self.warnings])
        coarse = f" ({self.coarse_emotion})" if self.coarse_emotion not in (None, self.emotion) else ""
        label = INSUFFICIENT_MOTION if self.insufficient_motion else self.emotion or "not readable"
        lines = [f"{'Class':<10} {label}{coarse}"]
        if self.scores:
            ranked = sorted(self.scores.items(), key=lambda item: -item[1])
            lines.append(f"{'Scores':<10} " + " · ".join(f"{name} {score:.2f}" for name, score in ranked))
        title = "Evidence"
        for unit in self.action_units or [None]:
            if unit is None:
                lines.append(f"{title:<10} none")
                break
            shown = [item for item in self.evidence if item.action_unit == unit.code]
            motion = "; ".join(f"{item.region} moves {item.direction} by {item.amount}" for item in shown)
            motion = "not borne out by the motion" if unit.borne_out is False else motion
            side = f", {_SIDE_WORDS[unit.side]}" if unit.side else ""
            score = f"  [{unit.score:.2f}]" if unit.score is not None else ""
            lines.append(f"{title:<10} {unit.code} {unit.name}{side}{': ' + motion if motion else ''}{score}")
            title = ""
        lines.append(f"{'Rationale':<10} {self.rationale or self.reason or 'none'}")
        if self.detection_limits:
            lines.append(f"{'Seen from':<10} {limits_phrase(self.detection_limits)}")
        lines += [f"{'Warning':<10} {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The report for notebooks: a table without scripts, pictures or colours of its own, so that it is readable on
        light and on dark pages."""
        label, coarse = _html_label(self), ""
        if self.status == MEASURED and self.emotion and self.coarse_emotion not in (None, self.emotion):
            coarse = f" ({html.escape(self.coarse_emotion)})"
        rows = [("Class", f"<strong>{html.escape(label)}</strong>{coarse}")]
        if self.status != MEASURED and self.reason:
            rows.append(("Reason", html.escape(self.reason)))
        if self.scores:
            ranked = sorted(self.scores.items(), key=lambda item: -item[1])
            rows.append(("Scores", "".join(_html_score(name, score) for name, score in ranked)))
        if self.status != NOT_MEASURABLE:
            units = "".join(f"<div>{self._html_unit(unit)}</div>" for unit in self.action_units)
            rows.append(("Evidence", units or "none"))
            if self.rationale:
                rows.append(("Rationale", html.escape(self.rationale)))
        if self.detection_limits:
            rows.append(("Seen from", html.escape(limits_phrase(self.detection_limits))))
        rows += [("Warning", html.escape(warning)) for warning in self.warnings]
        cell = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
        return (
            '<table style="border-collapse:collapse;background:transparent;color:inherit">'
            + "".join(
                f'<tr style="background:transparent"><th scope="row" style="{cell}">{title}</th>'
                f'<td style="{cell}">{content}</td></tr>'
                for title, content in rows
            )
            + "</table>"
        )

    def _html_unit(self, unit: ActionUnitFinding) -> str:
        motion = [
            f"{html.escape(item.region)} moves {html.escape(item.direction)} by {item.amount}"
            for item in self.evidence
            if item.action_unit == unit.code
        ]
        motion = ["not borne out by the motion"] if unit.borne_out is False else motion
        side = f", {html.escape(_SIDE_WORDS.get(unit.side, unit.side))}" if unit.side else ""
        score = f" [{unit.score:.2f}]" if unit.score is not None else ""
        told = f": {'; '.join(motion)}" if motion else ""
        return f"<strong>{html.escape(unit.code)}</strong> {html.escape(unit.name)}{side}{told}{score}"


def _html_label(report: ExpressionReport) -> str:
    words = {INSUFFICIENT: INSUFFICIENT_MOTION, NOT_MEASURABLE: NOT_MEASURABLE_CLASS}
    return words.get(report.status) or report.emotion or "not readable"


def _html_score(name: str, score: float) -> str:
    """A bar in the page's own text colour, and its number."""
    share = min(max(float(score), 0.0), 1.0)
    return (
        '<div style="display:flex;align-items:center;gap:8px">'
        f'<span style="flex:0 0 8em">{html.escape(name)}</span>'
        '<span aria-hidden="true" style="flex:0 0 120px;height:9px;border:1px solid currentColor">'
        f'<span style="display:block;height:100%;width:{100 * share:.0f}%;background:currentColor"></span></span>'
        f"<span>{score:.2f}</span></div>"
    )


def limits_phrase(limits: Mapping[str, float]) -> str:
    """The lowest and the highest detection limit, such as `"0.31 % (inner brow) to 0.92 % (chin) of the face's
    width"`.

    Args:
        limits (`Mapping[str, float]`): Region → detection limit, not empty.
    """
    best, worst = min(limits, key=limits.get), max(limits, key=limits.get)
    return f"{limits[best]:.2f} % ({best}) to {limits[worst]:.2f} % ({worst}) of the face's width"


def evidence_phrase(unit: ActionUnitFinding | ActionUnit, side: str, evidence: MotionEvidence) -> str:
    """One piece of evidence, such as `"AU12 lip corner puller, left side, mouth corner moves up by 0.8 %"`.

    Args:
        unit (`ActionUnitFinding | ActionUnit`): The action unit.
        side (`str`): Where it shows: left, right or both.
        evidence (`MotionEvidence`): The motion that bears it out.
    """
    return (
        f"{unit.code} {unit.name}, {_SIDE_WORDS[side]}, "
        f"{evidence.region} moves {evidence.direction} by {evidence.magnitude:.1f} %"
    )


def format_answer(report: ExpressionReport, *, fields: Sequence[str] = FIELDS) -> str:
    """Formats the facts of a report as an answer."""
    class_field, evidence_field, rationale_field = fields
    label = {INSUFFICIENT: INSUFFICIENT_MOTION, NOT_MEASURABLE: NOT_MEASURABLE_CLASS}.get(
        report.status, report.emotion
    )
    lines = [f"{class_field}: {label}"]
    sides = {unit.code: unit for unit in report.action_units}
    for item in report.evidence:
        unit = sides[item.action_unit]
        lines.append(f"{evidence_field}: {evidence_phrase(unit, unit.side, item)}")
    if not report.evidence:
        lines.append(f"{evidence_field}: none")
    rationale = report.reason if report.status == NOT_MEASURABLE else report.rationale
    lines.append(f"{rationale_field}: {rationale}")
    return "\n".join(lines)


def parse_answer(
    text: str, *, emotion_labels: Sequence[str] | None = None, fields: Sequence[str] = FIELDS
) -> ExpressionReport:
    """Parses an answer. Never raises; text of another form gives a report with `parsed=False`.

    Args:
        text (`str`): The answer.
        emotion_labels (`Sequence[str] | None`, *optional*): Known classes. If given, any other class makes the answer
            unreadable.
        fields (`Sequence[str]`, *optional*, defaults to `FIELDS`): Names of the three fields.
    """
    report = ExpressionReport(text=text)
    class_field, evidence_field, rationale_field = fields
    found: dict[str, list[str]] = {name: [] for name in fields}
    for line in text.strip().splitlines():
        name, separator, value = line.partition(": ")
        if not separator or name not in found:
            return _unreadable(report, f"the line {line!r} belongs to none of the fields {', '.join(fields)}")
        found[name].append(value.strip())
    for name in (class_field, rationale_field):
        if len(found[name]) != 1:
            return _unreadable(report, f"expected one line of {name}, found {len(found[name])}")
    if not found[evidence_field]:
        return _unreadable(report, f"no line of {evidence_field}")

    label = found[class_field][0]
    if label == NOT_MEASURABLE_CLASS:
        if found[evidence_field] != ["none"] or not found[rationale_field][0]:
            return _unreadable(report, f"{NOT_MEASURABLE_CLASS!r} needs a reason and has no {evidence_field}")
        return replace(ExpressionReport.not_measurable(found[rationale_field][0]), text=text)
    if label == INSUFFICIENT_MOTION:
        report.status = INSUFFICIENT
    elif emotion_labels is not None and label not in emotion_labels:
        return _unreadable(report, f"the class {label!r} is not one of {', '.join(emotion_labels)}")
    else:
        report.emotion = label
    report.rationale = found[rationale_field][0]

    for line in found[evidence_field]:
        if line == "none" and len(found[evidence_field]) == 1:
            break
        match = _EVIDENCE.match(line)
        if match is None:
            return _unreadable(report, f"the evidence {line!r} does not have the form that the prompt asks for")
        try:
            unit = get_action_unit(match["code"])
        except ValueError as error:
            return _unreadable(report, str(error))
        if unit.name != match["name"]:
            return _unreadable(report, f"{unit.code} is the {unit.name}, not the {match['name']}")
        if unit.code not in {finding.code for finding in report.action_units}:
            report.action_units.append(ActionUnitFinding(unit.code, unit.name, _SIDE_OF_WORDS[match["side"]]))
        report.evidence.append(
            MotionEvidence(unit.code, match["region"], match["direction"], float(match["magnitude"]))
        )
    return report


def _unreadable(report: ExpressionReport, reason: str) -> ExpressionReport:
    return ExpressionReport(text=report.text, parsed=False, warnings=[f"The answer could not be read: {reason}."])
