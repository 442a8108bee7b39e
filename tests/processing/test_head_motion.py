"""A head's pose in every frame: found where it is known, refused where it cannot be, and undone."""

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.turning import HeadPath
from deft_llm.processing.action_units import region_ellipse
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.head_motion import (
    MOST_TURN,
    STILL,
    HeadPose,
    HeadTracker,
    depth_error,
    remove_rigid_motion,
    rigid_motion,
    share_of_head,
    warp_head_back,
)
from deft_llm.processing.region_tracking import TRACKED_REGIONS
from deft_llm.processing.unit_patterns import GRID, random_patterns

QUIET = Disturbances(noise=1.5)
SIDE = 160


def path_to(yaw=0.0, pitch=0.0, roll=0.0, shift=(0.0, 0.0, 0.0), count=9):
    """A head that goes evenly from rest to that place."""
    share = np.linspace(0, 1, count)[:, None]
    return HeadPath(share * (yaw, pitch, roll), share * shift, distance=4.0)


def turned(face, path, expressions=()):
    clip = render_clip(
        face, list(expressions), np.random.default_rng(0), count=len(path), disturbances=QUIET, path=path
    )
    return clip, np.float32(clip.frames.mean(-1))


def poses_of(frames):
    tracker = HeadTracker(frames[0], crop_transform(SIDE, SIDE))
    return [STILL, *map(tracker.follow, frames[1:])]


@pytest.mark.parametrize(
    "place",
    [{"yaw": 8}, {"pitch": -6}, {"roll": 10}, {"shift": (0.08, -0.05, 0)}, {"yaw": -5, "pitch": 5, "roll": 4}],
    ids=str,
)
def test_the_pose_of_a_head_in_space_is_found(face, place):
    path = path_to(**place)
    clip, frames = turned(face, path)
    poses = poses_of(frames)
    assert all(pose.why_not() is None for pose in poses)
    out_of_plane = np.hypot(place.get("yaw", 0), place.get("pitch", 0))
    assert poses[-1].turn == pytest.approx(out_of_plane, abs=1.6)  # a face beside the lens is seen from its side
    assert poses[-1].roll == pytest.approx(place.get("roll", 0), abs=0.8)
    # Where every point of the face went, to half a pixel of the frame in the middle of the face.
    middle = (slice(None), slice(16, 48), slice(16, 48))
    found, true = rigid_motion(poses[-1], 64)[middle], clip.flow(0, 8, grid=64)[middle]
    assert np.hypot(*(found - true)).mean() < 0.5 / SIDE


def test_an_expression_is_not_taken_for_a_turn(face):
    shown = Expression((UnitRequest("AU12", "both", 0.03), UnitRequest("AU4", "both", 0.02)), 0, 8, 16)
    _, frames = turned(face, path_to(count=17), [shown])
    assert max(pose.turn for pose in poses_of(frames)) < 1.5


def test_what_leaves_the_range_says_why(face):
    _, frames = turned(face, path_to(yaw=14.5, count=15))
    assert poses_of(frames)[-1].why_not() == "the head turns too far"
    _, frames = turned(face, path_to(shift=(0.3, 0, 0), count=3))
    assert poses_of(frames)[1].why_not() == "the head moves too fast for the frame rate"
    away = np.concatenate([frames[:1], np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE)).astype(np.float32)])
    assert "cannot be followed" in poses_of(away)[-1].why_not()
    near = HeadPose(np.eye(3), 1.4, np.zeros(2))
    assert "too near" in near.why_not()
    assert "border" in HeadPose(np.eye(3), 1.0, np.zeros(2), hidden=0.2).why_not()
    assert STILL.why_not() is None


def test_a_head_that_comes_back_is_found_again(face):
    _, frames = turned(face, path_to(yaw=3))
    gone = np.full((4, SIDE, SIDE), 90, np.float32)
    poses = poses_of(np.concatenate([frames, gone, frames[-3:]]))
    usable = [pose.why_not() is None for pose in poses]
    assert usable[:9] == [True] * 9
    assert not any(usable[9:13])
    assert usable[-2:] == [True, True]


def test_warped_back_the_head_stands_still(face):
    """What is left between the crops is a small part of the head's motion, and the expression stays."""
    transform = crop_transform(SIDE, SIDE)
    _, frames = turned(face, path_to(yaw=7, pitch=3))
    pose = poses_of(frames)[-1]
    first, last, back = (
        warp_head_back(frame, transform, one, 96)[24:72, 24:72]
        for frame, one in ((frames[0], STILL), (frames[-1], STILL), (frames[-1], pose))
    )
    assert np.abs(back - first).mean() < 0.4 * np.abs(last - first).mean()


def test_small_rigid_motion_is_removed_and_the_expression_is_not():
    grid = 32
    pose = HeadPose(np.eye(3), 1.002, np.array([0.004, -0.003]))
    y, x = np.mgrid[0:grid, 0:grid] / grid
    brows = np.exp(-(((x - 0.4) / 0.08) ** 2) - ((y - 0.2) / 0.06) ** 2)
    expression = np.stack([0 * brows, -1.0 * brows])
    flow = np.stack([100 * rigid_motion(pose, grid) + expression, expression])
    left, error = remove_rigid_motion(flow)
    np.testing.assert_allclose(left[0], left[1], atol=0.01)
    assert left[0, 1].min() == pytest.approx(-1.0, abs=0.08)
    assert np.abs(left[0][:, 20:, 8:24]).max() < 0.05
    assert error.shape == (2, grid, grid)
    assert error[:, 8:24, 8:24].max() < 0.05


