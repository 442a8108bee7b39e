"""How long do 60 questions about a long video of 200 frames per second take, and does memory grow with its length?

    python benchmarks/speed/long_questions.py [--minutes 1 10]

A rendered face, 640 × 480 pixels (H.264, 4:4:4), five seconds with two expressions that are repeated without encoding
them again. The questions are those of ME-LVQA: the numbers of events, the action units, and the types of events. They
are answered without a model in one process, start of Python not included, with the peak memory of this process and of
the one that decodes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

from deft_llm.evaluation.practice import KIND_QUESTION, QUESTIONS
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_frames, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

FPS, SECONDS, ASKED = 200, 5, 60
SIDE, LEFT, TOP = 420, 110, 30  # of the face in the picture
# A process that answers and nothing else.
ANSWER = """
import json, sys, time
from pathlib import Path
from deft_llm.evaluation.me_lvqa import answer_long_questions
from deft_llm.evaluation.me_vqa import Question
from deft_llm.processing.decoding_process import helper_processes
from deft_llm.processing.face_alignment import crop_transform

def face(frame):
    return crop_transform(*frame.shape[:2], box=BOX)

def peak(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

place, *texts = json.loads(sys.argv[1])
questions = [Question(str(number), "long.mp4", text) for number, text in enumerate(texts)]
start = time.perf_counter()
answers = answer_long_questions(questions, place, face_source=face)
seconds = time.perf_counter() - start
print(json.dumps([seconds, answers[0], peak("self"), *map(peak, helper_processes())]))
"""


def shown_once() -> bytes:
    """The five seconds, encoded."""
    rng = np.random.default_rng(10)
    shown = [
        Expression((UnitRequest("AU4", "both", 0.012),), 200, 230, 274),
        Expression((UnitRequest("AU12", "both", 0.015),), 600, 650, 730),
    ]
    clip = render_clip(render_face(rng, size=SIDE), shown, rng, count=FPS * SECONDS, fps=float(FPS))
    wide = (cv2.copyMakeBorder(frame, TOP, TOP, LEFT, LEFT, cv2.BORDER_REPLICATE) for frame in clip.frames)
    return encode_frames(wide, FPS, 20)


def write_repeated(video: bytes, times: int, path: Path) -> None:
    """Writes a video several times in a row, without encoding it again."""
    with av.open(str(path), "w") as target:
        stream = None
        for number in range(times):
            with av.open(io.BytesIO(video)) as source:
                original = source.streams.video[0]
                stream = stream or target.add_stream_from_template(original)
                length = original.duration
                for packet in source.demux(original):
                    if packet.dts is not None:
                        packet.pts += number * length
                        packet.dts += number * length
                        packet.stream = stream
                        target.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 10])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    texts = [*QUESTIONS, *(KIND_QUESTION.format(number=number) for number in range(1, ASKED - len(QUESTIONS) + 1))]
    code = f"BOX = ({LEFT}, {TOP}, {LEFT + SIDE}, {TOP + SIDE})\n{ANSWER}"
    with tempfile.TemporaryDirectory() as folder:
        video = shown_once()
        print("\n| measure | to reach | measured |\n|---|---|---|")
        for minutes in arguments.minutes:
            place = Path(folder) / str(minutes)
            place.mkdir()
            write_repeated(video, 60 * minutes // SECONDS, place / "long.mp4")
            words = json.dumps([str(place), *texts])
            done = subprocess.run([sys.executable, "-c", code, words], check=True, stdout=subprocess.PIPE, text=True)
            seconds, events, peak, *helpers = json.loads(done.stdout.splitlines()[-1])
            load = f"with a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(
                f"| {minutes} min, {ASKED} questions: wall time | ≤ 1 × real time | {seconds / (60 * minutes):.2f} × "
                f"({seconds:.0f} s), {load} |\n"
                f"| … events answered, and shown | | {events}, {2 * 60 * minutes // SECONDS} |\n"
                f"| … peak memory | flat | {peak} MB, and decoding {max(helpers)} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
