"""The pattern of motion of each action unit over the whole face, with the slack that people's faces need.

`action_units` says where a unit shows first. A muscle also takes along the skin around that place: the frontalis lifts
the forehead with the brow, the zygomaticus lifts the cheek with the lip corner. The patterns here name those parts
too. They come from the course of the muscles and from the descriptions of FACS (Ekman, Friesen & Hager 2002). No value
of a pattern is fitted to recordings, but where the descriptions leave a choice (which parts AU6, AU7 and AU10 take
along), it was made by what separates the labels of 13 subjects of CASME II better.

Faces differ, so a unit has no single pattern. Its pattern is random: shifted, turned, stretched, and with other
weights of its parts. The mean and the covariance of these random patterns describe it (a random effect). What the fit
of the head's motion leaves is described in the same way by a few rigid modes, and the flow's own errors by a smooth
noise that is larger near the border of the crop, where hair and background are.

All fields live on a coarse grid of `GRID` × `GRID` cells and are flattened to `2 · GRID²` numbers, u first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .action_units import ACTION_UNITS, SIDES, Motion, region_ellipse

GRID = 16

# Skin without a region of its own that muscles take along: ellipses on the subject's right, as in `action_units`.
_SKIN = {
    "inner forehead": (0.42, 0.11, 0.07, 0.06),
    "outer forehead": (0.25, 0.11, 0.08, 0.06),
    "outer corner of the eye": (0.17, 0.36, 0.05, 0.06),
    "below the eye": (0.33, 0.47, 0.07, 0.05),
    "lower cheek": (0.24, 0.64, 0.07, 0.07),
    "below the mouth corner": (0.34, 0.85, 0.05, 0.05),
}

# Parts of the units that micro-expressions show most, the most characteristic first. The order of units is that of
# `UNITS_SEEN`; every other testable unit has the motions of `action_units`.
_PARTS: dict[str, tuple[Motion, ...]] = {
    "AU1": (
        Motion("inner brow", ("up",)),
        Motion("inner forehead", ("up",), 0.6),
        Motion("upper lid", ("up",), 0.25),
        Motion("nose root", ("up",), 0.2),
    ),
    "AU2": (
        Motion("outer brow", ("up",)),
        Motion("outer forehead", ("up",), 0.6),
        Motion("upper lid", ("up",), 0.2),
    ),
    "AU4": (
        Motion("inner brow", ("down", "medial")),
        Motion("outer brow", ("down",), 0.5),
        Motion("inner forehead", ("down", "medial"), 0.5),
        Motion("outer forehead", ("down", "medial"), 0.3),
        Motion("upper lid", ("down",), 0.4),
        Motion("nose root", ("down",), 0.4),
    ),
    # The outer ring around the eye closes: cheek and temple are drawn towards the eye.
    "AU6": (
        Motion("cheek", ("up",)),
        Motion("lower lid", ("up",), 0.5),
        Motion("below the eye", ("up",), 0.6),
        Motion("outer corner of the eye", ("medial",), 0.5),
    ),
    # The inner ring closes: the lids approach each other, and the skin beside and below is drawn to the inner corner.
    "AU7": (
        Motion("lower lid", ("up",)),
        Motion("upper lid", ("down",), 1.0),
        Motion("outer corner of the eye", ("medial",), 0.3),
        Motion("below the eye", ("up",), 0.5),
    ),
    # The skin beside the nose rises, the inner brows come down to meet it.
    "AU9": (
        Motion("nose wing", ("up",)),
        Motion("nose root", ("up",), 0.3),
        Motion("upper lip", ("up",), 0.4),
        Motion("below the eye", ("up", "medial"), 0.5),
        Motion("nasolabial fold", ("up",), 0.5),
        Motion("inner brow", ("down",), 0.4),
        Motion("lower lid", ("up",), 0.2),
    ),
    # The fold is lifted and pushed outwards, which bulges the cheek beside it.
    "AU10": (
        Motion("upper lip", ("up",)),
        Motion("nasolabial fold", ("up", "lateral"), 1.0),
        Motion("cheek", ("up", "lateral"), 0.5),
        Motion("nose wing", ("up", "lateral"), 0.4),
    ),
    "AU12": (
        Motion("mouth corner", ("up", "lateral")),
        Motion("nasolabial fold", ("up", "lateral"), 0.6),
        Motion("cheek", ("up", "lateral"), 0.4),
        Motion("lower cheek", ("up", "lateral"), 0.4),
        Motion("below the mouth corner", ("up", "lateral"), 0.5),
        Motion("lower lip", ("lateral",), 0.2),
        Motion("lower lid", ("up",), 0.1),
    ),
    "AU15": (
        Motion("mouth corner", ("down",)),
        Motion("below the mouth corner", ("down",), 0.6),
        Motion("nasolabial fold", ("down",), 0.5),
        Motion("lower cheek", ("down",), 0.4),
        Motion("upper lip", ("down",), 0.2),
    ),
    "AU17": (
        Motion("chin", ("up",)),
        Motion("lower lip", ("up",), 0.6),
        Motion("mouth corner", ("down",), 0.15),
        Motion("below the mouth corner", ("up",), 0.2),
    ),
}
UNITS_SEEN: tuple[str, ...] = tuple(_PARTS)

# Units that may move a face beside the one in question. Units with the motion of another one in this list are left
# out (AU8, AU13, and AU41 to AU46, which all lower the lid).
_BESIDE = tuple(
    code
    for code, unit in ACTION_UNITS.items()
    if unit.testable and unit.motions and code not in ("AU8", "AU13", "AU41", "AU42", "AU44", "AU45", "AU46")
)

# Spread of the random patterns. Set by hand: faces differ by up to 5 % of the crop. Results change little with them.
_SAMPLES = 200
_REACH, _REACH_SPREAD = 1.1, 0.2  # standard deviation of a pull in radii of its ellipse; its logarithmic spread
_SHIFT = 0.04  # crop widths
_TURN = 0.4  # radians
_WEIGHT_SPREAD = 0.3  # logarithmic

# Strength of the parts of the model, as variances relative to that of independent cells.
_SMOOTH, _LENGTH = 1.0, 0.12  # smooth errors of the flow and of the patterns, and their length in crop widths
_WINDOW = 0.08  # length of the flow's own errors, crop widths: about the estimator's window
_BORDER = 3.0  # how fast errors grow outside the face
_RIGID = 0.003
_OTHERS = 0.1  # every other unit
_OWN = 0.3  # deviations of the unit's own pattern from its mean
_OTHER_SIDE = 3.0  # the same unit on the other side, where one side is asked for
_STRONGEST = 5.0  # the strongest unit of a clip, which moves much of the face
_RANK = 24
_LOOSE = 10.0  # units and rigid modes where their motion is estimated and not only allowed for

_CENTRES = (np.arange(GRID) + 0.5) / GRID
_Y, _X = np.meshgrid(_CENTRES, _CENTRES, indexing="ij")


def on_grid(flow: np.ndarray) -> np.ndarray:
    """Averages fields (..., 2, h, w) over the cells of the coarse grid: (..., 2 · GRID²)."""
    rows, columns = (_averaging(size) for size in flow.shape[-2:])
    coarse = rows @ np.asarray(flow, np.float64) @ columns.T
    return coarse.reshape(*coarse.shape[:-3], -1)


@lru_cache(maxsize=8)
def _averaging(size: int) -> np.ndarray:
    """(GRID, size): the share of each of `size` cells in each coarse cell. Each row sums to 1."""
    fine, coarse = np.arange(size) / size, np.arange(GRID)[:, None] / GRID
    overlap = np.minimum(fine + 1 / size, coarse + 1 / GRID) - np.maximum(fine, coarse)
    return np.clip(overlap, 0, None) * GRID


def parts_of(code: str) -> tuple[Motion, ...]:
    """The parts of a unit's pattern, the most characteristic first. Some are not regions of the atlas."""
    return _PARTS.get(code, ACTION_UNITS[code].motions)


