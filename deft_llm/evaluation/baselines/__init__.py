"""Baselines, one small file each, behind the interface that every evaluated model has.

    model = make_baseline("svm", labels=("negative", "positive", "surprise"), seed=0)
    model.fit(rows)                     # Uni-MER rows with a `label` each
    predictions = model.predict(rows)   # rows without any label: [{"scores": [0.2, 0.7, 0.1]}, …]

A row is a mapping with the columns of `hub_datasets.unimer.rows`; a model takes from it what it needs: `flow` here,
apex frames or the whole clip from `video` elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

Row = Mapping[str, Any]


class Recogniser(Protocol):
    """What the protocols train and score. Built as `Model(labels=…, seed=…, **config)`, once a fold."""

    def fit(self, rows: Sequence[Row]) -> None:
        """Trains on rows that hold a `label` of the label list, and nothing but training rows."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """A dictionary a row, in order: `scores`, probabilities in the order of the label list.

        Optional: `label` (a label, or `None` where the model abstains; by default the one with the largest score),
        `action_units` (code → probability), `sides` (code → left, right or both), `answer` (text). A clip's
        prediction must not depend on the other clips it is passed with.
        """


BASELINES = {
    "majority": "majority.MajorityClass",
    "svm": "svm.FlowSVM",
    "ststnet": "ststnet.STSTNetBaseline",
    "off_apexnet": "off_apexnet.OFFApexNetBaseline",
}


def make_baseline(name: str, *, labels: Sequence[str], seed: int = 0, **config: Any) -> Recogniser:
    """A fresh, untrained baseline.

    Raises:
        ValueError: no baseline of this name.
    """
    if name not in BASELINES:
        raise ValueError(f"Unknown baseline {name!r}. Known: {', '.join(BASELINES)}.")
    module, class_name = BASELINES[name].split(".")
    # Imported late: the majority class should not wait for torch.
    return getattr(import_module(f".{module}", __name__), class_name)(labels=labels, seed=seed, **config)
