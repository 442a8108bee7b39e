"""Are face crops of other geometry than the canonical one noticed, and are their faces found?

    python benchmarks/science/face_crops.py [--data DIR]

The people are those of DIR/recordings; DIR is `DEFT_REAL_DATA`, or ../shared/data. The YuNet model that lies there
says where their faces are. Twelve frames of each recording are cut to the canonical crop, and to three crops as data
sets ship them: 280 × 340 pixels, 0.8 to 1.5 times as wide as the canonical crop, off its middle by up to 8 %. Parts of
the frames without a face are looked at too. "Silent" crops are used as they are although off by over 6 %.
`crop_geometry` was set on the recordings of `SET_ON`; the others are reported apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.crop_geometry import CANONICAL, ELSEWHERE, UNCLEAR, inspect_crop
from deft_llm.processing.face_alignment import YuNetFaces, crop_transform
from deft_llm.processing.video_reading import open_clip

MODEL = "face_detection_yunet_2026may.onnx"
SET_ON = {"d0.mp4", "d12.mp4", "d19.mp4", "s13.mp4", "single_face.mp4", "no_face.mp4"}
FRAMES, LOOSE, EMPTY = 12, 3, 4  # per recording, per frame, per frame
POINTS = np.array(list(CANONICAL_LANDMARKS.values()))


def cut(frame: np.ndarray, face: np.ndarray, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """A crop, canonical or (with `rng`) loose, and the face's landmarks in it."""
    transform = crop_transform(*frame.shape[:2], landmarks=face)
    if rng is None:
        size, matrix = (256, 256), 256 * transform
    else:
        size, wide = (280, 340), rng.uniform(0.8, 1.5)
        middle = 0.5 + rng.uniform(-0.08, 0.08, 2) * wide
        middle = np.linalg.solve(transform[:, :2], middle - transform[:, 2])
        scale = size[0] / wide * float(np.hypot(*transform[:, 0]))
        matrix = np.column_stack([scale * np.eye(2), np.array(size) / 2 - scale * middle])
    scale = float(np.hypot(*matrix[:, 0]))
    blurred = cv2.GaussianBlur(frame, (0, 0), 0.4 / scale) if scale < 0.75 else frame
    crop = cv2.warpAffine(blurred, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return crop, face @ matrix[:, :2].T + matrix[:, 2]


def error(points: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Largest distance of the first `count` landmarks from the truth, in crop widths."""
    width = np.hypot(*(truth[1] - truth[0])) / (POINTS[1, 0] - POINTS[0, 0])
    return float(np.hypot(*(points - truth)[:count].T).max() / width)


def empty_parts(frame: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    height, width = frame.shape[:2]
    parts = []
    for _ in range(EMPTY):
        side = int(rng.uniform(0.25, 0.7) * min(height, width))
        corner = np.array([rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)])
        near = [1.4 * float(np.hypot(*(face[1] - face[0]))) for face in faces]
        apart = [
            ((face.mean(0) < corner - size) | (face.mean(0) > corner + side + size)).any()
            for face, size in zip(faces, near, strict=True)
        ]
        if all(apart):
            parts.append(frame[corner[1] : corner[1] + side, corner[0] : corner[0] + side])
    return parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DEFT_REAL_DATA", "../shared/data")))
    data = parser.parse_args().data
    if not (data / MODEL).is_file():
        parser.error(f"{data}: no recordings/ with {MODEL} beside it; set DEFT_REAL_DATA or pass --data.")
    cv2.setNumThreads(1)
    finder, doubtful = YuNetFaces(data / MODEL), YuNetFaces(data / MODEL, score_threshold=0.2)
    found = defaultdict(list)  # (half, kind) -> (verdict, error of the eyes, error of the frame as it is)
    for path in sorted((data / "recordings").iterdir()):
        half, rng = "set on" if path.name in SET_ON else "others", np.random.default_rng(5)
        reader = open_clip(str(path))
        for frame in reader.frames(np.unique(np.linspace(0, len(reader) - 1, FRAMES).astype(int)).tolist()):
            faces = finder(frame)
            for part in empty_parts(frame, doubtful(frame), rng):
                found[half, "no face"].append((inspect_crop(part).verdict, np.nan, np.nan))
            if not len(faces):
                continue
            face = max(faces, key=lambda points: float(np.hypot(*(points[1] - points[0]))))
            for kind, source in (("canonical", None), *[("loose", rng)] * LOOSE):
                crop, truth = cut(frame, face, source)
                said, (height, width) = inspect_crop(crop), crop.shape[:2]
                side = min(height, width)
                as_it_is = (POINTS - 0.5) * side + (width / 2, height / 2)
                found[half, kind].append((said.verdict, error(said.landmarks, truth, 2), error(as_it_is, truth, 3)))
    table = Table(title="Face crops")
    columns = (
        "recordings",
        "crops",
        "number",
        "as it is",
        "aligned",
        "unclear",
        "eyes ≤ 5 %",
        "≤ 8 %",
        "silent > 6 %",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for (half, kind), rows in sorted(found.items()):
        verdicts, eyes, before = (np.array(values) for values in zip(*rows, strict=True))
        shares = [f"{np.mean(verdicts == verdict):.2f}" for verdict in (CANONICAL, ELSEWHERE, UNCLEAR)]
        moved = eyes[verdicts == ELSEWHERE]
        right = [f"{np.mean(moved <= most):.2f}" if len(moved) and kind != "no face" else "–" for most in (0.05, 0.08)]
        silent = f"{np.mean((verdicts == CANONICAL) & (before > 0.06)):.2f}"
        table.add_row(half, kind, str(len(rows)), *shares, *right, "–" if kind == "no face" else silent)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
