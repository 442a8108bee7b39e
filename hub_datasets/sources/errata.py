"""Known errors of published coding sheets, one per row, so that they can be reviewed.

An erratum names a row of one release of a sheet. It is applied only if the sheet is actually wrong: the field contains
exactly `old`, or `old` is `UNUSABLE` and the row's frame numbers cannot be used (missing, out of order, or not on
disk). The report lists the errata that were applied and those that do not fit the sheet.

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
        rows (`int`): Number of labelled rows of the release that contains the error.
        row (`int`): Index from 0 below the header.
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

ERRATA: tuple[Erratum, ...] = (
    *_frames("casme", 189, "onset", {40: 100, 42: 101, 43: 57}, _FOLDER),
    *_frames("casme", 189, "apex", {40: 120, 42: 110, 43: 65}, f"middle of the corrected clip; {_MEB}"),
    *_frames("casme", 189, "offset", {40: 149, 42: 119, 43: 74, 54: 40, 140: 142}, _FOLDER),
    *_frames("casme2", 256, "offset", {60: 91}, f"a slip of the pen; {_MEB}"),
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
    *_frames(
        "mmew",
        300,
        "apex",
        {
            33: 40,
            35: 15,
            36: 46,
            37: 20,
            38: 25,
            39: 20,
            40: 23,
            41: 28,
            42: 32,
            142: 56,
            143: 32,
            145: 27,
            146: 22,
            148: 29,
            154: 31,
            156: 38,
        },
        _WRONG,
    ),
    *_frames(
        "mmew",
        300,
        "offset",
        {
            33: 75,
            35: 54,
            36: 59,
            37: 98,
            38: 80,
            39: 93,
            40: 58,
            41: 61,
            42: 68,
            142: 88,
            143: 80,
            145: 85,
            146: 61,
            148: 108,
            154: 72,
            156: 106,
        },
        _WRONG,
    ),
)
