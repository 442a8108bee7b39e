"""Shared code of the shallow flow networks: inputs scaled by the training rows, Adam, and the last epoch's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .flow_features import apex_fields

SIDE = 28


class ShallowNetwork:
    """A network on fields at the apex, (clips, channels, 28, 28). Subclasses define the network.

    Training runs for `epochs` epochs. No epoch is selected.

    Args:
        labels (`Sequence[str]`): The classes.
        seed (`int`): Seed of the weights and of the order of the clips.
        epochs (`int`, *optional*): How often every clip is seen; by default the subclass's own value.
        learning_rate (`float`, *optional*): Learning rate of Adam; by default the subclass's own value.
        batch_size (`int`, *optional*): Clips per step; by default the subclass's own value.
    """

    channels: int
    epochs: int
    learning_rate: float
    batch_size: int

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
    ):
        self.labels, self.seed = list(labels), seed
        settings = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
        for name, value in settings.items():
            if value is not None:
                setattr(self, name, value)

    def build(self, classes: int) -> nn.Module:
        raise NotImplementedError

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        torch.manual_seed(self.seed)
        fields = apex_fields(rows, SIDE, with_strain=self.channels == 3)
        # Units differ between data sets, so inputs are scaled. They are not shifted, to keep the signs of u and v.
        self.scale = np.sqrt((fields**2).mean((0, 2, 3), keepdims=True)) + 1e-12
        inputs = torch.from_numpy(fields / self.scale)
        targets = torch.tensor([self.labels.index(row["label"]) for row in rows])
        self.network = self.build(len(self.labels)).train()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(inputs)).split(self.batch_size):
                if len(batch) < 2:  # batch normalisation needs two
                    continue
                loss = F.cross_entropy(self.network(inputs[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        inputs = torch.from_numpy(apex_fields(rows, SIDE, with_strain=self.channels == 3) / self.scale)
        self.network.eval()
        with torch.inference_mode():
            scores = self.network(inputs).double().softmax(1)
        return [{"scores": row} for row in scores.tolist()]
