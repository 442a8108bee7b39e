from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from deft_llm.evaluation.recognition import (
    PRIOR_UNITS,
    DeftRecogniser,
    FlowPrior,
    RecognitionConfig,
    clip_fields,
    displaced,
    mirrored,
    normalised,
    prior_path,
    scales_of,
)
from deft_llm.processing.action_units import ellipse_mask, region_ellipse
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive", "surprise")
SMALL = {"members": 1, "hidden_size": 32, "epochs": 40, "batch_size": 16, "prior_steps": 0, "learning_rate": 3e-3}
SHOWN = {
    "negative": ("AU4", "inner brow", 1.0),
    "positive": ("AU12", "mouth corner", -1.0),
    "surprise": ("AU2", "outer brow", -1.0),
}


def region_rows(count: int, *, unit: float = 1.0, side: int = 28, frames: int = 1, units: bool = True) -> list[dict]:
    """Each class moves one region of the atlas up or down, under noise."""
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        code, region, v = SHOWN[label]
        flow = np.random.default_rng(number).normal(0, 0.15, (frames, 2, side, side))
        for name in ("left", "right"):
            flow[:, 1][:, ellipse_mask(region_ellipse(region, name), side, side)] += v
        labelled = [{"code": code, "side": "both"}] if units else []
        row = make_row("casme2", number, 1, label, flow=(unit * flow).astype(np.float32), action_units=labelled)
        rows.append({**row, "label": label})
    return rows


def accuracy(model: DeftRecogniser, rows: list[dict]) -> float:
    chosen = [LABELS[int(np.argmax(item["scores"]))] for item in model.predict(rows)]
    return float(np.mean([a == row["label"] for a, row in zip(chosen, rows, strict=True)]))


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    settings = RecognitionConfig.of({**SMALL, "prior_steps": 150, "prior_batch": 32})
    folder = tmp_path_factory.mktemp("prior")
    path = prior_path(settings, 1, folder)
    assert prior_path(settings, 1, folder) == path  # not trained again
    assert [item.name for item in folder.iterdir()] == [path.name]
    return path


@pytest.mark.parametrize("unit", [1.0, 4e-4])
def test_it_learns_in_any_unit(prior, unit):
    rows = region_rows(54, unit=unit)
    model = DeftRecogniser(LABELS, 0, prior, **SMALL)
    model.fit(rows[:36])
    assert accuracy(model, rows[36:]) >= 0.9  # chance is a third
    item = model.predict(rows[36:37])[0]
    assert sum(item["scores"]) == pytest.approx(1)
    assert sorted(item["action_units"]) == ["AU12", "AU2", "AU4"]


def test_action_units_come_from_their_labels(prior):
    rows = region_rows(60)
    model = DeftRecogniser(LABELS, 0, prior, **SMALL)
    model.fit(rows[:48])
    for row, item in zip(rows[48:], model.predict(rows[48:]), strict=True):
        units = item["action_units"]
        assert max(units, key=units.get) == row["action_units"][0]["code"]


def test_other_grids_several_frames_and_no_units():
    rows = region_rows(12, side=20, frames=7, units=False)
    model = DeftRecogniser(LABELS, 0, **{**SMALL, "epochs": 1})
    model.fit(rows)
    items = model.predict(rows)
    assert len(items) == 12
    assert "action_units" not in items[0]
    assert clip_fields(rows, RecognitionConfig())[0].shape == (12, 3, 2, 28, 28)


def test_one_seed_one_result_and_no_clip_leans_on_another(prior):
    rows = region_rows(24)
    models = [DeftRecogniser(LABELS, seed, prior, **{**SMALL, "epochs": 2}) for seed in (0, 0, 1)]
    for model in models:
        model.fit(rows)
    first, same, other = (model.predict(rows) for model in models)
    assert first == same
    assert first != other
    assert models[0].predict(rows[3:4])[0]["scores"] == pytest.approx(first[3]["scores"], abs=1e-6)


def test_a_mirrored_clip_gets_the_same_class_scores(prior):
    rows = region_rows(24)
    model = DeftRecogniser(LABELS, 0, prior, **{**SMALL, "epochs": 2})
    model.fit(rows)
    turned = [{**row, "flow": mirrored(torch.tensor(row["flow"])).numpy()} for row in rows]
    for one, two in zip(model.predict(rows), model.predict(turned), strict=True):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)


def test_the_prior_does_not_fit_other_sizes(prior):
    model = DeftRecogniser(LABELS, 0, prior, **{**SMALL, "hidden_size": 16})
    with pytest.raises(ValueError, match="prior does not fit the settings"):
        model.fit(region_rows(6))


def test_a_setting_that_is_none():
    with pytest.raises(ValueError, match="no setting 'dropout'; it has flow_size"):
        DeftRecogniser(LABELS, 0, dropout=0.5)


def test_clips_of_different_lengths_are_refused():
    rows = [*region_rows(1, frames=1), *region_rows(1, frames=2)]
    with pytest.raises(ValueError, match=r"\[1, 2\] flow fields"):
        clip_fields(rows, RecognitionConfig())


def test_the_mirror_swaps_sides_and_turns_u():
    flow = torch.zeros(1, 1, 2, 4, 4)
    flow[0, 0, :, 1, 0] = torch.tensor([1.0, 2.0])
    turned = mirrored(flow)
    assert turned[0, 0, :, 1, 3].tolist() == [-1.0, 2.0]
    assert float(turned.abs().sum()) == 3.0
    assert torch.equal(mirrored(turned), flow)


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


def test_made_up_flow_moves_where_its_units_are():
    """Over many samples the motion of AU12 clips exceeds that of the others at the mouth corners, and points up."""
    flows, labels = FlowPrior(28, 1).sample(1500, torch.Generator().manual_seed(0))
    assert labels.shape == (1500, len(PRIOR_UNITS))
    assert 0.03 < float((labels.sum(1) == 0).float().mean()) < 0.13
    mask = torch.from_numpy(
        ellipse_mask(region_ellipse("mouth corner", "left"), 28, 28)
        | ellipse_mask(region_ellipse("mouth corner", "right"), 28, 28)
    )
    upward = -flows[:, 0, 1][:, mask].mean(1)
    shown = labels[:, PRIOR_UNITS.index("AU12")] > 0
    assert float(upward[shown].mean()) > float(upward[~shown].mean()) + 0.2


def test_the_recipe_is_the_default():
    recipe = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "recognition.yaml").read_text(encoding="utf-8"))
    assert recipe == asdict(RecognitionConfig())
