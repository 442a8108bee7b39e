"""A table of the supported data sets: sheets, columns, folders, frame rates and licences.

`readers.py` works the same way for all of them; the differences are in this table. If renaming columns is not enough
for a source, its `prepare` function converts its rows to the common form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from .preparation import (
    Prepare,
    prepare_4dme,
    prepare_casme2,
    prepare_casme3,
    prepare_casme_squared,
    prepare_dfme,
    prepare_samm_long,
    prepare_smic,
)

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
        tabs (`tuple[str, ...]`, *optional*): Names of the tab that contains the clips, if present; otherwise all
            visible tabs with a header are used.
        other_tabs (`tuple[str, ...]`, *optional*): Tabs of the same file that belong to other sources: SMIC's cameras.
        columns (`tuple[str, ...]`, *optional*): Column order of a sheet without a header.
        versions (`Mapping[int, str]`, *optional*): Number of labelled rows -> name of the release. "{version}" stands
            for the version in the file name, if releases have the same number of rows.
        encoding (`str | None`, *optional*): Encoding of the source's text files that are not UTF-8.
        all_sheets (`bool`, *optional*, defaults to `False`): Whether several files belong together (DFME's three
            sets).
        second_sheet (`tuple[str, ...]`, *optional*): Patterns of a second sheet for `prepare`. It is never taken for
            the coding sheet.
        clip_folders (`str | None`, *optional*): Folder template of a source that can be read without a sheet; used if
            such folders exist.
        emotion_words (`Mapping[str, str]`, *optional*): Emotion words used by this source only.
        coarse (`Mapping[str, str]`, *optional*): Emotion words that this source assigns to other coarse classes.
        objective (`Mapping[str, str]`, *optional*): Sets of action units, such as "4+10", that the source's release
            assigns to another objective class than Davison's table.
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
    other_tabs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    versions: Mapping[int, str] = field(default_factory=dict)
    encoding: str | None = None
    all_sheets: bool = False
    second_sheet: tuple[str, ...] = ()
    clip_folders: str | None = None
    prepare: Prepare | None = None
    emotion_words: Mapping[str, str] = field(default_factory=dict)
    coarse: Mapping[str, str] = field(default_factory=dict)
    objective: Mapping[str, str] = field(default_factory=dict)
    partition: Mapping[str, str] = field(default_factory=dict)
    uncoded: tuple[str, ...] = ()

    def set_of(self, sheet: str) -> str | None:
        """The fixed set that belongs to the sheet of this name, if any."""
        found = (name for pattern, name in self.partition.items() if re.search(pattern, sheet, re.IGNORECASE))
        return next(found, None)

    def other_camera_in(self, file: str) -> str | None:
        """The tab of another source that a file name mentions, if any: "HS" in "SMIC-HS-E_annotation.xlsx"."""
        words = re.split(r"[\W_]+", file.upper())
        return next((tab for tab in self.other_tabs if tab in words), None)

    def release_of(self, rows: int, files: Sequence[str]) -> str | None:
        """Name of the release with this number of labelled rows, or `None` if none is known."""
        version = next(
            (found[0].lower() for file in files if (found := re.search(r"(?<![^\W_])v\d+", file, re.I))), None
        )
        text = self.versions.get(rows)
        return text and text.format(version=version or "version not stated in the file name")


_FRAMES = ("subject", "clip", "onset", "apex", "offset")
_LABELLED = (*_FRAMES, "action_units", "emotion")


def _smic(camera: str, fps: float, versions: Mapping[int, str]) -> SourceSpec:
    others = tuple(name for name in ("HS", "VIS", "NIR") if name != camera)
    return SourceSpec(
        name=f"smic-{camera.lower()}",
        title="SMIC",
        # The three cameras filmed the same people.
        participants="smic",
        # One workbook may have a tab per camera, and is named after the first.
        sheets=(f"SMIC-{camera}-E_annotation.xls*", f"*{camera}*annotation*.xls*", "*SMIC*annotation*.xls*"),
        tabs=(camera, f"SMIC-{camera}-E", f"SMIC-{camera}"),
        other_tabs=others,
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
        prepare=prepare_smic,
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
        second_sheet=("*CASME2*Objective*Class*.xls*", "*CASME*II*Objective*Class*.xls*"),
        prepare=prepare_casme2,
        objective={"4+10": "IV"},  # as in the released classes
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
        prepare=prepare_samm_long,
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
        prepare=prepare_casme_squared,
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
            4206: "{version}, full sheet with macro-expressions",
        },
        prepare=prepare_casme3,
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
        prepare=prepare_4dme,
        coarse={"repression": "repression"},
        licence=_SIGNED,
    ),
    SourceSpec(
        name="dfme",
        title="DFME",
        participants="dfme",
        sheets=("*_full_with_AU.xls*", "*_full_with_AU.csv", "*DFME*.xls*", "*DFME*.csv"),
        all_sheets=True,
        encoding="gb18030",  # of Chinese spreadsheet programs
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
        prepare=prepare_dfme,
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

    Required columns: subject and path (a folder of frames or a video, relative to the root). Optional columns: clip
    (a name; the default is the path), onset, apex, offset (frame numbers), fps, action units, emotion, notes,
    partition. A subject such as "casme2/sub01" means that the person is also a participant of that source.

    Raises:
        ValueError: the name contains characters other than lower-case letters, digits and hyphens.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(
            f"A source name may only contain lower-case letters, digits and hyphens, got {name!r}.{did_you_mean(name)}"
        )
    return replace(_GENERIC, name=name, title=name, participants=name)


def did_you_mean(name: str) -> str:
    """A sentence with the supported source whose name is most similar, or an empty text."""
    plain: dict[str, list[str]] = {}
    for known in SOURCES:
        plain.setdefault(re.sub(r"[\W_]+", "", known), []).append(repr(known))
    near = get_close_matches(re.sub(r"[\W_]+", "", name.casefold()), plain, n=1, cutoff=0.75)
    return f" Did you mean {' or '.join(plain[near[0]])}?" if near else ""
