import numpy as np
import pytest
import torch

from deft_llm.evaluation.recognition import DeftRecogniser, clip_fields, unit_evidence
from deft_llm.processing.action_units import ellipse_mask, region_ellipse
from deft_llm.processing.unit_patterns import UNITS_SEEN
from deft_llm.training.recognition import RecognitionConfig, mirrored, prior_path
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive", "surprise")
SMALL = {
    "members": 1,
    "hidden_size": 32,
    "epochs": 40,
    "batch_size": 16,
    "prior_steps": 0,
    "learning_rate": 3e-3,
    "kernel_share": 0.0,
}
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
    return prior_path(settings, 1, tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("unit", [1.0, 4e-4])
def test_it_learns_in_any_unit(prior, unit):
    rows = region_rows(54, unit=unit)
    model = DeftRecogniser(LABELS, 0, prior, **SMALL)
    model.fit(rows[:36])
    assert accuracy(model, rows[36:]) >= 0.9  # chance is a third
    item = model.predict(rows[36:37])[0]
    assert sum(item["scores"]) == pytest.approx(1)
    assert model.trained_units == ["AU12", "AU2", "AU4"]
    assert {*item["action_units"]} == {*UNITS_SEEN}  # the others by rule


def test_action_units_come_from_their_labels(prior):
    rows = region_rows(60)
    model = DeftRecogniser(LABELS, 0, prior, **SMALL)
    model.fit(rows[:48])
    for row, item in zip(rows[48:], model.predict(rows[48:]), strict=True):
        units = item["action_units"]
        assert max(units, key=units.get) == row["action_units"][0]["code"]


def test_other_grids_several_frames_and_no_units():
    rows = region_rows(12, side=20, frames=7, units=False)
    model = DeftRecogniser(LABELS, 0, **{**SMALL, "epochs": 1, "max_frames": 3, "kernel_share": 0.5})
    model.fit(rows)
    items = model.predict(rows)
    assert len(items) == 12
    assert "action_units" not in items[0]
    assert clip_fields(rows, RecognitionConfig(max_frames=3))[0].shape == (12, 3, 2, 28, 28)


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


def test_the_kernel_machine_votes_with_its_share(prior):
    rows = region_rows(24)
    votes = []
    for share in (0.0, 1.0, 0.25):
        model = DeftRecogniser(LABELS, 0, prior, **{**SMALL, "epochs": 2, "kernel_share": share})
        model.fit(rows)
        items = model.predict(rows)
        emotions = np.array([item["scores"] for item in items])
        assert emotions.sum(1) == pytest.approx(1)
        # Ratios of probabilities, because the voters' logits are averaged.
        units = np.array([[*item["action_units"].values()] for item in items])
        votes.append(np.hstack([np.log(emotions[:, 1:] / emotions[:, :1]), np.log(units / (1 - units))]))
    networks, kernel, both = votes
    assert np.abs(networks - kernel).max() > 1
    np.testing.assert_allclose(both, 0.75 * networks + 0.25 * kernel, atol=1e-4)


def test_rules_have_a_say_on_the_units_that_they_seek():
    rows = region_rows(6)
    evidence = unit_evidence(rows, ["AU4", "AU12", "AU25"])
    shown = [row["action_units"][0]["code"] for row in rows]
    for number, code in enumerate(("AU4", "AU12")):
        with_it = [one == code for one in shown]
        assert evidence[with_it, number].min() > evidence[~np.array(with_it), number].max()
    assert np.isnan(evidence[:, 2]).all()


def test_clips_of_different_lengths_are_refused():
    rows = [*region_rows(1, frames=1), *region_rows(1, frames=2)]
    with pytest.raises(ValueError, match=r"\[1, 2\] flow fields"):
        clip_fields(rows, RecognitionConfig(max_frames=3))


def test_a_unit_that_no_training_row_names_is_left_to_the_rules():
    shown = region_rows(9)
    model = DeftRecogniser(LABELS, 0, **{**SMALL, "kernel_share": 1.0})
    model.fit([row for row in shown if row["label"] != "negative"])
    assert "AU4" not in model.trained_units
    found = {row["label"]: item["action_units"]["AU4"] for row, item in zip(shown, model.predict(shown), strict=True)}
    assert found["negative"] > max(found["positive"], found["surprise"])
    model.fit(region_rows(6, units=False))
    assert "action_units" not in model.predict(shown)[0]


@pytest.mark.parametrize(("name", "value"), [("kernel_ridge", 0), ("kernel_width", -1.0)])
def test_settings_of_the_kernel_machine_are_above_zero(name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0; got {value}"):
        RecognitionConfig.of({name: value})
