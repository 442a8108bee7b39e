"""Reads coding sheets as tables: finds file, tab and header row, and returns every cell as the annotator typed it."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .catalogue import ALIASES, SheetRow, SourceSpec
from .folders import FolderTree

HEADER_ROWS = 20  # the header is within the first rows
_MOST_FRAMES = 2**31 - 1  # largest frame number that the dataset's int32 columns can store
_NO_NUMBER = frozenset({"", "/", "\\", "-", "?", "nan", "none", "n/a"})


class SheetError(ValueError):
    """A coding sheet is missing, empty, ambiguous or lacks columns. The message says what to do."""


def find_sheets(spec: SourceSpec, tree: FolderTree, sheet: str | os.PathLike | None) -> list[Path]:
    """Finds the coding sheets of a source.

    Args:
        spec: Description of the source.
        tree: The root folder of the source.
        sheet: A coding sheet to use instead of those that are found by name.

    Raises:
        FileNotFoundError: `sheet` does not exist.
        SheetError: There is no sheet, or it is not clear which one to use.
    """
    if sheet is not None:
        path = Path(sheet)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such coding sheet.")
        return [path]
    found = matching_sheets(spec.sheets, tree)
    if not found:
        raise SheetError(
            f"{spec.title}: no coding sheet in {tree.root} or one level below; expected a file like "
            f"{' or '.join(spec.sheets)}. Pass sheet=PATH if it has another name."
        )
    if len(found) > 1 and not spec.all_sheets:
        raise SheetError(
            f"{spec.title}: several coding sheets, {', '.join(path.name for path in found)}. Pass sheet=PATH to "
            "choose one, because releases differ."
        )
    return found


def matching_sheets(patterns: Sequence[str], tree: FolderTree) -> list[Path]:
    """Files that match the first pattern with any match, in the root or else one level below."""
    for folders in ((tree.root,), tree.folders_of(tree.root)):
        for pattern in patterns:
            found = [
                folder / name
                for folder in folders
                for name in tree.names(folder)
                # Spreadsheet programs create "~$" files next to open files.
                if fnmatch.fnmatch(name.casefold(), pattern.casefold()) and not name.startswith(("~$", "."))
            ]
            if found:
                outside = next((path for path in found if tree.leads_out(path)), None)
                if outside is not None:
                    raise SheetError(f"{outside}: a symbolic link out of {tree.root}; pass sheet=PATH to read it.")
                return found
    return []


def read_tabs(path: Path) -> dict[str, list[list[str]]]:
    """All tabs of an .xls or .xlsx file, or the table of a .csv, .tsv or .jsonl file, with every cell as text.

    Raises:
        SheetError: the file is empty or does not have the format that its name says.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            tabs = {path.stem: _read_separated(path)}
        elif path.suffix.lower() == ".jsonl":
            tabs = {path.stem: _read_json_lines(path)}
        else:
            frames = pd.read_excel(path, sheet_name=None, header=None, dtype=object, engine="calamine")
            tabs = {
                str(name): [[cell_text(cell) for cell in line] for line in frame.to_numpy()]
                for name, frame in frames.items()
            }
    except ImportError:
        raise  # pandas says which package is needed for this format
    # openpyxl, xlrd, zipfile, csv and json raise different exceptions for a damaged file.
    except Exception as error:
        raise SheetError(f"{path.name}: cannot be read ({error}).") from error
    if not any(any(line) for lines in tabs.values() for line in lines):
        raise SheetError(f"{path.name}: the sheet is empty. Get it again from its owner.")
    return tabs


def cell_text(cell: Any) -> str:
    """A cell as the annotator typed it: 4 and 4.0 become "4", an empty cell becomes ""."""
    if cell is None or (isinstance(cell, float) and cell != cell) or cell is pd.NaT:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).replace("\xa0", " ").strip()


