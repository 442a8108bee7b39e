"""Motion of every region in every frame of a video, relative to the face at rest, with its error.

`follow_face` yields where each region has gone since the first frame. Over a long video that drifts, and a face that
shifts its expression does not come back. Here the motion is taken relative to the face around that time, as spotting
takes it, and each number has a standard error. Windows of 30 seconds are worked through, so memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from operator import itemgetter

import numpy as np

from deft_llm.processing.aligned_clip import AlignedClip
from deft_llm.processing.face_alignment import (
    FaceSource,
    NoFaceFoundError,
    canonical_crop,
    crop_transform,
    make_face_source,
)
from deft_llm.processing.motion_evidence import SIGNIFICANT_AT
from deft_llm.processing.motion_intervals import windows_of
from deft_llm.processing.motion_signals import SLOW_NOISE, frame_noise, running_median
from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame
from deft_llm.processing.video_reading import ClipReader

REFERENCES = ("rest", "first")
REST_SECONDS = 3.0
"""Length of the running median that stands for the face at rest."""
LEAST_RATE = 10.0
"""Frames per second below which motion from frame to frame cannot be followed."""
NO_FACE = "no face was found"
ALONE = "the face was found in this frame only"
_WINDOW_SECONDS = 30.0
_MARGIN_SECONDS = 2.0  # half of the median's length, and its smoothing
_SEARCHES = 40  # frames in which a face is looked for where the first one has none


@dataclass(frozen=True, eq=False)
class FrameMotion:
    """The face in one frame.

    Args:
        followed (`FollowedFrame`): Head and regions as they were followed.
        reason (`str`, *optional*): Why the frame cannot be measured. The other fields are None then.
        motion (`np.ndarray` of shape `(len(TRACKED_REGIONS), 2)`, *optional*): Motion of each region relative to its
            reference, without the head's, in percent of the crop's width, +x right, +y down.
        error (`np.ndarray` of shape `(len(TRACKED_REGIONS),)`, *optional*): Standard error of the motion along each
            axis, in the same unit.
    """

    followed: FollowedFrame
    reason: str | None = None
    motion: np.ndarray | None = None
    error: np.ndarray | None = None

    @property
    def magnitude(self) -> np.ndarray:
        """Length of each region's motion."""
        return np.hypot(*self.motion.T)

    @property
    def significant(self) -> np.ndarray:
        """Whether each region moves farther than errors alone would let it seem to; see `SIGNIFICANT_AT`."""
        return self.magnitude > SIGNIFICANT_AT * self.error


def frame_motions(followed: Iterable[FollowedFrame], fps: float, *, reference: str = "rest") -> Iterator[FrameMotion]:
    """The motion in every frame, as many items as frames.

    The error of a frame consists of what the region's motion jumps by from frame to frame in this window of the video,
    the slow errors that compression and light cause, and what the head's turn may leave.

    Args:
        followed (`Iterable[FollowedFrame]`): What `AlignedClip.follow` yields.
        fps (`float`): Frames per second.
        reference (`str`): What motion is relative to. "rest" is the median of the region's place over the
            `REST_SECONDS` around the frame, or over the whole stretch that can be measured where that is shorter.
            "first" is the first frame of the stretch.

    Raises:
        ValueError: the reference is unknown, or the frame rate is below `LEAST_RATE`.
    """
    if reference not in REFERENCES:
        raise ValueError(f"The reference must be {' or '.join(REFERENCES)}, got {reference!r}.")
    if fps < LEAST_RATE:
        raise ValueError(
            f"it has {fps:g} frames per second, and from one to the next a face moves too far to be followed; "
            f"{LEAST_RATE:g} are needed"
        )
    for reason, frames in groupby(followed, key=lambda frame: frame.reason):
        if reason is not None:
            yield from (FrameMotion(frame, reason) for frame in frames)
        else:
            yield from _measured(frames, fps, reference)


