"""A video longer than one clip: what was found in it and when, as data, as a table and as a picture.

This module depends neither on the page nor on the model. Modules of the model's own code are passed to it.
"""

from __future__ import annotations

import csv
import html
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np

# As `deft spot` writes them; docs/motion.md describes them.
COLUMNS = "kind onset apex offset onset_seconds offset_seconds score macro regions".split()
STRONGEST = "Strongest motion"
_REST_SECONDS, _WINDOW_SECONDS, _MARGIN_SECONDS = 3.0, 30.0, 2.0  # as `deft spot --picture` measures
_WIDE, _COURSE, _HIGH, _LANE = 1000, 110, 208, 20  # the picture's width, its curve, its height and a lane of it
_LANES = {"expression": 128, "blink": 156, "speech": 184}
_POINTS = 500  # of the curve: more would not be told apart


@dataclass
class Watched:
    """What was found in a video.

    Args:
        fps: Frames per second.
        count: Number of frames.
        intervals: Expressions, blinks and speech, as the model's code returns them.
        stretches: What cannot be measured, each with its reason.
        course: (T, 2), how far the region that moves most does so, and how far it would have to for this to be more
            than noise, in percent of the face's width. NaN in frames that cannot be measured.
        needed: Region → how far it has to move in one frame for this to be more than noise, median over the frames.
        motion: (T, regions, 2), the motion of every region since the first frame.
        choices: What can be explained: clip and key frames of every expression. If there is none, those of the
            strongest motion. Empty if nothing can be measured, or if the video is no longer in memory.
        reason: Why nothing can be measured; empty if something can.
        notes: Notes for the visitor.
        seconds: Duration of the computation.
        name: What the visitor knows the video by.
    """

    fps: float
    count: int
    intervals: list[Any]
    stretches: list[Any]
    course: np.ndarray
    needed: dict[str, float]
    motion: np.ndarray
    choices: list[tuple[Any, Any]]
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    name: str = ""

    @property
    def expressions(self) -> list[Any]:
        """The intervals that are expressions."""
        return [item for item in self.intervals if item.kind == "expression"]

    def title(self, number: int) -> str:
        """What a choice is called, such as "Expression 1, 2.31 to 2.62 s"."""
        _, keys = self.choices[number]
        name = f"Expression {number + 1}" if self.expressions else STRONGEST
        return f"{name}, {self.span(keys.onset, keys.offset)}"

    def span(self, first: int, last: int) -> str:
        """Two frames as times in words."""
        return f"{first / self.fps:.2f} to {last / self.fps:.2f} s"

    def forget(self) -> None:
        """Lets go of the video."""
        self.choices = []


class Shelf:
    """Holds the videos of all visitors: the latest ones, each until some time after its last use.

    Gradio keeps the state of a page for an hour after the page was closed. Videos are not to stay that long.

    Args:
        most: Number of videos.
        seconds: Time after the last use.
    """

    def __init__(self, most: int, seconds: float):
        self.most, self.seconds = most, seconds
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Watched, threading.Timer]] = {}

    def use(self, item: Watched) -> None:
        """Puts a video in the first place."""
        timer = threading.Timer(self.seconds, self._let_go, [item])
        timer.daemon = True
        with self._lock:
            if id(item) in self._held:
                self._held.pop(id(item))[1].cancel()
            self._held[id(item)] = (item, timer)
            timer.start()
            surplus = [one for one, _ in self._held.values()][: -self.most]
        for one in surplus:
            self._let_go(one)

    def _let_go(self, item: Watched) -> None:
        with self._lock:
            _, timer = self._held.pop(id(item), (None, None))
        if timer is not None:
            timer.cancel()
            item.forget()


