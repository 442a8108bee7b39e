"""Expressions, blinks and speech in the motion of a face over a video of any length.

Spotting is a task of the Micro-Expression Grand Challenge (MEGC), in which a proposal counts when its intersection
over union with the annotated interval is 0.5 or more (He et al. 2020, "Spotting macro- and micro-expression intervals
in long video sequences").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .action_units import SIDES, get_action_unit
from .motion_signals import (
    HEAD_MODES,
    HEAD_REMAINS,
    LIDS,
    SLOW_NOISE,
    channels_of,
    checked_motion,
    extent_of,
    fit_course,
    frame_noise,
    motion_along,
    robust_spread,
    running_median,
    runs_of,
    smoothed,
    whitening,
)
from .region_tracking import TRACKED_REGIONS

INTERVAL_KINDS = ("expression", "blink", "speech")
# The longest micro-expression, onset to offset (Yan et al. 2013, "How fast are the leaked facial expressions").
MICRO_SECONDS = 0.5
_MOUTH = channels_of("nasolabial fold", "upper lip", "mouth corner", "lower lip", "chin")
_AROUND_THE_EYES = channels_of("inner brow", "outer brow", "nose root", "cheek")
_BLINK_DEPTH = 0.35  # percent of the crop's width
_SPEECH_COMPONENTS = 2
_SPEECH_PAUSE = 1.5  # seconds, between two words
_SPEECH_SCORE = 2.0  # in the level that a turn has to pass
_LEAST_TURNS = 4  # of the jaw: two syllables
# Robust standard deviations.
_SCORE = 5.5
_LID_SCORE = 9.0


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
    motion = checked_motion(motion)
    count = len(motion)
    if count < max(4, 0.1 * fps):
        return []
    signals = motion.reshape(count, -1).astype(np.float64)
    signals -= running_median(signals, round(3 * longest * fps))
    smooth = smoothed(signals, 0.02 * fps)  # 20 ms: what a face does is slower
    blinks = _find_blinks(smooth, fps)
    speech = _find_speech(signals, fps)
    expressions = _find_expressions(signals, smooth, blinks, speech, fps, longest, used=~LIDS, least_score=_SCORE)
    # Lids follow every glance: alone they have to do more.
    for item in _find_expressions(signals, smooth, blinks, [], fps, longest, used=LIDS, least_score=_LID_SCORE):
        if not any(item.overlap(other.onset, other.offset) > 0 for other in expressions + blinks):
            expressions.append(item)
    return blinks + speech + expressions


def _find_blinks(smooth: np.ndarray, fps: float) -> list[Interval]:
    """Both upper lids where AU45 takes them and back within half a second, farther than the brows go with them."""
    blink = get_action_unit("AU45").motions[0]
    eyes = np.stack([motion_along(smooth, blink.region, side, blink.vector(side)) for side in SIDES])
    brows = [
        motion_along(smooth, region, side, blink.vector(side))
        for region in ("inner brow", "outer brow")
        for side in SIDES
    ]
    brows, lids = np.max(brows, axis=0), eyes.mean(axis=0)
    noise = float(robust_spread(lids))
    floor = max(_BLINK_DEPTH, 5 * noise)
    blinks: list[Interval] = []
    for first, last in runs_of(lids > floor):
        closed = first + int(np.argmax(lids[first : last + 1]))
        depth = float(lids[closed])
        onset, offset = extent_of(lids, closed, 0.15 * depth)
        known = any(item.onset <= closed <= item.offset for item in blinks)
        wink = eyes[:, closed].min() < 0.25 * depth
        if known or wink or (offset - onset) / fps > 0.5 or brows[closed] > 0.5 * depth:
            continue
        regions = tuple((blink.region, side) for side in SIDES)
        blinks.append(Interval(onset, closed, offset, "blink", depth / max(noise, SLOW_NOISE), regions))
    return blinks


def _find_speech(signals: np.ndarray, fps: float) -> list[Interval]:
    """Where lower lip and chin go up and down again and again for a second or longer, short pauses included. Syllables
    come three to eight times a second; a turn that is 0.4 s away from the next one is not part of speech."""
    regions = tuple((region, side) for region in ("lower lip", "chin") for side in SIDES)
    jaw = np.mean([motion_along(signals, *key, (0.0, 1.0)) for key in regions], axis=0)
    noise = float(frame_noise(jaw[:, None])[0])
    jaw = smoothed(jaw[:, None], 0.02 * fps)
    jaw = (jaw - smoothed(jaw, 0.25 * fps))[:, 0]
    level = max(1.5 * noise, SLOW_NOISE)
    sign = np.where(jaw > level, 1, np.where(jaw < -level, -1, 0))
    clear = np.flatnonzero(sign)
    turns = clear[1:][sign[clear[1:]] != sign[clear[:-1]]]
    talking = np.zeros(len(jaw), bool)
    for group in np.split(turns, np.flatnonzero(np.diff(turns) > 0.4 * fps) + 1):
        if len(group) >= _LEAST_TURNS:
            pace = round((group[-1] - group[0]) / (len(group) - 1))
            talking[max(0, group[0] - pace) : group[-1] + pace + 1] = True
    for first, last in runs_of(~talking):
        if talking.any() and last - first + 1 < _SPEECH_PAUSE * fps:
            talking[first : last + 1] = True
    found = []
    for first, last in runs_of(talking):
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
        score = float(course[apex]) / max(float(robust_spread(course)), 1.0)
        onset, offset = extent_of(course, apex, 0.12 * course[apex])
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
            modes = [HEAD_REMAINS * HEAD_MODES[used]] + [dragged] * blink + [leading] * talk
            filters = whitening(np.hypot(robust_spread(background), SLOW_NOISE), np.concatenate(modes, axis=1))
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
    return leading * (5 * robust_spread(values @ leading))


def _frames_of(intervals: list[Interval], count: int) -> np.ndarray:
    inside = np.zeros(count, bool)
    for item in intervals:
        inside[item.onset : item.offset + 1] = True
    return inside


def _refined(course: np.ndarray, onset: int, apex: int, offset: int, sigma: float) -> tuple[int, int, int]:
    """Key frames of a bump by a fit to its surroundings, or as they were where the fit leads elsewhere."""
    room = max(3, (offset - onset) // 2)
    first, last = max(0, onset - room), min(len(course) - 1, offset + room)
    a, b, c = (first + frame for frame in fit_course(course[first : last + 1], sigma))
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
