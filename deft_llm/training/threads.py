"""The number of threads of a training run, by the cores that no other program needs.

Threads of one operation wait for each other. If another program takes the core of one for a moment, all of them wait,
and a run with as many threads as cores becomes several times slower.
"""

from __future__ import annotations

import os
import time
from typing import Any

import psutil  # accelerate needs it as well
import torch
from transformers import TrainerCallback

SECONDS = 10.0  # between two looks
FIRST = 0.5  # seconds of the first look, before the first step


class FreeThreads(TrainerCallback):
    """Gives a run on the processor as many threads as there are free cores, one at least, and says so if it changes.

    The first look is before the first step, while the run itself needs no core: beside another program, a step with
    too many threads takes several times as long. The number that PyTorch has when training begins is never exceeded.
    If the environment variable `OMP_NUM_THREADS` is set, the number is left as it is.
    """

    def __init__(self):
        self._most, self._mark = 1, (0.0, 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._most, self._mark = torch.get_num_threads(), (time.monotonic(), used_by_others())
        if self._most > 1 and "OMP_NUM_THREADS" not in os.environ:
            time.sleep(FIRST)
            self._look()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() - self._mark[0] >= SECONDS and "OMP_NUM_THREADS" not in os.environ:
            self._look()

    def _look(self) -> None:
        """Takes as many threads as there were free cores since the last look."""
        began, before = self._mark
        elapsed = time.monotonic() - began
        now = used_by_others()
        self._mark = began + elapsed, now
        others = (now - before) / elapsed
        threads = min(self._most, max(1, round((os.cpu_count() or 1) - others)))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
            print(f"{threads} of {self._most} threads from here on: other programs use {others:.1f} cores.")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.set_num_threads(self._most)


def used_by_others() -> float:
    """Seconds that other programs have computed since the machine was started, summed over its cores."""
    times = psutil.cpu_times()
    total = sum(getattr(times, name, 0.0) for name in ("user", "system", "nice", "irq", "softirq"))
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total -= spent.user + spent.system
        if process is own:  # with those of its children that have ended
            total -= getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
    return total
