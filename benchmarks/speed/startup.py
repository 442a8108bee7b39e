"""How long until the package is imported, and until a command prints its help?

    python benchmarks/speed/startup.py

Every call is a process of its own. An import is held against that of the libraries it cannot do without, torch and
OpenCV. Modules are compiled before, as pip compiles what it installs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from timing import ROUNDS, alternate, side_by_side

ROOT = Path(__file__).resolve().parents[2]
DEFT = "import sys; from deft_llm.cli import main; sys.exit(main())"  # what the script `deft` does
COMMANDS = {
    command: ["-c", DEFT, *command.split()[1:]]
    for command in ("deft", "deft data build", "deft train", "deft evaluate", "deft push")
}


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    imports = {
        "import torch, cv2": partial(run, "-c", "import torch, cv2"),
        "import deft_llm.processing": partial(run, "-c", "import deft_llm.processing"),
        "… and its DeftProcessor, with transformers": partial(
            run, "-c", "from deft_llm.processing import DeftProcessor"
        ),
        "import deft_llm.modeling_deft": partial(run, "-c", "import deft_llm.modeling_deft"),
    }
    asked = {"import deft_llm.processing": "≤ 1.5"}
    side_by_side("a process that imports", alternate(imports, rounds=arguments.rounds), "import torch, cv2", asked)
    commands = {f"{name} --help": partial(run, *words, "--help") for name, words in COMMANDS.items()}
    commands["python -c pass"] = partial(run, "-c", "pass")
    asked = {name: "≤ 100 ms" for name in commands if name.endswith("--help")}
    side_by_side("a process that prints help", alternate(commands, rounds=arguments.rounds), "python -c pass", asked)


if __name__ == "__main__":
    main()
