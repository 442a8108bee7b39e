import torch

from deft_llm.hub_datasets.synthetic.flows import FLOW_UNITS, FlowGenerator, displaced
from deft_llm.processing.action_units import ellipse_mask, region_ellipse


def test_made_up_flow_moves_where_its_units_are():
    """Over many samples the motion of AU12 clips exceeds that of the others at the mouth corners, and points up."""
    flows, labels = FlowGenerator(28, 1).sample(1500, torch.Generator().manual_seed(0))
    assert labels.shape == (1500, len(FLOW_UNITS))
    assert 0.03 < float((labels.sum(1) == 0).float().mean()) < 0.13
    mask = torch.from_numpy(
        ellipse_mask(region_ellipse("mouth corner", "left"), 28, 28)
        | ellipse_mask(region_ellipse("mouth corner", "right"), 28, 28)
    )
    upward = -flows[:, 0, 1][:, mask].mean(1)
    shown = labels[:, FLOW_UNITS.index("AU12")] > 0
    assert float(upward[shown].mean()) > float(upward[~shown].mean()) + 0.2


def test_a_turned_face_turns_its_motion():
    """Content and vectors turn together: a field that points outwards everywhere still does."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 33)] * 2, indexing="ij")
    radial = torch.stack([x, y])[None, None]
    for seed in range(3):
        moved = displaced(radial, torch.Generator().manual_seed(seed), shift=0.0, zoom=0.0, stretch=0.0, turn=0.5)
        inside = (slice(None),) * 3 + (slice(8, 25),) * 2
        assert torch.allclose(moved[inside], radial[inside], atol=1e-3)
    still = displaced(radial, torch.Generator().manual_seed(0), shift=0.0, zoom=0.0, stretch=0.0, turn=0.0)
    assert torch.allclose(still, radial, atol=1e-5)
