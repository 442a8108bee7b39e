"""Renders a synthetic Uni-MER dataset with presets, label conventions, deliberate label errors and the exact truth."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Array4D, Features, Value
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.common_deft import NUM_FRAMES
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION, CONVENTIONS, emotion_of
from deft_llm.processing.key_frames import KeyFrames, sample_indices
from deft_llm.processing.video_processing_deft import DeftVideoProcessor
from deft_llm.processing.video_reading import open_clip

from ..sources.sharing_policy import SYNTHETIC
from ..unimer.rows import UnitLabel, features, make_row, refuse_existing, write_dataset
from .clips import EVERYDAY, Clip, Disturbances, Expression, UnitRequest, encode_mp4, render_clip
from .faces import Face, FaceStyle, render_face
from .label_errors import Labels, corrupt_labels

EMOTIONS = tuple(CONVENTIONS["synthetic"])
UNILATERAL = frozenset({"AU2", "AU12", "AU15"})  # units that people can show on one side
STILL_SHARE = 0.1  # clips in which nothing but the disturbances moves

# One look per emotion for the entangled preset: colour of the wall, glasses, hair.
_LOOKS = (
    FaceStyle(background=(190, 90, 80), glasses=True),
    FaceStyle(background=(80, 150, 90), glasses=False, hair=(30, 24, 20)),
    FaceStyle(background=(80, 100, 180), glasses=False, beard=True),
    FaceStyle(background=(200, 180, 90), glasses=False, hair=(160, 120, 70)),
    FaceStyle(background=(60, 60, 60), glasses=True, beard=True),
)
_LOOK_SHARE = 0.9  # share of an entangled face's clips that show the emotion of its look


@dataclass(frozen=True)
class Preset:
    """Settings for a set of clips.

    Args:
        size (`int`): Side of the frames in pixels.
        fps (`float`): Frames per second.
        rise (`tuple[float, float]`): Shortest and longest time from onset to apex in seconds.
        fall (`tuple[float, float]`): Shortest and longest time from apex to offset in seconds.
        intensities (`dict[str, float]`): FACS letter → share of the action units.
        disturbances (`Disturbances`): The disturbances.
        count (`int`, *optional*): Frames per clip; by default as many as the expression needs.
        expressions (`tuple[int, int]`): Minimum and maximum per clip. More than one makes a video for spotting.
        entangled (`bool`): Whether a face's look is tied to one emotion in train and to another in test.
        free_sets (`float`): Share of the training expressions whose action units need not be a prototype.
    """

    size: int
    fps: float
    rise: tuple[float, float]
    fall: tuple[float, float]
    intensities: dict[str, float]
    disturbances: Disturbances
    count: int | None = None
    expressions: tuple[int, int] = (1, 1)
    entangled: bool = False
    free_sets: float = 0.0


_PLAIN = {"C": 0.4, "D": 0.4, "E": 0.2}
_MIXED = {"A": 0.1, "B": 0.25, "C": 0.3, "D": 0.2, "E": 0.15}
_LABORATORY = Disturbances(
    head_shift=0.012,
    head_rotation=1.0,
    head_scale=0.008,
    light_drift=0.03,
    flicker=0.008,
    noise=2.0,
    furrows=0.10,
    blinks=0.3,
    gaze=0.004,
    crf=14,
)
PRESETS: dict[str, Preset] = {
    "easy": Preset(160, 200.0, (0.05, 0.07), (0.05, 0.07), _PLAIN, EVERYDAY),
    "realistic": Preset(224, 100.0, (0.07, 0.13), (0.08, 0.14), _MIXED, _LABORATORY, count=32),
    "entangled": Preset(160, 200.0, (0.05, 0.07), (0.05, 0.07), _PLAIN, EVERYDAY, entangled=True),
    "long": Preset(
        160, 100.0, (0.08, 0.25), (0.08, 0.25), _MIXED, replace(_LABORATORY, talking=0.01), expressions=(2, 5)
    ),
}
_PAUSE = (0.6, 1.6)  # seconds between the expressions of a long video


def build(
    *,
    out: Path,
    clips: int,
    preset: str = "easy",
    conventions: tuple[str, ...] = (SYNTHETIC,),
    clips_per_face: int = 18,
    test_share: float = 0.2,
    corrupt: float = 0.0,
    free_sets: float = 0.0,
    num_frames: int = NUM_FRAMES,
    size: int | None = None,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Renders a dataset folder: Parquet rows in the Uni-MER schema, the truth of each row, and a data card.

    The same arguments give the same bytes for any number of workers. The splits share no face.

    Args:
        out (`Path`): Folder to write.
        clips (`int`): Number of rows in both splits together.
        preset (`str`, *optional*, defaults to `"easy"`): A key of `PRESETS`.
        conventions (`tuple[str, ...]`, *optional*, defaults to `('synthetic',)`): Keys of `CONVENTIONS`.
        clips_per_face (`int`, *optional*, defaults to `18`): Number of clips per face.
        test_share (`float`, *optional*, defaults to `0.2`): Share of the faces in the test split.
        corrupt (`float`, *optional*, defaults to `0.0`): Share of the clips whose labels get one deliberate error,
            named in `quality` and in the truth.
        free_sets (`float`, *optional*, defaults to `0.0`): Share of the training expressions whose action units are
            drawn freely, see `draw_free_set`. The test split has prototypes only.
        num_frames (`int`, *optional*, defaults to `8`): Number of frames the model samples, for the `flow` column.
        size (`int | None`, *optional*): Side of the frames in pixels; by default the preset's.
        seed (`int`, *optional*, defaults to `0`): Random seed.
        workers (`int`, *optional*, defaults to `2`): Number of processes.

    Raises:
        FileExistsError: `out` exists and is not an empty folder; raised before rendering.
        ValueError: the preset or convention is unknown, or a number is out of range.
    """
    check_request(
        out,
        preset=preset,
        conventions=conventions,
        counts={"clips": clips, "clips-per-face": clips_per_face, "workers": workers},
        shares={"test-share": test_share, "corrupt": corrupt, "free-sets": free_sets},
    )
    faces = math.ceil(clips / clips_per_face)
    test_faces = round(test_share * faces)
    settings = replace(PRESETS[preset], free_sets=free_sets, size=PRESETS[preset].size if size is None else size)
    job = partial(
        face_rows,
        preset=settings,
        conventions=conventions,
        clips_per_face=clips_per_face,
        total=clips,
        first_test_face=faces - test_faces,
        corrupt=corrupt,
        num_frames=num_frames,
        seed=seed,
    )
    results = in_processes(job, range(faces), workers, "Rendering faces")
    rows, truths = split_rows(results, faces - test_faces)
    processor = DeftVideoProcessor(num_frames=num_frames)
    write_dataset(
        {"data": (features(processor), rows), "truth": (truth_features(processor), truths)},
        _card(rows, preset, seed, corrupt),
        out,
    )
    console = Console()
    console.print(summary(rows, preset))
    console.print(f"Written to {out}")


