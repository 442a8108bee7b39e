from itertools import pairwise

import numpy as np

from benchmarks.science.real_spotting import FIRST, LASTS, PAUSE, Counts, counted, f1, times
from deft_llm.processing.aligned_clip import Stretch
from deft_llm.processing.motion_intervals import Interval


def proposed(*spans):
    return [Interval(onset, (onset + offset) // 2, offset, "expression", 9.0) for onset, offset in spans]


def test_planted_expressions_are_short_and_apart():
    for fps in (25.0, 30.0, 200.0):
        found = times(round(30 * fps), fps, np.random.default_rng(3))
        assert len(found) > 10
        assert FIRST[0] - 1 / fps <= found[0][0] / fps <= FIRST[1] + 1 / fps
        for onset, apex, offset in found:
            assert onset + 2 <= apex <= offset - 2
            assert LASTS[0] - 2 / fps <= (offset - onset) / fps <= LASTS[1] + 1 / fps
        pauses = [(later[0] - earlier[2]) / fps for earlier, later in pairwise(found)]
        assert min(pauses) >= PAUSE[0] - 1 / fps
        assert max(pauses) <= PAUSE[1] + 1 / fps
    assert times(10, 25.0, np.random.default_rng(3)) == []


def test_what_the_person_does_anyway_is_not_counted_as_wrong_or_found_twice():
    shown = [(10, 20), (40, 50), (70, 80)]
    found = proposed((11, 20), (12, 21), (55, 65), (90, 99))
    before = proposed((56, 65), (70, 79))
    counts = counted(shown, found, before, [Stretch(0, 45), Stretch(45, 60, "the head turns"), Stretch(60, 100)])
    assert counts == Counts(planted=3, measured=2, found=1, found_measured=1, proposed=4, own=1, by_chance=1)
    assert counts.row()[-3:] == ["0.286", "0.333", "0.400"]
    assert (counts + counts).found == 2
    assert f1(0, 0, 0) == "–"
