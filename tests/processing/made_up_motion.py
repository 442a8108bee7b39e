"""Region motion whose course is known."""

import numpy as np

from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.region_tracking import TRACKED_REGIONS


def course(onset, apex, offset, count):
    ramp = np.interp(np.arange(count), [onset, apex, offset], [0, 1, 0])
    return 0.5 - 0.5 * np.cos(np.pi * ramp)


def motion_of(code, when, *, size=1.0, noise=0.03, seed=0, side=None):
    """(T, regions, 2) in percent: one action unit's regions on the course `when`, and noise everywhere."""
    motion = np.random.default_rng(seed).normal(0, noise, (len(when), len(TRACKED_REGIONS), 2))
    for part in get_action_unit(code).motions:
        for one in (side,) if side else ("right", "left"):
            motion[:, TRACKED_REGIONS.index((part.region, one))] += size * when[:, None] * part.vector(one)
    return motion
