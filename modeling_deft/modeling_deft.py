"""PyTorch DEFT model: three experts, heads that recognise without language, and a language model that explains."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_deft import DeftConfig
from .experts_deft import Connector, GatedFusion, MotionExpert, Resampler, StructureExpert, TextureExpert

# Imported so that saving the model always saves the pipeline's file too: the config names it in `custom_pipelines`.
from .pipeline_deft import DeftVideoTextToTextPipeline

EXPERTS = ("structure", "texture", "motion")


@dataclass
class DeftVideoFeatures(BaseModelOutputWithPooling):
    r"""
    pooler_output (`list` of `(tokens, text hidden size)`): one tensor a clip, the experts' tokens in prompt order.
    expert_tokens (`dict[str, (clips, tokens, text hidden size)]`): the same by expert, missing experts left out.
    emotion_logits (`(clips, emotions)`), au_logits (`(clips, action_units)`): from the experts alone.
    expert_gates (`(clips, 3)`): weight of structure, texture and motion in the emotion; they sum to 1.
    au_attentions (`(clips, action_units, frames - 1, patches)`): where each action unit's query looked; sums to 1.
    """

    expert_tokens: dict[str, torch.FloatTensor] | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


@dataclass
class DeftModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    Without text `last_hidden_state` is `None` and only the recognition fields are set. Those are described in
    [`DeftVideoFeatures`]; they are `None` where no clip was passed, as in the decoding steps of generation.
    """

    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


