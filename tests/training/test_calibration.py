"""Temperatures are those with which the labels were drawn."""

import pytest
import torch

from deft_llm.training.calibration import action_unit_temperature, emotion_temperature


@pytest.mark.parametrize("true", [0.7, 1.0, 2.5])
def test_the_temperature_with_which_labels_were_drawn_is_found(true):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial((logits / true).softmax(-1), 1, generator=generator)[:, 0]
    present = torch.bernoulli((logits / true).sigmoid(), generator=generator)
    assert emotion_temperature(logits, labels) == pytest.approx(true, rel=0.05)
    assert action_unit_temperature(logits, present) == pytest.approx(true, rel=0.05)


def test_unknown_labels_have_no_say():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=generator)
    labels, present = torch.randint(3, (400,), generator=generator), torch.randint(2, (400, 3), generator=generator)
    usual = emotion_temperature(logits[:300], labels[:300]), action_unit_temperature(logits[:300], present[:300])
    labels[300:], present[300:] = -100, -100
    assert (emotion_temperature(logits, labels), action_unit_temperature(logits, present)) == pytest.approx(usual)
    assert emotion_temperature(logits, torch.full((400,), -100)) == 1.0
    assert action_unit_temperature(logits, torch.full((400, 3), -100)) == 1.0


def test_a_few_right_answers_do_not_make_certainty():
    logits = 5 * torch.eye(3)
    assert emotion_temperature(logits, torch.arange(3)) == pytest.approx(0.5, rel=1e-3)
