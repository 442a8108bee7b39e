"""Prints the mean rendered face of `processing/crop_geometry.py`: `python docs/make_crop_template.py`."""

import base64

import numpy as np

from deft_llm.hub_datasets.synthetic.faces import FaceStyle, render_face
from deft_llm.processing.crop_geometry import mean_bands

COUNT = 100
STYLES = (
    FaceStyle(),
    FaceStyle(glasses=True),
    FaceStyle(beard=True),
    FaceStyle(skin=0.0),
    FaceStyle(skin=1.0),
)


def main() -> None:
    frames = []
    for seed in range(COUNT):
        face = render_face(np.random.default_rng([2026, seed]), size=96, style=STYLES[seed % len(STYLES)])
        frames.append(np.uint8(face.image))
    mean = mean_bands(frames)
    mean = np.rint(100 * mean / np.abs(mean).max()).astype(np.int8)
    text = base64.b64encode(np.ascontiguousarray(mean[:, : mean.shape[1] // 2]).tobytes()).decode()
    for start in range(0, len(text), 108):
        print(f'    "{text[start : start + 108]}"')


if __name__ == "__main__":
    main()
