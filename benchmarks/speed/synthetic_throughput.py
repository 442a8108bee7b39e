"""How fast are labelled clips made, and do two workers make twice as many?

    python benchmarks/speed/synthetic_throughput.py

A clip here is everything the dataset gets: 32 rendered frames of 224 × 224 by the `realistic` preset, the encoded mp4,
the measured flow, the judged labels, the conversations and the exact truth. Processes are warm when the clock starts.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from deft_llm.hub_datasets.synthetic.dataset import PRESETS, face_rows

CLIPS, FACES, ROUNDS = 18, 4, 3


def main() -> None:
    job = partial(
        face_rows,
        preset=PRESETS["realistic"],
        conventions=("synthetic",),
        clips_per_face=CLIPS,
        total=10**6,
        first_test_face=10**6,
        corrupt=0.0,
        num_frames=8,
        seed=0,
    )
    context = multiprocessing.get_context("spawn")
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(2, context) as two:
        list(one.map(job, [0]))
        list(two.map(job, [0, 1]))
        for round_ in range(ROUNDS):
            for workers, pool in ((1, one), (2, two)):  # in alternation, so that both see the same machine
                faces = range(10 + round_ * FACES, 10 + (round_ + 1) * FACES)
                start = time.perf_counter()
                list(pool.map(job, faces))
                rates[workers].append(CLIPS * FACES / (time.perf_counter() - start))
    for workers, values in rates.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{workers} worker{'s' * (workers > 1)}: {statistics.median(values):.2f} clips/s ({spread})")
    print(f"two against one: {statistics.median(rates[2]) / statistics.median(rates[1]):.2f} ×")


if __name__ == "__main__":
    main()
