"""The whole-clip estimator on rendered clips whose flow is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Disturbances, Expression, UnitRequest, render_clip
from deft_llm.processing.action_units import ellipse_mask
from deft_llm.processing.optical_flow import estimate_flow
from deft_llm.processing.whole_clip_flow import _ROUNDED, _Level, whole_clip_flow

SIDE = 160
FACE = ellipse_mask((0.5, 0.5, 0.40, 0.46), SIDE, SIDE)


def grey(clip):
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]).astype(np.float32)


def distance(flow, truth):
    return np.hypot(*(np.asarray(flow) - truth))


def make(face, *, units=(), disturbances=EVERYDAY, count=36, seed=5):
    shown = Expression(tuple(units), onset=6, apex=20, offset=34)
    return render_clip(face, [shown], np.random.default_rng(seed), count=count, disturbances=disturbances)


@pytest.fixture(scope="module")
def smile(face):
    """AU12 of 0.7 px at a noise of two grey levels, the head moving."""
    return make(face, units=[UnitRequest("AU12", "both", 0.7 / SIDE)], disturbances=replace(EVERYDAY, noise=2.0))


@pytest.fixture(scope="module")
def solved(smile):
    return whole_clip_flow(torch.from_numpy(grey(smile)), reference=6)


def test_the_whole_clip_beats_pairs_under_noise(smile, solved):
    frames, truth = grey(smile), SIDE * smile.flow(6, 20)
    errors = {
        name: distance(estimate_flow(frames[6], frames[20:21], estimator=name)[0], truth)[FACE].mean()
        for name in ("lucas_kanade", "farneback", "dis")
    }
    error = distance(solved.flow[20], truth)[FACE].mean()
    assert error < 0.5 * min(errors.values()), (error, errors)


def test_every_frame_is_measured_and_the_reference_stands_still(smile, solved):
    assert solved.flow.shape == (36, 2, SIDE, SIDE)
    assert float(solved.flow[6].abs().max()) == 0
    for frame in (0, 13, 27, 35):
        assert distance(solved.flow[frame], SIDE * smile.flow(6, frame))[FACE].mean() < 0.08


def test_a_moving_head_alone_is_measured_to_hundredths_of_a_pixel(face):
    """Where a bicubic kernel would err by up to 0.047 px."""
    head = Disturbances(head_shift=0.02, head_rotation=1.5, head_scale=0.01, noise=1.0)
    clip = make(face, disturbances=head)
    flow = whole_clip_flow(torch.from_numpy(grey(clip)), reference=6).flow
    truth = SIDE * np.stack([clip.flow(6, frame) for frame in range(36)])
    assert np.hypot(*truth.transpose(1, 0, 2, 3)).max() > 2
    errors = np.hypot(*(flow.numpy() - truth).transpose(1, 0, 2, 3))[:, FACE]
    assert errors.mean() < 0.025


def test_slow_light_and_flicker_are_not_motion(face):
    clip = make(face, disturbances=Disturbances(light_drift=0.08, flicker=0.03, noise=1.0))
    flow = whole_clip_flow(torch.from_numpy(grey(clip)), reference=6).flow
    assert float(flow.square().sum(1).sqrt()[:, torch.from_numpy(FACE)].mean()) < 0.02


def test_the_number_of_threads_changes_no_bit(smile):
    frames, before = grey(smile), torch.get_num_threads()
    flows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        flows.append(estimate_flow(frames[6], frames[7:], estimator="whole_clip"))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*flows)


def test_two_equal_frames_do_not_move(face):
    frame = torch.from_numpy(cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY))
    result = whole_clip_flow(torch.stack([frame, frame]))
    assert float(result.flow.abs().max()) < 1e-4


@pytest.mark.parametrize("count", [2, 9])
def test_blank_frames_do_not_move(count):
    result = whole_clip_flow(torch.full((count, 64, 64), 40.0))
    assert float(result.flow.abs().max()) < 1e-4
    assert bool(torch.isfinite(result.deviation()).all())


def test_deviation_is_the_error_that_is_made(smile, solved):
    """Of the order of the error where it is given, larger where there is less to see, zero at the reference."""
    deviation = solved.deviation()
    assert deviation.shape == (36, SIDE, SIDE)
    assert float(deviation[6].max()) == 0
    error = distance(solved.flow[20], SIDE * smile.flow(6, 20))
    predicted = deviation[20].numpy()
    ratio = error[FACE].mean() / (np.sqrt(np.pi / 2) * predicted[FACE].mean())
    assert 0.5 < ratio < 2.5
    sure = FACE & (predicted <= np.quantile(predicted[FACE], 0.25))
    unsure = FACE & (predicted >= np.quantile(predicted[FACE], 0.75))
    assert error[sure].mean() < error[unsure].mean()


def test_noise_level_is_the_sensors(face):
    for noise in (1.0, 4.0):
        clip = make(face, disturbances=Disturbances(noise=noise))
        assert whole_clip_flow(torch.from_numpy(grey(clip))).noise == pytest.approx(noise, rel=0.25)


def test_torch_fetches_what_opencv_fetches(smile):
    level = _Level(torch.from_numpy(grey(smile)[:3]), SIDE, 19)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    x, y = (torch.from_numpy(axis + rng.uniform(-3, 3, (3, 1, 1)).astype(np.float32)).flatten(1) for axis in (x, y))
    by_torch = level._fetch_with_torch(x.clone(), y.clone())
    by_opencv, shift_x, _ = level._fetch_with_opencv([torch.eye(3)] * 2, [x, y])
    assert _ROUNDED * float(shift_x.abs().max()) <= 1 / 128 + 1e-5
    inner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inner[8:-8, 8:-8] = True
    gap = (by_torch - by_opencv)[:, inner.flatten()]
    assert float(gap.abs().mean()) < 0.1
    assert torch.isnan(by_torch).sum() == pytest.approx(int(torch.isnan(by_opencv).sum()), rel=0.5)


@pytest.mark.parametrize(
    ("frames", "reference", "message"),
    [
        (torch.zeros(1, 64, 64), 0, "2 or more"),
        (torch.zeros(4, 64, 48), 0, "side"),
        (torch.zeros(4, 16, 16), 0, "32 pixels"),
        (torch.zeros(4, 64, 64), 4, "outside a clip of 4"),
        (torch.full((4, 64, 64), float("nan")), 0, "NaN"),
    ],
)
def test_bad_frames_are_refused(frames, reference, message):
    with pytest.raises(ValueError, match=message):
        whole_clip_flow(frames, reference=reference)
