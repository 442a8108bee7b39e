import numpy as np
import pytest

from deft_llm.processing.key_frames import spot_key_frames
from deft_llm.processing.motion_signals import (
    bump_course,
    bump_filter,
    extent_of,
    filtered,
    fit_bump,
    fit_course,
    frame_noise,
    running_median,
    runs_of,
    smoothed,
    whitening,
)
from deft_llm.processing.region_tracking import TRACKED_REGIONS
from deft_llm.processing.spotting import propose_intervals
from tests.processing.made_up_motion import course


@pytest.mark.parametrize(
    ("motion", "message"),
    [(np.zeros((5, 3, 2)), "shape"), (np.full((5, len(TRACKED_REGIONS), 2), np.nan), "NaN")],
)
def test_motion_that_is_none_is_refused(motion, message):
    with pytest.raises(ValueError, match=message):
        spot_key_frames(motion)
    with pytest.raises(ValueError, match=message):
        propose_intervals(motion, 30.0)


def test_whitened_signals_have_variance_one_in_every_direction():
    rng = np.random.default_rng(0)
    spread, modes = np.array([0.5, 1.0, 2.0]), np.array([[1.0], [2.0], [0.0]])
    signals = rng.normal(size=(20_000, 3)) * spread + rng.normal(size=(20_000, 1)) * modes.T
    np.testing.assert_allclose(np.cov((signals @ whitening(spread, modes)).T), np.eye(3), atol=0.05)


def test_noise_is_told_from_motion_and_from_single_jumps():
    values = np.random.default_rng(0).normal(0, 0.3, (2000, 1)) + 5 * np.sin(np.arange(2000) / 200)[:, None]
    values[::100] += 40
    assert frame_noise(values)[0] == pytest.approx(0.3, rel=0.1)


def test_smoothing_keeps_what_is_slow():
    line = np.linspace(0, 1, 50)[:, None]
    np.testing.assert_array_equal(smoothed(line, 0), line)
    np.testing.assert_allclose(smoothed(line, 2.0)[10:-10], line[10:-10], atol=1e-9)
    spike = np.zeros((50, 1))
    spike[25] = 1.0
    assert smoothed(spike, 2.0).max() == pytest.approx(1 / (2 * np.sqrt(2 * np.pi)), rel=0.02)


def test_a_running_median_follows_a_drift_and_not_a_bump():
    drift = np.linspace(0, 3, 400)[:, None]
    bump = drift.copy()
    bump[200:220] += 2.0
    np.testing.assert_allclose(running_median(drift, 100), drift, atol=0.05)
    np.testing.assert_allclose(running_median(bump, 100), drift, atol=0.35)


def test_runs_and_extents_of_a_course():
    mask = np.array([True, False, True, True, False, True])
    assert runs_of(mask) == [(0, 0), (2, 3), (5, 5)]
    assert runs_of(np.zeros(4, bool)) == []
    assert extent_of(np.array([0.0, 1.0, 3.0, 1.0, 0.0, 0.0]), 2, 0.5) == (0, 4)
    assert extent_of(np.array([1.0, 3.0, 1.0]), 1, 0.5) == (0, 2)  # it never comes to rest: the ends


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_rise_and_fall_is_fitted_where_it_is(noise):
    shape = course(20, 45, 80, 100) + np.random.default_rng(0).normal(0, noise, 100)
    onset, apex, offset = fit_course(shape, 1.0)
    assert abs(apex - 45) <= 1
    assert abs(onset - 20) <= 4
    assert abs(offset - 80) <= 4


@pytest.mark.parametrize("length", [4.8, 9.0, 60.0])
def test_the_bump_filter_gives_the_height_of_a_bump_on_any_straight_line(length):
    times = np.arange(400.0)
    bump = bump_course(times, 200 - length / 2, 200, 200 + length / 2)
    line = 3.0 + 0.05 * times
    taps = bump_filter(length)
    found = filtered(np.stack([1.7 * bump + line, line], axis=1), taps)
    assert found[200, 0] == pytest.approx(1.7, abs=1e-9)
    inside = slice(len(taps), 400 - len(taps))
    assert np.abs(found[inside, 1]).max() < 1e-9
    assert found[inside, 0].argmax() + inside.start == 200


@pytest.mark.parametrize(("onset", "apex", "offset"), [(40, 44, 48), (40, 44, 52), (40, 60, 80)])
def test_a_bump_is_fitted_where_the_face_moves_on(onset, apex, offset):
    times = np.arange(120.0)
    noise = 0.02 * np.random.default_rng(1).normal(size=120)
    course = bump_course(times, onset, apex, offset) + 0.04 * times + noise
    length = offset - onset
    found = fit_bump(course, apex + 1, 0.8 * length, 3, 60)
    np.testing.assert_allclose(found, (onset, apex, offset), atol=max(1, 0.1 * length))
    assert fit_bump(course, apex, 0.8 * length, 100, 110) is None
