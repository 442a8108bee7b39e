"""`train_sft.py`, several times over: each run is a process of its own, forked once everything is imported, and kills
itself before the optimiser's step of a given number. Nothing is tidied up.

python killed_run.py '[[STEP, OUTPUT_DIR], …]' OPTION …
"""

import json
import os
import signal
import sys

from transformers import TrainerCallback

from deft_llm.training import run as training_run
from deft_llm.training.arguments import parse_arguments


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(runs: list[tuple[int, str]], options: list[str]) -> None:
    for step, folder in runs:
        child = os.fork()
        if not child:
            run = training_run.make_run(*parse_arguments([*options, "--output_dir", folder]))
            run.trainer.add_callback(Kill(step))
            sys.exit(training_run.train(run))
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"The run into {folder} was not killed: status {status}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
