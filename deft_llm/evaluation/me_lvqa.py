"""Questions about long videos (ME-LVQA of MEGC 2026): how many expressions, of which kind, with which action units.

A video becomes a timeline of events: expressions are spotted, and the action units of each are recognised. All answers
about a video are read from its timeline, so they never contradict each other. Files and submissions are those of
`me_vqa`; the five questions of the track are told apart by their words.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from deft_llm.files import write_whole
from deft_llm.processing import AlignedClip, DeftVideoProcessor
from deft_llm.processing.action_units import ACTION_UNITS, get_action_unit
from deft_llm.processing.emotion_prototypes import prototypes_of
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.unit_evidence import SEEN, seen_units

from .me_vqa import Question, refuse_shared
from .metrics import emotion_metrics, uf1_of

EVENTS, MICRO, MACRO, UNITS, KIND = "events", "micro", "macro", "units", "kind"
COUNTS = (EVENTS, MICRO, MACRO)
KINDS = ("micro-expression", "macro-expression")
NO_UNITS = "none"
LONGEST_MACRO = 4.0  # seconds from onset to offset, the longest of the field's definition
RESAMPLES = 2000

_QUESTIONS = (
    (KIND, re.compile(r"expression type of the (\d+)-?(?:st|nd|rd|th) expression event", re.IGNORECASE)),
    (MICRO, re.compile(r"how many micro-?\s?expression", re.IGNORECASE)),
    (MACRO, re.compile(r"how many macro-?\s?expression", re.IGNORECASE)),
    (EVENTS, re.compile(r"how many expression", re.IGNORECASE)),
    (UNITS, re.compile(r"distinct action units", re.IGNORECASE)),
)
_UNIT_OF_NAME = {unit.name: unit.code for unit in ACTION_UNITS.values()}


@dataclass(frozen=True)
class Event:
    """An expression in a long video.

    Args:
        onset (`int`): First frame.
        apex (`int`): Frame in which the face is farthest from neutral.
        offset (`int`): Last frame, inclusive.
        kind (`str`): One of `KINDS`. A micro-expression takes at most half a second.
        action_units (`tuple[str, ...]`, *optional*): Codes of the recognised action units.
        emotion (`str | None`, *optional*): The recognised emotion.
    """

    onset: int
    apex: int
    offset: int
    kind: str
    action_units: tuple[str, ...] = ()
    emotion: str | None = None


Recogniser = Callable[[AlignedClip], tuple[Sequence[str], str | None]]
"""Recognises the action units (codes) and the emotion in a clip whose key frames are set."""


def asked_for(question: str) -> tuple[str, int] | None:
    """What a question asks for, and the number of the event (from 1) or 0; `None` if it is not one of the track's.

    Args:
        question (`str`): The question.
    """
    for what, pattern in _QUESTIONS:
        match = pattern.search(question)
        if match:
            return what, int(match[1]) if what == KIND else 0
    return None


def is_long(questions: Iterable[Question]) -> bool:
    """Whether all questions are about long videos.

    Args:
        questions (`Iterable[Question]`): The questions of a file.

    Raises:
        ValueError: some are, and some are not; names one of the latter.
    """
    told = [(item, asked_for(item.question) is not None) for item in questions]
    if not any(known for _, known in told):
        return False
    other = next((item for item, known in told if not known), None)
    if other is not None:
        raise ValueError(
            f"{other.name}: {other.question!r} is not a question about a long video, but other questions of the file "
            "are. Put them into files of their own."
        )
    return True


# --- Answers --------------------------------------------------------------------------------------------------------


def timeline(clip: AlignedClip, recognise: Recogniser | None = None) -> list[Event]:
    """The expressions of a video in order.

    Args:
        clip (`AlignedClip`): The video with its face placed.
        recognise (`Recogniser`, *optional*): Recognises units and emotion; by default `recognise_by_rule`.

    Raises:
        ValueError: the frame rate is not known.
    """
    placements: list[Any] = []  # a few dozen bytes per frame

    def noting() -> Iterator[Any]:
        for frame in clip.follow():
            placements.append(frame.placement)
            yield frame

    intervals, _ = clip.intervals_and_stretches(longest=LONGEST_MACRO, followed=noting())
    events = []
    for item in intervals:
        if item.kind == "expression":
            units, emotion = (recognise or recognise_by_rule)(clip.at(KeyFrames.of_interval(item), placements))
            events.append(Event(item.onset, item.apex, item.offset, KINDS[item.macro], tuple(units), emotion))
    return events


def recognise_by_rule(clip: AlignedClip, convention: str = "") -> tuple[list[str], str | None]:
    """The action units that the motion of a clip shows, and the emotion whose prototype is most like them.

    No model is used. If no action unit is found, the emotion is `None`.

    Args:
        clip (`AlignedClip`): The clip, with key frames.
        convention (`str`, *optional*): Label convention, as in `emotion_prototypes.prototypes_of`.
    """
    processor = DeftVideoProcessor(do_crop_appearance=False)
    found = processor(clip, return_measurement=True, return_tensors="np")
    if found["not_measurable"][0] is not None:
        return [], None
    probabilities = seen_units(found["flow_values_videos"][0], deviation=found["flow_deviation"][0])
    units = {code for code, probability in probabilities.items() if probability >= SEEN}
    _, prototypes = prototypes_of(convention)

    def likeness(emotion: str) -> float:
        return max(len(units & set(codes)) / len(units | set(codes)) for codes in prototypes[emotion])

    best = max(prototypes, key=likeness)
    return sorted(units), best if units and likeness(best) else None


def recognise_with(model: Any, processor: Any) -> Recogniser:
    """Makes a recogniser of a trained model: its action units as far as the motion bears them out, and its emotion.

    Args:
        model (`Any`): A trained model.
        processor (`Any`): Its processor.
    """
    import torch

    def recognise(clip: AlignedClip) -> tuple[list[str], str | None]:
        found = processor.video_processor(clip, return_measurement=True, return_tensors="pt")
        if found["not_measurable"][0] is not None:
            return [], None
        tensors = {name: found[name].to(model.device) for name in ("pixel_values_videos", "flow_values_videos")}
        with torch.inference_mode():
            outputs = model.model(**tensors)
        (report,) = processor.post_process_expression(
            outputs, flow_values_videos=tensors["flow_values_videos"], flow_deviation=found["flow_deviation"]
        )
        return [unit.code for unit in report.action_units if unit.borne_out], report.emotion

    return recognise


def answer(question: Question, events: Sequence[Event]) -> str:
    """Answers a question from a timeline.

    If the question is about an event that was not spotted, the answer is the most frequent kind of those that were,
    and "macro-expression" if both are equally frequent, because data sets have more of them (CAS(ME)^2: 300 and 57
    micro-expressions; SAMM: 343 and 159).

    Args:
        question (`Question`): The question.
        events (`Sequence[Event]`): The video's events.

    Raises:
        ValueError: the question is not one of the track's.
    """
    what, number = _checked(question)
    if what == KIND:
        if 0 < number <= len(events):
            return events[number - 1].kind
        micro = sum(event.kind == KINDS[0] for event in events)
        return KINDS[2 * micro <= len(events)]
    if what == UNITS:
        codes = {code for event in events for code in event.action_units}
        units = sorted(map(get_action_unit, codes), key=lambda unit: (unit.kind, unit.number))
        return ", ".join(unit.name for unit in units) or NO_UNITS
    kinds = {EVENTS: KINDS, MICRO: KINDS[:1], MACRO: KINDS[1:]}[what]
    return str(sum(event.kind in kinds for event in events))


def _checked(question: Question) -> tuple[str, int]:
    found = asked_for(question.question)
    if found is None:
        raise ValueError(f"{question.name}: {question.question!r} is not a question about a long video.")
    return found


def answer_long_questions(
    questions: Sequence[Question],
    videos: str | Path,
    *,
    face_source: Any = None,
    recognise: Recogniser | None = None,
    fps: float | None = None,
    keep: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Answers the questions about long videos. Each video is read once, however many questions there are.

    Args:
        questions (`Sequence[Question]`): The questions.
        videos (`str | Path`): Folder with the videos. A name without suffix is that of a folder of frames, or of the
            only video with this name.
        face_source (`Any`, *optional*): Finds the face, as in [`AlignedClip.open`].
        recognise (`Recogniser`, *optional*): As in `timeline`.
        fps (`float`, *optional*): Frames per second of folders of frames.
        keep (`Path`, *optional*): Folder for the timelines, one JSON file per video. A timeline that is there is not
            made again if the video and `settings` are the same, so a run that was interrupted goes on.
        settings (`Mapping[str, Any]`, *optional*): What decides the timelines besides the videos, as JSON data.

    Raises:
        FileNotFoundError: a video does not exist. This is raised before any video is read.
        ValueError: a question is not one of the track's, or a frame rate is not known.
        VideoReadError: a video cannot be read.
        FaceAlignmentError: no face is found in a video.
    """
    for item in questions:
        _checked(item)
    paths = {item.video: _video_path(Path(videos), item.video) for item in questions}
    known = {}
    for video, path in track(paths.items(), "Videos", len(paths)):
        made_of = {"video": stamp(path), **(settings or {})}
        place = None if keep is None else keep / f"{video}.json"
        events = None if place is None else _read_timeline(place, made_of)
        if events is None:
            events = timeline(AlignedClip.open(str(path), face_source=face_source, fps=fps), recognise)
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                data = {"made_of": made_of, "events": [asdict(event) for event in events]}
                write_whole(place, json.dumps(data, indent=2) + "\n")
        known[video] = events
    return [answer(item, known[item.video]) for item in questions]


