"""What the networks on dynamic images share: how they read and how they are trained.

The training of LEARNet and AffectiveNet is not public. Chosen here for both: Adam, learning rate 0.001, × 0.1 in the
second half of 30 epochs, batches of 32, mirroring. On flow, 12 epochs at 28 × 28 cells, tried on made-up flow only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from .clip_images import dynamic_flows, dynamic_images
from .flow_features import field_count
from .networks import NetworkBaseline


class DynamicImageNetwork(NetworkBaseline):
    """A network on the dynamic image from onset to offset.

    Attributes:
        network (`Callable[[int, int], nn.Module]`): Builds the network from the number of classes and the side.
    """

    network: Callable[[int, int], nn.Module]
    needs_video, needs_flow = True, False
    mirrors = True
    side = 112
    epochs, learning_rate, batch_size = 30, 1e-3, 32
    decay = (2, 0.1)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return dynamic_images(rows, self.side)

    def build(self, classes: int) -> nn.Module:
        return type(self).network(classes, self.side)


class DynamicFlowNetwork(DynamicImageNetwork):
    """The same on the sum of a clip's flow fields, for rows without pixels. All clips need one number of fields."""

    needs_video, needs_flow = False, True
    reads_all_fields = True
    side = 28
    epochs = 12

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.fields = field_count(rows)
        super().fit(rows)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return dynamic_flows(rows, self.side, fields=self.fields)