@dataclass
class DeftCausalLMOutputWithPast(ModelOutput):
    r"""
    loss: the weighted sum of the terms below (weights: `config.loss_weights`), over those whose labels were passed.
    language_loss: next-token cross-entropy. emotion_loss: cross-entropy of the emotion head.
    action_unit_loss: binary cross-entropy of the AU head.
    region_loss: −log of the attention's mass inside the region of each action unit that is present.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    language_loss: torch.FloatTensor | None = None
    emotion_loss: torch.FloatTensor | None = None
    action_unit_loss: torch.FloatTensor | None = None
    region_loss: torch.FloatTensor | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


class DeftPreTrainedModel(PreTrainedModel):
    config: DeftConfig
    base_model_prefix = "model"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["MotionLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.motion_config.initializer_range
        if isinstance(module, (MotionExpert, Resampler, TextureExpert)):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "au_bias":
                    nn.init.zeros_(parameter)
                else:
                    # Queries must differ from one another from the start, or they learn to look at the same place.
                    nn.init.normal_(parameter, std=1.0 if name == "queries" else std)


class DeftModel(DeftPreTrainedModel):
    """The experts, their heads and the language model, without the language modelling head."""

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        self.structure_expert = StructureExpert(config)
        self.texture_expert = TextureExpert(config)
        self.motion_expert = MotionExpert(config)
        self.emotion_head = GatedFusion(config)
        text_size = config.text_config.hidden_size
        self.connectors = nn.ModuleDict({name: Connector(config.expert_size, text_size) for name in EXPERTS})
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
        **kwargs,
    ) -> DeftVideoFeatures:
        r"""
        Runs the experts and the recognition heads.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): without it structure and texture
                are missing, and contribute neither tokens nor to the emotion.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): percent of the crop
                width; without it the motion expert is missing and `au_logits` is `None`.

        Raises:
            ValueError: a tensor of another shape than the config asks for, naming it.
        """
        self._validate_clips(pixel_values_videos, flow_values_videos)
        experts = {}
        if pixel_values_videos is not None:
            pixel_values_videos = pixel_values_videos.to(self.dtype)
            experts["structure"] = self.structure_expert(pixel_values_videos)
            experts["texture"] = self.texture_expert(pixel_values_videos)
        if flow_values_videos is not None:
            experts["motion"] = self.motion_expert(flow_values_videos.to(self.dtype))
        emotion_logits, gates = self.emotion_head(
            [experts[name].pooled if name in experts else None for name in EXPERTS]
        )
        tokens = {name: self.connectors[name](output.tokens) for name, output in experts.items()}
        motion = experts.get("motion")
        return DeftVideoFeatures(
            pooler_output=list(torch.cat(list(tokens.values()), dim=1)),
            expert_tokens=tokens,
            emotion_logits=emotion_logits,
            au_logits=None if motion is None else motion.au_logits,
            expert_gates=gates,
            au_attentions=None if motion is None else motion.au_attentions,
        )

    def _validate_clips(self, pixel_values_videos, flow_values_videos):
        motion = self.config.motion_config
        if pixel_values_videos is None and flow_values_videos is None:
            raise ValueError("Pass pixel_values_videos, flow_values_videos or both.")
        if pixel_values_videos is not None:
            if pixel_values_videos.ndim != 5 or pixel_values_videos.shape[2] != 3:
                raise ValueError(
                    "pixel_values_videos must be (clips, frames, 3, height, width); got "
                    f"{tuple(pixel_values_videos.shape)}."
                )
            side = self.config.image_size
            if pixel_values_videos.shape[-2:] != (side, side):
                raise ValueError(
                    f"pixel_values_videos must be {side} × {side} pixels, the config's image_size; got "
                    f"{tuple(pixel_values_videos.shape)}. Set the processor's `size` to it."
                )
        if flow_values_videos is not None:
            expected = (2, motion.flow_size, motion.flow_size)
            if flow_values_videos.ndim != 5 or tuple(flow_values_videos.shape[2:]) != expected:
                raise ValueError(
                    f"flow_values_videos must be (clips, frames - 1, {', '.join(map(str, expected))}); got "
                    f"{tuple(flow_values_videos.shape)}."
                )
            if flow_values_videos.shape[1] > motion.num_flow_frames:
                raise ValueError(
                    f"flow_values_videos holds {flow_values_videos.shape[1]} fields a clip, the config allows "
                    f"num_flow_frames = {motion.num_flow_frames}."
                )
        if pixel_values_videos is not None and flow_values_videos is not None:
            clips, fields = flow_values_videos.shape[:2]
            if tuple(pixel_values_videos.shape[:2]) != (clips, fields + 1):
                raise ValueError(
                    f"pixel_values_videos holds {tuple(pixel_values_videos.shape[:2])} clips × frames, "
                    f"flow_values_videos {(clips, fields)} clips × fields; expected {(clips, fields + 1)} frames."
                )

    def _placeholder_masks(self, input_ids, inputs_embeds, expert_sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        """Where each expert's tokens go, (batch, sequence, 1); raises `ValueError` where the counts disagree."""
        masks = {}
        for name, expected in expert_sizes.items():
            token_id = getattr(self.config, f"{name}_token_id")
            if token_id is None:
                raise ValueError(f"The config has no {name}_token_id, so the prompt cannot hold the expert's tokens.")
            if input_ids is not None:
                mask = input_ids == token_id
            else:
                token = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
                mask = (inputs_embeds == token).all(-1)
            # The number of True is data; under torch.compile the check is left to the graph's shape errors.
            if not torch.compiler.is_compiling() and int(mask.sum()) != expected:
                raise ValueError(
                    f"The prompts hold {int(mask.sum())} {name} placeholders, the clips need {expected}. Processor "
                    "and model must agree on the tokens an expert has, and each clip needs its block in a prompt."
                )
            masks[name] = mask.unsqueeze(-1)
        return masks

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
        **kwargs,
    ) -> DeftModelOutputWithPast:
        r"""
        With clips only it recognises; with text it also runs the language model over the prompt.

        Args:
            pixel_values_videos, flow_values_videos: see [`~DeftModel.get_video_features`]; the clips of all prompts
                one after another, in the order of their placeholders.
        """
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("Pass input_ids or inputs_embeds, not both.")
        has_text = input_ids is not None or inputs_embeds is not None
        has_clips = pixel_values_videos is not None or flow_values_videos is not None
        if not has_text and not has_clips:
            raise ValueError("Pass clips, text or both.")

        if has_text and inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if has_text and has_clips:
            sizes = {}
            if pixel_values_videos is not None:
                sizes["structure"] = len(pixel_values_videos) * self.config.structure_tokens
                sizes["texture"] = len(pixel_values_videos) * self.config.texture_tokens
            if flow_values_videos is not None:
                sizes["motion"] = len(flow_values_videos) * self.config.motion_tokens
            masks = self._placeholder_masks(input_ids, inputs_embeds, sizes)

        recognition = {}
        if has_clips:
            features = self.get_video_features(pixel_values_videos, flow_values_videos, return_dict=True)
            recognition = {
                name: features[name]
                for name in ("emotion_logits", "au_logits", "expert_gates", "au_attentions")
                if features[name] is not None
            }
        if not has_text:
            return DeftModelOutputWithPast(**recognition)
        if has_clips:
            for name, tokens in features.expert_tokens.items():
                tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(masks[name], tokens)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return DeftModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **recognition,
        )


