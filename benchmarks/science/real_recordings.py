"""What does the package say about people, whom it was not tuned on, and is it true?

    python benchmarks/science/real_recordings.py [--part NAME …] [--full] [--data DIR]

The recordings are those of DIR/recordings; DIR is `DEFT_REAL_DATA`, or ../shared/data. Faces are found by the YuNet
model that lies there. Nothing is tuned here. Six parts:

- `windows`: half-second windows, six per file: what is claimed to move, what is refused and why, and how far the eyes
  moved meanwhile, by the detector.
- `planted`: action units planted into such windows, the head as it is: what is found of them, and what else. What the
  person does meanwhile is part of what is said, so the change against the unchanged clip is compared as well.
- `photograph`: the first face of each file as a photograph under a head's 3-D motion. Nothing but the head moves, so
  every region that counts as moving is a false one.
- `whole`: end-point error from onset to apex inside the face, the estimators on the same crops of planted clips.
- `pairs`: the same for clips of two frames.
- `limits`: the stated detection limits against what is seen of planted motion. For each region, a unit that moves it
  is planted in several strengths, where the eyes stay where they are and into photographs. "Change": a side of a
  region counts as seen if its change against the unchanged clip is significant by the planted clip's standard error,
  so that the person's own motion is not counted. "As said": it counts if the package says so, on sides of which it
  says nothing in the unchanged clip. The limit found is where 90 % are seen, by a normal ogive.

In `whole` and `pairs` the person moves too, by how much nobody knows. So the flow of the unchanged clip is subtracted
from that of the planted one, and what is left is compared with the exact added motion. Only windows in which the eyes
stay where they are (10 % of their distance) are used, and photographs: a first frame with fresh noise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, unit_movement
from deft_llm.hub_datasets.synthetic.dataset import CONVENTIONS, UNILATERAL
from deft_llm.hub_datasets.synthetic.faces import Face
from deft_llm.hub_datasets.synthetic.planting import PlantedClip, PlantingError, plant, planted_field
from deft_llm.hub_datasets.synthetic.turning import HeadPath, turn_photograph
from deft_llm.processing import AlignedClip, DeftVideoProcessor
from deft_llm.processing.action_units import REGIONS, SIDES, ellipse_mask, get_action_unit, region_ellipse
from deft_llm.processing.face_alignment import FaceAlignmentError, YuNetFaces
from deft_llm.processing.key_frames import KeyFrameError
from deft_llm.processing.motion_evidence import (
    SIGNIFICANT_AT,
    RegionMotion,
    direction_of,
    measure_motion,
    octants_apart,
)
from deft_llm.processing.video_reading import ArrayClip, ClipReader, VideoReadError, open_clip

MODEL = "face_detection_yunet_2026may.onnx"
SECONDS = 0.5
LARGE = 10.0  # percent of the face's width; no expression moves a region that far in half a second
STILL = 0.10  # of the distance between the eyes
MANY = 12  # regions
UNITS = sorted({code for prototypes in CONVENTIONS["synthetic"].values() for codes in prototypes for code in codes})
LETTERS = {"C and above": "CDE", "A–B": "AB"}
ESTIMATORS = ("whole_clip", "farneback", "dis", "tvl1")
GRID = 32
FACE = ellipse_mask((0.5, 0.5, 0.40, 0.46), GRID, GRID)
SEED = 2025
# A unit for every region of the atlas. Those of a group are planted together, far from each other. Units that all move
# the skin the same way are not, because that is how a head moves.
LIMIT_UNITS: tuple[dict[str, str], ...] = (
    {"inner brow": "AU1", "nasolabial fold": "AU11", "chin": "AU26"},
    {"outer brow": "AU2", "nose wing": "AU38", "lower lip": "AU16"},
    {"upper lid": "AU43", "upper lip": "AU10"},
    {"lower lid": "AU7", "mouth corner": "AU15"},
    {"nose root": "AU9"},
    {"cheek": "AU6"},
)
STRENGTHS = (0.6, 0.85, 1.1, 1.5)  # of planted motion, in stated limits
UNMARKED = Face(np.zeros((1, 1, 3), np.float32))  # the atlas as it is, as `plant` uses it
WITHIN = 1.3  # a found limit is as stated if they differ by at most this factor
console = Console(width=150)


# --- The package under test -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What the package says of a clip: `reason` where it refuses, or else flow in percent and the regions' motions."""

    reason: str | None
    flow: np.ndarray | None = None
    motions: Sequence[RegionMotion] = ()

    @property
    def moving(self) -> dict[tuple[str, str], RegionMotion]:
        """The significant motions by region and side."""
        return {(motion.region, motion.side): motion for motion in self.motions if motion.significant}


