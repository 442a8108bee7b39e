"""Does the motion of people bear out their labels?

    python benchmarks/science/real_features.py [--data DIR]

Reads features of CASME II without pixels (`real-features/casme2-half` in the folder of real data: by default that of
the environment variable DEFT_REAL_DATA, or ../shared/data). The subjects are split in two halves, sorted order
alternating, so that no person is in both. Cut-offs and the few numbers that turn scores into probabilities are set on
one half and measured on the other, and the other way round; then those of the package are measured on both. The
patterns of the units come from anatomy. Which parts they name, and how far they vary, was chosen with both halves in
sight, so figures on other people may be lower.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from deft_llm.hub_datasets.unimer.constraints import CONTRADICTED, NOT_TESTABLE, SUPPORTED, judge_labels
from deft_llm.processing.motion_evidence import measure_motion
from deft_llm.processing.unit_evidence import CALIBRATION, SEEN, Calibration, probabilities, unit_scores
from deft_llm.processing.unit_patterns import UNITS_SEEN

FALSE_RATE = 0.05
HALVES = ("first half", "second half")


def data_folder() -> Path:
    """The folder of real data, whether it exists or not."""
    return Path(os.environ.get("DEFT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@dataclass
class Clips:
    """What the tables need of the clips.

    Args:
        half (`np.ndarray`): (N,), 0 or 1: the half of the subject.
        labelled (`np.ndarray`): (N, K) bool, whether each unit of `UNITS_SEEN` is labelled on some side.
        scores (`np.ndarray`): (N, K), each unit's largest score over the sides, as `seen_units` takes it.
        plain_scores (`np.ndarray`): (N, K), the same as `judge_labels` takes it.
        label_scores (`list[list[float]]`): The plain scores of the labels of these units on their own sides, by clip.
        verdicts (`list[list[str]]`): Verdicts on the testable labels, by clip.
    """

    half: np.ndarray
    labelled: np.ndarray
    scores: np.ndarray
    plain_scores: np.ndarray
    label_scores: list[list[float]]
    verdicts: list[list[str]]


def read_clips(folder: Path) -> Clips:
    """Reads the rows of a Uni-MER folder and judges their labels anew.

    Raises:
        FileNotFoundError: the folder has no Parquet files.
    """
    files = sorted(folder.glob("train-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder} has no train-*.parquet files.")
    rows = [
        row for file in files for row in pq.read_table(file, columns=["subject", "flow", "action_units"]).to_pylist()
    ]
    subjects = sorted({row["subject"] for row in rows})
    half = np.array([subjects.index(row["subject"]) % 2 for row in rows])
    labelled, scores, plain_scores, label_scores, verdicts = [], [], [], [], []
    for row in rows:
        flow = np.array(row["flow"], np.float32)
        labels = [(unit["code"], unit["side"]) for unit in row["action_units"]]
        found = unit_scores(flow)
        scores.append([max(found[code].values()) for code in UNITS_SEEN])
        labelled.append([code in dict(labels) for code in UNITS_SEEN])
        found = unit_scores(flow, after_strongest=False)
        plain_scores.append([max(found[code].values()) for code in UNITS_SEEN])
        label_scores.append([found[code][side] for code, side in labels if code in found])
        judged = judge_labels(labels, flow, measure_motion(flow))
        verdicts.append([item.verdict for item in judged if item.verdict != NOT_TESTABLE])
    return Clips(half, np.array(labelled), np.array(scores), np.array(plain_scores), label_scores, verdicts)


def fit_calibration(scores: np.ndarray, labelled: np.ndarray) -> Calibration:
    """The calibration under which the labels are most probable."""

    def loss(values: np.ndarray) -> float:
        expected = np.clip(probabilities(scores, Calibration(*values)), 1e-6, 1 - 1e-6)
        likelihood = np.where(labelled, np.log(expected), np.log(1 - expected)).sum()
        return -likelihood + 0.5 * values[3] ** 2

    start = (CALIBRATION.slope, CALIBRATION.base, CALIBRATION.faint, CALIBRATION.companion)
    return Calibration(*map(float, minimize(loss, start, method="L-BFGS-B").x))


def seen_rates(clips: Clips, half: int, calibration: Calibration, cut: float) -> tuple[float, float]:
    """On one half: share of labelled units that are seen, and of units seen among those that are not labelled."""
    inside = clips.half == half
    seen = probabilities(clips.scores[inside], calibration) >= cut
    labelled = clips.labelled[inside]
    return float(seen[labelled].mean()), float(seen[~labelled].mean())


def verdict_rates(clips: Clips, halves: Iterable[int] = (0, 1)) -> tuple[int, float, float]:
    """Number of testable labels, and the shares that are supported and contradicted."""
    verdicts = [item for half, own in zip(clips.half, clips.verdicts, strict=True) if half in halves for item in own]
    return len(verdicts), verdicts.count(SUPPORTED) / len(verdicts), verdicts.count(CONTRADICTED) / len(verdicts)


def area_under_curve(scores: np.ndarray, labelled: np.ndarray) -> float:
    """Probability that a labelled clip has a larger score than one without the label; equal scores count by half."""
    difference = scores[labelled][:, None] - scores[~labelled]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def units_table(clips: Clips) -> Table:
    """Units seen, with settings of the other half and with those of the package."""
    table = Table(title="A unit seen on some side (ten units)", title_justify="left")
    for column in ("set on", "measured on", "labelled and seen", "seen, not labelled"):
        table.add_column(column)
    for half in (0, 1):
        inside = clips.half == half
        calibration = fit_calibration(clips.scores[inside], clips.labelled[inside])
        values = probabilities(clips.scores[inside], calibration)[~clips.labelled[inside]]
        recall, false = seen_rates(clips, 1 - half, calibration, float(np.quantile(values, 1 - FALSE_RATE)))
        table.add_row(HALVES[half], HALVES[1 - half], f"{recall:.3f}", f"{false:.3f}")
    for half in (0, 1):
        recall, false = seen_rates(clips, half, CALIBRATION, SEEN)
        table.add_row("the package", HALVES[half], f"{recall:.3f}", f"{false:.3f}")
    seen = probabilities(clips.scores) >= SEEN
    both = seen[clips.labelled].mean(), seen[~clips.labelled].mean()
    table.add_row("the package", "both", *(f"{value:.3f}" for value in both))
    return table


def labels_table(clips: Clips) -> Table:
    """Verdicts on labels."""
    table = Table(title="Testable labels", title_justify="left")
    for column in ("set on", "measured on", "labels", "supported", "contradicted"):
        table.add_column(column)
    for half in (0, 1):
        inside = clips.half == half
        cut = np.quantile(clips.plain_scores[inside][~clips.labelled[inside]], 1 - FALSE_RATE)
        own = [score for at, scores in zip(inside, clips.label_scores, strict=True) if not at for score in scores]
        table.add_row(
            f"{HALVES[half]}, ten units", HALVES[1 - half], str(len(own)), f"{np.mean(np.array(own) > cut):.3f}", ""
        )
    for halves, name in (((0,), HALVES[0]), ((1,), HALVES[1]), ((0, 1), "both")):
        count, supported, contradicted = verdict_rates(clips, halves)
        table.add_row("the package", name, str(count), f"{supported:.3f}", f"{contradicted:.3f}")
    return table


def curve_table(clips: Clips) -> Table:
    """Each unit alone."""
    table = Table(title="Each unit, all subjects, settings of the package", title_justify="left")
    for column in ("", "labels", "area under the curve", "labelled and seen", "seen, not labelled"):
        table.add_column(column)
    seen = probabilities(clips.scores) >= SEEN
    for index, code in enumerate(UNITS_SEEN):
        labelled = clips.labelled[:, index]
        table.add_row(
            code,
            str(labelled.sum()),
            f"{area_under_curve(clips.scores[:, index], labelled):.2f}",
            f"{seen[labelled, index].mean():.2f}",
            f"{seen[~labelled, index].mean():.2f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder())
    folder = parser.parse_args().data / "real-features" / "casme2-half"
    try:
        clips = read_clips(folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    console = Console()
    for table in (labels_table(clips), units_table(clips), curve_table(clips)):
        console.print(table)


if __name__ == "__main__":
    main()
