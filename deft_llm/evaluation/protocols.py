"""Protocols, and the harness that trains a model a fold and cannot leak.

Of a fold, a model's process first receives the training rows and nothing else. Only when it has reported that training
is over does it receive the test rows, without labels, instruction text, provenance and telling names. Each fold runs
in a process of its own, so nothing is remembered from another fold. What the harness cannot rule out by construction
(a person under two names, copies of a clip, a prediction that leans on the other test clips) it looks for, and stops.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft_llm.hub_datasets.splits import (
    Fold,
    LeakageError,
    check_disjoint,
    check_folds,
    dfme_sets,
    leave_one_dataset_out,
    leave_one_subject_out,
    megc2019_composite,
)

PROTOCOLS = ("loso", "cde", "lodo", "fixed")
Row = Mapping[str, Any]

# All that a model gets to see of a test clip. A clip's name may tell its label (SMIC's hold "ne", "po" or "sur").
TEST_COLUMNS = ("source", "fps", "onset", "apex", "offset", "video", "flow", "motion")


class IncompleteError(ValueError):
    """Folds or predictions are missing; nothing may be reported. The message names them."""


# --- Tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What is predicted for which clips, and the folds it is done in.

    Args:
        labels: the fixed label list. label_of: clip id → label. left_out: clip id → why, for every other clip.
        differences: where a published protocol's counts are not met; the report repeats them.
    """

    protocol: str
    target: str
    labels: tuple[str, ...]
    label_of: dict[str, str]
    folds: tuple[Fold, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()


def make_task(
    splits: Mapping[str, Sequence[Row]],
    protocol: str,
    *,
    target: str = "emotion_coarse",
    labels: Sequence[str] | None = None,
) -> Task:
    """The folds of a protocol on the rows at hand.

    Args:
        splits: split → rows. Only `fixed` keeps to them: it trains on `train` and tests on `test`, or, where the rows
            are DFME's, trains on its training set and tests on A and B. The other protocols pool all rows.
        protocol: loso (leave one subject out), cde (MEGC 2019 composite: three classes, LOSO over its subjects), lodo
            (leave one dataset out) or fixed.
        target: column to predict; for cde always the composite's three classes.
        labels: the fixed label list; default: every value that occurs. Clips without a value are left out.

    Raises:
        ValueError: unknown protocol, a label outside the list, an empty fold, one class only in training.
        LeakageError: a subject or a clip on both sides.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}. Known: {', '.join(PROTOCOLS)}.")
    rows = [row for part in splits.values() for row in part]
    if not rows:
        raise ValueError("The dataset has no rows.")
    left_out: dict[str, str] = {}
    differences: Sequence[str] = ()
    if protocol == "cde":
        composite = megc2019_composite(rows)
        if labels is not None and tuple(labels) != ("negative", "positive", "surprise"):
            raise ValueError("The composite has the labels negative, positive and surprise; leave out --labels.")
        target, labels = "MEGC 2019 class", ("negative", "positive", "surprise")
        label_of, left_out, differences = composite.labels, composite.left_out, composite.differences
    else:
        label_of = {}
        for row in rows:
            if target not in row:
                raise ValueError(f"The rows have no column {target!r}; choose another --target.")
            if row[target] is None:
                left_out[row["clip_id"]] = f"no {target}"
            else:
                label_of[row["clip_id"]] = row[target]
    found = set(label_of.values())
    labels = tuple(labels) if labels is not None else tuple(sorted(found))
    for clip, label in label_of.items():
        if label not in labels:
            raise ValueError(f"Clip {clip} has the label {label!r}, which is not in the list {', '.join(labels)}.")
    used = [row for row in rows if row["clip_id"] in label_of]
    if not used:
        raise ValueError(f"No clip has a label for {protocol} ({target}).")
    if protocol == "fixed":
        folds, differences = _fixed_folds(splits, label_of)
    else:
        check_disjoint({"the dataset": used})  # a clip id twice would hide a clip
        folds = leave_one_dataset_out(used) if protocol == "lodo" else leave_one_subject_out(used)
        check_folds(folds, used)
    task = Task(protocol, target, labels, dict(label_of), tuple(folds), left_out, tuple(differences))
    check_trainable(task)
    return task


def _fixed_folds(splits: Mapping[str, Sequence[Row]], label_of: Mapping[str, str]) -> tuple[list[Fold], list[str]]:
    parts = {name: [row for row in rows if row["clip_id"] in label_of] for name, rows in splits.items()}
    every = [row for rows in parts.values() for row in rows]
    differences: list[str] = []
    if {row["source"] for row in every} == {"dfme"}:
        sets, differences = dfme_sets(every)
        tests = {name: clips for name, clips in sets.items() if name != "train" and clips}
        return [Fold(name, sets["train"], clips) for name, clips in tests.items()], differences
    missing = [name for name in ("train", "test") if name not in parts]
    if missing:
        raise ValueError(f"The fixed protocol needs the split {missing[0]!r}; the dataset has {', '.join(splits)}.")
    check_disjoint(parts)
    return [Fold("test", *(tuple(row["clip_id"] for row in parts[name]) for name in ("train", "test")))], differences


def check_trainable(task: Task) -> None:
    """Raises `ValueError` for an empty fold and for one class only in training; names the fold."""
    if not task.folds:
        raise ValueError(f"{task.protocol} makes no fold of these clips: there is nothing to test on.")
    for fold in task.folds:
        for side, clips in (("train", fold.train), ("test", fold.test)):
            if not clips:
                raise ValueError(f"Fold {fold.name} is empty: it has no clip to {side} on.")
        classes = {task.label_of[clip] for clip in fold.train}
        if len(classes) < 2:
            raise ValueError(f"Fold {fold.name} has one class only in training, {classes.pop()!r}; two are needed.")


# --- Leaks ----------------------------------------------------------------------------------------------------------

COPY = 0.995  # correlation of two clips' flow, head motion removed, from which one is a copy of the other


def check_leaks(rows: Sequence[Row], task: Task) -> None:
    """Looks for what subject-disjoint names do not rule out.

    Raises:
        LeakageError: a subject on both sides of a fold; one person's clips (by clip id) under several subjects, as
            when subjects were made from file names; a clip and a copy of it, mirrored or rescaled, on two sides of a
            fold; a training clip whose instruction text names a test clip.
    """
    by_id = {row["clip_id"]: row for row in rows}
    absent = [clip for clip in task.label_of if clip not in by_id]
    if absent:
        raise ValueError(f"Clip {absent[0]} is part of the task and not among the rows.")
    for fold in task.folds:
        check_disjoint(
            {
                f"{fold.name}, {side}": [by_id[clip] for clip in clips]
                for side, clips in (("train", fold.train), ("test", fold.test))
            }
        )
    used = [by_id[clip] for clip in task.label_of]
    people: dict[str, set[str]] = defaultdict(set)
    for row in used:
        parts = row["clip_id"].split("/")
        if len(parts) >= 3:
            people["/".join(parts[:2])].add(row["subject"])
    for person, subjects in people.items():
        if len(subjects) > 1:
            first, second = sorted(subjects)[:2]
            raise LeakageError(
                f"{person}, by its clip ids one person, has clips under the subjects {first} and {second}. Subjects "
                "must be people, not files."
            )
    sides = [({*fold.train}, {*fold.test}, fold.name) for fold in task.folds]
    for first, second in _copies(used):
        for train, test, name in sides:
            if (first in train and second in test) or (second in train and first in test):
                raise LeakageError(
                    f"{first} and {second} are copies of one clip, and on two sides of fold {name}. Augment inside "
                    "the fold, and keep one subject's clips under one name."
                )
    _check_instructions(used, sides)


def _copies(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Pairs of clips of different subjects with the same flow, or mirrored, or times a factor, or the same video."""
    pairs = []
    videos: dict[str, Row] = {}
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        video = (row.get("video") or {}).get("bytes")
        if video:
            other = videos.setdefault(hashlib.sha256(video).hexdigest(), row)
            if other["subject"] != row["subject"]:
                pairs.append((other["clip_id"], row["clip_id"]))
        if row.get("flow") is not None:
            groups[np.shape(row["flow"])].append(row)
    for group in groups.values():
        flows = np.stack([np.asarray(row["flow"], np.float32) for row in group])
        mirrored = flows[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
        plain, turned = _directions(flows), _directions(mirrored)
        people = np.array([row["subject"] for row in group])
        for start in range(0, len(group), 1024):  # a block at a time: memory does not grow with the square
            block = plain[start : start + 1024]
            alike = np.maximum(block @ plain.T, block @ turned.T) > COPY
            for row, column in np.argwhere(alike):
                if start + row < column and people[start + row] != people[column]:
                    pairs.append((group[start + row]["clip_id"], group[column]["clip_id"]))
    return pairs


def _directions(flows: np.ndarray) -> np.ndarray:
    """(clips, features) of length one, each frame's median removed; all zeros for a clip that stands still."""
    flat = (flows - np.median(flows, axis=(-2, -1), keepdims=True)).reshape(len(flows), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(lengths > 0, flat / np.maximum(lengths, 1e-12), 0)


def _check_instructions(rows: Sequence[Row], sides: Sequence[tuple[set, set, str]]) -> None:
    texts = {}
    for row in rows:
        blocks = [
            block.get("text") or ""
            for conversation in row.get("conversations") or ()
            for message in conversation["messages"]
            for block in message["content"]
        ]
        if blocks:
            texts[row["clip_id"]] = " ".join(blocks)
    if not texts:
        return
    named: dict[str, list[str]] = defaultdict(list)  # training clip → clips that its text names
    ids = [row["clip_id"] for row in rows]
    for clip, text in texts.items():
        # Nearly every text names no clip at all: look for the separator before looking for each name.
        if "/" in text or "_" in text:
            named[clip] = [other for other in ids if other != clip and any(name in text for name in _names(other))]
    for clip, others in named.items():
        for train, test, fold in sides:
            told = next((other for other in others if other in test), None)
            if clip in train and told:
                raise LeakageError(
                    f"The instruction text of {clip}, in training, names {told}, which fold {fold} tests."
                )


def _names(clip_id: str) -> tuple[str, ...]:
    """A clip's id, and its form in the question-answering track: source_subject_clip."""
    return clip_id, "_".join(clip_id.split("/")[:3])


# --- Running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSpec:
    """A model to evaluate.

    Args:
        name: in the report. factory: `factory(labels=…, seed=…, **config)`, a function or class importable by name,
            which returns a fresh `baselines.Recogniser`.
        files: further arguments that are files; their content, not their path, decides whether a finished fold is
            still valid.
        needs_video: whether the `video` column is passed on.
    """

    name: str
    factory: Callable[..., Any]
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str | Path] = field(default_factory=dict)
    needs_video: bool = False


@dataclass
class RunResult:
    """Predictions of every tested clip: fold → clip id → prediction; seconds and peak memory (MB) of each fold."""

    model: str
    predictions: dict[str, dict[str, dict[str, Any]]]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, float] = field(default_factory=dict)
    cached: int = 0

    def pooled(self, task: Task) -> dict[str, dict[str, Any]]:
        """Clip id → prediction, over all folds.

        Raises:
            IncompleteError: a fold or a clip is missing; a part is never taken for the whole.
        """
        missing = [fold.name for fold in task.folds if fold.name not in self.predictions]
        if missing:
            raise IncompleteError(
                f"{self.model}: {len(missing)} of {len(task.folds)} folds are missing: {_listed(missing)}. Run again "
                "with the same --output to finish them."
            )
        pooled = {}
        for fold in task.folds:
            found = self.predictions[fold.name]
            lost = [clip for clip in fold.test if clip not in found]
            strange = [clip for clip in found if clip not in set(fold.test)]
            if lost:
                raise IncompleteError(f"{self.model}, fold {fold.name}: no prediction for {_listed(lost)}.")
            if strange:
                raise IncompleteError(f"{self.model}, fold {fold.name}: {_listed(strange)} is not tested there.")
            pooled |= found
        return pooled


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def run_protocol(
    rows: Sequence[Row],
    task: Task,
    model: ModelSpec,
    *,
    cache: str | Path,
    workers: int = 2,
    seed: int = 0,
    on_fold: Callable[[str], None] | None = None,
) -> RunResult:
    """Trains and tests a model in every fold; finished folds are kept in `cache` and not run again.

    Args:
        rows: Uni-MER rows; those outside the task are not touched.
        cache: folder of results, one JSON a fold, named by the hash of rows, labels, folds, model, seed and code.
        workers: processes at a time, one thread each.
        on_fold: called with a fold's name when it is done.

    Raises:
        LeakageError: see `check_leaks`; or a prediction that depends on the other test clips.
        RuntimeError: a fold failed; names it and repeats its traceback. What other folds finished stays cached.
        ValueError: predictions of another number or form than asked for.
    """
    check_trainable(task)
    check_leaks(rows, task)
    by_id = {row["clip_id"]: row for row in rows}
    hashes = {clip: row_hash(by_id[clip], with_video=model.needs_video) for clip in task.label_of}
    code = code_hash(model.factory)
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    result = RunResult(model.name, {})
    waiting = []
    for fold in task.folds:
        key = _fold_key(fold, task, hashes, model, seed, code)
        path = cache / f"{key}.json"
        stored = _read_cached(path, key)
        if stored is None:
            waiting.append((fold, key, path))
            continue
        result.cached += 1
        _keep(result, fold.name, stored)
        if on_fold:
            on_fold(fold.name)

    context = _context()
    running: dict[Any, tuple] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                fold, key, path = waiting.pop(0)
                train = [_training_row(by_id[clip], task, model) for clip in fold.train]
                ours, theirs = context.Pipe()
                process = context.Process(target=_run_fold, args=(theirs,))
                process.start()
                theirs.close()
                running[ours] = (process, fold, key, path)
                arguments = {**model.config, **{name: str(file) for name, file in model.files.items()}}
                job = (model.factory, arguments, task.labels, _fold_seed(seed, fold), train)
                _send(ours, job, process, model, fold)
            for connection in multiprocessing.connection.wait(list(running)):
                process, fold, key, path = running[connection]
                kind, content = _receive(connection, process, model, fold)
                if kind == "fitted":
                    test = [_test_row(by_id[clip], number, model) for number, clip in enumerate(fold.test)]
                    _send(connection, test, process, model, fold)
                    continue
                predictions = _checked_predictions(content.pop("predictions"), fold, task, model)
                # A resumed run is to give the same report to the last digit, so the numbers take the same way.
                stored = json.loads(json.dumps({"key": key, "fold": fold.name, "predictions": predictions, **content}))
                _write_json(path, stored)
                _keep(result, fold.name, stored)
                connection.close()
                process.join()
                del running[connection]
                if on_fold:
                    on_fold(fold.name)
    finally:
        for connection, (process, *_) in running.items():
            process.terminate()
            process.join()
            connection.close()
    return result


def _context():
    """Processes that start from a clean one with the libraries loaded: no fold inherits this process's memory."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "sklearn.svm", "torch", "deft_llm.evaluation.recognition"])
    return context


def _run_fold(connection) -> None:
    """The model's process: trains on what comes first, and asks for the test rows only then."""
    import resource

    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        try:
            factory, config, labels, seed, train = connection.recv()
            started = time.perf_counter()
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            model = factory(labels=list(labels), seed=seed, **config)
            model.fit(train)
            del train
            connection.send(("fitted", None))
            rows = connection.recv()
            predictions = model.predict(rows)
            alone = model.predict(rows[:1]) if len(rows) > 1 else predictions
            dependent = None
            if len(predictions) == len(rows) and len(alone) == 1:
                apart = np.abs(np.subtract(predictions[0]["scores"], alone[0]["scores"])).max()
                dependent = bool(apart > 1e-3) or predictions[0].get("label") != alone[0].get("label")
            connection.send(
                (
                    "predicted",
                    {
                        "predictions": predictions,
                        "depends_on_others": dependent,
                        "seconds": time.perf_counter() - started,
                        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    },
                )
            )
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the harness was stopped: nobody is left to tell
            return
        except BaseException:
            connection.send(("failed", traceback.format_exc()))


def _send(connection, content: Any, process, model: ModelSpec, fold: Fold) -> None:
    try:
        connection.send(content)
    except (BrokenPipeError, ConnectionResetError):
        _receive(connection, process, model, fold)  # says why
        raise


def _receive(connection, process, model: ModelSpec, fold: Fold) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise RuntimeError(
            f"{model.name}, fold {fold.name}: the process ended with exit code {process.exitcode} and without a "
            "result; −9 usually means that memory ran out."
        ) from None
    if kind == "failed":
        raise RuntimeError(f"{model.name}, fold {fold.name}:\n{content}")
    if kind == "predicted" and content.pop("depends_on_others"):
        raise LeakageError(
            f"{model.name}, fold {fold.name}: the prediction of {fold.test[0]} changes when the other test clips are "
            "absent. A model must not adapt to, or normalise over, the test clips."
        )
    return kind, content


def _training_row(row: Row, task: Task, model: ModelSpec) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if model.needs_video or name != "video"}
    return {"video": None, **kept, "label": task.label_of[row["clip_id"]]}


