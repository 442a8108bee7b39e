"""The number of threads follows what other programs leave."""

import multiprocessing
import time

import pytest
import torch

from deft_llm.training import threads
from deft_llm.training.threads import FreeThreads, used_by_others


@pytest.fixture
def machine(monkeypatch):
    """Four cores; `seconds` and `others` are what has passed and what other programs have computed. While the run
    waits, they use `busy` cores."""
    state = {"seconds": 0.0, "others": 0.0, "threads": 4, "busy": 0.0}

    def sleep(seconds):
        state["seconds"] += seconds
        state["others"] += state["busy"] * seconds

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads.time, "monotonic", lambda: state["seconds"])
    monkeypatch.setattr(threads.time, "sleep", sleep)
    monkeypatch.setattr(threads, "used_by_others", lambda: state["others"])
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: state["threads"])
    monkeypatch.setattr(threads.torch, "set_num_threads", lambda number: state.update(threads=number))
    return state


def step(callback, machine, others, seconds=threads.SECONDS):
    """Time passes in which other programs use a number of cores."""
    machine["seconds"] += seconds
    machine["others"] += others * seconds
    callback.on_step_end(None, None, None)
    return machine["threads"]


def test_threads_are_the_cores_that_are_free_and_one_at_least(machine, capsys):
    callback = FreeThreads()
    callback.on_train_begin(None, None, None)
    assert step(callback, machine, others=0.3) == 4
    assert not capsys.readouterr().out
    assert step(callback, machine, others=1.9) == 2
    assert capsys.readouterr().out == "2 of 4 threads from here on: other programs use 1.9 cores.\n"
    assert step(callback, machine, others=4.0, seconds=3) == 2  # not yet
    assert step(callback, machine, others=4.0, seconds=9) == 1
    assert step(callback, machine, others=0.0) == 4
    step(callback, machine, others=3.0)
    callback.on_train_end(None, None, None)
    assert machine["threads"] == 4


def test_other_programs_are_seen_before_the_first_step(machine, capsys):
    machine["busy"] = 4.0
    callback = FreeThreads()
    callback.on_train_begin(None, None, None)
    assert machine["threads"] == 1
    assert capsys.readouterr().out == "1 of 4 threads from here on: other programs use 4.0 cores.\n"
    assert step(callback, machine, others=0.0) == 4


def test_fewer_threads_than_cores_are_not_exceeded(machine):
    machine["threads"] = 2
    callback = FreeThreads()
    callback.on_train_begin(None, None, None)
    assert step(callback, machine, others=0.0) == 2
    assert step(callback, machine, others=3.0) == 1


def test_a_number_that_the_user_has_set_stays(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    machine["busy"] = 4.0
    callback = FreeThreads()
    callback.on_train_begin(None, None, None)
    assert step(callback, machine, others=4.0) == 4


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_own_work_is_not_that_of_others():
    before, began = used_by_others(), time.perf_counter()
    child = multiprocessing.get_context("fork").Process(target=spin, args=(1.0,))
    child.start()
    spin(1.0)
    child.join()
    elapsed = time.perf_counter() - began
    # What other programs on the cores of this machine have used in the same time is at most what was left of them.
    assert -0.2 <= used_by_others() - before <= elapsed * torch.multiprocessing.cpu_count() - 2.0 + 0.3
