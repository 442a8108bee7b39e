import numpy as np
import pytest

from deft_llm.processing.action_units import ACTION_UNITS
from deft_llm.processing.unit_patterns import (
    GRID,
    UNITS_SEEN,
    matched_filters,
    noise_covariance,
    on_grid,
    parts_of,
    random_patterns,
    remainder_operators,
)


@pytest.mark.parametrize("size", [8, 16, 28, 32, 50])
def test_averaging_keeps_a_constant_field(size):
    np.testing.assert_allclose(on_grid(np.full((3, 2, size, size + 4), 2.5)), 2.5)


def test_every_pattern_starts_with_the_region_that_names_the_unit():
    for code in UNITS_SEEN:
        assert parts_of(code)[0] == ACTION_UNITS[code].motions[0]


@pytest.mark.parametrize("code", UNITS_SEEN)
def test_sides_are_mirrored(code):
    right, left = (random_patterns(code, side).reshape(-1, 2, GRID, GRID) for side in ("right", "left"))
    np.testing.assert_allclose(left, right[..., ::-1] * np.reshape((-1, 1), (2, 1, 1)))


def test_a_filter_passes_noise_at_no_more_than_unit_scale():
    for weights in matched_filters("AU4", "both").values():
        assert 0.3 < weights @ noise_covariance() @ weights <= 1


def test_the_strongest_unit_explains_what_it_moves():
    """A lip corner that is pulled up drags the upper lip and the fold along."""
    pulled = sum(random_patterns("AU12", side).mean(0) for side in ("right", "left"))
    filters = matched_filters("AU10", "both")
    assert abs(filters["AU12"] @ pulled) < 0.3 * abs(filters[None] @ pulled) + 0.1
    lifted = sum(random_patterns("AU10", side).mean(0) for side in ("right", "left"))
    assert filters["AU12"] @ lifted > 0


def test_motion_of_the_head_and_of_units_is_no_error():
    errors_of, head_of, factor = remainder_operators()
    shift = np.ones(2 * GRID**2)
    unit = sum(random_patterns("AU12", side).mean(0) for side in ("right", "left"))
    assert np.linalg.norm(errors_of @ shift) < 0.05 * np.linalg.norm(shift)
    assert np.linalg.norm(head_of @ shift - shift) < 0.2 * np.linalg.norm(shift)
    assert np.linalg.norm(errors_of @ unit) < 0.3 * np.linalg.norm(unit)
    assert np.linalg.norm(head_of @ unit) < 0.3 * np.linalg.norm(unit)
    assert factor > 1
