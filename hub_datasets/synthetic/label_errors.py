"""Deliberate errors in the labels of rendered and planted clips, of kinds that coding sheets have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deft_llm.processing.emotion_prototypes import CONVENTIONS

CORRUPTIONS = ("wrong_unit", "missing_unit", "swapped_side", "shifted_apex", "wrong_emotion")


@dataclass
class Labels:
    """An annotator's labels of a clip.

    Args:
        units (`list[tuple[str, str, str]]`): Code, side and intensity of each action unit.
        onset (`int`): Frame number of the onset.
        apex (`int`): Frame number of the apex.
        offset (`int`): Frame number of the offset.
        emotion (`str`, *optional*): The emotion; `None` for a still clip.
    """

    units: list[tuple[str, str, str]]
    onset: int
    apex: int
    offset: int
    emotion: str | None


def corrupt_labels(labels: Labels, rng: np.random.Generator) -> tuple[Labels, str | None]:
    """Adds one applicable error to the labels, and returns it by name. A still clip is not changed.

    Args:
        labels (`Labels`): The correct labels.
        rng (`np.random.Generator`): Random generator.
    """
    if not labels.units:
        return labels, None
    kinds = list(CORRUPTIONS)
    if all(side == "both" for _, side, _ in labels.units):
        kinds.remove("swapped_side")
    kind = str(rng.choice(kinds))
    units, changed = list(labels.units), replace(labels)
    index = int(rng.integers(len(units)))
    code, side, intensity = units[index]
    if kind == "wrong_unit":
        present = {unit[0] for unit in units}
        others = sorted({c for sets in CONVENTIONS["synthetic"].values() for s in sets for c in s} - present)
        units[index] = (str(rng.choice(others)), side, intensity)
        note = f"{kind}:{code}>{units[index][0]}"
    elif kind == "missing_unit":
        del units[index]
        note = f"{kind}:{code}"
    elif kind == "swapped_side":
        index = next(i for i, unit in enumerate(units) if unit[1] != "both")
        code, side, intensity = units[index]
        units[index] = (code, "left" if side == "right" else "right", intensity)
        note = f"{kind}:{code}"
    elif kind == "shifted_apex":
        room = [apex for apex in range(labels.onset + 1, labels.offset + 1) if abs(apex - labels.apex) >= 3]
        changed.apex = int(rng.choice(room)) if room else labels.offset
        note = f"{kind}:{changed.apex - labels.apex:+d}"
    else:
        others = [emotion for emotion in CONVENTIONS["synthetic"] if emotion != labels.emotion]
        changed.emotion = str(rng.choice(others))
        note = f"{kind}:{labels.emotion}>{changed.emotion}"
    changed.units = units
    return changed, note
