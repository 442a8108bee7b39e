"""A practice set for MEGC's tracks on long videos: rendered videos whose events are known exactly.

The videos have micro- and macro-expressions, speech, blinks, gaze and head turns. Their questions are those of the
ME-LVQA track, in its files' form. What is right on rendered faces need not be right on people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track
from rich.table import Table

from deft_llm.files import write_whole
from deft_llm.hub_datasets.synthetic.clips import encode_mp4
from deft_llm.hub_datasets.synthetic.dataset import EMOTIONS, PRESETS, draw_clip, draw_course
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.hub_datasets.unimer.rows import refuse_existing
from deft_llm.processing import AlignedClip
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION
from deft_llm.processing.motion_intervals import MICRO_SECONDS

from .generation import load_checkpoint
from .me_lvqa import (
    KINDS,
    Event,
    Recogniser,
    answer,
    compared,
    majority_answers,
    prior_answers,
    recognise_by_rule,
    recognise_with,
    score_long_answers,
    timeline,
)
from .me_vqa import Question, read_questions, write_submission
from .metrics import Interval, strs, strs_intervals
from .text_only import text_only_answers

CONVENTION = "synthetic"
VIDEOS, TRAINING_VIDEOS = 16, 40  # the latter are answers only, for the floors
_LONG = PRESETS["long"]
PRESET = replace(
    _LONG,
    rise=(0.08, 0.6),
    fall=(0.08, 0.6),
    expressions=(3, 8),
    disturbances=replace(_LONG.disturbances, turn=4.0),
)
QUESTIONS = (
    "How many expression events appear in this video?",
    "How many micro-expression events appear in this video?",
    "How many macro-expression events appear in this video?",
    "What distinct action units appear in this video?",
)
KIND_QUESTION = "What is the expression type of the {number}-th expression event in this video?"


@dataclass(frozen=True)
class PracticeVideo:
    """A rendered video.

    Args:
        name (`str`): Its name.
        events (`tuple[Event, ...]`): What is shown.
        questions (`tuple[Question, ...]`): Questions with their right answers.
    """

    name: str
    events: tuple[Event, ...]
    questions: tuple[Question, ...]


def draw_video(index: int, folder: Path | None, seed: int = 0) -> PracticeVideo:
    """Draws a video and its questions.

    Args:
        index (`int`): Number of the video. Each shows another face.
        folder (`Path | None`): Folder to write it to as MP4; `None` to draw its events only.
        seed (`int`, *optional*, defaults to `0`): Random seed.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, index, folder is None])
    name = f"practice_{'train' if folder is None else 'test'}_{index:03d}"
    if folder is None:
        expressions, emotions, _ = draw_course(PRESET, CONVENTION, rng)
    else:
        clip, emotions = draw_clip(render_face(rng, size=PRESET.size), PRESET, CONVENTION, rng)
        expressions = clip.expressions
        (folder / f"{name}.mp4").write_bytes(encode_mp4(clip))
    events = tuple(
        Event(
            shown.onset,
            shown.apex,
            shown.offset,
            KINDS[(shown.offset - shown.onset) / PRESET.fps > MICRO_SECONDS],
            tuple(unit.code for unit in shown.units),
            emotion,
        )
        for shown, emotion in zip(expressions, emotions, strict=True)
    )
    return PracticeVideo(name, events, tuple(_questions(name, events, rng)))


def _questions(name: str, events: Sequence[Event], rng: np.random.Generator) -> list[Question]:
    numbers = rng.permutation(len(events))[:2] + 1
    texts = [*QUESTIONS, *(KIND_QUESTION.format(number=number) for number in numbers)]
    questions = []
    for place, text in enumerate(texts, 1):
        fields = {"video_id": f"{name}_{place}", "video": name, "question": text}
        right = answer(Question(**fields), events)
        questions.append(Question(**fields, answer=right, fields={**fields, "answer": right}))
    return questions


