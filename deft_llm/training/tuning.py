"""TRL's options for LoRA and quantisation, together with our own options for stages.

This module imports TRL and torch; `arguments` does not, so that `--help` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass

from trl import ModelConfig

from .stages import StageArguments

LORA_TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class TuningArguments(StageArguments, ModelConfig):
    """TRL's `ModelConfig` with the options of `StageArguments`. These fields have their own meaning here.

    Args:
        model_name_or_path (`str`, *optional*): A complete DEFT model to start from.
        dtype (`str`): Type of the language model's weights; "auto" for bfloat16 where the processor has instructions
            for it, and otherwise float32.
        lora_target_modules (`list[str]`, *optional*): Modules with adapters; by default the projections of the
            language model.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.lora_target_modules is None:
            self.lora_target_modules = LORA_TARGETS
