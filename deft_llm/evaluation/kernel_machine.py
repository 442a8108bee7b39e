"""A kernel machine on the flow at the apex, which votes beside the networks of recognition mode.

A few hundred clips suit a kernel machine: class-balanced kernel ridge regression with a radial kernel, on u, v and
their magnitude at 14 × 14. What makes it better on people than a plain support-vector machine:

- *Mirror.* The kernel is the sum over a clip and its mirror image, so left and right do not matter.
- *Form without strength.* The kernel is the mean over two normalisations. One divides a clip by its own scale. The
  other divides u and v each by its own, because published flow is often stretched to 8 bits channel by channel, which
  loses their ratio.
- *One scale for all cells.* Standardising each cell by itself would raise the noise of cells that hardly move.
- *Windows.* The kernel of an action unit sees the regions that the unit moves, and little else.
- *Clues.* What is known of a clip without learning, such as the evidence of its action units by rule, is a part of the
  kernel of the classes. How much it counts is chosen on training subjects that were left out: on flow in a known unit
  it helps, and on flow that was stretched to 8 bits it does harm.

Its probabilities come from predictions for training subjects that were left out. No other clip is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold
from sklearn.utils.class_weight import compute_sample_weight

from deft_llm.processing.action_units import action_unit_ellipses

from .baselines.flow_features import median_subtracted, resized

SIDE = 14
RIDGE = 1.0  # divided by a clip's weight; a third and three times as much do about as well
INNER_FOLDS = 10  # at most; folds of training subjects for the probabilities
WINDOW = 2.0  # size of an action unit's window, in sizes of the regions that it moves
OUTSIDE = 0.02  # weight of what lies outside of the window
CLUE_WEIGHTS = (0.0, 0.5, 1.0)  # of the clues, beside a weight of 1 of the flow; one is chosen
_USUAL_SLOPE = 5.0  # logit per decision, about what people give


class KernelMachine:
    """Recognises classes and action units from one field per clip.

    Args:
        classes (`int`): Number of classes.
        codes (`Sequence[str]`, *optional*): The action units.
        ridge (`float`, *optional*): Ridge of the classes, divided by a clip's weight. Units keep `RIDGE`.
        width (`float`, *optional*, defaults to `1.0`): Width of the kernel of the classes, as a multiple of the mean
            squared distance of the training clips from their mean.
    """

    def __init__(self, classes: int, codes: Sequence[str] = (), *, ridge: float = RIDGE, width: float = 1.0):
        self.classes, self.codes = classes, tuple(codes)
        self.ridge, self.width = ridge, width

    def fit(
        self,
        fields: Sequence[np.ndarray],
        targets: np.ndarray,
        subjects: Sequence[str],
        units: np.ndarray | None = None,
        evidence: np.ndarray | None = None,
        clues: np.ndarray | None = None,
    ) -> None:
        """Trains on clips.

        Args:
            fields (`Sequence[np.ndarray]`): Flow at the apex in any unit, (2, h, w) per clip.
            targets (`np.ndarray`): Index of the class, (clips,).
            subjects (`Sequence[str]`): The subject of each clip.
            units (`np.ndarray`, *optional*): 0 or 1 per action unit, (clips, codes); negative where unknown. Needed
                if there are codes.
            evidence (`np.ndarray`, *optional*): What is known of the action units without learning: logits,
                (clips, codes), NaN where nothing is known. How far it is trusted is learned.
            clues (`np.ndarray`, *optional*): What is known of the clips without learning and may help to tell the
                classes, (clips, clues). How much it counts is chosen on training subjects that are left out in turn.
        """
        self.fit_views(clip_views(fields), targets, subjects, units, evidence, clues)

    def fit_views(
        self,
        views: tuple[np.ndarray, np.ndarray],
        targets: np.ndarray,
        subjects: Sequence[str],
        units: np.ndarray | None = None,
        evidence: np.ndarray | None = None,
        clues: np.ndarray | None = None,
    ) -> None:
        """As `fit`, for clips whose features are computed already (`clip_views`)."""
        plain, turned = views
        self.space = _Space(plain, turned, width=self.width)
        kernel = self.space.kernel(plain)
        groups = np.unique(np.asarray(subjects), return_inverse=True)[1]
        self.known, columns = np.unique(targets, return_inverse=True)
        self.clues = None if clues is None else _Clues(clues)
        self._choose(kernel, columns, groups, None if clues is None else self.clues.kernel(clues))
        self.units = None
        if self.codes:
            if evidence is None:
                evidence = np.full(units.shape, np.nan)
            self.units = _Units(self.codes, plain, turned, units, evidence, groups)

    def _choose(self, kernel: np.ndarray, columns: np.ndarray, groups: np.ndarray, added: np.ndarray | None) -> None:
        """Trains the machine of the classes with the weight of the clues that suits left-out subjects best."""
        onehot, weights = np.eye(len(self.known))[columns], compute_sample_weight("balanced", columns)
        least = np.inf
        for weight in CLUE_WEIGHTS if added is not None else CLUE_WEIGHTS[:1]:
            machine = _Ridge(kernel if added is None else kernel + weight * added, onehot, weights, self.ridge)
            held_out, slope, loss = machine.held_out(groups), _USUAL_SLOPE, 0.0
            if held_out is not None:
                slope = most_likely_slope(held_out, columns)
                logs = log_softmax(slope * held_out, axis=1)[np.arange(len(columns)), columns]
                loss = -np.average(logs, weights=weights)
            # With a single subject there is nothing to choose by, and the clues do not count.
            if loss < least:
                self.emotion, self.slope, self.clue_weight, least = machine, slope, weight, loss

    def predict(
        self, fields: Sequence[np.ndarray], evidence: np.ndarray | None = None, clues: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Recognises clips.

        Args:
            fields (`Sequence[np.ndarray]`): Flow at the apex, (2, h, w) per clip.
            evidence (`np.ndarray`, *optional*): As in `fit`, for these clips.
            clues (`np.ndarray`, *optional*): As in `fit`, for these clips. Needed if `fit` got clues.

        Returns:
            Probabilities of the classes, (clips, classes), 0 for a class without a training clip, and of the action
            units, (clips, codes).
        """
        views = _views(fields)
        emotions = self.emotions_of(views, clues)
        if self.units is None:
            return emotions, np.zeros((len(fields), 0))
        if evidence is None:
            evidence = np.full((len(fields), len(self.codes)), np.nan)
        return emotions, self.units.predict(views, evidence)

    def emotions_of(self, plain: np.ndarray, clues: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the classes, (clips, classes), from the first of the two `clip_views` and the clues."""
        kernel = self.space.kernel(plain)
        if self.clue_weight:
            kernel = kernel + self.clue_weight * self.clues.kernel(clues)
        emotions = np.zeros((plain.shape[1], self.classes))
        emotions[:, self.known] = softmax(self.slope * self.emotion.decide(kernel), axis=1)
        return emotions


def clip_views(fields: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The features of the clips and of their mirror images in both normalisations, (2, clips, 3 · SIDE²) each."""
    return _views(fields), _views(_mirrored(fields))


class _Space:
    """The training clips and their mirror images in all normalisations, with the scales that the kernel uses."""

    def __init__(self, plain: np.ndarray, turned: np.ndarray, weights: np.ndarray | float = 1.0, width: float = 1.0):
        self.weights, self.count = weights, plain.shape[1]
        both = np.concatenate([plain, turned], axis=1) * weights
        self.means = both.mean(1, keepdims=True)
        self.clips = both - self.means
        self.widths = width * np.maximum((self.clips**2).mean(1).sum(1), 1e-12)

    def kernel(self, views: np.ndarray) -> np.ndarray:
        """The kernel between clips and the training clips, (clips, training clips)."""
        centred = views * self.weights - self.means
        pairs = zip(centred, self.clips, self.widths, strict=True)
        values = np.mean([rbf_kernel(one, other, gamma=1 / width) for one, other, width in pairs], axis=0)
        return values[:, : self.count] + values[:, self.count :]


class _Clues:
    """The clues of the training clips, each standardised over them, with a radial kernel."""

    def __init__(self, clues: np.ndarray):
        self.mean, deviation = clues.mean(0), clues.std(0)
        # One that is the same in all training clips tells nothing of others.
        self.deviation = np.where(deviation > 1e-6, deviation, np.inf)
        self.clips = self._standardised(clues)

    def _standardised(self, clues: np.ndarray) -> np.ndarray:
        return (clues - self.mean) / self.deviation

    def kernel(self, clues: np.ndarray) -> np.ndarray:
        """The kernel between clips and the training clips. It is doubled because that of `_Space` is a sum of two."""
        return 2 * rbf_kernel(self._standardised(clues), self.clips, gamma=1 / self.clips.shape[1])


class _Ridge:
    """Kernel ridge regression of centred indicator columns with weighted clips."""

    def __init__(self, kernel: np.ndarray, indicators: np.ndarray, weights: np.ndarray, ridge: float = RIDGE):
        self.ridge = ridge
        self.inputs = kernel, indicators - 1 / indicators.shape[1], weights
        self.model = self._fitted(np.arange(len(kernel)))

    def _fitted(self, kept: np.ndarray) -> KernelRidge:
        kernel, values, weights = self.inputs
        model = KernelRidge(alpha=self.ridge, kernel="precomputed")
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
    """The action units: ridge regression of present and absent for each, and one curve for all.

    A few subjects decide how frequent a unit is among the labels. With curves or frequencies of their own, units would
    be least probable where the subject who shows them most is left out.
    """

    def __init__(
        self,
        codes: Sequence[str],
        plain: np.ndarray,
        turned: np.ndarray,
        labels: np.ndarray,
        evidence: np.ndarray,
        groups: np.ndarray,
    ):
        # Units that are the same in all clips have no machine. Laplace's rule of succession gives their probability.
        known = labels >= 0
        self.constant = ((labels * known).sum(0) + 1) / (known.sum(0) + 2)
        # A unit without evidence is judged as if it had the usual one.
        self.usual = np.nanmean(evidence) if not np.isnan(evidence).all() else 0.0
        evidence = np.nan_to_num(evidence, nan=self.usual)
        self.machines: dict[int, tuple[_Space, _Ridge]] = {}
        inputs, truth = [], []
        for number, code in enumerate(codes):
            kept = np.flatnonzero(known[:, number])
            present = labels[kept, number] > 0
            if not 0 < present.sum() < len(present):
                continue
            space = _Space(plain[:, kept], turned[:, kept], _window(code))
            indicators = np.stack([~present, present], axis=1).astype(float)
            weights = compute_sample_weight("balanced", present)
            ridge = _Ridge(space.kernel(plain[:, kept]), indicators, weights)
            self.machines[number] = space, ridge
            held_out = ridge.held_out(groups[kept])
            if held_out is not None:
                inputs.append(np.stack([_USUAL_SLOPE * held_out[:, 1], evidence[kept, number]], axis=1))
                truth.append(present)
        self.trust, self.base = np.ones(2), logit(self.constant.mean()) - self.usual
        if inputs:
            curve = LogisticRegression().fit(np.concatenate(inputs), np.concatenate(truth))
            self.trust, self.base = curve.coef_[0], curve.intercept_[0]

    def predict(self, views: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        evidence = np.nan_to_num(evidence, nan=self.usual)
        probabilities = np.tile(self.constant, (views.shape[1], 1))
        for number, (space, ridge) in self.machines.items():
            decisions = _USUAL_SLOPE * ridge.decide(space.kernel(views))[:, 1]
            probabilities[:, number] = expit(self.trust @ [decisions, evidence[:, number]] + self.base)
        return probabilities


@lru_cache
def _window(code: str) -> np.ndarray | float:
    """Weights of the features for an action unit, (3 · SIDE²,): 1 in the middle of the regions that it moves."""
    centre = (np.arange(SIDE) + 0.5) / SIDE
    y, x = np.meshgrid(centre, centre, indexing="ij")
    window = np.zeros((SIDE, SIDE))
    for cx, cy, rx, ry in action_unit_ellipses(code):
        rx, ry = (max(WINDOW * radius, 1.2 / SIDE) for radius in (rx, ry))  # no window is narrower than a cell
        window = np.maximum(window, np.exp(-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)))
    if not window.any():  # nothing is known of where this unit moves the face
        return 1.0
    return np.tile(np.sqrt(window + OUTSIDE).ravel(), 3)


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


def most_likely_slope(decisions: np.ndarray, columns: np.ndarray) -> float:
    """The factor, from 0.5 to 50, under which the softmax of the decisions makes the classes most probable."""
    rows = np.arange(len(columns))

    def loss(log: float) -> float:
        return -log_softmax(np.exp(log) * decisions, axis=1)[rows, columns].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.5), np.log(50)), method="bounded").x))
