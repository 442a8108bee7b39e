"""The parts of which pictures and films of an explanation are made: the marked face, the words, and the timeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from deft_llm.canvas import Canvas, arrow_scale, draw_arrow, draw_outline, shortened, text_width
from deft_llm.explained import Explained, ExplainedVideo, MovedRegion

if TYPE_CHECKING:
    from deft_llm.processing.key_frames import KeyFrames

CAVEAT = "The class is the name that a convention gives to the movement. It is not a feeling."
_MOST_REGIONS, _MOST_SCORES = 6, 7
_SIDES = {"both": "both sides", "left": "left side", "right": "right side"}
KINDS = {"expression": (255, 160, 50), "blink": (90, 170, 255), "speech": (150, 120, 220)}
"""Colours of intervals."""
UNMEASURABLE = (110, 110, 110)


# --- The face -------------------------------------------------------------------------------------------------------


def scale_for(item: Explained) -> int:
    """How many times longer than the motion the arrows of an explanation are; the same in all of its frames."""
    return arrow_scale(max((region.magnitude for region in item.moved), default=0.0))


def motion_at(item: Explained, region: MovedRegion, frame: int) -> np.ndarray:
    """(2,) how far a region has moved since the onset, in percent of the crop's width: measured in the sampled frames,
    and interpolated between them.

    Args:
        item: The explanation.
        region: One of its regions.
        frame: Frame number. Before the onset the motion is zero, after the offset it is that of the offset.
    """
    numbers, first = np.unique(item.frames_indices, return_index=True)
    return np.array([np.interp(frame, numbers, region.course[first, axis]) for axis in (0, 1)])


def marked_face(crop: np.ndarray, moved: Sequence[tuple[MovedRegion, np.ndarray]], scale: int) -> np.ndarray:
    """The face with outlines around regions and arrows along their motion.

    Args:
        crop: (side, side, 3) uint8 RGB, the canonical crop.
        moved: Regions and how far each has moved, in percent of the crop's width.
        scale: How many times longer than the motion the arrows are.
    """
    from deft_llm.processing.action_units import region_ellipse

    picture = crop.copy()
    for region, _ in moved:
        draw_outline(picture, region_ellipse(region.region, region.side))
    for region, way in moved:  # after all outlines, so that no outline hides a tip
        centre = region_ellipse(region.region, region.side)[:2]
        draw_arrow(picture, centre, scale * np.asarray(way) / 100)
    return picture


def faded(crop: np.ndarray) -> np.ndarray:
    """The picture in dark grey: of a frame that cannot be measured."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return np.repeat((0.55 * grey[..., None]).astype(np.uint8), 3, -1)


def write_sides(canvas: Canvas, left: int, top: int, width: int, *, size: int = 16) -> None:
    """Says under a face which side is the person's left."""
    canvas.text("person's right", left, top, size=size, colour=canvas.theme.quiet)
    words = "person's left"
    canvas.text(words, left + width - round(text_width(words, size)), top, size=size, colour=canvas.theme.quiet)


# --- The words ------------------------------------------------------------------------------------------------------


def class_of(item: Explained) -> str:
    """The class in words, such as `"anger (negative)"` or `"not measurable"`."""
    report = item.report
    if report["status"] == "not_measurable":
        return "not measurable"
    if report["insufficient_motion"]:
        return "insufficient motion"
    if report["emotion"] is None:
        return "not readable"
    coarse = report["coarse_emotion"]
    return report["emotion"] + (f" ({coarse})" if coarse not in (None, report["emotion"]) else "")


def write_class(canvas: Canvas, item: Explained, left: int, top: int, width: int) -> int:
    """Writes the class, why there is none, and the scores. Returns the top of what may follow below."""
    report, theme = item.report, canvas.theme
    missing = report["status"] != "measured"
    top = canvas.text("Class", left, top, size=15, colour=theme.quiet)
    colour = theme.warning if report["status"] == "not_measurable" else None
    top = canvas.text(class_of(item), left, top, size=28, width=width, lines=2, colour=colour)
    if missing and report["reason"]:
        reason = report["reason"][:1].upper() + report["reason"][1:].rstrip(".") + "."
        top = canvas.text(reason, left, top + 2, size=19, width=width, lines=6)
    top += 6
    scores = sorted(report["scores"].items(), key=lambda entry: -entry[1])[:_MOST_SCORES]
    for name, score in scores:
        canvas.text(shortened(name, 16, 116), left, top, size=16, colour=theme.quiet if missing else None)
        bar = max(width - 170, 20)
        canvas.bar(score, left + 120, top + 3, width=bar, height=12, colour=theme.quiet if missing else None)
        canvas.text(f"{score:.2f}", left + 128 + bar, top, size=16, colour=theme.quiet)
        top += 22
    return top


