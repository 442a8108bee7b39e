import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, render_clip
from deft_llm.processing import key_frames
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.key_frames import KeyFrameError, KeyFrames, apex_position, sample_indices, spot_key_frames
from deft_llm.processing.motion_intervals import Interval
from deft_llm.processing.region_tracking import TRACKED_REGIONS, track_regions
from tests.processing.made_up_motion import course, motion_of


def rows_of(frames):
    return np.stack(list(track_regions(frames, crop_transform(*frames.shape[1:3]))))


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


@pytest.mark.parametrize(("interval", "expected"), [((5, 9, 12), (5, 9, 12)), ((5, 5, 5), (5, 6, 6))])
def test_key_frames_of_an_interval_are_valid(interval, expected):
    keys = KeyFrames.of_interval(Interval(*interval, kind="expression", score=9.0))
    assert keys.validate(20) == KeyFrames(*expected)


@pytest.mark.parametrize(("count", "searched"), [(60, False), (61, True)])
def test_expressions_are_looked_for_in_what_is_longer_than_a_clip(monkeypatch, count, searched):
    asked = []
    monkeypatch.setattr(key_frames, "propose_intervals", lambda motion, fps: asked.append(fps) or [])
    spot_key_frames(motion_of("AU4", course(10, 20, 40, count)), 60 / key_frames.CLIP_SECONDS)
    assert bool(asked) == searched
