"""PyTorch DEFT model: three experts, heads that recognise without language, and a language model that explains."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_deft import DeftConfig
from .experts_deft import Connector, ExpertOutput, GatedFusion, MotionExpert, Resampler, StructureExpert, TextureExpert
from .losses_deft import (
    action_unit_loss,
    alignment_loss,
    emotion_loss,
    intensity_loss,
    region_loss,
    region_masks,
    side_loss,
)

# Imported so that saving the model always saves the pipeline's file too: the config names it in `custom_pipelines`.
from .pipeline_deft import DeftVideoTextToTextPipeline

EXPERTS = ("structure", "texture", "motion")
# Fields that every output with clips has; those of the heads, for who scores them.
HEADS = ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "expert_gates", "au_attentions")
LOUD = ("queries", "names", "side_states", "strength")  # parameters that stand for different things from the start
CLIPS_AT_ONCE = 16  # of a large batch, where a processor recognises
# transformers 5.24 renamed the cache of outputs and `forward` arguments; earlier releases know the old name only.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
RECOGNITION = ("expert_tokens", "expert_states", *HEADS)


@dataclass
class DeftVideoFeatures(BaseModelOutputWithPooling):
    r"""
    pooler_output (`list` of `(tokens, text hidden size)`): one tensor per clip, the experts' tokens in prompt order.
    last_hidden_state (`(clips, tokens, expert_size)`): the experts' states before the connectors, in prompt order.
    hidden_states (`tuple` of `(clips, (frames - 1) · patches, hidden size)`): of the motion expert, its embeddings and
        the output of each layer; only with `output_hidden_states`.
    expert_tokens (`dict[str, (clips, tokens, text hidden size)]`): the same by expert, missing experts left out.
    emotion_logits (`(clips, emotions)`), au_logits (`(clips, action_units)`): from the experts alone.
    expert_states (`dict[str, (clips, tokens, expert_size)]`): the same before the connectors, nothing silenced.
    au_side_logits (`(clips, action_units, 3)`): both sides, left, right; means something where the unit is present.
    au_intensity (`(clips, action_units)`): 0 for A to 4 for E, likewise.
    expert_gates (`(clips, 3)`): weight of structure, texture and motion in the emotion; they sum to 1.
    au_attentions (`(clips, action_units, frames - 1, patches)`): where each action unit's query looked; sums to 1.
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


@dataclass
class DeftExplanation(ModelOutput):
    r"""
    au_maps (`(clips, action_units, frames - 1, grid, grid)`): where and when each unit was looked for; sums to 1.
    expert_gates (`(clips, 3)`): weights of structure, texture and motion in the emotion.
    emotion_effects (`(clips, 3)`): by how much the probability of the class that the head names falls without the
        expert; negative where it rises. Zero for an expert that is missing anyway, NaN where nothing would be left.
    answer_effects (`(clips, 3)`): the same for the mean log-probability of the answer's tokens, in nats a token;
        `None` without an answer.
    """

    au_maps: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    emotion_effects: torch.FloatTensor | None = None
    answer_effects: torch.FloatTensor | None = None