class DeftForConditionalGeneration(DeftPreTrainedModel, GenerationMixin):
    """DEFT with the language modelling head: generates Class / Evidence / Rationale, and computes the hybrid loss."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        self.model = DeftModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_video_features(self, pixel_values_videos=None, flow_values_videos=None, **kwargs) -> DeftVideoFeatures:
        return self.model.get_video_features(pixel_values_videos, flow_values_videos, **kwargs)

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
        labels: torch.LongTensor | None = None,
        emotion_labels: torch.LongTensor | None = None,
        au_labels: torch.FloatTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> DeftCausalLMOutputWithPast:
        r"""
        Args:
            labels (`(batch, sequence)`): next-token targets, -100 where there is none.
            emotion_labels (`(clips,)`): class indices, -100 where the clip has none.
            au_labels (`(clips, action_units)`): 1 present, 0 absent, -100 unknown.
            skip_logits (`bool`): with `labels`, project only the scored positions onto the vocabulary and return no
                logits; in training that is most of the memory.
            num_items_in_batch: number of scored tokens over which the language loss is averaged.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            flow_values_videos=flow_values_videos,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        hidden_states, logits = outputs.last_hidden_state, None
        if hidden_states is not None and not (skip_logits and labels is not None):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])

        losses = {}
        if labels is not None:
            losses["language"] = self._language_loss(hidden_states, labels, num_items_in_batch)
        if emotion_labels is not None and outputs.emotion_logits is not None:
            losses["emotion"] = _masked_mean(
                F.cross_entropy(outputs.emotion_logits.float(), emotion_labels, ignore_index=-100, reduction="none"),
                emotion_labels != -100,
            )
        if au_labels is not None and outputs.au_logits is not None:
            known = au_labels != -100
            losses["action_unit"] = _masked_mean(
                F.binary_cross_entropy_with_logits(outputs.au_logits.float(), au_labels.float(), reduction="none"),
                known,
            )
            losses["region"] = self._region_loss(outputs.au_attentions, au_labels)
        weights = self.config.loss_weights
        loss = sum(weights[name] * value for name, value in losses.items()) if losses else None

        return DeftCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            emotion_logits=outputs.emotion_logits,
            au_logits=outputs.au_logits,
            expert_gates=outputs.expert_gates,
            au_attentions=outputs.au_attentions,
            **{f"{name}_loss": value for name, value in losses.items()},
        )

    def _language_loss(self, hidden_states, labels, num_items_in_batch) -> torch.Tensor:
        targets = labels[:, 1:]
        scored = targets != -100
        # The labels may lie on another device than the head when the model is split over several.
        logits = self.lm_head(hidden_states[:, :-1][scored.to(hidden_states.device)]).float()
        total = F.cross_entropy(logits, targets[scored].to(logits.device), reduction="sum")
        count = scored.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return total / count.to(total.device).clamp(min=1)

    def _region_loss(self, au_attentions: torch.Tensor, au_labels: torch.Tensor) -> torch.Tensor:
        """Mean of −log(mass inside the region) over the action units that are present and have a region."""
        regions = self._region_masks(au_attentions.device)
        inside = (au_attentions.float().sum(2) * regions).sum(-1)
        return _masked_mean(-(inside + 1e-6).log(), (au_labels == 1) & regions.any(-1))

    def _region_masks(self, device: torch.device) -> torch.Tensor:
        """(action_units, patches): which patches overlap the ellipses that the config gives for each."""
        motion = self.config.motion_config
        grid = motion.flow_size // motion.patch_size
        centre = (torch.arange(grid, device=device) + 0.5) / grid
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        masks = torch.zeros(len(self.config.action_units), grid, grid, dtype=torch.bool, device=device)
        for row, code in enumerate(self.config.action_units):
            for cx, cy, rx, ry in self.config.action_unit_regions.get(code, ()):
                # Half a patch is added to the radii: a patch counts when it touches the ellipse.
                masks[row] |= ((x - cx) / (rx + 0.5 / grid)) ** 2 + ((y - cy) / (ry + 0.5 / grid)) ** 2 <= 1
        return masks.flatten(1)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        inputs_embeds=None,
        flow_values_videos=None,
        is_first_iteration=False,
        use_cache=True,
        **kwargs,
    ):
        # transformers drops pixel_values_videos after the prefill by its name; flow_values_videos it does not know.
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        if is_first_iteration or not use_cache:
            model_inputs["flow_values_videos"] = flow_values_videos
        return model_inputs


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the entries where `mask`; zero, with a gradient of zero, where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


__all__ = ["DeftForConditionalGeneration", "DeftModel", "DeftPreTrainedModel", "DeftVideoTextToTextPipeline"]
