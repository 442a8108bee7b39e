import pytest
import torch

from deft_llm.modeling_deft import DeftForConditionalGeneration, DeftModel
from deft_llm.modeling_deft.experts_deft import region_masks
from tests.modeling_deft.small_models import CLOSE


@pytest.fixture(scope="module")
def inputs(processor, clips):
    """Three prompts of different lengths, left-padded, a clip each."""
    messages = [
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
        for text in ("Explain.", "Which action units are visible in the motion? List them.", "What moves?")
    ]
    prompts = [processor.render_prompt(message, clips) for message in messages]
    text = processor.tokenizer(
        prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )
    return {
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
        "pixel_values_videos": clips["pixel_values_videos"],
        "flow_values_videos": clips["flow_values_videos"],
    }


def single(inputs, index):
    """One prompt of the batch without its padding."""
    kept = inputs["attention_mask"][index].bool()
    row = {name: value[index : index + 1] for name, value in inputs.items()}
    return row | {"input_ids": row["input_ids"][:, kept], "attention_mask": row["attention_mask"][:, kept]}


@pytest.fixture(scope="module")
def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs)


def test_outputs_are_what_their_names_say(model, inputs, outputs):
    units, emotions = len(model.config.action_units), len(model.config.emotion_labels)
    assert outputs.logits.shape == (*inputs["input_ids"].shape, model.config.text_config.vocab_size)
    assert outputs.emotion_logits.shape == (3, emotions)
    assert outputs.au_logits.shape == (3, units)
    motion = model.config.motion_config
    assert outputs.au_attentions.shape == (3, units, 7, (motion.flow_size // motion.patch_size) ** 2)
    torch.testing.assert_close(outputs.au_attentions.sum((2, 3)), torch.ones(3, units))
    torch.testing.assert_close(outputs.expert_gates.sum(-1), torch.ones(3))
    assert outputs.loss is None


def test_batched_and_single_inputs_give_equal_logits(model, inputs, outputs):
    for index in range(3):
        with torch.no_grad():
            alone = model(**single(inputs, index))
        kept = inputs["attention_mask"][index].bool()
        torch.testing.assert_close(alone.logits[0], outputs.logits[index][kept], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(alone.emotion_logits[0], outputs.emotion_logits[index], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.au_logits[0], outputs.au_logits[index], atol=1e-5, rtol=1e-4)


def test_cached_uncached_batched_and_single_generation_agree(model, inputs):
    arguments = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    cached = model.generate(**inputs, **arguments)
    assert torch.equal(model.generate(**inputs, **arguments, use_cache=False), cached)
    start = inputs["input_ids"].shape[1]
    for index in range(3):
        row = single(inputs, index)
        alone = model.generate(**row, **arguments)
        assert torch.equal(alone[0, row["input_ids"].shape[1] :], cached[index, start:])


def test_the_experts_run_once_a_generation(model, inputs):
    calls = []
    handles = [
        expert.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, expert in (
            ("motion", model.model.recognition.motion_expert),
            ("structure", model.model.recognition.structure_expert),
        )
    ]
    model.generate(**inputs, max_new_tokens=4, eos_token_id=None)
    for handle in handles:
        handle.remove()
    assert sorted(calls) == ["motion", "structure"]


def test_prompts_of_recognised_clips_continue_as_the_clips_do(model, inputs):
    clips = {name: inputs[name] for name in ("pixel_values_videos", "flow_values_videos")}
    with torch.no_grad():
        recognition = model.model(**clips)
        prompts = model.model.embed_prompts(inputs["input_ids"], recognition)
    arguments = {"attention_mask": inputs["attention_mask"], "max_new_tokens": 12, "do_sample": False}
    for options in ({}, {"num_beams": 2}):
        whole = model.generate(**clips, input_ids=inputs["input_ids"], **arguments, **options)
        answer = model.generate(inputs_embeds=prompts, **arguments, **options)
        assert torch.equal(answer, whole[:, inputs["input_ids"].shape[1] :])
    with pytest.raises(ValueError, match="structure placeholders, but the clips need 12"):
        model.model.embed_prompts(inputs["input_ids"][:1], recognition)


def test_clips_change_the_answer_and_only_their_own(model, inputs, outputs):
    changed = {name: value.clone() for name, value in inputs.items()}
    changed["flow_values_videos"][1] += 1.0
    with torch.no_grad():
        other = model(**changed)
    assert (other.logits[1, -1] - outputs.logits[1, -1]).abs().max() > 1e-3
    torch.testing.assert_close(other.logits[0], outputs.logits[0])


def test_flow_alone_is_enough(model, processor, clips):
    flow = {"flow_values_videos": clips["flow_values_videos"]}
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    prompt = processor.render_prompt(message, flow)
    text = processor.tokenizer([prompt] * 3, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**text, **flow)
    assert torch.isfinite(outputs.logits).all()
    assert torch.equal(outputs.expert_gates, torch.tensor([[0.0, 0.0, 1.0]] * 3))


def test_inputs_embeds_match_input_ids(model, inputs, outputs):
    values = dict(inputs)
    values["inputs_embeds"] = model.get_input_embeddings()(values.pop("input_ids"))
    with torch.no_grad():
        torch.testing.assert_close(model(**values).logits, outputs.logits)


def test_losses_are_the_named_terms(model, inputs, outputs):
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    emotions = torch.tensor([0, -100, 2])
    units = torch.zeros(3, len(model.config.action_units))
    units[0, 2], units[1] = 1, -100
    targets = {"labels": labels, "emotion_labels": emotions, "au_labels": units}
    with torch.no_grad():
        scored = model(**inputs, **targets)
        lean = model(**inputs, **targets, skip_logits=True)
    flat = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(scored.language_loss, flat, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lean.loss, scored.loss)
    assert lean.logits is None
    known = torch.tensor([0, 2])
    torch.testing.assert_close(
        scored.emotion_loss, torch.nn.functional.cross_entropy(outputs.emotion_logits[known], emotions[known])
    )
    focused = units[known] + (1 - units[known]) * outputs.au_logits[known].sigmoid() ** model.config.action_unit_focus
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs.au_logits[known], units[known], reduction="none"
    )
    torch.testing.assert_close(scored.action_unit_loss, (plain * focused).mean())
    regions = region_masks(model.config, outputs.au_attentions.device)[2]
    mass = outputs.au_attentions[0, 2].sum(0)[regions].sum()
    torch.testing.assert_close(scored.region_loss, -mass.log(), atol=1e-4, rtol=1e-4)
    weights = model.config.loss_weights
    # No sides and intensities were given, so those two terms are not there.
    assert scored.side_loss is None
    assert scored.intensity_loss is None
    total = sum(weight * scored[f"{name}_loss"] for name, weight in weights.items() if f"{name}_loss" in scored)
    torch.testing.assert_close(scored.loss, total)


def test_every_trained_parameter_gets_a_gradient(model, inputs):
    model.train()
    targets = {
        "labels": inputs["input_ids"],
        "emotion_labels": torch.tensor([0, 1, 2]),
        "au_labels": torch.ones(3, len(model.config.action_units)),
        "au_side_labels": torch.ones(3, len(model.config.action_units), dtype=torch.long),
        "au_intensity_labels": torch.ones(3, len(model.config.action_units)),
        "convention_ids": torch.zeros(3, dtype=torch.long),
    }
    model(**inputs, **targets).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    model.zero_grad(set_to_none=True)
    model.eval()
    assert without <= {"model.recognition.structure_expert.backbone.embeddings.mask_token"}


def test_saved_weights_are_the_same_weights(folder, model, inputs, outputs):
    loaded = DeftForConditionalGeneration.from_pretrained(folder).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, outputs.logits, **CLOSE)
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    base = DeftModel.from_pretrained(folder).eval()
    clips = {name: inputs[name] for name in ("pixel_values_videos", "flow_values_videos")}
    with torch.no_grad():
        torch.testing.assert_close(base(**clips).au_logits, outputs.au_logits, **CLOSE)


def with_nan(flow):
    flow = flow.clone()
    flow[1, 2, 0, 3, 4] = torch.nan
    return flow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i | {"flow_values_videos": i["flow_values_videos"][:, :, :1]}, "flow_values_videos must be"),
        (lambda i: i | {"flow_values_videos": i["flow_values_videos"][:, :5]}, "expected .*6.* frames"),
        (lambda i: i | {"flow_values_videos": i["flow_values_videos"].repeat(1, 2, 1, 1, 1)}, "num_flow_frames = 8"),
        (lambda i: i | {"pixel_values_videos": i["pixel_values_videos"][..., :32]}, "must be 64 × 64"),
        (lambda i: i | {"pixel_values_videos": i["pixel_values_videos"].transpose(1, 2)}, r"\(clips, frames, 3"),
        (
            lambda i: i | {name: i[name][:2] for name in ("pixel_values_videos", "flow_values_videos")},
            "have 12 structure placeholders, but the clips need 8",
        ),
        (
            lambda i: {name: value for name, value in i.items() if name != "pixel_values_videos"},
            "have 12 structure placeholders, but the clips need 0",
        ),
        (lambda i: i | {"flow_values_videos": with_nan(i["flow_values_videos"])}, "NaN or infinite values in clip 1"),
        (lambda i: i | {"convention_ids": torch.zeros(2, dtype=torch.long)}, r"convention_ids must be \(clips,\)"),
        (lambda i: i | {"convention_ids": torch.full((3,), 7)}, "convention_ids contains 7"),
        (lambda i: i | {"silenced_experts": ("gesture",)}, "'gesture'; the experts are"),
        (lambda i: i | {"inputs_embeds": torch.zeros(3, 4, 128)}, "not both"),
        (lambda i: {}, "Pass clips, text or both"),
    ],
)
def test_inputs_that_disagree_are_named(model, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        model(**change(dict(inputs)))
