import torch

from deft_llm.evaluation.baselines.ststnet import STSTNet, STSTNetBaseline


def test_the_network_as_published():
    network = STSTNet(3)
    assert network(torch.zeros(2, 3, 28, 28)).shape == (2, 3)
    assert network.classifier.in_features == 400
    assert [stream[0].out_channels for stream in network.streams] == [3, 5, 8]


def test_every_stream_reads_flow_and_strain():
    network = STSTNet(3).eval()
    with torch.no_grad():
        rest = network(torch.zeros(1, 3, 28, 28))
        for channel in range(3):
            fields = torch.zeros(1, 3, 28, 28)
            fields[:, channel, 10:14, 10:14] = 5.0
            assert not torch.allclose(network(fields), rest)
    assert STSTNetBaseline.channels == 3
