"""Reads a workbook, a text table or JSON lines as rows of cells, each cell as the annotator typed it.

Text is UTF-8 or UTF-16 unless the encoding is stated. Other encodings cannot be told apart safely ("Andrés" in
Mac Roman is also valid GB18030), so an unstated one is an error that shows how the file reads in each.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from .catalogue import ALIASES

HEADER_ROWS = 20  # the header is within the first rows
_SEPARATORS = ",;\t|"
_ENCODINGS = ("cp1252", "mac-roman", "gb18030", "big5", "shift-jis", "euc-kr", "cp1250", "cp1251")
# Invisible characters that come with copied text. Two of them also join letters of some scripts and emoji, so those
# are removed only beside an ASCII character or at an end.
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    "|(?:(?<=[\x00-\x7f])|^)[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)"
)


class SheetError(ValueError):
    """A coding sheet is missing, empty, ambiguous or lacks columns. The message says what to do."""


@dataclass
class Workbook:
    """The content of a coding sheet.

    Args:
        tabs: Name of the tab → rows of cells.
        hidden: Tabs that a spreadsheet program does not show.
        first: Number of the first row of a tab, as an editor or a spreadsheet program shows it.
        strays: Number and reason of the lines that could not be read.
    """

    tabs: dict[str, list[list[str]]]
    hidden: frozenset[str] = frozenset()
    first: int = 1
    strays: list[tuple[int, str]] = field(default_factory=list)


def read_workbook(path: Path, encoding: str | None = None, fallback: str | None = None) -> Workbook:
    """All tabs of an .xls, .xlsx or .ods file, or the table of a .csv, .tsv, .txt or .jsonl file.

    Args:
        path: The file.
        encoding: Encoding of a text file, if it is neither UTF-8 nor UTF-16.
        fallback: Encoding to try if a text file is not in UTF-8 or UTF-16 and `encoding` is not given.

    Raises:
        SheetError: The file is empty or damaged, does not have the format that its name says, or has another encoding.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv", ".txt"):
            book = Workbook({path.stem: _read_separated(_decoded(path, encoding, fallback), path.name)})
        elif suffix == ".jsonl":
            book = _read_json_lines(_decoded(path, encoding, fallback), path)
        else:
            book = _read_spreadsheet(path)
    except SheetError:
        raise
    # calamine, csv and json raise different exceptions for a damaged file.
    except Exception as error:
        raise SheetError(f"{path.name}: cannot be read ({error}).") from error
    if not any(any(line) for lines in book.tabs.values() for line in lines):
        raise SheetError(f"{path.name}: the sheet is empty. Get it again from its owner.")
    return book


def cell_text(cell: Any) -> str:
    """A cell as the annotator typed it: 4 and 4.0 become "4", an empty cell becomes "", a list "4, 7"."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, (list, tuple)):
        return ", ".join(cell_text(item) for item in cell)
    return _INVISIBLE.sub("", str(cell).replace("\xa0", " ")).strip()


def plain_title(title: str) -> str:
    """A column's title without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", title.casefold())


_FIELDS = {name: [plain_title(alias) for alias in aliases] for name, aliases in ALIASES.items()}


def columns_of(line: Sequence[str]) -> dict[str, int]:
    """Field → index of its column in a header row."""
    titles = [plain_title(title) for title in line]
    found = {}
    for name, aliases in _FIELDS.items():
        position = next((titles.index(alias) for alias in aliases if alias in titles), None)
        if position is not None:
            found[name] = position
    return found


# --- Spreadsheets ---------------------------------------------------------------------------------------------------


def _read_spreadsheet(path: Path) -> Workbook:
    tabs, hidden = {}, set()
    with CalamineWorkbook.from_path(str(path)) as book:
        for about in book.sheets_metadata:
            if about.typ is not SheetTypeEnum.WorkSheet:
                continue
            sheet = book.get_sheet_by_name(about.name)
            lines = [[cell_text(cell) for cell in line] for line in sheet.to_python(skip_empty_area=False)]
            # The file stores the value of merged cells in the first one only.
            for (top, left), (bottom, _) in sheet.merged_cell_ranges or ():
                for line in lines[top + 1 : bottom + 1]:
                    line[left] = line[left] or lines[top][left]
            tabs[about.name] = lines
            if about.visible is not SheetVisibleEnum.Visible:
                hidden.add(about.name)
    return Workbook(tabs, frozenset(hidden))


