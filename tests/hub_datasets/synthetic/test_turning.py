"""Heads turn in space as rigid bodies do, and their displacement is known exactly."""

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.turning import HeadPath, turn_photograph
from deft_llm.processing.face_shape import depth_at

GRID = (np.mgrid[0:48, 0:48][::-1] + 0.5) / 48


def path_of(*angles, shifts=None, distance=6.0):
    angles = np.array([[0, 0, 0], *angles], float)
    return HeadPath(angles, np.zeros_like(angles) if shifts is None else np.array(shifts, float), distance)


def test_nose_and_eyes_move_as_words_say():
    path = path_of((8, 0, 0), (0, 8, 0), (0, 0, 8))
    nose, chin = np.array([0.5, 0.565]), np.array([0.5, 0.95])
    right, down, clockwise = (path.place(i, nose) - nose for i in (1, 2, 3))
    assert right[0] > 0.05
    assert abs(right[1]) < 0.005
    assert down[1] > 0.05
    assert abs(down[0]) < 1e-9
    assert path.place(3, chin)[0] < chin[0]  # clockwise: what is below goes left
    # What stands out moves further than what lies behind.
    assert right[0] > path.place(1, np.array([0.31, 0.35]))[0] - 0.31 + 0.01
    assert clockwise.shape == (2,)


def test_a_nearer_face_is_larger_and_its_nose_grows_most():
    path = HeadPath(np.zeros((2, 3)), np.array([[0, 0, 0], [0, 0, 0.6]]), 6.0)
    eyes = path.place(1, np.array([[0.31, 0.69], [0.35, 0.35]]))
    assert (eyes[0, 1] - eyes[0, 0]) / 0.38 == pytest.approx(6 / 5.4, rel=1e-6)
    beside = path.place(1, np.array([[0.47, 0.53], [0.565, 0.565]]))
    assert (beside[0, 1] - beside[0, 0]) / 0.06 > 6 / 5.4


def test_the_motion_is_rigid():
    """Distances in space are kept: the solid points of a frame, found from what the lens sees, are those turned."""
    from scipy.optimize import least_squares

    path = path_of((7, -5, 4), shifts=[[0, 0, 0], [0.04, -0.03, 0.2]])
    x, y = GRID.reshape(2, -1)[:, ::97]
    depth = depth_at(x, y)
    solid = np.stack([(x - 0.5) * (1 - depth / 6), (y - 0.5) * (1 - depth / 6), depth])
    seen = path.place(1, np.stack([x, y])) - 0.5
    # How far along its ray each point lies is not known; one set of lengths must give all the old distances.
    distances = np.linalg.norm(solid[:, :, None] - solid[:, None], axis=0)
    rays = np.stack([seen[0] / 6, seen[1] / 6, -np.ones(len(x))])

    def misfit(lengths):
        points = rays * lengths
        return (np.linalg.norm(points[:, :, None] - points[:, None], axis=0) - distances)[np.triu_indices(len(x), 1)]

    fitted = least_squares(misfit, np.full(len(x), 5.8))
    assert np.abs(fitted.fun).max() < 1e-5


@pytest.mark.parametrize("direction", range(0, 360, 30))
def test_origin_undoes_place_up_to_15_degrees(direction):
    yaw, pitch = 15 * np.cos(np.radians(direction)), 15 * np.sin(np.radians(direction))
    path = path_of((yaw, pitch, 15 if direction % 60 else -15), shifts=[[0, 0, 0], [0.05, -0.05, 0.1]], distance=4.0)
    origin = path.origin(1, GRID)
    assert np.abs(path.place(1, origin) - GRID).max() < 2e-5
    assert np.abs(path.origin_map(1, np.float32(GRID)) - origin).max() < 2e-4


def test_paths_that_cannot_be():
    with pytest.raises(ValueError, match="at most 15°"):
        path_of((12, 12, 0))
    with pytest.raises(ValueError, match="NaN"):
        path_of((np.nan, 0, 0))
    with pytest.raises(ValueError, match=r"\(count, 3\)"):
        HeadPath(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="from the lens"):
        HeadPath(np.zeros((1, 3)), np.array([[0, 0, 4.5]]))


