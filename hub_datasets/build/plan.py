"""Plan a build: assign the clips to shards, and write the plan before any clip is measured."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from deft_llm.files import write_whole
from deft_llm.processing.face_alignment import make_face_source
from deft_llm.processing.whole_clip_flow import LEAD_IN

from ..sources.action_unit_grammar import parse_action_units
from ..sources.readers import check_subjects, read_source, refuse_output_in_root
from ..sources.records import READER_VERSION, ClipRecord, ReadReport
from ..unimer.splits import check_disjoint, subject_folds
from .settings import BuildError, BuildSettings, NothingBuiltError


def make_plan(
    work: Path,
    out: Path,
    sources: Mapping[str, str | os.PathLike],
    accepted: Sequence[str],
    sheets: Mapping[str, str | os.PathLike],
    emotion_words: Mapping[str, str],
    settings: BuildSettings,
    console: Console,
    *,
    encodings: Mapping[str, str] | None = None,
    follow_links: bool = False,
) -> list[int]:
    """Reads the sources and writes the plan of the build. If there is a plan already, checks that it is the same.

    Args:
        work: Work folder of the build.
        out: Dataset folder to write.
        sources: Source names → root folders.
        accepted: Names of the sources whose licence the user accepts.
        sheets: Source names → coding sheets, if the sheet cannot be found by its name.
        emotion_words: Further emotion words → the known words with the same meaning.
        settings: Settings of the build.
        console: Shows what was read.
        encodings: Source names → encodings of text sheets that are neither UTF-8 nor UTF-16.
        follow_links: Whether symbolic links in the root folders may lead out of them.

    Returns:
        Number of clips of each shard.

    Raises:
        NothingBuiltError: The sources contain no clip.
        BuildError: The work folder contains a different build, or the settings do not fit the clips.
    """
    records: list[ClipRecord] = []
    reports: dict[str, ReadReport] = {}
    for name in sorted(sources):
        with console.status(f"Reading {name}"):
            found, reports[name] = read_source(
                name,
                sources[name],
                sheet=sheets.get(name),
                margin=LEAD_IN,
                emotion_words=emotion_words,
                encoding=(encodings or {}).get(name),
                follow_links=follow_links,
            )
        console.print(str(reports[name]), highlight=False, soft_wrap=True, markup=False)
        records += found
        refuse_output_in_root(out, reports[name].links.values())
    check_subjects(records)
    drops = [asdict(drop) for report in reports.values() for drop in report.drops]
    if not records:
        shutil.rmtree(work)
        raise NothingBuiltError(f"No clip to build: {reasons_of(drops)}.", drops)
    _try_face_sources({settings.face_source_for(name) for name in sources})
    splits = _split(records, settings)
    check_disjoint(splits)

    shards = []
    for split, members in splits.items():
        for start in range(0, len(members), settings.shard_size):
            shards.append((split, members[start : start + settings.shard_size]))
    # Absolute, because jobs may start in another folder. These paths are not copied into the dataset.
    roots = {name: str(Path(root).resolve()) for name, root in sources.items()}
    lines = [
        "".join(json.dumps(_to_json(record, split), sort_keys=True) + "\n" for record in part)
        for split, part in shards
    ]
    job = {
        "arguments": {
            "sources": roots,
            "sheets": {name: str(Path(path).resolve()) for name, path in sheets.items()},
            "emotion words": dict(emotion_words),
            "sheet encodings": dict(encodings or {}),
            "follow links": follow_links,
            "accepted licences": sorted(set(accepted) & set(sources)),
            **{name.replace("_", " "): value for name, value in asdict(settings).items()},
        },
        "versions": {"deft-llm": _package_version(), "readers": READER_VERSION},
        "sheet digests": {name: report.sheets for name, report in reports.items()},
        "clips": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "shards": [len(part) for _, part in shards],
        "out": str(out.resolve()),
        "settings": asdict(settings),
        "reports": {name: report.to_dict() for name, report in reports.items()},
        "labels": _label_mapping(records),
    }
    job = json.loads(json.dumps(job))
    path = work / "job.json"
    if path.exists():
        _same_job(json.loads(path.read_text(encoding="utf-8")), job, work)
        return job["shards"]
    for folder in ("plan", "shards"):
        (work / folder).mkdir(exist_ok=True)
    for number, text in enumerate(lines):
        write_whole(work / "plan" / f"{number:05d}.jsonl", text)
    write_whole(path, json.dumps(job, indent=1))
    return job["shards"]


def _try_face_sources(names: Iterable[str]) -> None:
    """Raises an error now if a face source's model is missing, instead of dropping every clip later."""
    for name in sorted(names):
        finder = make_face_source(name)
        if finder is None:
            continue
        try:
            finder(np.zeros((64, 64, 3), np.uint8))
        except ImportError as error:
            raise BuildError(str(error)) from None


