import torch

from deft_llm.evaluation.baselines.affectivenet import (
    MFL,
    AffectiveNet,
    AffectiveNetStyle,
    AffectiveNetStyleFlow,
    MICRoFeat,
)


def test_kernels_of_several_sizes_stand_side_by_side():
    block = MICRoFeat(4, 2)
    assert [scale.kernel_size[0] for scale in block.scales] == [3, 5, 7, 11]
    assert block(torch.rand(2, 4, 12, 12)).shape == (2, 8, 6, 6)


def test_variations_are_learned_from_two_layers():
    torch.manual_seed(0)
    block = MFL(4, 6, 5).eval()
    early, late = torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)
    with torch.no_grad():
        found = block(early, late)
        assert found.shape == (1, 10, 4, 4)
        assert not torch.allclose(found, block(2 * early, late))
        assert not torch.allclose(found, block(early, 2 * late))


def test_any_side():
    for side in (112, 56, 30):
        assert AffectiveNet(3, side)(torch.zeros(2, 3, side, side)).shape == (2, 3)
    assert AffectiveNetStyle.needs_video
    assert AffectiveNetStyleFlow.needs_flow
