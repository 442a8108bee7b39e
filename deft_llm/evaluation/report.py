"""The report of a run: all metrics in `report.json`, tables in `report.md`, pictures, and the `model-index` block.

Durations, which differ between runs, are only in `timings.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deft_llm.files import files_together
from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED, PublishedProtocol
from deft_llm.processing.expression_report import parse_answer

from .fold_runs import RunResult
from .metrics import (
    NO_ANSWER,
    bootstrap_difference,
    bootstrap_intervals,
    calibration,
    class_table,
    confusion,
    emotion_metrics,
    faithfulness,
    mcnemar,
    subject_confusions,
    text_metrics,
)
from .protocols import CDE, ZERO_SHOT, Task, class_counts, left_out_rows, split_hash
from .unit_figures import rule_figures, unit_figures


def _folds_in_words(protocol: PublishedProtocol) -> str:
    return "leave one subject out" if protocol.folds is None else f"{protocol.folds} folds of subjects"


PROTOCOL_NAMES = {
    "loso": "leave one subject out",
    "lodo": "leave one dataset out",
    "fixed": "fixed splits",
    ZERO_SHOT: "trained on another dataset",
    **{name: f"{protocol.title}, {_folds_in_words(protocol)}" for name, protocol in PUBLISHED.items()},
}
PROTOCOL_NAMES[CDE] = PROTOCOL_NAMES["megc2019"]
_LIBRARIES = ("deft-llm", "numpy", "scipy", "scikit-learn", "torch", "transformers")


def make_report(
    rows: Sequence[Mapping[str, Any]],
    task: Task,
    results: Sequence[RunResult],
    *,
    dataset: str,
    mode: str,
    seed: int,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    resamples: int = 2000,
    trained_on: str | None = None,
) -> dict[str, Any]:
    """Computes all metrics. The first result is the model; the others are compared with it.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows.
        task (`Task`): The task and its folds.
        results (`Sequence[RunResult]`): Results of the model and the baselines.
        dataset (`str`): Name of the dataset.
        mode (`str`): Recognition or full.
        seed (`int`): Random seed.
        configs (`Mapping[str, Mapping[str, Any]] | None`, *optional*): Model name → configuration.
        resamples (`int`, *optional*, defaults to `2000`): Number of resamples of the bootstrap over subjects.
        trained_on (`str | None`, *optional*): Name of another dataset that is trained on, if any.

    Raises:
        IncompleteError: a fold or a clip of any model is missing.
        ValueError: there is no result, or two results have the same name.
    """
    names = [result.model for result in results]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected results of differently named models; got {', '.join(names) or 'none'}.")
    by_id = {row["clip_id"]: row for row in rows}
    # Raises before anything is computed if a result is incomplete.
    pooled = {result.model: result.pooled(task) for result in results}
    clips = [clip for fold in task.folds for clip in fold.test]
    true = [task.label_of[clip] for clip in clips]
    subjects = [by_id[clip]["subject"] for clip in clips]
    answers = {name: [predictions[clip]["label"] for clip in clips] for name, predictions in pooled.items()}
    models = {
        result.model: _figures(pooled[result.model], clips, by_id, true, subjects, task, seed, resamples)
        | _abstention(result)
        | _config_of(result.model, configs)
        | ({"chosen": result.chosen} if result.chosen else {})
        for result in results
    }
    matrices = {name: subject_confusions(subjects, true, answers[name], task.labels) for name in names}
    comparisons = []
    for other in names[1:]:
        test = mcnemar(true, answers[names[0]], answers[other])
        low, high = bootstrap_difference(matrices[names[0]], matrices[other], seed=seed, resamples=resamples)
        comparisons.append(
            {
                "model": names[0],
                "against": other,
                "uf1_difference": models[names[0]]["uf1"] - models[other]["uf1"],
                "uf1_difference_interval": [low, high],
                "mcnemar": {"model_only": test.first_only, "other_only": test.second_only, "p_value": test.p_value},
            }
        )
    with_units = any("action_units" in figures for figures in models.values())
    rule = rule_figures(clips, by_id) if with_units else None
    trained = sorted({clip for fold in task.folds for clip in fold.train})
    return {
        "dataset": dataset,
        "protocol": task.protocol,
        "target": task.target,
        "mode": mode,
        "labels": list(task.labels),
        "clips": len(clips),
        "subjects": len(set(subjects)),
        "folds": len(task.folds),
        "classes": class_counts(task, clips),
        "training_clips": len(trained),
        **({"trained_on": trained_on} if trained_on else {}),
        "left_out": dict(sorted(task.left_out.items())),
        "left_out_rows": left_out_rows(task, rows),
        "not_trained": dict(sorted(task.not_trained.items())),
        "differences_from_the_protocol": list(task.differences),
        "split_sha256": split_hash(task),
        "seed": seed,
        "bootstrap": {"over": "subjects", "resamples": resamples, "level": 0.95, "seed": seed},
        "models": models,
        "comparisons": comparisons,
        **({"action_units_by_rule": rule} if rule else {}),
        "versions": {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "hardware": hardware(),
    }


def over_seeds(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and range of each model's figures over seeds.

    Args:
        reports (`Mapping[int, Mapping[str, Any]]`): Seed → its report from `make_report`.

    Returns:
        `seeds`, and `models`: model → figure → `mean`, `lowest`, `highest`.
    """
    models = {}
    for name in next(iter(reports.values()))["models"]:
        each = [report["models"][name] for report in reports.values()]
        values = {key: [item[key] for item in each] for key in ("uf1", "uar", "accuracy")}
        values["ece"] = [item["calibration"]["ece"] for item in each]
        models[name] = {
            key: {"mean": float(np.mean(group)), "lowest": min(group), "highest": max(group)}
            for key, group in values.items()
        }
    return {"seeds": list(reports), "models": models}


