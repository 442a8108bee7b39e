"""Does recognition mode earn its cost on people, beside a support-vector machine and its own two kinds of voters?

    python benchmarks/science/real_recognition.py [--data DIR] [--models deft,svm,…] [--seeds 3] [--workers 2]

Reads features without pixels (`real-features/composite-half` and `real-features/casme2-half` in the folder of real
data: by default that of the environment variable DEFT_REAL_DATA, or ../shared/data). One subject is left out at a
time; settings are the package's defaults; the last weights are taken. `deft` is the kernel machine, `vote` gives it
three quarters of a vote with the networks, and `networks` are these alone. `nested-deft` and `nested-vote` choose
their settings inside the training subjects.
The other names are those of `baselines.BASELINES`. Without --models, those that take seconds per fold are run. The
first model is compared with each of the others. Intervals are over subjects. Finished folds are kept in --output.

Action units are judged on the clips of the five-class task: those that `processing` seeks, beside the evidence that it
finds by rule and without learning.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_features import FALSE_RATE, data_folder
from sklearn.metrics import roc_auc_score

TASKS = (("composite-half", "megc2019"), ("casme2-half", "casme2-3"), ("casme2-half", "casme2-5"))
WITH_UNITS = "casme2-5"
INNER = 5  # inner folds of training subjects
# What takes seconds per fold. The others take longer: up to a minute, and `nested-vote` several minutes.
MODELS = ("deft", "nested-deft", "svm", "rcn", "learnet_flow", "affectivenet_style_flow", "majority")


def main() -> int:
    # Imported here: the folds' processes import this file too.
    from deft_llm.evaluation.fold_runs import run_protocol
    from deft_llm.evaluation.protocols import make_task
    from deft_llm.evaluation.report import make_report, write_report
    from deft_llm.evaluation.run import load_splits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--tasks", default=",".join(protocol for _, protocol in TASKS), help="protocols, by commas")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench-recognition"))
    arguments = parser.parse_args()
    for folder, protocol in TASKS:
        if protocol not in arguments.tasks.split(","):
            continue
        place = arguments.data / "real-features" / folder
        if not place.is_dir():
            parser.error(f"{place} does not exist; --data names the folder of real data.")
        splits = load_splits(str(place), with_video=False)
        task = make_task(splits, protocol)
        rows = [row for part in splits.values() for row in part]
        cache = arguments.output / "folds"
        specs = [model_spec(name, rows, cache) for name in arguments.models.split(",")]
        for seed in range(arguments.seeds):
            results = [
                run_protocol(rows, task, spec, cache=cache, workers=arguments.workers, seed=seed) for spec in specs
            ]
            report = make_report(rows, task, results, dataset=folder, mode="recognition", seed=seed)
            write_report(report, results, arguments.output / f"{protocol}-{seed}")
            for result in results:
                seconds = [result.seconds[fold.name] for fold in task.folds]
                print(f"{result.model}: {np.mean(seconds):.1f} s per fold, {sum(seconds) / 60:.1f} min of one core")
                for values, folds in Counter(map(_in_words, result.chosen.values())).most_common(3):
                    print(f"  chosen in {folds} of {len(task.folds)} folds: {values}")
            pooled = {result.model: result.pooled(task) for result in results}
            print_classes(report, pooled, rows, task, seed)
            if protocol == WITH_UNITS:
                print_units(pooled, rows, task)
    return 0


def _in_words(chosen: Mapping[str, float]) -> str:
    names = ("kernel_share", "kernel_ridge", "kernel_width", "rule_weight")
    return ", ".join(f"{name} {chosen[name]:g}" for name in names)


def model_spec(name: str, rows: Sequence[Mapping[str, Any]], cache: Path) -> Any:
    """What a name of `--models` stands for."""
    from deft_llm.evaluation.baselines import make_baseline
    from deft_llm.evaluation.fold_runs import ModelSpec
    from deft_llm.evaluation.nested import NestedRecogniser
    from deft_llm.evaluation.recognition import DeftRecogniser
    from deft_llm.training.recognition import RecognitionConfig, prior_path

    shares = {"deft": {}, "vote": {"kernel_share": 0.75}, "networks": {"kernel_share": 0.0}}
    nested = name.startswith("nested-")
    name = name.removeprefix("nested-")
    if name not in shares:
        return ModelSpec(name, make_baseline, {"name": name})
    settings = RecognitionConfig.of(shares[name])
    frames = min(settings.max_frames, max(len(row["flow"]) for row in rows))
    files = {} if name == "deft" else {"prior": prior_path(settings, frames, cache)}
    if nested:
        return ModelSpec(f"nested-{name}", NestedRecogniser, {**shares[name], "inner": INNER}, files)
    return ModelSpec(name, DeftRecogniser, shares[name], files)


def print_classes(report: dict, pooled: dict, rows: Sequence[Mapping[str, Any]], task: Any, seed: int) -> None:
    """Prints figures over all clips and by source, and the differences to the first model."""
    from deft_llm.evaluation.metrics import emotion_metrics

    source_of = {row["clip_id"]: row["source"] for row in rows}
    sources = sorted({source_of[clip] for clip in task.label_of})
    by_source = sources if len(sources) > 1 else []
    counts = ", ".join(f"{label} {count}" for label, count in report["classes"].items())
    print(f"\n{report['dataset']}, {task.protocol}, seed {seed}: {report['subjects']} subjects, {counts}")
    print("| model | " + " | ".join(["UF1 (95 %)", *by_source, "UAR", "calibration error"]) + " |")
    print("|---" * (4 + len(by_source)) + "|")
    for name, predictions in pooled.items():
        figures = report["models"][name]
        low, high = figures["intervals"]["uf1"]
        cells = [f"{figures['uf1']:.3f} ({low:.3f} to {high:.3f})"]
        for source in by_source:
            clips = [clip for clip in predictions if source_of[clip] == source]
            true, found = [task.label_of[clip] for clip in clips], [predictions[clip]["label"] for clip in clips]
            cells.append(f"{emotion_metrics(true, found, task.labels)['uf1']:.3f}")
        cells += [f"{figures['uar']:.3f}", f"{figures['calibration']['ece']:.3f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for item in report["comparisons"]:
        low, high = item["uf1_difference_interval"]
        print(f"{item['model']} − {item['against']}: UF1 {item['uf1_difference']:+.3f} ({low:+.3f} to {high:+.3f})")


def print_units(pooled: dict, rows: Sequence[Mapping[str, Any]], task: Any) -> None:
    """Prints how well each model, and the rules, tell clips with an action unit from those without."""
    from deft_llm.evaluation.unit_figures import unit_calibration
    from deft_llm.processing.unit_evidence import probabilities, unit_scores
    from deft_llm.processing.unit_patterns import UNITS_SEEN

    used = [row for row in rows if row["clip_id"] in task.label_of and row["action_units"]]
    labelled = np.array(
        [[code in {unit["code"] for unit in row["action_units"]} for code in UNITS_SEEN] for row in used]
    )
    found = {}
    for name, predictions in pooled.items():
        units = [predictions[row["clip_id"]].get("action_units") for row in used]
        if all(units):
            # A fold whose training clips lack a unit cannot recognise it.
            found[name] = np.array([[item.get(code, 0.0) for code in UNITS_SEEN] for item in units])
    scores = [unit_scores(np.array(row["flow"], np.float32)) for row in used]
    found["evidence by rule"] = probabilities(
        np.array([[max(item[code].values()) for code in UNITS_SEEN] for item in scores])
    )
    print(f"\nAction units of {len(used)} clips; recall at {FALSE_RATE:.0%} false, F1 at a probability of one half")
    print("| | mean AUC | mean recall | mean F1 | calibration error | AUC of " + " | ".join(UNITS_SEEN) + " |")
    print("|---" * (5 + len(UNITS_SEEN)) + "|")
    for name, values in found.items():
        areas, recalls, scores = [], [], []
        for column, truth in zip(values.T, labelled.T, strict=True):
            areas.append(roc_auc_score(truth, column))
            recalls.append((column[truth] > np.quantile(column[~truth], 1 - FALSE_RATE)).mean())
            right = (truth & (column >= 0.5)).sum()
            scores.append(2 * right / (truth.sum() + (column >= 0.5).sum()))
        cells = [np.mean(areas), np.mean(recalls), np.mean(scores), unit_calibration(values, labelled), *areas]
        print(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
