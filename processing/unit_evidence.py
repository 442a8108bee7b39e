"""How probable each action unit is, given the motion of the whole face.

The flow at the apex is compared with the pattern of a unit (`unit_patterns`) beside all other units, what the fit of
the head's motion left, and errors. Errors have two parts: those of the measurement, and those of the patterns, which
grow with the motion itself. The result is a *score* for each unit, on both sides together and on each side alone. A
bilateral unit needs evidence in the sum of both sides, not on each side.

Scores become probabilities with a few numbers that are the same for all clips. Units that seldom come alone make each
other more probable (`_COMPANIONS`, after the emotion prototypes of FACS).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .common_deft import SIDE_LABELS
from .key_frames import apex_position
from .unit_patterns import UNITS_SEEN, matched_filters, noise_covariance, on_grid


@dataclass(frozen=True)
class Calibration:
    """Numbers that turn scores into probabilities.

    Args:
        slope (`float`): Logit of a unit per score.
        base (`float`): Logit of a unit with a score of 0.
        faint (`float`): Added for the units of `_FAINT_UNITS`, which show little.
        companion (`float`): Added where both units of a pair of `_COMPANIONS` are present.
    """

    slope: float
    base: float
    faint: float
    companion: float


# Set on people (`benchmarks/science/real_features.py`): these four and the next two numbers. Set on one half of the
# subjects and measured on the other, the shares of units seen rightly and wrongly are nearly the same.
CALIBRATION = Calibration(slope=2.1, base=-3.7, faint=-0.75, companion=1.6)
# Probability from which a unit counts as seen: 5 % of the units without a label reach it.
SEEN = 0.29
_FAINT_UNITS = ("AU6", "AU7", "AU9", "AU10")
_COMPANIONS = (("AU6", "AU12"), ("AU1", "AU2"), ("AU4", "AU7"), ("AU4", "AU9"), ("AU4", "AU10"))

# Errors in percent of the crop width: of the flow where nothing says how large they are, from rendered still clips.
_LEAST_ERROR = 0.02
_STRONG = 1.4  # score from which the strongest unit explains what it may have moved before others are scored
_HARDLY = 0.2  # share of the strongest frame's motion


def apex_frame(flow: np.ndarray) -> int:
    """The frame that the units are sought in: where the sampling of key frames puts the apex.

    If the face hardly moves there, it is the frame in which it moves most. Averages over more frames were tried on
    people; units are seen best at the apex itself.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), head motion removed.
    """
    strength = np.sqrt(np.mean(np.square(flow, dtype=np.float64), axis=(1, 2, 3)))
    apex = apex_position(len(flow) + 1) - 1
    return apex if strength[apex] >= _HARDLY * strength.max() else int(np.argmax(strength))


def unit_scores(
    flow: np.ndarray,
    codes: tuple[str, ...] = UNITS_SEEN,
    *,
    deviation: np.ndarray | None = None,
    after_strongest: bool = True,
) -> dict[str, dict[str, float]]:
    """How clearly the motion of each unit is in a clip, in standard deviations of what is not this unit.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        codes (`tuple[str, ...]`, *optional*): Units with motions, by default those of `unit_patterns.UNITS_SEEN`.
        deviation (`np.ndarray | None`, *optional*): (T, h, w), standard deviation of the flow's errors per axis,
            percent of the crop width.
        after_strongest (`bool`, *optional*, defaults to `True`): Whether what the strongest unit of `UNITS_SEEN` may
            have moved does not count for other units.

    Returns:
        Code -> side (both, left or right) -> score. A negative score means motion against the unit's pattern.
    """
    apex = apex_frame(flow)
    field = on_grid(flow[apex])
    scale = np.hypot(np.sqrt(np.mean(field**2)), _LEAST_ERROR)
    error = None
    if deviation is not None:
        squares = np.square(deviation[apex], dtype=np.float64)
        error = np.sqrt(on_grid(np.stack([squares, squares])))
    noise = None if error is None else error[:, None] * _correlation() * error

    def score(code: str, side: str, beside: str | None = None) -> float:
        weights = matched_filters(code, side)[beside]
        spread = scale if noise is None else np.sqrt(scale**2 + weights @ noise @ weights)
        return float(weights @ field / spread)

    first = {*UNITS_SEEN, *codes} if after_strongest else codes
    found = {code: {side: score(code, side) for side in SIDE_LABELS} for code in first}
    if after_strongest:
        strongest = max(UNITS_SEEN, key=lambda code: max(found[code].values()))
        if max(found[strongest].values()) >= _STRONG:
            beside = [code for code in found if code != strongest]
            found |= {code: {side: score(code, side, strongest) for side in SIDE_LABELS} for code in beside}
    return {code: found[code] for code in codes}


def seen_units(flow: np.ndarray, *, deviation: np.ndarray | None = None) -> dict[str, float]:
    """The probability that each unit of `unit_patterns.UNITS_SEEN` is in a clip on some side, without any label.

    Args:
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width, head motion removed.
        deviation (`np.ndarray | None`, *optional*): As in `unit_scores`.

    Returns:
        Code -> probability. A unit counts as seen from `SEEN` on.
    """
    scores = unit_scores(flow, deviation=deviation)
    strongest = np.array([max(scores[code].values()) for code in UNITS_SEEN])
    return dict(zip(UNITS_SEEN, probabilities(strongest).tolist(), strict=True))


def probabilities(scores: np.ndarray, calibration: Calibration = CALIBRATION) -> np.ndarray:
    """The probabilities of the units of a clip, all together.

    Args:
        scores (`np.ndarray`): (..., K), the largest score of each unit of `unit_patterns.UNITS_SEEN` over the sides.
        calibration (`Calibration`, *optional*): Other numbers than `CALIBRATION`.

    Returns:
        (..., K), probability of each unit, summed over all sets of units that contain it.
    """
    faint = np.isin(UNITS_SEEN, _FAINT_UNITS)
    logits = calibration.slope * scores + calibration.base + calibration.faint * faint
    present, coupling = _combinations()
    weights = logits @ present.T + calibration.companion * coupling
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    return weights @ present / weights.sum(-1, keepdims=True)


def probability_of_score(code: str, score: float) -> float:
    """The probability of a unit given its score alone."""
    faint = CALIBRATION.faint if code in _FAINT_UNITS else 0.0
    return float(1 / (1 + np.exp(-(CALIBRATION.slope * score + CALIBRATION.base + faint))))


@lru_cache(maxsize=1)
def _combinations() -> tuple[np.ndarray, np.ndarray]:
    """Every set of units, (2^K, K), and the number of its companion pairs, (2^K,)."""
    count = len(UNITS_SEEN)
    present = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(float)
    pairs = [[UNITS_SEEN.index(code) for code in pair] for pair in _COMPANIONS]
    return present, sum(present[:, first] * present[:, second] for first, second in pairs)


@lru_cache(maxsize=1)
def _correlation() -> np.ndarray:
    """Correlation of the flow's errors between cells and axes."""
    covariance = noise_covariance()
    deviation = np.sqrt(np.diag(covariance))
    return covariance / deviation[:, None] / deviation