def _measured(frames: Iterable[FollowedFrame], fps: float, reference: str) -> Iterator[FrameMotion]:
    """The motion in one stretch that can be measured."""
    origin = None
    for start, first, last, window in windows_of(frames, round(_WINDOW_SECONDS * fps), round(_MARGIN_SECONDS * fps)):
        if start == 0 and len(window) < 2:
            yield FrameMotion(window[0], ALONE)
            return
        way = np.stack([frame.motion for frame in window]).astype(np.float64)
        origin = way[0] if origin is None else origin
        signals = way.reshape(len(way), -1)
        noise = region_noise(way)
        if reference == "first":
            rest = np.broadcast_to(origin, way.shape)
        elif len(way) < REST_SECONDS * fps:
            rest = np.broadcast_to(np.median(way, axis=0), way.shape)
        else:
            rest = running_median(signals, round(REST_SECONDS * fps)).reshape(way.shape)
        for place in range(first, last):
            yield motion_since(rest[place], window[place], noise)


def region_noise(way: np.ndarray) -> np.ndarray:
    """What each region's motion jumps by from frame to frame, as a standard deviation along each axis.

    Args:
        way (`np.ndarray` of shape `(frames, len(TRACKED_REGIONS), 2)`): Where each region has gone.
    """
    jumps = frame_noise(way.reshape(len(way), -1)).reshape(-1, 2)
    return np.sqrt(np.mean(np.square(jumps), axis=1))


def motion_since(rest: np.ndarray, frame: FollowedFrame, noise: np.ndarray) -> FrameMotion:
    """The motion in one frame, relative to where the regions were at rest.

    Args:
        rest (`np.ndarray` of shape `(len(TRACKED_REGIONS), 2)`): Where they were.
        frame (`FollowedFrame`): The frame. It can be measured.
        noise (`np.ndarray` of shape `(len(TRACKED_REGIONS),)`): From `region_noise`.
    """
    error = np.sqrt(noise**2 + SLOW_NOISE**2 + frame.error**2)
    return FrameMotion(frame, None, frame.motion.astype(np.float64) - rest, error)


# --- Several faces --------------------------------------------------------------------------------------------------


def placed_faces(reader: ClipReader, face_source: str | FaceSource | None, most: int | None = None) -> Faces:
    """Places the faces of a video in the first frame that shows one.

    Args:
        reader (`ClipReader`): The video.
        face_source (`str` or `FaceSource`, *optional*): As in `AlignedClip.open`. "cropped" and "canonical" know one
            face.
        most (`int`, *optional*): Number of faces to follow at most, the largest ones.
    """
    finder = make_face_source(face_source or "cropped")
    if finder is None or finder is canonical_crop:
        return Faces(reader, None, [AlignedClip.open(reader, face_source=finder or "cropped").transform], 0, 1)
    last = len(reader) - 1
    for index in np.unique(np.linspace(0, last, _SEARCHES + 1).astype(int)).tolist():
        found = face_transforms(finder, reader.frames([index])[0])
        if found:
            return Faces(reader, finder, found[:most], index, len(found))
    return Faces(reader, finder, [], 0, 0)


