import itertools
from dataclasses import replace

import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import (
    EVERYDAY,
    Disturbances,
    Expression,
    UnitRequest,
    encode_mp4,
    render_clip,
)
from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.key_frames import KeyFrameError, KeyFrames, apex_position, sample_indices, spot_key_frames
from deft_llm.processing.region_tracking import TRACKED_REGIONS, track_regions
from deft_llm.processing.spotting import MICRO_SECONDS, Interval, propose_intervals, spot_expressions


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


def rows_of(frames):
    return np.stack(list(track_regions(frames, crop_transform(*frames.shape[1:3]))))


# --- following the regions ------------------------------------------------------------------------------------------


def test_regions_are_followed_through_head_motion_noise_and_changing_light(face):
    shown = Expression((UnitRequest("AU12", "left", 0.015),), onset=10, apex=40, offset=70)
    moving = replace(EVERYDAY, head_shift=0.03, head_rotation=3.0, head_scale=0.03, light_drift=0.05)
    clip = render_clip(face, [shown], np.random.default_rng(2), count=80, disturbances=moving)
    motion = rows_of(clip.frames)
    assert motion.shape == (80, len(TRACKED_REGIONS), 2)
    assert not motion[0].any()
    corner = motion[40, TRACKED_REGIONS.index(("mouth corner", "left"))]
    true = 100 * clip.flow(0, 40, expression_only=True, grid=100)[:, 72:80, 60:69].mean(axis=(1, 2))
    np.testing.assert_allclose(corner, true, atol=0.25)
    brows = [index for index, (region, _) in enumerate(TRACKED_REGIONS) if "brow" in region]
    assert np.abs(motion[:, brows]).max() < 0.35


def test_following_goes_on_when_the_reference_is_renewed(face):
    """Four expressions of the same size over two renewals: none drifts away from the first."""
    shown = [
        Expression((UnitRequest("AU4", "both", 0.015),), 20 + 130 * n, 40 + 130 * n, 60 + 130 * n) for n in range(4)
    ]
    clip = render_clip(face, shown, np.random.default_rng(0), count=540)
    brow = rows_of(clip.frames)[:, TRACKED_REGIONS.index(("inner brow", "right")), 1]
    whole = [100 * clip.flow(0, item.apex, expression_only=True, grid=100)[1] for item in shown]
    true = np.array([field[18:25, 36:45].mean() for field in whole])
    np.testing.assert_allclose([brow[item.apex] for item in shown], true, atol=0.15)
    assert abs(brow[-5:].mean()) < 0.1


def test_a_cut_to_another_face_does_not_end_the_following(face, brow_clip):
    other = render_clip(face, [], np.random.default_rng(5), count=30)
    blank = np.full((5, 160, 160, 3), 128, np.uint8)
    frames = np.concatenate([other.frames, other.frames[:, :, ::-1], blank, brow_clip.frames])
    motion = rows_of(frames)
    assert np.isfinite(motion).all()
    apex = 65 + brow_clip.expression.apex
    down = motion[:, TRACKED_REGIONS.index(("inner brow", "left")), 1]
    assert down[apex] - down[65 + brow_clip.expression.onset] > 0.6


def test_regions_are_followed_lazily(brow_clip):
    endless = itertools.cycle(brow_clip.frames)
    rows = track_regions(endless, crop_transform(160, 160))
    assert [next(rows).shape for _ in range(3)] == [(len(TRACKED_REGIONS), 2)] * 3


# --- one expression -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["AU1", "AU4", "AU12", "AU17", "AU43"])
@pytest.mark.parametrize(("onset", "apex", "offset", "count"), [(10, 30, 60, 75), (0, 12, 40, 41), (20, 60, 79, 80)])
def test_key_frames_of_a_noisy_course(code, onset, apex, offset, count):
    keys = spot_key_frames(motion_of(code, course(onset, apex, offset, count), size=0.5))
    assert abs(keys.apex - apex) <= 2
    assert abs(keys.onset - onset) <= 0.2 * (apex - onset)
    assert abs(keys.offset - offset) <= 0.2 * (offset - apex)


@pytest.mark.parametrize("shape", ["line", "fast rise, slow fall", "plateau"])
def test_key_frames_need_no_particular_shape(shape):
    frames = np.arange(100.0)
    when = {
        "line": np.interp(frames, [10, 40, 80], [0, 1, 0]),
        "fast rise, slow fall": np.where(frames < 40, 1 - np.clip((40 - frames) / 18, 0, 1) ** 2, 1)
        * np.exp(-(np.maximum(frames - 40, 0) ** 2) / 500),
        "plateau": np.interp(frames, [10, 35, 45, 75], [0, 1, 1, 0]),
    }[shape]
    keys = spot_key_frames(motion_of("AU4", when, size=1.0))
    assert abs(keys.apex - 40) <= 4
    assert 5 <= keys.onset <= 26
    assert 55 <= keys.offset <= 85


