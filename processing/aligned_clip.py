"""A clip whose face is placed. It is opened once and handed on to whoever measures, spots, builds or shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from transformers.utils import logging

from .action_units import region_ellipse
from .clip_figure import plot_regions
from .face_alignment import (
    FaceAlignmentError,
    FaceSource,
    NoFaceFoundError,
    canonical_crop,
    checked_similarity,
    face_transform,
    make_face_source,
    warp_to_crop,
)
from .head_motion import DEPTH_ERROR, LEAST_WIDTH, STILL, HeadPose, share_of_head, too_small, warp_head_back
from .key_frames import KeyFrameError, KeyFrames, spot_key_frames
from .motion_intervals import Interval, propose_intervals, window_length
from .region_tracking import TRACKED_REGIONS, FollowedFrame, Placement, follow_face
from .video_reading import ClipReader, open_clip
from .whole_clip_flow import LEAD_IN

logger = logging.get_logger(__name__)

_SEARCHES = 40  # frames in which a face is looked for where the first one has none
_TURN_SCORE = 4.0  # standard deviations of what a turn leaves: an interval must move farther
LEAST_REST = 1.0  # seconds of a stretch in which intervals are proposed
_LEAST_SECONDS = 0.2  # of a stretch in which an expression is looked for


class NotMeasurableError(FaceAlignmentError):
    """No stretch of the clip can be measured; the message says why not."""


@dataclass(frozen=True)
class Stretch:
    """Frames `start` to `stop - 1`: they can be measured if `reason` is None, and else `reason` says why not."""

    start: int
    stop: int
    reason: str | None = None


def not_measurable(stretches: Sequence[Stretch], fps: float) -> list[Stretch]:
    """The stretches that cannot be measured.

    Args:
        stretches (`Sequence[Stretch]`): All stretches of the clip. One that can be measured, but is too short for an
            expression and lies between two that cannot be measured, is counted with the former: the face was found
            there and lost again.
        fps (`float`): Frames per second.
    """
    joined: list[Stretch] = []
    for place, item in enumerate(stretches):
        inside = 0 < place < len(stretches) - 1
        brief = inside and item.reason is None and item.stop - item.start < _LEAST_SECONDS * fps
        reason = joined[-1].reason if brief else item.reason
        if joined and joined[-1].reason == reason:
            joined[-1] = replace(joined[-1], stop=item.stop)
        else:
            joined.append(replace(item, reason=reason))
    return [item for item in joined if item.reason is not None]


@dataclass(frozen=True, eq=False)
class AlignedClip:
    """A clip, the place of its face, and its key frames where they are known.

    The face is placed once, in one frame, and followed from there, because a face found again in each frame jitters by
    more than a micro-expression moves. It is looked for again only where it was lost.

    Args:
        reader (`ClipReader`): the frames.
        transform (`np.ndarray` of shape `(2, 3)`): the similarity that takes frame pixels to the unit square of the
            canonical crop, see `crop_transform`.
        key_frames (`KeyFrames`, *optional*): onset, apex and offset, numbered as the frames of `reader`.
        placed_in (`int`): the frame in which the face was placed. Frames before it show no face.
        still (`bool`): it is known that the head hardly moves between the key frames.
        find (`Callable`, *optional*): what finds the face again where it was lost, from a frame to its transform, or
            None where it has no face.
    """

    reader: ClipReader
    transform: np.ndarray
    key_frames: KeyFrames | None = None
    placed_in: int = 0
    still: bool = False
    find: Callable[[np.ndarray], np.ndarray | None] | None = field(default=None, repr=False)

    def __post_init__(self):
        transform = np.array(self.transform, np.float64)
        if transform.shape != (2, 3):
            raise FaceAlignmentError(f"{self.name}: a transform must have the shape (2, 3), not {transform.shape}.")
        checked_similarity(transform).setflags(write=False)
        object.__setattr__(self, "transform", transform)
        if self.key_frames is not None:
            self.key_frames.validate(len(self))

    @classmethod
    def open(
        cls,
        source: Any,
        *,
        face_source: str | FaceSource | None = None,
        face_landmarks: Sequence[Sequence[float]] | None = None,
        face_box: Sequence[float] | None = None,
        key_frames: Sequence[int] | KeyFrames | None = None,
        fps: float | None = None,
        onset: int = 0,
    ) -> AlignedClip:
        """Opens a clip and places its face.

        Args:
            source (`Any`): whatever `open_clip` reads. An `AlignedClip` keeps its transform, and its key frames
                unless others are given.
            face_source (`str` or `FaceSource`, *optional*): what finds the face, see `make_face_source`; by default
                the frames are face crops, which are checked, see `placed_crop`. Not asked where landmarks or a box are
                given, or the face is placed.
            face_landmarks (`Sequence[Sequence[float]]` of shape `(3, 2)`, *optional*): right eye, left eye and mouth
                centre in pixels.
            face_box (`Sequence[float]` of length 4, *optional*): left, top, right and bottom in pixels.
            key_frames (`Sequence[int]` of length 3 or `KeyFrames`, *optional*): onset, apex and offset.
            fps (`float`, *optional*): frames per second of a source that states no rate.
            onset (`int`): the frame in which the face is looked for where `key_frames` is not given.

        Raises:
            FileNotFoundError: the clip's file or folder is missing. This message and the next four name the clip.
            VideoReadError: the clip cannot be decoded.
            KeyFrameError: the key frames are out of order or outside the clip.
            FaceAlignmentError: no face was found, or the landmarks or the box are not valid.
            TypeError: `source` is of a kind that `open_clip` does not read.
            ValueError: `fps` contradicts the rate that the source states.
        """
        if isinstance(source, cls):
            if face_landmarks is not None or face_box is not None:
                raise FaceAlignmentError(f"{source.name}: its face is placed already; leave landmarks and box out.")
            clip = source if key_frames is None else source.with_key_frames(key_frames)
            if checked_rate(clip.reader, fps) == clip.fps:
                return clip
            return replace(clip, reader=clip.reader.window(0, len(clip), fps=fps))
        reader = open_clip(source, fps=fps)
        reader.metadata.fps = checked_rate(reader, fps)
        if key_frames is not None:
            key_frames = KeyFrames(*_numbers_of(key_frames)).validate(len(reader))
            onset = key_frames.onset
        finder = None if face_source is None else make_face_source(face_source)
        given = {"landmarks": face_landmarks, "box": face_box}
        try:
            transform = face_transform(reader, onset, finder, **given)
        except NoFaceFoundError:
            if key_frames is not None:
                raise
            found = _first_face(reader, onset, finder)
            if found is None:
                raise
            onset, transform = found
            logger.warning(f"{reader.name}: the first face is in frame {onset}; the frames before it are not used.")
        find = None
        if finder is not None and finder is not canonical_crop and face_landmarks is None and face_box is None:
            find = partial(_transform_or_none, finder)
        return cls(reader, transform, key_frames, placed_in=onset, find=find)

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def name(self) -> str:
        """What errors call the clip."""
        return self.reader.name

    @property
    def fps(self) -> float | None:
        """Frames per second, or None where nobody has said."""
        return self.reader.metadata.fps

    @property
    def face_width(self) -> float:
        """Width of the crop in pixels of the frame."""
        return 1 / float(np.hypot(*self.transform[:, 0]))

    def with_key_frames(self, key_frames: Sequence[int] | KeyFrames) -> AlignedClip:
        """The clip with these key frames.

        Args:
            key_frames (`Sequence[int]` of length 3 or `KeyFrames`): onset, apex and offset.

        Raises:
            KeyFrameError: they contradict each other or the clip.
        """
        return replace(self, key_frames=KeyFrames(*_numbers_of(key_frames)), still=False)

    def window(self, start: int, stop: int, *, name: str | None = None) -> AlignedClip:
        """Frames `start` to `stop - 1` as a clip of their own, whose frame 0 is frame `start` of this one.

        Args:
            start (`int`): first frame of the window.
            stop (`int`): one more than its last frame.
            name (`str`, *optional*): what errors call the window.

        Returns:
            `AlignedClip`: with the same transform; its key frames are shifted, or None where one of them lies outside
            the window.

        Raises:
            VideoReadError: the window is empty or leaves the clip.
        """
        keys = self.key_frames
        if keys is not None:
            inside = start <= keys.onset and keys.offset < stop
            keys = KeyFrames(keys.onset - start, keys.apex - start, keys.offset - start) if inside else None
        reader = self.reader.window(start, stop, name=name)
        return replace(
            self, reader=reader, key_frames=keys, placed_in=min(max(self.placed_in - start, 0), stop - start)
        )

    def follow(self, frames: Iterator[np.ndarray] | None = None) -> Iterator[FollowedFrame]:
        """Head and regions in every frame, one at a time and in constant memory, as `follow_face` yields them.

        Args:
            frames (`Iterator[np.ndarray]`, *optional*): All frames of the clip, for callers that decode them once for
                several faces.
        """
        frames = self.reader.scan() if frames is None else frames
        nothing = np.zeros((len(TRACKED_REGIONS), 2), np.float32)
        if self.face_width < LEAST_WIDTH:
            for _ in frames:
                yield FollowedFrame(nothing, too_small(self.face_width), STILL, self.transform)
            return
        first = self.placed_in if self.key_frames is None else 0
        for _ in range(first):
            next(frames)
            yield FollowedFrame(nothing, "no face was found", STILL, self.transform)
        yield from follow_face(frames, self.transform, find=self.find)

    def stretches(self, followed: Sequence[FollowedFrame] | None = None) -> list[Stretch]:
        """The clip in stretches that can be measured, and others that cannot for one reason each.

        Args:
            followed (`Sequence[FollowedFrame]`, *optional*): what `follow` yields, for callers that have it already.
        """
        reasons = [frame.reason for frame in (self.follow() if followed is None else followed)]
        starts = [0, *(i for i in range(1, len(reasons)) if reasons[i] != reasons[i - 1])]
        return [
            Stretch(start, stop, reasons[start])
            for start, stop in zip(starts, [*starts[1:], len(reasons)], strict=True)
        ]

    def spot(self, followed: Sequence[FollowedFrame] | None = None) -> KeyFrames:
        """Onset, apex and offset of the one expression of the clip, whatever `key_frames` says.

        They lie in one stretch that can be measured. Of several, it is the one with the most motion.

        Args:
            followed (`Sequence[FollowedFrame]`, *optional*): what `follow` yields, for callers that have it already.

        Raises:
            KeyFrameError: the clip has fewer than two frames.
            NotMeasurableError: no stretch can be measured.
        """
        followed = list(self.follow()) if followed is None else followed
        motion = np.stack([frame.motion for frame in followed])
        if len(motion) < 2:
            return spot_key_frames(motion, self.fps)
        stretches = self.stretches(followed)
        measurable = [item for item in stretches if item.reason is None and item.stop - item.start > 1]
        least = min(_LEAST_SECONDS * (self.fps or 0), len(motion) / 2)  # a short clip may be all that there is
        long = [item for item in measurable if item.stop - item.start >= least]
        if not long:
            raise NotMeasurableError(f"{self.name}: {_reasons(stretches)}.")
        found = []
        for item in long:
            keys = spot_key_frames(motion[item.start : item.stop], self.fps)
            keys = KeyFrames(*(item.start + number for number in (keys.onset, keys.apex, keys.offset)))
            way = np.hypot(*(motion[keys.apex] - motion[keys.onset]).T)
            found.append((float(np.mean(way)) - followed[keys.apex].error, keys))
        return max(found, key=lambda pair: pair[0])[1]

    def spotted(self) -> AlignedClip:
        """The clip with its key frames, those that it has or else those that are spotted, and its face placed in the
        onset frame, unless the head was there already.

        Raises:
            KeyFrameError: the clip has fewer than two frames.
            NotMeasurableError: no stretch can be measured.
        """
        return self if self.key_frames is not None else self.at(self.spot(followed := list(self.follow())), followed)

    def at(self, key_frames: KeyFrames, followed: Sequence[FollowedFrame | Placement]) -> AlignedClip:
        """The clip with these key frames and its face placed in their onset frame.

        Args:
            key_frames (`KeyFrames`): onset, apex and offset.
            followed (`Sequence[FollowedFrame | Placement]`): what `follow` yields, or the `placement` of each.
        """
        first = followed[key_frames.onset]
        shown = followed[max(key_frames.onset - LEAD_IN, 0) : key_frames.offset + 1]
        still = all(frame.still for frame in shown)
        return replace(
            self,
            key_frames=key_frames,
            transform=first.transform,
            placed_in=key_frames.onset,
            still=still and np.array_equal(first.transform, self.transform),
        )

    def intervals(self, *, fps: float | None = None, longest: float = 1.0) -> list[Interval]:
        """The expressions, blinks and speech in the clip, in one pass and in constant memory.

        Nothing is proposed where the clip cannot be measured, nor where the regions move no farther than a turn of the
        head may feign.

        Args:
            fps (`float`, *optional*): frames per second, where the clip's own is unknown or wrong.
            longest (`float`): seconds from onset to offset of the longest expression, see `propose_intervals`.

        Raises:
            ValueError: the frame rate is not known.
        """
        return self.intervals_and_stretches(fps=fps, longest=longest)[0]

    def intervals_and_stretches(
        self,
        *,
        fps: float | None = None,
        longest: float = 1.0,
        followed: Iterable[FollowedFrame] | None = None,
    ) -> tuple[list[Interval], list[Stretch]]:
        """What `intervals` and `stretches` return, in one pass and in constant memory.

        Args:
            fps (`float`, *optional*): as in `intervals`.
            longest (`float`): as in `intervals`.
            followed (`Iterable[FollowedFrame]`, *optional*): what `follow` yields, for callers that have it already.

        Raises:
            ValueError: the frame rate is not known.
        """
        rate = fps or self.fps
        if not rate:
            raise ValueError(f"{self.name}: the source carries no frame rate; pass fps= (frames a second).")
        found, stretches, start = [], [], 0
        every = self.follow() if followed is None else followed
        for reason, frames in groupby(every, key=lambda frame: frame.reason):
            if reason is not None:
                stretches.append(Stretch(start, start + sum(1 for _ in frames), reason))
                start = stretches[-1].stop
                continue
            kept, count = intervals_of_stretch(frames, rate, longest=longest)
            # What happens in a stretch is held against the rest of it: a short one has none. A short clip may be all
            # that there is.
            if count >= min(LEAST_REST * rate, len(self)):
                found += [
                    replace(item, onset=item.onset + start, apex=item.apex + start, offset=item.offset + start)
                    for item in kept
                ]
            stretches.append(Stretch(start, start + count))
            start += count
        return found, stretches

    def plot(
        self, followed: Sequence[FollowedFrame] | None = None, *, regions: int | Sequence[tuple[str, str]] = 4
    ) -> Any:
        """Draws the motion of regions over time with its uncertainty, the key frames, and what cannot be measured.

        The key frames are the clip's, or else spotted.

        Args:
            followed (`Sequence[FollowedFrame]`, *optional*): what `follow` yields, for callers that have it already.
            regions (`int` or `Sequence[tuple[str, str]]`, *optional*, defaults to 4): the number of regions, those
                that move farthest between onset and apex; or (region, side) pairs.

        Returns:
            `matplotlib.figure.Figure`: the figure, which notebooks show.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: a region is not in the atlas.
        """
        followed = list(self.follow()) if followed is None else followed
        keys = self.key_frames
        if keys is None:
            try:
                keys = self.spot(followed)
            except (KeyFrameError, NotMeasurableError):
                keys = None  # the figure shows why: all of it is grey
        return plot_regions(followed, keys=keys, fps=self.fps, regions=regions)

    def crop(self, frame: np.ndarray, side: int, *, grey: bool = False, pose: HeadPose = STILL) -> np.ndarray:
        """The face crop of one frame of the clip.

        Args:
            frame (`np.ndarray` of shape `(height, width, 3)`, uint8): a frame as the reader gives it; or its
                brightness alone, `(height, width)`, for callers that have it already.
            side (`int`): side of the crop in pixels.
            grey (`bool`): brightness instead of colour.
            pose (`HeadPose`): of the head in the frame, whose motion is undone.

        Returns:
            `np.ndarray`: `(side, side, 3)` uint8 RGB, or `(side, side)` float32 from 0 to 255 for `grey`.
        """
        if grey and frame.ndim == 3:
            frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if pose is STILL:
            return warp_to_crop(frame, self.transform, side, exact=grey)
        return warp_head_back(frame, self.transform, pose, side, exact=grey)

    def crops(self, side: int, indices: Sequence[int] | None = None, *, grey: bool = False) -> Iterator[np.ndarray]:
        """The face crops of several frames, one at a time.

        Args:
            side (`int`): side of the crops in pixels.
            indices (`Sequence[int]`, *optional*): frame numbers that do not go back; by default all frames.
            grey (`bool`): brightness instead of colour, see `crop`.
        """
        frames = self.reader.scan() if indices is None else self.reader.stream(indices)
        for frame in frames:
            yield self.crop(frame, side, grey=grey)


def intervals_of_stretch(
    frames: Iterable[FollowedFrame], fps: float, *, longest: float = 1.0
) -> tuple[list[Interval], int]:
    """The expressions, blinks and speech in one stretch that can be measured, and the number of its frames.

    Nothing is proposed where the regions move no farther than a turn of the head may feign.

    Args:
        frames (`Iterable[FollowedFrame]`): All frames of the stretch.
        fps (`float`): Frames per second.
        longest (`float`): Seconds from onset to offset of the longest expression, see `propose_intervals`.
    """
    notes = _Notes(window_length(fps, longest) + 1)
    proposed = propose_intervals(notes.motion_of(frames), fps, longest=longest, accept=notes.bear_out)
    return proposed, notes.count


class _Notes:
    """Where the face looked, and how its regions had moved, in the last frames of a stretch."""

    def __init__(self, room: int):
        self.count = 0
        self._room = room
        self._normals: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def motion_of(self, frames: Iterable[FollowedFrame]) -> Iterator[np.ndarray]:
        """The regions' motion of every frame, which is noted on the way."""
        for frame in frames:
            # Nothing can be said across a frame in which the face was looked for anew.
            anew = frame.placed and self.count
            self._normals.append(np.full(2, np.nan) if anew else frame.pose.rotation[:2, 2])
            self._rows.append(frame.motion.astype(np.float16))
            self.count += 1
            if len(self._rows) == 2 * self._room:
                del self._normals[: self._room], self._rows[: self._room]
            yield frame.motion

    def bear_out(self, item: Interval) -> bool:
        """Whether regions move farther than the head's turn may feign in an interval, and otherwise than a head."""
        first = self.count - len(self._rows)
        span = np.array(self._normals[max(item.onset - 1 - first, 0) : item.offset + 2 - first])
        turned = np.hypot(*(span - span.mean(0)).T).max()
        frames = (item.onset, item.apex, item.offset)
        onset, apex, offset = (self._rows[index - first].astype(np.float32) for index in frames)
        if np.hypot(*(apex - onset).T).max() <= _TURN_SCORE * 100 * DEPTH_ERROR * turned:
            return False
        if item.kind != "expression":
            return True
        way = (item.apex - item.onset) / max(item.offset - item.onset, 1)
        moved = apex - (1 - way) * onset - way * offset
        return share_of_head(moved[_SKIN], _PLACES[_SKIN]) < _HEADLIKE


