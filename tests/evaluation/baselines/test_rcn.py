import pytest
import torch
from torch import nn

from deft_llm.evaluation.baselines.rcn import RCN, RCNBaseline


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RCN(3).eval()


def test_the_network_as_published(network):
    assert network(torch.randn(2, 3, 28, 28)).shape == (2, 3)
    # One convolution of each kind: the recurrent one is applied twice with the same weights.
    kernels = [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [(5, 5), (1, 1), (3, 3)]
    assert network.classifier.in_features == 5 * 5 * 32
    calls = []
    network.recurrent.recurrent_step.register_forward_hook(lambda *_: calls.append(1))
    network(torch.randn(1, 3, 28, 28))
    assert len(calls) == 2


def test_attention_is_the_mean_of_the_stretched_activation_maps(network):
    maps = torch.rand(2, 32, 5, 5)
    expected = torch.zeros(2, 5, 5)
    for weights in network.classifier.weight.reshape(3, 32, 5, 5):
        for clip in range(2):
            activation = (weights * maps[clip]).mean(0)
            expected[clip] += (activation - activation.min()) / (activation.max() - activation.min()) / 3
    torch.testing.assert_close(network.attention(maps)[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(network.attention(torch.zeros(1, 32, 5, 5))).all()  # a clip without motion


def test_the_rate_is_halved_after_ten_epochs():
    assert (RCNBaseline.epochs, RCNBaseline.decay, RCNBaseline.needs_video) == (20, (2, 0.5), False)
    assert isinstance(RCNBaseline("ab").optimizer(RCN(2).parameters()), torch.optim.SGD)
