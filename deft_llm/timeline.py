"""A picture of what was spotted in a video: motion over time, the intervals, and what cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deft_llm.clips import Spotted
from deft_llm.files import whole_file
from deft_llm.frame_motion import frame_motions
from deft_llm.processing.motion_evidence import SIGNIFICANT_AT
from deft_llm.processing.region_tracking import FollowedFrame

COLOURS = {"micro": "#c2410c", "macro": "#1d4ed8", "blink": "#4b5563", "speech": "#7e22ce"}
_MOST_LINES = 12  # in the list below the picture
_POINTS = 1500  # of the course: more would not be told apart
_HATCHES = ("///", "...", "xx", "\\\\\\", "++", "oo")
_INCHES, _LINE = 12.0, 0.21


def motion_course(followed: Sequence[FollowedFrame], fps: float) -> tuple[np.ndarray, np.ndarray]:
    """How far the region that moves most does so in every frame, and how far it would have to.

    Args:
        followed (`Sequence[FollowedFrame]`): What `AlignedClip.follow` yields.
        fps (`float`): Frames per second.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: (T,) each, in percent of the face's width, NaN in frames that cannot be
        measured: the largest motion, and that which would be significant.
    """
    moved = np.full((len(followed), 2), np.nan)
    for number, frame in enumerate(frame_motions(followed, fps)):
        if frame.reason is None:
            place = int(np.argmax(frame.magnitude))
            moved[number] = frame.magnitude[place], SIGNIFICANT_AT * frame.error[place]
    return moved[:, 0], moved[:, 1]


def draw_timeline(found: Spotted, course: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    """Draws the timeline of a video as PNG.

    Args:
        found (`Spotted`): What was spotted.
        course (`tuple[np.ndarray, np.ndarray]`): From `motion_course`.
        path (`Path`): The file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = _lines(found)
    rows = max(len(lines), 1)
    height = 4.3 + _LINE * rows
    figure = Figure(figsize=(_INCHES, height))
    FigureCanvasAgg(figure)
    foot = 0.75 + _LINE * rows  # inches below the lanes
    lanes = figure.add_axes((0.075, foot / height, 0.905, 0.95 / height))
    top = figure.add_axes((0.075, (foot + 1.05) / height, 0.905, (height - foot - 1.5) / height), sharex=lanes)
    figure.text(0.075, 1 - 0.27 / height, Path(found.video).name or found.video, size=12, weight="bold")
    _draw_course(top, found, course)
    _draw_lanes(lanes, found)
    for axis in (top, lanes):
        _draw_stretches(axis, found)
        axis.set_xlim(0, found.seconds(len(found.times)))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for number, (text, colour) in enumerate(lines):
        y = (foot - 0.72 - _LINE * number) / height
        figure.text(0.075, y, text, size=9, color=colour, va="center")
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})


def _draw_course(axis: Any, found: Spotted, course: tuple[np.ndarray, np.ndarray]) -> None:
    moved, limit = (_thinned(values) for values in course)
    seconds = np.linspace(0, found.seconds(len(found.times) - 1), len(moved))
    if len(moved) == len(found.times):
        seconds = found.times
    axis.plot(seconds, moved, color="#111827", linewidth=0.9, label="region that moves most")
    axis.plot(seconds, limit, color="#6b7280", linewidth=0.9, linestyle=(0, (4, 3)), label="needed to be significant")
    highest = np.nanmax(moved) if np.isfinite(moved).any() else 1.0
    axis.set_ylim(0, 1.25 * max(highest, 0.3))
    for item in found.expressions:
        colour = COLOURS["macro" if item.macro else "micro"]
        axis.axvspan(found.seconds(item.onset), found.seconds(item.offset + 1), color=colour, alpha=0.16, linewidth=0)
        axis.axvline(found.seconds(item.apex), color=colour, linewidth=0.9)
    axis.set_ylabel("motion, % of the\nface's width", size=9)
    axis.tick_params(labelbottom=False, labelsize=9)
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=9, frameon=False, borderaxespad=0.1)


