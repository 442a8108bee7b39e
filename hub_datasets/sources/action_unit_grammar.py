"""Parses action units as annotators type them in a coding sheet, and formats them again.

    4+7         L12, R10      AU4+AU7 (k)      7B        A14C       T18        43E        13?
    4A/B        A/L12         L12 or L14       (R6 or R12) + R15     ref(7B)   AD38 M57   4，11
    4&7         L AU12        LR12             ['AU4', 'AU7']        [4, 7]

A token consists of a side, a kind, a number and an intensity. Only the number is required. Sides: L and R are the
subject's left and right, T and B the top and bottom lip, A asymmetric; no side, LR or RL means both. Intensities are
those of FACS, A (trace) to E (maximum). A side belongs to its own token only: "R4,5" is a right AU4 and an AU5 on both
sides.

If the sheet gives a choice of intensity ("4A/B"), side ("A/L12") or unit ("L12 or L14"), the first reading is the unit
and the others are its `alternatives`. "or" binds tighter than "+" and ",".

"4/7" may mean "and" or "or", and "4-7" may mean "and" or "to", so neither is parsed.

Nothing is dropped. Text that cannot be parsed is kept in `ParsedCell.unparsed` and reported by `ParsedCell.warnings`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from deft_llm.processing.action_units import ActionUnit, get_action_unit

# Values that stand for an empty cell in a column read as text.
_EMPTY = frozenset({"", "nan", "none", "null", "nat", "<na>"})
# What annotators type into a cell for which there is no value.
_NO_VALUE = _EMPTY | {"/", "\\", "-", "--", "–", "—", "―", "−", "n/a", "n.a.", "na", "#n/a", "tbd", "."}
# Maps full-width characters to ASCII one to one, so that positions in the cell do not change.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x3001: ","}
_SEPARATORS = ",;+&\n\r"
# A side may stand apart from a unit that is written with its kind: "L AU12".
_UNIT = re.compile(
    r"(?P<sides>(?:LR|RL|[LR])\s+(?=A[UD])|LR|RL|[LRTBA](?:/[LRTBA])*)?(?:(?P<kind>AU|AD|M)\s*)?(?P<number>[0-9]{1,3})(?:\.0)?"
    r"(?P<intensities>[A-E](?:/[A-E])*)?(?=[\s()?]|$)",
    re.IGNORECASE,
)
_OR = re.compile(r"\s*\bor\b\s*", re.IGNORECASE)
_OPEN = re.compile(r"(?P<reference>ref\s*)?\(\s*", re.IGNORECASE)
_CLOSE = re.compile(r"\s*\)")
_MARK = re.compile(r"\s*(?:\?|\((?P<note>[a-z])\))")
_WORD = re.compile(r"\S+")
_LIST = re.compile(r"\s*\[[^\[\]]*\]\s*")  # a list as Python and JSON write it
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_MOST_BRACKETS = 20  # per segment; more is not an annotation and would nest the parser too deeply


@dataclass(frozen=True)
class ParsedActionUnit:
    """One action unit of a cell. Units compare equal if they mean the same, regardless of how they were typed.

    Args:
        code (`int`): The number.
        kind (`str`): AU, AD or M as in the sheet. If the sheet gives only the number, the kind comes from the table.
        side (`str | None`, *optional*): L, R, T, B, A, or `None` for both sides.
        intensity (`str | None`, *optional*): A to E, or `None`.
        certain (`bool`, *optional*, defaults to `True`): `False` if there is a question mark, unreadable words next to
            the unit, or a choice between units. A choice of side or intensity does not make the unit uncertain.
        alternatives (`tuple[ParsedActionUnit, ...]`, *optional*): The other readings, without alternatives of their
            own.
        notes (`tuple[str, ...]`, *optional*): Marks whose meaning is not documented: "ref" for `ref(…)`, the letter
            for a mark such as `(k)`.
        raw (`str`, *optional*): The characters of the cell, including those of the alternatives and without invisible
            ones.
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
        """The unit's row of the table; `"AD38"` and `"38"` give the same row."""
        return get_action_unit(f"{self.kind}{self.code}")

    def __str__(self) -> str:
        """The shortest text that parses to this unit."""
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
    """The content of a cell.

    Args:
        units (`tuple[ParsedActionUnit, ...]`): The action units in order.
        unparsed (`tuple[str, ...]`): Pieces of text that are not action units.
    """

    units: tuple[ParsedActionUnit, ...] = ()
    unparsed: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """One sentence per piece that could not be parsed."""
        return [f"{text!r} could not be read as action units." for text in self.unparsed]


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value: it is empty, or an annotator's "/", "—", "N/A" or "TBD"."""
    return text.strip().casefold() in _NO_VALUE


def parse_action_units(cell: object) -> ParsedCell:
    """Parses one cell of an action-unit column. Never raises; text that cannot be parsed becomes a warning.

    Args:
        cell (`object`): Text, or a value from a spreadsheet: an integer, a float such as 4.0, or NaN or `None` if
            empty.
    """
    raw = _INVISIBLE.sub("", str(cell))
    text = raw.translate(_HALF_WIDTH)
    if is_missing(text):
        return ParsedCell()
    if isinstance(cell, str) and _LIST.fullmatch(text):
        text = re.sub(r"[\[\]'\"]", " ", text)
    units: list[ParsedActionUnit] = []
    unparsed: list[str] = []
    for start, end in _segments(text):
        found, unread = _read_segment(text[start:end], raw[start:end])
        units += found
        unparsed += [piece for piece in unread if piece.translate(_HALF_WIDTH).casefold() not in _EMPTY]
    return ParsedCell(tuple(units), tuple(unparsed))


def format_action_units(parsed: ParsedCell) -> str:
    """Formats a cell canonically: `parse_action_units(format_action_units(parsed)) == parsed`."""
    # An unclosed bracket swallows the text after it, so unparsed text comes last.
    text = ", ".join([*map(str, parsed.units), *parsed.unparsed])
    # A separator in front keeps unparsed text that looks like a list or an empty cell from being read as one.
    plain = text.translate(_HALF_WIDTH)
    return f", {text}" if text and (_LIST.fullmatch(plain) or is_missing(plain)) else text


def _segments(text: str) -> list[tuple[int, int]]:
    """Spans between separators outside brackets."""
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
    """Adjacent units, and the words between them that are not units."""
    # Part of a bracket or choice means something different from the whole, so it is parsed completely or not at all.
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
    """Parses `factor or factor …`. Returns all readings and their end position, or `None`."""
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
    """Parses a unit, or a choice in brackets, with the marks after it."""
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
    """One reading per possible side and intensity of a token; none if the table lacks its number."""
    code = int(match["number"])
    kind = match["kind"].upper() if match["kind"] else _kind_of_number(code)
    try:
        get_action_unit(f"{kind}{code}")
    except ValueError:
        return []
    sides = match["sides"].strip().upper().split("/") if match["sides"] else [None]
    if sides[0] in ("LR", "RL"):
        sides = [None]
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
