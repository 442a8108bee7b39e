import numpy as np
import pytest
import torch
from torch import nn

from deft_llm.evaluation.baselines.networks import NetworkBaseline, mirrored_at_random, oversampled, scale_of


class Linear(NetworkBaseline):
    """Reads `row["input"]`; notes its learning rates and how often each clip was seen."""

    side = 4
    epochs, learning_rate, batch_size = 4, 0.1, 4
    decay = (2, 0.5)

    def read(self, rows):
        return np.stack([row["input"] for row in rows])

    def build(self, classes):
        self.seen, self.rates = [], []
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, classes))

    def optimizer(self, parameters):
        self.made = torch.optim.SGD(parameters, lr=self.learning_rate)
        return self.made

    def augmented(self, inputs):
        self.seen.append(len(inputs))
        self.rates.append(self.made.param_groups[0]["lr"])
        return super().augmented(inputs)


def labelled_rows(count, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [
        {"input": rng.integers(0, 200, (2, 4, 4)).astype(dtype), "label": "ab"[number % 2]} for number in range(count)
    ]


def test_training_has_a_fixed_length_and_its_rate_falls_in_parts():
    model = Linear("ab")
    model.fit(labelled_rows(9))
    assert model.seen == [4, 4] * 4  # a batch of one is left out
    assert model.rates[0] == 0.1
    assert model.rates[-1] == 0.05
    model = Linear("ab", iterations=3, batch_size=5)
    model.fit(labelled_rows(9))
    assert model.seen == [5, 5, 5]


def test_flow_is_scaled_by_the_training_rows_and_images_by_255():
    rows = labelled_rows(6)
    model = Linear("ab")
    model.fit(rows)
    scaled = np.stack([row["input"] for row in rows]) / model.scale
    np.testing.assert_allclose((scaled**2).mean((0, 2, 3)), 1, rtol=1e-5)
    assert scale_of(model.read(labelled_rows(6, np.uint8))).ravel() == [255]


def test_prediction_does_not_change_the_model():
    rows = labelled_rows(70)
    model = Linear("ab")
    model.fit(rows)
    together = model.predict(rows)
    assert len(together) == 70  # more than are predicted at once
    assert model.predict(rows[69:])[0]["scores"] == pytest.approx(together[69]["scores"], abs=1e-6)


def test_rare_classes_are_drawn_as_often_as_the_largest():
    targets = torch.tensor([0] * 8 + [2] * 2)
    torch.manual_seed(0)
    drawn = torch.cat(list(oversampled(targets, 4, 8)))
    assert torch.bincount(targets[drawn]).tolist() == [16, 0, 16]
    assert torch.bincount(drawn).tolist() == [2] * 8 + [8] * 2


def test_a_mirror_turns_horizontal_flow():
    inputs = torch.arange(2.0 * 3 * 4).reshape(1, 2, 3, 4).repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    for flow in (True, False):
        mirrored = mirrored_at_random(inputs, flow=flow)
        turned = inputs[0].flip(-1) * torch.tensor([-1.0 if flow else 1.0, 1.0])[:, None, None]
        as_it_was = [torch.equal(clip, inputs[0]) for clip in mirrored]
        assert 10 < sum(as_it_was) < 30
        assert all(same or torch.equal(clip, turned) for same, clip in zip(as_it_was, mirrored, strict=True))
