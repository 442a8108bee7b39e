import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import (
    INTENSITIES,
    Clip,
    Disturbances,
    Expression,
    UnitRequest,
    encode_mp4,
    render_clip,
)
from deft_llm.processing.action_units import ACTION_UNITS, get_action_unit
from deft_llm.processing.motion_evidence import measure_motion, octants_apart
from deft_llm.processing.video_reading import open_clip

NOTHING = Disturbances()
TESTABLE = [code for code, unit in ACTION_UNITS.items() if unit.testable]
# The whole displacement and nothing that changes brightness.
MOVING = Disturbances(head_shift=0.03, head_rotation=3, head_scale=0.03, blinks=1.5, gaze=0.006, talking=0.012)


def show(face, *units, disturbances=NOTHING, seed=0, count=32) -> Clip:
    shown = Expression(tuple(UnitRequest(*unit) for unit in units), onset=4, apex=16, offset=28)
    return render_clip(face, [shown], np.random.default_rng(seed), count=count, fps=100, disturbances=disturbances)


@pytest.mark.parametrize(("start", "end"), [(4, 16), (4, 10), (16, 25)])
@pytest.mark.parametrize("disturbances", [NOTHING, MOVING], ids=["expression", "everything"])
def test_the_flow_is_what_moved_the_pixels(face, disturbances, start, end):
    """Frame `end`, fetched back along the flow, is frame `start` to within a grey level."""
    clip = show(face, ("AU4", "both", 0.02), ("AU12", "left", 0.03), disturbances=disturbances)
    flow = clip.flow(start, end) * face.size
    y, x = np.mgrid[0 : face.size, 0 : face.size].astype(np.float32)
    fetched = cv2.remap(clip.frames[end].astype(np.float32), x + flow[0], y + flow[1], cv2.INTER_CUBIC)
    # What came in over the frame's edge was never in it.
    inside = (slice(12, -12), slice(12, -12))
    error = np.abs(fetched - clip.frames[start])[inside].mean()
    before = np.abs(clip.frames[end].astype(float) - clip.frames[start])[inside].mean()
    assert error <= 1.0
    assert before > 1.8 * error


def test_flow_from_the_onset_is_the_closed_form(face):
    """Independent of the class's own code: the sum of bumps at a point, turned and shifted by the head."""
    clip = show(face, ("AU1", "both", 0.02), disturbances=Disturbances(head_shift=0.02, head_rotation=2))
    flow = clip.flow(0, 16, grid=40).astype(np.float64)
    (movement,) = clip.movements
    for row, column in ((8, 16), (9, 24), (20, 20), (30, 5)):
        point = np.array([(column + 0.5) / 40, (row + 0.5) / 40])
        weights = np.array(
            [
                np.exp(-0.5 * (((point[0] - cx) / sx) ** 2 + ((point[1] - cy) / sy) ** 2))
                for cx, cy, sx, sy, *_ in movement.pieces
            ]
        )
        vectors = np.array([piece[4:] for piece in movement.pieces])
        moved = point + weights.max() * (weights @ vectors) / (weights.sum() + 1e-9)
        expected = clip.head[16][:, :2] @ moved + clip.head[16][:, 2] - point
        assert np.hypot(*(flow[:, row, column] - expected)) * face.size < 1e-3


def test_flow_there_and_back_cancels(face):
    clip = show(face, ("AU9", "both", 0.025), disturbances=MOVING)
    there, back = clip.flow(4, 16), clip.flow(16, 4)
    y, x = np.mgrid[0 : face.size, 0 : face.size].astype(np.float32)
    returned = [
        cv2.remap(channel, x + there[0] * face.size, y + there[1] * face.size, cv2.INTER_LINEAR) for channel in back
    ]
    loss = np.hypot(*(there + returned))[15:-15, 15:-15] * face.size
    assert loss.max() < 0.15


@pytest.mark.parametrize("code", TESTABLE)
def test_every_testable_unit_moves_its_region_in_its_direction(code, face):
    clip = show(face, (code, "both", 0.02))
    measured = {(m.region, m.side): m for m in measure_motion(100 * clip.flow(4, 16, grid=32)[None])}
    expected = get_action_unit(code).motions[0]
    for side in ("left", "right"):
        item = measured[expected.region, side]
        assert item.significant
        assert octants_apart(item.direction, expected.phrase) <= 1
        assert item.magnitude <= 2.001


