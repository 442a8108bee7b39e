"""A clip whose face is placed. It is opened once and handed on to whoever measures, spots, builds or shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from .face_alignment import (
    FaceAlignmentError,
    FaceSource,
    checked_similarity,
    face_transform,
    make_face_source,
    warp_to_crop,
)
from .key_frames import KeyFrames, spot_key_frames
from .motion_intervals import Interval, propose_intervals
from .region_tracking import track_regions
from .video_reading import ClipReader, open_clip


@dataclass(frozen=True, eq=False)
class AlignedClip:
    """A clip, the place of its face, and its key frames where they are known.

    The face is placed once, in one frame; the same transform serves every frame, because a face found again in each
    frame jitters by more than a micro-expression moves.

    Args:
        reader (`ClipReader`): the frames.
        transform (`np.ndarray` of shape `(2, 3)`): the similarity that takes frame pixels to the unit square of the
            canonical crop, see `crop_transform`.
        key_frames (`KeyFrames`, *optional*): onset, apex and offset, numbered as the frames of `reader`.
    """

    reader: ClipReader
    transform: np.ndarray
    key_frames: KeyFrames | None = None

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
                the frames are face crops. Not asked where landmarks or a box are given, or the face is placed.
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
        transform = face_transform(reader, onset, finder, landmarks=face_landmarks, box=face_box)
        return cls(reader, transform, key_frames)

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
        return replace(self, key_frames=KeyFrames(*_numbers_of(key_frames)))

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
        return replace(self, reader=self.reader.window(start, stop, name=name), key_frames=keys)

    def track(self) -> Iterator[np.ndarray]:
        """The way each region has gone since the first frame, frame by frame, as `track_regions` yields it."""
        return track_regions(self.reader.scan(), self.transform)

    def spot(self, motion: np.ndarray | None = None) -> KeyFrames:
        """Onset, apex and offset of the one expression of the clip, whatever `key_frames` says.

        Args:
            motion (`np.ndarray` of shape `(frames, regions, 2)`, *optional*): what `track` yields, in percent of the
                crop's width, for callers that have it already.

        Raises:
            KeyFrameError: the clip has fewer than two frames.
        """
        return spot_key_frames(np.stack(list(self.track())) if motion is None else motion, self.fps)

    def spotted(self) -> AlignedClip:
        """The clip with its key frames: those that it has, or else those that are spotted."""
        return self if self.key_frames is not None else self.with_key_frames(self.spot())

    def intervals(self, *, fps: float | None = None, longest: float = 1.0) -> list[Interval]:
        """The expressions, blinks and speech in the clip, in one pass and in constant memory.

        Args:
            fps (`float`, *optional*): frames per second, where the clip's own is unknown or wrong.
            longest (`float`): seconds from onset to offset of the longest expression, see `propose_intervals`.

        Raises:
            ValueError: the frame rate is not known.
        """
        rate = fps or self.fps
        if not rate:
            raise ValueError(f"{self.name}: the source carries no frame rate; pass fps= (frames a second).")
        return propose_intervals(self.track(), rate, longest=longest)

    def crop(self, frame: np.ndarray, side: int, *, grey: bool = False) -> np.ndarray:
        """The face crop of one frame of the clip.

        Args:
            frame (`np.ndarray` of shape `(height, width, 3)`, uint8): a frame as the reader gives it.
            side (`int`): side of the crop in pixels.
            grey (`bool`): brightness instead of colour.

        Returns:
            `np.ndarray`: `(side, side, 3)` uint8 RGB, or `(side, side)` float32 from 0 to 255 for `grey`.
        """
        if grey:
            # float32 before the warp: eight bits after it would round away a tenth of a pixel.
            frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return warp_to_crop(frame, self.transform, side)

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