def write_units(canvas: Canvas, item: Explained, left: int, top: int, width: int, bottom: int) -> int:
    """Writes the action units with their evidence, as far as there is room above `bottom`. Returns the top of what may
    follow below."""
    report, theme = item.report, canvas.theme
    if report["status"] == "not_measurable":
        return top
    top = canvas.text("Action units and their evidence", left, top, size=15, colour=theme.quiet)
    for place, unit in enumerate(report["action_units"]):
        if top > bottom - 64:
            return canvas.text(f"and {len(report['action_units']) - place} more", left, top, size=16)
        side = f", {_SIDES[unit['side']]}" if unit["side"] else ""
        score = "" if unit["score"] is None else f"  {unit['score']:.2f}"
        top = canvas.text(f"{unit['code']} {unit['name']}{side}{score}", left, top, size=17, width=width, lines=2)
        shown = [entry for entry in report["evidence"] if entry["action_unit"] == unit["code"]]
        for entry in shown[:2]:
            words = f"{entry['region']} {entry['direction']} {_amount(entry['magnitude'], entry['standard_error'])}"
            top = canvas.text(words, left + 14, top, size=16, width=width - 14, lines=2, colour=theme.quiet)
        if unit["borne_out"] is False:
            top = canvas.text("not borne out by the motion", left + 14, top, size=16, colour=theme.quiet)
    if not report["action_units"]:
        top = canvas.text("none", left, top, size=17)
    return top


def write_regions(canvas: Canvas, item: Explained, left: int, top: int, width: int) -> int:
    """Lists the regions that have arrows, in the words of the measurement, and what would have been seen. Returns the
    top of what may follow below."""
    theme = canvas.theme
    if item.report["status"] == "not_measurable":
        return top
    top = canvas.text("What moved, in % of the face's width", left, top, size=15, colour=theme.quiet)
    for region in item.moved[:_MOST_REGIONS]:
        amount = _amount(region.magnitude, region.standard_error, digits=2)
        words = f"{region.side} {region.region} {region.direction} {amount}"
        top = canvas.text(words, left, top, size=16, width=width, lines=2)
    if len(item.moved) > _MOST_REGIONS:
        top = canvas.text(f"and {len(item.moved) - _MOST_REGIONS} more", left, top, size=16)
    if not item.moved:
        top = canvas.text("no region moves above the noise", left, top, size=16, width=width)
    return top


def limits_words(item: Explained) -> str:
    """What motion would have been seen, or nothing if this is not known."""
    from deft_llm.processing.expression_report import limits_phrase

    limits = item.report["detection_limits"]
    return f"Motion is seen from {limits_phrase(limits)}. Weaker motion may be overlooked." if limits else ""


def _amount(magnitude: float, error: float | None, *, digits: int = 1) -> str:
    spread = "" if not error else f" ± {error:.{digits}f}" if error >= 0.5 * 10**-digits else f" ± {error:.1g}"
    return f"{magnitude:.{digits}f}{spread} %"


# --- The timeline ---------------------------------------------------------------------------------------------------


