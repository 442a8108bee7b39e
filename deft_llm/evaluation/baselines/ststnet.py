"""STSTNet: three shallow streams over horizontal flow, vertical flow and optical strain.

Liong, Gan, See, Khor & Huang, Shallow Triple Stream Three-dimensional CNN (STSTNet) for Micro-expression Recognition,
FG 2019, arXiv 1902.03634. Implemented from the description: three streams with 3, 5 and 8 filters of 3 × 3 each read
all three channels. The concatenated maps are averaged 2 × 2 and classified by one linear layer.
"""

from __future__ import annotations

import torch
from torch import nn

from .shallow import ShallowNetwork


class STSTNet(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, filters, 3, padding=2),
                nn.ReLU(),
                nn.BatchNorm2d(filters),
                nn.MaxPool2d(3, stride=3, padding=1),
                nn.Dropout(0.5),
            )
            for filters in (3, 5, 8)
        )
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(5 * 5 * 16, classes)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        """Maps fields, (clips, 3, 28, 28), to logits, (clips, classes)."""
        joined = torch.cat([stream(fields) for stream in self.streams], dim=1)
        return self.classifier(self.pool(joined).flatten(1))


class STSTNetBaseline(ShallowNetwork):
    channels = 3
    epochs, learning_rate, batch_size = 500, 5e-5, 256

    def build(self, classes: int) -> nn.Module:
        return STSTNet(classes)
