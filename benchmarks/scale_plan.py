"""What a million clips cost, by the rates in `benchmarks/RESULTS.md`: the table of docs/scale.md.

    python -m benchmarks.scale_plan

It writes the table into the page. A rate that was not measured is said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deft_llm.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "RESULTS.md", ROOT / "docs" / "scale.md"
CLIPS, CORES = 1_000_000, 64
BEGIN, END = "<!-- The table is written by python -m benchmarks.scale_plan. -->", "<!-- The end of the table. -->"


@dataclass(frozen=True)
class Step:
    """A step of the run and where its rate is found.

    Args:
        title: What is done.
        section: Name of the script whose section of the results has the rate.
        pattern: Regular expression with one number in it.
        core_seconds: Core-seconds per clip, from that number.
    """

    title: str
    section: str
    pattern: str
    core_seconds: Callable[[float], float]


# Training, recognition and generation were measured on two cores.
STEPS = (
    Step("build Uni-MER: decode, measure, write questions", "unimer_build", r"^ *\d+ +1 +\S+ +(\S+)", lambda v: 1 / v),
    Step("recognise with the small model, 32 clips at a time", "recognition", r"^(\S+) clips/s at", lambda v: 2 / v),
    Step(
        "explain with 120 tokens, language model of Qwen3-0.6B's size",
        "generation",
        r"^\| generation of 120 tokens \| (\d+)",
        lambda v: 2 * v / 1000,
    ),
    Step(
        "train one epoch with LoRA, language model of Qwen3-0.6B's size",
        "training_step",
        r"^DEFT: (\S+) clips/s",
        lambda v: 2 / v,
    ),
)


def sections(results: str) -> dict[str, str]:
    """Name of a script → its section of the results."""
    found = {}
    for part in re.split(r"^## ", results, flags=re.MULTILINE)[1:]:
        name = re.search(r"`python benchmarks/\w+/(\w+)\.py", part)
        if name:
            found[name[1]] = part
    return found


def core_hours(results: str) -> dict[str, float | None]:
    """Title of each step → core-hours for `CLIPS` clips, or None if its rate was not measured.

    Args:
        results: Content of RESULTS.md.
    """
    parts = sections(results)
    hours: dict[str, float | None] = {}
    for step in STEPS:
        match = re.search(step.pattern, parts.get(step.section, ""), re.MULTILINE)
        hours[step.title] = None if match is None else step.core_seconds(float(match[1])) * CLIPS / 3600
    return hours


def table(results: str) -> str:
    """The table of the page.

    Args:
        results: Content of RESULTS.md.
    """
    hours = core_hours(results)
    known = {title: value for title, value in hours.items() if value is not None}
    lines = [f"| {CLIPS:,} clips | core-hours | hours on {CORES} cores | on a GPU |", "|---|---|---|---|"]
    for title, value in hours.items():
        cells = ["not measured"] * 2
        if value is not None:
            cells = [f"{value:,.0f}", f"{value / CORES:,.1f}" if value >= CORES / 10 else "less than 0.1"]
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | not measured |")
    if len(known) > 1:
        slowest = max(known, key=known.__getitem__)
        rest = sum(known.values()) - known[slowest]
        lines += ["", f"The slowest step ({slowest}) takes {known[slowest] / rest:.1f} × as long as all others."]
    memory = re.search(
        r"^ *\d+ +2 +\S+ +\S+ +\S+ +\S+ +(\d+)", sections(results).get("unimer_build", ""), re.MULTILINE
    )
    if memory:
        gib = int(memory[1]) * CORES / 1024
        lines.append(f"A worker of the build takes {memory[1]} MiB at most, and {CORES} of them {gib:.0f} GiB.")
    written = re.search(r"^(\d+) kB written a clip", sections(results).get("unimer_build", ""), re.MULTILINE)
    if written:
        lines.append(f"The dataset takes {int(written[1]) * CLIPS / 1e6:,.0f} GB.")
    return "\n".join(lines) + "\n"


def page(text: str, results: str) -> str:
    """The page with the table of these results.

    Args:
        text: The page as it is.
        results: Content of RESULTS.md.

    Raises:
        ValueError: The page lacks a mark of where the table is.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN!r} and {END!r} around the table.")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{table(results)}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    results = RESULTS.read_text(encoding="utf-8")
    write_whole(PAGE, page(PAGE.read_text(encoding="utf-8"), results))
    print(table(results))


if __name__ == "__main__":
    main()
