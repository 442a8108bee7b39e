"""Trains and tests a model in every fold, in a way that prevents leaks.

Each fold runs in its own process, so nothing carries over from another fold. The process first receives only the
training rows. After it has reported the end of training, it receives the test rows without labels, instruction text,
provenance and revealing names. Leaks that this cannot prevent (those found by `protocols.check_leaks`, and predictions
that depend on other test clips) are detected and raise an error.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import multiprocessing
import multiprocessing.connection
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft_llm.files import code_fingerprint, file_digest, write_whole
from deft_llm.hub_datasets.unimer.splits import Fold, LeakageError

from .protocols import Row, Task, check_leaks, check_trainable

# The columns of a test clip that a model sees. A clip's name may reveal its label (SMIC's contain "ne", "po" or
# "sur").
TEST_COLUMNS = ("source", "fps", "onset", "apex", "offset", "video", "flow", "motion")


# What runs in a fold: models, their training, and the rows and measurements that it works on.
FOLD_CODE = (
    *(
        f"deft_llm.evaluation.{name}"
        for name in ("baselines", "fold_runs", "generation", "kernel_machine", "nested", "protocols", "recognition")
    ),
    *(f"deft_llm.{name}" for name in ("hub_datasets", "modeling_deft", "processing", "training")),
)


class IncompleteError(ValueError):
    """Folds or predictions are missing, so nothing can be reported. The message names them."""


@dataclass(frozen=True)
class ModelSpec:
    """A model to evaluate.

    Args:
        name (`str`): Name in the report.
        factory (`Callable[..., Any]`): `factory(labels=…, seed=…, **config)`, a function or class importable by name
            that returns a new `baselines.Recogniser`.
        config (`dict[str, Any]`, *optional*): Arguments of the factory.
        files (`dict[str, str | Path]`, *optional*): More arguments, which are files or folders. Their content, not
            their path, decides whether a finished fold is valid.
        needs_video (`bool`, *optional*, defaults to `False`): Whether to pass on the `video` column.
        abstains (`bool`, *optional*, defaults to `False`): Whether its predictions say `abstained`. Such a model also
            gets the task's still clips.
    """

    name: str
    factory: Callable[..., Any]
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str | Path] = field(default_factory=dict)
    needs_video: bool = False
    abstains: bool = False


@dataclass
class RunResult:
    """Results of a model in all folds.

    Args:
        model (`str`): Name of the model.
        predictions (`dict[str, dict[str, dict[str, Any]]]`): Fold → clip id → prediction.
        seconds (`dict[str, float]`): Fold → duration in seconds.
        peak_memory (`dict[str, float]`): Fold → peak memory in MB.
        cached (`int`): Number of folds from an earlier run.
        still (`dict[str, dict[str, dict[str, Any]]]`): The same as `predictions` for clips that show no expression.
            These clips are not scored by class.
        chosen (`dict[str, dict[str, Any]]`): Fold → settings that the model chose on the training rows, if it
            chooses any (`nested.NestedRecogniser`).
    """

    model: str
    predictions: dict[str, dict[str, dict[str, Any]]]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, float] = field(default_factory=dict)
    cached: int = 0
    still: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pooled(self, task: Task) -> dict[str, dict[str, Any]]:
        """Clip id → prediction, over all folds.

        Raises:
            IncompleteError: a fold or a clip is missing.
        """
        missing = [fold.name for fold in task.folds if fold.name not in self.predictions]
        if missing:
            raise IncompleteError(
                f"{self.model}: {len(missing)} of {len(task.folds)} folds are missing: {_listed(missing)}. Run again "
                "with the same --output-dir to finish them."
            )
        pooled = {}
        for fold in task.folds:
            found = self.predictions[fold.name]
            lost = [clip for clip in fold.test if clip not in found]
            strange = [clip for clip in found if clip not in set(fold.test)]
            if lost:
                raise IncompleteError(f"{self.model}, fold {fold.name}: no prediction for {_listed(lost)}.")
            if strange:
                raise IncompleteError(f"{self.model}, fold {fold.name}: {_listed(strange)} is not in its test clips.")
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
    """Trains and tests a model in every fold. Finished folds are kept in `cache` and not run again.

    Args:
        rows (`Sequence[Row]`): Uni-MER rows. Rows outside the task are not used.
        task (`Task`): What to predict, and the folds.
        model (`ModelSpec`): The model to train and test.
        cache (`str | Path`): Folder of results, one JSON per fold, named by the hash of rows, labels, folds, model,
            seed and code.
        workers (`int`, *optional*, defaults to `2`): Number of parallel processes, one thread each.
        seed (`int`, *optional*, defaults to `0`): Random seed of the model.
        on_fold (`Callable[[str], None] | None`, *optional*): Called with the name of each finished fold.

    Raises:
        LeakageError: `check_leaks` finds a leak, or a prediction depends on the other test clips.
        RuntimeError: a fold failed; names it and repeats its traceback. Other finished folds stay cached.
        ValueError: the predictions have the wrong number or form.
    """
    check_trainable(task)
    check_leaks(rows, task)
    by_id = {row["clip_id"]: row for row in rows}
    asked = {fold.name: (*fold.test, *_still_of(fold, task, model)) for fold in task.folds}
    wanted = {*task.label_of, *(clip for clips in asked.values() for clip in clips)}
    hashes = {clip: row_hash(by_id[clip], with_video=model.needs_video) for clip in sorted(wanted)}
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
        _keep(result, fold, stored)
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
                    test = [_test_row(by_id[clip], number, model) for number, clip in enumerate(asked[fold.name])]
                    _send(connection, test, process, model, fold)
                    continue
                predictions = _checked_predictions(content.pop("predictions"), asked[fold.name], fold, task, model)
                # A resumed run must give an identical report, so the numbers take the same path.
                stored = json.loads(json.dumps({"key": key, "fold": fold.name, "predictions": predictions, **content}))
                write_whole(path, json.dumps(stored))
                _keep(result, fold, stored)
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
    """Context for processes that start from a clean process with the libraries loaded, not from this one's memory."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["numpy", "sklearn.svm", "torch", "deft_llm.evaluation.recognition"])
    return context


