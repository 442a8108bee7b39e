import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets import synthetic
from deft_llm.hub_datasets.synthetic import UnitRequest, encode_mp4, photograph, render_clip, render_face
from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.motion_evidence import measure_motion
from deft_llm.processing.video_reading import open_clip

STILL_CAMERA = synthetic.Disturbances(head_shift=0, head_rotation=0, light_drift=0, noise=0, furrows=0)


def test_a_seed_is_a_face():
    first, again, other = (render_face(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert np.abs(first.image - other.image).mean() > 5


def test_the_same_seed_gives_the_same_bytes(face):
    units = [UnitRequest("AU12", "left", 0.02)]
    clips = [render_clip(face, units, np.random.default_rng(7)) for _ in range(2)]
    assert encode_mp4(clips[0]) == encode_mp4(clips[1])


def test_without_disturbances_only_the_expression_moves(face):
    clip = render_clip(face, [UnitRequest("AU1", "both", 0.02)], np.random.default_rng(0), disturbances=STILL_CAMERA)
    frames = clip.frames.astype(int)
    np.testing.assert_array_equal(frames[0], frames[clip.onset])
    np.testing.assert_array_equal(frames[0], frames[-1])
    change = np.abs(frames - frames[0]).sum((1, 2, 3))
    assert int(change.argmax()) == clip.apex
    lower_half = np.abs(frames[clip.apex] - frames[0])[100:]
    assert lower_half.max() <= 1


@pytest.mark.parametrize("code", synthetic.UNITS)
def test_every_unit_moves_its_region_in_its_direction(code, face):
    from deft_llm.processing.action_units import get_action_unit

    clip = render_clip(face, [UnitRequest(code, "both", 0.02)], np.random.default_rng(0))
    moved = {(item.region, item.side): item for item in measure_motion(100 * clip.displacement[None, :, ::6, ::6])}
    expected = get_action_unit(code).motions[0]
    for side in ("left", "right"):
        item = moved[expected.region, side]
        assert item.direction == expected.phrase
        assert 0.8 < item.magnitude <= 2.001


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_sided_means_one_side_of_the_subject(side, face):
    """The subject's left is the right of the image."""
    clip = render_clip(face, [UnitRequest("AU12", side, 0.02)], np.random.default_rng(0), disturbances=STILL_CAMERA)
    change = np.abs(clip.frames[clip.apex].astype(int) - clip.frames[0]).sum(-1)
    halves = {"right": change[:, :70].sum(), "left": change[:, 90:].sum()}
    other = "left" if side == "right" else "right"
    assert halves[side] > 20 * max(halves[other], 1)


def test_compression_keeps_the_frames(brow_clip):
    frames = open_clip(encode_mp4(brow_clip)).frames(range(len(brow_clip.frames)))
    assert np.abs(frames.astype(int) - brow_clip.frames).mean() < 2.5


def test_a_photograph_is_brought_to_the_canonical_crop():
    image = np.full((300, 300, 3), 40, np.uint8)
    points = {name: (60 + 160 * x, 50 + 160 * y) for name, (x, y) in CANONICAL_LANDMARKS.items()}
    for point in points.values():
        cv2.circle(image, tuple(round(value) for value in point), 4, (250, 250, 250), -1)
    crop = photograph(image, list(points.values())).image
    for x, y in CANONICAL_LANDMARKS.values():
        assert crop[round(y * synthetic.CANVAS), round(x * synthetic.CANVAS)].min() > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("AU99", "both", 0.01), "AU99"), (("AU4", "top", 0.01), "'top'"), (("AU4", "both", 0.5), "amplitude")],
)
def test_requests_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnitRequest(*arguments)
