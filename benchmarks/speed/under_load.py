"""How much slower is training on a CPU while another program needs both cores?

    python benchmarks/speed/under_load.py [--steps 150] [--rounds 3]

`recipes/tiny.yaml` on rendered faces: seconds per step, start and decoding not included. In turn: alone; beside a
program that computes with as many threads as the machine has cores; and the same with `OMP_NUM_THREADS` set, which
keeps the run's own number of threads (a tenth of the steps, because they are slow).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deft_llm.sharing.card import RUN_FILE

LIMIT = 2.5
LOAD = "import torch\na = torch.rand(1024, 1024)\nwhile True: a @ a"


@contextlib.contextmanager
def other_program(busy: bool) -> Iterator[None]:
    """Another program on all cores, if it is to be busy."""
    if not busy:
        yield
        return
    program = subprocess.Popen([sys.executable, "-c", LOAD])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def seconds_per_step(data: Path, out: Path, steps: int, busy: bool, fixed: bool) -> float:
    """What the run itself has measured."""
    settings = {"OMP_NUM_THREADS": str(os.cpu_count())} if fixed else {}
    environment = {**{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}, **settings}
    command = [sys.executable, "-m", "deft_llm.cli", "train", "--config", "recipes/tiny.yaml", "--dataset", str(data)]
    command += ["--output-dir", str(out), "--max-steps", str(steps), "--logging-steps", str(steps)]
    with other_program(busy):
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((out / RUN_FILE).read_text(encoding="utf-8"))["seconds"] / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    runs = {"alone": (False, False), "beside another program": (True, False), "… OMP_NUM_THREADS set": (True, True)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        command = [sys.executable, "-m", "deft_llm.cli", "data", "synthesize", "--clips", "180"]
        subprocess.run([*command, "--output-dir", str(data)], check=True, stdout=subprocess.DEVNULL)
        for round_ in range(arguments.rounds):
            for number, (name, (busy, fixed)) in enumerate(runs.items()):
                out = Path(folder) / f"{round_}-{number}"
                steps = arguments.steps // 10 if fixed else arguments.steps
                times[name].append(seconds_per_step(data, out, steps, busy, fixed))
    alone = statistics.median(times["alone"])
    title = f"a step, {arguments.steps} in a run"
    print(f"\n| {title} | ms, median (least to most) | ÷ alone | to reach |\n|---|---|---|---|")
    for name, found in times.items():
        middle, least, most = (1000 * value for value in (statistics.median(found), min(found), max(found)))
        asked = f"≤ {LIMIT}" if name == "beside another program" else ""
        print(f"| {name} | {middle:.0f} ({least:.0f} to {most:.0f}) | {middle / 1000 / alone:.2f} | {asked} |")


if __name__ == "__main__":
    main()