def _run_fold(connection) -> None:
    """The model's process: trains on the rows it receives first, then asks for the test rows."""
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
            chosen = copy.deepcopy(getattr(model, "chosen", None))
            connection.send(("fitted", None))
            rows = connection.recv()
            predictions = model.predict(rows)
            if getattr(model, "chosen", None) != chosen:
                connection.send(("chosen late", None))
                return
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
                        "chosen": chosen,
                        "depends_on_others": dependent,
                        "seconds": time.perf_counter() - started,
                        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    },
                )
            )
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent was stopped and cannot be told
            return
        except BaseException:
            connection.send(("failed", traceback.format_exc()))


def _send(connection, content: Any, process, model: ModelSpec, fold: Fold) -> None:
    try:
        connection.send(content)
    except (BrokenPipeError, ConnectionResetError):
        _receive(connection, process, model, fold)  # raises the process's error
        raise


def _receive(connection, process, model: ModelSpec, fold: Fold) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise RuntimeError(
            f"{model.name}, fold {fold.name}: the process ended with exit code {process.exitcode} and without a "
            "result. Exit code −9 usually means out of memory."
        ) from None
    if kind == "failed":
        raise RuntimeError(f"{model.name}, fold {fold.name}:\n{content}")
    if kind == "chosen late":
        raise LeakageError(
            f"{model.name}, fold {fold.name}: the model changed its chosen settings when it saw the test clips. "
            "Settings must be chosen on the training rows, in fit."
        )
    if kind == "predicted" and content.pop("depends_on_others"):
        raise LeakageError(
            f"{model.name}, fold {fold.name}: the prediction of {fold.test[0]} changes if the other test clips are "
            "absent. A model must not adapt to the test clips or normalise over them."
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
    # The subject is not passed on either.
    return {"clip_id": f"test clip {number}", **kept}


def _still_of(fold: Fold, task: Task, model: ModelSpec) -> tuple[str, ...]:
    return task.still.get(fold.name, ()) if model.abstains else ()


def _checked_predictions(
    predictions: Any, clips: Sequence[str], fold: Fold, task: Task, model: ModelSpec
) -> dict[str, dict[str, Any]]:
    where = f"{model.name}, fold {fold.name}"
    if len(predictions) != len(clips):
        raise IncompleteError(f"{where}: {len(predictions)} predictions for {len(clips)} clips.")
    checked = {}
    for clip, prediction in zip(clips, predictions, strict=True):
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


def _keep(result: RunResult, fold: Fold, stored: Mapping[str, Any]) -> None:
    tested = set(fold.test)
    result.predictions[fold.name] = {clip: item for clip, item in stored["predictions"].items() if clip in tested}
    still = {clip: item for clip, item in stored["predictions"].items() if clip not in tested}
    if stored["chosen"]:
        result.chosen[fold.name] = stored["chosen"]
    if still:
        result.still[fold.name] = still
    result.seconds[fold.name] = stored["seconds"]
    result.peak_memory[fold.name] = stored["peak_memory"]


# --- Hashes and files -----------------------------------------------------------------------------------------------


def row_hash(row: Row, *, with_video: bool = True) -> str:
    """SHA-256 of a row's content, independent of its container."""
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


def code_hash(factory: Callable[..., Any]) -> str:
    """SHA-256 of the code and the library versions that a fold's predictions depend on."""
    source = inspect.getsourcefile(factory)
    own = [Path(source)] if source else []
    return code_fingerprint(*FOLD_CODE, *own, libraries=("numpy", "scikit-learn", "torch", "transformers"))


def _fold_key(fold: Fold, task: Task, hashes: Mapping[str, str], model: ModelSpec, seed: int, code: str) -> str:
    content = {
        "train": [(hashes[clip], task.label_of[clip]) for clip in fold.train],
        "test": [(clip, hashes[clip]) for clip in (*fold.test, *_still_of(fold, task, model))],
        "labels": task.labels,
        "model": f"{model.factory.__module__}.{model.factory.__qualname__}",
        "config": model.config,
        "files": {name: file_digest(path) for name, path in model.files.items()},
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
        raise ValueError(f"{path} contains a different fold from the one in its name; delete it.")
    return stored


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not allowed in a row or a model's configuration.")
