import pytest
import torch
from transformers import DynamicCache

from deft_llm.modeling_deft import outputs_deft as outputs


@pytest.mark.parametrize("kind", [outputs.DeftModelOutputWithPast, outputs.DeftCausalLMOutputWithPast])
def test_the_cache_has_the_name_of_this_release(kind):
    """transformers 5.24 renamed it, and puts outputs of either name into its generation loop."""
    made = kind(**{outputs.CACHE: DynamicCache()})
    assert list(made) == [outputs.CACHE]
    assert isinstance(made.past_key_values, DynamicCache)


def test_what_is_missing_is_not_there():
    made = outputs.DeftCausalLMOutputWithPast(loss=torch.tensor(1.0), emotion_loss=torch.tensor(0.5))
    assert list(made) == ["loss", "emotion_loss"]
    assert made.to_tuple() == (torch.tensor(1.0), torch.tensor(0.5))
