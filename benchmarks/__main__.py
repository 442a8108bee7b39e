"""Runs what is measured side by side, one script after the other, and writes `benchmarks/RESULTS.md`.

    python -m benchmarks [NAME …]

Scripts that measure how right things are take hours and are run one by one; their docstrings say how.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
from pathlib import Path

from .timing import setting

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "startup": [],
    "clip_to_tensors": [],
    "flow_estimator": [],
    "recognition": [],
    "generation": [],
    "training_step": [],
    "unimer_build": ["--clips", "400"],
}
UNFINISHED = "*Broken off: see the terminal.*"


def run(name: str) -> str:
    """What the script prints, under its own first sentence."""
    print(f"{name} …", file=sys.stderr, flush=True)
    start = time.perf_counter()
    path = HERE / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(path), *SCRIPTS[name]], cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False
    )
    question = path.read_text(encoding="utf-8").removeprefix('"""').partition("\n\n")[0].replace("\n", " ")
    minutes = (time.perf_counter() - start) / 60
    body = done.stdout.strip() if done.returncode == 0 else UNFINISHED
    return (
        f"## {question}\n\n`python benchmarks/{' '.join([path.name, *SCRIPTS[name]])}`, {minutes:.1f} min\n\n{body}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}; default: all of them")
    names = parser.parse_args().names or list(SCRIPTS)
    strange = sorted(set(names) - set(SCRIPTS))
    if strange:
        parser.error(f"no script {strange[0]!r}; there are {', '.join(SCRIPTS)}")
    head = (
        "# Measured side by side\n\nWritten by `make bench`. Medians of rounds in alternation after warm-up; ratios "
        f"to the peer of the same run.\n\n{datetime.date.today()}; {setting()}\n"
    )
    sections = [run(name) for name in names]
    if names == list(SCRIPTS):
        (HERE / "RESULTS.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    else:
        print("\n".join([head, *sections]))
    return int(any(UNFINISHED in section for section in sections))


if __name__ == "__main__":
    sys.exit(main())
