"""The expressions, blinks and speech in a video of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .aligned_clip import AlignedClip
from .face_alignment import FaceSource
from .motion_intervals import INTERVAL_KINDS, MICRO_SECONDS, Interval, propose_intervals
from .video_reading import open_clip

__all__ = ["INTERVAL_KINDS", "MICRO_SECONDS", "Interval", "propose_intervals", "spot_expressions"]


def spot_expressions(
    source: Any,
    *,
    fps: float | None = None,
    face_source: str | FaceSource | None = None,
    face_landmarks: Sequence[Sequence[float]] | None = None,
    face_box: Sequence[float] | None = None,
    longest: float = 1.0,
) -> list[Interval]:
    """The expressions, blinks and speech in a video, in one pass and in constant memory.

    Args:
        source (`Any`): an [`AlignedClip`], or whatever `open_clip` reads.
        fps (`float`, *optional*): frames per second; needed where the source carries none, such as a folder of
            images.
        face_source (`str` or `FaceSource`, *optional*): what finds the face in the first frame, see
            `make_face_source`; by default the frame itself is taken for a face crop.
        face_landmarks (`Sequence[Sequence[float]]` of shape `(3, 2)`, *optional*): where the face is in the first
            frame, in pixels, see `crop_transform`.
        face_box (`Sequence[float]` of length 4, *optional*): the same as a box, in pixels.
        longest (`float`): seconds from onset to offset of the longest expression, see `propose_intervals`.

    Returns:
        `list[Interval]`: in the order of their onsets.

    Raises:
        FileNotFoundError: as in [`AlignedClip.open`].
        VideoReadError: as in [`AlignedClip.open`].
        FaceAlignmentError: as in [`AlignedClip.open`].
        TypeError: as in [`AlignedClip.open`].
        ValueError: the frame rate is not known.
    """
    if not isinstance(source, AlignedClip):
        source = open_clip(source, fps=fps)
    clip = AlignedClip.open(source, face_source=face_source, face_landmarks=face_landmarks, face_box=face_box)
    return clip.intervals(fps=fps, longest=longest)
