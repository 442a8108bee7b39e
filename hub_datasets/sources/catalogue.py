"""A table of the supported data sets: sheets, columns, folders, frame rates and licences.

`readers.py` works the same way for all of them; the differences are in this table. If renaming columns is not enough
for a source, its `prepare` function converts its rows to the common form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .action_unit_grammar import parse_action_units

# Field -> column names used by sheets, more specific ones first. Case, spaces and punctuation are ignored.
ALIASES: dict[str, tuple[str, ...]] = {
    "subject": ("Subject", "sub_ID", "sub", "participant"),
    "clip": ("Filename", "fold_name", "count", "video_name_&_expression_number", "clip"),
    "onset": ("OnsetFrame", "OnsetF", "Onset"),
    "apex": ("ApexFrame", "ApexF1", "ApexF", "Apex"),
    "apex2": ("ApexF2",),
    "offset": ("OffsetFrame", "OffsetF", "Offset"),
    "action_units": ("Action Units", "AUs", "AU"),
    "emotion": ("Estimated Emotion", "extimated_emotion", "Emotion"),
    "objective": ("Objective Classes", "Objective class"),
    "type": ("Expression type", "Type", "micro-/macro-expression"),
    "fps": ("Fps", "frame rate"),
    "emotion_id": ("EmotionId",),
    "notes": ("Notes", "remarks"),
    "path": ("path", "frames", "video"),
    "partition": ("partition", "split"),
}


@dataclass(frozen=True)
class Licence:
    """What is known about a source's terms. The signed copy is authoritative.

    Args:
        summary (`str`): One sentence for the data card.
        verified (`bool`, *optional*, defaults to `False`): Whether the licence text was read. If `False`, it is only
            known that an agreement must be signed.
        commercial_use (`bool`, *optional*, defaults to `False`): Whether the text allows commercial use; `False` if it
            was not read.
        redistribution (`bool`, *optional*, defaults to `False`): Whether the text allows redistribution; `False` if it
            was not read.
        show_faces (`bool`, *optional*, defaults to `False`): Whether the text allows publishing faces; `False` if it
            was not read.
        clauses (`tuple[tuple[str, str], ...]`, *optional*): Number and content of the clauses that users must know.
    """

    summary: str
    verified: bool = False
    commercial_use: bool = False
    redistribution: bool = False
    show_faces: bool = False
    clauses: tuple[tuple[str, str], ...] = ()


_SIGNED = Licence(
    "Access by signed agreement with the authors. The text was not read for this project: no commercial use, no "
    "redistribution and no published face unless your signed copy says otherwise."
)
_DFME_LICENCE = Licence(
    "DFME licence agreement: research only, private storage, no redistribution; what arises from it belongs to USTC.",
    verified=True,
    clauses=(
        ("1", "No commercial use; proving the efficiency of commercial systems and testing them included."),
        ("2", "Students need a supervisor's signature."),
        (
            "4",
            "Storage on a private disk only, never on a server path that others can reach. Images of the subjects "
            "that the licence lists (004, 010, 030, 031 and others) must not be published; other faces only where "
            "necessary. How those numbers relate to the sheets' (sub0008) is not known, so no face is shown.",
        ),
        ("5", "No redistribution in whole or in part, even to another department."),
        ("7", "All intellectual property that arises from the use is assigned to USTC."),
        ("8", "No warranty."),
    ),
)


@dataclass
class SheetRow:
    """One row of a sheet, all text.

    Args:
        number (`int`): Row number as a spreadsheet program shows it, from 1.
        index (`int`): Row index from 0 below the header.
        cells (`dict[str, str]`): Field -> text of its cell.
        others (`dict[str, str]`, *optional*): Column name -> text, for the columns that are not fields.
        flags (`list[str]`, *optional*): Remarks that end up in `quality`.
    """

    number: int  # as the spreadsheet program shows it, from 1
    index: int  # from 0, below the header
    cells: dict[str, str]
    others: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


Tabs = Mapping[str, Sequence[Sequence[str]]]
# (rows, all tabs of the file, tabs of a second sheet or None) -> warnings
Prepare = Callable[[list[SheetRow], Tabs, "Tabs | None"], list[str]]


@dataclass(frozen=True)
class SourceSpec:
    """One data set.

    Args:
        name (`str`): Name on the command line and in `source`.
        title (`str`): The label convention named in prompts.
        participants (`str`): Sources with the same value share people, so a fold must not separate them.
        sheets (`tuple[str, ...]`): File name patterns in order of preference; the first match is read.
        required (`tuple[str, ...]`): Fields whose column must exist.
        frames (`tuple[str, ...]`): Templates of a clip's folder, relative to the root or one level below. They are
            filled with the row's fields; `*` matches any one folder.
        fps (`float | None`): Frames per second; `None` if the sheet gives it.
        subject (`str`, *optional*, defaults to `"{}"`): Format of a numbered participant.
        tabs (`tuple[str, ...]`, *optional*): The tabs that contain clips, if present; otherwise the first tab with a
            header is used.
        columns (`tuple[str, ...]`, *optional*): Column order of a sheet without a header.
        versions (`Mapping[int, str]`, *optional*): Number of labelled rows -> name of the release.
        all_sheets (`bool`, *optional*, defaults to `False`): Whether several files belong together (DFME's three
            sets).
        second_sheet (`tuple[str, ...]`, *optional*): Patterns of a second sheet for `prepare`.
        clip_folders (`str | None`, *optional*): Folder template of a source that can be read without a sheet; used if
            such folders exist.
        emotion_words (`Mapping[str, str]`, *optional*): Emotion words used by this source only.
        coarse (`Mapping[str, str]`, *optional*): Emotion words that this source assigns to other coarse classes.
        partition (`Mapping[str, str]`, *optional*): File name patterns -> name of a fixed set.
        uncoded (`tuple[str, ...]`, *optional*): Labels that no release of the source has, so their absence is not
            reported.
    """

    name: str
    title: str
    participants: str
    sheets: tuple[str, ...]
    required: tuple[str, ...]
    frames: tuple[str, ...]
    fps: float | None
    licence: Licence
    subject: str = "{}"
    tabs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    versions: Mapping[int, str] = field(default_factory=dict)
    all_sheets: bool = False
    second_sheet: tuple[str, ...] = ()
    clip_folders: str | None = None
    prepare: Prepare | None = None
    emotion_words: Mapping[str, str] = field(default_factory=dict)
    coarse: Mapping[str, str] = field(default_factory=dict)
    partition: Mapping[str, str] = field(default_factory=dict)
    uncoded: tuple[str, ...] = ()

    def set_of(self, sheet: str) -> str | None:
        """The fixed set that belongs to the sheet of this name, if any."""
        found = (name for pattern, name in self.partition.items() if re.search(pattern, sheet, re.IGNORECASE))
        return next(found, None)


def _prepare_casme_squared(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
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


def _prepare_samm_long(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
    """SAMM Long Videos: emotions come from SAMM's own sheet, by file name. Clip 006_1_2 is in video 006_1."""
    emotions: dict[str, tuple[str, str]] = {}
    for lines in (second or {}).values():
        header: list[str] = []
        for line in lines:
            if not header and "Filename" in line and "Estimated Emotion" in line:
                header = list(line)
            elif header:
                cells = dict(zip(header, line, strict=False))
                emotions[cells["Filename"]] = (cells["Estimated Emotion"], cells.get("Objective Classes", ""))
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