def reasons_of(drops: Sequence[Mapping[str, Any]]) -> str:
    """The three most frequent reasons with their counts."""
    reasons = Counter(drop["reason"] for drop in drops).most_common(3)
    return "; ".join(f"{reason} ({count} ×)" for reason, count in reasons) or "the sources contain no micro-expression"


def _same_job(before: Mapping[str, Any], now: Mapping[str, Any], work: Path) -> None:
    old, new = before["arguments"], now["arguments"]
    changed = [name for name in new if old.get(name) != new[name]]
    changed += [name for name in ("versions", "sheet digests", "clips") if before[name] != now[name]]
    if changed:
        raise BuildError(
            f"{work} contains an interrupted build that differs in: {', '.join(changed)}. Repeat the command that "
            "started it, or remove that folder to start again."
        )


def _split(records: Sequence[ClipRecord], settings: BuildSettings) -> dict[str, list[ClipRecord]]:
    if settings.split == "none":
        return {"train": list(records)}
    if settings.split == "holdout":
        try:
            test = set(subject_folds(records, round(1 / settings.test_share), settings.seed)[0].test)
        except ValueError as error:
            raise BuildError(f"No subjects can be held out: {error}") from None
        splits: dict[str, list[ClipRecord]] = {"train": [], "test": []}
        for record in records:
            splits["test" if record.clip_id in test else "train"].append(record)
        return splits
    names = {record.partition or "train" for record in records}
    strange = sorted(name for name in names if not name.isidentifier())
    if strange:
        raise BuildError(f"The partition {strange[0]!r} must be named with letters, digits and underscores.")
    first = sorted(names - {"train"})
    splits = {name: [] for name in ("train", *first)}
    for record in records:
        splits[record.partition or "train"].append(record)
    return {name: part for name, part in splits.items() if part}


def _label_mapping(records: Iterable[ClipRecord]) -> dict[str, dict[str, dict[str, Any]]]:
    """Source → emotion word → its classes, its coarse class and its number of clips."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        words = table.setdefault(record.source, {})
        entry = words.setdefault(
            record.emotion or "", {"emotions": list(record.emotions), "coarse": record.emotion_coarse, "clips": 0}
        )
        entry["clips"] += 1
    return {source: dict(sorted(words.items())) for source, words in sorted(table.items())}


def _to_json(record: ClipRecord, split: str) -> dict[str, Any]:
    values = {item.name: getattr(record, item.name) for item in fields(record) if item.name != "action_units"}
    values |= {name: None if values[name] is None else str(values[name]) for name in ("folder", "video")}
    return {**values, "coded": record.action_units is not None, "split": split}


def record_of(values: dict[str, Any]) -> ClipRecord:
    """Restores the record from a line of the plan."""
    coded = values.pop("coded")
    values.pop("split")
    for name in ("folder", "video"):
        values[name] = None if values[name] is None else Path(values[name])
    for name in ("files", "sheet_frames", "emotions", "quality"):
        values[name] = tuple(values[name])
    parsed = parse_action_units(values["action_units_raw"]) if coded else None
    return ClipRecord(**values, action_units=parsed)


def _package_version() -> str:
    from importlib.metadata import version

    return version("deft-llm")