def test_random_paths_begin_at_rest_and_stay_in_their_bounds():
    path = HeadPath.random(np.random.default_rng(1), 120, 30.0, yaw=8, pitch=6, roll=2, shift=0.05)
    assert path.is_still(0)
    assert not path.is_still(20)
    largest = np.abs(path.angles).max(0)
    assert (largest <= (8, 6, 2)).all()
    assert (largest > (1, 1, 0.2)).all()
    assert np.abs(np.diff(path.angles, axis=0)).max() < 2  # smooth
    assert np.abs(path.shifts).max() <= 0.05


def test_a_rendered_face_turns_with_exact_truth(face):
    shown = Expression((UnitRequest("AU12", "both", 0.02),), 0, 2, 4)
    path = path_of((4, 2, 1), (8, 4, -3), (6, 6, 0), (0, 3, 2))
    clip = render_clip(face, [shown], np.random.default_rng(0), count=5, disturbances=Disturbances(), path=path)
    first, last = (np.float32(cv2.cvtColor(clip.frames[i], cv2.COLOR_RGB2GRAY)) for i in (0, 2))
    grid = np.float32(np.mgrid[0 : face.size, 0 : face.size][::-1])
    middle = (slice(48, 136), slice(36, 112))  # of the face; its edges are hidden by nothing there

    def difference(flow):
        return np.abs(cv2.remap(last, *(grid + face.size * flow), cv2.INTER_CUBIC) - first)[middle].mean()

    assert difference(clip.flow(0, 2)) < 0.12 * difference(np.zeros((2, face.size, face.size), np.float32))
    # The expression alone is not changed by the head.
    still = render_clip(face, [shown], np.random.default_rng(0), count=5, disturbances=Disturbances())
    np.testing.assert_array_equal(clip.flow(0, 2, expression_only=True), still.flow(0, 2, expression_only=True))
    # From one turned frame to another and back is no way.
    there, points = clip.flow(1, 3, grid=48), GRID
    back = np.float64(clip.flow(3, 1, grid=48))
    at = np.float32((points + there) * 48 - 0.5)
    returned = np.stack([cv2.remap(np.float32(axis), *at, cv2.INTER_CUBIC) for axis in back])
    assert np.abs(there + returned)[:, 8:40, 8:40].max() < 2e-3


def test_turn_of_the_disturbances_moves_the_head(face):
    def render(turn):
        return render_clip(
            face, [], np.random.default_rng(5), count=12, fps=25.0, disturbances=Disturbances(turn=turn)
        )

    still, turning = render(0.0), render(6.0)
    assert still.path is None
    assert 0.5 < np.abs(turning.path.angles).max() <= 6
    np.testing.assert_array_equal(still.frames[0], turning.frames[0])
    assert (still.frames[-1] != turning.frames[-1]).mean() > 0.5
    with pytest.raises(ValueError, match="path has 3 frames"):
        render_clip(face, [], np.random.default_rng(0), count=12, path=path_of((1, 0, 0), (2, 0, 0)))


def test_a_photograph_turns_with_exact_truth(face):
    size = 96
    picture = cv2.resize(np.uint8(face.image), (240, 240))
    transform = np.array([[1 / 160, 0, -0.25], [0, 1 / 160, -0.25]])  # a margin of 40 pixels around the crop
    turned = turn_photograph(picture, transform, path_of((6, 3, 2), shifts=[[0, 0, 0], [0.03, 0, 0.1]]), size=size)
    side = turned.frames.shape[1]
    assert turned.frames.shape == (2, side, side, 3)
    assert np.hypot(*turned.transform[:, 0]) == pytest.approx(1 / size)
    crops = [
        np.float32(cv2.cvtColor(cv2.warpAffine(frame, size * turned.transform, (size, size)), cv2.COLOR_RGB2GRAY))
        for frame in turned.frames
    ]
    grid = np.float32(np.mgrid[0:size, 0:size][::-1])
    back = cv2.remap(crops[1], *(grid + size / 100 * turned.flow(1, size)), cv2.INTER_CUBIC)
    middle = (slice(20, 76), slice(20, 76))
    assert np.abs(back - crops[0])[middle].mean() < 0.15 * np.abs(crops[1] - crops[0])[middle].mean()
    with pytest.raises(ValueError, match="rng"):
        turn_photograph(picture, transform, path_of((1, 0, 0)), noise=2.0)
