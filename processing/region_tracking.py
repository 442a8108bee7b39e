"""Tracks each region of the face from frame to frame, relative to the head.

Key frames and expressions are found from this inexpensive measurement, two numbers per region and frame. It takes one
pass and keeps a single reference frame, regardless of the video's length. Where the head cannot be followed, it says
why, finds the face again and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .action_units import REGIONS, SIDES, ellipse_mask, region_ellipse
from .face_alignment import warp_to_crop
from .head_motion import STILL, HeadPose, HeadTracker, depth_error, warp_head_back

TRACKING_RESOLUTION = 128  # pixels, side of the grey crop on which regions are followed
# Rows of the arrays that `track_regions` yields.
TRACKED_REGIONS: tuple[tuple[str, str], ...] = tuple((region, side) for region in REGIONS for side in SIDES)
_PATIENCE = 3  # frames without the face before it is looked for again
_PAUSE = 5  # frames between two looks
_FAR_TURN = 0.6  # share of the range of poses at which the face is placed anew
_SAME_PLACE = 0.02  # crop widths and share of the range: below, the face need not be placed anew
_LONG_STEP = 0.008  # crop widths in one frame: beyond, a step must make the patch this much more alike
_WORTH = 0.7  # share of the residual's variance that may be left
_FAR_LIKENESS = 0.6  # likeness below which it is


class Placement(NamedTuple):
    """Where the face is in a frame, and whether the head is `still`, see `FollowedFrame`."""

    transform: np.ndarray
    still: bool


@dataclass(frozen=True, eq=False)
class FollowedFrame:
    """What is known about the face in one frame of a video.

    Args:
        motion (`np.ndarray` of shape `(len(TRACKED_REGIONS), 2)`): Where each region has gone since the first frame,
            without the head's motion, in percent of the crop's width. Of a frame that cannot be measured, it is the
            motion of the last frame that could.
        reason (`str`, *optional*): Why the frame cannot be measured.
        pose (`HeadPose`): Of the head, relative to the frame in which the face was last placed.
        transform (`np.ndarray` of shape `(2, 3)`): From this frame's pixels to the canonical crop.
        placed (`bool`): The face was looked for anew in this frame. Poses before and after cannot be compared.
        exact (`np.ndarray` of shape `(2, 3)`, *optional*): As `transform`, which is held still while the head hardly
            moves.
        turned (`np.ndarray` of shape `(3, 3)`, *optional*): Rotation of the head since the face was last looked for.
    """

    motion: np.ndarray
    reason: str | None
    pose: HeadPose
    transform: np.ndarray
    placed: bool = False
    exact: np.ndarray | None = None
    turned: np.ndarray | None = None

    @property
    def still(self) -> bool:
        """Whether the head can be followed and has hardly moved since the face was last placed."""
        return self.pose.hardly_moved and self.reason is None

    @property
    def placement(self) -> Placement:
        """What is needed to measure an expression that begins here, to keep it for every frame of a long video."""
        return Placement(self.transform, self.still)

    @property
    def angles(self) -> tuple[float, float, float] | None:
        """Yaw, pitch and roll in degrees, or None of a frame that cannot be measured.

        Yaw (positive: the nose to the right of the picture) and pitch (positive: the nose down) are relative to the
        frame in which the face was last looked for. Roll is the tilt of the face in the picture, clockwise.
        """
        if self.exact is None or self.turned is None:
            return None
        across, down, ahead = self.turned[:, 2]
        yaw, pitch = np.arctan2(across, ahead), np.arcsin(np.clip(down, -1, 1))
        roll = -np.arctan2(self.exact[1, 0], self.exact[0, 0])
        return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))

    @property
    def error(self) -> float:
        """Standard deviation of what the head's turn may leave in `motion`, in percent of the crop's width."""
        return depth_error(self.pose)

    @property
    def upright(self) -> np.ndarray:
        """As `transform`, but it follows the head's smallest motion too. For pictures in which the head is to rest."""
        return self.transform if self.exact is None else self.exact


def track_regions(frames: Iterable[np.ndarray], transform: np.ndarray) -> Iterator[np.ndarray]:
    """Displacement of each region of the atlas since the first frame, frame by frame, without the head's motion.

    Frames are taken one at a time and not kept. With `ClipReader.scan()`, this runs in constant memory.

    Args:
        frames (`Iterable[np.ndarray]`): Frames, (H, W, 3) uint8 RGB.
        transform (`np.ndarray`): (2, 3) transform to the canonical crop of the first frame, from `crop_transform`.

    Yields:
        (len(TRACKED_REGIONS), 2) float32, percent of the crop width, +x right, +y down; zeros for the first frame.
    """
    for frame in follow_face(frames, transform):
        yield frame.motion


