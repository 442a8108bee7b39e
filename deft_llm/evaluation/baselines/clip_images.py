"""Reads the images that the baselines learn from: the apex frame, onset and apex, and dynamic images of a clip.

A dynamic image (Bilen et al., Dynamic Image Networks for Action Recognition, CVPR 2016) is a weighted sum of a clip's
frames. The weights here are those of MonuVermaCV/LearNet, `dynamicimage.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deft_llm.processing.aligned_clip import AlignedClip

from .flow_features import field_count, median_subtracted, resized, strain, whole_flow


def check_video(row: Mapping[str, Any]) -> None:
    """Checks that a baseline that reads pixels can use a row.

    Args:
        row (`Mapping[str, Any]`): Uni-MER row.

    Raises:
        ValueError: If the row has no video or lacks a key frame. The message contains the clip id.
    """
    if row.get("video") is None:
        raise ValueError(
            f"Clip {row['clip_id']} has no video, which this baseline requires. Use its flow variant (the same name "
            "with _flow), or build the dataset with videos."
        )
    missing = [name for name in ("onset", "apex", "offset") if row.get(name) is None]
    if missing:
        raise ValueError(
            f"Clip {row['clip_id']} has no {missing[0]} frame, which this baseline requires. Remove the clip, or add "
            "its key frames to the sheet and rebuild the dataset."
        )


def opened(row: Mapping[str, Any]) -> AlignedClip:
    """Opens the video of a row, whose frames are face crops.

    Raises:
        ValueError: If the row has no video, lacks a key frame, or the video cannot be read. The message contains the
            clip id.
    """
    check_video(row)
    key_frames = (row["onset"], row["apex"], row["offset"])
    try:
        return AlignedClip.open(row["video"], face_source="canonical", key_frames=key_frames)
    except ValueError as error:
        raise ValueError(f"Clip {row['clip_id']}: {error}") from error


def apex_images(rows: Sequence[Mapping[str, Any]], side: int) -> np.ndarray:
    """Reads the apex frames in grey.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with video.
        side (`int`): Side of the images in pixels.

    Returns:
        `np.ndarray` of shape `(clips, 1, side, side)`: uint8.
    """
    images = []
    for row in rows:
        clip = opened(row)
        (image,) = clip.crops(side, [row["apex"]], grey=True)
        images.append(image.round().astype(np.uint8)[None])
    return np.stack(images)


def onset_and_apex_images(rows: Sequence[Mapping[str, Any]], side: int) -> np.ndarray:
    """Reads onset and apex frames in colour.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with video.
        side (`int`): Side of the images in pixels.

    Returns:
        `np.ndarray` of shape `(clips, 6, side, side)`: uint8, red, green and blue of the onset, then of the apex.
    """
    images = []
    for row in rows:
        clip = opened(row)
        frames = np.concatenate(list(clip.crops(side, [row["onset"], row["apex"]])), axis=2)
        images.append(frames.transpose(2, 0, 1))
    return np.stack(images)


def rank_weights(frames: int) -> np.ndarray:
    """The weights of a clip's frames in its dynamic image, `(frames,)`: of frame n, Σ (2i − T) / i over i = n … T."""
    numbers = np.arange(1, frames + 1)
    return np.cumsum(((2 * numbers - frames) / numbers)[::-1])[::-1].astype(np.float32)


def dynamic_images(rows: Sequence[Mapping[str, Any]], side: int) -> np.ndarray:
    """Sums the frames from onset to offset to one image per clip, whose values are stretched to 0 … 255.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with video.
        side (`int`): Side of the images in pixels.

    Returns:
        `np.ndarray` of shape `(clips, 3, side, side)`: uint8.
    """
    images = []
    for row in rows:
        clip = opened(row)
        numbers = range(row["onset"], row["offset"] + 1)
        total = np.zeros((side, side, 3), np.float32)
        for weight, frame in zip(rank_weights(len(numbers)), clip.crops(side, numbers), strict=True):
            total += weight * frame
        total -= total.min()
        images.append((255 * total / max(float(total.max()), 1e-6)).astype(np.uint8).transpose(2, 0, 1))
    return np.stack(images)


def dynamic_flows(rows: Sequence[Mapping[str, Any]], side: int, *, fields: int) -> np.ndarray:
    """Sums the flow fields of a clip with the weights of its frames, and adds the strain of the sum.

    The onset is the first frame; its flow is zero. Each sum is divided by its largest absolute value, as a dynamic
    image is stretched to its range, but zero stays zero.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with flow.
        side (`int`): Side of the grid in cells.
        fields (`int`): Number of fields that every clip must have.

    Returns:
        `np.ndarray` of shape `(clips, 3, side, side)`: u, v and strain, float32.

    Raises:
        ValueError: If a row has no usable flow, or a different number of flow fields. The message contains the clip
            id.
    """
    field_count(rows, fields)
    weights = rank_weights(fields + 1)[1:]
    images = []
    for row in rows:
        total = median_subtracted(resized(np.tensordot(weights, whole_flow(row), axes=1), side))
        total = total / max(float(np.abs(total).max()), 1e-6)
        images.append(np.concatenate([total, strain(total)]))
    return np.stack(images).astype(np.float32)
