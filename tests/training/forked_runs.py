"""`train_sft.py`, several times over: each run is in processes of its own, forked once everything is imported.

python forked_runs.py '[{"options": [OPTION, …], "kill_at": STEP} or {"options": [OPTION, …], "result": FILE}, …]'

A run with `kill_at` kills itself before the optimiser's step of that number; nothing is tidied up. A run with `result`
is that of `two_processes.py`, with the environment that torchrun would give to two processes on one machine.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

# The last two because `run` imports them only when it trains.
from deft_llm.training import run as training_run
from deft_llm.training.arguments import parse_arguments
from deft_llm.training.parts import build_model  # noqa: F401
from deft_llm.training.trainer import DeftSFTTrainer  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
import two_processes


class Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object], **environment: str) -> int:
    """The id of a new process that does some work."""
    if child := os.fork():
        return child
    os.environ.update(environment)
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def killed(options: list[str], kill_at: int) -> None:
    def work():
        run = training_run.make_run(*parse_arguments(options))
        run.trainer.add_callback(Kill(kill_at))
        training_run.train(run)

    _, status = os.waitpid(forked(work), 0)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        sys.exit(f"A run was not killed at step {kill_at}: status {status}")


def in_two_processes(options: list[str], result: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    children = [
        forked(lambda: two_processes.main(result, options), RANK=rank, LOCAL_RANK=rank, **world, **place)
        for rank in "01"
    ]
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("A run in two processes failed")


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):
        if "result" in run:
            in_two_processes(**run)
        else:
            killed(**run)
