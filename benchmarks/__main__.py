"""Runs what is measured side by side, one script after the other, and writes `benchmarks/RESULTS.md`.

    python -m benchmarks [NAME …]

Each script of `speed/` has its section there; what is not run again stays as it was measured, with its own date and
machine. The scripts of `science/` measure how right things are. They take hours and are run one by one; their
docstrings say how.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import time
from pathlib import Path

from deft_llm.files import write_whole

from .speed.timing import setting

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "startup": [],
    "clip_to_tensors": [],
    "flow_estimator": [],
    "recognition": [],
    "generation": [],
    "training_step": ["--batch", "1", "--rounds", "2", "--steps", "4"],
    "unimer_build": ["--clips", "2000"],
}
RESULTS = HERE / "RESULTS.md"
HEAD = """# Measured side by side

Written by `make bench`. Medians of rounds in alternation after warm-up; ratios to the peer of the same run.
"""


def run(name: str) -> str | None:
    """What the script prints, under its own first sentence; `None` if it broke off."""
    print(f"{name} …", file=sys.stderr, flush=True)
    start = time.perf_counter()
    path = HERE / "speed" / f"{name}.py"
    command = [sys.executable, str(path), *SCRIPTS[name]]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return None
    question = path.read_text(encoding="utf-8").removeprefix('"""').partition("\n\n")[0].replace("\n", " ")
    minutes = (time.perf_counter() - start) / 60
    return (
        f"## {question}\n\n`python benchmarks/speed/{' '.join([path.name, *SCRIPTS[name]])}`, {minutes:.1f} min, "
        f"{datetime.date.today()}; {setting()}\n\n{done.stdout.strip()}\n"
    )


def kept() -> dict[str, str]:
    """The sections of an earlier run by script."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = ["## " + part.strip() + "\n" for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    return {re.search(r"`python benchmarks/speed/(\w+)\.py", section)[1]: section for section in sections}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}; default: all of them")
    names = parser.parse_args().names or list(SCRIPTS)
    strange = sorted(set(names) - set(SCRIPTS))
    if strange:
        parser.error(f"no script {strange[0]!r}; there are {', '.join(SCRIPTS)}")
    broken = []
    for name in names:
        section = run(name)
        if section is None:
            broken.append(name)
            continue
        sections = {**kept(), name: section}
        write_whole(RESULTS, "\n".join([HEAD, *(sections[one] for one in SCRIPTS if one in sections)]))
    if broken:
        print(f"Broken off, see above: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
