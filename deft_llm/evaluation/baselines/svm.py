"""A support-vector machine with a radial kernel on 14 × 14 flow. A deep model should do better than this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from .flow_features import apex_fields


class FlowSVM:
    """SVM on the median-subtracted flow at the apex. Features are scaled by the training rows; classes are balanced.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`, *optional*, defaults to `0`): Random seed.
        side (`int`, *optional*, defaults to `14`): Side of the flow grid in cells.
        c (`float`, *optional*, defaults to `3.0`): Regularisation parameter C.
    """

    needs_video, needs_flow = False, True

    def __init__(self, labels: Sequence[str], seed: int = 0, side: int = 14, c: float = 3.0):
        self.labels, self.side = list(labels), side
        self.model = make_pipeline(StandardScaler(), SVC(C=c, class_weight="balanced", random_state=seed))

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.model.fit(self._features(rows), [row["label"] for row in rows])

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`label` is the SVM's own vote; `scores` are a softmax of its decision function and not calibrated."""
        features = self._features(rows)
        decision = self.model.decision_function(features)
        if decision.ndim == 1:  # two classes
            decision = np.stack([-decision, decision], axis=1)
        known = [self.labels.index(label) for label in self.model.classes_]
        exponent = np.zeros((len(rows), len(self.labels)))
        exponent[:, known] = np.exp(decision - decision.max(1, keepdims=True))
        scores = exponent / exponent.sum(1, keepdims=True)
        votes = self.model.predict(features)
        return [{"scores": row.tolist(), "label": str(label)} for row, label in zip(scores, votes, strict=True)]

    def _features(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return apex_fields(rows, self.side).reshape(len(rows), -1)
