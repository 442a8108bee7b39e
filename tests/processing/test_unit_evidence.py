import numpy as np
import pytest

from deft_llm.processing.unit_evidence import SEEN, apex_frame, seen_units, unit_scores
from deft_llm.processing.unit_patterns import GRID, UNITS_SEEN, random_patterns

COURSE = np.array([0.15, 0.5, 0.85, 1.0, 0.8, 0.4, 0.1])[:, None, None, None]


def clip_of(code, sides=("left", "right"), sample=None, noise=0.0, seed=0):
    """(7, 2, 16, 16): a unit's mean pattern or one of its random patterns, rising and falling by 1 %."""
    patterns = [random_patterns(code, side) for side in sides]
    field = sum(item.mean(0) if sample is None else item[sample] for item in patterns)
    field = field.reshape(2, GRID, GRID) / np.abs(field).max()
    return COURSE * field + np.random.default_rng(seed).normal(0, noise, (7, 2, GRID, GRID))


@pytest.mark.parametrize("code", UNITS_SEEN)
def test_a_planted_unit_is_seen_and_is_the_most_probable(code):
    found = seen_units(clip_of(code, noise=0.05))
    assert found[code] > SEEN
    assert max(found, key=found.get) == code
    assert max(unit_scores(-clip_of(code))[code].values()) < 0


@pytest.mark.parametrize("code", UNITS_SEEN)
def test_faces_differ_and_the_unit_is_still_seen(code):
    seen = [seen_units(clip_of(code, sample=sample))[code] > SEEN for sample in range(20)]
    assert np.mean(seen) >= 0.8


@pytest.mark.parametrize("code", ["AU2", "AU12", "AU15"])
def test_one_side_has_its_own_score(code):
    scores = unit_scores(clip_of(code, sides=["left"]))[code]
    assert scores["left"] > 3 * abs(scores["right"])


def test_left_and_right_are_treated_alike():
    flow = clip_of("AU12", sides=["left"], noise=0.1)
    mirrored = flow[..., ::-1] * np.reshape((-1, 1), (1, 2, 1, 1))
    for code, scores in unit_scores(flow).items():
        turned = unit_scores(mirrored)[code]
        assert turned["both"] == pytest.approx(scores["both"])
        assert (turned["left"], turned["right"]) == pytest.approx((scores["right"], scores["left"]))


def test_noise_is_seldom_taken_for_a_unit():
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 0.1, (60, 7, 2, 6, 6))
    seen = [value >= SEEN for flow in coarse for value in seen_units(np.kron(flow, np.ones((4, 4)))).values()]
    assert np.mean(seen) <= 0.1


def test_a_still_face_shows_nothing():
    found = seen_units(np.zeros((7, 2, 32, 32)))
    assert tuple(found) == UNITS_SEEN
    assert max(found.values()) < 0.1


def test_errors_of_the_flow_lower_the_score():
    flow = clip_of("AU4")
    scores = [
        unit_scores(flow, ("AU4",), deviation=None if level is None else np.full((7, GRID, GRID), level))["AU4"][
            "both"
        ]
        for level in (None, 0.1, 1.0)
    ]
    assert scores[0] > scores[1] > scores[2] > 0


def test_the_apex_is_where_it_should_be_or_where_the_face_moves():
    flow = np.ones((7, 2, 4, 4))
    assert apex_frame(flow) == 3
    assert apex_frame(flow * np.array([0, 0, 0, 0.1, 0.2, 1, 0.2])[:, None, None, None]) == 5
    assert apex_frame(flow[:1]) == 0
