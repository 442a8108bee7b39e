"""The figure of a clip: how regions move over time, how exactly that is known, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from .key_frames import KeyFrames
from .motion_signals import frame_noise
from .region_tracking import TRACKED_REGIONS, FollowedFrame

_GREY = "0.55"


def plot_regions(
    followed: Sequence[FollowedFrame],
    *,
    keys: KeyFrames | None = None,
    fps: float | None = None,
    regions: int | Sequence[tuple[str, str]] = 4,
) -> Any:
    """Draws how far regions are from where they were at the onset, in percent of the crop's width.

    The band around a curve is one standard deviation: the noise from frame to frame, and what the head's turn may have
    left. Where the clip cannot be measured, there is no curve, and the ground is grey. The reason is in the legend.

    Args:
        followed (`Sequence[FollowedFrame]`): Head and regions in every frame.
        keys (`KeyFrames`, *optional*): Onset, apex and offset.
        fps (`float`, *optional*): Frames per second; without it, the axis has frame numbers.
        regions (`int` or `Sequence[tuple[str, str]]`, *optional*, defaults to 4): The number of regions, those that
            move farthest between onset and apex; or (region, side) pairs.

    Returns:
        `matplotlib.figure.Figure`: Closed for pyplot, so that notebooks show it once.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a region is not in the atlas.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plotting a clip needs matplotlib. Run `pip install matplotlib`.") from error
    motion = np.stack([frame.motion for frame in followed]).astype(np.float64)
    measured = np.array([frame.reason is None for frame in followed])
    places = _places(motion, measured, keys, regions)
    times = np.arange(len(motion)) / (fps or 1.0)
    step = 1 / (fps or 1.0)
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    try:
        if measured.any():
            for place in places:
                _draw_course(axes, times, motion, measured, followed, place, keys)
        start = 0
        told = set()
        for reason, frames in groupby(frame.reason for frame in followed):
            stop = start + len(list(frames))
            if reason is not None:
                label = None if reason in told else f"not measurable: {reason}"
                axes.axvspan((start - 0.5) * step, (stop - 0.5) * step, color=_GREY, alpha=0.35, lw=0, label=label)
                told.add(reason)
            start = stop
        if keys is not None:
            # Away from the apex, so that names of near key frames do not lie on each other.
            for name, side in (("onset", "right"), ("apex", "center"), ("offset", "left")):
                at = getattr(keys, name) * step
                axes.axvline(at, color=_GREY, lw=1, ls="--")
                axes.annotate(name, (at, 1), xycoords=("data", "axes fraction"), ha=side, va="bottom")
        axes.set_xlim(-0.5 * step, times[-1] + 0.5 * step)
        axes.set_xlabel("time in s" if fps else "frame")
        axes.set_ylabel("motion in % of the crop's width")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    finally:
        plt.close(figure)
    return figure


def _places(
    motion: np.ndarray, measured: np.ndarray, keys: KeyFrames | None, regions: int | Sequence[tuple[str, str]]
) -> list[int]:
    """The places of the wanted regions in `TRACKED_REGIONS`."""
    if not isinstance(regions, int):
        unknown = [key for key in regions if tuple(key) not in TRACKED_REGIONS]
        if unknown:
            raise ValueError(
                f"There is no region {unknown[0]!r}. A region is a pair such as ('inner brow', 'left'); the names are "
                "in action_units.REGIONS."
            )
        return [TRACKED_REGIONS.index(tuple(key)) for key in regions]
    if keys is not None:
        moved = np.hypot(*(motion[keys.apex] - motion[keys.onset]).T)
    else:
        moved = np.hypot(*np.ptp(motion[measured], axis=0).T) if measured.any() else np.zeros(motion.shape[1])
    return np.argsort(-moved, kind="stable")[:regions].tolist()


def _draw_course(
    axes: Any,
    times: np.ndarray,
    motion: np.ndarray,
    measured: np.ndarray,
    followed: Sequence[FollowedFrame],
    place: int,
    keys: KeyFrames | None,
) -> None:
    """The curve of a region, along the way from onset to apex, or its longest way where there are no key frames."""
    region, side = TRACKED_REGIONS[place]
    start = int(np.argmax(measured)) if keys is None else keys.onset
    course = motion[:, place] - motion[start, place]
    way = course[measured][np.hypot(*course[measured].T).argmax()] if keys is None else course[keys.apex]
    along = way / max(float(np.hypot(*way)), 1e-6)
    values = np.where(measured, course @ along, np.nan)
    noise = frame_noise(motion[measured][:, place]) if measured.sum() > 1 else np.zeros(2)
    spread = np.hypot(float(np.hypot(*(noise * along))), [frame.error for frame in followed])
    (line,) = axes.plot(times, values, lw=1.6, label=f"{side} {region}")
    axes.fill_between(times, values - spread, values + spread, color=line.get_color(), alpha=0.2, lw=0)
