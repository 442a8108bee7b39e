"""Onset, apex and offset of the expression in a clip, and the frames a model gets to see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .action_units import REGIONS, SIDES, ellipse_mask, region_ellipse


class KeyFrameError(ValueError):
    """Key frames that contradict each other or the clip."""


@dataclass(frozen=True)
class KeyFrames:
    """Frame numbers within the clip, onset < apex ≤ offset."""

    onset: int
    apex: int
    offset: int

    def validate(self, num_frames: int) -> KeyFrames:
        """Returns itself, or raises `KeyFrameError` saying which rule is broken."""
        if not 0 <= self.onset < num_frames or not self.offset < num_frames:
            raise KeyFrameError(
                f"Key frames {self.onset}, {self.apex}, {self.offset} lie outside a clip of {num_frames} frames."
            )
        if not self.onset < self.apex <= self.offset:
            raise KeyFrameError(
                f"Key frames must satisfy onset < apex ≤ offset; got onset {self.onset}, apex {self.apex}, "
                f"offset {self.offset}."
            )
        return self


def motion_energy(flow: np.ndarray) -> np.ndarray:
    """How much the face's expressive regions move: the strongest region's mean displacement, field by field.

    Args:
        flow: (T, 2, h, w), head motion removed, any unit.

    Returns:
        (T,) in the same unit.
    """
    _, _, height, width = flow.shape
    masks = [ellipse_mask(region_ellipse(region, side), height, width) for region in REGIONS for side in SIDES]
    return np.max([np.hypot(*flow[:, :, mask].mean(-1).T) for mask in masks], axis=0)


def spot_key_frames(energy: Sequence[float], *, rise: float = 0.1) -> KeyFrames:
    """Onset, apex and offset from the energy of the motion since frame 0.

    The apex is the energy's maximum after smoothing over five frames; onset and offset are the last frame before it
    and the first one after it below `rise` of the maximum (or the ends of the clip).

    Args:
        energy: (T,) motion of frame t against frame 0, energy[0] = 0.
    """
    energy = np.asarray(energy, np.float64)
    width = min(5, 2 * ((len(energy) - 1) // 4) + 1)
    smooth = np.convolve(np.pad(energy, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    apex = int(np.argmax(smooth[1:])) + 1
    low = smooth < rise * smooth[apex]
    before, after = np.flatnonzero(low[:apex]), np.flatnonzero(low[apex:])
    onset = int(before[-1]) if len(before) else 0
    offset = apex + int(after[0]) if len(after) else len(energy) - 1
    return KeyFrames(onset, apex, offset)


def sample_indices(keys: KeyFrames, num_frames: int) -> list[int]:
    """`num_frames` frame numbers: the onset first, the apex at `apex_position(num_frames)`, the offset last.

    Each of the two phases is sampled evenly, so that a slow and a fast expression look alike in time; frames repeat
    where a phase has fewer frames than samples.
    """
    position = apex_position(num_frames)
    rising = np.linspace(keys.onset, keys.apex, position + 1)
    falling = np.linspace(keys.apex, keys.offset, num_frames - position)[1:]
    return [round(float(index)) for index in np.concatenate([rising, falling])]


def apex_position(num_frames: int) -> int:
    """Which of the sampled frames is the apex."""
    return num_frames // 2
