"""Known errors of published coding sheets, one per row, so that they can be reviewed.

An erratum names a row of a release by its place among the micro-expressions, so that it also applies to the release's
sheet with macro-expressions. It is applied only if the sheet is actually wrong: the field contains exactly `old`, or
`old` is `UNUSABLE`, the row's frame numbers cannot be used (missing, out of order, or not on disk), and the corrected
numbers are in order. The report lists the errata that were applied and those that do not fit the sheet.

Missing apexes are not listed here. They are spotted in the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNUSABLE = "unusable"
# Prefix of `new`: take the field's value from another row of the same sheet, given by its index.
FROM_ROW = "from row "


@dataclass(frozen=True)
class Erratum:
    """One correction.

    Args:
        source (`str`): Name in `catalogue.SOURCES`.
        rows (`int`): Number of micro-expressions in the release that contains the error.
        row (`int`): Index from 0 among them.
        field (`str`): Field name as in `catalogue.ALIASES`.
        old (`str`): The wrong text, or `UNUSABLE`.
        new (`str`): The right text, or `FROM_ROW` with an index.
        why (`str`): What is wrong, and who reported it.
    """

    source: str
    rows: int
    row: int
    field: str
    old: str
    new: str
    why: str

    @property
    def donor(self) -> int | None:
        """Index of the row whose value replaces this one's."""
        return int(self.new.removeprefix(FROM_ROW)) if self.new.startswith(FROM_ROW) else None


_MEB = "corrected in meb (github.com/tvaranka/meb, datasets.py)"


def _frames(source: str, rows: int, field: str, values: Mapping[int, int], why: str) -> tuple[Erratum, ...]:
    return tuple(Erratum(source, rows, row, field, UNUSABLE, str(new), why) for row, new in values.items())


_FOLDER = f"does not agree with the clip's folder; {_MEB}"
_MISSING = f"missing from the sheet, estimated from optical flow; {_MEB}"
_WRONG = f"apex and offset cannot be right; {_MEB}"
_MMEW_ROWS = (33, 35, 36, 37, 38, 39, 40, 41, 42, 142, 143, 145, 146, 148, 154, 156)
_MMEW_APEXES = (40, 15, 46, 20, 25, 20, 23, 28, 32, 56, 32, 27, 22, 29, 31, 38)
_MMEW_OFFSETS = (75, 54, 59, 98, 80, 93, 58, 61, 68, 88, 80, 85, 61, 108, 72, 106)

ERRATA: tuple[Erratum, ...] = (
    *_frames("casme", 189, "onset", {40: 100, 42: 101, 43: 57}, _FOLDER),
    *_frames("casme", 189, "apex", {40: 120, 42: 110, 43: 65}, f"middle of the corrected clip; {_MEB}"),
    *_frames("casme", 189, "offset", {40: 149, 42: 119, 43: 74, 54: 40, 140: 142}, _FOLDER),
    # The row that only the sheet of 256 rows has comes later.
    *(
        item
        for rows in (255, 256)
        for item in _frames("casme2", rows, "offset", {60: 91}, f"a slip of the pen; {_MEB}")
    ),
    *_frames("samm", 159, "offset", {56: 5739}, f"a slip of the pen; {_MEB}"),
    *_frames("samm", 159, "apex", {125: 1105, 132: 4945, 133: 5130}, _MISSING),
    *_frames("cas-me3a", 860, "offset", {708: 34, 796: 1845, 798: 2403}, f"offset cannot be right; {_MEB}"),
    *_frames("cas-me3a", 860, "onset", {749: 2647}, f"onset cannot be right; {_MEB}"),
    *_frames("cas-me3a", 860, "apex", {128: 160}, f"apex cannot be right; {_MEB}"),
    Erratum("cas-me3a", 860, 750, "onset", "0", "1", f"0.jpg is missing from the release; {_MEB}"),
    Erratum("cas-me3a", 860, 750, "apex", "0", "1", f"0.jpg is missing from the release; {_MEB}"),
    *(
        Erratum("4dme", 267, row, "action_units", UNUSABLE, f"{FROM_ROW}{other}", f"two rows swapped; {_MEB}")
        for row, other in ((144, 145), (145, 144))
    ),
    *_frames("mmew", 300, "apex", dict(zip(_MMEW_ROWS, _MMEW_APEXES, strict=True)), _WRONG),
    *_frames("mmew", 300, "offset", dict(zip(_MMEW_ROWS, _MMEW_OFFSETS, strict=True)), _WRONG),
)
