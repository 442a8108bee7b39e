from dataclasses import asdict, replace

import pytest
import torch
import yaml

from deft_llm.hub_datasets.synthetic.flows import FLOW_UNITS
from deft_llm.recipes import find_recipe
from deft_llm.training.recognition import (
    Clips,
    RecognitionConfig,
    mirrored,
    normalised,
    prior_path,
    scales_of,
    train_on_clips,
)

SMALL = RecognitionConfig(
    flow_size=8, hidden_size=8, num_heads=2, epochs=2, batch_size=4, prior_steps=2, prior_batch=4
)
LABELS = ("negative", "positive")


@pytest.fixture
def clips():
    flows = torch.randn(8, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return Clips(flows, torch.arange(8) % 2, torch.zeros(8, len(FLOW_UNITS)))


def scores(model, clips):
    with torch.inference_mode():
        return model(flow_values_videos=clips.flows).emotion_logits


def test_a_prior_is_trained_once_per_settings(tmp_path):
    path = prior_path(SMALL, 1, tmp_path)
    trained = path.stat().st_mtime_ns
    assert prior_path(replace(SMALL, epochs=9), 1, tmp_path) == path  # epochs are not of the prior
    assert path.stat().st_mtime_ns == trained
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert prior_path(replace(SMALL, prior_batch=2), 1, tmp_path) != path


def test_seed_and_prior_decide_the_network(clips, tmp_path):
    prior = prior_path(SMALL, 1, tmp_path)
    chosen = ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0, "prior": prior})
    first, same, other, taught = (
        scores(train_on_clips(SMALL, LABELS, FLOW_UNITS, clips, **one), clips) for one in chosen
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, taught)


def test_a_prior_of_other_sizes_is_refused(clips, tmp_path):
    prior = prior_path(SMALL, 1, tmp_path)
    with pytest.raises(ValueError, match="prior does not fit the settings"):
        train_on_clips(replace(SMALL, hidden_size=16), LABELS, FLOW_UNITS, clips, seed=0, prior=prior)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="no setting 'dropout'; it has flow_size"):
        RecognitionConfig.of({"dropout": 0.5})
    with pytest.raises(ValueError, match="kernel_share must be from 0 to 1"):
        RecognitionConfig.of({"kernel_share": 1.5})
    with pytest.raises(ValueError, match="members must be at least 1"):
        RecognitionConfig.of({"members": 0, "kernel_share": 0.5})


def test_the_mirror_swaps_sides_and_turns_u():
    flow = torch.zeros(1, 1, 2, 4, 4)
    flow[0, 0, :, 1, 0] = torch.tensor([1.0, 2.0])
    turned = mirrored(flow)
    assert turned[0, 0, :, 1, 3].tolist() == [-1.0, 2.0]
    assert float(turned.abs().sum()) == 3.0
    assert torch.equal(mirrored(turned), flow)


def test_normalisation_is_free_of_units():
    flows = torch.randn(5, 1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    for amplitude in (0.0, 0.5, 1.0):
        values = [normalised(f, scales_of(f), float(scales_of(f).median()), amplitude) for f in (flows, 1e-3 * flows)]
        assert torch.allclose(*values, atol=1e-5)
    loud = torch.cat([flows[:4], 3 * flows[4:]])
    ratio = [
        float(normalised(loud, scales_of(loud), float(scales_of(loud).median()), a)[4].std() / flows[4].std())
        for a in (0.0, 1.0)
    ]
    assert ratio[0] > 2 * ratio[1]


def test_the_recipe_is_the_default():
    recipe = yaml.safe_load(find_recipe("recognition.yaml").read_text(encoding="utf-8"))
    assert recipe == asdict(RecognitionConfig())
