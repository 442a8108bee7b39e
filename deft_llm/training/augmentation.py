"""Augmentation that keeps clip, labels and text true to one another.

A mirrored face moves the other way and with its other side, so flow, labels and sentences change together. Flow is
measured motion: nothing photometric is ever done to it, and noise is added at the level that the clip itself shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from deft_llm.processing.action_units import ACTION_UNITS
from deft_llm.processing.motion_evidence import flow_noise

_OTHER = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def _swapped_words(text: str) -> str:
    def other(match: re.Match) -> str:
        word = _OTHER[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return _SIDE.sub(other, text)


# Movements of head and eyes have a side in their name: in the mirror M61 (eyes left) is M62 (eyes right).
_BY_NAME = {(unit.kind, unit.name): unit.code for unit in ACTION_UNITS.values()}
MIRRORED_UNITS = {
    unit.code: _BY_NAME[unit.kind, _swapped_words(unit.name)]
    for unit in ACTION_UNITS.values()
    if _SIDE.search(unit.name)
}
_LATERAL_CODE = re.compile(rf"\b({'|'.join(MIRRORED_UNITS)})\b")


@dataclass(frozen=True)
class Augmentation:
    """How much is done to a training clip; see `DataArguments` for each."""

    mirror: float = 0.0
    appearance_jitter: float = 0.0
    temporal_crop: float = 0.0
    flow_noise: float = 0.0

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator, action_units: Sequence[str]) -> dict:
        """A changed copy of a prepared row.

        Args:
            action_units: the codes that the row's label lists are in the order of.
        """
        row = dict(row)
        # Every draw is made whether it is used or not: switching one thing on leaves the others as they were.
        turned = rng.random() < self.mirror
        cut, colour, noise = rng.spawn(3)
        if turned:
            row = mirrored(row, action_units)
        if self.temporal_crop:
            row = temporally_cropped(row, cut, self.temporal_crop)
        if self.appearance_jitter and row["pixel_values_videos"] is not None:
            row["pixel_values_videos"] = jittered(row["pixel_values_videos"], colour, self.appearance_jitter)
        if self.flow_noise:
            # Anything from none: a model that never sees clean flow takes it for stillness.
            level = self.flow_noise * noise.random()
            row["flow_values_videos"] = noisy(row["flow_values_videos"], noise, level)
        return row


def mirrored(row: Mapping[str, Any], action_units: Sequence[str]) -> dict[str, Any]:
    """The clip in a mirror: columns reversed, u negated, left and right exchanged in labels, questions and answers."""
    row = dict(row)
    if row["pixel_values_videos"] is not None:
        row["pixel_values_videos"] = np.ascontiguousarray(np.asarray(row["pixel_values_videos"])[..., ::-1])
    flow = np.array(row["flow_values_videos"])[..., ::-1].copy()
    flow[:, 0] *= -1
    row["flow_values_videos"] = flow
    order = [_position(MIRRORED_UNITS.get(code, code), action_units, index) for index, code in enumerate(action_units)]
    for name in ("au_label", "au_side_label", "au_intensity_label"):
        row[name] = [row[name][index] for index in order]
    row["au_side_label"] = [{1: 2, 2: 1}.get(int(side), int(side)) for side in row["au_side_label"]]
    names = [row[key] for key in ("source", "emotion", "emotion_coarse") if row.get(key)]
    row["conversations"] = [
        {**item, "messages": [_mirrored_message(message, names) for message in item["messages"]]}
        for item in row["conversations"]
    ]
    return row


def _position(code: str, action_units: Sequence[str], fallback: int) -> int:
    """Raises `ValueError` where the mirror image of a unit is none that the model knows."""
    if code not in action_units:
        raise ValueError(
            f"{action_units[fallback]} is {code} in a mirror, which the model has no output for; train with mirror 0."
        )
    return action_units.index(code)


def _mirrored_message(message: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    asks = message["role"] == "user"
    content = [
        {**block, "text": mirrored_text(block["text"], asks=asks, names=names) if block["text"] else block["text"]}
        for block in message["content"]
    ]
    return {**message, "content": content}


def mirrored_text(text: str, *, asks: bool = False, names: Sequence[str] = ()) -> str:
    """The text about the mirrored clip.

    Args:
        asks: it is a question; one that offers left and right to choose from stays as it is.
        names: the source's own words, in which nothing is exchanged.
    """
    if asks and {word.lower() for word in _SIDE.findall(text)} == {"left", "right"}:
        return text
    if not names:
        parts = [text]
    else:
        # Every second part is one of the names.
        parts = re.split(rf"(?<!\w)({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?!\w)", text)
    for index in range(0, len(parts), 2):
        changed = _LATERAL_CODE.sub(lambda match: MIRRORED_UNITS[match[0]], parts[index])
        parts[index] = _swapped_words(changed)
    return "".join(parts)


def temporally_cropped(row: Mapping[str, Any], rng: np.random.Generator, share: float) -> dict[str, Any]:
    """The clip begun later and ended earlier: frames in between are repeated, the apex stays the middle frame.

    Frame 0, the onset that flow is measured from, stays as well. Pixels and flow get the same frames.
    """
    row, flow = dict(row), np.asarray(row["flow_values_videos"])
    last = len(flow)
    apex = (last + 1) // 2
    first = 1 + round(rng.random() * share * (apex - 1))
    end = last - round(rng.random() * share * (last - apex))
    before = np.linspace(first, apex, apex).round().astype(int)
    after = np.linspace(apex, end, last - apex + 1).round().astype(int)[1:]
    frames = np.concatenate([before, after])
    row["flow_values_videos"] = flow[frames - 1]
    if row["pixel_values_videos"] is not None:
        row["pixel_values_videos"] = np.asarray(row["pixel_values_videos"])[np.concatenate([[0], frames])]
    return row


def jittered(pixels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Contrast, brightness and colour of a whole clip (frames, 3, H, W): all frames alike, or something would appear
    to change on a face at rest."""
    pixels = np.asarray(pixels, np.float32)
    contrast = np.exp(strength * rng.normal(0, 0.3))
    shift = strength * (rng.normal(0, 0.3) + rng.normal(0, 0.1, (1, 3, 1, 1)))
    mean = pixels.mean((0, 2, 3), keepdims=True)
    return ((pixels - mean) * contrast + mean + shift).astype(np.float32)


def noisy(flow: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Flow (frames, 2, h, w) with smooth noise of `level` times the deviation of the clip's own errors."""
    flow = np.asarray(flow, np.float32)
    deviation = level * flow_noise(flow)
    fields = rng.standard_normal((*flow.shape[:2], *flow.shape[2:])).astype(np.float32)
    # Errors of flow are alike over the estimator's window, not cell by cell.
    smooth = np.stack([[cv2.GaussianBlur(channel, (0, 0), 1.0) for channel in frame] for frame in fields])
    return flow + deviation * smooth / max(float(smooth.std()), 1e-8)
