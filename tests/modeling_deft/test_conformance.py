"""What transformers asks of every model of its own, asked of DEFT around several families of language and vision.

Modelled on transformers' common tests, which are not in its wheel. Everything is built by `from_parts` from small
configs with random weights.
"""

import copy

import accelerate
import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration
from tests.modeling_deft.small_models import (
    CLOSE,
    FAMILIES,
    FRAMES,
    OTHERS,
    TEXTS,
    VIDEOMAE,
    VOCABULARY,
    batch,
    clips,
    padded,
    prompt,
    small_model,
    targets,
)


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request) -> DeftForConditionalGeneration:
    return small_model(request.param)


def test_save_and_load(model, tmp_path):
    inputs = batch()
    model.save_pretrained(tmp_path)
    loaded, report = DeftForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    # The weights are equal to the bit. What is computed from them need not be: weights mapped from a file are aligned
    # otherwise in memory, and matrix libraries choose their path by that.
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits, **CLOSE)


def test_tied_weights_are_one_and_untied_are_two(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = DeftForConditionalGeneration.from_pretrained(tmp_path)
    same = loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    assert same == model.config.text_config.tie_word_embeddings


def test_batching_equivalence(model):
    inputs, rows = batch(), [prompt(7, 8, 9, 10), prompt(20)]
    with torch.no_grad():
        together = model(**inputs)
        for index, row in enumerate(rows):
            alone = model(**padded(row), **{name: inputs[name][index : index + 1] for name in clips(1)})
            torch.testing.assert_close(alone.logits[0], together.logits[index, -len(row) :], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(alone.au_logits[0], together.au_logits[index], atol=1e-5, rtol=1e-4)


def test_inputs_embeds_match_input_ids(model):
    inputs = batch()
    with torch.no_grad():
        expected = model(**inputs).logits
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        torch.testing.assert_close(model(**inputs).logits, expected)


def test_gradient_checkpointing_changes_no_gradient(model):
    inputs = batch()
    inputs |= targets(inputs)
    dropout, swap = model.config.expert_dropout, model.config.appearance_swap
    model.config.expert_dropout = model.config.appearance_swap = 0.0
    model.train()
    try:
        grads = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.zero_grad(set_to_none=True)
            model(**inputs, use_cache=False).loss.backward()
            grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys()
        for name, value in grads[0].items():
            torch.testing.assert_close(grads[1][name], value, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    finally:
        model.gradient_checkpointing_disable()
        model.zero_grad(set_to_none=True)
        model.config.expert_dropout, model.config.appearance_swap = dropout, swap
        model.eval()


def test_attention_implementations_can_be_chosen_part_by_part(model, tmp_path):
    model.save_pretrained(tmp_path)
    inputs = batch()
    real = inputs["attention_mask"].bool()  # what stands at padding is anybody's guess
    with torch.no_grad():
        expected = model(**inputs).logits[real]
    eager = DeftForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager").eval()
    mixed = DeftForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation={"text_config": "eager", "structure_config": "sdpa"}
    ).eval()
    assert mixed.config.text_config._attn_implementation == "eager"
    assert mixed.config.structure_config._attn_implementation == "sdpa"
    for other in (eager, mixed):
        with torch.no_grad():
            torch.testing.assert_close(other(**inputs).logits[real], expected, atol=2e-5, rtol=1e-4)


def test_resized_embeddings_keep_their_rows(model, tmp_path):
    model.save_pretrained(tmp_path)
    other = DeftForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = batch()
    other.resize_token_embeddings(VOCABULARY + 7, mean_resizing=False)
    assert other.config.text_config.vocab_size == VOCABULARY + 7
    with torch.no_grad():
        torch.testing.assert_close(other(**inputs).logits[..., :VOCABULARY], model(**inputs).logits)


def test_bfloat16_says_about_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = DeftForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    inputs = batch()
    with torch.no_grad():
        outputs, expected = half(**inputs), model(**inputs)
    assert outputs.logits.dtype == torch.bfloat16
    for name in ("emotion_logits", "au_logits"):
        torch.testing.assert_close(outputs[name].float(), expected[name], atol=0.15, rtol=0.1)


# Compiling takes seconds a family. In these two lies all that differs in DEFT's own code: texture from a model of
# videos or of single images, and a text model with a sliding window or none.
@pytest.mark.parametrize("family", ["llama-vit-vit", "gemma3-siglip-videomae"])
def test_compiled_forward_is_the_same(family):
    model, inputs = small_model(family), batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)
    torch.compiler.reset()


def test_hidden_states_and_attentions_keep_gradients(model):
    outputs = model(**batch(), output_hidden_states=True, output_attentions=False)
    outputs.hidden_states[0].retain_grad()
    outputs.logits.sum().backward()
    assert outputs.hidden_states[0].grad is not None
    model.zero_grad(set_to_none=True)


def test_video_features_are_what_serving_engines_expect(model):
    features = model.get_video_features(**clips(2), return_dict=True)
    width = model.config.text_config.hidden_size
    assert [tuple(tokens.shape) for tokens in features.pooler_output] == [(2 + 3 + 3, width)] * 2
    assert isinstance(model.get_video_features(**clips(2), return_dict=False), tuple)


def test_every_parameter_learns_from_the_hybrid_loss(model):
    inputs = batch()
    dropout, model.config.expert_dropout = model.config.expert_dropout, 0.0
    model.train()
    try:
        outputs = model(**inputs, **targets(inputs))
        outputs.loss.backward()
        terms = {name.removesuffix("_loss") for name in outputs if name.endswith("_loss")}
        assert terms == set(model.config.loss_weights)
        # Pooling heads of the backbones are not asked; the mask token is for their own pretraining.
        spare = ("mask_token", ".pooler.", ".head.")
        still = [
            name
            for name, p in model.named_parameters()
            if (p.grad is None or not p.grad.abs().max() > 0) and not any(part in name for part in spare)
        ]
        # Keys' biases shift all scores of a softmax alike.
        assert [name for name in still if not name.endswith(("key.bias", "k_proj.bias"))] == []
    finally:
        model.zero_grad(set_to_none=True)
        model.config.expert_dropout = dropout
        model.eval()


def test_config_keeps_what_the_parts_are():
    config = DeftConfig(
        text_config=TEXTS["gemma3"], structure_config=FAMILIES["llama-vit-vit"][1], texture_config=VIDEOMAE, **OTHERS
    )
    assert (config.text_config.model_type, config.structure_config.model_type) == ("gemma3_text", "vit")
    assert config.get_text_config().vocab_size == VOCABULARY


def test_hidden_states_of_the_motion_expert(model):
    features = model.get_video_features(**clips(2), output_hidden_states=True)
    assert len(features.hidden_states) == model.config.motion_config.num_hidden_layers + 1
    assert {tuple(states.shape) for states in features.hidden_states} == {(2, (FRAMES - 1) * 16, 32)}
    assert features.last_hidden_state.shape == (2, 2 + 3 + 3, 32)
    assert model.get_video_features(**clips(2)).hidden_states is None


def test_targets_that_are_shifted_already_are_taken_as_they_are(model):
    inputs = batch()
    labels = targets(inputs)["labels"]
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad():
        expected = model(**inputs, labels=labels).language_loss
        assert torch.equal(model(**inputs, shift_labels=shifted).language_loss, expected)
        assert torch.equal(model(**inputs, labels=labels.flip(1), shift_labels=shifted).language_loss, expected)
        lean = model(**inputs, shift_labels=shifted, skip_logits=True)
    assert lean.logits is None
    assert torch.equal(lean.language_loss, expected)


def answers(model):
    inputs = batch()
    inputs |= targets(inputs)
    with torch.no_grad():
        outputs = model(**inputs, use_cache=False)
    words = model.generate(**batch(), max_new_tokens=4, do_sample=False, eos_token_id=None)
    return outputs, words


@pytest.mark.parametrize("where", ["cpu", "disk", "parts"])
def test_offloaded_weights_answer_as_weights_in_memory(model, where, tmp_path):
    """No module reads a weight outside its own call, where an offloaded weight is not in memory."""
    if where != "parts" and model.config.structure_config.model_type == "siglip_vision_model":
        pytest.skip("SigLIP alone cannot be offloaded whole: its pooling head is torch's MultiheadAttention")
    expected, expected_words = answers(model)
    if where == "parts":
        model.save_pretrained(tmp_path / "model")
        places = {f"model.recognition.{name}": "cpu" for name, _ in model.model.recognition.named_children()}
        places |= {"model.recognition.motion_expert": "disk", "model.recognition.emotion_head": "disk"}
        tied = model.config.tie_word_embeddings
        places |= {"model.connectors": "cpu", "model.language_model": "cpu" if tied else "disk", "lm_head": "cpu"}
        offloaded = DeftForConditionalGeneration.from_pretrained(
            tmp_path / "model", device_map=places, offload_folder=tmp_path / "weights"
        ).eval()
    else:
        offloaded = copy.deepcopy(model)
        if where == "cpu":
            accelerate.cpu_offload(offloaded, execution_device="cpu")
        else:
            accelerate.disk_offload(offloaded, tmp_path / "weights", execution_device="cpu")
        assert all(parameter.is_meta for parameter in offloaded.parameters())
    outputs, words = answers(offloaded)
    assert torch.equal(words, expected_words)
    for name in ("loss", "alignment_loss", "logits", "emotion_logits", "au_logits"):
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-5, rtol=1e-4)


def test_modules_with_parameters_of_their_own_are_not_split(model):
    """A device map may part a module's children, but not a parameter from the module that reads it."""
    own = set()
    for module in model.modules():
        ours = type(module).__module__.endswith("_deft") and not isinstance(module, PreTrainedModel)
        if ours and list(module.children()) and list(module.parameters(recurse=False)):
            own.add(type(module).__name__)
    assert {"MotionExpert", "Resampler"} <= own <= set(model._no_split_modules)


def test_frames_that_the_texture_backbone_cannot_read_are_named():
    model, few = small_model("qwen3-dinov2-videomae"), clips(1)
    pixels, flow = few["pixel_values_videos"][:, :2], few["flow_values_videos"][:, :1]
    with pytest.raises(ValueError, match=r"2 frames per clip; the texture backbone \(videomae\) reads exactly 4"):
        model.model(pixel_values_videos=pixels, flow_values_videos=flow)
