"""Action units as annotators type them: one cell of a coding sheet to units and back.

    4+7         L12, R10      AU4+AU7 (k)      7B        A14C       T18        43E        13?
    4A/B        A/L12         L12 or L14       (R6 or R12) + R15     ref(7B)   AD38 M57   4，11

A token is a side, a kind, a number and an intensity; all but the number may be missing. Sides: L and R are the
subject's left and right, T and B the top and the bottom lip, A asymmetric; no side means both. Intensities are those
of FACS, A (trace) to E (maximum). A side belongs to its own token only: "R4,5" is a right AU4 and an AU5 on both
sides.

Where the sheet leaves a choice, the first reading is the unit and the others are its `alternatives`, whether it is
the intensity ("4A/B"), the side ("A/L12") or the unit itself ("L12 or L14") that is open. "or" binds tighter than
"+" and ",".

Nothing is dropped: what cannot be read is kept as text in `ParsedCell.unparsed`, and `ParsedCell.warnings` names it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from deft_llm.processing.action_units import ActionUnit, get_action_unit

# What a column that was read as text holds where the sheet was empty.
_EMPTY = frozenset({"", "nan", "none", "null", "nat", "<na>"})
# Full-width forms are their ASCII twins, one character each, so that positions in the cell stay what they are.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x3001: ","}
_SEPARATORS = ",;+\n\r"
_UNIT = re.compile(
    r"(?P<sides>[LRTBA](?:/[LRTBA])*)?(?:(?P<kind>AU|AD|M)\s*)?(?P<number>[0-9]{1,3})(?:\.0)?"
    r"(?P<intensities>[A-E](?:/[A-E])*)?(?=[\s()?]|$)",
    re.IGNORECASE,
)
_OR = re.compile(r"\s*\bor\b\s*", re.IGNORECASE)
_OPEN = re.compile(r"(?P<reference>ref\s*)?\(\s*", re.IGNORECASE)
_CLOSE = re.compile(r"\s*\)")
_MARK = re.compile(r"\s*(?:\?|\((?P<note>[a-z])\))")
_WORD = re.compile(r"\S+")
_MOST_BRACKETS = 20  # in one segment; more is no annotation and would only nest the reader


@dataclass(frozen=True)
class ParsedActionUnit:
    """One unit of a cell. Two are equal when they say the same, however it was typed.

    Args:
        code: the number.
        kind: AU, AD or M as the sheet has it, and as the table has it where the sheet gives the number alone.
        side: L, R, T, B, A, or `None` for both sides.
        intensity: A to E, or `None`.
        certain: `False` with a question mark, with words beside it that cannot be read, or when a choice is left
            between units. An open side or intensity leaves the unit itself certain.
        alternatives: the other readings; they have no alternatives themselves.
        notes: marks whose meaning is not documented: "ref" for `ref(…)`, the letter for one like `(k)`.
        raw: the characters of the cell, the alternatives' included.
    """

    code: int
    kind: str
    side: str | None = None
    intensity: str | None = None
    certain: bool = True
    alternatives: tuple[ParsedActionUnit, ...] = ()
    notes: tuple[str, ...] = ()
    raw: str = field(default="", compare=False)

    @property
    def unit(self) -> ActionUnit:
        """The table's row; `"AD38"` and `"38"` are the same one."""
        return get_action_unit(f"{self.kind}{self.code}")

    def __str__(self) -> str:
        """The shortest text that is read as this unit."""
        readings = (self, *self.alternatives)
        open_unit = _differ(readings)  # then "or" says that it is uncertain
        return " or ".join(reading._text(mark=not (open_unit or reading.certain)) for reading in readings)

    def _text(self, *, mark: bool) -> str:
        kind = "" if self.kind == _kind_of_number(self.code) else self.kind
        text = f"{self.side or ''}{kind}{self.code}{self.intensity or ''}{'?' if mark else ''}"
        for note in self.notes:
            text = f"ref({text})" if note == "ref" else f"{text} ({note})"
        return text


@dataclass(frozen=True)
class ParsedCell:
    """A cell's units in their order, and the pieces of it that are not action units."""

    units: tuple[ParsedActionUnit, ...] = ()
    unparsed: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """One sentence for each piece that could not be read."""
        return [f"{text!r} could not be read as action units." for text in self.unparsed]


def parse_action_units(cell: object) -> ParsedCell:
    """Reads one cell of a column of action units. Never raises: what cannot be read becomes a warning.

    Args:
        cell: text, or what a spreadsheet makes of it: an integer, a float such as 4.0, NaN or `None` for empty.
    """
    raw = str(cell)
    text = raw.translate(_HALF_WIDTH)
    units: list[ParsedActionUnit] = []
    unparsed: list[str] = []
    for start, end in _segments(text):
        found, unread = _read_segment(text[start:end], raw[start:end])
        units += found
        unparsed += [piece for piece in unread if piece.translate(_HALF_WIDTH).casefold() not in _EMPTY]
    return ParsedCell(tuple(units), tuple(unparsed))


