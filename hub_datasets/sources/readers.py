"""Reads coding sheets and frame folders of licensed data sets into records, and accounts for every row.

    records, report = read_source("casme2", "/data/CASME2")

Sheets are found by name, columns by title, and frames by the number in their file name, regardless of zero padding.
Each row becomes a record, is dropped with a reason, or (macro-expressions) is counted as left out. Nothing is written
and no frame is decoded. Damaged frames are detected only from their header or checksum.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from deft_llm.files import file_digest
from deft_llm.processing.frame_folder import FrameSeries
from deft_llm.processing.video_reading import VIDEO_SUFFIXES

from .action_unit_grammar import is_missing, parse_action_units
from .catalogue import PARTICIPANTS, SOURCES, SourceSpec, did_you_mean, generic_spec
from .emotions import UnknownEmotionError, coarse_emotion, normalise_emotion, objective_class, parse_objective_class
from .errata import ERRATA, UNUSABLE, Erratum
from .folders import AmbiguousError, FolderTree, LinkOutError, OutsideError
from .preparation import SheetRow, is_micro
from .records import ClipRecord, Drop, ErratumNote, ReadReport
from .sheets import find_sheets, frame_number, frame_number_or_none, matching_sheets, number_of, table_of
from .subjects import name_subjects, numbered
from .tables import SheetError, read_workbook

LONGEST = 0.5  # seconds; longer expressions are usually defined as macro-expressions, and some sheets contain them


class SubjectClashError(ValueError):
    """One person appears under two names or in two sources, so folds could not keep the clips separate."""


def read_source(
    name: str,
    root: str | os.PathLike,
    *,
    sheet: str | os.PathLike | None = None,
    check_frames: bool = True,
    margin: int = 0,
    errata: Sequence[Erratum] = ERRATA,
    emotion_words: Mapping[str, str] | None = None,
    encoding: str | None = None,
    follow_links: bool = False,
) -> tuple[list[ClipRecord], ReadReport]:
    """Reads one data set.

    Args:
        name (`str`): Name in `SOURCES`, or any other name for your own recordings (see `generic_spec`).
        root (`str | os.PathLike`): Folder that contains the unpacked data set.
        sheet (`str | os.PathLike | None`, *optional*): Path of the coding sheet. Needed if none or several are found
            by name.
        check_frames (`bool`, *optional*, defaults to `True`): Whether to find the frames on disk. If `False`, records
            only have the sheet's frame numbers.
        margin (`int`, *optional*, defaults to `0`): Number of frames to keep before the onset and after the offset, if
            the folder has them.
        errata (`Sequence[Erratum]`, *optional*, defaults to `ERRATA`): Corrections to apply.
        emotion_words (`Mapping[str, str] | None`, *optional*): More emotion words, each mapped to a word of
            `emotions.COARSE_EMOTION`.
        encoding (`str | None`, *optional*): Encoding of a text sheet that is neither UTF-8 nor UTF-16.
        follow_links (`bool`, *optional*, defaults to `False`): Whether symbolic links in the root may lead out of it.
            The report lists those that were followed.

    Returns:
        The records in the order of the sheet, and the report.

    Raises:
        FileNotFoundError: the root does not exist.
        NotADirectoryError: the root is not a folder.
        SheetError: there is no sheet or more than one, or the sheet is empty, links out of the root, lacks columns or
            has an unknown encoding.
        UnknownEmotionError: emotion words are not in the table; names the rows.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder; pass the folder that {name} was unpacked to.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: not a folder; pass the folder that {name} was unpacked to.")
    root = root.resolve()
    spec = SOURCES.get(name) or _own_recordings(name, root, sheet)
    tree = FolderTree(root, follow_links)
    report = ReadReport(spec.name, spec.title, links=tree.links)
    words = {**spec.emotion_words, **(emotion_words or {})}
    reader = _SourceReader(spec, tree, report, check_frames, margin, words)

    folders = tree.glob(spec.clip_folders) if spec.clip_folders and sheet is None else []
    if folders:
        report.rows = len(folders)
        for folder in folders:
            reader.read_folder(folder)
    else:
        for path in find_sheets(spec, tree, sheet):
            reader.read_sheet(path, errata, encoding)
    if reader.unknown_emotions:
        places = "; ".join(f"{word!r} in {', '.join(rows)}" for word, rows in reader.unknown_emotions.items())
        error = UnknownEmotionError(reader.unknown_emotions)
        error.args = (f"{spec.title}: {places}. {error} Pass emotion_words={{word: known word}} to map them.",)
        raise error

    report.version = spec.release_of(report.rows, [item["name"] for item in report.sheets]) or (
        f"no known release has {report.rows} rows" if spec.versions else "own recordings"
    )
    if spec.versions and report.rows not in spec.versions:
        known = ", ".join(f"{rows} ({what})" for rows, what in spec.versions.items())
        report.warnings.append(f"{report.rows} labelled rows; known releases of {spec.title} have {known}.")
    report.warnings += tree.remarks
    report.records = len(reader.records)
    report.subjects = len({record.subject for record in reader.records})
    report.quality = Counter(flag.split(":")[0] for record in reader.records for flag in record.quality)
    return reader.records, report


