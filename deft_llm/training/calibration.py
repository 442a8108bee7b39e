"""Temperature scaling of the heads, so that predictions with a probability of 80 % are right in 80 % of the cases.

The logits are divided by a temperature, fitted on held-out clips by maximum likelihood (Guo et al. 2017, "On
calibration of modern neural networks"). This changes the probabilities, but not the predicted class.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

UNKNOWN = -100
# A few clips that are all classified correctly would give a temperature of zero, so the range is bounded.
_BOUNDS = (0.5, 10.0)


def emotion_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fits the temperature of the emotions.

    Args:
        logits: (clips, emotions).
        labels: (clips,) class indices, -100 for unknown.

    Returns:
        The temperature; 1 if no label is known.
    """
    known = labels != UNKNOWN
    logits, labels = logits.double()[known], labels[known]
    return _most_likely(lambda temperature: F.cross_entropy(logits / temperature, labels)) if len(labels) else 1.0


def action_unit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fits the temperature of the action units.

    Args:
        logits: (clips, action_units).
        labels: (clips, action_units), 1 present, 0 absent, -100 unknown.

    Returns:
        The temperature; 1 if no label is known.
    """
    known = labels != UNKNOWN
    logits, labels = logits.double()[known], labels.double()[known]
    if not len(labels):
        return 1.0
    return _most_likely(lambda temperature: F.binary_cross_entropy_with_logits(logits / temperature, labels))


def _most_likely(loss: Callable[[float], torch.Tensor]) -> float:
    bounds = tuple(map(math.log, _BOUNDS))
    found = minimize_scalar(lambda log: float(loss(math.exp(log))), bounds=bounds, method="bounded")
    return math.exp(found.x)
