"""Licensed folders to one Uni-MER dataset: records, shards of clips on any number of processes, one folder at the end.

    build({"casme2": "/data/CASME2"}, "build/uni-mer", accepted=["casme2"], workers=8)

Work goes on in OUT.building/, beside the output. Which clips a shard holds is settled before the first is measured; a
shard is written under another name and renamed, Parquet file first, its account second, and counts as finished with
the account. So a run that was killed goes on where it was, and what comes out depends neither on that nor on how many
processes there were. OUT appears when everything in it is whole.
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
    settings: BuildSettings | None = None,
    workers: int = 1,
    executor: str | None = None,
    executor_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike | None = None,
    console: Console | None = None,
) -> dict[str, Any] | None:
    """Builds the dataset, or goes on with a build that was interrupted.

    Args:
        sources: names (see `readers.read_source`) to roots.
        accepted: the sources whose licence the user holds and accepts.
        sheets: coding sheets of sources in which none is found by name, or several are.
        emotion_words: further emotion words, each with the word it stands for.
        workers: processes on this machine; tasks at once on a cluster (0: no limit).
        executor: `None` for processes of this one, else one of datatrove's: "local", "slurm" or "ray".
        executor_options: further arguments of that executor, such as Slurm's time and partition.
        cache: folder in which finished shards are kept, and from which a later build takes those that hold the same
            clips, unchanged, by the same settings and code. It holds what the dataset holds: the licences apply.

    Returns:
        The manifest; `None` where the work was handed to Slurm and goes on there.

    Raises:
        LicenceError: licences not accepted.
        BuildError: another build at work or interrupted in the same place, settings that make no sense.
        BuildInterruptedError: a worker died or failed.
        NothingBuiltError: every row was dropped.
        FileExistsError: `out` exists. ValueError: it lies in a root. What `read_source` raises.
    """
    settings, console, out = settings or BuildSettings(), console or Console(), Path(os.path.abspath(out))
    refuse_output_in_root(out, sources.values())
    if cache is not None:
        cache = Path(os.path.abspath(cache))
        refuse_output_in_root(cache, sources.values())
        cache.mkdir(parents=True, exist_ok=True)
    check_accepted(sources, accepted)
    for name, places in (("--sheet", sheets), ("--face-source", settings.face_source_of)):
        strange = sorted(set(places or ()) - set(sources))
        if strange:
            raise BuildError(f"{name} speaks of {', '.join(strange)}, which is no --source of this build.")
    rendered = sorted(set(RENDERED) & set(sources))
    if rendered:
        raise BuildError(f"{rendered[0]} is the name of rendered clips; give your own recordings another one.")
    if executor is not None and executor not in EXECUTORS:
        raise BuildError(f"Unknown executor {executor!r}. Known: {', '.join(EXECUTORS)}.")
    if workers < 1 and not (executor == "slurm" and workers == 0):
        raise BuildError(f"At least one worker is needed, got {workers}.")
    options = dict(executor_options or {})
    executor_class = executor_class_of(executor, options) if executor is not None else None
    work = out.with_name(out.name + ".building")
    with locked(work):
        if (work / "finished").exists() and out.exists() and not (work / "final").exists():
            # Killed after the last rename: the work is done, what is left is to tidy up.
            return clean_up(work, out)
        refuse_existing(out)
        shards = make_plan(work, out, sources, accepted, sheets or {}, emotion_words or {}, settings, console)
        write_whole(work / "cache", b"" if cache is None else os.fsencode(cache))
        if executor is None:
            run_processes(work, shards, workers, console)
        else:
            done = run_datatrove(work, len(shards), executor, executor_class, workers, options)
            if not done:
                console.print(f"Submitted. The last job writes {out}; `squeue` shows how far it is.")
                return None
        return finish(work, out)
