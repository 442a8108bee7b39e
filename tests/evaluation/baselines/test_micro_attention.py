import pytest
import torch

from deft_llm.evaluation.baselines.micro_attention import (
    AttentionUnit,
    MicroAttention,
    MicroAttentionFlow,
    MicroAttentionNet,
)

NARROW = (4, 6, 8, 10)


def test_the_network_as_published():
    network = MicroAttentionNet(3)
    assert [unit.second.out_channels for unit in network.units] == [64, 128, 256, 512]
    assert [unit.first[0].stride for unit in network.units] == [(1, 1)] + [(2, 2)] * 3
    assert [isinstance(unit.shortcut, torch.nn.Conv2d) for unit in network.units] == [False, True, True, True]
    assert [isinstance(unit.after, torch.nn.Sequential) for unit in network.units] == [False, False, False, True]
    narrow = MicroAttentionNet(3, 1, NARROW)
    assert narrow.stem(torch.zeros(1, 1, 224, 224)).shape == (1, 4, 56, 56)
    assert narrow.units(torch.zeros(1, 4, 56, 56)).shape == (1, 10, 7, 7)


def test_a_unit_adds_its_output_weighted_by_attention():
    torch.manual_seed(0)
    unit = AttentionUnit(4, 4, first=True).eval()
    maps = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        first = unit.first(maps)
        second = unit.second(first)
        weight = torch.sigmoid(unit.mask(torch.cat([maps, first, second], 1)).mean(1, keepdim=True))
        torch.testing.assert_close(unit(maps), (second + maps) * (1 + weight))
    assert weight.shape == (2, 1, 6, 6)


def test_features_have_length_one():
    torch.manual_seed(0)
    network = MicroAttentionNet(3, 1, NARROW).eval()
    given = []
    network.classifier.register_forward_hook(lambda _, inputs, output: given.append(inputs[0]))
    network(torch.rand(2, 1, 32, 32))
    assert given[0].norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_images_are_turned_and_brightened_and_flow_is_only_mirrored():
    torch.manual_seed(0)
    line = torch.linspace(0, 1, 16)
    images = (0.25 + 0.5 * line * line[:, None]).repeat(40, 1, 1, 1)
    changed = MicroAttention("ab").augmented(images)
    shift = (changed - images).mean((1, 2, 3)).abs()
    assert 0.01 < shift.max() < 0.06
    assert changed.shape == images.shape
    flow = images.repeat(1, 3, 1, 1)
    changed = MicroAttentionFlow("ab").augmented(flow)
    assert {bool((clip == flow[0]).all()) for clip in changed} == {True, False}
    torch.testing.assert_close(changed.abs().sum((1, 2, 3)), flow.abs().sum((1, 2, 3)))


def test_training_as_published():
    model = MicroAttention("ab")
    (group,) = model.optimizer(MicroAttentionNet(2, 1, NARROW).parameters()).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 5e-6)
    assert (model.side, model.iterations, model.batch_size, model.decay) == (224, 2500, 16, (5, 0.1))