def watch(clip: Any, followed: Sequence[Any], code: SimpleNamespace) -> Watched:
    """Finds what there is in a video.

    Args:
        clip: The `AlignedClip` of the video, whose frame rate is known.
        followed: What its `follow` yields.
        code: Modules of the model's code: `aligned_clip`, `key_frames`, `motion_evidence`, `motion_intervals`,
            `motion_signals` and `region_tracking`.
    """
    intervals, stretches = clip.intervals_and_stretches(followed=followed)
    shown = [code.key_frames.KeyFrames.of_interval(item) for item in intervals if item.kind == "expression"]
    reason = ""
    if not shown:
        try:
            shown = [clip.spot(followed)]
        except code.aligned_clip.NotMeasurableError as error:
            reason = str(error).removeprefix(f"{clip.name}: ").removesuffix(".")
    course, needed = motion_course(followed, clip.fps, code)
    return Watched(
        fps=clip.fps,
        count=len(followed),
        intervals=intervals,
        stretches=code.aligned_clip.not_measurable(stretches, clip.fps),
        course=course,
        needed=needed,
        motion=np.stack([frame.motion for frame in followed]),
        choices=[(clip.at(keys, followed), keys) for keys in shown],
        reason=reason,
    )


def motion_course(followed: Sequence[Any], fps: float, code: SimpleNamespace) -> tuple[np.ndarray, dict[str, float]]:
    """`Watched.course` and `Watched.needed`. Motion is relative to the face around that time, as spotting takes it."""
    signals_of, course, limits, start = code.motion_signals, np.full((len(followed), 2), np.nan), [], 0
    for reason, frames in groupby(followed, key=lambda frame: frame.reason):
        frames = list(frames)
        windows = [] if reason is not None or len(frames) < 2 else frames
        sizes = round(_WINDOW_SECONDS * fps), round(_MARGIN_SECONDS * fps)
        for begin, first, last, window in code.motion_intervals.windows_of(windows, *sizes):
            way = np.stack([frame.motion for frame in window]).astype(np.float64)
            signals = way.reshape(len(way), -1)
            noise = np.sqrt(np.mean(np.square(signals_of.frame_noise(signals).reshape(-1, 2)), axis=1))
            if len(way) < _REST_SECONDS * fps:
                rest = np.median(way, axis=0)
            else:
                rest = signals_of.running_median(signals, round(_REST_SECONDS * fps)).reshape(way.shape)
            moved = np.hypot(*np.moveaxis(way - rest, -1, 0))[first:last]
            turned = np.array([frame.error for frame in window[first:last]])[:, None]
            error = np.sqrt(noise**2 + signals_of.SLOW_NOISE**2 + turned**2)
            limit = code.motion_evidence.SIGNIFICANT_AT * error
            most = moved.argmax(axis=1)[:, None]
            both = [np.take_along_axis(values, most, axis=1) for values in (moved, limit)]
            course[start + begin + first : start + begin + last] = np.concatenate(both, axis=1)
            limits.append(limit)
        start += len(frames)
    needed: dict[str, float] = {}
    if limits:
        medians = np.median(np.concatenate(limits), axis=0)
        for (region, _), value in zip(code.region_tracking.TRACKED_REGIONS, medians, strict=True):
            needed[region] = max(needed.get(region, 0.0), float(value))  # of the worse side
    return course, needed


def strongest_course(tracked: np.ndarray, keys: Sequence[int], regions: Any) -> tuple[np.ndarray, str]:
    """The motion (T,) of the region that moves most from onset to apex, along its direction, and the region's name."""
    onset, apex, _ = keys
    moved = tracked[apex] - tracked[onset]
    strongest = int(np.hypot(*moved.T).argmax())
    direction = moved[strongest] / max(float(np.hypot(*moved[strongest])), 1e-6)
    region, side = regions[strongest]
    return (tracked[:, strongest] - tracked[onset, strongest]) @ direction, f"{region}, {side} side"


# --- Files ----------------------------------------------------------------------------------------------------------


