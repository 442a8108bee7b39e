"""The picture of an explanation: onset and apex, what moved, the class, its units, and what would have been seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deft_llm.canvas import PAPER, Canvas, shortened, text_width
from deft_llm.explained import Explained, ExplainedVideo
from deft_llm.explained_rows import when
from deft_llm.explanation_views import (
    CAVEAT,
    limits_words,
    marked_face,
    scale_for,
    write_class,
    write_regions,
    write_sides,
    write_units,
)

SIDE = 440
"""Pixels of a crop. Small faces are scaled up."""
MOST = 12
"""Most expressions of one video in a picture, the first ones."""
_EDGE, _GAP, _WORDS = 24, 20, 430
_WIDTH, _HEIGHT = 2 * _EDGE + 2 * SIDE + 2 * _GAP + _WORDS, 690
_TITLE, _TOP = 16, 56


def picture(video: ExplainedVideo) -> np.ndarray:
    """Draws a video's explanations below each other, at most `MOST`.

    Args:
        video: The video.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    shown = video.explained[:MOST]
    rows = [_row(video, item, number) for number, item in enumerate(shown, start=1)]
    if len(video.explained) > MOST:
        note = Canvas(44, _WIDTH, PAPER)
        note.text(f"{len(video.explained) - MOST} more expressions are not shown.", _EDGE, 8, size=18)
        rows.append(note.pixels)
    return np.concatenate(rows)


def png(pixels: np.ndarray) -> bytes:
    """Encodes a picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _row(video: ExplainedVideo, item: Explained, number: int) -> np.ndarray:
    canvas = Canvas(_HEIGHT, _WIDTH, PAPER)
    theme = canvas.theme
    title = Path(video.source).name or video.source
    if item.key_frames is not None:
        title += f"  ·  {f'expression {number}: ' if video.spotted else ''}{when(item, video.fps)}"
    canvas.text(shortened(title, 20, _WIDTH - 2 * _EDGE), _EDGE, _TITLE, size=20)
    left = _EDGE
    for name, crop, marked in _faces(video, item):
        canvas.place(crop, left, _TOP)
        write_sides(canvas, left, _TOP + SIDE + 6, SIDE)
        middle = left + (SIDE - round(text_width(name, 17))) // 2
        canvas.text(name, middle, _TOP + SIDE + 5, size=17)
        if marked:
            words = f"Arrows: farthest motion since the onset, {marked} x as long. The head's own motion is taken out."
            canvas.text(words, left, _TOP + SIDE + 34, size=15, width=SIDE, colour=theme.quiet)
        left += SIDE + _GAP
    below = _TOP + SIDE + 34
    below = write_regions(canvas, item, _EDGE, below, SIDE)
    canvas.text(limits_words(item), _EDGE + SIDE + _GAP, _TOP + SIDE + 84, size=15, width=SIDE, colour=theme.quiet)
    top = write_class(canvas, item, left, _TOP, _WORDS)
    write_units(canvas, item, left, top + 10, _WORDS, _HEIGHT - 70)
    if item.report["status"] != "not_measurable":
        canvas.text(CAVEAT, left, _HEIGHT - 52, size=15, width=_WORDS, colour=theme.quiet)
    return canvas.pixels


def _faces(video: ExplainedVideo, item: Explained) -> list[tuple[str, np.ndarray, int]]:
    """Name, crop, and how many times longer than the motion its arrows are, or 0 if it has none."""
    from deft_llm.processing.face_alignment import warp_to_crop

    keys = item.key_frames
    if keys is None:  # nothing could be measured: the first frame
        frame = video.clip.reader.frames([0])[0]
        return [("frame 0", warp_to_crop(frame, video.clip.transform, SIDE), 0)]
    frames = video.clip.reader.frames([keys.onset, keys.apex])
    onset, apex = (
        warp_to_crop(frame, video.followed[index].upright, SIDE)
        for frame, index in zip(frames, (keys.onset, keys.apex), strict=True)
    )
    scale = scale_for(item)
    moved = [(region, region.farthest) for region in item.moved]  # as the words have it
    return [
        (f"onset, frame {keys.onset}", onset, 0),
        (f"apex, frame {keys.apex}", marked_face(apex, moved, scale), scale if moved else 0),
    ]
