import copy
import inspect

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin

from deft_llm.modeling_deft import DeftForConditionalGeneration
from tests.modeling_deft.small_models import CLOSE, FAMILIES, batch, clips, padded, prompt, small_model


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request) -> DeftForConditionalGeneration:
    return small_model(request.param)


@pytest.mark.parametrize(
    "arguments", [{"use_cache": False}, {"cache_implementation": "static"}], ids=["none", "static"]
)
def test_the_kind_of_cache_changes_no_word(model, arguments):
    inputs, options = batch(), {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(**inputs, **options, **arguments), model.generate(**inputs, **options))


def test_beams_of_a_batch_are_the_beams_of_each_prompt(model):
    inputs, rows = batch(), [prompt(7, 8, 9, 10), prompt(20)]
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    together = model.generate(**inputs, **options)[:, -6:]
    for index, row in enumerate(rows):
        alone = model.generate(**padded(row), **{n: inputs[n][index : index + 1] for n in clips(1)}, **options)
        assert torch.equal(alone[0, -6:], together[index])


def test_prompts_with_several_clips_keep_them_apart_under_beams(model):
    first, second = clips(3), [prompt(7, clips=2), prompt(8)]
    inputs = {**padded(*second), **first}
    options = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False, "eos_token_id": None}
    together = model.generate(**inputs, **options)[:, -5:]
    for index, kept in enumerate((slice(0, 2), slice(2, 3))):
        alone = model.generate(**padded(second[index]), **{n: v[kept] for n, v in first.items()}, **options)
        assert torch.equal(alone[0, -5:], together[index])


def cache_of(outputs):
    return outputs["cache" if "cache" in outputs else "past_key_values"]


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_either_name(model, name):
    """transformers 5.24 renamed it; older releases and older callers know the old name."""
    inputs = {**padded(prompt(7, 8, 9)), **clips(1)}
    with torch.no_grad():
        whole = model(**inputs).logits[:, -1]
        first = model(**{**inputs, **{key: inputs[key][:, :-1] for key in ("input_ids", "attention_mask")}})
        text = {"input_ids": inputs["input_ids"][:, -1:], "attention_mask": inputs["attention_mask"]}
        rest = model(**text, **{name: cache_of(first)})
    torch.testing.assert_close(rest.logits[:, -1], whole, **CLOSE)


def test_a_cache_is_continued(model):
    inputs, options = {**padded(prompt(7, 8)), **clips(1)}, {"do_sample": False, "eos_token_id": None}
    whole = model.generate(**inputs, **options, max_new_tokens=8)
    first = model.generate(**inputs, **options, max_new_tokens=4, return_dict_in_generate=True)
    parameters = inspect.signature(model.prepare_inputs_for_generation).parameters
    stock = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    name = "cache" if "cache" in {**parameters, **stock} else "past_key_values"
    rest = model.generate(first.sequences, **options, max_new_tokens=4, **{name: first[name]})
    assert torch.equal(rest, whole)


@pytest.mark.parametrize("kind", ["another model", "the prompt"])
def test_assisted_decoding_changes_no_word(model, kind):
    inputs, options = {**padded(prompt(7, 8, 9, 7, 8)), **clips(1)}, {"do_sample": False, "eos_token_id": None}
    expected = model.generate(**inputs, **options, max_new_tokens=10)
    if kind == "the prompt":
        options["prompt_lookup_num_tokens"] = 3
    else:
        options["assistant_model"] = assistant = copy.deepcopy(model)
        with torch.no_grad():
            assistant.model.connectors["motion"].down.weight.add_(0.3)
    assert torch.equal(model.generate(**inputs, **options, max_new_tokens=10), expected)


def test_max_length_of_the_caller_counts(model):
    inputs, length = {**padded(prompt(7, 8)), **clips(1)}, len(prompt(7, 8))
    options = {"do_sample": False, "eos_token_id": None}
    before, model.generation_config.max_new_tokens = model.generation_config.max_new_tokens, 12
    try:
        assert model.generate(**inputs, **options).shape[1] == length + 12
        assert model.generate(**inputs, **options, max_length=length + 3).shape[1] == length + 3
        assert model.generate(**inputs, **options, max_length=length + 3, max_new_tokens=5).shape[1] == length + 5
        config = GenerationConfig(max_length=length + 4, **options)
        assert model.generate(**inputs, generation_config=config).shape[1] == length + 4
    finally:
        model.generation_config.max_new_tokens = before
