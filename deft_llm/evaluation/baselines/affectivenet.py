"""AffectiveNet-style: parallel kernels of several sizes on a dynamic image, and two layers read together.

After Verma, Vipparthi & Singh, AffectiveNet: Affective-Motion Feature Learning for Micro-Expression Recognition, IEEE
MultiMedia 28, 2021, arXiv 2104.07569. Public are the ideas: one "affective-motion" image per clip, a MICRoFeat block
of parallel convolutions with several kernel sizes, and an MFL block that learns from two intermediate layers.

Not public: code, kernel sizes, widths, training. Chosen here: the dynamic image of the same group's LEARNet at
112 × 112 pixels; kernels of 3, 5, 7 and 11; 16, then 32 maps per kernel; an MFL block that brings both layers to the
same grid and reads their sum and their difference; training as `dynamic_networks` says. `affectivenet_style_flow`
reads the summed flow instead of pixels.
"""

from __future__ import annotations

import torch
from torch import nn

from .dynamic_networks import DynamicFlowNetwork, DynamicImageNetwork

KERNELS = (3, 5, 7, 11)


class MICRoFeat(nn.Module):
    """Convolutions of several kernel sizes side by side, with stride 2.

    Args:
        given (`int`): Channels of the input.
        width (`int`): Channels per kernel size.
    """

    def __init__(self, given: int, width: int):
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(given, width, kernel, 2, kernel // 2) for kernel in KERNELS)
        self.norm = nn.BatchNorm2d(width * len(KERNELS))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([scale(maps) for scale in self.scales], 1)).relu()


class MFL(nn.Module):
    """Reads the sum and the difference of an early and a late layer, at the resolution of the late one.

    Args:
        early (`int`): Channels of the early layer, which has twice the resolution.
        late (`int`): Channels of the late layer.
        width (`int`): Channels that both are brought to.
    """

    def __init__(self, early: int, late: int, width: int):
        super().__init__()
        self.early, self.late = nn.Conv2d(early, width, 3, 2, 1), nn.Conv2d(late, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(2 * width)

    def forward(self, early: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
        early, late = self.early(early), self.late(late)
        return self.norm(torch.cat([early + late, late - early], 1)).relu()


class AffectiveNet(nn.Module):
    """Maps dynamic images to logits.

    Args:
        classes (`int`): Number of classes.
        side (`int`, *optional*, defaults to `112`): Side of the input.
    """

    def __init__(self, classes: int, side: int = 112):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.early, self.late = MICRoFeat(16, 16), MICRoFeat(64, 32)
        self.variations = MFL(64, 128, 64)
        last = -(-side // 16)  # four convolutions of stride 2
        self.head = nn.Sequential(
            nn.Conv2d(128, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * last**2, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images, `(clips, 3, side, side)`, to logits, `(clips, classes)`."""
        early = self.early(self.stem(images))
        return self.head(self.variations(early, self.late(early)))


class AffectiveNetStyle(DynamicImageNetwork):
    """The network on the dynamic image from onset to offset."""

    network = AffectiveNet


class AffectiveNetStyleFlow(DynamicFlowNetwork):
    """The same network on the summed flow, for rows without pixels."""

    network = AffectiveNet
