"""Region motion as signals over time: noise, smoothing, whitening, and fitting one rise and fall."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from .action_units import region_ellipse
from .region_tracking import TRACKED_REGIONS


def checked_motion(motion: np.ndarray) -> np.ndarray:
    """Returns region motion unchanged. Raises `ValueError` for another shape or values that are not finite."""
    motion = np.asarray(motion)
    if motion.ndim != 3 or motion.shape[1:] != (len(TRACKED_REGIONS), 2):
        raise ValueError(
            f"Region motion must have shape (frames, {len(TRACKED_REGIONS)}, 2) as from track_regions; got "
            f"{motion.shape}."
        )
    if not np.isfinite(motion).all():
        raise ValueError("Region motion contains NaN or infinite values.")
    return motion


def motion_along(signals: np.ndarray, region: str, side: str, direction: Sequence[float]) -> np.ndarray:
    """Displacement of one region along a direction.

    Args:
        signals (`np.ndarray` of shape `(T, channels)`): Displacements of all tracked regions.
        region (`str`): Name of the region.
        side (`str`): Side of the region, as in `TRACKED_REGIONS`.
        direction (`Sequence[float]` of length 2): Image direction, +x right and +y down.

    Returns:
        `np.ndarray` of shape `(T,)`: Displacement in the unit of `signals`.
    """
    column = 2 * TRACKED_REGIONS.index((region, side))
    return signals[:, column : column + 2] @ np.asarray(direction)


def channels_of(*names: str) -> np.ndarray:
    """Mask of the signals that belong to regions of these names, (channels,)."""
    return np.repeat([region in names for region, _ in TRACKED_REGIONS], 2)


def _head_modes() -> np.ndarray:
    """Effect of a head shift in x and y, a change of scale and a rotation on each signal, (channels, 4). The four are
    of similar size over the face."""
    x, y = (np.array([region_ellipse(*key)[:2] for key in TRACKED_REGIONS]) - 0.5).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    modes = [(one, zero), (zero, one), (4 * x, 4 * y), (-4 * y, 4 * x)]
    return np.stack([np.stack(mode, axis=-1).ravel() for mode in modes], axis=-1)


LIDS = channels_of("upper lid", "lower lid")
HEAD_MODES = _head_modes()
# Percent of the crop's width.
SLOW_NOISE = 0.05  # slow noise of a region at rest due to compression and light, in addition to frame-to-frame noise
HEAD_REMAINS = 0.3  # remaining motion per head mode; larger values have the same effect


def whitening(spread: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """The symmetric matrix that scales signals with these standard deviations and modes to variance one."""
    covariance = np.diag(spread**2) + modes @ modes.T
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(values)) @ vectors.T


def robust_spread(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation about zero along the first axis."""
    return 1.4826 * np.median(np.abs(values), axis=0)