def _test_row(row: Row, number: int, model: ModelSpec) -> dict[str, Any]:
    kept = {name: row.get(name) for name in TEST_COLUMNS}
    if not model.needs_video or kept["video"] is None:
        kept["video"] = None
    elif kept["video"].get("bytes"):
        kept["video"] = {"bytes": kept["video"]["bytes"], "path": None}
    # No subject either: a test clip stands for itself.
    return {"clip_id": f"test clip {number}", **kept}


def _checked_predictions(predictions: Any, fold: Fold, task: Task, model: ModelSpec) -> dict[str, dict[str, Any]]:
    where = f"{model.name}, fold {fold.name}"
    if len(predictions) != len(fold.test):
        raise IncompleteError(f"{where}: {len(predictions)} predictions for {len(fold.test)} clips.")
    checked = {}
    for clip, prediction in zip(fold.test, predictions, strict=True):
        if prediction is None or "scores" not in prediction:
            raise IncompleteError(f"{where}: no prediction for {clip}.")
        scores = np.asarray(prediction["scores"], float)
        if scores.shape != (len(task.labels),) or not np.isfinite(scores).all() or abs(scores.sum() - 1) > 1e-3:
            raise ValueError(f"{where}: the scores of {clip} are not {len(task.labels)} probabilities: {scores}.")
        label = prediction.get("label", task.labels[int(scores.argmax())])
        if label is not None and label not in task.labels:
            raise ValueError(f"{where}: {clip} is predicted {label!r}, which is not in {', '.join(task.labels)}.")
        checked[clip] = {**prediction, "scores": scores.tolist(), "label": label}
    return checked


