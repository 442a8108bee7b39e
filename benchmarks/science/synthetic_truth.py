"""Is the ground truth of the synthetic clips true?

    python benchmarks/science/synthetic_truth.py

Two questions over fresh faces and expressions of the `realistic` preset: how well does the onset frame, carried along
the written flow, reproduce the apex frame of a nuisance-free clip; and how far is the written field from the closed
form, evaluated here point by point in double precision from the clip's movements.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from deft_llm.hub_datasets.synthetic.clips import Clip, Disturbances
from deft_llm.hub_datasets.synthetic.dataset import PRESETS, draw_clip, true_flow
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.key_frames import KeyFrames, sample_indices

CLIPS = 40
HEAD = Disturbances(head_shift=0.03, head_rotation=3.0, head_scale=0.03)


def main() -> None:
    processor = DeftVideoProcessor(num_frames=8)
    for title, disturbances in (("nuisance-free", Disturbances()), ("head moves 3 %, 3°, 3 %", HEAD)):
        preset = replace(PRESETS["realistic"], disturbances=disturbances)
        warp_errors, endpoint_errors = [], []
        for index in range(CLIPS):
            rng = np.random.default_rng([99, index])
            clip, emotions = draw_clip(render_face(rng, size=preset.size), preset, "synthetic", rng)
            if emotions == [None]:
                continue
            warp_errors.append(warp_error(clip))
            endpoint_errors.append(endpoint_error(clip, processor))
        print(
            f"{title}, {len(warp_errors)} clips: warped against rendered {np.mean(warp_errors):.3f} grey levels on "
            f"average, {np.max(warp_errors):.3f} in the worst clip; written against closed form "
            f"{np.mean(endpoint_errors):.1e} px on average, {np.max(endpoint_errors):.1e} px in the worst clip"
        )


def warp_error(clip: Clip) -> float:
    """Mean absolute difference of the onset frame and the apex frame fetched back along the flow, in grey levels."""
    shown, size = clip.expression, clip.frames.shape[1]
    flow = size * clip.flow(shown.onset, shown.apex)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    apex = clip.frames[shown.apex].astype(np.float32)
    fetched = cv2.remap(apex, x + flow[0], y + flow[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    left_the_frame = (x + flow[0] < 0) | (x + flow[0] > size - 1) | (y + flow[1] < 0) | (y + flow[1] > size - 1)
    return float(np.abs(fetched - clip.frames[shown.onset])[~left_the_frame].mean())


def endpoint_error(clip: Clip, processor: DeftVideoProcessor) -> float:
    """Mean distance in pixels of the written expression field from the sum of its bumps."""
    shown, size, grid = clip.expression, clip.frames.shape[1], processor.flow_size
    written = true_flow(clip, processor).astype(np.float64) * size / 100
    indices = sample_indices(KeyFrames(shown.onset, shown.apex, shown.offset), processor.num_frames)
    distances = []
    for field, frame in zip(written, indices[1:], strict=True):
        for row in range(grid):
            for column in range(grid):
                px, py = (column + 0.5) / grid, (row + 0.5) / grid
                moved = np.zeros(2)
                for movement in (m for m in clip.movements if m.name.startswith("AU")):
                    weights = [
                        np.exp(-0.5 * (((px - cx) / sx) ** 2 + ((py - cy) / sy) ** 2))
                        for cx, cy, sx, sy, *_ in movement.pieces
                    ]
                    vectors = np.array([piece[4:] for piece in movement.pieces])
                    mean = np.dot(weights, vectors) / (sum(weights) + 1e-9)
                    moved += movement.course[frame] * max(weights) * mean
                distances.append(np.hypot(*(field[:, row, column] - size * moved)))
    return float(np.mean(distances))


if __name__ == "__main__":
    main()
