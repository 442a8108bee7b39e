"""What reading a data set gives: a record a labelled clip, and the account of every row that became none."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .action_unit_grammar import ParsedCell
from .errata import Erratum

READER_VERSION = "readers 1"


@dataclass(frozen=True)
class ClipRecord:
    """One labelled clip.

    Args:
        clip_id: source/subject/clip/onset, the onset being the sheet's frame number.
        source: name in `SOURCES`. convention: title of the label convention. subject: participants/subject, unique
            across sources. clip: the source's own name.
        folder, files: the frames from `margin` before the onset to `margin` after the offset, in order; or
        video: a video file. All empty when frames were not checked.
        onset, apex, offset: indices into `files`, or into the video. An apex that the source lacks or that cannot be
            one is `None`, and `quality` says which; all three are `None` for a clip that has yet to be searched, and
            while frames are not checked.
        sheet_frames: onset, apex, offset as numbered by the sheet, errata applied, nothing else changed.
        action_units_raw: the cell. action_units: the cell parsed; `None` where the source codes no action units.
        emotion: the source's own word. emotions: normalised, several for a multi-label source.
        objective_class: of the sheet, else by Davison's table from the action units.
        partition: "train", "test_a", … of a source with fixed sets.
        row: of the sheet, from 1 as a spreadsheet program shows it; `None` for a clip read from its folder.
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
        """Reader version, sheet, its SHA-256 and the row."""
        return {"reader": READER_VERSION, "sheet": self.sheet, "sheet_sha256": self.sheet_sha256, "row": self.row}


@dataclass(frozen=True)
class Drop:
    """A row that did not become a record."""

    sheet: str | None
    row: int | None
    key: str
    reason: str


@dataclass(frozen=True)
class ErratumNote:
    """An erratum of `errata.ERRATA` and what became of it. `found` is what the sheet has."""

    erratum: Erratum
    key: str
    found: str
    applied: bool


@dataclass
class ReadReport:
    """What was read and what was not.

    Args:
        rows: labelled rows in the sheets, or clip folders. version: the release with that many rows, or that none
            is known. sheets: name, SHA-256 and rows of each file, no rows for one that is only looked up in.
        left_out: rows that are no micro-expression, by kind.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            **asdict(self),
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
            f"  sheet {item['name']}, {item['rows'] or 'only looked up in, no'} rows, SHA-256 {item['sha256']}"
            for item in self.sheets
        ]
        lines += [f"  {count} left out: {kind}" for kind, count in sorted(self.left_out.items())]
        lines += [
            f"  dropped, {drop.sheet or 'folder'} row {drop.row}, {drop.key}: {drop.reason}" for drop in self.drops
        ]
        for note in self.errata:
            what = note.erratum
            verb = "applied" if note.applied else "not applied, the sheet differs"
            lines.append(f"  erratum {verb}: {note.key}, {what.field} {note.found!r} -> {what.new!r} ({what.why})")
        lines += [f"  {count} clips flagged {flag}" for flag, count in sorted(self.quality.items())]
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])
