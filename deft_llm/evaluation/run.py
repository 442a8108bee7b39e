"""Evaluates micro-expression recognition: protocols, baselines, intervals, one report.

    python -m deft_llm.evaluation.run --dataset DIR|REPO --protocol loso|cde|lodo|fixed --model CONFIG|CHECKPOINT \\
        --baselines svm,ststnet --mode recognition|full --output DIR

trains a model in every fold, on the fold's training rows alone, and writes report.json, report.md, pictures and the
`model-index` block of a model card. Stopped, it goes on where it was when it is started again. CONFIG is
recipes/recognition.yaml (experts and heads, no language model) or, for `--mode full`, a training recipe.

    python -m deft_llm.evaluation.run --model build/deft-tiny --dataset build/demo/data --output build/evaluation

without a protocol scores a trained model on a test split by what it generates and by its recognition head.

    python -m deft_llm.evaluation.run --model build/deft-tiny --questions me_vqa_test.jsonl --videos DIR --output DIR

answers the questions of the MEGC question-answering track.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from deft_llm.sharing.card import RUN_FILE, fill_card


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="recipe (YAML) to train in every fold, or a trained model's folder or repository"
    )
    parser.add_argument("--dataset", help="Uni-MER dataset: folder or Hub repository")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report, and for finished folds")
    protocols = parser.add_argument_group("protocols")
    protocols.add_argument("--protocol", choices=("loso", "cde", "lodo", "fixed"))
    protocols.add_argument("--mode", choices=("recognition", "full"), default="recognition")
    protocols.add_argument("--baselines", default="", help="such as majority,svm,ststnet,off_apexnet")
    protocols.add_argument("--target", default="emotion_coarse", help="column to predict (default: emotion_coarse)")
    protocols.add_argument("--labels", help="fixed label list, with commas; default: what occurs")
    protocols.add_argument("--workers", type=int, default=2, help="folds at a time, one core each (default: 2)")
    protocols.add_argument("--seed", type=int, default=0)
    protocols.add_argument("--resamples", type=int, default=2000, help="of the bootstrap over subjects")
    protocols.add_argument(
        "--unseen",
        action="store_true",
        help="for a trained model with loso, cde or lodo: you vouch that it has seen no subject of the dataset",
    )
    split = parser.add_argument_group("a trained model on one split")
    split.add_argument("--split", default="test", help="split to score; its subjects must be unseen (default: test)")
    split.add_argument("--train-split", default="train", help="split whose majority class is the baseline")
    split.add_argument("--batch-size", type=int, default=32)
    split.add_argument("--max-new-tokens", type=int, default=256)
    track = parser.add_argument_group("MEGC question answering")
    track.add_argument("--questions", type=Path, help="JSONL of the track")
    track.add_argument("--videos", type=Path, help="folder with the videos that the questions name")
    arguments = parser.parse_args(argv)
    if arguments.questions and not (arguments.videos and arguments.model):
        parser.error("--questions needs --videos and --model")
    if not arguments.questions and not arguments.dataset:
        parser.error("--dataset is missing")
    if not arguments.model and not (arguments.protocol and arguments.baselines):
        parser.error("--model is missing; without one, give --protocol and --baselines")
    return arguments


def predict(model: Any, processor: Any, rows: Any, batch_size: int, max_new_tokens: int) -> list[dict[str, Any]]:
    """Generated answers and the heads' scores for every row, in order, beside the row's labels."""
    from functools import partial

    from rich.progress import track

    from deft_llm.evaluation.generation import answer_clips

    bar = partial(track, description="Evaluating on unseen identities")
    answered = answer_clips(model, processor, rows, batch_size, max_new_tokens, track=bar)
    return [
        {
            "clip_id": row["clip_id"],
            "subject": row["subject"],
            "emotion": row["emotion"],
            "action_units": [unit["code"] for unit in row["action_units"]],
            "generated": item["generated"],
            "head": max(item["scores"], key=item["scores"].get),
            "abstained": item["abstained"],
            "parsed": item["parsed"],
            "au_scores": item["au_scores"],
            "answer": item["answer"],
        }
        for row, item in zip(rows, answered, strict=True)
    ]


def summarise(predictions: list[dict[str, Any]], config: Any, majority: str) -> dict[str, Any]:
    """All figures of the report."""
    import numpy as np

    from deft_llm.evaluation.metrics import au_metrics, bootstrap_intervals, emotion_metrics, subject_confusions

    labels = list(config.emotion_labels)
    expressed = [item for item in predictions if item["emotion"] is not None]
    subjects = [item["subject"] for item in expressed]
    still = [item for item in predictions if item["emotion"] is None]
    true = [item["emotion"] for item in expressed]
    au_true = np.array([[code in item["action_units"] for code in config.action_units] for item in predictions])
    au_predicted = np.array([item["au_scores"] for item in predictions]) >= 0.5
    answers = {
        "majority class": [majority] * len(true),
        "recognition head": [item["head"] for item in expressed],
        "generated answer": [item["generated"] for item in expressed],
    }
    return {
        "clips": len(predictions),
        "subjects": len({item["subject"] for item in predictions}),
        "expressive_clips": len(expressed),
        "emotions": {name: emotion_metrics(true, given, labels) for name, given in answers.items()},
        "intervals": {
            name: {
                key: list(ends)
                for key, ends in bootstrap_intervals(subject_confusions(subjects, true, given, labels)).items()
            }
            for name, given in answers.items()
        },
        "action_units": {
            "majority class": au_metrics(au_true, np.zeros_like(au_true)),
            "recognition head": au_metrics(au_true, au_predicted),
        },
        "answers_parsed": sum(item["parsed"] for item in predictions) / len(predictions),
        "still_clips": len(still),
        "still_clips_abstained": sum(item["abstained"] for item in still) / len(still) if still else None,
        "expressive_clips_abstained": sum(item["abstained"] for item in expressed) / len(expressed),
    }


def score_split(arguments: argparse.Namespace) -> int:
    """A trained model on one split: writes report.json and predictions.jsonl, and prints a table."""
    from collections import Counter

    from datasets import load_dataset
    from rich.console import Console
    from rich.table import Table

    from deft_llm.evaluation.generation import load_checkpoint

    splits = load_dataset(arguments.dataset)
    for split in (arguments.split, arguments.train_split):
        if split not in splits:
            print(f"error: {arguments.dataset} has no split {split!r}; it has {', '.join(splits)}.", file=sys.stderr)
            return 1
    rows, train = splits[arguments.split], splits[arguments.train_split]
    shared = set(rows["subject"]) & set(train["subject"])
    if shared and arguments.split != arguments.train_split:
        print(f"error: {len(shared)} subjects are in both splits, such as {min(shared)}.", file=sys.stderr)
        return 1
    model, processor = load_checkpoint(arguments.model)
    majority = Counter(value for value in train["emotion"] if value is not None).most_common(1)[0][0]
    predictions = predict(model, processor, rows, arguments.batch_size, arguments.max_new_tokens)
    report = summarise(predictions, model.config, majority)
    report |= {"dataset": dataset_name(arguments.dataset), "split": arguments.split}

    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(item) + "\n" for item in predictions)
    (arguments.output / "predictions.jsonl").write_text(lines, encoding="utf-8")

    table = Table(title=f"{report['clips']} clips of {report['subjects']} unseen identities", title_justify="left")
    for heading in ("", "UF1", "UAR", "accuracy", "AU F1", "AU macro F1"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, metrics in report["emotions"].items():
        units = report["action_units"].get(name)
        cells = [f"{value:.3f}" for value in metrics.values()]
        cells += [f"{value:.3f}" for value in units.values()] if units else ["", ""]
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(f"answers that parse: {100 * report['answers_parsed']:.1f} %")
    if still := report["still_clips"]:
        console.print(f"still clips abstained from: {100 * report['still_clips_abstained']:.1f} % of {still}")
    console.print(f"Written to {arguments.output}")
    folder = Path(arguments.model)
    if (folder / RUN_FILE).is_file():
        # The card of a folder of ours says what has been measured of it.
        console.print(f"Card filled: {fill_card(folder, report=arguments.output / 'report.json')}")
    return 0


def dataset_name(dataset: str) -> str:
    """A Hub repository as it is, of a folder its own name."""
    return Path(dataset).resolve().name if Path(dataset).exists() else dataset


def load_splits(dataset: str, *, with_video: bool) -> dict[str, list[dict[str, Any]]]:
    """Split → rows of a Uni-MER dataset, their flow as arrays.

    Args:
        with_video: keep the video column, which is most of a dataset's size.
    """
    import numpy as np
    from datasets import load_dataset

    splits = {}
    for name, part in load_dataset(dataset).items():
        if not with_video and "video" in part.column_names:
            part = part.remove_columns("video")
        part = part.with_format("numpy", columns=["flow"], output_all_columns=True)
        # A video that has yet to be searched has no flow; in an array that is NaN everywhere.
        splits[name] = [
            {"video": None, **row, "flow": None if np.isnan(row["flow"]).all() else row["flow"]} for row in part
        ]
    return splits


def model_spec(arguments: argparse.Namespace, splits: dict[str, list[dict]], cache: Path) -> Any:
    """What `--model` names, in the chosen mode.

    Raises:
        ValueError: a recipe of the other mode, or a trained model whose subjects are not known to be unseen.
        FileNotFoundError: no such recipe.
    """
    import numpy as np
    import yaml

    from deft_llm.evaluation.fold_runs import ModelSpec
    from deft_llm.evaluation.generation import Checkpoint, FineTuned
    from deft_llm.evaluation.recognition import DeftRecogniser, RecognitionConfig, prior_path

    full = arguments.mode == "full"
    if Path(arguments.model).suffix not in (".yaml", ".yml"):
        if arguments.protocol != "fixed" and not arguments.unseen:
            raise ValueError(
                f"{arguments.model} is a trained model, and {arguments.protocol} tests every subject, those it was "
                "trained on included. Give a recipe to train in every fold, or --unseen if it has seen none of them."
            )
        config = {"path": str(arguments.model), "generate": full, "max_new_tokens": arguments.max_new_tokens}
        return ModelSpec("DEFT, trained before", Checkpoint, config, needs_video=True)
    if not Path(arguments.model).is_file():
        raise FileNotFoundError(f"There is no recipe {arguments.model}.")
    recipe = yaml.safe_load(Path(arguments.model).read_text(encoding="utf-8")) or {}
    if full:
        if "text" not in recipe:
            raise ValueError(
                f"{arguments.model} names no language model (`text`): full mode takes a recipe of train_sft."
            )
        config = {"max_new_tokens": arguments.max_new_tokens}
        return ModelSpec("DEFT, full", FineTuned, config, {"recipe_file": arguments.model}, needs_video=True)
    if "text" in recipe:
        raise ValueError(
            f"{arguments.model} is a recipe of train_sft; use it with --mode full, or recipes/recognition.yaml here."
        )
    settings = RecognitionConfig.of(recipe)
    files = {}
    if settings.prior_steps:
        lengths = {np.shape(row["flow"])[0] for rows in splits.values() for row in rows if row["flow"] is not None}
        files["prior"] = prior_path(settings, min(max(lengths, default=1), settings.max_frames), cache)
    return ModelSpec("DEFT, recognition", DeftRecogniser, recipe, files)


def evaluate(arguments: argparse.Namespace) -> int:
    """A protocol: trains and scores the model and the baselines in every fold and writes the report."""
    from functools import partial

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import Progress

    from deft_llm.evaluation.baselines import BASELINES, make_baseline
    from deft_llm.evaluation.fold_runs import ModelSpec, run_protocol
    from deft_llm.evaluation.protocols import make_task
    from deft_llm.evaluation.report import make_report, markdown, with_heads, write_report

    names = [name.strip() for name in arguments.baselines.split(",") if name.strip()]
    unknown = next((name for name in names if name not in BASELINES), None)
    if unknown:
        raise ValueError(f"Unknown baseline {unknown!r}. Known: {', '.join(BASELINES)}.")
    needs_video = bool(arguments.model) and (
        arguments.mode == "full" or Path(arguments.model).suffix not in (".yaml", ".yml")
    )
    splits = load_splits(arguments.dataset, with_video=needs_video)
    labels = [label.strip() for label in arguments.labels.split(",")] if arguments.labels else None
    task = make_task(splits, arguments.protocol, target=arguments.target, labels=labels)
    rows = [row for part in splits.values() for row in part]
    cache = arguments.output / "folds"
    specs = [model_spec(arguments, splits, cache)] if arguments.model else []
    specs += [ModelSpec(name, make_baseline, {"name": name}) for name in names]
    results = []
    with Progress() as progress:
        for spec in specs:
            bar = progress.add_task(spec.name, total=len(task.folds))
            done = partial(_advance, progress, bar)
            results.append(
                run_protocol(
                    rows, task, spec, cache=cache, workers=arguments.workers, seed=arguments.seed, on_fold=done
                )
            )
    report = make_report(
        rows,
        task,
        with_heads(results),
        dataset=dataset_name(arguments.dataset),
        mode=arguments.mode,
        seed=arguments.seed,
        configs={spec.name: spec.config for spec in specs},
        resamples=arguments.resamples,
    )
    write_report(report, results, arguments.output)
    console = Console()
    console.print(Markdown("\n".join(markdown(report).splitlines()[:20])))
    console.print(f"Written to {arguments.output}")
    return 0


def _advance(progress: Any, bar: Any, fold: str) -> None:
    progress.advance(bar)


def answer_track(arguments: argparse.Namespace) -> int:
    """The question-answering track: writes the submission and, where the file has references, its figures."""
    from deft_llm.evaluation.me_vqa import answer_questions, read_questions, score_answers, write_submission

    questions = read_questions(arguments.questions)
    answers = answer_questions(questions, arguments.videos, arguments.model, max_new_tokens=arguments.max_new_tokens)
    path = arguments.output / f"{arguments.questions.stem}_pred.jsonl"
    write_submission(path, questions, answers)
    print(f"{len(questions)} answers written to {path}")
    if all(item.answer is not None for item in questions):
        figures = score_answers(questions, answers)
        (arguments.output / "me_vqa.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(figures, indent=2))
    return 0


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # Everything else is imported late: --help should not wait for torch.
    try:
        if arguments.questions:
            return answer_track(arguments)
        return evaluate(arguments) if arguments.protocol else score_split(arguments)
    except (FileNotFoundError, ImportError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
