"""Draws the atlas of `processing/action_units.py` on a rendered face: `python docs/make_atlas.py`.

Writes action_unit_regions.png beside this file. Left: the regions on both sides. Right: where each
testable action unit moves its first region.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing.action_units import ACTION_UNITS, REGIONS, SIDES, region_ellipse

OUT = Path(__file__).with_name("action_unit_regions.png")
FACE_SEED = 78  # of the first hundred faces without glasses the one whose features lie closest to the atlas
HALO = [withStroke(linewidth=3, foreground="white")]
# Names stand in the margins, from top to bottom; these on the left of the picture, the others on the right.
LEFT_MARGIN = ("outer brow", "upper lid", "lower lid", "cheek", "nasolabial fold", "mouth corner")


def main() -> None:
    face = render_face(np.random.default_rng(FACE_SEED)).image.mean(-1) / 255
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6.7), width_ratios=(1.6, 1), layout="constrained")
    for axes, title in ((left, "Regions of the atlas"), (right, "First motion of each testable action unit")):
        axes.imshow(0.55 + 0.45 * face, extent=(0, 1, 1, 0), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        axes.set(ylim=(1, 0), xticks=(0, 0.5, 1), aspect="equal")
        axes.set_title(title, fontsize=14)
        axes.set_xlabel("← subject's right                    subject's left →", fontsize=11)
        axes.spines[:].set_visible(False)
    left.set(xlim=(-0.3, 1.3), yticks=())
    right.set(xlim=(0, 1), yticks=(0, 0.5, 1))
    _draw_regions(left)
    _draw_motions(right)
    figure.savefig(OUT, dpi=80, pil_kwargs={"optimize": True})


def _draw_regions(axes: plt.Axes) -> None:
    colours = plt.get_cmap("Dark2").colors
    for index, region in enumerate(REGIONS):
        for side in SIDES:
            cx, cy, rx, ry = region_ellipse(region, side)
            colour = colours[index % len(colours)]
            axes.add_patch(Ellipse((cx, cy), 2 * rx, 2 * ry, facecolor=(*colour, 0.25), edgecolor=colour, lw=2))
    for names, side, margin in (
        (LEFT_MARGIN, "right", -0.03),
        ([region for region in REGIONS if region not in LEFT_MARGIN], "left", 1.03),
    ):
        labels = sorted((region_ellipse(region, side)[1], region) for region in names)
        heights = np.linspace(labels[0][0], labels[-1][0], len(labels))
        for (_, region), height in zip(labels, heights, strict=True):
            cx, cy, rx, _ = region_ellipse(region, side)
            colour = colours[REGIONS.index(region) % len(colours)]
            outward = -1 if side == "right" else 1
            axes.plot((cx + outward * rx, margin), (cy, height), color=colour, lw=1.2, path_effects=HALO)
            axes.text(
                margin + 0.015 * outward,
                height,
                region,
                color=colour,
                fontsize=12,
                fontweight="bold",
                ha="right" if side == "right" else "left",
                va="center",
            )


def _draw_motions(axes: plt.Axes) -> None:
    """One arrow for each region and direction, with the numbers of the action units that share it."""
    shared = defaultdict(list)
    for unit in ACTION_UNITS.values():
        if unit.testable:
            shared[unit.motions[0]].append(unit.number)
    for motion, numbers in shared.items():
        for side in SIDES:
            cx, cy, *_ = region_ellipse(motion.region, side)
            dx, dy = motion.vector(side)
            outward = -1 if side == "right" else 1
            # Up on the inner, down on the outer half of a region, so that arrows do not cover each other.
            upright = dx == 0
            start = (cx + 0.022 * outward * dy * upright, cy)
            tip = (start[0] + 0.05 * dx, cy + 0.05 * dy)
            arrow = {"arrowstyle": "-|>", "color": "#b2182b", "lw": 2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", tip, start, arrowprops=arrow)
            if side == "right":
                continue
            text = {"fontsize": 10, "fontweight": "bold", "va": "center", "path_effects": HALO}
            # Beside the arrow, away from the region's other one; AU13 beyond its tip, for AU8 stands beside it.
            if upright and motion != ACTION_UNITS["AU13"].motions[0]:
                place = (start[0] + 0.012 * dy, start[1] + 0.03 * dy)
                text["ha"] = "left" if dy > 0 else "right"
            else:
                place = (tip[0] + 0.008 * dx, tip[1] + 0.020 * dy)
                text["ha"] = "left" if dx > 0 else "right" if dx < 0 else "center"
            axes.text(*place, _joined(numbers), **text)


def _joined(numbers: list[int]) -> str:
    run = list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}–{numbers[-1]}" if len(run) > 2 and run == numbers else ", ".join(map(str, numbers))


if __name__ == "__main__":
    main()
