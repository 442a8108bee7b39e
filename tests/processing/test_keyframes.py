import numpy as np
import pytest

from deft_llm.processing.keyframes import (
    KeyFrameError,
    KeyFrames,
    apex_position,
    motion_energy,
    sample_indices,
    spot_key_frames,
)


def course(onset, apex, offset, count):
    ramp = np.interp(np.arange(count), [onset, apex, offset], [0, 1, 0])
    return 0.5 - 0.5 * np.cos(np.pi * ramp)


@pytest.mark.parametrize(("onset", "apex", "offset", "count"), [(10, 30, 50, 70), (0, 12, 40, 41), (20, 60, 79, 80)])
def test_key_frames_of_a_noisy_course(onset, apex, offset, count):
    noise = np.abs(np.random.default_rng(0).normal(0, 0.02, count))
    keys = spot_key_frames(course(onset, apex, offset, count) + noise)
    assert abs(keys.apex - apex) <= 3
    assert abs(keys.onset - onset) <= 0.3 * (apex - onset)
    assert abs(keys.offset - offset) <= 0.3 * (offset - apex)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_shortest_clips_have_key_frames(count):
    keys = spot_key_frames(np.linspace(0, 1, count))
    assert keys.validate(count) == keys
    assert keys.onset == 0


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


def test_energy_is_that_of_the_strongest_region():
    flow = np.zeros((3, 2, 32, 32), np.float32)
    flow[1, 1, 4:10, 10:15] = 2.0  # the right inner brow
    energy = motion_energy(flow)
    assert energy[0] == energy[2] == 0
    assert energy[1] > 1.0
