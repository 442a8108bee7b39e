import torch

from deft_llm.evaluation.baselines.off_apexnet import OFFApexNet, OFFApexNetBaseline


def test_the_network_as_published():
    network = OFFApexNet(3)
    assert network(torch.zeros(2, 2, 28, 28)).shape == (2, 3)
    assert network.head[0].in_features == 1568


def test_each_stream_reads_one_direction_of_flow():
    network = OFFApexNet(3).eval()
    fields = torch.randn(1, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for stream, channel in zip(network.streams, (0, 1), strict=True):
            alone = torch.zeros_like(fields)
            alone[:, channel] = fields[:, channel]
            torch.testing.assert_close(stream(alone[:, [channel]]), stream(fields[:, [channel]]))
        swapped = network(fields.flip(1))
    assert not torch.allclose(swapped, network(fields))
    assert OFFApexNetBaseline.channels == 2
