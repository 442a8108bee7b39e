"""Output classes of the models."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

# transformers 5.24 renamed the cache of outputs and `forward` arguments; earlier releases know the old name only.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class DeftVideoFeatures(BaseModelOutputWithPooling):
    r"""
    Output of `get_video_features`.

    Args:
        pooler_output (`list` of `(tokens, text hidden size)`): one tensor per clip, the experts' tokens in prompt
            order.
        last_hidden_state (`(clips, tokens, expert_size)`): the experts' states before the connectors, in prompt order.
        hidden_states (`tuple` of `(clips, (frames - 1) · patches, hidden size)`, *optional*): embeddings and layer
            outputs of the motion expert; only with `output_hidden_states`.
        expert_tokens (`dict[str, (clips, tokens, text hidden size)]`): tokens by expert, without missing experts.

    The other fields are those of [`DeftRecognitionOutput`] and described there.
    """

    expert_tokens: dict[str, torch.FloatTensor] | None = None
    expert_states: dict[str, torch.FloatTensor] | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    au_side_logits: torch.FloatTensor | None = None
    au_intensity: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


@dataclass
class DeftModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    Output of [`DeftModel`], with the fields of `BaseModelOutputWithPast`.

    Without text, `last_hidden_state` is `None` and only the fields below are set. Without clips, as in the decoding
    steps of generation, the fields below are `None`.

    Args:
        expert_tokens (`dict[str, (clips, tokens, text hidden size)]`, *optional*): see [`DeftVideoFeatures`].
        expert_states (`dict[str, (clips, tokens, expert_size)]`, *optional*): see [`DeftVideoFeatures`].
        emotion_logits (`(clips, emotions)`, *optional*): see [`DeftVideoFeatures`].
        au_logits (`(clips, action_units)`, *optional*): see [`DeftVideoFeatures`].
        au_side_logits (`(clips, action_units, 3)`, *optional*): see [`DeftVideoFeatures`].
        au_intensity (`(clips, action_units)`, *optional*): see [`DeftVideoFeatures`].
        expert_gates (`(clips, 3)`, *optional*): see [`DeftVideoFeatures`].
        au_attentions (`(clips, action_units, frames - 1, patches)`, *optional*): see [`DeftVideoFeatures`].
    """

    expert_tokens: dict[str, torch.FloatTensor] | None = None
    expert_states: dict[str, torch.FloatTensor] | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    au_side_logits: torch.FloatTensor | None = None
    au_intensity: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


@dataclass
class DeftCausalLMOutputWithPast(CausalLMOutputWithPast):
    r"""
    Output of [`DeftForConditionalGeneration`], with the fields of `CausalLMOutputWithPast`.

    Args:
        loss (scalar, *optional*): weighted sum of the terms below whose labels were passed. The weights are
            `config.loss_weights`.
        language_loss (scalar, *optional*): next-token cross-entropy.
        emotion_loss (scalar, *optional*): cross-entropy of the emotion head.
        action_unit_loss (scalar, *optional*): asymmetric binary cross-entropy of the action units.
        region_loss (scalar, *optional*): −log of the attention mass inside the region of each present action unit.
        side_loss (scalar, *optional*): cross-entropy of the sides of the present action units.
        intensity_loss (scalar, *optional*): smooth L1 distance to the intensities of the present action units.
        alignment_loss (scalar, *optional*): cross-entropy of identifying a present unit's name from its token.
        emotion_logits (`(clips, emotions)`, *optional*): see [`DeftVideoFeatures`].
        au_logits (`(clips, action_units)`, *optional*): see [`DeftVideoFeatures`].
        au_side_logits (`(clips, action_units, 3)`, *optional*): see [`DeftVideoFeatures`].
        au_intensity (`(clips, action_units)`, *optional*): see [`DeftVideoFeatures`].
        expert_gates (`(clips, 3)`, *optional*): see [`DeftVideoFeatures`].
        au_attentions (`(clips, action_units, frames - 1, patches)`, *optional*): see [`DeftVideoFeatures`].
    """

    language_loss: torch.FloatTensor | None = None
    emotion_loss: torch.FloatTensor | None = None
    action_unit_loss: torch.FloatTensor | None = None
    region_loss: torch.FloatTensor | None = None
    side_loss: torch.FloatTensor | None = None
    intensity_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    au_side_logits: torch.FloatTensor | None = None
    au_intensity: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None
