"""Are short expressions found in recordings of people, and how much else is proposed?

    python benchmarks/science/real_spotting.py [--passes 1] [--data DIR]

The recordings are those of DIR/recordings; DIR is `DEFT_REAL_DATA`, or ../shared/data. Faces are found by the YuNet
model that lies there. Expressions of 0.2 to 0.4 s, one action unit each, are planted into every recording, 1 to 2 s
apart and the first one within the first second; onset and offset are known exactly. A proposal is right when its
intersection over union with a planted expression is 0.5 or more, each expression counted once, as MEGC does.

No recording is as long as 30 s; the length of each is printed, and none is shown twice. What a person does by
themselves is proposed as well, and nobody has annotated it. So F1 is given two ways: "all proposals" counts every
other proposal as wrong, and "own left out" does not count those that are proposed in the unchanged recording too,
again at an intersection over union of 0.5. "By chance" is the number of planted expressions that a proposal of the
unchanged recording would have hit. "Measured" are planted expressions in stretches in which the package says that it
can measure.

The score that a proposal needs (`_SCORE`, `_FEW_FRAMES` of `motion_intervals.py`) was set on the first, third, … of
the files in alphabetical order, with other planted expressions, on rendered clips, and so that `s18` has at most one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from real_recordings import LETTERS, SEED, UNITS, opened, parsed

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest
from deft_llm.hub_datasets.synthetic.dataset import UNILATERAL
from deft_llm.hub_datasets.synthetic.planting import PlantingError, plant
from deft_llm.processing import AlignedClip
from deft_llm.processing.action_units import SIDES
from deft_llm.processing.aligned_clip import Stretch
from deft_llm.processing.face_alignment import FaceAlignmentError, YuNetFaces
from deft_llm.processing.motion_intervals import Interval
from deft_llm.processing.video_reading import ArrayClip, ClipReader

LASTS = (0.2, 0.4)  # seconds from onset to offset
APEX = (0.4, 0.6)  # where in between
FIRST, PAUSE = (0.3, 1.0), (1.0, 2.0)  # seconds before the first expression and between two
RIGHT = 0.5  # intersection over union
MOVING = ("s13.mp4", "s18.mp4")  # a head that turns, a camera that slides past a still face
console = Console(width=150)


@dataclass
class Counts:
    """Of one recording, or of several."""

    planted: int = 0
    measured: int = 0
    found: int = 0
    found_measured: int = 0
    proposed: int = 0
    own: int = 0
    by_chance: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def row(self) -> list[str]:
        """Numbers for the table."""
        return [
            str(self.planted),
            str(self.measured),
            str(self.found),
            str(self.by_chance),
            str(self.proposed),
            str(self.own),
            f1(self.found, self.planted, self.proposed),
            f1(self.found, self.planted, self.proposed - self.own),
            f1(self.found_measured, self.measured, self.proposed - self.own),
        ]


def f1(found: int, shown: int, proposed: int) -> str:
    return f"{2 * found / (shown + proposed):.3f}" if shown + proposed else "–"


def times(count: int, fps: float, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Onset, apex and offset of the expressions that a recording of `count` frames gets."""
    found, at = [], rng.uniform(*FIRST)
    while True:
        onset, length = round(at * fps), rng.uniform(*LASTS)
        offset = onset + max(4, round(length * fps))
        if offset >= count:
            return found
        apex = int(np.clip(round(onset + rng.uniform(*APEX) * (offset - onset)), onset + 2, offset - 2))
        found.append((onset, apex, offset))
        at = offset / fps + rng.uniform(*PAUSE)


@dataclass
class PlantedRecording:
    """A recording with planted expressions.

    Args:
        reader (`ClipReader`): the changed frames.
        shown (`list[tuple[int, int]]`): onset and offset of each planted expression.
        left_out (`int`): number of expressions that could not be planted, because the face cannot be followed there.
    """

    reader: ClipReader
    shown: list[tuple[int, int]] = field(default_factory=list)
    left_out: int = 0