def check_request(
    out: Path,
    *,
    preset: str,
    conventions: Sequence[str],
    counts: Mapping[str, int],
    shares: Mapping[str, float],
) -> None:
    """Raises an error where a dataset cannot be made as it is asked for.

    Args:
        out (`Path`): Folder to write.
        preset (`str`): A key of `PRESETS`.
        conventions (`Sequence[str]`): Keys of `CONVENTIONS`.
        counts (`Mapping[str, int]`): Numbers of which there must be at least one, by the names of their options.
        shares (`Mapping[str, float]`): Numbers from 0 to below 1, by the names of their options.

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
        ValueError: the preset or convention is unknown, or a number is out of range.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ValueError(f"--{name} must lie in 0–1, got {value}.")
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. Known: {', '.join(PRESETS)}.")
    for convention in conventions:
        if convention not in CONVENTIONS:
            raise ValueError(f"Unknown convention {convention!r}. Known: {', '.join(CONVENTIONS)}.")
    refuse_existing(out)


def in_processes(job: Callable[[Any], Any], items: Iterable[Any], workers: int, title: str) -> list[Any]:
    """The results of a job on several items in their order, with a progress bar.

    Args:
        job (`Callable`): What to do with one item; it must be picklable.
        items (`Iterable`): What to do it with.
        workers (`int`): Number of processes.
        title (`str`): What the progress bar says.
    """
    items, results = list(items), []
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console()) as progress,
        # Processes are spawned, not forked, because the parent already has threads.
        ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool,
    ):
        task = progress.add_task("", total=len(items))
        for result in pool.map(job, items):
            results.append(result)
            progress.advance(task)
    return results


def split_rows(
    results: Sequence[tuple[list[dict], list[dict]]], train: int
) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The rows and the truths by split.

    Args:
        results (`Sequence`): Rows and truths of each face.
        train (`int`): Number of faces in train, the first ones; the others are in test.
    """
    parts = {"train": results[:train], "test": results[train:]}
    rows = {split: list(chain(*(part[0] for part in values))) for split, values in parts.items() if values}
    truths = {split: list(chain(*(part[1] for part in values))) for split, values in parts.items() if values}
    return rows, truths


