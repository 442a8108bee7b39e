"""Brings the rows of single sources to the common form: second sheets, tabs of names, labels that are given twice.

Each function takes the rows, all tabs of the sheet and the tabs of the source's second sheet (or `None`), changes the
rows, and returns warnings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .action_unit_grammar import is_missing, parse_action_units


@dataclass
class SheetRow:
    """One row of a sheet, all text.

    Args:
        number (`int`): Row number as a spreadsheet program shows it, from 1.
        cells (`dict[str, str]`): Field -> text of its cell.
        others (`dict[str, str]`, *optional*): Column name -> text, for the columns that are not fields.
        flags (`list[str]`, *optional*): Remarks that end up in `quality`.
        sheet (`str`, *optional*): Name of the file, and of the tab if several tabs are read.
    """

    number: int
    cells: dict[str, str]
    others: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    sheet: str = ""


Tabs = Mapping[str, Sequence[Sequence[str]]]
# (rows, all tabs of the file, tabs of a second sheet or None) -> warnings
Prepare = Callable[[list[SheetRow], Tabs, "Tabs | None"], list[str]]


def _second_table(second: Tabs | None, title: str) -> list[dict[str, str]]:
    """Rows of a second sheet as column title -> cell; the header is the first row with "Filename" and `title`."""
    rows = []
    for lines in (second or {}).values():
        header: list[str] = []
        for line in lines:
            if not header and {"Filename", title} <= set(line):
                header = list(line)
            elif header:
                rows.append(dict(zip(header, line, strict=False)))
    return rows


def prepare_casme2(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """CASME II: the released objective classes are in a file of their own, by subject and file name."""
    if second is None:
        return []
    classes: dict[tuple[str, str], str] = {}
    for lines in second.values():
        places: list[int] = []
        for line in lines:
            titles = [cell.casefold() for cell in line]
            objective = next((position for position, title in enumerate(titles) if "objective" in title), None)
            if not places and objective is not None and {"subject", "filename"} <= set(titles):
                places = [titles.index("subject"), titles.index("filename"), objective]
            elif places:
                subject, clip, name = (line[position] for position in places)
                classes[(_number_in(subject), clip.casefold())] = name
    if not classes:
        return ["The file of objective classes has no columns Subject, Filename and Objective Class; it was not used."]
    missing = 0
    for row in rows:
        if released := classes.get((_number_in(row.cells["subject"]), row.cells["clip"].casefold())):
            row.cells["objective"] = released
        else:
            missing += 1
    if not missing:
        return []
    return [f"{missing} clips are not in the file of objective classes; theirs are derived from the action units."]


def _number_in(subject: str) -> str:
    return re.sub(r"^\D*0*", "", subject)


_MORE_ONSETS = re.compile(r"onset(\d)f?", re.IGNORECASE)


def prepare_smic(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """SMIC: a row may have a second and third interval (Onset2F, Offset2F, …). Each is a clip of its own."""
    intervals = []
    for row in rows:
        intervals.append(row)
        for title, onset in row.others.items():
            number = _MORE_ONSETS.fullmatch(title.replace(" ", ""))
            if number is None:
                continue
            end = re.compile(rf"offset{number[1]}f?", re.IGNORECASE)
            offset = next((cell for name, cell in row.others.items() if end.fullmatch(name.replace(" ", ""))), "")
            if all(is_missing(cell) or cell == "0" for cell in (onset, offset)):
                continue
            cells = {**row.cells, "onset": onset, "offset": offset}
            intervals.append(replace(row, cells=cells, flags=[*row.flags, f"interval:{number[1]}"]))
    more = len(intervals) - len(rows)
    rows[:] = intervals
    return [f"{more} further intervals of the same rows (Onset2F, …) are clips of their own."] if more else []


def prepare_casme_squared(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """CAS(ME)^2: two more tabs, without headers, map participant and video names to folder codes.

    A row of "naming rule1" is (15, s15, participant); a row of "naming rule2" is (video code, video name).
    """
    subjects, videos = {}, {}
    for line in tabs.get("naming rule1", ()):
        filled = [cell for cell in line if cell]
        if len(filled) >= 2 and filled[-1].isdecimal():
            subjects[filled[-1]] = filled[0]
    for line in tabs.get("naming rule2", ()):
        filled = [cell for cell in line if cell]
        if len(filled) >= 2 and filled[0].isdecimal():
            videos[filled[1].casefold()] = f"{int(filled[0]):04d}"
    warnings = []
    for row in rows:
        participant, video = row.cells["subject"], row.cells["clip"].rsplit("_", 1)[0]
        row.cells["subject"] = subjects.get(participant, participant)
        row.cells["video"] = videos.get(video.casefold(), video)
        if participant not in subjects or video.casefold() not in videos:
            row.flags.append("no_folder_code")
    unmapped = sum("no_folder_code" in row.flags for row in rows)
    if unmapped:
        warnings.append(f"{unmapped} rows have no code in the tabs 'naming rule1' and 'naming rule2'.")
    return warnings


def prepare_samm_long(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """SAMM Long Videos: emotions come from SAMM's own sheet, by file name. Clip 006_1_2 is in video 006_1."""
    emotions = {
        cells["Filename"]: (cells.get("Estimated Emotion", ""), cells.get("Objective Classes", ""))
        for cells in _second_table(second, "Estimated Emotion")
    }
    for row in rows:
        row.cells["video"] = "_".join(row.cells["clip"].split("_")[:2])
        row.cells["emotion"], row.cells["objective"] = emotions.get(row.cells["clip"], ("", ""))
        if not row.cells["emotion"] and is_micro(row):
            row.flags.append("no_emotion")
    missing = sum("no_emotion" in row.flags for row in rows)
    return (
        [f"{missing} micro-expressions have no emotion, because SAMM's own sheet is missing or does not list them."]
        if missing
        else []
    )


