"""The head as a rigid body: its rotation, scale and shift in every frame, found from the picture itself.

A face that turns out of the image plane does not move as an affine map does: the tip of the nose moves farther than
the eyes. The head is therefore a surface in space, a generic face's depth over the canonical crop. It is rotated,
scaled and shifted (6 numbers per frame) and seen by a camera at a usual distance. The numbers are fitted to the
band-passed picture by inverse compositional Gauss-Newton steps (Baker & Matthews 2004, "Lucas-Kanade 20 years on"),
coarse to fine, from the previous frame's pose. Pixels that do not follow get less weight in every step, so that eyes
and a mouth that move by themselves do not turn the head.

Where the fit leaves its range or no longer looks like the first frame, the frame cannot be measured, and the pose says
why. Inside the range, what a wrong depth can leave is stated as an error of the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .face_alignment import warp_to_crop
from .face_shape import face_depth
from .unit_patterns import GRID, noise_covariance, on_grid, units_covariance

# How far a head may turn, grow and shrink, and move in one frame, relative to the frame in which the face was placed.
MOST_TURN = 12.0  # degrees out of the image plane
MOST_ROLL = 20.0  # degrees within it
MOST_SCALE = 1.25
MOST_STEP = 0.08  # crop widths per frame: beyond, the exposure blurs the face
LEAST_LIKENESS = 0.45  # correlation of the band-passed pictures inside the face
LEAST_WIDTH = 48.0  # pixels of the crop's width: below, a per cent of it is half a pixel
MOST_HIDDEN = 0.10  # share of the face outside the picture
# Crop width (0.166 m) divided by the camera's distance: 0.25 is a camera at 0.66 m. What another distance changes is
# removed from the flow afterwards.
PERSPECTIVE = 0.25
# A person's depth differs from the generic face's by about this much (crop widths, standard deviation).
DEPTH_ERROR = 0.018

# A head that turns and moves less than this, in degrees and crop widths, need not be warped back: the estimators of
# flow follow an affine map themselves, and one interpolation less is more exact.
_HARDLY_TURNED, _HARDLY_MOVED = 1.5, 0.03
_ALIKE = 0.9  # likeness at which the coarse fit is believed
# Side of the crop in pixels, largest number of steps, and the step (crop widths, radians) that is small enough.
_LEVELS = ((32, 4, 1.5e-3), (64, 6, 5e-4))
_FACE = (0.42, 0.46)  # radii of the ellipse that is compared, crop widths
_BAND = 0.066  # width of the box of the band-pass, crop widths: shading varies more slowly
# Information that each unknown gets without the picture, as a share of that of the shift: flat pictures do not turn.
_DAMPING = np.array([1e-4, 1e-4, 5e-6, 5e-6, 5e-6, 5e-6])


@dataclass(frozen=True, eq=False)
class HeadPose:
    """Where the head is in one frame, relative to the frame in which the face was placed.

    Points are (x, y, z) in crop widths, x and y from the crop's middle, z towards the camera. A point of the head is
    seen at (x, y) / (1 − `PERSPECTIVE` · z), times `scale`, plus `shift`.

    Args:
        rotation (`np.ndarray` of shape `(3, 3)`): Of the head in space.
        scale (`float`): More than 1 if the head came nearer.
        shift (`np.ndarray` of shape `(2,)`): In crop widths, +x right, +y down.
        likeness (`float`): Correlation of this frame, warped back, with the first one inside the face, −1 to 1.
        hidden (`float`): Share of the face that lies outside the picture, 0 to 1.
        step (`float`): Farthest that a point of the face moved since the previous frame, in crop widths.
    """

    rotation: np.ndarray
    scale: float
    shift: np.ndarray
    likeness: float = 1.0
    hidden: float = 0.0
    step: float = 0.0

    @property
    def turn(self) -> float:
        """Angle out of the image plane in degrees: between the line of sight and the face's own normal."""
        return float(np.degrees(np.arccos(np.clip(self.rotation[2, 2], -1, 1))))

    @property
    def roll(self) -> float:
        """Angle within the image plane in degrees, clockwise."""
        return float(np.degrees(np.arctan2(self.rotation[1, 0] - self.rotation[0, 1], self.rotation[:2, :2].trace())))

    @property
    def farthest(self) -> float:
        """About how far the head's motion takes some point of the face, in crop widths."""
        turned = 0.5 * float(np.abs(self.rotation - np.eye(3)).max())
        return float(np.hypot(*self.shift)) + turned + 0.5 * abs(self.scale - 1)

    @property
    def hardly_moved(self) -> bool:
        """Whether the motion is so small that an affine map in the image plane describes it."""
        return self.turn < _HARDLY_TURNED and self.farthest < _HARDLY_MOVED

    @property
    def range_used(self) -> float:
        """Share of the range in which the pose can be measured, 0 to 1 and more."""
        grown = abs(np.log(self.scale)) / np.log(MOST_SCALE)
        return float(max(self.turn / MOST_TURN, abs(self.roll) / MOST_ROLL, grown))

    def placed(self, transform: np.ndarray) -> np.ndarray:
        """The transform of this frame's pixels to the canonical crop.

        Args:
            transform (`np.ndarray` of shape `(2, 3)`): That of the frame in which the face was placed.
        """
        angle = np.radians(self.roll)
        back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / self.scale
        middle = np.array([0.5, 0.5])
        return np.column_stack([back @ transform[:, :2], back @ (transform[:, 2] - middle - self.shift) + middle])

    def move(self, points: np.ndarray) -> np.ndarray:
        """Where points of the head are seen in this frame.

        Args:
            points (`np.ndarray` of shape `(3, N)`): In the first frame's position, in crop widths.

        Returns:
            `np.ndarray` of shape `(2, N)`: In crop widths from the crop's middle.
        """
        turned = self.rotation.astype(points.dtype) @ points
        seen = turned[:2] * (self.scale / (1 - PERSPECTIVE * turned[2]))
        return seen + self.shift[:, None].astype(points.dtype)

    def why_not(self) -> str | None:
        """Why the frame cannot be measured, or None if it can."""
        if self.likeness < LEAST_LIKENESS:
            return "the face cannot be followed: it is hidden, blurred or gone"
        if self.hidden > MOST_HIDDEN:
            return "the face is cut off by the border of the picture"
        if self.turn > MOST_TURN or abs(self.roll) > MOST_ROLL:
            return "the head turns too far"
        if not 1 / MOST_SCALE < self.scale < MOST_SCALE:
            return "the head comes too near or goes too far away"
        if self.step > MOST_STEP:
            return "the head moves too fast for the frame rate"
        return None


