"""The metrics of the report, pooled over all clips and with a fixed label list.

Scores are never averaged over folds, because most folds of a leave-one-subject-out run lack a class. Every definition
below says what happens if a class is absent. Frames of an interval are inclusive at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support, recall_score

from deft_llm.processing.grounded_answer import magnitude_agrees
from deft_llm.processing.motion_evidence import measure_motion, octants_apart

NO_ANSWER = "no answer"  # column of the confusion matrix for an unreadable answer or an abstention

# --- Classes --------------------------------------------------------------------------------------------------------


def emotion_metrics(true: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> dict[str, float]:
    """UF1 = mean over classes of 2TP/(2TP+FP+FN), UAR = mean over classes of TP/N, and accuracy (MEGC 2019).

    A class without a true clip is left out of UAR, where it is undefined. In UF1 it counts as 0 if it was predicted
    and is left out otherwise. A prediction of `None` (unreadable, or abstained) is wrong for every class.

    Args:
        true (`Sequence[str]`): True label of each clip.
        predicted (`Sequence[str | None]`): Predicted label of each clip, or `None`.
        labels (`Sequence[str]`): The fixed label list.

    Raises:
        ValueError: there are no clips, the lengths differ, a label is twice in the list, or a label is not in it.
    """
    answers = _checked(true, predicted, labels)
    seen = [label for label in labels if label in true or label in answers]
    return {
        "uf1": float(f1_score(true, answers, labels=seen, average="macro", zero_division=0)),
        "uar": float(recall_score(true, answers, labels=[x for x in labels if x in true], average="macro")),
        "accuracy": float(accuracy_score(true, answers)),
    }


def class_table(true: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1, number of clips and number of predictions of each class.

    0/0 is `None`: recall of a class without clips, precision of a class never predicted, F1 of a class with neither.

    Args:
        true (`Sequence[str]`): True label of each clip.
        predicted (`Sequence[str | None]`): Predicted label of each clip, or `None`.
        labels (`Sequence[str]`): The fixed label list.
    """
    answers = _checked(true, predicted, labels)
    values = precision_recall_fscore_support(true, answers, labels=list(labels), zero_division=0)
    table = []
    for label, precision, recall, f1, support in zip(labels, *values, strict=True):
        count = answers.count(label)
        table.append(
            {
                "label": label,
                "precision": float(precision) if count else None,
                "recall": float(recall) if support else None,
                "f1": float(f1) if count or support else None,
                "clips": int(support),
                "predicted": count,
            }
        )
    return table


