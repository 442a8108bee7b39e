"""Recognition mode that chooses its settings inside the training subjects of each fold (nested cross-validation).

The training subjects are divided into inner folds. Each candidate is trained on all but one inner fold and asked about
the clips of that one. The candidate with the smallest log-loss, balanced over the classes, is trained on all training
rows. Its probabilities are made sharper or softer as its answers in the inner folds ask for. Loss decides and not UF1,
because it varies less between a few hundred clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from deft_llm.hub_datasets.unimer.splits import subject_folds
from deft_llm.processing.unit_patterns import UNITS_SEEN
from deft_llm.training.recognition import RecognitionConfig

from .baselines.flow_features import apex_flow
from .kernel_machine import KernelMachine, clip_views, most_likely_slope
from .recognition import DeftRecogniser, unit_evidence, voted

# Factors on the recipe's own values. The kernel machine alone is always a candidate beside the recipe's share.
RIDGES = (1.0, 0.3, 3.0)
WIDTHS = (1.0, 2.0, 4.0)


def candidates(settings: RecognitionConfig, *, joined: bool = False) -> list[dict[str, Any]]:
    """The settings to choose from; those of the recipe come first.

    Args:
        settings (`RecognitionConfig`): The recipe.
        joined (`bool`, *optional*, defaults to `False`): Whether rows of another dataset may be trained on. Then each
            candidate is there with and without them.

    Raises:
        ValueError: If `kernel_share` is 0, because the recipe then has no kernel machine to tune.
    """
    if settings.kernel_share == 0:
        raise ValueError("--inner chooses settings of the kernel machine, but the recipe has kernel_share: 0.")
    shares = dict.fromkeys((settings.kernel_share, 1.0))
    return [
        {
            **({"joined": used} if joined else {}),
            "kernel_share": share,
            "kernel_ridge": settings.kernel_ridge * ridge,
            "kernel_width": settings.kernel_width * width,
        }
        for used, share, ridge, width in product((True, False)[: 1 + joined], shares, RIDGES, WIDTHS)
    ]


class NestedRecogniser:
    """The interface of `baselines.Recogniser` around `DeftRecogniser` with settings chosen on the training rows.

    Args:
        labels (`Sequence[str]`): The classes.
        seed (`int`): Random seed, also of the inner folds.
        prior (`str | Path`, *optional*): Weights of `train_prior`.
        inner (`int`, *optional*, defaults to `5`): Number of inner folds of training subjects.
        **config: Settings of `RecognitionConfig`.
    """

    def __init__(
        self, labels: Sequence[str], seed: int = 0, prior: str | Path | None = None, inner: int = 5, **config: Any
    ):
        self.labels, self.seed, self.prior, self.inner = list(labels), seed, prior, inner
        self.settings = RecognitionConfig.of(config)

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        own = [row for row in rows if not row.get("joined")]
        others = [row for row in rows if row.get("joined")]
        targets = np.array([self.labels.index(row["label"]) for row in own])
        self.candidates = candidates(self.settings, joined=bool(others))
        opinions = self._inner_opinions(own, others)
        weights = compute_sample_weight("balanced", targets)
        columns = range(len(self.labels))
        losses = [log_loss(targets, scores, sample_weight=weights, labels=columns) for scores in opinions]
        best = int(np.argmin(losses))
        self.sharpness = most_likely_slope(np.log(opinions[best]), targets)
        self.chosen = {**self.candidates[best], "sharpness": self.sharpness, "inner_loss": float(losses[best])}
        self.model = self._model(self.candidates[best])
        self.model.fit([*own, *others] if self.candidates[best].get("joined") else own)
        self.chosen["rule_weight"] = self.model.kernel.clue_weight

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """As `DeftRecogniser.predict`."""
        predictions = self.model.predict(rows)
        logs = np.log(np.clip([item["scores"] for item in predictions], 1e-12, 1))
        scores = softmax(self.sharpness * logs, axis=1).tolist()
        return [{**item, "scores": one} for item, one in zip(predictions, scores, strict=True)]

    def _model(self, chosen: Mapping[str, Any]) -> DeftRecogniser:
        values = {**asdict(self.settings), **{name: value for name, value in chosen.items() if name != "joined"}}
        return DeftRecogniser(self.labels, self.seed, self.prior, **values)

    def _inner_opinions(self, own: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Probabilities for each clip without its subject in training: (candidates, clips, classes)."""
        rows = [*own, *others]
        plain, turned = clip_views([apex_flow(row) for row in rows])
        clues = unit_evidence(rows, UNITS_SEEN)
        targets = np.array([self.labels.index(row["label"]) for row in rows])
        place = {row["clip_id"]: number for number, row in enumerate(own)}
        opinions = np.zeros((len(self.candidates), len(own), len(self.labels)))
        for fold in subject_folds(own, self.inner, self.seed):
            left = [place[clip] for clip in fold.test]
            voters: dict[tuple, np.ndarray] = {}
            for number, candidate in enumerate(self.candidates):
                joined = candidate.get("joined", False)
                kept = [place[clip] for clip in fold.train] + [*range(len(own), len(rows))] * joined
                share, ridge, width = (candidate[f"kernel_{name}"] for name in ("share", "ridge", "width"))
                if (joined, ridge, width) not in voters:
                    machine = KernelMachine(len(self.labels), ridge=ridge, width=width)
                    views = plain[:, kept], turned[:, kept]
                    machine.fit_views(views, targets[kept], [rows[k]["subject"] for k in kept], clues=clues[kept])
                    voters[joined, ridge, width] = machine.emotions_of(plain[:, left], clues[left])
                if share < 1 and joined not in voters:
                    model = self._model({"kernel_share": 0.0})
                    model.fit([rows[k] for k in kept])
                    voters[joined] = np.array([item["scores"] for item in model.predict([rows[k] for k in left])])
                votes = [(voters[joined, ridge, width], share)]
                votes += [(voters[joined], 1 - share)] if share < 1 else []
                opinions[number, left] = voted(*zip(*votes, strict=True))
        return opinions
