import json
from types import SimpleNamespace

import numpy as np
import pytest

from evaluate_mer import au_metrics, emotion_metrics, main, summarise

LABELS = ["negative", "positive", "surprise"]


def test_uf1_and_uar_by_hand():
    """TP, FP, FN: negative 2, 1, 1; positive 1, 1, 0; surprise 0, 0, 1."""
    true = ["negative", "negative", "negative", "positive", "surprise"]
    predicted = ["negative", "negative", "positive", "positive", "negative"]
    metrics = emotion_metrics(true, predicted, LABELS)
    assert metrics["uf1"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert metrics["uar"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics["accuracy"] == pytest.approx(3 / 5)


def test_the_majority_floor_of_the_composite():
    """Counts of the MEGC 2019 composite: 250 negative, 109 positive, 83 surprise."""
    true = ["negative"] * 250 + ["positive"] * 109 + ["surprise"] * 83
    metrics = emotion_metrics(true, ["negative"] * 442, LABELS)
    assert metrics["uf1"] == pytest.approx(0.2408, abs=1e-4)
    assert metrics["accuracy"] == pytest.approx(0.5656, abs=1e-4)
    assert metrics["uar"] == pytest.approx(1 / 3)


def test_no_answer_is_a_wrong_answer():
    metrics = emotion_metrics(["negative", "positive"], ["negative", None], LABELS)
    assert metrics["accuracy"] == 0.5
    assert metrics["uf1"] == pytest.approx((1 + 0) / 2)
    assert metrics["uar"] == pytest.approx((1 + 0) / 2)


def test_a_class_that_is_predicted_but_absent_costs_uf1():
    metrics = emotion_metrics(["negative", "negative"], ["negative", "surprise"], LABELS)
    assert metrics["uf1"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["uar"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [([], [], "above zero"), (["negative"], [], "equal numbers"), (["joy"], ["joy"], "'joy'")],
)
def test_impossible_inputs_are_named(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        emotion_metrics(true, predicted, LABELS)


def test_au_f1_over_the_units_that_occur():
    true = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    predicted = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    metrics = au_metrics(true, predicted)
    assert metrics["au_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["au_f1_macro"] == pytest.approx(((2 / 3 + 4 / 5) / 2 + 1) / 2)
    assert au_metrics(np.zeros((2, 3)), np.zeros((2, 3))) == {"au_f1": 0.0, "au_f1_macro": 0.0}


def prediction(emotion, generated, head, parsed=True, abstained=False):
    return {
        "clip_id": "c", "subject": f"s{emotion}", "emotion": emotion, "action_units": ["AU4"] if emotion else [],
        "generated": generated, "head": head, "parsed": parsed, "abstained": abstained, "au_scores": [0.9],
    }  # fmt: skip


def test_still_clips_are_not_scored_as_emotions():
    config = SimpleNamespace(emotion_labels=LABELS, action_units=["AU4"])
    predictions = [
        prediction("negative", "negative", "negative"),
        prediction("positive", None, "positive", parsed=False),
        prediction(None, None, "surprise", abstained=True),
    ]
    report = summarise(predictions, config, "negative")
    assert (report["clips"], report["expressive_clips"], report["still_clips"]) == (3, 2, 1)
    assert report["emotions"]["recognition head"]["uf1"] == 1.0
    assert report["emotions"]["generated answer"]["accuracy"] == 0.5
    assert report["emotions"]["majority class"]["accuracy"] == 0.5
    assert report["answers_parsed"] == pytest.approx(2 / 3)
    assert report["still_clips_abstained"] == 1.0
    assert json.loads(json.dumps(report)) == report


def test_a_subject_in_both_splits_is_refused(dataset, folder, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    dataset.to_parquet(tmp_path / "data" / "train-0.parquet")
    dataset.select(range(3)).to_parquet(tmp_path / "data" / "test-0.parquet")
    arguments = ["--model", str(folder), "--dataset", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "subjects are in both splits" in capsys.readouterr().err
    assert main([*arguments, "--split", "validation"]) == 1
    assert "no split 'validation'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
