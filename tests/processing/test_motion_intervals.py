import numpy as np
import pytest

from deft_llm.processing.motion_intervals import MICRO_SECONDS, Interval, propose_intervals
from deft_llm.processing.region_tracking import TRACKED_REGIONS
from tests.processing.made_up_motion import course, motion_of

# --- a long video ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [25.0, 30.0, 100.0, 200.0, 500.0])
def test_expressions_are_proposed_at_every_frame_rate(fps):
    times = np.array([[1.0, 1.15, 1.35], [3.0, 3.2, 3.45], [5.0, 5.12, 5.3]])
    frames = np.round(times * fps).astype(int)
    count = round(7 * fps)
    motion = sum(
        motion_of(code, course(*row, count), size=0.8, noise=0.02, seed=index)
        for index, (code, row) in enumerate(zip(("AU1", "AU12", "AU9"), frames, strict=True))
    )
    found = propose_intervals(motion, fps)
    assert [item.kind for item in found] == ["expression"] * 3
    for item, (onset, apex, offset) in zip(found, frames.tolist(), strict=True):
        assert item.overlap(onset, offset) >= 0.6
        assert abs(item.apex - apex) <= max(1, 0.02 * fps)
        assert not item.macro
    assert {region for region, _ in found[0].regions} == {"inner brow"}
    assert ("mouth corner", "left") in found[1].regions


def test_blinks_are_told_from_expressions():
    count, fps = 800, 100.0
    blinks = [(120, 127, 140), (400, 407, 422), (650, 656, 670)]
    lids = np.max([course(*item, count) for item in blinks], axis=0)
    motion = motion_of("AU45", lids, size=1.6)
    for region in ("outer brow", "nose root", "cheek"):  # the skin around the eyes goes a little with them
        for side in ("right", "left"):
            motion[:, TRACKED_REGIONS.index((region, side)), 1] += 0.25 * lids
    motion += motion_of("AU4", course(395, 415, 440, count), size=0.9, noise=0.0)  # frowns while blinking
    found = propose_intervals(motion, fps)
    assert sorted(item.kind for item in found) == ["blink", "blink", "blink", "expression"]
    for item, blink in zip([item for item in found if item.kind == "blink"], blinks, strict=True):
        assert item.overlap(blink[0], blink[2]) > 0.5
    expression = next(item for item in found if item.kind == "expression")
    assert expression.overlap(395, 440) >= 0.5


def test_a_wink_and_wide_eyes_are_no_blinks():
    count = 600
    motion = motion_of("AU46", course(100, 110, 125, count), size=1.8, side="left")
    motion += motion_of("AU5", course(400, 415, 435, count), size=1.5, noise=0.0)
    assert {item.kind for item in propose_intervals(motion, 100.0)} == {"expression"}


def test_brows_are_seen_during_speech_and_speech_is_not_an_expression():
    count, fps = 1200, 100.0
    seconds = np.arange(count) / fps
    speaking = np.clip(np.interp(seconds, [2.0, 2.2, 7.8, 8.0], [0, 1, 1, 0]), 0, 1)
    talking = (
        speaking * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * seconds)) * (0.7 + 0.3 * np.sin(2 * np.pi * 0.9 * seconds))
    )
    motion = motion_of("AU26", talking, size=1.0)
    motion += motion_of("AU4", course(500, 515, 535, count), size=0.7, noise=0.0)
    motion += motion_of("AU12", course(1000, 1015, 1035, count), size=0.7, noise=0.0)
    found = propose_intervals(motion, fps)
    assert [item.kind for item in found] == ["speech", "expression", "expression"]
    assert found[0].overlap(200, 800) > 0.8
    assert found[1].overlap(500, 535) >= 0.5
    assert found[2].overlap(1000, 1035) >= 0.5