@lru_cache(maxsize=8)
def processor(estimator: str, num_frames: int) -> DeftVideoProcessor:
    return DeftVideoProcessor(flow_estimator=estimator, num_frames=num_frames, flow_size=GRID)


def measure(clip: AlignedClip, estimator: str = "whole_clip") -> Measurement:
    """Measures a clip as a user's call does. All parts ask here, and nowhere else, what the package says.

    Args:
        clip (`AlignedClip`): the clip; without key frames they are spotted.
        estimator (`str`): a key of `FLOW_ESTIMATORS`.
    """
    try:
        options = {"do_crop_appearance": False, "return_measurement": True}
        tensors = processor(estimator, min(8, len(clip)))(clip, **options)
    except (VideoReadError, FaceAlignmentError, KeyFrameError) as error:
        return Measurement(str(error).replace(clip.name, "clip"))
    if tensors["not_measurable"][0] is not None:
        return Measurement(tensors["not_measurable"][0])
    flow = np.asarray(tensors["flow_values_videos"][0])
    motions = measure_motion(flow, lead_in=tensors["lead_in_flow"][0], deviation=tensors["flow_deviation"][0])
    return Measurement(None, flow, motions)


# --- Windows of recordings ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a recording. The face is found in its first frame; `clip` is None if that frame has no face."""

    name: str
    reader: ClipReader
    clip: AlignedClip | None
    reason: str | None
    eyes: float | None  # largest displacement of an eye since the first frame, in distances between the eyes

    @property
    def still(self) -> bool:
        return self.eyes is not None and self.eyes <= STILL


def opened(folder: Path) -> Iterator[tuple[Path, ClipReader]]:
    for path in sorted(folder.iterdir()):
        try:
            yield path, open_clip(path)
        except VideoReadError as error:
            console.print(f"{path.name} cannot be read: {str(error).replace(str(path), path.name)}", highlight=False)


def windows(folder: Path, finder: YuNetFaces, per_file: int) -> list[Window]:
    """Windows evenly spread over every recording that can be read."""
    found = []
    for path, reader in opened(folder):
        count = max(2, round(SECONDS * (reader.metadata.fps or 25)))
        for start in np.linspace(0, max(0, len(reader) - count), per_file).round().astype(int).tolist():
            part = reader.window(start, min(start + count, len(reader)), name=f"{path.name}@{start}").in_memory()
            try:
                clip, reason = AlignedClip.open(part, face_source=finder), None
            except FaceAlignmentError as error:
                clip, reason = None, str(error).partition(": ")[2]
            found.append(Window(path.name, part, clip, reason, None if clip is None else eye_motion(clip, finder)))
    return found