def truth_features(video_processor: DeftVideoProcessor) -> Features:
    """Schema of each row's truth: all parameters as JSON, and the exact motion at the frames the model samples."""
    return Features(
        {
            "clip_id": Value("string"),
            "face": Value("int32"),
            "convention": Value("string"),
            "emotion": Value("string"),
            "corruption": Value("string"),
            "parameters": Value("string"),
            # Percent of the crop width, expression only, at the centres of the flow grid's cells.
            "true_flow": Array4D(shape=video_processor.flow_shape, dtype="float32"),
        }
    )


def face_rows(
    face_index: int,
    *,
    preset: Preset,
    conventions: tuple[str, ...],
    clips_per_face: int,
    total: int,
    first_test_face: int,
    corrupt: float,
    num_frames: int,
    seed: int,
) -> tuple[list[dict], list[dict]]:
    """Makes the rows and the ground truth of one face.

    Args:
        face_index (`int`): Number of the face.
        preset (`Preset`): Settings of the clips.
        conventions (`tuple[str, ...]`): Label conventions, of which each clip gets one.
        clips_per_face (`int`): Largest number of clips of a face.
        total (`int`): Number of clips of the dataset.
        first_test_face (`int`): Number of the first face of the test split.
        corrupt (`float`): Share of the clips with a wrong label, from 0 to 1.
        num_frames (`int`): Frames that the model samples from a clip.
        seed (`int`): Random seed.
    """
    cv2.setNumThreads(1)
    if face_index >= first_test_face:
        preset = replace(preset, free_sets=0.0)
    look = face_index % len(_LOOKS)
    style = _LOOKS[look] if preset.entangled else None
    face = render_face(np.random.default_rng([seed, face_index]), size=preset.size, style=style)
    shown_emotion = None
    if preset.entangled:
        # In the test split every look is tied to a different emotion than in train.
        turned = look if face_index < first_test_face else look + 2
        shown_emotion = EMOTIONS[turned % len(EMOTIONS)]
    processor = DeftVideoProcessor(num_frames=num_frames)
    rows, truths = [], []
    for index in range(min(clips_per_face, total - face_index * clips_per_face)):
        rng = np.random.default_rng([seed, face_index, index])
        convention = str(rng.choice(conventions))
        clip, emotions = draw_clip(face, preset, convention, rng, usual=shown_emotion)
        single = len(emotions) == 1
        labels = _labels_of(clip, emotions[0]) if single else None
        corruption = None
        if labels is not None and rng.random() < corrupt:
            labels, corruption = corrupt_labels(labels, rng)
        clip_id = f"{convention}-{seed}/{face_index:04d}/{index:03d}"
        video = encode_mp4(clip)
        rows.append(
            make_row(
                clip_id=clip_id,
                source=convention,
                # One face is one subject, regardless of the label convention of its clips.
                subject=f"synthetic-{seed}/{face_index:04d}",
                video=video,
                check_apex=corrupt > 0,
                clip=np.stack(list(open_clip(video).scan())) if single else None,
                fps=clip.fps,
                key_frames=(labels.onset, labels.apex, labels.offset) if labels else None,
                units=[UnitLabel(*unit) for unit in labels.units] if labels else [],
                emotion=labels.emotion if labels else None,
                emotion_coarse=COARSE_EMOTION.get(labels.emotion) if labels else None,
                convention=convention,
                quality=[f"corrupted:{corruption}"] if corruption else [],
                provenance={"reader": "synthetic 1", "sheet": None, "sheet_sha256": None, "row": index},
                video_processor=processor,
                rng=rng,
            )
        )
        truths.append(
            {
                "clip_id": clip_id,
                "face": face_index,
                "convention": convention,
                "emotion": emotions[0] if single else None,
                "corruption": corruption,
                "parameters": json.dumps({**clip.truth(), "emotions": emotions}),
                "true_flow": true_flow(clip, processor) if single else None,
            }
        )
    return rows, truths