class DeftPreTrainedModel(PreTrainedModel):
    config: DeftConfig
    base_model_prefix = "model"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    # Besides whole layers, the modules that hold parameters of their own: these are read in the module's `forward`, so
    # a device map must keep them and what they are combined with in one place.
    _no_split_modules = ["CrossAttention", "GatedFusion", "MotionExpert", "MotionLayer", "Resampler", "TextureExpert"]
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
                    nn.init.normal_(parameter, std=1.0 if name in LOUD else std)


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
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> DeftVideoFeatures:
        r"""
        Runs the experts and the recognition heads.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): without it structure and texture
                are missing, and contribute neither tokens nor to the emotion.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): percent of the crop
                width; without it the motion expert is missing and the fields `au_…` are `None`.
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            silenced_experts: names of experts whose tokens become zeros and which have no say in the emotion.
            output_hidden_states (`bool`, *optional*): return the motion expert's `hidden_states`; by default as the
                config says.

        Raises:
            ValueError: a tensor of another shape than the config asks for, or values that are no numbers, naming it.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        features = self.recognise(
            pixel_values_videos, flow_values_videos, convention_ids, silenced_experts, output_hidden_states
        )
        features.pooler_output = list(_joined(features.expert_tokens.values()))
        features.last_hidden_state = _joined(features.expert_states.values())
        return features

    def recognise(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        output_hidden_states: bool = False,
    ) -> DeftVideoFeatures:
        """As `get_video_features`, without `pooler_output`: nothing here depends on how many clips there are, so a
        graph of it takes any number."""
        self._validate_clips(pixel_values_videos, flow_values_videos, convention_ids, silenced_experts)
        experts = {}
        if pixel_values_videos is not None:
            pixel_values_videos = pixel_values_videos.to(self.dtype)
            experts["structure"] = _in_parts(self.structure_expert, pixel_values_videos)
            experts["texture"] = _in_parts(self.texture_expert, pixel_values_videos)
        if flow_values_videos is not None:
            flow = flow_values_videos.to(self.dtype)
            if output_hidden_states:
                experts["motion"] = self.motion_expert(flow, output_hidden_states=True)
            else:
                experts["motion"] = _in_parts(self.motion_expert, flow)
        states = {name: output.tokens for name, output in experts.items()}
        pooled = {name: output.pooled for name, output in experts.items()}
        dropped = None
        if silenced_experts:
            clips, device = len(next(iter(states.values()))), next(iter(states.values())).device
            dropped = torch.tensor([name in silenced_experts for name in EXPERTS], device=device).expand(clips, -1)
        elif self.training and "structure" in experts:
            # One expert a clip: swapping what the expert says is swapping what it sees.
            order = self._swapped(len(pixel_values_videos), pixel_values_videos.device)
            if order is not None:
                states["structure"], pooled["structure"] = states["structure"][order], pooled["structure"][order]
            if "motion" in experts and self.config.expert_dropout:
                dropped = torch.rand(len(pixel_values_videos), len(EXPERTS), device=pixel_values_videos.device)
                dropped = dropped < self.config.expert_dropout
                dropped[:, EXPERTS.index("motion")] = False
        emotion_logits, gates = self.emotion_head([pooled.get(name) for name in EXPERTS], dropped, convention_ids)
        tokens = {name: self.connectors[name](value) for name, value in states.items()}
        if dropped is not None:
            tokens = {
                name: value.masked_fill(dropped[:, EXPERTS.index(name), None, None], 0.0)
                for name, value in tokens.items()
            }
        motion = experts.get("motion", ExpertOutput())
        au_logits = motion.au_logits
        if not self.training:
            emotion_logits = emotion_logits / self.config.emotion_temperature
            au_logits = None if au_logits is None else au_logits / self.config.action_unit_temperature
        return DeftVideoFeatures(
            expert_tokens=tokens,
            expert_states={name: output.tokens for name, output in experts.items()},
            hidden_states=motion.hidden_states,
            emotion_logits=emotion_logits,
            au_logits=au_logits,
            au_side_logits=motion.au_side_logits,
            au_intensity=motion.au_intensity,
            expert_gates=gates,
            au_attentions=motion.au_attentions,
        )

    def _swapped(self, clips: int, device: torch.device) -> torch.Tensor | None:
        """The clip whose structure each clip is shown with, or `None` for its own."""
        if not self.config.appearance_swap or clips < 2:
            return None
        own = torch.arange(clips, device=device)
        swapped = torch.rand(clips, device=device) < self.config.appearance_swap
        return torch.where(swapped, torch.randperm(clips, device=device), own)

    def _validate_clips(self, pixel_values_videos, flow_values_videos, convention_ids, silenced_experts):
        motion = self.config.motion_config
        if pixel_values_videos is None and flow_values_videos is None:
            raise ValueError("Pass pixel_values_videos, flow_values_videos or both.")
        unknown = sorted(set(silenced_experts) - set(EXPERTS))
        if unknown:
            raise ValueError(f"`silenced_experts` names {unknown[0]!r}; the experts are {', '.join(EXPERTS)}.")
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
        frames = getattr(self.config.texture_config, "num_frames", None)
        if pixel_values_videos is not None and frames is not None and pixel_values_videos.shape[1] != frames:
            raise ValueError(
                f"pixel_values_videos holds {pixel_values_videos.shape[1]} frames per clip; the texture backbone "
                f"({self.config.texture_config.model_type}) reads exactly {frames}. Set the processor's `num_frames` "
                "to that."
            )
        # `.shape[0]` and not `len`, which would fix the number of clips in an exported graph.
        clips = (flow_values_videos if pixel_values_videos is None else pixel_values_videos).shape[0]
        if convention_ids is not None and tuple(convention_ids.shape) != (clips,):
            raise ValueError(
                f"convention_ids must be (clips,) = ({clips},), indices into the config's label_conventions; got "
                f"{tuple(convention_ids.shape)}."
            )
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return  # what follows reads values, which a graph does not have
        known = len(self.config.label_conventions)
        if convention_ids is not None and not convention_ids.is_meta and int(convention_ids.max()) >= known:
            raise ValueError(
                f"convention_ids holds {int(convention_ids.max())}; the config's label_conventions are "
                f"{self.config.label_conventions}."
            )
        for name, values in (("pixel_values_videos", pixel_values_videos), ("flow_values_videos", flow_values_videos)):
            if values is not None and not values.is_meta and not bool(torch.isfinite(values).all()):
                bad = ~torch.isfinite(values).flatten(1).all(1)
                raise ValueError(f"{name} holds NaN or infinite values in clip {int(bad.nonzero()[0])}.")

    def _placeholder_masks(self, input_ids, inputs_embeds, expert_sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        """Where each expert's tokens go, (batch, sequence, 1); raises `ValueError` where the counts disagree."""
        masks = {}
        for name, expected in expert_sizes.items():
            token_id = getattr(self.config, f"{name}_token_id")
            if token_id is None:
                if not expected:
                    continue
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
                    "and model must agree on the tokens an expert has, and each clip needs its block in a prompt; "
                    "an expert whose input is not passed has none."
                )
            masks[name] = mask.unsqueeze(-1)
        return masks

    def embed_prompts(self, input_ids: torch.LongTensor, recognition: Any) -> torch.Tensor:
        r"""
        Prompts with the experts' tokens in their places, `(batch, sequence, text_size)`: for
        `generate(inputs_embeds=…)`, so that clips which were recognised already are not looked at again.

        Args:
            recognition: what this model made of the clips, in the order of their placeholders; its `expert_tokens`
                are read.

        Raises:
            ValueError: placeholders and tokens disagree in number.
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
        cache: Cache | None = None,
        **kwargs,
    ) -> DeftModelOutputWithPast:
        r"""
        With clips only it recognises; with text it also runs the language model over the prompt.

        Args:
            pixel_values_videos, flow_values_videos, convention_ids, silenced_experts: see
                [`~DeftModel.get_video_features`]; the clips of all prompts one after another, in the order of their
                placeholders.
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
            seen, moved = (0 if clips is None else len(clips) for clips in (pixel_values_videos, flow_values_videos))
            sizes = {
                "structure": seen * self.config.structure_tokens,
                "texture": seen * self.config.texture_tokens,
                "motion": moved * self.config.motion_tokens,
            }
            masks = self._placeholder_masks(input_ids, inputs_embeds, sizes)

        recognition = {}
        if has_clips:
            features = self.recognise(pixel_values_videos, flow_values_videos, convention_ids, silenced_experts)
            recognition = {name: features[name] for name in RECOGNITION if name in features}
        if not has_text:
            return DeftModelOutputWithPast(**recognition)
        if has_clips:
            inputs_embeds = _inserted(inputs_embeds, masks, features.expert_tokens)

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


