"""RCN-A: a shallow recurrent convolutional network with an attention map that has no parameters.

Xia, Peng, Khor, Feng & Zhao, Revealing the Invisible with Model and Data Shrinking for Composite-Database
Micro-Expression Recognition, IEEE Transactions on Image Processing 29, 2020. Implemented from the authors' definition
(github.com/xiazhaoqiang/ParameterFreeRCNs-MicroExpressionRec, `MeNets.py`, `RCN_A` version 3): one recurrent layer
that applies the same 3 × 3 convolution twice, and features weighted by the mean of the classes' activation maps. Sizes
and training are those of the command in its README: 32 maps, pooling to 5 × 5, SGD, 20 epochs, batches of 64, and a
learning rate that is halved after every ten epochs.

Not public: how the three channels of the flow image are made, and its size. Chosen here: u, v and strain of 28 × 28
cells, divided by the training rows' root mean square. On this input the authors' learning rate of 0.0005 leaves the
network untrained (UF1 of 0.22 on its own training rows); 0.05 was chosen on made-up flow.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .shallow import ShallowNetwork


class RecurrentLayer(nn.Module):
    """A 1 × 1 convolution, and one 3 × 3 convolution that is applied twice to its own output plus the input."""

    def __init__(self, maps: int):
        super().__init__()
        self.forward_step = nn.Sequential(nn.Conv2d(maps, maps, 1), nn.BatchNorm2d(maps), nn.ReLU())
        self.recurrent_step = nn.Sequential(nn.Conv2d(maps, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU())
        self.reduce = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.5))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        states = self.forward_step(maps)
        for _ in range(2):
            states = self.recurrent_step(maps + states)
        return self.reduce(states)


class RCN(nn.Module):
    """Maps flow images to logits.

    Args:
        classes (`int`): Number of classes.
        maps (`int`, *optional*, defaults to `32`): Feature maps of every layer.
        pooled (`int`, *optional*, defaults to `5`): Side of the grid that the classifier reads.
    """

    def __init__(self, classes: int, maps: int = 32, pooled: int = 5):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, maps, 5), nn.BatchNorm2d(maps), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)
        )
        self.recurrent = RecurrentLayer(maps)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Linear(maps * pooled**2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def attention(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean of the classes' activation maps, each stretched to 0 … 1, `(clips, 1, pooled, pooled)`."""
        weights = self.classifier.weight.unflatten(1, maps.shape[1:])
        activations = (maps[:, None] * weights).mean(2).flatten(2)
        activations = activations - activations.amin(2, keepdim=True)
        # The small number keeps a map without any difference from being divided by zero.
        activations = activations / (activations.amax(2, keepdim=True) + 1e-12)
        return activations.mean(1).unflatten(1, (1, *maps.shape[2:]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images, `(clips, 3, side, side)`, to logits, `(clips, classes)`."""
        early = self.stem(images)
        attention = self.attention(self.pool(early))
        return self.classifier((attention * self.pool(self.recurrent(early))).flatten(1))


class RCNBaseline(ShallowNetwork):
    """RCN-A on the flow image at the apex."""

    channels = 3
    epochs, learning_rate, batch_size = 20, 0.05, 64
    decay = (2, 0.5)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)

    def build(self, classes: int) -> nn.Module:
        return RCN(classes)
