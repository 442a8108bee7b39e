"""The Uni-MER row format, shared by all sources, and writing rows to a folder that `load_dataset` reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Array4D, Dataset, Features, List, Value, Video

from deft_llm.files import whole_folder
from deft_llm.processing.aligned_clip import NotMeasurableError
from deft_llm.processing.motion_evidence import RegionMotion, measure_motion

from .constraints import NOT_TESTABLE, SUPPORTED, Judgement, apex_in_doubt, judge_labels, unlabelled_motion
from .instructions import accept_facts, conversations_of

if TYPE_CHECKING:
    from deft_llm.processing import DeftVideoProcessor

NOT_MEASURABLE = "not_measurable"  # in `quality`, followed by a colon and the reason


def not_measurable(row: Mapping[str, Any]) -> str | None:
    """Why the motion of a row cannot be measured, or `None` if it can.

    Args:
        row (`Mapping[str, Any]`): A Uni-MER row; without the column `quality`, nothing is known against it.
    """
    marks = (flag.partition(":") for flag in row.get("quality") or ())
    return next((reason for name, _, reason in marks if name == NOT_MEASURABLE), None)


def region_motions(row: Mapping[str, Any]) -> list[RegionMotion]:
    """The motion of all regions of a row; empty if the clip could not be measured.

    Args:
        row (`Mapping[str, Any]`): A Uni-MER row.
    """
    return [RegionMotion(**item) for item in row["motion"]]


def features(video_processor: DeftVideoProcessor) -> Features:
    """The schema. Only the shape of `flow` depends on the processor."""
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
                    "probability": number,
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
                    "standard_error": number,
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


@dataclass(frozen=True)
class UnitLabel:
    """One action unit as labelled.

    Args:
        code (`str`): Action unit, such as "AU4".
        side (`str`, *optional*, defaults to `"both"`): Both, left or right.
        intensity (`str | None`, *optional*): A to E, or `None`.
        certain (`bool`, *optional*, defaults to `True`): `False` if the annotator was not sure about the unit. It
            still gets a verdict, but no text mentions it.
        alternatives (`tuple[str, ...]`, *optional*): Codes of other possible units.
        raw (`str | None`, *optional*): The characters of the sheet, or the code if there is no sheet.
    """

    code: str
    side: str = "both"
    intensity: str | None = None
    certain: bool = True
    alternatives: tuple[str, ...] = ()
    raw: str | None = None


def make_row(
    *,
    clip_id: str,
    source: str,
    subject: str,
    video: bytes | None,
    fps: float | None,
    key_frames: tuple[int, int, int] | None,
    units: Iterable[UnitLabel],
    emotion: str | None,
    emotion_coarse: str | None,
    convention: str,
    quality: Sequence[str],
    provenance: Mapping[str, Any],
    video_processor: DeftVideoProcessor,
    rng: np.random.Generator,
    clip: Any = None,
    objective_class: str | None = None,
    check_apex: bool = True,
) -> dict[str, Any]:
    """Measures a labelled clip and makes its row.

    The row of a clip that cannot be measured has zero flow, no motion and no conversations. Its labels are not tested.

    Args:
        clip_id (`str`): Source/subject/clip/onset.
        source (`str`): Name of the source.
        subject (`str`): Subject, unique across sources.
        video (`bytes | None`): Encoded video that the row stores; `None` for features only.
        fps (`float | None`): Frames per second, if known.
        key_frames (`tuple[int, int, int] | None`): Onset, apex and offset; `None` for a video that has yet to be
            searched. Such a video gets no flow and no conversations.
        units (`Iterable[UnitLabel]`): The labelled action units.
        emotion (`str | None`): The source's own word, or `None` for a clip without expression.
        emotion_coarse (`str | None`): The coarse class.
        convention (`str`): Label convention, named in the questions.
        quality (`Sequence[str]`): Known problems of the clip. `unlabelled_motion:…` and `apex_in_doubt:±frames` are
            added if measured, and `not_measurable:reason` if not.
        provenance (`Mapping[str, Any]`): Where the labels come from.
        video_processor (`DeftVideoProcessor`): Measures the clip.
        rng (`np.random.Generator`): Random generator for the wording of the conversations.
        clip (`Any`, *optional*): The clip to measure, an `AlignedClip` or anything that `open_clip` reads. Its frames
            must equal those of `video`. If `None`, `video` itself is measured.
        objective_class (`str | None`, *optional*): Davison's class, if known.
        check_apex (`bool`, *optional*, defaults to `True`): Whether to spot the apex and compare it with the labelled
            one.

    Raises:
        VideoReadError: the clip cannot be read.
        FaceAlignmentError: the face cannot be found or aligned.
        KeyFrameError: the key frames do not fit the clip.
    """
    measured, reason, motions, judgements, conversations, flags = None, None, [], [], [], list(quality)
    labels = list(units)
    if key_frames is not None:
        aligned = video_processor.align(
            video if clip is None else clip, key_frames=key_frames, face_source="canonical"
        )
        tensors = video_processor(aligned, do_crop_appearance=False, return_measurement=True)
        # The verdicts use the flow as it is stored. Its errors are not stored.
        measured = tensors["flow_values_videos"][0].astype(np.float16)
        (reason,) = tensors["not_measurable"]
        if reason is not None:
            flags.append(f"{NOT_MEASURABLE}:{reason}")
            judgements = [Judgement(label.code, label.side, "", NOT_TESTABLE, 0.0) for label in labels]
    if key_frames is not None and reason is None:
        errors = {"lead_in": tensors["lead_in_flow"][0], "deviation": tensors["flow_deviation"][0]}
        motions = measure_motion(measured, **errors)
        pairs = [(label.code, label.side) for label in labels]
        judgements = judge_labels(pairs, measured, motions, deviation=errors["deviation"])
        unlabelled = unlabelled_motion(pairs, measured, **errors)
        flags += [f"unlabelled_motion:{item.side} {item.region} {item.direction}" for item in unlabelled]
        # Without a supported label there may be only noise to spot.
        if check_apex and fps and any(item.verdict == SUPPORTED for item in judgements):
            with suppress(NotMeasurableError):  # the whole clip, unlike its key frames, may not be measurable
                spotted = aligned.spot().apex
                if apex_in_doubt(key_frames[1], spotted, fps):
                    flags.append(f"apex_in_doubt:{spotted - key_frames[1]:+d}")
        # Uncertain labels get a verdict, but no text may use them.
        stated = [
            item if label.certain else replace(item, verdict=NOT_TESTABLE)
            for item, label in zip(judgements, labels, strict=True)
        ]
        accepted = accept_facts(
            stated,
            motions,
            emotion=emotion,
            emotion_coarse=emotion_coarse,
            convention=convention,
            also_named={code for label in labels for code in label.alternatives},
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
        "video": None if video is None else {"bytes": video, "path": None},
        "flow": measured,
        "action_units": [
            {
                "code": item.code,
                "kind": item.code.rstrip("0123456789"),
                "side": item.side,
                "intensity": label.intensity,
                "certain": label.certain,
                "alternatives": list(label.alternatives),
                "raw": label.code if label.raw is None else label.raw,
                "region": item.region,
                "agreement": item.agreement,
                "verdict": item.verdict,
                "probability": item.probability,
            }
            for item, label in zip(judgements, labels[: len(judgements)], strict=True)
        ],
        "motion": [asdict(item) for item in motions],
        "emotion": emotion,
        "emotion_coarse": emotion_coarse,
        "objective_class": objective_class,
        "conversations": conversations,
        "quality": flags,
        "provenance": dict(provenance),
    }


def row_tensors(row: Mapping[str, Any], video_processor: DeftVideoProcessor) -> dict[str, np.ndarray]:
    """A row's `pixel_values_videos` and `flow_values_videos`, without the clips axis.

    The stored flow is used if it has the shape that the processor would produce. A row without video only has flow.

    Args:
        row (`Mapping[str, Any]`): A Uni-MER row.
        video_processor (`DeftVideoProcessor`): The model's video processor.

    Raises:
        ValueError: the row has no video and its flow does not have the model's shape.
    """
    flow = None if row["flow"] is None else np.asarray(row["flow"], np.float32)
    if flow is not None and flow.shape != video_processor.flow_shape:
        flow = None
    if row["video"] is None:
        if flow is None:
            raise ValueError(
                f"Clip {row['clip_id']} has no video, and its flow does not have the shape "
                f"{video_processor.flow_shape} that the model needs. Build the dataset with the model's flow_size and "
                "num_frames."
            )
        return {"flow_values_videos": flow}
    key_frames = (row["onset"], row["apex"], row["offset"])
    tensors = video_processor(
        row["video"], key_frames=key_frames, do_estimate_flow=flow is None, face_source="canonical"
    )
    values = {name: tensor[0] for name, tensor in tensors.items()}
    return {"flow_values_videos": flow, **values}


def write_dataset(tables: Mapping[str, tuple[Features, Mapping[str, list[dict]]]], card: str, out: Path) -> None:
    """Writes one Parquet file per table and split, and the data card.

    The folder gets its final name only when it is complete. If writing fails, partial files are removed.

    Args:
        tables (`Mapping[str, tuple[Features, Mapping[str, list[dict]]]]`): Sub-folder name -> (schema, rows of each
            split).
        card (`str`): Text of the data card.
        out (`Path`): Folder to write.

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
        OSError: the disk is full or not writable.
    """
    refuse_existing(out)
    with whole_folder(out) as partial:
        for name, (schema, splits) in tables.items():
            (partial / name).mkdir(parents=True)
            for split, rows in splits.items():
                path = partial / name / f"{split}-00000-of-00001.parquet"
                Dataset.from_list(rows, features=schema).to_parquet(path)
        (partial / "README.md").write_text(card, encoding="utf-8")


def refuse_existing(out: Path) -> None:
    """Raises `FileExistsError` if `out` exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not empty; choose another --output-dir or remove it first.")
