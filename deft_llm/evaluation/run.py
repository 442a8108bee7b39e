"""Evaluates micro-expression recognition: protocols, baselines, intervals, one report.

    deft evaluate --dataset DIR|REPO --protocol loso|lodo|casme2-5|… --model RECIPE --baselines svm --output-dir DIR

trains a model in every fold, on the fold's training rows alone, and writes report.json, report.md, pictures and the
`model-index` block of a model card. Stopped, it goes on where it was when it is started again. RECIPE is
recipes/recognition.yaml (experts and heads, no language model) or, with `--mode full`, a training recipe.

    deft evaluate --dataset DIR|REPO --model CHECKPOINT --output-dir DIR

scores a trained model, without training, on the dataset's test split (`--protocol fixed`).

    deft evaluate --model CHECKPOINT --questions me_vqa_test.jsonl --videos DIR --output-dir DIR

answers the questions of the MEGC question-answering tracks. Questions about long videos need no model.

    deft evaluate --megc practice --output-dir DIR [--model CHECKPOINT]

renders long videos, answers questions about them, and compares the answers with floors that see no video.

    deft evaluate --spotted spotted.csv --annotated annotated.csv --output-dir DIR

scores spotted intervals, and their classes if both files have them: F1 by type, STRS, and each video.

    deft evaluate --dataset DIR|REPO --protocol zero-shot --train-dataset DIR|REPO --model RECIPE --output-dir DIR

trains on one dataset, such as rendered faces, and tests on every labelled row of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deft_llm.files import code_fingerprint, write_zip
from deft_llm.recipes import find_recipe
from deft_llm.sharing.card import RUN_FILE, fill_card

MODES = ("recognition", "full")


def evaluate(
    dataset: str,
    output_dir: Path,
    *,
    model: str | None = None,
    protocol: str = "fixed",
    mode: str | None = None,
    baselines: Sequence[str] = (),
    target: str = "emotion_coarse",
    labels: Sequence[str] | None = None,
    emotion_words: Mapping[str, str] | None = None,
    workers: int = 2,
    seed: int = 0,
    resamples: int = 2000,
    unseen: bool = False,
    backbone: str | None = None,
    baseline_settings: Mapping[str, str] | None = None,
    train_dataset: str | None = None,
    inner: int | None = None,
    seeds: int = 1,
    max_new_tokens: int = 256,
    console: Any = None,
) -> dict[str, Any]:
    """Trains and scores the model and the baselines in every fold of a protocol, and writes the report.

    A trained model is scored as it is. Under the fixed protocol the card of its folder is filled with the figures.

    Args:
        dataset: Uni-MER dataset: a folder or a Hub repository.
        output_dir: Folder for the report, and for finished folds.
        model: Recipe (YAML) to train in every fold, or folder or Hub repository of a trained model.
        protocol: One of `protocols.PROTOCOLS`.
        mode: "recognition" takes the class from the heads, "full" from the generated answer. By default a recipe is
            evaluated in recognition mode, and a trained model in full mode.
        baselines: Names of `baselines.BASELINES`.
        target: Column to predict.
        labels: The fixed label list; by default every value that occurs. Rows with other values are left out.
        emotion_words: For published protocols: emotion words, each with the known word that means the same.
        workers: Folds at a time, one core each.
        seed: Seed of the training and of the bootstrap.
        resamples: Resamples of the bootstrap over subjects.
        unseen: Vouch that a trained model has seen no subject of the dataset; needed for all protocols but fixed.
        backbone: Folder or Hub repository of a vision model of transformers, for the baselines that need one.
        baseline_settings: Settings of baselines that replace their own: "name.setting" → value, as YAML.
        train_dataset: Uni-MER dataset, all splits of it: for the zero-shot protocol the one to train on; for others
            its rows join the training rows of every fold.
        inner: For a recipe in recognition mode: choose its settings in this number of folds of training subjects.
        seeds: Number of seeds, from `seed` on. The report is of the first, with mean and range over all; those of the
            others are in the folders seed-N.
        max_new_tokens: Longest generated answer, in tokens.
        console: `rich.console.Console` to print to.

    Returns:
        The report, as `report.json` holds it.

    Raises:
        FileNotFoundError: There is no such recipe, model or dataset.
        ValueError: The model, the protocol and the dataset do not fit together.
        RuntimeError: A fold failed; what other folds finished is kept.
    """
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import Progress

    from deft_llm.evaluation.baselines import baseline_class
    from deft_llm.evaluation.fold_runs import run_protocol
    from deft_llm.evaluation.protocols import ZERO_SHOT, in_one_line, make_task, with_joined
    from deft_llm.evaluation.report import make_report, markdown, over_seeds, with_heads, write_report

    if not model and not baselines:
        raise ValueError("There is nothing to evaluate: give --model, or --baselines, or both.")
    if protocol == ZERO_SHOT and train_dataset is None:
        raise ValueError("The zero-shot protocol tests on every row of --dataset; give --train-dataset to train on.")
    if protocol == "fixed" and train_dataset is not None:
        raise ValueError("The fixed protocol trains on the dataset's own split; remove --train-dataset.")
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1; got {seeds}.")
    kinds = [baseline_class(name) for name in baselines]
    trained = model is not None and not is_recipe(model)
    mode = mode or ("full" if trained else "recognition")
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}. Known: {', '.join(MODES)}.")
    with_video = any(kind.needs_video for kind in kinds) or (model is not None and (mode == "full" or trained))
    splits = load_splits(dataset, with_video=with_video)
    others: list[dict[str, Any]] = []
    if train_dataset is not None:
        others = [row for part in load_splits(train_dataset, with_video=with_video).values() for row in part]
    if protocol == ZERO_SHOT:
        splits = {"train": others, "test": [row for part in splits.values() for row in part]}
    task = make_task(splits, protocol, target=target, labels=labels, emotion_words=emotion_words)
    if inner is not None:
        check_inner(inner, task, {row["clip_id"]: row["subject"] for part in splits.values() for row in part})
        if trained or mode != "recognition" or model is None:
            raise ValueError("--inner chooses settings of a recipe in recognition mode; give such a --model.")
    console = console or Console()
    console.print(in_one_line(task), highlight=False, soft_wrap=True)
    if others and protocol != ZERO_SHOT:
        task, joined = with_joined(task, others)
        splits = {**splits, train_dataset: joined}
        console.print(f"{len(joined)} of {len(others)} rows of {train_dataset} join the training.", soft_wrap=True)
    rows = [row for part in splits.values() for row in part]
    cache = Path(output_dir) / "folds"
    used = [row for row in rows if row["clip_id"] in task.label_of]
    settings = _settings_by_name(baseline_settings or {}, baselines)
    specs = [baseline_spec(name, used, task.labels, backbone=backbone, **settings[name]) for name in baselines]
    if model is not None:
        spec = model_spec(
            model,
            splits,
            cache,
            protocol=protocol,
            mode=mode,
            unseen=unseen,
            max_new_tokens=max_new_tokens,
            inner=inner,
        )
        specs.insert(0, spec)
    reports, kept = {}, {}
    with Progress(console=console) as progress:
        for one in range(seed, seed + seeds):
            results = []
            for spec in specs:
                bar = progress.add_task(spec.name, total=len(task.folds))
                done = partial(_advance, progress, bar)
                results.append(run_protocol(rows, task, spec, cache=cache, workers=workers, seed=one, on_fold=done))
            kept[one] = results
            reports[one] = make_report(
                rows,
                task,
                with_heads(results),
                dataset=dataset_name(dataset),
                mode=mode,
                seed=one,
                configs={spec.name: spec.config | _backbone_of(spec) for spec in specs},
                trained_on=None if train_dataset is None else dataset_name(train_dataset),
                resamples=resamples,
            )
    report = reports[seed] | ({"seeds": over_seeds(reports)} if seeds > 1 else {})
    for one in range(seed + 1, seed + seeds):
        write_report(reports[one], kept[one], Path(output_dir) / f"seed-{one}")
    write_report(report, kept[seed], output_dir)
    console.print(Markdown("\n".join(markdown(report).splitlines()[:20])))
    console.print(f"Written to {output_dir}", highlight=False, soft_wrap=True)
    if trained and protocol == "fixed" and (Path(model) / RUN_FILE).is_file():
        # The card of a folder of ours says what has been measured of it.
        card = fill_card(model, report=Path(output_dir) / "report.json")
        console.print(f"Card filled: {card}", highlight=False, soft_wrap=True)
    return report


def check_inner(inner: int, task: Any, subject_of: Mapping[str, str]) -> None:
    """Raises `ValueError` that names a fold whose training subjects cannot be divided into so many inner folds.

    Args:
        inner: Number of inner folds.
        task: The task.
        subject_of: Clip id → subject.
    """
    for fold in task.folds:
        subjects = len({subject_of[clip] for clip in fold.train})
        if not 2 <= inner <= subjects:
            raise ValueError(
                f"--inner {inner}: fold {fold.name} trains on {subjects} subjects; choose a number from 2 to "
                f"{subjects}."
            )


def _backbone_of(spec: Any) -> dict[str, str]:
    """The name of the backbone that a baseline reads with, without the folder it lies in."""
    found = {**spec.files, **spec.config}.get("backbone")
    return {"backbone": dataset_name(str(found))} if found else {}


def _advance(progress: Any, bar: Any, fold: str) -> None:
    progress.advance(bar)


def _settings_by_name(given: Mapping[str, str], baselines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Baseline → its settings, from "name.setting" → value."""
    import yaml

    found: dict[str, dict[str, Any]] = {name: {} for name in baselines}
    for key, value in given.items():
        name, _, setting = key.partition(".")
        if name not in found or not setting:
            raise ValueError(
                f"--baseline-setting {key}={value} is not a setting of a baseline that runs. Write "
                f"NAME.SETTING=VALUE, with a name of --baselines: {', '.join(baselines) or 'none is given'}."
            )
        found[name][setting] = yaml.safe_load(value)
    return found