def practise(
    output_dir: Path,
    *,
    model: str | None = None,
    text_model: str | None = None,
    videos: int = VIDEOS,
    seed: int = 0,
    workers: int = 2,
) -> dict[str, Any]:
    """Renders the practice set, answers its questions, and compares the answers with floors that see no video.

    Args:
        output_dir (`Path`): Folder for videos, question files, submission and `megc.json`.
        model (`str`, *optional*): Folder or Hub repository of a trained model. Without one, action units and emotion
            are found by rule.
        text_model (`str`, *optional*): Language model that is one more floor, as in `text_only.text_only_answers`.
        videos (`int`, *optional*, defaults to `16`): Number of videos.
        seed (`int`, *optional*, defaults to `0`): Random seed of the videos.
        workers (`int`, *optional*, defaults to `2`): Number of processes.

    Returns:
        The figures. `answers`, `prior`, `majority` and `text_only` are of `score_long_answers`; `ahead_of_…` are the
        differences with 95 % intervals over videos; `strs` is of `metrics.strs`, with the coarse emotion as the class,
        and `strs_intervals` of `metrics.strs_intervals`.

    Raises:
        FileExistsError: `output_dir` exists and is not an empty folder.
    """
    refuse_existing(output_dir)
    folder = output_dir / "videos"
    folder.mkdir(parents=True)
    draw = partial(draw_video, folder=folder, seed=seed)
    with nullcontext() if workers == 1 else ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        over = map if pool is None else pool.map
        shown = list(track(over(draw, range(videos)), "Rendering", videos))
        paths = [folder / f"{video.name}.mp4" for video in shown]
        if model is None:
            found = over(_timeline, paths)
        else:  # one model is enough for this machine
            found = map(partial(_timeline, recognise=recognise_with(*load_checkpoint(model))), paths)
        timelines = list(track(found, "Spotting", videos))
    training = [item for index in range(TRAINING_VIDEOS) for item in draw_video(index, None, seed).questions]
    questions = [item for video in shown for item in video.questions]
    of_video = {video.name: events for video, events in zip(shown, timelines, strict=True)}
    answers = [answer(item, of_video[item.video]) for item in questions]
    _write(output_dir / "me_lvqa_practice_train.jsonl", training)
    _write(output_dir / "me_lvqa_practice_test_to_answer.jsonl", questions, hidden=True)
    _write(output_dir / "me_lvqa_practice_test_answers.jsonl", questions)
    asked = read_questions(output_dir / "me_lvqa_practice_test_to_answer.jsonl")
    write_submission(output_dir / "me_lvqa_practice_test_pred.jsonl", asked, answers)
    figures: dict[str, Any] = {"videos": videos, "seed": seed, "answers": score_long_answers(questions, answers)}
    floors = {"prior": prior_answers, "majority": majority_answers}
    if text_model is not None:
        floors["text_only"] = partial(text_only_answers, model=text_model)
    for name, floor in floors.items():
        guessed = floor(training, questions)
        figures[name] = score_long_answers(questions, guessed)
        figures[f"ahead_of_{name}"] = compared(questions, answers, guessed)
    labels = sorted({COARSE_EMOTION[name] for name in EMOTIONS})
    true = {video.name: _intervals(video.events) for video in shown}
    predicted = {name: _intervals(events) for name, events in of_video.items()}
    figures["strs"] = strs(true, predicted, labels)
    figures["strs_intervals"] = strs_intervals(true, predicted, labels)
    figures["per_video"] = {name: _spotted(true[name], predicted[name], labels) for name in sorted(true)}
    write_whole(output_dir / "megc.json", json.dumps(figures, indent=2) + "\n")
    return figures


def _timeline(path: Path, recognise: Recogniser | None = None) -> list[Event]:
    cv2.setNumThreads(1)
    return timeline(AlignedClip.open(str(path)), recognise or partial(recognise_by_rule, convention=CONVENTION))


def _intervals(events: Sequence[Event]) -> list[Interval]:
    # An event without a recognised emotion counts as spotted, and its class as wrong.
    return [Interval(event.onset, event.offset, COARSE_EMOTION.get(event.emotion)) for event in events]


def _spotted(true: Sequence[Interval], predicted: Sequence[Interval], labels: Sequence[str]) -> dict[str, Any]:
    scores = strs({"": true}, {"": predicted}, labels)
    return {name: scores[name] for name in ("true_positives", "false_positives", "false_negatives", "f1_spot")}


def _write(path: Path, questions: Sequence[Question], *, hidden: bool = False) -> None:
    lines = [{**item.fields, **({"answer": ""} if hidden else {})} for item in questions]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def practice_table(figures: Mapping[str, Any]) -> Table:
    """The figures as a table for people.

    Args:
        figures (`Mapping[str, Any]`): From `practise`.
    """
    names = {
        "exact_match": "exact match",
        "mae_events": "events, MAE",
        "mae_micro": "micro, MAE",
        "mae_macro": "macro, MAE",
        "f1_units": "units, F1",
        "jaccard_units": "units, Jaccard",
        "uf1_kind": "kind, UF1",
        "uar_kind": "kind, UAR",
    }
    title = f"{figures['videos']} rendered videos, {figures['answers']['questions']} questions"
    caption = (
        "MAE: mean absolute error of the number. The floors see no video. prior: the median and the most frequent "
        "values of other videos; mode: their most frequent answer; text: a language model that knows examples of "
        "them. Below each figure of a floor: how far the answers are ahead of it, with a 95 % interval over videos. "
        "On people, the best published STRS is about .09."
    )
    floors = {"prior": "prior", "majority": "mode", "text_only": "text"}
    floors = {name: words for name, words in floors.items() if name in figures}
    table = Table("", "answers", *floors.values(), title=title, caption=caption)
    for name, words in names.items():
        cells = []
        for floor in floors:
            gain = figures[f"ahead_of_{floor}"].get(name)
            ahead = "" if gain is None else f"\n{gain[0]:.2f} ({gain[1]:.2f} to {gain[2]:.2f})"
            cells.append(_cell(figures[floor][name]) + ahead)
        table.add_row(words, _cell(figures["answers"][name]), *cells)
    for name, words in (("f1_spot", "spotting, F1"), ("f1_analysis", "coarse emotion, UF1"), ("strs", "STRS")):
        low, high = figures["strs_intervals"][name]
        table.add_row(words, f"{_cell(figures['strs'][name])} ({low:.3f} to {high:.3f})")
    return table


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
