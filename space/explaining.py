"""Compute everything that the page shows about a clip. This module does not depend on the page.

The deft-llm package is not needed. The model's own code is loaded with `trust_remote_code`, and the modules for
reading and spotting are imported from the model's folder.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import StoppingCriteriaList, TextIteratorStreamer

from timeline import Shelf, Watched, strongest_course, watch

MAX_SECONDS, MAX_FRAMES, MAX_MEGABYTES = 10.0, 3000, 100  # of one clip; megabytes of any file
MAX_VIDEO_SECONDS, MAX_VIDEO_FRAMES = 120.0, 24000  # of a video with a timeline
MAX_HELD, HELD_SECONDS = 8, 600  # videos in memory, of all visitors; seconds after the last use
LEAST_RATE, MOST_RATE = 10, 2000  # frames per second, for expressions to be looked for
MAX_QUESTION, MAX_ANSWER = 300, 200  # characters; tokens
CROP = 256  # pixels, side of the pictures shown
FACE_CHOICES = ("find", "crop")
_MODULES = (  # of the model's own code
    "action_units aligned_clip common_deft expression_report face_alignment key_frames motion_evidence "
    "motion_intervals motion_signals region_tracking video_reading"
).split()
# The model's crop is this much larger and lower than the box of OpenCV's frontal-face cascade.
_CASCADE_SCALE, _CASCADE_SHIFT = 1.18, 0.06
_SEARCHES = 40  # frames in which a face is looked for where the first one has none


class ClipProblem(ValueError):  # noqa: N818  not an error of the program
    """A request that cannot be answered. The message is shown to the visitor.

    Args:
        message: What is wrong and what to do.
        status: HTTP status.
    """

    def __init__(self, message: str, status: int = 422):
        super().__init__(message)
        self.status = status


class NoFace(ClipProblem):
    """The picture shows no face."""


@dataclass(frozen=True)
class Moved:
    """A region that moves above the noise of the clip.

    Args:
        ellipse: Its centre and radii in the unit square of the face crop.
        course: (n, 2), its motion since the onset in the frames that the model saw, in percent of the face's width.
    """

    ellipse: tuple[float, ...]
    course: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """The results for a clip. If the clip cannot be measured, the report says why, and arrays and lists are empty.

    Args:
        report: The `ExpressionReport` as JSON data.
        answer: Text that the model generated.
        frames: (n, CROP, CROP, 3) uint8, the aligned crops that the model saw.
        indices: (n,) frame numbers of `frames`.
        film: (T', CROP, CROP, 3) uint8, crops from shortly before the onset to shortly after the offset.
        film_indices: (T',) frame numbers of `film`.
        fps: Frames per second; `None` if not known.
        keys: Frame numbers of onset, apex and offset; `None` if no stretch of the clip can be measured.
        motion: (T,) motion of the region that moves most, along its direction, in percent of the face's width.
        first: Number of the frame with which `motion` begins.
        region: Name of that region.
        flow: (2, h, w), flow from onset to apex in percent of the face's width.
        units: Code, name and probability of each action unit.
        attention: (units, g, g), which sums to 1 for each unit.
        experts: Title → weight in the emotion.
        notes: Notes for the visitor.
        seconds: Duration of the computation.
        conversation: Answers questions about the clip; `None` if it cannot be measured, or the model has none.
        moved: The regions that move above the noise.
        title: What is explained, for the visitor; empty for a clip.
        interval: Number of the interval of the video, from 1; `None` for a clip.
    """

    report: dict[str, Any]
    answer: str = ""
    frames: np.ndarray = field(default_factory=partial(np.zeros, (0, CROP, CROP, 3), np.uint8))
    indices: list[int] = field(default_factory=list)
    film: np.ndarray = field(default_factory=partial(np.zeros, (0, CROP, CROP, 3), np.uint8))
    film_indices: list[int] = field(default_factory=list)
    fps: float | None = None
    keys: tuple[int, int, int] | None = None
    motion: np.ndarray = field(default_factory=partial(np.zeros, 0))
    region: str = ""
    flow: np.ndarray = field(default_factory=partial(np.zeros, (2, 0, 0)))
    units: list[tuple[str, str, float]] = field(default_factory=list)
    attention: np.ndarray = field(default_factory=partial(np.zeros, (0, 0, 0)))
    experts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    conversation: Any = None
    moved: list[Moved] = field(default_factory=list)
    first: int = 0
    title: str = ""
    interval: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The report, key frames and scores as JSON data."""
        keys = None
        if self.keys is not None:
            keys = {**dict(zip(("onset", "apex", "offset"), self.keys, strict=True)), "fps": self.fps}
        measurable = self.report["status"] != "not_measurable"
        return {
            **self.report,
            "scores": {name: round(score, 4) for name, score in self.report["scores"].items()},
            "key_frames": keys,
            "frames_indices": self.indices,
            "action_unit_scores": {code: round(score, 4) for code, _, score in self.units if measurable},
            "experts": {name: round(weight, 4) for name, weight in self.experts.items() if measurable},
            "notes": self.notes,
        }


class Explainer:
    """Explains clips with a model, which is loaded when it is first needed. It can be shared by threads.

    Args:
        model: Folder or Hub repository.
        revision: Revision of the repository.
        finder: "auto" (YuNet; if it is missing, OpenCV's cascade; if that is missing, none), "cascade", "none", or a
            `face_source` of the model's processor such as "yunet:PATH".
        max_new_tokens: Longest answer in tokens.
    """

    def __init__(self, model: str, *, revision: str | None = None, finder: str = "auto", max_new_tokens: int = 384):
        self.model, self.revision, self.finder, self.max_new_tokens = model, revision, finder, max_new_tokens
        self._pipe: Any = None
        self._problem: tuple[float, ClipProblem] | None = None
        self._loading, self._running = threading.Lock(), threading.Lock()
        self._shelf = Shelf(MAX_HELD, HELD_SECONDS)
        self._missing: set[str] = set()  # face finders

    def load(self) -> Any:
        """Loads the pipeline, or returns the loaded one.

        Raises:
            ClipProblem: The model cannot be loaded (status 503). Calls within 30 seconds raise the same error again.
        """
        with self._loading:
            if self._pipe is None:
                if self._problem is not None and time.monotonic() - self._problem[0] < 30:
                    raise self._problem[1]
                try:
                    self._pipe = self._load()
                # The Hub's client, transformers and the model's code raise many kinds of errors.
                except Exception as error:
                    problem = ClipProblem(_loading_problem(self.model, error), 503)
                    self._problem = (time.monotonic(), problem)
                    raise problem from error
            return self._pipe

    def _load(self) -> Any:
        from transformers import pipeline

        device = 0 if torch.cuda.is_available() else -1
        pipe = pipeline(
            "video-text-to-text", model=self.model, revision=self.revision, trust_remote_code=True, device=device
        )
        pipe.model.eval()
        # The modules in the folder of the video processor, where transformers has put the model's code.
        beside = type(pipe.processor.video_processor).__module__.rpartition(".")[0]
        self._code = SimpleNamespace(**{name: importlib.import_module(f"{beside}.{name}") for name in _MODULES})
        # Models that were pushed before there were conversations have no such module.
        of_pipeline = type(pipe).__module__.rpartition(".")[0]
        self._talks = (
            importlib.import_module(f"{of_pipeline}.conversation_deft") if hasattr(pipe, "conversation") else None
        )
        return pipe

    def explain(
        self,
        path: str,
        face: str = "find",
        progress: Callable[[float, str], None] = lambda share, what: None,
        *,
        timeline: bool = False,
    ) -> Any:
        """Explains a clip, an `Explanation`. With `timeline`, finds what there is in a video that is longer than a
        clip, a `Watched`.

        Args:
            path: Video file.
            face: "find" to look for the face in the first frame, "crop" if the frames are face crops.
            progress: Called with the finished share of the work and the name of the next step.
            timeline: Whether more than one expression is looked for where the model's code no longer takes the video
                for a clip of one.

        Raises:
            ClipProblem: Neither is possible. The message says why.
        """
        if face not in FACE_CHOICES:
            raise ClipProblem(f"The face must be one of {', '.join(FACE_CHOICES)}.", 400)
        progress(0.02, "Loading the model")
        pipe = self.load()
        if os.path.isfile(path) and not os.path.getsize(path):
            raise ClipProblem("This file is empty.", 415)
        started = time.monotonic()
        with self._reading_problems():
            progress(0.1, "Reading the clip")
            reader = self._code.video_reading.open_clip(path)
            fps = reader.metadata.fps
            longest = getattr(self._code.key_frames, "CLIP_SECONDS", np.inf)  # older models have no such limit
            if timeline and fps and len(reader) > longest * fps:
                _check_length(len(reader), fps, MAX_VIDEO_SECONDS, MAX_VIDEO_FRAMES)
                # From bytes, because the file is deleted when this is done.
                reader = self._code.video_reading.open_clip(Path(path).read_bytes())
                return self._watch(reader, face, progress, started)
            _check_length(len(reader), fps, MAX_SECONDS, MAX_FRAMES)
            with self._running, torch.inference_mode():
                return self._explain_clip(pipe, reader, face, progress, started)

    @contextmanager
    def _reading_problems(self) -> Iterator[None]:
        """Raises `ClipProblem` for what cannot be read."""
        try:
            yield
        except self._code.video_reading.VideoReadError as error:
            raise ClipProblem(_reading_problem(error), 415) from error
        except self._code.face_alignment.FaceAlignmentError as error:
            raise ClipProblem("No face was found in the first frame.") from error

    def _explain_clip(self, pipe: Any, reader: Any, face: str, progress: Callable, started: float) -> Explanation:
        notes: list[str] = []
        clip = self._code.aligned_clip.AlignedClip(reader, self._placed(reader.frames([0])[0], face, notes))
        progress(0.25, "Looking for the moment it moves")
        followed = list(clip.follow())
        try:
            found = clip.spot(followed)
        except self._code.aligned_clip.NotMeasurableError as error:
            reason = str(error).removeprefix(f"{clip.name}: ").removesuffix(".")
            report = self._code.expression_report.ExpressionReport.not_measurable(reason).to_dict()
            return Explanation(report, fps=clip.fps, notes=notes, seconds=time.monotonic() - started)
        motion = np.stack([frame.motion for frame in followed])
        return self._explain(pipe, clip.at(found, followed), found, motion, 0, notes, progress, started)

    def _watch(self, reader: Any, face: str, progress: Callable, started: float) -> Watched:
        fps = reader.metadata.fps
        if not LEAST_RATE <= fps <= MOST_RATE:
            raise ClipProblem(
                f"This video has {fps:g} frames per second; a face can be followed at {LEAST_RATE} to {MOST_RATE}."
            )
        progress(0.12, "Looking for the face")
        placed_in, transform = self._first_face(reader, face, notes := [])
        find = None if face == "crop" else self._face_again
        clip = self._code.aligned_clip.AlignedClip(reader, transform, placed_in=placed_in, find=find)
        followed = []
        for frame in clip.follow():
            if len(followed) % 50 == 0:
                progress(0.15 + 0.75 * len(followed) / len(clip), "Following the face")
            followed.append(frame)
        progress(0.92, "Looking for expressions")
        watched = watch(clip, followed, self._code)
        watched.notes, watched.seconds = notes, time.monotonic() - started
        self._shelf.use(watched)
        return watched

    def explain_interval(
        self, watched: Watched, number: int, progress: Callable[[float, str], None] = lambda share, what: None
    ) -> Explanation:
        """Explains an expression of a video.

        Args:
            watched: The video.
            number: Which of `watched.choices`.
            progress: As in `explain`.

        Raises:
            ClipProblem: There is no such expression, or the video is no longer in memory.
        """
        choices, started = watched.choices, time.monotonic()
        if not choices:
            raise ClipProblem("The video is no longer in memory. Upload it again to explain its expressions.", 410)
        if not 0 <= number < len(choices):
            raise ClipProblem(f"There is no expression {number + 1} in this video; it has {len(choices)}.", 400)
        self._shelf.use(watched)
        clip, keys = choices[number]
        pipe = self.load()
        room = max(keys.offset - keys.onset, round(watched.fps / 2))
        first = max(keys.onset - room, 0)
        motion = watched.motion[first : keys.offset + room + 1]
        with self._reading_problems(), self._running, torch.inference_mode():
            found = self._explain(pipe, clip, keys, motion, first, [], progress, started)
        return replace(found, title=watched.title(number), interval=number + 1)

    def _explain(
        self,
        pipe: Any,
        clip: Any,
        key_frames: Any,
        tracked: np.ndarray,
        first: int,
        notes: list[str],
        progress: Callable,
        started: float,
    ) -> Explanation:
        """Explains a clip with key frames. `tracked` is the motion of its regions from frame `first` on."""
        keys = (key_frames.onset, key_frames.apex, key_frames.offset)
        regions = self._code.region_tracking.TRACKED_REGIONS
        motion, region = strongest_course(tracked, [key - first for key in keys], regions)
        progress(0.45, "Measuring the motion")
        inputs = pipe.preprocess(clip)
        progress(0.65, "Writing the explanation")
        outputs = pipe.forward(inputs, generate_kwargs={"max_new_tokens": self.max_new_tokens})
        result = pipe.postprocess(outputs)
        if result["report"]["status"] == self._code.expression_report.NOT_MEASURABLE:
            elapsed = time.monotonic() - started
            return Explanation(result["report"], fps=clip.fps, keys=keys, notes=notes, seconds=elapsed)
        progress(0.9, "Drawing")
        processor, common = pipe.processor, self._code.common_deft
        apex = processor.video_processor.num_frames // 2
        weights = outputs["au_attentions"][0].float().sum(1)
        grid = round(weights.shape[-1] ** 0.5)
        names = {unit["code"]: unit["name"] for unit in result["report"]["action_units"]}
        scores = outputs["au_logits"][0].float().sigmoid().tolist()
        indices = result["frames_indices"]
        film = _film_frames(keys, len(clip), indices)
        crops = dict(zip(film, clip.crops(CROP, film), strict=True))
        return Explanation(
            report=result["report"],
            answer=result["generated_text"],
            frames=np.stack([crops[index] for index in indices]),
            indices=indices,
            film=np.stack(list(crops.values())),
            film_indices=film,
            fps=clip.fps,
            keys=keys,
            motion=motion,
            region=region,
            flow=outputs["flow_values_videos"][0, apex - 1].float().numpy(),
            units=[
                (code, names.get(code) or self._code.action_units.get_action_unit(code).name, score)
                for code, score in zip(processor.action_units, scores, strict=True)
            ],
            attention=weights.reshape(len(weights), grid, grid).cpu().numpy(),
            experts={
                common.EXPERT_TITLES[name].lower(): weight
                for name, weight in zip(common.EXPERTS, outputs["expert_gates"][0].tolist(), strict=True)
            },
            notes=notes,
            seconds=time.monotonic() - started,
            conversation=None if self._talks is None else self._talks.Conversation(pipe, [inputs]),
            moved=self._moved(outputs),
            first=first,
        )

    def _moved(self, outputs: Any) -> list[Moved]:
        """The regions that move above the noise, as the report counts them."""
        flow = outputs["flow_values_videos"][0].float().cpu().numpy()
        deviation = outputs.get("flow_deviation")
        known = {} if deviation is None else {"deviation": deviation[0].float().cpu().numpy()}
        masks = self._code.motion_evidence.region_masks(*flow.shape[2:])
        moved = []
        for motion in self._code.motion_evidence.measure_motion(flow, **known):
            if motion.significant:
                course = flow[:, :, masks[motion.region, motion.side]].mean(-1)
                ellipse = self._code.action_units.region_ellipse(motion.region, motion.side)
                moved.append(Moved(ellipse, np.concatenate([np.zeros((1, 2), np.float32), course])))
        return moved

    def ask(self, conversation: Any, question: str) -> Iterator[str]:
        """Answers a question about a clip that was explained.

        Args:
            conversation: `Explanation.conversation`.
            question: The question.

        Yields:
            The answer as far as it is written; the last one is whole.

        Raises:
            ClipProblem: The question cannot be answered. The message says why.
        """
        question = " ".join(question.split())
        if not question:
            raise ClipProblem("There is not a question yet: write one.", 400)
        if len(question) > MAX_QUESTION:
            raise ClipProblem(f"The question has {len(question)} characters; at most {MAX_QUESTION} are allowed.", 413)
        streamer = TextIteratorStreamer(conversation.pipeline.processor.tokenizer, skip_special_tokens=True)
        left = threading.Event()  # set if the visitor goes, so that the model does not write on
        options = {
            "streamer": streamer,
            "stopping_criteria": StoppingCriteriaList(
                [lambda tokens, scores, **_: torch.full((len(tokens),), left.is_set(), device=tokens.device)]
            ),
        }
        with self._running, ThreadPoolExecutor(1) as thread:
            answer = thread.submit(conversation.ask, question, max_new_tokens=MAX_ANSWER, **options)
            answer.add_done_callback(lambda _: streamer.end())  # also after an error
            written = ""
            try:
                for piece in streamer:
                    written += piece
                    yield written
                yield answer.result()
            except ValueError as error:
                raise ClipProblem(str(error)) from error
            finally:
                left.set()

    def _first_face(self, reader: Any, face: str, notes: list[str]) -> tuple[int, np.ndarray]:
        """The first frame with a face, of some evenly spread ones, and the transform from it to the face crop."""
        for index in np.unique(np.linspace(0, len(reader) - 1, _SEARCHES + 1).astype(int)).tolist():
            try:
                return index, self._placed(reader.frames([index])[0], face, notes, index)
            except (NoFace, self._code.face_alignment.FaceAlignmentError):
                continue
        raise NoFace("No face was found in this video. Use one in which one face looks into the camera.")

    def _face_again(self, frame: np.ndarray) -> np.ndarray | None:
        try:
            return self._placed(frame, "find", [])
        except (ClipProblem, self._code.face_alignment.FaceAlignmentError):
            return None

    def _placed(self, frame: np.ndarray, face: str, notes: list[str], index: int = 0) -> np.ndarray:
        """The transform from the frames to the face crop, (2, 3), by the face in frame `index`."""
        height, width = frame.shape[:2]
        where = f"frame {index}" if index else "the first frame"
        if face == "crop":
            transform, remark = self._code.face_alignment.placed_crop(frame)
            if remark is not None:
                notes.append(remark.partition(";")[0].capitalize() + ".")
            return transform
        for name in self._finders():
            try:
                if name == "cascade":
                    found = _cascade_faces(frame)
                    boxes = [(box, None) for box in found]
                else:
                    points = self._code.face_alignment.make_face_source(name)(frame)
                    boxes = [((*three.min(0), np.ptp(three, axis=0).max()), three) for three in points]
            except (FileNotFoundError, ImportError, ValueError, cv2.error, AttributeError) as error:
                # The finder's model is missing, or this OpenCV does not have it: try the next finder, and do not ask
                # for it again in a video's every lost frame.
                if isinstance(error, (FileNotFoundError, ImportError, AttributeError)):
                    self._missing.add(name)
                if name == self._finders()[-1]:
                    notes.append(f"No face finder is available ({type(error).__name__}); the whole picture was used.")
                continue
            largest = max((box[2] for box, _ in boxes), default=0)
            boxes = [item for item in boxes if item[0][2] > 0.4 * largest]
            if not boxes:
                raise NoFace(
                    f"No face was found in {where}. Use a clip in which one face looks into the camera, or "
                    "choose “The picture is a face” if it shows only the face."
                )
            if len(boxes) > 1:
                raise ClipProblem(
                    f"{len(boxes)} faces were found in {where}. Crop the clip so that it shows one person."
                )
            (left, top, side), points = boxes[0]
            if points is not None:
                return self._code.face_alignment.crop_transform(height, width, landmarks=points)
            middle = abs(left + side / 2 - width / 2) + abs(top + side / 2 - height / 2)
            if side > 0.8 * min(height, width) and middle < 0.25 * min(height, width):
                return self._code.face_alignment.crop_transform(height, width)  # a face crop already
            notes.append("The face was found with OpenCV's cascade, which is less exact than YuNet.")
            return np.array([[1 / side, 0, -left / side], [0, 1 / side, -top / side]])
        return self._code.face_alignment.crop_transform(height, width)

    def _finders(self) -> list[str]:
        names = {"auto": ["yunet", "cascade"], "none": []}.get(self.finder, [self.finder])
        return [name for name in names if name not in self._missing] or names[-1:]


def _check_length(frames: int, fps: float | None, most_seconds: float, most_frames: int) -> None:
    """Refuses what is too long or too short, before anything is measured."""
    seconds = frames / fps if fps else 0
    if seconds > most_seconds:
        hours, minutes = divmod(round(seconds / 60), 60)
        told = f"{hours} h {minutes} min" if hours else f"{minutes} minutes"
        told = told if seconds >= 90 else f"{seconds:.0f} seconds"
        raise ClipProblem(
            f"This video is {told} long; at most {most_seconds:.0f} seconds are allowed, so cut it to the moment you "
            "want explained.",
            413,
        )
    if frames > most_frames:
        raise ClipProblem(f"This clip has {frames} frames; at most {most_frames} are allowed. Make it shorter.", 413)
    if frames < 8:
        raise ClipProblem(
            "This is a single picture; motion needs a clip."
            if frames == 1
            else f"This clip has only {frames} frames; at least 8 are needed.",
        )


def _film_frames(keys: tuple[int, int, int], count: int, sampled: list[int]) -> list[int]:
    """The frames of the film: at most 120, from shortly before the onset to shortly after the offset."""
    start, stop = max(0, keys[0] - 12), min(count - 1, keys[2] + 12)
    some = np.linspace(start, stop, min(120, stop - start + 1)).round().astype(int)
    return sorted({*some.tolist(), *sampled})


def _cascade_faces(frame: np.ndarray) -> list[tuple[float, float, float]]:
    """Finds faces with OpenCV's frontal-face cascade.

    Args:
        frame: (H, W, 3) uint8 RGB.

    Returns:
        (left, top, side) of the square crop of each face, in pixels.

    Raises:
        AttributeError: OpenCV does not have cascades (version 5).
        FileNotFoundError: The cascade's file is missing.
    """
    path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
    if not path.is_file():
        raise FileNotFoundError(path.name)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    shrink = min(1.0, 480 / min(grey.shape))
    grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    # Faces that fill the frame are found only with a margin around them.
    margin = min(grey.shape) // 4
    grey = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    least = int(0.2 * min(grey.shape))
    found = []
    for x, y, width, _ in cv2.CascadeClassifier(str(path)).detectMultiScale(grey, 1.1, 6, minSize=(least, least)):
        side = _CASCADE_SCALE * width
        left, top = x + width / 2 - side / 2, y + width / 2 - side / 2 + _CASCADE_SHIFT * width
        found.append(((left - margin) / shrink, (top - margin) / shrink, side / shrink))
    return found


# By the names of the classes, which are those of the model's own code.
_READING_PROBLEMS = {
    "NotAVideoError": "This file is not a video that can be read. MP4, MOV, AVI, WebM and MKV usually work.",
    "VideoTooLargeError": "The pictures of this clip are too large. Scale it down to 1080 lines or fewer.",
    "DamagedVideoError": (
        "This clip is damaged or cut off, so its motion cannot be measured. Export it again and try again."
    ),
}


def _reading_problem(error: Exception) -> str:
    return _READING_PROBLEMS.get(type(error).__name__, "This clip cannot be read. Export it as MP4 and try again.")


def _loading_problem(model: str, error: BaseException) -> str:
    """Explains to a visitor why the model cannot be loaded. The text contains neither a path nor a token."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(item, kinds) for item in chain)

    status = next((item.response.status_code for item in chain if getattr(item, "response", None) is not None), None)
    name = f"The model {Path(model).name if os.path.exists(model) else model} cannot be loaded: "
    if caused_by(GatedRepoError) or status == 403:
        return name + "access must be requested, and this Space's token has none. Its owner must request access."
    if caused_by(RepositoryNotFoundError) or status == 404:
        return (
            name + "there is no such model, or it is private. The Space's owner must set DEFT_MODEL to a model that "
            "its token may read."
        )
    if status == 401:  # for every other reason than an invalid token, the client raises RepositoryNotFoundError
        return name + "the Hub does not accept this Space's token; it may have been revoked. Its owner must renew it."
    if caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError, httpx.TransportError):
        return name + "the Hugging Face Hub does not answer. Please try again in some minutes."
    return name + "its files do not fit this program. The Space's owner will find the details in the log."