def prepare_casme3(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """CAS(ME)^3 part A, full sheet: the tab "eye blink" lists the clips that contain a blink."""
    blinks: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for line in tabs.get("eye blink", ()):
        if len(line) >= 4 and line[2].isdecimal() and line[3].isdecimal():
            blinks.setdefault((line[0], line[1]), []).append((int(line[2]), int(line[3])))
    for row in rows:
        first, last = row.cells.get("onset", ""), row.cells.get("offset", "")
        spans = blinks.get((row.cells["subject"], row.cells["clip"]), ())
        if first.isdecimal() and last.isdecimal() and any(a <= int(last) and b >= int(first) for a, b in spans):
            row.flags.append("blink")
    return []


_4DME_CLASSES = ("Positive", "Negative", "Surprise", "Repression", "Others")


def prepare_4dme(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """4DME gives labels both as text and as 0/1 columns. Rows where the two differ are flagged."""
    for row in rows:
        marked = {name.casefold() for name in _4DME_CLASSES if row.others.get(name, "0") not in ("", "0")}
        named = set(re.findall("|".join(name.casefold() for name in _4DME_CLASSES), row.cells["emotion"].casefold()))
        if marked and marked != named:
            row.flags.append("emotion_columns_disagree")
        columns = {name[2:]: value for name, value in row.others.items() if re.fullmatch(r"AU\d+", name)}
        marked = {int(number) for number, value in columns.items() if value not in ("", "0")}
        named = {unit.code for unit in parse_action_units(row.cells["action_units"]).units}
        if marked and marked != named:
            row.flags.append("action_unit_columns_disagree")
        if row.others.get("eye blink", "") not in ("", "0"):
            row.flags.append("blink")
    return []


_DFME_EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")


def prepare_dfme(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """DFME gives the emotion as a word and as a number. Rows where the two differ are flagged."""
    for row in rows:
        number, word = row.cells.get("emotion_id", ""), row.cells["emotion"].casefold()
        known = number.isdecimal() and int(number) < len(_DFME_EMOTIONS)
        if number and not (known and _DFME_EMOTIONS[int(number)] == word):
            row.flags.append("emotion_id_disagrees")
    return []


def is_micro(row: SheetRow) -> bool:
    """Whether a row is a micro-expression. Sheets without such a column contain only micro-expressions."""
    kind = row.cells.get("type", "")
    return not kind or "micro" in kind.casefold()
