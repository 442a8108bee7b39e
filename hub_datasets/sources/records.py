"""The result of reading a data set: one record per labelled clip, and a report on every row that was not used."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .action_unit_grammar import ParsedCell
from .errata import Erratum

READER_VERSION = "readers 2"


@dataclass(frozen=True)
class ClipRecord:
    """One labelled clip.

    Args:
        clip_id (`str`): Source/subject/clip/onset, where onset is the sheet's frame number.
        source (`str`): Name in `SOURCES`.
        convention (`str`): Title of the label convention.
        subject (`str`): Participants/subject, unique across sources.
        clip (`str`): The source's own name of the clip; for own recordings without names, the path.
        folder (`Path | None`, *optional*): Folder of the frames; empty if `video` is used or frames were not checked.
        files (`tuple[str, ...]`, *optional*): File names from `margin` frames before the onset to `margin` frames
            after the offset, in order.
        video (`Path | None`, *optional*): The video file, for a clip that is not a folder of frames.
        onset (`int | None`, *optional*): Index into `files` or the video; `None` if the clip has yet to be searched or
            frames were not checked.
        apex (`int | None`, *optional*): Same as `onset`. Also `None` if the source's apex is missing or invalid;
            `quality` says which.
        offset (`int | None`, *optional*): Same as `onset`.
        sheet_frames (`tuple[int | None, int | None, int | None]`, *optional*, defaults to `(None, None, None)`):
            Onset, apex and offset as numbered in the sheet, after errata.
        action_units_raw (`str`, *optional*, defaults to `""`): The cell with the action units.
        action_units (`ParsedCell | None`, *optional*): The parsed cell; `None` if the source does not code action
            units.
        emotion (`str | None`, *optional*): The source's own word.
        emotions (`tuple[str, ...]`, *optional*): Normalised words; several for a multi-label source.
        objective_class (`str | None`, *optional*): The sheet's objective class, or Davison's class computed from the
            action units.
        partition (`str | None`, *optional*): "train", "test_a", … for a source with fixed sets.
        row (`int | None`, *optional*): Row number in the sheet from 1, as a spreadsheet program shows it; `None` for a
            clip read from its folder.
    """

    clip_id: str
    source: str
    convention: str
    subject: str
    clip: str
    fps: float | None
    folder: Path | None = None
    files: tuple[str, ...] = ()
    video: Path | None = None
    onset: int | None = None
    apex: int | None = None
    offset: int | None = None
    sheet_frames: tuple[int | None, int | None, int | None] = (None, None, None)
    action_units_raw: str = ""
    action_units: ParsedCell | None = None
    emotion: str | None = None
    emotions: tuple[str, ...] = ()
    emotion_coarse: str | None = None
    objective_class: str | None = None
    notes: str = ""
    quality: tuple[str, ...] = ()
    partition: str | None = None
    sheet: str | None = None
    sheet_sha256: str | None = None
    row: int | None = None

    @property
    def frames(self) -> list[Path]:
        """Paths of the frames, in order."""
        return [self.folder / name for name in self.files] if self.folder is not None else []

    @property
    def provenance(self) -> dict[str, Any]:
        """Reader version, sheet, the sheet's SHA-256 and the row."""
        return {"reader": READER_VERSION, "sheet": self.sheet, "sheet_sha256": self.sheet_sha256, "row": self.row}


@dataclass(frozen=True)
class Drop:
    """A row that did not become a record.

    Args:
        sheet: Name of the coding sheet, and of its tab if several are read; `None` if the clip is not in a sheet.
        row: Number of the row in the sheet, if any.
        key: Name of the clip.
        reason: Why the row was dropped.
    """

    sheet: str | None
    row: int | None
    key: str
    reason: str


@dataclass(frozen=True)
class ErratumNote:
    """An erratum that concerns a row.

    Args:
        erratum: One of `errata.ERRATA`.
        key: Name of the clip.
        found: The value in the sheet.
        applied: Whether the value was replaced.
    """

    erratum: Erratum
    key: str
    found: str
    applied: bool


@dataclass
class ReadReport:
    """What was read and what was not.

    Args:
        rows (`int`, *optional*, defaults to `0`): Number of labelled rows in the sheets, or of clip folders.
        version (`str`, *optional*, defaults to `""`): The release with that many rows, or a note that none is known.
        sheets (`list[dict[str, Any]]`, *optional*): Name, SHA-256 and number of rows of each file; no rows for a file
            that is only used for look-ups.
        left_out (`Counter[str]`, *optional*): Number of rows that are not micro-expressions, by kind.
        links (`dict[str, str]`, *optional*): Symbolic links that were followed out of the root → where they lead.
        warnings (`list[str]`, *optional*): What the user should know, such as cells that could not be read.
    """

    source: str
    title: str
    sheets: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    version: str = ""
    records: int = 0
    subjects: int = 0
    drops: list[Drop] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    errata: list[ErratumNote] = field(default_factory=list)
    quality: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest. Of the links only the names, because it does not contain absolute paths."""
        return {
            **asdict(self),
            "links": sorted(self.links),
            "reader": READER_VERSION,
            "left_out": dict(self.left_out),
            "quality": dict(self.quality),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.title} ({self.source}): {self.records} clips of {self.subjects} subjects from {self.rows} rows; "
            f"{self.version}"
        ]
        lines += [
            f"  sheet {item['name']}, {item['rows'] or 'used for look-ups, no'} rows, SHA-256 {item['sha256']}"
            for item in self.sheets
        ]
        lines += [f"  {count} left out: {kind}" for kind, count in sorted(self.left_out.items())]
        lines += [
            f"  dropped, {drop.sheet or 'folder'} row {drop.row}, {drop.key}: {drop.reason}" for drop in self.drops
        ]
        for note in self.errata:
            what = note.erratum
            if note.found == what.new and not note.applied:
                lines.append(f"  erratum not needed: {note.key}, {what.field} is {note.found!r} in this sheet")
                continue
            verb = "applied" if note.applied else "not applied, the sheet differs"
            lines.append(f"  erratum {verb}: {note.key}, {what.field} {note.found!r} -> {what.new!r} ({what.why})")
        lines += [f"  followed the symbolic link {link} to {target}" for link, target in sorted(self.links.items())]
        lines += [f"  {count} clips flagged {flag}" for flag, count in sorted(self.quality.items())]
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])
