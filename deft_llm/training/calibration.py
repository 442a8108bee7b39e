"""Temperatures: by how much the heads' logits are divided, so that what is said with 80 % is right four times of five.

Fitted on held-out clips by maximum likelihood (Guo et al. 2017, "On calibration of modern neural networks"). They
change how sure an answer is, and never which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

UNKNOWN = -100
# A few clips that are all named rightly would ask for a temperature of zero: certainty that nothing supports.
_BOUNDS = (0.5, 10.0)


def emotion_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Of (clips, emotions) logits and (clips,) labels, -100 for unknown; 1 where none is known."""
    known = labels != UNKNOWN
    logits, labels = logits.double()[known], labels[known]
    return _most_likely(lambda temperature: F.cross_entropy(logits / temperature, labels)) if len(labels) else 1.0


def action_unit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Of (clips, action_units) logits and labels, 1 present, 0 absent, -100 unknown; 1 where none is known."""
    known = labels != UNKNOWN
    logits, labels = logits.double()[known], labels.double()[known]
    if not len(labels):
        return 1.0
    return _most_likely(lambda temperature: F.binary_cross_entropy_with_logits(logits / temperature, labels))


def _most_likely(loss: Callable[[float], torch.Tensor]) -> float:
    bounds = tuple(map(math.log, _BOUNDS))
    found = minimize_scalar(lambda log: float(loss(math.exp(log))), bounds=bounds, method="bounded")
    return math.exp(found.x)
