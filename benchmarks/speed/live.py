"""How long is a frame on its way through `deft watch` until it is reported, and does memory grow in an hour?

    python benchmarks/speed/live.py [--seconds 20] [--minutes 60]

Rendered faces, 640 × 480 pixels (H.264), a clip of half a second at 200 frames per second and one of three seconds at
30, each played forwards and backwards again and again. The streams are replayed as fast as they were recorded,
decoding included, in a process of its own. The latency of a frame is the time from its time stamp to the report that
contains it. Then frames without decoding, as fast as they can be measured, with the time stamps of an hour at 15
frames per second, as webcams have in dim light.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_frames, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

# Onset, apex and offset of AU4, and the number of frames.
STREAMS = {30: ((50, 55, 61), 90), 200: ((30, 50, 74), 100)}
LATENCY = 0.25  # seconds
FACE = "(110, 30, 530, 450)"
# A process that watches and nothing else.
COMMON = """
import json, sys, time
from pathlib import Path
import cv2, numpy as np
from deft_llm.live import FaceWatcher, reports
from deft_llm.live_frames import Feed, open_source
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.video_reading import open_clip

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

cv2.setNumThreads(1)
place = crop_transform(480, 640, box=FACE)
"""
WATCH = """
class Noted(FaceWatcher):
    moments = []
    def add(self, moment, frame):
        super().add(moment, frame)
        self.moments.append(moment)

watcher, waits, events = Noted(lambda frame: place), [], 0
watcher.warm_up()
with Feed(open_source(sys.argv[1])) as feed:
    used = time.process_time()
    for report in reports(feed, watcher):
        now = report.time + report.latency
        waits += [now - moment for moment in watcher.moments]
        watcher.moments.clear()
        events += len(report.events)
    used = time.process_time() - used
print(json.dumps({
    "waits": np.percentile(waits, [50, 95, 100]).tolist(), "arrived": feed.arrived, "dropped": feed.dropped,
    "rate": report.rate, "measured": report.measured_rate, "events": events, "used": used / report.time,
}))
"""
HOUR = """
frames, fps, minutes = list(open_clip(sys.argv[1]).window(0, 178).scan()), 15, float(sys.argv[2])
watcher, most, kept = FaceWatcher(lambda frame: place), 0, {}
watcher.warm_up()
start = time.perf_counter()
count = round(minutes * 60 * fps)
for number in range(count):
    watcher.add(number / fps, frames[number % len(frames)])
    if number % 2:
        watcher.report(number / fps)
    most = max(most, len(watcher))
    if number + 1 in (60 * fps, count):
        kept[number + 1] = memory()
print(json.dumps({
    "frames": count, "most": most, "memory": list(kept.values()), "seconds": time.perf_counter() - start,
}))
"""


def frames_of(fps: int) -> list[np.ndarray]:
    """A face in a wider picture, forwards and backwards."""
    rng = np.random.default_rng([9, fps])
    keys, count = STREAMS[fps]
    shown = Expression((UnitRequest("AU4", "both", 0.012),), *keys)
    clip = render_clip(render_face(rng, size=420), [shown], rng, count=count, fps=float(fps))
    wide = [cv2.copyMakeBorder(frame, 30, 30, 110, 110, cv2.BORDER_REPLICATE) for frame in clip.frames]
    return wide + wide[-2:0:-1]


def repeated(frames: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """A number of frames, as often as needed."""
    return itertools.islice(itertools.cycle(frames), count)


def printed_by(code: str, *words: str) -> dict:
    """What a process prints."""
    code = COMMON.replace("FACE", FACE) + code
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="length of a stream")
    parser.add_argument("--minutes", type=float, default=60, help="of simulated time")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        videos = {}
        for fps in STREAMS:
            videos[fps] = Path(folder) / f"{fps}.mp4"
            frames = repeated(frames_of(fps), fps * arguments.seconds)
            videos[fps].write_bytes(encode_frames(frames, fps, 20))
        print("\n| measure | asked | measured |\n|---|---|---|")
        for fps, video in videos.items():
            found = printed_by(WATCH, str(video))
            middle, high, most = (f"{1000 * value:.0f}" for value in found["waits"])
            load = f"with a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(
                f"| {arguments.seconds} s at {fps} frames per second: latency of a frame, median, p95, max | "
                f"≤ {1000 * LATENCY:.0f} ms | {middle}, {high}, {most} ms, {load} |\n"
                f"| … frames that came, and were dropped | counted | {found['arrived']}, {found['dropped']}; "
                f"{found['measured']:.0f} per second measured at the end |\n"
                f"| … processor time of the process that measures, per second of the stream | | "
                f"{found['used']:.2f} s; {found['events']} expressions, blinks and spells of speech told |",
                flush=True,
            )
        found = printed_by(HOUR, str(videos[30]), str(arguments.minutes))
        first, last = found["memory"]
        print(
            f"| {arguments.minutes:g} min simulated at 15 frames per second: resident memory after 1 min and at the "
            f"end | no growth | {first:.0f} and {last:.0f} MB |\n"
            f"| … frames measured, and frames of which something is kept, at most | | {found['frames']}, "
            f"{found['most']} |\n"
            f"| … seconds that took | | {found['seconds']:.0f} s, "
            f"{60 * arguments.minutes / found['seconds']:.1f} × real time |"
        )


if __name__ == "__main__":
    main()
