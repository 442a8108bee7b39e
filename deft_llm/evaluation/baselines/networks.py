"""What the neural baselines share: scaled inputs, a fixed number of training steps, and the last step's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CLIPS_AT_ONCE = 64  # in prediction


class NetworkBaseline:
    """A network that is trained on the training rows of a fold. Subclasses say what it reads and how it is built.

    Nothing is selected: training has a fixed length, and the weights of the last step are taken.

    Attributes:
        needs_video (`bool`): Whether it reads pixels; then it cannot use rows without video.
        needs_flow (`bool`): Whether it reads flow; then it cannot use rows without flow.
        mirrors (`bool`): Whether every training clip is mirrored with a probability of one half.
        decay (`tuple[int, float]`): Number of equal parts of the training, and the factor by which the learning rate
            changes from one part to the next.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`): Seed of the weights, of the order of the clips and of the augmentation.
        side (`int`, *optional*): Side of the input in pixels or cells; this and the next four are by default the
            subclass's own.
        epochs (`int`, *optional*): How often every clip is seen.
        iterations (`int`, *optional*): Number of steps, instead of epochs. The batches then show every class of the
            training rows as often as the largest one.
        learning_rate (`float`, *optional*): Learning rate at the beginning.
        batch_size (`int`, *optional*): Clips per step.
    """

    needs_video = False
    needs_flow = True
    mirrors = False
    side: int
    epochs: int
    iterations: int | None = None
    learning_rate: float
    batch_size: int
    decay: tuple[int, float] = (1, 1.0)

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        side: int | None = None,
        epochs: int | None = None,
        iterations: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
    ):
        self.labels, self.seed = list(labels), seed
        settings = {"side": side, "epochs": epochs, "iterations": iterations, "learning_rate": learning_rate}
        for name, value in (settings | {"batch_size": batch_size}).items():
            if value is not None:
                setattr(self, name, value)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Reads the inputs.

        Args:
            rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows.

        Returns:
            `np.ndarray` of shape `(clips, channels, side, side)`: uint8 for images, float32 for flow.

        Raises:
            ValueError: A row cannot be read. The message names the clip.
        """
        raise NotImplementedError

    def build(self, classes: int) -> nn.Module:
        """Creates the untrained network, which maps scaled inputs to logits, `(clips, classes)`."""
        raise NotImplementedError

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Creates the optimiser."""
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def augmented(self, inputs: torch.Tensor) -> torch.Tensor:
        """Changes scaled training inputs, `(clips, channels, side, side)`, at random."""
        return mirrored_at_random(inputs, flow=self.needs_flow) if self.mirrors else inputs

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Trains on rows with a `label`."""
        torch.manual_seed(self.seed)
        inputs = self.read(rows)
        self.scale = scale_of(inputs)
        targets = torch.tensor([self.labels.index(row["label"]) for row in rows])
        self.network = self.build(len(self.labels)).train()
        optimizer = self.optimizer([item for item in self.network.parameters() if item.requires_grad])
        steps = self.iterations or self.epochs * max(1, -(-len(targets) // self.batch_size))
        parts, factor = self.decay
        for step, batch in enumerate(self._batches(targets)):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * factor ** (parts * step // steps)
            logits = self.network(self.augmented(self._scaled(inputs[batch.numpy()])))
            loss = F.cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns `scores` per row, in order."""
        self.network.eval()
        scores = []
        with torch.inference_mode():
            for start in range(0, len(rows), CLIPS_AT_ONCE):
                inputs = self._scaled(self.read(rows[start : start + CLIPS_AT_ONCE]))
                scores += self.network(inputs).double().softmax(1).tolist()
        return [{"scores": row} for row in scores]

    def _scaled(self, inputs: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(inputs / self.scale)

    def _batches(self, targets: torch.Tensor) -> Iterator[torch.Tensor]:
        if self.iterations:
            yield from oversampled(targets, self.batch_size, self.iterations)
            return
        for _ in range(self.epochs):
            for batch in torch.randperm(len(targets)).split(self.batch_size):
                if len(batch) >= 2:  # batch normalisation needs two
                    yield batch


def scale_of(inputs: np.ndarray) -> np.ndarray:
    """What inputs are divided by, `(1, channels or 1, 1, 1)` float32.

    Units of flow differ between data sets, so flow is divided by the root mean square of each channel. It is not
    shifted, to keep the signs of u and v. Images are divided by 255.
    """
    if inputs.dtype == np.uint8:
        return np.full((1, 1, 1, 1), 255, np.float32)
    return np.sqrt((inputs**2).mean((0, 2, 3), keepdims=True)) + 1e-12


def mirrored_at_random(inputs: torch.Tensor, *, flow: bool) -> torch.Tensor:
    """Mirrors each clip with a probability of one half.

    Args:
        inputs (`torch.Tensor`): `(clips, channels, h, w)`.
        flow (`bool`): Whether channel 0 is horizontal flow, which changes its sign in a mirror.
    """
    turned = inputs.flip(-1)
    if flow:
        turned[:, 0] = -turned[:, 0]
    return torch.where((torch.rand(len(inputs)) < 0.5)[:, None, None, None], turned, inputs)


def oversampled(targets: torch.Tensor, batch_size: int, iterations: int) -> Iterator[torch.Tensor]:
    """Draws batches in which each class that occurs is as frequent as the largest one.

    Args:
        targets (`torch.Tensor`): Class of each clip, `(clips,)`.
        batch_size (`int`): Clips per batch.
        iterations (`int`): Number of batches.
    """
    groups = [(targets == label).nonzero()[:, 0] for label in targets.unique()]
    largest = max(len(group) for group in groups)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(iterations):
        while len(order) < batch_size:
            repeated = [group[torch.randperm(len(group))].repeat(-(-largest // len(group))) for group in groups]
            drawn = torch.cat([group[:largest] for group in repeated])
            order = torch.cat([order, drawn[torch.randperm(len(drawn))]])
        yield order[:batch_size]
        order = order[batch_size:]
