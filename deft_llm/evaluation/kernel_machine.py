"""A kernel machine on the flow at the apex, which votes beside the networks of recognition mode.

A few hundred clips suit a kernel machine: class-balanced kernel ridge regression with a radial kernel, on u, v and
their magnitude at 14 × 14. What makes it better on people than a plain support-vector machine:

- *Mirror.* The kernel is the sum over a clip and its mirror image, so left and right do not matter.
- *Form without strength.* The kernel is the mean over two normalisations. One divides a clip by its own scale. The
  other divides u and v each by its own, because published flow is often stretched to 8 bits channel by channel, which
  loses their ratio.
- *One scale for all cells.* Standardising each cell by itself would raise the noise of cells that hardly move.

Its probabilities come from predictions for training subjects that were left out. No other clip is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold
from sklearn.utils.class_weight import compute_sample_weight

from .baselines.flow_features import median_subtracted, resized

SIDE = 14
RIDGE = 1.0  # divided by a clip's weight; a third and three times as much do about as well
INNER_FOLDS = 10  # at most; folds of training subjects for the probabilities
_USUAL_SLOPE = 5.0  # where the training rows have one subject, so that none can be left out


class KernelMachine:
    """Recognises classes and action units from one field per clip.

    Args:
        classes (`int`): Number of classes.
    """

    def __init__(self, classes: int):
        self.classes = classes

    def fit(
        self, fields: Sequence[np.ndarray], targets: np.ndarray, units: np.ndarray, subjects: Sequence[str]
    ) -> None:
        """Trains on clips.

        Args:
            fields (`Sequence[np.ndarray]`): Flow at the apex in any unit, (2, h, w) per clip.
            targets (`np.ndarray`): Index of the class, (clips,).
            units (`np.ndarray`): 0 or 1 per action unit, (clips, units); negative where unknown.
            subjects (`Sequence[str]`): The subject of each clip.
        """
        views = zip(_views(fields), _views(_mirrored(fields)), strict=True)
        self.spaces = [_Space(plain, turned) for plain, turned in views]
        kernel = self.kernel(fields)
        groups = np.unique(np.asarray(subjects), return_inverse=True)[1]
        self.known, columns = np.unique(targets, return_inverse=True)
        onehot = np.eye(len(self.known))[columns]
        self.emotion = _Ridge(kernel, onehot, compute_sample_weight("balanced", targets))
        held_out = self.emotion.held_out(groups)
        self.slope = _USUAL_SLOPE
        if held_out is not None:
            rows = np.arange(len(columns))
            self.slope = _most_likely(lambda slope: -log_softmax(slope * held_out, axis=1)[rows, columns].mean())
        self.units = _Units(kernel, units, groups)

    def kernel(self, fields: Sequence[np.ndarray]) -> np.ndarray:
        """The kernel between clips and the training clips, (clips, training clips)."""
        return np.mean([space.kernel(view) for space, view in zip(self.spaces, _views(fields), strict=True)], axis=0)

    def predict(self, fields: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Recognises clips.

        Args:
            fields (`Sequence[np.ndarray]`): Flow at the apex, (2, h, w) per clip.

        Returns:
            Probabilities of the classes, (clips, classes), 0 for a class without a training clip, and of the action
            units, (clips, units).
        """
        kernel = self.kernel(fields)
        emotions = np.zeros((len(fields), self.classes))
        emotions[:, self.known] = softmax(self.slope * self.emotion.decide(kernel), axis=1)
        return emotions, self.units.predict(kernel)


class _Space:
    """One normalisation of the training clips and their mirror images, with the scale that the kernel uses."""

    def __init__(self, plain: np.ndarray, turned: np.ndarray):
        both = np.concatenate([plain, turned])
        self.count, self.mean = len(plain), both.mean(0)
        variance = both.var(0).mean()
        self.gamma = 1 / (both.shape[1] * max(variance, 1e-12))
        self.clips = both - self.mean

    def kernel(self, view: np.ndarray) -> np.ndarray:
        values = rbf_kernel(view - self.mean, self.clips, gamma=self.gamma)
        return values[:, : self.count] + values[:, self.count :]


