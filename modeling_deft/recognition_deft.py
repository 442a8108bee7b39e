"""The experts and the heads that recognise, as a model of its own: no language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_deft import EXPERTS, DeftConfig
from .experts_deft import ExpertOutput, GatedFusion, MotionExpert, Resampler, StructureExpert, TextureExpert

APPEARANCE = ("structure", "texture")  # the experts that read `pixel_values_videos`
# The fields that the heads give, of every output of a model that saw clips.
HEADS = ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "expert_gates", "au_attentions")
# Parameters with one row per action unit, token or side. They start far apart, so that rows learn different things.
DISTINCT_PARAMETERS = ("queries", "names", "side_states", "strength")
CLIPS_AT_ONCE = 16  # a processor recognises a large batch in parts of this size


@dataclass
class DeftRecognitionOutput(ModelOutput):
    r"""
    emotion_logits (`(clips, emotions)`): from the experts alone.
    au_logits (`(clips, action_units)`): likewise.
    au_side_logits (`(clips, action_units, 3)`): both sides, left, right; meaningful where the unit is present.
    au_intensity (`(clips, action_units)`): 0 for A to 4 for E, likewise.
    expert_gates (`(clips, 3)`): weight of structure, texture and motion in the emotion; they sum to 1.
    au_attentions (`(clips, action_units, frames - 1, patches)`): where each action unit's query looked; sums to 1.
    expert_states (`dict[str, (clips, tokens, expert_size)]`): the experts' tokens, nothing silenced, missing experts
        left out.
    shown_states (`dict[str, (clips, tokens, expert_size)]`): the same as the language model is to see them. In
        training some clips are shown with the structure of another clip of the batch.
    dropped_experts (`(clips, 3)`, *optional*): True where a clip is to be judged without the expert.
    hidden_states (`tuple` of `(clips, (frames - 1) · patches, hidden size)`, *optional*): of the motion expert.
    """

    emotion_logits: torch.FloatTensor | None = None
    au_logits: torch.FloatTensor | None = None
    au_side_logits: torch.FloatTensor | None = None
    au_intensity: torch.FloatTensor | None = None
    expert_gates: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None
    expert_states: dict[str, torch.FloatTensor] | None = None
    shown_states: dict[str, torch.FloatTensor] | None = None
    dropped_experts: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


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
                    nn.init.normal_(parameter, std=1.0 if name in DISTINCT_PARAMETERS else std)


class DeftRecognitionModel(DeftPreTrainedModel):
    """The experts of `config.experts` and the heads: emotions and action units of a clip, without a language model."""

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        if "structure" in config.experts:
            self.structure_expert = StructureExpert(config)
        if "texture" in config.experts:
            self.texture_expert = TextureExpert(config)
        self.motion_expert = MotionExpert(config)
        self.emotion_head = GatedFusion(config)
        self.post_init()

    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        flow_values_videos: torch.FloatTensor | None = None,
        convention_ids: torch.LongTensor | None = None,
        silenced_experts: Sequence[str] = (),
        output_hidden_states: bool = False,
    ) -> DeftRecognitionOutput:
        r"""
        Nothing here depends on how many clips there are, so an exported graph takes any number.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): normalised RGB; without it
                structure and texture are missing.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): percent of the crop
                width; without it the motion expert is missing and the fields `au_…` are `None`.
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            silenced_experts: names of experts that have no say in the emotion.
            output_hidden_states: return the motion expert's `hidden_states`.

        Raises:
            ValueError: a tensor of another shape than the config asks for, or with NaN or infinite values, naming it.
        """
        self._validate_clips(pixel_values_videos, flow_values_videos, convention_ids, silenced_experts)
        experts = {}
        if pixel_values_videos is not None:
            pixel_values_videos = pixel_values_videos.to(self.dtype)
            for name in APPEARANCE:
                if name in self.config.experts:
                    experts[name] = _in_parts(getattr(self, f"{name}_expert"), pixel_values_videos)
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
            # There is one expert per clip, so swapping what the expert says is swapping what it sees.
            order = self._swapped(len(pixel_values_videos), pixel_values_videos.device)
            if order is not None:
                states["structure"], pooled["structure"] = states["structure"][order], pooled["structure"][order]
            if "motion" in experts and self.config.expert_dropout:
                dropped = torch.rand(len(pixel_values_videos), len(EXPERTS), device=pixel_values_videos.device)
                dropped = dropped < self.config.expert_dropout
                dropped[:, EXPERTS.index("motion")] = False
        emotion_logits, gates = self.emotion_head([pooled.get(name) for name in EXPERTS], dropped, convention_ids)
        motion = experts.get("motion", ExpertOutput())
        au_logits = motion.au_logits
        if not self.training:
            emotion_logits = emotion_logits / self.config.emotion_temperature
            au_logits = None if au_logits is None else au_logits / self.config.action_unit_temperature
        return DeftRecognitionOutput(
            emotion_logits=emotion_logits,
            au_logits=au_logits,
            au_side_logits=motion.au_side_logits,
            au_intensity=motion.au_intensity,
            expert_gates=gates,
            au_attentions=motion.au_attentions,
            expert_states={name: output.tokens for name, output in experts.items()},
            shown_states=states,
            dropped_experts=dropped,
            hidden_states=motion.hidden_states,
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
        if flow_values_videos is None and not set(APPEARANCE) & set(self.config.experts):
            raise ValueError("This model has the motion expert only: pass flow_values_videos.")
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
        frames = getattr(self.config.texture_config, "num_frames", None) if "texture" in self.config.experts else None
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


def _in_parts(expert: nn.Module, clips: torch.Tensor) -> ExpertOutput:
    """A processor takes many clips a few at a time: what does not fit into its cache takes twice as long."""
    whole = torch.compiler.is_compiling() or torch.is_grad_enabled() or clips.device.type != "cpu"
    if whole or len(clips) <= CLIPS_AT_ONCE:
        return expert(clips)
    parts = [expert(part) for part in clips.split(CLIPS_AT_ONCE)]
    return ExpertOutput(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


__all__ = ["DeftPreTrainedModel", "DeftRecognitionModel", "DeftRecognitionOutput"]
