"""Which weights are trained, and how: TRL's options for LoRA and quantisation, and ours for stages.

Imports TRL, and with it torch; `arguments` does not, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from trl import ModelConfig

from .stages import StageArguments

LORA_TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class TuningArguments(StageArguments, ModelConfig):
    """TRL's `ModelConfig` and the stage.

    `model_name_or_path` is a whole DEFT to go on from, `dtype` the type of the language model's weights, and adapters
    are added to the language model's projections unless `lora_target_modules` says otherwise.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.lora_target_modules is None:
            self.lora_target_modules = LORA_TARGETS
