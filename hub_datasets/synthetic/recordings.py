"""A dataset like the rendered one, with the expressions planted into real recordings of anybody.

A laboratory finds its own camera's limits with it, and trains on its own neutral recordings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from deft_llm.processing.aligned_clip import AlignedClip
from deft_llm.processing.common_deft import NUM_FRAMES
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION
from deft_llm.processing.face_alignment import FaceAlignmentError, make_face_source
from deft_llm.processing.key_frames import sample_indices
from deft_llm.processing.video_processing_deft import DeftVideoProcessor
from deft_llm.processing.video_reading import VIDEO_SUFFIXES, ClipReader, VideoReadError, open_clip
from deft_llm.processing.whole_clip_flow import LEAD_IN

from ..sources.sharing_policy import SYNTHETIC
from ..unimer.rows import UnitLabel, features, make_row, write_dataset
from .clips import Expression, encode_frames
from .dataset import (
    PRESETS,
    Preset,
    check_request,
    data_card,
    draw_expression,
    in_processes,
    split_rows,
    summary,
    truth_features,
)
from .label_errors import Labels, corrupt_labels
from .planting import PlantedClip, PlantingError, plant

SOURCE = "planted"
"""The source of rows whose expressions are planted into recordings."""
# Seconds from onset to apex and from apex to offset: micro-expressions that a camera of 25 frames a second can see.
_RISE, _FALL = (0.10, 0.25), (0.10, 0.25)
_TRIES = 4  # windows of a recording that are tried for one clip, when the face is lost in them
_CROP_SIDES = (64, 512)  # pixels, least and most of a stored crop; in between it keeps the recording's resolution
_CRF = 6  # of the stored clips: near-lossless, because the recording's own codec has left its marks already


@dataclass(frozen=True)
class RecordingRows:
    """What one recording gave: its rows, their truths, and why it gave none where it did not."""

    rows: list[dict]
    truths: list[dict]
    skipped: str | None = None


def build_planted(
    *,
    recordings: Path,
    out: Path,
    clips: int,
    face_source: str = "yunet",
    preset: str = "easy",
    conventions: tuple[str, ...] = (SYNTHETIC,),
    clips_per_recording: int = 18,
    test_share: float = 0.2,
    corrupt: float = 0.0,
    num_frames: int = NUM_FRAMES,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Plants expressions into recordings and writes a dataset folder as the rendered ones are.

    The clips are spread evenly over the recordings. One recording is one subject, and the splits share none.

    Args:
        recordings (`Path`): Folder with video files.
        out (`Path`): Folder to write.
        clips (`int`): Number of rows in both splits together, at most.
        face_source (`str`, *optional*, defaults to `"yunet"`): What finds the face, see `make_face_source`.
        preset (`str`, *optional*, defaults to `"easy"`): A key of `PRESETS` with one expression per clip; its
            intensities are used.
        conventions (`tuple[str, ...]`, *optional*, defaults to `('synthetic',)`): Keys of `CONVENTIONS`.
        clips_per_recording (`int`, *optional*, defaults to `18`): Most clips of one recording.
        test_share (`float`, *optional*, defaults to `0.2`): Share of the recordings in the test split.
        corrupt (`float`, *optional*, defaults to `0.0`): Share of the clips whose labels get one deliberate error.
        num_frames (`int`, *optional*, defaults to `8`): Number of frames the model samples, for the `flow` column.
        seed (`int`, *optional*, defaults to `0`): Random seed.
        workers (`int`, *optional*, defaults to `2`): Number of processes.

    Raises:
        FileNotFoundError: the folder does not exist or contains no video.
        FileExistsError: `out` exists and is not an empty folder.
        ValueError: a setting is wrong, or there is no face in any of the recordings.
    """
    check_request(
        out,
        preset=preset,
        conventions=conventions,
        counts={"clips": clips, "clips-per-face": clips_per_recording, "workers": workers},
        shares={"test-share": test_share, "corrupt": corrupt},
    )
    if PRESETS[preset].entangled or PRESETS[preset].expressions != (1, 1):
        raise ValueError(f"--recordings plants one expression per clip; --preset {preset} is for rendered faces only.")
    make_face_source(face_source)
    videos = _videos(recordings)
    order = np.random.default_rng([seed, len(videos)]).permutation(len(videos))
    videos = [videos[index] for index in order]
    job = partial(
        recording_rows,
        face_source=face_source,
        preset=PRESETS[preset],
        conventions=conventions,
        clips=min(clips_per_recording, math.ceil(clips / len(videos))),
        corrupt=corrupt,
        num_frames=num_frames,
        seed=seed,
    )
    results = in_processes(job, videos, workers, "Planting expressions")
    console = Console()
    for result in results:
        if result.skipped is not None:
            console.print(f"Skipped {result.skipped}", highlight=False, soft_wrap=True)
    kept = [(result.rows, result.truths) for result in results if result.rows]
    if not kept:
        raise ValueError(
            f"{recordings}: no face could be placed and followed in any of its {len(videos)} videos. The first one: "
            f"{results[0].skipped}"
        )
    kept = _at_most(kept, clips)
    rows, truths = split_rows(kept, len(kept) - min(round(test_share * len(kept)), len(kept) - 1))
    processor = DeftVideoProcessor(num_frames=num_frames)
    card = data_card(
        rows,
        title="Micro-expressions planted into recordings, in the Uni-MER schema",
        about="Recordings of real people, into whose faces known motion of action units was warped. They are as "
        f"personal as the recordings are: ask their owner before you share them. Preset {preset}, seed {seed}. The "
        "splits share no recording. `provenance.sheet` names the recording.",
        people="recordings",
        conventions=conventions,
        corrupt=corrupt,
        licence=None,
    )
    write_dataset({"data": (features(processor), rows), "truth": (truth_features(processor), truths)}, card, out)
    console.print(summary(rows, f"planted, {preset}"))
    console.print(f"Written to {out}", highlight=False, soft_wrap=True)


