"""The film of an explanation: the clip, slowed, with what was measured drawn over the face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from deft_llm.canvas import SCREEN, Canvas, fitted, shortened, text_width
from deft_llm.explained import ExplainedVideo
from deft_llm.explanation_views import (
    CAVEAT,
    KINDS,
    UNMEASURABLE,
    Timeline,
    class_of,
    faded,
    limits_words,
    marked_face,
    motion_at,
    scale_for,
    write_class,
    write_regions,
    write_sides,
    write_units,
)

WIDTH, HEIGHT = 1280, 720
SLOW = 4.0
"""How many times slower than life a film is by default."""
HOLDS = {"onset": 0.4, "apex": 1.2, "offset": 0.4}
"""Seconds for which the film stops at a key frame, so that it can be read."""
_AROUND = 0.2  # seconds before and after an interval that are slowed as well
_USUAL_RATE = 25.0  # frames per second of a clip that states no rate
_FASTEST = 60.0  # frames per second; of more, some are left out where nothing is slowed
_CLOCK = 90_000  # ticks per second
_EDGE, _GAP = 16, 16
_SOURCE = (_EDGE, 56, 380, 285)  # left, top, width, height
_FACE = (_EDGE + 380 + _GAP, 56, 480)  # left, top, side
_WORDS = (_FACE[0] + _FACE[2] + _GAP, 56, WIDTH - _EDGE - _FACE[0] - _FACE[2] - _GAP)  # left, top, width


def write_overlay(path: Path, video: ExplainedVideo, *, slow: float = SLOW) -> None:
    """Writes the film of a video as H.264 in MP4.

    Args:
        path: The file. Its name need not end with .mp4.
        video: The video with its explanations.
        slow: How many times slower than life: the clip, or the intervals of a video.

    Raises:
        OSError: The file cannot be written.
    """
    write_film(path, film(video, slow=slow))


def write_film(path: Path, pictures: Iterable[tuple[np.ndarray, float]]) -> None:
    """Encodes pictures that are each shown for a time of their own.

    Args:
        path: The file.
        pictures: (height, width, 3) uint8 RGB with even sides, and seconds.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=round(_FASTEST))
        stream.pix_fmt = "yuv420p"  # what browsers and phones play
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        clock, picture = 0.0, None
        for picture, seconds in pictures:
            if not clock:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(_timed(picture, clock)))
            clock += seconds
        if picture is not None:  # the end: without another picture, the last one would not be held
            container.mux(stream.encode(_timed(picture, clock)))
        container.mux(stream.encode())


def _timed(picture: np.ndarray, clock: float) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts, frame.time_base = round(clock * _CLOCK), Fraction(1, _CLOCK)
    return frame


