"""How fast does `deft measure --out` measure a folder of videos, and in how much memory?

    python benchmarks/speed/measure_videos.py [--videos 20] [--faces 4] [--minutes 1 4]

Rendered faces in videos of 10 s, 640 × 480, 30 frames per second (H.264, 4:4:4), of which `--faces` are rendered and
the others are copies. Two processes, one video each; the tables are written. Then one video of several minutes in one
process: the processor time of measuring and decoding without the start of Python, which tells what two idle cores do
where the machine is busy, and the peak memory of the process that measures and of the one that decodes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_frames, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

FPS, SECONDS = 30, 10
# A process that measures what it is given and nothing else.
MEASURE = """
import json, os, sys, time
from pathlib import Path
from deft_llm.measure_folder import MeasureFolder, Settings, find_videos, measure_videos
from deft_llm.processing.decoding_process import helper_processes

def cpu():
    used = time.process_time()
    for pid in helper_processes():
        used += sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15])) / os.sysconf("SC_CLK_TCK")
    return used

def peak(pid):
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))

if __name__ == "__main__":
    place, out, workers = sys.argv[1:]
    with MeasureFolder(Path(out), Settings()).opened() as folder:
        start, used = time.perf_counter(), cpu()
        rows = measure_videos(folder, find_videos([place]), workers=int(workers))
        wall, used = time.perf_counter() - start, cpu() - used
    frames = sum(row["frames"] for row in rows)
    print(json.dumps([frames, wall, used, peak("self"), *map(peak, helper_processes())]))
"""


def frames_of(seed: int) -> np.ndarray:
    """Ten seconds of a face in a wider picture, with two expressions and blinks."""
    rng = np.random.default_rng([8, seed])
    shown = [
        Expression((UnitRequest("AU4", "both", 0.012),), 60, 65, 71),
        Expression((UnitRequest("AU12", "both", 0.015),), 180, 190, 205),
    ]
    clip = render_clip(render_face(rng, size=420), shown, rng, count=FPS * SECONDS, fps=float(FPS))
    return np.stack([cv2.copyMakeBorder(frame, 30, 30, 110, 110, cv2.BORDER_REPLICATE) for frame in clip.frames])


def measured(place: Path, out: Path, workers: int) -> list:
    """What `MEASURE` prints."""
    script = out.parent / "measure.py"
    script.write_text(MEASURE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(place), str(out), str(workers)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 4])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "videos").mkdir()
        first = None
        for seed in range(arguments.faces):
            frames = frames_of(seed)
            first = frames if first is None else first
            (place / "videos" / f"{seed:02d}.mp4").write_bytes(encode_frames(frames, FPS, 20))
        for number in range(arguments.faces, arguments.videos):
            source = place / "videos" / f"{number % arguments.faces:02d}.mp4"
            shutil.copy(source, place / "videos" / f"{number:02d}.mp4")
        frames, wall, *_ = measured(place / "videos", place / "out", 2)
        seconds = frames / FPS
        print("\n| measure | to reach | measured |\n|---|---|---|")
        title = f"{arguments.videos} videos of {SECONDS} s, two processes"
        rate = f"{seconds / wall:.1f} × ({frames / wall:.0f} frames/s)"
        load = f", with a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        print(f"| {title}: wall time | ≥ 6 × real time | {rate}{load} |", flush=True)
        for minutes in arguments.minutes:
            video = place / f"{minutes}" / "long.mp4"
            video.parent.mkdir()
            whole = itertools.chain.from_iterable(itertools.repeat(first, 60 * minutes // SECONDS))
            video.write_bytes(encode_frames(whole, FPS, 20))
            _, _, used, peak, *helpers = measured(video.parent, place / f"out{minutes}", 1)
            print(
                f"| a video of {minutes} min: processor time | | {used:.0f} s, {120 * minutes / used:.1f} × real time "
                "on two idle cores |"
            )
            print(f"| … peak memory | flat | {peak} MB, and decoding {max(helpers)} MB |", flush=True)


if __name__ == "__main__":
    main()
