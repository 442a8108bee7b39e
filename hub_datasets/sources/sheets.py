"""Finds the coding sheets of a source, their tabs and header rows, and splits the rows into fields."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .action_unit_grammar import is_missing
from .catalogue import ALIASES, SourceSpec
from .folders import FolderTree
from .preparation import SheetRow
from .tables import HEADER_ROWS, SheetError, Workbook, columns_of

_MOST_FRAMES = 2**31 - 1  # largest frame number that the dataset's int32 columns can store
_NO_FRAME = frozenset({"?", "-1"})  # besides the values that stand for an empty cell
_KEYS = ("subject", "clip", "path", "onset", "apex", "offset")


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
    found = matching_sheets(spec.sheets, tree, besides=spec.second_sheet)
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


def matching_sheets(patterns: Sequence[str], tree: FolderTree, besides: Sequence[str] = ()) -> list[Path]:
    """Files that match the first pattern with any match, in the root or else one level below.

    Args:
        patterns: Patterns of the file name, in order of preference.
        tree: The root folder of the source.
        besides: Patterns of files that are never taken.
    """

    def fits(name: str, pattern: str) -> bool:
        return fnmatch.fnmatch(name.casefold(), pattern.casefold())

    for folders in ((tree.root,), tree.folders_of(tree.root)):
        for pattern in patterns:
            found = [
                folder / name
                for folder in folders
                for name in tree.names(folder)
                # Spreadsheet programs create "~$" files next to open files.
                if fits(name, pattern)
                and not name.startswith(("~$", "."))
                and not any(fits(name, other) for other in besides)
            ]
            if found:
                outside = next((path for path in found if tree.leads_out(path)), None)
                if outside is not None:
                    raise SheetError(
                        f"{outside}: a symbolic link out of {tree.root}; pass sheet=PATH to read it, or "
                        "--follow-links to follow all links."
                    )
                return found
    return []


@dataclass
class SheetTable:
    """The rows of a coding sheet.

    Args:
        rows: The rows that name a clip.
        strays: Sheet, row number and reason of the other lines below the header that are not empty.
        notes: What the user should know about the choice of tabs.
    """

    rows: list[SheetRow] = field(default_factory=list)
    strays: list[tuple[str, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table_of(spec: SourceSpec, book: Workbook, file: str) -> SheetTable:
    """Reads the tabs that contain the clips.

    A tab that the source names is read alone. Otherwise all visible tabs with the required columns are read; a hidden
    tab is read only if no visible one has them.

    Args:
        spec: Description of the source.
        book: Content of the file.
        file: Name of the file in error messages.

    Raises:
        SheetError: No tab has the required columns (quotes the closest header), or two tabs contain the same clip
            with different values.
    """
    tabs, names = book.tabs, {tab.strip().casefold(): tab for tab in book.tabs}
    named = [names[tab.casefold()] for tab in spec.tabs if tab.casefold() in names][:1]
    if not named and (other := spec.other_camera_in(file)):
        raise SheetError(
            f"{file}: no tab {' or '.join(map(repr, spec.tabs))}; tabs found: {', '.join(map(repr, tabs))}. The file "
            f"name says that they are of {other}."
        )
    open_tabs = [tab for tab in tabs if tab.strip() not in spec.other_tabs]
    visible = [tab for tab in open_tabs if tab not in book.hidden]
    headers = {tab: start for tab in named or visible if (start := _header_of(spec, tabs[tab])) is not None}
    concealed = [
        tab for tab in open_tabs if tab in book.hidden and _header_of(spec, tabs[tab]) is not None and tab not in named
    ]
    table = SheetTable(strays=[(file, number, reason) for number, reason in book.strays])
    if headers and concealed:
        table.notes.append(f"{file}: the hidden tab {concealed[0]!r} has the same columns and was not read.")
    elif concealed:
        headers = {concealed[0]: _header_of(spec, tabs[concealed[0]])}
        table.notes.append(f"{file}: only the hidden tab {concealed[0]!r} has the columns, so it was read.")
    if headers:
        for tab, start in headers.items():
            label = file if len(headers) == 1 else f"{file}, tab {tab}"
            _rows_below(label, tabs[tab], start, book.first, table)
        if len(headers) > 1:
            counts = ", ".join(
                f"{tab!r} ({sum(row.sheet == f'{file}, tab {tab}' for row in table.rows)} rows)" for tab in headers
            )
            table.notes.append(f"{file}: several tabs have the columns of clips, and all were read: {counts}.")
            _check_tabs(file, table.rows)
        return table
    candidates = named or visible or list(tabs)
    if spec.columns and _headerless(spec, tabs[candidates[0]]):
        _rows_below(file, [list(spec.columns), *tabs[candidates[0]]], 0, book.first - 1, table, wide=True)
        return table
    raise SheetError(_no_header(spec, {tab: tabs[tab] for tab in candidates}, file))


def _header_of(spec: SourceSpec, lines: Sequence[Sequence[str]]) -> int | None:
    """Index of the first row with all required columns."""
    required = set(spec.required)
    return next((index for index, line in enumerate(lines[:HEADER_ROWS]) if required <= columns_of(line).keys()), None)


def _headerless(spec: SourceSpec, lines: Sequence[Sequence[str]]) -> bool:
    first = next((line for line in lines if any(line)), ())
    return len(first) >= len(spec.columns) - 1 and frame_number_or_none(first[spec.columns.index("onset")]) is not None


def _no_header(spec: SourceSpec, tabs: Mapping[str, Sequence[Sequence[str]]], file: str) -> str:
    found = [(len(columns_of(line)), tab, line) for tab, lines in tabs.items() for line in lines[:HEADER_ROWS]]
    known, tab, line = max(found, key=lambda item: item[0], default=(0, "", ()))
    if not known:
        return (
            f"{file}: no header in the first {HEADER_ROWS} rows of {', '.join(map(repr, tabs))}. "
            f"Required are columns for {_needed(spec.required)}."
        )
    missing = [name for name in spec.required if name not in columns_of(line)]
    return (
        f"{file}, tab {tab!r}: columns found: {', '.join(title for title in line if title)}. Missing: "
        f"{_needed(missing)}. Rename the column to the name used in the release."
    )


def _needed(fields: Iterable[str]) -> str:
    return "; ".join(f"{name} ({' or '.join(ALIASES[name])})" for name in fields)


def _rows_below(
    label: str, lines: Sequence[Sequence[str]], start: int, first: int, table: SheetTable, *, wide: bool = False
) -> None:
    """Adds the rows below a header to the table.

    Args:
        label: Name of the sheet in records and messages.
        lines: All lines of the tab.
        start: Index of the header.
        first: Number of the tab's first line.
        table: Receives the rows.
        wide: Whether rows may be longer than the header.
    """
    header = lines[start]
    columns = columns_of(header)
    if wide:  # a source's own order of columns, whose names are fields
        columns = {name: position for position, name in enumerate(header)}
    others = {
        title: position
        for position, title in enumerate(header)
        if title and not title.startswith("Unnamed:") and position not in columns.values()
    }

    def at(line: Sequence[str], position: int) -> str:
        return line[position] if position < len(line) else ""

    for number, line in enumerate(lines[start + 1 :], first + start + 1):
        if not any(line):
            continue
        cells = {name: at(line, position) for name, position in columns.items()}
        shown = " ".join(cell for cell in line if cell)[:80]
        place = cells.get("clip") or cells.get("path")
        has_clip = place and (
            "path" in cells or any(c.isdigit() for name in ("onset", "apex", "offset") for c in cells.get(name, ""))
        )
        reason = None
        if not wide and any(line[len(header) :]):
            reason = (
                f"it has {len(line)} cells and the header has {len(header)}; put a cell that contains the separator "
                f"into quotation marks: {shown}"
            )
        elif has_clip and is_missing(cells["subject"]):
            reason = f"no subject; write it in this row: {shown}"
        elif not has_clip and "path" in columns and not is_missing(cells["subject"]):
            reason = f"no path; write the clip's folder or video in this row: {shown}"
        elif not has_clip:
            reason = f"text, not a clip: {shown}"
        elif broken := next((name for name in _KEYS if re.search(r"[\r\n]", cells.get(name, ""))), None):
            reason = (
                f"the cell for {broken} contains a line break; check the quotation marks in this row and above: "
                f"{shown}"
            )
        if reason is not None:
            table.strays.append((label, number, re.sub(r"\s*[\r\n]+\s*", " ⏎ ", reason)))
        else:
            extra = {title: at(line, position) for title, position in others.items()}
            table.rows.append(SheetRow(number, cells, extra, sheet=label))


def _check_tabs(file: str, rows: Sequence[SheetRow]) -> None:
    """Raises an error if two tabs say different things about the same frames, such as a sheet and its older copy."""
    seen: dict[tuple[str, ...], list[SheetRow]] = {}
    for row in rows:
        key = tuple(row.cells.get(name, "") for name in ("subject", "clip", "path"))
        for other in seen.setdefault(key, []):
            if other.sheet != row.sheet and other.cells != row.cells and _overlap(other, row):
                raise SheetError(
                    f"{file}: {'/'.join(filter(None, key))} is in row {other.number} of {other.sheet} and, with other "
                    f"values, in row {row.number} of {row.sheet}. Hide or delete the tab that should not be read."
                )
        seen[key].append(row)


def _overlap(first: SheetRow, second: SheetRow) -> bool:
    spans = []
    for row in (first, second):
        onset, offset = (frame_number_or_none(row.cells.get(name, "")) for name in ("onset", "offset"))
        spans.append((0 if onset is None else onset, _MOST_FRAMES if offset is None else offset))
    (start, end), (other_start, other_end) = spans
    return start <= other_end and other_start <= end


# --- Numbers --------------------------------------------------------------------------------------------------------


def number_of(text: str) -> float:
    """A number in a cell, with a decimal point or comma.

    Raises:
        ValueError: It is not a number, or a comma before three digits may separate thousands.
    """
    text = unicodedata.normalize("NFKC", text)
    if re.fullmatch(r"[+-]?\d+,(\d{1,2}|\d{4,})", text):
        text = text.replace(",", ".")
    if "_" in text:  # Python's own separator
        raise ValueError(text)
    return float(text)


def frame_number(text: str) -> int | None:
    """A frame number, or `None` for a cell that means "none". Raises `ValueError` for anything else."""
    if is_missing(text) or text in _NO_FRAME:
        return None
    number = number_of(text)
    if not number.is_integer() or not 0 <= number <= _MOST_FRAMES:
        raise ValueError(text)
    return int(number)


def frame_number_or_none(text: str) -> int | None:
    try:
        return frame_number(text)
    except ValueError:
        return None
