"""Uni-MER: the one row format of every source, and how rows become a dataset folder that `load_dataset` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array4D, Dataset, Features, List, Value, Video

from deft_llm.processing.motion_evidence import measure_motion
from deft_llm.processing.video_processing_deft import DeftVideoProcessor

from .constraints import judge_action_unit
from .instructions import accept_facts, conversations_of


def features(video_processor: DeftVideoProcessor) -> Features:
    """The schema. Only the shape of `flow` depends on the processor that measured it."""
    text, number = Value("string"), Value("float32")
    block = {"type": text, "text": text}
    return Features(
        {
            "clip_id": text,
            "source": text,
            "subject": text,
            "fps": number,
            "onset": Value("int32"),
            "apex": Value("int32"),
            "offset": Value("int32"),
            "video": Video(decode=False),
            "flow": Array4D(shape=video_processor.flow_shape, dtype="float16"),
            "action_units": List(
                {
                    "code": text,
                    "kind": text,
                    "side": text,
                    "intensity": text,
                    "certain": Value("bool"),
                    "alternatives": List(text),
                    "raw": text,
                    "region": text,
                    "agreement": number,
                    "verdict": text,
                }
            ),
            "motion": List(
                {
                    "region": text,
                    "side": text,
                    "magnitude": number,
                    "direction": text,
                    "concentration": number,
                    "significant": Value("bool"),
                }
            ),
            "emotion": text,
            "emotion_coarse": text,
            "objective_class": text,
            "conversations": List({"task": text, "messages": List({"role": text, "content": List(block)})}),
            "quality": List(text),
            "provenance": {"reader": text, "sheet": text, "sheet_sha256": text, "row": Value("int32")},
        }
    )


def make_row(
    *,
    clip_id: str,
    source: str,
    subject: str,
    video: bytes,
    fps: float,
    key_frames: tuple[int, int, int] | None,
    units: Iterable[tuple[str, str, str | None]],
    emotion: str | None,
    emotion_coarse: str | None,
    convention: str,
    quality: Sequence[str],
    provenance: Mapping[str, Any],
    video_processor: DeftVideoProcessor,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Measures a labelled clip and writes down what its labels and its motion agree on.

    Args:
        key_frames: onset, apex, offset; None for a video that has yet to be searched, which gets neither flow nor
            conversations.
        units: (code, side, intensity) as labelled, such as ("AU4", "both", "C").
        emotion: the source's own word, or None for a clip without expression.
        convention: whose reading of action units the label follows; named in the questions.
    """
    measured, motions, judgements, conversations, intensities = None, [], [], [], {}
    if key_frames is not None:
        tensors = video_processor(video, key_frames=key_frames, do_crop_appearance=False)
        measured = tensors["flow_values_videos"][0].astype(np.float16)
        # What is judged is what is stored: anybody can repeat the judgement from the row.
        motions = measure_motion(measured)
        labelled = list(units)
        intensities = {code: intensity for code, _, intensity in labelled}
        judgements = [judge_action_unit(code, side, motions) for code, side, _ in labelled]
        accepted = accept_facts(
            judgements, motions, emotion=emotion, emotion_coarse=emotion_coarse, convention=convention
        )
        conversations = conversations_of(accepted, rng)
    onset, apex, offset = key_frames or (None, None, None)
    return {
        "clip_id": clip_id,
        "source": source,
        "subject": subject,
        "fps": fps,
        "onset": onset,
        "apex": apex,
        "offset": offset,
        "video": {"bytes": video, "path": None},
        "flow": measured,
        "action_units": [
            {
                "code": item.code,
                "kind": item.code.rstrip("0123456789"),
                "side": item.side,
                "intensity": intensities[item.code],
                "certain": True,
                "alternatives": [],
                "raw": item.code,
                "region": item.region,
                "agreement": item.agreement,
                "verdict": item.verdict,
            }
            for item in judgements
        ],
        "motion": [asdict(item) for item in motions],
        "emotion": emotion,
        "emotion_coarse": emotion_coarse,
        "objective_class": None,
        "conversations": conversations,
        "quality": list(quality),
        "provenance": dict(provenance),
    }


def row_tensors(row: Mapping[str, Any], video_processor: DeftVideoProcessor) -> dict[str, np.ndarray]:
    """A row's `pixel_values_videos` and `flow_values_videos`, without the clips axis.

    The stored flow is used where the processor would give the same shape; a row without video has flow only.

    Raises:
        ValueError: a features-only row whose flow has another shape than the model's.
    """
    flow = None if row["flow"] is None else np.asarray(row["flow"], np.float32)
    if flow is not None and flow.shape != video_processor.flow_shape:
        flow = None
    if row["video"] is None:
        if flow is None:
            raise ValueError(
                f"Clip {row['clip_id']} has no video, and its flow is not {video_processor.flow_shape} as the model "
                "needs. Build the dataset with the model's flow_size and num_frames."
            )
        return {"flow_values_videos": flow}
    key_frames = (row["onset"], row["apex"], row["offset"])
    tensors = video_processor(row["video"], key_frames=key_frames, do_estimate_flow=flow is None)
    values = {name: tensor[0] for name, tensor in tensors.items()}
    return {"flow_values_videos": flow, **values}


def write_dataset(tables: Mapping[str, tuple[Features, Mapping[str, list[dict]]]], card: str, out: Path) -> None:
    """Writes Parquet, one file a table and split, and the data card.

    The folder appears under its name only when it is whole; what a failure leaves behind is removed.

    Args:
        tables: sub-folder name to (schema, rows of each split).

    Raises:
        FileExistsError: `out` exists and is not an empty folder. OSError: the disk is full or not writable.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, (schema, splits) in tables.items():
            (partial / name).mkdir(parents=True)
            for split, rows in splits.items():
                path = partial / name / f"{split}-00000-of-00001.parquet"
                Dataset.from_list(rows, features=schema).to_parquet(path)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raises `FileExistsError` unless `out` is free to be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose another --out or remove it first.")
