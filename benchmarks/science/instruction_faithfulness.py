"""Sentences whose parsed facts equal the facts that they were written from.

    python benchmarks/science/instruction_faithfulness.py --sentences 20000

The facts are drawn at random: every action unit, side, region, direction, verdict, emotion and several conventions.
What an answer must say is worked out here from the labels and the motions themselves, not by the code that wrote it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hub_datasets.unimer.written_sentences import says_what_it_should, sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    tasks: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    texts = set()
    for clip, task, question, answer in sentences(arguments.sentences, arguments.seed):
        tasks[task] += 1
        equal[task] += says_what_it_should(clip, task, question, answer)
        texts.add((question, answer))
    seconds = time.perf_counter() - started
    for task, count in tasks.items():
        print(f"{task:22} {equal[task]:6} of {count:6}")
    share = 100 * equal.total() / tasks.total()
    print(f"{'all':22} {equal.total():6} of {tasks.total():6} = {share:.3f} %, {len(texts)} of them different")
    print(f"{seconds:.1f} s, written, checked and parsed again")


if __name__ == "__main__":
    main()
