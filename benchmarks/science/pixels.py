"""What do pixels add to motion, on unseen people and on unseen cameras?

    python benchmarks/science/pixels.py --dataset DIR [--cameras DIR]

Reads folders of `deft data synthesize`: --dataset are rendered faces (`--preset realistic`), and --cameras are clips
whose camera is another one, such as expressions planted into recordings. Three kinds of input are judged alone and
together: appearance (the apex in grey), texture (the change in grey from onset to apex) and motion (the flow at the
apex). Pixels are read at 28 × 28 by logistic regression, motion by the kernel machine of recognition mode. Together
they vote with equal shares. Unseen people: five folds of the faces of --dataset. Unseen cameras: all of --dataset in
training, all of --cameras in the test. Nothing is chosen on any clip. Intervals are over subjects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deft_llm.evaluation.baselines.clip_images import opened
from deft_llm.evaluation.baselines.flow_features import apex_flow
from deft_llm.evaluation.kernel_machine import KernelMachine
from deft_llm.evaluation.metrics import bootstrap_intervals, emotion_metrics, subject_confusions
from deft_llm.evaluation.recognition import voted
from deft_llm.evaluation.run import load_splits
from deft_llm.hub_datasets.unimer.splits import subject_folds

LABELS = ("negative", "positive", "surprise")
INPUTS = ("appearance", "texture", "motion")
SIDE = 28


class Clips:
    """The labelled clips of a folder and what is read of them."""

    def __init__(self, folder: Path):
        splits = load_splits(str(folder), with_video=True)
        self.rows = [row for part in splits.values() for row in part if row["emotion_coarse"] in LABELS]
        self.targets = np.array([LABELS.index(row["emotion_coarse"]) for row in self.rows])
        self.subjects = np.array([row["subject"] for row in self.rows])
        grey = np.stack([onset_and_apex(row) for row in self.rows])
        self.pixels = {"appearance": standardised(grey[:, 1]), "texture": standardised(grey[:, 1] - grey[:, 0])}
        self.fields = [apex_flow(row) for row in self.rows]


def onset_and_apex(row: Mapping[str, Any]) -> np.ndarray:
    """(2, SIDE²), in grey."""
    return np.stack([image.ravel() for image in opened(row).crops(SIDE, [row["onset"], row["apex"]], grey=True)])


def standardised(images: np.ndarray) -> np.ndarray:
    """Each image without its mean and with a standard deviation of 1."""
    images = images.astype(np.float64) - images.mean(1, keepdims=True)
    return images / np.maximum(images.std(1, keepdims=True), 1e-6)


def opinions(train: Clips, kept: np.ndarray, test: Clips, asked: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities of the asked clips by each input, (clips, classes)."""
    found = {}
    for name, images in train.pixels.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
        model.fit(images[kept], train.targets[kept])
        found[name] = model.predict_proba(test.pixels[name][asked])
    machine = KernelMachine(len(LABELS))
    machine.fit([train.fields[k] for k in kept], train.targets[kept], train.subjects[kept])
    found["motion"] = machine.predict([test.fields[k] for k in asked])[0]
    return found


def show(title: str, clips: Clips, found: Mapping[str, np.ndarray]) -> None:
    """Prints UF1 of each set of inputs."""
    print(f"\n{title}: {len(clips.rows)} clips of {len(set(clips.subjects))} subjects")
    print("| inputs | UF1 (95 %) | UAR |\n|---|---|---|")
    true = [LABELS[target] for target in clips.targets]
    for count in range(1, len(INPUTS) + 1):
        for names in combinations(INPUTS, count):
            scores = voted([found[name] for name in names], [1.0] * count)
            print(f"| {' + '.join(names)} | {figures(clips, true, [LABELS[k] for k in scores.argmax(1)])} |")
    commonest = LABELS[int(np.bincount(clips.targets).argmax())]
    print(f"| nothing: always {commonest} | {figures(clips, true, [commonest] * len(true))} |")


def figures(clips: Clips, true: Sequence[str], answers: Sequence[str]) -> str:
    score = emotion_metrics(true, answers, LABELS)
    low, high = bootstrap_intervals(subject_confusions(clips.subjects.tolist(), true, answers, LABELS))["uf1"]
    return f"{score['uf1']:.3f} ({low:.3f} to {high:.3f}) | {score['uar']:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--cameras", type=Path)
    arguments = parser.parse_args()
    clips = Clips(arguments.dataset)
    place = {row["clip_id"]: number for number, row in enumerate(clips.rows)}
    found = {name: np.zeros((len(clips.rows), len(LABELS))) for name in INPUTS}
    for fold in subject_folds(clips.rows, 5):
        kept, asked = (np.array([place[clip] for clip in side]) for side in (fold.train, fold.test))
        for name, scores in opinions(clips, kept, clips, asked).items():
            found[name][asked] = scores
    show("Unseen people", clips, found)
    if arguments.cameras is not None:
        others = Clips(arguments.cameras)
        everything = np.arange(len(clips.rows)), np.arange(len(others.rows))
        show("Unseen people and cameras", others, opinions(clips, everything[0], others, everything[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
