"""Commands in processes of their own."""

import subprocess
from collections.abc import Sequence
from typing import Any


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
