import cv2
import numpy as np
import pytest

from deft_llm.processing.action_units import stable_mask
from deft_llm.processing.optical_flow import FLOW_ESTIMATORS, estimate_flow, remove_head_motion

SIDE = 128


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


@pytest.mark.parametrize("estimator", list(FLOW_ESTIMATORS))
def test_sign_axis_and_unit(estimator, grey):
    frames = np.stack([moved(grey, np.full((2, SIDE, SIDE), 0, np.float32) + shift) for shift in
                       (np.float32([[[2]], [[0]]]), np.float32([[[0]], [[-3]]]))])  # fmt: skip
    flow = estimate_flow(grey, frames, estimator=estimator)
    assert flow.shape == (2, 2, SIDE, SIDE)
    middle = np.median(flow[:, :, 30:-30, 30:-30], axis=(2, 3))
    np.testing.assert_allclose(middle, [[2, 0], [0, -3]], atol=0.2)


@pytest.mark.parametrize("peak", [0.8, 2.0])
def test_subpixel_motion_under_noise(peak, grey):
    """At one grey level of noise it says more than "nothing moved" and more than the common estimators say."""
    rng = np.random.default_rng(0)
    truth = bump(64, 40, 0.6 * peak, 0.8 * peak) + bump(64, 96, -0.8 * peak, 0.6 * peak)
    noise = rng.normal(0, 1, (2, SIDE, SIDE)).astype(np.float32)
    pair = grey + noise[0], (moved(grey, truth) + noise[1])[None]
    errors = {name: endpoint_error(estimate_flow(*pair, estimator=name)[0], truth) for name in FLOW_ESTIMATORS}
    errors["zero"] = endpoint_error(np.zeros_like(truth), truth)
    assert min(errors, key=errors.get) == "lucas_kanade", errors


def test_slow_light_is_not_motion(grey):
    flow = estimate_flow(grey, (1.08 * grey + 4)[None])[0]
    assert np.median(np.hypot(*flow)) < 0.05


def test_unknown_estimator_is_named(grey):
    with pytest.raises(ValueError, match=r"'magic'.*lucas_kanade"):
        estimate_flow(grey, grey[None], estimator="magic")


def test_head_motion_is_removed_and_the_expression_stays():
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - SIDE / 2
    angle, scale = np.radians(3), 1.03
    head = np.stack([scale * np.cos(angle) * x - scale * np.sin(angle) * y - x + 3.8,
                     scale * np.sin(angle) * x + scale * np.cos(angle) * y - y - 2.0])  # fmt: skip
    expression = bump(45, 97, 0, -1.5, sigma=7)
    flow = np.float32(head + expression)[None]
    # One stable region is occupied by something that moves on its own, as a blinking lid would.
    flow[0, :, 36:52, 2:12] += 4
    cleaned = remove_head_motion(flow, stable_mask(SIDE, SIDE))[0]
    cleaned[:, 36:52, 2:12] = 0
    assert np.hypot(*(cleaned - expression)).max() < 0.02
