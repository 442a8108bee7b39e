"""The experts and the recognition heads as a model without a language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_deft import EXPERTS, DeftConfig
from .experts_deft import ExpertOutput, GatedFusion, MotionExpert, Resampler, StructureExpert, TextureExpert

APPEARANCE = ("structure", "texture")  # the experts that read `pixel_values_videos`
# The fields that the heads compute, in every output for clips.
HEADS = ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "expert_gates", "au_attentions")
# Parameters with one row per unit, token, side or emotion. They start far apart so that the rows learn to differ.
DISTINCT_PARAMETERS = ("queries", "names", "side_states", "strength", "emotion_states")
CLIPS_AT_ONCE = 16  # on a CPU, a larger batch is split into parts of this size


@dataclass
class DeftRecognitionOutput(ModelOutput):
    r"""
    Output of [`DeftRecognitionModel`].

    Args:
        emotion_logits (`(clips, emotions)`): computed from the experts.
        au_logits (`(clips, action_units)`): computed from the motion expert.
        au_side_logits (`(clips, action_units, 3)`): both sides, left, right; valid for units that are present.
        au_intensity (`(clips, action_units)`): 0 for A to 4 for E; valid for units that are present.
        expert_gates (`(clips, 3)`): weights of structure, texture and motion in the emotion, which sum to 1.
        au_attentions (`(clips, action_units, frames - 1, patches)`): attention weights of each action unit's query,
            which sum to 1.
        expert_states (`dict[str, (clips, tokens, expert_size)]`): the experts' tokens, without missing experts.
        shown_states (`dict[str, (clips, tokens, expert_size)]`): the tokens that the language model sees. In
            training, some clips have the structure tokens of another clip in the batch.
        dropped_experts (`(clips, 3)`, *optional*): True where the clip is judged without the expert.
        hidden_states (`tuple` of `(clips, (frames - 1) · patches, hidden size)`, *optional*): embeddings and layer
            outputs of the motion expert.
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
    # Besides whole layers, the modules with parameters of their own. `forward` combines these with other weights of
    # the module, so a device map must keep the module on one device.
    _no_split_modules = ["CrossAttention", "GatedFusion", "MotionExpert", "MotionLayer", "Resampler", "TextureExpert"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.motion_config.initializer_range
        if isinstance(module, (DeftRecognitionModel, MotionExpert, Resampler, TextureExpert)):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "au_bias":
                    nn.init.zeros_(parameter)
                else:
                    # Queries that start alike would all learn to attend to the same place.
                    nn.init.normal_(parameter, std=1.0 if name in DISTINCT_PARAMETERS else std)


class DeftRecognitionModel(DeftPreTrainedModel):
    """The experts of `config.experts` and the heads for emotions and action units, without a language model."""

    def __init__(self, config: DeftConfig):
        super().__init__(config)
        if "structure" in config.experts:
            self.structure_expert = StructureExpert(config)
        if "texture" in config.experts:
            self.texture_expert = TextureExpert(config)
        self.motion_expert = MotionExpert(config)
        self.emotion_head = GatedFusion(config)
        if config.emotion_token:
            self.emotion_states = nn.Parameter(torch.empty(len(config.emotion_labels), config.expert_size))
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
        Runs the experts and the heads. The graph can be exported with a free number of clips.

        Args:
            pixel_values_videos (`(clips, frames, 3, height, width)`, *optional*): normalised RGB. Without it, the
                structure and texture experts are missing.
            flow_values_videos (`(clips, frames - 1, 2, flow_size, flow_size)`, *optional*): percent of the crop
                width. Without it, the motion expert is missing and the `au_…` fields are `None`.
            convention_ids (`(clips,)`, *optional*): indices into `config.label_conventions`, -100 for unknown.
            silenced_experts (`list[str]`): names of experts that are left out of the emotion.
            output_hidden_states (`bool`): return the motion expert's `hidden_states`.

        Raises:
            ValueError: a tensor has the wrong shape, or contains NaN or infinite values. The message names it.
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
            # The expert reads each clip by itself, so swapping its outputs is the same as swapping its inputs.
            order = self._swapped(len(pixel_values_videos), pixel_values_videos.device)
            if order is not None:
                states["structure"], pooled["structure"] = states["structure"][order], pooled["structure"][order]
            if "motion" in experts and self.config.expert_dropout:
                dropped = torch.rand(len(pixel_values_videos), len(EXPERTS), device=pixel_values_videos.device)
                dropped = dropped < self.config.expert_dropout
                dropped[:, EXPERTS.index("motion")] = False
        emotion_logits, gates = self.emotion_head([pooled.get(name) for name in EXPERTS], dropped, convention_ids)
        own = {name: output.tokens for name, output in experts.items()}
        if self.config.emotion_token and "motion" in experts:
            # Detached, as in the expert: the head is trained by its own labels only.
            emotion = (emotion_logits.softmax(-1).detach() @ self.emotion_states).unsqueeze(1)
            own["motion"] = states["motion"] = torch.cat([states["motion"], emotion], dim=1)
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
            expert_states=own,
            shown_states=states,
            dropped_experts=dropped,
            hidden_states=motion.hidden_states,
        )

    def _swapped(self, clips: int, device: torch.device) -> torch.Tensor | None:
        """(clips,) index of the clip whose structure each clip gets, or `None` if no clip is swapped."""
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
            raise ValueError("This model has only the motion expert: pass flow_values_videos.")
        unknown = sorted(set(silenced_experts) - set(EXPERTS))
        if unknown:
            raise ValueError(f"`silenced_experts` contains {unknown[0]!r}; the experts are {', '.join(EXPERTS)}.")
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
                    f"flow_values_videos has {flow_values_videos.shape[1]} fields per clip; the config allows at most "
                    f"num_flow_frames = {motion.num_flow_frames}."
                )
        if pixel_values_videos is not None and flow_values_videos is not None:
            clips, fields = flow_values_videos.shape[:2]
            if tuple(pixel_values_videos.shape[:2]) != (clips, fields + 1):
                raise ValueError(
                    f"pixel_values_videos has {tuple(pixel_values_videos.shape[:2])} clips × frames, and "
                    f"flow_values_videos has {(clips, fields)} clips × fields; expected {(clips, fields + 1)} clips × "
                    "frames."
                )
        frames = getattr(self.config.texture_config, "num_frames", None) if "texture" in self.config.experts else None
        if pixel_values_videos is not None and frames is not None and pixel_values_videos.shape[1] != frames:
            raise ValueError(
                f"pixel_values_videos has {pixel_values_videos.shape[1]} frames per clip; the texture backbone "
                f"({self.config.texture_config.model_type}) reads exactly {frames}. Set the processor's `num_frames` "
                f"to {frames}."
            )
        # `.shape[0]` and not `len`, which would fix the number of clips in an exported graph.
        clips = (flow_values_videos if pixel_values_videos is None else pixel_values_videos).shape[0]
        if convention_ids is not None and tuple(convention_ids.shape) != (clips,):
            raise ValueError(
                f"convention_ids must be (clips,) = ({clips},), indices into the config's label_conventions; got "
                f"{tuple(convention_ids.shape)}."
            )
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return  # the checks below read values, which are not known while a graph is traced
        known = len(self.config.label_conventions)
        if convention_ids is not None and not convention_ids.is_meta and int(convention_ids.max()) >= known:
            raise ValueError(
                f"convention_ids contains {int(convention_ids.max())}; the config has {known} label_conventions: "
                f"{self.config.label_conventions}."
            )
        for name, values in (("pixel_values_videos", pixel_values_videos), ("flow_values_videos", flow_values_videos)):
            if values is not None and not values.is_meta and not bool(torch.isfinite(values).all()):
                bad = ~torch.isfinite(values).flatten(1).all(1)
                raise ValueError(f"{name} contains NaN or infinite values in clip {int(bad.nonzero()[0])}.")


def _in_parts(expert: nn.Module, clips: torch.Tensor) -> ExpertOutput:
    """On a CPU, runs the expert on a few clips at a time. Activations that exceed the cache take twice as long."""
    whole = torch.compiler.is_compiling() or torch.is_grad_enabled() or clips.device.type != "cpu"
    if whole or len(clips) <= CLIPS_AT_ONCE:
        return expert(clips)
    parts = [expert(part) for part in clips.split(CLIPS_AT_ONCE)]
    return ExpertOutput(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


__all__ = ["DeftPreTrainedModel", "DeftRecognitionModel", "DeftRecognitionOutput"]
