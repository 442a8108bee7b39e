"""Predicts the most frequent class of the training rows, with the class frequencies as scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class MajorityClass:
    """The most frequent class of the training rows. It reads neither video nor flow."""

    needs_video = needs_flow = False

    def __init__(self, labels: Sequence[str], seed: int = 0):
        self.labels = list(labels)

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        drawn = [row["label"] for row in rows]
        self.scores = [drawn.count(label) / len(drawn) for label in self.labels]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"scores": list(self.scores)} for _ in rows]
