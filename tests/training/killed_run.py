"""`train_sft.py` that kills its own process before the optimiser's step of a given number: nothing is tidied up.

python killed_run.py STEP OPTION …
"""

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


if __name__ == "__main__":
    run = training_run.make_run(*parse_arguments(sys.argv[2:]))
    run.trainer.add_callback(Kill(int(sys.argv[1])))
    sys.exit(training_run.train(run))
