"""Renders the clips that the Space offers to try: `python docs/make_space_examples.py`.

Writes mp4 files and their pictures into space/examples. The faces are rendered: nobody's. The fourth shows nothing but
what a camera and a living head add, and the model should say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

OUT = Path(__file__).parents[1] / "space" / "examples"
SIZE, FRAMES = 224, 90  # pixels; frames at 200 a second
CAMERA = replace(EVERYDAY, noise=1.0, crf=21)  # files that a repository can hold
# Face's seed, action units with their amplitude in crop widths.
CLIPS = (
    (11, (("AU4", 0.013),)),
    (24, (("AU6", 0.011), ("AU12", 0.016))),
    (31, (("AU1", 0.013), ("AU2", 0.013))),
    (42, ()),
)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for number, (seed, units) in enumerate(CLIPS, start=1):
        face = render_face(np.random.default_rng(seed), size=SIZE)
        requests = tuple(UnitRequest(code, "both", amplitude) for code, amplitude in units)
        shown = [Expression(requests, onset=24, apex=42, offset=66)] if requests else []
        clip = render_clip(face, shown, np.random.default_rng(seed), count=FRAMES, disturbances=CAMERA)
        (OUT / f"face-{number}.mp4").write_bytes(encode_mp4(clip))
        picture = cv2.resize(clip.frames[0], (96, 96), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(OUT / f"face-{number}.jpg"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        print(f"face-{number}: {', '.join(code for code, _ in units) or 'nothing shown'}")


if __name__ == "__main__":
    main()
