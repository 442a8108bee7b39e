import numpy as np
import pytest

from deft_llm.processing.action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from deft_llm.processing.motion_evidence import DIRECTIONS, NO_DIRECTION, measure_motion, noise_floor, octants_apart


def region_flow(region, side, vector, noise=0.0):
    flow = np.random.default_rng(0).normal(0, noise, (3, 2, 32, 32)) if noise else np.zeros((3, 2, 32, 32))
    flow[1][:, ellipse_mask(region_ellipse(region, side), 32, 32)] += np.reshape(vector, (2, 1))
    return flow


def found(flow, region, side):
    return next(item for item in measure_motion(flow) if (item.region, item.side) == (region, side))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("octant", range(8))
def test_directions_are_anatomical(octant, side):
    """Lateral is away from the midline on both sides; the octants run clockwise from it on the subject's left."""
    angle = np.radians(45 * octant)
    lateral, down = np.cos(angle), np.sin(angle)
    vector = (lateral if side == "left" else -lateral, down)
    item = found(region_flow("mouth corner", side, vector), "mouth corner", side)
    assert item.direction == DIRECTIONS[octant]
    assert item.magnitude == pytest.approx(1.0, abs=1e-5)
    assert item.concentration == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("region", REGIONS)
def test_only_the_moving_region_is_significant(region):
    motions = measure_motion(region_flow(region, "left", (0, -1.0)))
    assert (motions[0].region, motions[0].side) == (region, "left")
    opposite = [item for item in motions if item.side == "right"]
    assert not any(item.significant for item in opposite)


def test_scattered_vectors_have_no_direction():
    flow = region_flow("cheek", "left", (0, 0))
    cells = ellipse_mask(region_ellipse("cheek", "left"), 32, 32)
    signs = np.where(np.arange(cells.sum()) % 2, 1.0, -0.9)
    flow[1, 0][cells] = 2 * signs
    assert found(flow, "cheek", "left").direction == NO_DIRECTION


def test_the_floor_follows_the_noise_of_the_clip():
    quiet, loud = region_flow("chin", "left", (0, 0), 0.01), region_flow("chin", "left", (0, 0), 0.4)
    assert noise_floor(quiet) == pytest.approx(0.30)
    assert noise_floor(loud) == pytest.approx(4 * 0.4, rel=0.1)
    weak = region_flow("chin", "left", (0, -0.5), 0.4)
    assert not found(weak, "chin", "left").significant


def test_octants_apart():
    assert octants_apart("up", "up") == 0
    assert octants_apart("up", "up and laterally") == octants_apart("laterally", "up and laterally") == 1
    assert octants_apart("up", "down") == 4
    assert octants_apart("up", NO_DIRECTION) is None


@pytest.mark.parametrize(
    ("flow", "message"), [(np.zeros((2, 32, 32)), "shape"), (np.full((1, 2, 8, 8), np.nan), "NaN")]
)
def test_bad_flow_is_refused(flow, message):
    with pytest.raises(ValueError, match=message):
        measure_motion(flow)