def too_small(width: float) -> str:
    """Why a face of this crop width in pixels cannot be measured."""
    return f"the face is too small: its crop is {width:.0f} pixels wide, and {LEAST_WIDTH:.0f} are needed"


STILL = HeadPose(np.eye(3), 1.0, np.zeros(2))


class HeadTracker:
    """Follows one head from frame to frame.

    Args:
        frame (`np.ndarray`): (H, W) uint8 or float32, grey levels, in which the face is placed.
        transform (`np.ndarray` of shape `(2, 3)`): From frame pixels to the canonical crop, from `crop_transform`.
    """

    def __init__(self, frame: np.ndarray, transform: np.ndarray):
        self._transform = transform
        self._views = [_View(_shrunk(frame, transform, side), side) for side, *_ in _LEVELS]
        self.pose = STILL

    def follow(self, frame: np.ndarray) -> HeadPose:
        """The pose in the next frame. Its fit starts from the previous frame's pose, or anew where that one failed.

        Args:
            frame (`np.ndarray`): (H, W), as the first one.
        """
        before = self.pose
        found = self._fit(frame, before if before.likeness >= LEAST_LIKENESS else STILL)
        if found.likeness < LEAST_LIKENESS:
            moved = self._fit(frame, self._searched(frame))
            found = moved if moved.likeness > found.likeness else found
        face = self._views[0].points[:, self._views[0].inside]
        now = found.move(face)
        step = float(np.hypot(*(now - before.move(face))).max())
        height, width = frame.shape[:2]
        at = _to_frame(self._transform, now)
        outside = (at < 0).any(0) | (at[0] > width) | (at[1] > height)
        self.pose = HeadPose(found.rotation, found.scale, found.shift, found.likeness, float(outside.mean()), step)
        return self.pose

    def _fit(self, frame: np.ndarray, pose: HeadPose) -> HeadPose:
        for view, (side, steps, small) in zip(self._views, _LEVELS, strict=True):
            pose = view.fit(_shrunk(frame, self._transform, side), pose, steps, small)
            if pose.likeness > _ALIKE and pose.turn < 0.7 * _HARDLY_TURNED and pose.farthest < 0.7 * _HARDLY_MOVED:
                break  # it need not be known better
        return pose

    def _searched(self, frame: np.ndarray) -> HeadPose:
        """A pose that is only shifted, to where the middle of the first frame's face looks most like this frame."""
        view = self._views[0]
        side, rest = view.side, view.side // 4
        wide = np.float32(2 * _square(2 * side))
        crop = _band_passed(_sample(*_shrunk(frame, self._transform, side), wide), side)
        middle = view.reference.reshape(side, side)[rest:-rest, rest:-rest]
        alike = cv2.matchTemplate(crop, np.ascontiguousarray(middle), cv2.TM_CCOEFF_NORMED)
        y, x = np.unravel_index(int(alike.argmax()), alike.shape)
        still = side // 2 + rest
        return HeadPose(np.eye(3), 1.0, np.array([x - still, y - still]) / side)