def follow_face(
    frames: Iterable[np.ndarray],
    transform: np.ndarray,
    *,
    find: Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> Iterator[FollowedFrame]:
    """Follows head and regions through a video of any length, in constant memory.

    The face is placed anew, and the regions' motion is chained, before the head's pose leaves the range of the fit, or
    when the face comes back after it was lost.

    Args:
        frames (`Iterable[np.ndarray]`): Frames, (H, W, 3) uint8 RGB.
        transform (`np.ndarray`): (2, 3) transform to the canonical crop of the first frame, from `crop_transform`.
        find (`Callable`, *optional*): Gives the transform of a frame, or None where it has no face. Without it, the
            face is expected to come back where it was at first.

    Yields:
        `FollowedFrame`: One per frame. The motion of the first frame is zero.
    """
    side = TRACKING_RESOLUTION
    regions, head, first, lost = _RegionTracker(side), None, transform, 0
    turns = _Turns()
    motion = np.zeros((len(TRACKED_REGIONS), 2), np.float32)
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        placed = head is None
        if placed:
            head, pose, reason = HeadTracker(grey, transform), STILL, None
        else:
            pose = head.follow(grey)
            reason = pose.why_not()
        if reason is not None:
            lost += 1
            if lost >= _PATIENCE and (lost - _PATIENCE) % _PAUSE == 0:
                again = first if find is None else find(frame)
                if again is not None:
                    transform, head = again, HeadTracker(grey, again)
                    regions.restart()
                    turns = _Turns()
                    if find is not None:  # else the next frame has to show that something is there to follow
                        pose, reason, placed = STILL, None, True
        if reason is not None:
            yield FollowedFrame(motion, reason, pose, transform)
            continue
        lost = 0
        crop = _crop_of(grey, transform, pose, side)
        motion = regions.update(crop)
        exact = pose.placed(transform)
        here = transform if np.hypot(*pose.shift) + pose.range_used < _SAME_PLACE else exact
        yield FollowedFrame(motion, None, pose, here, placed, exact, turns.since(pose))
        if pose.range_used > _FAR_TURN or pose.likeness < _FAR_LIKENESS:
            turns.place(pose)
            transform = exact
            head = HeadTracker(grey, transform)
            regions.restart(_crop_of(grey, transform, STILL, side))


class _Turns:
    """The head's rotation over several placements of the face, each of which starts from rest and upright."""

    def __init__(self):
        self._axes = self._turned = np.eye(3)  # the crop's axes in those of the first crop, and the head in them

    def since(self, pose: HeadPose) -> np.ndarray:
        """The rotation from the first placement to a pose that is relative to the last one."""
        return self._axes @ pose.rotation @ self._axes.T @ self._turned

    def place(self, pose: HeadPose) -> None:
        """Makes a pose the new placement."""
        self._turned = self.since(pose)
        cosine, sine = np.cos(np.radians(pose.roll)), np.sin(np.radians(pose.roll))
        self._axes = self._axes @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _crop_of(grey: np.ndarray, transform: np.ndarray, pose: HeadPose, side: int) -> np.ndarray:
    if pose is STILL:
        return warp_to_crop(grey, transform, side, exact=True)
    return warp_head_back(grey, transform, pose, side, exact=True)


class _RegionTracker:
    """Inverse-compositional Lucas-Kanade (Baker & Matthews 2004) on patches instead of a field.

    For each frame, one shift per region is fitted, starting from the previous frame's. The head's motion is undone in
    the crops already, except for the share of an expression that the pose has taken for the head's. It is the
    similarity that most regions follow, and is removed. No part of a face is taken as still: forehead, temples and jaw
    of people move with their expressions, or show hair and background.

    The reference is renewed every `_RENEWAL` frames, so that light and pose may change. The shifts are chained. The
    frame of renewal is measured in the old reference and becomes the new one, so its noise cancels and the chain does
    not drift.
    """

    def __init__(self, side: int):
        self._side = side
        self._blur = 2 * round(0.066 * side) + 1  # far above the width of a wrinkle, below that of shading
        pixels = [np.flatnonzero(ellipse_mask(region_ellipse(*key), side, side)) for key in TRACKED_REGIONS]
        self._pixels = np.concatenate(pixels)
        self._counts = np.array([len(part) for part in pixels])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._patch = np.repeat(np.arange(len(pixels)), self._counts)
        y, x = np.divmod(self._pixels, side)
        self._points = x + 1j * y  # points of the plane are complex numbers
        self._chained = np.zeros(len(TRACKED_REGIONS), complex)
        self._moved = np.zeros(len(TRACKED_REGIONS), complex)
        self._age, self._started = 0, False

    def update(self, crop: np.ndarray) -> np.ndarray:
        image = cv2.GaussianBlur(crop, (0, 0), 0.8) - cv2.blur(crop, (self._blur, self._blur))
        if self._started:
            self._follow(image)
            self._age += 1
        else:
            self._renew(image)
        way = (self._chained + _without_similarity(self._moved)) * (100 / self._side)
        if self._age >= _RENEWAL:
            self._renew(image)
        return np.stack([way.real, way.imag], axis=-1).astype(np.float32)

    def restart(self, crop: np.ndarray | None = None) -> None:
        """Goes on from another placement of the face: from the next crop, or from this one of the current frame."""
        self._chain()
        self._started = False
        if crop is not None:
            self.update(crop)

    def _renew(self, image: np.ndarray) -> None:
        """Makes the frame the new reference."""
        values = image.ravel()[self._pixels]
        contrast = self._centred(values)
        energy = self._sums(contrast * contrast) + 1e-3
        gradients = []
        for axis in ((1, 0), (0, 1)):
            gradient = cv2.Scharr(image, cv2.CV_32F, *axis, scale=1 / 32).ravel()[self._pixels]
            # Changes of the patch's brightness or contrast are not motion (Baker, Gross & Matthews 2003, "project
            # out").
            gradient = self._centred(gradient)
            gradients.append(gradient - (self._sums(gradient * contrast) / energy)[self._patch] * contrast)
        self._values, self._gradients = values, np.float32(gradients)
        gx, gy = self._gradients
        self._damping = _PATCH_PRIOR * self._counts
        xx, xy, yy = self._sums(gx * gx) + self._damping, self._sums(gx * gy), self._sums(gy * gy) + self._damping
        self._inverse = np.stack([yy, -xy, xx]) / (xx * yy - xy * xy)
        self._chain()
        self._age, self._started = 0, True

    def _chain(self) -> None:
        self._chained = self._chained + _without_similarity(self._moved)
        self._moved = np.zeros_like(self._moved)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._starts)

    def _centred(self, values: np.ndarray) -> np.ndarray:
        return values - (self._sums(values) / self._counts)[self._patch]

    def _errors(self, image: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """What is left between the moved patches and the reference, one value per pixel."""
        at = self._points + moved[self._patch]
        maps = np.float32(at.real)[None], np.float32(at.imag)[None]
        return cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)[0] - self._values

    def _follow(self, image: np.ndarray) -> None:
        moved, error = self._fit(image, self._moved)
        if self._age % 4 == 0:
            # A shift that slipped to the next wrinkle recovers when the region is at rest again.
            fresh, fresh_error = self._fit(image, np.zeros_like(self._moved))
            better = fresh_error < 0.98 * error
            moved, error = np.where(better, fresh, moved), np.where(better, fresh_error, error)
        far = np.abs(moved - self._moved) > _LONG_STEP * self._side
        if far.any():
            # If it does not, it is a slip along an edge, such as that of the lip.
            moved = np.where(far & (error > _WORTH * self._variance(image, self._moved)), self._moved, moved)
        self._moved = moved

    def _fit(self, image: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each region's shift in pixels, and the variance of its residual."""
        ixx, ixy, iyy = self._inverse
        for _ in range(4):
            bx, by = np.add.reduceat(self._gradients * self._errors(image, moved), self._starts, axis=1)
            # The prior: a patch without texture follows the head.
            bx, by = bx + self._damping * moved.real, by + self._damping * moved.imag
            step = (ixx * bx + ixy * by) + 1j * (ixy * bx + iyy * by)
            length = np.abs(step)
            moved = moved - step * np.minimum(1, 1.5 / np.maximum(length, 1e-9))
            if length.max() < 0.01:
                break
        moved = np.where(np.abs(moved) > _FARTHEST * self._side, 0, moved)
        return moved, self._variance(image, moved)

    def _variance(self, image: np.ndarray, moved: np.ndarray) -> np.ndarray:
        error = self._errors(image, moved)
        mean = self._sums(error) / self._counts
        return self._sums(error * error) / self._counts - mean * mean


def _without_similarity(moved: np.ndarray) -> np.ndarray:
    """The regions' shifts, complex numbers in pixels, without the similarity that most of them follow."""
    weights, rest = np.ones(len(moved)), moved
    for _ in range(_STEPS):
        weighted = weights[:, None] * _PLACES
        numbers = np.linalg.solve(weighted.conj().T @ _PLACES + 1e-6 * np.eye(2), weighted.conj().T @ moved)
        rest = moved - _PLACES @ numbers
        apart = np.abs(rest)
        reach = 4.685 * 1.4826 * max(float(np.median(apart)), _LEAST_APART)  # Tukey's biweight
        weights = np.where(apart < reach, (1 - (apart / reach) ** 2) ** 2, 0.0)
    return rest


_PLACES = np.array([(1, complex(*region_ellipse(*key)[:2]) - (0.5 + 0.5j)) for key in TRACKED_REGIONS])
_STEPS = 8
_LEAST_APART = 0.03  # pixels, median distance between the regions' shifts and the similarity: noise
_RENEWAL = 200  # frames
_PATCH_PRIOR = 0.05  # (grey levels / pixel)², the gradients of sensor noise alone
_FARTHEST = 0.10  # crop widths; largest shift between two references; a broad smile moves the lip corners by 0.06
