import numpy as np
import pytest

from deft_llm.evaluation.baselines import BASELINES, make_baseline
from tests.evaluation.baselines.moving_rows import LABELS, moving_rows

QUICK = {"ststnet": {"epochs": 30, "learning_rate": 1e-2}, "off_apexnet": {"epochs": 6, "learning_rate": 1e-3}}


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


def test_an_unknown_baseline():
    with pytest.raises(ValueError, match=r"Unknown baseline 'forest'\. Known: majority, svm"):
        make_baseline("forest", labels=LABELS)