def planted_recording(
    reader: ClipReader, finder: YuNetFaces, letters: str, rng: np.random.Generator
) -> PlantedRecording:
    """Plants one unit at each of `times`, as strong as one of `letters`, and as the head moves meanwhile."""
    frames, fps = reader.frames(range(len(reader))), reader.metadata.fps
    result = PlantedRecording(ArrayClip(frames, reader.name, fps))
    for onset, apex, offset in times(len(reader), fps, rng):
        code = str(rng.choice(UNITS))
        side = str(rng.choice(SIDES)) if code in UNILATERAL and rng.random() < 0.5 else "both"
        request = UnitRequest.at_intensity(code, side, str(rng.choice(list(letters))), rng)
        part = ArrayClip(frames[onset : offset + 1].copy(), reader.name, fps)
        try:
            clip = AlignedClip.open(part, face_source=finder)
            planted = plant(clip, Expression((request,), 0, apex - onset, offset - onset), rng)
        except (FaceAlignmentError, PlantingError):
            result.left_out += 1
            continue
        frames[onset : offset + 1] = planted.frames
        result.shown.append((onset, offset))
    result.reader = ArrayClip(frames, reader.name, fps)
    return result


def counted(
    shown: Sequence[tuple[int, int]],
    proposed: Sequence[Interval],
    before: Sequence[Interval],
    stretches: Sequence[Stretch],
) -> Counts:
    """Compares proposals with what was planted.

    Args:
        shown (`Sequence[tuple[int, int]]`): onset and offset of the planted expressions.
        proposed (`Sequence[Interval]`): what is proposed in the changed recording.
        before (`Sequence[Interval]`): what is proposed in the unchanged recording.
        stretches (`Sequence[Stretch]`): what can be measured of the changed recording.
    """
    counts, left = Counts(len(shown), proposed=len(proposed)), list(proposed)
    for onset, offset in shown:
        measured = any(one.reason is None and one.start <= onset and offset < one.stop for one in stretches)
        best = max(left, key=lambda item: item.overlap(onset, offset), default=None)
        found = best is not None and best.overlap(onset, offset) >= RIGHT
        if found:
            left.remove(best)
        counts.measured += measured
        counts.found += found
        counts.found_measured += found and measured
        counts.by_chance += any(item.overlap(onset, offset) >= RIGHT for item in before)
    counts.own = sum(any(item.overlap(old.onset, old.offset) >= RIGHT for old in before) for item in left)
    return counts


def proposals(reader: ClipReader, finder: YuNetFaces) -> tuple[list[Interval], list[Stretch]]:
    """The expressions that a user is told of in a recording, and its stretches."""
    intervals, stretches = AlignedClip.open(reader, face_source=finder).intervals_and_stretches()
    return [item for item in intervals if item.kind == "expression"], stretches


def table_of(title: str, rows: dict[str, Counts]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("planted", "measured", "found", "by chance", "proposed", "own", "F1, all proposals"):
        table.add_column(name, justify="right")
    table.add_column("F1, own left out", justify="right")
    table.add_column("… of the measured", justify="right")
    for name, counts in rows.items():
        table.add_row(name, *counts.row())
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=1, help="how often expressions are planted into each recording")
    arguments, folder, finder = parsed(parser)
    rows: dict[str, dict[str, Counts]] = {name: {} for name in LETTERS}
    still, left_out = Table(title="Recordings as they are", title_justify="left"), 0
    for name in ("", "seconds", "of these measured", "expressions proposed", "asked"):
        still.add_column(name, justify="right" if name else "left")
    for place, (path, reader) in enumerate(opened(folder)):
        fps = reader.metadata.fps
        try:
            before, stretches = proposals(reader, finder)
        except FaceAlignmentError as error:
            console.print(str(error).replace(str(path), path.name), highlight=False)
            continue
        measured = sum(one.stop - one.start for one in stretches if one.reason is None) / fps
        asked = "≤ 1" if path.name in MOVING else ""
        still.add_row(path.name, f"{len(reader) / fps:.1f}", f"{measured:.1f}", str(len(before)), asked)
        for kind, (name, letters) in enumerate(LETTERS.items()):
            total = Counts()
            for turn in range(arguments.passes):
                planted = planted_recording(reader, finder, letters, np.random.default_rng([SEED, place, kind, turn]))
                left_out += planted.left_out
                proposed, parts = proposals(planted.reader, finder)
                total += counted(planted.shown, proposed, before, parts)
            rows[name][path.name] = total
    console.print(still)
    for name, found in rows.items():
        names = list(found)
        for half, chosen in (("1st, 3rd, … file", names[::2]), ("2nd, 4th, … file", names[1::2]), ("all", names)):
            found[half] = sum((found[one] for one in chosen), Counts())
        console.print(table_of(f"{name}: planted expressions of 0.2 to 0.4 s; F1 asked for ≥ 0.75", found))
    console.print(f"not planted, because the face cannot be followed there: {left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
