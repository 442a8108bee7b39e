"""Micro-Attention: a small residual network whose units attend to where its three last maps agree.

Wang, Peng, Bi & Chen, Micro-Attention for Micro-Expression Recognition, Neurocomputing 410, 2020, arXiv 1811.02360.
Implemented from the definition by a co-author's group (github.com/Trunpm/ACII19-Apex-Time-Network,
`MicroAttentionNet/CDE/CASMEII_sub01/prototxt`): the apex frame in grey, 224 × 224; four units; features of length 1;
SGD for 2500 iterations, learning rate 0.01 × 0.1 at every fifth, batches of 16, classes oversampled, mirroring,
rotation up to 5° and a shift of the grey level up to 10.

Not public: the weights of a network for macro-expressions that the authors start from. Here training starts from
random weights, which may lower the result. `micro_attention_flow` is a variant for data sets without pixels, not the
authors': u, v and strain at the apex, 28 × 28, a quarter of the widths, 300 iterations with a learning rate of 0.05
(tried on made-up flow only), and mirroring alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .clip_images import apex_images
from .flow_features import apex_fields
from .networks import NetworkBaseline

WIDTHS = (64, 128, 256, 512)
MOST_ROTATION = np.deg2rad(5)
MOST_SHIFT = 10 / 255  # of the grey level


class AttentionUnit(nn.Module):
    """A residual unit that adds its own output, weighted by an attention map.

    Args:
        given (`int`): Channels of the input.
        width (`int`): Channels of the output.
        first (`bool`, *optional*, defaults to `False`): The input is the shortcut, at the same resolution. Otherwise
            the input is normalised and the unit halves the resolution.
        last (`bool`, *optional*, defaults to `False`): The sum is normalised before it is weighted.
    """

    def __init__(self, given: int, width: int, *, first: bool = False, last: bool = False):
        super().__init__()
        stride = 1 if first else 2
        self.before = nn.Identity() if first else nn.Sequential(nn.BatchNorm2d(given), nn.ReLU())
        self.shortcut = nn.Identity() if first else nn.Conv2d(given, width, 1, stride, bias=False)
        self.first = nn.Sequential(nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.after = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()) if last else nn.Identity()
        self.mask = nn.Conv2d(3 * width, width, 1, bias=False)

    def attention(self, shortcut: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The weight of every place, `(clips, 1, h, w)`."""
        return self.mask(torch.cat([shortcut, first, second], 1)).mean(1, keepdim=True).sigmoid()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.before(maps)
        shortcut, first = self.shortcut(maps), self.first(maps)
        second = self.second(first)
        total = self.after(shortcut + second)
        return total + self.attention(shortcut, first, second) * total


class MicroAttentionNet(nn.Module):
    """Maps images or flow images to logits.

    Args:
        classes (`int`): Number of classes.
        channels (`int`, *optional*, defaults to `1`): Channels of the input.
        widths (`Sequence[int]`, *optional*): Channels of the four units.
    """

    def __init__(self, classes: int, channels: int = 1, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.stem = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, widths[0], 7, 2, 3),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        units = [AttentionUnit(widths[0], widths[0], first=True)]
        for number, (given, width) in enumerate(pairwise(widths), 2):
            units.append(AttentionUnit(given, width, last=number == len(widths)))
        self.units = nn.Sequential(*units)
        self.classifier = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.xavier_uniform_(self.classifier.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images, `(clips, channels, side, side)`, to logits, `(clips, classes)`."""
        features = self.units(self.stem(images)).mean((2, 3))
        return self.classifier(F.normalize(features))


class MicroAttention(NetworkBaseline):
    """Micro-Attention on the apex frame.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`): Seed of the weights, of the order of the clips and of the augmentation.
        widths (`Sequence[int]`, *optional*): Channels of the four units; by default those of the class.
        **settings: The other settings of `NetworkBaseline`.
    """

    needs_video, needs_flow = True, False
    mirrors = True
    channels = 1
    side = 224
    widths = WIDTHS
    iterations, learning_rate, batch_size = 2500, 0.01, 16
    decay = (5, 0.1)

    def __init__(self, labels: Sequence[str], seed: int = 0, *, widths: Sequence[int] | None = None, **settings: Any):
        super().__init__(labels, seed, **settings)
        if widths is not None:
            self.widths = tuple(widths)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return apex_images(rows, self.side)

    def build(self, classes: int) -> nn.Module:
        return MicroAttentionNet(classes, self.channels, self.widths)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9, weight_decay=5e-6)

    def augmented(self, inputs: torch.Tensor) -> torch.Tensor:
        """Mirrors, turns and brightens or darkens each clip, each with a probability of one half."""
        inputs = super().augmented(inputs)
        draws = (2 * torch.rand(2, len(inputs)) - 1) * (torch.rand(2, len(inputs)) < 0.5)
        angle, shift = MOST_ROTATION * draws[0], MOST_SHIFT * draws[1]
        rows = [torch.stack([angle.cos(), -angle.sin(), 0 * angle], 1)]
        rows.append(torch.stack([angle.sin(), angle.cos(), 0 * angle], 1))
        grid = F.affine_grid(torch.stack(rows, 1), inputs.shape, align_corners=False)
        turned = F.grid_sample(inputs, grid, align_corners=False, padding_mode="border")
        return turned + shift[:, None, None, None]


class MicroAttentionFlow(MicroAttention):
    """The same network on the flow at the apex, for rows without pixels."""

    needs_video, needs_flow = False, True
    channels = 3
    side = 28
    widths = tuple(width // 4 for width in WIDTHS)
    iterations, learning_rate = 300, 0.05

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return apex_fields(rows, self.side, with_strain=True)

    def augmented(self, inputs: torch.Tensor) -> torch.Tensor:
        return NetworkBaseline.augmented(self, inputs)
