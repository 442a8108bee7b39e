"""Licensed folders to one Uni-MER dataset: records, shards of clips on any number of processes, one folder at the end.

    build({"casme2": "/data/CASME2"}, "build/uni-mer", accepted=["casme2"], workers=8)

Work goes on in OUT.building/, beside the output. Which clips a shard holds is settled before the first is measured; a
shard is written under another name and renamed, Parquet file first, its account second, and counts as finished with
the account. So a run that was killed goes on where it was, and what comes out depends neither on that nor on how many
processes there were. OUT appears when everything in it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import multiprocessing
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits
from transformers.video_utils import VideoMetadata

from deft_llm.processing.action_unit_grammar import ParsedCell, parse_action_units
from deft_llm.processing.face_alignment import FaceAlignmentError, face_transform, make_face_source, warp_to_crop
from deft_llm.processing.keyframes import LEAD_IN, KeyFrameError, KeyFrames
from deft_llm.processing.video_reading import ArrayClip, ClipReader, VideoReadError, open_clip

from .instructions import AmbiguousWordError, clip_generator
from .manifest import DATA, check_licences, make_card, make_manifest
from .readers import READER_VERSION, ClipRecord, ReadReport, check_subjects, read_source, refuse_output_in_root
from .rewriting import RewriteReport, check_rewriter, make_chat, rewrite_all
from .splits import check_disjoint, check_written, clip_signature, subject_folds
from .synthetic import encode_frames
from .uni_mer import UnitLabel, features, make_row, refuse_existing

if TYPE_CHECKING:
    from deft_llm.processing import DeftVideoProcessor

SPLITS = ("none", "fixed", "holdout")
EXECUTORS = ("local", "slurm", "ray")
_SIDES = {"L": "left", "R": "right"}  # top, bottom and asymmetric are no side of the face: both, and `raw` tells
_SIGNATURE_SIDE = 64  # pixels
_HELD = 128 * 2**20  # bytes of decoded frames that a worker holds, so that they are decoded once
_CROP_SIDES = (64, 512)  # pixels, least and most of a stored crop; in between it keeps the frames' own resolution


class BuildError(ValueError):
    """A build that cannot start or go on; the message says what to do."""


class BuildInterruptedError(RuntimeError):
    """A build that broke off; run again, it goes on. What a shard stumbled over is the cause."""


class NothingBuiltError(BuildError):
    """No row became a clip. `drops` says why, row by row."""

    def __init__(self, message: str, drops: list[dict[str, Any]]):
        super().__init__(message)
        self.drops = drops


@dataclass(frozen=True)
class BuildSettings:
    """What decides about the bytes that come out.

    Args:
        features_only: flow and labels, and not a pixel.
        num_frames: frames the model samples, for the flow column.
        split: "none" puts every clip into train (folds are made when evaluating); "fixed" keeps the sets that a
            source states, such as DFME's, and puts the rest into train; "holdout" keeps `test_share` of the subjects
            for testing.
        face_source: what finds the face, as `DeftVideoProcessor.face_source`; "cropped" where frames are face crops.
        face_source_of: the same for single sources.
        crf: x264's constant rate factor of the stored clips; 6 is near-lossless.
        shard_size: clips a Parquet file.
        rewriter, rewriter_model: a chat model that words the answers anew, as in `rewriting.make_chat`. What it says
            is its own affair: a rewritten build is the same bytes again only if the model is.
    """

    features_only: bool = False
    num_frames: int = 8
    split: str = "none"
    test_share: float = 0.2
    face_source: str = "yunet"
    face_source_of: Mapping[str, str] | None = None
    crf: int = 6
    shard_size: int = 50
    seed: int = 0
    rewriter: str | None = None
    rewriter_model: str | None = None

    def __post_init__(self):
        if self.rewriter_model and not self.rewriter:
            raise BuildError("`rewriter_model` is given without `rewriter`: an endpoint's address, or pipeline.")
        if self.rewriter:
            check_rewriter(self.rewriter, self.rewriter_model)
        for name, least in (("num_frames", 2), ("crf", 0), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise BuildError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.crf > 51:
            raise BuildError(f"`crf` must be at most 51, got {self.crf}.")
        if self.split not in SPLITS:
            raise BuildError(f"`split` must be one of {', '.join(SPLITS)}, not {self.split!r}.")
        if not 0 < self.test_share <= 0.5:
            raise BuildError(f"`test_share` must lie above 0 and not above 0.5, got {self.test_share}.")
        for name in (self.face_source, *(self.face_source_of or {}).values()):
            make_face_source(name)

    def face_source_for(self, source: str) -> str:
        return (self.face_source_of or {}).get(source, self.face_source)


def build(
    sources: Mapping[str, str | os.PathLike],
    out: str | os.PathLike,
    *,
    accepted: Sequence[str] = (),
    sheets: Mapping[str, str | os.PathLike] | None = None,
    emotion_words: Mapping[str, str] | None = None,
    settings: BuildSettings | None = None,
    workers: int = 1,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike | None = None,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Builds the dataset, or goes on with a build that was interrupted.

    Args:
        sources: names (see `readers.read_source`) to roots.
        accepted: the sources whose licence the user holds and accepts.
        sheets: coding sheets of sources in which none is found by name, or several are.
        emotion_words: further emotion words, each with the word it stands for.
        workers: processes on this machine; tasks at once on a cluster (0: no limit).
        executor: `None` for processes of this one, else one of datatrove's: "local", "slurm" or "ray".
        executor_options: further arguments of that executor, such as Slurm's time and partition.
        cache: folder in which finished shards are kept, and from which a later build takes those that hold the same
            clips, unchanged, by the same settings and code. It holds what the dataset holds: the licences apply.

    Returns:
        The manifest; `None` where the work was handed to Slurm and goes on there.

    Raises:
        LicenceError: licences not accepted.
        BuildError: another build at work or interrupted in the same place, settings that make no sense.
        BuildInterruptedError: a worker died or failed.
        NothingBuiltError: every row was dropped.
        FileExistsError: `out` exists. ValueError: it lies in a root. What `read_source` raises.
    """
    settings, console, out = settings or BuildSettings(), console or Console(), Path(os.path.abspath(out))
    refuse_output_in_root(out, sources.values())
    if cache is not None:
        cache = Path(os.path.abspath(cache))
        refuse_output_in_root(cache, sources.values())
        cache.mkdir(parents=True, exist_ok=True)
    check_licences(sources, accepted)
    for name, places in (("--sheet", sheets), ("--face-source", settings.face_source_of)):
        strange = sorted(set(places or ()) - set(sources))
        if strange:
            raise BuildError(f"{name} speaks of {', '.join(strange)}, which is no --source of this build.")
    rendered = sorted({"synthetic", "synthetic-b"} & set(sources))
    if rendered:
        raise BuildError(f"{rendered[0]} is the name of rendered clips; give your own recordings another one.")
    if executor is not None and executor not in EXECUTORS:
        raise BuildError(f"Unknown executor {executor!r}. Known: {', '.join(EXECUTORS)}.")
    if workers < 1 and not (executor == "slurm" and workers == 0):
        raise BuildError(f"At least one worker is needed, got {workers}.")
    options = dict(executor_options or {})
    executor_class = _executor_class(executor, options) if executor is not None else None
    work = out.with_name(out.name + ".building")
    with _locked(work):
        if (work / "finished").exists() and out.exists() and not (work / "final").exists():
            # Killed after the last rename: the work is done, what is left is to tidy up.
            return _clean_up(work, out)
        refuse_existing(out)
        shards = _plan(work, out, sources, accepted, sheets or {}, emotion_words or {}, settings, console)
        _write(work / "cache", b"" if cache is None else os.fsencode(cache))
        if executor is None:
            _run_processes(work, shards, workers, console)
        else:
            done = _run_datatrove(work, len(shards), executor, executor_class, workers, options)
            if not done:
                console.print(f"Submitted. The last job writes {out}; `squeue` shows how far it is.")
                return None
        return _finish(work, out)