@pytest.mark.parametrize("code", TESTABLE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_one_sided_means_one_side_of_the_subject(code, side, face):
    """The subject's left is the right of the image; what lies near the midline may pull its neighbour along."""
    clip = show(face, (code, side, 0.02))
    strength = np.hypot(*clip.flow(4, 16, grid=64))
    halves = {"right": strength[:, :22].max(), "left": strength[:, 42:].max()}
    other = "left" if side == "right" else "right"
    assert strength.max() > 0.015
    assert halves[other] < 0.03 * strength.max()


def test_without_disturbances_only_the_expression_moves(face):
    clip = show(face, ("AU1", "both", 0.02))
    frames = clip.frames.astype(int)
    np.testing.assert_array_equal(frames[0], frames[4])
    np.testing.assert_array_equal(frames[0], frames[28])
    change = np.abs(frames - frames[0]).sum((1, 2, 3))
    assert int(change.argmax()) == 16
    assert np.abs(frames[16] - frames[0])[100:].max() <= 1


@pytest.mark.parametrize(
    ("disturbance", "moves"),
    [
        ({"head_shift": 0.02}, True),
        ({"head_rotation": 2.0}, True),
        ({"head_scale": 0.02}, True),
        ({"blinks": 5.0}, True),
        ({"gaze": 0.01}, True),
        ({"talking": 0.01}, True),
        ({"light_drift": 0.1}, False),
        ({"flicker": 0.05}, False),
        ({"noise": 3.0}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_disturbance_has_its_own_switch(face, disturbance, moves):
    clip = render_clip(
        face, [], np.random.default_rng(4), count=120, fps=120, disturbances=Disturbances(**disturbance)
    )
    assert np.abs(clip.frames.astype(int) - clip.frames[0]).max() > 2
    moved = max(np.abs(clip.flow(0, t, grid=40)).max() for t in range(0, 120, 4))
    assert (moved > 0.001) == moves
    assert np.abs(clip.flow(0, 30, grid=40, expression_only=True)).max() == 0


@pytest.mark.parametrize("fps", [100, 200])
def test_flicker_flickers_at_laboratory_frame_rates(fps, face):
    clip = render_clip(face, [], np.random.default_rng(0), count=60, fps=fps, disturbances=Disturbances(flicker=0.05))
    brightness = clip.frames.mean((1, 2, 3))
    assert np.ptp(brightness) > 0.03 * brightness.mean()


def test_furrows_are_texture_and_not_motion(face):
    plain, furrowed = (show(face, ("AU4", "both", 0.02), disturbances=Disturbances(furrows=f)) for f in (0.0, 0.3))
    np.testing.assert_array_equal(plain.flow(4, 16), furrowed.flow(4, 16))
    np.testing.assert_array_equal(plain.frames[4], furrowed.frames[4])
    darker = plain.frames[16].astype(int) - furrowed.frames[16]
    assert darker.max() > 5
    assert darker.min() >= -1  # interpolation rings by a level


def test_the_same_seed_gives_the_same_bytes(face):
    clips = [show(face, ("AU12", "left", 0.02), disturbances=MOVING, seed=7) for _ in range(2)]
    encoded = {encode_mp4(clip) for clip in clips for _ in range(5)}
    assert len(encoded) == 1


def test_compression_keeps_the_frames_at_good_quality_and_not_at_bad(face):
    errors = []
    for crf in (10, 35):
        clip = show(face, ("AU4", "both", 0.02), disturbances=Disturbances(noise=1.5, crf=crf))
        frames = open_clip(encode_mp4(clip)).frames(range(len(clip.frames)))
        errors.append(np.abs(frames.astype(int) - clip.frames).mean())
    assert errors[0] < 2 < errors[1]


def test_any_frame_rate_from_25_to_500_and_no_other(face):
    for fps in (25, 500):
        clip = render_clip(face, [], np.random.default_rng(0), count=4, fps=fps)
        assert open_clip(encode_mp4(clip)).metadata.fps == pytest.approx(fps, rel=0.01)
    for fps in (24, 501):
        with pytest.raises(ValueError, match="fps"):
            render_clip(face, [], np.random.default_rng(0), count=4, fps=fps)


def test_intensities_are_letters_of_amplitude():
    rng = np.random.default_rng(0)
    for letter, (low, high) in INTENSITIES.items():
        unit = UnitRequest.at_intensity("AU4", "both", letter, rng)
        assert low <= unit.amplitude <= high
        assert unit.intensity == letter
    with pytest.raises(ValueError, match="'Z'"):
        UnitRequest.at_intensity("AU4", "both", "Z", rng)


def test_contradictory_units_are_rendered_and_recorded(face):
    clip = show(face, ("AU12", "left", 0.03), ("AU15", "both", 0.03))
    assert clip.truth()["expressions"][0]["opposed"] == ["AU12+AU15"]
    assert show(face, ("AU12", "left", 0.03), ("AU15", "right", 0.03)).truth()["expressions"][0]["opposed"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("AU99", "both", 0.01), "AU99"),
        (("AU31", "both", 0.01), "no motion in the image plane"),
        (("AU4", "top", 0.01), "'top'"),
        (("AU4", "both", 0.5), "amplitude"),
    ],
)
def test_requests_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UnitRequest(*arguments)


@pytest.mark.parametrize("frames", [(4, 4, 10), (-1, 5, 10), (0, 5, 30)])
def test_expressions_outside_the_clip_are_refused(face, frames):
    shown = Expression((UnitRequest("AU4", "both", 0.01),), *frames)
    with pytest.raises(ValueError, match="onset < apex < offset < 30"):
        render_clip(face, [shown], np.random.default_rng(0), count=30)
