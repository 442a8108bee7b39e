"""How do times grow with the faces in a frame, the length of a video, the tokens of a step, the rows and the workers?

    python benchmarks/speed/growth.py [--rounds N]

Each at one, four and sixteen times its smallest size, in alternation, with the exponent of a power fitted to the
medians: 1 is proportional. What grows with the frames and the clips is measured by `clip_to_tensors.py`,
`flow_estimator.py`, `recognition.py` and `unimer_build.py`.

- Faces: motion of every frame of a second of video, 1280 × 960 at 30 frames per second, one thread.
- Length: intervals and stretches of videos of 160 × 160 at 100 frames per second, one thread.
- Tokens: a step of the SmolLM2 recipe's stage `answers`, forward and backward, with so many questions about a clip.
- Rows: fitting the kernel machine to so many clips of 28 × 28, three classes, and predicting them.
- Workers: eight videos of ten seconds measured by one, two and four processes, with their start.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from frozen_experts import shared, small_model
from measure_videos import measured
from models import clips_of
from timing import growth

from deft_llm.evaluation.kernel_machine import KernelMachine
from deft_llm.frame_motion import Faces
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_frames, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import AlignedClip
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.video_reading import open_clip

STEPS = (1, 4, 16)
FACE, WIDTH, HEIGHT, FPS = 240, 1280, 960, 30  # pixels, and frames per second


def rendered(size: int, count: int, fps: float) -> np.ndarray:
    """Frames of a face that lowers its brows once."""
    rng = np.random.default_rng(3)
    shown = [Expression((UnitRequest("AU4", "both", 0.015),), count // 3, count // 2, 2 * count // 3)]
    return render_clip(render_face(rng, size=size), shown, rng, count=count, fps=fps).frames


def faces(folder: Path) -> Callable[[int], Callable[[], Any]]:
    """Follows so many faces in a picture of the same size."""
    frames = rendered(FACE, FPS, FPS)
    places = [(x, y) for y in range(0, HEIGHT, FACE) for x in range(0, 4 * FACE, FACE)]

    def job(count: int) -> Callable[[], Any]:
        pictures = np.full((len(frames), HEIGHT, WIDTH, 3), 90, np.uint8)
        for x, y in places[:count]:
            pictures[:, y : y + FACE, x : x + FACE] = frames
        path = folder / f"faces-{count}.mp4"
        path.write_bytes(encode_frames(pictures, FPS, 14))
        transforms = [crop_transform(HEIGHT, WIDTH, box=(x, y, x + FACE, y + FACE)) for x, y in places[:count]]

        def follow() -> None:
            reader = open_clip(str(path))
            rows = list(Faces(reader, None, transforms, 0, count).motions(FPS, reader.scan()))
            if len(rows) != FPS or any(motion.reason for row in rows for motion in row):
                raise AssertionError(f"{path.name}: a face was not followed")

        return follow

    return job


def length(folder: Path) -> Callable[[int], Callable[[], Any]]:
    """Spots in a video of four seconds that is repeated so many times."""
    frames = rendered(160, 400, 100.0)

    def job(times: int) -> Callable[[], Any]:
        path = folder / f"long-{times}.mp4"
        path.write_bytes(encode_frames((frame for _ in range(times) for frame in frames), 100, 14))
        return lambda: AlignedClip.open(str(path), face_source="canonical").intervals_and_stretches()

    return job


def questions() -> Callable[[int], Callable[[], Any]]:
    """A step with so many questions about one clip."""
    model = small_model().train()
    model.model.recognition.eval().requires_grad_(False)
    with torch.no_grad():
        states = model.model(**clips_of(model.config, 1)).expert_states

    def job(count: int) -> Callable[[], Any]:
        inputs = shared(model.config, count)

        def step() -> None:
            model.zero_grad()
            model(**inputs, expert_states=states, skip_logits=True, use_cache=False).language_loss.backward()

        return step

    return job


def rows(unit: int) -> Callable[[int], Callable[[], Any]]:
    """Fits and predicts so many times `unit` clips, of which eight are one subject's."""

    def job(times: int) -> Callable[[], Any]:
        count, rng = unit * times, np.random.default_rng(0)
        fields = rng.standard_normal((count, 2, 28, 28)).astype(np.float32)
        targets, subjects = np.arange(count) % 3, [str(number // 8) for number in range(count)]

        def run() -> None:
            machine = KernelMachine(3)
            machine.fit(fields, targets, subjects)
            machine.predict(fields)

        return run

    return job


def workers(folder: Path) -> Callable[[int], Callable[[], Any]]:
    """Measures eight videos with so many processes."""
    place = folder / "videos"
    place.mkdir()
    frames = rendered(320, 10 * FPS, FPS)
    for number in range(8):
        (place / f"{number}.mp4").write_bytes(encode_frames(frames, FPS, 14))

    def job(count: int) -> Callable[[], Any]:
        def run() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                measured(place, Path(out) / "out", count)

        return run

    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    count = parser.parse_args().rounds
    cv2.setNumThreads(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        growth("faces in a frame", STEPS, faces(folder), rounds=count)
        growth("length of a video, times 4 s", STEPS, length(folder), rounds=count)
        growth("clips of the kernel machine, times 40", STEPS, rows(40), rounds=count)
        torch.set_num_threads(threads)
        growth(f"questions about a clip in a step, {threads} threads", STEPS, questions(), rounds=count)
        growth(f"processes on {os.cpu_count()} cores", (1, 2, 4), workers(folder), rounds=count)


if __name__ == "__main__":
    main()