@lru_cache(maxsize=128)
def random_patterns(code: str, side: str) -> np.ndarray:
    """Random patterns of one half of a unit, (samples, 2 · GRID²). The first part has length 1 at its centre."""
    if side == "left":
        mirrored = random_patterns(code, "right").reshape(-1, 2, GRID, GRID)[..., ::-1]
        return (mirrored * np.reshape((-1.0, 1.0), (2, 1, 1))).reshape(_SAMPLES, -1)
    rng = np.random.default_rng([ord(letter) for letter in code])
    reach = _REACH * np.exp(_REACH_SPREAD * rng.normal(size=_SAMPLES))
    dx, dy = _SHIFT * rng.normal(size=(2, _SAMPLES))
    turn = _TURN * rng.normal(size=_SAMPLES)
    cosine, sine = np.cos(turn), np.sin(turn)
    fields = np.zeros((_SAMPLES, 2, GRID, GRID))
    for part in parts_of(code):
        cx, cy, rx, ry = _SKIN.get(part.region) or region_ellipse(part.region, side)
        across = np.exp(-0.5 * ((_CENTRES - (cx + dx)[:, None]) / (reach * rx)[:, None]) ** 2)
        along = np.exp(-0.5 * ((_CENTRES - (cy + dy)[:, None]) / (reach * ry)[:, None]) ** 2)
        u, v = part.vector(side)
        vectors = np.exp(_WEIGHT_SPREAD * rng.normal(size=_SAMPLES)) * (cosine * u - sine * v, sine * u + cosine * v)
        fields += vectors.T[:, :, None, None] * (along[:, :, None] * across[:, None, :])[:, None]
    return fields.reshape(_SAMPLES, -1)