def as_data(item: Watched) -> dict[str, Any]:
    """What was found as JSON data, as `deft spot --format json` writes it."""
    rows = [
        {
            "kind": one.kind,
            "onset": one.onset,
            "apex": one.apex,
            "offset": one.offset,
            "onset_seconds": round(one.onset / item.fps, 3),
            "offset_seconds": round(one.offset / item.fps, 3),
            "score": round(float(one.score), 2),
            "macro": one.macro,
            "regions": [{"region": region, "side": side} for region, side in one.regions],
        }
        for one in item.intervals
    ]
    stretches = [
        {
            "start": one.start,
            "stop": one.stop,
            "start_seconds": round(one.start / item.fps, 3),
            "stop_seconds": round(one.stop / item.fps, 3),
            "reason": one.reason,
        }
        for one in item.stretches
    ]
    return {"intervals": rows, "not_measurable": stretches}


def table(item: Watched) -> str:
    """The intervals as CSV, one row each."""
    file = StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in as_data(item)["intervals"]:
        regions = "; ".join(f"{one['side']} {one['region']}" for one in row["regions"])
        writer.writerow({**row, "regions": regions})
    return file.getvalue()


# --- The picture ----------------------------------------------------------------------------------------------------


def escaped(value: Any) -> str:
    """Escapes text, so that it contains neither HTML nor placeholders of Gradio's templates."""
    return html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def counted(number: int, name: str) -> str:
    """A number of things in words."""
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"


def others(item: Watched) -> list[str]:
    """How many blinks and intervals of speech there are, in words."""
    kinds = [one.kind for one in item.intervals]
    told = [counted(kinds.count("blink"), "blink")] if "blink" in kinds else []
    return told + ([counted(kinds.count("speech"), "interval") + " of speech"] if "speech" in kinds else [])


def kind_of(interval: Any) -> str:
    """The kind of an interval, as colours tell it."""
    return interval.kind if interval.kind != "expression" else "macro" if interval.macro else "micro"


def picture(item: Watched) -> str:
    """The timeline as HTML: a drawing whose text alternative names what is in it, and a key to its colours."""
    lanes = "".join(f'<span style="top:{top + _LANE / 2:.0f}px">{name}</span>' for name, top in _LANES.items())
    whole = item.count / item.fps
    step = next((step for step in (0.5, 1, 2, 5, 10, 20, 30) if whole / step <= 7), 60)
    ticks = "".join(
        f'<span style="left:{100 * at / whole:.2f}%">{at:g} s</span>' for at in np.arange(0, whole * 0.96, step)
    )
    return (
        f'<figure class="deft-timefigure"><div class="deft-timeplot"><div class="deft-lanes" aria-hidden="true">'
        f"<span>motion</span>{lanes}</div><div>{_numbers(item)}{_drawing(item)}"
        f'<div class="deft-ticks" aria-hidden="true">{ticks}</div></div></div>'
        f"<figcaption>{_key(item)}</figcaption></figure>"
    )


def _numbers(item: Watched) -> str:
    """The numbers of the expressions above their places; those that would overlap are left out."""
    shown, last = "", -100.0
    for number, (_, keys) in enumerate(item.choices, start=1):
        at = 100 * (keys.apex + 0.5) / item.count
        if item.expressions and at - last >= 4:
            shown += f'<span style="left:{at:.2f}%">{number}</span>'
            last = at
    return f'<div class="deft-numbers" aria-hidden="true">{shown}</div>'


