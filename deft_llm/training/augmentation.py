"""Augmentation that keeps clip, labels and text consistent.

Mirroring reverses directions and swaps sides, so flow, labels and sentences are changed together. Photometric changes
apply to pixels only. Noise is added to the flow in proportion to the noise of the clip.
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


# Movements of head and eyes have a side in their name: mirroring turns M61 (eyes left) into M62 (eyes right).
_BY_NAME = {(unit.kind, unit.name): unit.code for unit in ACTION_UNITS.values()}
MIRRORED_UNITS = {
    unit.code: _BY_NAME[unit.kind, _swapped_words(unit.name)]
    for unit in ACTION_UNITS.values()
    if _SIDE.search(unit.name)
}
_LATERAL_CODE = re.compile(rf"\b({'|'.join(MIRRORED_UNITS)})\b")


@dataclass(frozen=True)
class Augmentation:
    """Augments a training clip.

    Args:
        mirror: Probability of mirroring the clip, from 0 to 1.
        appearance_jitter: Strength of changes in brightness, contrast and colour; 0 for none.
        temporal_crop: Largest share of the frames cut off before and after the apex, from 0 to 1.
        flow_noise: Largest noise added to the flow, in units of the clip's own noise; 0 for none.
    """

    mirror: float = 0.0
    appearance_jitter: float = 0.0
    temporal_crop: float = 0.0
    flow_noise: float = 0.0

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator, action_units: Sequence[str]) -> dict:
        """Returns a changed copy of a prepared row.

        Args:
            row: A row from `data.prepare`.
            rng: Random numbers of the clip.
            action_units: Codes of the action units, in the order of the row's labels.

        Raises:
            ValueError: The model has no output for the mirror image of an action unit.
        """
        row = dict(row)
        # All random numbers are drawn, used or not, so that one augmentation does not change the others.
        turned = rng.random() < self.mirror
        cut, colour, noise = rng.spawn(3)
        if turned:
            row = mirrored(row, action_units)
        if self.temporal_crop:
            row = temporally_cropped(row, cut, self.temporal_crop)
        if self.appearance_jitter and row["pixel_values_videos"] is not None:
            row["pixel_values_videos"] = jittered(row["pixel_values_videos"], colour, self.appearance_jitter)
        if self.flow_noise:
            # The level starts at zero, because a model that never sees clean flow takes it for a still face.
            level = self.flow_noise * noise.random()
            row["flow_values_videos"] = noisy(row["flow_values_videos"], noise, level)
        return row


def mirrored(row: Mapping[str, Any], action_units: Sequence[str]) -> dict[str, Any]:
    """Mirrors a clip: reverses columns, negates u, and swaps left and right in motion, labels and texts.

    Args:
        row: A row from `data.prepare`.
        action_units: Codes of the action units, in the order of the row's labels.

    Raises:
        ValueError: The model has no output for the mirror image of an action unit.
    """
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
    row["motion"] = [{**item, "side": _OTHER[item["side"]]} for item in row["motion"]]
    names = [row[key] for key in ("source", "emotion", "emotion_coarse") if row.get(key)]
    row["conversations"] = [
        {**item, "messages": [_mirrored_message(message, names) for message in item["messages"]]}
        for item in row["conversations"]
    ]
    return row


def _position(code: str, action_units: Sequence[str], fallback: int) -> int:
    """Raises `ValueError` if the model has no output for the mirror image of a unit."""
    if code not in action_units:
        raise ValueError(
            f"{action_units[fallback]} is {code} in a mirror, but the model has no output for it; set `mirror` to 0."
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
    """Swaps left and right in a text.

    Args:
        text: The text.
        asks: Whether the text is a question. A question that names both sides is not changed.
        names: Words of the source, in which nothing is swapped.
    """
    if asks and {word.lower() for word in _SIDE.findall(text)} == {"left", "right"}:
        return text
    if not names:
        parts = [text]
    else:
        # Parts with an odd index are names.
        parts = re.split(rf"(?<!\w)({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?!\w)", text)
    for index in range(0, len(parts), 2):
        changed = _LATERAL_CODE.sub(lambda match: MIRRORED_UNITS[match[0]], parts[index])
        parts[index] = _swapped_words(changed)
    return "".join(parts)


def temporally_cropped(row: Mapping[str, Any], rng: np.random.Generator, share: float) -> dict[str, Any]:
    """Cuts frames off both ends of a clip and repeats other frames, so that the apex stays the middle frame.

    Frame 0 (the onset, which flow is measured from) is kept. Pixels and flow get the same frames.

    Args:
        row: A row from `data.prepare`.
        rng: Random numbers of the clip.
        share: Largest share of the frames to cut off, from 0 to 1.
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
    """Changes contrast, brightness and colour of a clip.

    All frames are changed alike, because differences between frames would look like changes of the skin.

    Args:
        pixels: (frames, 3, H, W), normalised.
        rng: Random numbers of the clip.
        strength: Strength of the changes; 0 for none.
    """
    pixels = np.asarray(pixels, np.float32)
    contrast = np.exp(strength * rng.normal(0, 0.3))
    shift = strength * (rng.normal(0, 0.3) + rng.normal(0, 0.1, (1, 3, 1, 1)))
    mean = pixels.mean((0, 2, 3), keepdims=True)
    return ((pixels - mean) * contrast + mean + shift).astype(np.float32)


def noisy(flow: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Adds smooth noise to flow.

    Args:
        flow: (frames, 2, h, w), percent of the crop width.
        rng: Random numbers of the clip.
        level: Standard deviation of the noise, in units of the clip's own errors.
    """
    flow = np.asarray(flow, np.float32)
    deviation = level * flow_noise(flow)
    fields = rng.standard_normal((*flow.shape[:2], *flow.shape[2:])).astype(np.float32)
    # Errors of neighbouring cells are correlated, because the estimator works on windows.
    smooth = np.stack([[cv2.GaussianBlur(channel, (0, 0), 1.0) for channel in frame] for frame in fields])
    return flow + deviation * smooth / max(float(smooth.std()), 1e-8)
