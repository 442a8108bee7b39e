"""Rows whose classes differ in what moves where."""

import numpy as np

from deft_llm.hub_datasets.synthetic.clips import encode_frames
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive", "surprise")
FRAMES = 8  # of a filmed row: onset 1, apex 4, offset 6


def moving_rows(count: int, side: int = 20) -> list[dict]:
    """Each class moves another corner of the field; a weak noise lies over it."""
    corners = {
        "negative": (slice(0, 8), slice(0, 8)),
        "positive": (slice(0, 8), slice(-8, None)),
        "surprise": (slice(-8, None), slice(0, 8)),
    }
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        flow = np.random.default_rng(number).normal(0, 0.3, (3, 2, side, side))
        flow[1, 0][corners[label]] += 2.0
        rows.append({**make_row("casme2", number, 1, label, flow=flow.astype(np.float16)), "label": label})
    return rows


def filmed_rows(count: int, side: int = 48) -> list[dict]:
    """Rows with video and without flow: up to the apex each class changes another place by another amount.

    The places differ in a mirror, too. The face is noise.
    """
    changes = {"negative": (6, 19, -60), "positive": (32, 19, 60), "surprise": (19, 4, 130)}
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        face = np.random.default_rng(number).integers(60, 120, (6, 6, 3)).repeat(side // 6, 0).repeat(side // 6, 1)
        frames = np.repeat(face[None], FRAMES, 0)
        top, left, amount = changes[label]
        for frame, share in enumerate((0, 0, 0.3, 0.7, 1, 0.7, 0.3, 0)):
            frames[frame, top : top + 10, left : left + 10] += round(share * amount)
        video = encode_frames(frames.astype(np.uint8), 100, 12)
        keys = {"onset": 1, "apex": 4, "offset": 6}
        row = make_row("casme2", number, 1, label, flow=None, video={"bytes": video, "path": None}, **keys)
        rows.append({**row, "label": label})
    return rows