def baseline_spec(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    *,
    backbone: str | None = None,
    **settings: Any,
) -> Any:
    """Describes a baseline to the harness. What it cannot read is said before any fold runs.

    Args:
        name: A key of `baselines.BASELINES`.
        rows: The rows of the task.
        labels: The fixed label list.
        backbone: Folder or Hub repository of a vision model, for the baselines that need one.
        **settings: Settings that replace the baseline's own.

    Returns:
        A `fold_runs.ModelSpec`.

    Raises:
        ValueError: A row cannot be read by this baseline, it needs a backbone that is not given or not usable, or it
            does not have one of the settings.
    """
    from deft_llm.evaluation.baselines import baseline_class, check_readable, make_baseline
    from deft_llm.evaluation.fold_runs import ModelSpec

    kind = baseline_class(name)
    check_readable(name, rows)
    needs_backbone = getattr(kind, "needs_backbone", False)
    try:
        model = kind(labels=labels, **settings, **({"backbone": backbone} if needs_backbone else {}))
    except TypeError as error:
        raise ValueError(f"{name} does not have these settings, {', '.join(settings)}: {error}.") from error
    config, files = {"name": name, **settings}, {}
    if needs_backbone:
        model.build(len(labels))  # a backbone that does not fit is named here
        # Of a folder the content decides whether finished folds are valid, and not its name.
        (files if Path(backbone).is_dir() else config)["backbone"] = backbone
    return ModelSpec(name, make_baseline, config, files, needs_video=kind.needs_video)


