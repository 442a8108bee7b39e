"""The steps of `make demo`: make a clip of a photograph with known motion, and explain it.

    deft demo clip --output photograph.mp4
    deft demo explain photograph.mp4 --model build/demo/deft-tiny --picture explanation.png

`deft demo explain` runs the model in an interpreter without this package, so that the code in the model's folder is
run, like after loading the model from the Hub. The picture is drawn in this process from the results.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOWERING = 0.010  # of the face crop's width: 1 %
# The subject's right eye, left eye and mouth centre in scikit-image's astronaut, measured in the photograph.
LANDMARKS = ((203.3, 101.0), (246.5, 103.0), (224.0, 143.8))
SHOWN = 256  # pixels, side of the crops in the picture


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


def explain(video: Path, model: str, facts: Path) -> None:
    """Runs the pipeline, prints the report and stores the data of the picture, unless the clip cannot be measured.

    Args:
        video: The clip.
        model: The model's folder.
        facts: The .npz file to write.
    """
    import numpy as np
    import torch
    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    pipe = pipeline("video-text-to-text", model=model, trust_remote_code=True)
    processor = pipe.processor
    video_processor = processor.video_processor
    clip = video_processor.align(str(video))
    with contextlib.suppress(ValueError):  # if no stretch can be measured, the report says why
        clip = clip.spotted()
    result = pipe(clip)
    print(result["report_text"])
    if result["report"]["status"] == "not_measurable":
        return
    size = {"height": SHOWN, "width": SHOWN}
    pixels = video_processor(clip, size=size, do_normalize=False, do_estimate_flow=False)["pixel_values_videos"][0]
    inputs = video_processor(clip, return_tensors="pt")
    with torch.inference_mode():
        features = pipe.model.get_video_features(**inputs)
    apex = video_processor.num_frames // 2
    unit = int(features.au_logits[0].argmax())
    attention = features.au_attentions[0, unit].sum(0)
    grid = round(len(attention) ** 0.5)
    weight = attention.reshape(1, 1, grid, grid) / attention.max()
    weight = torch.nn.functional.interpolate(weight, (SHOWN, SHOWN), mode="bilinear")[0, 0]
    report, scores = result["report"], result["report"]["scores"]
    np.savez(
        facts,
        crops=np.asarray(pixels)[[0, apex]].transpose(0, 2, 3, 1).clip(0, 1),
        indices=[result["frames_indices"][place] for place in (0, apex)],
        flow=inputs["flow_values_videos"][0, apex - 1].numpy(),
        weight=weight.numpy(),
        unit=processor.action_units[unit],
        emotions=sorted(scores, key=scores.get),
        scores=sorted(scores.values()),
        answer=report["emotion"] or report["status"].replace("_", " "),
    )


def draw(facts: Path, picture: Path) -> None:
    """Draws onset, apex, flow, the attention of the strongest action unit, and the class probabilities.

    Args:
        facts: The file that `explain` has written.
        picture: The PNG to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from deft_llm.drawing import ARROW_SCALE, draw_crop, draw_flow

    with np.load(facts) as known:
        (onset, apex), indices, weight = known["crops"], known["indices"], known["weight"]
        flow, unit, emotions, scores, answer = (
            known[name] for name in ("flow", "unit", "emotions", "scores", "answer")
        )
    figure, axes = plt.subplots(1, 5, figsize=(18, 3.9), width_ratios=(1, 1, 1.18, 1, 0.8), layout="constrained")
    draw_crop(axes[0], onset)
    axes[0].set_title(f"Onset, frame {indices[0]}")
    draw_crop(axes[1], apex)
    axes[1].set_title(f"Apex, frame {indices[1]}")
    draw_crop(axes[2], apex, faded=True)
    figure.colorbar(draw_flow(axes[2], flow), ax=axes[2], shrink=0.9, label="motion in % of the crop's width")
    axes[2].set_title(f"Optical flow onset to apex, {ARROW_SCALE} ×")
    draw_crop(axes[3], np.repeat(onset.mean(-1, keepdims=True), 3, -1))
    axes[3].imshow(weight, extent=(0, 1, 1, 0), cmap="hot", alpha=0.75 * weight.clip(0, 1) ** 0.5, vmin=0, vmax=1.2)
    axes[3].set_title(f"Where {unit} was looked for")
    axes[4].barh(emotions, scores, color="#4c72b0")
    axes[4].set_xlim(0, 1)
    axes[4].set_box_aspect(1)
    axes[4].set_xlabel("probability")
    axes[4].spines[["top", "right"]].set_visible(False)
    axes[4].set_title(f"Class: {answer}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def explain_elsewhere(video: Path, model: Path, picture: Path) -> int:
    """Runs `explain` in an interpreter that has all dependencies but not deft_llm, and draws the picture.

    `-S` skips the .pth file of an editable install, and `-P` skips the folder of this file. The folders with the
    dependencies are passed in PYTHONPATH.

    Args:
        video: Clip to explain.
        model: Folder of a trained model.
        picture: PNG to write.

    Returns:
        The exit code of that interpreter.

    Raises:
        FileNotFoundError: The clip or the model's folder does not exist.
    """
    if not video.exists():
        raise FileNotFoundError(f"{video}: no such video. `deft demo clip` makes one.")
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"--model {model}: no config.json in it; pass a folder that `deft train` has written.")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}
    with tempfile.TemporaryDirectory() as elsewhere:
        facts = Path(elsewhere) / "facts.npz"
        command = [sys.executable, "-S", "-P", str(Path(__file__).resolve())]
        command += [str(path.resolve()) for path in (video, model, facts)]
        status = subprocess.run(command, cwd=elsewhere, env=environment, check=False).returncode
        if status == 0 and facts.exists():
            draw(facts, picture)
            print(f"Picture written to {picture}")
        elif status == 0:
            print("No picture was made, because the clip cannot be measured.")
    return status


if __name__ == "__main__":
    explain(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
