"""MPT-style: a frozen vision transformer that reads a face, with prompts made of its motion.

After Liu, Shi, Chen, Shao, Wang, Cai & Zheng, MPT: Motion Prompt Tuning for Micro-Expression Recognition,
arXiv 2508.09446. Public are the ideas: a large pretrained vision transformer stays frozen; magnified motion becomes
prompt tokens by a Gaussian tokenisation; a group adapter tunes class, visual and prompt tokens separately.

Not public: backbone, magnification, the definition of the Gaussians, ranks, training, code. Chosen here: any vision
transformer of transformers (`backbone`, a folder or a Hub repository); the apex frame as its image; motion as the
difference of apex and onset, times 8; 8 tokens, each the mean of an embedding of the motion, weighted by a Gaussian
around one of the places that move most; one bottleneck adapter of rank 16 per layer and token group; AdamW, learning
rate 0.001, × 0.1 in the second half of 20 epochs, batches of 16, mirroring. `mpt_style_flow` reads the flow at the
apex (u, v and strain) as image and as motion, for data sets without pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .clip_images import onset_and_apex_images
from .flow_features import apex_fields
from .networks import NetworkBaseline

GROUPS = ("class", "prompt", "visual")
USUAL_SIDE = 224  # of a backbone that states no image size
FLOW_SIDE = 28


class MotionPrompt(nn.Module):
    """Makes tokens of motion: Gaussian windows around the places that move most.

    Args:
        width (`int`): Width of the tokens.
        tokens (`int`): Number of tokens.
        cells (`int`, *optional*, defaults to `14`): Side of the grid on which motion is embedded.
        spread (`float`, *optional*, defaults to `0.1`): Standard deviation of a Gaussian, in shares of the side.
    """

    def __init__(self, width: int, tokens: int, cells: int = 14, spread: float = 0.1):
        super().__init__()
        self.tokens, self.cells, self.spread = tokens, cells, spread
        self.embed = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.GELU(), nn.Conv2d(64, width, 1))
        self.place = nn.Linear(2, width)
        line = (torch.arange(cells) + 0.5) / cells
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("places", places, persistent=False)  # (cells², 2): y and x, 0 … 1

    def windows(self, motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The Gaussians of each clip.

        Each is centred where most motion is left, and then takes away the motion that it covers.

        Args:
            motion (`torch.Tensor`): `(clips, 3, cells, cells)`.

        Returns:
            Weights, `(clips, tokens, cells²)`, which sum to 1, and centres, `(clips, tokens, 2)`.
        """
        energy = motion.square().sum(1).flatten(1)
        weights, centres = [], []
        for _ in range(self.tokens):
            centre = self.places[energy.argmax(1)]
            distance = (self.places[None] - centre[:, None]).square().sum(2)
            window = torch.exp(-0.5 * distance / self.spread**2)
            energy = energy * (1 - window)
            weights.append(window / window.sum(1, keepdim=True))
            centres.append(centre)
        return torch.stack(weights, 1), torch.stack(centres, 1)

    def forward(self, motion: torch.Tensor) -> torch.Tensor:
        """Maps motion, `(clips, 3, h, w)`, to tokens, `(clips, tokens, width)`."""
        motion = F.adaptive_avg_pool2d(motion, self.cells)
        weights, centres = self.windows(motion)
        return weights @ self.embed(motion).flatten(2).transpose(1, 2) + self.place(centres)


class GroupAdapter(nn.Module):
    """One bottleneck per token group, added to the tokens. At first it changes nothing.

    Args:
        width (`int`): Width of the tokens.
        rank (`int`): Width of the bottleneck.
    """

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.groups = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(width, rank), nn.GELU(), nn.Linear(rank, width)) for name in GROUPS}
        )
        for adapter in self.groups.values():
            nn.init.zeros_(adapter[2].weight)
            nn.init.zeros_(adapter[2].bias)

    def forward(self, states: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Adapts states, `(clips, tokens, width)`, whose groups have these sizes, in the order of `GROUPS`."""
        parts = zip(GROUPS, states.split(list(sizes), 1), strict=True)
        return torch.cat([part + self.groups[name](part) for name, part in parts], 1)


def token_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, in order; empty if the backbone has none."""
    count = getattr(backbone.config, "num_hidden_layers", None)
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList))
    return list(next((layers for layers in lists if len(layers) == count), []))