def _figures(predictions, clips, by_id, true, subjects, task: Task, seed: int, resamples: int) -> dict[str, Any]:
    labels = task.labels
    answers = [predictions[clip]["label"] for clip in clips]
    scores = np.array([predictions[clip]["scores"] for clip in clips])
    matrices = subject_confusions(subjects, true, answers, labels)
    figures: dict[str, Any] = {
        **emotion_metrics(true, answers, labels),
        "intervals": {
            name: list(values)
            for name, values in bootstrap_intervals(matrices, seed=seed, resamples=resamples).items()
        },
        "per_class": class_table(true, answers, labels),
        "confusion": confusion(true, answers, labels).tolist(),
        "no_answer": answers.count(None),
        "calibration": calibration(true, scores, labels),
    }
    # Published tables have one row per source of a composite.
    groups: dict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[by_id[clip]["source"]].append(index)
    if len(groups) > 1:
        figures["per_source"] = {
            source: {"clips": len(members)}
            | emotion_metrics([true[i] for i in members], [answers[i] for i in members], labels)
            for source, members in sorted(groups.items())
        }
    if units := unit_figures(predictions, clips, by_id):
        figures["action_units"] = units
    if written := [clip for clip in clips if "parsed" in predictions[clip]]:
        figures["answers"] = _answer_figures(predictions, written, by_id)
    return figures


def _abstention(result: RunResult) -> dict[str, Any]:
    """How often a model names no emotion because nothing moves, on clips with an expression and on still ones."""
    shown = [item for clips in result.predictions.values() for item in clips.values()]
    still = [item for clips in result.still.values() for item in clips.values()]
    if not shown or not all("abstained" in item for item in shown):
        return {}
    figures = {"expressive_clips": len(shown), "expressive_clips_abstained": _share(shown), "still_clips": len(still)}
    return {"abstention": figures | ({"still_clips_abstained": _share(still)} if still else {})}


def _share(items: Sequence[Mapping[str, Any]]) -> float:
    return sum(bool(item["abstained"]) for item in items) / len(items)


def _answer_figures(predictions, clips, by_id) -> dict[str, Any]:
    """For models that write answers: can they be parsed, and do they agree with motion and references?"""
    flows = [by_id[clip].get("flow") for clip in clips]
    figures: dict[str, Any] = {
        "answers": len(clips),
        "parsed": sum(bool(predictions[clip]["parsed"]) for clip in clips) / len(clips),
        "faithfulness": faithfulness([parse_answer(predictions[clip]["answer"]) for clip in clips], flows),
    }
    references = {
        clip: conversation["messages"][-1]["content"][0]["text"]
        for clip in clips
        for conversation in by_id[clip].get("conversations") or ()
        if conversation["task"] == "explain"
    }
    if references:
        try:
            figures["text"] = text_metrics(list(references.values()), [predictions[c]["answer"] for c in references])
            figures["text"]["references"] = len(references)
        except ImportError as error:
            figures["text"] = {"not_computed": str(error)}
    return figures