# --- Plan -----------------------------------------------------------------------------------------------------------


def _plan(
    work: Path,
    out: Path,
    sources: Mapping[str, str | os.PathLike],
    accepted: Sequence[str],
    sheets: Mapping[str, str | os.PathLike],
    emotion_words: Mapping[str, str],
    settings: BuildSettings,
    console: Console,
) -> list[int]:
    """Reads the sources and writes down which clips each shard holds, or checks that this was the same last time.

    Returns:
        Clips of each shard.
    """
    records: list[ClipRecord] = []
    reports: dict[str, ReadReport] = {}
    for name in sorted(sources):
        with console.status(f"Reading {name}"):
            found, reports[name] = read_source(
                name, sources[name], sheet=sheets.get(name), margin=LEAD_IN, emotion_words=emotion_words
            )
        console.print(str(reports[name]), highlight=False, soft_wrap=True, markup=False)
        records += found
    check_subjects(records)
    drops = [asdict(drop) for report in reports.values() for drop in report.drops]
    if not records:
        shutil.rmtree(work)
        raise NothingBuiltError(f"No clip to build: {_why(drops)}.", drops)
    _try_face_sources({settings.face_source_for(name) for name in sources})
    splits = _split(records, settings)
    check_disjoint(splits)

    shards = []
    for split, members in splits.items():
        for start in range(0, len(members), settings.shard_size):
            shards.append((split, members[start : start + settings.shard_size]))
    # Absolute, because jobs may start elsewhere; these stay in the work folder, the dataset has none.
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
        _write(work / "plan" / f"{number:05d}.jsonl", text.encode())
    _write(path, json.dumps(job, indent=1).encode())
    return job["shards"]