def test_where_the_whole_face_moves_by_itself_the_head_is_less_certain():
    noise = np.random.default_rng(0).normal(0, 0.02, (2, 32, 32))
    talking = sum(shown(code, 1, 1.0) for code in ("AU4", "AU6", "AU12", "AU26")) + noise
    _, (quiet, busy) = remove_rigid_motion(np.stack([noise, talking]))
    assert busy[4:28, 4:28].mean() > 2 * quiet[4:28, 4:28].mean()


def shown(code, number, strength):
    """One of the random patterns of both halves of a unit, on a grid of 32 cells."""
    field = sum(random_patterns(code, side)[number] for side in ("left", "right")).reshape(2, GRID, GRID)
    return strength * np.stack([cv2.resize(axis, (32, 32), interpolation=cv2.INTER_CUBIC) for axis in field])


@pytest.mark.parametrize("number", [0, 20, 40])
def test_what_the_head_does_is_found_alike_with_and_without_an_expression(number):
    """On a talking face, a brow that rises as well changes little in what is taken for motion of the head."""
    talking = [shown("AU26", number, 1.2), shown("AU12", number + 3, 0.7), shown("AU6", number + 5, 0.5)]
    noise = [cv2.GaussianBlur(axis, (0, 0), 2) for axis in np.random.default_rng(number).normal(0, 0.1, (2, 32, 32))]
    pose = HeadPose(np.eye(3), 1.003, np.array([0.006, -0.004]))
    before = sum(talking) + np.stack(noise) + 100 * rigid_motion(pose, 32)
    brows = shown("AU1", number + 11, 0.4)
    left, _ = remove_rigid_motion(np.stack([before, before + brows]))
    apart = np.hypot(*(left[1] - left[0] - brows))[4:28, 4:28]
    assert apart.mean() < 0.05
    assert apart.mean() < 0.6 * np.hypot(*brows)[4:28, 4:28].mean()


@pytest.mark.parametrize("code", ["AU2", "AU4"])
def test_the_stated_error_covers_what_is_taken_for_the_head(code):
    """The fit may take a part of a brow for the head, so that the rest of the face seems to move."""
    pose = HeadPose(np.eye(3), 1.003, np.array([0.006, -0.004]))
    rngs = map(np.random.default_rng, range(12))
    noises = [
        np.stack([cv2.GaussianBlur(axis, (0, 0), 2) for axis in rng.normal(0, 0.1, (2, 32, 32))]) for rng in rngs
    ]
    skin = np.stack([shown(code, number, 1.2) + noise for number, noise in enumerate(noises)])
    left, error = remove_rigid_motion(skin + 100 * rigid_motion(pose, 32))
    wrong = np.sqrt(np.square(left - skin).mean(1))
    inside = np.s_[:, 4:28, 4:28]
    assert (wrong[inside].mean((1, 2)) < 2 * error[inside].mean((1, 2))).all()


def test_a_wrong_depth_is_an_error_that_grows_with_the_turn():
    turn = np.radians(6.0)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    pose = HeadPose(rotation, 1.0, np.zeros(2))
    assert pose.turn == pytest.approx(6.0)
    assert depth_error(STILL) == 0
    assert 0.05 < depth_error(pose) < 0.3
    assert pose.range_used == pytest.approx(6.0 / MOST_TURN)


def test_the_face_is_placed_anew_where_the_head_went(face):
    transform = crop_transform(SIDE, SIDE)
    _, frames = turned(face, path_to(roll=8, shift=(0.06, 0.02, 0)))
    pose = poses_of(frames)[-1]
    crops = [
        np.float32(warp_head_back(frames[-1], moved, STILL, 64))[16:48, 16:48]
        for moved in (transform, pose.placed(transform))
    ]
    first = warp_head_back(frames[0], transform, STILL, 64)[16:48, 16:48]
    assert np.abs(crops[1] - first).mean() < 0.4 * np.abs(crops[0] - first).mean()


PLACES = np.array([region_ellipse(*key)[:2] for key in TRACKED_REGIONS])


@pytest.mark.parametrize("turn", [(0.0, 0.05, 0.0), (0.04, 0.0, 0.02), (0.0, 0.0, 0.05)])
def test_a_small_motion_of_the_head_explains_itself(turn):
    pose = HeadPose(cv2.Rodrigues(np.array(turn))[0], 1.01, np.array([0.01, 0.02]))
    cells = np.clip((PLACES * 64).astype(int), 0, 63)
    moved = rigid_motion(pose, 64)[:, cells[:, 1], cells[:, 0]].T
    assert share_of_head(moved, PLACES) > 0.97


@pytest.mark.parametrize("code", ["AU1", "AU2", "AU4", "AU9", "AU12", "AU17", "AU26"])
def test_the_head_does_not_explain_action_units(code):
    pattern = sum(random_patterns(code, side).mean(0) for side in ("left", "right")).reshape(2, GRID, GRID)
    cells = np.clip((PLACES * GRID).astype(int), 0, GRID - 1)
    assert share_of_head(pattern[:, cells[:, 1], cells[:, 0]].T, PLACES) < 0.8
