"""Build one Uni-MER dataset from licensed folders.

    build({"casme2": "/data/CASME2"}, "build/uni-mer", accepted=["casme2"], workers=8)

The work folder is OUT.building/, next to the output. The clips are assigned to shards before the first clip is
measured. A shard has a Parquet file and a JSON file; the JSON file is written last, and with it the shard is finished.
A build that was killed therefore resumes with the next shard, and the output does not depend on interruptions or on
the number of processes. OUT appears when all files in it are complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deft_llm.files import write_whole

from ..sources.readers import refuse_output_in_root
from ..sources.sharing_policy import RENDERED, check_accepted
from ..unimer.rows import refuse_existing
from .executors import EXECUTORS, executor_class_of, run_datatrove, run_processes
from .finishing import clean_up, finish
from .plan import make_plan
from .settings import BuildError, BuildSettings
from .work_folder import locked


def build(
    sources: Mapping[str, str | os.PathLike],
    out: str | os.PathLike,
    *,
    accepted: Sequence[str] = (),
    sheets: Mapping[str, str | os.PathLike] | None = None,
    emotion_words: Mapping[str, str] | None = None,
    encodings: Mapping[str, str] | None = None,
    follow_links: bool = False,
    settings: BuildSettings | None = None,
    workers: int = 1,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike | None = None,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Builds the dataset, or resumes an interrupted build.

    Args:
        sources: Source names (see `readers.read_source`) → root folders.
        out: Dataset folder to write.
        accepted: Names of the sources whose licence the user holds and accepts.
        sheets: Source names → coding sheets, if no sheet or several sheets are found by name.
        emotion_words: Further emotion words → the known words with the same meaning.
        encodings: Source names → encodings of text sheets that are neither UTF-8 nor UTF-16.
        follow_links: Whether symbolic links in the root folders may lead out of them, but not to `out`.
        settings: Settings of the build.
        workers: Processes on this machine, or tasks at a time on a cluster (0 for no limit).
        executor: `None` for processes started by this one, or datatrove's "local", "slurm" or "ray".
        executor_options: Further arguments of the executor, such as Slurm's time and partition.
        cache: Folder that keeps finished shards. A later build reuses those with the same unchanged clips, settings
            and code. It contains licensed data like the dataset itself, so the licences apply to it.
        console: Shows the progress.

    Returns:
        The manifest, or `None` if the work was submitted to Slurm.

    Raises:
        LicenceError: A licence is not accepted.
        BuildError: The settings contradict each other, or another build is running or was interrupted in `out`.
        BuildInterruptedError: A worker process died or failed.
        NothingBuiltError: Every row was dropped.
        FileExistsError: `out` exists.
        ValueError: `out` is inside of a root folder, or a source cannot be read (see `readers.read_source`).
    """
    settings, console, out = settings or BuildSettings(), console or Console(), Path(os.path.abspath(out))
    refuse_output_in_root(out, sources.values())
    if cache is not None:
        cache = Path(os.path.abspath(cache))
        refuse_output_in_root(cache, sources.values())
        cache.mkdir(parents=True, exist_ok=True)
    check_accepted(sources, accepted)
    stated = {"--sheet": sheets, "--sheet-encoding": encodings, "--face-source": settings.face_source_of}
    for name, places in stated.items():
        strange = sorted(set(places or ()) - set(sources))
        if strange:
            raise BuildError(f"{name} names {', '.join(strange)}, which is not a --source of this build.")
    rendered = sorted(set(RENDERED) & set(sources))
    if rendered:
        raise BuildError(f"{rendered[0]} is reserved for rendered clips; choose another name for your recordings.")
    if executor is not None and executor not in EXECUTORS:
        raise BuildError(f"Unknown executor {executor!r}. Known: {', '.join(EXECUTORS)}.")
    if workers < 1 and not (executor == "slurm" and workers == 0):
        raise BuildError(f"At least one worker is needed, got {workers}.")
    options = dict(executor_options or {})
    executor_class = executor_class_of(executor, options) if executor is not None else None
    work = out.with_name(out.name + ".building")
    with locked(work):
        if (work / "finished").exists() and out.exists() and not (work / "final").exists():
            # The build was killed after the last rename, so only the work folder is left to delete.
            return clean_up(work, out)
        refuse_existing(out)
        shards = make_plan(
            work,
            out,
            sources,
            accepted,
            sheets or {},
            emotion_words or {},
            settings,
            console,
            encodings=encodings,
            follow_links=follow_links,
        )
        write_whole(work / "cache", b"" if cache is None else os.fsencode(cache))
        if executor is None:
            run_processes(work, shards, workers, console)
        else:
            done = run_datatrove(work, len(shards), executor, executor_class, workers, options)
            if not done:
                console.print(f"Submitted. The last job writes {out}; `squeue` shows how far it is.")
                return None
        return finish(work, out)
