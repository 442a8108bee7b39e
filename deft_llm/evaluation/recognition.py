"""DEFT in recognition mode: the motion expert and the heads, trained without a language model.

Made for a few hundred noisy clips in unknown units, where deep models usually lose to a support-vector machine:

- *Prior.* The expert first learns action units on made-up flow: motions of the region atlas, superposed, displaced and
  disturbed. No clip of any dataset is in it, so one prior serves all folds and leaks nothing.
- *Small and averaged.* One narrow layer; the weights are an average over training; several seeds and the mirrored clip
  vote together.
- *Augmented inside the fold.* Mirroring (u changes its sign, the sides their place), small affine maps, amplitude,
  noise, and superposition of two clips.

Nothing is selected on any clip: the last weights are taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from deft_llm.evaluation.baselines.flow_features import median_subtracted, resized, whole_flow
from deft_llm.files import code_fingerprint, whole_file
from deft_llm.modeling_deft import DeftConfig, DeftRecognitionModel
from deft_llm.modeling_deft.losses_deft import expert_losses
from deft_llm.processing.action_units import (
    ACTION_UNITS,
    REGIONS,
    SIDES,
    action_unit_ellipses,
    get_action_unit,
    region_ellipse,
)

# Action units of the prior with how often they are drawn: clips of 2031 in the cross-dataset table of meb (Varanka
# et al., arXiv 2211.11425), which holds seven datasets. The others that flow can show are drawn rarely.
_FREQUENT = {
    "AU4": 708,
    "AU1": 304,
    "AU2": 280,
    "AU14": 277,
    "AU7": 252,
    "AU12": 176,
    "AU5": 134,
    "AU9": 117,
    "AU17": 86,
    "AU10": 75,
    "AU6": 60,
    "AU15": 52,
    "AU20": 20,
    "AU24": 20,
    "AU16": 10,
    "AU18": 10,
    "AU25": 20,
    "AU26": 20,
}
_TOGETHER = (
    ("AU4", "AU7"),
    ("AU1", "AU2"),
    ("AU1", "AU5"),
    ("AU2", "AU5"),
    ("AU6", "AU12"),
    ("AU4", "AU10"),
    ("AU4", "AU9"),
    ("AU15", "AU17"),
)
PRIOR_UNITS = tuple(code for code in _FREQUENT if get_action_unit(code).motions)


@dataclass(frozen=True)
class RecognitionConfig:
    """Sizes and training of the recognition mode.

    Args:
        flow_size, patch_size: of the motion expert's grid; flow of another size is resampled to it.
        max_frames: flow fields of a clip that are read, spread around the apex.
        amplitude: exponent of a clip's own scale in its normalisation; 0 keeps differences in strength between clips,
            1 removes them.
        members: networks that vote. epochs, batch_size, learning_rate, weight_decay, label_smoothing: of each.
        mixing: largest share of a second clip that is superposed in training.
        unit_weight: of the action units' loss, where the training rows name units.
        prior_steps, prior_batch: of the prior itself; 0 steps for none.
    """

    flow_size: int = 28
    patch_size: int = 4
    hidden_size: int = 64
    num_layers: int = 1
    num_heads: int = 4
    max_frames: int = 3
    amplitude: float = 0.5
    members: int = 2
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    mixing: float = 0.4
    unit_weight: float = 1.0
    prior_steps: int = 1500
    prior_batch: int = 64

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RecognitionConfig:
        """Raises `ValueError` naming a key that is none."""
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise ValueError(
                f"Recognition mode has no setting {unknown[0]!r}; it has "
                f"{', '.join(item.name for item in fields(cls))}."
            )
        return cls(**values)


def build_model(settings: RecognitionConfig, labels: Sequence[str], units: Sequence[str], frames: int):
    """The motion expert, of the given size, and the heads."""
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


# --- Flow -----------------------------------------------------------------------------------------------------------


def clip_fields(rows: Sequence[Mapping[str, Any]], settings: RecognitionConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """(clips, frames, 2, side, side) flow without its frames' medians, and (clips,) the clips' own scales.

    The scale is the 95th percentile of the motion, so it follows what moves and not single outliers.

    Raises:
        ValueError: clips with different numbers of frames, or flow that cannot be read; names the clip.
    """
    clips = []
    for row in rows:
        flow = whole_flow(row)
        if len(flow) > settings.max_frames:
            # The apex is the middle field; the others lie at equal steps around it.
            steps = np.linspace(0, len(flow) - 1, settings.max_frames + 2)[1:-1]
            flow = flow[np.round(steps).astype(int)]
        clips.append(np.stack([median_subtracted(resized(field, settings.flow_size)) for field in flow]))
    lengths = {len(clip) for clip in clips}
    if len(lengths) > 1:
        raise ValueError(f"The clips have {sorted(lengths)} flow fields; build the dataset with one num_frames.")
    flows = torch.from_numpy(np.stack(clips).astype(np.float32))
    return flows, scales_of(flows)


def scales_of(flows: torch.Tensor) -> torch.Tensor:
    """(clips,) 95th percentile of the magnitude, over all frames and cells."""
    return flows.square().sum(2).sqrt().flatten(1).quantile(0.95, dim=1).clamp(min=1e-8)


def normalised(flows: torch.Tensor, scales: torch.Tensor, usual: float, amplitude: float) -> torch.Tensor:
    """Flow in units of its clip's scale and the training clips' usual one, mixed by the exponent `amplitude`."""
    divisor = scales.clamp(min=0.05 * usual) ** amplitude * usual ** (1 - amplitude)
    return (flows / divisor[:, None, None, None, None]).clamp(-6, 6)


def mirrored(flows: torch.Tensor) -> torch.Tensor:
    """The clip in a mirror: columns reversed and u negated. Left and right change places."""
    return flows.flip(-1) * flows.new_tensor([-1.0, 1.0])[:, None, None]


def displaced(
    flows: torch.Tensor, generator: torch.Generator, *, shift: float, zoom: float, stretch: float, turn: float
) -> torch.Tensor:
    """Small random affine maps, one a clip: of the grid, and of the vectors' angle with it.

    Args:
        shift: standard deviation in shares of the crop. zoom, stretch: of the logarithms of size and of height over
            width. turn: of the angle, radians.
    """
    clips, frames, _, height, width = flows.shape
    draw = torch.randn(5, clips, generator=generator)
    angle, size, form = turn * draw[0], zoom * draw[1], 0.5 * stretch * draw[2]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    scales = torch.stack([(size + form).exp(), (size - form).exp()], 1)
    theta = torch.cat([turned * scales[:, :, None], 2 * shift * draw[3:].T[:, :, None]], dim=2)
    grid = F.affine_grid(theta, (clips, 1, height, width), align_corners=False)
    moved = F.grid_sample(flows.flatten(1, 2), grid, align_corners=False, padding_mode="border")
    moved = moved.unflatten(1, (frames, 2))
    # The content turns by the angle's opposite, and the vectors with it.
    u, v = moved[:, :, 0], moved[:, :, 1]
    c, s = cos[:, None, None, None], sin[:, None, None, None]
    return torch.stack([c * u + s * v, -s * u + c * v], dim=2)


def smooth_noise(shape: Sequence[int], generator: torch.Generator, cells: int) -> torch.Tensor:
    """Random flow (clips, frames, 2, h, w) of unit variance a cell of a `cells` × `cells` grid, interpolated."""
    clips, frames, _, height, width = shape
    coarse = torch.randn(clips, 2 * frames, cells, cells, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return fine.unflatten(1, (frames, 2))


class FlowPrior:
    """Made-up flow of known action units: motions of the region atlas with what disturbs them.

    One sample is one to three units, on both sides or one, wide or narrow, over a residue of head motion, smooth and
    white noise, a blink and movements that are no unit, seen in a crop that is never quite the canonical one.
    """

    def __init__(self, side: int, frames: int):
        self.side, self.frames = side, frames
        weights = torch.tensor([float(_FREQUENT[code]) for code in PRIOR_UNITS])
        self.weights = weights.sqrt() / weights.sqrt().sum()  # the rare ones are to be learned too
        self.basis = torch.stack(
            [
                torch.stack([self._field(code, side_name, width) for side_name in SIDES])
                for code in (*PRIOR_UNITS, "AU45")
                for width in (1.0, 1.8)
            ]
        ).unflatten(0, (-1, 2))  # (units + blink, widths, sides, 2, h, w)
        self.bumps = torch.stack([self._bump(region, name, 1.4) for region in REGIONS for name in SIDES])

    def _bump(self, region: str, side_name: str, width: float) -> torch.Tensor:
        cx, cy, rx, ry = region_ellipse(region, side_name)
        centre = (torch.arange(self.side) + 0.5) / self.side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        # No region is narrower than the window of any flow method.
        rx, ry = (max(radius * width, 1.2 / self.side) for radius in (rx, ry))
        return (-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)).exp()

    def _field(self, code: str, side_name: str, width: float) -> torch.Tensor:
        field = torch.zeros(2, self.side, self.side)
        for motion in get_action_unit(code).motions:
            vector = torch.from_numpy(motion.vector(side_name)).float()
            field += vector[:, None, None] * self._bump(motion.region, side_name, width)
        return field

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, frames, 2, side, side) flow in arbitrary units, and (count, PRIOR_UNITS) of 0 and 1."""
        units = len(PRIOR_UNITS)
        position = {code: index for index, code in enumerate(PRIOR_UNITS)}
        labels = torch.zeros(count, units)
        labels[torch.arange(count), torch.multinomial(self.weights, count, True, generator=generator)] = 1
        drawn = torch.rand(count, 3, generator=generator)
        for first, second in _TOGETHER:
            for code, other in ((first, second), (second, first)):
                has = (labels[:, position[code]] > 0) & (torch.rand(count, generator=generator) < 0.3)
                labels[has, position[other]] = 1
        extra = drawn[:, 0] < 0.25
        more = torch.multinomial(self.weights, count, True, generator=generator)
        labels[torch.nonzero(extra)[:, 0], more[extra]] = 1
        labels[drawn[:, 1] < 0.08] = 0  # a face at rest

        present = torch.cat([labels, (drawn[:, 2:] < 0.25).float()], dim=1)  # with the blink
        strength = present * (0.4 * torch.randn(count, units + 1, generator=generator)).exp()
        width = torch.rand(count, units + 1, 1, generator=generator)
        kind = torch.rand(count, units + 1, generator=generator)
        balance = torch.rand(count, units + 1, 2, generator=generator) * 0.5 + 0.75
        balance[kind < 0.12, 0] *= 0.1
        balance[kind > 0.88, 1] *= 0.1
        widths = torch.cat([1 - width, width], dim=2)
        weights = strength[:, :, None, None] * widths[:, :, :, None] * balance[:, :, None, :]
        field = torch.einsum("nuws,uwscij->ncij", weights, self.basis)
        # Movements that are no unit: one region, any direction.
        stray = torch.randn(count, len(self.bumps), 2, generator=generator)
        stray *= (torch.rand(count, len(self.bumps), 1, generator=generator) < 0.04) * 0.5
        field += torch.einsum("nbc,bij->ncij", stray, self.bumps)

        envelope = torch.rand(count, self.frames, generator=generator) * 0.8 + 0.2
        envelope[:, self.frames // 2] = 1
        flows = field[:, None] * envelope[:, :, None, None, None]
        flows = displaced(flows, generator, shift=0.05, zoom=0.15, stretch=0.1, turn=0.08)
        level = torch.rand(count, 3, 1, 1, 1, 1, generator=generator) ** 2
        shape = flows.shape
        flows = flows + 0.6 * level[:, 0] * smooth_noise(shape, generator, 3)
        flows = flows + 0.5 * level[:, 1] * smooth_noise(shape, generator, 9)
        flows = flows + 0.5 * level[:, 2] * torch.randn(shape, generator=generator)
        return flows - flows.flatten(-2).median(-1).values[..., None, None], labels


def train_prior(settings: RecognitionConfig, frames: int, path: str | Path, seed: int = 0) -> None:
    """Teaches a motion expert the made-up flow and writes its weights; sees no dataset.

    On one thread, like the folds: sums in another order would give another prior.
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


def _trained_prior(settings: RecognitionConfig, frames: int, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    prior = FlowPrior(settings.flow_size, frames)
    model = build_model(settings, ["a", "b"], PRIOR_UNITS, frames).train()
    expert = model.motion_expert
    optimizer = torch.optim.AdamW(expert.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=settings.prior_steps, pct_start=0.1)
    for _ in range(settings.prior_steps):
        flows, labels = prior.sample(settings.prior_batch, generator)
        scales = scales_of(flows)
        outputs = model(flow_values_videos=normalised(flows, scales, float(scales.median()), settings.amplitude))
        losses = expert_losses(model.config, outputs, au_labels=labels)
        optimizer.zero_grad()
        sum(model.config.loss_weights[name] * value for name, value in losses.items()).backward()
        torch.nn.utils.clip_grad_norm_(expert.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return expert


_PRIOR_SETTINGS = (
    "flow_size",
    "patch_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "amplitude",
    "prior_steps",
    "prior_batch",
)


# The expert and its losses, the clips that are made up for it, and the atlas that says where the units move.
_PRIOR_CODE = ("deft_llm.evaluation.recognition", "deft_llm.modeling_deft", "deft_llm.processing.action_units")


def prior_path(settings: RecognitionConfig, frames: int, folder: str | Path, seed: int = 0) -> Path:
    """Where the prior of these settings lies; it is trained if it is not there yet."""
    chosen = [getattr(settings, name) for name in _PRIOR_SETTINGS]
    code = code_fingerprint(*_PRIOR_CODE, libraries=("torch",))
    content = f"{chosen} {frames} {seed} {code}".encode()
    path = Path(folder) / f"prior-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not path.exists():
        train_prior(settings, frames, path, seed)
    return path


# --- The model ------------------------------------------------------------------------------------------------------


class DeftRecogniser:
    """The interface of `baselines.Recogniser` around DEFT's motion expert and heads.

    Args:
        prior: weights of `train_prior`, or `None` to start from random ones.
        config: settings of `RecognitionConfig`.
    """

    def __init__(self, labels: Sequence[str], seed: int = 0, prior: str | Path | None = None, **config: Any):
        self.labels, self.seed, self.prior = list(labels), seed, prior
        self.settings = RecognitionConfig.of(config)

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        settings = self.settings
        flows, scales = clip_fields(rows, settings)
        self.usual = float(scales.median())
        flows = normalised(flows, scales, self.usual, settings.amplitude)
        targets = torch.tensor([self.labels.index(row["label"]) for row in rows])
        named = [{unit["code"] for unit in row.get("action_units") or ()} for row in rows]
        # Units of the training rows that the prior lacks get a query of their own, which starts from nothing.
        known = sorted({code for codes in named for code in codes} & set(ACTION_UNITS) - set(PRIOR_UNITS))
        self.units = [*PRIOR_UNITS, *known]
        self.trained_units = sorted({code for codes in named for code in codes} & set(self.units))
        # A row without units may be one whose units nobody wrote down.
        units = torch.tensor([[float(code in codes) if codes else -100.0 for code in self.units] for codes in named])
        self.members = [
            self._member(flows, targets, units, 1000 * self.seed + number) for number in range(settings.members)
        ]

    def _member(self, flows: torch.Tensor, targets: torch.Tensor, units: torch.Tensor, seed: int):
        settings, frames = self.settings, flows.shape[1]
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = build_model(settings, self.labels, self.units, frames).train()
        expert = model.motion_expert
        if self.prior is not None:
            _load_prior(expert, load_file(self.prior))
        trained = [*expert.parameters(), *model.emotion_head.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = settings.epochs * max(1, len(flows) // settings.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1
        )
        average = torch.optim.swa_utils.AveragedModel(
            torch.nn.ModuleList([expert, model.emotion_head]),
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98),
        )
        counts = torch.bincount(targets, minlength=len(self.labels)).clamp(min=1)
        weights = len(targets) / len(self.labels) / counts
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < settings.batch_size:
                order = torch.cat([order, torch.randperm(len(flows), generator=generator)])
            batch, order = order[: settings.batch_size], order[settings.batch_size :]
            mixed, pair, share = self._augmented(flows, batch, generator)
            loss = self._loss(model, mixed, targets, units, batch, pair, share, weights)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(torch.nn.ModuleList([expert, model.emotion_head]))
        expert.load_state_dict(average.module[0].state_dict())
        model.emotion_head.load_state_dict(average.module[1].state_dict())
        return model.eval()

    def _augmented(self, flows: torch.Tensor, batch: torch.Tensor, generator: torch.Generator):
        """Augmented clips, the clip each is superposed with, and that clip's share."""

        def draw(indices: torch.Tensor) -> torch.Tensor:
            clips = flows[indices]
            turned = torch.rand(len(clips), generator=generator) < 0.5
            clips = torch.where(turned[:, None, None, None, None], mirrored(clips), clips)
            clips = displaced(clips, generator, shift=0.02, zoom=0.05, stretch=0.05, turn=0.05)
            strength = (0.2 * torch.randn(len(clips), generator=generator)).exp()
            return clips * strength[:, None, None, None, None]

        pair = torch.randint(len(flows), (len(batch),), generator=generator)
        share = torch.rand(len(batch), generator=generator) * self.settings.mixing
        mixed = draw(batch)
        if self.settings.mixing:
            part = share[:, None, None, None, None]
            mixed = (1 - part) * mixed + part * draw(pair)
        level = torch.rand(2, len(batch), 1, 1, 1, 1, generator=generator) * 0.2
        mixed = mixed + level[0] * smooth_noise(mixed.shape, generator, 7)
        mixed = mixed + level[1] * torch.randn(mixed.shape, generator=generator)
        return mixed, pair, share

    def _loss(self, model, mixed, targets, units, batch, pair, share, weights) -> torch.Tensor:
        settings = self.settings
        outputs = model(flow_values_videos=mixed)

        def cross_entropy(indices: torch.Tensor) -> torch.Tensor:
            labels = targets[indices]
            values = F.cross_entropy(
                outputs.emotion_logits, labels, label_smoothing=settings.label_smoothing, reduction="none"
            )
            return values * weights[labels]

        loss = ((1 - share) * cross_entropy(batch) + share * cross_entropy(pair)).mean()
        known = (units[batch] >= 0) & (units[pair] >= 0)
        if known.any():
            soft = (1 - share)[:, None] * units[batch] + share[:, None] * units[pair]
            values = F.binary_cross_entropy_with_logits(outputs.au_logits, soft.clamp(0, 1), reduction="none")
            loss = loss + settings.unit_weight * torch.where(known, values, 0.0).sum() / known.sum()
        return loss

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """`scores`, and `action_units` (code → probability) for the units that the training rows named."""
        flows, scales = clip_fields(rows, self.settings)
        flows = normalised(flows, scales, self.usual, self.settings.amplitude)
        emotions, units = [], []
        with torch.inference_mode():
            for model in self.members:
                for view in (flows, mirrored(flows)):
                    outputs = model(flow_values_videos=view)
                    emotions.append(outputs.emotion_logits.double().softmax(1))
                    units.append(outputs.au_logits.double().sigmoid())
        emotion, unit = torch.stack(emotions).mean(0), torch.stack(units).mean(0)
        columns = [self.units.index(code) for code in self.trained_units]
        predictions = []
        for scores, probabilities in zip(emotion.tolist(), unit[:, columns].tolist(), strict=True):
            prediction: dict[str, Any] = {"scores": scores}
            if columns:
                prediction["action_units"] = dict(zip(self.trained_units, probabilities, strict=True))
            predictions.append(prediction)
        return predictions


def _load_prior(expert: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Loads the prior; what has a row an action unit is filled as far as the prior's units go."""
    state = expert.state_dict()
    lacking = sorted(set(state) - set(weights))
    if lacking:
        raise ValueError(f"The prior does not fit the model: it has no {lacking[0]}.")
    for name, value in weights.items():
        if name not in state or state[name].shape[1:] != value.shape[1:] or len(state[name]) < len(value):
            raise ValueError(f"The prior does not fit the settings: {name} is {tuple(value.shape)}.")
        state[name][: len(value)] = value
    expert.load_state_dict(state)
