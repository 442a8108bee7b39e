"""Expressions, blinks and speech in the motion of a face over a video of any length.

Spotting is a task of the Micro-Expression Grand Challenge (MEGC), in which a proposal counts when its intersection
over union with the annotated interval is 0.5 or more (He et al. 2020, "Spotting macro- and micro-expression intervals
in long video sequences").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from .action_units import SIDES, get_action_unit
from .motion_signals import (
    HEAD_MODES,
    HEAD_REMAINS,
    LIDS,
    SLOW_NOISE,
    bump_course,
    bump_filter,
    channels_of,
    checked_motion,
    extent_of,
    filtered,
    fit_bump,
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
_LIPS = ("nasolabial fold", "upper lip", "mouth corner", "lower lip", "chin")
_MOUTH = channels_of(*_LIPS)
_SLOWEST = 2.5  # length of the slowest bump that is looked for, in that of the longest expression
SHORTEST_SECONDS = 0.16  # from onset to offset of the shortest bump that is looked for
_LONGER = 1.2  # from one length to the next
_BLINK_DEPTH = 0.35  # percent of the crop's width
_SPEECH_PAUSE = 1.5  # seconds, between two words
_SPEECH_SCORE = 2.0  # in the level that a turn has to pass
_LEAST_TURNS = 4  # of the jaw: two syllables
# Robust standard deviations.
_SCORE = 5.5
_LID_SCORE = 9.0
# The skin does not move this share of its way within this time; a region that was matched to another wrinkle does.
_JUMP_SHARE, _JUMP_SECONDS = 0.6, 0.02
_JUMP_NOISE = 6.0  # robust standard deviations of the same change over the rest of the video
# Frames per second. Of a bump of five frames, one or two bad ones are a large part. So at few frames per second, a
# bump has to stand out farther.
_FEW_FRAMES = 175.0


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


def propose_intervals(
    motion: Iterable[np.ndarray],
    fps: float,
    *,
    longest: float = 1.0,
    accept: Callable[[Interval], bool] | None = None,
) -> list[Interval]:
    """Expressions, blinks and speech in a video, in the order of their onsets.

    A proposal is a bump of the face's motion that comes and goes within `longest` seconds. It stands on a straight
    line, so that it may begin and end while the face slowly moves on. It must stand out from what the same motion does
    in the rest of the video, which covers noise, remains of head motion and what this person does anyway: the noise is
    measured in the direction of the candidate itself, among all regions' signals. At few frames per second it must
    stand out farther. Blinks are told by the upper lids' fast joint descent (AU45) that the brows do not share; what a
    blink drags along around the eyes is not proposed. Speech is told by the lips and the chin going up and down for a
    second or longer; expressions of the brows, the nose or the cheeks go on being found during it, those of the mouth
    if they are clearer than the speech.

    The video is worked through in windows of 30 s, so that `motion` may be a generator of any length.

    Args:
        motion: (regions, 2) rows as `track_regions` yields them, or an array (T, regions, 2) of them, percent of the
            crop's width.
        fps: frames a second, 10 or more.
        longest: seconds from onset to offset of the longest expression looked for. Those beyond `MICRO_SECONDS` are
            flagged `macro`. Slower motion counts as a change of pose. 4.0 covers macro-expressions.
        accept: whether to keep an interval. It is asked when at most `window_length(fps, longest)` frames have been
            read since the interval's onset.

    Raises:
        ValueError: fps or longest out of range, rows of another shape, values that are not finite.
    """
    if not fps or not 10 <= fps <= 2000:
        raise ValueError(f"fps must lie in 10–2000 frames a second, got {fps}.")
    if not 0.1 <= longest <= 5:
        raise ValueError(f"longest must lie in 0.1–5 seconds, got {longest}.")
    intervals: list[Interval] = []
    margin = round(4 * longest * fps)
    for start, first, last, window in windows_of(motion, window_length(fps, longest), margin):
        for item in _propose_in(np.stack(window), fps, longest):
            if item.kind == "speech":
                onset, offset = max(item.onset, first), min(item.offset, last - 1)
                if onset < offset:
                    item = _shifted(replace(item, onset=onset, apex=(onset + offset) // 2, offset=offset), start)
                    if accept is None or accept(item):
                        intervals.append(item)
            elif first <= item.apex < last:
                item = _shifted(item, start)
                # At the border of two windows both may see the same, with apexes on its two sides.
                known = any(item.kind == other.kind and _shared(item, other) > 0.3 for other in intervals[-20:])
                if not known and (accept is None or accept(item)):
                    intervals.append(item)
    return sorted(_with_speech_joined(intervals), key=lambda item: (item.onset, item.offset))


def window_length(fps: float, longest: float = 1.0) -> int:
    """Frames of the windows in which `propose_intervals` works."""
    return round(30 * max(1.0, longest) * fps)


def windows_of(rows: Iterable[Any], length: int, margin: int) -> Iterator[tuple[int, int, int, list[Any]]]:
    """Overlapping windows of a course of any length, in constant memory.

    Args:
        rows (`Iterable[Any]`): One item per frame.
        length (`int`): Frames of a window; more than twice the margin.
        margin (`int`): Frames at its ends that only give context, but for the first and the last frames of all.

    Yields:
        `tuple[int, int, int, list]`: number of the window's first frame, the part [first, last) of the window that it
        decides on, and the window.
    """
    kept: list[Any] = []
    start = 0
    for row in rows:
        kept.append(row)
        if len(kept) == length:
            first = margin if start else 0
            yield start, first, length - margin, list(kept)
            del kept[: length - 2 * margin]
            start += length - 2 * margin
    first = margin if start else 0
    if len(kept) > first:
        yield start, first, len(kept), kept


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
    raw = motion.reshape(count, -1).astype(np.float64)
    signals = raw - running_median(raw, round(3 * longest * fps))
    smooth = smoothed(signals, 0.02 * fps)  # 20 ms: what a face does is slower
    blinks = _find_blinks(smooth, fps)
    speech = _find_speech(signals, fps)
    expressions = _find_expressions(raw, blinks, speech, fps, longest, part=~LIDS, least_score=_SCORE)
    # Lids follow every glance: alone they have to do more.
    for item in _find_expressions(raw, blinks, [], fps, longest, part=LIDS, least_score=_LID_SCORE):
        after_blink = any(0 <= item.onset - blink.offset <= 0.5 * fps for blink in blinks)  # they open slowly
        if not after_blink and not any(item.overlap(one.onset, one.offset) > 0 for one in expressions + blinks):
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
    blinks: list[Interval],
    speech: list[Interval],
    fps: float,
    longest: float,
    *,
    part: np.ndarray,
    least_score: float,
) -> list[Interval]:
    """Bumps in one part of the signals, the clearest first; none overlaps a clearer one by much.

    A bump that was found is taken out of the signals before the next one is looked at, so that its flanks are not
    proposed as well. Slow ones are looked for too, because their tops look like faster ones, and left out at the end.
    """
    least_score = float(np.hypot(least_score, _FEW_FRAMES / fps))
    candidates = _candidates(signals, blinks, speech, part, fps, longest, least_score)
    rest, found = signals.copy(), []
    heap = [(-candidate.score, place, candidate) for place, candidate in enumerate(candidates)]
    heapify(heap)
    while heap:
        _, place, candidate = heappop(heap)
        if any(item.onset < candidate.frame < item.offset for item in found):
            continue
        now = candidate.in_(rest) if found else candidate
        if now.score < 0.98 * candidate.score:
            if now.score >= least_score:
                heappush(heap, (-now.score, place, now))
            continue
        item = _interval_of(now, rest, fps, longest)
        if item is None or any(_shared(item, other) > 0.3 for other in found):
            continue
        found.append(item)
        _take_out(rest, item)
    return [
        item
        for item in found
        if item.offset - item.onset <= 1.25 * longest * fps
        and not _jumps(item, signals, fps)
        and (
            item.score >= 2 * least_score
            or not (any(_dragged(item, one) for one in blinks) or any(_at_the_edge(item, one) for one in speech))
        )
    ]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A frame around which something seems to come and go within about `length` frames."""

    score: float
    frame: int
    length: float
    part: np.ndarray  # mask of the channels
    filters: np.ndarray  # from the part's channels to units of the background
    vector: np.ndarray  # the bump's size in those units
    spread: float  # of the background along `vector`

    @property
    def direction(self) -> np.ndarray:
        return self.filters @ (self.vector / np.linalg.norm(self.vector))

    def in_(self, signals: np.ndarray) -> _Candidate:
        """The same in other signals."""
        taps = bump_filter(self.length)
        places = np.clip(np.arange(len(taps)) - len(taps) // 2 + self.frame, 0, len(signals) - 1)
        vector = (taps @ signals[places])[self.part] @ self.filters
        score = float(vector @ self.vector) / float(np.linalg.norm(self.vector)) / self.spread
        return replace(self, score=score, vector=vector) if score > 0 else replace(self, score=0.0)


def _candidates(
    signals: np.ndarray,
    blinks: list[Interval],
    speech: list[Interval],
    part: np.ndarray,
    fps: float,
    longest: float,
    least_score: float,
) -> Iterator[_Candidate]:
    """Where one part of the face stands out, for each of several lengths of a bump.

    It has to stand out from what the same signals do in the rest of the video. During speech, what the mouth does in
    speech is the rest.
    """
    values = signals[:, part]
    blinking, talking = _frames_of(blinks, len(signals)), _frames_of(speech, len(signals))
    modes = HEAD_REMAINS * HEAD_MODES[part]
    steps = int(np.log(_SLOWEST * longest / SHORTEST_SECONDS) / np.log(_LONGER)) + 1
    for length in SHORTEST_SECONDS * fps * _LONGER ** np.arange(steps):
        taps = bump_filter(length)
        if len(taps) > 2 * len(values):
            return
        bumps = filtered(values, taps)
        # Two seconds at least, or an expression would be its own background.
        background = bumps[~blinking] if (~blinking).sum() >= 2 * fps else bumps
        spread = np.hypot(robust_spread(background), SLOW_NOISE)
        for talk in (False, True):
            frames = talking == talk
            if not frames.any():
                continue
            if talk:
                spread = np.where(_MOUTH[part], np.maximum(spread, robust_spread(bumps[talking])), spread)
            filters = whitening(spread, modes)
            whitened = bumps @ filters
            # What is within the noise in every signal does not add up.
            strength = np.sqrt((np.maximum(np.abs(whitened) - 1.5, 0) ** 2).sum(axis=1))
            higher = np.r_[True, strength[1:] > strength[:-1]] & np.r_[strength[:-1] >= strength[1:], True]
            for frame in np.flatnonzero(frames & higher & (strength > np.median(strength) + 1)).tolist():
                vector = whitened[frame]
                size = float(np.linalg.norm(vector))
                along = max(float(robust_spread(whitened @ (vector / size))), 1.0)
                if size / along >= least_score:
                    yield _Candidate(size / along, frame, length, part, filters, vector, along)


def _interval_of(candidate: _Candidate, signals: np.ndarray, fps: float, longest: float) -> Interval | None:
    """The interval of a candidate, or None where nothing of a possible length fits."""
    course = signals[:, candidate.part] @ candidate.direction
    least, most, step = 0.1 * fps, _SLOWEST * longest * fps, max(1, round(fps / 50))
    fitted = fit_bump(course, candidate.frame, candidate.length, least, most, step)
    for _ in range(3):
        if fitted is None:
            return None
        # What is longer than the candidate may be longer than could be seen around it.
        length = fitted[2] - fitted[0]
        if length <= max(1.1 * candidate.length, 0.8 * longest * fps):
            break
        candidate = replace(candidate, length=length)
        fitted = fit_bump(course, (fitted[0] + fitted[2]) / 2, length, least, most, step)
    if fitted is None:
        return None
    onset, apex, offset = fitted
    return Interval(
        onset,
        apex,
        offset,
        "expression",
        candidate.score,
        _moving_regions(candidate.vector, candidate.part),
        (offset - onset) / fps > MICRO_SECONDS,
    )


def _take_out(signals: np.ndarray, item: Interval) -> None:
    """Subtracts the bump of an interval from all signals, each with its own size."""
    room = (item.offset - item.onset) // 2
    first, last = max(0, item.onset - room), min(len(signals) - 1, item.offset + room)
    times = np.arange(first, last + 1)
    bump = bump_course(times, item.onset, item.apex, item.offset)
    design = np.stack([bump, np.ones(len(times)), times - times.mean()], axis=1)
    signals[first : last + 1] -= bump[:, None] * np.linalg.lstsq(design, signals[first : last + 1], rcond=None)[0][0]


def _shared(first: Interval, second: Interval) -> float:
    """How much of the shorter of two intervals the other one covers."""
    common = min(first.offset, second.offset) - max(first.onset, second.onset)
    return common / min(first.offset - first.onset, second.offset - second.onset)


def _at_the_edge(item: Interval, speech: Interval) -> bool:
    """Whether an interval of the mouth alone is where speech begins or ends, and the lips with it."""
    apart = min(abs(item.apex - speech.onset), abs(item.apex - speech.offset))
    return all(region in _LIPS for region, _ in item.regions) and apart < 1.25 * (item.offset - item.onset)


def _jumps(item: Interval, signals: np.ndarray, fps: float) -> bool:
    """Whether each region of an interval goes most of its way at once, as no muscle moves the skin."""
    frames = int(_JUMP_SECONDS * fps)
    if not frames or item.offset - item.onset <= 2 * frames:
        return False  # too few frames per second to tell: at 30, weak expressions go as far from one to the next
    for region in item.regions:
        channel = 2 * TRACKED_REGIONS.index(region)
        course = signals[:, channel] + 1j * signals[:, channel + 1]
        way = abs(course[item.apex] - (course[item.onset] + course[item.offset]) / 2)
        changes = course[frames:] - course[:-frames]
        noise = np.hypot(robust_spread(changes.real), robust_spread(changes.imag))
        largest = np.abs(changes[item.onset : item.offset - frames + 1]).max()
        if largest <= max(_JUMP_SHARE * way, _JUMP_NOISE * noise):
            return False
    return True


def _dragged(item: Interval, blink: Interval) -> bool:
    """Whether most of an interval lies in a blink or so near it that the lid may have moved what is around it."""
    room = (blink.offset - blink.onset) / 2
    common = min(item.offset, blink.offset + room) - max(item.onset, blink.onset - room)
    return common > 0.5 * (item.offset - item.onset)


def _frames_of(intervals: list[Interval], count: int) -> np.ndarray:
    inside = np.zeros(count, bool)
    for item in intervals:
        inside[item.onset : item.offset + 1] = True
    return inside


def _moving_regions(whitened: np.ndarray, used: np.ndarray) -> tuple[tuple[str, str], ...]:
    """The regions that stand out half as far as the clearest one, or farther."""
    channels = np.zeros(len(used))
    channels[used] = whitened
    lengths = np.hypot(*channels.reshape(-1, 2).T)
    order = np.argsort(-lengths)
    return tuple(TRACKED_REGIONS[index] for index in order if lengths[index] >= 0.5 * lengths[order[0]])
