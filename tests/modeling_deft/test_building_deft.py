import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from deft_llm.modeling_deft import DeftForConditionalGeneration
from tests.modeling_deft.small_models import FAMILIES, OTHERS, TEXTS, VIDEOMAE, VOCABULARY


def test_parts_bring_their_weights():
    torch.manual_seed(1)
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXTS["llama"]))
    structure = AutoModel.from_config(AutoConfig.for_model(**FAMILIES["llama-vit-vit"][1]))
    texture = AutoModel.from_config(AutoConfig.for_model(**VIDEOMAE))
    model = DeftForConditionalGeneration.from_parts(
        text=text, structure=structure, texture=texture, vocab_size=VOCABULARY + 5, **OTHERS
    )
    assert model.get_input_embeddings().num_embeddings == VOCABULARY + 5
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(input_ids=ids).logits[..., :VOCABULARY], text.eval()(ids).logits)
    for name, part in (("structure", structure), ("texture", texture)):
        backbone = getattr(model.model.recognition, f"{name}_expert").backbone
        assert all(torch.equal(value, part.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_parts_from_folders(tmp_path):
    torch.manual_seed(2)
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TEXTS["qwen3"]))
    text.save_pretrained(tmp_path / "text")
    model = DeftForConditionalGeneration.from_parts(
        text=str(tmp_path / "text"), structure=FAMILIES["llama-vit-vit"][1], texture=VIDEOMAE, **OTHERS
    )
    assert torch.equal(model.get_input_embeddings().weight, text.get_input_embeddings().weight)


def test_a_part_that_is_none_is_named():
    with pytest.raises(TypeError, match="`structure` must be"):
        DeftForConditionalGeneration.from_parts(text=TEXTS["qwen3"], structure=3, texture=VIDEOMAE, **OTHERS)
