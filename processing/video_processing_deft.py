"""Clips to the two tensors the experts read: aligned appearance, and motion against the onset frame."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.processing_utils import VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import VideoProcessorMixin

from .aligned_clip import AlignedClip, NotMeasurableError, checked_rate
from .common_deft import FLOW_SIZE, NUM_FRAMES
from .face_alignment import FaceSource, make_face_source
from .frame_folder import IMAGE_SUFFIXES
from .head_motion import (
    LEAST_WIDTH,
    STILL,
    HeadPose,
    HeadTracker,
    depth_error,
    remove_rigid_motion,
    too_small,
)
from .key_frames import KeyFrames, sample_indices
from .optical_flow import FLOW_ESTIMATORS, estimate_flow, estimate_flow_with_error
from .video_reading import ClipReader, VideoReadError, open_clip
from .whole_clip_flow import LEAD_IN

logger = logging.get_logger(__name__)

MOST_MOTION = 10.0  # percent of the crop's width; a broad smile moves the corners of the mouth by 6


@dataclass(frozen=True, eq=False)
class _Processed:
    """What one clip becomes: `appearance` and `flow` for the model, and what is known about the measurement."""

    appearance: np.ndarray | None
    flow: np.ndarray
    lead_in: np.ndarray
    deviation: np.ndarray
    indices: list[int]
    reason: str | None


class DeftVideosKwargs(VideosKwargs, total=False):
    """
    flow_resolution (`int`): side in pixels of the aligned crop on which flow is measured.
    flow_size (`int`): side of the grid that the measured flow is averaged to.
    flow_estimator (`str`): a key of `optical_flow.FLOW_ESTIMATORS`.
    flow_frames (`int`): how many frames of the clip, from a short lead-in before the onset to the offset, the
        whole-clip estimator looks at to measure those of the sampled ones; the more, the less noise.
    usual_motion (`float`): 95th percentile of the motion over a usual clip, in percent of the crop width; only
        `adopt_flow` reads it, for flow of unknown unit.
    do_remove_head_motion (`bool`): subtract the rigid motion in space that most of the face follows.
    do_estimate_flow (`bool`): leave `flow_values_videos` out when False (it is at hand already).
    do_crop_appearance (`bool`): leave `pixel_values_videos` out when False (only motion is wanted).
    face_source (`str`): what finds the face of a clip that has no `face_landmarks` or `face_box`, once, in the onset
        frame (the first frame when `key_frames` is not given): "cropped" (the frame is a face crop, which is
        aligned or warned about if it is clearly not the canonical one), "canonical" (the frame is the canonical crop,
        which is not checked), "yunet" (its model is fetched from the Hub on first use), "yunet:PATH" or
        "mediapipe:PATH" (a model file). For one call also a callable, a `face_alignment.FaceSource`.
    fps (`float`): frame rate of clips that do not state one (folders, lists, arrays); key frames are spotted better
        when it is known. DEFT samples frames by onset, apex and offset, never by a rate.
    key_frames: one (onset, apex, offset) a clip, frame numbers within the clip, or None to have them spotted.
    face_landmarks: one ((x, y), (x, y), (x, y)) a clip: right eye, left eye, mouth centre, in pixels, or None.
    face_box: one (left, top, right, bottom) a clip in pixels, or None.
    """

    flow_resolution: int | None
    flow_size: int | None
    flow_estimator: str | None
    flow_frames: int | None
    usual_motion: float | None
    do_remove_head_motion: bool | None
    do_estimate_flow: bool | None
    do_crop_appearance: bool | None
    face_source: Any
    key_frames: Any
    face_landmarks: Any
    face_box: Any


# What is said of one call's clips and is no property of the processor.
_PER_CLIP = ("key_frames", "face_landmarks", "face_box", "video_metadata")


class DeftVideoProcessor(VideoProcessorMixin):
    r"""
    Turns clips of a face into `pixel_values_videos`, `(clips, frames, 3, height, width)` float32, normalised RGB of
    the aligned crop, and `flow_values_videos`, `(clips, frames - 1, 2, flow_size, flow_size)` float32, the motion from
    the onset frame to each later one in percent of the crop width (+x right, +y down), head motion removed.

    Frame 0 is always the onset, frame `num_frames // 2` the apex, the last one the offset. Without `key_frames` they
    are spotted; without `face_landmarks` or `face_box` the face is where `face_source` finds it, by default the frame
    itself.

    Arguments are `num_frames`, `size` (the appearance's side, `{"height": …, "width": …}`), the usual `do_rescale`,
    `rescale_factor`, `do_normalize`, `image_mean`, `image_std`, and those of [`DeftVideosKwargs`].
    """

    valid_kwargs = DeftVideosKwargs
    model_input_names = ["pixel_values_videos", "flow_values_videos"]

    num_frames = NUM_FRAMES
    fps = None
    size = {"height": 224, "width": 224}
    do_sample_frames = True
    do_rescale = True
    do_normalize = True
    # What DINOv2 and VideoMAE were trained with.
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    flow_resolution = 128
    flow_size = FLOW_SIZE
    flow_estimator = "whole_clip"
    flow_frames = 48
    usual_motion = 0.45
    do_remove_head_motion = True
    do_estimate_flow = True
    do_crop_appearance = True
    face_source = "cropped"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in self.valid_kwargs.__annotations__:
            value = kwargs.get(name, getattr(type(self), name, None))
            if value is not None and name not in _PER_CLIP:
                # A copy: the defaults are the class's, and some are transformers' own lists.
                setattr(self, name, copy.deepcopy(value))
        self.size = _square(self.size)
        if self.num_frames < 2:
            raise ValueError(f"`num_frames` must be at least 2 (onset and apex), got {self.num_frames}.")
        if self.flow_frames < 2:
            raise ValueError(f"`flow_frames` must be at least 2, got {self.flow_frames}.")
        if self.flow_estimator not in FLOW_ESTIMATORS:
            raise ValueError(
                f"`flow_estimator` must be one of {', '.join(FLOW_ESTIMATORS)}, got {self.flow_estimator!r}."
            )
        if not isinstance(self.face_source, str):
            raise TypeError("A processor's `face_source` must be a name, to be saved; pass a callable with the call.")
        make_face_source(self.face_source)

    @staticmethod
    def list_of_clips(videos: Any) -> list[Any]:
        """The clips that `preprocess` would read, as a flat list: a list of images, or of their paths, is one clip."""
        return list_of_clips(videos)

    @property
    def flow_shape(self) -> tuple[int, int, int, int]:
        """Shape of one clip's flow."""
        return self.num_frames - 1, 2, self.flow_size, self.flow_size

    def preprocess(self, videos: Any, **kwargs) -> BatchFeature:
        r"""
        Args:
            videos: one clip or a list of clips, each of any kind that `open_clip` reads or an [`AlignedClip`], which
                brings its face and, where it has them, its key frames.
            return_metadata (`bool`): add `video_metadata`, whose `frames_indices` are the sampled frame numbers,
                `flow_deviation` and `not_measurable`, see below.
            return_measurement (`bool`): add what is known about the measurement, one entry per clip:

                - `lead_in_flow`, (L, 2, flow_size, flow_size): the motion of the neutral frames before the onset. L is
                  0 where the clip starts at the onset or the estimator looks at pairs only.
                - `flow_deviation`, (num_frames - 1, flow_size, flow_size): standard deviation of the flow's error per
                  axis, in percent of the crop's width. It is at least the motion of the neutral frames.
                - `not_measurable`, `str` or None: why the clip cannot be measured. Its flow is zero.
            **kwargs: overrides of the processor's arguments for this call, and the per-clip `key_frames`,
                `face_landmarks`, `face_box`.

        Raises:
            FileNotFoundError: a clip or the face source's model file is missing.
            VideoReadError: a clip cannot be decoded; the message names it.
            KeyFrameError: key frames are out of order or outside their clip; the message names the clip.
            FaceAlignmentError: no face was found, or landmarks or a box are not valid; the message names the clip.
            TypeError: a clip is of a kind that `open_clip` does not read; the message names it.
            ImportError: the face source's package is not installed.
            ValueError: the face source's model is not valid.
        """
        return_measurement = kwargs.pop("return_measurement", False)
        unknown = set(kwargs) - set(self.valid_kwargs.__annotations__)
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unknown argument: {', '.join(sorted(unknown))}.")
        per_clip = {name: kwargs.pop(name, None) for name in _PER_CLIP}
        return_tensors, return_metadata = kwargs.pop("return_tensors", None), kwargs.pop("return_metadata", False)
        face_source = kwargs.pop("face_source", None) or self.face_source
        make_face_source(face_source)  # a name that means nothing is refused before any clip is read
        settings = self if not kwargs else type(self)(**{**self.to_dict(), **_without_none(kwargs)})

        clips = [settings._opened(source) for source in list_of_clips(videos)]
        columns = {name: _one_per_clip(name, value, len(clips)) for name, value in per_clip.items()}
        processed = []
        metadata = []
        for index, clip in enumerate(clips):
            options = {name: column[index] for name, column in columns.items() if name != "video_metadata"}
            if len(clip) < 2:
                raise VideoReadError(f"{clip.name}: one frame only; motion needs at least two.")
            aligned = AlignedClip.open(clip, face_source=face_source, fps=settings.fps, **options)
            processed.append(settings._process_clip(aligned, with_error=return_measurement or return_metadata))
            known = copy.copy(aligned.reader.metadata)  # the clip's own stays as it is: others may hold it too
            known.frames_indices = processed[-1].indices
            metadata.append(known)
        data = {}
        if settings.do_crop_appearance:
            data["pixel_values_videos"] = _batched([item.appearance for item in processed])
        if settings.do_estimate_flow:
            data["flow_values_videos"] = _batched([item.flow for item in processed])
        features = BatchFeature(data, tensor_type=return_tensors)
        if return_measurement and settings.do_estimate_flow:
            features["lead_in_flow"] = [item.lead_in for item in processed]
        if return_measurement or return_metadata:
            if settings.do_estimate_flow:
                features["flow_deviation"] = [item.deviation for item in processed]
            features["not_measurable"] = [item.reason for item in processed]
        if return_metadata:
            features["video_metadata"] = metadata
        return features

    def spot(
        self,
        video: Any,
        *,
        onset: int = 0,
        face_source: Any = None,
        face_landmarks: Any = None,
        face_box: Any = None,
    ) -> KeyFrames:
        """Onset, apex and offset of one clip's expression, as they are spotted where `key_frames` is not given.

        Args:
            video: one clip of any kind that `open_clip` reads, or an [`AlignedClip`].
            onset: the frame in which the face is looked for. The others are this one clip's, as in `preprocess`.

        Raises:
            FileNotFoundError: the clip is missing.
            VideoReadError: the clip cannot be decoded.
            FaceAlignmentError: no face was found, or the landmarks or the box are not valid.
        """
        clip = self.align(
            video, onset=onset, face_source=face_source, face_landmarks=face_landmarks, face_box=face_box
        )
        return clip.spot()

    def align(self, video: Any, *, face_source: str | FaceSource | None = None, **options: Any) -> AlignedClip:
        """Opens one clip and places its face as this processor does, for callers that use the clip several times.

        Args:
            video (`Any`): one clip of any kind that `open_clip` reads, or an [`AlignedClip`].
            face_source (`str` or `FaceSource`, *optional*): what finds the face; by default the processor's own.
            **options: `face_landmarks`, `face_box`, `key_frames` and `onset`, as in [`AlignedClip.open`].

        Raises:
            FileNotFoundError: the clip is missing.
            VideoReadError: the clip cannot be decoded.
            KeyFrameError: the key frames are out of order or outside the clip.
            FaceAlignmentError: no face was found, or the landmarks or the box are not valid.
        """
        return AlignedClip.open(video, face_source=face_source or self.face_source, fps=self.fps, **options)

    def adopt_flow(self, flow: np.ndarray, *, unit: float | None) -> np.ndarray:
        """Flow measured elsewhere as `flow_values_videos`, for sets that hold flow and no pixel.

        Args:
            flow: (clips, T, 2, h, w) of a face crop, onset to each of T frames, +x right and +y down, h = w of any
                size; clips of one source together.
            unit: what one unit of it is in percent of the crop width: 100 / w for cells or pixels of that grid. `None`
                if nobody knows: then the clips are scaled together, so that the motion of the middle one is
                `usual_motion`; how far anything moves means nothing then, where to and where it moves does.

        Returns:
            (clips, T, 2, flow_size, flow_size) float32.

        Raises:
            ValueError: another shape, values that are no numbers, or no motion at all to take an unknown unit from.
        """
        flow = np.asarray(flow, np.float32)
        if flow.ndim != 5 or flow.shape[2] != 2 or flow.shape[3] != flow.shape[4]:
            raise ValueError(f"`flow` must be (clips, frames, 2, side, side), got {flow.shape}.")
        if not np.isfinite(flow).all():
            bad = ~np.isfinite(flow).reshape(len(flow), -1).all(1)
            raise ValueError(f"`flow` holds NaN or infinite values in clip {int(np.flatnonzero(bad)[0])}.")
        size = (self.flow_size, self.flow_size)
        fields = flow.reshape(-1, *flow.shape[3:])
        if flow.shape[3] != self.flow_size:
            # Area means on the way down, straight lines on the way up.
            kind = cv2.INTER_AREA if flow.shape[3] > self.flow_size else cv2.INTER_LINEAR
            fields = np.stack([cv2.resize(field, size, interpolation=kind) for field in fields])
        fields = fields.reshape(*flow.shape[:3], *size)
        if unit is None:
            motion = np.percentile(np.hypot(fields[:, :, 0], fields[:, :, 1]).reshape(len(fields), -1), 95, axis=1)
            middle = float(np.median(motion))
            if not middle > 0:
                raise ValueError("`flow` has no motion from which to guess its unit; pass `unit`.")
            unit = self.usual_motion / middle
        return fields * np.float32(unit)

    def _opened(self, source: Any) -> ClipReader | AlignedClip:
        """The clip opened and its frame rate checked; of a call all clips are, before the first is measured."""
        if isinstance(source, AlignedClip):
            return source
        reader = open_clip(source, fps=self.fps)
        checked_rate(reader, self.fps)
        return reader

    def _process_clip(self, clip: AlignedClip, *, with_error: bool) -> _Processed:
        reason = None
        if clip.key_frames is None and self.do_sample_frames:
            try:
                clip = clip.spotted()
            except NotMeasurableError as error:
                reason = str(error).removeprefix(f"{clip.name}: ").removesuffix(".")
                clip = clip.with_key_frames((0, (len(clip) - 1) // 2 or 1, len(clip) - 1))
        if clip.key_frames is not None:
            indices = sample_indices(clip.key_frames, self.num_frames)
        elif len(clip) == self.num_frames:
            indices = list(range(len(clip)))
        else:
            raise VideoReadError(
                f"{clip.name}: {len(clip)} frames; with do_sample_frames=False a clip must have {self.num_frames}."
            )
        measured = self.do_estimate_flow and reason is None
        wanted = self._context(indices) if measured else sorted(set(indices))
        places: dict[int, list[int]] = {}  # of each sampled frame in the clip's tensor
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        if measured and clip.face_width < LEAST_WIDTH:
            measured, reason = False, too_small(clip.face_width)
        head, grey, poses, appearance = None, {}, {}, None
        frames = clip.reader.stream(wanted)
        if measured and not clip.still:
            # Up to the onset, which is needed first, the few frames are held: decoding them twice takes longer.
            early = list(islice(frames, wanted.index(indices[0]) + 1))
            head = HeadTracker(cv2.cvtColor(early[-1], cv2.COLOR_RGB2GRAY), clip.transform)
            frames = chain(early, frames)
        if self.do_crop_appearance:
            side = self.size["height"]
            appearance, levels = np.empty((len(indices), 3, side, side), np.float32), self._levels()
        for index, frame in zip(wanted, frames, strict=True):
            if self.do_crop_appearance and index in places:
                first, *others = places[index]
                channels = cv2.split(clip.crop(frame, side))
                for channel, table, target in zip(channels, levels, appearance[first], strict=True):
                    cv2.LUT(channel, table, dst=target)
                appearance[others] = appearance[first]
            if measured and clip.still:
                poses[index] = STILL
                grey[index] = clip.crop(frame, self.flow_resolution, grey=True)
            elif head is not None:
                frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
                pose = head.follow(frame)
                unusable = pose.why_not()
                if unusable is None:
                    poses[index] = STILL if pose.hardly_moved else pose
                    grey[index] = clip.crop(frame, self.flow_resolution, grey=True, pose=poses[index])
                elif index >= indices[0]:  # frames before the onset help, but are not needed
                    head, reason = None, unusable
        flow, lead_in, deviation = self._empty(len(indices))
        if measured and reason is None:
            flow, lead_in, deviation = self._flow(grey, poses, indices, with_error=with_error)
            farthest = 0.0 if not flow.size else float(np.hypot(flow[:, 0], flow[:, 1]).max())
            if farthest > MOST_MOTION:
                reason = "the skin seems to move farther than a face can"
                flow, lead_in, deviation = self._empty(len(indices))
        if reason is not None and self.do_estimate_flow:
            logger.warning(f"{clip.name} cannot be measured: {reason}. Its flow is zero.")
        return _Processed(appearance, flow, lead_in, deviation, indices, reason)

    def _empty(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flow, lead-in and deviation of a clip that is not measured."""
        shape = (self.flow_size, self.flow_size)
        return (
            np.zeros((count - 1, 2, *shape), np.float32),
            np.zeros((0, 2, *shape), np.float32),
            np.zeros((count - 1, *shape), np.float32),
        )

    def _context(self, indices: list[int]) -> list[int]:
        """The sampled frames, and for the whole-clip estimator others between them and before the onset."""
        onset, offset = indices[0], max(indices)
        if self.flow_estimator != "whole_clip":
            return sorted(set(indices))
        start = max(0, onset - LEAD_IN)
        others = np.linspace(start, offset, min(self.flow_frames, offset - start + 1)).round().astype(int)
        return sorted({*indices, *others.tolist()})

    def _levels(self) -> np.ndarray:
        """(3, 256): what each value of each colour channel becomes. A pixel is looked up and not computed, which saves
        three copies of the clip."""
        levels = np.arange(256, dtype=np.float32)[:, None].repeat(3, axis=1)
        if self.do_rescale:
            levels *= self.rescale_factor
        if self.do_normalize:
            levels = (levels - np.float32(self.image_mean)) / np.float32(self.image_std)
        return np.ascontiguousarray(levels.T)

    def _flow(
        self, crops: dict[int, np.ndarray], poses: dict[int, HeadPose], indices: list[int], *, with_error: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flow of the sampled frames, (num_frames - 1, 2, flow_size, flow_size), flow of those before the onset, and
        the standard deviation of the former's error, (num_frames - 1, flow_size, flow_size), in percent of the crop's
        width, from grey crops and the head's poses by frame number."""
        side, (onset, *later) = self.flow_resolution, indices
        size = (self.flow_size, self.flow_size)
        others = [index for index in crops if index != onset]
        grids = dict.fromkeys(indices, np.zeros((2, *size), np.float32))
        errors = dict.fromkeys(indices, np.zeros(size, np.float32))
        if others:
            estimate = estimate_flow_with_error if with_error else estimate_flow
            wanted = [place for place, index in enumerate(others) if index in grids or index < onset]
            frames = np.stack([crops[index] for index in others])
            found = estimate(crops[onset], frames, estimator=self.flow_estimator, wanted=wanted)
            flow, deviation = found if with_error else (found, np.zeros_like(found[:, 0]))
            fields = np.stack(
                [[cv2.resize(axis, size, interpolation=cv2.INTER_AREA) for axis in field] for field in flow]
            ) * np.float32(100 / side)
            kept = [others[place] for place in wanted]
            left = np.zeros_like(fields[:, 0])
            if self.do_remove_head_motion:
                fields, left = remove_rigid_motion(fields, [poses[index] for index in kept])
            for index, field, spread, of_head in zip(kept, fields, deviation, left, strict=True):
                grids[index] = field
                spread = cv2.resize(spread, size, interpolation=cv2.INTER_AREA) * np.float32(100 / side)
                errors[index] = np.hypot(np.hypot(spread, of_head), np.float32(depth_error(poses[index])))
        before = [grids[index] for index in sorted(grids) if index < onset]
        lead_in = np.stack(before) if before else np.zeros((0, *self.flow_shape[1:]), np.float32)
        deviation = np.stack([errors[i] for i in later])
        if before:
            # What moves in neutral frames is not an expression, so that much of any motion may be an error.
            deviation = np.maximum(deviation, np.sqrt(np.square(lead_in).mean((0, 1))))
        return np.stack([grids[i] for i in later]), lead_in, deviation


def list_of_clips(videos: Any) -> list[Any]:
    """One clip or a (nested) list of clips, as a flat list of clips; a list of images, or of their paths, is one."""
    if not isinstance(videos, (list, tuple)):
        return list(videos) if getattr(videos, "ndim", 0) == 5 else [videos]
    if videos and all(_is_frame(item) for item in videos):
        return [videos]
    return [clip for item in videos for clip in (list_of_clips(item) if isinstance(item, (list, tuple)) else [item])]


def _is_frame(item: Any) -> bool:
    if isinstance(item, (str, os.PathLike)):
        return Path(item).suffix.lower() in IMAGE_SUFFIXES and not Path(item).is_dir()
    return hasattr(item, "convert") or getattr(item, "ndim", 0) in (2, 3)


def _square(size: Any) -> dict[str, int]:
    """`{"height": side, "width": side}` from any of transformers' ways to say `size`.

    Raises:
        ValueError: two different sides; the canonical crop is square.
    """
    sides = {value for value in dict(get_size_dict(size)).values() if value is not None}
    if len(sides) != 1:
        raise ValueError(f"The canonical crop is square; `size` must have one side, got {size}.")
    side = sides.pop()
    return {"height": side, "width": side}


def _batched(clips: Sequence[np.ndarray]) -> np.ndarray:
    """The clips along a new first axis; one clip is not copied."""
    return clips[0][None] if len(clips) == 1 else np.stack(clips)


def _one_per_clip(name: str, value: Any, count: int) -> Sequence[Any]:
    """The per-clip argument as a list; with one clip the bare value is accepted too."""
    if value is None:
        return [None] * count
    values = list(value)
    nested = bool(values) and (values[0] is None or isinstance(values[0], (list, tuple, np.ndarray, dict)))
    if name == "face_landmarks" and nested and values[0] is not None:
        nested = np.ndim(values[0]) == 2
    if name == "video_metadata":
        nested = True
    values = values if nested else [value]
    if len(values) != count:
        raise ValueError(f"`{name}` must name one value a clip: {count} clips, {len(values)} values.")
    return values


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# Saving copies the code next to the settings.
DeftVideoProcessor.register_for_auto_class("AutoVideoProcessor")