class _View:
    """The first frame's face at one resolution, and what each unknown would change in it."""

    def __init__(self, picture: tuple[np.ndarray, np.ndarray], side: int):
        self.side = side
        x, y = _square(side)
        self.points = np.float32(_surface(side))
        self.inside = np.flatnonzero((x / _FACE[0]) ** 2 + (y / _FACE[1]) ** 2 < 1)
        image = _band_passed(_sample(*picture, np.float32(_square(side))), side)
        self.reference = image.ravel()
        across = (cv2.Scharr(image, cv2.CV_32F, 1, 0, scale=1 / 32) * side).ravel()
        down = (cv2.Scharr(image, cv2.CV_32F, 0, 1, scale=1 / 32) * side).ravel()
        moved = np.float32(_rigid_modes(side)[:6].reshape(6, 2, -1))
        self._changes = (across * moved[:, 0] + down * moved[:, 1])[:, self.inside]
        self._values = self.reference[self.inside]
        shift = float(np.mean(np.square(self._changes[:2]))) * len(self.inside)
        self._damping = np.diag(_DAMPING * max(shift, 1e-6))

    def fit(self, picture: tuple[np.ndarray, np.ndarray], pose: HeadPose, steps: int, small: float) -> HeadPose:
        """The pose in a frame and its likeness, from a pose nearby.

        Args:
            picture: a frame and its transform, from `_shrunk`.
            pose: where the fit starts.
            steps: number of Gauss-Newton steps, at most.
            small: the step that ends the fit.
        """
        image = self._fetched(picture, pose)
        weights, energy = np.ones_like(self._values), np.square(self._values)
        for _ in range(steps):
            gain = float(weights @ (image * self._values)) / max(float(weights @ energy), 1e-9)
            error = image / np.float32(np.clip(gain, 0.5, 2.0)) - self._values
            scale = 3.5 * 1.4826 * float(np.median(np.abs(error[::2]))) + 1e-6
            weights = 1 / np.square(1 + np.square(error / np.float32(scale)))  # Geman & McClure's
            weighted = self._changes * weights
            step = np.linalg.solve(np.float64(weighted @ self._changes.T) + self._damping, weighted @ error)
            pose = _composed(pose, step)
            image = self._fetched(picture, pose)
            if np.abs(step).max() < small:
                break
        norm = float(np.linalg.norm(image) * np.linalg.norm(self._values))
        likeness = float(image @ self._values) / norm if norm > 0 else 0.0
        return HeadPose(pose.rotation, pose.scale, pose.shift, likeness)

    def _fetched(self, picture: tuple[np.ndarray, np.ndarray], pose: HeadPose) -> np.ndarray:
        image = _sample(*picture, pose.move(self.points))
        return _band_passed(image, self.side).ravel()[self.inside]


