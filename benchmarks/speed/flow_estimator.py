"""What does solving all frames of a clip together save, and how much of the memory's bandwidth does it use?

    python benchmarks/speed/flow_estimator.py

The whole-clip estimator on 64 frames of 128 × 128 against its own loop over pairs (onset and one frame, 63 times),
one thread. The bytes are counted, not estimated: all that every tensor operation reads and writes, and what
`cv2.remap` does; they are held against a copy of large tensors on the same device. On a GPU, where there is one, the
same, and RAFT beside it where torchvision is installed.
"""

from __future__ import annotations

import statistics
from typing import Any

import cv2
import numpy as np
import torch
from timing import alternate, growth, rounds_asked_for, side_by_side
from torch.utils._python_dispatch import TorchDispatchMode

from deft_llm.hub_datasets.synthetic.dataset import PRESETS, draw_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing.optical_flow import FLOW_ESTIMATORS
from deft_llm.processing.whole_clip_flow import whole_clip_flow

SIDE, COUNT = 128, 64
VIEWS = (
    "view expand t.default transpose select slice unsqueeze squeeze permute alias detach as_strided _unsafe_view "
    "unbind split diagonal.default empty"
).split()


class CountedBytes(TorchDispatchMode):
    """Bytes of the tensors that operations read and write; views move nothing."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not any(name in str(operation) for name in VIEWS):
            self.total += sum(_bytes(value) for value in (*args, *(kwargs or {}).values()))
            self.total += _bytes(result)
        return result


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def counted(frames: torch.Tensor) -> int:
    """Bytes that one solution of the clip moves."""
    remapped = 0
    remap = cv2.remap

    def counting(image, *maps_and_rest):
        nonlocal remapped
        # Two maps and four neighbours are read and a value is written, four bytes each.
        remapped += 7 * 4 * maps_and_rest[0].size
        return remap(image, *maps_and_rest)

    cv2.remap = counting
    try:
        with CountedBytes() as counter:
            whole_clip_flow(frames)
    finally:
        cv2.remap = remap
    return counter.total + remapped


def clip_frames(count: int, seed: int = 0) -> torch.Tensor:
    """(count, SIDE, SIDE) grey levels of a rendered expression, repeated back and forth where it is too short."""
    rng = np.random.default_rng([8, seed])
    clip, _ = draw_clip(render_face(rng, size=PRESETS["realistic"].size), PRESETS["realistic"], "synthetic", rng)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in clip.frames]
    small = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in grey]
    there_and_back = [*small, *small[-2:0:-1]]
    return torch.from_numpy(np.stack([there_and_back[index % len(there_and_back)] for index in range(count)]))


def copy_bandwidth(device: str, rounds: int) -> float:
    """Bytes a second, read and written, of a tensor copy too large for any cache."""
    source = torch.zeros(2**27, device=device)
    target = torch.empty_like(source)
    times = alternate({"copy": lambda: target.copy_(source)}, rounds=rounds)["copy"]
    return 2 * source.numel() * source.element_size() / statistics.median(times)


def measure(device: str, rounds: int) -> None:
    frames = clip_frames(COUNT).to(device)
    together = whole_clip_flow(frames).flow
    alone = torch.stack([whole_clip_flow(frames[[0, index]]).flow[1] for index in range(1, COUNT)])
    largest = float((together[1:] - alone).norm(dim=1).median())
    where = torch.cuda.get_device_name() if device == "cuda" else "one thread"
    print(f"\n{where}: the two solutions differ by {largest:.3f} px in the median")
    calls = {
        "whole clip": lambda: whole_clip_flow(frames),
        "pair by pair": lambda: [whole_clip_flow(frames[[0, index]]) for index in range(1, COUNT)],
    }
    if device == "cuda":
        try:
            import torchvision  # noqa: F401

            images = frames.cpu().numpy()
            calls["raft"] = lambda: FLOW_ESTIMATORS["raft"](images[0], images[1:])
        except (ImportError, RuntimeError):
            print("RAFT: not measured, no torchvision here")
    times = alternate(calls, rounds=rounds)
    side_by_side(f"{COUNT} frames of {SIDE} × {SIDE}, {where}", times, "pair by pair", {"whole clip": "≤ 0.67"})
    moved, bandwidth = counted(frames), copy_bandwidth(device, rounds)
    rate = moved / statistics.median(times["whole clip"])
    asked = " (≥ 40 % asked on a GPU)" if device == "cuda" else ""
    print(
        f"\n{moved / 1e9:.2f} GB moved a clip, {rate / 1e9:.1f} GB/s, {100 * rate / bandwidth:.0f} % of a copy's "
        f"{bandwidth / 1e9:.1f} GB/s{asked}"
    )


def main() -> None:
    rounds = rounds_asked_for(__doc__)
    measure("cpu", rounds)
    clips = {count: clip_frames(count) for count in (32, 128, 512)}
    growth("frames of a clip, one thread", list(clips), lambda count: lambda: whole_clip_flow(clips[count]))
    if torch.cuda.is_available():
        measure("cuda", rounds)
    else:
        print("\nGPU: not measured")


if __name__ == "__main__":
    main()