def film(video: ExplainedVideo, *, slow: float = SLOW) -> Iterator[tuple[np.ndarray, float]]:
    """The pictures of the film, and for how many seconds each is shown.

    Args:
        video: The video with its explanations.
        slow: How many times slower than life.
    """
    rate = video.fps or _USUAL_RATE
    grounds: dict[int | None, Canvas] = {}
    timeline = Timeline(video, _EDGE, 586, WIDTH - 2 * _EDGE, 130)
    transform, stride = video.clip.transform, int(max(1, rate // _FASTEST))
    for index, frame in enumerate(video.clip.reader.scan()):
        followed = video.followed[index]
        if followed.reason is None:
            transform = followed.upright
        place = explanation_at(video, index, round(_AROUND * rate))
        near = not video.spotted or place is not None
        if not near and index % stride:
            continue
        if place not in grounds:
            grounds[place] = _ground(video, place, timeline)
        canvas = grounds[place].copy()
        _draw_frame(canvas, video, place, index, frame, transform)
        name = key_name(video, place, index)
        _write_head(canvas, index, video.fps, slow if near else 1.0, name)
        timeline.mark(canvas, index)
        seconds = (slow if near else stride) / rate
        yield canvas.pixels, max(seconds, HOLDS.get(name, 0.0))


def explanation_at(video: ExplainedVideo, frame: int, around: int) -> int | None:
    """Which explanation a frame shows, or `None` between the intervals of a video.

    Args:
        video: The video.
        frame: Frame number.
        around: Frames before and after an interval that belong to it. Where two are near, the nearer one counts.
    """
    if not video.spotted:
        return 0
    found = []
    for place, item in enumerate(video.explained):
        if item.key_frames is None:
            continue
        away = max(item.key_frames.onset - frame, frame - item.key_frames.offset, 0)
        if away <= around:
            found.append((away, abs(item.key_frames.apex - frame), place))
    return min(found)[2] if found else None


def key_name(video: ExplainedVideo, place: int | None, frame: int) -> str | None:
    """Which key frame of the explanation that is shown a frame is."""
    keys = None if place is None else video.explained[place].key_frames
    if keys is None:
        return None
    # The apex first: the offset of an expression that outlasts the clip is its apex.
    return next((name for name in ("apex", "onset", "offset") if getattr(keys, name) == frame), None)


def _ground(video: ExplainedVideo, place: int | None, timeline: Timeline) -> Canvas:
    """What does not change while an explanation is shown."""
    canvas = Canvas(HEIGHT, WIDTH, SCREEN)
    theme = canvas.theme
    canvas.text(shortened(Path(video.source).name or video.source, 20, 640), _EDGE, 16, size=20)
    left, top, side = _FACE
    write_sides(canvas, left, top + side + 6, side)
    timeline.draw(canvas)
    if video.spotted:
        _write_legend(canvas, _EDGE, 556)
    left, top, width = _WORDS
    if place is None:
        _write_overview(canvas, video, left, top, width)
        return canvas
    item = video.explained[place]
    if video.spotted and item.key_frames is not None:
        words = f"Expression {place + 1} of {len(video.explained)}"
        top = canvas.text(words, left, top - 4, size=17, colour=theme.mark) + 4
    top = write_class(canvas, item, left, top, width)
    write_units(canvas, item, left, top + 8, width, 450)
    canvas.text(limits_words(item), left, 456, size=14, width=width, lines=3, colour=theme.quiet)
    if item.report["status"] != "not_measurable":
        canvas.text(CAVEAT, left, 518, size=14, width=width, colour=theme.quiet)
    left, top, width, height = _SOURCE
    write_regions(canvas, item, left, top + height + 12, width)
    return canvas


def _write_overview(canvas: Canvas, video: ExplainedVideo, left: int, top: int, width: int) -> None:
    """What is shown between the intervals of a video."""
    theme, shown = canvas.theme, [item for item in video.explained if item.key_frames is not None]
    if not shown:
        write_class(canvas, video.explained[0], left, top, width)
        return
    top = canvas.text("Expressions in this video", left, top, size=15, colour=theme.quiet) + 4
    for number, item in enumerate(shown, start=1):
        if top > 500:
            canvas.text(f"and {len(shown) - number + 1} more", left, top, size=17)
            return
        time = item.key_frames.onset / (video.fps or _USUAL_RATE)
        top = canvas.text(f"{number}  {time:.2f} s  {class_of(item)}", left, top, size=17, width=width, lines=1)


def _write_legend(canvas: Canvas, left: int, top: int) -> None:
    for name, colour in {**KINDS, "not measurable": UNMEASURABLE}.items():
        canvas.box(left, top + 3, left + 12, top + 15, colour)
        canvas.text(name, left + 18, top, size=15, colour=canvas.theme.quiet)
        left += 18 + round(text_width(name, 15)) + 20


def _write_head(canvas: Canvas, index: int, fps: float | None, slow: float, name: str | None) -> None:
    """The line on top: which frame is shown, and how fast."""
    when = f"frame {index}" + (f"  ·  {index / fps:.3f} s" if fps else "")
    speed = f"  ·  slowed {slow:g} x" if slow > 1 else ""
    words = when + speed
    left = WIDTH - _EDGE - 360
    canvas.text(words, left, 18, size=18, colour=canvas.theme.quiet)
    if name is not None:
        words = name.upper()
        canvas.text(words, left - 24 - round(text_width(words, 22)), 15, size=22, colour=canvas.theme.mark)


def _draw_frame(
    canvas: Canvas, video: ExplainedVideo, place: int | None, index: int, frame: np.ndarray, transform: np.ndarray
) -> None:
    """Draws the frame as it is, and the face with its head held still and what has moved."""
    from deft_llm.processing.face_alignment import warp_to_crop

    reason = video.followed[index].reason
    left, top, width, height = _SOURCE
    small = fitted(frame, width, height)
    at = (left + (width - small.shape[1]) // 2, top + (height - small.shape[0]) // 2)
    canvas.place(small, *at)
    if reason is None:
        canvas.line(_box_of(transform, small.shape[1] / frame.shape[1], at), canvas.theme.mark, thickness=1)
    left, top, side = _FACE
    crop, item = warp_to_crop(frame, transform, side), None if place is None else video.explained[place]
    moved: list = []
    if item is not None and item.key_frames is not None and reason is None:
        inside = item.key_frames.onset <= index <= item.key_frames.offset
        moved = [(region, motion_at(item, region, index)) for region in item.moved] if inside else []
    scale = 1 if item is None else scale_for(item)
    canvas.place(faded(crop) if reason is not None else marked_face(crop, moved, scale), left, top)
    if reason is not None:
        words, colour = f"Not measurable: {reason}", canvas.theme.warning
    elif moved:
        words, colour = f"arrows {scale} x as long as the motion", canvas.theme.quiet
    else:
        words, colour = "head held still", canvas.theme.quiet
    words = shortened(words, 16, WIDTH - left - _EDGE)
    middle = left + (side - round(text_width(words, 16))) // 2
    if reason is None:
        canvas.text(words, max(middle, left), top + side + 6, size=16, colour=colour)
    else:  # the reason may be long: below the sides
        canvas.text(words, left, top + side + 26, size=16, colour=colour)


def _box_of(transform: np.ndarray, scale: float, at: tuple[int, int]) -> list[tuple[float, float]]:
    """The crop's outline in a frame that is shown at `at`, scaled."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], float)
    points = np.linalg.solve(transform[:, :2], (corners - transform[:, 2]).T).T * scale + at
    return [tuple(point) for point in points]
