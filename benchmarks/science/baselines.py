"""How do the baselines do on people, one subject left out at a time?

    python benchmarks/science/baselines.py [--data DIR] [--models svm,rcn,…] [--workers 2]

Reads two sets of features without pixels (`real-features/composite-half` and `real-features/casme2-half` in the folder
of real data: by default that of the environment variable DEFT_REAL_DATA, or ../shared/data). Only baselines that read
flow can be asked. All have their default settings; the last weights are taken. Finished folds are kept in --output.
The first model named is compared with each of the others. The networks need 3 to 10
seconds of one core per fold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from real_features import data_folder

LABELS = ("negative", "positive", "surprise")
SETS = ("composite-half", "casme2-half")
MODELS = "svm,majority,ststnet,off_apexnet,rcn,micro_attention_flow,learnet_flow,affectivenet_style_flow"


def main() -> int:
    # Imported here: the folds' processes import this file too.
    from deft_llm.evaluation.fold_runs import run_protocol
    from deft_llm.evaluation.protocols import make_task
    from deft_llm.evaluation.report import make_report, write_report
    from deft_llm.evaluation.run import baseline_spec, load_splits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench-baselines"))
    arguments = parser.parse_args()
    for name in arguments.sets.split(","):
        folder = arguments.data / "real-features" / name
        if not folder.is_dir():
            parser.error(f"{folder} does not exist; --data names the folder of real data.")
        splits = load_splits(str(folder), with_video=False)
        task = make_task(splits, "loso", labels=LABELS)
        rows = [row for part in splits.values() for row in part]
        used = [row for row in rows if row["clip_id"] in task.label_of]
        results = []
        for model in arguments.models.split(","):
            spec = baseline_spec(model, used, task.labels)
            cache = arguments.output / "folds"
            results.append(run_protocol(rows, task, spec, cache=cache, workers=arguments.workers, seed=arguments.seed))
        report = make_report(rows, task, results, dataset=name, mode="recognition", seed=arguments.seed)
        write_report(report, results, arguments.output / name)
        print_report(report, results)
    return 0


def print_report(report: dict, results: list) -> None:
    """Prints the figures of each model, by source where there are several, and the differences to the first one."""
    counts = ", ".join(f"{label} {count}" for label, count in report["classes"].items())
    print(f"{report['dataset']}: {report['clips']} clips of {report['subjects']} subjects ({counts})")
    differences = {item["against"]: item for item in report["comparisons"]}
    for result in results:
        figures = report["models"][result.model]
        low, high = figures["intervals"]["uf1"]
        line = f"{result.model:24} UF1 {figures['uf1']:.3f} ({low:.3f} to {high:.3f}), UAR {figures['uar']:.3f}"
        for source, values in figures.get("per_source", {}).items():
            line += f", {source} {values['uf1']:.3f}"
        line += f"; {np.mean(list(result.seconds.values())):.1f} s per fold"
        if result.model in differences:
            low, high = differences[result.model]["uf1_difference_interval"]
            line += f"; first model ahead by {low:+.3f} to {high:+.3f}"
        print(line)
    print()


if __name__ == "__main__":
    sys.exit(main())
