"""OFF-ApexNet: two convolutional streams over horizontal and vertical flow from onset to apex.

Gan, Liong, Yau, Huang & Tan, OFF-ApexNet on micro-expression recognition system, Signal Processing: Image
Communication 74, 2019, arXiv 1805.08699. Implemented from the description: each stream has two 5 × 5 convolutions with
6 and 16 filters, each followed by 2 × 2 max pooling. Two layers of 1024 units read both streams. The number of epochs
and the batch size are our own choice.
"""

from __future__ import annotations

import torch
from torch import nn

from .shallow import ShallowNetwork


class OFFApexNet(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1, 6, 5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 16, 5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
            )
            for _ in range(2)
        )
        self.head = nn.Sequential(
            nn.Linear(2 * 7 * 7 * 16, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, classes)
        )

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        """Maps fields, (clips, 2, 28, 28), to logits, (clips, classes)."""
        return self.head(torch.cat([stream(fields[:, [k]]) for k, stream in enumerate(self.streams)], dim=1))


class OFFApexNetBaseline(ShallowNetwork):
    channels = 2
    epochs, learning_rate, batch_size = 60, 1e-4, 64

    def build(self, classes: int) -> nn.Module:
        return OFFApexNet(classes)
