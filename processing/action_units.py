"""Facial action units (AUs) and the regions they move. The whole package uses this table.

Coordinates are those of the *canonical crop*: a square around the face, x from 0 (left of the image) to 1, y from 0
(top) to 1. The eye centres and the mouth centre are at `CANONICAL_LANDMARKS`. Left and right are the subject's, so the
subject's right side is on the left of the image.

Names and muscles are those of the Facial Action Coding System, FACS (Ekman, Friesen & Hager 2002). Directions are the
expected motion in the image plane, inferred from the anatomy of the muscles in FACS. They are not measured from a data
set. "Medial" means towards the facial midline, "lateral" away from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Eye centres and mouth centre of the canonical crop. With 63 mm between the pupils the crop is 166 mm wide.
CANONICAL_LANDMARKS = {"right_eye": (0.31, 0.35), "left_eye": (0.69, 0.35), "mouth": (0.50, 0.76)}

# Ellipses (cx, cy, rx, ry) on the subject's right, which is the left of the image. The left side is mirrored.
_RIGHT_REGIONS = {
    "inner brow": (0.405, 0.215, 0.060, 0.045),
    "outer brow": (0.250, 0.205, 0.080, 0.045),
    "upper lid": (0.310, 0.315, 0.080, 0.028),
    "lower lid": (0.310, 0.400, 0.085, 0.030),
    "nose root": (0.462, 0.330, 0.032, 0.042),
    "nose wing": (0.425, 0.550, 0.050, 0.045),
    "cheek": (0.270, 0.500, 0.095, 0.070),
    "nasolabial fold": (0.350, 0.645, 0.036, 0.052),
    "upper lip": (0.450, 0.705, 0.060, 0.032),
    "mouth corner": (0.355, 0.760, 0.050, 0.045),
    "lower lip": (0.450, 0.815, 0.060, 0.032),
    "chin": (0.445, 0.905, 0.065, 0.050),
}
REGIONS: tuple[str, ...] = tuple(_RIGHT_REGIONS)
SIDES: tuple[str, ...] = ("right", "left")

# Unit steps of a direction word for the subject's right side, image axes (+x right, +y down).
_STEPS = {"up": (0.0, -1.0), "down": (0.0, 1.0), "medial": (1.0, 0.0), "lateral": (-1.0, 0.0)}


@dataclass(frozen=True)
class Motion:
    """The effect of an action unit on one region.

    Args:
        region (`str`): Name of the region.
        direction (`tuple[str, ...]`): Directions that are combined: up, down, medial or lateral.
        weight (`float`): Size of the motion relative to the unit's strongest motion.
    """

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
    """One row of the table.

    Args:
        code (`str`): Kind and number, such as `"AU4"`, `"AD19"` (an action descriptor, for which FACS names no muscle
            or does not distinguish how it is done) or `"M57"` (a movement of the head or the eyes).
        name (`str`): FACS name, singular, lower case.
        action (`str`): Completes the sentence "In this clip …".
        motions (`tuple[Motion, ...]`, *optional*): Motion per region, the most characteristic first. Empty if no
            region of the atlas has a direction.
        muscles (`tuple[str, ...]`, *optional*): Anatomical names. Empty if FACS names none.
        testable (`bool`, *optional*, defaults to `True`): Whether flow in the image plane can show the unit. `False`
            for motion along the line of sight, changes of the skin's appearance, motion behind closed lips, and motion
            of the whole head or the eyeball.
    """

    code: str
    name: str
    action: str
    motions: tuple[Motion, ...] = ()
    muscles: tuple[str, ...] = ()
    testable: bool = True

    @property
    def kind(self) -> str:
        """`"AU"`, `"AD"` or `"M"`."""
        return self.code.rstrip("0123456789")

    @property
    def number(self) -> int:
        return int(self.code.removeprefix(self.kind))


_ORBICULARIS_ORIS = ("orbicularis oris",)
_PALPEBRAL = ("orbicularis oculi, pars palpebralis",)
_LEVATOR_RELAXES = ("levator palpebrae superioris (relaxing)",)
_LID_DROPS = (Motion("upper lid", ("down",)),)
_LIDS_MEET = (Motion("upper lid", ("down",)), Motion("lower lid", ("up",), 0.3))
_LIPS_MEET = (Motion("upper lip", ("down",)), Motion("lower lip", ("up",)))

# Units that move the skin. Muscles and names are from FACS; directions are inferred from the course of the muscles.
_FACIAL_ACTIONS = (
    ActionUnit(
        "AU1",
        "inner brow raiser",
        "the inner brows rise",
        (Motion("inner brow", ("up",)),),
        ("frontalis, pars medialis",),
    ),
    ActionUnit(
        "AU2",
        "outer brow raiser",
        "the outer brows rise",
        (Motion("outer brow", ("up",)),),
        ("frontalis, pars lateralis",),
    ),
    ActionUnit(
        "AU4",
        "brow lowerer",
        "the brows lower and draw together",
        (Motion("inner brow", ("down", "medial")), Motion("outer brow", ("down",), 0.5)),
        ("corrugator supercilii", "depressor supercilii", "procerus"),
    ),
    ActionUnit(
        "AU5",
        "upper lid raiser",
        "the upper lids rise",
        (Motion("upper lid", ("up",)),),
        ("levator palpebrae superioris", "superior tarsal muscle"),
    ),
    ActionUnit(
        "AU6",
        "cheek raiser",
        "the cheeks rise",
        (Motion("cheek", ("up",)), Motion("lower lid", ("up",), 0.5)),
        ("orbicularis oculi, pars orbitalis",),
    ),
    ActionUnit(
        "AU7",
        "lid tightener",
        "the lower lids tighten upwards",
        (Motion("lower lid", ("up",)), Motion("upper lid", ("down",), 0.3)),
        _PALPEBRAL,
    ),
    ActionUnit("AU8", "lips toward each other", "the lips draw towards each other", _LIPS_MEET, _ORBICULARIS_ORIS),
    ActionUnit(
        "AU9",
        "nose wrinkler",
        "the nose wrinkles",
        (Motion("nose wing", ("up",)), Motion("nose root", ("up",), 0.4), Motion("upper lip", ("up",), 0.4)),
        ("levator labii superioris alaeque nasi",),
    ),
    ActionUnit(
        "AU10",
        "upper lip raiser",
        "the upper lip rises",
        (Motion("upper lip", ("up",)), Motion("nasolabial fold", ("up",), 0.5)),
        ("levator labii superioris, caput infraorbitale",),
    ),
    ActionUnit(
        "AU11",
        "nasolabial deepener",
        "the folds beside the nose deepen",
        (Motion("nasolabial fold", ("up", "lateral")), Motion("upper lip", ("up", "lateral"), 0.4)),
        ("zygomaticus minor",),
    ),
    ActionUnit(
        "AU12",
        "lip corner puller",
        "the lip corners pull up and out",
        (Motion("mouth corner", ("up", "lateral")), Motion("nasolabial fold", ("up", "lateral"), 0.5)),
        ("zygomaticus major",),
    ),
    ActionUnit(
        "AU13",
        "sharp lip puller",
        "the lip corners pull sharply up",
        (Motion("mouth corner", ("up",)),),
        ("levator anguli oris",),
    ),
    # Pulls the corners inwards along the line of sight, so little motion is visible in the image plane.
    ActionUnit(
        "AU14",
        "dimpler",
        "the lip corners tighten inwards",
        (Motion("mouth corner", ("lateral",)),),
        ("buccinator",),
        testable=False,
    ),
    ActionUnit(
        "AU15",
        "lip corner depressor",
        "the lip corners drop",
        (Motion("mouth corner", ("down",)),),
        ("depressor anguli oris",),
    ),
    ActionUnit(
        "AU16",
        "lower lip depressor",
        "the lower lip drops",
        (Motion("lower lip", ("down",)),),
        ("depressor labii inferioris",),
    ),
    ActionUnit(
        "AU17",
        "chin raiser",
        "the chin pushes up",
        (Motion("chin", ("up",)), Motion("lower lip", ("up",), 0.6)),
        ("mentalis",),
    ),
    ActionUnit(
        "AU18",
        "lip pucker",
        "the lips pucker",
        (Motion("mouth corner", ("medial",)),),
        ("incisivus labii superioris", "incisivus labii inferioris"),
    ),
    ActionUnit(
        "AU20",
        "lip stretcher",
        "the lips stretch sideways",
        (Motion("mouth corner", ("lateral",)),),
        ("risorius", "platysma"),
    ),
    ActionUnit(
        "AU22",
        "lip funneler",
        "the lips push out into a funnel",
        (Motion("mouth corner", ("medial",)), Motion("upper lip", ("up",), 0.4), Motion("lower lip", ("down",), 0.4)),
        _ORBICULARIS_ORIS,
    ),
    # The lips thin and harden or press on each other, which changes appearance more than position.
    ActionUnit("AU23", "lip tightener", "the lips tighten", _LIPS_MEET, _ORBICULARIS_ORIS, testable=False),
    ActionUnit("AU24", "lip pressor", "the lips press together", _LIPS_MEET, _ORBICULARIS_ORIS, testable=False),
    ActionUnit(
        "AU25",
        "lips part",
        "the lips part",
        (Motion("lower lip", ("down",)), Motion("upper lip", ("up",), 0.3)),
        ("depressor labii inferioris", "mentalis (relaxing)", "orbicularis oris (relaxing)"),
    ),
    ActionUnit(
        "AU26",
        "jaw drop",
        "the jaw drops",
        (Motion("chin", ("down",)), Motion("lower lip", ("down",), 0.8)),
        ("masseter (relaxing)", "temporalis (relaxing)", "medial pterygoid (relaxing)"),
    ),
    ActionUnit(
        "AU27",
        "mouth stretch",
        "the mouth stretches open",
        (Motion("chin", ("down",)), Motion("lower lip", ("down",), 0.9), Motion("mouth corner", ("down",), 0.5)),
        ("pterygoids", "digastric"),
    ),
    # The red of the lips disappears into the mouth, so there is nothing to track.
    ActionUnit("AU28", "lip suck", "the lips are sucked in", _LIPS_MEET, _ORBICULARIS_ORIS, testable=False),
    ActionUnit(
        "AU38",
        "nostril dilator",
        "the nostrils widen",
        (Motion("nose wing", ("lateral",)),),
        ("nasalis, pars alaris",),
    ),
    ActionUnit(
        "AU39",
        "nostril compressor",
        "the nostrils narrow",
        (Motion("nose wing", ("medial",)),),
        ("nasalis, pars transversa", "depressor septi nasi"),
    ),
    ActionUnit("AU41", "lid droop", "the upper lids droop", _LID_DROPS, _LEVATOR_RELAXES),
    ActionUnit("AU42", "slit", "the eyes narrow to slits", _LIDS_MEET, _PALPEBRAL),
    ActionUnit("AU43", "eye closure", "the eyes close", _LID_DROPS, _LEVATOR_RELAXES + _PALPEBRAL),
    ActionUnit("AU44", "squint", "the eyes squint", _LIDS_MEET, _PALPEBRAL),
    ActionUnit("AU45", "blink", "the eyes blink", _LID_DROPS, _LEVATOR_RELAXES + _PALPEBRAL),
    ActionUnit("AU46", "wink", "one eye winks", _LID_DROPS, _LEVATOR_RELAXES + _PALPEBRAL),
)

# (code, name, action, muscles) of actions that cannot be compared with a region of the atlas: tongue, teeth and cheeks
# in depth, the whole jaw, head and eyeballs. FACS codes positions of head and eyes as descriptors and their movements
# with M. Left and right are the subject's.
_OTHER_ACTIONS = (
    ("AD19", "tongue show", "the tongue shows", ()),
    ("AU21", "neck tightener", "the neck tightens", ("platysma",)),
    ("AD29", "jaw thrust", "the jaw thrusts forward", ()),
    ("AD30", "jaw sideways", "the jaw moves sideways", ()),
    ("AU31", "jaw clencher", "the jaw clenches", ("masseter",)),
    ("AD32", "lip bite", "the teeth bite the lip", ()),
    ("AD33", "cheek blow", "air is blown through the lips", ()),
    ("AD34", "cheek puff", "the cheeks puff out", ()),
    ("AD35", "cheek suck", "the cheeks are sucked in", ()),
    ("AD36", "tongue bulge", "the tongue bulges the cheek or lip", ()),
    ("AD37", "lip wipe", "the tongue wipes the lips", ()),
    ("AD40", "sniff", "the person sniffs", ()),
    ("AD51", "head turn left", "the head is turned left", ()),
    ("AD52", "head turn right", "the head is turned right", ()),
    ("AD53", "head up", "the head is raised", ()),
    ("AD54", "head down", "the head is lowered", ()),
    ("AD55", "head tilt left", "the head is tilted left", ()),
    ("AD56", "head tilt right", "the head is tilted right", ()),
    ("AD57", "head forward", "the head is held forward", ()),
    ("AD58", "head back", "the head is held back", ()),
    ("AD61", "eyes turn left", "the eyes are turned left", ()),
    ("AD62", "eyes turn right", "the eyes are turned right", ()),
    ("AD63", "eyes up", "the eyes look up", ()),
    ("AD64", "eyes down", "the eyes look down", ()),
    ("AD65", "walleye", "the eyes diverge", ()),
    ("AD66", "cross-eye", "the eyes converge", ()),
    ("M57", "head thrust forward", "the head thrusts forward", ()),
    ("M58", "head thrust back", "the head thrusts back", ()),  # in sheets; FACS itself lists M57 only
    ("M59", "head shake up and down", "the head nods", ()),
    ("M60", "head shake side to side", "the head shakes", ()),
    ("M61", "eyes left", "the eyes move left", ()),
    ("M62", "eyes right", "the eyes move right", ()),
    ("M68", "upward rolling of eyes", "the eyes roll upwards", ()),
)

ACTION_UNITS: dict[str, ActionUnit] = {unit.code: unit for unit in _FACIAL_ACTIONS} | {
    code: ActionUnit(code, name, action, (), muscles, testable=False) for code, name, action, muscles in _OTHER_ACTIONS
}

# Sheets disagree on whether a code is a unit or a descriptor ("AD38" for AU38). The number decides; M has its own.
_BY_CODE = ACTION_UNITS | {
    f"{kind}{unit.number}": unit for unit in ACTION_UNITS.values() if unit.kind != "M" for kind in ("AU", "AD")
}


def get_action_unit(code: str) -> ActionUnit:
    """The row of the table for a code such as `"AU4"`. AU and AD share one numbering, so `"AD38"` gives the row AU38.

    Raises:
        ValueError: the code is unknown.
    """
    try:
        return _BY_CODE[code]
    except KeyError:
        raise ValueError(f"Unknown action unit {code!r}. Known: {', '.join(ACTION_UNITS)}.") from None


def region_ellipse(region: str, side: str) -> tuple[float, float, float, float]:
    """Centre and radii (cx, cy, rx, ry) of a region of the atlas in canonical coordinates."""
    cx, cy, rx, ry = _RIGHT_REGIONS[region]
    return (cx, cy, rx, ry) if side == "right" else (1.0 - cx, cy, rx, ry)


def ellipse_mask(ellipse: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    """Mask of the cells whose centre is in an ellipse. Never empty inside the crop.

    Args:
        ellipse (`tuple[float, float, float, float]`): (cx, cy, rx, ry) in units of the crop.
        height (`int`): Rows of the grid.
        width (`int`): Columns of the grid.

    Returns:
        `np.ndarray` of shape `(height, width)`: Boolean mask.
    """
    cx, cy, rx, ry = ellipse
    y, x = np.mgrid[0:height, 0:width]
    distance = (((x + 0.5) / width - cx) / rx) ** 2 + (((y + 0.5) / height - cy) / ry) ** 2
    return distance <= max(1.0, float(distance.min()))


def action_unit_ellipses(code: str) -> list[tuple[float, float, float, float]]:
    """The ellipses of every region an AU moves, on both sides. Empty if the AU has no region in the atlas."""
    return [region_ellipse(motion.region, side) for motion in get_action_unit(code).motions for side in SIDES]