def frame_noise(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation of the changes from frame to frame, (D,)."""
    return robust_spread(np.diff(values, axis=0)) / np.sqrt(2)


def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooths (T, D) over time with a Gaussian of `sigma` frames. Has almost no effect below a third of a frame."""
    taps = 2 * max(1, int(np.ceil(3 * sigma))) + 1
    if sigma <= 0:
        return values.copy()
    return cv2.GaussianBlur(values, (1, taps), 1.0, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)


def running_median(values: np.ndarray, length: int) -> np.ndarray:
    """Running median of `length` frames, (T, D), computed at sixteen positions per length and interpolated linearly.
    At the ends, the signal is extended by point reflection, which preserves a slow drift."""
    count, half = len(values), max(1, length // 2)
    smooth = smoothed(values, length / 64)
    padded = np.pad(smooth, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    places = np.unique(np.append(np.arange(0, count, max(1, length // 16)), count - 1))
    medians = np.stack([np.median(padded[at : at + 2 * half + 1], axis=0) for at in places])
    return np.stack([np.interp(np.arange(count), places, column) for column in medians.T], axis=1)


def extent_of(course: np.ndarray, peak: int, level: float) -> tuple[int, int]:
    """The last frame before and the first frame after a peak that are at or below a level, or the ends.

    Args:
        course (`np.ndarray` of shape `(T,)`): Values over time.
        peak (`int`): Frame number of the peak.
        level (`float`): The level, in the unit of `course`.
    """
    low = course <= level
    before, after = np.flatnonzero(low[:peak]), np.flatnonzero(low[peak:])
    return (int(before[-1]) if len(before) else 0), (peak + int(after[0]) if len(after) else len(course) - 1)


def runs_of(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


# --- bumps ----------------------------------------------------------------------------------------------------------

_FLANK = 0.35  # of a bump's length, or two frames: how much before and after it tells where it comes from and goes to


@lru_cache(maxsize=64)
def bump_filter(length: float) -> np.ndarray:
    """The filter that gives the height of a raised cosine of `length` frames, and nothing for a straight line."""
    half = int(np.ceil(length / 2 + max(2.0, _FLANK * length)))
    times = np.arange(-half, half + 1)
    bump = np.where(np.abs(times) < length / 2, 0.5 + 0.5 * np.cos(2 * np.pi * times / length), 0.0)
    line = np.stack([np.ones(len(times)), times], axis=1)
    taps = bump - line @ np.linalg.lstsq(line, bump, rcond=None)[0]
    return taps / (taps @ bump)


def filtered(values: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Correlates (T, D) over time with a filter of odd length. At the ends, the signal is continued as it is there."""
    half = len(taps) // 2
    padded = np.pad(values, ((half, half), (0, 0)), mode="edge")
    return cv2.filter2D(padded, -1, taps[:, None], borderType=cv2.BORDER_REPLICATE)[half : half + len(values)]


def bump_course(times: np.ndarray, onset: float, apex: float, offset: float) -> np.ndarray:
    """Strength of an expression at some times: from 0 to 1 and back to 0 along raised cosines."""
    along = np.where(times < apex, (times - onset) / (apex - onset), (offset - times) / (offset - apex))
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(along, 0.0, 1.0))


def fit_bump(
    course: np.ndarray, peak: float, length: float, least: float, most: float, step: int = 1
) -> tuple[int, int, int] | None:
    """Fits onset, apex and offset of a bump that stands on a straight line, by least squares.

    Args:
        course (`np.ndarray` of shape `(T,)`): Values over time; the bump goes up.
        peak (`float`): About where the bump is, as a frame number.
        length (`float`): About how long it is, in frames.
        least (`float`): The shortest bump, in frames.
        most (`float`): The longest.
        step (`int`): Frames between the onsets and offsets that are compared, at least; a long bump takes more.

    Returns:
        `tuple[int, int, int]`: Frame numbers, or None where no bump of such a length is near.
    """
    step = max(step, round(length / 16))
    first = max(0, int(peak - 1.6 * length) - 2)
    part = course[first : int(peak + 1.6 * length) + 3]
    at, count = peak - first, len(part)
    onsets = np.arange(max(0, int(at - 1.1 * length)), max(1, int(at - 0.25 * length)) + 1, step)
    offsets = np.arange(int(at + 0.25 * length), min(count - 1, int(at + 1.1 * length)) + 1, step)
    onsets, offsets, shares = (values.ravel() for values in np.meshgrid(onsets, offsets, (0.35, 0.5, 0.65)))
    fits = (offsets - onsets >= max(least, 2)) & (offsets - onsets <= most)
    onsets, offsets, shares = onsets[fits], offsets[fits], shares[fits]
    if not len(onsets):
        return None
    apexes = np.clip(np.rint(onsets + shares * (offsets - onsets)).astype(int), onsets + 1, offsets - 1)
    times = np.arange(count)
    line = np.linalg.qr(np.stack([np.ones(count), times], axis=1))[0]
    bumps = bump_course(times, onsets[:, None], apexes[:, None], offsets[:, None])
    bumps -= bumps @ line @ line.T
    heights = (bumps @ part) / np.sqrt(np.square(bumps).sum(axis=1) + 1e-9)
    best = int(np.argmax(heights))
    return first + int(onsets[best]), first + int(apexes[best]), first + int(offsets[best])


# --- a rise and fall ------------------------------------------------------------------------------------------------


def fit_course(course: np.ndarray, sigma: float) -> tuple[int, int, int]:
    """Fits onset, apex and offset of a rise and fall by least squares. They may be outside the frames.

    Both flanks are u^k / (u^k + (1 − u)^k). This is a straight line for k = 1, close to a raised cosine for k = 1.7
    and steeper for larger k. k is fitted too. The durations of rise and fall are independent.
    """
    count = len(course)
    times = np.arange(count, dtype=np.float64)
    smooth = smoothed(course[:, None], sigma)[:, 0]
    apex = int(np.argmax(smooth[1:])) + 1
    base = float(np.percentile(smooth, 10))
    height = max(float(smooth[apex]) - base, 1e-6)
    low = smooth < base + 0.5 * height
    before, after = np.flatnonzero(low[:apex]), np.flatnonzero(low[apex:])
    rise = max(1, apex - (int(before[-1]) if len(before) else 0))
    fall = max(1, int(after[0]) if len(after) else count - 1 - apex)
    # A flank reaches half its height half-way, so it lasts twice as long as the part from there to the apex.
    guess = np.array([apex - 2.0 * rise, apex, apex + 2.0 * fall, np.log(1.7), base, height])
    if count < 8:
        return max(0, round(guess[0])), apex, min(count - 1, round(guess[2]))
    fitted = _least_squares(times, course, guess, shape_spread=0.25)
    if not apex - rise <= fitted[1] <= apex + fall:
        fitted = guess
    return round(float(fitted[0])), round(float(fitted[1])), round(float(fitted[2]))


def _rise_and_fall(parameters: np.ndarray, times: np.ndarray) -> np.ndarray:
    onset, apex, offset, log_shape, base, height = parameters
    along = np.where(times < apex, (times - onset) / (apex - onset), (offset - times) / (offset - apex))
    along = np.clip(along, 0.0, 1.0)
    power = along ** np.exp(log_shape)
    return base + height * power / (power + (1 - along) ** np.exp(log_shape))


def _least_squares(times: np.ndarray, values: np.ndarray, guess: np.ndarray, *, shape_spread: float) -> np.ndarray:
    """Levenberg-Marquardt for `_rise_and_fall`, with the shape parameter kept near its initial value."""
    steps = np.diag([0.3, 0.3, 0.3, 0.05, 0.01, 0.01])

    def residuals(parameters: np.ndarray) -> np.ndarray:
        shape = (parameters[3] - guess[3]) / shape_spread
        return np.append(values - _rise_and_fall(parameters, times), shape)

    parameters, damping = guess.astype(np.float64), 1e-2
    residual = residuals(parameters)
    for _ in range(40):
        jacobian = np.stack(
            [(residuals(parameters + step) - residuals(parameters - step)) / (2 * step.max()) for step in steps], 1
        )
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        cost = residual @ residual
        for _ in range(8):
            trial = parameters - np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), gradient)
            if trial[0] + 1 < trial[1] < trial[2] - 1:
                trial_residual = residuals(trial)
                if trial_residual @ trial_residual < cost:
                    break
            damping *= 4
        else:
            return parameters
        parameters, residual, damping = trial, trial_residual, max(damping / 8, 1e-6)
        if cost - residual @ residual < 1e-6 * cost:
            return parameters
    return parameters
