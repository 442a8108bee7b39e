"""Heads that move in space: what a rigid face of known depth looks like to a camera, with the exact displacement.

A picture of a face that looks into the camera is laid over the generic depth of `face_shape`. Then the head turns
about a point behind the face, moves, and is seen through a lens. What a real face's own shape adds is not simulated.

Lengths are in crop widths. +x is right, +y is down, +z is towards the camera. Depth zero is the plane of the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from deft_llm.processing.face_alignment import warp_to_crop
from deft_llm.processing.face_shape import depth_at

from .faces import FINER, Face

# What the head turns about: 15 mm below and 83 mm behind the middle of the crop, where the skull sits on the spine.
_PIVOT = np.array([0.0, 0.09, -0.5])
_MOST = 15.0  # degrees; further, one side of the nose begins to hide the other
_NEAREST = 2.0  # crop widths from the lens to the eyes, 33 cm


@dataclass(frozen=True, eq=False)
class HeadPath:
    """The course of a rigid head in space, relative to the head as the picture shows it.

    Args:
        angles (`np.ndarray` of shape `(count, 3)`): Yaw, pitch and roll in degrees. A positive yaw turns the nose to
            the right of the picture, a positive pitch turns it down, and a positive roll turns the head clockwise.
            Roll, and yaw and pitch together (the length of both), may reach 15°.
        shifts (`np.ndarray` of shape `(count, 3)`): Translation to the right, down and towards the camera in crop
            widths.
        distance (`float`, *optional*, defaults to `6.0`): From the lens to the plane of the eyes, in crop widths; 6 is
            one metre.

    Raises:
        ValueError: the shapes differ, a value is not finite, the head turns by more than 15°, or it comes too near.
    """

    angles: np.ndarray
    shifts: np.ndarray
    distance: float = 6.0

    def __post_init__(self):
        angles, shifts = np.asarray(self.angles, np.float64), np.asarray(self.shifts, np.float64)
        if angles.ndim != 2 or angles.shape[1] != 3 or angles.shape != shifts.shape:
            raise ValueError(f"Angles and shifts must both be (count, 3), got {angles.shape} and {shifts.shape}.")
        if not (np.isfinite(angles).all() and np.isfinite(shifts).all()):
            raise ValueError("A head's path contains NaN or infinite values.")
        most = max(np.hypot(angles[:, 0], angles[:, 1]).max(initial=0), np.abs(angles[:, 2]).max(initial=0))
        if most > _MOST + 1e-9:
            raise ValueError(f"A head turns by at most {_MOST:g}°, got {most:.1f}°.")
        if self.distance - shifts[:, 2].max(initial=0) < _NEAREST:
            raise ValueError(f"The eyes must stay at least {_NEAREST:g} crop widths from the lens.")
        object.__setattr__(self, "angles", angles)
        object.__setattr__(self, "shifts", shifts)

    def __len__(self) -> int:
        return len(self.angles)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        count: int,
        fps: float,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        shift: float = 0.0,
        every: float = 0.5,
        distance: float | None = None,
    ) -> HeadPath:
        """A smooth random path that begins at rest where the picture has the head.

        Args:
            rng (`np.random.Generator`): Random generator.
            count (`int`): Number of frames.
            fps (`float`): Frames per second.
            yaw (`float`, *optional*, defaults to `0.0`): Largest yaw in degrees.
            pitch (`float`, *optional*, defaults to `0.0`): Largest pitch in degrees.
            roll (`float`, *optional*, defaults to `0.0`): Largest roll in degrees.
            shift (`float`, *optional*, defaults to `0.0`): Largest translation along each axis in crop widths.
            every (`float`, *optional*, defaults to `0.5`): Seconds from one target of the motion to the next.
            distance (`float | None`, *optional*): From the lens to the eyes in crop widths; by default a random one
                between 4 and 9 (0.7 to 1.5 m).
        """
        distance = float(rng.uniform(4, 9)) if distance is None else distance
        at = np.arange(count) / (fps * every)
        aims = rng.uniform(-1, 1, (6, int(at[-1]) + 2))
        aims[:, 0] = 0
        index = at.astype(int)
        ease = 0.5 - 0.5 * np.cos(np.pi * (at - index))
        courses = (aims[:, index] * (1 - ease) + aims[:, index + 1] * ease).T
        # Yaw and pitch are drawn from an ellipse, so that a head that may do both by 15° does not turn by 21°.
        length = np.maximum(np.hypot(courses[:, 0], courses[:, 1]), 1)
        courses[:, :2] /= length[:, None]
        return cls(courses[:, :3] * (yaw, pitch, roll), courses[:, 3:] * shift, distance)

    def is_still(self, frame: int) -> bool:
        """Whether the head is where the picture has it.

        Args:
            frame (`int`): Frame number.
        """
        return not (self.angles[frame].any() or self.shifts[frame].any())

    def place(self, frame: int, points: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
        """Where points of the picture are seen in a frame.

        Args:
            frame (`int`): Frame number.
            points (`np.ndarray` of shape `(2, ...)`): x and y in the picture, in crop widths of the canonical crop.
            depth (`np.ndarray`, *optional*): Depth of the points in crop widths; by default that of the generic face.

        Returns:
            `np.ndarray` of the shape of `points`: x and y in the frame, in crop widths.
        """
        if self.is_still(frame):
            return points
        depth = depth_at(*points) if depth is None else depth
        nearer = 1 - depth / self.distance
        solid = np.stack([(points[0] - 0.5) * nearer, (points[1] - 0.5) * nearer, depth])
        pivot = _PIVOT.reshape(3, *[1] * (solid.ndim - 1)).astype(solid.dtype)
        move = (self.shifts[frame]).reshape(pivot.shape).astype(solid.dtype) + pivot
        rotation = _rotation(self.angles[frame]).astype(solid.dtype)
        moved = np.tensordot(rotation, solid - pivot, (1, 0)) + move
        return moved[:2] / (1 - moved[2] / self.distance) + solid.dtype.type(0.5)

    def origin(self, frame: int, points: np.ndarray, *, iterations: int = 200) -> np.ndarray:
        """Which points of the picture are seen at places of a frame: the inverse of `place`.

        Args:
            frame (`int`): Frame number.
            points (`np.ndarray` of shape `(2, ...)`): x and y in the frame, in crop widths.
            iterations (`int`, *optional*, defaults to `200`): Most steps of the iteration, which ends early where it
                has converged.

        Returns:
            `np.ndarray` of the shape of `points`: x and y in the picture, in crop widths.
        """
        return self._origin(frame, points, depth_at, iterations, 1e-9)

    def origin_map(self, frame: int, points: np.ndarray) -> np.ndarray:
        """Like `origin`, for whole images: many times faster, and exact to 2 in 10,000 of the crop's width
        at 15°, or 1 in 100,000 at 8°.

        Args:
            frame (`int`): Frame number.
            points (`np.ndarray` of shape `(2, height, width)`, float32): x and y in the frame, in crop widths.
        """
        return self._origin(frame, points, _looked_up_depth, 40, 2e-6)

    def _origin(self, frame: int, points: np.ndarray, depth, iterations: int, close: float) -> np.ndarray:
        if self.is_still(frame):
            return points
        # A head that is a plane would be turned by this matrix alone. What depth adds is found by iteration, which
        # converges because no point of the face hides another one up to 15°.
        scale = 1 - self.shifts[frame, 2] / self.distance
        step = (scale * np.linalg.inv(_rotation(self.angles[frame])[:2, :2])).astype(points.dtype)
        guess = points
        for _ in range(iterations):
            change = np.tensordot(step, points - self.place(frame, guess, depth(*guess)), (1, 0))
            guess = guess + change
            if np.abs(change).max() < close:
                break
        return guess


def _rotation(angles: np.ndarray) -> np.ndarray:
    yaw, pitch, roll = np.radians(angles)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return tilt @ nod @ turn


_TABLE, _AROUND = 768, 0.5  # cells per crop width of the table of depths, and how far it goes beyond the crop


@lru_cache(maxsize=1)
def _depth_table() -> np.ndarray:
    axis = (np.arange(round((1 + 2 * _AROUND) * _TABLE)) + 0.5) / _TABLE - _AROUND
    return depth_at(*np.meshgrid(axis, axis)).astype(np.float32)


def _looked_up_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    maps = (((value + _AROUND) * _TABLE - 0.5).astype(np.float32) for value in (x, y))
    return cv2.remap(_depth_table(), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, eq=False)
class TurnedPhotograph:
    """A photograph under a head's motion in space, and what is known of it.

    Args:
        frames (`np.ndarray` of shape `(count, side, side, 3)`, uint8): The frames, in RGB.
        transform (`np.ndarray` of shape `(2, 3)`): From pixels of the first frame to the canonical crop's unit square.
        path (`HeadPath`): The head's course.
    """

    frames: np.ndarray
    transform: np.ndarray
    path: HeadPath

    def flow(self, frame: int, grid: int) -> np.ndarray:
        """The exact displacement from the picture to a frame.

        Args:
            frame (`int`): Frame number.
            grid (`int`): Number of cells per side of the canonical crop.

        Returns:
            `np.ndarray` of shape `(2, grid, grid)`, float32: In percent of the crop width, at the cells' centres.
        """
        points = (np.mgrid[0:grid, 0:grid][::-1].astype(np.float64) + 0.5) / grid
        return np.float32(100) * (self.path.place(frame, points) - points).astype(np.float32)


def turn_photograph(
    picture: np.ndarray,
    transform: np.ndarray,
    path: HeadPath,
    *,
    size: int = 224,
    margin: float = 0.3,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> TurnedPhotograph:
    """Shows a photograph of a face under a head's motion in space. Nothing moves but the head.

    What surrounds the face moves with it, as far as the margin goes.

    Args:
        picture (`np.ndarray` of shape `(height, width, 3)`, uint8): The photograph.
        transform (`np.ndarray` of shape `(2, 3)`): From its pixels to the canonical crop's unit square.
        path (`HeadPath`): The head's course.
        size (`int`, *optional*, defaults to `224`): Width of the canonical crop in pixels of the frames.
        margin (`float`, *optional*, defaults to `0.3`): What is shown around the crop on each side, in crop widths.
        noise (`float`, *optional*, defaults to `0.0`): Standard deviation of sensor noise in grey levels.
        rng (`np.random.Generator | None`, *optional*): Generator of the noise.

    Raises:
        ValueError: there is noise to add and no generator.
    """
    if noise and rng is None:
        raise ValueError("Pass `rng` to add noise.")
    border = round(margin * size)
    side = size + 2 * border
    crop = np.array([[1 / size, 0, -border / size], [0, 1 / size, -border / size]])
    # From the picture to the unit square of the wider crop.
    wide = transform * (size / side) + [[0, 0, border / side]]
    face = Face(np.clip(warp_to_crop(picture.astype(np.float32), wide, side), 0, 255))
    points = np.float32((np.mgrid[0:side, 0:side][::-1] + 0.5 - border) / size)
    frames = np.empty((len(path), side, side, 3), np.uint8)
    for index in range(len(path)):
        seen = FINER * (size * path.origin_map(index, points) + border) - np.float32(0.5)
        frame = cv2.remap(face.fine_image, *seen, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if noise:
            frame += rng.standard_normal((side, side, 1), np.float32) * np.float32(noise)
        frames[index] = np.clip(frame + 0.5, 0, 255)
    return TurnedPhotograph(frames, crop, path)
