"""Watches a face in a stream of frames, and says at a fixed interval what moves, or why it cannot tell.

Each frame is followed as in a recorded video (`follow_face`) and not kept: of the last seconds, what is kept is where
the regions of the face were. Motion is relative to the face at rest, the median of the last `REST_SECONDS`. An action
unit is named by the rule of evidence: the region that it moves most moves significantly, within one octant of the
unit's direction (`measured_evidence`). Expressions, blinks and speech are spotted in the last `MEMORY_SECONDS`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deft_llm.frame_motion import (
    LEAST_RATE,
    NO_FACE,
    REGION_NAMES,
    REST_SECONDS,
    SIDE_NAMES,
    face_transforms,
    faces_apart,
    middle_and_width,
    motion_since,
    region_noise,
)
from deft_llm.live_frames import Clock, Feed, note_moment, rate_of
from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.aligned_clip import LEAST_REST, intervals_of_stretch
from deft_llm.processing.clip_statements import MOST_MOTIONS, WHERE, joined, unit_words
from deft_llm.processing.expression_report import MEASURED, NOT_MEASURABLE, MotionEvidence
from deft_llm.processing.face_alignment import FaceSource, canonical_crop, make_face_source, placed_crop
from deft_llm.processing.grounded_answer import measured_evidence
from deft_llm.processing.head_motion import LEAST_WIDTH, too_small
from deft_llm.processing.motion_evidence import FRAMES_FOR_COURSE, RegionMotion, direction_of
from deft_llm.processing.motion_intervals import SHORTEST_SECONDS, Interval
from deft_llm.processing.region_tracking import FollowedFrame, follow_face
from deft_llm.processing.unit_patterns import UNITS_SEEN

LEAST_MICRO_RATE = FRAMES_FOR_COURSE / SHORTEST_SECONDS
"""Frames per second below which the shortest movement that spotting looks for is in too few frames to be told from
noise."""
REPORT_SECONDS = 0.1
"""Interval between two reports."""
MEMORY_SECONDS = 5.0
"""What is known of the last seconds."""
STALLED_SECONDS = 1.0
"""Seconds without a frame after which a report says so."""
_SPOT_SECONDS = 0.5  # between two looks for expressions
_SPOT_RATE = 100.0  # frames per second at which they are looked for, at most: the shortest has 16 of them
_LOOK_SECONDS = 0.25  # between two looks for a face


@dataclass(frozen=True)
class Unit:
    """An action unit that what moves bears out.

    Args:
        side (`str`): both, left or right.
        evidence (`MotionEvidence`): Its code, and the region that moves as the unit moves it.
    """

    side: str
    evidence: MotionEvidence


@dataclass(frozen=True)
class Event:
    """An expression, a blink or speech that is over. Times are in seconds of the stream.

    Args:
        kind (`str`): One of `INTERVAL_KINDS`.
        onset (`float`): When it began.
        apex (`float`): When it was strongest.
        offset (`float`): When it ended.
        score (`float`): How far it stands out, as in `Interval`.
        macro (`bool`): Whether it is an expression longer than a micro-expression.
        regions (`tuple[tuple[str, str], ...]`): (region, side) that stand out, the clearest first.
        motions (`tuple[RegionMotion, ...]`): Significant motion from onset to apex, the strongest first.
        units (`tuple[Unit, ...]`): Action units that it bears out.
    """

    kind: str
    onset: float
    apex: float
    offset: float
    score: float
    macro: bool
    regions: tuple[tuple[str, str], ...]
    motions: tuple[RegionMotion, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Report:
    """What was seen since the report before.

    Args:
        time (`float`): Seconds of the stream up to this report's newest frame, or up to now if there is none.
        frames (`int`): Frames that were measured.
        dropped (`int`): Frames that were dropped, because measuring was too slow.
        rate (`float`, *optional*): Frames per second of the stream; None while this is not known.
        measured_rate (`float`, *optional*): Those that are not dropped.
        reason (`str`, *optional*): Why it cannot be told what moves.
        motions (`tuple[RegionMotion, ...]`): Every region at the frame where it moves most, the strongest first; empty
            if there is a reason.
        units (`tuple[Unit, ...]`): Action units that the significant ones bear out.
        events (`tuple[Event, ...]`): What was spotted, each once, after it is over.
        notes (`tuple[str, ...]`): Sentences, such as which of several faces is followed.
        latency (`float`): Seconds from the newest frame's time stamp to this report.
        longest_wait (`float`): The same for the oldest frame.
    """

    time: float
    frames: int
    dropped: int
    rate: float | None
    measured_rate: float | None
    reason: str | None
    motions: tuple[RegionMotion, ...] = ()
    units: tuple[Unit, ...] = ()
    events: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()
    latency: float = 0.0
    longest_wait: float = 0.0

    @property
    def moving(self) -> tuple[RegionMotion, ...]:
        """The significant motions."""
        return tuple(item for item in self.motions if item.significant)


class FaceWatcher:
    """Follows the largest face, and knows what it did in the last seconds.

    Args:
        face_source (`str` or `FaceSource`): Face finder, as in `make_face_source`.
        longest (`float`): Longest expression that is spotted, in seconds.
    """

    def __init__(self, face_source: str | FaceSource = "cropped", *, longest: float = 1.0):
        self._finder, self._longest = make_face_source(face_source), longest
        self._frame: np.ndarray | None = None
        self._follower: Iterator[FollowedFrame] | None = None
        self._place: np.ndarray | None = None  # transform of the face where it was last seen
        self._looked = -np.inf
        self._reason: str | None = NO_FACE
        self._stretch: deque[tuple[float, FollowedFrame]] = deque()  # what is known since the face was last lost
        self._fresh: deque[tuple[float, FollowedFrame]] = deque()  # of them, what is not in a report yet
        self._moments: deque[float] = deque()  # of all frames
        self._count, self._oldest = 0, np.nan
        self._spotted = -np.inf
        self._known: deque[Event] = deque()
        self._events: list[Event] = []
        self._notes: list[str] = []
        self._faces: int | None = None  # in the last look

    def __len__(self) -> int:
        """Number of frames that something is kept of."""
        return len(self._stretch)

    def warm_up(self) -> None:
        """Looks for a face in a made-up frame and follows it, so that what is made once does not delay a stream.

        Raises:
            FileNotFoundError: The model of the face finder is missing.
            ImportError: The package of the face finder is not installed.
            ValueError: The model of the face finder cannot be read.
        """
        noise = np.random.default_rng(0).integers(0, 255, (240, 240, 3), np.uint8)
        if self._finder is not None:
            face_transforms(self._finder, noise)
        other = FaceWatcher(canonical_crop, longest=self._longest)
        for number in range(int(2 * LEAST_REST * LEAST_RATE) + 2):
            other.add(number / LEAST_RATE, noise)
            other.report(number / LEAST_RATE)

    def add(self, moment: float, frame: np.ndarray) -> None:
        """Measures a frame.

        Args:
            moment (`float`): Its time stamp, in seconds of the stream.
            frame (`np.ndarray` of shape `(height, width, 3)`): uint8 RGB.
        """
        note_moment(self._moments, moment)
        self._oldest = moment if not self._count else self._oldest
        self._count += 1
        self._frame = frame
        if self._follower is None:
            transform = self._found(frame)
            if transform is None:
                return
            # "cropped" and "canonical" frames have one place for the face.
            find = None if self._finder is None or self._finder is canonical_crop else self._found
            self._follower = follow_face(self._frames(), transform, find=find)
        followed = next(self._follower)
        if followed.reason is not None:
            self._reason = NO_FACE if self._faces == 0 else followed.reason
            self._end_stretch()
            return
        self._reason, self._place = None, followed.transform
        self._faces = self._faces or None
        if followed.placed or (self._stretch and moment - self._stretch[-1][0] >= STALLED_SECONDS):
            self._end_stretch()
        for kept in (self._stretch, self._fresh):
            kept.append((moment, followed))
            while moment - kept[0][0] > MEMORY_SECONDS:
                kept.popleft()
        if moment - self._spotted >= _SPOT_SECONDS:
            self._spot(moment)

    def report(self, moment: float, *, dropped: int = 0, rate: float | None = None) -> Report:
        """What was seen since the report before.

        Args:
            moment (`float`): Now, in seconds of the stream.
            dropped (`int`): Frames that were dropped since then.
            rate (`float`, *optional*): Frames per second of the stream.
        """
        newest = self._moments[-1] if self._moments else 0.0
        found = Report(
            time=newest if self._count else moment,
            frames=self._count,
            dropped=dropped,
            rate=rate,
            measured_rate=rate_of(self._moments),
            reason=self._why_not(0.0 if self._count else moment - newest),
            events=tuple(self._events),
            notes=tuple(self._notes),
            latency=moment - newest if self._count else 0.0,
            longest_wait=moment - self._oldest if self._count else 0.0,
        )
        if found.reason is None:
            motions = self._motions()
            found = replace(found, motions=motions, units=units_of(motions))
        self._fresh.clear()
        self._count, self._events, self._notes = 0, [], []
        return found

    # --- Following --------------------------------------------------------------------------------------------------

    def _frames(self) -> Iterator[np.ndarray]:
        while True:
            yield self._frame

    def _found(self, frame: np.ndarray) -> np.ndarray | None:
        """Where the face is, or None: the largest one at first, and then the one nearest to where it was."""
        moment = self._moments[-1]
        if moment - self._looked < _LOOK_SECONDS:
            return None
        self._looked = moment
        if self._finder is None:
            transform, remark = placed_crop(frame)
            found = [transform]
            if remark is not None:
                self._notes.append(f"{remark[0].upper()}{remark[1:]}")
        else:
            found = face_transforms(self._finder, frame)
        if not found:
            self._reason, self._faces = NO_FACE, 0
            return None
        chosen = found[0] if self._place is None else min(found, key=lambda item: faces_apart(item, self._place))
        x, y, width = middle_and_width(chosen)
        if len(found) != self._faces and len(found) > 1:
            which = "largest one" if self._place is None else "one nearest to where it was lost"
            self._notes.append(
                f"{len(found)} faces: the {which} is followed, {width:.0f} pixels wide, in the middle of which is "
                f"({x:.0f}, {y:.0f})."
            )
        self._faces = len(found)
        if width < LEAST_WIDTH:
            self._reason = too_small(width)
            return None
        return chosen

    def _end_stretch(self) -> None:
        if self._stretch:
            self._spot(self._stretch[-1][0])
        self._stretch.clear()
        self._fresh.clear()

    # --- What moves -------------------------------------------------------------------------------------------------

    def _why_not(self, silence: float) -> str | None:
        if silence >= STALLED_SECONDS:
            return f"no frame has come in time for {silence:.1f} s"
        rate = rate_of(self._moments)
        if rate is not None and rate < LEAST_RATE:
            return (
                f"{_frames_per_second(rate)}, and from one to the next a face moves too far to be followed; "
                f"{LEAST_RATE:g} are needed"
            )
        if self._reason is not None:
            return self._reason
        known = self._stretch[-1][0] - self._stretch[0][0]
        if known < LEAST_REST:
            return f"the face at rest is not known yet: it has been followed for {known:.1f} s of {LEAST_REST:g}"
        return None

    def _motions(self) -> tuple[RegionMotion, ...]:
        """Each region at the frame where it moves most since the report before."""
        last = self._stretch[-1][0]
        way = np.stack([frame.motion for at, frame in self._stretch if last - at <= REST_SECONDS]).astype(np.float64)
        rest, noise = np.median(way, axis=0), region_noise(way)
        frames = [motion_since(rest, frame, noise) for _, frame in self._fresh or [self._stretch[-1]]]
        lengths = np.stack([frame.magnitude for frame in frames])
        most = lengths.argmax(axis=0)
        motion = np.stack([frames[frame].motion[region] for region, frame in enumerate(most)])
        error = np.stack([frames[frame].error[region] for region, frame in enumerate(most)])
        significant = np.stack([frames[frame].significant[region] for region, frame in enumerate(most)])
        return region_motions(motion, error, significant)

    def _spot(self, moment: float) -> None:
        """Looks for expressions, blinks and speech that are over."""
        self._spotted = moment
        times = np.array([at for at, _ in self._stretch])
        span = float(times[-1] - times[0])
        if span < LEAST_REST or (rate := (len(times) - 1) / span) < LEAST_RATE:
            return
        # At even times, because frames that were dropped leave gaps.
        rate = min(rate, _SPOT_RATE)
        grid = times[0] + np.arange(int(span * rate) + 1) / rate
        frames = [frame for _, frame in self._stretch]
        way = np.stack([frame.motion for frame in frames]).reshape(len(frames), -1)
        even = np.stack([np.interp(grid, times, column) for column in way.T], 1).reshape(len(grid), -1, 2)
        nearest = np.clip(np.searchsorted(times, grid - 0.5 / rate), 0, len(frames) - 1)
        steps = [
            replace(frames[place], motion=row.astype(np.float32)) for place, row in zip(nearest, even, strict=True)
        ]
        while self._known and self._known[0].offset < times[0]:
            self._known.popleft()
        noise = region_noise(even)
        for item in intervals_of_stretch(steps, rate, longest=self._longest)[0]:
            event = _event(item, grid, steps, noise)
            over = event.offset + SHORTEST_SECONDS <= times[-1]
            whole = item.onset > 0 or item.kind == "speech"
            if over and whole and not any(_same(event, other) for other in self._known):
                self._known.append(event)
                self._events.append(event)


def region_motions(motion: np.ndarray, error: np.ndarray, significant: np.ndarray) -> tuple[RegionMotion, ...]:
    """The motion of all regions, the strongest first.

    Args:
        motion (`np.ndarray` of shape `(len(TRACKED_REGIONS), 2)`): In percent of the crop's width.
        error (`np.ndarray` of shape `(len(TRACKED_REGIONS),)`): Standard error along each axis.
        significant (`np.ndarray` of shape `(len(TRACKED_REGIONS),)`): Whether it is more than errors.
    """
    found = [
        # A region is followed as a whole, so all of it moves alike.
        RegionMotion(region, side, float(np.hypot(u, v)), direction_of(u, v, side), 1.0, bool(more), float(spread))
        for region, side, (u, v), spread, more in zip(
            REGION_NAMES, SIDE_NAMES, motion.tolist(), error, significant, strict=True
        )
    ]
    return tuple(sorted(found, key=lambda item: -item.magnitude))


def units_of(motions: Sequence[RegionMotion]) -> tuple[Unit, ...]:
    """The action units that the motion of all regions bears out; see `measured_evidence`.

    Args:
        motions (`Sequence[RegionMotion]`): Motion of all regions.
    """
    found = [measured_evidence(code, motions) for code in UNITS_SEEN]
    return tuple(Unit(*item) for item in found if item is not None)


def _event(item: Interval, grid: np.ndarray, frames: Sequence[FollowedFrame], noise: np.ndarray) -> Event:
    onset, apex = frames[item.onset], frames[item.apex]
    # Both frames have errors.
    moved = motion_since(onset.motion, apex, np.sqrt(2) * noise)
    motions = region_motions(moved.motion, moved.error, moved.significant)
    expression = item.kind == "expression"
    return Event(
        item.kind,
        *(float(grid[place]) for place in (item.onset, item.apex, item.offset)),
        float(item.score),
        item.macro,
        item.regions,
        tuple(motion for motion in motions if motion.significant) if expression else (),
        units_of(motions) if expression else (),
    )


def _same(first: Event, second: Event) -> bool:
    """Whether two events are one, seen in two looks."""
    common = min(first.offset, second.offset) - max(first.onset, second.onset)
    shorter = min(first.offset - first.onset, second.offset - second.onset)
    return first.kind == second.kind and common > 0.3 * shorter


# --- Over time ------------------------------------------------------------------------------------------------------


def reports(
    feed: Feed,
    watcher: FaceWatcher,
    *,
    every: float = REPORT_SECONDS,
    seconds: float | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Report]:
    """Watches a stream, and yields a report at a fixed interval until it ends.

    Nothing is yielded where no frame has come since the report before, unless it is long ago.

    Args:
        feed (`Feed`): The stream, which is being read.
        watcher (`FaceWatcher`): What measures its frames.
        every (`float`): Seconds between two reports.
        seconds (`float`, *optional*): Seconds of the stream after which to end.
        clock (`Callable`): Tells the time in seconds; the feed's.

    Raises:
        OSError: The camera has stopped giving frames.
        ValueError: The video cannot be decoded up to its end.
    """
    begin, start, told = clock(), None, 0
    due, last, fresh, ended = begin + every, begin, False, False
    while not ended:
        item = feed.take(due)
        if item is not None:
            start = item[0] if start is None else start
            moment = item[0] - start
            ended = seconds is not None and moment >= seconds
            if not ended:
                watcher.add(moment, item[1])
                fresh = True
        now = clock()
        since = now - (begin if start is None else start)
        ended = ended or feed.ended or (item is None and seconds is not None and since >= seconds)
        if now < due and not ended:
            continue
        due += every * (int(max(now - due, 0.0) / every) + 1)
        if fresh or now - last >= STALLED_SECONDS:
            dropped, told = feed.dropped - told, feed.dropped
            found = watcher.report(since, dropped=dropped, rate=feed.rate)
            last, fresh = now, False
            # What measuring took since `now` counts as well.
            later = clock() - now
            yield replace(found, latency=found.latency + later, longest_wait=found.longest_wait + later)
    if feed.error is not None:
        raise feed.error


# --- In words and as data -------------------------------------------------------------------------------------------


def rate_text(rate: float) -> str:
    """What a frame rate can show, in a sentence.

    Args:
        rate (`float`): Frames per second that are measured.
    """
    if rate < LEAST_RATE:
        return f"{_frames_per_second(rate)} are too few to follow a face; {LEAST_RATE:g} are needed."
    seen = round(rate * SHORTEST_SECONDS)
    text = (
        f"{_frames_per_second(rate)} see a movement of {1000 * SHORTEST_SECONDS:.0f} ms, the shortest that is looked "
        f"for, in {seen} frames"
    )
    if rate >= LEAST_MICRO_RATE:
        return f"{text}."
    return f"{text}: too few for micro-expressions, which need {np.ceil(LEAST_MICRO_RATE):.0f} frames per second."


def _frames_per_second(rate: float) -> str:
    number = f"{rate:.0f}" if rate >= LEAST_RATE else f"{rate:.1f}"
    return f"{number} frames per second"


def report_text(report: Report) -> str:
    """A report in one line.

    Args:
        report (`Report`): The report.
    """
    parts = [_state_text(report)]
    parts += [_event_text(event) for event in report.events]
    if report.dropped:
        parts.append(f"{report.dropped} frames dropped")
    return f"{report.time:8.2f} s  {' | '.join(parts)}"


def _state_text(report: Report) -> str:
    if report.reason is not None:
        return f"cannot tell: {report.reason}"
    if not report.moving:
        return f"nothing moves above the noise of {_usual_error(report):.2f} %"
    return _motions_text(report.moving, report.units)


def _motions_text(motions: Sequence[RegionMotion], units: Sequence[Unit]) -> str:
    told = [
        f"{item.side} {item.region} {item.direction} {item.magnitude:.2f} ± {item.standard_error:.2f} %"
        for item in motions[:MOST_MOTIONS]
    ]
    text = ", ".join(told) + (f" and {len(motions) - len(told)} more" if len(motions) > len(told) else "")
    if units:
        named = [f"{unit_words(unit.evidence.action_unit)} on {WHERE[unit.side]}" for unit in units]
        text += f"; as by {joined(named)}"
    return text


def _event_text(event: Event) -> str:
    text = f"{'macro-' * event.macro}{event.kind} from {event.onset:.2f} to {event.offset:.2f} s"
    return f"{text}: {_motions_text(event.motions, event.units)}" if event.motions else text


def _usual_error(report: Report) -> float:
    return float(np.median([item.standard_error for item in report.motions]))


def report_row(report: Report) -> dict[str, Any]:
    """A report as data; docs/watch.md says what it has.

    Args:
        report (`Report`): The report.
    """
    return {
        "time": round(report.time, 3),
        "frames": report.frames,
        "dropped": report.dropped,
        "fps": _rounded(report.rate, 1),
        "measured_fps": _rounded(report.measured_rate, 1),
        "status": MEASURED if report.reason is None else NOT_MEASURABLE,
        "reason": report.reason,
        "motion": [_motion_row(item) for item in report.moving],
        "standard_error": None if report.reason is not None else round(_usual_error(report), 4),
        "action_units": [_unit_row(unit) for unit in report.units],
        "events": [
            {
                "kind": event.kind,
                "macro": event.macro,
                "onset": round(event.onset, 3),
                "apex": round(event.apex, 3),
                "offset": round(event.offset, 3),
                "score": round(event.score, 2),
                "regions": [{"region": region, "side": side} for region, side in event.regions],
                "motion": [_motion_row(item) for item in event.motions],
                "action_units": [_unit_row(unit) for unit in event.units],
            }
            for event in report.events
        ],
        "notes": list(report.notes),
        "latency": round(report.latency, 4),
        "longest_wait": round(report.longest_wait, 4),
    }


def _motion_row(item: RegionMotion) -> dict[str, Any]:
    return {
        "region": item.region,
        "side": item.side,
        "direction": item.direction,
        "magnitude": round(item.magnitude, 4),
        "standard_error": round(item.standard_error, 4),
    }


def _unit_row(unit: Unit) -> dict[str, Any]:
    item = unit.evidence
    return {
        "code": item.action_unit,
        "name": get_action_unit(item.action_unit).name,
        "side": unit.side,
        "region": item.region,
        "direction": item.direction,
        "magnitude": item.magnitude,
        "standard_error": _rounded(item.standard_error, 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