def _draw_lanes(axis: Any, found: Spotted) -> None:
    names = ("speech", "blink", "expression")
    whole = found.seconds(len(found.times))
    for item in found.intervals:
        lane = names.index(item.kind)
        start, stop = found.seconds(item.onset), found.seconds(item.offset + 1)
        kind = ("macro" if item.macro else "micro") if item.kind == "expression" else item.kind
        width = max(stop - start, 0.002 * whole)  # to be seen in a long video
        axis.barh(lane, width, left=start, height=0.6, color=COLOURS[kind], linewidth=0)
    last = (-whole, 0)
    for number, item in enumerate(found.expressions, 1):
        apex = found.seconds(item.apex)
        axis.plot([apex, apex], [1.62, 2.38], color="white", linewidth=1)
        level = 1 - last[1] if apex - last[0] < 0.018 * whole else 0  # numbers side by side would overlap
        axis.text(apex, 2.42 + 0.42 * level, str(number), size=8, ha="center", va="bottom")
        last = (apex, level)
    axis.set_yticks(range(3), names, size=9)
    axis.set_ylim(-0.5, 3.3)
    axis.tick_params(axis="x", labelsize=9)
    axis.set_xlabel("seconds", size=9, labelpad=2)
    if whole >= 180:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axis.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 3, 6, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{int(at) // 60}:{int(at) % 60:02d}"))
        axis.set_xlabel("minutes:seconds", size=9, labelpad=2)


def _draw_stretches(axis: Any, found: Spotted) -> None:
    reasons = list(dict.fromkeys(item.reason for item in found.stretches))
    for item in found.stretches:
        hatch = _HATCHES[reasons.index(item.reason) % len(_HATCHES)]
        span = found.seconds(item.start), found.seconds(item.stop)
        axis.axvspan(*span, facecolor="#e5e7eb", edgecolor="#9ca3af", hatch=hatch, linewidth=0, zorder=0)


def _lines(found: Spotted) -> list[tuple[str, str]]:
    """What the list below the picture says: (text, colour)."""
    shown = []
    for number, item in enumerate(found.expressions, 1):
        kind = "macro" if item.macro else "micro"
        regions = ", ".join(f"{side} {region}" for region, side in item.regions[:4])
        more = f" and {len(item.regions) - 4} more" if len(item.regions) > 4 else ""
        text = (
            f"{number}   {kind}-expression {found.seconds(item.onset):.2f} to {found.seconds(item.offset):.2f} s, "
            f"apex {found.seconds(item.apex):.2f} s, score {item.score:.1f}: {regions}{more}"
        )
        shown.append((text, COLOURS[kind]))
    reasons: dict[str, list] = {}
    for item in found.stretches:
        reasons.setdefault(item.reason, []).append(item)
    grey = []
    for reason, items in reasons.items():
        spans = [f"{found.seconds(item.start):.2f} to {found.seconds(item.stop):.2f} s" for item in items[:3]]
        more = f" and {len(items) - 3} more" if len(items) > 3 else ""
        grey.append((f"grey   {', '.join(spans)}{more}: {reason}", "#374151"))
    room = max(_MOST_LINES - len(grey), 1)
    if len(shown) > room:
        shown = [*shown[: room - 1], (f"and {len(shown) - room + 1} more expressions", "#374151")]
    if not shown:
        rest = "" if grey else ", and everything can be measured"
        shown = [(f"No expression was found{rest}.", "#374151")]
    return [*shown, *grey]


def _thinned(values: np.ndarray) -> np.ndarray:
    """The largest value of each of at most `_POINTS` spans; NaN where nothing was measured."""
    if len(values) <= _POINTS:
        return values
    parts = np.array_split(values, _POINTS)
    return np.array([np.nan if np.isnan(part).all() else np.nanmax(part) for part in parts])