def _try_face_sources(names: Iterable[str]) -> None:
    """A model that is missing is one error now, and not a drop a clip later."""
    for name in sorted(names):
        finder = make_face_source(name)
        if finder is None:
            continue
        try:
            finder(np.zeros((64, 64, 3), np.uint8))
        except ImportError as error:
            raise BuildError(str(error)) from None


def _why(drops: Sequence[Mapping[str, Any]]) -> str:
    reasons = Counter(drop["reason"] for drop in drops).most_common(3)
    return "; ".join(f"{reason} ({count} ×)" for reason, count in reasons) or "the sources hold no micro-expression"


def _same_job(before: Mapping[str, Any], now: Mapping[str, Any], work: Path) -> None:
    old, new = before["arguments"], now["arguments"]
    changed = [name for name in new if old.get(name) != new[name]]
    changed += [name for name in ("versions", "sheet digests", "clips") if before[name] != now[name]]
    if changed:
        raise BuildError(
            f"{work} holds an interrupted build that differs in: {', '.join(changed)}. Repeat the command that began "
            "it, or remove that folder to start anew."
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
        raise BuildError(f"A partition is named by letters, digits and underscores, not {strange[0]!r}.")
    first = sorted(names - {"train"})
    splits = {name: [] for name in ("train", *first)}
    for record in records:
        splits[record.partition or "train"].append(record)
    return {name: part for name, part in splits.items() if part}


def _label_mapping(records: Iterable[ClipRecord]) -> dict[str, dict[str, dict[str, Any]]]:
    """source -> its own word -> what it was taken for, and how many clips have it."""
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


def _from_json(values: dict[str, Any]) -> ClipRecord:
    coded = values.pop("coded")
    values.pop("split")
    for name in ("folder", "video"):
        values[name] = None if values[name] is None else Path(values[name])
    for name in ("files", "sheet_frames", "emotions", "quality"):
        values[name] = tuple(values[name])
    parsed = parse_action_units(values["action_units_raw"]) if coded else None
    return ClipRecord(**values, action_units=parsed)


# --- One clip -------------------------------------------------------------------------------------------------------


class ClipWindow(ClipReader):
    """Frames `start` to `stop - 1` of a clip as a clip of their own."""

    def __init__(self, clip: ClipReader, start: int, stop: int, name: str):
        self.name, self._clip, self._start = name, clip, start
        known = clip.metadata
        self.metadata = VideoMetadata(
            total_num_frames=stop - start, fps=known.fps, width=known.width, height=known.height,
            video_backend=known.video_backend,
        )  # fmt: skip

    def _views(self, wanted):
        numbers = range(len(self)) if wanted is None else wanted
        return self._clip.stream([self._start + number for number in numbers])


def held(clip: ClipReader) -> ClipReader:
    """The clip in memory, if it is no larger than `_HELD`: a row looks at its frames several times."""
    known = clip.metadata
    if len(clip) * known.height * known.width * 3 > _HELD:
        return clip
    return ArrayClip(np.stack(list(clip.scan())), clip.name, known.fps)


def unit_labels(cell: ParsedCell | None) -> list[UnitLabel]:
    """A sheet's action units as `make_row` takes them."""
    return [
        UnitLabel(
            code=unit.unit.code,
            side=_SIDES.get(unit.side or "", "both"),
            intensity=unit.intensity,
            certain=unit.certain,
            alternatives=tuple(dict.fromkeys(other.unit.code for other in unit.alternatives)),
            raw=unit.raw,
        )
        for unit in (cell.units if cell is not None else ())
    ]


def record_row(
    record: ClipRecord, settings: BuildSettings, processor: DeftVideoProcessor, face_source: Any
) -> tuple[dict[str, Any], np.ndarray]:
    """A record's row, and its `clip_signature`.

    The row's clip begins `LEAD_IN` frames before the onset, or as many as there are, and ends with the offset. An apex
    that the sheet lacks is the frame between onset and offset in which the face has moved most; where onset and offset
    are missing as well, all three are spotted. `quality` says so. Frames of a face crop are stored as they are; where
    a face source found the face, the aligned crop is. Motion is measured on the frames themselves.

    Raises:
        VideoReadError, FileNotFoundError, FaceAlignmentError, KeyFrameError, AmbiguousWordError: no row can be made.
    """
    opened = open_clip([str(path) for path in record.frames] if record.folder is not None else record.video)
    clip = ClipWindow(opened, 0, len(opened), record.clip_id)
    quality = list(record.quality)
    onset, apex, offset = record.onset, record.apex, record.offset
    if onset is None:
        clip = held(clip)
        spotted = processor.spot(clip, face_source=face_source)
        onset, apex, offset = spotted.onset, spotted.apex, spotted.offset
        quality.append("key_frames_spotted")
    elif apex is None:
        KeyFrames(onset, offset, offset).validate(len(clip))
        window = ClipWindow(clip, onset, offset + 1, clip.name)
        apex = onset + processor.spot(window, face_source=face_source).apex
        quality.append("apex_spotted")
    KeyFrames(onset, apex, offset).validate(len(clip))
    start = max(0, onset - LEAD_IN)
    clip = held(ClipWindow(clip, start, offset + 1, clip.name))
    keys = (onset - start, apex - start, offset - start)
    transform = face_transform(clip, keys[0], face_source)
    fps = record.fps or clip.metadata.fps
    video = None
    if not settings.features_only:
        shown: Iterator[np.ndarray] = clip.scan()
        if face_source is not None:
            scale = float(np.hypot(*transform[:, 0]))
            side = int(np.clip(round(1 / scale), *_CROP_SIDES))
            shown = (warp_to_crop(frame, transform, side) for frame in shown)
        # Key frames count frames; the rate is for players.
        video = encode_frames(shown, fps or 25.0, settings.crf)
    row = make_row(
        clip_id=record.clip_id,
        source=record.source,
        subject=record.subject,
        video=video,
        fps=fps,
        key_frames=keys,
        units=unit_labels(record.action_units),
        emotion=record.emotion,
        emotion_coarse=record.emotion_coarse,
        convention=record.convention,
        quality=quality,
        provenance=record.provenance,
        video_processor=processor,
        rng=clip_generator(record.clip_id, settings.seed),
        clip=clip,
        face_source=lambda frame: transform,  # found once
        objective_class=record.objective_class,
    )
    crops = [warp_to_crop(frame, transform, _SIGNATURE_SIDE) for frame in clip.stream(keys[:2])]
    return row, clip_signature(*crops)


# --- One shard ------------------------------------------------------------------------------------------------------


def build_shard(work: Path, number: int) -> int:
    """Builds a shard unless it is finished. Whoever calls it, where and how often: the same bytes come out.

    Returns:
        Its clips, dropped ones included.
    """
    lines = (work / "plan" / f"{number:05d}.jsonl").read_text(encoding="utf-8").splitlines()
    shard = work / "shards" / f"{number:05d}.parquet"
    if _is_finished(work, number):
        return len(lines)
    kept = _place_in_cache(work, lines)
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    settings = BuildSettings(**job["settings"])
    # How sums are split among threads changes their last bits; and OpenBLAS's second thread, once woken, keeps a core
    # busy that another worker needs.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threadpool_limits(1)
    disable_progress_bars()
    # Takes seconds to import, and a build from the cache needs none.
    from deft_llm.processing import DeftVideoProcessor

    processor = DeftVideoProcessor(num_frames=settings.num_frames)
    face_sources: dict[str, Any] = {}
    chat = make_chat(settings.rewriter, settings.rewriter_model) if settings.rewriter else None
    rewriting = RewriteReport()
    rows, drops, signatures, split = [], [], {}, "train"
    for line in lines:
        values = json.loads(line)
        split = values["split"]
        record = _from_json(values)
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
        partial_path = shard.with_name(f"{shard.name}.{os.getpid()}.tmp")
        Dataset.from_list(rows, features=features(processor)).to_parquet(partial_path)
        size = _settle(partial_path, shard)
    _write(
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
        ).encode(),
    )
    if kept is not None:
        _copy_shard(shard, kept)
    return len(lines)


