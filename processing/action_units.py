"""Facial action units (AUs) and the regions they move: the one place in the package that says what an AU is.

Coordinates are those of the *canonical crop*: a square around the face, x from 0 (left of the image) to 1, y from 0
(top) to 1, in which the eye centres and the mouth centre stand at `CANONICAL_LANDMARKS`. Left and right are the
subject's own, so the subject's right side is on the left of the image.

Directions are expectations for the motion seen in the image plane, derived from the muscles' anatomy in the Facial
Action Coding System (Ekman & Friesen; Hager 2002); they are not measured from a data set. "Medial" is towards the
facial midline, "lateral" away from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Eye centres and mouth centre of the canonical crop. With 63 mm between the pupils the crop is 166 mm wide.
CANONICAL_LANDMARKS = {"right_eye": (0.31, 0.35), "left_eye": (0.69, 0.35), "mouth": (0.50, 0.76)}

# Ellipses (cx, cy, rx, ry) on the subject's right, which is the left of the image; the left side mirrors them.
_RIGHT_REGIONS = {
    "inner brow": (0.405, 0.215, 0.060, 0.045),
    "outer brow": (0.250, 0.205, 0.080, 0.045),
    "upper lid": (0.310, 0.315, 0.080, 0.028),
    "lower lid": (0.310, 0.400, 0.085, 0.030),
    "nose wing": (0.425, 0.550, 0.050, 0.045),
    "cheek": (0.270, 0.500, 0.095, 0.070),
    "upper lip": (0.450, 0.705, 0.060, 0.032),
    "mouth corner": (0.355, 0.760, 0.050, 0.045),
    "lower lip": (0.450, 0.815, 0.060, 0.032),
    "chin": (0.445, 0.905, 0.065, 0.050),
}
REGIONS: tuple[str, ...] = tuple(_RIGHT_REGIONS)
SIDES: tuple[str, ...] = ("right", "left")

# Parts of the face that expressions hardly move: what moves here is the head. The nose is left out of the list of the
# strongest because AU9 pulls on it; the fit is robust against one moving part.
STABLE_REGIONS: tuple[tuple[float, float, float, float], ...] = (
    (0.50, 0.075, 0.26, 0.050),  # forehead below the hair line
    (0.09, 0.330, 0.055, 0.110),  # right temple
    (0.91, 0.330, 0.055, 0.110),  # left temple
    (0.50, 0.440, 0.045, 0.060),  # bridge of the nose
    (0.12, 0.640, 0.055, 0.090),  # right ramus of the jaw
    (0.88, 0.640, 0.055, 0.090),  # left ramus of the jaw
)

# Unit steps of a direction word for the subject's right side, image axes (+x right, +y down).
_STEPS = {"up": (0.0, -1.0), "down": (0.0, 1.0), "medial": (1.0, 0.0), "lateral": (-1.0, 0.0)}


@dataclass(frozen=True)
class Motion:
    """What an AU does to one region: `direction` words are combined, `weight` is relative to the AU's strongest."""

    region: str
    direction: tuple[str, ...]
    weight: float = 1.0

    @property
    def phrase(self) -> str:
        """The direction in the words of `motion_evidence.DIRECTIONS`."""
        adverbs = {"medial": "medially", "lateral": "laterally"}
        return " and ".join(adverbs.get(word, word) for word in self.direction)

    def vector(self, side: str) -> np.ndarray:
        """Unit vector (dx, dy) in the image for one side of the face, scaled by `weight`."""
        step = np.sum([_STEPS[word] for word in self.direction], axis=0)
        if side == "left":
            step = step * (-1.0, 1.0)
        return self.weight * step / np.linalg.norm(step)


@dataclass(frozen=True)
class ActionUnit:
    """One row of the table. `action` completes the sentence "In this clip …"."""

    code: str
    name: str
    action: str
    motions: tuple[Motion, ...]


_TABLE = (
    ActionUnit("AU1", "inner brow raiser", "the inner brows rise", (Motion("inner brow", ("up",)),)),
    ActionUnit("AU2", "outer brow raiser", "the outer brows rise", (Motion("outer brow", ("up",)),)),
    ActionUnit(
        "AU4",
        "brow lowerer",
        "the brows lower and draw together",
        (Motion("inner brow", ("down", "medial")), Motion("outer brow", ("down",), 0.5)),
    ),
    ActionUnit("AU5", "upper lid raiser", "the upper lids rise", (Motion("upper lid", ("up",)),)),
    ActionUnit(
        "AU6", "cheek raiser", "the cheeks rise", (Motion("cheek", ("up",)), Motion("lower lid", ("up",), 0.5))
    ),
    ActionUnit("AU7", "lid tightener", "the lower lids tighten upwards", (Motion("lower lid", ("up",)),)),
    ActionUnit(
        "AU9", "nose wrinkler", "the nose wrinkles", (Motion("nose wing", ("up",)), Motion("upper lip", ("up",), 0.4))
    ),
    ActionUnit("AU10", "upper lip raiser", "the upper lip rises", (Motion("upper lip", ("up",)),)),
    ActionUnit(
        "AU12", "lip corner puller", "the lip corners pull up and out", (Motion("mouth corner", ("up", "lateral")),)
    ),
    ActionUnit("AU15", "lip corner depressor", "the lip corners drop", (Motion("mouth corner", ("down",)),)),
    ActionUnit(
        "AU17",
        "chin raiser",
        "the chin pushes up",
        (Motion("chin", ("up",)), Motion("lower lip", ("up",), 0.6)),
    ),
    ActionUnit("AU20", "lip stretcher", "the lips stretch sideways", (Motion("mouth corner", ("lateral",)),)),
    ActionUnit(
        "AU26",
        "jaw drop",
        "the jaw drops",
        (Motion("chin", ("down",)), Motion("lower lip", ("down",), 0.8)),
    ),
)
ACTION_UNITS: dict[str, ActionUnit] = {unit.code: unit for unit in _TABLE}


def get_action_unit(code: str) -> ActionUnit:
    """The table's row for a code such as `"AU4"`. Raises `ValueError` naming an unknown one."""
    try:
        return ACTION_UNITS[code]
    except KeyError:
        raise ValueError(f"Unknown action unit {code!r}. Known: {', '.join(ACTION_UNITS)}.") from None


def region_ellipse(region: str, side: str) -> tuple[float, float, float, float]:
    """Centre and radii (cx, cy, rx, ry) of a region of the atlas in canonical coordinates."""
    cx, cy, rx, ry = _RIGHT_REGIONS[region]
    return (cx, cy, rx, ry) if side == "right" else (1.0 - cx, cy, rx, ry)


def ellipse_mask(ellipse: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """Boolean (height, width) mask of the cells whose centre lies in an ellipse; never empty inside the crop."""
    cx, cy, rx, ry = ellipse
    y, x = np.mgrid[0:height, 0:width]
    distance = (((x + 0.5) / width - cx) / rx) ** 2 + (((y + 0.5) / height - cy) / ry) ** 2
    return distance <= max(1.0, float(distance.min()))


def stable_mask(height: int, width: int) -> np.ndarray:
    """Boolean (height, width) mask of the cells in which motion is the head's, not an expression's."""
    return np.any([ellipse_mask(ellipse, height, width) for ellipse in STABLE_REGIONS], axis=0)


def action_unit_ellipses(code: str) -> list[tuple[float, float, float, float]]:
    """The ellipses, both sides, of every region an AU moves."""
    return [region_ellipse(motion.region, side) for motion in get_action_unit(code).motions for side in SIDES]
