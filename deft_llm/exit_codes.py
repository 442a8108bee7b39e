"""The exit codes of `deft`, the same for every command."""

DONE, BROKE_OFF, REFUSED, NOTHING_BUILT, BUILT_WITH_DROPS, INTERRUPTED, STOPPED = 0, 1, 2, 3, 4, 130, 143

MEANINGS = {
    DONE: "done",
    BROKE_OFF: "failed while running",
    REFUSED: "the options or the data are wrong",
    NOTHING_BUILT: "nothing was built",
    BUILT_WITH_DROPS: "built, with dropped rows (manifest.json has the reasons)",
    INTERRUPTED: "interrupted from the keyboard",
    STOPPED: "stopped by SIGTERM, with a checkpoint",
}


def table() -> str:
    """The codes and their meanings, one per line."""
    return "\n".join(f"{code:>5}  {meaning}" for code, meaning in MEANINGS.items())