def _place_in_cache(work: Path, lines: Sequence[str]) -> Path | None:
    """Where the cache keeps a shard of these clips, if there is one."""
    folder = os.fsdecode((work / "cache").read_bytes())
    if not folder:
        return None
    settings = json.loads((work / "job.json").read_text(encoding="utf-8"))["settings"]
    return Path(folder) / f"{_shard_key(lines, settings)}.parquet"


def _is_finished(work: Path, number: int) -> bool:
    """Whether a shard is finished, or the cache had it, which then stands in its place."""
    shard = work / "shards" / f"{number:05d}.parquet"
    if shard.with_suffix(".json").exists():
        return True
    kept = _place_in_cache(work, (work / "plan" / f"{number:05d}.jsonl").read_text(encoding="utf-8").splitlines())
    return kept is not None and _taken(kept, shard)


def _shard_key(lines: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Names what decides about a shard's bytes: its records, size and time of each of their files, settings, code."""
    digest = hashlib.sha256(json.dumps([READER_VERSION, settings, _code_digest()], sort_keys=True).encode())
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
def _code_digest() -> str:
    """Of the files that measure and write a row."""
    from deft_llm import processing

    folders = Path(__file__).parent, Path(processing.__file__).parent
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _taken(kept: Path, shard: Path) -> bool:
    """Whether the cache had the shard, whole, which then stands in its place."""
    account = kept.with_suffix(".json")
    if not account.exists():
        return False
    size = json.loads(account.read_text(encoding="utf-8"))["bytes"]
    if size is not None and (not kept.exists() or kept.stat().st_size != size):
        return False
    _copy_shard(kept, shard)
    return True


def _copy_shard(shard: Path, target: Path) -> None:
    """Parquet file first, account second, as a shard is always written; a shard without rows has no Parquet file."""
    for suffix in (".parquet", ".json"):
        source, final = shard.with_suffix(suffix), target.with_suffix(suffix)
        if source.exists():
            partial_path = final.with_name(f"{final.name}.{os.getpid()}.tmp")
            shutil.copyfile(source, partial_path)
            _settle(partial_path, final)


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "clips": Counter(row["source"] for row in rows),
        "subjects": {
            source: sorted({row["subject"] for row in rows if row["source"] == source})
            for source in sorted({row["source"] for row in rows})
        },
        "verdicts": Counter(f"{unit['code']} {unit['verdict']}" for row in rows for unit in row["action_units"]),
        "quality": Counter(flag.split(":")[0] for row in rows for flag in row["quality"]),
        "conversations": sum(len(row["conversations"]) for row in rows),
    }


