"""Scores spotted intervals in a file against annotated ones: the figures of MEGC's spotting tasks, and STRS."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from deft_llm.files import write_whole

from .metrics import Interval, strs, strs_intervals

COUNTS = ("true_positives", "false_positives", "false_negatives")
KIND_WORDS = {"micro": ("me", "micro", "micro-expression"), "macro": ("mae", "macro", "macro-expression")}
_COLUMNS = {
    "video": ("vid", "video", "clip", "filename"),
    "onset": ("onset", "pred_onset", "onset_frame"),
    "offset": ("offset", "pred_offset", "offset_frame"),
    "kind": ("type", "kind"),
    "emotion": ("emotion",),
    "subject": ("subject",),
}
_NEEDED = ("video", "onset", "offset")
_ALL = "all"
_NO_CLASS = "expression"


@dataclass(frozen=True)
class Row:
    """One line of a file.

    Args:
        video (`str`): Name of the video.
        onset (`int | None`): First frame; `None` for a video without expressions.
        offset (`int | None`): Last frame, inclusive.
        kind (`str`): "micro", "macro" or empty.
        emotion (`str`): The class, or empty.
        subject (`str`): The person, or empty.
    """

    video: str
    onset: int | None
    offset: int | None
    kind: str = ""
    emotion: str = ""
    subject: str = ""


def read_intervals(path: Path) -> list[Row]:
    """Reads a CSV file with one interval per line, such as `deft spot --format megc` writes.

    The columns are `vid`, `onset` and `offset`, and where they are known `type` (me or mae), `emotion` and `subject`.
    `pred_onset`, `onset_frame` and the like are read, too. A line with an empty onset names a video in which nothing
    is annotated.

    Args:
        path (`Path`): The file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A column is missing, or a line cannot be read. The message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = {name.strip().casefold(): name for name in reader.fieldnames or ()}
        columns = {
            what: next((names[word] for word in words if word in names), None) for what, words in _COLUMNS.items()
        }
        missing = [what for what in _NEEDED if columns[what] is None]
        if missing:
            expected = ", ".join(" or ".join(_COLUMNS[what]) for what in missing)
            raise ValueError(f"{path}: the column {expected} is missing; it has {', '.join(names) or 'none'}.")
        return [
            _row(f"{path}, line {reader.line_num}", {what: _cell(line, name) for what, name in columns.items()})
            for line in reader
        ]


def _cell(line: Mapping[str, str | None], column: str | None) -> str:
    return "" if column is None else (line[column] or "").strip()


def _row(place: str, cells: Mapping[str, str]) -> Row:
    if not cells["video"]:
        raise ValueError(f"{place}: the name of the video is empty.")
    kind = next((name for name, words in KIND_WORDS.items() if cells["kind"].casefold() in words), "")
    if cells["kind"] and not kind:
        known = ", ".join(word for words in KIND_WORDS.values() for word in words)
        raise ValueError(f"{place}: the type {cells['kind']!r} is not one of {known}.")
    frames: list[int | None] = [None, None]
    if cells["onset"] or cells["offset"]:
        try:
            frames = [int(cells["onset"]), int(cells["offset"])]
        except ValueError:
            raise ValueError(
                f"{place}: onset and offset must be frame numbers, got {cells['onset']!r} and {cells['offset']!r}."
            ) from None
        if frames[1] < frames[0]:
            raise ValueError(f"{place}: the interval {frames[0]}–{frames[1]} ends before it begins.")
    return Row(cells["video"], *frames, kind, cells["emotion"].casefold(), cells["subject"])


