from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from deft_llm.evaluation.metrics import (
    Interval,
    attribute_accuracy,
    au_metrics,
    bootstrap_difference,
    bootstrap_intervals,
    calibration,
    class_table,
    confusion,
    emotion_metrics,
    faithfulness,
    iou,
    judge_claims,
    mcnemar,
    strs,
    strs_intervals,
    subject_confusions,
    text_metrics,
    uar_of,
    uf1_of,
)
from deft_llm.processing.action_units import ellipse_mask, region_ellipse

LABELS = ["negative", "positive", "surprise"]


def test_uf1_and_uar_by_hand():
    """TP, FP, FN: negative 2, 1, 1; positive 1, 1, 0; surprise 0, 0, 1."""
    true = ["negative", "negative", "negative", "positive", "surprise"]
    predicted = ["negative", "negative", "positive", "positive", "negative"]
    metrics = emotion_metrics(true, predicted, LABELS)
    assert metrics["uf1"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert metrics["uar"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert confusion(true, predicted, LABELS).tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


def test_the_majority_floor_of_the_composite():
    """Counts of the MEGC 2019 composite: 250 negative, 109 positive, 83 surprise."""
    true = ["negative"] * 250 + ["positive"] * 109 + ["surprise"] * 83
    metrics = emotion_metrics(true, ["negative"] * 442, LABELS)
    assert metrics["uf1"] == pytest.approx(0.2408, abs=1e-4)
    assert metrics["accuracy"] == pytest.approx(0.5656, abs=1e-4)
    assert metrics["uar"] == pytest.approx(1 / 3)


def test_no_answer_is_a_wrong_answer():
    true, predicted = ["negative", "positive"], ["negative", None]
    metrics = emotion_metrics(true, predicted, LABELS)
    assert metrics["accuracy"] == 0.5
    assert metrics["uf1"] == pytest.approx((1 + 0) / 2)
    assert metrics["uar"] == pytest.approx((1 + 0) / 2)
    assert confusion(true, predicted, LABELS)[1].tolist() == [0, 0, 0, 1]


def test_a_class_that_is_predicted_but_absent_costs_uf1():
    metrics = emotion_metrics(["negative", "negative"], ["negative", "surprise"], LABELS)
    assert metrics["uf1"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["uar"] == pytest.approx(0.5)


def test_the_table_leaves_undefined_figures_empty():
    table = {row["label"]: row for row in class_table(["negative"] * 2, ["negative", "surprise"], LABELS)}
    assert table["negative"] == {
        "label": "negative",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "clips": 2,
        "predicted": 1,
    }
    assert (table["positive"]["precision"], table["positive"]["recall"], table["positive"]["f1"]) == (None,) * 3
    assert (table["surprise"]["precision"], table["surprise"]["recall"], table["surprise"]["f1"]) == (0.0, None, 0.0)


def test_single_class_data():
    assert emotion_metrics(["positive"] * 3, ["positive"] * 3, LABELS) == {"uf1": 1.0, "uar": 1.0, "accuracy": 1.0}
    assert emotion_metrics(["positive"] * 3, ["negative"] * 3, LABELS) == {"uf1": 0.0, "uar": 0.0, "accuracy": 0.0}


def test_pooling_is_not_the_mean_over_folds():
    """Two folds of one class each, half right: pooled UF1 counts the errors against both classes."""
    true, predicted = ["negative", "negative", "positive", "positive"], ["negative", "positive"] * 2
    assert emotion_metrics(true, predicted, LABELS)["uf1"] == 0.5
    folds = [emotion_metrics(true[:2], predicted[:2], LABELS), emotion_metrics(true[2:], predicted[2:], LABELS)]
    assert np.mean([fold["uf1"] for fold in folds]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([], [], "above zero"),
        (["negative"], [], "equal numbers"),
        (["joy"], ["negative"], "'joy'"),
        (["negative"], ["joy"], "The prediction 'joy' is not in"),
    ],
)
def test_impossible_inputs_are_named(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        emotion_metrics(true, predicted, LABELS)


def test_a_label_twice_in_the_list():
    with pytest.raises(ValueError, match="twice"):
        emotion_metrics(["a"], ["a"], ["a", "a"])


@pytest.mark.filterwarnings("ignore:y_pred contains classes")  # of the check itself, where a class is absent
@pytest.mark.parametrize("seed", range(5))
def test_formulas_on_matrices_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice(LABELS, 40, p=[0.7, 0.3, 0.0] if seed % 2 else [0.5, 0.3, 0.2]).tolist()
    predicted = rng.choice(LABELS, 40).tolist()
    subjects = rng.choice(["a", "b", "c", "d"], 40).tolist()
    matrices = subject_confusions(subjects, true, predicted, LABELS)
    pooled = matrices.sum(0)
    assert pooled.astype(int).tolist() == confusion(true, predicted, LABELS).tolist()
    metrics = emotion_metrics(true, predicted, LABELS)
    assert float(uf1_of(pooled)) == pytest.approx(metrics["uf1"])
    assert float(uar_of(pooled)) == pytest.approx(metrics["uar"])
    assert metrics["uar"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert metrics["uf1"] == pytest.approx(f1_score(true, predicted, labels=LABELS, average="macro"))


def test_intervals_are_over_subjects_and_not_over_clips():
    """One subject's hundred clips are one observation: an interval over clips would be ten times as narrow."""
    true = ["negative"] * 400
    predicted = ["negative"] * 200 + ["positive"] * 200
    subjects = [f"s{index // 100}" for index in range(400)]
    low, high = bootstrap_intervals(subject_confusions(subjects, true, predicted, LABELS))["accuracy"]
    assert low <= 0.25
    assert high >= 0.75
    alone = [f"s{index}" for index in range(400)]
    low, high = bootstrap_intervals(subject_confusions(alone, true, predicted, LABELS))["accuracy"]
    assert 0.44 < low < 0.5 < high < 0.56


def test_intervals_repeat_with_the_seed():
    matrices = subject_confusions(["a", "b", "c"], ["negative", "positive", "surprise"], LABELS[::-1], LABELS)
    assert bootstrap_intervals(matrices, seed=1) == bootstrap_intervals(matrices, seed=1)


def test_the_difference_of_two_models_is_paired():
    true = LABELS * 20
    subjects = [f"s{index // 6}" for index in range(60)]
    wrong = ["positive" if label == "negative" else label for label in true]
    matrices = [subject_confusions(subjects, true, answers, LABELS) for answers in (true, wrong)]
    assert bootstrap_difference(matrices[0], matrices[0]) == (0.0, 0.0)
    low, high = bootstrap_difference(*matrices)
    assert 0 < low <= 1 - float(uf1_of(matrices[1].sum(0))) <= high
    with pytest.raises(ValueError, match="same clips"):
        bootstrap_difference(matrices[0], matrices[1][:5])


def test_mcnemar_by_hand():
    """Six discordant clips, five for the first: p = 2 (C(6,5) + C(6,6)) / 2^6 = 14/64."""
    true = ["negative"] * 10
    first = ["negative"] * 9 + ["positive"]
    second = ["negative"] * 4 + ["positive"] * 5 + ["negative"]
    result = mcnemar(true, first, second)
    assert (result.first_only, result.second_only) == (5, 1)
    assert result.p_value == pytest.approx(14 / 64)
    assert mcnemar(true, first, first).p_value == 1.0


def test_calibration_by_hand():
    """Confidences .9 (right), .9 (wrong), .6 (right): |.9 − .5| · 2/3 + |.6 − 1| · 1/3."""
    scores = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.6, 0.2]])
    result = calibration(["negative", "positive", "positive"], scores, LABELS)
    assert result["ece"] == pytest.approx(0.4 * 2 / 3 + 0.4 / 3)
    filled = {round(entry["to"], 1): entry for entry in result["curve"] if entry["clips"]}
    assert {key: entry["clips"] for key, entry in filled.items()} == {0.9: 2, 0.6: 1}
    assert result["curve"][0]["accuracy"] is None
    with pytest.raises(ValueError, match="probabilities"):
        calibration(["negative"], np.array([[2.0, -1.0, 0.0]]), LABELS)
    with pytest.raises(ValueError, match="clips × labels"):
        calibration(["negative"], np.ones((1, 2)), LABELS)


def test_au_f1_over_the_units_that_occur():
    true = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    predicted = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    metrics = au_metrics(true, predicted)
    assert metrics["au_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["au_f1_macro"] == pytest.approx(((2 / 3 + 4 / 5) / 2 + 1) / 2)
    assert au_metrics(np.zeros((2, 3)), np.zeros((2, 3))) == {"au_f1": 0.0, "au_f1_macro": 0.0}
    with pytest.raises(ValueError, match="same shape"):
        au_metrics(np.zeros((2, 3)), np.zeros((2, 2)))


def test_sides_of_units():
    true = [{"AU4": "both", "AU12": "left"}, {"AU14": None, "AU1": "right"}]
    predicted = [{"AU4": "both"}, {"AU14": "left", "AU1": "left"}]
    assert attribute_accuracy(true, predicted) == {
        "accuracy": pytest.approx(1 / 3),
        "accuracy_where_found": 0.5,
        "labelled": 3,
        "found": 2,
    }
    assert attribute_accuracy([{}], [{}])["accuracy"] is None


def test_text_metrics_of_equal_and_of_foreign_texts():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    text = "The action unit present is: brow lowerer."
    same = text_metrics([text], [text])
    assert same["bleu"] == pytest.approx(100)
    assert (same["rouge1"], same["rougeL"]) == (1.0, 1.0)
    # 2 of 4 words on both sides; the longest common subsequence has one.
    crossed = text_metrics(["brow lid jaw lip"], ["lid brow chin nose"])
    assert crossed["rouge1"] == pytest.approx(0.5)
    assert crossed["rougeL"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="above zero"):
        text_metrics([], [])


def moving(region: str, side: str, u: float, v: float) -> np.ndarray:
    """(1, 2, 64, 64): one region of the atlas moves, the rest stands still."""
    flow = np.zeros((1, 2, 64, 64), np.float32)
    mask = ellipse_mask(region_ellipse(region, side), 64, 64)
    flow[0, 0][mask], flow[0, 1][mask] = u, v
    return flow


def claim(direction: str, magnitude: float, unit: str = "AU12", region: str = "mouth corner") -> SimpleNamespace:
    return SimpleNamespace(action_unit=unit, region=region, direction=direction, magnitude=magnitude)


def test_claims_are_held_against_the_flow():
    flow = moving("mouth corner", "left", 0.0, -1.0)  # up
    claims = [claim("up", 1.0), claim("up and laterally", 1.2), claim("down", 1.0), claim("up", 3.0)]
    verdicts = judge_claims(claims, {"AU12": "left"}, flow)
    assert verdicts == ["supported", "supported", "contradicted", "unsupported"]
    assert judge_claims(claims[:1], {"AU12": "right"}, flow) == ["unsupported"]
    assert judge_claims(claims[:1], {"AU12": "both"}, flow) == ["unsupported"]
    assert judge_claims([claim("up", 1.0, region="ear")], {}, flow) == ["unsupported"]


def test_faithfulness_over_answers():
    unit = SimpleNamespace(code="AU12", side="left")
    honest = SimpleNamespace(evidence=[claim("up", 1.0)], action_units=[unit])
    mixed = SimpleNamespace(evidence=[claim("up", 1.0), claim("down", 1.0)], action_units=[unit])
    silent = SimpleNamespace(evidence=[], action_units=[])
    flow = moving("mouth corner", "left", 0.0, -1.0)
    result = faithfulness([honest, mixed, silent, honest], [flow, flow, flow, None])
    assert result == {
        "claims": 3,
        "supported": pytest.approx(2 / 3),
        "contradicted": pytest.approx(1 / 3),
        "answers_with_claims": 2,
        "answers_all_supported": 0.5,
    }
    assert faithfulness([silent], [flow])["supported"] is None


def test_iou_counts_both_ends():
    assert iou(Interval(0, 9), Interval(5, 14)) == pytest.approx(5 / 15)
    assert iou(Interval(0, 9), Interval(0, 4)) == 0.5
    assert iou(Interval(0, 4), Interval(5, 9)) == 0.0
    with pytest.raises(ValueError, match="before it begins"):
        Interval(3, 2)


def test_strs_by_hand():
    """3 true, 3 predicted, 2 spotted, 1 of them with its class: F1_spot 4/6; F1 of the classes 2/3 and 0."""
    true = {"v": [Interval(0, 9, "negative"), Interval(20, 29, "negative")], "w": [Interval(0, 9, "surprise")]}
    predicted = {
        "v": [Interval(1, 9, "negative"), Interval(20, 27, "positive"), Interval(50, 59, "negative")],
        "w": [],
    }
    result = strs(true, predicted, LABELS)
    assert (result["true_positives"], result["false_positives"], result["false_negatives"]) == (2, 1, 1)
    assert result["f1_spot"] == pytest.approx(4 / 6)
    assert result["f1_analysis"] == pytest.approx((2 / 3 + 0) / 2)
    assert result["uar_analysis"] == pytest.approx(0.5)
    assert result["strs"] == pytest.approx(4 / 6 / 3)


def test_strs_matches_each_interval_once():
    one = {"v": [Interval(0, 9, "negative")]}
    twice = {"v": [Interval(0, 9, "negative"), Interval(1, 9, "negative")]}
    assert strs(one, twice, LABELS)["false_positives"] == 1
    # Taking the best overlap first would leave the second interval without its only partner.
    true = {"v": [Interval(0, 9, "negative"), Interval(4, 12, "negative")]}
    predicted = {"v": [Interval(2, 10, "negative"), Interval(-6, 7, "negative")]}
    assert strs(true, predicted, LABELS)["true_positives"] == 2


def test_strs_intervals_are_those_of_resampled_videos():
    right, wrong = [Interval(0, 9, "negative")], [Interval(20, 29, "negative")]
    every = {str(number): right for number in range(8)}
    assert strs_intervals(every, every, LABELS)["strs"] == (1.0, 1.0)
    half = {name: right if int(name) % 2 else wrong for name in every}
    low, high = strs_intervals(every, half, LABELS)["f1_spot"]
    draws = np.random.default_rng(1).binomial(8, 0.5, 20_000) / 8  # F1 is the share of right videos
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.01)
    assert strs_intervals(every, half, LABELS) == strs_intervals(every, half, LABELS)
    people = dict.fromkeys(every, "one")  # always drawn together
    assert strs_intervals(every, half, LABELS, groups=people)["f1_spot"] == (0.5, 0.5)
    with pytest.raises(ValueError, match="missing in the predictions"):
        strs_intervals(every, {}, LABELS)


def test_strs_without_a_find_or_a_video():
    assert strs({"v": [Interval(0, 9, "negative")]}, {"v": []}, LABELS)["strs"] == 0.0
    with pytest.raises(ValueError, match="'w' is missing in the predictions"):
        strs({"v": [], "w": []}, {"v": []}, LABELS)
