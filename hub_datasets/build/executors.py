"""Run the shards in processes of this machine, or with datatrove's executors on one machine or a cluster."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .finishing import finish
from .settings import BuildError, BuildInterruptedError
from .shards import build_shard, is_finished
from .work_folder import locked

EXECUTORS = ("local", "slurm", "ray")


def run_processes(work: Path, shards: Sequence[int], workers: int, console: Console) -> None:
    """Builds all shards that are not finished.

    Args:
        work: Work folder of the build.
        shards: Number of clips of each shard.
        workers: Number of processes.
        console: Shows the progress.

    Raises:
        BuildInterruptedError: A worker process died or failed.
    """
    # Checked here because workers take seconds to start.
    with console.status("Looking for finished shards"):
        todo = [number for number in range(len(shards)) if not is_finished(work, number)]
    columns = (
        TextColumn("Measuring clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Spawned and not forked, because this process has threads.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(min(workers, max(1, len(todo))), context, _end_with_parent) as pool,
    ):
        task = progress.add_task("", total=sum(shards), completed=sum(shards) - sum(shards[n] for n in todo))
        futures = {pool.submit(build_shard, work, number): number for number in todo}
        try:
            for future in as_completed(futures):
                try:
                    progress.advance(task, future.result())
                except BrokenProcessPool as error:
                    raise BuildInterruptedError(
                        "A worker process was killed, often because memory ran out. Finished shards are kept: run the "
                        "same command again, with fewer --workers if memory ran out."
                    ) from error
                except OSError:
                    raise
                except Exception as error:  # a bug, not an error of the user
                    raise BuildInterruptedError(f"Shard {futures[future]}: {error!r}.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def _end_with_parent() -> None:
    """Ends this worker as soon as its parent process ends."""
    parents = [module.parent_process() for module in _process_modules()]
    for parent in filter(None, parents):
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _process_modules() -> list[Any]:
    import multiprocess  # a dependency of datasets; datatrove creates its pools with it

    return [multiprocessing, multiprocess]


def _wait_and_end(parent: Any) -> None:
    parent.join()
    os._exit(1)


def executor_class_of(executor: str, options: Mapping[str, Any]) -> Any:
    """Imports datatrove's class for an executor.

    Args:
        executor: One of `EXECUTORS`.
        options: Arguments of the executor.

    Raises:
        BuildError: datatrove is not installed, or an argument is missing or unknown.
    """
    needed = {"slurm": ("time", "partition")}.get(executor, ())
    missing = [f"--executor-option {name}=…" for name in needed if name not in options]
    if missing:
        raise BuildError(f"--executor {executor} needs {' and '.join(missing)}.")
    try:
        if executor == "ray":
            import ray  # noqa: F401
            from datatrove.executor.ray import RayPipelineExecutor as Executor
        elif executor == "slurm":
            from datatrove.executor import SlurmPipelineExecutor as Executor
        else:
            from datatrove.executor import LocalPipelineExecutor as Executor
    except ImportError as error:
        extra = " 'datatrove[ray]'" if executor == "ray" else ""
        raise BuildError(f"--executor {executor} needs `pip install 'deft-llm[scale]'{extra}` ({error}).") from None
    known = set(inspect.signature(Executor.__init__).parameters) | ({"address"} if executor == "ray" else set())
    strange = sorted(set(options) - known)
    if strange:
        raise BuildError(f"--executor-option {strange[0]}: datatrove's {Executor.__name__} has no such argument.")
    return Executor


def run_datatrove(
    work: Path, shards: int, executor: str, executor_class: Any, workers: int, options: dict[str, Any]
) -> bool:
    """Runs one datatrove task per shard. Slurm tasks are only submitted, followed by a task that finishes the build.

    Args:
        work: Work folder of the build.
        shards: Number of shards.
        executor: One of `EXECUTORS`.
        executor_class: datatrove's class, from `executor_class_of`.
        workers: Tasks at a time; 0 for no limit.
        options: Further arguments of the executor.

    Returns:
        Whether all shards are finished; `False` for Slurm.
    """
    # The work folder says which shards are finished, so datatrove's own markers are not used.
    common = {"logging_dir": str(work / "logs" / executor), "skip_completed": False}
    if executor == "local":
        common["start_method"] = "spawn"
    elif executor == "slurm":
        common |= {"job_name": "uni-mer", "mail_type": "NONE"}
    else:
        import ray

        address = options.pop("address", None)
        if not ray.is_initialized():
            ray.init(address=address)
    common |= options
    first = executor_class(pipeline=[partial(_shard_task, str(work))], tasks=shards, workers=workers or -1, **common)
    if executor != "slurm":
        first.run()
        return True
    common |= {"logging_dir": str(work / "logs" / "finish"), "job_name": "uni-mer-finish"}
    executor_class(pipeline=[partial(_finish_task, str(work))], tasks=1, depends=first, **common).run()
    return False


def _shard_task(work: str, data: Any, rank: int = 0, world_size: int = 1) -> None:
    """A datatrove step that builds the shard with the number of the task's rank."""
    _end_with_parent()
    build_shard(Path(work), rank)


def _finish_task(work: str, data: Any, rank: int = 0, world_size: int = 1) -> None:
    """A datatrove step that finishes a build on a cluster."""
    job = json.loads((Path(work) / "job.json").read_text(encoding="utf-8"))
    with locked(Path(work)):
        finish(Path(work), Path(job["out"]))
