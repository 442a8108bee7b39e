"""Plants known action-unit motion into real recordings: skin, light, camera, codec and head motion stay what they are.

Planted motion is what `clips` renders: smooth displacement fields with a course over time. In frame t, point p of the
onset frame's crop is seen at A_t(p + Σ_k c_k(t) d_k(p)), where A_t places the head that moves in the recording. What
the person's own face does comes on top and is not known. The added motion is known exactly.

A pixel that is not displaced keeps its value to the bit. A displaced one is interpolated by a cubic spline, which
takes a little of the sensor's noise away between pixels. Furrows and shading are not added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from deft_llm.processing.action_units import ellipse_mask
from deft_llm.processing.aligned_clip import AlignedClip
from deft_llm.processing.face_alignment import warp_to_crop
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.video_reading import ArrayClip

from .clips import Expression, Movement, unit_movement
from .faces import FINER, Face, spline_interpolation

# Gaussian fields have no end. Between these shares of their peak they are faded out, so that most pixels stay as they
# are; at the strongest intensity that is a fade over a quarter of a pixel of a face 250 pixels wide.
_FADE = (0.01, 0.04)
# The part of the crop whose texture is followed: the face without hair, ears and neck.
_FOLLOWED = (0.5, 0.48, 0.38, 0.42)
# The table that fields are looked up in: cells per side, and how far it goes beyond the crop in crop widths. Straight
# lines between its cells are off by less than 3 in 100,000 of the crop's width.
_CELLS, _AROUND = 768, 0.1
_CROP = 192  # pixels of the crop in which corners are looked for
_CORNERS, _LEAST = 300, 12  # corners that are followed, and fewest that must agree in every frame
_ROUND_TRIP = 0.3  # pixels; a corner that does not come back to where it was is lost
_AGREE = 0.015  # crop widths; how far a corner may be from where the head's motion takes it


class PlantingError(ValueError):
    """A recording in which no motion can be planted, because its face cannot be followed."""


@dataclass(frozen=True, eq=False)
class PlantedClip:
    """A recording with planted motion, and the truth of what was planted.

    Args:
        clip (`AlignedClip`): The changed frames, with the face's place and the key frames of the planted expression.
        expression (`Expression`): The planted units and their key frames.
        movements (`list[Movement]`): One displacement field with its course per unit.
        poses (`np.ndarray` of shape `(frames, 2, 3)`): For each frame, from the unit square of the onset frame's crop
            to the frame's pixels.
    """

    clip: AlignedClip
    expression: Expression
    movements: list[Movement]
    poses: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """The changed frames, (frames, height, width, 3) uint8."""
        return self.clip.reader.frames(range(len(self.clip)))

    def flow(self, grid: int, frames: Sequence[int] | None = None) -> np.ndarray:
        """The exact added displacement since the onset frame, in the crop of the onset frame.

        Args:
            grid (`int`): Number of cells per side.
            frames (`Sequence[int] | None`, *optional*): Frame numbers; by default all frames.

        Returns:
            `np.ndarray` of shape `(frames, 2, grid, grid)`, float32: In percent of the crop width, at the cells'
            centres.
        """
        numbers = range(len(self.clip)) if frames is None else frames
        points = (np.mgrid[0:grid, 0:grid][::-1].astype(np.float64) + 0.5) / grid
        flow = np.zeros((len(numbers), 2, grid, grid))
        for movement in self.movements:
            flow += movement.course[list(numbers), None, None, None] * planted_field(movement, points)
        return np.float32(100 * flow)

    def truth(self) -> dict:
        """All parameters as plain numbers and strings."""
        shown = self.expression
        return {
            "fps": self.clip.fps,
            "frames": len(self.clip),
            "expressions": [
                {
                    "onset": shown.onset,
                    "apex": shown.apex,
                    "offset": shown.offset,
                    "opposed": shown.opposed,
                    "units": [
                        {
                            "code": unit.code,
                            "side": unit.side,
                            "intensity": unit.intensity,
                            "amplitude": unit.amplitude,
                        }
                        for unit in shown.units
                    ],
                }
            ],
        }


def planted_field(movement: Movement, points: np.ndarray) -> np.ndarray:
    """A movement's displacement at full strength, faded to exactly zero where it is weak.

    Args:
        movement (`Movement`): The displacement field.
        points (`np.ndarray` of shape `(2, ...)`): x and y in crop widths.

    Returns:
        `np.ndarray` of the shape of `points`: In crop widths.
    """
    field = movement.displacement(*points)
    peak = max(float(np.hypot(dx, dy)) for *_, dx, dy in movement.pieces)
    share = np.clip((np.hypot(*field) / peak - _FADE[0]) / (_FADE[1] - _FADE[0]), 0, 1)
    return field * (share * share * (3 - 2 * share))


def plant(
    clip: AlignedClip,
    expression: Expression,
    rng: np.random.Generator,
    *,
    poses: Sequence[np.ndarray] | None = None,
) -> PlantedClip:
    """Plants an expression into a recording of a face.

    Args:
        clip (`AlignedClip`): The recording, its face placed in frame `expression.onset`, as by
            `AlignedClip.open(..., onset=expression.onset)`.
        expression (`Expression`): Units, and onset, apex and offset as frame numbers of the recording.
        rng (`np.random.Generator`): Random generator of the units' small differences.
        poses (`Sequence[np.ndarray] | None`, *optional*): One (2, 3) matrix per frame, from the unit square of the
            onset frame's crop to the frame's pixels; by default the face is followed by its texture.

    Raises:
        PlantingError: the face cannot be followed from onset to offset.
        ValueError: the expression lies outside the clip, its key frames are out of order, or there is not one matrix
            per frame.
    """
    count = len(clip)
    if not 0 <= expression.onset < expression.apex < expression.offset <= count:
        raise ValueError(
            f"An expression must satisfy 0 ≤ onset < apex < offset ≤ {count}; got {expression.onset}, "
            f"{expression.apex}, {expression.offset}."
        )
    frames = clip.reader.frames(range(count))
    last = min(expression.offset, count - 1)
    if poses is None:
        poses = _follow(frames, clip.transform, expression.onset, last, clip.name)
    poses = np.asarray(poses, np.float64)
    if poses.shape != (count, 2, 3):
        raise ValueError(f"`poses` must be ({count}, 2, 3), one matrix per frame; got {poses.shape}.")
    unmarked = Face(np.zeros((1, 1, 3), np.float32))  # the atlas as it is; no region is moved to this person's face
    course = expression.course(count)
    movements = [unit_movement(unmarked, unit, course, rng) for unit in expression.units]
    table = _table(movements)
    for index in range(expression.onset + 1, last + 1):
        if movements and course[index] > 0:
            _displace(frames[index], poses[index], np.float32(course[index]) * table)
    keys = KeyFrames(expression.onset, expression.apex, last)
    changed = AlignedClip(ArrayClip(frames, clip.name, clip.fps), clip.transform, keys)
    return PlantedClip(changed, expression, movements, poses)


def _table(movements: list[Movement]) -> np.ndarray:
    """The sum of the fields on a grid that reaches a little beyond the crop, (cells, cells, 2) float32."""
    axis = ((np.arange(_CELLS) + 0.5) / _CELLS) * (1 + 2 * _AROUND) - _AROUND
    points = np.stack(np.meshgrid(axis, axis))
    total = sum((planted_field(movement, points) for movement in movements), np.zeros_like(points))
    return np.float32(total).transpose(1, 2, 0).copy()


def _displace(frame: np.ndarray, pose: np.ndarray, table: np.ndarray) -> None:
    """Warps a frame in place by a field in the crop of the onset frame, see `_table`."""
    height, width = frame.shape[:2]
    cells = np.abs(table).max(-1) > 0
    rows, columns = (np.flatnonzero(cells.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    # What lies in this box of the crop is displaced, and what it is displaced to.
    reach = np.abs(table).max() + 2 / _CELLS
    low, high = (
        np.array([columns[end], rows[end]]) * (1 + 2 * _AROUND) / _CELLS - _AROUND + sign * reach
        for end, sign in ((0, -1), (-1, 1))
    )
    corners = np.array([low, (high[0], low[1]), (low[0], high[1]), high]) @ pose[:, :2].T + pose[:, 2]
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, (width, height))
    if right <= left or bottom <= top:
        return
    inverse = np.linalg.inv(pose[:, :2])
    seen = np.mgrid[top:bottom, left:right][::-1] + 0.5 - pose[:, 2, None, None]
    # From here on, places in the crop are cells of the table.
    scale = _CELLS / (1 + 2 * _AROUND)
    target = np.float32(scale * (np.tensordot(inverse, seen, (1, 0)) + _AROUND) - 0.5)
    # Solves p + d(p) = target by iterating p ← target − d(p), a contraction for fields this smooth.
    origin = target
    for _ in range(20):
        moved = cv2.remap(table, *origin, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT).transpose(2, 0, 1)
        previous, origin = origin, target - np.float32(scale) * moved
        if np.abs(origin - previous).max() < 2e-3:
            break
    shift = np.tensordot(
        pose[:, :2], -moved.astype(np.float64), (1, 0)
    )  # pixels, from a pixel to where its colour comes from
    places = np.abs(shift).max(0) > 1e-4
    if not places.any():
        return
    rows, columns = (np.flatnonzero(places.any(axis)) for axis in (1, 0))
    # With a border for the spline, whose weights fall by a factor of four per pixel.
    border = 8 + int(np.ceil(np.abs(shift).max()))
    y0, y1 = _span(top + rows[0] - border, top + rows[-1] + 1 + border, height)
    x0, x1 = _span(left + columns[0] - border, left + columns[-1] + 1 + border, width)
    patch = frame[y0:y1, x0:x1].astype(np.float32)
    fine = np.tensordot(spline_interpolation(y1 - y0, FINER), patch, (1, 0))
    fine = np.tensordot(fine, spline_interpolation(x1 - x0, FINER), (1, 1)).transpose(0, 2, 1)
    y, x = np.mgrid[top:bottom, left:right]
    at_x = np.float32(FINER * (x + shift[0] - x0) + 0.5 * (FINER - 1))
    at_y = np.float32(FINER * (y + shift[1] - y0) + 0.5 * (FINER - 1))
    fetched = cv2.remap(np.ascontiguousarray(fine), at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values = np.clip(np.rint(fetched), 0, 255).astype(np.uint8)
    region = frame[top:bottom, left:right]
    region[places] = values[places]


def _span(start: int, stop: int, limit: int) -> tuple[int, int]:
    """The part of 0 to `limit` that covers start to stop. Its length is a multiple of 32 where there is room, so that
    frames in which the face moves share the matrices of the spline."""
    start, stop = max(start, 0), min(stop, limit)
    length = min(-(-(stop - start) // 32) * 32, limit)
    start = min(start, limit - length)
    return start, start + length


def _follow(frames: np.ndarray, transform: np.ndarray, onset: int, last: int, name: str) -> np.ndarray:
    """The face's similarity in every frame from onset to `last`, (frames, 2, 3) from the onset's crop to pixels.

    Corners of the onset frame are followed from frame to frame, and the similarity that most of them agree on is
    always one from the onset frame, so that errors do not add up. Frames outside get the nearest pose; nothing is
    planted there.
    """
    start = _inverted(transform)
    poses = np.repeat(start[None], len(frames), axis=0)
    first, grey = _corners(frames[onset], transform), cv2.cvtColor(frames[onset], cv2.COLOR_RGB2GRAY)
    if len(first) < _LEAST:
        raise PlantingError(f"{name}: the face in frame {onset} has too little texture to be followed.")
    width = 1 / float(np.hypot(*transform[:, 0]))
    points, anchors, base = first, first, start
    for before, index in pairwise(range(onset, last + 1)):
        following = cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY)
        moved, back = _tracked(grey, following, points, width)
        kept = np.hypot(*(back - points).T) < _ROUND_TRIP
        points, anchors = moved[kept], anchors[kept]
        matrix, inside = None, np.zeros(0, bool)
        if len(points) >= _LEAST:
            matrix, inside = cv2.estimateAffinePartial2D(
                anchors, points, method=cv2.RANSAC, ransacReprojThreshold=max(1.0, _AGREE * width), maxIters=2000
            )
        if matrix is None or inside.sum() < _LEAST:
            raise PlantingError(f"{name}: the face cannot be followed from frame {before} to frame {index}.")
        # The points' centres are at half-integers in transforms and at integers in OpenCV.
        shifted = matrix[:, 2] + 0.5 - matrix[:, :2] @ (0.5, 0.5)
        poses[index] = _composed(np.column_stack([matrix[:, :2], shifted]), base)
        grey = following
        if inside.sum() < 0.4 * len(first):
            base = poses[index]
            fresh = _corners(frames[index], _inverted(base))
            if len(fresh) >= _LEAST:
                points = anchors = first = fresh
    poses[last:] = poses[last]
    return poses


def _corners(frame: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Corners of the face in pixels of the frame, (corners, 2) float32, as OpenCV counts them."""
    crop = cv2.cvtColor(warp_to_crop(frame, transform, _CROP), cv2.COLOR_RGB2GRAY)
    mask = np.uint8(255 * ellipse_mask(_FOLLOWED, _CROP, _CROP))
    found = cv2.goodFeaturesToTrack(crop, _CORNERS, 0.005, 4, mask=mask)
    if found is None:
        return np.zeros((0, 2), np.float32)
    points = (found.reshape(-1, 2) + 0.5) / _CROP
    inverse = _inverted(transform)
    points = points @ inverse[:, :2].T + inverse[:, 2] - 0.5
    inside = ((points >= 1) & (points <= np.array(frame.shape[1::-1]) - 2)).all(1)
    return np.ascontiguousarray(points[inside], np.float32)


def _tracked(first: np.ndarray, second: np.ndarray, points: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Points in the second image, and back in the first one; infinity where a point is lost."""
    if not len(points):
        return points, points
    window = int(np.clip(round(0.07 * width), 9, 41)) | 1
    options = {"winSize": (window, window), "maxLevel": 4}
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points, None, **options)
    back, refound, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None, **options)
    lost = (found.ravel() == 0) | (refound.ravel() == 0)
    back[lost] = np.inf
    return there, back


def _inverted(matrix: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack([inverse, -inverse @ matrix[:, 2]])


def _composed(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])