def check_subjects(records: Iterable[ClipRecord]) -> None:
    """Raises `SubjectClashError` unless subjects are unique across sources.

    A clash is a subject that appears in two sources that do not declare shared participants (SMIC's three cameras do,
    SAMM and its long videos do), or one folder or video that belongs to two subjects.
    """
    claimed: dict[str, str] = {}
    owners: dict[Path, ClipRecord] = {}
    for record in records:
        first = claimed.setdefault(record.subject, record.source)
        if _participants(first) != _participants(record.source):
            raise SubjectClashError(
                f"Subject {record.subject} is claimed by {first} and {record.source}. Remove one of the sources, "
                "or rename the subject in your own annotations if it is a different person."
            )
        place = record.folder or record.video
        if place is not None:
            owner = owners.setdefault(place.resolve(), record)
            if owner.subject != record.subject:
                raise SubjectClashError(
                    f"{place.name} belongs to {owner.subject} in {owner.source} and to {record.subject} in "
                    f"{record.source}. Pass only one of the sources."
                )


def refuse_output_in_root(out: str | os.PathLike, roots: Iterable[str | os.PathLike]) -> None:
    """Raises `ValueError` if `out` is a data set's root, is inside one, or contains one, to protect the originals."""
    target = Path(out).resolve()
    for root in map(Path, roots):
        resolved = root.resolve()
        if target == resolved or resolved in target.parents or target in resolved.parents:
            raise ValueError(
                f"The output {out} and the data set {root} contain each other. Choose an output folder elsewhere, so "
                "that the originals are not changed."
            )


def _participants(source: str) -> str:
    return SOURCES[source].participants if source in SOURCES else source


def _own_recordings(name: str, root: Path, sheet: str | os.PathLike | None) -> SourceSpec:
    spec = generic_spec(name)
    if sheet is None and not any(path.match(pattern) for path in root.iterdir() for pattern in spec.sheets):
        raise SheetError(
            f"Unknown source {name!r}.{did_you_mean(name)} Known: {', '.join(SOURCES)}. To use your own recordings "
            "under it, put annotations.csv, .tsv, .jsonl or .xlsx with the columns subject and path into the root."
        )
    return spec


# --- Rows to records ------------------------------------------------------------------------------------------------


class _DropRowError(Exception):
    """The reason why a row is dropped."""