def _videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of recordings.")
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{folder}: it contains no video ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return found


def _at_most(results: list[tuple[list[dict], list[dict]]], clips: int) -> list[tuple[list[dict], list[dict]]]:
    """The results with the last clips of the last recordings left out where there are too many."""
    kept = []
    for rows, truths in results:
        room = clips - sum(len(part[0]) for part in kept)
        if room > 0:
            kept.append((rows[:room], truths[:room]))
    return kept


def recording_rows(
    path: Path,
    *,
    face_source: str,
    preset: Preset,
    conventions: tuple[str, ...],
    clips: int,
    corrupt: float,
    num_frames: int,
    seed: int,
) -> RecordingRows:
    """The rows and truths of one recording, whatever other recordings there are.

    Args:
        path (`Path`): The video file.
        face_source (`str`): What finds the face, see `make_face_source`.
        preset (`Preset`): Intensities of the planted units.
        conventions (`tuple[str, ...]`): Keys of `CONVENTIONS`.
        clips (`int`): Number of clips.
        corrupt (`float`): Share of the clips whose labels get one deliberate error.
        num_frames (`int`): Number of frames the model samples.
        seed (`int`): Random seed.
    """
    cv2.setNumThreads(1)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    finder, processor = make_face_source(face_source), DeftVideoProcessor(num_frames=num_frames)
    rows, truths, reason = [], [], None
    try:
        reader = open_clip(path)
        if not reader.metadata.fps:
            return RecordingRows([], [], f"{path.name}: it states no frame rate.")
        for index in range(clips):
            rng = np.random.default_rng([seed, int(content[:8], 16), index])
            convention = str(rng.choice(conventions))
            emotion, units = draw_expression(preset, convention, rng)
            try:
                planted = _planted(reader, finder, units, rng)
            except (FaceAlignmentError, PlantingError) as error:
                reason = str(error).replace(str(path), path.name)
                continue
            row, truth = _row(planted, path, emotion, convention, corrupt, processor, rng)
            place = {"clip_id": f"{SOURCE}-{seed}/{path.name}/{index:03d}"}
            provenance = {"reader": "planted 1", "sheet": path.name, "sheet_sha256": content, "row": index}
            rows.append({**row, **place, "provenance": provenance})
            truths.append({**truth, **place})
    except (VideoReadError, FaceAlignmentError) as error:
        return RecordingRows([], [], str(error).replace(str(path), path.name))
    return RecordingRows(rows, truths, None if rows else reason)


def _planted(
    reader: ClipReader, finder: Callable[[np.ndarray], np.ndarray] | None, units: list, rng: np.random.Generator
) -> PlantedClip:
    """An expression planted into a random window of a recording in which the face can be followed."""
    fps = reader.metadata.fps
    rise, fall = (max(2, round(rng.uniform(*seconds) * fps)) for seconds in (_RISE, _FALL))
    lead = min(LEAD_IN, max(1, round(0.1 * fps)))
    count = lead + rise + fall + 1
    if len(reader) < count:
        raise PlantingError(f"{reader.name}: {len(reader)} frames are too few for an expression; it takes {count}.")
    failure: Exception | None = None
    for _ in range(_TRIES):
        start = int(rng.integers(len(reader) - count + 1))
        window = reader.window(start, start + count).in_memory()
        try:
            clip = AlignedClip.open(window, face_source=finder, onset=lead)
            return plant(clip, Expression(tuple(units), lead, lead + rise, lead + rise + fall), rng)
        except (FaceAlignmentError, PlantingError) as error:
            failure = error
    raise failure


def _row(
    planted: PlantedClip,
    path: Path,
    emotion: str | None,
    convention: str,
    corrupt: float,
    processor: DeftVideoProcessor,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row and the truth of one planted clip, all but what names it."""
    shown, clip = planted.expression, planted.clip
    side = int(np.clip(round(clip.face_width), *_CROP_SIDES))
    video = encode_frames(clip.crops(side), clip.fps, _CRF)
    units = [(unit.code, unit.side, unit.intensity) for unit in shown.units]
    labels, corruption = Labels(units, shown.onset, shown.apex, shown.offset, emotion), None
    if rng.random() < corrupt:
        labels, corruption = corrupt_labels(labels, rng)
    row = make_row(
        clip_id="",
        source=SOURCE,
        subject=f"{SOURCE}/{path.name}",
        video=video,
        check_apex=corrupt > 0,
        clip=np.stack(list(open_clip(video).scan())),
        fps=clip.fps,
        key_frames=(labels.onset, labels.apex, labels.offset),
        units=[UnitLabel(*unit) for unit in labels.units],
        emotion=labels.emotion,
        emotion_coarse=COARSE_EMOTION.get(labels.emotion),
        convention=convention,
        quality=["planted", *([f"corrupted:{corruption}"] if corruption else [])],
        provenance={},
        video_processor=processor,
        rng=rng,
    )
    indices = sample_indices(clip.key_frames, processor.num_frames)
    truth = {
        "face": None,
        "convention": convention,
        "emotion": emotion,
        "corruption": corruption,
        "parameters": json.dumps({**planted.truth(), "recording": path.name, "emotions": [emotion]}),
        "true_flow": planted.flow(processor.flow_size, indices[1:]),
    }
    return row, truth