class Faces:
    """The faces of a video, which are followed together and told apart by where they are.

    A face that was lost is looked for again among the faces that are not followed at that time, nearest to where it
    was. Faces that come into the picture later are not followed.

    Args:
        reader (`ClipReader`): The video.
        finder (`FaceSource`, *optional*): What finds faces again.
        transforms (`list[np.ndarray]`): From the frame's pixels to the crop of each face, the largest face first.
        placed_in (`int`): The frame in which the faces were placed.
        found (`int`): Number of faces in that frame.
    """

    def __init__(
        self,
        reader: ClipReader,
        finder: FaceSource | None,
        transforms: list[np.ndarray],
        placed_in: int,
        found: int,
    ):
        self.reader, self.found, self.placed_in = reader, found, placed_in
        self._finder = finder
        self._last = list(transforms)
        self._lost = [False] * len(transforms)
        self.clips = [
            AlignedClip(reader, transform, placed_in=placed_in, find=self._find_for(number))
            for number, transform in enumerate(transforms)
        ]

    def __len__(self) -> int:
        return len(self.clips)

    def motions(self, fps: float, frames: Iterator[np.ndarray], *, reference: str = "rest") -> Iterator[list]:
        """The motion of all faces in every frame, in one pass: a list of `FrameMotion` per frame, one per face.

        Args:
            fps (`float`): Frames per second.
            frames (`Iterator[np.ndarray]`): The frames of the reader.
            reference (`str`): As in `frame_motions`.
        """
        if not self.clips:
            raise NoFaceFoundError(f"{self.reader.name}: {NO_FACE}.")
        columns = [
            frame_motions(map(itemgetter(number), rows), fps, reference=reference)
            for number, rows in enumerate(tee(self._followed(frames), len(self)))
        ]
        yield from map(list, zip(*columns, strict=True))

    def _followed(self, frames: Iterator[np.ndarray]) -> Iterator[tuple[FollowedFrame, ...]]:
        parts = [clip.follow(part) for clip, part in zip(self.clips, tee(frames, len(self)), strict=True)]
        while True:
            row = []
            for number, part in enumerate(parts):
                frame = next(part, None)
                if frame is None:
                    return
                self._lost[number] = frame.reason is not None
                if frame.reason is None:
                    self._last[number] = frame.transform
                row.append(frame)
            yield tuple(row)

    def _find_for(self, number: int):
        if self._finder is None:
            return None
        return lambda frame: self._found_again(number, frame)

    def _found_again(self, number: int, frame: np.ndarray) -> np.ndarray | None:
        """The transform of a face that was lost, or None."""
        found = face_transforms(self._finder, frame)
        if len(self._last) == 1:
            return found[0] if found else None
        followed = [item for other, item in enumerate(self._last) if other != number and not self._lost[other]]
        free = [item for item in found if all(faces_apart(item, other) > 0.5 for other in followed)]
        lost = [item for other, item in enumerate(self._last) if other != number and self._lost[other]]
        own = self._last[number]
        mine = [item for item in free if all(faces_apart(item, own) <= faces_apart(item, other) for other in lost)]
        return min(mine, key=lambda item: faces_apart(item, own), default=None)


def face_transforms(finder: FaceSource, frame: np.ndarray) -> list[np.ndarray]:
    """The transform of every face that a finder finds in a frame, the largest face first.

    Args:
        finder (`FaceSource`): Finds faces.
        frame (`np.ndarray` of shape `(height, width, 3)`): The frame, uint8 RGB.
    """
    found = np.asarray(finder(frame), np.float64)
    if found.shape == (2, 3):
        return [found]
    points = found[None] if found.shape == (3, 2) else found
    faces = []
    for landmarks in points:
        try:
            faces.append(crop_transform(*frame.shape[:2], landmarks=landmarks))
        except ValueError:  # landmarks outside the picture: half a face
            continue
    return sorted(faces, key=lambda item: float(np.hypot(*item[:, 0])))


def middle_and_width(transform: np.ndarray) -> tuple[float, float, float]:
    """x and y of the crop's middle, and the crop's width, in pixels of the frame.

    Args:
        transform (`np.ndarray` of shape `(2, 3)`): From the frame's pixels to the canonical crop.
    """
    x, y = np.linalg.solve(transform[:, :2], 0.5 - transform[:, 2])
    return float(x), float(y), 1 / float(np.hypot(*transform[:, 0]))


def faces_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two faces in widths of the second.

    Args:
        first (`np.ndarray` of shape `(2, 3)`): Transform of one face.
        second (`np.ndarray` of shape `(2, 3)`): Transform of the other.
    """
    (x, y, _), (other_x, other_y, width) = middle_and_width(first), middle_and_width(second)
    return float(np.hypot(x - other_x, y - other_y)) / width


REGION_NAMES = [region for region, _ in TRACKED_REGIONS]
SIDE_NAMES = [side for _, side in TRACKED_REGIONS]