def format_action_units(parsed: ParsedCell) -> str:
    """The cell in one canonical form: `parse_action_units(format_action_units(parsed)) == parsed`."""
    # An unclosed bracket swallows what follows it, so what could not be read comes last.
    return ", ".join([*map(str, parsed.units), *parsed.unparsed])


def _segments(text: str) -> list[tuple[int, int]]:
    """Spans between the separators that stand outside brackets."""
    starts, depth = [0], 0
    for position, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif depth == 0 and character in _SEPARATORS:
            starts.append(position + 1)
    return [(start, end - 1) for start, end in zip(starts, [*starts[1:], len(text) + 1], strict=True)]


def _read_segment(text: str, raw: str) -> tuple[list[ParsedActionUnit], list[str]]:
    """Units that stand side by side, and the words between them that are none."""
    # A piece of a bracket or of a choice says something else than the whole, so these are read whole or not at all.
    connected = re.search(r"[()]|\bor\b", text, re.IGNORECASE) is not None
    whole = [], [raw.strip()]
    if text.count("(") > _MOST_BRACKETS:
        return whole
    units: list[ParsedActionUnit] = []
    unread: list[list[int]] = []
    position, after_word = 0, False
    while word := _WORD.search(text, position):
        start = word.start()
        choice = _read_choice(text, start)
        if choice is not None and not text[choice[1] : choice[1] + 1].strip():
            readings, position = choice
            after_word = False
            units.append(_with_alternatives(readings, raw[start:position]))
        elif connected:
            return whole
        else:
            position = word.end()
            if after_word:
                unread[-1][1] = position
            else:
                unread.append([start, position])
            after_word = True
    if unread:  # words may qualify their neighbours: "not 4", "4 possibly"
        units = [replace(unit, certain=False, alternatives=_doubted(unit.alternatives)) for unit in units]
    return units, [raw[start:end] for start, end in unread]


def _read_choice(text: str, position: int) -> tuple[list[ParsedActionUnit], int] | None:
    """`factor or factor …`: all readings and where they end, or `None`."""
    found = _read_factor(text, position)
    if found is None:
        return None
    readings, position = found
    while word := _OR.match(text, position):
        found = _read_factor(text, word.end())
        if found is None:
            return None
        readings, position = readings + found[0], found[1]
    return readings, position


def _read_factor(text: str, position: int) -> tuple[list[ParsedActionUnit], int] | None:
    """A unit, or a choice in brackets, with the marks behind it."""
    if opening := _OPEN.match(text, position):
        inner = _read_choice(text, opening.end())
        closing = inner and _CLOSE.match(text, inner[1])
        if not closing:
            return None
        readings, position = inner[0], closing.end()
        if opening["reference"]:
            readings = _noted(readings, "ref")
    elif match := _UNIT.match(text, position):
        readings, position = _readings(match), match.end()
        if not readings:
            return None
    else:
        return None
    while mark := _MARK.match(text, position):
        readings = _noted(readings, mark["note"]) if mark["note"] else list(_doubted(readings))
        position = mark.end()
    return readings, position


def _readings(match: re.Match) -> list[ParsedActionUnit]:
    """One for each side and intensity that a token leaves open; none when the table lacks its number."""
    code = int(match["number"])
    kind = match["kind"].upper() if match["kind"] else _kind_of_number(code)
    try:
        get_action_unit(f"{kind}{code}")
    except ValueError:
        return []
    sides = match["sides"].upper().split("/") if match["sides"] else [None]
    intensities = match["intensities"].upper().split("/") if match["intensities"] else [None]
    return [
        ParsedActionUnit(code, kind, side, intensity, raw=match.group())
        for side, intensity in product(sides, intensities)
    ]


def _kind_of_number(code: int) -> str:
    try:
        return get_action_unit(f"AU{code}").kind
    except ValueError:
        return ""


def _with_alternatives(readings: Sequence[ParsedActionUnit], raw: str) -> ParsedActionUnit:
    if _differ(readings):
        readings = _doubted(readings)
    return replace(readings[0], alternatives=tuple(readings[1:]), raw=raw)


def _differ(readings: Sequence[ParsedActionUnit]) -> bool:
    return len({reading.unit.code for reading in readings}) > 1


def _doubted(readings: Sequence[ParsedActionUnit]) -> tuple[ParsedActionUnit, ...]:
    return tuple(replace(reading, certain=False) for reading in readings)


def _noted(readings: Sequence[ParsedActionUnit], note: str) -> list[ParsedActionUnit]:
    return [replace(reading, notes=(*reading.notes, note)) for reading in readings]