def _prepare_casme3(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
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


def _prepare_4dme(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
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


def _prepare_dfme(rows: list[SheetRow], tabs: Tabs, second: Tabs | None) -> list[str]:
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


_FRAMES = ("subject", "clip", "onset", "apex", "offset")
_LABELLED = (*_FRAMES, "action_units", "emotion")


def _smic(camera: str, fps: float, versions: Mapping[int, str]) -> SourceSpec:
    return SourceSpec(
        name=f"smic-{camera.lower()}",
        title="SMIC",
        # The three cameras filmed the same people.
        participants="smic",
        sheets=(f"SMIC-{camera}-E_annotation.xls*", f"*{camera}*annotation*.xls*"),
        required=("subject", "clip", "onset", "offset", "emotion"),
        frames=(
            f"{camera}/{{subject}}/micro/*/{{clip}}",
            f"SMIC-{camera}-E/{camera}/{{subject}}/{{clip}}",
            f"{camera}/{{subject}}/{{clip}}",
        ),
        clip_folders=f"{camera}/*/micro/*/*",
        uncoded=("action_units",),
        fps=fps,
        subject="s{:02d}",
        versions=versions,
        licence=_SIGNED,
    )


_TABLE = (
    SourceSpec(
        name="casme",
        title="CASME",
        participants="casme",
        sheets=("CASME*.xls*", "casme*.xls*"),
        required=_LABELLED,
        frames=("{subject}/{clip}",),
        fps=60,
        subject="sub{:02d}",
        versions={189: "as used by meb", 195: "paper"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="casme2",
        title="CASME II",
        participants="casme2",
        sheets=(
            "CASME2-coding-2*.xls*",
            "CASME2-coding*.xls*",
            "CASME2_label*.xls*",
            "*CASME2*.xls*",
            "*CASME*II*.xls*",
        ),
        required=_LABELLED,
        frames=("{subject}/{clip}",),
        fps=200,
        subject="sub{:02d}",
        versions={
            247: "paper",
            250: "without the rows whose units are '?'",
            255: "released sheet",
            256: "as used by meb",
        },
        licence=_SIGNED,
    ),
    SourceSpec(
        name="samm",
        title="SAMM",
        participants="samm",
        sheets=("SAMM*Micro_FACS_Codes*.xls*",),
        tabs=("MICRO_ONLY",),
        required=(*_LABELLED, "objective"),
        frames=("{subject}/{clip}",),
        fps=200,
        subject="{:03d}",
        versions={159: "released sheet"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="samm-long",
        title="SAMM",
        participants="samm",
        sheets=("SAMM_LongVideos*.xls*",),
        second_sheet=("SAMM*Micro_FACS_Codes*.xls*",),
        required=(*_FRAMES, "type", "action_units"),
        frames=("{video}",),
        fps=200,
        subject="{:03d}",
        versions={502: "343 macro- and 159 micro-expressions"},
        prepare=_prepare_samm_long,
        uncoded=("emotion",),
        licence=_SIGNED,
    ),
    _smic("HS", 100, {157: "SMIC-E", 164: "clips as folders"}),
    _smic("VIS", 25, {71: "clips as folders"}),
    _smic("NIR", 25, {71: "clips as folders"}),
    SourceSpec(
        name="cas-me2",
        title="CAS(ME)^2",
        participants="cas-me2",
        sheets=("CAS(ME)^2code_final*.xls*", "code_final*.xls*", "*code_final*.xls*"),
        tabs=("CASFEcode_final", "CASMEcode_final", "code_final"),
        required=(*_LABELLED, "type"),
        columns=(*_LABELLED, "type", "self-reported emotion"),
        frames=("{subject}/*_{video}*",),
        fps=30,
        subject="s{:02d}",
        versions={357: "300 macro- and 57 micro-expressions"},
        prepare=_prepare_casme_squared,
        licence=_SIGNED,
    ),
    SourceSpec(
        name="cas-me3a",
        title="CAS(ME)^3",
        participants="cas-me3a",
        sheets=(
            "cas(me)3_part_A_ME_label_JpgIndex_v2*.xls*",
            "CAS(ME)3_part_A_v2*.xls*",
            "cas(me)3_part_A_ME_label_JpgIndex_v1*.xls*",
            "CAS(ME)3_part_A*.xls*",
        ),
        tabs=("label", "AU+Emotion"),
        required=(*_FRAMES, "action_units", "objective"),
        frames=("{subject}/{clip}/color",),
        fps=30,
        versions={
            860: "v2, micro-expressions",
            921: "v1, of which its authors list 22 rows as wrongly labelled",
            943: "as in the paper",
            4206: "v2, with 3346 macro-expressions",
        },
        prepare=_prepare_casme3,
        licence=_SIGNED,
    ),
    SourceSpec(
        name="cas-me3c",
        title="CAS(ME)^3",
        participants="cas-me3c",  # the mock crime had different participants from part A
        sheets=("CAS(ME)3_part_C_ME*.xls*",),
        tabs=("mockCrimeME",),
        required=("subject", "clip", "onset", "offset", "action_units", "emotion"),
        frames=("{subject}/{clip}/color", "{subject}/{clip}"),
        fps=30,
        subject="{:02d}",
        versions={165: "released sheet"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="mmew",
        title="MMEW",
        participants="mmew",
        sheets=("MMEW_Micro_Exp*.xls*",),
        required=_LABELLED,
        frames=("{subject}/*/{clip}", "*/{clip}"),
        fps=90,
        subject="S{:02d}",
        versions={300: "released sheet"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="4dme",
        title="4DME",
        participants="4dme",
        sheets=("4DME_Labelling_Micro*.xls*",),
        required=_LABELLED,
        frames=("{subject}/{clip}",),
        fps=60,
        versions={267: "release v1"},
        prepare=_prepare_4dme,
        coarse={"repression": "repression"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="dfme",
        title="DFME",
        participants="dfme",
        sheets=("*_full_with_AU.xls*", "*_full_with_AU.csv", "*DFME*.xls*", "*DFME*.csv"),
        all_sheets=True,
        required=(*_LABELLED, "fps"),
        frames=("{clip}",),
        fps=None,
        subject="sub{:04d}",
        versions={
            1856: "challenge, train",
            474: "challenge, test A",
            299: "challenge, test B",
            2629: "challenge, all three",
            7526: "all",
        },
        prepare=_prepare_dfme,
        partition={r"train": "train", r"test[\W_]*a": "test_a", r"test[\W_]*b": "test_b"},
        licence=_DFME_LICENCE,
    ),
)
SOURCES: dict[str, SourceSpec] = {spec.name: spec for spec in _TABLE}
PARTICIPANTS = frozenset(spec.participants for spec in _TABLE)

_GENERIC = SourceSpec(
    name="generic",
    title="",
    participants="",
    sheets=("annotations.csv", "annotations.tsv", "annotations.jsonl", "annotations.xls*"),
    required=("subject", "path"),
    frames=(),
    fps=None,
    licence=Licence("The owner's own recordings. Their terms are not known to the project."),
)


def generic_spec(name: str) -> SourceSpec:
    """The spec of your own recordings, described by `annotations.csv`, `.tsv`, `.jsonl` or `.xlsx` in the root.

    Required columns: subject and path (a folder of frames or a video, relative to the root). Optional columns: clip,
    onset, apex, offset (frame numbers), fps, action units, emotion, notes, partition. A subject such as
    "casme2/sub01" means that the person is also a participant of that source.

    Raises:
        ValueError: the name contains characters other than lower-case letters, digits and hyphens.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"A source name may only contain lower-case letters, digits and hyphens, got {name!r}.")
    return replace(_GENERIC, name=name, title=name, participants=name)
