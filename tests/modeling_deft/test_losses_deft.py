"""The objective's terms against values worked out by hand."""

import math

import torch

from deft_llm.modeling_deft import losses_deft as losses


def test_easy_absent_units_weigh_less_and_present_ones_as_before():
    logits, labels = torch.tensor([[2.0, -3.0, 0.0]]), torch.tensor([[1.0, 0.0, -100.0]])
    plain = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-3.0))) / 2
    focused = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-3.0)) / (1 + math.exp(3.0)) ** 2) / 2
    torch.testing.assert_close(losses.action_unit_loss(logits, labels, 0.0), torch.tensor(plain))
    torch.testing.assert_close(losses.action_unit_loss(logits, labels, 2.0), torch.tensor(focused))


def test_sides_and_intensities_count_where_a_unit_is_present_and_coded():
    present = torch.tensor([[True, True, False]])
    sides = losses.side_loss(
        torch.tensor([[[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]]]), torch.tensor([[1, -100, 0]]), present
    )
    torch.testing.assert_close(sides, torch.tensor(4.0 + math.log(1 + 2 * math.exp(-4.0))))
    values, labels = torch.tensor([[3.0, 0.0, 9.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    # Smooth L1: 2 − ½ beyond one, ½ d² within.
    torch.testing.assert_close(losses.intensity_loss(values, labels, present), torch.tensor((1.5 + 0.125) / 2))


def test_nothing_labelled_is_a_zero_that_can_be_differentiated():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = losses.emotion_loss(logits, torch.tensor([-100, -100]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_region_loss_is_the_mass_outside():
    attention = torch.zeros(1, 2, 2, 4)
    attention[0, 0, :, 0], attention[0, 0, :, 3] = 0.375, 0.125
    attention[0, 1, 0, 1] = 1.0
    regions = torch.tensor([[True, False, False, False], [False, False, False, False]])
    present = torch.tensor([[True, True]])  # the second has no region
    torch.testing.assert_close(losses.region_loss(attention, regions, present), torch.tensor(-math.log(0.75)))


def test_alignment_falls_when_tokens_point_to_their_names_and_spares_the_names():
    names = torch.eye(3, 5, requires_grad=True)
    named, present = torch.tensor([True, True, False]), torch.tensor([[True, True, True]])
    right = losses.alignment_loss(names.detach()[None], names, named, present)
    tokens = names.detach()[[1, 0, 2]][None].clone().requires_grad_()
    wrong = losses.alignment_loss(tokens, names, named, present)
    torch.testing.assert_close(right, torch.tensor(math.log1p(math.exp(-10.0))))
    torch.testing.assert_close(wrong, torch.tensor(10 + math.log1p(math.exp(-10.0))))
    wrong.backward()
    assert names.grad is None
    assert tokens.grad.abs().sum() > 0