def true_flow(clip: Clip, processor: DeftVideoProcessor) -> np.ndarray:
    """The expression's exact motion at the frames the processor samples, in percent of the crop width."""
    shown = clip.expression
    indices = sample_indices(KeyFrames(shown.onset, shown.apex, shown.offset), processor.num_frames)
    fields = [clip.flow(indices[0], index, expression_only=True, grid=processor.flow_size) for index in indices[1:]]
    return np.float32(100) * np.stack(fields)


def draw_clip(
    face: Face, preset: Preset, convention: str, rng: np.random.Generator, *, usual: str | None = None
) -> tuple[Clip, list[str | None]]:
    """Draws a clip of a face, and the emotion of each of its expressions.

    Args:
        face (`Face`): The neutral face.
        preset (`Preset`): Settings of the clip.
        convention (`str`): Label convention.
        rng (`np.random.Generator`): Random generator.
        usual (`str | None`, *optional*): The emotion this face shows nine times out of ten.
    """
    expressions, emotions, count = draw_course(preset, convention, rng, usual=usual)
    clip = render_clip(face, expressions, rng, count=count, fps=preset.fps, disturbances=preset.disturbances)
    return clip, emotions


def draw_course(
    preset: Preset, convention: str, rng: np.random.Generator, *, usual: str | None = None
) -> tuple[list[Expression], list[str | None], int]:
    """Draws what a clip shows, without rendering it.

    Args:
        preset (`Preset`): Settings of the clip.
        convention (`str`): Label convention.
        rng (`np.random.Generator`): Random generator.
        usual (`str | None`, *optional*): As in `draw_clip`.

    Returns:
        The expressions, the emotion of each, and the number of frames.
    """
    least, most = preset.expressions
    frame = max(1, round(rng.uniform(0.01, 0.03) * preset.fps))
    expressions, emotions = [], []
    for _ in range(int(rng.integers(least, most + 1))):
        emotion, units = draw_expression(preset, convention, rng, usual=usual)
        if most > 1:
            frame += round(rng.uniform(*_PAUSE) * preset.fps)
        apex = frame + max(2, round(rng.uniform(*preset.rise) * preset.fps))
        offset = apex + max(2, round(rng.uniform(*preset.fall) * preset.fps))
        if most == 1 or units:
            expressions.append(Expression(tuple(units), frame, apex, offset))
            emotions.append(emotion)
        frame = offset
    count = preset.count or frame + 1 + max(1, round(rng.uniform(0.0, 0.02) * preset.fps))
    if most > 1:
        count = frame + round(rng.uniform(*_PAUSE) * preset.fps)
    return expressions, emotions, count


def draw_expression(
    preset: Preset, convention: str, rng: np.random.Generator, *, usual: str | None = None
) -> tuple[str | None, list[UnitRequest]]:
    """Draws an emotion and one of its prototypes.

    Args:
        preset (`Preset`): Settings of the clips.
        convention (`str`): Label convention.
        rng (`np.random.Generator`): Random numbers.
        usual (`str`, *optional*): Emotion that is drawn in most cases.

    Returns:
        The emotion and its action units, or `(None, [])` for a still clip.
    """
    if rng.random() < STILL_SHARE:
        return None, []
    emotion = str(rng.choice(EMOTIONS))
    if usual is not None and rng.random() < _LOOK_SHARE:
        emotion = usual
    if preset.free_sets and rng.random() < preset.free_sets:
        codes = draw_free_set(emotion, convention, rng)
    else:
        prototypes = CONVENTIONS[convention][emotion]
        codes = prototypes[rng.integers(len(prototypes))]
    side = str(rng.choice(["left", "right"])) if rng.random() < 0.2 else "both"
    letters, shares = zip(*preset.intensities.items(), strict=True)
    letter = str(rng.choice(letters, p=np.array(shares) / sum(shares)))
    return emotion, [
        UnitRequest.at_intensity(code, side if code in UNILATERAL else "both", letter, rng) for code in codes
    ]


