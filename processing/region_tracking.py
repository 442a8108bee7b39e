"""Tracks each region of the face from frame to frame, relative to the head.

Key frames and expressions are found from this inexpensive measurement, two numbers per region and frame. It takes one
pass and keeps a single reference frame, regardless of the video's length. Where the head cannot be followed, it says
why, finds the face again and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from .action_units import REGIONS, SIDES, STABLE_REGIONS, ellipse_mask, region_ellipse
from .face_alignment import warp_to_crop
from .head_motion import STILL, HeadPose, HeadTracker, depth_error, warp_head_back

TRACKING_RESOLUTION = 128  # pixels, side of the grey crop on which regions are followed
# Rows of the arrays that `track_regions` yields.
TRACKED_REGIONS: tuple[tuple[str, str], ...] = tuple((region, side) for region in REGIONS for side in SIDES)
_PATIENCE = 3  # frames without the face before it is looked for again
_PAUSE = 5  # frames between two looks
_FAR_TURN = 0.6  # share of the range of poses at which the face is placed anew
_SAME_PLACE = 0.02  # crop widths and share of the range: below, the face need not be placed anew
_FAR_LIKENESS = 0.6  # likeness below which it is


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
    """

    motion: np.ndarray
    reason: str | None
    pose: HeadPose
    transform: np.ndarray
    placed: bool = False

    @property
    def error(self) -> float:
        """Standard deviation of what the head's turn may leave in `motion`, in percent of the crop's width."""
        return depth_error(self.pose)


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
                    if find is not None:  # else the next frame has to show that something is there to follow
                        pose, reason, placed = STILL, None, True
        if reason is not None:
            yield FollowedFrame(motion, reason, pose, transform)
            continue
        lost = 0
        crop = _crop_of(grey, transform, pose, side)
        motion = regions.update(crop)
        here = transform if np.hypot(*pose.shift) + pose.range_used < _SAME_PLACE else pose.placed(transform)
        yield FollowedFrame(motion, None, pose, here, placed)
        if pose.range_used > _FAR_TURN or pose.likeness < _FAR_LIKENESS:
            transform = pose.placed(transform)
            head = HeadTracker(grey, transform)
            regions.restart(_crop_of(grey, transform, STILL, side))


def _crop_of(grey: np.ndarray, transform: np.ndarray, pose: HeadPose, side: int) -> np.ndarray:
    # float32 before the warp: eight bits after it would round away a tenth of a pixel.
    frame = grey.astype(np.float32)
    if pose.hardly_moved:
        return warp_to_crop(frame, transform, side)
    return warp_head_back(frame, transform, pose, side)


