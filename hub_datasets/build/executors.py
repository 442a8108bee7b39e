"""Who builds the shards: processes of this machine, or datatrove's executors on one machine or a cluster."""

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
    """Builds every shard that is not finished, each in one of `workers` processes."""
    # Here and not in the workers, which take seconds to start.
    with console.status("Looking for finished shards"):
        todo = [number for number in range(len(shards)) if not is_finished(work, number)]
    columns = (
        TextColumn("Measuring clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Spawned, not forked: this process has threads.
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
                        "A worker process was ended from outside, often for want of memory. Finished shards are kept: "
                        "run the same command again, with fewer --workers if memory was short."
                    ) from error
                except OSError:
                    raise
                except Exception as error:  # a mistake in the code, and none of the user's
                    raise BuildInterruptedError(f"Shard {futures[future]}: {error!r}.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def _end_with_parent() -> None:
    """Workers of a build that was killed do not live on."""
    parents = [module.parent_process() for module in _process_modules()]
    for parent in filter(None, parents):
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _process_modules() -> list[Any]:
    import multiprocess  # of datasets; datatrove's pools are made by it

    return [multiprocessing, multiprocess]


def _wait_and_end(parent: Any) -> None:
    parent.join()
    os._exit(1)


def executor_class_of(executor: str, options: Mapping[str, Any]) -> Any:
    """datatrove's class, imported when it is asked for."""
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
        raise BuildError(f"--executor-option {strange[0]}: {Executor.__name__} of datatrove has no such argument.")
    return Executor


def run_datatrove(
    work: Path, shards: int, executor: str, executor_class: Any, workers: int, options: dict[str, Any]
) -> bool:
    """One task a shard. Returns whether all are done; Slurm's are only submitted, with the last step behind them."""
    # Which shards are finished says the work folder and not datatrove's markers.
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
    """A datatrove step: the shard whose number is the task's rank."""
    _end_with_parent()
    build_shard(Path(work), rank)


def _finish_task(work: str, data: Any, rank: int = 0, world_size: int = 1) -> None:
    """A datatrove step: the end of a build on a cluster."""
    job = json.loads((Path(work) / "job.json").read_text(encoding="utf-8"))
    with locked(Path(work)):
        finish(Path(work), Path(job["out"]))
