"""Draws docs/synthetic_faces.png: faces of the generator, and what a micro-expression does to frames and to flow.

python docs/make_contact_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from deft_llm.drawing import draw_crop, draw_flow
from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.action_units import get_action_unit

FACES = range(16)
SHOWN = (("AU4", "both"), ("AU12", "left"), ("AU1", "both"), ("AU9", "both"))
AMPLITUDE = 0.012
ARROWS = 12  # how many times longer than the motion


def main() -> None:
    figure = plt.figure(figsize=(12, 12.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 2.05))
    top.suptitle("Every seed is another face")
    for axis, seed in zip(top.subplots(2, 8).ravel(), FACES, strict=True):
        axis.imshow(render_face(np.random.default_rng(seed), size=224).image / 255)
        axis.axis("off")

    bottom.suptitle(
        f"A peak of {100 * AMPLITUDE:g} % of the crop's width: hardly seen in the frames, plain in the flow"
    )
    axes = bottom.subplots(4, len(SHOWN))
    processor = DeftVideoProcessor(num_frames=2, flow_size=28)
    for column, (code, side) in enumerate(SHOWN):
        face = render_face(np.random.default_rng(100 + column), size=224)
        shown = Expression((UnitRequest(code, side, AMPLITUDE),), onset=2, apex=14, offset=26)
        clip = render_clip(face, [shown], np.random.default_rng(0), count=28, disturbances=EVERYDAY)
        true = 100 * clip.flow(2, 14, expression_only=True, grid=28)
        measured = processor(clip.frames, key_frames=(2, 14, 26))["flow_values_videos"][0, 0]
        frames = {"onset": clip.frames[2], "apex": clip.frames[14]}
        for row, (title, frame) in enumerate(frames.items()):
            axes[row, column].imshow(frame)
            axes[row, column].set_ylabel(title)
        for row, (title, flow) in enumerate({"true motion": true, "measured": measured}.items(), start=2):
            draw_crop(axes[row, column], clip.frames[2], faded=True)
            draw_flow(axes[row, column], flow, scale=ARROWS, top=100 * AMPLITUDE)
            axes[row, column].set_ylabel(f"{title}, {ARROWS} ×")
        where = "" if side == "both" else f", {side}"
        axes[0, column].set_title(f"{code} {get_action_unit(code).name}{where}", fontsize=10)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[:, 1:].ravel():
        axis.set_ylabel("")
    figure.savefig(Path(__file__).with_name("synthetic_faces.png"), dpi=75)


if __name__ == "__main__":
    main()
