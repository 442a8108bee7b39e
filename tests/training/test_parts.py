import copy
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
)

from deft_llm.training import parts
from deft_llm.training.collator import DeftCollator
from deft_llm.training.parts import (
    adapters_in_half_precision,
    add_adapters,
    build_model,
    cast_language_model,
    load_model,
    merged,
    part_of,
    part_of_parameter,
    quantization_config,
    set_stage,
)
from deft_llm.training.stages import STAGES
from deft_llm.training.tuning import TuningArguments


@pytest.fixture(scope="module")
def batch(processor, prepared):
    batch = DeftCollator(processor, {"explain": 1}, 0.0)([prepared[0], prepared[1]])
    batch.pop("clip_ids")
    return batch


def parts_with_gradient(model):
    return {part_of_parameter(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_pretrained_parts_are_put_in_their_places(model_arguments, dataset, tmp_path):
    """From folders, as they would come from the Hub: the tokenizer knows neither placeholders nor turns."""
    torch.manual_seed(1)
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    bare.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|endoftext|>")
    config = AutoConfig.for_model(
        **{**model_arguments.text, "tie_word_embeddings": False, "vocab_size": len(tokenizer)}
    )
    language = AutoModelForCausalLM.from_config(config)
    backbones = {
        name: AutoModel.from_config(AutoConfig.for_model(**getattr(model_arguments, name)))
        for name in ("structure", "texture")
    }
    for name, part in {"text": language, **backbones}.items():
        part.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / "text")
    folders = {name: str(tmp_path / name) for name in ("text", "structure", "texture")}
    model, processor = build_model(replace(model_arguments, **folders, chat_template="chatml"), dataset)
    assert model.config.emotion_token
    assert processor.motion_tokens == model.config.motion_tokens == len(processor.action_units) + 1
    for name, expert in (
        ("structure", model.model.recognition.structure_expert),
        ("texture", model.model.recognition.texture_expert),
    ):
        for key, value in backbones[name].state_dict().items():
            assert torch.equal(expert.backbone.state_dict()[key], value), key
    rows = slice(0, config.vocab_size)
    assert torch.equal(model.get_input_embeddings().weight[rows], language.get_input_embeddings().weight)
    assert torch.equal(model.lm_head.weight[rows], language.lm_head.weight)
    assert not torch.equal(model.lm_head.weight[rows], model.get_input_embeddings().weight[rows])
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) == config.vocab_size + 6
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_a_part_can_be_a_config_on_the_command_line():
    assert part_of('{"model_type": "vit"}') == {"model_type": "vit"}
    assert part_of("org/model") == "org/model"


def test_a_dataset_without_labels_is_refused(model_arguments, dataset):
    still = dataset.filter(lambda row: row["emotion"] is None)
    with pytest.raises(ValueError, match="has 0 emotions and 0 action units"):
        build_model(model_arguments, still)


@pytest.mark.parametrize("option", ["text", "structure", "texture"])
def test_a_part_that_cannot_be_read_is_named(model_arguments, dataset, option):
    with pytest.raises(
        FileNotFoundError, match=rf"`{option}` is nobody/nothing, which is neither a folder nor a readable Hub"
    ):
        build_model(replace(model_arguments, **{option: "nobody/nothing"}), dataset)


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_trains_its_own_weights_and_no_others(model, batch, stage):
    own = copy.deepcopy(model).train()
    set_stage(own, stage)
    own(**batch).loss.backward()
    expected = set(STAGES[stage])
    assert parts_with_gradient(own) == expected


@pytest.fixture(scope="module")
def adapted(model, processor, folder, batch, tmp_path_factory):
    """LoRA on a copy of the model, a step trained and saved: (model, adapter's folder)."""
    torch.manual_seed(0)
    own = copy.deepcopy(model)
    wrapped = add_adapters(own, TuningArguments(use_peft=True, lora_r=4, lora_dropout=0.0), str(folder))
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        wrapped.train()(**batch).loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("adapters") / "adapter"
    wrapped.save_pretrained(path)
    processor.save_pretrained(path)
    return wrapped.eval(), path


def test_adapters_are_on_the_language_model_and_the_rest_is_trained_whole(adapted):
    trained = [name for name, p in adapted[0].named_parameters() if p.requires_grad]
    assert {part_of_parameter(name) for name in trained} == {"experts", "connectors", "language"}
    for name in trained:
        assert ("lora_" in name) == (part_of_parameter(name) == "language"), name


