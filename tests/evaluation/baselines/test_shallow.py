import numpy as np
import pytest
import torch
from torch import nn

from deft_llm.evaluation.baselines.flow_features import apex_fields
from deft_llm.evaluation.baselines.shallow import ShallowNetwork
from tests.evaluation.baselines.moving_rows import LABELS, moving_rows


class Linear(ShallowNetwork):
    channels = 2

    def build(self, classes):
        size = 2 * self.side**2
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, classes))


def fitted(rows, **settings):
    model = Linear(LABELS, **{"epochs": 2, "learning_rate": 1e-2, "batch_size": 4} | settings)
    model.fit(rows)
    return model


def test_fields_at_the_apex_are_read_with_strain_for_three_channels():
    rows = moving_rows(2)
    model = Linear(LABELS)
    np.testing.assert_array_equal(model.read(rows), apex_fields(rows, 28))
    model.channels, model.side = 3, 14
    np.testing.assert_array_equal(model.read(rows), apex_fields(rows, 14, with_strain=True))


def test_inputs_are_scaled_by_the_training_rows_and_only_by_them():
    rows = moving_rows(12)
    model = fitted(rows)
    scale = model.scale.copy()
    larger = [{**row, "flow": 9 * np.float32(row["flow"])} for row in rows]
    model.predict(larger)
    np.testing.assert_array_equal(model.scale, scale)
    np.testing.assert_allclose(fitted(larger).scale, 9 * scale, rtol=1e-3)


def test_a_prediction_does_not_lean_on_the_other_clips():
    rows = moving_rows(12)
    model = fitted(rows)
    alone = [model.predict([row])[0]["scores"] for row in rows]
    for one, together in zip(alone, model.predict(rows), strict=True):
        assert one == pytest.approx(together["scores"], abs=1e-6)


def test_a_batch_of_one_is_left_out():
    fitted(moving_rows(5))  # 4 and 1: batch normalisation would refuse the last


def test_the_last_epoch_is_kept():
    rows = moving_rows(12)
    first, last = fitted(rows, epochs=1), fitted(rows, epochs=20)
    targets = torch.tensor([LABELS.index(row["label"]) for row in rows])

    def loss(model):
        scores = torch.tensor([item["scores"] for item in model.predict(rows)])
        return nn.functional.nll_loss(scores.log(), targets)

    assert loss(last) < loss(first)