def _composed(pose: HeadPose, step: np.ndarray) -> HeadPose:
    """The pose after the inverse of a small motion of the first frame's face."""
    turn, _ = cv2.Rodrigues(-step[3:])
    rotation = pose.rotation @ turn
    scale = float(pose.scale * (1 - step[2]))
    return HeadPose(rotation, scale, pose.shift - scale * (rotation[:2, :2] @ step[:2]))


def warp_head_back(
    frame: np.ndarray, transform: np.ndarray, pose: HeadPose, side: int, *, exact: bool = False
) -> np.ndarray:
    """The face crop of a frame with the head's motion undone, so that only the skin moves from crop to crop.

    Args:
        frame (`np.ndarray`): (H, W) or (H, W, 3), uint8 or float32.
        transform (`np.ndarray` of shape `(2, 3)`): From pixels of the first frame to the canonical crop.
        pose (`HeadPose`): Of the head in `frame`.
        side (`int`): Side of the crop in pixels.
        exact (`bool`): Return float32, see `warp_to_crop`.

    Returns:
        `np.ndarray`: (side, side) or (side, side, 3), of the frame's type unless it is to be `exact`.
    """
    return warp_to_crop(frame, transform, side, pose.move(_surface(side)) + 0.5, exact=exact)


def rigid_motion(pose: HeadPose, side: int) -> np.ndarray:
    """The head's own motion over the crop, (2, side, side) float64, in crop widths."""
    points = _surface(side)
    return (pose.move(points) - _square(side)).reshape(2, side, side)


def depth_error(pose: HeadPose) -> float:
    """Standard deviation of the motion that a wrong depth leaves, in percent of the crop's width."""
    return 100 * DEPTH_ERROR * float(np.sin(np.radians(pose.turn)))


