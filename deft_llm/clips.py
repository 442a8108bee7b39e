"""Load a model, chat about clips, measure and spot them; `deft_llm.explained` explains them."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np

    from deft_llm.processing.aligned_clip import Stretch
    from deft_llm.processing.region_tracking import FollowedFrame
    from deft_llm.processing.spotting import Interval

NO_MOTION = "No region moves above the noise of the clip."
NO_INTERVAL = "No expression, blink or speech was found."
_COLUMNS = ("kind", "onset", "apex", "offset", "onset_seconds", "offset_seconds", "score", "macro", "regions")


def load_explainer(model: str, *, revision: str | None = None) -> Any:
    """Loads the pipeline of a trained model with the code of the installed package. Remote code is not run.

    Args:
        model: Folder or Hub repository.
        revision: Branch, tag or commit of the repository.

    Returns:
        A `DeftVideoTextToTextPipeline`.

    Raises:
        FileNotFoundError: The folder does not exist, and a Hub repository of that name cannot be read.
        ValueError: The model is not a DEFT model.
    """
    import torch
    from transformers import PretrainedConfig

    from deft_llm.modeling_deft import DeftForConditionalGeneration, DeftVideoTextToTextPipeline
    from deft_llm.processing import DeftProcessor

    try:
        kind = PretrainedConfig.get_config_dict(model, revision=revision)[0].get("model_type")
        if kind != "deft":
            raise ValueError(
                f"{model} is not a DEFT model: the model_type in its config.json is {kind!r}. Pass a folder that "
                "`deft train` has written, or a Hub repository of one."
            )
        loaded = DeftForConditionalGeneration.from_pretrained(model, revision=revision)
        processor = DeftProcessor.from_pretrained(model, revision=revision)
    except OSError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise FileNotFoundError(
            f"--model {model}: the model cannot be read ({reason}). Pass a folder that `deft train` has written, or a "
            "Hub repository; for a private one log in with `hf auth login`."
        ) from error
    device = 0 if torch.cuda.is_available() else -1
    return DeftVideoTextToTextPipeline(model=loaded.eval(), processor=processor, device=device)


def chat_about_clips(
    clips: Sequence[str],
    model: str,
    questions: TextIO,
    *,
    revision: str | None = None,
    convention: str | None = None,
    face_source: str | None = None,
    max_new_tokens: int | None = None,
) -> None:
    """Explains one clip or two, and then answers questions about them; the answers are printed as they are generated.

    A question that cannot be answered, such as one about an action unit that does not exist, is refused on standard
    error, and the next one is read.

    Args:
        clips: One or two videos, folders of frames or URLs.
        model: Folder or Hub repository of a trained model.
        questions: One question per line, until an empty line or the end.
        revision: Branch, tag or commit of the repository.
        convention: Label convention to answer in; by default the mean of the model's conventions.
        face_source: Face finder; by default that of the model's processor.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        FileNotFoundError: A clip or the model does not exist.
        ValueError: There are more than two clips, a clip cannot be read, or an option does not fit the model.
    """
    if len(clips) > 2:
        raise ValueError(f"--chat is about one clip or two, got {len(clips)}.")
    check_clips(clips)

    from transformers import TextStreamer

    pipe = load_explainer(model, revision=revision)
    options = {"convention": convention, "face_source": face_source}
    options = {name: value for name, value in options.items() if value is not None}
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    conversation = pipe.conversation(list(clips), **options)
    for place, clip in enumerate(clips):
        title = f"{clip}\n" if len(clips) > 1 else ""
        print(f"{title}{conversation.explain(place, **limit)['report_text']}\n", flush=True)
    while True:
        if questions.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        question = questions.readline().strip()
        if not question:
            return
        streamer = TextStreamer(pipe.processor.tokenizer, skip_special_tokens=True)
        try:
            conversation.ask(question, streamer=streamer, **limit)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)


def measure_clips(
    clips: Sequence[str],
    *,
    face_source: str | None = None,
    key_frames: tuple[int, int, int] | None = None,
    fps: float | None = None,
    every_region: bool = False,
) -> Iterator[dict[str, Any]]:
    """Measures the motion of clips without a model.

    Args:
        clips: Videos, folders of frames or URLs.
        face_source: Face finder, as in `DeftVideoProcessor`; by default the frames are face crops.
        key_frames: Onset, apex and offset of each clip; by default they are spotted.
        fps: Frames per second of clips that do not state a frame rate.
        every_region: Whether to also return the regions below the noise of the clip.

    Yields:
        For each clip its name, its `status`, the frames that were compared (`frames_indices`, the first one is the
        onset), `motion`, the list of `RegionMotion`, and `detection_limits`, region → the motion in percent of the
        face's width that would have been seen there in 90 % of clips like this one. A clip that cannot be measured has
        the status "not_measurable" and a `reason` instead of frames, motion and limits.

    Raises:
        FileNotFoundError: A clip does not exist.
        ValueError: A clip cannot be read, or no face was found in it.
    """
    from deft_llm.processing import DeftVideoProcessor
    from deft_llm.processing.expression_report import MEASURED, NOT_MEASURABLE
    from deft_llm.processing.motion_evidence import detection_limits, measure_motion

    check_clips(clips)
    processor = DeftVideoProcessor(do_crop_appearance=False, **({} if fps is None else {"fps": fps}))
    options: dict[str, Any] = {"face_source": face_source} if face_source else {}
    if key_frames is not None:
        options["key_frames"] = key_frames
    for clip in clips:
        found = processor(clip, return_measurement=True, return_metadata=True, return_tensors="np", **options)
        (reason,) = found["not_measurable"]
        if reason is not None:
            yield {"clip": clip, "status": NOT_MEASURABLE, "reason": reason}
            continue
        errors = {"lead_in": found["lead_in_flow"][0], "deviation": found["flow_deviation"][0]}
        motions = measure_motion(found["flow_values_videos"][0], **errors)
        indices = [int(index) for index in found["video_metadata"][0].frames_indices]
        kept = [motion for motion in motions if every_region or motion.significant]
        yield {
            "clip": clip,
            "status": MEASURED,
            "frames_indices": indices,
            "motion": kept,
            "detection_limits": detection_limits(motions),
        }


def measured_text(measured: dict[str, Any]) -> str:
    """Formats measured motion as text: one line per region, or a line that says that no region moves, and then what
    would have been seen; or why the clip cannot be measured."""
    from deft_llm.processing.motion_evidence import OVERLOOKED_PART, format_motion

    if "reason" in measured:
        return f"The clip cannot be measured: {measured['reason']}."
    limits = ", ".join(f"{region} {limit:.2f}" for region, limit in measured["detection_limits"].items())
    return (
        f"{format_motion(measured['motion']) or NO_MOTION}\n"
        f"Motion that would have been seen with 90 % probability, in % of the face's width: {limits}. "
        f"Below {100 * OVERLOOKED_PART:.0f} % of that, it would have been seen with less than 10 % probability."
    )


def measured_data(measured: dict[str, Any]) -> dict[str, Any]:
    """Converts measured motion to JSON data."""
    if "reason" in measured:
        return measured
    return {**measured, "motion": [asdict(motion) for motion in measured["motion"]]}


def spot_video(
    video: str, *, fps: float | None = None, longest: float = 1.0, face_source: str | None = None
) -> tuple[list[Interval], list[Stretch], float]:
    """Finds the expressions, blinks and speech in a video, and the stretches that cannot be measured, in one pass.

    Args:
        video: Video, folder of frames or URL.
        fps: Frames per second, if the video does not state them.
        longest: Longest expression to look for, in seconds from onset to offset.
        face_source: Face finder for the first frame and for frames in which the face is lost; by default the frames
            are face crops.

    Returns:
        The intervals, in the order of their onsets, the stretches that cannot be measured, each with its reason, and
        the frame rate.

    Raises:
        FileNotFoundError: The video does not exist.
        ValueError: The video cannot be read, its frame rate is not known, or no face was found in it.
    """
    found = spotted(video, fps=fps, longest=longest, face_source=face_source)
    return found.intervals, found.stretches, found.fps


@dataclass(frozen=True, eq=False)
class Spotted:
    """What was spotted in a video.

    Args:
        video (`str`): The video, as it was named.
        intervals (`list[Interval]`): Expressions, blinks and speech.
        stretches (`list[Stretch]`): What cannot be measured.
        fps (`float`): Frames per second.
        times (`np.ndarray` of shape `(frames,)`): Seconds from the first frame to each frame.
    """

    video: str
    intervals: list[Interval]
    stretches: list[Stretch]
    fps: float
    times: np.ndarray

    @property
    def expressions(self) -> list[Interval]:
        """The intervals that are expressions."""
        return [item for item in self.intervals if item.kind == "expression"]

    def seconds(self, frame: int) -> float:
        """When a frame begins; the frame after the last one begins when that one ends."""
        last = len(self.times) - 1
        return float(self.times[min(frame, last)]) + max(frame - last, 0) / self.fps

    def milliseconds(self, first: int, last: int) -> tuple[int, int]:
        """Begin and end of a span of frames, the last one included."""
        start = round(1000 * self.seconds(first))
        return start, max(round(1000 * self.seconds(last + 1)), start + 1)

    def frames(self, start: float, end: float) -> tuple[int, int]:
        """The first and the last frame of a span of milliseconds, as `milliseconds` counts them."""
        import numpy as np

        edges = np.append(self.times, self.times[-1] + 1 / self.fps)
        first, after = (int(np.argmin(np.abs(edges - at / 1000))) for at in (start, end))
        first = min(first, len(self.times) - 1)
        return first, max(after - 1, first)


def spotted(
    video: str,
    *,
    fps: float | None = None,
    longest: float = 1.0,
    face_source: str | None = None,
    noted: Callable[[FollowedFrame], Any] | None = None,
) -> Spotted:
    """Finds the expressions, blinks and speech in a video, and the stretches that cannot be measured, in one pass.

    Args:
        video (`str`): Video, folder of frames or URL.
        fps (`float`, *optional*): Frames per second, if the video does not state them.
        longest (`float`): Longest expression to look for, in seconds from onset to offset.
        face_source (`str`, *optional*): Face finder for the first frame and for frames in which the face is lost; by
            default the frames are face crops.
        noted (`Callable`, *optional*): Called with what is known of the face in every frame.

    Raises:
        FileNotFoundError: The video does not exist.
        ValueError: The video cannot be read, its frame rate is not known, or no face was found in it.
    """
    import numpy as np

    from deft_llm.processing.aligned_clip import AlignedClip, not_measurable
    from deft_llm.processing.face_alignment import make_face_source
    from deft_llm.processing.video_reading import open_clip

    source = make_face_source(face_source or "cropped")
    check_clips([video])
    reader = open_clip(video, fps=fps)
    rate = fps or reader.metadata.fps
    if not rate:
        raise ValueError(f"{reader.name} does not state a frame rate; pass --fps (frames per second).")
    clip = AlignedClip.open(reader, face_source=source)
    followed = clip.follow() if noted is None else _noting(clip.follow(), noted)
    intervals, stretches = clip.intervals_and_stretches(fps=rate, longest=longest, followed=followed)
    times = reader.times() if fps is None else None
    times = np.arange(len(reader)) / rate if times is None else times
    return Spotted(video, intervals, not_measurable(stretches, float(rate)), float(rate), times)


def _noting(frames: Iterator[FollowedFrame], noted: Callable[[FollowedFrame], Any]) -> Iterator[FollowedFrame]:
    for frame in frames:
        noted(frame)
        yield frame


def stretch_rows(stretches: Sequence[Stretch], fps: float) -> list[dict[str, Any]]:
    """Converts stretches that cannot be measured to JSON data. `start` is their first frame, `stop` one more than the
    last."""
    return [
        {
            "start": item.start,
            "stop": item.stop,
            "start_seconds": round(item.start / fps, 3),
            "stop_seconds": round(item.stop / fps, 3),
            "reason": item.reason,
        }
        for item in stretches
    ]


def stretches_text(stretches: Sequence[Stretch], fps: float) -> str:
    """Formats stretches that cannot be measured as text, one per line."""
    return "".join(
        f"{item.start / fps:.2f}–{item.stop / fps:.2f} s cannot be measured: {item.reason}\n" for item in stretches
    )


def interval_rows(
    intervals: Sequence[Interval], fps: float, times: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Converts intervals to JSON data, in frames and in seconds.

    Args:
        intervals: The intervals.
        fps: Frames per second.
        times: Seconds from the first frame to each frame; by default they follow from `fps`.
    """

    def seconds(frame: int) -> float:
        return round(frame / fps if times is None else float(times[frame]), 3)

    return [
        {
            "kind": item.kind,
            "onset": item.onset,
            "apex": item.apex,
            "offset": item.offset,
            "onset_seconds": seconds(item.onset),
            "offset_seconds": seconds(item.offset),
            "score": round(float(item.score), 2),
            "macro": item.macro,
            "regions": [{"region": region, "side": side} for region, side in item.regions],
        }
        for item in intervals
    ]