def _read_separated(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("gb18030")  # encoding used by Chinese spreadsheet programs
    lines = text.splitlines()
    separator = max(",;\t", key=lambda character: sum(line.count(character) for line in lines[:HEADER_ROWS]))
    return [[cell_text(cell) for cell in line] for line in csv.reader(io.StringIO(text), delimiter=separator)]


def _read_json_lines(path: Path) -> list[list[str]]:
    items = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    wrong = next((number for number, item in enumerate(items, 1) if not isinstance(item, dict)), None)
    if wrong is not None:
        raise ValueError(f"line {wrong} is not a JSON object")
    columns = list(dict.fromkeys(name for item in items for name in item))
    return [columns] + [[cell_text(item.get(name)) for name in columns] for item in items]


def _plain(title: str) -> str:
    return re.sub(r"[\W_]+", "", title.casefold())


_FIELDS = {name: [_plain(alias) for alias in aliases] for name, aliases in ALIASES.items()}


def _columns_of(line: Sequence[str]) -> dict[str, int]:
    """Field -> index of its column in a header row."""
    titles = [_plain(title) for title in line]
    found = {}
    for name, aliases in _FIELDS.items():
        position = next((titles.index(alias) for alias in aliases if alias in titles), None)
        if position is not None:
            found[name] = position
    return found


def table_of(
    spec: SourceSpec, tabs: Mapping[str, list[list[str]]], file: str
) -> tuple[list[SheetRow], list[tuple[int, str]]]:
    """Reads the tab that contains the clips.

    Args:
        spec: Description of the source.
        tabs: Name of the tab → rows of cells.
        file: Name of the file in error messages.

    Returns:
        The rows below the header, and the lines of text among them with their row numbers.

    Raises:
        SheetError: no tab has the required columns; quotes the closest header.
    """
    named = [tab for tab in spec.tabs if tab in tabs]
    best: tuple[int, str, Sequence[str], dict[str, int]] = (0, "", (), {})
    for tab in named[:1] or tabs:
        for start, line in enumerate(tabs[tab][:HEADER_ROWS]):
            columns = _columns_of(line)
            if set(spec.required) <= columns.keys():
                others = {
                    title: position
                    for position, title in enumerate(line)
                    if title and not title.startswith("Unnamed:") and position not in columns.values()
                }
                return _rows_below(tabs[tab], start + 1, columns, others)
            if len(columns) > best[0]:
                best = (len(columns), tab, line, columns)
    if spec.columns:
        tab = next(iter(named or tabs))
        first = next((line for line in tabs[tab] if any(line)), ())
        if (
            len(first) >= len(spec.columns) - 1
            and frame_number_or_none(first[spec.columns.index("onset")]) is not None
        ):
            columns = {name: position for position, name in enumerate(spec.columns) if position < len(first)}
            return _rows_below(tabs[tab], 0, columns, {})
    _, tab, line, columns = best
    if not tab:
        raise SheetError(
            f"{file}: no header in the first {HEADER_ROWS} rows of {', '.join(map(repr, named[:1] or tabs))}. "
            f"Required are columns for {_needed(spec.required)}."
        )
    missing = [name for name in spec.required if name not in columns]
    raise SheetError(
        f"{file}, tab {tab!r}: columns found: {', '.join(title for title in line if title)}. Missing: "
        f"{_needed(missing)}. Rename the column to the name used in the release."
    )


def _needed(fields: Iterable[str]) -> str:
    return "; ".join(f"{name} ({' or '.join(ALIASES[name])})" for name in fields)


def _rows_below(
    lines: list[list[str]], start: int, columns: Mapping[str, int], others: Mapping[str, int]
) -> tuple[list[SheetRow], list[tuple[int, str]]]:
    def at(line: Sequence[str], position: int) -> str:
        return line[position] if position < len(line) else ""

    rows, texts = [], []
    for index, line in enumerate(lines[start:]):
        cells = {name: at(line, position) for name, position in columns.items()}
        number = start + index + 1
        place = cells.get("clip") or cells.get("path")
        numbers = [cells.get(name, "") for name in ("onset", "apex", "offset")]
        if (
            cells["subject"]
            and place
            and ("path" in cells or any(character.isdigit() for character in "".join(numbers)))
        ):
            rows.append(
                SheetRow(number, index, cells, {title: at(line, position) for title, position in others.items()})
            )
        elif any(line):
            texts.append((number, " ".join(cell for cell in line if cell)[:80]))
    return rows, texts


def frame_number(text: str) -> int | None:
    """A frame number, or `None` for a cell that means "none". Raises `ValueError` for anything else."""
    if text.casefold() in _NO_NUMBER:
        return None
    number = float(text)
    if not number.is_integer() or not 0 <= number <= _MOST_FRAMES:
        raise ValueError(text)
    return int(number)


def frame_number_or_none(text: str) -> int | None:
    try:
        return frame_number(text)
    except ValueError:
        return None
