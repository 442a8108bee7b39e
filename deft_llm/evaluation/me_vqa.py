"""The question-answering track of MEGC 2025 and 2026 (ME-VQA): reads questions, writes submissions, computes metrics.

Files are JSONL with one question per line. Training files have the fields `id, dataset, image_id, subject, filename,
question, answer`; test files have `video_id, video, question`, or the training files' fields and the interval of the
clip in a long video, `onset_frame, offset_frame`. A submission is the test file with an `answer` per line.
Questions about long videos as a whole (ME-LVQA) are answered in `me_lvqa`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deft_llm.files import write_whole
from deft_llm.hub_datasets.unimer.answer_parsing import UnreadableAnswerError, parse_facts
from deft_llm.processing.frame_folder import folder_series
from deft_llm.processing.video_reading import ClipReader, open_clip
from deft_llm.processing.whole_clip_flow import LEAD_IN

from .metrics import emotion_metrics, text_metrics

COARSE = "coarse expression class"
FINE = "fine-grained expression class"


@dataclass(frozen=True)
class Question:
    """One line of the track.

    Args:
        video_id (`str`): Id of the video; the field `id` in a training file.
        video (`str`): File name of the video; the field `filename` in a training file.
        question (`str`): The question.
        answer (`str | None`, *optional*): The reference answer, if any.
        interval (`tuple[int, int] | None`, *optional*): First and last frame of the clip in the video; by default the
            clip is the whole video. A folder's frames have the numbers of their files, a video file's count from 0.
        fields (`Mapping[str, Any]`, *optional*): All fields of the line, for the submission.
    """

    video_id: str
    video: str
    question: str
    answer: str | None = None
    interval: tuple[int, int] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The question in messages."""
        return self.video_id if self.interval is None else f"{self.video_id}, frames {_span(self.interval)}"


