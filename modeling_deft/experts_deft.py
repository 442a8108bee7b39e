"""The structure, texture and motion experts.

Each reads a different input: structure the onset frame, texture the changes since the onset, motion the optical flow.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.utils import ModelOutput
from transformers.utils.generic import maybe_autocast

from .configuration_deft import DeftConfig, DeftMotionConfig

SIDES = ("both", "left", "right")  # the classes of `au_side_logits`; the person's own left and right


@dataclass
class ExpertOutput(ModelOutput):
    """
    Output of one expert.

    Args:
        tokens (`(clips, tokens, expert_size)`): the expert's tokens for the language model, before the connector.
        pooled (`(clips, expert_size)`): the expert's input to the emotion head.
        hidden_states (`tuple` of `(clips, frames · patches, hidden_size)`, *optional*): motion expert only, and only
            with `output_hidden_states`.
        au_logits (`(clips, action_units)`, *optional*): motion expert only.
        au_side_logits (`(clips, action_units, 3)`, *optional*): both sides, left, right; motion expert only.
        au_intensity (`(clips, action_units)`, *optional*): 0 for A to 4 for E; motion expert only.
        au_attentions (`(clips, action_units, frames, patches)`, *optional*): attention weights of each action unit's
            query, which sum to 1; motion expert only.
    """

    tokens: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    au_logits: torch.FloatTensor | None = None
    au_side_logits: torch.FloatTensor | None = None
    au_intensity: torch.FloatTensor | None = None
    au_attentions: torch.FloatTensor | None = None


class CrossAttention(nn.Module):
    """Multi-head attention of learned queries over a memory. Also returns the weights, averaged over the heads.

    Args:
        hidden_size: width of the queries and of the output; a multiple of `num_heads`.
        memory_size: width of the memory.
        num_heads: number of attention heads.
    """

    def __init__(self, hidden_size: int, memory_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(memory_size, hidden_size)
        self.value = nn.Linear(memory_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends to the memory, (clips, states, memory size), where `allowed`, (queries, states), is True."""
        query, key, value = (
            _split_heads(states, self.num_heads)
            for states in (self.query(query), self.key(memory), self.value(memory))
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2)), weights.mean(1)