# --- Text -----------------------------------------------------------------------------------------------------------


def _decoded(path: Path, encoding: str | None, fallback: str | None) -> str:
    data = path.read_bytes()
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except LookupError:
            raise SheetError(
                f"{path.name}: {encoding!r} is not an encoding that Python knows. Known are, among others, "
                f"{', '.join(_ENCODINGS)}."
            ) from None
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise SheetError(f"{path.name}, line {line}: not valid {encoding} ({error.reason}).") from None
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name)
    if b"\0" in data:  # UTF-16 without a mark: every second byte of the ASCII characters is 0
        return data.decode("utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be")
    for name in ("utf-8", fallback):
        try:
            if name is not None:
                return data.decode(name)
        except UnicodeDecodeError:
            continue
    raise SheetError(_unknown_encoding(path.name, data))


def _unknown_encoding(name: str, data: bytes) -> str:
    """Says that the encoding must be stated, and shows the first affected line in each one that is possible."""
    lines = re.split(rb"\r\n|\r|\n", data)
    number, line = next((number, line) for number, line in enumerate(lines, 1) if not line.isascii())
    readings: dict[str, str] = {}
    for encoding in _ENCODINGS:
        try:
            data.decode(encoding)
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(unicodedata.category(character) in ("Cc", "Co", "Cn") for character in text if character != "\t"):
            readings[encoding] = re.search(r"[^,;\t|\"]*[^\x00-\x7f][^,;\t|\"]*", text)[0].strip()
    shown = "; ".join(f"{text!r} in {encoding}" for encoding, text in readings.items())
    return (
        f"{name}: the text is neither UTF-8 nor UTF-16. Line {number} has {shown or 'bytes of no known encoding'}. "
        "Save the file as UTF-8, or state its encoding with --sheet-encoding NAME=ENCODING (in Python, encoding=…)."
    )


def _read_separated(text: str, name: str) -> list[list[str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    lines: list[list[str]] = []
    try:
        for line in rows:
            lines.append([cell_text(cell) for cell in line])
    except csv.Error as error:
        raise SheetError(
            f"{name}, line {rows.line_num}: {error}. A quotation mark in row {len(lines) + 1} or above is not closed, "
            "or stands in the wrong place."
        ) from None
    return lines


def _separator(text: str) -> str:
    """The separator with which a row has the most known titles. Cells may contain the other separators: "4,7"."""
    first = re.split(r"\r\n|\r|\n", text, maxsplit=HEADER_ROWS)[:HEADER_ROWS]

    def fit(separator: str) -> tuple[int, int]:
        known = max(len(columns_of([cell.strip(' "') for cell in line.split(separator)])) for line in first)
        return known, sum(line.count(separator) for line in first)

    return max(_SEPARATORS, key=fit)


def _read_json_lines(text: str, path: Path) -> Workbook:
    items: list[dict[str, Any]] = []
    strays = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        item: Any = {}
        if line.strip():
            try:
                item = json.loads(line)
                if not isinstance(item, dict):
                    raise ValueError("it is not an object")
                wrong = next((name for name, value in item.items() if isinstance(value, dict)), None)
                if wrong is not None:
                    raise ValueError(f"the value of {wrong!r} is an object, not a text, number or list")
            except (ValueError, RecursionError) as error:
                strays.append((number, f"not a JSON object with plain values ({error}): {line.strip()[:80]}"))
                item = {}
        items.append(item)
    if strays and not any(items):
        number, reason = strays[0]
        raise SheetError(f"{path.name}: no line can be read; line {number} is {reason}.")
    columns = list(dict.fromkeys(name for item in items for name in item))
    # The titles come first, so the first line of the file is row 1 if they are row 0.
    lines = [columns] + [[cell_text(item.get(name)) for name in columns] for item in items]
    return Workbook({path.stem: lines}, first=0, strays=strays)
