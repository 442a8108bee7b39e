"""A small-data regime like the MEGC 2019 composite's: what does recognition mode cost, and does it beat an SVM?

    python benchmarks/science/evaluation.py [--subjects 68] [--models deft,svm,rcn,…] [--crop 1.25 0.06]

Makes up 442 rows of 68 subjects in three sources, 250 negative, 109 positive and 83 surprise: flow of 28 × 28 cells
only, in a unit of each source's own, without action units. A clip shows one to three action units of its class,
weakly, in a face of the subject's own proportions, over the subject's own habit of moving, a residue of head motion,
smooth and white noise. One clip in twelve shows the units of another class: coders disagree. The noise is set so that
the SVM comes near the UF1 of 0.757 that it reaches on the real composite.

Regions and directions are those of the atlas, which the model's prior knows too; so the row without the prior stands
beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED
from deft_llm.processing.action_units import SIDES, ellipse_mask, get_action_unit, region_ellipse

MEGC = PUBLISHED["megc2019"]
SIDE = 28
FINE = 112  # drawn finer, then averaged: a region is smaller than a cell
# Action units of a class, as often as they stand here.
SHOWN = {
    "negative": ("AU4", "AU4", "AU4 AU7", "AU4 AU7", "AU7", "AU4 AU9", "AU9", "AU10", "AU15", "AU17", "AU14"),
    "positive": ("AU12", "AU12", "AU12", "AU6 AU12", "AU6 AU12", "AU14"),
    "surprise": ("AU1 AU2", "AU1 AU2", "AU2", "AU1 AU2 AU5", "AU5", "AU1"),
}
EMOTION = {
    "smic-hs": {"negative": "negative", "positive": "positive"},
    "casme2": {"negative": "disgust", "positive": "happiness"},
    "samm": {"negative": "anger", "positive": "happiness"},
}


def make_rows(
    seed: int = 0, *, noise: float = 0.5, subjects: int | None = None, crop: tuple[float, float] = (1.0, 0.0)
) -> list[dict]:
    """Rows in the Uni-MER schema, as far as a features-only set has columns.

    Args:
        seed: seed of the rows.
        noise: factor of all motion that does not belong to an action unit.
        subjects: about this many subjects are kept, evenly from the sources; by default all.
        crop: zoom and downward shift, in shares of the crop, by which the sets' crops differ from the canonical one.
    """
    rows = []
    for number, (source, (published,)) in enumerate(MEGC.published.items()):
        people = published.subjects
        rng = np.random.default_rng([seed, number])
        unit = float(np.exp(rng.normal(0, 1)))
        labels = rng.permutation(np.repeat(MEGC.classes, published.clips))
        # Some subjects have many clips, some a few, each at least one.
        shares = rng.dirichlet(np.full(people, 1.5))
        owners = np.sort(np.concatenate([np.arange(people), rng.choice(people, len(labels) - people, p=shares)]))
        faces = [Face(np.random.default_rng([seed, number, person]), crop) for person in range(people)]
        kept = people if subjects is None else max(2, round(subjects * people / 68))
        for clip, (label, owner) in enumerate(zip(labels, owners, strict=True)):
            if owner >= kept:
                continue
            flow = unit * faces[owner].clip(str(label), noise, np.random.default_rng([seed, number, owner, clip]))
            rows.append(
                {
                    "clip_id": f"{source}/s{owner + 1:02d}/clip{clip + 1:03d}/1",
                    "source": source,
                    "subject": f"{source}/s{owner + 1:02d}",
                    "fps": 200.0,
                    "onset": 1,
                    "apex": 20,
                    "offset": 40,
                    "video": None,
                    "flow": flow.astype(np.float16)[None],
                    "action_units": [],
                    "motion": [],
                    "emotion": EMOTION[source].get(str(label), str(label)),
                    "emotion_coarse": str(label),
                    "conversations": [],
                    "provenance": {"reader": "benchmark", "sheet": None, "sheet_sha256": None, "row": clip},
                }
            )
    return rows


class Face:
    """A subject: proportions, one stronger side, and a habit of moving that says nothing about the class."""

    def __init__(self, rng: np.random.Generator, crop: tuple[float, float]):
        zoom, down = crop
        angle, scale = rng.normal(0, 3), np.exp(rng.normal(0, 0.05))
        self.warp = cv2.getRotationMatrix2D((FINE / 2, FINE / 2), angle, zoom * scale)
        self.warp[:, 2] += rng.normal(0, 0.025 * FINE, 2) + (0, down * FINE)
        self.stretch = np.exp(rng.normal(0, 0.06, 2))
        self.balance = np.exp(rng.normal(0, 0.3, 2))
        self.habit = smooth(rng, 6) * rng.uniform(0.2, 0.8)
        self.expressive = np.exp(rng.normal(0, 0.3))

    def clip(self, label: str, noise: float, rng: np.random.Generator) -> np.ndarray:
        """(2, 28, 28) flow from onset to apex."""
        shown = label if rng.random() > 1 / 12 else str(rng.choice(MEGC.classes))
        fine = np.zeros((2, FINE, FINE))
        for code in str(rng.choice(SHOWN[shown])).split():
            strength = self.expressive * np.exp(rng.normal(0, 0.5))
            for side, share in zip(SIDES, self.balance * np.exp(rng.normal(0, 0.3, 2)), strict=True):
                for motion in get_action_unit(code).motions:
                    mask = ellipse_mask(region_ellipse(motion.region, side), FINE, FINE).astype(float)
                    blurred = cv2.GaussianBlur(mask, (0, 0), rng.uniform(3, 7))
                    turn = rng.normal(0, 0.35)
                    u, v = motion.vector(side)
                    vector = np.array([u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)])
                    fine += strength * share * vector[:, None, None] * blurred
        fine = np.stack([cv2.warpAffine(channel, self.warp, (FINE, FINE)) for channel in fine])
        size = tuple(np.round(FINE * self.stretch).astype(int))
        fine = np.stack([cv2.resize(cv2.resize(channel, size), (FINE, FINE)) for channel in fine])
        flow = np.stack([cv2.resize(channel, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for channel in fine])

        y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        turn, zoom = rng.normal(0, 0.12, 2)
        head = np.stack([zoom * x - turn * y, turn * x + zoom * y]) + rng.normal(0, 0.5, 2)[:, None, None]
        disturbance = head + self.habit * rng.normal(0.5, 0.5)
        disturbance += smooth(rng, int(rng.integers(4, 10))) * rng.uniform(0.1, 0.5)
        disturbance += rng.normal(0, 1, flow.shape) * rng.uniform(0.05, 0.25)
        return flow + noise * disturbance


def smooth(rng: np.random.Generator, cells: int) -> np.ndarray:
    """(2, 28, 28) random field of unit variance on a coarse grid."""
    return np.stack([cv2.resize(rng.normal(0, 1, (cells, cells)), (SIDE, SIDE)) for _ in range(2)]) * 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=68, help="about as many, evenly from the three sources")
    parser.add_argument("--models", default="deft,deft_without_prior,svm,ststnet,off_apexnet,majority")
    parser.add_argument("--crop", type=float, nargs=2, default=(1.0, 0.0), metavar=("ZOOM", "DOWN"))
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench-evaluation"))
    arguments = parser.parse_args()

    # Imported here: the folds' processes import this file too.
    from deft_llm.evaluation.baselines import make_baseline
    from deft_llm.evaluation.fold_runs import ModelSpec, run_protocol
    from deft_llm.evaluation.protocols import make_task
    from deft_llm.evaluation.recognition import DeftRecogniser
    from deft_llm.evaluation.report import make_report, write_report
    from deft_llm.training.recognition import RecognitionConfig, prior_path

    rows = make_rows(arguments.seed, noise=arguments.noise, subjects=arguments.subjects, crop=tuple(arguments.crop))
    task = make_task({"train": rows}, "loso", labels=MEGC.classes)
    cache = arguments.output / "folds"
    seconds, specs = {}, []
    for name in arguments.models.split(","):
        start = time.perf_counter()
        if name == "deft":
            specs.append(ModelSpec(name, DeftRecogniser, {}, {"prior": prior_path(RecognitionConfig(), 1, cache)}))
        elif name == "deft_without_prior":
            specs.append(ModelSpec(name, DeftRecogniser))
        else:
            specs.append(ModelSpec(name, make_baseline, {"name": name}))
        seconds[name] = time.perf_counter() - start
    results = []
    for spec in specs:
        start = time.perf_counter()
        results.append(run_protocol(rows, task, spec, cache=cache, workers=arguments.workers, seed=arguments.seed))
        seconds[spec.name] += time.perf_counter() - start
    report = make_report(rows, task, results, dataset="made-up composite", mode="recognition", seed=arguments.seed)
    write_report(report, results, arguments.output)

    counts = ", ".join(f"{label} {count}" for label, count in report["classes"].items())
    print(f"{report['clips']} clips of {report['subjects']} subjects: {counts}; crop {tuple(arguments.crop)}")
    print("| model | UF1 (95 %) | UAR | accuracy | minutes | seconds a fold, one core | peak memory of a fold |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        figures = report["models"][result.model]
        low, high = figures["intervals"]["uf1"]
        mean = np.mean(list(result.seconds.values()))
        note = f" ({result.cached} folds from the cache)" if result.cached else ""
        print(
            f"| {result.model} | {figures['uf1']:.3f} ({low:.3f} to {high:.3f}) | {figures['uar']:.3f} "
            f"| {figures['accuracy']:.3f} | {seconds[result.model] / 60:.1f}{note} | {mean:.1f} "
            f"| {max(result.peak_memory.values()):.0f} MB |"
        )
    for item in report["comparisons"]:
        low, high = item["uf1_difference_interval"]
        print(
            f"{item['model']} − {item['against']}: UF1 {item['uf1_difference']:+.3f} ({low:+.3f} to {high:+.3f}), "
            f"McNemar p {item['mcnemar']['p_value']:.2g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