def confusion(true: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """Confusion matrix, (labels, labels + 1): rows are true, columns predicted; the last column counts `None`.

    Args:
        true (`Sequence[str]`): True label of each clip.
        predicted (`Sequence[str | None]`): Predicted label of each clip, or `None`.
        labels (`Sequence[str]`): The fixed label list.
    """
    answers = _checked(true, predicted, labels)
    return confusion_matrix(true, answers, labels=[*labels, NO_ANSWER])[: len(labels)]


def uf1_of(matrices: np.ndarray) -> np.ndarray:
    """UF1 of confusion matrices, (..., labels, labels + 1). Absent classes as in `emotion_metrics`; NaN without clips.

    The formula is that of scikit-learn, vectorised for thousands of resamples.
    """
    square = matrices[..., :-1]
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    sizes = matrices.sum(-1) + square.sum(-2)  # 2TP + FN + FP
    return _mean_where(2 * hits, sizes)


def uar_of(matrices: np.ndarray) -> np.ndarray:
    """UAR of confusion matrices, (..., labels, labels + 1), over the classes that have clips."""
    return _mean_where(np.diagonal(matrices[..., :-1], axis1=-2, axis2=-1), matrices.sum(-1))


def accuracy_of(matrices: np.ndarray) -> np.ndarray:
    hits = np.diagonal(matrices[..., :-1], axis1=-2, axis2=-1)
    return hits.sum(-1) / np.maximum(matrices.sum((-2, -1)), 1)


def _mean_where(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    present = denominator > 0
    ratios = np.where(present, numerator / np.maximum(denominator, 1), 0.0)
    with np.errstate(invalid="ignore"):
        return ratios.sum(-1) / present.sum(-1)


def _checked(true: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]) -> list[str]:
    if not len(true) or len(true) != len(predicted):
        raise ValueError(f"{len(true)} labels and {len(predicted)} predictions: expected equal numbers above zero.")
    if len(set(labels)) != len(labels):
        raise ValueError(f"The label list {list(labels)} contains a label twice.")
    outside = sorted(set(true) - set(labels))
    if outside:
        raise ValueError(f"The data has the emotion {outside[0]!r}, which is not in the label list {list(labels)}.")
    outside = sorted({value for value in predicted if value is not None} - set(labels))
    if outside:
        raise ValueError(f"The prediction {outside[0]!r} is not in the label list {list(labels)}.")
    return [NO_ANSWER if value is None else value for value in predicted]


# --- Intervals and comparisons --------------------------------------------------------------------------------------

STATISTICS = {"uf1": uf1_of, "uar": uar_of, "accuracy": accuracy_of}


def subject_confusions(
    subjects: Sequence[str], true: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> np.ndarray:
    """One confusion matrix per subject, (subjects, labels, labels + 1), with subjects in sorted order.

    Args:
        subjects (`Sequence[str]`): Subject of each clip.
        true (`Sequence[str]`): True label of each clip.
        predicted (`Sequence[str | None]`): Predicted label of each clip, or `None`.
        labels (`Sequence[str]`): The fixed label list.
    """
    answers = _checked(true, predicted, labels)
    if len(subjects) != len(answers):
        raise ValueError(f"{len(subjects)} subjects and {len(answers)} predictions: expected equal numbers.")
    names = sorted(set(subjects))
    matrices = np.zeros((len(names), len(labels), len(labels) + 1))
    columns = {label: column for column, label in enumerate([*labels, NO_ANSWER])}
    rows = {name: row for row, name in enumerate(names)}
    for subject, label, answer in zip(subjects, true, answers, strict=True):
        matrices[rows[subject], columns[label], columns[answer]] += 1
    return matrices


def bootstrap_intervals(
    matrices: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of UF1, UAR and accuracy over subjects drawn with replacement.

    Clips of one subject are similar, so whole subjects are drawn instead of clips (cluster bootstrap; Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, §3.8).

    Args:
        matrices (`np.ndarray`): (subjects, labels, labels + 1), from `subject_confusions`.
        resamples (`int`, *optional*, defaults to `2000`): Number of resamples.
        level (`float`, *optional*, defaults to `0.95`): Confidence level.
        seed (`int`, *optional*, defaults to `0`): Random seed.
    """
    pooled = _resampled(matrices, resamples, seed)
    return {name: _percentiles(statistic(pooled), level) for name, statistic in STATISTICS.items()}


def bootstrap_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of UF1(first) − UF1(second), with the same subjects drawn for both.

    Args:
        first (`np.ndarray`): (subjects, labels, labels + 1), from `subject_confusions`.
        second (`np.ndarray`): The same for the other model.
        resamples (`int`, *optional*, defaults to `2000`): Number of resamples.
        level (`float`, *optional*, defaults to `0.95`): Confidence level.
        seed (`int`, *optional*, defaults to `0`): Random seed.

    Raises:
        ValueError: the matrices have different subjects or labels.
    """
    if first.shape != second.shape or not np.array_equal(first.sum(-1), second.sum(-1)):
        raise ValueError("The two models were not scored on the same clips of the same subjects.")
    difference = uf1_of(_resampled(first, resamples, seed)) - uf1_of(_resampled(second, resamples, seed))
    return _percentiles(difference, level)


def _resampled(matrices: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    subjects = len(matrices)
    weights = np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=resamples)
    return np.tensordot(weights.astype(float), matrices, axes=1)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Result of McNemar's test.

    Args:
        first_only (`int`): Clips that only the first model got right.
        second_only (`int`): Clips that only the second model got right.
        p_value (`float`): Exact, two-sided.
    """

    first_only: int
    second_only: int
    p_value: float


def mcnemar(true: Sequence[str], first: Sequence[str | None], second: Sequence[str | None]) -> McNemar:
    """Exact McNemar test (binomial on the discordant clips; McNemar 1947) that two models are right equally often.

    The test treats clips as independent, but clips of one subject are not. `bootstrap_difference` is safer.

    Args:
        true (`Sequence[str]`): True label of each clip.
        first (`Sequence[str | None]`): Labels predicted by the first model.
        second (`Sequence[str | None]`): Labels predicted by the second model.

    Raises:
        ValueError: the lengths differ.
    """
    if not len(true) == len(first) == len(second):
        raise ValueError(f"{len(true)} labels, {len(first)} and {len(second)} predictions: expected equal numbers.")
    right = [(a == t, b == t) for t, a, b in zip(true, first, second, strict=True)]
    ahead, behind = right.count((True, False)), right.count((False, True))
    p_value = binomtest(ahead, ahead + behind, 0.5).pvalue if ahead + behind else 1.0
    return McNemar(ahead, behind, float(p_value))


# --- Calibration ----------------------------------------------------------------------------------------------------


def calibration(true: Sequence[str], scores: np.ndarray, labels: Sequence[str], *, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error of the predicted class (Guo et al. 2017), and the reliability curve.

    Args:
        true (`Sequence[str]`): True label of each clip.
        scores (`np.ndarray`): Probabilities, (clips, labels).
        labels (`Sequence[str]`): The fixed label list.
        bins (`int`, *optional*, defaults to `10`): Number of bins of equal width.

    Returns:
        `ece`, and `curve` with one dictionary per bin: `from`, `to`, `clips`, and mean `confidence` and `accuracy`,
        which are `None` if the bin is empty.
    """
    scores = np.asarray(scores, float)
    if scores.shape != (len(true), len(labels)):
        raise ValueError(f"Scores must be {(len(true), len(labels))}, clips × labels; got {scores.shape}.")
    if not np.isfinite(scores).all() or (scores < -1e-6).any() or not np.allclose(scores.sum(1), 1, atol=1e-3):
        raise ValueError("Scores must be probabilities: finite, not negative, with sum 1 for each clip.")
    confidence = scores.max(1)
    right = np.array([labels[column] == label for column, label in zip(scores.argmax(1), true, strict=True)])
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are open below, closed above
    curve, error = [], 0.0
    for number in range(bins):
        inside = index == number
        count = int(inside.sum())
        entry = {
            "from": number / bins,
            "to": (number + 1) / bins,
            "clips": count,
            "confidence": None,
            "accuracy": None,
        }
        if count:
            entry |= {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
            error += count / len(true) * abs(entry["confidence"] - entry["accuracy"])
        curve.append(entry)
    return {"ece": float(error), "curve": curve}


# --- Action units ---------------------------------------------------------------------------------------------------


def au_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """F1 of the positive class, and macro F1 of both classes, each averaged over the action units that occur.

    Action units without a true clip are left out. Both means are reported because they can differ by tens of points.

    Args:
        true (`np.ndarray`): Labels, (clips, action_units), 0 or 1.
        predicted (`np.ndarray`): Predictions, (clips, action_units), 0 or 1.
    """
    true, predicted = np.asarray(true).astype(int), np.asarray(predicted).astype(int)
    if true.shape != predicted.shape:
        raise ValueError(f"Labels have shape {true.shape}, predictions {predicted.shape}; expected the same shape.")
    occurring = [column for column in range(true.shape[1]) if true[:, column].any()]
    if not occurring:
        return {"au_f1": 0.0, "au_f1_macro": 0.0}
    pairs = [(true[:, column], predicted[:, column]) for column in occurring]
    return {
        "au_f1": float(np.mean([f1_score(t, p, zero_division=0) for t, p in pairs])),
        "au_f1_macro": float(
            np.mean([f1_score(t, p, labels=[0, 1], average="macro", zero_division=0) for t, p in pairs])
        ),
    }


def attribute_accuracy(
    true: Sequence[Mapping[str, str | None]], predicted: Sequence[Mapping[str, str | None]]
) -> dict[str, float | int | None]:
    """Accuracy of an attribute of action units, such as side or intensity.

    Args:
        true (`Sequence[Mapping[str, str | None]]`): Per clip, action unit → true attribute. Units whose attribute is
            `None` are ignored.
        predicted (`Sequence[Mapping[str, str | None]]`): Per clip, action unit → predicted attribute.

    Returns:
        `accuracy` over all labelled units, where a missed unit is wrong; `accuracy_where_found` over the units that
        were found; and the numbers of both. `None` if there is nothing to average.
    """
    pairs = [
        (value, code in answer, answer.get(code))
        for labels, answer in zip(true, predicted, strict=True)
        for code, value in labels.items()
        if value is not None
    ]
    right = sum(value == answer for value, _, answer in pairs)
    found = sum(present for _, present, _ in pairs)
    return {
        "accuracy": right / len(pairs) if pairs else None,
        "accuracy_where_found": right / found if found else None,
        "labelled": len(pairs),
        "found": found,
    }


# --- Answers --------------------------------------------------------------------------------------------------------


def text_metrics(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU (sacrebleu, 0 to 100) and mean ROUGE-1 and ROUGE-L F1 (rouge-score, 0 to 1, without stemming).

    Raises:
        ImportError: the optional packages are missing.
        ValueError: the numbers of references and answers differ or are zero.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ImportError("BLEU and ROUGE need `pip install sacrebleu rouge-score` (extra: text).") from error
    if not references or len(references) != len(answers):
        raise ValueError(
            f"{len(references)} references and {len(answers)} answers: expected equal numbers above zero."
        )
    scorer = RougeScorer(["rouge1", "rougeL"])
    scored = [scorer.score(reference, answer) for reference, answer in zip(references, answers, strict=True)]
    return {
        "bleu": float(corpus_bleu(list(answers), [list(references)]).score),
        "rouge1": float(np.mean([item["rouge1"].fmeasure for item in scored])),
        "rougeL": float(np.mean([item["rougeL"].fmeasure for item in scored])),
    }


SUPPORTED, CONTRADICTED, UNSUPPORTED = "supported", "contradicted", "unsupported"


def judge_claims(evidence: Sequence[Any], sides: Mapping[str, str | None], flow: np.ndarray) -> list[str]:
    """Compares each piece of evidence of an answer with the clip's own flow. No reference text is needed.

    - *Supported*: on every named side, the region moves above the clip's noise and within one octant (45°) of the
      stated direction, and the stated magnitude is within a quarter, or 0.2 % of the crop width, of the measured mean.
    - *Contradicted*: the region moves more than one octant away from the stated direction.
    - *Unsupported*: anything else.

    Args:
        evidence (`Sequence[Any]`): `ExpressionReport.evidence`.
        sides (`Mapping[str, str | None]`): Action unit → left, right or both (`None` means both).
        flow (`np.ndarray`): (T, 2, h, w), percent of the crop width.
    """
    motions = {(item.region, item.side): item for item in measure_motion(flow)}
    verdicts = []
    for claim in evidence:
        side = sides.get(claim.action_unit)
        named = [
            motions.get((claim.region, one)) for one in ((side,) if side in ("left", "right") else ("left", "right"))
        ]
        apart = [octants_apart(item.direction, claim.direction) if item else None for item in named]
        moving = [item is not None and item.significant for item in named]
        measured = float(np.mean([item.magnitude for item in named])) if all(named) else 0.0
        close = magnitude_agrees(claim.magnitude, measured)
        if any(moves and steps is not None and steps > 1 for moves, steps in zip(moving, apart, strict=True)):
            verdicts.append(CONTRADICTED)
        elif all(moving) and all(steps is not None and steps <= 1 for steps in apart) and close:
            verdicts.append(SUPPORTED)
        else:
            verdicts.append(UNSUPPORTED)
    return verdicts


def faithfulness(reports: Sequence[Any], flows: Sequence[np.ndarray | None]) -> dict[str, float | int | None]:
    """Shares of the answers' claims that the measured motion supports and contradicts.

    Args:
        reports (`Sequence[Any]`): One `ExpressionReport` per clip.
        flows (`Sequence[np.ndarray | None]`): Flow of each clip, (T, 2, h, w), percent of the crop width. Clips
            without flow are left out.
    """
    verdicts: list[list[str]] = []
    for report, flow in zip(reports, flows, strict=True):
        if flow is not None and report.evidence:
            sides = {unit.code: unit.side for unit in report.action_units}
            verdicts.append(judge_claims(report.evidence, sides, flow))
    claims = [verdict for clip in verdicts for verdict in clip]
    return {
        "claims": len(claims),
        "supported": claims.count(SUPPORTED) / len(claims) if claims else None,
        "contradicted": claims.count(CONTRADICTED) / len(claims) if claims else None,
        "answers_with_claims": len(verdicts),
        "answers_all_supported": (
            sum(set(clip) == {SUPPORTED} for clip in verdicts) / len(verdicts) if verdicts else None
        ),
    }


# --- Spotting and recognition ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """An interval of frames with a class.

    Args:
        onset (`int`): First frame.
        offset (`int`): Last frame, inclusive.
        label (`str | None`, *optional*): The class.
    """

    onset: int
    offset: int
    label: str | None = None

    def __post_init__(self):
        if self.offset < self.onset:
            raise ValueError(f"The interval {self.onset}–{self.offset} ends before it begins.")


def iou(first: Interval, second: Interval) -> float:
    """Intersection over union of two intervals in frames."""
    shared = min(first.offset, second.offset) - max(first.onset, second.onset) + 1
    union = max(first.offset, second.offset) - min(first.onset, second.onset) + 1
    return max(shared, 0) / union if shared > 0 else 0.0


def strs(
    true: Mapping[str, Sequence[Interval]],
    predicted: Mapping[str, Sequence[Interval]],
    labels: Sequence[str],
    *,
    threshold: float = 0.5,
) -> dict[str, float | int]:
    """Spot-then-recognise score of MEGC: STRS = F1_spot × F1_analysis.

    F1_spot = 2TP/(2TP+FP+FN) over all videos. An interval is spotted if its IoU with a predicted interval is at least
    `threshold`; each interval is matched once. F1_analysis is UF1 over the spotted intervals, with absent classes as
    in `emotion_metrics`. It is 0 if no interval is spotted.

    Args:
        true (`Mapping[str, Sequence[Interval]]`): Video → true intervals.
        predicted (`Mapping[str, Sequence[Interval]]`): Video → predicted intervals. Must have the same videos as
            `true`; use an empty list for none.
        labels (`Sequence[str]`): The fixed label list.
        threshold (`float`, *optional*, defaults to `0.5`): Least IoU.

    Raises:
        ValueError: a video is in only one of them, or a label is not in the list.
    """
    return _strs_of(_videos(true, predicted, threshold), labels)


def strs_intervals(
    true: Mapping[str, Sequence[Interval]],
    predicted: Mapping[str, Sequence[Interval]],
    labels: Sequence[str],
    *,
    threshold: float = 0.5,
    groups: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the shares in `strs`, from resampled videos or subjects.

    Args:
        true (`Mapping[str, Sequence[Interval]]`): As in `strs`.
        predicted (`Mapping[str, Sequence[Interval]]`): As in `strs`.
        labels (`Sequence[str]`): The fixed label list.
        threshold (`float`, *optional*, defaults to `0.5`): Least IoU.
        groups (`Mapping[str, str]`, *optional*): Video → its subject. The videos of a subject are drawn together.
        resamples (`int`, *optional*, defaults to `1000`): Number of resamplings.
        seed (`int`, *optional*, defaults to `0`): Of the resampling.

    Returns:
        `f1_spot`, `f1_analysis`, `uar_analysis` and `strs` -> lower and upper end.

    Raises:
        ValueError: as in `strs`.
    """
    videos = _videos(true, predicted, threshold)
    owners = sorted(true) if groups is None else [groups[name] for name in sorted(true)]
    _, places = np.unique(owners, return_inverse=True)
    sizes = np.zeros((places.max() + 1, 3))  # spotted and right, spotted, all
    matrices = np.zeros((len(sizes), len(labels), len(labels) + 1))
    for place, video in zip(places, videos, strict=True):
        sizes[place] += (len(video.pairs), video.spotted, video.intervals)
        if video.pairs:
            matrices[place] += confusion(*zip(*video.pairs, strict=True), labels)
    hits, spotted, intervals = _resampled(sizes, resamples, seed).T
    pooled = _resampled(matrices, resamples, seed)
    found = {"f1_spot": 2 * hits / np.maximum(spotted + intervals, 1)}
    for name, statistic in (("f1_analysis", uf1_of), ("uar_analysis", uar_of)):
        found[name] = np.nan_to_num(statistic(pooled))  # 0 if nothing is spotted, as in `strs`
    found["strs"] = found["f1_spot"] * found["f1_analysis"]
    return {name: _percentiles(values, 0.95) for name, values in found.items()}


@dataclass(frozen=True)
class _Video:
    """The labels, true and predicted, of the intervals that were spotted in a video, and the numbers of intervals."""

    pairs: tuple[tuple[str | None, str | None], ...]
    intervals: int
    spotted: int


def _videos(
    true: Mapping[str, Sequence[Interval]], predicted: Mapping[str, Sequence[Interval]], threshold: float
) -> list[_Video]:
    missing = sorted(set(true) ^ set(predicted))
    if missing:
        where = "predictions" if missing[0] in true else "labels"
        raise ValueError(f"The video {missing[0]!r} is missing in the {where}; give an empty list for no interval.")
    videos = []
    for video in sorted(true):
        pairs: tuple[tuple[str | None, str | None], ...] = ()
        table = np.array([[iou(a, b) for b in predicted[video]] for a in true[video]])
        if table.size:
            # Maximises the number of matches first, then their overlap.
            rows, columns = linear_sum_assignment(-np.where(table >= threshold, 1 + table / 1e3, 0))
            pairs = tuple(
                (true[video][row].label, predicted[video][column].label)
                for row, column in zip(rows, columns, strict=True)
                if table[row, column] >= threshold
            )
        videos.append(_Video(pairs, len(true[video]), len(predicted[video])))
    return videos


def _strs_of(videos: Sequence[_Video], labels: Sequence[str]) -> dict[str, float | int]:
    pairs = [pair for video in videos for pair in video.pairs]
    hits, spotted, intervals = (
        len(pairs),
        sum(video.spotted for video in videos),
        sum(video.intervals for video in videos),
    )
    spot = 2 * hits / (spotted + intervals) if spotted + intervals else 0.0
    analysis = emotion_metrics(*zip(*pairs, strict=True), labels) if pairs else {"uf1": 0.0, "uar": 0.0}
    return {
        "true_positives": hits,
        "false_positives": spotted - hits,
        "false_negatives": intervals - hits,
        "f1_spot": spot,
        "f1_analysis": analysis["uf1"],
        "uar_analysis": analysis["uar"],
        "strs": spot * analysis["uf1"],
    }
