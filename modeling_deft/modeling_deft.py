"""PyTorch DEFT model: three experts, recognition heads, and a language model that explains."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.utils.generic import can_return_tuple

from .building_deft import PartsMixin
from .configuration_deft import EXPERTS, DeftConfig
from .experts_deft import Connector
from .explanation_deft import ExplanationMixin
from .generation_deft import DeftGenerationMixin
from .losses_deft import expert_losses, only_labels_required
from .outputs_deft import CACHE, DeftCausalLMOutputWithPast, DeftModelOutputWithPast, DeftVideoFeatures

# Imported so that saving the model also saves the pipeline's file, which the config names in `custom_pipelines`.
from .pipeline_deft import DeftVideoTextToTextPipeline
from .recognition_deft import APPEARANCE, HEADS, DeftPreTrainedModel, DeftRecognitionModel


class DeftModel(DeftPreTrainedModel):
    """The experts, their heads and the language model, without the language modelling head."""

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        self.recognition = DeftRecognitionModel(config)
        text_size = config.text_config.hidden_size
        self.connectors = nn.ModuleDict({name: Connector(config.expert_size, text_size) for name in config.experts})
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> DeftVideoFeatures:
        r"""
        Runs the experts and the recognition heads.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): normalised RGB. Without it, the
                structure and texture experts are missing.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): percent of the crop
                width. Without it, the motion expert is missing and the `au_…` fields are `None`.
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            silenced_experts (`list[str]`): names of experts whose tokens are set to zero and which are left out of
                the emotion.
            output_hidden_states (`bool`, *optional*): return the motion expert's `hidden_states`; by default
                `config.output_hidden_states`.

        Raises:
            ValueError: a tensor has the wrong shape, or contains NaN or infinite values. The message names it.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        features = self.recognise(
            pixel_values_videos, flow_values_videos, convention_ids, silenced_experts, output_hidden_states
        )
        features.pooler_output = list(_joined(features.expert_tokens.values()))
        features.last_hidden_state = _joined(features.expert_states.values())
        return features

    def recognise(self, *args, **kwargs) -> DeftVideoFeatures:
        """Like `get_video_features`, with the arguments of [`DeftRecognitionModel`] and without `pooler_output`."""
        found = self.recognition(*args, **kwargs)
        tokens = self._connected(found.shown_states)
        if found.dropped_experts is not None:
            for name, value in tokens.items():
                dropped = found.dropped_experts[:, EXPERTS.index(name), None, None]
                tokens[name] = value.masked_fill(dropped.to(value.device), 0.0)
        kept = {name: found[name] for name in ("expert_states", "hidden_states", *HEADS) if name in found}
        return DeftVideoFeatures(expert_tokens=tokens, **kept)

    def _connected(self, states: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The language model's tokens of the experts' states."""
        return {name: self.connectors[name](value) for name, value in states.items()}

    def _placeholder_masks(self, input_ids, inputs_embeds, expert_sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        """Positions of each expert's tokens, (batch, sequence, 1). Raises `ValueError` if the counts differ."""
        masks = {}
        for name, expected in expert_sizes.items():
            token_id = getattr(self.config, f"{name}_token_id")
            if token_id is None:
                if not expected:
                    continue
                raise ValueError(
                    f"Set {name}_token_id in the config: the prompt has no place for the expert's tokens."
                )
            if input_ids is not None:
                mask = input_ids == token_id
            else:
                token = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
                mask = (inputs_embeds == token).all(-1)
            # torch.compile cannot branch on the number of True values; there, a shape error reports the mismatch.
            if not torch.compiler.is_compiling() and int(mask.sum()) != expected:
                raise ValueError(
                    f"The prompts have {int(mask.sum())} {name} placeholders, but the clips need {expected}. Check "
                    "that the processor and the model have the same number of tokens per expert, that each clip has "
                    "its placeholders in a prompt, and that an expert without input has none."
                )
            masks[name] = mask.unsqueeze(-1)
        return masks

    def embed_prompts(self, input_ids: torch.LongTensor, recognition: Any) -> torch.Tensor:
        r"""
        Embeds prompts and inserts the experts' tokens. With the result as `inputs_embeds`, `generate` does not run
        the experts again.

        Args:
            input_ids (`(batch, sequence)`): the prompts.
            recognition: this model's output for the clips, in the order of their placeholders. Its `expert_tokens`
                are used.

        Returns:
            `torch.Tensor` of shape `(batch, sequence, text_size)`.

        Raises:
            ValueError: the number of placeholders differs from the number of tokens.
        """
        inputs_embeds, tokens = self.get_input_embeddings()(input_ids), recognition.expert_tokens
        sizes = {name: len(tokens[name].flatten(0, 1)) if name in tokens else 0 for name in EXPERTS}
        return _inserted(inputs_embeds, self._placeholder_masks(input_ids, inputs_embeds, sizes), tokens)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        expert_states: Mapping[str, torch.FloatTensor] | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> DeftModelOutputWithPast:
        r"""
        Runs the experts on clips, and the language model on text. With clips only, the language model is not run.

        Args:
            input_ids (`(batch, sequence)`, *optional*): prompts with the experts' placeholders.
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): see
                [`~DeftModel.get_video_features`]. The clips of all prompts, in the order of their placeholders.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): likewise.
            attention_mask (`(batch, sequence)`, *optional*): 0 for padding. Or `(batch, 1, sequence, sequence)`, True
                where a token attends to another.
            position_ids (`(batch, sequence)`, *optional*): positions of the tokens.
            past_key_values (`Cache`, *optional*): the language model's cache.
            inputs_embeds (`(batch, sequence, text_size)`, *optional*): instead of `input_ids`.
            convention_ids (`(clips,)`, *optional*): see [`~DeftModel.get_video_features`].
            silenced_experts (`list[str]`): see [`~DeftModel.get_video_features`].
            expert_states (`dict[str, (clips, tokens, expert_size)]`, *optional*): the field of an earlier output, in
                place of the clips. Experts and heads are not run.
            cache (`Cache`, *optional*): the name of `past_key_values` in newer releases of transformers.

        Raises:
            ValueError: neither clips nor text is given, `input_ids` and `inputs_embeds` or clips and `expert_states`
                are both given, or the placeholders do not fit the clips.
        """
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("Pass input_ids or inputs_embeds, not both.")
        has_text = input_ids is not None or inputs_embeds is not None
        has_clips = pixel_values_videos is not None or flow_values_videos is not None
        if has_clips and expert_states is not None:
            raise ValueError("Pass clips or their expert_states, not both.")
        if not has_text and not has_clips:
            raise ValueError("Pass clips, text or both.")

        if has_text and inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if has_text and has_clips:
            seen, moved = (0 if clips is None else len(clips) for clips in (pixel_values_videos, flow_values_videos))
            sizes = {name: seen * getattr(self.config, f"{name}_tokens") for name in APPEARANCE}
            sizes["motion"] = moved * self.config.motion_tokens
            masks = self._placeholder_masks(input_ids, inputs_embeds, sizes)

        recognition = {}
        if expert_states is not None:
            tokens = self._connected(expert_states)
            sizes = {name: len(tokens[name].flatten(0, 1)) if name in tokens else 0 for name in EXPERTS}
            inputs_embeds = _inserted(inputs_embeds, self._placeholder_masks(input_ids, inputs_embeds, sizes), tokens)
            recognition = {"expert_tokens": tokens, "expert_states": dict(expert_states)}
        if has_clips:
            features = self.recognise(pixel_values_videos, flow_values_videos, convention_ids, silenced_experts)
            recognition = {
                name: features[name] for name in ("expert_tokens", "expert_states", *HEADS) if name in features
            }
        if not has_text:
            return DeftModelOutputWithPast(**recognition)
        if has_clips:
            inputs_embeds = _inserted(inputs_embeds, masks, features.expert_tokens)

        if self.language_model.config._attn_implementation == "eager" and _is_boolean_matrix(attention_mask):
            # Eager attention adds the mask to the scores.
            blocked = torch.finfo(inputs_embeds.dtype).min
            attention_mask = torch.where(attention_mask, 0.0, blocked).to(inputs_embeds.dtype)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )
        return DeftModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **recognition,
        )