class _Ridge:
    """Kernel ridge regression of centred indicator columns with weighted clips."""

    def __init__(self, kernel: np.ndarray, indicators: np.ndarray, weights: np.ndarray):
        self.inputs = kernel, indicators - 1 / indicators.shape[1], weights
        self.model = self._fitted(np.arange(len(kernel)))

    def _fitted(self, kept: np.ndarray) -> KernelRidge:
        kernel, values, weights = self.inputs
        model = KernelRidge(alpha=RIDGE, kernel="precomputed")
        return model.fit(kernel[np.ix_(kept, kept)], values[kept], sample_weight=weights[kept])

    def decide(self, kernel: np.ndarray) -> np.ndarray:
        return self.model.predict(kernel)

    def held_out(self, groups: np.ndarray) -> np.ndarray | None:
        """Decisions for each training clip by a model without its subject; `None` if there is one subject only."""
        folds = min(INNER_FOLDS, len(np.unique(groups)))
        if folds < 2:
            return None
        kernel, values, _ = self.inputs
        decisions = np.zeros_like(values)
        for kept, left in GroupKFold(folds).split(kernel, groups=groups):
            decisions[left] = self._fitted(kept).predict(kernel[np.ix_(left, kept)])
        return decisions


class _Units:
    """The action units: ridge regression of present and absent for each, with one slope and one prior for all.

    A few subjects decide how frequent a unit is among the labels. With priors of their own, units would be least
    probable where the subject who shows them most is left out.
    """

    def __init__(self, kernel: np.ndarray, labels: np.ndarray, groups: np.ndarray):
        self.machines: dict[int, tuple[np.ndarray, _Ridge]] = {}
        # Units that are the same in all clips have no machine. Laplace's rule of succession gives their probability.
        known = labels >= 0
        self.constant = ((labels * known).sum(0) + 1) / (known.sum(0) + 2)
        decisions, truth = [], []
        for number, column in enumerate(labels.T):
            kept = np.flatnonzero(column >= 0)
            present = column[kept] > 0
            if not 0 < present.sum() < len(present):
                continue
            indicators = np.stack([~present, present], axis=1).astype(float)
            ridge = _Ridge(kernel[np.ix_(kept, kept)], indicators, compute_sample_weight("balanced", present))
            self.machines[number] = kept, ridge
            truth.append(present)
            decisions.append(ridge.held_out(groups[kept]))
        self.slope = _USUAL_SLOPE
        self.prior = logit(np.concatenate(truth).mean()) if truth else 0.0
        if truth and all(part is not None for part in decisions):
            held_out, signs = np.concatenate(decisions)[:, 1], np.where(np.concatenate(truth), 1, -1)
            self.slope = _most_likely(lambda slope: np.logaddexp(0, -signs * (slope * held_out + self.prior)).mean())

    def predict(self, kernel: np.ndarray) -> np.ndarray:
        probabilities = np.tile(self.constant, (len(kernel), 1))
        for number, (kept, ridge) in self.machines.items():
            probabilities[:, number] = expit(self.slope * ridge.decide(kernel[:, kept])[:, 1] + self.prior)
        return probabilities


def _mirrored(fields: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [field[..., ::-1] * np.array([-1.0, 1.0])[:, None, None] for field in fields]


def _views(fields: Sequence[np.ndarray]) -> np.ndarray:
    """The features in both normalisations, (2, clips, 3 · SIDE²). They do not depend on the unit of the flow."""
    return np.stack([_features(field) for field in fields], axis=1)


def _features(field: np.ndarray) -> np.ndarray:
    field = median_subtracted(np.asarray(field, np.float64))
    peak = np.quantile(np.hypot(*field), 0.95)
    channels = np.sqrt((field**2).mean((1, 2), keepdims=True))
    views = []
    for scale in (peak, channels):
        # A face at rest stays at rest.
        u, v = np.divide(field, scale, out=np.zeros_like(field), where=np.broadcast_to(scale > 0, field.shape))
        views.append(resized(np.stack([u, v, np.hypot(u, v)]), SIDE).ravel())
    return np.stack(views)


def _most_likely(loss: Callable[[float], float]) -> float:
    """The slope of least loss, between 0.5 and 50."""
    found = minimize_scalar(lambda log: loss(np.exp(log)), bounds=(np.log(0.5), np.log(50)), method="bounded")
    return float(np.exp(found.x))
