"""Onset, apex and offset of an expression, the expressions in a long video, and the frames a model gets to see.

Everything here rests on one cheap measurement: `track_regions` follows the atlas's regions from frame to frame,
against the head, and gives two numbers a region and frame. It is one pass, and it holds one reference frame whatever
the video's length. From it

- `spot_key_frames` finds the one expression of a clip;
- `propose_intervals` finds expressions, blinks and speech in a video, the spotting task of the Micro-Expression Grand
  Challenge (MEGC), in which a proposal counts when its intersection over union with the annotated interval is 0.5 or
  more (He et al. 2020, "Spotting macro- and micro-expression intervals in long video sequences").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from .action_units import REGIONS, SIDES, STABLE_REGIONS, ellipse_mask, get_action_unit, region_ellipse
from .face_alignment import crop_transform, warp_to_crop
from .video_reading import open_clip

TRACKING_RESOLUTION = 128  # pixels, side of the grey crop on which regions are followed
# Rows of what `track_regions` yields.
TRACKED_REGIONS: tuple[tuple[str, str], ...] = tuple((region, side) for region in REGIONS for side in SIDES)
LEAD_IN = 8  # frames before the onset that the whole-clip estimator looks at
INTERVAL_KINDS = ("expression", "blink", "speech")
# The longest micro-expression, onset to offset (Yan et al. 2013, "How fast are the leaked facial expressions").
MICRO_SECONDS = 0.5


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


@dataclass(frozen=True)
class Interval:
    """Something that happens in a video, onset ≤ apex ≤ offset in frame numbers, both ends included.

    Args:
        kind: one of `INTERVAL_KINDS`. The apex of a blink is the closed eye, that of speech the middle of the span.
        score: how far it stands out: the peak in robust standard deviations of the same motion over the rest of the
            video. Comparable within a kind only.
        regions: (region, side) pairs that move at the apex, the clearest first; sides are the subject's.
        macro: an expression that takes longer than `MICRO_SECONDS`.
    """

    onset: int
    apex: int
    offset: int
    kind: str
    score: float
    regions: tuple[tuple[str, str], ...] = ()
    macro: bool = False

    def overlap(self, onset: int, offset: int) -> float:
        """Intersection over union with another interval, 0 to 1, in frames."""
        common = min(self.offset, offset) - max(self.onset, onset) + 1
        return max(0, common) / (max(self.offset, offset) - min(self.onset, onset) + 1)


# --- following the regions ------------------------------------------------------------------------------------------


def track_regions(frames: Iterable[np.ndarray], transform: np.ndarray) -> Iterator[np.ndarray]:
    """The way each region of the atlas has gone since the first frame, frame by frame, without the head's motion.

    Frames are taken one at a time and none is kept: fed by `ClipReader.scan()` it runs in constant memory.

    Args:
        frames: (H, W, 3) uint8 RGB. transform: to the canonical crop of the first frame, from `crop_transform`.

    Yields:
        (len(TRACKED_REGIONS), 2) float32, percent of the crop's width, +x right, +y down; zeros for the first frame.
    """
    tracker = _RegionTracker(TRACKING_RESOLUTION)
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        yield tracker.update(warp_to_crop(grey, transform, TRACKING_RESOLUTION))


class _RegionTracker:
    """Inverse-compositional Lucas-Kanade (Baker & Matthews 2004) on patches instead of a field.

    A frame costs one similarity fit to the stable patches, which is the head, and one shift a region relative to it.
    Both start from the previous frame's solution. The reference is renewed every `_RENEWAL` frames, so that light
    and pose may change; the shifts are chained, and as the frame of renewal is measured in the old reference and is
    the new one, its noise cancels and the chain does not wander.
    """

    def __init__(self, side: int):
        self._side, self._centre = side, (side - 1) / 2
        self._blur = 2 * round(0.066 * side) + 1  # far above a wrinkle's width, below the shading's
        # The forehead is wide enough to be three patches; hair may hang into one of them.
        (cx, cy, rx, ry), *others = STABLE_REGIONS
        stable = [(cx + step * 2 * rx / 3, cy, rx / 3, ry) for step in (-1, 0, 1)] + others
        ellipses = stable + [region_ellipse(*key) for key in TRACKED_REGIONS]
        pixels = [np.flatnonzero(ellipse_mask(ellipse, side, side)) for ellipse in ellipses]
        self._pixels = np.concatenate(pixels)
        self._counts = np.array([len(part) for part in pixels])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._patch = np.repeat(np.arange(len(pixels)), self._counts)
        self._stable, self._stable_pixels = len(stable), int(self._counts[: len(stable)].sum())
        y, x = np.divmod(self._pixels, side)
        # Points and similarities of the plane as complex numbers: z ↦ scale · z + shift about the crop's middle.
        self._points = (x - self._centre) + 1j * (y - self._centre)
        self._scale, self._shift = 1 + 0j, 0j
        self._chained = np.zeros(len(TRACKED_REGIONS), complex)
        self._moved = np.zeros(len(TRACKED_REGIONS), complex)
        self._age, self._previous = 0, None

    def update(self, crop: np.ndarray) -> np.ndarray:
        image = cv2.GaussianBlur(crop, (0, 0), 0.8) - cv2.blur(crop, (self._blur, self._blur))
        if self._previous is None:
            self._renew(image)
        else:
            self._follow_head(image)
            self._follow_regions(image)
            self._age += 1
        self._previous = image
        way = (self._chained + self._moved) * (100 / self._side)
        if self._age >= _RENEWAL:
            self._renew(image)
        return np.stack([way.real, way.imag], axis=-1).astype(np.float32)

    def _renew(self, image: np.ndarray) -> None:
        """Takes the frame, fetched back along the head's motion, as the reference."""
        middle = complex(self._centre, self._centre)
        shift = self._shift + middle - self._scale * middle
        matrix = np.array(
            [[self._scale.real, -self._scale.imag, shift.real], [self._scale.imag, self._scale.real, shift.imag]]
        )
        reference = cv2.warpAffine(
            image, matrix, image.shape, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        values = reference.ravel()[self._pixels]
        contrast = self._centred(values)
        energy = self._sums(contrast * contrast) + 1e-3
        gradients = []
        for axis in ((1, 0), (0, 1)):
            gradient = cv2.Scharr(reference, cv2.CV_32F, *axis, scale=1 / 32).ravel()[self._pixels]
            # What a change of the patch's brightness or contrast would do is no motion (Baker, Gross & Matthews
            # 2003, "project out").
            gradient = self._centred(gradient)
            gradients.append(gradient - (self._sums(gradient * contrast) / energy)[self._patch] * contrast)
        self._values, self._gradients = values, np.float32(gradients)
        gx, gy = self._gradients
        self._damping = _PATCH_PRIOR * self._counts
        xx, xy, yy = self._sums(gx * gx) + self._damping, self._sums(gx * gy), self._sums(gy * gy) + self._damping
        self._inverse = np.stack([yy, -xy, xx]) / (xx * yy - xy * xy)
        # The head: u = a + c·x − d·y, v = b + d·x + c·y.
        gx, gy = self._gradients[:, : self._stable_pixels]
        x, y = self._points[: self._stable_pixels].real, self._points[: self._stable_pixels].imag
        self._jacobian = np.float32([gx, gy, gx * x + gy * y, gy * x - gx * y])
        products = self._jacobian[:, None] * self._jacobian[None]
        self._hessians = np.add.reduceat(products, self._starts[: self._stable], axis=2).transpose(2, 0, 1)
        self._chained = self._chained + self._moved
        self._moved = np.zeros_like(self._moved)
        self._age = 0

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._starts)

    def _centred(self, values: np.ndarray) -> np.ndarray:
        return values - (self._sums(values) / self._counts)[self._patch]

    def _sample(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        at = points + complex(self._centre, self._centre)
        maps = np.float32(at.real)[None], np.float32(at.imag)[None]
        return cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)[0]

    def _follow_head(self, image: np.ndarray) -> None:
        if self._fit_head(image):
            return
        # Further than the fit reaches: a quick turn, or few frames a second. Start again from the frames' shift.
        (dx, dy), _ = cv2.phaseCorrelate(self._previous, image)
        self._shift += complex(dx, dy)
        if not self._fit_head(image):
            # Another shot or a covered face: nothing connects this frame to the reference.
            self._scale, self._shift = 1 + 0j, 0j
            self._renew(image)

    def _fit_head(self, image: np.ndarray) -> bool:
        """Fits the similarity that most stable patches follow; whether they look like the reference afterwards."""
        count = self._stable_pixels
        points, values = self._points[:count], self._values[:count]
        weights = np.ones(self._stable)
        before = self._scale, self._shift
        for round_ in range(6):
            error = self._sample(image, self._scale * points + self._shift) - values
            steps = np.add.reduceat(self._jacobian * error, self._starts[: self._stable], axis=1).T
            system = np.tensordot(weights, self._hessians, 1) + 1e-3 * np.eye(4)
            a, b, c, d = np.linalg.solve(system, weights @ steps)
            self._shift -= self._scale * complex(a, b)
            self._scale *= 1 - complex(c, d)
            if round_:  # what is left in each patch tells which of them do not go with the head (Tukey's biweight)
                left = steps - self._hessians @ np.array([a, b, c, d])
                ixx, ixy, iyy = self._inverse[:, : self._stable]
                distance = np.hypot(ixx * left[:, 0] + ixy * left[:, 1], ixy * left[:, 0] + iyy * left[:, 1])
                scale = 4.685 * 1.4826 * max(float(np.median(distance)), 0.02)
                weights = np.where(distance < scale, (1 - (distance / scale) ** 2) ** 2, 0.0)
            if round_ > 1 and max(abs(a), abs(b)) < 0.005:
                break
        trusted = np.repeat(weights > 0, self._counts[: self._stable])
        fetched = self._sample(image, self._scale * points + self._shift)[trusted]
        expected = values[trusted]
        alike = float(fetched @ expected) >= 0.5 * float(np.linalg.norm(fetched) * np.linalg.norm(expected))
        if not (alike and 0.5 < abs(self._scale) < 2 and abs(self._shift) < self._side):
            self._scale, self._shift = before
            return False
        return True

    def _follow_regions(self, image: np.ndarray) -> None:
        moved, error = self._fit_regions(image, self._moved)
        if self._age % 4 == 0:
            # A shift that has slipped to the next wrinkle finds back when the region is at rest again.
            fresh, fresh_error = self._fit_regions(image, np.zeros_like(self._moved))
            moved = np.where(fresh_error < 0.98 * error, fresh, moved)
        self._moved = moved

    def _fit_regions(self, image: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each region's shift in pixels, and the variance of what it leaves unexplained."""
        points, values = self._points[self._stable_pixels :], self._values[self._stable_pixels :]
        starts = self._starts[self._stable :] - self._stable_pixels
        patch, counts = self._patch[self._stable_pixels :] - self._stable, self._counts[self._stable :]
        ixx, ixy, iyy = self._inverse[:, self._stable :]
        for _ in range(4):
            error = self._sample(image, self._scale * (points + moved[patch]) + self._shift) - values
            bx, by = np.add.reduceat(self._gradients[:, self._stable_pixels :] * error, starts, axis=1)
            # The prior: a patch without texture goes with the head.
            bx, by = bx + self._damping[self._stable :] * moved.real, by + self._damping[self._stable :] * moved.imag
            step = (ixx * bx + ixy * by) + 1j * (ixy * bx + iyy * by)
            length = np.abs(step)
            moved = moved - step * np.minimum(1, 1.5 / np.maximum(length, 1e-9))
            if length.max() < 0.01:
                break
        moved = np.where(np.abs(moved) > _FARTHEST * self._side, 0, moved)
        error = self._sample(image, self._scale * (points + moved[patch]) + self._shift) - values
        mean = np.add.reduceat(error, starts) / counts
        return moved, np.add.reduceat(error * error, starts) / counts - mean * mean


_RENEWAL = 200  # frames
_PATCH_PRIOR = 0.05  # (grey levels / pixel)², the gradients that sensor noise alone makes
_FARTHEST = 0.10  # crop widths a region can go between two references; a broad smile takes the corners 0.06


# --- one expression -------------------------------------------------------------------------------------------------


def spot_key_frames(motion: np.ndarray, fps: float | None = None) -> KeyFrames:
    """Onset, apex and offset of the expression in a clip.

    A clip is taken to show one expression. The course of the whole face's motion is the first principal component
    over time of all regions but the lids, each weighed by its noise and with what a wrongly measured head would do
    taken out. A smooth rise and fall is then fitted to that course; at the apex the motion stands still for a while,
    so that the flanks tell more about its time than the highest value. Where the lids alone move, they are used.

    A clip of more than 1.2 s with a known frame rate is searched with `propose_intervals` first, for the expression
    that stands out most. A still clip has key frames too: they are where its noise is strongest.

    Args:
        motion: (T, regions, 2) from `track_regions`, percent of the crop's width.
        fps: frames a second, if known.

    Raises:
        KeyFrameError: fewer than two frames. ValueError: another shape, values that are not finite.
    """
    motion = _checked(motion)
    count = len(motion)
    if count < 2:
        raise KeyFrameError(f"Key frames need at least two frames, onset and apex; this clip has {count}.")
    if fps and count > 1.2 * fps:
        shown = [item for item in propose_intervals(motion, fps) if item.kind == "expression"]
        if shown:
            best = max(shown, key=lambda item: item.score)
            return KeyFrames(best.onset, best.apex, best.offset).validate(count)
    signals = motion.reshape(count, -1).astype(np.float64)
    sigma = min(2.0 if not fps else float(np.clip(0.01 * fps, 0.5, 5.0)), count / 16)
    course, peak = _course(signals[:, ~_LIDS], _HEAD_MODES[~_LIDS], sigma)
    if peak < _COURSE_SEEN:
        lids, lid_peak = _course(signals[:, _LIDS], _HEAD_MODES[_LIDS], sigma)
        course = lids if lid_peak > max(peak, _COURSE_SEEN) else course
    onset, apex, offset = _fit_course(course, sigma)
    apex = min(max(apex, 1), count - 1)
    return KeyFrames(min(max(onset, 0), apex - 1), apex, min(max(offset, apex), count - 1)).validate(count)


def _course(signals: np.ndarray, modes: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """The motion that the signals have in common, (T,), in noise standard deviations, positive away from the first
    frames; and its smoothed peak."""
    centred = signals - np.median(signals, axis=0)
    whitened = centred @ _whitening(np.hypot(_frame_noise(centred), _SLOW_NOISE), _HEAD_REMAINS * modes)
    smooth = _smooth(whitened, sigma)
    smooth -= smooth.mean(axis=0)
    direction = np.linalg.svd(smooth, full_matrices=False)[2][0]
    course = whitened @ direction
    course = course - np.median(course[: max(2, len(course) // 16)])
    course = course / max(float(_frame_noise(course[:, None])[0]), 1e-3)
    smooth = _smooth(course[:, None], sigma)[:, 0]
    if abs(smooth.min()) > smooth.max():
        course, smooth = -course, -smooth
    return course, float(smooth.max())


def _fit_course(course: np.ndarray, sigma: float) -> tuple[int, int, int]:
    """Onset, apex and offset of a rise and fall by least squares; they may lie outside the frames.

    Both flanks are u^k / (u^k + (1 − u)^k), which is a straight line for k = 1, close to a raised cosine for
    k = 1.7 and steeper beyond; k is fitted too. Rise and fall last as long as they want.
    """
    count = len(course)
    times = np.arange(count, dtype=np.float64)
    smooth = _smooth(course[:, None], sigma)[:, 0]
    apex = int(np.argmax(smooth[1:])) + 1
    base = float(np.percentile(smooth, 10))
    height = max(float(smooth[apex]) - base, 1e-6)
    low = smooth < base + 0.5 * height
    before, after = np.flatnonzero(low[:apex]), np.flatnonzero(low[apex:])
    rise = max(1, apex - (int(before[-1]) if len(before) else 0))
    fall = max(1, int(after[0]) if len(after) else count - 1 - apex)
    # Half the height is reached half-way up, so that a flank lasts twice as long as from there to the apex.
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
    """Levenberg-Marquardt for `_rise_and_fall`, the shape held near its guess."""
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


# --- a long video ---------------------------------------------------------------------------------------------------


def spot_expressions(
    source: Any,
    *,
    fps: float | None = None,
    landmarks: Sequence[Sequence[float]] | None = None,
    box: Sequence[float] | None = None,
    longest: float = 1.0,
) -> list[Interval]:
    """The expressions, blinks and speech in a video, in one pass and in constant memory.

    Args:
        source: whatever `open_clip` reads. landmarks, box: where the face is in the first frame, see
            `crop_transform`; with neither, the frame itself is taken for a face crop.
        fps: frames a second; needed where the source carries none, such as a folder of images.
        longest: see `propose_intervals`.

    Raises:
        FileNotFoundError, VideoReadError, FaceAlignmentError, TypeError: as `open_clip` and `crop_transform` do.
        ValueError: the frame rate is not known.
    """
    clip = open_clip(source, fps=fps)
    rate = fps or clip.metadata.fps
    if not rate:
        raise ValueError(f"{clip.name}: the source carries no frame rate; pass fps= (frames a second).")
    transform = crop_transform(clip.metadata.height, clip.metadata.width, landmarks=landmarks, box=box)
    return propose_intervals(track_regions(clip.scan(), transform), rate, longest=longest)


def propose_intervals(motion: Iterable[np.ndarray], fps: float, *, longest: float = 1.0) -> list[Interval]:
    """Expressions, blinks and speech in a video, in the order of their onsets.

    A proposal is a bump of the face's motion that comes and goes within `longest` seconds and that stands out from
    what the same motion does in the rest of the video, which covers noise, remains of head motion and, in speech, the
    mouth's oscillation: the noise floor is measured in the direction of the candidate itself, among all regions'
    signals. Blinks are told by the upper lids' fast joint descent (AU45) that the brows do not share; what a blink
    drags along around the eyes is not proposed. Speech is told by the lips and the chin going up and down for a
    second or longer; expressions of the brows, the nose or the cheeks go on being found during it, those of the mouth
    as far as they are unlike the speech.

    The video is worked through in windows of 30 s, so that `motion` may be a generator of any length.

    Args:
        motion: (regions, 2) rows as `track_regions` yields them, or an array (T, regions, 2) of them, percent of the
            crop's width.
        fps: frames a second, 10 or more.
        longest: seconds from onset to offset of the longest expression looked for. Those beyond `MICRO_SECONDS` are
            flagged `macro`. Slower motion counts as a change of pose. 4.0 covers macro-expressions.

    Raises:
        ValueError: fps or longest out of range, rows of another shape, values that are not finite.
    """
    if not fps or not 10 <= fps <= 2000:
        raise ValueError(f"fps must lie in 10–2000 frames a second, got {fps}.")
    if not 0.1 <= longest <= 5:
        raise ValueError(f"longest must lie in 0.1–5 seconds, got {longest}.")
    intervals: list[Interval] = []
    margin = round(4 * longest * fps)
    for start, first, last, window in _windows(motion, round(30 * max(1.0, longest) * fps), margin):
        for item in _propose_in(window, fps, longest):
            if item.kind == "speech":
                onset, offset = max(item.onset, first), min(item.offset, last - 1)
                if onset < offset:
                    item = replace(item, onset=onset, apex=(onset + offset) // 2, offset=offset)
                    intervals.append(_shifted(item, start))
            elif first <= item.apex < last:
                intervals.append(_shifted(item, start))
    return sorted(_with_speech_joined(intervals), key=lambda item: (item.onset, item.offset))


def _windows(rows: Iterable[np.ndarray], length: int, margin: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(start, first, last, window): overlapping windows, and the part [first, last) of each that it decides on."""
    kept: list[np.ndarray] = []
    start = 0
    for row in rows:
        kept.append(row)
        if len(kept) == length:
            first = margin if start else 0
            yield start, first, length - margin, np.stack(kept)
            del kept[: length - 2 * margin]
            start += length - 2 * margin
    first = margin if start else 0
    if len(kept) > first:
        yield start, first, len(kept), np.stack(kept)


def _shifted(item: Interval, frames: int) -> Interval:
    return replace(item, onset=item.onset + frames, apex=item.apex + frames, offset=item.offset + frames)


def _with_speech_joined(intervals: list[Interval]) -> list[Interval]:
    """Speech that the windows' borders have cut, in one piece again."""
    joined: list[Interval] = []
    for item in intervals:
        last = next(
            (i for i, other in enumerate(joined) if other.kind == "speech" and other.offset + 1 == item.onset), None
        )
        if item.kind == "speech" and last is not None:
            onset = joined[last].onset
            score, regions = max((joined[last].score, joined[last].regions), (item.score, item.regions))
            joined[last] = Interval(onset, (onset + item.offset) // 2, item.offset, "speech", score, regions)
        else:
            joined.append(item)
    return joined


def _propose_in(motion: np.ndarray, fps: float, longest: float) -> list[Interval]:
    """The intervals of one window."""
    motion = _checked(motion)
    count = len(motion)
    if count < max(4, 0.1 * fps):
        return []
    signals = motion.reshape(count, -1).astype(np.float64)
    signals -= _running_median(signals, round(3 * longest * fps))
    smooth = _smooth(signals, 0.02 * fps)  # 20 ms: what a face does is slower
    blinks = _find_blinks(smooth, fps)
    speech = _find_speech(signals, fps)
    expressions = _find_expressions(signals, smooth, blinks, speech, fps, longest, used=~_LIDS, least_score=_SCORE)
    # Lids follow every glance: alone they have to do more.
    for item in _find_expressions(signals, smooth, blinks, [], fps, longest, used=_LIDS, least_score=_LID_SCORE):
        if not any(item.overlap(other.onset, other.offset) > 0 for other in expressions + blinks):
            expressions.append(item)
    return blinks + speech + expressions


def _find_blinks(smooth: np.ndarray, fps: float) -> list[Interval]:
    """Both upper lids where AU45 takes them and back within half a second, farther than the brows go with them."""
    blink = get_action_unit("AU45").motions[0]
    eyes = np.stack([_along(smooth, blink.region, side, blink.vector(side)) for side in SIDES])
    brows = [
        _along(smooth, region, side, blink.vector(side)) for region in ("inner brow", "outer brow") for side in SIDES
    ]
    brows, lids = np.max(brows, axis=0), eyes.mean(axis=0)
    noise = float(_spread(lids))
    floor = max(_BLINK_DEPTH, 5 * noise)
    blinks: list[Interval] = []
    for first, last in _runs(lids > floor):
        closed = first + int(np.argmax(lids[first : last + 1]))
        depth = float(lids[closed])
        onset, offset = _extent(lids, closed, 0.15 * depth)
        known = any(item.onset <= closed <= item.offset for item in blinks)
        wink = eyes[:, closed].min() < 0.25 * depth
        if known or wink or (offset - onset) / fps > 0.5 or brows[closed] > 0.5 * depth:
            continue
        regions = tuple((blink.region, side) for side in SIDES)
        blinks.append(Interval(onset, closed, offset, "blink", depth / max(noise, _SLOW_NOISE), regions))
    return blinks


def _find_speech(signals: np.ndarray, fps: float) -> list[Interval]:
    """Where lower lip and chin go up and down again and again for a second or longer, short pauses included. Syllables
    come three to eight times a second; a turn that is 0.4 s away from the next one is not part of speech."""
    regions = tuple((region, side) for region in ("lower lip", "chin") for side in SIDES)
    jaw = np.mean([_along(signals, *key, (0.0, 1.0)) for key in regions], axis=0)
    noise = float(_frame_noise(jaw[:, None])[0])
    jaw = _smooth(jaw[:, None], 0.02 * fps)
    jaw = (jaw - _smooth(jaw, 0.25 * fps))[:, 0]
    level = max(1.5 * noise, _SLOW_NOISE)
    sign = np.where(jaw > level, 1, np.where(jaw < -level, -1, 0))
    clear = np.flatnonzero(sign)
    turns = clear[1:][sign[clear[1:]] != sign[clear[:-1]]]
    talking = np.zeros(len(jaw), bool)
    for group in np.split(turns, np.flatnonzero(np.diff(turns) > 0.4 * fps) + 1):
        if len(group) >= _LEAST_TURNS:
            pace = round((group[-1] - group[0]) / (len(group) - 1))
            talking[max(0, group[0] - pace) : group[-1] + pace + 1] = True
    for first, last in _runs(~talking):
        if talking.any() and last - first + 1 < _SPEECH_PAUSE * fps:
            talking[first : last + 1] = True
    found = []
    for first, last in _runs(talking):
        score = float(np.std(jaw[first : last + 1])) / level
        if last - first + 1 >= fps and score >= _SPEECH_SCORE:
            found.append(Interval(first, (first + last) // 2, last, "speech", score, regions))
    return found


def _find_expressions(
    signals: np.ndarray,
    smooth: np.ndarray,
    blinks: list[Interval],
    speech: list[Interval],
    fps: float,
    longest: float,
    *,
    used: np.ndarray,
    least_score: float,
) -> list[Interval]:
    """Bumps in the `used` signals, the clearest first; none overlaps a clearer one by much."""
    whitened, raw = _whitened(smooth, signals, blinks, speech, used, fps)
    # How far each frame is from the background; what is within the noise in every signal does not add up.
    strength = np.sqrt((np.maximum(np.abs(whitened) - 1.5, 0) ** 2).sum(axis=1))
    higher = np.r_[True, strength[1:] > strength[:-1]] & np.r_[strength[:-1] >= strength[1:], True]
    near, reach = max(1, round(0.02 * fps)), max(1, round(0.12 * fps))
    candidates = []
    for frame in np.flatnonzero(higher & (strength > np.median(strength) + 1)).tolist():
        direction = whitened[max(0, frame - near) : frame + near + 1].mean(axis=0)
        direction /= np.linalg.norm(direction)
        course = whitened @ direction
        first = max(0, frame - reach)
        apex = first + int(np.argmax(course[first : frame + reach + 1]))
        score = float(course[apex]) / max(float(_spread(course)), 1.0)
        onset, offset = _extent(course, apex, 0.12 * course[apex])
        if score >= least_score and 0.06 <= (offset - onset) / fps <= 1.25 * longest:
            candidates.append((score, onset, apex, offset, direction))
    found: list[Interval] = []
    for score, onset, apex, offset, direction in sorted(candidates, key=lambda item: -item[0]):
        common = [min(offset, other.offset) - max(onset, other.onset) for other in found]
        shorter = [min(offset - onset, other.offset - other.onset) for other in found]
        if any(frames > 0.3 * least for frames, least in zip(common, shorter, strict=True)):
            continue
        onset, apex, offset = _refined(raw @ direction, onset, apex, offset, min(2.0, 0.02 * fps))
        found.append(
            Interval(
                onset,
                apex,
                offset,
                "expression",
                score,
                _moving_regions(whitened[apex], used),
                (offset - onset) / fps > MICRO_SECONDS,
            )
        )
    return found


def _whitened(
    smooth: np.ndarray,
    signals: np.ndarray,
    blinks: list[Interval],
    speech: list[Interval],
    used: np.ndarray,
    fps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed and the plain signals in units in which the background has variance one in every direction.

    The background is the signals' own slow noise, what a wrongly measured head does, in speech the mouth's leading
    components, and in a blink what the lids drag along.
    """
    values, plain = smooth[:, used], signals[:, used]
    blinking, talking = _frames_of(blinks, len(smooth)), _frames_of(speech, len(smooth))
    dragged, leading = np.zeros((values.shape[1], 1)), np.zeros((values.shape[1], 1))
    if blinks:
        around = _AROUND_THE_EYES[used]
        dragged = 3 * (np.median([values[item.apex] for item in blinks], axis=0) * around)[:, None]
    if speech:
        leading = _speech_modes(values[talking], _MOUTH[used])
    rest = values - values @ leading @ np.linalg.pinv(leading)
    whitened, raw = np.empty_like(values), np.empty_like(plain)
    for blink in (False, True):
        for talk in (False, True):
            frames = (blinking == blink) & (talking == talk)
            if not frames.any():
                continue
            # Two seconds at least, or an expression would be its own background.
            quiet = ~blinking & (talking == talk)
            alone = quiet.sum() >= 2 * fps and not talk
            background = values[quiet] if alone else rest[~blinking if not blinking.all() else frames]
            modes = [_HEAD_REMAINS * _HEAD_MODES[used]] + [dragged] * blink + [leading] * talk
            filters = _whitening(np.hypot(_spread(background), _SLOW_NOISE), np.concatenate(modes, axis=1))
            whitened[frames], raw[frames] = values[frames] @ filters, plain[frames] @ filters
    return whitened, raw


def _speech_modes(values: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """(channels, components): what the mouth mostly does while speaking, at five times its size."""
    inside = values[:, mouth]
    lengths = np.linalg.norm(inside, axis=1, keepdims=True)
    # Spatial signs (Visuri, Koivunen & Oja 2000): a strong expression has no more say than a syllable.
    signs = inside / np.maximum(lengths, 0.2 * np.median(lengths) + 1e-6)
    leading = np.zeros((values.shape[1], _SPEECH_COMPONENTS))
    leading[mouth] = np.linalg.eigh(signs.T @ signs)[1][:, -_SPEECH_COMPONENTS:]
    return leading * (5 * _spread(values @ leading))


def _frames_of(intervals: list[Interval], count: int) -> np.ndarray:
    inside = np.zeros(count, bool)
    for item in intervals:
        inside[item.onset : item.offset + 1] = True
    return inside


def _refined(course: np.ndarray, onset: int, apex: int, offset: int, sigma: float) -> tuple[int, int, int]:
    """Key frames of a bump by a fit to its surroundings, or as they were where the fit leads elsewhere."""
    room = max(3, (offset - onset) // 2)
    first, last = max(0, onset - room), min(len(course) - 1, offset + room)
    a, b, c = (first + frame for frame in _fit_course(course[first : last + 1], sigma))
    if not (onset < b < offset and a < b < c):
        return onset, apex, offset
    return max(first, min(a, b - 1)), b, min(last, max(c, b + 1))


def _moving_regions(whitened: np.ndarray, used: np.ndarray) -> tuple[tuple[str, str], ...]:
    """The regions that stand out half as far as the clearest one, or farther."""
    channels = np.zeros(len(used))
    channels[used] = whitened
    lengths = np.hypot(*channels.reshape(-1, 2).T)
    order = np.argsort(-lengths)
    return tuple(TRACKED_REGIONS[index] for index in order if lengths[index] >= 0.5 * lengths[order[0]])


# --- signals --------------------------------------------------------------------------------------------------------


def _checked(motion: np.ndarray) -> np.ndarray:
    motion = np.asarray(motion)
    if motion.ndim != 3 or motion.shape[1:] != (len(TRACKED_REGIONS), 2):
        raise ValueError(
            f"Region motion must have shape (frames, {len(TRACKED_REGIONS)}, 2), as track_regions yields it; got "
            f"{motion.shape}."
        )
    if not np.isfinite(motion).all():
        raise ValueError("Region motion holds NaN or infinite values.")
    return motion


def _along(signals: np.ndarray, region: str, side: str, direction: Sequence[float]) -> np.ndarray:
    """(T,): how far one region has gone in a direction."""
    column = 2 * TRACKED_REGIONS.index((region, side))
    return signals[:, column : column + 2] @ np.asarray(direction)


def _channels_of(*names: str) -> np.ndarray:
    return np.repeat([region in names for region, _ in TRACKED_REGIONS], 2)


def _head_modes() -> np.ndarray:
    """(channels, 4): what a shift in x and y, a change of scale and a turn of the head do to each signal, of about
    equal size over the face."""
    x, y = (np.array([region_ellipse(*key)[:2] for key in TRACKED_REGIONS]) - 0.5).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    modes = [(one, zero), (zero, one), (4 * x, 4 * y), (-4 * y, 4 * x)]
    return np.stack([np.stack(mode, axis=-1).ravel() for mode in modes], axis=-1)


_LIDS = _channels_of("upper lid", "lower lid")
_MOUTH = _channels_of("nasolabial fold", "upper lip", "mouth corner", "lower lip", "chin")
_AROUND_THE_EYES = _channels_of("inner brow", "outer brow", "nose root", "cheek")
_HEAD_MODES = _head_modes()
# Percent of the crop's width.
_SLOW_NOISE = 0.05  # what compression and light make of a region at rest, beyond the noise from frame to frame
_HEAD_REMAINS = 0.3  # of each head mode; any larger value does the same
_BLINK_DEPTH = 0.35
_SPEECH_COMPONENTS = 2
_SPEECH_PAUSE = 1.5  # seconds, between two words
_SPEECH_SCORE = 2.0  # in the level that a turn has to pass
_LEAST_TURNS = 4  # of the jaw: two syllables
# Robust standard deviations.
_SCORE = 5.5
_LID_SCORE = 9.0
_COURSE_SEEN = 4.0


def _whitening(spread: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """The symmetric matrix that gives signals of these standard deviations and these modes variance one."""
    covariance = np.diag(spread**2) + modes @ modes.T
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(values)) @ vectors.T


def _spread(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation about zero along the first axis."""
    return 1.4826 * np.median(np.abs(values), axis=0)


def _frame_noise(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation of what changes from frame to frame, (D,)."""
    return _spread(np.diff(values, axis=0)) / np.sqrt(2)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """(T, D) smoothed along time by a Gaussian of `sigma` frames; next to nothing below a third of a frame."""
    taps = 2 * max(1, int(np.ceil(3 * sigma))) + 1
    if sigma <= 0:
        return values.copy()
    return cv2.GaussianBlur(values, (1, taps), 1.0, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)


def _running_median(values: np.ndarray, length: int) -> np.ndarray:
    """(T, D): the median of `length` frames around each, taken at sixteen places a length and joined by lines. At the
    ends the signal is continued by its point reflection, so that a slow drift stays one."""
    count, half = len(values), max(1, length // 2)
    smooth = _smooth(values, length / 64)
    padded = np.pad(smooth, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    places = np.unique(np.append(np.arange(0, count, max(1, length // 16)), count - 1))
    medians = np.stack([np.median(padded[at : at + 2 * half + 1], axis=0) for at in places])
    return np.stack([np.interp(np.arange(count), places, column) for column in medians.T], axis=1)


def _extent(course: np.ndarray, peak: int, level: float) -> tuple[int, int]:
    """The last frame before the peak and the first one after it at or below the level, or the ends."""
    low = course <= level
    before, after = np.flatnonzero(low[:peak]), np.flatnonzero(low[peak:])
    return (int(before[-1]) if len(before) else 0), (peak + int(after[0]) if len(after) else len(course) - 1)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


# --- what the model sees --------------------------------------------------------------------------------------------


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