def intervals_csv(intervals: Sequence[Interval], fps: float, times: Sequence[float] | None = None) -> str:
    """Formats intervals as CSV with a header. Regions are joined by semicolons. Arguments as in `interval_rows`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in interval_rows(intervals, fps, times):
        regions = "; ".join(f"{item['side']} {item['region']}" for item in row["regions"])
        writer.writerow({**row, "regions": regions})
    return file.getvalue()


def intervals_text(intervals: Sequence[Interval], fps: float, times: Sequence[float] | None = None) -> str:
    """Formats intervals as text, one per line. Arguments as in `interval_rows`."""
    lines = []
    for row in interval_rows(intervals, fps, times):
        kind = f"macro-{row['kind']}" if row["macro"] else row["kind"]
        regions = ", ".join(f"{item['side']} {item['region']}" for item in row["regions"])
        lines.append(
            f"{kind:<16} {row['onset_seconds']:8.2f} s to {row['offset_seconds']:8.2f} s   frames {row['onset']}, "
            f"{row['apex']}, {row['offset']}   score {row['score']:.1f}" + (f"   {regions}" if regions else "")
        )
    return "\n".join(lines) + "\n" if lines else f"{NO_INTERVAL}\n"


def check_clips(clips: Sequence[str]) -> None:
    """Raises `FileNotFoundError` if a clip does not exist, `ValueError` if its URL is mistyped.

    Called before a model is loaded.
    """
    from deft_llm.processing.video_reading import check_url

    for clip in clips:
        check_url(clip)
        if "://" not in clip and not clip.startswith("data:") and not Path(clip).exists():
            raise FileNotFoundError(f"{clip}: no such video or folder of frames.")