# Lids follow every glance. Patterns of single units reach a share of 0.73, of any two or three of the usual ones 0.87;
# a camera that slides past a still face reached 0.98.
_HEADLIKE = 0.9
_PLACES = np.array([region_ellipse(*key)[:2] for key in TRACKED_REGIONS])
_SKIN = np.array(["lid" not in region for region, _ in TRACKED_REGIONS])


def _reasons(stretches: Sequence[Stretch]) -> str:
    """Why a clip cannot be measured: the reasons of its frames, the most frequent first."""
    counts = Counter()
    for item in stretches:
        if item.reason is not None:
            counts[item.reason] += item.stop - item.start
    if not counts:
        return "no stretch is long enough to be measured"
    return "; ".join(reason for reason, _ in counts.most_common(2))


def _first_face(reader: ClipReader, start: int, finder: FaceSource | None) -> tuple[int, np.ndarray] | None:
    """The first frame after `start` that has a face, of some evenly spread ones, and its transform."""
    indices = np.unique(np.linspace(start, len(reader) - 1, _SEARCHES + 1).astype(int))[1:].tolist()
    for index in indices:
        try:
            return index, face_transform(reader, index, finder)
        except NoFaceFoundError:
            continue
    return None


def _transform_or_none(finder: FaceSource, frame: np.ndarray) -> np.ndarray | None:
    try:
        return face_transform(open_clip(frame[None]), 0, finder)
    except FaceAlignmentError:
        return None


def checked_rate(reader: ClipReader, fps: float | None) -> float | None:
    """The clip's frame rate: the one that its source states, or else `fps`.

    Raises:
        ValueError: the two contradict each other.
    """
    stated = reader.metadata.fps
    if fps is not None and stated is not None and abs(stated - fps) > 0.01 * fps:
        raise ValueError(
            f"{reader.name} states {stated:g} frames per second and `fps` says {fps:g}. Leave `fps` out: it is for "
            "clips that state no frame rate. To choose how many frames are sampled, pass `num_frames`."
        )
    return stated if fps is None else fps


def _numbers_of(key_frames: Sequence[int] | KeyFrames) -> Sequence[int]:
    if isinstance(key_frames, KeyFrames):
        return key_frames.onset, key_frames.apex, key_frames.offset
    return key_frames
