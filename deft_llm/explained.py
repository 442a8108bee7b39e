"""Explains clips, or every expression that is found in a video, and keeps what is needed to show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deft_llm.clips import check_clips, load_explainer

if TYPE_CHECKING:
    from deft_llm.processing.aligned_clip import AlignedClip, Stretch
    from deft_llm.processing.key_frames import KeyFrames
    from deft_llm.processing.region_tracking import FollowedFrame
    from deft_llm.processing.spotting import Interval

NO_EXPRESSION = "no expression was found in the video"
NO_FACE = "no face was found"


@dataclass(frozen=True, eq=False)
class MovedRegion:
    """A region that moves farther than the noise of the clip.

    Args:
        region: Name of the region.
        side: left or right; the person's own side.
        course: (frames, 2), its motion since the onset in each sampled frame, in percent of the crop's width, +x to
            the right of the picture, +y down. The first row, the onset, is zero.
        standard_error: Of the motion along each axis, in percent of the crop's width.
        direction: In words, as the report has it.
    """

    region: str
    side: str
    course: np.ndarray
    standard_error: float
    direction: str

    @property
    def farthest(self) -> np.ndarray:
        """(2,) the motion in the frame in which the region moves farthest. The direction in words is that of this
        motion."""
        return self.course[int(np.hypot(*self.course.T).argmax())]

    @property
    def magnitude(self) -> float:
        """Length of `farthest`."""
        return float(np.hypot(*self.farthest))


@dataclass(frozen=True, eq=False)
class Explained:
    """One explanation: of a clip, or of an interval of a video.

    Args:
        report: The `ExpressionReport` as JSON data.
        report_text: The report as text.
        generated_text: The answer of the language model.
        frames_indices: The sampled frames; empty if no frame could be measured.
        key_frames: Onset, apex and offset, or `None` if the clip cannot be measured.
        moved: The regions that move, the one that moves farthest first.
    """

    report: dict[str, Any]
    report_text: str
    generated_text: str = ""
    frames_indices: list[int] = field(default_factory=list)
    key_frames: KeyFrames | None = None
    moved: tuple[MovedRegion, ...] = ()


@dataclass(frozen=True, eq=False)
class ExplainedVideo:
    """A video with its explanations.

    Args:
        source: As the caller named it.
        clip: The video with its face placed.
        followed: Head and regions in every frame.
        explained: One explanation, or one per expression that was found in the video.
        spotted: Whether expressions were looked for, so that `explained` is about intervals.
        intervals: The expressions, blinks and speech that were found, if they were looked for.
        stretches: What cannot be measured, each with its reason.
    """

    source: str
    clip: AlignedClip
    followed: Sequence[FollowedFrame]
    explained: list[Explained]
    spotted: bool = False
    intervals: list[Interval] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)

    @property
    def fps(self) -> float | None:
        """Frames per second, or `None` if nobody has said."""
        return self.clip.fps


def explain_videos(
    sources: Sequence[str],
    model: str,
    *,
    revision: str | None = None,
    convention: str | None = None,
    question: str | None = None,
    face_source: str | None = None,
    max_new_tokens: int | None = None,
    fps: float | None = None,
    spot: bool = False,
    longest: float = 1.0,
) -> Iterator[ExplainedVideo]:
    """Explains clips, or the expressions in videos, one video after the other.

    Args:
        sources: Videos, folders of frames or URLs.
        model: Folder or Hub repository of a trained model.
        revision: Branch, tag or commit of the repository.
        convention: Label convention to answer in; by default the mean of the model's conventions.
        question: Question that replaces the default one, which asks for Class, Evidence and Rationale.
        face_source: Face finder; by default that of the model's processor.
        max_new_tokens: Longest answer, in tokens.
        fps: Frames per second of videos that do not state them.
        spot: Whether to look for expressions in each video and to explain each of them.
        longest: Longest expression to look for, in seconds from onset to offset.

    Yields:
        Each video with its explanations.

    Raises:
        FileNotFoundError: A video or the model does not exist.
        ValueError: A video cannot be read, or an option does not fit the model.
    """
    check_clips(sources)
    pipe = load_explainer(model, revision=revision)
    options = {"convention": convention, "text": question, "max_new_tokens": max_new_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    for source in sources:
        yield explain_video(
            pipe, source, face_source=face_source, fps=fps, longest=longest if spot else None, options=options
        )


def explain_clips(clips: Sequence[str], model: str, **options: Any) -> Iterator[dict[str, Any]]:
    """Explains clips, one after the other.

    Args:
        clips: Videos, folders of frames or URLs.
        model: Folder or Hub repository of a trained model.
        **options: As for `explain_videos`, without `spot` and `longest`.

    Yields:
        For each clip its name and what the pipeline returns: `report`, `report_text`, `generated_text` and
        `frames_indices`.

    Raises:
        FileNotFoundError: A clip or the model does not exist.
        ValueError: A clip cannot be read, or an option does not fit the model.
    """
    yield from map(as_result, explain_videos(clips, model, **options))


def as_result(video: ExplainedVideo) -> dict[str, Any]:
    """The one explanation of a clip as the pipeline returns it, with the clip's name."""
    (found,) = video.explained
    return {
        "clip": video.source,
        "report": found.report,
        "report_text": found.report_text,
        "generated_text": found.generated_text,
        "frames_indices": found.frames_indices,
    }


