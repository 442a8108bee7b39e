"""One similarity transform a clip, from its own frame to the canonical crop of `action_units`.

The transform is estimated once, on the onset frame, and applied to every frame: a box or a landmark found again in
each frame jitters by more than a micro-expression moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .action_units import CANONICAL_LANDMARKS


class FaceAlignmentError(ValueError):
    """Landmarks or a box that describe no face in the frame."""


def crop_transform(
    height: int,
    width: int,
    *,
    landmarks: Sequence[Sequence[float]] | None = None,
    box: Sequence[float] | None = None,
) -> np.ndarray:
    """The 2 × 3 matrix that takes frame pixels to the canonical crop's unit square.

    Args:
        height, width: size of the frame in pixels.
        landmarks: (x, y) in pixels of the subject's right eye centre, left eye centre and mouth centre. The
            least-squares similarity to the canonical positions is used (Umeyama 1991).
        box: (left, top, right, bottom) in pixels of a region that is a face crop already.
        With neither, the frame itself is taken for a face crop, as the data sets that ship crops have it; what
        sticks out of its centred square is cut off.

    Raises:
        FaceAlignmentError: both given, a wrong number of values, points that coincide, or a box without area.
    """
    if landmarks is not None and box is not None:
        raise FaceAlignmentError("Give landmarks or a box, not both.")
    if landmarks is not None:
        points = np.asarray(landmarks, np.float64)
        if points.shape != (3, 2) or not np.isfinite(points).all():
            raise FaceAlignmentError(
                "Landmarks must be three (x, y) points in pixels: right eye, left eye (the subject's), mouth centre; "
                f"got an array of shape {points.shape}."
            )
        if np.hypot(*(points[0] - points[1])) < 4:
            raise FaceAlignmentError(f"The eyes stand less than 4 pixels apart: {points[:2].tolist()}.")
        return _similarity(points, np.array(list(CANONICAL_LANDMARKS.values())))
    if box is None:
        extent = min(height, width)
        box = ((width - extent) / 2, (height - extent) / 2, (width + extent) / 2, (height + extent) / 2)
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or box[2] - box[0] < 8 or box[3] - box[1] < 8:
        raise FaceAlignmentError(
            f"A face box must be (left, top, right, bottom), at least 8 pixels wide and high; got {box.tolist()}."
        )
    extent = max(box[2] - box[0], box[3] - box[1])
    left, top = (box[0] + box[2] - extent) / 2, (box[1] + box[3] - extent) / 2
    return np.array([[1 / extent, 0, -left / extent], [0, 1 / extent, -top / extent]])


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    norm = np.sum(a * a)
    cosine = np.sum(a * b) / norm
    sine = np.sum(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / norm
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([rotation, target_mean - rotation @ source_mean])


def warp_to_crop(frame: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Samples the crop at size × size pixels; shrinking averages (no aliasing), growing interpolates.

    Args:
        frame: (H, W) or (H, W, 3) uint8 or float32. transform: from `crop_transform`.
    """
    scale = size * float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.75:  # warpAffine samples points, so blur away what the smaller grid cannot hold
        frame = cv2.GaussianBlur(frame, (0, 0), 0.4 / scale)
    matrix = size * transform
    # Pixel centres lie at half-integers of the unit square.
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    return cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
