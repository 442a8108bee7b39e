import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deft_llm.processing.action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from deft_llm.processing.motion_evidence import (
    DIRECTIONS,
    NO_DIRECTION,
    RegionMotion,
    format_motion,
    measure_motion,
    noise_floor,
    octants_apart,
    parse_motion,
)


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
    assert noise_floor(quiet) == pytest.approx(0.12)
    assert noise_floor(loud) == pytest.approx(4 * 0.4, rel=0.1)
    weak = region_flow("chin", "left", (0, -0.5), 0.4)
    assert not found(weak, "chin", "left").significant


def test_the_lead_in_raises_the_floor_where_nothing_should_move_yet():
    flow = region_flow("chin", "left", (0, -0.5))
    shaking = np.full((8, 2, 32, 32), 0.2) * np.resize([1, -1], (8, 1, 1, 1))
    assert next(item for item in measure_motion(flow) if item.region == "chin").significant
    assert not any(item.significant for item in measure_motion(flow, lead_in=shaking))
    assert noise_floor(flow, lead_in=np.zeros((0, 2, 32, 32))) == noise_floor(flow)


statements = st.builds(
    RegionMotion,
    st.sampled_from(REGIONS),
    st.sampled_from(SIDES),
    st.integers(0, 9999).map(lambda cents: cents / 100),
    st.sampled_from([*DIRECTIONS, NO_DIRECTION]),
    st.integers(0, 100).map(lambda cents: cents / 100),
    st.booleans(),
)


@given(st.lists(statements, max_size=5))
def test_statements_are_read_back_from_sentences_and_from_json(motions):
    assert parse_motion(format_motion(motions)) == motions
    assert [RegionMotion(**item) for item in json.loads(json.dumps([asdict(item) for item in motions]))] == motions


@pytest.mark.parametrize(
    ("old", "new"),
    [("moves up", "does not move up"), ("left", "middle"), ("chin", "ear"), ("up", "upwards"), (".", "")],
)
def test_a_changed_sentence_is_not_read_as_another_fact(old, new):
    text = format_motion([RegionMotion("chin", "left", 1.25, "up", 0.9, True)])
    with pytest.raises(ValueError, match="Not a statement"):
        parse_motion(text.replace(old, new, 1))


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
