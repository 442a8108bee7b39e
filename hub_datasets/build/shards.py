"""Build shards of clips, or take them from the cache.

A shard has a Parquet file and a JSON file (its account). Each is written under another name and then renamed, the JSON
file last. A shard with a JSON file is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from threadpoolctl import threadpool_limits

from deft_llm.files import code_fingerprint, whole_file, write_whole
from deft_llm.processing.face_alignment import FaceAlignmentError, make_face_source
from deft_llm.processing.key_frames import KeyFrameError
from deft_llm.processing.video_reading import VideoReadError

from ..sources.records import READER_VERSION
from ..unimer.instructions import AmbiguousWordError
from ..unimer.rewriting import RewriteReport, make_chat, rewrite_all
from ..unimer.rows import NOT_MEASURABLE, features
from .plan import record_of
from .record_rows import record_row
from .settings import BuildSettings


def build_shard(work: Path, number: int) -> int:
    """Builds a shard unless it is finished. The result is the same on every machine and for every call.

    Args:
        work: Work folder of the build.
        number: Number of the shard.

    Returns:
        Number of clips of the shard, including dropped ones.
    """
    lines = (work / "plan" / f"{number:05d}.jsonl").read_text(encoding="utf-8").splitlines()
    shard = work / "shards" / f"{number:05d}.parquet"
    if is_finished(work, number):
        return len(lines)
    kept = _place_in_cache(work, lines)
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    settings = BuildSettings(**job["settings"])
    # One thread: the number of threads changes the last bits of sums, and OpenBLAS's idle threads keep cores busy that
    # other workers need.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threadpool_limits(1)
    disable_progress_bars()
    # Imported here because it takes seconds and a build from the cache does not need it.
    from deft_llm.processing import DeftVideoProcessor

    processor = DeftVideoProcessor(num_frames=settings.num_frames)
    face_sources: dict[str, Any] = {}
    chat = make_chat(settings.rewriter, settings.rewriter_model) if settings.rewriter else None
    rewriting = RewriteReport()
    rows, drops, signatures, split = [], [], {}, "train"
    for line in lines:
        values = json.loads(line)
        split = values["split"]
        record = record_of(values)
        name = settings.face_source_for(record.source)
        if name not in face_sources:
            face_sources[name] = make_face_source(name)
        try:
            row, signature = record_row(record, settings, processor, face_sources[name])
        except (VideoReadError, FileNotFoundError, FaceAlignmentError, KeyFrameError, AmbiguousWordError) as error:
            reason = str(error).replace(job["arguments"]["sources"][record.source] + os.sep, "")
            reason = reason.removeprefix(f"{record.clip_id}: ")
            drops.append({"clip_id": record.clip_id, "sheet": record.sheet, "row": record.row, "reason": reason})
            continue
        if chat is not None:
            words = [row["emotion"], row["emotion_coarse"]]
            row["conversations"], _ = rewrite_all(row["conversations"], chat, emotions=words, report=rewriting)
        rows.append(row)
        signatures[record.clip_id] = [record.subject, np.packbits(signature).tobytes().hex()]
    size = None
    if rows:
        with whole_file(shard) as partial:
            Dataset.from_list(rows, features=features(processor)).to_parquet(partial)
        size = shard.stat().st_size
    write_whole(
        shard.with_suffix(".json"),
        json.dumps(
            {
                "split": split,
                "rows": len(rows),
                "bytes": size,
                "drops": drops,
                "signatures": signatures,
                "rewriting": rewriting.outcomes,
                **_counts(rows),
            },
            indent=1,
        ),
    )
    if kept is not None:
        _copy_shard(shard, kept)
    return len(lines)


def _place_in_cache(work: Path, lines: Sequence[str]) -> Path | None:
    """The place of a shard of these clips in the cache; `None` without a cache."""
    folder = os.fsdecode((work / "cache").read_bytes())
    if not folder:
        return None
    settings = json.loads((work / "job.json").read_text(encoding="utf-8"))["settings"]
    return Path(folder) / f"{_shard_key(lines, settings)}.parquet"


def is_finished(work: Path, number: int) -> bool:
    """Whether a shard is finished. A shard that the cache has is copied from there and then is finished."""
    shard = work / "shards" / f"{number:05d}.parquet"
    if shard.with_suffix(".json").exists():
        return True
    kept = _place_in_cache(work, (work / "plan" / f"{number:05d}.jsonl").read_text(encoding="utf-8").splitlines())
    return kept is not None and _taken(kept, shard)


def _shard_key(lines: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Hash of everything that a shard depends on: its records, the size and time of their files, settings and code."""
    digest = hashlib.sha256(json.dumps([READER_VERSION, settings, _row_code()], sort_keys=True).encode())
    for line in lines:
        digest.update(line.encode())
        values = json.loads(line)
        paths = [values["video"]] if values["folder"] is None else [f"{values['folder']}/{n}" for n in values["files"]]
        for path in paths:
            try:
                found = os.stat(path)
            except FileNotFoundError:
                digest.update(b"missing")
            else:
                digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
    return digest.hexdigest()


@cache
def _row_code() -> str:
    """Fingerprint of the code that reads, measures and writes a row."""
    return code_fingerprint("deft_llm.hub_datasets", "deft_llm.processing")


def _taken(kept: Path, shard: Path) -> bool:
    """Copies a shard from the cache. Returns `False` if the cache does not have it or its file is not complete."""
    account = kept.with_suffix(".json")
    if not account.exists():
        return False
    size = json.loads(account.read_text(encoding="utf-8"))["bytes"]
    if size is not None and (not kept.exists() or kept.stat().st_size != size):
        return False
    _copy_shard(kept, shard)
    return True


def _copy_shard(shard: Path, target: Path) -> None:
    """Copies the Parquet file, then the JSON file. A shard without rows has no Parquet file."""
    for suffix in (".parquet", ".json"):
        source, final = shard.with_suffix(suffix), target.with_suffix(suffix)
        if source.exists():
            with whole_file(final) as partial:
                shutil.copyfile(source, partial)


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "clips": Counter(row["source"] for row in rows),
        "subjects": {
            source: sorted({row["subject"] for row in rows if row["source"] == source})
            for source in sorted({row["source"] for row in rows})
        },
        "verdicts": Counter(f"{unit['code']} {unit['verdict']}" for row in rows for unit in row["action_units"]),
        "quality": Counter(flag.split(":")[0] for row in rows for flag in row["quality"]),
        "not_measurable": Counter(
            flag.partition(":")[2] for row in rows for flag in row["quality"] if flag.startswith(f"{NOT_MEASURABLE}:")
        ),
        "conversations": sum(len(row["conversations"]) for row in rows),
    }
