import numpy as np
import pytest

from deft_llm.evaluation.baselines.clip_images import (
    apex_images,
    dynamic_flows,
    dynamic_images,
    onset_and_apex_images,
    rank_weights,
)
from tests.evaluation.baselines.moving_rows import filmed_rows, moving_rows


@pytest.fixture(scope="module")
def filmed():
    return filmed_rows(3)


def test_the_apex_frame_is_read_in_grey_and_the_pair_in_colour(filmed):
    apex = apex_images(filmed, 48)
    pairs = onset_and_apex_images(filmed, 48)
    assert (apex.shape, apex.dtype, pairs.shape, pairs.dtype) == ((3, 1, 48, 48), np.uint8, (3, 6, 48, 48), np.uint8)
    change = pairs[2, 3:].astype(int) - pairs[2, :3]
    assert change[:, 20:28, 5:13].mean() > 110  # brightened by 130 between onset and apex
    assert abs(change[:, 30:, 30:]).mean() < 8
    assert apex[2, 0, 20:28, 5:13].mean() > apex[1, 0, 20:28, 5:13].mean() + 80


def test_the_weights_of_a_dynamic_image():
    # Σ over i from n to 3 of (2i − 3) / i
    assert rank_weights(3) == pytest.approx([-1 + 1 / 2 + 1, 1 / 2 + 1, 1])
    assert rank_weights(1) == pytest.approx([1])


def test_a_dynamic_image_shows_what_brightens(filmed):
    images = dynamic_images(filmed, 48)
    assert (images.shape, images.dtype) == ((3, 3, 48, 48), np.uint8)
    assert (images.min((1, 2, 3)) == 0).all()
    assert (images.max((1, 2, 3)) == 255).all()
    assert images[2, :, 20:28, 5:13].mean() > images[2, :, 30:, 30:].mean() + 60


def test_dynamic_flow_sums_the_fields_and_keeps_zero():
    row = moving_rows(1)[0]
    still = {**row, "flow": np.zeros((3, 2, 8, 8))}
    image, nothing = dynamic_flows([{**row, "flow": np.float32(row["flow"])[:, :, :8, :8]}, still], 8, fields=3)
    weights = rank_weights(4)[1:]
    total = sum(weight * np.float32(field)[:, :8, :8] for weight, field in zip(weights, row["flow"], strict=True))
    total -= np.median(total, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(image[:2], total / abs(total).max(), rtol=1e-4, atol=1e-5)
    assert not nothing.any()
    with pytest.raises(ValueError, match=r"casme2/sub00/.* has 3 flow fields, and other clips have 7"):
        dynamic_flows([row], 8, fields=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": None}, "has no video, which this baseline requires. Use its flow variant"),
        ({"apex": None}, "has no apex frame"),
        ({"offset": 99}, "99"),
        ({"video": {"bytes": b"no film", "path": None}}, "video"),
    ],
)
def test_what_cannot_be_read_names_the_clip(filmed, change, message):
    with pytest.raises(ValueError, match=rf"Clip casme2/sub01/EP01_positive/46.*{message}"):
        apex_images([filmed[1] | change], 16)
