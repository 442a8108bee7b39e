"""How long from a video file to tensors, beside the same path with other flow estimators and beside decoding alone?

    python benchmarks/speed/clip_to_tensors.py

Rendered faces in 64 frames of 640 × 480 (H.264), one thread. The face's box and the key frames are given, so that
nothing is spotted or looked for; flow from the onset to each of the other 63 frames, and, as the processor does by
default, to seven of them. TV-L1 needs opencv-contrib-python-headless; where it is missing its row is missing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
from timing import alternate, growth, rounds_asked_for, side_by_side

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.video_reading import open_clip

BOX = (140, 60, 500, 420)
ASKED = {"whole_clip (default)": "≤ 1 × farneback, ≤ 0.1 × tvl1"}


def video(frames: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng([7, seed])
    shown = Expression((UnitRequest("AU4", "both", 0.01),), 0, frames // 2, frames - 1)
    clip = render_clip(render_face(rng, size=480), [shown], rng, count=frames)
    wide = [cv2.copyMakeBorder(frame, 0, 0, 80, 80, cv2.BORDER_REPLICATE) for frame in clip.frames]
    return encode_mp4(replace(clip, frames=np.stack(wide)))


def processors(num_frames: int, flow_frames: int) -> dict[str, DeftVideoProcessor]:
    names = {
        "whole_clip (default)": "whole_clip",
        "lucas_kanade": "lucas_kanade",
        "farneback": "farneback",
        "dis": "dis",
    }
    if hasattr(cv2, "optflow"):
        names["tvl1"] = "tvl1"
    return {
        title: DeftVideoProcessor(num_frames=num_frames, flow_frames=flow_frames, flow_estimator=name)
        for title, name in names.items()
    }


def check(clip: bytes, frames: int) -> None:
    """The same frames go into every path, and the estimators see the same motion, before anyone is timed."""
    keys = (0, frames // 2, frames - 1)
    found = {name: p(clip, key_frames=keys, face_box=BOX) for name, p in processors(frames, frames).items()}
    first = next(iter(found.values()))
    for name, features in found.items():
        if not np.array_equal(features["pixel_values_videos"], first["pixel_values_videos"]):
            raise SystemExit(f"{name}: other pixels")
        ours, theirs = (item["flow_values_videos"][0, frames // 2 - 1].ravel() for item in (first, features))
        correlation = np.corrcoef(ours, theirs)[0, 1]
        if correlation < 0.5:
            raise SystemExit(f"{name}: flow that correlates with the default's by {correlation:.2f} only")


def main() -> None:
    rounds = rounds_asked_for(__doc__)
    frames = 64
    clip = video(frames)
    check(clip, frames)
    keys = (0, frames // 2, frames - 1)
    for title, count, context in (("63 flow fields", 64, 64), ("7 flow fields", 8, 48)):
        calls = {
            name: partial(processor, clip, key_frames=keys, face_box=BOX)
            for name, processor in processors(count, context).items()
        }
        calls["decoding alone"] = lambda: [frame.sum() for frame in open_clip(clip).scan()]
        times = alternate(calls, rounds=rounds)
        for peer in ("decoding alone", "farneback", "tvl1"):
            if peer in times:
                side_by_side(f"64 frames, {title}, one thread", times, peer, ASKED if peer != "decoding alone" else {})
    clips = {size: video(size) for size in (64, 256, 1024)}

    def job(size: int):
        processor = DeftVideoProcessor(num_frames=8)
        return partial(processor, clips[size], key_frames=(0, size // 2, size - 1), face_box=BOX)

    growth("frames of a clip, default processor", list(clips), job)


if __name__ == "__main__":
    main()
