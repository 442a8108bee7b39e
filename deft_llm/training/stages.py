"""The stages of training: which weights a run trains."""

from __future__ import annotations

from dataclasses import dataclass, field

STAGES = ("all", "experts", "connectors", "language")


@dataclass
class StageArguments:
    """Which weights are trained."""

    stage: str = field(
        default="all",
        metadata={
            "help": "What is trained: experts (experts and heads, the language model is not run), connectors, "
            "language, or all."
        },
    )
    expert_learning_rate: float | None = field(
        default=None, metadata={"help": "Of experts, heads and connectors; default: learning_rate."}
    )