def draw_free_set(emotion: str, convention: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Draws two or three units that are read as an emotion, whether or not they are one of its prototypes.

    A model that sees prototypes only learns the sets, and names the units of a known set when it sees a new one. No
    unit of the set moves the most characteristic region of another, so each can be seen.

    Args:
        emotion (`str`): The emotion, as `emotion_of` reads the units.
        convention (`str`): Label convention.
        rng (`np.random.Generator`): Random numbers.
    """
    known = sorted({code for sets in CONVENTIONS[convention].values() for codes in sets for code in codes})
    while True:
        chosen = rng.permutation(len(known))[: int(rng.integers(2, 4))]
        codes = tuple(known[place] for place in sorted(chosen))
        if emotion_of(codes, convention) == emotion and _all_visible(codes):
            return codes


def _all_visible(codes: Sequence[str]) -> bool:
    """Whether no unit moves the most characteristic region of another."""
    regions = {code: [motion.region for motion in get_action_unit(code).motions] for code in codes}
    return not any(regions[one][0] in regions[other] for one in codes for other in codes if one != other)


def _labels_of(clip: Clip, emotion: str | None) -> Labels:
    shown = clip.expression
    units = [(unit.code, unit.side, unit.intensity) for unit in shown.units]
    return Labels(units, shown.onset, shown.apex, shown.offset, emotion)


def summary(splits: Mapping[str, list[dict]], preset: str) -> Table:
    """A table of what a dataset holds.

    Args:
        splits (`Mapping[str, list[dict]]`): Rows of each split.
        preset (`str`): The preset, for the title.
    """
    names = list(splits)
    table = Table(title=f"Uni-MER, synthetic, {preset}", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    emotions = {name: Counter(row["emotion"] for row in rows) for name, rows in splits.items()}
    units = {name: [unit for row in rows for unit in row["action_units"]] for name, rows in splits.items()}

    def add(title: str, values: list) -> None:
        table.add_row(title, *map(str, values))

    add("clips", [len(splits[name]) for name in names])
    add("faces", [len({row["subject"] for row in splits[name]}) for name in names])
    for emotion in EMOTIONS:
        add(emotion, [emotions[name][emotion] for name in names])
    add("no emotion", [emotions[name][None] for name in names])
    add("action unit labels", [len(units[name]) for name in names])
    for verdict in sorted({unit["verdict"] for values in units.values() for unit in values}):
        add(f"  {verdict}", [sum(unit["verdict"] == verdict for unit in units[name]) for name in names])
    return table


def _card(splits: dict[str, list[dict]], preset: str, seed: int, corrupt: float) -> str:
    return data_card(
        splits,
        title="Synthetic micro-expressions in the Uni-MER schema",
        about=f"Rendered faces; no person is shown and no recording was used. Preset {preset}, seed {seed}. The "
        "splits share no face.",
        people="faces",
        conventions={row["source"] for rows in splits.values() for row in rows},
        corrupt=corrupt,
        licence="apache-2.0",
    )


def data_card(
    splits: Mapping[str, list[dict]],
    *,
    title: str,
    about: str,
    people: str,
    conventions: Iterable[str],
    corrupt: float,
    licence: str | None,
) -> str:
    """The data card of a dataset whose truth is known.

    Args:
        splits (`Mapping[str, list[dict]]`): Rows of each split.
        title (`str`): Heading.
        about (`str`): One paragraph on what is shown.
        people (`str`): What the subjects are called, in the plural.
        conventions (`Iterable[str]`): Label conventions of the rows.
        corrupt (`float`): Share of the clips with a deliberate label error.
        licence (`str | None`): Licence in the Hub's words, if there is one.
    """

    def files(folder: str) -> str:
        return "\n".join(f"  - split: {name}\n    path: {folder}/{name}-*.parquet" for name in splits)

    counts = "\n".join(
        f"- {name}: {len(rows)} clips of {len({row['subject'] for row in rows})} {people}"
        for name, rows in splits.items()
    )
    errors = f"{100 * corrupt:g} % of the clips carry one deliberate label error each.\n\n" if corrupt else ""
    head = f"license: {licence}\n" if licence else ""
    return f"""---
{head}task_categories: [video-text-to-text]
tags: [micro-expression, synthetic]
configs:
- config_name: default
  data_files:
{files("data")}
- config_name: truth
  data_files:
{files("truth")}
---
# {title}

{about}

{counts}

{errors}Emotions follow the generator's own conventions ({", ".join(sorted(conventions))}), not that of any published
data set. The configuration `truth` holds, clip by clip, every parameter and the exact motion of the expression on the
flow grid.
"""
