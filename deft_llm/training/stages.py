"""The stages of training. A stage is the part of the weights that a run trains."""

from __future__ import annotations

from dataclasses import dataclass, field

STAGES = {
    "all": ("experts", "connectors", "language"),
    "experts": ("experts",),
    "connectors": ("connectors",),
    "language": ("language",),
    "answers": ("connectors", "language"),
}
"""Stage → the parts that it trains. Heads belong to the experts."""


@dataclass
class StageArguments:
    """The weights to train.

    Args:
        stage (`str`): One of `STAGES`.
        expert_learning_rate (`float`, *optional*): Learning rate of experts, heads and connectors.
    """

    stage: str = field(
        default="all",
        metadata={
            "help": "Weights to train: experts (experts and heads; the language model is not run), connectors, "
            "language, answers (connectors and language), or all."
        },
    )
    expert_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of experts, heads and connectors; default: learning_rate."},
    )
