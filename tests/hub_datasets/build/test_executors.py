import os
import signal
import sys

import pytest
from rich.console import Console

from deft_llm.hub_datasets.build import executors
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildError, BuildInterruptedError
from deft_llm.hub_datasets.build.shards import build_shard
from tests.hub_datasets.build.own_recordings import CROPPED, digest


def test_a_worker_that_is_killed_is_an_error(tmp_path, monkeypatch):
    for name in ("shards", "plan"):
        (tmp_path / name).mkdir()
    for name in ("plan/00000.jsonl", "cache"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(executors, "build_shard", _die)
    with pytest.raises(BuildInterruptedError, match="run the same command again"):
        executors.run_processes(tmp_path, [1], 1, Console(quiet=True))


def _die(work, number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_local_executor_of_datatrove_makes_the_same_bytes(own_root, own_built, tmp_path):
    build({"mylab": own_root}, tmp_path / "out", settings=CROPPED, executor="local", workers=2)
    assert digest(tmp_path / "out") == digest(own_built[0])
    assert not (tmp_path / "out.building").exists()


def test_slurm_gets_one_task_a_shard_and_a_last_job_behind_them(own_root, own_built, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "submitted"
    (tools / "sbatch").write_text(
        f'#!/bin/sh\nfor last; do :; done\necho "$@" >> {log}\ncat "$last" >> {log}\necho Submitted batch job 4711\n',
        encoding="utf-8",
    )
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    options = {"time": "04:00:00", "partition": "cpu"}
    handed_over = build(
        {"mylab": own_root}, out, settings=CROPPED, workers=3, executor="slurm", executor_options=options
    )
    assert handed_over is None
    text = log.read_text(encoding="utf-8")
    assert "array=0-3%3" in text
    assert "partition=cpu" in text
    assert "time=04:00:00" in text
    assert "4711" in text  # the last job waits for the first
    assert not out.exists()
    # What the jobs run, here one after the other.
    work = tmp_path / "out.building"
    for rank in range(4):
        build_shard(work, rank)
    executors._finish_task(str(work), None)
    assert digest(out) == digest(own_built[0])


def test_a_missing_executor_says_what_to_install(own_root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BuildError, match=r"pip install 'deft-llm\[scale\]' 'datatrove\[ray\]'"):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED, executor="ray")