def test_slow_expressions_are_flagged_and_slower_ones_need_asking_for():
    count, fps = 2000, 100.0
    motion = motion_of("AU12", course(300, 340, 385, count)) + motion_of(
        "AU4", course(1000, 1100, 1220, count), noise=0.0
    )
    (short,) = propose_intervals(motion, fps)
    assert short.overlap(300, 385) > 0.5
    assert short.macro
    assert (short.offset - short.onset) / fps > MICRO_SECONDS
    both = propose_intervals(motion, fps, longest=4.0)
    assert [item.macro for item in both] == [True, True]
    assert both[1].overlap(1000, 1220) > 0.5


@pytest.mark.parametrize("fps", [100.0, 200.0])
def test_a_region_that_jumps_to_another_wrinkle_and_back_is_not_an_expression(fps):
    count, fold = round(8 * fps), TRACKED_REGIONS.index(("nasolabial fold", "right"))
    rows = np.round(np.array([1.0, 1.1, 1.25]) * fps).astype(int)
    motion = motion_of("AU12", course(*rows, count), size=0.8, noise=0.03)
    (before,) = propose_intervals(motion, fps)
    jumping = motion.copy()
    jumping[round(5 * fps) : round(5.3 * fps), fold] += (1.5, -1.5)
    assert [(item.onset, item.offset) for item in propose_intervals(jumping, fps)] == [(before.onset, before.offset)]
    # The same way in 60 ms is an expression.
    moving = motion.copy()
    moving[:, fold] += np.interp(np.arange(count) / fps, [5.0, 5.06, 5.24, 5.3], [0, 1, 1, 0])[:, None] * (1.5, -1.5)
    assert len(propose_intervals(moving, fps)) == 2


def test_at_thirty_frames_per_second_a_jump_cannot_be_told_from_an_expression():
    motion = np.random.default_rng(0).normal(0, 0.03, (240, len(TRACKED_REGIONS), 2))
    motion[150:159, TRACKED_REGIONS.index(("nasolabial fold", "right"))] += (1.5, -1.5)
    assert len(propose_intervals(motion, 30.0)) == 1


def test_stillness_has_no_intervals():
    still = np.random.default_rng(0).normal(0, 0.03, (3000, len(TRACKED_REGIONS), 2))
    assert propose_intervals(still, 100.0) == []
    assert propose_intervals(np.zeros_like(still), 100.0) == []


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_video_of_a_few_frames_has_no_intervals(count):
    assert propose_intervals(np.zeros((count, len(TRACKED_REGIONS), 2)), 25.0) == []


def test_the_windows_of_a_long_video_neither_lose_nor_double_an_interval():
    """An expression every 3.7 s and speech over a border of the windows, fed row by row."""
    fps, count = 50.0, 6000
    events = [(at, at + 8, at + 18) for at in range(60, count - 60, 185)]
    seconds = np.arange(count) / fps
    talking = ((seconds > 20) & (seconds < 40)) * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * seconds))
    motion = motion_of("AU4", np.max([course(*item, count) for item in events], axis=0), size=0.8)
    motion += motion_of("AU26", talking, size=1.0, noise=0.0)
    found = propose_intervals(iter(motion), fps)
    shown = [item for item in found if item.kind == "expression"]
    assert len(shown) == len(events)
    assert all(item.overlap(a, c) >= 0.5 for item, (a, _, c) in zip(shown, events, strict=True))
    (speech,) = (item for item in found if item.kind == "speech")
    assert speech.overlap(1000, 2000) > 0.9


@pytest.mark.parametrize(("fps", "longest", "name"), [(0, 1.0, "fps"), (None, 1.0, "fps"), (30.0, 9.0, "longest")])
def test_settings_out_of_range_are_refused(fps, longest, name):
    with pytest.raises(ValueError, match=name):
        propose_intervals(np.zeros((50, len(TRACKED_REGIONS), 2)), fps, longest=longest)


def test_overlap_counts_both_ends():
    item = Interval(10, 12, 19, "expression", 1.0)
    assert item.overlap(10, 19) == 1.0
    assert item.overlap(15, 24) == pytest.approx(5 / 15)
    assert item.overlap(20, 30) == 0.0
