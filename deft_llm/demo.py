"""The last two steps of `make demo`: a photograph whose brow is lowered by a known amount, and what the model says.

    deft demo clip --output photograph.mp4
    deft demo explain photograph.mp4 --model build/demo/deft-tiny --picture explanation.png

`deft demo explain` runs this file in an interpreter without this package, so that what runs is the model folder's own
code, as for anybody who loads it from the Hub.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOWERING = 0.010  # of the face crop's width: 1 %
# Right eye, left eye (the subject's) and mouth centre in scikit-image's astronaut, read off the photograph.
LANDMARKS = ((203.3, 101.0), (246.5, 103.0), (224.0, 143.8))


def make_clip(output: Path) -> None:
    """Writes an mp4 of the photograph with AU4 at a known strength."""
    import numpy as np
    from skimage.data import astronaut

    from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
    from deft_llm.hub_datasets.synthetic.faces import photograph

    face = photograph(astronaut(), LANDMARKS)
    shown = Expression((UnitRequest("AU4", "both", LOWERING),), onset=4, apex=20, offset=36)
    clip = render_clip(face, [shown], np.random.default_rng(0), count=41)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encode_mp4(clip))
    print(
        f"{output}: photograph of Eileen Collins (NASA, public domain), brows lowered by {100 * LOWERING:g} % of the "
        f"crop's width; onset {shown.onset}, apex {shown.apex}, offset {shown.offset} at {clip.fps:g} frames/s"
    )


def explain(video: Path, model: str, picture: Path) -> None:
    """Runs the pipeline, prints the report and draws the picture."""
    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    pipe = pipeline("video-text-to-text", model=model, trust_remote_code=True)
    result = pipe(str(video))
    print(result["report_text"])
    draw(pipe, str(video), result, picture)
    print(f"Picture written to {picture}")


def draw(pipe: Any, video: str, result: dict[str, Any], picture: Path) -> None:
    """Onset, apex, flow over the face, where the strongest action unit's query looked, class probabilities."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import torch

    processor, model = pipe.processor, pipe.model
    video_processor = processor.video_processor
    side = 256
    shown = video_processor(
        video, size={"height": side, "width": side}, do_normalize=False, do_estimate_flow=False, return_tensors="np"
    )["pixel_values_videos"][0]
    inputs = video_processor(video, return_tensors="pt")
    with torch.inference_mode():
        features = model.get_video_features(**inputs)
    apex = video_processor.num_frames // 2
    frames = shown.transpose(0, 2, 3, 1).clip(0, 1)
    flow = inputs["flow_values_videos"][0, apex - 1].numpy()
    unit = int(features.au_logits[0].argmax())
    attention = features.au_attentions[0, unit].sum(0)
    grid = round(len(attention) ** 0.5)
    code = processor.action_units[unit]

    figure, axes = plt.subplots(1, 5, figsize=(18, 3.9), width_ratios=(1, 1, 1.18, 1, 0.8), layout="constrained")
    for axis in axes[:4]:
        axis.set_xticks([])
        axis.set_yticks([])
    indices = result["frames_indices"]
    axes[0].imshow(frames[0])
    axes[0].set_title(f"Onset, frame {indices[0]}")
    axes[1].imshow(frames[apex])
    axes[1].set_title(f"Apex, frame {indices[apex]}")
    axes[2].imshow(frames[apex].mean(-1), cmap="gray", alpha=0.6, vmin=0, vmax=1)
    height, width = flow.shape[1:]
    step = side / width
    y, x = np.mgrid[0:height, 0:width]
    strength = np.hypot(*flow)
    # Arrows ten times as long as the motion, or nobody would see them.
    arrows = axes[2].quiver(
        (x + 0.5) * step, (y + 0.5) * step, *(10 * flow * side / 100), strength, cmap="plasma", angles="xy",
        scale_units="xy", scale=1, width=0.006, clim=(0, max(0.5, float(strength.max()))),
    )  # fmt: skip
    figure.colorbar(arrows, ax=axes[2], shrink=0.9, label="motion in % of the crop's width")
    axes[2].set_title("Optical flow onset to apex, 10 ×")
    axes[3].imshow(frames[0].mean(-1), cmap="gray", vmin=0, vmax=1)
    weight = attention.reshape(1, 1, grid, grid) / attention.max()
    weight = torch.nn.functional.interpolate(weight, (side, side), mode="bilinear")[0, 0].numpy()
    axes[3].imshow(weight, cmap="hot", alpha=0.75 * weight.clip(0, 1) ** 0.5, vmin=0, vmax=1.2)
    axes[3].set_title(f"Where {code} was looked for")
    scores = result["report"]["scores"]
    names = sorted(scores, key=scores.get)
    axes[4].barh(names, [scores[name] for name in names], color="#4c72b0")
    axes[4].set_xlim(0, 1)
    axes[4].set_box_aspect(1)
    axes[4].set_xlabel("probability")
    axes[4].spines[["top", "right"]].set_visible(False)
    axes[4].set_title(f"Class: {result['report']['emotion'] or 'insufficient motion'}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)


def explain_elsewhere(video: Path, model: Path, picture: Path) -> int:
    """Runs `explain` in an interpreter that has every dependency and not deft_llm.

    An editable install lives in a .pth hook, which `-S` leaves out; `-P` leaves out this file's own folder, and the
    folders with the dependencies are named by hand.

    Args:
        video: Clip to explain.
        model: Folder of a trained model.
        picture: PNG to write.

    Returns:
        The exit status of that interpreter.

    Raises:
        FileNotFoundError: The clip or the model's folder does not exist.
    """
    if not video.exists():
        raise FileNotFoundError(f"{video}: no such video. `deft demo clip` makes one.")
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"--model {model}: no config.json in it; pass a folder that `deft train` has written.")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}
    command = [sys.executable, "-S", "-P", str(Path(__file__).resolve())]
    command += [str(path.resolve()) for path in (video, model, picture)]
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run(command, cwd=elsewhere, env=environment, check=False).returncode


if __name__ == "__main__":
    explain(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
