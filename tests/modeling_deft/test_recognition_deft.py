import pytest
import torch

from deft_llm.modeling_deft import DeftConfig, DeftRecognitionModel
from deft_llm.modeling_deft.recognition_deft import CLIPS_AT_ONCE
from tests.modeling_deft.small_models import (
    CLOSE,
    MOTION,
    OTHERS,
    STRUCTURE,
    TEXTURE,
    UNITS,
    padded,
    small_model,
    targets,
)
from tests.modeling_deft.small_models import clips as small_clips


def test_many_clips_are_recognised_as_few(model, clips):
    """A processor takes large batches in parts; with gradients, and in training, they stay whole."""
    count = 2 * CLIPS_AT_ONCE + 3
    many = {name: torch.cat([value] * count)[:count] for name, value in clips.items()}
    many = {name: value + 0.01 * torch.randn_like(value) for name, value in many.items()}
    seen = []
    handle = model.model.recognition.motion_expert.register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    whole = model.model(**many)
    with torch.no_grad():
        parts = model.model(**many)
    handle.remove()
    assert seen == [count, CLIPS_AT_ONCE, CLIPS_AT_ONCE, 3]
    for name in ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "expert_gates", "au_attentions"):
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)
    for name, tokens in whole.expert_tokens.items():
        torch.testing.assert_close(parts.expert_tokens[name], tokens, atol=1e-5, rtol=1e-4)


def test_each_expert_sees_only_its_own_input(model, clips):
    model, flow, pixels = model.model, clips["flow_values_videos"], clips["pixel_values_videos"]
    with torch.no_grad():
        tokens = model.get_video_features(pixels, flow).expert_tokens
        # Other motion, other later frames: the structure does not notice.
        later = pixels.clone()
        later[:, 1:] += torch.randn_like(later[:, 1:])
        moved = model.get_video_features(later, flow.roll(1, 0)).expert_tokens
        torch.testing.assert_close(moved["structure"], tokens["structure"])
        # Exactly zero for the others; untrained, the texture expert answers softly.
        assert (moved["texture"] - tokens["texture"]).abs().max() > 1e-4
        # Another face, another light: neither motion nor, as long as nothing changes over time, texture does.
        other_face = model.get_video_features(pixels + torch.randn_like(pixels[:, :1]), flow).expert_tokens
        torch.testing.assert_close(other_face["motion"], tokens["motion"])
        torch.testing.assert_close(other_face["texture"], tokens["texture"], atol=1e-4, rtol=1e-3)
        assert (other_face["structure"] - tokens["structure"]).abs().max() > 1e-4


def test_recognition_needs_no_text(model, processor, clips):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    text = processor.tokenizer([processor.render_prompt(message, clips)] * 3, return_tensors="pt")
    with torch.no_grad():
        recognition, whole = model.model(**clips), model(**text, **clips)
    assert recognition.last_hidden_state is None
    torch.testing.assert_close(recognition.emotion_logits, whole.emotion_logits)


def test_it_is_the_recognition_of_the_whole_model(model, clips, tmp_path):
    """A model of its own: saved, loaded and run without the language model."""
    model.model.recognition.save_pretrained(tmp_path)
    alone = DeftRecognitionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found, expected = alone(**clips), model.model(**clips)
    for name in ("emotion_logits", "au_logits", "au_side_logits", "expert_gates"):
        torch.testing.assert_close(found[name], expected[name], **CLOSE)
    assert not any("language_model" in name for name in alone.state_dict())


def test_a_model_that_reads_flow_only_has_the_motion_expert_only():
    config = DeftConfig(experts=["motion"], **{name: value for name, value in OTHERS.items() if "tokens" not in name})
    assert (config.structure_tokens, config.texture_tokens) == (0, 0)
    model = DeftRecognitionModel(config).eval()
    assert {name.split(".")[0] for name in model.state_dict()} == {"motion_expert", "emotion_head"}
    flow = small_clips(2)["flow_values_videos"]
    with torch.no_grad():
        outputs = model(flow_values_videos=flow)
    assert outputs.emotion_logits.shape == (2, 2)
    assert torch.equal(outputs.expert_gates, torch.tensor([[0.0, 0.0, 1.0]] * 2))
    with pytest.raises(ValueError, match="only the motion expert: pass flow_values_videos"):
        model(pixel_values_videos=small_clips(2)["pixel_values_videos"])


def test_the_emotion_has_a_token_after_those_of_the_units():
    """It says what the head decides, and does not feed back into the head."""
    model = small_model("qwen3-dinov2-videomae", emotion_token=True)
    inputs, recognition = small_clips(2), model.model.recognition
    assert model.config.motion_tokens == len(UNITS) + 1
    assert 0.7 < recognition.emotion_states.std() < 1.3
    with torch.no_grad():
        outputs = model.model(**inputs)
        token = outputs.expert_states["motion"][:, -1]
        expected = outputs.emotion_logits.softmax(-1) @ recognition.emotion_states
        torch.testing.assert_close(token, expected)
        recognition.emotion_states.neg_()
        again = model.model(**inputs)
    torch.testing.assert_close(again.emotion_logits, outputs.emotion_logits)
    torch.testing.assert_close(again.expert_states["motion"][:, :-1], outputs.expert_states["motion"][:, :-1])
    assert (again.expert_tokens["motion"][:, -1] - outputs.expert_tokens["motion"][:, -1]).abs().max() > 1e-4
    pixels = inputs["pixel_values_videos"]
    assert set(model.model(pixel_values_videos=pixels).expert_states) == {"structure", "texture"}


def test_the_emotions_token_is_trained_by_the_language_loss_and_aligned_with_no_unit():
    model = small_model("qwen3-dinov2-videomae", emotion_token=True).train()
    row = [3, *[STRUCTURE] * 2, *[TEXTURE] * 3, *[MOTION] * (len(UNITS) + 1), 7, 8, 9]
    inputs = padded(row, row) | small_clips(2)
    outputs = model(**inputs, **targets(inputs))
    assert outputs.alignment_loss.isfinite()
    outputs.language_loss.backward()
    recognition = model.model.recognition
    assert recognition.emotion_states.grad.abs().max() > 0
    assert recognition.emotion_head.classifier.weight.grad is None


@pytest.mark.parametrize("experts", [["structure"], [], ["motion", "smell"]])
def test_experts_that_cannot_be_are_refused(experts):
    with pytest.raises(Exception, match="`experts` is"):
        DeftConfig(experts=experts)