def eye_motion(clip: AlignedClip, finder: YuNetFaces) -> float | None:
    """The largest displacement of an eye since the first frame, in distances between the eyes; None without a face."""
    inverse = np.linalg.inv(clip.transform[:, :2])
    middle = inverse @ (np.array([0.5, 0.5]) - clip.transform[:, 2])
    places = []
    for frame in clip.reader.frames([0, *(round(share * (len(clip) - 1)) for share in (1 / 3, 2 / 3, 1))]):
        faces = finder(frame)
        if not len(faces):
            return None
        nearest = min(faces, key=lambda face: float(np.hypot(*(face.mean(0) - middle))))
        places.append(nearest[:2])
    eyes = np.array(places)
    distance = np.hypot(*(eyes[0, 1] - eyes[0, 0]))
    return float(np.hypot(*(eyes[1:] - eyes[0]).transpose(2, 0, 1)).max() / distance)


def share(count: int, total: int) -> str:
    return f"{count} of {total}" + (f" ({100 * count / total:.0f} %)" if total else "")


def table_of(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("measure", "measured", "to reach"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


# --- The parts ------------------------------------------------------------------------------------------------------


def windows_part(stretches: Sequence[Window]) -> None:
    reasons: Counter[str] = Counter(item.reason for item in stretches if item.clip is None)
    measured, large, many, still, still_moving = 0, 0, 0, 0, []
    for item in stretches:
        if item.clip is None:
            continue
        said = measure(item.clip)
        still += item.still
        if said.reason is not None:
            reasons[said.reason] += 1
            continue
        measured += 1
        large += any(motion.magnitude > LARGE for motion in said.moving.values())
        many += len(said.moving) >= MANY
        if item.still:
            still_moving.append(len(said.moving))
    faces = sum(item.clip is not None for item in stretches)
    table_of(
        f"{len(stretches)} half-second windows of {len({item.name for item in stretches})} recordings",
        [
            ("windows with a face in the first frame", share(faces, len(stretches)), ""),
            (f"windows that claim motion above {LARGE:g} %", share(large, faces), "0"),
            (f"windows with {MANY} or more moving regions", share(many, faces), ""),
            ("measured", share(measured, faces), ""),
            (f"eyes within {100 * STILL:g} % of their distance: measured", share(len(still_moving), still), "≥ 90 %"),
            (
                f"  of these with {MANY} or more moving regions",
                share(sum(count >= MANY for count in still_moving), len(still_moving)),
                "",
            ),
            ("  moving regions, median", f"{np.median(still_moving):.0f}" if still_moving else "–", ""),
        ],
    )
    for reason, count in reasons.most_common():
        console.print(f"refused {count} ×: {reason}", highlight=False)


def planted_clips(
    stretches: Sequence[Window], count: int, letters: str, seed: int
) -> Iterator[tuple[Window, AlignedClip, PlantedClip]]:
    """Up to `count` windows, spread over the recordings, each unchanged and with one unit planted."""
    usable = [item for item in stretches if item.clip is not None and len(item.reader) >= 8]
    rng, made = np.random.default_rng([SEED, seed]), 0
    for place in rng.permutation(len(usable)):
        if made == count:
            return
        item = usable[place]
        clip = item.clip
        code = str(rng.choice(UNITS))
        side = str(rng.choice(SIDES)) if code in UNILATERAL and rng.random() < 0.5 else "both"
        request = UnitRequest.at_intensity(code, side, str(rng.choice(list(letters))), rng)
        last = len(clip) - 1
        try:
            planted = plant(clip, Expression((request,), 0, last // 2, last), rng)
        except PlantingError as error:
            console.print(f"left out: {error}", highlight=False)
            continue
        made += 1
        yield item, clip.with_key_frames(planted.clip.key_frames), planted


def true_motion(planted: PlantedClip) -> dict[tuple[str, str], float]:
    """The mean added displacement of every region at the apex, in percent."""
    flow = planted.flow(GRID, [planted.expression.apex])[0]
    return {
        (region, side): float(np.hypot(*flow[:, ellipse_mask(region_ellipse(region, side), GRID, GRID)].mean(-1)))
        for region in REGIONS
        for side in SIDES
    }


@dataclass(frozen=True)
class PlantedSide:
    """What was said of one side of a planted unit.

    `said` compares what the package says, the person's own motion included; `change` what it says more than of the
    unchanged clip. Each is whether the direction is right within one octant, and the magnitude's relative error.
    """

    still: bool
    found: bool
    said: tuple[bool, float]
    change: tuple[bool, float]


def planted_sides(item: Window, planted: PlantedClip, said: Measurement, before: Measurement) -> list[PlantedSide]:
    (unit,), true, sides = planted.expression.units, true_motion(planted), []
    expected = get_action_unit(unit.code).motions[0]
    at = len(said.flow) // 2  # the apex; the onset is not among the fields
    for side in SIDES if unit.side == "both" else (unit.side,):
        mask, size = ellipse_mask(region_ellipse(expected.region, side), GRID, GRID), true[expected.region, side]
        u, v = (said.flow[at] - before.flow[at])[:, mask].mean(-1)
        (motion,) = (one for one in said.motions if (one.region, one.side) == (expected.region, side))
        compared = []
        for direction, magnitude in (
            (motion.direction, motion.magnitude),
            (direction_of(u, v, side), float(np.hypot(u, v))),
        ):
            apart = octants_apart(direction, expected.phrase)
            compared.append((apart is not None and apart <= 1, abs(magnitude - size) / size))
        sides.append(PlantedSide(item.still, motion.significant, *compared))
    return sides


def planted_part(stretches: Sequence[Window], count: int) -> None:
    rows = []
    for seed, (name, letters) in enumerate(LETTERS.items()):
        sides: list[PlantedSide] = []
        false: list[tuple[bool, int]] = []
        refused = 0
        for item, base, planted in planted_clips(stretches, count, letters, seed):
            said, before = measure(planted.clip), measure(base)
            if said.reason is not None or before.reason is not None:
                refused += 1
                continue
            sides += planted_sides(item, planted, said, before)
            (unit,) = planted.expression.units
            untouched = {key for key, size in true_motion(planted).items() if size < 10 * unit.amplitude}
            false.append((item.still, len((said.moving.keys() - before.moving.keys()) & untouched)))
        rows.append((f"{name}: clips refused", share(refused, len(false) + refused), ""))
        for where, kept in (("", (True, False)), (", eyes still", (True,))):
            found = [side for side in sides if side.still in kept]
            seen = [side for side in found if side.found]
            right = share(sum(one.said[0] for one in seen), len(seen))
            label = f"{name}{where}: "
            goal = "≥ 92 %" if letters == "CDE" else "≥ 60 %"
            rows += [
                (label + "sides of units found", share(len(seen), len(found)), goal),
                (label + "  in the right direction ± 1 octant", right, ""),
                (label + "  the same, of the change", share(sum(one.change[0] for one in seen), len(seen)), "≥ 95 %"),
                (label + "  relative error, median", _median([one.said[1] for one in seen], "{:.2f}"), ""),
                (label + "  the same, of the change", _median([one.change[1] for one in seen], "{:.2f}"), "≤ 0.20"),
                (label + "added false regions", _mean([extra for still, extra in false if still in kept]), "≤ 0.3"),
            ]
    table_of("Units planted into half-second windows; the change is against the unchanged clip", rows)


def photograph_part(stretches: Sequence[Window], per_file: int) -> None:
    first = {item.name: item for item in reversed(stretches) if item.clip is not None}
    false, residuals, refused = [], [], Counter()
    for place, item in enumerate(first.values()):
        picture = item.reader.frames([0])[0]
        for turn in range(per_file):
            rng = np.random.default_rng([SEED, 9, place, turn])
            path = HeadPath.random(rng, 16, 30.0, yaw=8, pitch=8, roll=3, shift=0.05)
            turned = turn_photograph(picture, item.clip.transform, path, noise=1.0, rng=rng)
            clip = AlignedClip(ArrayClip(turned.frames, item.name, 30.0), turned.transform).with_key_frames((0, 8, 15))
            said = measure(clip)
            if said.reason is not None:
                refused[said.reason] += 1
                continue
            false.append(len(said.moving))
            residuals.append(float(np.median(np.hypot(said.flow[:, 0], said.flow[:, 1])[:, FACE])) * 1.28)
    table_of(
        f"{len(first)} photographs under a head's 3-D motion (yaw, pitch ≤ 8°, 5 % translation), {per_file} each",
        [
            ("clips refused", share(sum(refused.values()), len(false) + sum(refused.values())), ""),
            ("false regions per clip", _mean(false), "≤ 0.2"),
            ("residual flow, median, px at 128", _median(residuals, "{:.3f}"), "≤ 0.05"),
        ],
    )


def frozen(stretches: Sequence[Window]) -> list[Window]:
    """The windows with their first frame instead of every frame, and sensor noise; all motion in them is planted."""
    held = []
    for place, item in enumerate(stretches):
        if item.clip is None:
            continue
        noise = np.random.default_rng([SEED, 11, place])
        first = item.reader.frames([0])[0]
        frames = [np.clip(np.rint(first + noise.normal(0, 1, first.shape)), 0, 255) for _ in range(len(item.reader))]
        reader = ArrayClip(np.uint8(frames), item.reader.name, item.reader.metadata.fps)
        held.append(Window(item.name, reader, AlignedClip(reader, item.clip.transform), None, 0.0))
    return held


def estimators_part(stretches: Sequence[Window], count: int, what: str, *, pairs: bool) -> None:
    still = [item for item in stretches if item.still]
    errors: dict[str, dict[int, float]] = {name: {} for name in ESTIMATORS}  # by clip
    moved, missing = [], ""
    for _, base, planted in planted_clips(still, count, "ABCDE", 5):
        shown, clips = planted.expression, (base, planted.clip)
        if pairs:
            clips = tuple(_pair(clip, shown.onset, shown.apex) for clip in clips)
        truth = planted.flow(GRID, [shown.apex])[0]
        moved.append(float(np.hypot(*truth)[FACE].mean()))
        for name in ESTIMATORS:
            try:
                before, after = (measure(clip, name) for clip in clips)
            except ImportError as error:
                missing = str(error)
                continue
            if before.reason is not None or after.reason is not None:
                continue
            at = 0 if pairs else len(after.flow) // 2  # the apex; onset is not among the fields
            error = np.hypot(*(after.flow[at] - before.flow[at] - truth))[FACE].mean()
            errors[name][len(moved)] = float(error)
    kind = "clips of two frames" if pairs else "whole clips"
    table = Table(title=f"End-point error in % of the width, {len(moved)} {kind}, {what}", title_justify="left")
    for column in ("estimator", "refused", "mean", "median", "whole_clip / it, same clips"):
        table.add_column(column, justify="right")
    table.add_row("no motion", "", f"{np.mean(moved):.4f}", f"{np.median(moved):.4f}", "")
    own = errors["whole_clip"]
    for name, found in errors.items():
        values, both = list(found.values()), found.keys() & own.keys()
        if both:
            ratio = np.mean([own[clip] for clip in both]) / np.mean([found[clip] for clip in both])
            columns = (str(len(moved) - len(found)), f"{np.mean(values):.4f}", f"{np.median(values):.4f}")
            table.add_row(name, *columns, f"{ratio:.2f}")
    console.print(table)
    console.print(f"to reach: {'≤ 0.7' if pairs else '≤ 0.6'} × the best of the others")
    if missing:
        console.print(f"tvl1 is not installed: {missing}", highlight=False)


@dataclass(frozen=True)
class LimitTrial:
    """Motion planted into one side of a region, and whether it was seen.

    Args:
        name (`str`): the recording.
        region (`str`): the region.
        strength (`float`): the true motion, in detection limits that are stated on the unchanged clip.
        changed (`bool`): whether the change against the unchanged clip is significant.
        said (`bool | None`): whether the region is significant; None if it is in the unchanged clip.
        response (`float`): measured change along the true motion, as a part of it.
    """

    name: str
    region: str
    strength: float
    changed: bool
    said: bool | None
    response: float


def limit_trials(stretches: Sequence[Window], count: int) -> Iterator[LimitTrial]:
    """Plants into up to `count` windows, as many of each recording as possible."""
    rng, left = np.random.default_rng([SEED, 13]), count
    for item in _in_turns([item for item in stretches if item.clip is not None and len(item.reader) >= 8]):
        if not left:
            return
        last = len(item.clip) - 1
        base = item.clip.with_key_frames((0, last // 2, last))
        before = measure(base)
        if before.reason is not None:
            continue
        stated = {(motion.region, motion.side): motion for motion in before.motions}
        poses = None
        for group in LIMIT_UNITS:
            seed = int(rng.integers(1 << 31))
            for strength in STRENGTHS:
                units = []
                for region, code in group.items():
                    limit = np.mean([stated[region, side].detection_limit for side in SIDES])
                    units.append(UnitRequest(code, "both", min(0.05, strength * limit / _motion_of(code, region))))
                shown, same = Expression(tuple(units), 0, last // 2, last), np.random.default_rng(seed)
                try:
                    planted = plant(base, shown, same, poses=poses)
                except PlantingError as error:
                    console.print(f"left out: {error}", highlight=False)
                    break
                poses = planted.poses
                after = measure(planted.clip)
                if after.reason is None:
                    yield from _trials(item.name, tuple(group), stated, planted, before, after)
        left -= poses is not None


def _in_turns(stretches: Sequence[Window]) -> list[Window]:
    """The first window of each recording, then the second of each, and so on."""
    turns = [sum(other.name == item.name for other in stretches[:place]) for place, item in enumerate(stretches)]
    return [stretches[place] for place in np.argsort(turns, kind="stable")]


@lru_cache(maxsize=64)
def _motion_of(code: str, region: str) -> float:
    """Mean motion of a region by a unit of amplitude 1, in percent."""
    movement = unit_movement(UNMARKED, UnitRequest(code, "both", 0.01), np.ones(1), np.random.default_rng(0))
    flow = 1e4 * planted_field(movement, (np.mgrid[0:GRID, 0:GRID][::-1] + 0.5) / GRID)
    return float(np.hypot(*flow[:, ellipse_mask(region_ellipse(region, "left"), GRID, GRID)].mean(-1)))


def _trials(
    name: str,
    regions: Sequence[str],
    stated: dict[tuple[str, str], RegionMotion],
    planted: PlantedClip,
    before: Measurement,
    after: Measurement,
) -> Iterator[LimitTrial]:
    at = len(after.flow) // 2  # the apex; the onset is not among the fields
    true, change = planted.flow(GRID, [planted.expression.apex])[0], after.flow[at] - before.flow[at]
    for motion in after.motions:
        if motion.region not in regions:
            continue
        mask = ellipse_mask(region_ellipse(motion.region, motion.side), GRID, GRID)
        moved, measured, old = true[:, mask].mean(-1), change[:, mask].mean(-1), stated[motion.region, motion.side]
        yield LimitTrial(
            name,
            motion.region,
            float(np.hypot(*moved)) / old.detection_limit,
            float(np.hypot(*measured)) > SIGNIFICANT_AT * motion.standard_error,
            None if old.significant else motion.significant,
            float(moved @ measured / (moved @ moved)),
        )


def seen_from(trials: Sequence[tuple[float, bool]]) -> float | None:
    """The strength from which 90 % are seen, by the normal ogive that fits best.

    Args:
        trials (`Sequence[tuple[float, bool]]`): strength and whether it was seen. Without both outcomes the result is
            None.
    """
    if len({seen for _, seen in trials}) < 2:
        return None
    strengths, seen = (torch.tensor(values, dtype=torch.float64) for values in zip(*trials, strict=True))
    middles, widths = torch.linspace(0.1, 3, 146).double(), torch.linspace(0.02, 0.8, 40).double()
    share = torch.special.ndtr((strengths - middles[:, None, None]) / widths[:, None]).clamp(0.01, 0.99)
    best = int((seen * share.log() + (1 - seen) * (1 - share).log()).sum(-1).argmax())
    return float(middles[best // len(widths)] + 1.2816 * widths[best % len(widths)])


def limits_part(kept: Sequence[Window], count: int, what: str) -> None:
    trials = list(limit_trials(kept, count))
    table = Table(title=f"Limits found by planting, in stated limits, {what}", title_justify="left")
    for column in ("region", "sides planted", "response, median", "found, change", "found, as said (sides)"):
        table.add_column(column, justify="left" if column == "region" else "right")
    found: dict[str, list[float | None]] = {"change": [], "said": []}
    for region in REGIONS:
        those = [trial for trial in trials if trial.region == region]
        quiet = [trial for trial in those if trial.said is not None]
        found["change"].append(seen_from([(trial.strength, trial.changed) for trial in those]))
        found["said"].append(seen_from([(trial.strength, trial.said) for trial in quiet]))
        factors = ["–" if factors[-1] is None else f"{factors[-1]:.2f}" for factors in found.values()]
        response = _median([trial.response for trial in those if trial.strength >= 0.8], "{:.2f}")
        table.add_row(region, str(len(those)), response, factors[0], f"{factors[1]} ({len(quiet)})")
    console.print(table)
    for name, factors in found.items():
        near = [factor for factor in factors if factor is not None and 1 / WITHIN <= factor <= WITHIN]
        console.print(f"within a factor {WITHIN:g}, {name}: {share(len(near), len(factors))}; to reach: 80 %")


def _pair(clip: AlignedClip, onset: int, apex: int) -> AlignedClip:
    frames = clip.reader.frames([onset, apex])
    return AlignedClip(ArrayClip(frames, clip.name, None), clip.transform).with_key_frames((0, 1, 1))


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({len(values)} clips)" if values else "–"


def _median(values: Sequence[float], form: str) -> str:
    return form.format(np.median(values)) if values else "–"


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Path, YuNetFaces]:
    """The arguments with `--data`, the folder of recordings and the face finder. This process keeps to one thread."""
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DEFT_REAL_DATA", "../shared/data")))
    arguments = parser.parse_args()
    folder, model = arguments.data / "recordings", arguments.data / MODEL
    if not folder.is_dir() or not model.is_file():
        parser.error(f"{arguments.data}: no recordings/ with {MODEL} beside it; set DEFT_REAL_DATA or pass --data.")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return arguments, folder, YuNetFaces(model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("windows", "planted", "photograph", "whole", "pairs", "limits")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts, metavar="NAME")
    parser.add_argument("--full", action="store_true", help="five times as many planted clips and photographs")
    arguments, folder, finder = parsed(parser)
    times = 5 if arguments.full else 1
    stretches = windows(folder, finder, 6)
    if "windows" in arguments.part:
        windows_part(stretches)
    if "planted" in arguments.part:
        planted_part(stretches, 20 * times)
    if "photograph" in arguments.part:
        photograph_part(stretches, times)
    for name in ("whole", "pairs", "limits"):
        if name in arguments.part:
            # As many windows as are planted are enough to hold frozen ones of every recording.
            chosen = stretches[:: 1 if arguments.full else 3]
            for kept, what in ((stretches, "people"), (frozen(chosen), "photographs")):
                if name == "limits":
                    limits_part([item for item in kept if item.still], 5 * times, what)
                else:
                    estimators_part(kept, 10 * times, what, pairs=name == "pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
