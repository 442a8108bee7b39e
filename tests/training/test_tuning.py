import pytest
import trl

from deft_llm.training.tuning import LORA_TARGETS, TuningArguments


def test_it_is_trls_configuration_with_the_language_models_layers_and_the_stage():
    tuning = TuningArguments()
    assert isinstance(tuning, trl.ModelConfig)
    assert (tuning.stage, tuning.dtype, tuning.lora_target_modules) == ("all", "float32", LORA_TARGETS)
    assert trl.get_peft_config(TuningArguments(use_peft=True, lora_r=4)).target_modules == LORA_TARGETS
    assert TuningArguments(lora_target_modules=["q_proj"]).lora_target_modules == "q_proj"
    with pytest.raises(ValueError, match="8 bit and 4 bit"):
        TuningArguments(load_in_4bit=True, load_in_8bit=True)