def test_an_expression_that_the_clip_cuts_off():
    rising = spot_key_frames(motion_of("AU12", course(5, 50, 90, 100))[:48])
    assert rising.apex >= 42
    assert rising.offset <= 47
    assert abs(rising.onset - 5) <= 6


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_the_shortest_clips_have_key_frames(count):
    keys = spot_key_frames(motion_of("AU4", np.linspace(0, 1, count)))
    assert keys.validate(count) == keys
    assert keys.onset == 0


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("fps", [None, 25.0])
def test_a_still_clip_has_key_frames_all_the_same(noise, fps):
    keys = spot_key_frames(np.random.default_rng(0).normal(0, noise, (60, len(TRACKED_REGIONS), 2)), fps)
    assert keys.validate(60) == keys


def test_one_frame_has_no_key_frames():
    with pytest.raises(KeyFrameError, match="at least two frames"):
        spot_key_frames(np.zeros((1, len(TRACKED_REGIONS), 2)))


@pytest.mark.parametrize(
    ("motion", "message"),
    [(np.zeros((5, 3, 2)), "shape"), (np.full((5, len(TRACKED_REGIONS), 2), np.nan), "NaN")],
)
def test_motion_that_is_none_is_refused(motion, message):
    with pytest.raises(ValueError, match=message):
        spot_key_frames(motion)
    with pytest.raises(ValueError, match=message):
        propose_intervals(motion, 30.0)


def test_a_long_clip_is_searched_for_what_stands_out_most():
    when = course(300, 330, 360, 800)
    motion = motion_of("AU4", when, size=0.8) + motion_of("AU12", course(600, 625, 650, 800), size=0.4, noise=0.0)
    motion += np.linspace(0, 3, 800)[:, None, None]  # the pose changes by more than either
    keys = spot_key_frames(motion, 200.0)
    assert abs(keys.apex - 330) <= 2


def test_key_frames_of_a_rendered_clip(face):
    shown = Expression((UnitRequest("AU9", "both", 0.008),), onset=6, apex=26, offset=50)
    clip = render_clip(face, [shown], np.random.default_rng(3), count=64)
    keys = spot_key_frames(rows_of(clip.frames), clip.fps)
    assert abs(keys.apex - 26) <= 2
    assert abs(keys.onset - 6) <= 4
    assert abs(keys.offset - 50) <= 4


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


def test_a_still_video_has_no_intervals(still_clip, face):
    still = np.random.default_rng(0).normal(0, 0.03, (3000, len(TRACKED_REGIONS), 2))
    assert propose_intervals(still, 100.0) == []
    assert propose_intervals(np.zeros_like(still), 100.0) == []
    clip = render_clip(
        face, [], np.random.default_rng(4), count=200, fps=50.0, disturbances=replace(EVERYDAY, noise=3)
    )
    assert spot_expressions(clip.frames, fps=50.0) == []
    assert spot_expressions(np.repeat(still_clip.frames[:1], 100, axis=0), fps=100.0) == []


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


def test_expressions_of_a_video_file(face):
    units = (UnitRequest("AU4", "both", 0.012),)
    shown = [Expression(units, 100, 115, 132), Expression(units, 260, 275, 300)]
    lively = Disturbances(head_shift=0.012, head_rotation=1.0, noise=1.5, gaze=0.004, crf=14)
    clip = render_clip(face, shown, np.random.default_rng(0), count=400, fps=100.0, disturbances=lively)
    found = spot_expressions(encode_mp4(clip))
    assert [item.kind for item in found] == ["expression", "expression"]
    for item, true in zip(found, shown, strict=True):
        assert item.overlap(true.onset, true.offset) >= 0.5
        assert abs(item.apex - true.apex) <= 2
        assert {region for region, _ in item.regions} <= {"inner brow", "outer brow", "nose root"}


def test_a_video_without_a_frame_rate_is_refused(brow_clip):
    with pytest.raises(ValueError, match="pass fps="):
        spot_expressions(brow_clip.frames)


def test_overlap_counts_both_ends():
    item = Interval(10, 12, 19, "expression", 1.0)
    assert item.overlap(10, 19) == 1.0
    assert item.overlap(15, 24) == pytest.approx(5 / 15)
    assert item.overlap(20, 30) == 0.0


# --- what the model sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [2, 3, 8, 16])
def test_samples_hold_onset_apex_and_offset(num_frames):
    indices = sample_indices(KeyFrames(4, 20, 44), num_frames)
    assert len(indices) == num_frames
    assert (indices[0], indices[apex_position(num_frames)]) == (4, 20)
    assert indices == sorted(indices)
    if num_frames > 2:
        assert indices[-1] == 44


def test_a_clip_shorter_than_the_samples_repeats_frames():
    assert sample_indices(KeyFrames(0, 1, 2), 8) == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [((5, 3, 9), "onset < apex"), ((0, 5, 4), "onset < apex"), ((0, 5, 30), "outside"), ((-1, 5, 9), "outside")],
)
def test_contradictory_key_frames_are_refused(keys, message):
    with pytest.raises(KeyFrameError, match=message):
        KeyFrames(*keys).validate(20)
