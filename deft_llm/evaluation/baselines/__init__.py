"""Baselines, one small file each, with the interface that every evaluated model has.

    model = make_baseline("svm", labels=("negative", "positive", "surprise"), seed=0)
    model.fit(rows)                     # Uni-MER rows, each with a `label`
    predictions = model.predict(rows)   # rows without labels: [{"scores": [0.2, 0.7, 0.1]}, …]

A row is a mapping with the columns of `hub_datasets.unimer.rows`. A model uses the columns it needs: the baselines use
`flow`; others use apex frames or the whole clip from `video`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

Row = Mapping[str, Any]


class Recogniser(Protocol):
    """Interface of evaluated models. Each fold creates one with `Model(labels=…, seed=…, **config)`."""

    def fit(self, rows: Sequence[Row]) -> None:
        """Trains on training rows, each with a `label` from the label list."""

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Returns one dictionary per row, in order, with `scores`: probabilities in the order of the label list.

        Optional keys: `label` (a label, or `None` if the model abstains; by default the label with the highest score),
        `action_units` (code → probability), `sides` (code → left, right or both), `answer` (text). A clip's prediction
        must not depend on the other clips.
        """


BASELINES = {
    "majority": "majority.MajorityClass",
    "svm": "svm.FlowSVM",
    "ststnet": "ststnet.STSTNetBaseline",
    "off_apexnet": "off_apexnet.OFFApexNetBaseline",
}


def make_baseline(name: str, *, labels: Sequence[str], seed: int = 0, **config: Any) -> Recogniser:
    """Creates an untrained baseline.

    Args:
        name (`str`): A key of `BASELINES`.
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`, *optional*, defaults to `0`): Random seed.
        config: More arguments of the baseline.

    Raises:
        ValueError: The name is not that of a baseline.
    """
    if name not in BASELINES:
        raise ValueError(f"Unknown baseline {name!r}. Known: {', '.join(BASELINES)}.")
    module, class_name = BASELINES[name].split(".")
    # Imported late, because the majority class does not need torch.
    return getattr(import_module(f".{module}", __name__), class_name)(labels=labels, seed=seed, **config)