def _config_of(name: str, configs: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    return {"config": dict(configs[name])} if configs and name in configs else {}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a clone that is not installed
        return None


def hardware() -> dict[str, Any]:
    """CPU, number of cores and memory, as far as the operating system reports them."""
    described: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    described["system"] = platform.system()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        described["processor"] = lines[0].partition(":")[2].strip() if lines else None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        described["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return described


def with_heads(results: Sequence[RunResult]) -> list[RunResult]:
    """Adds, after each model that wrote answers, its recognition heads as a separate model."""
    listed = []
    for result in results:
        listed.append(result)
        every = [item for clips in result.predictions.values() for item in clips.values()]
        if every and all("head_label" in item for item in every):
            heads = {
                fold: {
                    clip: {"scores": item["scores"], "label": item["head_label"]}
                    | ({"action_units": item["action_units"]} if "action_units" in item else {})
                    for clip, item in clips.items()
                }
                for fold, clips in result.predictions.items()
            }
            listed.append(RunResult(f"{result.model}: recognition head", heads))
    return listed


def timings(results: Sequence[RunResult]) -> dict[str, Any]:
    """Seconds of training and testing of each model, summed over folds, and its largest peak memory (MB)."""
    return {
        result.model: {
            "fold_seconds": sum(result.seconds.values()),
            "peak_memory_mb": max(result.peak_memory.values(), default=None),
            "folds_from_cache": result.cached,
        }
        for result in results
    }


# --- Files ----------------------------------------------------------------------------------------------------------


def write_report(
    report: Mapping[str, Any],
    results: Sequence[RunResult],
    output: str | Path,
    *,
    card_name: str = "DEFT",
    dataset_id: str | None = None,
) -> None:
    """Writes report.json, report.md, predictions.jsonl, timings.json, model-index.yaml and the pictures.

    The files appear together when all of them are written. Files of an earlier report are replaced.

    Args:
        report (`Mapping[str, Any]`): From `make_report`.
        results (`Sequence[RunResult]`): Results of the model and the baselines.
        output (`str | Path`): Folder to write to.
        card_name (`str`, *optional*, defaults to `"DEFT"`): Name of the model in the `model-index` block.
        dataset_id (`str | None`, *optional*): Hub repository of the dataset, if any.
    """
    with files_together(output) as partial:
        (partial / "report.json").write_text(_json(report), encoding="utf-8")
        (partial / "timings.json").write_text(_json(timings(results)), encoding="utf-8")
        (partial / "report.md").write_text(markdown(report), encoding="utf-8")
        (partial / "model-index.yaml").write_text(
            model_index(report, card_name, dataset_id=dataset_id), encoding="utf-8"
        )
        with (partial / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for result in results:
                for fold, clips in result.predictions.items():
                    for clip, prediction in (clips | result.still.get(fold, {})).items():
                        entry = {"model": result.model, "fold": fold, "clip_id": clip, **prediction}
                        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        draw_confusions(report, partial / "confusion.png")
        draw_reliability(report, partial / "reliability.png")


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def markdown(report: Mapping[str, Any]) -> str:
    """Formats the report as Markdown."""
    classes = ", ".join(f"{label} {count}" for label, count in report["classes"].items())
    lines = [
        f"# {report['dataset']}: {PROTOCOL_NAMES.get(report['protocol'], report['protocol'])}",
        "",
        f"{report['clips']} clips of {report['subjects']} subjects in {report['folds']} folds ({classes}); rows left "
        f"out: {len(report['left_out'])}; target: "
        f"{report['target']}; mode: {report['mode']}. Figures are pooled over all folds. In brackets: 95 % intervals "
        f"from {report['bootstrap']['resamples']} resamples of subjects.",
        "",
        "| model | UF1 | UAR | accuracy | ECE |",
        "|---|---|---|---|---|",
    ]
    for name, figures in report["models"].items():
        cells = [_with_interval(figures[key], figures["intervals"][key]) for key in ("uf1", "uar", "accuracy")]
        lines.append(f"| {name} | {' | '.join(cells)} | {figures['calibration']['ece']:.3f} |")
    if "trained_on" in report:
        words = f"Trained on {report['training_clips']} clips of {report['trained_on']}."
        if report["protocol"] != ZERO_SHOT:
            words = f"Rows of {report['trained_on']} join the training rows of every fold."
        lines[2:2] = [words, ""]
    if "seeds" in report:
        lines += _seeds_table(report["seeds"])
    if report["comparisons"]:
        lines += [
            "",
            "| | difference in UF1 | only the first right | only the second right | McNemar p |",
            "|---|---|---|---|---|",
        ]
        for item in report["comparisons"]:
            test = item["mcnemar"]
            lines.append(
                f"| {item['model']} against {item['against']} | "
                f"{_with_interval(item['uf1_difference'], item['uf1_difference_interval'])} | {test['model_only']} | "
                f"{test['other_only']} | {test['p_value']:.3g} |"
            )
    for name, figures in report["models"].items():
        lines += [
            "",
            f"## {name}",
            "",
            "| class | precision | recall | F1 | clips | predicted |",
            "|---|---|---|---|---|---|",
        ]
        for row in figures["per_class"]:
            values = " | ".join(_figure(row[key]) for key in ("precision", "recall", "f1"))
            lines.append(f"| {row['label']} | {values} | {row['clips']} | {row['predicted']} |")
        if figures["no_answer"]:
            lines += ["", f"Clips without an answer: {figures['no_answer']}, counted as wrong."]
        if "per_source" in figures:
            lines += ["", "| source | clips | UF1 | UAR | accuracy |", "|---|---|---|---|---|"]
            for source, values in figures["per_source"].items():
                cells = " | ".join(_figure(values[key]) for key in ("uf1", "uar", "accuracy"))
                lines.append(f"| {source} | {values['clips']} | {cells} |")
        if answers := figures.get("answers"):
            true = answers["faithfulness"]
            lines += ["", f"Answers that can be parsed: {100 * answers['parsed']:.1f} % of {answers['answers']}."]
            if true["claims"]:
                lines[-1] += (
                    f" Of {true['claims']} claims, the measured motion supports {100 * true['supported']:.1f} % and "
                    f"contradicts {100 * true['contradicted']:.1f} %."
                )
        if abstention := figures.get("abstention"):
            lines += ["", _abstention_words(abstention)]
        if chosen := figures.get("chosen"):
            lines += _chosen_table(chosen)
    lines += _unit_table(report)
    if report["differences_from_the_protocol"]:
        lines += ["", "## Not as published", "", *(f"- {text}" for text in report["differences_from_the_protocol"])]
    if report["left_out_rows"]:
        lines += ["", "## Left out", "", "| source | emotion | clips | reason |", "|---|---|---|---|"]
        for row in report["left_out_rows"]:
            lines.append(f"| {row['source']} | {row['emotion'] or 'none'} | {row['clips']} | {row['reason']} |")
    if report["not_trained"]:
        lines += ["", f"Not measurable, tested but not trained: {', '.join(report['not_trained'])}."]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    lines += ["", f"Seed {report['seed']}; split SHA-256 `{report['split_sha256']}`; {versions}.", ""]
    lines += ["![Confusion matrices](confusion.png)", "", "![Reliability](reliability.png)", ""]
    return "\n".join(lines)


def _seeds_table(seeds: Mapping[str, Any]) -> list[str]:
    """Mean and range over seeds."""
    lines = [
        "",
        f"Mean over the seeds {', '.join(map(str, seeds['seeds']))}; in brackets the lowest and the highest:",
        "",
        "| model | UF1 | UAR | accuracy | ECE |",
        "|---|---|---|---|---|",
    ]
    for name, figures in seeds["models"].items():
        cells = [
            _with_interval(figures[key]["mean"], (figures[key]["lowest"], figures[key]["highest"]))
            for key in ("uf1", "uar", "accuracy", "ece")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _chosen_table(chosen: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What was chosen inside the training subjects of each fold."""
    names = list(next(iter(chosen.values())))
    lines = ["", "Chosen inside the training subjects:", "", f"| fold | {' | '.join(names)} |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for fold, values in chosen.items():
        lines.append(f"| {fold} | {' | '.join(f'{values[name]:.3g}' for name in names)} |")
    return lines


def _unit_table(report: Mapping[str, Any]) -> list[str]:
    """Action units of all models, and of the evidence by rule."""
    found = {name: item["action_units"] for name, item in report["models"].items() if "action_units" in item}
    if not found:
        return []
    if rule := report.get("action_units_by_rule"):
        found["evidence by rule, nothing learned"] = rule
    codes = list(dict.fromkeys(code for units in found.values() for code in units["per_unit"]))
    lines = [
        "",
        "## Action units",
        "",
        "| | clips | mean F1 | macro F1 | mean AUC | AUC of the units that the rules seek | ICC(3,1) | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, units in found.items():
        keys = ("au_f1", "au_f1_macro", "auc", "auc_of_sought", "icc", "calibration_error")
        lines.append(f"| {name} | {units['clips']} | {' | '.join(_figure(units[key]) for key in keys)} |")
    lines += ["", f"| F1, AUC, ICC | {' | '.join(codes)} |", "|---" * (1 + len(codes)) + "|"]
    for name, units in found.items():
        items = [units["per_unit"].get(code) for code in codes]
        cells = [", ".join(_figure(item[key]) for key in ("f1", "auc", "icc")) if item else "–" for item in items]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _abstention_words(figures: Mapping[str, Any]) -> str:
    words = (
        f"No emotion is named, because nothing moves, for {100 * figures['expressive_clips_abstained']:.1f} % of "
        f"{figures['expressive_clips']} clips with an expression"
    )
    if figures["still_clips"]:
        words += f" and for {100 * figures['still_clips_abstained']:.1f} % of {figures['still_clips']} still clips"
    return words + "."


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def model_index(report: Mapping[str, Any], card_name: str, *, dataset_id: str | None = None) -> str:
    """The `model-index` block of a model card, from which the Hub reads results, for the first model of the report.

    Args:
        report (`Mapping[str, Any]`): From `make_report`.
        card_name (`str`): Name of the model.
        dataset_id (`str | None`, *optional*): Hub repository of the dataset, if any.

    Returns:
        `str`: YAML.
    """
    import yaml
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    figures = next(iter(report["models"].values()))
    names = {"uf1": "UF1, pooled over folds", "uar": "UAR, pooled over folds", "accuracy": "accuracy"}
    types = {"uf1": "f1", "uar": "recall", "accuracy": "accuracy"}
    results = [
        EvalResult(
            task_type="video-classification",
            task_name="micro-expression recognition",
            dataset_type=dataset_id or report["dataset"],
            dataset_name=f"{report['dataset']}, {PROTOCOL_NAMES.get(report['protocol'], report['protocol'])}",
            metric_type=types[key],
            metric_name=name,
            metric_value=round(figures[key], 4),
            metric_args={
                "average": "macro" if key != "accuracy" else None,
                "interval_95": [round(value, 4) for value in figures["intervals"][key]],
                "subjects": report["subjects"],
                "clips": report["clips"],
            },
        )
        for key, name in names.items()
    ]
    block = {"model-index": eval_results_to_model_index(card_name, results)}
    return yaml.safe_dump(block, sort_keys=False, allow_unicode=True)


def _axes(count: int, width: float, height: float):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(count, 3)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return plt, figure, axes.flat


def draw_confusions(report: Mapping[str, Any], path: Path) -> None:
    """Draws each model's confusion matrix: counts, shaded by the share of the true class."""
    labels, models = report["labels"], report["models"]
    size = max(3.2, 0.75 * len(labels) + 1.6)
    plt, figure, axes = _axes(len(models), size, size)
    for axis, (name, figures) in zip(axes, models.items(), strict=False):
        counts = np.array(figures["confusion"])
        columns = [*labels, NO_ANSWER]
        if not counts[:, -1].any():
            counts, columns = counts[:, :-1], labels
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axis.text(
                column,
                row,
                f"{count}\n{100 * shares[row, column]:.0f} %",
                ha="center",
                va="center",
                color=colour,
                fontsize=9,
            )
        axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        axis.set_title(f"{name}: UF1 {figures['uf1']:.3f}")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_reliability(report: Mapping[str, Any], path: Path) -> None:
    """Draws each model's accuracy against its confidence. Both agree on the diagonal. Dots show the size of a bin."""
    models = report["models"]
    plt, figure, axes = _axes(len(models), 3.6, 3.6)
    for axis, (name, figures) in zip(axes, models.items(), strict=False):
        filled = [entry for entry in figures["calibration"]["curve"] if entry["clips"]]
        confidence = [entry["confidence"] for entry in filled]
        accuracy = [entry["accuracy"] for entry in filled]
        sizes = [20 + 400 * entry["clips"] / report["clips"] for entry in filled]
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        axis.plot(confidence, accuracy, color="#4c72b0", linewidth=1)
        axis.scatter(confidence, accuracy, s=sizes, color="#4c72b0", alpha=0.7)
        axis.set_xlim(0, 1.02)
        axis.set_ylim(0, 1.02)
        axis.set_aspect("equal")
        axis.set_xlabel("confidence")
        axis.set_ylabel("accuracy")
        axis.set_title(f"{name}: ECE {figures['calibration']['ece']:.3f}")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