def read_questions(path: str | Path) -> list[Question]:
    """Reads the questions of a file, in order. Blank lines are skipped.

    Raises:
        ValueError: a line is not a JSON object, lacks a field, has an interval that is not one, or repeats a question
            (names the file and the line); or the file does not contain a question.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    questions: list[Question] = []
    first_line: dict[tuple, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object with a question, found {type(entry).__name__}.")
        answer = entry.get("answer")
        if isinstance(answer, int) and not isinstance(answer, bool):  # counts, in files about long videos
            answer = str(answer)
        if answer is not None and not isinstance(answer, str):
            raise ValueError(f"{where}: the answer must be text, found {type(answer).__name__}.")
        question = Question(
            video_id=_text(entry, ("video_id", "id"), where),
            video=_text(entry, ("video", "filename"), where),
            question=_text(entry, ("question",), where),
            answer=answer or None,
            interval=_interval(entry, where),
            fields=entry,
        )
        first = first_line.setdefault((question.video_id, question.interval, question.question), number)
        if first != number:
            raise ValueError(
                f"{where}: repeats the question of line {first} ({question.name}: {question.question!r})."
            )
        questions.append(question)
    if not questions:
        raise ValueError(f"{path} contains no question.")
    return questions


def _text(entry: dict[str, Any], names: Sequence[str], where: str) -> str:
    found = [name for name in names if name in entry]
    if not found:
        raise ValueError(f"{where}: no field {' or '.join(map(repr, names))}.")
    value = entry[found[0]]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: the field {found[0]!r} must be text, found {value!r}.")
    return value


def _interval(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    names = ("onset_frame", "offset_frame")
    given = {name: entry[name] for name in names if entry.get(name) not in (None, "")}
    if not given:
        return None
    for name in names:
        if name not in given:
            raise ValueError(f"{where}: the field {name!r} is missing; an interval needs both {' and '.join(names)}.")
    numbers = []
    for name, value in given.items():
        text = "" if isinstance(value, bool) else str(value).strip().removesuffix(".0")
        if not (text.isascii() and text.isdecimal()):
            raise ValueError(f"{where}: the field {name!r} must be a frame number, found {value!r}.")
        numbers.append(int(text))
    onset, offset = numbers
    if onset >= offset:
        raise ValueError(f"{where}: the interval is reversed or empty, onset_frame {onset} and offset_frame {offset}.")
    return onset, offset


def _span(interval: tuple[int, int]) -> str:
    return f"{interval[0]} to {interval[1]}"


def majority_answers(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """The most frequent training answer to the same question, without a look at any video.

    A question that the training file does not have gets the most frequent of all training answers.

    Args:
        training (`Sequence[Question]`): Questions with answers.
        questions (`Sequence[Question]`): The questions to answer.

    Raises:
        ValueError: a clip is in both files, or no training question has an answer.
    """
    refuse_shared(training, questions)
    known = [item for item in training if item.answer is not None]
    if not known:
        raise ValueError("None of the questions in the training file has an answer.")
    overall = Counter(item.answer for item in known)
    of_question: dict[str, Counter] = defaultdict(Counter)
    for item in known:
        of_question[item.question][item.answer] += 1
    return [(of_question.get(item.question) or overall).most_common(1)[0][0] for item in questions]


def refuse_shared(training: Sequence[Question], questions: Sequence[Question]) -> None:
    """Refuses a training file that has clips of the questions.

    Args:
        training (`Sequence[Question]`): Questions with answers.
        questions (`Sequence[Question]`): The questions to answer.

    Raises:
        ValueError: a clip is in both files.
    """
    clips = {(item.video, item.interval) for item in training}
    shared = sorted({item.video for item in questions if (item.video, item.interval) in clips})
    if shared:
        raise ValueError(
            f"Clips of {len(shared)} videos are in the training file and in the questions, such as {shared[0]}: a "
            "floor must not know the answers."
        )


def write_submission(path: str | Path, questions: Sequence[Question], answers: Sequence[str]) -> None:
    """Writes the fields of each question with its `answer`. The file gets its name when it is complete.

    A question that was not read from a file has the fields `video_id, video, question`.

    Args:
        path (`str | Path`): The file to write.
        questions (`Sequence[Question]`): The questions.
        answers (`Sequence[str]`): One answer per question.

    Raises:
        ValueError: a question has no answer or an empty one; names the first.
    """
    if len(answers) != len(questions):
        raise ValueError(
            f"{len(questions)} questions and {len(answers)} answers: a submission needs one answer per question."
        )
    lines = []
    for question, answer in zip(questions, answers, strict=True):
        if not answer or not answer.strip():
            raise ValueError(f"Question {question.question!r} of {question.name} cannot be answered.")
        known = {"video_id": question.video_id, "video": question.video, "question": question.question}
        entry = {**(question.fields or known), "answer": answer}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """Computes the track's metrics: UF1 and UAR of the coarse and the fine class, BLEU and ROUGE-1 over all answers.

    The label lists are the classes named in the references. An answer that does not name exactly one class is wrong.
    Class metrics are `None` if no question asks for the class.

    Raises:
        ValueError: a question has no reference answer, or a reference class cannot be read.
    """
    unknown = next((item for item in questions if item.answer is None), None)
    if unknown is not None:
        raise ValueError(f"{unknown.video_id}: {unknown.question!r} has no reference answer to score against.")
    if len(answers) != len(questions):
        raise ValueError(f"{len(questions)} questions and {len(answers)} answers: expected one each.")
    figures: dict[str, Any] = {"questions": len(questions)}
    for name, task, phrase in (("coarse", "me_vqa_coarse", COARSE), ("fine", "me_vqa_fine", FINE)):
        asked = [index for index, item in enumerate(questions) if _asks_for(item.question, phrase)]
        true = [_class_of(task, questions[index].question, questions[index].answer) for index in asked]
        if None in true:
            item = questions[asked[true.index(None)]]
            raise ValueError(f"{item.video_id}: the reference {item.answer!r} does not name a {phrase}.")
        predicted = [_class_of(task, questions[index].question, answers[index]) for index in asked]
        labels = sorted(set(true))
        predicted = [value if value in labels else None for value in predicted]
        scores = emotion_metrics(true, predicted, labels) if asked else {}
        figures |= {f"uf1_{name}": scores.get("uf1"), f"uar_{name}": scores.get("uar"), f"clips_{name}": len(asked)}
    texts = text_metrics([item.answer for item in questions], answers)
    return figures | {"bleu": texts["bleu"], "rouge1": texts["rouge1"]}


def _asks_for(question: str, phrase: str) -> bool:
    return phrase in question and "action unit" not in question


def _class_of(task: str, question: str, answer: str) -> str | None:
    try:
        facts = parse_facts(task, question, answer.strip().rstrip("."))
    except UnreadableAnswerError:
        return None
    ((_, word),) = facts
    return word


def answer_questions(
    questions: Sequence[Question], videos: str | Path, checkpoint: str | Path, *, max_new_tokens: int = 128
) -> list[str]:
    """Answers questions with a trained model. Each clip is read and recognised once.

    Args:
        questions (`Sequence[Question]`): The questions.
        videos (`str | Path`): Folder that contains the `video` of every question, as a file or a folder of frames.
        checkpoint (`str | Path`): Folder or Hub repository of the model.
        max_new_tokens (`int`, *optional*, defaults to `128`): Maximum length of an answer in tokens.

    Raises:
        FileNotFoundError: a video does not exist. This and the next two are raised before the model is loaded.
        VideoReadError: a video cannot be read.
        ValueError: an interval is not inside its video; names the question.
    """
    import torch

    from .generation import generate_answers, load_checkpoint

    paths = {item.video: Path(videos) / item.video for item in questions}
    lost = next((path for path in paths.values() if not path.exists()), None)
    if lost is not None:
        raise FileNotFoundError(f"{lost} does not exist; --videos must be the folder that contains the videos.")
    readers = {video: open_clip(path) for video, path in paths.items()}
    clips = {
        (item.video, item.interval): _positions(item, paths[item.video], len(readers[item.video]))
        for item in questions
    }
    model, processor = load_checkpoint(checkpoint)
    answers: dict[int, str] = {}
    for clip, positions in clips.items():
        if positions is None:
            tensors = processor.video_processor(str(paths[clip[0]]), return_tensors="pt")
        else:
            tensors = _clip_tensors(processor.video_processor, readers[clip[0]], *positions)
        tensors = tensors.to(model.device)
        tensors = {name: tensors[name] for name in ("pixel_values_videos", "flow_values_videos") if name in tensors}
        with torch.inference_mode():
            seen = model.model(**tensors)
        for index, item in enumerate(questions):
            if (item.video, item.interval) == clip:
                (answers[index],) = generate_answers(model, processor, tensors, [item.question], max_new_tokens, seen)
    return [answers[index] for index in range(len(questions))]


def _positions(question: Question, path: Path, count: int) -> tuple[int, int] | None:
    """Positions of the question's interval among the frames of its video."""
    if question.interval is None:
        return None
    numbers = list(folder_series(path).frames) if path.is_dir() else range(count)
    missing = [number for number in question.interval if number not in numbers]
    if missing:
        raise ValueError(
            f"{question.name}: frame {missing[0]} is not in {path}, which has frames {numbers[0]} to "
            f"{numbers[-1]}. Correct onset_frame and offset_frame, or --videos."
        )
    first, last = map(numbers.index, question.interval)
    return first, last


def _clip_tensors(video_processor: Any, reader: ClipReader, onset: int, offset: int) -> Any:
    """What the processor makes of the frames `onset` to `offset` of a video.

    As in training, the apex is spotted if it is not known, and frames before the onset help to measure the motion.
    """
    start = max(0, onset - LEAD_IN)
    # Arrays, because the processor may be a model's own code, which does not know this package's classes.
    frames = reader.frames(range(start, offset + 1))
    rate = {} if reader.metadata.fps is None else {"fps": reader.metadata.fps}
    try:
        spotted = video_processor(
            frames[onset - start :], return_metadata=True, do_estimate_flow=False, do_crop_appearance=False, **rate
        )
        (known,) = spotted["video_metadata"]
        apex = onset + known.frames_indices[video_processor.num_frames // 2]
        keys = (onset - start, apex - start, offset - start)
        return video_processor(frames, key_frames=keys, return_tensors="pt", **rate)
    except ValueError as error:
        span = _span((onset, offset))
        raise ValueError(f"{reader.name}, frames at the positions {span}, counted from 0: {error}") from error
