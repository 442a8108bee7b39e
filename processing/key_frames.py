"""Spots onset, apex and offset of a clip's expression, and samples frames for the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .motion_intervals import Interval, propose_intervals
from .motion_signals import (
    HEAD_MODES,
    HEAD_REMAINS,
    LIDS,
    SLOW_NOISE,
    checked_motion,
    fit_course,
    frame_noise,
    smoothed,
    whitening,
)

CLIP_SECONDS = 1.2
"""A clip up to this long is taken to show one expression. In a longer one, expressions are looked for."""
_COURSE_SEEN = 4.0  # robust standard deviations


class KeyFrameError(ValueError):
    """Key frames that contradict each other or the clip."""


@dataclass(frozen=True)
class KeyFrames:
    """Frame numbers within the clip, onset < apex ≤ offset.

    Args:
        onset (`int`): Frame at which the expression begins.
        apex (`int`): Frame of the strongest motion.
        offset (`int`): Frame at which the expression ends.
    """

    onset: int
    apex: int
    offset: int

    @classmethod
    def of_interval(cls, interval: Interval) -> KeyFrames:
        """Those of an expression that was spotted. Onset and apex are different frames.

        Args:
            interval (`Interval`): From `propose_intervals`.
        """
        apex = max(interval.apex, interval.onset + 1)
        return cls(interval.onset, apex, max(interval.offset, apex))

    def validate(self, num_frames: int) -> KeyFrames:
        """Returns itself, or raises `KeyFrameError` saying which rule is broken."""
        if not 0 <= self.onset < num_frames or not self.offset < num_frames:
            raise KeyFrameError(
                f"Key frames {self.onset}, {self.apex}, {self.offset} are outside a clip of {num_frames} frames."
            )
        if not self.onset < self.apex <= self.offset:
            raise KeyFrameError(
                f"Key frames must satisfy onset < apex ≤ offset; got onset {self.onset}, apex {self.apex}, "
                f"offset {self.offset}."
            )
        return self


def spot_key_frames(motion: np.ndarray, fps: float | None = None) -> KeyFrames:
    """Spots onset, apex and offset of the expression in a clip.

    A clip is assumed to show one expression. The course of the face's motion is the first principal component over
    time of all regions except the lids. Regions are weighted by their noise, and the effects of wrongly measured head
    motion are removed. A smooth rise and fall is then fitted to this course. Motion pauses at the apex, so the flanks
    determine its time better than the maximum does. If only the lids move, they are used instead.

    A clip longer than `CLIP_SECONDS` with a known frame rate is first searched with `propose_intervals` for the most
    prominent expression. A still clip also gets key frames, where its noise is strongest.

    Args:
        motion (`np.ndarray`): (T, regions, 2) from `track_regions`, percent of the crop width.
        fps (`float | None`, *optional*): Frames per second, if known.

    Raises:
        KeyFrameError: there are fewer than two frames.
        ValueError: `motion` has another shape, or values that are not finite.
    """
    motion = checked_motion(motion)
    count = len(motion)
    if count < 2:
        raise KeyFrameError(f"Key frames need at least two frames, onset and apex; this clip has {count}.")
    if fps and count > CLIP_SECONDS * fps:
        shown = [item for item in propose_intervals(motion, fps) if item.kind == "expression"]
        if shown:
            best = max(shown, key=lambda item: item.score)
            return KeyFrames(best.onset, best.apex, best.offset).validate(count)
    signals = motion.reshape(count, -1).astype(np.float64)
    sigma = min(2.0 if not fps else float(np.clip(0.01 * fps, 0.5, 5.0)), count / 16)
    course, peak = _course(signals[:, ~LIDS], HEAD_MODES[~LIDS], sigma)
    if peak < _COURSE_SEEN:
        lids, lid_peak = _course(signals[:, LIDS], HEAD_MODES[LIDS], sigma)
        course = lids if lid_peak > max(peak, _COURSE_SEEN) else course
    onset, apex, offset = fit_course(course, sigma)
    apex = min(max(apex, 1), count - 1)
    return KeyFrames(min(max(onset, 0), apex - 1), apex, min(max(offset, apex), count - 1)).validate(count)


def _course(signals: np.ndarray, modes: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """The common motion of the signals, (T,), in standard deviations of the noise, positive away from the first
    frames, and its smoothed peak."""
    centred = signals - np.median(signals, axis=0)
    whitened = centred @ whitening(np.hypot(frame_noise(centred), SLOW_NOISE), HEAD_REMAINS * modes)
    smooth = smoothed(whitened, sigma)
    smooth -= smooth.mean(axis=0)
    direction = np.linalg.svd(smooth, full_matrices=False)[2][0]
    course = whitened @ direction
    course = course - np.median(course[: max(2, len(course) // 16)])
    course = course / max(float(frame_noise(course[:, None])[0]), 1e-3)
    smooth = smoothed(course[:, None], sigma)[:, 0]
    if abs(smooth.min()) > smooth.max():
        course, smooth = -course, -smooth
    return course, float(smooth.max())


# --- frames for the model -------------------------------------------------------------------------------------------


def sample_indices(keys: KeyFrames, num_frames: int) -> list[int]:
    """Samples `num_frames` frame numbers: the onset first, the apex at `apex_position(num_frames)`, the offset last.

    Both phases are sampled evenly, so slow and fast expressions get the same timing. Frames repeat if a phase has
    fewer frames than samples.
    """
    position = apex_position(num_frames)
    rising = np.linspace(keys.onset, keys.apex, position + 1)
    falling = np.linspace(keys.apex, keys.offset, num_frames - position)[1:]
    return [round(float(index)) for index in np.concatenate([rising, falling])]


def apex_position(num_frames: int) -> int:
    """Index of the apex among the sampled frames."""
    return num_frames // 2
