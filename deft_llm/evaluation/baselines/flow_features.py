"""Converts a row's flow to the small fields that flow-based baselines use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np


def apex_flow(row: Mapping[str, Any]) -> np.ndarray:
    """The flow from onset to apex, which is the middle field of a clip, (2, h, w) float32.

    Raises:
        ValueError: the row has no flow, or it has another shape than (frames, 2, h, w) or values that are not finite.
    """
    return whole_flow(row)[len(row["flow"]) // 2]


def whole_flow(row: Mapping[str, Any]) -> np.ndarray:
    """The flow of all frames, (frames, 2, h, w) float32. Raises the same errors as `apex_flow`."""
    if row["flow"] is None:
        raise ValueError(
            f"Clip {row['clip_id']} has no flow, which this model requires. Remove the clip, or add its key frames to "
            "the sheet and rebuild the dataset."
        )
    flow = np.asarray(row["flow"], np.float32)
    if flow.ndim != 4 or flow.shape[1] != 2 or not flow.shape[0]:
        raise ValueError(f"Clip {row['clip_id']}: flow must have shape (frames, 2, h, w); got {flow.shape}.")
    if not np.isfinite(flow).all():
        raise ValueError(f"Clip {row['clip_id']}: flow contains NaN or infinite values.")
    return flow


def field_count(rows: Sequence[Mapping[str, Any]], fields: int | None = None) -> int:
    """The number of flow fields that all clips have.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with flow.
        fields (`int`, *optional*): The number that they must have; by default that of the first clip.

    Raises:
        ValueError: The flow of a clip has another number of fields or cannot be used. The message names the clip.
    """
    for row in rows:
        found = len(whole_flow(row))
        fields = found if fields is None else fields
        if found != fields:
            raise ValueError(
                f"Clip {row['clip_id']} has {found} flow fields, and other clips have {fields}. Build all sources "
                "with one num_frames, or evaluate each of them alone."
            )
    return fields


def resized(field: np.ndarray, side: int) -> np.ndarray:
    """Resizes (channels, h, w) to (channels, side, side). Shrinking averages cells. Values keep their unit."""
    if field.shape[1:] == (side, side):
        return field
    shrinks = side <= min(field.shape[1:])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(channel, (side, side), interpolation=method) for channel in field])


def median_subtracted(field: np.ndarray) -> np.ndarray:
    """Subtracts each channel's median, which removes remaining head motion."""
    return field - np.median(field, axis=(-2, -1), keepdims=True)


def strain(field: np.ndarray) -> np.ndarray:
    """Optical strain √(ux² + vy² + ½(uy + vx)²) of (2, h, w) flow (Shreve et al. 2011), per cell, (1, h, w)."""
    (uy, ux), (vy, vx) = (np.gradient(channel) for channel in field)
    return np.sqrt(ux**2 + vy**2 + 0.5 * (uy + vx) ** 2)[None]


def apex_fields(rows: Sequence[Mapping[str, Any]], side: int, *, with_strain: bool = False) -> np.ndarray:
    """Median-subtracted u and v at the apex, optionally with strain.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows with flow.
        side (`int`): Side of the grid in cells.
        with_strain (`bool`, *optional*, defaults to `False`): Whether to add optical strain as a third channel.

    Returns:
        `np.ndarray` of shape `(clips, 2 or 3, side, side)`: float32.
    """
    fields = []
    for row in rows:
        field = median_subtracted(resized(apex_flow(row), side))
        fields.append(np.concatenate([field, strain(field)]) if with_strain else field)
    return np.stack(fields).astype(np.float32)