def explain_video(
    pipe: Any,
    source: Any,
    *,
    face_source: str | None = None,
    fps: float | None = None,
    longest: float | None = None,
    options: dict[str, Any] | None = None,
) -> ExplainedVideo:
    """Explains a clip, or every expression in a video.

    Args:
        pipe: A `DeftVideoTextToTextPipeline`.
        source: Whatever `open_clip` reads.
        face_source: Face finder; by default that of the pipeline's processor.
        fps: Frames per second, if the source does not state them.
        longest: Longest expression to look for, in seconds. By default, the source is one clip with one expression.
        options: Further arguments of the pipeline: `text`, `convention`, `max_new_tokens`.

    Raises:
        FileNotFoundError: The video does not exist.
        ValueError: The video cannot be read, its frame rate is not known and expressions are looked for, or an option
            does not fit the model.
    """
    from deft_llm.processing.aligned_clip import NotMeasurableError, not_measurable
    from deft_llm.processing.key_frames import KeyFrames

    steps = pipe._sanitize_parameters(**(options or {}))
    clip, followed = _followed(pipe, source, face_source, fps)
    if len(clip) < 2:
        pipe.preprocess(clip)  # says that motion needs two frames
    if longest is not None and not clip.fps:
        raise ValueError(f"{clip.name} does not state a frame rate; pass --fps (frames per second).")
    intervals, stretches = [], clip.stretches(followed)
    if longest is not None:
        intervals, stretches = clip.intervals_and_stretches(longest=longest, followed=followed)
    shown = [KeyFrames.of_interval(item) for item in intervals if item.kind == "expression"]
    try:
        if longest is None:
            shown = [clip.key_frames or clip.spot(followed)]
        elif not shown:
            clip.spot(followed)  # says why if nothing can be measured
        explained = [_explain(pipe, clip.at(keys, followed), keys, steps) for keys in shown]
    except NotMeasurableError as error:
        reason = str(error).removeprefix(f"{clip.name}: ").removesuffix(".")
        explained = [_not_measured(pipe, reason)]
    return ExplainedVideo(
        source=source if isinstance(source, str) else clip.name,
        clip=clip,
        followed=followed,
        explained=explained or [_nothing_found()],
        spotted=longest is not None,
        intervals=intervals,
        stretches=not_measurable(stretches, clip.fps or 0.0),
    )


def _followed(pipe: Any, source: Any, face_source: str | None, fps: float | None) -> tuple[AlignedClip, list]:
    """The clip with its face placed, and its face in every frame. Without a face, every frame says so."""
    from deft_llm.processing.aligned_clip import AlignedClip
    from deft_llm.processing.face_alignment import NoFaceFoundError
    from deft_llm.processing.head_motion import STILL
    from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame
    from deft_llm.processing.video_reading import open_clip

    processor = pipe.processor.video_processor
    reader = open_clip(source, fps=fps or processor.fps)
    try:
        clip = AlignedClip.open(reader, face_source=face_source or processor.face_source, fps=fps or processor.fps)
    except NoFaceFoundError:
        clip = AlignedClip.open(reader, face_source="canonical", fps=fps or processor.fps)
        nothing = np.zeros((len(TRACKED_REGIONS), 2), np.float32)
        return clip, [FollowedFrame(nothing, NO_FACE, STILL, clip.transform)] * len(clip)
    return clip, list(clip.follow())


def _explain(pipe: Any, clip: AlignedClip, keys: KeyFrames, steps: tuple[dict, dict, dict]) -> Explained:
    """Explains a clip with key frames.

    Args:
        steps: The arguments of the pipeline's three steps.
    """
    before, between, after = steps
    outputs = pipe.forward(pipe.preprocess(clip, **before), **between)
    result = pipe.postprocess(outputs, **after)
    moved: tuple[MovedRegion, ...] = ()
    if result["report"]["status"] != "not_measurable":
        flow = outputs["flow_values_videos"][0].float().numpy()
        deviation = outputs["flow_deviation"]
        moved = moved_regions(flow, None if deviation is None else deviation[0].float().numpy())
    return Explained(
        report=result["report"],
        report_text=result["report_text"],
        generated_text=result["generated_text"],
        frames_indices=result["frames_indices"],
        key_frames=keys,
        moved=moved,
    )


def moved_regions(flow: np.ndarray, deviation: np.ndarray | None) -> tuple[MovedRegion, ...]:
    """The regions that move farther than the noise, as the report counts them, the one that moves farthest first.

    Args:
        flow: (T, 2, h, w), the motion since the onset in percent of the crop's width.
        deviation: (T, h, w), standard deviation of the flow's error, or `None` if it is not known.
    """
    from deft_llm.processing.motion_evidence import measure_motion, region_courses

    courses = region_courses(flow)
    return tuple(
        MovedRegion(
            region=motion.region,
            side=motion.side,
            course=np.concatenate([np.zeros((1, 2), np.float32), courses[motion.region, motion.side]]),
            standard_error=motion.standard_error,
            direction=motion.direction,
        )
        for motion in measure_motion(flow, deviation=deviation)
        if motion.significant
    )


def _not_measured(pipe: Any, reason: str) -> Explained:
    from deft_llm.processing.expression_report import ExpressionReport, format_answer

    report = ExpressionReport.not_measurable(reason)
    report.text = format_answer(report, fields=pipe.processor.answer_fields)
    return Explained(report.to_dict(), str(report), report.text)


def _nothing_found() -> Explained:
    """The report of a video in which no expression was found, so that it does not go missing from a table."""
    from deft_llm.processing.expression_report import INSUFFICIENT, ExpressionReport

    report = ExpressionReport(status=INSUFFICIENT, reason=NO_EXPRESSION)
    return Explained(report.to_dict(), f"{'Class':<10} {NO_EXPRESSION}")