def _drawing(item: Watched) -> str:
    def x(frame: float) -> float:
        return _WIDE * frame / item.count

    def box(kind: str, first: int, stop: int, top: float, height: float, more: str = "") -> str:
        width = max(x(stop) - x(first), 2.0)  # to be seen in a long video
        return (
            f'<rect class="deft-is-{kind}" x="{x(first):.2f}" y="{top}" width="{width:.2f}" height="{height}"{more}/>'
        )

    parts = [
        f'<svg class="deft-timeline-svg" viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(_described(item))}"><defs><pattern id="deft-hatch" width="10" height="10" '
        'patternUnits="userSpaceOnUse"><path d="M0 10L10 0" vector-effect="non-scaling-stroke"/></pattern></defs>',
        f'<path class="deft-grid" d="M0 {_COURSE}H{_WIDE}" vector-effect="non-scaling-stroke"/>',
    ]
    for one in item.stretches:
        parts.append(box("lost", one.start, one.stop, 0, _HIGH))
        parts.append(box("hatch", one.start, one.stop, 0, _HIGH))
    numbers = iter(range(len(item.choices)))
    for one in item.intervals:
        more = ""
        if one.kind == "expression":
            number = next(numbers, None)
            more = "" if number is None else f' data-number="{number}"'
            parts.append(box(f"{kind_of(one)} deft-shade", one.onset, one.offset + 1, 0, _COURSE, more))
        parts.append(box(kind_of(one), one.onset, one.offset + 1, _LANES[one.kind], _LANE, more))
    for name, values in (("needed", item.course[:, 1]), ("moved", item.course[:, 0])):
        top = highest(item)
        for run in _runs(_thinned(values)):
            points = " ".join(f"{_WIDE * at:.1f},{_COURSE * (1 - min(value / top, 1)):.1f}" for at, value in run)
            parts.append(f'<polyline class="deft-{name}" points="{points}" vector-effect="non-scaling-stroke"/>')
    return "".join(parts) + "</svg>"


def highest(item: Watched) -> float:
    """The motion at the upper edge of the curve, in percent of the face's width."""
    moved, needed = (values[np.isfinite(values)] for values in item.course.T)
    return max(1.15 * float(moved.max(initial=0.0)), 1.5 * float(np.median(needed)) if len(needed) else 0.0, 0.3)


def _described(item: Watched) -> str:
    """The picture in words."""
    told = [f"Timeline of {item.count / item.fps:.1f} seconds"]
    told.append(counted(len(item.expressions), "expression"))
    told += others(item)
    lost = sum(one.stop - one.start for one in item.stretches) / item.fps
    told.append(f"{lost:.1f} seconds cannot be measured" if lost else "everything can be measured")
    return ", ".join(told) + ". The lists below say when."


def _key(item: Watched) -> str:
    kinds = {"micro": "expression up to 0.5 s", "macro": "longer expression", "blink": "blink", "speech": "speech"}
    there = {kind_of(one) for one in item.intervals}
    shown = [(kind, name) for kind, name in kinds.items() if kind in there]
    if item.stretches:
        shown.append(("lost", "cannot be measured"))
    shown += [("line", "region that moves most"), ("dash", "needed to be more than noise")]
    chips = "".join(f'<span><i class="deft-chip-{kind}" aria-hidden="true"></i>{name}</span>' for kind, name in shown)
    return (
        f'<span class="deft-key-row">{chips}</span>Motion is in % of the face’s width; the upper edge is '
        f"{highest(item):.1f} %. {_limits(item)}"
    )


def _limits(item: Watched) -> str:
    """How far a region has to move to be seen."""
    if not item.needed:
        return ""
    best, worst = min(item.needed, key=item.needed.get), max(item.needed, key=item.needed.get)
    return (
        f"In a single frame, motion is more than noise from {item.needed[best]:.2f} % ({escaped(best)}) to "
        f"{item.needed[worst]:.2f} % ({escaped(worst)}) of the face’s width; weaker expressions may be overlooked."
    )


def _thinned(values: np.ndarray) -> list[tuple[float, float]]:
    """(place from 0 to 1, largest value) of each of at most `_POINTS` spans; NaN where nothing was measured."""
    parts = np.array_split(values, min(_POINTS, len(values)))
    edges = np.cumsum([len(part) for part in parts])
    tops = [np.nan if np.isnan(part).all() else float(np.nanmax(part)) for part in parts]
    return [((edge - len(part) / 2) / len(values), top) for edge, part, top in zip(edges, parts, tops, strict=True)]


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points without the gaps between them."""
    return [list(run) for lost, run in groupby(points, key=lambda point: np.isnan(point[1])) if not lost]
