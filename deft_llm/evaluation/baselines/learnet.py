"""LEARNet: four branches of growing kernels over a dynamic image, which add to each other.

Verma, Vipparthi, Singh & Murala, LEARNet: Dynamic Imaging Network for Micro Expression Recognition, IEEE Transactions
on Image Processing 29, 2020. Implemented from the authors' definition (github.com/MonuVermaCV/LearNet,
`LEARNet_Model.py` and `dynamicimage.py`) for a dynamic image of 112 × 112 pixels. Padding is symmetric here, which
shifts the maps by half a pixel against theirs.

Not public: how it is trained. It is trained here as `dynamic_networks` says. `learnet_flow` is a variant for data sets
without pixels, not the authors': it reads the flow fields, summed with the weights of the frames.
"""

from __future__ import annotations

import torch
from torch import nn

from .dynamic_networks import DynamicFlowNetwork, DynamicImageNetwork

KERNELS = (1, 3, 5)
WIDTHS = (16, 32, 64)


class Halving(nn.Sequential):
    """A convolution of stride 2 and ReLU.

    Args:
        given (`int`): Channels of the input.
        width (`int`): Channels of the output.
        kernel (`int`): Side of the kernel, odd.
    """

    def __init__(self, given: int, width: int, kernel: int):
        super().__init__(nn.Conv2d(given, width, kernel, 2, kernel // 2), nn.ReLU())


class Branch(nn.ModuleList):
    """Three convolutions of growing kernels."""

    def __init__(self):
        super().__init__(
            Halving(given, width, kernel) for given, width, kernel in zip((16, *WIDTHS), WIDTHS, KERNELS, strict=False)
        )


class BranchPair(nn.Module):
    """Two branches; the second adds the first one's maps to its own before its second and third convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Branch(), Branch()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in WIDTHS[:2])

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        first = second = maps
        for number, (one, other) in enumerate(zip(self.first, self.second, strict=True)):
            first, second = one(first), other(second)
            if number < len(self.norms):
                second = self.norms[number](first + second)
        return torch.cat([first, second], 1)


class LEARNet(nn.Module):
    """Maps dynamic images to logits.

    Args:
        classes (`int`): Number of classes.
        side (`int`, *optional*, defaults to `112`): Side of the input.
    """

    def __init__(self, classes: int, side: int = 112):
        super().__init__()
        self.stem = Halving(3, 16, 3)
        self.pairs = nn.ModuleList([BranchPair(), BranchPair()])
        self.join = nn.Sequential(nn.BatchNorm2d(4 * WIDTHS[-1]), Halving(4 * WIDTHS[-1], 256, 3))
        last = -(-side // 32)  # five convolutions of stride 2
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(256 * last**2, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images, `(clips, 3, side, side)`, to logits, `(clips, classes)`."""
        maps = self.stem(images)
        return self.head(self.join(torch.cat([pair(maps) for pair in self.pairs], 1)))


class LEARNetBaseline(DynamicImageNetwork):
    """LEARNet on the dynamic image from onset to offset."""

    network = LEARNet


class LEARNetFlow(DynamicFlowNetwork):
    """The same network on the summed flow, for rows without pixels."""

    network = LEARNet