class _OptionalLabel(str):
    """The name of a label argument that a batch may lack.

    `Trainer` takes every argument of `forward` with "label" in its name for one that a batch must have before
    `eval_loss` is reported (`transformers.utils.generic.find_labels`). The experts' labels may be missing.
    """

    __slots__ = ()

    def __contains__(self, part: str) -> bool:
        return part != "label" and super().__contains__(part)


def _only_labels_required(forward: Callable) -> Callable:
    signature = inspect.signature(forward)
    forward.__signature__ = signature.replace(
        parameters=[
            parameter.replace(name=_OptionalLabel(name)) if "label" in name and name != "labels" else parameter
            for name, parameter in signature.parameters.items()
        ]
    )
    return forward


class DeftForConditionalGeneration(DeftPreTrainedModel, GenerationMixin):
    """DEFT with the language modelling head: generates Class / Evidence / Rationale, and computes the hybrid loss."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        self.model = DeftModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        placeholders = [getattr(config, f"{name}_token_id") for name in EXPERTS]
        if None not in placeholders:
            # A placeholder in an answer would stand for a clip that is not there.
            self.generation_config.suppress_tokens = placeholders
        self.post_init()

    @classmethod
    def from_parts(
        cls, *, text: Any, structure: Any, texture: Any, vocab_size: int | None = None, **config: Any
    ) -> "DeftForConditionalGeneration":
        r"""
        A new model around a language model and two vision backbones; what is between them starts from random weights.

        Args:
            text, structure, texture: each a folder or Hub repository with pretrained weights, a model whose weights
                are copied, or a configuration (or mapping with `model_type`) for random weights.
            vocab_size: of the tokenizer; the embeddings grow to it where they are smaller.
            **config: the other fields of [`DeftConfig`].

        Raises:
            TypeError: a part that is none of these. OSError: a repository that cannot be loaded.
        """
        parts = {"text": text, "structure": structure, "texture": texture}
        configs = {f"{name}_config": _config_of_part(name, part) for name, part in parts.items()}
        model = cls(DeftConfig(**configs, **config))
        for name, part in parts.items():
            if isinstance(part, (str, PathLike)):
                part = (AutoModelForCausalLM if name == "text" else AutoModel).from_pretrained(part)
            if not isinstance(part, PreTrainedModel):
                continue
            if name == "text":
                model.model.language_model.load_state_dict(part.base_model.state_dict())
                head = part.get_output_embeddings()
                if head is not None and not model.config.tie_word_embeddings:
                    model.lm_head.load_state_dict(head.state_dict())
            else:
                getattr(model.model, f"{name}_expert").backbone.load_state_dict(part.state_dict())
        if vocab_size is not None and vocab_size > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(vocab_size)
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_video_features(self, pixel_values_videos=None, flow_values_videos=None, **kwargs) -> DeftVideoFeatures:
        return self.model.get_video_features(pixel_values_videos, flow_values_videos, **kwargs)

    @_only_labels_required
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
            convention_ids (`(clips,)`): whose reading the emotion head is asked for; see `config.label_conventions`.
            silenced_experts: experts the answer is to do without.
            labels (`(batch, sequence)`): next-token targets, -100 where there is none.
            emotion_labels (`(clips,)`): class indices, -100 where the clip has none.
            au_labels (`(clips, action_units)`): 1 present, 0 absent, -100 unknown.
            au_side_labels (`(clips, action_units)`): 0 both sides, 1 left, 2 right, -100 unknown.
            au_intensity_labels (`(clips, action_units)`): 0 for A to 4 for E, -100 unknown.
            skip_logits (`bool`): with `labels`, project only the scored positions onto the vocabulary and return no
                logits; in training that is most of the memory.
            num_items_in_batch (`int` or scalar tensor, *optional*): scored tokens of the whole step, over which every
                term of the loss is averaged: the language term per token, the others per clip, where a clip weighs as
                much as its prompt's scored tokens do. Gradients accumulated over the micro-batches of a step are then
                those of the whole batch. Without it, each term is the mean over its own labels in this batch.
            shift_labels (`(batch, sequence)`, *optional*): targets that are aligned with the logits already, as
                sequence and context parallelism pass them; used instead of `labels`.
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
        if targets is not None and num_items_in_batch is not None and "emotion_logits" in outputs:
            shares = self._clip_shares(targets, num_items_in_batch, len(outputs.emotion_logits), input_ids)
        losses = self._expert_losses(outputs, emotion_labels, au_labels, au_side_labels, au_intensity_labels, shares)
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

    def _expert_losses(self, outputs, emotion_labels, au_labels, au_side_labels, au_intensity_labels, shares):
        """The terms of the experts by name: those with a weight above 0 whose labels were passed."""
        weights, losses = self.config.loss_weights, {}
        if emotion_labels is not None and "emotion_logits" in outputs:
            losses["emotion"] = emotion_loss(outputs.emotion_logits, emotion_labels, shares)
        if au_labels is not None and "au_logits" in outputs:
            present = au_labels == 1
            losses["action_unit"] = action_unit_loss(
                outputs.au_logits, au_labels, self.config.action_unit_focus, shares
            )
            if weights["region"]:
                regions = region_masks(self.config, outputs.au_attentions.device)
                losses["region"] = region_loss(outputs.au_attentions, regions, present, shares)
            if au_side_labels is not None:
                losses["side"] = side_loss(outputs.au_side_logits, au_side_labels, present, shares)
            if au_intensity_labels is not None:
                losses["intensity"] = intensity_loss(outputs.au_intensity, au_intensity_labels, present, shares)
            if weights["alignment"] and self.config.action_unit_name_ids:
                tokens = outputs.expert_tokens["motion"]
                names, named = (part.to(tokens.device) for part in self.action_unit_names())
                losses["alignment"] = alignment_loss(tokens, names, named, present, shares=shares)
        return {name: value for name, value in losses.items() if weights[name]}

    def _clip_shares(self, targets, num_items_in_batch, clips: int, input_ids) -> torch.Tensor:
        """(clips,) the share of each clip in a step whose prompts have `num_items_in_batch` scored tokens together."""
        shares = (targets != -100).sum(1) / torch.as_tensor(num_items_in_batch, device=targets.device).clamp(min=1)
        if len(shares) == clips:
            return shares
        count = self._clips_per_prompt(input_ids).to(shares.device)
        return (shares / count.clamp(min=1)).repeat_interleave(count)

    def action_unit_names(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The language model's own embeddings of the units' names, (action_units, text size), and which are known."""
        embeddings = self.get_input_embeddings()
        ids = [self.config.action_unit_name_ids.get(code) or [] for code in self.config.action_units]
        # The module is called instead of reading its weight: an offloaded weight is in memory only during the call.
        device = None if embeddings.weight.is_meta else embeddings.weight.device
        tokens = embeddings(torch.tensor([token for name in ids for token in name], dtype=torch.long, device=device))
        rows = [
            name.mean(0) if len(name) else name.new_zeros(name.shape[1]) for name in tokens.split([*map(len, ids)])
        ]
        return torch.stack(rows), torch.tensor([bool(name) for name in ids], device=tokens.device)

    @torch.no_grad()
    def explain(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
    ) -> DeftExplanation:
        r"""
        What the answer rests on: where each action unit was looked for, and what changes without each expert.

        Args:
            input_ids, attention_mask, labels (`(clips, sequence)`, *optional*): a prompt with the answer to it, one a
                clip, and labels that are -100 outside the answer.

        Raises:
            ValueError: no motion expert's input, from which the maps come; or a prompt without labels.
        """
        if flow_values_videos is None:
            raise ValueError("explain() needs flow_values_videos: the maps are the motion expert's.")
        if (input_ids is None) != (labels is None):
            raise ValueError("explain() takes input_ids and labels together: a prompt with its answer.")
        clips = {
            "pixel_values_videos": pixel_values_videos,
            "flow_values_videos": flow_values_videos,
            "convention_ids": convention_ids,
        }
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        names = [name for name in EXPERTS if name == "motion" or pixel_values_videos is not None]
        whole = self.model(**clips, **text)
        probability = whole.emotion_logits.softmax(-1)
        best = probability.argmax(-1, keepdim=True)
        emotion = probability.new_zeros(len(probability), len(EXPERTS))
        answer = None if labels is None else emotion.clone()
        for name in names:
            index = EXPERTS.index(name)
            without = self.model(**clips, **text, silenced_experts=(name,))
            change = probability - without.emotion_logits.softmax(-1)
            emotion[:, index] = change.gather(1, best).squeeze(1) if len(names) > 1 else torch.nan
            if answer is not None:
                answer[:, index] = self._answer_score(whole, labels) - self._answer_score(without, labels)
        grid = self.config.motion_config.flow_size // self.config.motion_config.patch_size
        return DeftExplanation(
            au_maps=whole.au_attentions.unflatten(-1, (grid, grid)),
            expert_gates=whole.expert_gates,
            emotion_effects=emotion,
            answer_effects=answer,
        )

    def _answer_score(self, outputs: DeftModelOutputWithPast, labels: torch.Tensor) -> torch.Tensor:
        """(batch,) mean log-probability of the scored tokens."""
        logits = self.lm_head(outputs.last_hidden_state[:, :-1]).float()
        values = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        return -values.sum(1) / (labels[:, 1:] != -100).sum(1).clamp(min=1)

    def _language_loss(self, hidden_states, targets, num_items_in_batch) -> torch.Tensor:
        scored = targets != -100
        # The labels may lie on another device than the head when the model is split over several.
        logits = self.lm_head(hidden_states[scored.to(hidden_states.device)]).float()
        total = F.cross_entropy(logits, targets[scored].to(logits.device), reduction="sum")
        count = scored.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return total / count.to(total.device).clamp(min=1)

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs):
        """As [`~transformers.GenerationMixin.generate`]; a `max_length` of the caller's replaces the model's own
        `max_new_tokens`, which would win otherwise."""
        own = {name: getattr(generation_config, name, None) for name in ("max_length", "max_new_tokens")} | kwargs
        if own["max_length"] is not None and own["max_new_tokens"] is None:
            kwargs["max_new_tokens"] = None
        return super().generate(inputs, generation_config, **kwargs)

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

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ):
        """Beams and several returned sequences: all clips of a prompt are repeated together.

        The stock version repeats every row of every tensor, which mixes up the clips of a prompt that has two.
        """
        clips = {
            name: model_kwargs.pop(name)
            for name in ("pixel_values_videos", "flow_values_videos", "convention_ids")
            if model_kwargs.get(name) is not None
        }
        if expand_size > 1 and clips:
            count = len(next(iter(clips.values())))
            prompts = (
                len(input_ids) if input_ids is not None and input_ids.shape[1] else len(model_kwargs["inputs_embeds"])
            )
            owners = torch.arange(prompts)
            if count != prompts:
                owners = torch.arange(prompts).repeat_interleave(self._clips_per_prompt(input_ids).cpu())
            order = torch.cat(
                [(owners == prompt).nonzero().flatten().repeat(expand_size) for prompt in range(prompts)]
            )
            clips = {name: value[order.to(value.device)] for name, value in clips.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **clips}

    def _clips_per_prompt(self, input_ids: torch.LongTensor | None) -> torch.Tensor:
        """(batch,) number of clips, counted by the placeholders of the expert that has some."""
        for name in reversed(EXPERTS):
            tokens, token_id = getattr(self.config, f"{name}_tokens"), getattr(self.config, f"{name}_token_id")
            if input_ids is not None and tokens and token_id is not None and bool((input_ids == token_id).any()):
                return (input_ids == token_id).sum(1) // tokens
        raise ValueError(
            "Prompts with several clips need input_ids, whose placeholders say which prompt each clip belongs to."
        )