class _SourceReader:
    def __init__(
        self,
        spec: SourceSpec,
        tree: FolderTree,
        report: ReadReport,
        check_frames: bool,
        margin: int,
        emotion_words: Mapping[str, str],
    ):
        self.spec, self.tree, self.report = spec, tree, report
        self.check_frames, self.margin, self.emotion_words = check_frames, margin, emotion_words
        self.records: list[ClipRecord] = []
        self.unknown_emotions: dict[str, list[str]] = {}
        self._rows_by_id: dict[str, tuple[str, str | None]] = {}

    def read_sheet(self, path: Path, errata: Sequence[Erratum], encoding: str | None) -> None:
        digest = file_digest(path)
        book = read_workbook(path, encoding, self.spec.encoding)
        table = table_of(self.spec, book, path.name)
        rows = table.rows
        if not rows:
            reasons = "".join(f" Row {number}: {reason}." for _, number, reason in table.strays[:3])
            raise SheetError(f"{path.name}: no clip below the header. Get the sheet again from its owner.{reasons}")
        self.report.sheets.append({"name": path.name, "sha256": digest, "rows": len(rows)})
        self.report.rows += len(rows)
        self.report.drops += [Drop(sheet, number, "", reason) for sheet, number, reason in table.strays]
        self.report.warnings += table.notes
        self.report.warnings += [
            f"{path.name} has no column for {name}."
            for name in ("emotion", "action_units")
            if not any(name in row.cells for row in rows) and name not in self.spec.uncoded
        ]
        # Errata name a row by its place, so the rows are counted before some become several clips.
        places = [row for row in rows if is_micro(row)]
        if self.spec.prepare is not None:
            second = None
            for beside in matching_sheets(self.spec.second_sheet, self.tree)[:1]:
                second = read_workbook(beside, None, self.spec.encoding).tabs
                self.report.sheets.append({"name": beside.name, "sha256": file_digest(beside), "rows": None})
            self.report.warnings += self.spec.prepare(rows, book.tabs, second)
        partition = self.spec.set_of(path.name)
        # Before the errata, which search for the row's folder.
        self.report.warnings += name_subjects(rows, self.spec.subject, path.name)
        self._correct(places, [item for item in errata if (item.source, item.rows) == (self.spec.name, len(places))])
        for row in rows:
            if not is_micro(row):
                self.report.left_out[row.cells["type"]] += 1
                continue
            try:
                self._add(row, partition, digest)
            except _DropRowError as reason:
                self.report.drops.append(Drop(row.sheet, row.number, _key(row), str(reason)))

    def read_folder(self, folder: Path) -> None:
        """Reads a clip described by its folder: …/subject/micro/emotion/clip, first to last frame."""
        clip, emotion, subject = folder.name, folder.parent.name, folder.parents[2].name
        row = SheetRow(0, {"subject": numbered(subject, self.spec.subject), "clip": clip, "emotion": emotion})
        code = re.search(r"_(ne|po|sur)_", clip, re.IGNORECASE)
        if code and not emotion.casefold().startswith(code[1].casefold()):
            row.flags.append("emotion_folder_disagrees")
        try:
            if self.tree.leads_out(folder):
                raise LinkOutError(str(folder.relative_to(self.tree.root)))
            numbers = list(self.tree.frames(folder))
            if numbers:
                row.cells |= {"onset": str(numbers[0]), "offset": str(numbers[-1])}
            elif self.check_frames:
                raise _DropRowError("the folder contains no frames")
            self._add(row, None, None, folder)
        except (_DropRowError, LinkOutError, AmbiguousError) as reason:
            self.report.drops.append(Drop(None, None, f"{subject}/{clip}", self._in_words(reason)))

    def _correct(self, places: Sequence[SheetRow], errata: Sequence[Erratum]) -> None:
        """Applies the errata that fit the sheet. All are checked before any is applied."""
        fitting = []
        for item in errata:
            row = places[item.row]
            new = item.new
            if item.donor is not None:
                # A swap is visible in both rows: the moved values contradict the others.
                donor = places[item.donor]
                fits = all("emotion_columns_disagree" in r.flags for r in (row, donor))
                new = donor.cells[item.field]
            elif item.old == UNUSABLE:
                fits = _unusable(row.cells, item.field, self._numbers_on_disk(row))
                together = [other for other in errata if other.row == item.row and other.donor is None]
                fits = fits and not _unusable(
                    {**row.cells, **{other.field: other.new for other in together}}, item.field
                )
            else:
                fits = row.cells.get(item.field, "") == item.old
            key = f"row {row.number}, {row.cells['subject']}/{row.cells.get('clip', '')}"
            self.report.errata.append(ErratumNote(item, key, row.cells.get(item.field, ""), fits))
            if fits:
                fitting.append((row, item, new))
        for row, item, new in fitting:
            row.cells[item.field] = new
            row.flags.append(f"erratum:{item.field}")
            if item.donor is not None:
                row.flags.remove("emotion_columns_disagree")

    def _numbers_on_disk(self, row: SheetRow) -> set[int] | None:
        if not self.check_frames:
            return None
        try:
            folder = self.tree.find(self.spec.frames, row.cells)
            return set(self.tree.frames(folder)) if folder is not None else None
        except (LinkOutError, AmbiguousError):
            return None  # the row will be dropped

    def _add(self, row: SheetRow, partition: str | None, digest: str | None, folder: Path | None = None) -> None:
        cells, flags = row.cells, list(row.flags)
        spec = self.spec
        subject = cells["subject"]
        if subject.partition("/")[0] not in PARTICIPANTS or "/" not in subject:
            subject = f"{spec.participants}/{subject}"
        clip = cells.get("clip", "")
        place: dict[str, Any] = {}
        notes: list[str] = []  # of this row, if it is not dropped
        if "path" in cells:
            clip_frames, place, name = self._own_frames(cells, flags, notes)
            clip = clip or name
        else:
            onset, apex, offset = self._sheet_numbers(cells, flags, notes, required=digest is not None)
            clip_frames = (onset, apex, offset)
            if self.check_frames:
                place = self._locate(cells, folder, onset, offset, flags)
        onset = clip_frames[0]
        apex = self._usable_apex(*clip_frames, flags)
        if (second := cells.get("apex2")) and frame_number_or_none(second) not in (None, clip_frames[1]):
            flags.append(f"second_apex:{second}")
        if self.check_frames and onset is not None and "index" in place:
            index = place.pop("index")
            missing = [n for n in (onset, clip_frames[2]) if n not in index]
            if missing:
                raise _DropRowError(f"frame {missing[0]} is not on disk")
            if apex is not None and apex not in index:
                flags.append("apex_frame_missing")
                apex = None
            place |= {
                "onset": index[onset],
                "apex": None if apex is None else index[apex],
                "offset": index[clip_frames[2]],
            }
            for number in {onset, apex, clip_frames[2]} - {None}:
                self._look_at(place, index[number])
        place.pop("index", None)

        fps = self._fps(cells, flags, notes)
        if fps is not None and onset is not None and (clip_frames[2] - onset) / fps > LONGEST:
            flags.append("longer_than_half_a_second")
        clip_id = f"{spec.name}/{subject.partition('/')[2]}/{clip}/{onset if onset is not None else 0}"
        where = f"row {row.number}" if row.number else clip
        if clip_id in self._rows_by_id:
            first, path = self._rows_by_id[clip_id]
            other = path != cells.get("path")
            advice = ", but another path; give each a name of its own in the column clip" if other else ""
            raise _DropRowError(f"same subject, clip and onset as {first}{advice}")
        labels = self._labels(cells, flags, notes, where)
        self._rows_by_id[clip_id] = (where, cells.get("path"))
        self.report.warnings += [f"{row.sheet} {where}, {_key(row)}: {note}" for note in notes]
        self.records.append(
            ClipRecord(
                clip_id=clip_id,
                source=spec.name,
                convention=spec.title,
                subject=subject,
                clip=clip,
                fps=fps,
                sheet_frames=clip_frames,
                **place,
                **labels,
                notes=cells.get("notes", ""),
                quality=tuple(flags),
                partition=cells.get("partition") or partition,
                sheet=row.sheet or None,
                sheet_sha256=digest,
                row=row.number or None,
            )
        )

    def _sheet_numbers(
        self, cells: Mapping[str, str], flags: list[str], notes: list[str], *, required: bool
    ) -> tuple[int | None, int | None, int | None]:
        numbers: dict[str, int | None] = {}
        for name in ("onset", "apex", "offset"):
            try:
                numbers[name] = frame_number(cells.get(name, ""))
            except ValueError:
                if name != "apex":
                    raise _DropRowError(f"{name} is {cells[name]!r}, which is not a frame number") from None
                numbers[name] = None
                notes.append(
                    f"apex is {cells[name]!r}, which is not a frame number; the apex is searched in the clip. Correct "
                    "or empty the cell"
                )
        onset, apex, offset = numbers["onset"], numbers["apex"], numbers["offset"]
        if not required and onset is None and offset is None:
            return None, None, None
        if onset is None:
            raise _DropRowError(f"no onset{_typed(cells, 'onset')}")
        if offset in (None, 0) and apex is not None and apex > onset:
            offset = apex
            flags.append("offset_is_apex")
        if offset is None:
            raise _DropRowError(f"neither offset nor apex{_typed(cells, 'offset')}")
        if offset <= onset:
            raise _DropRowError(f"offset {offset} is not after onset {onset}")
        return onset, apex, offset

    @staticmethod
    def _usable_apex(onset: int | None, apex: int | None, offset: int | None, flags: list[str]) -> int | None:
        """Returns the apex if it is valid; otherwise `None` and a flag, and it is spotted in the clip later."""
        if onset is None:
            flags.append("key_frames_missing")
        elif apex is None:
            flags.append("apex_missing")
        elif apex == onset:
            flags.append("apex_is_onset")
        elif apex < onset:
            flags.append("apex_before_onset")
        elif apex > offset:
            flags.append("apex_after_offset")
        else:
            return apex
        return None

    def _locate(
        self, cells: Mapping[str, str], folder: Path | None, onset: int, offset: int, flags: list[str]
    ) -> dict[str, Any]:
        """Folder, files of the clip including the margin, and frame number -> index into the files."""
        try:
            folder = folder or self.tree.find(self.spec.frames, cells)
            if folder is None:
                wanted = " or ".join(template.format_map(_Lenient(cells)) for template in self.spec.frames)
                raise _DropRowError(f"no folder {wanted} under the root")
            numbered = self.tree.frames(folder)
        except (LinkOutError, AmbiguousError) as error:
            raise _DropRowError(self._in_words(error)) from None
        if not numbered:
            raise _DropRowError(f"the folder {folder.relative_to(self.tree.root)} contains no frames")
        return self._window(folder, numbered, onset, offset, flags)

    def _window(
        self, folder: Path, numbered: Mapping[int, str], onset: int | None, offset: int | None, flags: list[str]
    ) -> dict[str, Any]:
        numbers = list(numbered)
        if onset is not None:
            numbers = [n for n in numbers if onset - self.margin <= n <= offset + self.margin]
            inside = sum(onset <= n <= offset for n in numbers)
            if 0 < inside < offset - onset + 1:
                flags.append(f"frames_missing:{offset - onset + 1 - inside}")
        elif missing := FrameSeries(dict(numbered), ()).missing:
            flags.append(f"frames_missing:{missing}")
        return {
            "folder": folder,
            "files": tuple(numbered[n] for n in numbers),
            "index": {n: position for position, n in enumerate(numbers)},
        }

    def _own_frames(
        self, cells: Mapping[str, str], flags: list[str], notes: list[str]
    ) -> tuple[tuple[int | None, int | None, int | None], dict[str, Any], str]:
        """Frames of a generic row, whose `path` is a folder of frames or a video, and that path below the root."""
        numbers = self._sheet_numbers(cells, flags, notes, required=False)
        try:
            path, name = self.tree.place(cells["path"])
        except OutsideError as error:
            raise _DropRowError(str(error)) from None
        if not self.check_frames:
            return numbers, {}, name
        # These functions answer "no" to a name that is too long for the disk.
        if os.path.isdir(path):
            try:
                numbered_files = self.tree.frames(path)
            except (LinkOutError, AmbiguousError) as error:
                raise _DropRowError(self._in_words(error)) from None
            if not numbered_files:
                raise _DropRowError(f"the folder {name} contains no frames")
            return numbers, self._window(path, numbered_files, numbers[0], numbers[2], flags), name
        if not os.path.exists(path):
            raise _DropRowError(f"no file or folder {name} under the root; neither a folder nor a video")
        if os.path.isfile(path) and path.suffix.lower() in VIDEO_SUFFIXES:
            onset, apex, offset = numbers
            good = apex is not None and onset is not None and onset < apex <= offset
            return numbers, {"video": path, "onset": onset, "apex": apex if good else None, "offset": offset}, name
        raise _DropRowError(f"{name} is neither a folder nor a video ({', '.join(sorted(VIDEO_SUFFIXES))})")

    def _look_at(self, place: Mapping[str, Any], index: int) -> None:
        """Checks that a key frame is an image. Some releases contain damaged files."""
        path = place["folder"] / place["files"][index]
        try:
            with Image.open(path) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, SyntaxError):
            raise _DropRowError(f"{path.relative_to(self.tree.root)} is not a readable image") from None

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, LinkOutError):
            return f"{error} is a symbolic link out of the root; pass --follow-links if it leads to your own data"
        return f"ambiguous: {error}" if isinstance(error, AmbiguousError) else str(error)

    def _fps(self, cells: Mapping[str, str], flags: list[str], notes: list[str]) -> float | None:
        text = cells.get("fps", "")
        fps = self.spec.fps
        if not is_missing(text):
            try:
                fps = number_of(text)
            except ValueError:
                fps = None
            if fps is None or not 0 < fps < float("inf"):
                fps = None
                notes.append(f"the frame rate {text!r} is not read; write frames per second as a number such as 29.97")
        if fps is None:
            flags.append("fps_unknown")
        return fps

    def _labels(self, cells: Mapping[str, str], flags: list[str], notes: list[str], where: str) -> dict[str, Any]:
        word = cells.get("emotion", "")
        emotions: tuple[str, ...] = ()
        try:
            emotions = normalise_emotion(word, self.emotion_words)
            if word and not emotions:
                flags.append("emotion_missing")
                notes.append(f"the emotion {word!r} is read as no emotion; write a word if the clip has one")
                word = ""
        except UnknownEmotionError as error:
            for unknown in error.words:
                self.unknown_emotions.setdefault(unknown, []).append(where)
        coarse = coarse_emotion(emotions, self.spec.coarse)
        if len(emotions) > 1:
            flags.append("several_emotions")
        labels: dict[str, Any] = {"emotion": word or None, "emotions": emotions, "emotion_coarse": coarse}

        derived = None
        if "action_units" in cells:
            parsed = parse_action_units(cells["action_units"])
            labels |= {"action_units_raw": cells["action_units"], "action_units": parsed}
            derived = objective_class(parsed.units, self.spec.objective)
            if parsed.unparsed and cells["action_units"] != "?":
                flags.append("action_units_unread")
                notes.append(
                    f"{', '.join(map(repr, parsed.unparsed))} of the action units {cells['action_units']!r} is not "
                    "read; "
                    'write units as "4+7", "L12" or "4 or 7"'
                )
            if not parsed.units:
                flags.append("no_action_units")
        try:
            stated = parse_objective_class(cells.get("objective", ""))
        except ValueError:
            stated = None
            flags.append(f"objective_class_unread:{cells['objective']}")
        if stated and derived and stated != derived:
            flags.append(f"objective_class_by_action_units:{derived}")
        return {**labels, "objective_class": stated or derived}


class _Lenient(dict):
    """For messages: a field that the row lacks keeps its placeholder."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def _key(row: SheetRow) -> str:
    return "/".join(text for name in ("subject", "clip", "path", "onset") if (text := row.cells.get(name)))


def _typed(cells: Mapping[str, str], name: str) -> str:
    """For messages: the text of a cell that says that there is no number."""
    return f": the cell contains {cells[name]!r}" if cells.get(name) else ""


def _unusable(cells: Mapping[str, str], name: str, numbers: set[int] | None = None) -> bool:
    """Whether a row's frame number is missing, out of order, or not on disk."""
    value = frame_number_or_none(cells.get(name, ""))
    onset, apex, offset = (frame_number_or_none(cells.get(key, "")) for key in ("onset", "apex", "offset"))
    if value is None or (numbers is not None and value not in numbers):
        return True
    if onset is not None and offset is not None and offset <= onset:
        return True
    if apex is None or onset is None or offset is None:
        return False
    return not onset < apex <= offset
