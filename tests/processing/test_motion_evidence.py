import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from deft_llm.processing.action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from deft_llm.processing.motion_evidence import (
    DIRECTIONS,
    FALSE_ALARMS,
    NO_DIRECTION,
    OVERLOOKED_PART,
    RESPONSE,
    SIGNIFICANT_AT,
    RegionMotion,
    detection_limits,
    direction_of,
    flow_noise,
    format_motion,
    measure_motion,
    octants_apart,
    parse_motion,
    region_courses,
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


def smooth_noise(rng, shape, sigma):
    """Noise with the standard deviation `sigma`, alike over some cells as errors of flow are."""
    fields = rng.normal(size=(*shape, 32, 32))
    fields = gaussian_filter(fields, sigma=(0,) * len(shape) + (1.5, 1.5), mode="wrap")
    return sigma * fields / fields.std()


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_errors_follow_the_noise_of_the_clip(sigma):
    flow = smooth_noise(np.random.default_rng(0), (7, 2), sigma)
    assert flow_noise(flow) == pytest.approx(sigma, rel=0.35)
    errors = [item.standard_error for item in measure_motion(flow)]
    assert all(0.6 * sigma < error < 2.5 * max(sigma, 0.04) for error in errors)


def test_a_region_that_shakes_has_a_larger_error_than_the_others():
    flow = smooth_noise(np.random.default_rng(0), (7, 2), 0.02)
    flow[:, :, ellipse_mask(region_ellipse("cheek", "left"), 32, 32)] += np.resize([0.3, -0.3], (7, 1, 1))
    item = found(flow, "cheek", "left")
    assert item.standard_error > 0.2
    assert not item.significant
    assert found(flow, "cheek", "right").standard_error < 0.06


@pytest.mark.parametrize("shared", [False, True], ids=["errors of every frame", "errors of the onset frame"])
def test_clips_without_motion_stay_silent_at_the_stated_rate(shared):
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(60):
        flow = smooth_noise(rng, (1 if shared else 7, 2), rng.choice([0.02, 0.1, 0.3]))
        alarms.append(any(item.significant for item in measure_motion(np.broadcast_to(flow, (7, 2, 32, 32)))))
    assert np.mean(alarms) <= FALSE_ALARMS


def test_stated_deviations_are_the_errors():
    flow = region_flow("chin", "left", (0, -0.5))
    stated = np.full((3, 32, 32), 0.05)
    stated[:, ellipse_mask(region_ellipse("cheek", "left"), 32, 32)] = 0.3
    items = {(item.region, item.side): item for item in measure_motion(flow, deviation=stated)}
    assert items["cheek", "left"].standard_error == pytest.approx(0.3, rel=0.02)
    # Next to the least error that the fit of the head leaves.
    assert items["cheek", "right"].standard_error == pytest.approx(np.hypot(0.05, 0.04), rel=0.1)
    assert items["chin", "left"].significant
    assert not any(item.significant for item in measure_motion(flow, deviation=4 * stated))
    with pytest.raises(ValueError, match="deviation must have shape"):
        measure_motion(flow, deviation=stated[0])


def test_the_lead_in_raises_the_error_where_nothing_should_move_yet():
    flow = region_flow("chin", "left", (0, -0.5))
    shaking = np.full((8, 2, 32, 32), 0.2) * np.resize([1, -1], (8, 1, 1, 1))
    assert next(item for item in measure_motion(flow) if item.region == "chin").significant
    assert not any(item.significant for item in measure_motion(flow, lead_in=shaking))
    assert measure_motion(flow, lead_in=np.zeros((0, 2, 32, 32))) == measure_motion(flow)


statements = st.builds(
    RegionMotion,
    st.sampled_from(REGIONS),
    st.sampled_from(SIDES),
    st.integers(0, 9999).map(lambda cents: cents / 100),
    st.sampled_from([*DIRECTIONS, NO_DIRECTION]),
    st.integers(0, 100).map(lambda cents: cents / 100),
    st.booleans(),
    st.integers(0, 999).map(lambda cents: cents / 100),
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


@pytest.mark.parametrize(
    ("limit", "response", "lowest", "highest"),
    [("detection_limit", RESPONSE["nose root"], 0.88, 0.92), ("overlooked_limit", 1.0, 0.07, 0.1)],
)
def test_motions_at_the_limits_are_seen_as_often_as_stated(limit, response, lowest, highest):
    item = RegionMotion("nose root", "left", 0.1, "up", 0.9, False, standard_error=0.07)
    errors = np.random.default_rng(0).normal(0, item.standard_error, (2, 100_000))
    seen = np.hypot(response * getattr(item, limit) + errors[0], errors[1]) > SIGNIFICANT_AT * item.standard_error
    assert lowest <= seen.mean() <= highest


@pytest.mark.parametrize("region", REGIONS)
def test_what_is_stated_to_be_overlooked_is_so_in_every_region(region):
    item = RegionMotion(region, "left", 0.1, "up", 0.9, False, standard_error=0.07)
    assert OVERLOOKED_PART * item.detection_limit <= item.overlooked_limit * (1 + 1e-9) < item.detection_limit


def test_the_limits_of_a_clip_are_those_of_the_worse_side():
    stated = np.full((3, 32, 32), 0.05)
    stated[:, ellipse_mask(region_ellipse("cheek", "left"), 32, 32)] = 0.3
    motions = measure_motion(np.zeros((3, 2, 32, 32)), deviation=stated)
    limits = detection_limits(motions)
    assert set(limits) == set(REGIONS)
    assert list(limits.values()) == sorted(limits.values())
    (left,) = (item for item in motions if (item.region, item.side) == ("cheek", "left"))
    assert limits["cheek"] == pytest.approx(left.detection_limit, abs=5e-4)
    assert limits["inner brow"] < 0.3 * limits["cheek"]


def test_without_a_standard_error_there_is_no_limit():
    unknown = RegionMotion("chin", "left", 1.25, "up", 0.9, True)
    assert (unknown.detection_limit, unknown.overlooked_limit, detection_limits([unknown])) == (None, None, {})


def test_sentences_and_rows_without_an_error_are_still_read():
    sentence = (
        "The left chin moves up by 1.25 % of the face's width (concentration 0.90), above the noise of the clip."
    )
    old = {"region": "chin", "side": "left", "magnitude": 1.25, "direction": "up", "concentration": 0.9}
    expected = RegionMotion("chin", "left", 1.25, "up", 0.9, True)
    assert parse_motion(sentence) == [expected] == [RegionMotion(**old, significant=True)]
    assert format_motion([expected]) == sentence


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


def test_courses_are_the_means_that_statements_are_about():
    flow = np.random.default_rng(0).normal(size=(5, 2, 28, 28)).astype(np.float32)
    courses = region_courses(flow)
    assert set(courses) == {(region, side) for region in REGIONS for side in SIDES}
    for motion in measure_motion(flow, minimum_concentration=0):
        course = courses[motion.region, motion.side]
        assert course.shape == (5, 2)
        farthest = course[np.hypot(*course.T).argmax()]
        assert np.hypot(*farthest) == pytest.approx(motion.magnitude)
        assert direction_of(*farthest, motion.side) == motion.direction