class Timeline:
    """Onset, apex and offset, what was found and what cannot be measured, over the frames of a video.

    Args:
        video: The video.
        left: Of the diagram, in pixels.
        top: Of its labels.
        width: Of the diagram.
        height: With labels above and times below.
    """

    def __init__(self, video: ExplainedVideo, left: int, top: int, width: int, height: int):
        self.video, self.left, self.width = video, left, width
        self.top, self.bottom = top + 24, top + height - 22
        self.label_top, self.curve_name = top, ""

    def x(self, frame: float) -> int:
        """Where a frame is, in pixels."""
        return self.left + round(self.width * frame / max(len(self.video.clip) - 1, 1))

    def draw(self, canvas: Canvas) -> None:
        """Draws all but the mark of the frame that is shown."""
        theme, video = canvas.theme, self.video
        canvas.box(self.left, self.top, self.left + self.width, self.bottom, theme.fill)
        for stretch in video.stretches:
            self._hatch(canvas, stretch.start, stretch.stop)
        for item in video.intervals:
            top = self.top if item.kind == "expression" else self.bottom - 14
            canvas.box(self.x(item.onset), top, self.x(item.offset) + 2, self.bottom, KINDS[item.kind])
        if not video.spotted:
            self._curve(canvas, video.explained[0])
        placed = self.left
        for number, item in enumerate(video.explained, start=1):
            if item.key_frames is not None and video.spotted:
                placed = self._label(canvas, item.key_frames.apex, f"{number} {class_of(item)}", placed)
            elif item.key_frames is not None:
                self._key_lines(canvas, item.key_frames)
        self._times(canvas)

    def mark(self, canvas: Canvas, frame: int) -> None:
        """Marks the frame that is shown."""
        at = self.x(frame)
        canvas.box(at - 1, self.top - 3, at + 2, self.bottom + 3, canvas.theme.text)

    def _hatch(self, canvas: Canvas, start: int, stop: int) -> None:
        left, right = self.x(start), max(self.x(stop - 1), self.x(start) + 2)
        part = canvas.pixels[self.top : self.bottom, left:right]
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
        part[(rows + columns) % 10 < 5] = UNMEASURABLE

    def _curve(self, canvas: Canvas, item: Explained) -> None:
        """The motion of the region that moves farthest, along its direction, as the region was followed."""
        from deft_llm.processing.region_tracking import TRACKED_REGIONS

        if not item.moved:
            return
        region = item.moved[0]
        place = TRACKED_REGIONS.index((region.region, region.side))
        followed = np.stack([frame.motion[place] for frame in self.video.followed])
        along = region.farthest / max(region.magnitude, 1e-6)
        course = (followed - followed[item.key_frames.onset]) @ along
        course = cv2.GaussianBlur(course[None].astype(np.float32), (0, 0), max(1.0, len(course) / 120))[0]
        measured = np.array([frame.reason is None for frame in self.video.followed])
        low, high = min(0.0, float(course[measured].min())), max(0.2, float(course[measured].max()))
        room = self.bottom - self.top - 12
        points = [
            (self.x(frame), self.bottom - 6 - room * (value - low) / (high - low))
            for frame, value in enumerate(course)
        ]
        for first, last in _runs(measured):
            canvas.line(points[first : last + 1], canvas.theme.mark, thickness=2)
        self.curve_name = f"motion of the {region.side} {region.region}, up to {high:.1f} %"

    def _key_lines(self, canvas: Canvas, keys: KeyFrames) -> None:
        placed, gaps = self.left, []
        for name in ("onset", "apex", "offset"):
            at = self.x(getattr(keys, name))
            canvas.box(at, self.top - 4, at + 1, self.bottom, canvas.theme.text)
            before, placed = placed, self._label(canvas, getattr(keys, name), name, placed)
            gaps.append((before, placed - 10 - round(text_width(name, 15))))
        gaps.append((placed, self.left + self.width))
        first, last = max(gaps, key=lambda gap: gap[1] - gap[0])  # the name of the curve, between two labels
        wide = round(text_width(self.curve_name, 14))
        if wide < last - first:
            left = first + (last - first - wide) // 2
            canvas.text(self.curve_name, left, self.label_top, size=14, colour=canvas.theme.mark)

    def _label(self, canvas: Canvas, frame: int, words: str, placed: int) -> int:
        """Writes a label above a frame, right of the label before. Returns its right end."""
        wide = round(text_width(words, 15))
        left = max(self.x(frame) - wide // 2, placed)
        if left + wide > self.left + self.width:
            left = max(self.left + self.width - wide, placed)
        if left + wide <= self.left + self.width:
            canvas.text(words, left, self.label_top, size=15)
            placed = left + wide + 10
        return placed

    def _times(self, canvas: Canvas) -> None:
        rate, last = self.video.fps, len(self.video.clip) - 1
        for share in (0, 0.25, 0.5, 0.75, 1):
            frame = round(share * last)
            words = f"{frame / rate:.2f} s" if rate else f"frame {frame}"
            wide = round(text_width(words, 14))
            left = min(max(self.x(frame) - wide // 2, self.left), self.left + self.width - wide)
            canvas.text(words, left, self.bottom + 4, size=14, colour=canvas.theme.quiet)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of every run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]