def stamp(path: Path) -> list[int]:
    """Number, size and latest change of the files of a video or a model.

    Args:
        path (`Path`): A file or a folder.
    """
    files = [item.stat() for item in (path.iterdir() if path.is_dir() else [path])]
    return [len(files), sum(item.st_size for item in files), max((item.st_mtime_ns for item in files), default=0)]


def _read_timeline(path: Path, made_of: Mapping[str, Any]) -> list[Event] | None:
    """A timeline that was kept, or None if there is none of the same video and settings."""
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["made_of"] != made_of:
        return None
    return [Event(**{**event, "action_units": tuple(event["action_units"])}) for event in data["events"]]


def _video_path(folder: Path, name: str) -> Path:
    path = folder / name
    if path.exists():
        return path
    near = sorted(item for item in folder.glob(f"{name}.*") if item.stem == name)
    if len(near) != 1:
        found = f"{len(near)} files have this name" if near else "it does not exist"
        raise FileNotFoundError(f"{path}: {found}; --videos must be the folder that contains the videos.")
    return near[0]


# --- Floors ---------------------------------------------------------------------------------------------------------


def prior_answers(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """Answers from the training answers alone, without a look at any video.

    Counts are the training median, the kind of an event is the most frequent one, and the action units are those that
    at least half of the training videos have.

    Args:
        training (`Sequence[Question]`): Questions with answers.
        questions (`Sequence[Question]`): The questions to answer.

    Raises:
        ValueError: a video is in both files; or the training file does not answer a kind of question.
    """
    seen = _training_answers(training, questions)
    found = []
    for item in questions:
        what, _ = _checked(item)
        if what in COUNTS:
            found.append(str(round(float(np.median([int(text) for text in seen[what]])))))
        elif what == KIND:
            found.append(Counter(seen[what]).most_common(1)[0][0])
        else:
            shares = Counter(code for text in seen[what] for code in units_in(text))
            common = [code for code, count in shares.items() if 2 * count >= len(seen[what])]
            units = sorted(map(get_action_unit, common), key=lambda unit: (unit.kind, unit.number))
            found.append(", ".join(unit.name for unit in units) or NO_UNITS)
    return found


def majority_answers(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """The most frequent training answer to the same kind of question.

    Args:
        training (`Sequence[Question]`): Questions with answers.
        questions (`Sequence[Question]`): The questions to answer.

    Raises:
        ValueError: as in `prior_answers`.
    """
    seen = _training_answers(training, questions)
    return [Counter(seen[_checked(item)[0]]).most_common(1)[0][0] for item in questions]


def _training_answers(training: Sequence[Question], questions: Sequence[Question]) -> dict[str, list[str]]:
    refuse_shared(training, questions)
    seen: dict[str, list[str]] = defaultdict(list)
    for item in training:
        if item.answer is not None:
            seen[_checked(item)[0]].append(item.answer)
    missing = next((item for item in questions if not seen[_checked(item)[0]]), None)
    if missing is not None:
        raise ValueError(
            f"The training file does not answer questions like {missing.question!r}. Add some, or leave them out."
        )
    return seen


# --- Scores ---------------------------------------------------------------------------------------------------------


def units_in(text: str) -> frozenset[str]:
    """The codes of the action units that an answer names. Names that are not known are kept as they are.

    Args:
        text (`str`): Names or codes, separated by commas.
    """
    found = set()
    for part in text.split(","):
        word = part.strip().strip(".").lower()
        if word and word != NO_UNITS:
            found.add(_UNIT_OF_NAME.get(word, word.upper() if word.upper() in ACTION_UNITS else word))
    return frozenset(found)


def score_long_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """Computes the track's figures.

    - `exact_match`: share of the answers that equal the reference.
    - `mae_…` and `rmse_…` of the numbers of events, micro- and macro-expressions. An answer without a number counts
      as 0.
    - `f1_units` and `jaccard_units`: per video between the two sets of action units, then the mean.
    - `uf1_kind` and `uar_kind`: micro against macro.

    A figure is `None` if no question asks for it.

    Args:
        questions (`Sequence[Question]`): Questions with references.
        answers (`Sequence[str]`): One answer per question.

    Raises:
        ValueError: a question does not have a reference answer, or the numbers of questions and answers differ.
    """
    return _figures(_scored(questions, answers))


def compared(
    questions: Sequence[Question], answers: Sequence[str], floor: Sequence[str], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How much better answers are than those of a floor.

    Args:
        questions (`Sequence[Question]`): Questions with references.
        answers (`Sequence[str]`): One answer per question.
        floor (`Sequence[str]`): The floor's answers.
        seed (`int`, *optional*, defaults to `0`): Of the resampling.

    Returns:
        `mae_events`, `f1_units` and `uf1_kind` -> the improvement, and its 95 % interval from resampled videos.
    """
    videos = sorted({item.video for item in questions})
    ours, theirs = (_per_video(_scored(questions, said), videos) for said in (answers, floor))
    rng = np.random.default_rng(seed)
    draws = np.stack([np.arange(len(videos)), *rng.integers(len(videos), size=(RESAMPLES, len(videos)))])

    def figures(parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        errors, shared, kinds = (part[draws].sum(1) for part in parts)
        with np.errstate(invalid="ignore"):
            means = [-errors[:, 0] / errors[:, 1], shared[:, 0] / shared[:, 1]]  # a smaller error is better
        return np.stack([*means, uf1_of(kinds)])

    gains = figures(ours) - figures(theirs)
    low, high = np.nanpercentile(gains[:, 1:], [2.5, 97.5], axis=1)
    names = ("mae_events", "f1_units", "uf1_kind")
    return {name: (float(gains[place, 0]), float(low[place]), float(high[place])) for place, name in enumerate(names)}


def _per_video(scored: Sequence[_Scored], videos: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each video, sum and number of the absolute errors of the number of events, (V, 2); the same of the F1 of
    action units, (V, 2); and the confusion matrix of the kinds, (V, 2, 3), as in `metrics.confusion`."""
    errors, shared, kinds = (np.zeros((len(videos), *shape)) for shape in ((2,), (2,), (2, 3)))
    for item in scored:
        place = videos.index(item.video)
        if item.what == EVENTS:
            errors[place] += abs(_number(item.said) - _number(item.true)), 1
        elif item.what == UNITS:
            shared[place] += _f1(units_in(item.said), units_in(item.true)), 1
        elif item.what == KIND:
            said = _kind(item.said)
            kinds[place, KINDS.index(_kind(item.true)), 2 if said is None else KINDS.index(said)] += 1
    return errors, shared, kinds


@dataclass(frozen=True)
class _Scored:
    video: str
    what: str
    said: str
    true: str


def _scored(questions: Sequence[Question], answers: Sequence[str]) -> list[_Scored]:
    if len(answers) != len(questions):
        raise ValueError(f"{len(questions)} questions and {len(answers)} answers: expected one each.")
    unknown = next((item for item in questions if item.answer is None), None)
    if unknown is not None:
        raise ValueError(f"{unknown.name}: {unknown.question!r} does not have a reference answer.")
    scored = [
        _Scored(item.video, _checked(item)[0], text.strip(), item.answer.strip())
        for item, text in zip(questions, answers, strict=True)
    ]
    unread = next((item for item in scored if item.what == KIND and _kind(item.true) is None), None)
    if unread is not None:
        raise ValueError(f"{unread.video}: the reference {unread.true!r} is neither {' nor '.join(KINDS)}.")
    return scored


def _figures(scored: Sequence[_Scored]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "questions": len(scored),
        "exact_match": float(np.mean([_same(item) for item in scored])) if scored else None,
    }
    for what in COUNTS:
        errors = [_number(item.said) - _number(item.true) for item in scored if item.what == what]
        figures[f"mae_{what}"] = float(np.mean(np.abs(errors))) if errors else None
        figures[f"rmse_{what}"] = float(np.sqrt(np.mean(np.square(errors)))) if errors else None
    sets = [(units_in(item.said), units_in(item.true)) for item in scored if item.what == UNITS]
    jaccard = [len(a & b) / len(a | b) if a or b else 1.0 for a, b in sets]  # two empty sets are equal
    figures["f1_units"] = float(np.mean([_f1(*pair) for pair in sets])) if sets else None
    figures["jaccard_units"] = float(np.mean(jaccard)) if sets else None
    kinds = [(_kind(item.true), _kind(item.said)) for item in scored if item.what == KIND]
    scores = emotion_metrics(*zip(*kinds, strict=True), KINDS) if kinds else {}
    return figures | {"uf1_kind": scores.get("uf1"), "uar_kind": scores.get("uar")}


def _f1(first: frozenset[str], second: frozenset[str]) -> float:
    return 2 * len(first & second) / (len(first) + len(second)) if first or second else 1.0


def _same(item: _Scored) -> bool:
    if item.what in COUNTS:
        return _number(item.said) == _number(item.true)
    if item.what == UNITS:
        return units_in(item.said) == units_in(item.true)
    return _kind(item.said) == _kind(item.true)


def _number(text: str) -> int:
    match = re.search(r"\d+", text)
    return int(match[0]) if match else 0


def _kind(text: str) -> str | None:
    """The kind that an answer names, or `None` if it names none or both."""
    named = [kind for kind in KINDS if kind[:5] in text.lower()]
    return named[0] if len(named) == 1 else None
