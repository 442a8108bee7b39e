"""Does the error that `deft measure --out` states per frame hold where the face is at rest, and is a motion seen?

    python benchmarks/science/frame_errors.py [--videos 4] [--seed 11]

Fresh rendered faces, encoded and decoded again. Still ones move their head a little, without blinks, gaze and speech:
the share of rows that are `significant`, which errors alone make one of a thousand, and the measured motion divided by
the stated error, which is 1 if the error is right and less if it is too large. Moving ones lower their brows by 1.5 %
of the crop's width for half a second: the measured motion of the inner brows at the apex, divided by the true one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import cv2
import numpy as np

from deft_llm.frame_motion import frame_motions
from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import AlignedClip
from deft_llm.processing.motion_evidence import region_masks
from deft_llm.processing.region_tracking import TRACKED_REGIONS

SECONDS = {30: 10, 200: 3}
QUIET = replace(EVERYDAY, blinks=0.0, gaze=0.0, talking=0.0)
BROWS = [TRACKED_REGIONS.index(("inner brow", side)) for side in ("right", "left")]


def rendered(seed: int, number: int, fps: int, shown: list[Expression]):
    rng = np.random.default_rng([seed, number])
    face = render_face(rng, size=200)
    return render_clip(face, shown, rng, count=fps * SECONDS[fps], fps=float(fps), disturbances=QUIET)


def measured(clip) -> list:
    opened = AlignedClip.open(encode_mp4(clip), face_source="canonical")
    return list(frame_motions(opened.follow(), clip.fps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print("| frames/s | rows at rest | significant | motion ÷ error, median region and worst | brows ÷ truth |")
    print("|---|---|---|---|---|")
    for fps in SECONDS:
        rows, significant, ratios, shares = 0, 0, [], []
        for number in range(arguments.videos):
            found = measured(rendered(arguments.seed, number, fps, []))
            flags = np.array([item.significant for item in found])
            rows, significant = rows + flags.size, significant + int(flags.sum())
            squares = [(item.motion / item.error[:, None]) ** 2 for item in found]
            ratios.append(np.sqrt(np.mean(squares, axis=(0, 2))))
            onset = fps * SECONDS[fps] // 2
            keys = onset, onset + fps // 4, onset + fps // 2
            clip = rendered(
                arguments.seed, 100 + number, fps, [Expression((UnitRequest("AU4", "both", 0.015),), *keys)]
            )
            flow = 100 * clip.flow(*keys[:2], expression_only=True, grid=100)
            true = [flow[:, region_masks(100, 100)["inner brow", side]].mean(-1) for side in ("right", "left")]
            moved = measured(clip)[keys[1]].motion[BROWS]
            shares += (np.hypot(*moved.T) / np.hypot(*np.array(true).T)).tolist()
        ratios = np.mean(ratios, axis=0)
        print(
            f"| {fps} | {rows} | {significant} | {np.median(ratios):.2f}, {ratios.max():.2f} | "
            f"{np.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