class _RegionTracker:
    """Inverse-compositional Lucas-Kanade (Baker & Matthews 2004) on patches instead of a field.

    For each frame, one similarity is fitted to the stable patches (the head), and one shift per region relative to it.
    Both start from the previous frame's solution. The reference is renewed every `_RENEWAL` frames, so that light and
    pose may change. The shifts are chained. The frame of renewal is measured in the old reference and becomes the new
    one, so its noise cancels and the chain does not drift.
    """

    def __init__(self, side: int):
        self._side, self._centre = side, (side - 1) / 2
        self._blur = 2 * round(0.066 * side) + 1  # far above the width of a wrinkle, below that of shading
        # The forehead is wide enough for three patches. Hair may cover one of them.
        (cx, cy, rx, ry), *others = STABLE_REGIONS
        stable = [(cx + step * 2 * rx / 3, cy, rx / 3, ry) for step in (-1, 0, 1)] + others
        ellipses = stable + [region_ellipse(*key) for key in TRACKED_REGIONS]
        pixels = [np.flatnonzero(ellipse_mask(ellipse, side, side)) for ellipse in ellipses]
        self._pixels = np.concatenate(pixels)
        self._counts = np.array([len(part) for part in pixels])
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._patch = np.repeat(np.arange(len(pixels)), self._counts)
        self._stable, self._stable_pixels = len(stable), int(self._counts[: len(stable)].sum())
        y, x = np.divmod(self._pixels, side)
        # Points and similarities of the plane are complex numbers: z ↦ scale · z + shift about the crop's middle.
        self._points = (x - self._centre) + 1j * (y - self._centre)
        self._scale, self._shift = 1 + 0j, 0j
        self._chained = np.zeros(len(TRACKED_REGIONS), complex)
        self._moved = np.zeros(len(TRACKED_REGIONS), complex)
        self._age, self._previous = 0, None

    def update(self, crop: np.ndarray) -> np.ndarray:
        image = cv2.GaussianBlur(crop, (0, 0), 0.8) - cv2.blur(crop, (self._blur, self._blur))
        if self._previous is None:
            self._renew(image)
        else:
            self._follow_head(image)
            self._follow_regions(image)
            self._age += 1
        self._previous = image
        way = (self._chained + self._moved) * (100 / self._side)
        if self._age >= _RENEWAL:
            self._renew(image)
        return np.stack([way.real, way.imag], axis=-1).astype(np.float32)

    def restart(self, crop: np.ndarray | None = None) -> None:
        """Goes on from another placement of the face: from the next crop, or from this one of the current frame."""
        self._chained, self._moved = self._chained + self._moved, np.zeros_like(self._moved)
        self._scale, self._shift = 1 + 0j, 0j
        self._previous = None
        if crop is not None:
            self.update(crop)

    def _renew(self, image: np.ndarray) -> None:
        """Makes the frame, warped back along the head's motion, the new reference."""
        middle = complex(self._centre, self._centre)
        shift = self._shift + middle - self._scale * middle
        matrix = np.array(
            [[self._scale.real, -self._scale.imag, shift.real], [self._scale.imag, self._scale.real, shift.imag]]
        )
        reference = cv2.warpAffine(
            image, matrix, image.shape, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        values = reference.ravel()[self._pixels]
        contrast = self._centred(values)
        energy = self._sums(contrast * contrast) + 1e-3
        gradients = []
        for axis in ((1, 0), (0, 1)):
            gradient = cv2.Scharr(reference, cv2.CV_32F, *axis, scale=1 / 32).ravel()[self._pixels]
            # Changes of the patch's brightness or contrast are not motion (Baker, Gross & Matthews 2003, "project
            # out").
            gradient = self._centred(gradient)
            gradients.append(gradient - (self._sums(gradient * contrast) / energy)[self._patch] * contrast)
        self._values, self._gradients = values, np.float32(gradients)
        gx, gy = self._gradients
        self._damping = _PATCH_PRIOR * self._counts
        xx, xy, yy = self._sums(gx * gx) + self._damping, self._sums(gx * gy), self._sums(gy * gy) + self._damping
        self._inverse = np.stack([yy, -xy, xx]) / (xx * yy - xy * xy)
        # The head: u = a + c·x − d·y, v = b + d·x + c·y.
        gx, gy = self._gradients[:, : self._stable_pixels]
        x, y = self._points[: self._stable_pixels].real, self._points[: self._stable_pixels].imag
        self._jacobian = np.float32([gx, gy, gx * x + gy * y, gy * x - gx * y])
        products = self._jacobian[:, None] * self._jacobian[None]
        self._hessians = np.add.reduceat(products, self._starts[: self._stable], axis=2).transpose(2, 0, 1)
        self._chained = self._chained + self._moved
        self._moved = np.zeros_like(self._moved)
        self._age = 0

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._starts)

    def _centred(self, values: np.ndarray) -> np.ndarray:
        return values - (self._sums(values) / self._counts)[self._patch]

    def _sample(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        at = points + complex(self._centre, self._centre)
        maps = np.float32(at.real)[None], np.float32(at.imag)[None]
        return cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)[0]

    def _follow_head(self, image: np.ndarray) -> None:
        if self._fit_head(image):
            return
        # The motion is too large for the fit: a quick turn, or few frames per second. Start from the frames' shift.
        (dx, dy), _ = cv2.phaseCorrelate(self._previous, image)
        self._shift += complex(dx, dy)
        if not self._fit_head(image):
            # A cut or a covered face: this frame cannot be related to the reference.
            self._scale, self._shift = 1 + 0j, 0j
            self._renew(image)

    def _fit_head(self, image: np.ndarray) -> bool:
        """Fits the similarity that most stable patches follow. Returns whether they then look like the reference."""
        count = self._stable_pixels
        points, values = self._points[:count], self._values[:count]
        weights = np.ones(self._stable)
        before = self._scale, self._shift
        for round_ in range(6):
            error = self._sample(image, self._scale * points + self._shift) - values
            steps = np.add.reduceat(self._jacobian * error, self._starts[: self._stable], axis=1).T
            system = np.tensordot(weights, self._hessians, 1) + 1e-3 * np.eye(4)
            a, b, c, d = np.linalg.solve(system, weights @ steps)
            self._shift -= self._scale * complex(a, b)
            self._scale *= 1 - complex(c, d)
            if round_:  # the residual of each patch tells which do not follow the head (Tukey's biweight)
                left = steps - self._hessians @ np.array([a, b, c, d])
                ixx, ixy, iyy = self._inverse[:, : self._stable]
                distance = np.hypot(ixx * left[:, 0] + ixy * left[:, 1], ixy * left[:, 0] + iyy * left[:, 1])
                scale = 4.685 * 1.4826 * max(float(np.median(distance)), 0.02)
                weights = np.where(distance < scale, (1 - (distance / scale) ** 2) ** 2, 0.0)
            if round_ > 1 and max(abs(a), abs(b)) < 0.005:
                break
        trusted = np.repeat(weights > 0, self._counts[: self._stable])
        fetched = self._sample(image, self._scale * points + self._shift)[trusted]
        expected = values[trusted]
        alike = float(fetched @ expected) >= 0.5 * float(np.linalg.norm(fetched) * np.linalg.norm(expected))
        if not (alike and 0.5 < abs(self._scale) < 2 and abs(self._shift) < self._side):
            self._scale, self._shift = before
            return False
        return True

    def _follow_regions(self, image: np.ndarray) -> None:
        moved, error = self._fit_regions(image, self._moved)
        if self._age % 4 == 0:
            # A shift that slipped to the next wrinkle recovers when the region is at rest again.
            fresh, fresh_error = self._fit_regions(image, np.zeros_like(self._moved))
            moved = np.where(fresh_error < 0.98 * error, fresh, moved)
        self._moved = moved

    def _fit_regions(self, image: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each region's shift in pixels, and the variance of its residual."""
        points, values = self._points[self._stable_pixels :], self._values[self._stable_pixels :]
        starts = self._starts[self._stable :] - self._stable_pixels
        patch, counts = self._patch[self._stable_pixels :] - self._stable, self._counts[self._stable :]
        ixx, ixy, iyy = self._inverse[:, self._stable :]
        for _ in range(4):
            error = self._sample(image, self._scale * (points + moved[patch]) + self._shift) - values
            bx, by = np.add.reduceat(self._gradients[:, self._stable_pixels :] * error, starts, axis=1)
            # The prior: a patch without texture follows the head.
            bx, by = bx + self._damping[self._stable :] * moved.real, by + self._damping[self._stable :] * moved.imag
            step = (ixx * bx + ixy * by) + 1j * (ixy * bx + iyy * by)
            length = np.abs(step)
            moved = moved - step * np.minimum(1, 1.5 / np.maximum(length, 1e-9))
            if length.max() < 0.01:
                break
        moved = np.where(np.abs(moved) > _FARTHEST * self._side, 0, moved)
        error = self._sample(image, self._scale * (points + moved[patch]) + self._shift) - values
        mean = np.add.reduceat(error, starts) / counts
        return moved, np.add.reduceat(error * error, starts) / counts - mean * mean


_RENEWAL = 200  # frames
_PATCH_PRIOR = 0.05  # (grey levels / pixel)², the gradients of sensor noise alone
_FARTHEST = 0.10  # crop widths; largest shift between two references; a broad smile moves the lip corners by 0.06