def answer_track(
    model: str | None,
    questions: Path,
    videos: Path,
    output_dir: Path,
    *,
    training: Path | None = None,
    text_model: str | None = None,
    max_new_tokens: int = 256,
    face_source: str | None = None,
    fps: float | None = None,
) -> dict[str, Any] | None:
    """Answers a file of the question-answering tracks and writes the submission, also as a zip.

    The timelines of long videos are written to `timelines`. If a run is interrupted, the next one goes on from them.

    Args:
        model: Folder or Hub repository of a trained model. Questions about long videos (ME-LVQA) can be answered
            without one: action units are then found by rule.
        questions: JSONL of the track.
        videos: Folder with the videos that the questions name.
        output_dir: Folder for the submission and the figures.
        training: JSONL of the track with answers, for floors: what can be answered without a look at the videos.
        text_model: Language model that is one more floor, as in `text_only.text_only_answers`. Needs `training`.
        max_new_tokens: Longest answer, in tokens.
        face_source: Finds the face in long videos, see `processing.face_alignment.make_face_source`.
        fps: Frames per second of long videos that are folders of frames.

    Returns:
        The figures, where the file has references; they are written to `me_vqa.json`, too. With `training`, `floors`
        has those of the floors, and of ME-LVQA also how far the answers are ahead of each.

    Raises:
        FileNotFoundError: There is no such file or video.
        ValueError: A line of the file cannot be used; the message names it. Or a model or the training file is
            needed, or the training file has videos of the questions.
    """
    from deft_llm.evaluation import me_lvqa, me_vqa
    from deft_llm.evaluation.generation import load_checkpoint
    from deft_llm.evaluation.me_lvqa import answer_long_questions, is_long, recognise_with
    from deft_llm.evaluation.me_vqa import answer_questions, read_questions, write_submission
    from deft_llm.evaluation.text_only import text_only_answers

    if text_model is not None and training is None:
        raise ValueError("--text-model needs --training-questions: its prompts have examples from that file.")
    asked = read_questions(questions)
    long = is_long(asked)
    guesses = {}
    if training is not None:  # before the videos are read, because it may be refused
        known = read_questions(training)
        floors = {"majority": me_vqa.majority_answers}
        if long:
            floors = {"prior": me_lvqa.prior_answers, "majority": me_lvqa.majority_answers}
        if text_model is not None:
            floors["text_only"] = partial(text_only_answers, model=text_model)
        guesses = {name: floor(known, asked) for name, floor in floors.items()}
    if long:
        recognise = None if model is None else recognise_with(*load_checkpoint(model))
        code = code_fingerprint("deft_llm.processing", "deft_llm.evaluation.me_lvqa")
        # A folder may have another model in it the next time.
        weights = [model, me_lvqa.stamp(Path(model))] if model is not None and Path(model).is_dir() else model
        answers = answer_long_questions(
            asked,
            videos,
            face_source=face_source,
            recognise=recognise,
            fps=fps,
            keep=Path(output_dir) / "timelines",
            settings={"model": weights, "face_source": face_source, "fps": fps, "code": code},
        )
    elif model is None:
        raise ValueError("Questions about clips need --model.")
    else:
        answers = answer_questions(asked, videos, model, max_new_tokens=max_new_tokens)
    path = Path(output_dir) / f"{Path(questions).stem}_pred.jsonl"
    write_submission(path, asked, answers)
    write_zip(path.with_suffix(".zip"), path)
    print(f"{len(asked)} answers written to {path}, and for the server to {path.with_suffix('.zip').name}")
    if any(item.answer is None for item in asked):
        return None
    score = me_lvqa.score_long_answers if long else me_vqa.score_answers
    figures = score(asked, answers)
    if guesses:
        figures["floors"] = {name: score(asked, said) for name, said in guesses.items()}
    if long:
        for name, said in guesses.items():
            figures["floors"][f"ahead_of_{name}"] = me_lvqa.compared(asked, answers, said)
    (Path(output_dir) / "me_vqa.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return figures


def dataset_name(dataset: str) -> str:
    """The name of a Hub repository as it is, and of a folder its last part."""
    return Path(dataset).resolve().name if Path(dataset).exists() else dataset


def load_splits(dataset: str, *, with_video: bool) -> dict[str, list[dict[str, Any]]]:
    """Loads the splits of a Uni-MER dataset, with their flow as arrays.

    Args:
        dataset: Folder or Hub repository.
        with_video: Keep the video column, which is most of a dataset's size.

    Returns:
        Split → rows.

    Raises:
        FileNotFoundError: There is no such dataset, or this account may not read it.
        ValueError: A column is missing.
    """
    import numpy as np

    from deft_llm.training.data import load_splits as load_uni_mer

    splits = {}
    for name, part in load_uni_mer(dataset).items():
        if not with_video and "video" in part.column_names:
            part = part.remove_columns("video")
        part = part.with_format("numpy", columns=["flow"], output_all_columns=True)
        # A video that has yet to be searched has no flow; in an array that is NaN everywhere.
        splits[name] = [
            {"video": None, **row, "flow": None if np.isnan(row["flow"]).all() else row["flow"]} for row in part
        ]
    return splits


def is_recipe(model: str) -> bool:
    """Whether `--model` names a recipe, and not a trained model."""
    return Path(model).suffix in (".yaml", ".yml")


def model_spec(
    model: str,
    splits: dict[str, list[dict]],
    cache: Path,
    *,
    protocol: str,
    mode: str,
    unseen: bool = False,
    max_new_tokens: int = 256,
    inner: int | None = None,
) -> Any:
    """Describes what `--model` names, in the chosen mode, to the harness.

    Args:
        model: Recipe, or folder or Hub repository of a trained model.
        splits: Split → rows.
        cache: Folder of finished folds.
        protocol: One of `protocols.PROTOCOLS`.
        mode: One of `MODES`.
        unseen: Whether a trained model is known to have seen no subject of the dataset.
        max_new_tokens: Longest generated answer, in tokens.
        inner: Number of inner folds to choose the recipe's settings in, if they are to be chosen.

    Returns:
        A `fold_runs.ModelSpec`.

    Raises:
        ValueError: The recipe is for the other mode, or the subjects of a trained model are not known to be unseen.
        FileNotFoundError: There is no such recipe.
    """
    import numpy as np
    import yaml

    from deft_llm.evaluation.fold_runs import ModelSpec
    from deft_llm.evaluation.generation import Checkpoint, FineTuned
    from deft_llm.evaluation.nested import NestedRecogniser, candidates
    from deft_llm.evaluation.recognition import DeftRecogniser
    from deft_llm.training.recognition import RecognitionConfig, prior_path

    full = mode == "full"
    if not is_recipe(model):
        if protocol != "fixed" and not unseen:
            raise ValueError(
                f"{model} is a trained model, and {protocol} tests every subject, those it was trained on included. "
                "Give a recipe to train in every fold, or --unseen if it has seen none of them."
            )
        if Path(model).exists() and not (Path(model) / "config.json").is_file():
            raise FileNotFoundError(
                f"--model {model}: no config.json in it; pass a folder that `deft train` has written."
            )
        config = {"path": str(model), "generate": full, "max_new_tokens": max_new_tokens}
        return ModelSpec("DEFT, trained before", Checkpoint, config, needs_video=True, abstains=full)
    path = find_recipe(model)
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if full:
        if "text" not in recipe:
            raise ValueError(f"{model} names no language model (`text`): full mode takes a recipe of `deft train`.")
        config = {"max_new_tokens": max_new_tokens}
        return ModelSpec("DEFT, full", FineTuned, config, {"recipe_file": path}, needs_video=True, abstains=True)
    if "text" in recipe:
        raise ValueError(
            f"{model} is a recipe of `deft train`; use it with --mode full, or recipes/recognition.yaml here."
        )
    settings = RecognitionConfig.of(recipe)
    files = {}
    if settings.prior_steps and settings.kernel_share < 1:  # the kernel machine has no prior
        lengths = {np.shape(row["flow"])[0] for rows in splits.values() for row in rows if row["flow"] is not None}
        files["prior"] = prior_path(settings, min(max(lengths, default=1), settings.max_frames), cache)
    if inner is not None:
        candidates(settings)  # a recipe without anything to choose is named here
        return ModelSpec("DEFT, nested", NestedRecogniser, recipe | {"inner": inner}, files)
    return ModelSpec("DEFT, recognition", DeftRecogniser, recipe, files)