class DeftForConditionalGeneration(DeftPreTrainedModel, PartsMixin, ExplanationMixin, DeftGenerationMixin):
    """DEFT with a language modelling head: generates Class, Evidence and Rationale, and computes the losses."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        self.model = DeftModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        placeholders = [getattr(config, f"{name}_token_id") for name in EXPERTS]
        if None not in placeholders:
            # A placeholder in an answer would refer to a clip that does not exist.
            self.generation_config.suppress_tokens = placeholders
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_video_features(self, pixel_values_videos=None, flow_values_videos=None, **kwargs) -> DeftVideoFeatures:
        return self.model.get_video_features(pixel_values_videos, flow_values_videos, **kwargs)

    @only_labels_required
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        expert_states: Mapping[str, torch.FloatTensor] | None = None,
        labels: torch.LongTensor | None = None,
        emotion_labels: torch.LongTensor | None = None,
        au_labels: torch.FloatTensor | None = None,
        au_side_labels: torch.LongTensor | None = None,
        au_intensity_labels: torch.FloatTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        shift_labels: torch.LongTensor | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> DeftCausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`(batch, sequence)`, *optional*): see [`~DeftModel.forward`].
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): see [`~DeftModel.forward`].
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): see
                [`~DeftModel.forward`].
            attention_mask (`(batch, sequence)`, *optional*): see [`~DeftModel.forward`].
            position_ids (`(batch, sequence)`, *optional*): see [`~DeftModel.forward`].
            past_key_values (`Cache`, *optional*): see [`~DeftModel.forward`].
            inputs_embeds (`(batch, sequence, text_size)`, *optional*): see [`~DeftModel.forward`].
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            silenced_experts (`list[str]`): names of experts that the answer does not use.
            expert_states (`dict[str, (clips, tokens, expert_size)]`, *optional*): see [`~DeftModel.forward`].
            labels (`(batch, sequence)`, *optional*): next-token targets, -100 for no target.
            emotion_labels (`(clips,)`, *optional*): class indices, -100 for unknown.
            au_labels (`(clips, action_units)`, *optional*): 1 present, 0 absent, -100 unknown.
            au_side_labels (`(clips, action_units)`, *optional*): 0 both sides, 1 left, 2 right, -100 unknown.
            au_intensity_labels (`(clips, action_units)`, *optional*): 0 for A to 4 for E, -100 unknown.
            logits_to_keep (`int` or index tensor): number of last positions, or positions, whose logits are
                computed; 0 for all.
            skip_logits (`bool`): with `labels`, compute logits only at the scored positions and do not return them.
                This saves most of the memory in training.
            num_items_in_batch (`int` or scalar tensor, *optional*): number of scored tokens in the whole step. Every
                loss term is averaged over it: the language term per token, the others per clip, weighted by the
                scored tokens of the clip's prompt. The gradients of micro-batches then add up to those of the whole
                batch. Without it, each term is the mean over its labels in this batch.
            shift_labels (`(batch, sequence)`, *optional*): targets that are already aligned with the logits, as
                sequence and context parallelism pass them. Used instead of `labels`.
            cache (`Cache`, *optional*): the name of `past_key_values` in newer releases of transformers.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            flow_values_videos=flow_values_videos,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            convention_ids=convention_ids,
            silenced_experts=silenced_experts,
            expert_states=expert_states,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states, logits = outputs.last_hidden_state, None
        targets = shift_labels
        if targets is None and labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        if hidden_states is not None and not (skip_logits and targets is not None):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])

        shares = None
        if targets is not None and num_items_in_batch is not None and "expert_tokens" in outputs:
            clips = len(next(iter(outputs.expert_tokens.values())))
            shares = self._clip_shares(targets, num_items_in_batch, clips, input_ids)
        losses = expert_losses(
            self.config,
            outputs,
            emotion_labels=emotion_labels,
            au_labels=au_labels,
            au_side_labels=au_side_labels,
            au_intensity_labels=au_intensity_labels,
            unit_names=self.action_unit_names,
            shares=shares,
        )
        if targets is not None:
            losses = {"language": self._language_loss(hidden_states, targets, num_items_in_batch), **losses}
        weights = self.config.loss_weights
        loss = sum(weights[name] * value for name, value in losses.items()) if losses else None

        return DeftCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: getattr(outputs, CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{name: outputs[name] for name in HEADS if name in outputs},
            **{f"{name}_loss": value for name, value in losses.items()},
        )

    def action_unit_names(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The language model's embeddings of the units' names, (action_units, text size), and which are known."""
        embeddings = self.get_input_embeddings()
        ids = [self.config.action_unit_name_ids.get(code) or [] for code in self.config.action_units]
        # The module is called because an offloaded weight is in memory only during the call.
        device = None if embeddings.weight.is_meta else embeddings.weight.device
        tokens = embeddings(torch.tensor([token for name in ids for token in name], dtype=torch.long, device=device))
        rows = [
            name.mean(0) if len(name) else name.new_zeros(name.shape[1]) for name in tokens.split([*map(len, ids)])
        ]
        return torch.stack(rows), torch.tensor([bool(name) for name in ids], device=tokens.device)

    def _clip_shares(self, targets, num_items_in_batch, clips: int, input_ids) -> torch.Tensor:
        """(clips,) share of each clip in the `num_items_in_batch` scored tokens of the step."""
        shares = (targets != -100).sum(1) / torch.as_tensor(num_items_in_batch, device=targets.device).clamp(min=1)
        if len(shares) == clips:
            return shares
        count = self._clips_per_prompt(input_ids).to(shares.device)
        return (shares / count.clamp(min=1)).repeat_interleave(count)

    def _language_loss(self, hidden_states, targets, num_items_in_batch) -> torch.Tensor:
        scored = targets != -100
        # If the model is split over several devices, the labels may be on another device than the head.
        logits = self.lm_head(hidden_states[scored.to(hidden_states.device)]).float()
        total = F.cross_entropy(logits, targets[scored].to(logits.device), reduction="sum")
        count = scored.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return total / count.to(total.device).clamp(min=1)


def _is_boolean_matrix(mask: torch.Tensor | None) -> bool:
    return mask is not None and mask.ndim == 4 and mask.dtype == torch.bool


def _joined(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Concatenates the experts' tokens, `(clips, tokens, size)`. The experts may be on several devices."""
    first, *others = parts
    return torch.cat([first, *(part.to(first.device) for part in others)], dim=1)


def _inserted(
    inputs_embeds: torch.Tensor, masks: Mapping[str, torch.Tensor], expert_tokens: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    for name, tokens in expert_tokens.items():
        tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
        inputs_embeds = inputs_embeds.masked_scatter(masks[name], tokens)
    return inputs_embeds


__all__ = ["DeftForConditionalGeneration", "DeftModel", "DeftPreTrainedModel", "DeftVideoTextToTextPipeline"]
