import sys

import cv2
import numpy as np
import pytest
import torch

from deft_llm.processing import optical_flow
from deft_llm.processing.optical_flow import estimate_flow
from deft_llm.processing.whole_clip_flow import whole_clip_flow

SIDE = 128
# TV-L1 and RAFT need packages of their own; their own tests are below.
ESTIMATORS = ("whole_clip", "lucas_kanade", "farneback", "dis")


@pytest.fixture(scope="module")
def grey(face):
    return cv2.cvtColor(cv2.resize(face.image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def moved(image, field):
    """The image after its points have moved by `field` (2, H, W), for fields that vary slowly."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    return cv2.remap(image, x - field[0], y - field[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def bump(cx, cy, dx, dy, sigma=12):
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    weight = np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / sigma**2)
    return np.stack([dx * weight, dy * weight])


def endpoint_error(flow, truth):
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    inside = (x / 0.42) ** 2 + (y / 0.48) ** 2 < 1
    return float(np.hypot(*(flow - truth))[inside].mean())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sign_axis_and_unit(estimator, grey):
    frames = np.stack(
        [
            moved(grey, np.full((2, SIDE, SIDE), 0, np.float32) + shift)
            for shift in (np.float32([[[2]], [[0]]]), np.float32([[[0]], [[-3]]]))
        ]
    )
    flow = estimate_flow(grey, frames, estimator=estimator)
    assert flow.shape == (2, 2, SIDE, SIDE)
    middle = np.median(flow[:, :, 30:-30, 30:-30], axis=(2, 3))
    np.testing.assert_allclose(middle, [[2, 0], [0, -3]], atol=0.2)


@pytest.mark.parametrize("peak", [0.8, 2.0])
def test_subpixel_motion_under_noise(peak, grey):
    """From two frames alone, at one grey level of noise, ours say more than the common estimators say."""
    rng = np.random.default_rng(0)
    truth = bump(64, 40, 0.6 * peak, 0.8 * peak) + bump(64, 96, -0.8 * peak, 0.6 * peak)
    noise = rng.normal(0, 1, (2, SIDE, SIDE)).astype(np.float32)
    pair = grey + noise[0], (moved(grey, truth) + noise[1])[None]
    errors = {name: endpoint_error(estimate_flow(*pair, estimator=name)[0], truth) for name in ESTIMATORS}
    errors["zero"] = endpoint_error(np.zeros_like(truth), truth)
    assert max(errors["whole_clip"], errors["lucas_kanade"]) < min(errors["dis"], errors["farneback"]), errors


def test_slow_light_is_not_motion(grey):
    flow = estimate_flow(grey, (1.08 * grey + 4)[None])[0]
    assert np.median(np.hypot(*flow)) < 0.05


def test_light_that_changes_from_place_to_place_is_hardly_motion(grey):
    """A lamp at the side: one cheek gets 13 % darker and the other 15 % brighter."""
    gain = np.float32(2.0 ** np.linspace(-0.2, 0.2, SIDE))
    truth = bump(64, 40, 0.6, 0.8)
    flow = estimate_flow(grey, (gain * moved(grey, truth))[None], estimator="lucas_kanade")[0]
    assert endpoint_error(flow, truth) < 0.1


def test_unknown_estimator_is_named(grey):
    with pytest.raises(ValueError, match=r"'magic'.*whole_clip"):
        estimate_flow(grey, grey[None], estimator="magic")


@pytest.mark.skipif(hasattr(cv2, "optflow"), reason="OpenCV's contrib modules are installed")
def test_tvl1_without_contrib_says_what_to_install(grey):
    with pytest.raises(ImportError, match="opencv-contrib-python-headless"):
        estimate_flow(grey, grey[None], estimator="tvl1")


@pytest.mark.skipif(not hasattr(cv2, "optflow"), reason="needs opencv-contrib-python-headless")
def test_tvl1_with_contrib(grey):
    flow = estimate_flow(grey, moved(grey, np.full((2, SIDE, SIDE), 1.5, np.float32))[None], estimator="tvl1")[0]
    assert np.median(flow[:, 30:-30, 30:-30]) == pytest.approx(1.5, abs=0.2)


def test_raft_is_fed_and_read_in_its_own_scale(grey, monkeypatch):
    """A stand-in for the network: it finds the shift of the darkest row and column, in the pixels it is shown."""

    def network(first, second):
        assert first.shape == second.shape == (1, 3, 256, 256)
        assert float(first.abs().max()) <= 1
        flow = torch.zeros(1, 2, 256, 256)
        for channel, axis in enumerate((2, 3)):
            places = [image[0].mean(0).mean(axis - 2).argmin() for image in (first, second)]
            flow[0, channel] = float(places[1] - places[0])
        return [torch.full_like(flow, 99), flow]

    monkeypatch.setattr(optical_flow, "_raft", lambda: network)
    images = np.full((2, SIDE, SIDE), 200, np.float32)
    images[0, 40:44], images[0, :, 60:64] = 20, 20
    images[1, 43:47], images[1, :, 65:69] = 20, 20
    flow = estimate_flow(images[0], images[1:], estimator="raft")
    np.testing.assert_allclose(flow.mean((2, 3)), [[5, 3]], atol=0.51)


def test_raft_without_torchvision_says_so(grey, monkeypatch):
    optical_flow._raft.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(ImportError, match="torchvision"):
        estimate_flow(grey, grey[None], estimator="raft")


def clip_of(image, fields, noise=1.0):
    rng = np.random.default_rng(0)
    frames = [moved(image, np.float32(field)) + rng.normal(0, noise, image.shape) for field in fields]
    return np.float32(image + rng.normal(0, noise, image.shape)), np.float32(frames)


def test_a_face_that_moves_in_many_ways_is_measured_by_windows(grey):
    """Every place moves at another time, so that a few common fields cannot describe the clip."""
    times = np.linspace(0, 1, 14)[1:]
    places = [(cx, cy) for cy in (36, 64, 92) for cx in (36, 64, 92)]
    courses = [np.exp(-0.5 * ((times - when) / 0.05) ** 2) for when in np.linspace(0.1, 0.9, len(places))]
    fields = [
        sum(bump(*place, 0.0, 3.0 * course[index]) for place, course in zip(places, courses, strict=True))
        for index in range(len(times))
    ]
    reference, frames = clip_of(grey.astype(np.float32), fields)
    inside = (slice(None), slice(None), slice(24, -24), slice(24, -24))
    model = whole_clip_flow(torch.from_numpy(np.concatenate([reference[None], frames]))).flow[1:].numpy()
    errors = [np.abs(flow - np.stack(fields))[inside].mean() for flow in (model, estimate_flow(reference, frames))]
    assert errors[1] < 0.75 * errors[0]


def test_a_face_that_moves_in_one_way_is_measured_by_the_model(grey):
    fields = [share * bump(64, 40, 0.0, -1.0) for share in np.sin(np.linspace(0.2, 3.0, 24))]
    reference, frames = clip_of(grey.astype(np.float32), fields, noise=2.0)
    model = whole_clip_flow(torch.from_numpy(np.concatenate([reference[None], frames]))).flow[1:].numpy()
    np.testing.assert_array_equal(estimate_flow(reference, frames), model)


@pytest.mark.parametrize("estimator", ["whole_clip", "lucas_kanade"])
def test_only_the_wanted_frames_are_returned(grey, estimator):
    fields = [share * bump(64, 40, 0.0, -1.0) for share in np.linspace(0, 1, 12)]
    reference, frames = clip_of(grey.astype(np.float32), fields, noise=2.0)
    every = estimate_flow(reference, frames, estimator=estimator)
    np.testing.assert_array_equal(
        estimate_flow(reference, frames, estimator=estimator, wanted=[4, 11]), every[[4, 11]]
    )
