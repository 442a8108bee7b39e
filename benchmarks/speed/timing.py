"""Measuring side by side: every call in turn, round after round, so that a busy machine is busy for all of them."""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import torch

ROUNDS = 5


def rounds_asked_for(description: str) -> int:
    """Reads `--rounds` of a script that measures on one thread, and keeps this process to one.

    Args:
        description: the script's own, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return rounds


def alternate(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call in every round after warm-up; a GPU is waited for."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(warmup + rounds):
        for name, call in calls.items():
            gc.collect()
            _wait()
            start = time.perf_counter()
            call()
            _wait()
            if round_ >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(
    title: str, times: Mapping[str, Sequence[float]], peer: str, asked: Mapping[str, str] | None = None
) -> None:
    """Prints a table of medians with least and most, and the ratio of each to the peer measured in the same rounds.

    Args:
        title: heading of the first column.
        times: milliseconds of each round, by the name of the row.
        peer: the row that the others are divided by.
        asked: the target of a row, by its name.
    """
    print(f"\n| {title} | ms, median (least to most) | ÷ {peer} | to reach |\n|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        ratio = statistics.median(value / other for value, other in zip(values, times[peer], strict=True))
        print(
            f"| {name} | {_ms(middle)} ({_ms(min(values))} to {_ms(max(values))}) | {ratio:.3g} | "
            f"{(asked or {}).get(name, '')} |"
        )


def growth(title: str, sizes: Sequence[int], job: Callable[[int], Callable[[], Any]], *, rounds: int = 3) -> None:
    """Medians at growing sizes, and the exponent b of a·nᵇ fitted to them.

    Args:
        job: makes the call for a size; what it prepares is not timed.
    """
    times = alternate({str(size): job(size) for size in sizes}, rounds=rounds)
    fitted(title, {size: statistics.median(times[str(size)]) for size in sizes})


def fitted(title: str, medians: dict[int, float]) -> None:
    """Prints the seconds that each size took, in ms, and the exponent b of a·nᵇ fitted to them."""
    exponent = np.polyfit(np.log(list(medians)), np.log(list(medians.values())), 1)[0]
    steps = ", ".join(f"{size}: {_ms(value)} ms" for size, value in medians.items())
    print(f"\nGrowth, {title}: {steps}; exponent {exponent:.2f}")


def _ms(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def setting() -> str:
    """Hardware and versions, one line."""
    from deft_llm.evaluation.report import hardware

    found = hardware()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "numpy"))
    return (
        f"{found.get('processor') or found['machine']}, {found['cores']} cores, {found.get('memory_gb', '?')} GB, "
        f"{device}; Python {platform.python_version()}, {versions}"
    )
