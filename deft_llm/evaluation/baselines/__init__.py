"""Baselines, one small file each, with the interface that every evaluated model has.

    model = make_baseline("svm", labels=("negative", "positive", "surprise"), seed=0)
    model.fit(rows)                     # Uni-MER rows, each with a `label`
    predictions = model.predict(rows)   # rows without labels: [{"scores": [0.2, 0.7, 0.1]}, …]

A row is a mapping with the columns of `hub_datasets.unimer.rows`. A baseline's `needs_video` and `needs_flow` say
which columns it reads. Those that read pixels have a variant for rows that hold flow only; its name ends in `_flow`.
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
    "rcn": "rcn.RCNBaseline",
    "micro_attention": "micro_attention.MicroAttention",
    "micro_attention_flow": "micro_attention.MicroAttentionFlow",
    "learnet": "learnet.LEARNetBaseline",
    "learnet_flow": "learnet.LEARNetFlow",
    "affectivenet_style": "affectivenet.AffectiveNetStyle",
    "affectivenet_style_flow": "affectivenet.AffectiveNetStyleFlow",
    "mpt_style": "mpt.MPTStyle",
    "mpt_style_flow": "mpt.MPTStyleFlow",
}


def baseline_class(name: str) -> Any:
    """Imports the class of a baseline. It is imported late, because the majority class does not need torch.

    Args:
        name (`str`): A key of `BASELINES`.

    Raises:
        ValueError: The name is not that of a baseline.
    """
    if name not in BASELINES:
        raise ValueError(f"Unknown baseline {name!r}. Known: {', '.join(BASELINES)}.")
    module, class_name = BASELINES[name].split(".")
    return getattr(import_module(f".{module}", __name__), class_name)


def check_readable(name: str, rows: Sequence[Row]) -> None:
    """Checks that a baseline can read rows.

    Args:
        name (`str`): A key of `BASELINES`.
        rows (`Sequence[Row]`): Uni-MER rows.

    Raises:
        ValueError: A row lacks pixels, key frames or flow that the baseline reads, or has another number of flow
            fields than the others although the baseline needs one number. The message names the clip.
    """
    from .clip_images import check_video
    from .flow_features import field_count, whole_flow

    needed = baseline_class(name)
    try:
        if needed.needs_video:
            for row in rows:
                check_video(row)
        if needed.needs_flow:
            for row in rows:
                whole_flow(row)
        if getattr(needed, "reads_all_fields", False):
            field_count(rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


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
    return baseline_class(name)(labels=labels, seed=seed, **config)
