"""Trains the motion expert and the heads without a language model, for recognition mode.

Made for a few hundred noisy clips in unknown units, where deep models usually lose to a support-vector machine:

- *Prior.* The expert first learns action units on made-up flow (`hub_datasets.synthetic.flows`). No clip of any
  dataset is in it, so one prior serves all folds and leaks nothing.
- *Small and averaged.* One narrow layer; the weights are an average over training.
- *Augmented.* Mirroring, small affine maps, amplitude, noise, and superposition of two clips.

Nothing is selected on any clip: the last weights are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from deft_llm.files import code_fingerprint, whole_file
from deft_llm.hub_datasets.synthetic.flows import FLOW_UNITS, FlowGenerator, displaced, smooth_noise
from deft_llm.modeling_deft import DeftConfig, DeftRecognitionModel
from deft_llm.modeling_deft.losses_deft import expert_losses
from deft_llm.processing.action_units import action_unit_ellipses


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the motion expert, and its training on made-up flow.

    The sizes are those of `DeftMotionConfig`, smaller by default.

    Args:
        flow_size (`int`): Side of the square flow grid. Flow of another size is resampled to it.
        patch_size (`int`): Side of a patch in cells of the grid.
        hidden_size (`int`): Width of the expert and the heads.
        num_layers (`int`): Layers of the expert.
        num_heads (`int`): Attention heads per layer.
        amplitude (`float`): Exponent of the clip's own scale in its normalisation: 0 keeps differences in strength
            between clips, 1 removes them.
        prior_steps (`int`): Training steps on made-up flow; 0 for no prior.
        prior_batch (`int`): Samples per step.
    """

    flow_size: int = 28
    patch_size: int = 4
    hidden_size: int = 64
    num_layers: int = 1
    num_heads: int = 4
    amplitude: float = 0.5
    prior_steps: int = 1500
    prior_batch: int = 64


@dataclass(frozen=True)
class RecognitionConfig(PriorConfig):
    """Settings of recognition mode: those of `PriorConfig`, and the training on clips.

    Args:
        max_frames (`int`): Flow fields that are read per clip, spread around the apex. On people, three did
            not do better than the one at the apex, and cost three times as much.
        members (`int`): Networks that vote.
        epochs (`int`): Passes over the training clips, per network.
        batch_size (`int`): Clips per step.
        learning_rate (`float`): Highest learning rate of the one-cycle schedule.
        weight_decay (`float`): Weight decay of AdamW.
        label_smoothing (`float`): Label smoothing of the emotion loss.
        mixing (`float`): Largest share of a second clip that is superposed in training.
        unit_weight (`float`): Weight of the action-unit loss, where the training rows name units.
        kernel_share (`float`): Share of the kernel machine (`evaluation.kernel_machine`) in the vote, from 0 for the
            networks alone to 1 for the kernel machine alone, which is best on a few hundred clips.
        kernel_ridge (`float`): Ridge of the kernel machine for the classes.
        kernel_width (`float`): Width of its kernel for the classes, as a multiple of the training clips' variance.
    """

    max_frames: int = 1
    members: int = 2
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    mixing: float = 0.4
    unit_weight: float = 1.0
    kernel_share: float = 1.0
    kernel_ridge: float = 1.0
    kernel_width: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RecognitionConfig:
        """Raises `ValueError` that names an unknown key, a value out of its range, or a vote without voters."""
        known = [item.name for item in fields(cls)]
        unknown = sorted({*values} - {*known})
        if unknown:
            raise ValueError(f"Recognition mode has no setting {unknown[0]!r}; it has {', '.join(known)}.")
        settings = cls(**values)
        if not 0 <= settings.kernel_share <= 1:
            raise ValueError(f"kernel_share must be from 0 to 1; got {settings.kernel_share}.")
        for name in ("kernel_ridge", "kernel_width"):
            if not getattr(settings, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(settings, name)}.")
        if settings.kernel_share < 1 and settings.members < 1:
            raise ValueError("members must be at least 1, unless kernel_share is 1 and no network votes.")
        return settings


def build_model(settings: PriorConfig, labels: Sequence[str], units: Sequence[str], frames: int):
    """A `DeftRecognitionModel` of a motion expert and the heads, with new weights."""
    config = DeftConfig(
        experts=["motion"],
        motion_config={
            "flow_size": settings.flow_size,
            "patch_size": settings.patch_size,
            "num_flow_frames": frames,
            "hidden_size": settings.hidden_size,
            "intermediate_size": 2 * settings.hidden_size,
            "num_hidden_layers": settings.num_layers,
            "num_attention_heads": settings.num_heads,
        },
        expert_size=settings.hidden_size,
        emotion_labels=list(labels),
        action_units=list(units),
        action_unit_regions={code: [list(ellipse) for ellipse in action_unit_ellipses(code)] for code in units},
        loss_weights={"emotion": 1.0, "action_unit": 1.0, "region": 0.05},
    )
    model = DeftRecognitionModel(config)
    # The usual standard deviation of 0.02 suits widths of hundreds; in a narrow expert signals would vanish.
    for part in (model.motion_expert, model.emotion_head):
        for module in part.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                torch.nn.init.xavier_uniform_(module.weight.flatten(1))
    return model