# --- Executors ------------------------------------------------------------------------------------------------------


def _run_processes(work: Path, shards: Sequence[int], workers: int, console: Console) -> None:
    # Here and not in the workers, which take seconds to start.
    with console.status("Looking for finished shards"):
        todo = [number for number in range(len(shards)) if not _is_finished(work, number)]
    columns = (
        TextColumn("Measuring clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    # Spawned, not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(min(workers, max(1, len(todo))), context, _end_with_parent) as pool,
    ):
        task = progress.add_task("", total=sum(shards), completed=sum(shards) - sum(shards[n] for n in todo))
        futures = {pool.submit(build_shard, work, number): number for number in todo}
        try:
            for future in as_completed(futures):
                try:
                    progress.advance(task, future.result())
                except BrokenProcessPool as error:
                    raise BuildInterruptedError(
                        "A worker process was ended from outside, often for want of memory. Finished shards are kept: "
                        "run the same command again, with fewer --workers if memory was short."
                    ) from error
                except OSError:
                    raise
                except Exception as error:  # a mistake in the code, and none of the user's
                    raise BuildInterruptedError(f"Shard {futures[future]}: {error!r}.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def _end_with_parent() -> None:
    """Workers of a build that was killed do not live on."""
    parents = [module.parent_process() for module in _process_modules()]
    for parent in filter(None, parents):
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _process_modules() -> list[Any]:
    import multiprocess  # of datasets; datatrove's pools are made by it

    return [multiprocessing, multiprocess]


def _wait_and_end(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _executor_class(executor: str, options: Mapping[str, Any]) -> Any:
    """datatrove's class, imported when it is asked for."""
    needed = {"slurm": ("time", "partition")}.get(executor, ())
    missing = [f"--executor-option {name}=…" for name in needed if name not in options]
    if missing:
        raise BuildError(f"--executor {executor} needs {' and '.join(missing)}.")
    try:
        if executor == "ray":
            import ray  # noqa: F401
            from datatrove.executor.ray import RayPipelineExecutor as Executor
        elif executor == "slurm":
            from datatrove.executor import SlurmPipelineExecutor as Executor
        else:
            from datatrove.executor import LocalPipelineExecutor as Executor
    except ImportError as error:
        extra = " 'datatrove[ray]'" if executor == "ray" else ""
        raise BuildError(f"--executor {executor} needs `pip install 'deft-llm[scale]'{extra}` ({error}).") from None
    known = set(inspect.signature(Executor.__init__).parameters) | ({"address"} if executor == "ray" else set())
    strange = sorted(set(options) - known)
    if strange:
        raise BuildError(f"--executor-option {strange[0]}: {Executor.__name__} of datatrove has no such argument.")
    return Executor


def _run_datatrove(
    work: Path, shards: int, executor: str, executor_class: Any, workers: int, options: dict[str, Any]
) -> bool:
    """One task a shard. Returns whether all are done; Slurm's are only submitted, with the last step behind them."""
    # Which shards are finished says the work folder and not datatrove's markers.
    common = {"logging_dir": str(work / "logs" / executor), "skip_completed": False}
    if executor == "local":
        common["start_method"] = "spawn"
    elif executor == "slurm":
        common |= {"job_name": "uni-mer", "mail_type": "NONE"}
    else:
        import ray

        address = options.pop("address", None)
        if not ray.is_initialized():
            ray.init(address=address)
    common |= options
    first = executor_class(pipeline=[partial(_shard_task, str(work))], tasks=shards, workers=workers or -1, **common)
    if executor != "slurm":
        first.run()
        return True
    common |= {"logging_dir": str(work / "logs" / "finish"), "job_name": "uni-mer-finish"}
    executor_class(pipeline=[partial(_finish_task, str(work))], tasks=1, depends=first, **common).run()
    return False


def _shard_task(work: str, data: Any, rank: int = 0, world_size: int = 1) -> None:
    """A datatrove step: the shard whose number is the task's rank."""
    _end_with_parent()
    build_shard(Path(work), rank)


def _finish_task(work: str, data: Any, rank: int = 0, world_size: int = 1) -> None:
    """A datatrove step: the end of a build on a cluster."""
    job = json.loads((Path(work) / "job.json").read_text(encoding="utf-8"))
    with _locked(Path(work)):
        _finish(Path(work), Path(job["out"]))


# --- The end --------------------------------------------------------------------------------------------------------


def _finish(work: Path, out: Path) -> dict[str, Any]:
    """Shards to the dataset folder, made anew each time until the one rename that shows it."""
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    accounts = []
    for number in range(len(job["shards"])):
        path = work / "shards" / f"{number:05d}.json"
        if not path.exists():
            raise BuildError(f"Shard {number} is not finished; look into {work / 'logs'} and run the command again.")
        accounts.append({**json.loads(path.read_text(encoding="utf-8")), "number": number})
    manifest = make_manifest(job, accounts)
    if not manifest["rows"]:
        drops = manifest["drops"]
        shutil.rmtree(work)
        raise NothingBuiltError(f"No clip could be measured: {_why(drops)}.", drops)
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    (final / DATA).mkdir(parents=True)
    filled = [account for account in accounts if account["rows"]]
    totals, counters = Counter(account["split"] for account in filled), Counter()
    for account in filled:
        shard, split = work / "shards" / f"{account['number']:05d}.parquet", account["split"]
        if shard.stat().st_size != account["bytes"]:
            raise BuildError(f"{shard} was changed; remove it and {account['number']:05d}.json beside it to redo it.")
        target = final / DATA / f"{split}-{counters[split]:05d}-of-{totals[split]:05d}.parquet"
        counters[split] += 1
        try:
            os.link(shard, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(shard, target)
    check_written(final / DATA)
    _write(final / "manifest.json", (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    _write(final / "README.md", make_card(manifest).encode())
    _write(work / "finished", b"")
    if out.exists():
        out.rmdir()
    final.rename(out)
    return _clean_up(work, out)


def _clean_up(work: Path, out: Path) -> dict[str, Any]:
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for name in ("shards", "plan", "logs"):
        shutil.rmtree(work / name, ignore_errors=True)
    shutil.rmtree(work)
    return manifest


# --- Files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One build at a time. The lock is the kernel's, so it ends with the process however that ends."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "Another process"
            file.close()
            raise BuildError(
                f"{holder} is building into {work.name.removesuffix('.building')} already. Wait for it to end, or "
                "choose another --out."
            ) from None
        if os.path.exists(work / "lock") and os.path.samestat(os.fstat(file.fileno()), os.stat(work / "lock")):
            break
        file.close()  # its holder has tidied up in between: this is no longer the file of that name
    with file:
        file.truncate(0)
        file.write(f"Process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if work.is_dir() and not (work / "job.json").exists():
                shutil.rmtree(work)


def _write(path: Path, content: bytes) -> None:
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial_path.write_bytes(content)
    _settle(partial_path, path)


def _settle(partial_path: Path, path: Path) -> int:
    """Renames a file that is on the disk to its last byte; returns its size."""
    with partial_path.open("rb") as file:
        os.fsync(file.fileno())
    size = partial_path.stat().st_size
    partial_path.rename(path)
    return size


def _package_version() -> str:
    from importlib.metadata import version

    return version("deft-llm")