class PromptedBackbone(nn.Module):
    """A frozen vision model with prompts after its class tokens and an adapter after each of its layers.

    If the layers do not accept more tokens, or there are none (Swin, BEiT, convolutional models), the backbone is read
    as it is; the prompts and one adapter follow it.

    Args:
        backbone (`nn.Module`): A vision model of transformers.
        side (`int`): Side of its images in pixels.
        tokens (`int`): Number of prompts.
        rank (`int`): Width of an adapter's bottleneck.

    Raises:
        ValueError: The backbone does not accept single images.
    """

    def __init__(self, backbone: nn.Module, side: int, tokens: int, rank: int):
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.tokens, self.class_tokens = tokens, 0
        states = self._probed(side)
        self.width = states.shape[2]
        self.layers = token_layers(backbone)
        if self.layers and not self._accepts_prompts(side):
            self.layers = []
        patch = getattr(backbone.config, "patch_size", None)
        if self.layers and patch:
            patch = patch[0] if isinstance(patch, (tuple, list)) else patch
            # Tokens that belong to no patch come first: class tokens and registers.
            self.class_tokens = max(0, states.shape[1] - (side // patch) ** 2)
        self.adapters = nn.ModuleList(GroupAdapter(self.width, rank) for _ in self.layers or [None])

    def _probed(self, side: int) -> torch.Tensor:
        kind, needed = self.backbone.config.model_type, self.backbone.main_input_name
        advice = "Choose the folder of a model of single images, such as ViT or DINOv2."
        if needed != "pixel_values":
            raise ValueError(f"The backbone, {kind}, reads {needed} and not pixel_values. {advice}")
        try:
            with torch.no_grad():
                return self.read(torch.zeros(1, 3, side, side))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"The backbone, {kind}, does not read {side} × {side} images: {error} {advice}"
            ) from error

    def _accepts_prompts(self, side: int) -> bool:
        prompts = torch.zeros(1, self.tokens, self.width)
        try:
            with torch.no_grad(), self._prompted(prompts):
                self.read(torch.zeros(1, 3, side, side))
        except RuntimeError:  # a shape that does not fit
            return False
        return True

    def train(self, mode: bool = True) -> PromptedBackbone:
        """Sets the mode of the adapters. The backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's last states, `(clips, tokens, width)`."""
        states = self.backbone(pixel_values=images).last_hidden_state
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states

    def forward(self, images: torch.Tensor, prompts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Reads images with prompts.

        Args:
            images (`torch.Tensor`): Normalised images, `(clips, 3, side, side)`.
            prompts (`torch.Tensor`): `(clips, tokens, width)`.

        Returns:
            Group → last states, `(clips, tokens, width)`.
        """
        if self.layers:
            with self._prompted(prompts, self.adapters):
                states = self.read(images)
        else:
            states = self._adapted(torch.cat([prompts, self.read(images)], 1), self.adapters[0])
        return dict(zip(GROUPS, states.split(self._sizes(states), 1), strict=True))

    @contextmanager
    def _prompted(self, prompts: torch.Tensor, adapters: Iterable[GroupAdapter] = ()) -> Iterator[None]:
        """Inside, the first layer gets the prompts too, and every layer's states are adapted."""

        def with_prompts(layer: nn.Module, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            states = given[0] if given else named.pop("hidden_states")
            parts = [states[:, : self.class_tokens], prompts, states[:, self.class_tokens :]]
            return (torch.cat(parts, 1), *given[1:]), named

        hooks = [self.layers[0].register_forward_pre_hook(with_prompts, with_kwargs=True)]
        for layer, adapter in zip(self.layers, adapters, strict=False):
            hooks.append(layer.register_forward_hook(self._adapting(adapter)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _adapting(self, adapter: GroupAdapter) -> Callable[[nn.Module, tuple, Any], Any]:
        def adapted(layer: nn.Module, given: tuple, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._adapted(output[0], adapter), *output[1:])
            return self._adapted(output, adapter)

        return adapted

    def _adapted(self, states: torch.Tensor, adapter: GroupAdapter) -> torch.Tensor:
        return adapter(states, self._sizes(states))

    def _sizes(self, states: torch.Tensor) -> list[int]:
        return [self.class_tokens, self.tokens, states.shape[1] - self.class_tokens - self.tokens]


class MPTNet(nn.Module):
    """Maps an image and its motion to logits.

    Args:
        classes (`int`): Number of classes.
        backbone (`PromptedBackbone`): Reads the image; its weights are not trained.
    """

    def __init__(self, classes: int, backbone: PromptedBackbone):
        super().__init__()
        self.backbone = backbone
        self.prompt = MotionPrompt(backbone.width, backbone.tokens)
        read = len(GROUPS) if backbone.class_tokens else len(GROUPS) - 1
        self.classifier = nn.Sequential(
            nn.LayerNorm(read * backbone.width), nn.Dropout(0.5), nn.Linear(read * backbone.width, classes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps image and motion, `(clips, 6, side, side)`, to logits, `(clips, classes)`."""
        images, motion = inputs.chunk(2, 1)
        groups = self.backbone(images, self.prompt(motion))
        means = [states.mean(1) for states in groups.values() if states.shape[1]]
        return self.classifier(torch.cat(means, 1))


class MPTStyle(NetworkBaseline):
    """The network on onset and apex frame.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`): Seed of the weights, of the order of the clips and of the augmentation.
        backbone (`str`): Folder or Hub repository of a vision model of transformers.
        tokens (`int`, *optional*, defaults to `8`): Prompt tokens.
        rank (`int`, *optional*, defaults to `16`): Width of an adapter's bottleneck.
        magnification (`float`, *optional*, defaults to `8.0`): Factor of the difference between apex and onset.
        **settings: The other settings of `NetworkBaseline`. By default `side` is the backbone's own.

    Raises:
        ValueError: `backbone` is missing or cannot be loaded.
    """

    needs_video, needs_flow = True, False
    needs_backbone = True
    mirrors = True
    epochs, learning_rate, batch_size = 20, 1e-3, 16
    decay = (2, 0.1)

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        backbone: str | None = None,
        tokens: int = 8,
        rank: int = 16,
        magnification: float = 8.0,
        side: int | None = None,
        **settings: Any,
    ):
        if backbone is None:
            raise ValueError("MPT-style needs a vision backbone. Give --backbone the folder of a vision model.")
        self.backbone, self.tokens, self.rank, self.magnification = backbone, tokens, rank, magnification
        side = side or own_side(loaded(AutoConfig, backbone))
        super().__init__(labels, seed, side=side, **settings)
        self.mean, self.deviation = colour_statistics(backbone)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return onset_and_apex_images(rows, self.side)

    def _scaled(self, inputs: np.ndarray) -> torch.Tensor:
        """The normalised apex frame and the magnified motion."""
        onset, apex = super()._scaled(inputs).chunk(2, 1)
        return torch.cat([(apex - self.mean) / self.deviation, self.magnification * (apex - onset)], 1)

    def build(self, classes: int) -> nn.Module:
        backbone = PromptedBackbone(loaded(AutoModel, self.backbone), self.side, self.tokens, self.rank)
        return MPTNet(classes, backbone)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate)


class MPTStyleFlow(MPTStyle):
    """The same network on the flow at the apex, as image and as motion, for rows without pixels."""

    needs_video, needs_flow = False, True

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return apex_fields(rows, FLOW_SIDE, with_strain=True)

    def _scaled(self, inputs: np.ndarray) -> torch.Tensor:
        fields = F.interpolate(NetworkBaseline._scaled(self, inputs), self.side, mode="bilinear")
        return torch.cat([fields, fields], 1)

    def augmented(self, inputs: torch.Tensor) -> torch.Tensor:
        fields = super().augmented(inputs.chunk(2, 1)[0])
        return torch.cat([fields, fields], 1)


def loaded(auto_class: Any, path: str) -> Any:
    """Loads a configuration or a model with an Auto class of transformers.

    Raises:
        ValueError: `path` cannot be loaded. The message names it.
    """
    try:
        return auto_class.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The backbone {path} cannot be loaded: {str(error).splitlines()[0]} Give --backbone the folder of a "
            "vision model of transformers, with its config.json and weights."
        ) from error


def own_side(config: Any) -> int:
    """The side of the images that a backbone was trained with."""
    size = getattr(config, "image_size", None) or USUAL_SIDE
    return size[0] if isinstance(size, (tuple, list)) else size


def colour_statistics(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the backbone's image processor, `(3, 1, 1)` each; ImageNet's if it has none."""
    if Path(path).is_dir() and not (Path(path) / "preprocessor_config.json").is_file():
        settings = {}
    else:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    mean = settings.get("image_mean") or IMAGENET_DEFAULT_MEAN
    deviation = settings.get("image_std") or IMAGENET_DEFAULT_STD
    return torch.tensor(mean)[:, None, None], torch.tensor(deviation)[:, None, None]
