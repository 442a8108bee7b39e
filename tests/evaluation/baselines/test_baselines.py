import numpy as np
import pytest
import torch

from deft_llm.evaluation.baselines import BASELINES, make_baseline
from deft_llm.evaluation.baselines.flow_features import apex_fields, apex_flow, median_subtracted, resized, strain
from deft_llm.evaluation.baselines.off_apexnet import OFFApexNet
from deft_llm.evaluation.baselines.ststnet import STSTNet
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive", "surprise")
QUICK = {"ststnet": {"epochs": 30, "learning_rate": 1e-2}, "off_apexnet": {"epochs": 6, "learning_rate": 1e-3}}


def moving_rows(count: int, side: int = 20) -> list[dict]:
    """Each class moves another corner of the field; a weak noise lies over it."""
    corners = {"negative": (slice(0, 8), slice(0, 8)), "positive": (slice(0, 8), slice(-8, None)),
               "surprise": (slice(-8, None), slice(0, 8))}  # fmt: skip
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        flow = np.random.default_rng(number).normal(0, 0.3, (3, 2, side, side))
        flow[1, 0][corners[label]] += 2.0
        rows.append({**make_row("casme2", number, 1, label, flow=flow.astype(np.float16)), "label": label})
    return rows


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "majority"])
def test_a_baseline_learns_what_moves_where(name):
    rows = moving_rows(60)
    model = make_baseline(name, labels=LABELS, seed=0, **QUICK.get(name, {}))
    model.fit(rows[:45])
    test = [{key: value for key, value in row.items() if key != "label"} for row in rows[45:]]
    predictions = model.predict(test)
    chosen = [item.get("label", LABELS[int(np.argmax(item["scores"]))]) for item in predictions]
    assert np.mean([a == row["label"] for a, row in zip(chosen, rows[45:], strict=True)]) >= 0.9
    assert all(sum(item["scores"]) == pytest.approx(1) for item in predictions)
    assert model.predict(test[:1])[0]["scores"] == pytest.approx(predictions[0]["scores"], abs=1e-5)


@pytest.mark.parametrize("name", list(BASELINES))
def test_one_seed_one_result(name):
    rows = moving_rows(12)
    predictions = []
    for _ in range(2):
        model = make_baseline(name, labels=LABELS, seed=3, **{"epochs": 1} if name in QUICK else {})
        model.fit(rows)
        predictions.append(model.predict(rows))
    assert predictions[0] == predictions[1]


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_class_that_training_lacks_keeps_its_place(name):
    rows = [row for row in moving_rows(12) if row["label"] != "positive"]
    model = make_baseline(name, labels=LABELS, **{"epochs": 1} if name in QUICK else {})
    model.fit(rows)
    scores = model.predict(rows[:2])[0]["scores"]
    assert len(scores) == 3
    if name in ("majority", "svm"):
        assert scores[1] == 0.0


def test_the_majority_class():
    rows = moving_rows(4)
    model = make_baseline("majority", labels=LABELS)
    model.fit(rows)
    assert model.predict(rows[:1]) == [{"scores": [0.5, 0.25, 0.25]}]


def test_an_unknown_baseline():
    with pytest.raises(ValueError, match=r"Unknown baseline 'forest'\. Known: majority, svm"):
        make_baseline("forest", labels=LABELS)


def test_networks_as_published():
    assert STSTNet(3)(torch.zeros(2, 3, 28, 28)).shape == (2, 3)
    assert STSTNet(3).classifier.in_features == 400
    assert OFFApexNet(3)(torch.zeros(2, 2, 28, 28)).shape == (2, 3)
    assert OFFApexNet(3).head[0].in_features == 1568


def test_the_apex_is_the_middle_field():
    row = moving_rows(1)[0]
    assert np.array_equal(apex_flow(row), np.asarray(row["flow"][1], np.float32))


def test_strain_of_known_fields():
    y, x = np.mgrid[0:8, 0:8].astype(np.float32)
    assert strain(np.stack([0.5 * x, 0 * x])) == pytest.approx(np.full((1, 8, 8), 0.5))
    assert strain(np.stack([y, x])) == pytest.approx(np.full((1, 8, 8), np.sqrt(2)))
    assert strain(np.stack([-y, x])) == pytest.approx(np.zeros((1, 8, 8)))  # a rotation strains nothing


def test_fields_keep_unit_and_lose_the_heads_shift():
    field = np.stack([np.full((12, 12), 3.0), np.full((12, 12), -1.0)]).astype(np.float32)
    assert resized(field, 6) == pytest.approx(field[:, :6, :6])
    assert resized(field, 24).shape == (2, 24, 24)
    assert not median_subtracted(field).any()
    assert apex_fields(moving_rows(2), 14, with_strain=True).shape == (2, 3, 14, 14)


@pytest.mark.parametrize(
    ("flow", "message"),
    [(None, "has no flow"), (np.zeros((2, 8, 8)), r"\(2, 8, 8\)"), (np.full((1, 2, 8, 8), np.nan), "NaN")],
)
def test_unusable_flow_is_named(flow, message):
    with pytest.raises(ValueError, match=f"casme2/sub01/EP01_negative/46.*{message}"):
        apex_flow(make_row("casme2", 1, 1, "negative", flow=flow))
