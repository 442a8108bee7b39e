"""Figures of action units, for models and for the evidence by rule, which learns nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from deft_llm.processing.unit_evidence import seen_units
from deft_llm.processing.unit_patterns import UNITS_SEEN

from .metrics import attribute_accuracy, au_metrics

_LETTERS = "ABCDE"  # intensities of FACS, 1 to 5 here; 0 where the unit is absent


def unit_figures(
    predictions: Mapping[str, Mapping[str, Any]], clips: Sequence[str], by_id: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Figures over the clips with labelled action units that a model predicted.

    Args:
        predictions (`Mapping[str, Mapping[str, Any]]`): Clip id → prediction with `action_units` (code →
            probability), and `sides` and `intensities` (code → word) if the model says them.
        clips (`Sequence[str]`): Ids of the tested clips.
        by_id (`Mapping[str, Mapping[str, Any]]`): Clip id → row.

    Returns:
        F1, AUC, calibration error and figures per unit; `None` without such clips. AUC is `None` for a unit that all
        clips have. `icc` needs labelled intensities and a model that predicts them.
    """
    scored = [clip for clip in clips if by_id[clip].get("action_units") and "action_units" in predictions[clip]]
    if not scored:
        return None
    named = {clip: {unit["code"]: unit for unit in by_id[clip]["action_units"]} for clip in scored}
    codes = sorted({code for units in named.values() for code in units}, key=lambda code: (len(code), code))
    true = np.array([[code in named[clip] for code in codes] for clip in scored])
    # A unit without any training clip in the fold cannot be found and counts as missed.
    values = np.array([[predictions[clip]["action_units"].get(code, 0.0) for code in codes] for clip in scored])
    found = values >= 0.5
    per_unit = {}
    for k, code in enumerate(codes):
        f1 = au_metrics(true[:, [k]], found[:, [k]])
        per_unit[code] = {
            "clips": int(true[:, k].sum()),
            "f1": f1["au_f1"],
            "f1_macro": f1["au_f1_macro"],
            "auc": None if true[:, k].all() else float(roc_auc_score(true[:, k], values[:, k])),
            "icc": _unit_icc(code, named, predictions, scored),
        }
    figures = {
        **au_metrics(true, found),
        "auc": _mean(item["auc"] for item in per_unit.values()),
        "auc_of_sought": _mean(item["auc"] for code, item in per_unit.items() if code in UNITS_SEEN),
        "icc": _mean(item["icc"] for item in per_unit.values()),
        "calibration_error": unit_calibration(values, true),
        "clips": len(scored),
        "per_unit": per_unit,
    }
    for attribute, column in (("side", "sides"), ("intensity", "intensities")):
        if any(column in predictions[clip] for clip in scored):
            figures[f"{attribute}_accuracy"] = attribute_accuracy(
                [{code: unit.get(attribute) for code, unit in named[clip].items()} for clip in scored],
                [predictions[clip].get(column, {}) for clip in scored],
            )
    return figures


def rule_figures(clips: Sequence[str], by_id: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Figures of the evidence by rule (`processing.unit_evidence`) over the units that the rules seek.

    Units that they do not seek count as never found in `au_f1`, as for a model.

    Args:
        clips (`Sequence[str]`): Ids of the tested clips.
        by_id (`Mapping[str, Mapping[str, Any]]`): Clip id → row.
    """
    measured = [clip for clip in clips if by_id[clip].get("action_units") and by_id[clip].get("flow") is not None]
    said = {clip: {"action_units": seen_units(np.asarray(by_id[clip]["flow"], np.float32))} for clip in measured}
    return unit_figures(said, measured, by_id)


def unit_calibration(values: np.ndarray, labelled: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the probabilities of all units together, in bins of equal width.

    Args:
        values (`np.ndarray`): Probabilities, (clips, units).
        labelled (`np.ndarray`): Whether the unit is labelled, (clips, units) bool.
        bins (`int`, *optional*, defaults to `10`): Number of bins.
    """
    index = np.minimum((values * bins).astype(int), bins - 1)
    gaps = [(labelled[index == number] - values[index == number]).sum() for number in range(bins)]
    return float(np.abs(gaps).sum() / values.size)


def intraclass_correlation(ratings: np.ndarray) -> float | None:
    """ICC(3,1): two-way mixed, consistency, single rating (Shrout & Fleiss, 1979), as DISFA and FERA report it.

    Args:
        ratings (`np.ndarray`): (clips, raters), here the label and the prediction.

    Returns:
        From -1 to 1; `None` if nothing varies or there are fewer than two clips.
    """
    count, raters = ratings.shape
    if count < 2 or not np.ptp(ratings - ratings.mean(0)):
        return None
    clips = ratings.mean(1) - ratings.mean()
    rest = ratings - ratings.mean(1, keepdims=True) - ratings.mean(0) + ratings.mean()
    between = raters * (clips**2).sum() / (count - 1)
    within = (rest**2).sum() / ((count - 1) * (raters - 1))
    return float((between - within) / (between + (raters - 1) * within))


def _unit_icc(code: str, named: Mapping, predictions: Mapping, scored: Sequence[str]) -> float | None:
    """ICC of a unit over the clips that lack it or name its intensity."""
    known = [clip for clip in scored if code not in named[clip] or named[clip][code].get("intensity")]
    if not any(code in named[clip] for clip in known) or not all("intensities" in predictions[c] for c in known):
        return None
    said = [(named[clip].get(code, {}).get("intensity"), predictions[clip]["intensities"].get(code)) for clip in known]
    grades = [[1 + _LETTERS.index(letter) if letter else 0 for letter in pair] for pair in said]
    return intraclass_correlation(np.array(grades, float))


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
