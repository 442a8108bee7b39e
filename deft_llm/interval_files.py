"""Spotted intervals as files: CSV, JSON, ELAN's .eaf and the form of MEGC's spotting task; and scored against .eaf."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deft_llm.clips import Spotted, interval_rows, intervals_csv, stretch_rows
from deft_llm.files import check_new, whole_file, write_whole

FORMATS = ("csv", "json", "eaf", "megc")
EXPRESSION_TIER, APEX_TIER, STRETCH_TIER = "expression", "apex", "not measurable"
_MEGC_COLUMNS = ("vid", "pred_onset", "pred_offset", "type")
_TIERS_ASKED_FOR = "Name one with --tier: "


# --- Writing --------------------------------------------------------------------------------------------------------


def format_of(out: Path | None, kind: str | None) -> str | None:
    """The format of a file: the one that is asked for, or else that of its suffix.

    Args:
        out (`Path`, *optional*): The file to write.
        kind (`str`, *optional*): One of `FORMATS`.

    Raises:
        ValueError: The suffix stands for no format.
    """
    if kind is not None or out is None:
        return kind
    suffix = out.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"{out}: the suffix .{suffix} stands for no format; pass --format, {' or '.join(FORMATS)}.")
    return suffix


def as_text(found: Sequence[Spotted], kind: str) -> str:
    """The intervals of videos as CSV, JSON or MEGC's form.

    Args:
        found (`Sequence[Spotted]`): The videos.
        kind (`str`): "csv", "json" or "megc".
    """
    return {"csv": _csv, "json": _json, "megc": _megc}[kind](found)


def write_intervals(found: Sequence[Spotted], out: Path, kind: str) -> None:
    """Writes the intervals of videos.

    Args:
        found (`Sequence[Spotted]`): The videos; only one for "eaf".
        out (`Path`): The file, which must not exist.
        kind (`str`): One of `FORMATS`.

    Raises:
        FileExistsError: The file exists.
        ImportError: "eaf" needs pympi-ling, which is not installed.
        ValueError: "eaf" holds one video.
    """
    check_new(out)
    if kind != "eaf":
        write_whole(out, as_text(found, kind))
        return
    if len(found) != 1:
        raise ValueError(f"{out}: an .eaf file is about one video; spot them one at a time.")
    with whole_file(out) as partial:
        _eaf(found[0], out).to_file(str(partial))


def _csv(found: Sequence[Spotted]) -> str:
    tables = [intervals_csv(item.intervals, item.fps, item.times) for item in found]
    if len(found) == 1:
        return tables[0]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for number, (item, table) in enumerate(zip(found, tables, strict=True)):
        header, *rows = csv.reader(io.StringIO(table))
        if number == 0:
            writer.writerow(["video", *header])
        writer.writerows([item.video, *row] for row in rows)
    return file.getvalue()


def as_data(item: Spotted) -> dict[str, Any]:
    """What was spotted as JSON data.

    Args:
        item (`Spotted`): One video.
    """
    return {
        "intervals": interval_rows(item.intervals, item.fps, item.times),
        "not_measurable": stretch_rows(item.stretches, item.fps),
    }


def _json(found: Sequence[Spotted]) -> str:
    data = [{"video": item.video, **as_data(item)} for item in found]
    content = as_data(found[0]) if len(found) == 1 else data
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _megc(found: Sequence[Spotted]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_MEGC_COLUMNS)
    for item in found:
        name = Path(item.video).name
        name = name if os.path.isdir(item.video) else Path(name).stem
        for one in item.expressions:  # frames are numbered from 1 there
            writer.writerow([name, one.onset + 1, one.offset + 1, "mae" if one.macro else "me"])
    return file.getvalue()


def _elan() -> Any:
    try:
        from pympi import Elan
    except ImportError as error:
        raise ImportError("ELAN's .eaf files need `pip install 'deft-llm[eaf]'` (pympi-ling).") from error
    return Elan


def _eaf(item: Spotted, out: Path) -> Any:
    """An ELAN file: one tier per kind of interval, one for the apexes, and one for what cannot be measured."""
    file = _elan().Eaf(author="deft-llm")
    file.adocument["DATE"] = "1970-01-01T00:00:00+00:00"  # the same video gives the same bytes
    file.remove_tier("default")
    if "://" not in item.video and os.path.isfile(item.video):
        relative = os.path.relpath(item.video, out.absolute().parent).replace(os.sep, "/")
        kind = f"video/{Path(item.video).suffix.lower().removeprefix('.') or 'mp4'}"
        file.add_linked_file(Path(item.video).absolute().as_uri(), f"./{relative}", kind)
    for tier in (EXPRESSION_TIER, APEX_TIER, "blink", "speech", STRETCH_TIER):
        file.add_tier(tier)
    for one in item.intervals:
        regions = ", ".join(f"{side} {region}" for region, side in one.regions)
        length = {"expression": "macro: " if one.macro else "micro: "}.get(one.kind, "")
        told = f"{length}{regions} (score {one.score:.1f})"
        tier = EXPRESSION_TIER if one.kind == "expression" else one.kind
        file.add_annotation(tier, *item.milliseconds(one.onset, one.offset), told)
        if one.kind == "expression":
            file.add_annotation(APEX_TIER, *item.milliseconds(one.apex, one.apex), f"frame {one.apex}")
    for one in item.stretches:
        file.add_annotation(STRETCH_TIER, *item.milliseconds(one.start, one.stop - 1), one.reason)
    return file


# --- Scoring --------------------------------------------------------------------------------------------------------


def read_annotations(path: Path, tier: str | None = None) -> list[tuple[int, int, str]]:
    """The annotations of a tier of an ELAN file, (begin, end, value) in milliseconds.

    Args:
        path (`Path`): The file.
        tier (`str`, *optional*): The tier; by default the only one that has annotations, or "expression".

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: pympi-ling is not installed.
        ValueError: It is not an ELAN file, or it is not clear which tier is meant.
    """
    elan = _elan()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        file = elan.Eaf(str(path), suppress_version_warning=True)
    # pympi raises bare exceptions for what it cannot parse, and stumbles over XML of another kind.
    except Exception as error:
        raise ValueError(f"{path}: not an ELAN file ({error}).") from error
    filled = [name for name in file.get_tier_names() if file.tiers[name][0] or file.tiers[name][1]]
    if tier is None:
        tier = EXPRESSION_TIER if EXPRESSION_TIER in filled else filled[0] if len(filled) == 1 else None
        if tier is None:
            raise ValueError(f"{path}: {len(filled)} tiers have annotations. {_TIERS_ASKED_FOR}{', '.join(filled)}.")
    if tier not in file.get_tier_names():
        raise ValueError(f"{path}: no tier {tier!r}. {_TIERS_ASKED_FOR}{', '.join(file.get_tier_names())}.")
    return sorted((start, end, value) for start, end, value, *_ in file.get_annotation_data_for_tier(tier))


def scored(item: Spotted, annotations: Sequence[tuple[float, float, str]]) -> dict[str, float | int]:
    """How well the proposed expressions agree with annotated ones, by the metric of `deft evaluate`.

    Args:
        item (`Spotted`): The video.
        annotations (`Sequence[tuple[float, float, str]]`): Begin, end and value in milliseconds.

    Returns:
        `dict`: `f1` at an intersection over union of 0.5, `true_positives`, `false_positives`, `false_negatives`.
    """
    from deft_llm.evaluation.metrics import Interval as Labelled
    from deft_llm.evaluation.metrics import strs

    label = "expression"
    true = [Labelled(*item.frames(start, end), label) for start, end, _ in annotations]
    proposed = [Labelled(one.onset, one.offset, label) for one in item.expressions]
    found = strs({item.video: true}, {item.video: proposed}, [label])
    names = ("true_positives", "false_positives", "false_negatives")
    return {"f1": found["f1_spot"], **{name: found[name] for name in names}}


def score_text(score: dict[str, float | int]) -> str:
    """The score in one sentence.

    Args:
        score (`dict`): From `scored`.
    """
    true, false = score["true_positives"], score["false_positives"]
    annotated = true + score["false_negatives"]
    return (
        f"F1 {score['f1']:.2f} at IoU 0.5: {true} of {annotated} annotated expressions are found (TP {true}, FN "
        f"{score['false_negatives']}), and {false} of {true + false} proposals are not annotated (FP {false})."
    )