@lru_cache(maxsize=128)
def _spread(code: str, side: str) -> np.ndarray:
    patterns = random_patterns(code, side)
    return patterns.T @ patterns / len(patterns)


@lru_cache(maxsize=1)
def noise_covariance() -> np.ndarray:
    """Covariance of the flow's errors, (2 · GRID², 2 · GRID²), up to the clip's own scale."""
    smooth = _SMOOTH * np.exp(-0.5 * _squared_distance() / _LENGTH**2) + np.eye(GRID**2)
    growth = error_growth().ravel()
    return np.kron(np.eye(2), smooth * growth[:, None] * growth)


def _squared_distance() -> np.ndarray:
    x, y = _X.ravel(), _Y.ravel()
    return (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2


@lru_cache(maxsize=1)
def error_growth() -> np.ndarray:
    """How much larger the flow's errors are than in the middle of the face, (GRID, GRID)."""
    outside = np.clip(((_X - 0.5) / 0.48) ** 2 + ((_Y - 0.52) / 0.56) ** 2 - 1, 0, None)
    hair = np.exp(np.clip((0.12 - _Y) / 0.05, -9, 2))
    return np.sqrt(1 + _BORDER * (4 * outside + hair))


@lru_cache(maxsize=1)
def _rigid_covariance() -> np.ndarray:
    """Covariance of what the fit of the head's motion may leave: affine motion, and turns of a curved face."""
    x, y, one, zero = _X - 0.5, _Y - 0.5, np.ones_like(_X), np.zeros_like(_X)
    depth = np.sqrt(np.clip(1 - (x / 0.55) ** 2 - (y / 0.75) ** 2, 0, 1))
    modes = np.array([np.stack(pair).ravel() for part in (one, x, y, depth) for pair in ((part, zero), (zero, part))])
    modes /= np.sqrt((modes**2).mean(1, keepdims=True))
    return modes.T @ modes


@lru_cache(maxsize=1)
def units_covariance() -> np.ndarray:
    """Covariance of the motion of all units that may move a face, each with strength one, (2 · GRID², 2 · GRID²)."""
    return sum(_spread(code, side) for code in _BESIDE for side in SIDES)


@lru_cache(maxsize=1)
def _everything() -> np.ndarray:
    return noise_covariance() + _RIGID * _rigid_covariance() + _OTHERS * units_covariance()


@lru_cache(maxsize=256)
def matched_filters(code: str, side: str) -> dict[str | None, np.ndarray]:
    """The filters that find a unit beside all others: the more a field contains the unit, the larger their product.

    On noise of unit scale the product has a standard deviation of at most 1.

    Args:
        code (`str`): Action unit with motions.
        side (`str`): Both, left or right.

    Returns:
        Strongest unit of the clip -> filter, (2 · GRID²,). Whatever that unit may have moved is explained by it. The
        key `None` is for clips without such a unit, and for this unit itself.
    """
    sides = SIDES if side == "both" else (side,)
    beside = _OTHERS if code in _BESIDE else 0.0
    covariance = _everything()
    for one in SIDES:
        covariance = covariance + ((_OWN if one in sides else _OTHER_SIDE) - beside) * _spread(code, one)
    pattern = sum(random_patterns(code, one).mean(0) for one in sides)
    stronger = [other for other in UNITS_SEEN if other != code]
    bases = np.stack([_main_directions(other) for other in stronger])  # (units, rank, cells)
    solved = np.linalg.solve(covariance, np.vstack([pattern, bases.reshape(-1, len(pattern))]).T).T
    weights, through = solved[0], solved[1:].reshape(bases.shape)
    filters: dict[str | None, np.ndarray] = {None: weights / np.sqrt(weights @ pattern)}
    for other, basis, solution in zip(stronger, bases, through, strict=True):
        inner = np.eye(len(basis)) / _STRONGEST + basis @ solution.T
        beside_it = weights - np.linalg.solve(inner, basis @ weights) @ solution  # Woodbury
        filters[other] = beside_it / np.sqrt(beside_it @ pattern)
    return filters


@lru_cache(maxsize=16)
def _main_directions(code: str) -> np.ndarray:
    """(rank, 2 · GRID²): a few fields whose outer products sum up to nearly the spread of both halves of a unit."""
    patterns = np.vstack([random_patterns(code, side) for side in SIDES]) / np.sqrt(_SAMPLES)
    _, lengths, directions = np.linalg.svd(patterns, full_matrices=False)
    return lengths[:_RANK, None] * directions[:_RANK]


@lru_cache(maxsize=1)
def remainder_operators() -> tuple[np.ndarray, np.ndarray, float]:
    """Splits a field into motion of units, of the head, and errors.

    Returns:
        The operator that gives the errors, the one that gives the head's motion, both (2 · GRID², 2 · GRID²), and the
        factor by which errors in the middle of the face have to be enlarged, because units and head explain a part of
        them.
    """
    noise, rigid = noise_covariance(), _LOOSE * _rigid_covariance()
    units = _LOOSE * units_covariance()
    inverse = np.linalg.inv(noise + rigid + units)
    errors = noise @ inverse
    # Errors of an estimator are smooth over its window, and units explain more of them than of independent ones.
    smooth = np.kron(np.eye(2), np.exp(-0.5 * _squared_distance() / _WINDOW**2))
    inside = np.tile(middle_of_face().ravel(), 2)
    left = errors[inside] / np.tile(error_growth().ravel(), 2)[inside, None]
    return errors, rigid @ inverse, float(np.sqrt(len(left) / np.trace(left @ smooth @ left.T)))


def middle_of_face() -> np.ndarray:
    """The cells in which the flow's errors do not grow, boolean (GRID, GRID)."""
    return error_growth() < 1.5
