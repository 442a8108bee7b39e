"""What the models return."""

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
    pooler_output (`list` of `(tokens, text hidden size)`): one tensor per clip, the experts' tokens in prompt order.
    last_hidden_state (`(clips, tokens, expert_size)`): the experts' states before the connectors, in prompt order.
    hidden_states (`tuple` of `(clips, (frames - 1) · patches, hidden size)`): of the motion expert, its embeddings and
        the output of each layer; only with `output_hidden_states`.
    expert_tokens (`dict[str, (clips, tokens, text hidden size)]`): `pooler_output` by expert, without missing ones.

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
    Without text `last_hidden_state` is `None` and only the recognition fields are set. Those are described in
    [`DeftVideoFeatures`]; they are `None` where no clip was passed, as in the decoding steps of generation.
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
    loss: the weighted sum of the terms below (weights: `config.loss_weights`), over those whose labels were passed.
    language_loss: next-token cross-entropy. emotion_loss, action_unit_loss, side_loss, intensity_loss: of the heads.
    region_loss: −log of the attention's mass inside the region of each action unit that is present.
    alignment_loss: of finding the name of a present unit by its token. `losses_deft.py` says what exactly each is.
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
