"""Runs what is measured side by side, one script after the other, and writes `benchmarks/RESULTS.md`.

    python -m benchmarks [NAME …]

Each script of `speed/` has its section there; what is not run again stays as it was measured, with its own date and
machine. The scripts of `science/` measure how right things are. Those on people have a section as well, and run only
when they are named, because they need data that nobody can ship. The others take hours and are run one by one; their
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
    "measure_videos": [],
    "live": [],
    "long_questions": [],
    "flow_estimator": [],
    "recognition": [],
    "generation": [],
    "frozen_experts": [],
    "recipe_limit": [],
    "growth": [],
    "under_load": ["--steps", "80"],
    "training_step": ["--batch", "1", "--rounds", "2", "--steps", "4"],
    "unimer_build": ["--clips", "1000"],
}
# On the folders of DEFT_REAL_DATA that the scripts name.
ON_PEOPLE = ("real_features", "real_recordings", "real_spotting", "real_answers", "real_recognition")
RESULTS = HERE / "RESULTS.md"
HEAD = """# Measured side by side

Written by `make bench`. Medians of rounds in alternation after warm-up; ratios to the peer of the same run.
"""


def run(name: str) -> str | None:
    """What the script prints, under its own first sentence; `None` if it broke off."""
    print(f"{name} …", file=sys.stderr, flush=True)
    start = time.perf_counter()
    folder, options = ("science", []) if name in ON_PEOPLE else ("speed", SCRIPTS[name])
    path = HERE / folder / f"{name}.py"
    command = [sys.executable, str(path), *options]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return None
    question = path.read_text(encoding="utf-8").removeprefix('"""').partition("\n\n")[0].replace("\n", " ")
    minutes = (time.perf_counter() - start) / 60
    printed = done.stdout.strip()
    if name in ON_PEOPLE:
        printed = f"```\n{printed}\n```"
    return (
        f"## {question}\n\n`python benchmarks/{folder}/{' '.join([path.name, *options])}`, {minutes:.1f} min, "
        f"{datetime.date.today()}; {setting()}\n\n{printed}\n"
    )


def kept() -> dict[str, str]:
    """The sections of an earlier run by script."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = ["## " + part.strip() + "\n" for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    return {re.search(r"`python benchmarks/\w+/(\w+)\.py", section)[1]: section for section in sections}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*SCRIPTS, *ON_PEOPLE]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(everything)}; default: speed")
    names = parser.parse_args().names or list(SCRIPTS)
    strange = sorted(set(names) - set(everything))
    if strange:
        parser.error(f"no script {strange[0]!r}; there are {', '.join(everything)}")
    broken = []
    for name in names:
        section = run(name)
        if section is None:
            broken.append(name)
            continue
        sections = {**kept(), name: section}
        write_whole(RESULTS, "\n".join([HEAD, *(sections[one] for one in everything if one in sections)]))
    if broken:
        print(f"Broken off, see above: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