# --- Flow ------------------------------------------------------------------------------------------------------------


def scales_of(flows: torch.Tensor) -> torch.Tensor:
    """The clips' own scales, (clips,): the 95th percentile of the magnitude over all frames and cells.

    A percentile follows what moves and not single outliers.
    """
    return flows.square().sum(2).sqrt().flatten(1).quantile(0.95, dim=1).clamp(min=1e-8)


def normalised(flows: torch.Tensor, scales: torch.Tensor, usual: float, amplitude: float) -> torch.Tensor:
    """Divides flow by its clip's scale and the training clips' usual one, mixed by the exponent `amplitude`."""
    divisor = scales.clamp(min=0.05 * usual) ** amplitude * usual ** (1 - amplitude)
    return (flows / divisor[:, None, None, None, None]).clamp(-6, 6)


def mirrored(flows: torch.Tensor) -> torch.Tensor:
    """The clip in a mirror: columns reversed and u negated. Left and right change places."""
    return flows.flip(-1) * flows.new_tensor([-1.0, 1.0])[:, None, None]


# --- The prior -------------------------------------------------------------------------------------------------------


def train_prior(settings: PriorConfig, frames: int, path: str | Path, seed: int = 0) -> None:
    """Trains a motion expert on made-up flow and writes its weights. No dataset is read.

    Uses one thread, as the folds do: sums in another order would give another prior.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expert = _trained_prior(settings, frames, seed)
    finally:
        torch.set_num_threads(threads)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file({name: value.contiguous() for name, value in expert.state_dict().items()}, partial)


def _trained_prior(settings: PriorConfig, frames: int, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    made_up = FlowGenerator(settings.flow_size, frames)
    model = build_model(settings, ["a", "b"], FLOW_UNITS, frames).train()
    expert = model.motion_expert
    optimizer = torch.optim.AdamW(expert.parameters(), lr=2e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=settings.prior_steps, pct_start=0.1)
    for _ in range(settings.prior_steps):
        flows, labels = made_up.sample(settings.prior_batch, generator)
        scales = scales_of(flows)
        outputs = model(flow_values_videos=normalised(flows, scales, float(scales.median()), settings.amplitude))
        losses = expert_losses(model.config, outputs, au_labels=labels)
        loss = sum(model.config.loss_weights[name] * value for name, value in losses.items())
        _step(optimizer, schedule, loss, list(expert.parameters()))
    return expert


# The training, the expert and its losses, and the made-up flow with the atlas that says where the units move.
_PRIOR_CODE = (
    "deft_llm.training.recognition",
    "deft_llm.modeling_deft",
    "deft_llm.hub_datasets.synthetic.flows",
    "deft_llm.processing.action_units",
)


def prior_path(settings: PriorConfig, frames: int, folder: str | Path, seed: int = 0) -> Path:
    """The file with the prior of these settings. It is trained if the file does not exist."""
    chosen = [getattr(settings, item.name) for item in fields(PriorConfig)]
    code = code_fingerprint(*_PRIOR_CODE, libraries=("torch",))
    content = f"{chosen} {frames} {seed} {code}".encode()
    path = Path(folder) / f"prior-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not path.exists():
        train_prior(settings, frames, path, seed)
    return path


# --- Clips -----------------------------------------------------------------------------------------------------------


class Clips(NamedTuple):
    """Training clips.

    Args:
        flows (`torch.Tensor`): Normalised flow, (clips, frames, 2, flow_size, flow_size).
        targets (`torch.Tensor`): Index of the class, (clips,).
        units (`torch.Tensor`): 0 or 1 per action unit, (clips, units); negative where unknown.
    """

    flows: torch.Tensor
    targets: torch.Tensor
    units: torch.Tensor


class Mixed(NamedTuple):
    """Superposed clips: (1 - share) of the first and share of the second, by their indices."""

    flows: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    share: torch.Tensor


def train_on_clips(
    settings: RecognitionConfig,
    labels: Sequence[str],
    units: Sequence[str],
    clips: Clips,
    *,
    seed: int,
    prior: str | Path | None = None,
) -> DeftRecognitionModel:
    """Trains one network.

    Args:
        settings (`RecognitionConfig`): Sizes and training.
        labels (`Sequence[str]`): Classes of the emotion head.
        units (`Sequence[str]`): Codes of the action units; `FLOW_UNITS` first where there is a prior.
        clips (`Clips`): The training clips.
        seed (`int`): Random seed of the weights and of the augmentation.
        prior (`str | Path`, *optional*): Weights of `train_prior`; by default the expert starts from random ones.

    Returns:
        `DeftRecognitionModel`: The network with averaged weights, in evaluation mode.

    Raises:
        ValueError: the prior does not fit the settings.
    """
    count = len(clips.flows)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build_model(settings, labels, units, clips.flows.shape[1]).train()
    expert = model.motion_expert
    if prior is not None:
        _load_prior(expert, load_file(prior))
    parts = torch.nn.ModuleList([expert, model.emotion_head])
    trained = list(parts.parameters())
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * max(1, count // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1)
    average = torch.optim.swa_utils.AveragedModel(parts, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98))
    frequencies = torch.bincount(clips.targets, minlength=len(labels)).clamp(min=1)
    weights = len(clips.targets) / len(labels) / frequencies
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < settings.batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        batch, order = order[: settings.batch_size], order[settings.batch_size :]
        mixed = _superposed(clips.flows, batch, settings.mixing, generator)
        loss = _loss(model, clips, mixed, weights, settings)
        _step(optimizer, schedule, loss, trained)
        average.update_parameters(parts)
    parts.load_state_dict(average.module.state_dict())
    return model.eval()


def _step(optimizer, schedule, loss: torch.Tensor, trained: Sequence[torch.nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    schedule.step()


def _superposed(flows: torch.Tensor, first: torch.Tensor, mixing: float, generator: torch.Generator) -> Mixed:
    """Augments the clips `first` and superposes each with a random second one."""

    def draw(indices: torch.Tensor) -> torch.Tensor:
        clips = flows[indices]
        turned = torch.rand(len(clips), generator=generator) < 0.5
        clips = torch.where(turned[:, None, None, None, None], mirrored(clips), clips)
        clips = displaced(clips, generator, shift=0.02, zoom=0.05, stretch=0.05, turn=0.05)
        strength = (0.2 * torch.randn(len(clips), generator=generator)).exp()
        return clips * strength[:, None, None, None, None]

    second = torch.randint(len(flows), (len(first),), generator=generator)
    share = torch.rand(len(first), generator=generator) * mixing
    mixed = draw(first)
    if mixing:
        part = share[:, None, None, None, None]
        mixed = (1 - part) * mixed + part * draw(second)
    level = torch.rand(2, len(first), 1, 1, 1, 1, generator=generator) * 0.2
    mixed = mixed + level[0] * smooth_noise(mixed.shape, generator, 7)
    mixed = mixed + level[1] * torch.randn(mixed.shape, generator=generator)
    return Mixed(mixed, first, second, share)


def _loss(
    model: DeftRecognitionModel, clips: Clips, mixed: Mixed, weights: torch.Tensor, settings: RecognitionConfig
) -> torch.Tensor:
    outputs = model(flow_values_videos=mixed.flows)
    first, second, share = mixed.first, mixed.second, mixed.share

    def cross_entropy(indices: torch.Tensor) -> torch.Tensor:
        labels = clips.targets[indices]
        values = F.cross_entropy(
            outputs.emotion_logits, labels, label_smoothing=settings.label_smoothing, reduction="none"
        )
        return values * weights[labels]

    loss = ((1 - share) * cross_entropy(first) + share * cross_entropy(second)).mean()
    units = clips.units
    known = (units[first] >= 0) & (units[second] >= 0)
    if known.any():
        soft = (1 - share)[:, None] * units[first] + share[:, None] * units[second]
        values = F.binary_cross_entropy_with_logits(outputs.au_logits, soft.clamp(0, 1), reduction="none")
        loss = loss + settings.unit_weight * torch.where(known, values, 0.0).sum() / known.sum()
    return loss


def _load_prior(expert: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Loads the prior. Parameters with one row per action unit are filled as far as the prior's units go."""
    state = expert.state_dict()
    lacking = sorted(set(state) - set(weights))
    if lacking:
        raise ValueError(f"The prior does not fit the model: it has no {lacking[0]}.")
    for name, value in weights.items():
        if name not in state or state[name].shape[1:] != value.shape[1:] or len(state[name]) < len(value):
            raise ValueError(f"The prior does not fit the settings: {name} is {tuple(value.shape)}.")
        state[name][: len(value)] = value
    expert.load_state_dict(state)
