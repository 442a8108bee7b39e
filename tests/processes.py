"""Commands in processes of their own, and what stands for a pool of processes where they are not what is tested."""

import pickle
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any


class InThisProcess(Executor):
    """Does each task at once, in this process: a new one would first import everything, for seconds.

    What goes to a process and comes back is pickled here too.
    """

    def __init__(self, *arguments: Any, **options: Any):
        """Takes whatever `ProcessPoolExecutor` takes."""

    def submit(self, function: Callable, /, *arguments: Any, **options: Any) -> Future:
        future = Future()
        function, arguments, options = pickle.loads(pickle.dumps((function, arguments, options)))
        try:
            result = function(*arguments, **options)
        except Exception as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        else:
            future.set_result(pickle.loads(pickle.dumps(result)))
        return future


def output_of(command: Sequence[Any], *, timeout: float = 300, **options: Any) -> str:
    """Runs a command that must succeed.

    Args:
        command: The program and its arguments; what is not a string is written as one.
        timeout: In seconds.
        **options: Of `subprocess.run`, such as `cwd` and `env`.

    Returns:
        What it prints.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