def _keep(result: RunResult, fold: str, stored: Mapping[str, Any]) -> None:
    result.predictions[fold] = stored["predictions"]
    result.seconds[fold] = stored["seconds"]
    result.peak_memory[fold] = stored["peak_memory"]


# --- Hashes and files -----------------------------------------------------------------------------------------------


def row_hash(row: Row, *, with_video: bool = True) -> str:
    """SHA-256 of a row's content, whatever container holds it."""
    digest = hashlib.sha256()
    for name in sorted(row):
        value = row[name]
        digest.update(f"\0{name}\0".encode())
        if name == "video":
            if with_video and value:
                digest.update(value.get("bytes") or str(value.get("path")).encode())
        elif name == "flow" and value is not None:
            flow = np.ascontiguousarray(value, np.float32)
            digest.update(f"{flow.shape}".encode() + flow.tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def split_hash(task: Task) -> str:
    """SHA-256 of the folds, the labels and who is in which; two reports with the same one can be compared."""
    content = {
        "labels": task.labels,
        "label_of": task.label_of,
        "folds": [[fold.name, sorted(fold.train), sorted(fold.test)] for fold in task.folds],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_hash(factory: Callable[..., Any]) -> str:
    """SHA-256 of the code and the library versions that a fold's predictions depend on."""
    from deft_llm import baselines, modeling_deft, processing

    files: set[Path] = {
        Path(__file__),
        *(Path(__file__).with_name(name) for name in ("recognition.py", "generation.py")),
    }
    for package in (baselines, modeling_deft, processing):
        files |= set(Path(package.__file__).parent.glob("*.py"))
    source = inspect.getsourcefile(factory)
    if source:
        files.add(Path(source))
    digest = hashlib.sha256()
    # By folder and name and not by path, which differs between clones; the order must not be the set's own.
    for path in sorted(files, key=lambda path: (path.parent.name, path.name)):
        digest.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    for package in ("numpy", "scikit-learn", "torch", "transformers"):
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    return digest.hexdigest()


def _fold_key(fold: Fold, task: Task, hashes: Mapping[str, str], model: ModelSpec, seed: int, code: str) -> str:
    content = {
        "train": [(hashes[clip], task.label_of[clip]) for clip in fold.train],
        "test": [(clip, hashes[clip]) for clip in fold.test],
        "labels": task.labels,
        "model": f"{model.factory.__module__}.{model.factory.__qualname__}",
        "config": model.config,
        "files": {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in model.files.items()},
        "needs_video": model.needs_video,
        "seed": _fold_seed(seed, fold),
        "code": code,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()[:32]


def _fold_seed(seed: int, fold: Fold) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{fold.name}".encode()).digest()[:4], "big")


def _read_cached(path: Path, key: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored.get("key") != key:
        raise ValueError(f"{path} holds another fold than its name says; delete it.")
    return stored


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a row or a model's configuration.")


def class_counts(task: Task, clips: Iterable[str]) -> dict[str, int]:
    """Clips of each label, in the order of the label list."""
    counts = Counter(task.label_of[clip] for clip in clips)
    return {label: counts[label] for label in task.labels}