def remove_rigid_motion(flow: np.ndarray, poses: Sequence[HeadPose] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Subtracts what the head's motion leaves in flow between crops of `warp_head_back`.

    1. Each field's small rigid motion in space: shift, growth, three rotations and the camera's distance. It is
       estimated beside action units, whose motion over the face is allowed for with the strength that the field makes
       probable (empirical Bayes). So an expression neither counts as motion of the head nor changes what is found of
       the head. Then a few steps of reweighted least squares with Tukey's biweight, in which what moves by itself
       does not take part, within what the first estimate leaves open. What these steps change counts as an error.
    2. What this person's depth adds to the generic face's: motion that follows the rotations out of the image plane
       over the clip, one number per place. It is bounded by what faces differ, so that a nod at the same time as an
       expression does not take the expression away.

    Args:
        flow (`np.ndarray`): (T, 2, H, H), in percent of the crop's width.
        poses (`Sequence[HeadPose]`, *optional*): The T poses of the head that were undone before.

    Returns:
        The flow without it, (T, 2, H, H) float32, and the standard deviation per axis of the error that this leaves,
        (T, H, H) float32, both in percent of the crop's width.
    """
    poses = [STILL] * len(flow) if poses is None else poses
    left, error = _without_rigid_modes(np.asarray(flow, np.float64), poses)
    if any(pose is not STILL for pose in poses):
        left = left - _depth_motion(left, poses)
        left, error = _without_rigid_modes(left, poses)
    return left.astype(np.float32), error.astype(np.float32)


def share_of_head(motion: np.ndarray, places: np.ndarray) -> float:
    """How much of the displacement of some points a small rigid motion of the head explains, 0 to 1.

    Args:
        motion (`np.ndarray` of shape `(points, 2)`): Displacements, in any unit.
        places (`np.ndarray` of shape `(points, 2)`): Where the points are, x and y in the unit square of the crop.
    """
    x, y = np.clip((places * _PLACES).astype(int), 0, _PLACES - 1).T
    design = _rigid_modes(_PLACES)[:6, :, y, x].transpose(0, 2, 1).reshape(6, -1).T
    target = np.asarray(motion, np.float64).ravel()
    numbers = np.linalg.lstsq(design, target, rcond=None)[0]
    return 1 - float(np.square(target - design @ numbers).sum()) / max(float(np.square(target).sum()), 1e-12)


_PLACES = 64  # cells per side in which places are looked up

# What the pose may leave, as standard deviations: shift, growth and roll in crop widths and radians; the turns in
# radians, of a head that was not warped back and of one that was, and per radian of its turn; the camera's distance as
# a share of the turn.
_LEFT, _LEFT_TURN, _LEFT_WARPED, _LEFT_SHARE, _LEFT_DISTANCE = 0.3, 0.012, 0.001, 0.10, 0.10
_ALIKE_CELLS = 2  # fields are smooth, so that this many cells count as one
# Strengths of errors and of units that are compared, in percent of the crop's width.
_ERRORS = 0.01 * 2.0 ** np.arange(6)
_UNITS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# Robust standard deviations beyond which a cell moves by itself, and percent of the crop's width beyond which it does
# so in any case, because a talking face's median is large.
_OUTLIER, _FARTHEST_LEFT = 2.5, 0.3
_STEPS = 6  # of reweighting
_DEPTH_DETAIL = 0.05  # crop widths: a person's depth differs from the generic face's smoothly
_DEPTH_BOUND = 2.5  # standard deviations
_BY_ITSELF = 0.3  # percent of the crop's width that a place moves by itself, beside which its depth is found


def _left_by(pose: HeadPose) -> np.ndarray:
    """Standard deviation of what a pose leaves in each of the modes, in percent."""
    turn = np.sin(np.radians(pose.turn))
    turned = _LEFT_TURN if pose is STILL else _LEFT_WARPED + _LEFT_SHARE * turn
    distance = 1e-4 + _LEFT_DISTANCE * turn
    return 100 * np.array([_LEFT, _LEFT, _LEFT, turned, turned, _LEFT, distance, distance])


def _without_rigid_modes(flow: np.ndarray, poses: Sequence[HeadPose]) -> tuple[np.ndarray, np.ndarray]:
    side = flow.shape[-1]
    modes, inside = _rigid_modes(side), _face_of(side)
    spreads = np.square([_left_by(pose) for pose in poses])
    numbers, precision = _beside_units(on_grid(flow), spreads)
    flow = flow - np.tensordot(numbers, modes, 1)
    design = modes[:, :, inside].reshape(len(modes), -1)
    # For all fields at once: products of the modes at each point, for the normal equations under any weights.
    across, down = design.reshape(len(modes), 2, -1).swapaxes(0, 1)
    products = (across[:, None] * across + down[:, None] * down).reshape(len(modes) ** 2, -1)
    target = flow[:, :, inside]
    numbers = np.zeros_like(numbers)  # what is left after the first estimate
    for _ in range(_STEPS):
        rest = np.hypot(*(target - (numbers @ design).reshape(target.shape)).swapaxes(0, 1))
        noise = 1.4826 * np.maximum(np.median(rest, axis=1, keepdims=True), 1e-6)
        weights = np.square(np.clip(1 - np.square(rest / np.minimum(_OUTLIER * noise, _FARTHEST_LEFT)), 0, None))
        weights /= _ALIKE_CELLS * np.square(noise)
        normal = (weights @ products.T).reshape(-1, len(modes), len(modes)) + precision
        weighted = (target * weights[:, None]).reshape(len(flow), -1)
        numbers = np.linalg.solve(normal, (weighted @ design.T)[..., None])[..., 0]
    variance = np.einsum("tmn,mcyx,ncyx->tyx", np.linalg.inv(normal), modes, modes, optimize=True)
    correction = np.tensordot(numbers, modes, 1)
    # Where the two estimates differ, the field does not tell a head that moves from skin that moves.
    return flow - correction, np.sqrt((variance + np.square(correction).sum(1)) / 2)


def _beside_units(fields: np.ndarray, spreads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each rigid mode is in fields on the grid of the units' patterns.

    The model is field = rigid modes + units + errors, all normal. Every combination of the strengths of units and
    errors gives numbers of the modes, and they are averaged by how probable the combination makes the field.

    Args:
        fields (`np.ndarray` of shape `(T, 2 · GRID²)`): In percent.
        spreads (`np.ndarray` of shape `(T, modes)`): Variance of each number, before the field is seen.

    Returns:
        Expected numbers, (T, modes), and their precision, the inverse of their covariance, (T, modes, modes).
    """
    apart, shares = _units_and_errors()
    fields, modes = fields @ apart, _rigid_modes(GRID).reshape(spreads.shape[1], -1) @ apart
    squares = np.square(fields)
    spreads, which = np.unique(spreads, axis=0, return_inverse=True)  # of a head at rest, all are the same
    evidence, numbers, precisions = [], [], []
    for error in _ERRORS:
        for unit in _UNITS:
            variance = error**2 + unit**2 * shares
            weighted = modes / variance
            normal = weighted @ modes.T + np.eye(len(modes)) / spreads[:, None]
            right = fields @ weighted.T
            found = (np.linalg.inv(normal)[which] @ right[..., None])[..., 0]
            explained = squares @ (1 / variance) - (right * found).sum(1)
            volume = np.log(variance).sum() + np.linalg.slogdet(normal)[1] + np.log(spreads).sum(1)
            evidence.append(-0.5 * (volume[which] + explained))
            numbers.append(found)
            precisions.append(normal[which])
    likely = np.exp(evidence - np.max(evidence, axis=0))
    likely /= likely.sum(0)
    return np.einsum("gt,gtm->tm", likely, numbers), np.einsum("gt,gtmn->tmn", likely, precisions)


@lru_cache(maxsize=1)
def _units_and_errors() -> tuple[np.ndarray, np.ndarray]:
    """The matrix that makes the motion of units and the errors independent in every entry of a field, with errors of
    variance one, (2 · GRID², 2 · GRID²), and the variance of the units' motion in each entry."""
    whiten = np.linalg.inv(np.linalg.cholesky(noise_covariance()))
    shares, directions = np.linalg.eigh(whiten @ units_covariance() @ whiten.T)
    return whiten.T @ directions, np.clip(shares, 0, None)


def _depth_motion(flow: np.ndarray, poses: Sequence[HeadPose]) -> np.ndarray:
    """(T, 2, H, H): what a person's depth, beside the generic one's, moves when the head turns."""
    side = flow.shape[-1]
    # A point that is nearer by one moves by this much, in percent.
    nearer = np.stack([100 * pose.scale * pose.rotation[:2, 2] for pose in poses])
    energy = float(np.square(nearer).sum())
    depth = np.einsum("tc,tcyx->yx", nearer, flow) / (energy + np.square(_BY_ITSELF / DEPTH_ERROR))
    depth = cv2.GaussianBlur(depth, (0, 0), _DEPTH_DETAIL * side, borderType=cv2.BORDER_REPLICATE)
    depth = np.clip(depth, -_DEPTH_BOUND * DEPTH_ERROR, _DEPTH_BOUND * DEPTH_ERROR)
    return nearer[:, :, None, None] * depth


@lru_cache(maxsize=8)
def _rigid_modes(side: int) -> np.ndarray:
    """(8, 2, side, side): what a small shift, growth and rotation of the head moves in the picture, and what another
    distance of the camera changes in the two rotations out of the image plane."""
    x, y, z = _surface(side).reshape(3, side, side)
    near = 1 - PERSPECTIVE * z
    one, zero = np.ones_like(x), np.zeros_like(x)

    def seen(dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> list[np.ndarray]:
        return [dx / near + PERSPECTIVE * x * dz / near**2, dy / near + PERSPECTIVE * y * dz / near**2]

    shifts = [[one, zero], [zero, one], [x / near, y / near]]
    turns = [seen(zero, -z, y), seen(z, zero, -x), seen(-y, x, zero)]
    return np.stack([*shifts, *turns, [x * y, y * y], [x * x, x * y]])


@lru_cache(maxsize=4)
def _face_of(side: int) -> np.ndarray:
    x, y = _square(side)
    return ((x / _FACE[0]) ** 2 + (y / _FACE[1]) ** 2 < 1).reshape(side, side)


@lru_cache(maxsize=8)
def _square(side: int) -> np.ndarray:
    """(2, side²) float64: the pixels' centres from the crop's middle, in crop widths."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float64)
    square = np.stack([(x + 0.5) / side - 0.5, (y + 0.5) / side - 0.5]).reshape(2, -1)
    square.setflags(write=False)
    return square


@lru_cache(maxsize=8)
def _surface(side: int) -> np.ndarray:
    """(3, side²) float64: the point of the head that is seen at each pixel of the crop."""
    depth = face_depth(side, side).reshape(1, -1).astype(np.float64)
    surface = np.concatenate([_square(side) * (1 - PERSPECTIVE * depth), depth])
    surface.setflags(write=False)
    return surface


def _to_frame(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Frame pixels of points in crop widths from the crop's middle, (2, N); a pixel's centre is at + 0.5."""
    (a, b), (c, d) = transform[:, :2].tolist()
    inverse = np.array([(d, -b), (-c, a)]) / (a * d - b * c)  # np.linalg.inv takes several times longer
    start = inverse @ (0.5 - transform[:, 2:])
    return inverse.astype(points.dtype) @ points + start.astype(points.dtype)


def _sample(frame: np.ndarray, transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The frame at points in crop widths from the crop's middle, (2, side²) float32, as a (side, side) picture."""
    side = round(points.shape[1] ** 0.5)
    x, y = (_to_frame(transform, points) - np.float32(0.5)).reshape(2, side, side)
    return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _shrunk(frame: np.ndarray, transform: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame with as many pixels per crop width as the crop has, if it has more, and its transform."""
    share = float(np.hypot(*transform[:, 0])) * side
    if share >= 1:
        return np.float32(frame), transform
    # Whole pixels first, down to twice the size: that takes a tenth of the time.
    factor = max(int(0.5 / share), 1)
    height, width = (max(length // factor, 1) for length in frame.shape[:2])
    frame = frame[: height * factor, : width * factor]
    if factor > 1:
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    small = (max(round(width * factor * share), 2), max(round(height * factor * share), 2))
    scaled = transform.copy()
    scaled[:, :2] *= (width * factor / small[0], height * factor / small[1])
    return np.float32(cv2.resize(frame, small, interpolation=cv2.INTER_AREA)), scaled


def _band_passed(image: np.ndarray, unit: int) -> np.ndarray:
    """Without noise and without shading. `unit` is the crop's width in pixels of the image."""
    box = 2 * round(_BAND * unit) + 1
    return cv2.GaussianBlur(image, (0, 0), 0.8) - cv2.blur(image, (box, box))