def score_spotting(annotated: Sequence[Row], spotted: Sequence[Row], *, resamples: int = 1000) -> dict[str, Any]:
    """The figures of spotted intervals. All counts are pooled over the videos, as MEGC does from 2021 on.

    A spotted interval is right if its intersection over union with an annotated one is at least 0.5; each is matched
    once. If both files have types, an interval is compared with those of its type only, and `all` pools the types.
    If both have emotions, the class of the intervals that are right is scored as well, and STRS is the product of both
    (MEGC 2024 and 2025 do this for micro-expressions). A spotted interval without an emotion has the wrong class.

    Args:
        annotated (`Sequence[Row]`): From `read_intervals`.
        spotted (`Sequence[Row]`): From `read_intervals`, with frames counted alike.
        resamples (`int`, *optional*, defaults to `1000`): Number of resamplings for the intervals.

    Returns:
        `micro`, `macro` (with types) and `all` -> figures of `metrics.strs` and their 95 % intervals over subjects, or
        over videos if no subject is known; `per_video` -> video -> counts and F1.

    Raises:
        ValueError: Nothing is annotated, a spotted interval is in a video that the annotations do not name, or only
            some intervals of a file have a type, or only some annotated ones an emotion.
    """
    videos = list(dict.fromkeys(row.video for row in annotated))
    strange = sorted({row.video for row in spotted} - set(videos))
    if strange:
        raise ValueError(
            f"The annotations do not name the video {strange[0]!r} of a spotted interval. If nothing is annotated in "
            "it, add a line with its name and an empty onset and offset."
        )
    true = [row for row in annotated if row.onset is not None]
    found = [row for row in spotted if row.onset is not None]
    if not true:
        raise ValueError("The annotations contain no intervals.")
    emotions = _have("emotion", true, "annotated") and any(row.emotion for row in found)
    labels = sorted({row.emotion for row in (*true, *found)} - {""}) if emotions else [_NO_CLASS]
    typed = tuple(KIND_WORDS) if _have("kind", true, "annotated") and _have("kind", found, "spotted") else ()
    subjects = {row.video: row.subject or row.video for row in annotated}
    figures: dict[str, Any] = {
        "videos": len(videos),
        "subjects": len(set(subjects.values())) if any(row.subject for row in annotated) else None,
        "annotated": len(true),
        "spotted": len(found),
        "per_video": {},
    }
    names = ("f1_spot", "f1_analysis", "uar_analysis", "strs") if emotions else ("f1_spot",)
    for name, chosen in {**({kind: (kind,) for kind in typed}), _ALL: typed or ("",)}.items():
        pair = [_by_video_and_type(rows, videos, chosen, emotions) for rows in (true, found)]
        groups = {_key(video, kind): subjects[video] for video in videos for kind in chosen}
        scores = strs(*pair, labels)
        ends = strs_intervals(*pair, labels, groups=groups, resamples=resamples)
        figures[name] = {one: scores[one] for one in (*COUNTS, *names)}
        figures[name]["intervals"] = {one: ends[one] for one in names}
    for video in videos:
        pair = [_by_video_and_type(rows, [video], typed or ("",), emotions) for rows in (true, found)]
        scores = strs(*pair, labels)
        figures["per_video"][video] = {one: scores[one] for one in (*COUNTS, "f1_spot")}
    return figures


def _have(field: str, rows: Sequence[Row], what: str) -> bool:
    """Whether the intervals of a file have a type or an emotion."""
    count = sum(bool(getattr(row, field)) for row in rows)
    if 0 < count < len(rows):
        raise ValueError(f"{count} of {len(rows)} {what} intervals have a value of {field!r}; give all of them one.")
    return count > 0 or not rows


def _key(video: str, kind: str) -> str:
    return f"{video}\n{kind}"


def _by_video_and_type(
    rows: Sequence[Row], videos: Sequence[str], kinds: Sequence[str], emotions: bool
) -> dict[str, list[Interval]]:
    """The intervals of each video and type. Those of two types are apart, so that they are never matched."""
    found: dict[str, list[Interval]] = {_key(video, kind): [] for video in videos for kind in kinds}
    for row in rows:
        key = _key(row.video, row.kind if any(kinds) else "")
        if key in found:
            found[key].append(Interval(row.onset, row.offset, (row.emotion or None) if emotions else _NO_CLASS))
    return found


def spotting_table(figures: Mapping[str, Any]) -> list[Table]:
    """The figures as two tables for people: all videos together, and each video.

    Args:
        figures (`Mapping[str, Any]`): From `score_spotting`.
    """
    people = figures["subjects"]
    over = "videos" if people is None else "subjects"
    whose = "" if people is None else f" of {people} subjects"
    together = Table(
        "",
        "TP",
        "FP",
        "FN",
        "F1",
        "UF1 of the class",
        "UAR",
        "STRS",
        title=f"{figures['videos']} videos{whose}: {figures['annotated']} annotated, {figures['spotted']} spotted",
        caption=f"At an intersection over union of 0.5. In brackets: 95 % interval over {over}.",
    )
    for name in (*KIND_WORDS, _ALL):
        if name in figures:
            counts = [str(figures[name][one]) for one in COUNTS]
            shares = [_share(figures[name], one) for one in ("f1_spot", "f1_analysis", "uar_analysis", "strs")]
            together.add_row(name, *counts, *shares)
    each = Table("video", "TP", "FP", "FN", "F1")
    for video, scores in figures["per_video"].items():
        each.add_row(video, *(str(scores[one]) for one in COUNTS), f"{scores['f1_spot']:.3f}")
    return [together, each]


def _share(scores: Mapping[str, Any], name: str) -> str:
    if name not in scores:
        return "–"
    low, high = scores["intervals"][name]
    return f"{scores[name]:.3f} ({low:.3f}–{high:.3f})"


def score_files(annotated: Path, spotted: Path, output_dir: Path) -> dict[str, Any]:
    """Scores a file of spotted intervals, and writes the figures to `spotting.json`.

    Args:
        annotated (`Path`): CSV of the annotations.
        spotted (`Path`): CSV of the intervals to score.
        output_dir (`Path`): Folder for the figures.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be read, or the two do not belong together.
    """
    figures = score_spotting(read_intervals(annotated), read_intervals(spotted))
    output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / "spotting.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return figures