def _split_heads(states: torch.Tensor, num_heads: int) -> torch.Tensor:
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Resampler(nn.Module):
    """Reduces any number of backbone states to a fixed number of tokens, one per learned query.

    Args:
        num_tokens: number of output tokens.
        hidden_size: width of the output tokens.
        memory_size: width of the backbone states.
    """

    def __init__(self, num_tokens: int, hidden_size: int, memory_size: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_tokens, hidden_size))
        self.memory_norm = nn.LayerNorm(memory_size)
        self.attention = CrossAttention(hidden_size, memory_size, num_heads=max(1, hidden_size // 64))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        queries = self.queries.expand(memory.shape[0], -1, -1)
        return self.norm(queries + self.attention(queries, self.memory_norm(memory))[0])


class StructureExpert(nn.Module):
    """Encodes the identity and the build of the face: a vision backbone that reads the onset frame only."""

    def __init__(self, config: DeftConfig):
        super().__init__()
        self.backbone = AutoModel.from_config(config.structure_config)
        self.resampler = Resampler(config.structure_tokens, config.expert_size, config.structure_config.hidden_size)

    def forward(self, pixel_values_videos: torch.Tensor) -> ExpertOutput:
        states = self.backbone(pixel_values=pixel_values_videos[:, 0]).last_hidden_state
        tokens = self.resampler(states)
        return ExpertOutput(tokens=tokens, pooled=tokens.mean(1))


class TextureExpert(nn.Module):
    """Encodes changes of the skin: a backbone that reads the frames minus the onset frame. A still face is all zeros.

    Changes of the light and movements of the head would reveal the identity in these differences, so they are removed
    first (`residual_changes`). A video backbone (one with tubelets) reads all differences together; an image backbone
    reads them one by one. A VideoMAE backbone can read only the `texture_share` of the patches that change most, at
    the same places in all frames. Its pretraining read a tenth of the patches, masked in the same way (Tong et al.
    2022).
    """

    def __init__(self, config: DeftConfig):
        super().__init__()
        self.backbone = AutoModel.from_config(config.texture_config)
        self.reads_video = hasattr(config.texture_config, "tubelet_size")
        self.share = config.texture_share
        self.frame_positions = None
        if not self.reads_video:
            frames, width = config.motion_config.num_flow_frames, config.texture_config.hidden_size
            self.frame_positions = nn.Parameter(torch.empty(frames, 1, width))
        self.resampler = Resampler(config.texture_tokens, config.expert_size, config.texture_config.hidden_size)

    def changes(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """The input of the backbone, in the shape of the frames."""
        return residual_changes(pixel_values_videos)

    def forward(self, pixel_values_videos: torch.Tensor) -> ExpertOutput:
        difference = self.changes(pixel_values_videos)
        if self.reads_video:
            states = self._read_moving(difference) if self.share < 1 else self.backbone(difference).last_hidden_state
        else:
            clips, frames = difference[:, 1:].shape[:2]
            states = self.backbone(pixel_values=difference[:, 1:].flatten(0, 1)).last_hidden_state
            states = (states.unflatten(0, (clips, frames)) + self.frame_positions[:frames]).flatten(1, 2)
        tokens = self.resampler(states)
        return ExpertOutput(tokens=tokens, pooled=tokens.mean(1))

    def _read_moving(self, difference: torch.Tensor) -> torch.Tensor:
        """VideoMAE's states of the patches that change most.

        The result equals that of VideoMAE's `bool_masked_pos`, which cannot be exported with a free number of clips.
        """
        config = self.backbone.config
        energy = F.avg_pool2d(difference.float().square().mean((1, 2)), config.patch_size).flatten(1)
        moving = energy.topk(max(1, round(self.share * energy.shape[1])), dim=1).indices.sort(1).values
        every_time = torch.arange(config.num_frames // config.tubelet_size, device=moving.device) * energy.shape[1]
        patches = (moving.unsqueeze(1) + every_time.unsqueeze(-1)).flatten(1)  # (clips, patches read)
        states = self.backbone.embeddings(difference, None)
        states = states.gather(1, patches.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        states = self.backbone.encoder(states).last_hidden_state
        return states if self.backbone.layernorm is None else self.backbone.layernorm(states)


def residual_changes(pixel_values_videos: torch.Tensor) -> torch.Tensor:
    """Subtracts the onset frame from the frames and removes changes of light and head position.

    To first order, a frame of a still face is the onset frame times a gain plus an offset, shifted by a similarity
    transform along its gradient. This gives six images per clip and channel. They are made orthonormal by
    Gram-Schmidt, and the components of the differences along them are subtracted.

    Args:
        pixel_values_videos: (clips, frames, 3, height, width).

    Returns:
        The differences, in the shape of `pixel_values_videos`.
    """
    onset = pixel_values_videos[:, 0].float()
    height, width = onset.shape[-2:]
    y = torch.linspace(-1, 1, height, device=onset.device).view(-1, 1)
    x = torch.linspace(-1, 1, width, device=onset.device).view(1, -1)
    along_y = F.pad(onset, (0, 0, 1, 1), mode="replicate")
    along_y = (along_y[..., 2:, :] - along_y[..., :-2, :]) / 2
    along_x = F.pad(onset, (1, 1, 0, 0), mode="replicate")
    along_x = (along_x[..., 2:] - along_x[..., :-2]) / 2
    images = (torch.ones_like(onset), onset, along_x, along_y, x * along_x + y * along_y, x * along_y - y * along_x)
    basis: list[torch.Tensor] = []
    for image in images:
        for earlier in basis:
            image = image - (image * earlier).sum((-2, -1), keepdim=True) * earlier
        # A flat frame has no gradient. The constant keeps rounding errors from being scaled up to unit length.
        basis.append(image / (image.square().sum((-2, -1), keepdim=True) + 1e-3).sqrt())
    explained = torch.stack(basis, 2).flatten(-2)  # (clips, 3, 6, pixels)
    explained = explained.flatten(0, 1)
    difference = pixel_values_videos - onset.unsqueeze(1)
    difference = difference.transpose(1, 2).flatten(-2).flatten(0, 1)  # (clips · 3, frames, pixels)
    # bfloat16 would leave half a percent of the removed components in place.
    with maybe_autocast(onset.device.type, enabled=False):
        shares = difference @ explained.transpose(-1, -2)
        difference = torch.baddbmm(difference, shares, explained, alpha=-1)
    difference = difference.unflatten(0, (-1, 3)).unflatten(-1, (height, width))
    return difference.transpose(1, 2).to(pixel_values_videos.dtype)


class MotionLayer(nn.Module):
    """Attention over the patches of a frame, then over the frames of a patch, then an MLP; all pre-norm residual."""

    def __init__(self, config: DeftMotionConfig):
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.num_heads, self.near = config.num_attention_heads, None
        if config.attention_reach is not None:
            self.near = near_patches((config.flow_size // config.patch_size) ** 2, config.attention_reach)
        self.space_norm, self.time_norm, self.mlp_norm = (nn.LayerNorm(size, eps=eps) for _ in range(3))
        self.space_qkv, self.time_qkv = nn.Linear(size, 3 * size), nn.Linear(size, 3 * size)
        self.space_output, self.time_output = nn.Linear(size, size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)

    def _attend(
        self, states: torch.Tensor, qkv: nn.Linear, output: nn.Linear, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        shape = states.shape
        if shape[2] == 1:
            # Attention to a single state is that state.
            return output(qkv(states).chunk(3, -1)[2])
        query, key, value = (_split_heads(part, self.num_heads) for part in qkv(states.flatten(0, 1)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return output(mixed.transpose(1, 2).flatten(2)).reshape(shape)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        near = None if self.near is None else self.near.to(states.device)
        states = states + self._attend(self.space_norm(states), self.space_qkv, self.space_output, near)
        over_time = self.time_norm(states).transpose(1, 2)
        states = states + self._attend(over_time, self.time_qkv, self.time_output).transpose(1, 2)
        return states + self.down(F.gelu(self.up(self.mlp_norm(states))))


class MotionExpert(nn.Module):
    """Recognises action units from optical flow, with their sides and intensities.

    From the flow (u, v) in percent of the crop width it computes magnitude and strain
    √(ux² + vy² + ½(uy + vx)²) (Shreve et al. 2011). Each action unit has one learned query, which attends over
    frame × patch; its state gives the unit's logit, side and intensity. The unit's token encodes these values and the
    motion at the attended patches. It does not contain the state itself, because the state would reveal the identity.
    A unit that is absent has a constant token.

    With `attention_reach`, a unit is judged from the skin around its regions only: its query attends to the patches
    that touch them or are at most so far from them, and its state to the states of units whose regions touch these
    patches as well. Otherwise the expert also learns which distant units occur together in the training data.
    """

    def __init__(self, config: DeftConfig):
        super().__init__()
        motion = config.motion_config
        grid = motion.flow_size // motion.patch_size
        self.patch_embedding = nn.Conv2d(4, motion.hidden_size, motion.patch_size, motion.patch_size)
        self.patch_positions = nn.Parameter(torch.empty(1, grid * grid, motion.hidden_size))
        self.frame_positions = nn.Parameter(torch.empty(motion.num_flow_frames, 1, motion.hidden_size))
        self.layers = nn.ModuleList(MotionLayer(motion) for _ in range(motion.num_hidden_layers))
        self.norm = nn.LayerNorm(motion.hidden_size, eps=motion.layer_norm_eps)
        self.queries = nn.Parameter(torch.empty(len(config.action_units), motion.hidden_size))
        self.attention = CrossAttention(motion.hidden_size, motion.hidden_size, motion.num_attention_heads)
        self.patch_size = motion.patch_size
        # Constants and not buffers: they follow from the config, and a buffer would be empty after loading.
        self.neighbourhoods = None if motion.attention_reach is None else _neighbourhoods(config)
        self.measurement = nn.Linear(7, motion.hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(motion.hidden_size, eps=motion.layer_norm_eps),
            nn.Linear(motion.hidden_size, motion.intermediate_size),
            nn.GELU(),
            nn.Linear(motion.intermediate_size, motion.hidden_size),
        )
        self.au_norm = nn.LayerNorm(motion.hidden_size, eps=motion.layer_norm_eps)
        # One classifier per action unit: row k reads the state of query k.
        self.au_weight = nn.Parameter(torch.empty(len(config.action_units), motion.hidden_size))
        self.au_bias = nn.Parameter(torch.zeros(len(config.action_units)))
        self.absent = nn.Parameter(torch.empty(len(config.action_units), motion.hidden_size))
        self.side = nn.Linear(motion.hidden_size + 1, len(SIDES))
        self.side_states = nn.Parameter(torch.empty(len(SIDES), motion.hidden_size))
        self.intensity = nn.Linear(motion.hidden_size, 1)
        self.names = nn.Parameter(torch.empty(len(config.action_units), motion.hidden_size))
        self.strength = nn.Parameter(torch.empty(motion.hidden_size))
        self.distance = nn.Linear(2, motion.hidden_size)
        self.relation_norm = nn.LayerNorm(motion.hidden_size, eps=motion.layer_norm_eps)
        self.relation = CrossAttention(motion.hidden_size, motion.hidden_size, motion.num_attention_heads)
        self.projection = nn.Linear(motion.hidden_size, config.expert_size)

    def forward(self, flow_values_videos: torch.Tensor, output_hidden_states: bool = False) -> ExpertOutput:
        clips, frames = flow_values_videos.shape[:2]
        channels = torch.cat([flow_values_videos, *_magnitude_and_strain(flow_values_videos)], dim=2)
        patches = self.patch_embedding(channels.flatten(0, 1)).flatten(2).transpose(1, 2)
        states = patches.unflatten(0, (clips, frames)) + self.patch_positions + self.frame_positions[:frames]
        hidden_states = (states,)
        for layer in self.layers:
            states = layer(states)
            hidden_states += (states,) if output_hidden_states else ()
        memory = self.norm(states).flatten(1, 2)

        queries = self.queries.expand(clips, -1, -1)
        looked_at = compared = None
        if self.neighbourhoods is not None:
            looked_at, compared = (part.to(memory.device) for part in self.neighbourhoods)
            looked_at = looked_at.repeat(1, frames)
        attended, weights = self.attention(queries, memory, looked_at)
        motion = self.attended_motion(weights, channels[:, :, :3])
        states = queries + attended + self.measurement(motion)
        # Skin is connected, so another unit may have caused the motion. The units attend to one another.
        others = self.relation_norm(states)
        states = states + self.relation(others, others, compared)[0]
        au_states = self.au_norm(states + self.mlp(states))
        au_logits = (au_states * self.au_weight).sum(-1) + self.au_bias
        # One-sided clips are rare, so the side head also gets the measured asymmetry directly.
        side_logits = self.side(torch.cat([au_states, motion[..., -1:]], dim=-1))
        # Stretched beyond 0 and 1 and then clamped, so that a unit of low probability does not change the token.
        present = (1.2 * au_logits.sigmoid() - 0.1).clamp(0, 1).unsqueeze(-1)
        # Detached: the heads are trained by their own labels only, and not by the language loss.
        strength = self.intensity(au_states).clamp(0, 4).detach() / 4
        shown = self.names + side_logits.softmax(-1).detach() @ self.side_states
        shown = shown + strength * self.strength + self.distance(motion[..., [2, 5]])
        tokens = self.projection(present * shown + (1 - present) * self.absent)
        return ExpertOutput(
            tokens=tokens,
            pooled=tokens.mean(1),
            hidden_states=tuple(layer.flatten(1, 2) for layer in hidden_states) if output_hidden_states else None,
            au_logits=au_logits,
            au_side_logits=side_logits,
            au_intensity=self.intensity(au_states).squeeze(-1),
            au_attentions=weights.unflatten(-1, (frames, -1)),
        )

    def attended_motion(self, weights: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """Averages the motion at the patches that each action unit attends to.

        Args:
            weights: (clips, action_units, frames · patches) attention weights.
            motion: (clips, frames, 3, h, w) u, v and magnitude in percent of the crop width.

        Returns:
            (clips, action_units, 7): mean u, v and magnitude on the person's right, the same on the left, and the
            asymmetry of the magnitudes, 12 (right − left) / (right + left). One-sided clips lie beyond ±1.
        """
        clips, frames = motion.shape[:2]
        grid = motion.shape[-1] // self.patch_size
        patches = F.avg_pool2d(motion.flatten(0, 1), self.patch_size).flatten(2).unflatten(0, (clips, frames))
        values = patches.transpose(2, 3).flatten(1, 2)  # (clips, frames · patches, 3)
        halves = []
        for right in (True, False):  # the person's right is the picture's left
            columns = torch.arange(grid, device=motion.device)
            inside = (columns < grid / 2) if right else (columns >= grid / 2)
            kept = weights * inside.repeat(frames * grid).to(weights.dtype)
            halves.append(kept @ values / (kept.sum(-1, keepdim=True) + 1e-3))
        right, left = (half[..., 2:] for half in halves)
        return torch.cat([*halves, 12 * (right - left) / (right + left + 0.05)], dim=-1)


def _neighbourhoods(config: DeftConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches, (units, patches), and the units, (units, units), that each unit is judged from, on the CPU."""
    regions = region_masks(config, torch.device("cpu")).float()
    around = regions @ near_patches(regions.shape[1], config.motion_config.attention_reach).float() > 0
    # A unit without a known region looks everywhere, and no other unit is compared with it.
    around = around | ~around.any(1, keepdim=True)
    itself = torch.eye(len(regions), dtype=torch.bool, device="cpu")
    return around, (around.float() @ regions.T > 0) | itself


def near_patches(patches: int, reach: int) -> torch.Tensor:
    """(patches, patches), True where two patches of a square grid are at most `reach` rows and columns apart. On the
    CPU, also while a model is built on the meta device."""
    place, side = torch.arange(patches, device="cpu"), round(patches**0.5)
    row, column = place // side, place % side
    return ((row.unsqueeze(1) - row).abs() <= reach) & ((column.unsqueeze(1) - column).abs() <= reach)


def region_masks(config: DeftConfig, device: torch.device) -> torch.Tensor:
    """(action_units, patches), True where the patch touches an ellipse of `config.action_unit_regions`."""
    motion = config.motion_config
    grid = motion.flow_size // motion.patch_size
    centre = (torch.arange(grid, device=device) + 0.5) / grid
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    masks = torch.zeros(len(config.action_units), grid, grid, dtype=torch.bool, device=device)
    for row, code in enumerate(config.action_units):
        for cx, cy, rx, ry in config.action_unit_regions.get(code, ()):
            # Half a patch is added to the radii, so that a patch counts as soon as it touches the ellipse.
            masks[row] |= ((x - cx) / (rx + 0.5 / grid)) ** 2 + ((y - cy) / (ry + 0.5 / grid)) ** 2 <= 1
    return masks.flatten(1)


def _magnitude_and_strain(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitude and strain, (clips, frames, 1, h, w) each. Derivatives are central differences in percent per cell."""
    dx, dy = _slope(flow), _slope(flow.transpose(-1, -2)).transpose(-1, -2)
    ux, vx, uy, vy = dx[:, :, :1], dx[:, :, 1:], dy[:, :, :1], dy[:, :, 1:]
    strain = (ux.square() + vy.square() + 0.5 * (uy + vx).square() + 1e-12).sqrt()
    return (flow.square().sum(2, keepdim=True) + 1e-12).sqrt(), strain


def _slope(values: torch.Tensor) -> torch.Tensor:
    """Central differences along the last dimension, one-sided at its ends.

    The result equals that of `torch.gradient`, which cannot be exported with a free number of clips.
    """
    inner = (values[..., 2:] - values[..., :-2]) / 2
    return torch.cat([values[..., 1:2] - values[..., :1], inner, values[..., -1:] - values[..., -2:-1]], dim=-1)


class GatedFusion(nn.Module):
    """Emotion logits from the pooled experts. Each expert is weighted by a gate computed from the clip.

    Label conventions name the same movement differently, so the head is conditioned on the convention.
    """

    def __init__(self, config: DeftConfig, num_experts: int = 3):
        super().__init__()
        size = config.expert_size
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(num_experts))
        self.gates = nn.ModuleList(nn.Linear(size, 1) for _ in range(num_experts))
        self.conventions = None
        if config.label_conventions:
            self.conventions = nn.Embedding(len(config.label_conventions), size)
        self.hidden = nn.Linear(size, size)
        self.classifier = nn.Linear(size, len(config.emotion_labels))

    def forward(
        self,
        pooled: list[torch.Tensor | None],
        dropped: torch.Tensor | None = None,
        convention_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the emotion logits.

        Args:
            pooled: one (clips, size) tensor per expert, `None` if the expert's input is missing.
            dropped: (clips, experts), True where the clip is judged without the expert.
            convention_ids: (clips,), -100 if unknown. Then the mean over all conventions is used.

        Returns:
            Logits (clips, emotions), and gates (clips, experts), which sum to 1. The gate of a missing expert is 0.
        """
        present = [index for index, states in enumerate(pooled) if states is not None]
        states = [self.norms[index](pooled[index]) for index in present]
        scores = torch.cat([self.gates[index](state) for index, state in zip(present, states, strict=True)], dim=-1)
        if dropped is not None:
            scores = scores.masked_fill(dropped[:, present], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        fused = (torch.stack(states, dim=1) * weights.unsqueeze(-1)).sum(1)
        missing = torch.zeros_like(weights[:, 0])
        columns = [weights[:, present.index(index)] if index in present else missing for index in range(len(pooled))]
        gates = torch.stack(columns, dim=-1)
        hidden = self.hidden(fused)
        if self.conventions is not None:
            # The module is called instead of reading its weight: an offloaded weight is in memory only in the call.
            every = self.conventions(torch.arange(self.conventions.num_embeddings, device=hidden.device)).mean(0)
            if convention_ids is None:
                hidden = hidden + every
            else:
                known = (convention_ids >= 0).unsqueeze(-1)
                hidden = hidden + torch.where(known, self.conventions(convention_ids.clamp(min=0)), every)
        return self.classifier(F.gelu(hidden)), gates


class Connector(nn.Module):
    """Projects an expert's tokens to the language model's embedding space."""

    def __init__(self, expert_size: int, text_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(expert_size)
        self.up, self.down = nn.Linear(expert_size, text_size), nn.Linear(text_size, text_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(self.norm(tokens))))
