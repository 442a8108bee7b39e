import torch

from deft_llm.evaluation.baselines.learnet import BranchPair, LEARNet, LEARNetBaseline, LEARNetFlow


def test_the_network_as_published():
    network = LEARNet(8)
    assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 8)
    assert network.head[1].in_features == 4 * 4 * 256
    first = network.pairs[0].first
    assert [(part[0].kernel_size[0], part[0].out_channels) for part in first] == [(1, 16), (3, 32), (5, 64)]
    assert LEARNet(3, 56)(torch.zeros(1, 3, 56, 56)).shape == (1, 3)


def test_the_second_branch_reads_the_first_ones_maps_and_not_the_other_way_round():
    torch.manual_seed(0)
    pair = BranchPair().eval()
    maps = torch.rand(1, 16, 16, 16)
    with torch.no_grad():
        before = pair(maps)
        pair.second[0][0].bias += 1
        after = pair(maps)
        torch.testing.assert_close(before[:, :64], after[:, :64])
        assert not torch.allclose(before[:, 64:], after[:, 64:])
        pair.first[0][0].bias += 1
        assert not torch.allclose(after[:, 64:], pair(maps)[:, 64:])


def test_what_the_variants_read():
    assert (LEARNetBaseline.needs_video, LEARNetBaseline.side) == (True, 112)
    assert (LEARNetFlow.needs_video, LEARNetFlow.needs_flow) == (False, True)
