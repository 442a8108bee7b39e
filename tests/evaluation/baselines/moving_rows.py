"""Rows whose classes differ in what moves where."""

import numpy as np

from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive", "surprise")


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