def test_an_adapter_loads_by_itself_and_merged_says_the_same(adapted, folder, batch, model, tmp_path):
    wrapped, path = adapted
    # From the folders alone, by the code that lies in them.
    loaded = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True).eval()
    assert AutoProcessor.from_pretrained(path, trust_remote_code=True).action_units == model.config.action_units
    merged(path, folder, "float32").save_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "modeling_deft.py").exists()
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", trust_remote_code=True).eval()
    with torch.inference_mode():
        expected, plain = wrapped(**batch), model(**batch)
        for other in (loaded(**batch), whole(**batch)):
            for name in ("logits", "emotion_logits", "au_logits"):
                torch.testing.assert_close(other[name], expected[name], atol=1e-4, rtol=1e-4)
    assert (expected.logits - plain.logits).abs().max() > 0.01
    assert (expected.emotion_logits - plain.emotion_logits).abs().max() > 0.001


def test_the_language_stage_has_adapters_alone(model):
    tuning = TuningArguments(use_peft=True, stage="language")
    wrapped = add_adapters(copy.deepcopy(model), tuning, "base")
    assert all("lora_" in name for name, p in wrapped.named_parameters() if p.requires_grad)


def test_the_answers_stage_trains_connectors_beside_the_adapters(model):
    wrapped = add_adapters(copy.deepcopy(model), TuningArguments(use_peft=True, stage="answers"), "base")
    trained = {part_of_parameter(name) for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained == {"language", "connectors"}


def test_layers_that_do_not_exist_are_named(model):
    tuning = TuningArguments(use_peft=True, lora_target_modules=r"model\.nowhere\..*")
    with pytest.raises(ValueError, match=r"`lora_target_modules` 'model\\\\.nowhere"):
        add_adapters(copy.deepcopy(model), tuning, "base")


def test_a_language_model_of_another_type_leaves_the_experts_as_they_are(model, batch):
    own = copy.deepcopy(model)
    cast_language_model(own, "bfloat16")
    types = {(part_of_parameter(name), p.dtype) for name, p in own.named_parameters()}
    assert types == {("language", torch.bfloat16), ("experts", torch.float32), ("connectors", torch.float32)}
    with torch.inference_mode():
        torch.testing.assert_close(own(**batch).loss, model(**batch).loss, atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="`dtype` must be one of float32"):
        cast_language_model(own, "int3")


def test_eight_bits_are_for_the_language_model_alone(model, folder, processor, batch):
    tuning = TuningArguments(use_peft=True, load_in_8bit=True, lora_r=4)
    quantized = quantization_config(tuning, model)
    small, _ = load_model(str(folder), quantization_config=quantized, device_map={"": "cpu"})
    types = {(part_of_parameter(name), p.dtype) for name, p in small.named_parameters()}
    assert ("language", torch.int8) in types
    assert {dtype for part, dtype in types if part != "language"} == {torch.float32}
    with torch.inference_mode():
        torch.testing.assert_close(small(**batch).loss, model(**batch).loss, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_where_it_is_fast(model, monkeypatch, fast, dtype):
    monkeypatch.setattr(parts, "multiplies_bfloat16", lambda: fast)
    own = copy.deepcopy(model)
    cast_language_model(own, "auto")
    assert own.lm_head.weight.dtype == own.model.language_model.get_input_embeddings().weight.dtype == dtype
    assert own.model.recognition.motion_expert.queries.dtype == torch.float32


def test_bits_without_bitsandbytes_say_what_to_install(model, monkeypatch):
    monkeypatch.setattr("deft_llm.training.parts.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`load_in_4bit` needs bitsandbytes: pip install .*quantized"):
        quantization_config(TuningArguments(use_peft=True, load_in_4bit=True), model)
    assert quantization_config(TuningArguments(), model) is None


def test_adapters_compute_in_the_precision_of_the_language_model(model, batch):
    own = copy.deepcopy(model)
    cast_language_model(own, "bfloat16")
    wrapped = add_adapters(own, TuningArguments(use_peft=True, stage="answers", lora_dropout=0.0), "base")
    adapter = next(module for name, module in wrapped.named_modules() if name.endswith("lora_B.default"))
    seen = []
    adapter.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    outside = wrapped(**batch).language_loss
    with adapters_in_half_precision(wrapped):
        inside = wrapped(**batch).language_loss
    inside.backward()
    assert seen == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(inside, outside, atol=0.02, rtol=0.02)
    assert {adapter.weight.dtype, adapter.weight.grad.dtype} == {torch.float32}
    assert adapter.weight.grad.abs().max() > 0
    wrapped(**batch)
    assert seen[-1] == torch.float32


def test_without_adapters_or_in_float32_the_precision_stays(model):
    wrapped = add_adapters(copy.deepcopy(model), TuningArguments(use_peft=True, stage="answers"), "base")
    for one in (model, wrapped):
        with adapters_in_half_precision(one):
            assert not torch.is_autocast_enabled("cpu")