def _in_parts(expert: nn.Module, clips: torch.Tensor) -> ExpertOutput:
    """Many clips a few at a time where a processor infers: what does not fit into its cache takes twice as long."""
    whole = torch.compiler.is_compiling() or torch.is_grad_enabled() or clips.device.type != "cpu"
    if whole or len(clips) <= CLIPS_AT_ONCE:
        return expert(clips)
    parts = [expert(part) for part in clips.split(CLIPS_AT_ONCE)]
    return ExpertOutput(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _joined(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The experts' tokens one after another, `(clips, tokens, size)`; the experts may lie on several devices."""
    first, *others = parts
    return torch.cat([first, *(part.to(first.device) for part in others)], dim=1)


def _inserted(
    inputs_embeds: torch.Tensor, masks: Mapping[str, torch.Tensor], expert_tokens: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    for name, tokens in expert_tokens.items():
        tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
        inputs_embeds = inputs_embeds.masked_scatter(masks[name], tokens)
    return inputs_embeds


def _config_of_part(name: str, part: Any) -> PreTrainedConfig:
    if isinstance(part, (str, PathLike)):
        return AutoConfig.from_pretrained(part)
    if isinstance(part, PreTrainedModel):
        return copy.deepcopy(part.config)
    if isinstance(part, PreTrainedConfig):
        return copy.deepcopy(part)
    if isinstance(part, Mapping) and "model_type" in part:
        return AutoConfig.for_model(**part)
    raise TypeError(
        f"`{name}` must be the name of pretrained weights, a model, a config, or a mapping with model_type; got "
        f"{part!r}."
    )


__all__ = ["DeftForConditionalGeneration", "DeftModel", "DeftPreTrainedModel", "DeftVideoTextToTextPipeline"]
