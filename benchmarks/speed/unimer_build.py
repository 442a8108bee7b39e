"""How fast is Uni-MER built, do two workers make twice as much, does memory grow, and does it survive being killed?

    python benchmarks/speed/unimer_build.py --clips 2000
    python benchmarks/speed/unimer_build.py --kill 20

The clips are rendered (preset `realistic`, 32 frames of 224 × 224) and lie as folders of JPEG frames with an
annotations.csv, as a laboratory's own recordings would. What is timed is the whole command, from its start to the
finished folder; the measuring alone, without start, reading and the last step, is given beside it. Memory is the
resident set, sampled every 50 ms: the largest of the workers, the process that started them, and all together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil

from deft_llm.hub_datasets.synthetic.dataset import PRESETS, draw_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

CLIPS_A_FACE = 20
HEADER = ("subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion")


def render(face_index: int, *, root: Path, clips: int) -> list[tuple]:
    """One person's clips as JPEG frames, and their rows."""
    cv2.setNumThreads(1)
    preset = PRESETS["realistic"]
    face = render_face(np.random.default_rng([0, face_index]), size=preset.size)
    rows = []
    for index in range(min(CLIPS_A_FACE, clips - face_index * CLIPS_A_FACE)):
        clip, (emotion,) = draw_clip(face, preset, "synthetic", np.random.default_rng([0, face_index, index]))
        path = f"p{face_index:03d}/{index:02d}"
        (root / path).mkdir(parents=True)
        for number, frame in enumerate(clip.frames, 1):
            cv2.imwrite(str(root / path / f"img{number}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        shown = clip.expression
        letters = {"left": "L", "right": "R", "both": ""}
        units = "+".join(f"{letters[unit.side]}{unit.code.removeprefix('AU')}{unit.intensity}" for unit in shown.units)
        keys = (shown.onset + 1, shown.apex + 1, shown.offset + 1)
        rows.append((f"p{face_index:03d}", path, *keys, clip.fps, units, emotion or ""))
    return rows


def write_root(root: Path, sizes: list[int]) -> None:
    """Folders of the most clips asked for, and a sheet for each size."""
    faces = range(-(-max(sizes) // CLIPS_A_FACE))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = [row for part in pool.map(partial(render, root=root, clips=max(sizes)), faces) for row in part]
    for size in sizes:
        with (root / f"clips-{size}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *rows[:size]])


def command(root: Path, size: int, out: Path, workers: int, shard_size: int, cache: Path | None = None) -> list[str]:
    options = f"--face-source cropped --workers {workers} --shard-size {shard_size}".split()
    places = ["--source", f"rendered={root}", "--sheet", f"rendered={root / f'clips-{size}.csv'}"]
    if cache:
        places += ["--cache", str(cache)]
    return [sys.executable, *"-m deft_llm.cli data build".split(), *places, "--output-dir", str(out), *options]


def timed(arguments: list[str], out: Path) -> dict[str, float]:
    """Seconds and peak MiB of a build."""
    start = time.perf_counter()
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL)
    work, began, ended, peaks = out.with_name(out.name + ".building"), None, None, {"main": 0, "worker": 0, "all": 0}
    while process.poll() is None:
        now = time.perf_counter()
        if began is None and (work / "job.json").exists():
            began = now
        if ended is None and (work / "final").exists():
            ended = now
        sizes = []
        for part in [process, *process.children(recursive=True)]:
            try:
                sizes.append(part.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                continue
        if sizes:
            peaks["main"] = max(peaks["main"], sizes[0])
            peaks["worker"] = max(peaks["worker"], *sizes[1:], 0)
            peaks["all"] = max(peaks["all"], sum(sizes))
        time.sleep(0.05)
    if process.returncode not in (0, 4):
        raise SystemExit(f"the build ended with {process.returncode}")
    wall = time.perf_counter() - start
    return {"wall": wall, "measuring": (ended or start + wall) - (began or start), **peaks}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def throughput(place: Path, clips: int, rounds: int, shard_size: int) -> None:
    sizes = [clips // 4, clips // 2, clips]
    root = place / "root"
    root.mkdir()
    start = time.perf_counter()
    write_root(root, sizes)
    print(f"{clips} clips rendered in {time.perf_counter() - start:.0f} s", flush=True)
    print("clips  workers  s in all  clips/s  measuring clips/s  MiB: main  worker   all")
    rates: dict[tuple[int, str], list[float]] = {}
    digests, written = set(), 0
    plan = [(clips, workers) for _ in range(rounds) for workers in (1, 2)] + [(size, 2) for size in sizes[:2]]
    for size, workers in plan:
        out = place / "out"
        found = timed(command(root, size, out, workers, shard_size), out)
        if size == clips:
            digests.add(hashlib.sha256(repr(digest(out)).encode()).hexdigest())
            written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            for name in ("wall", "measuring"):
                rates.setdefault((workers, name), []).append(size / found[name])
        shutil.rmtree(out)
        print(
            f"{size:5d}  {workers:7d}  {found['wall']:8.1f}  {size / found['wall']:7.2f}  "
            f"{size / found['measuring']:17.2f}  {found['main']:9.0f}  {found['worker']:6.0f}  {found['all']:4.0f}",
            flush=True,
        )
    for name, title in (("wall", "whole command"), ("measuring", "measuring alone")):
        one, two = (float(np.median(rates[workers, name])) for workers in (1, 2))
        print(f"two workers against one, {title}: {two / one:.2f} ×")
    print(f"the same bytes each time: {'yes' if len(digests) == 1 else 'NO'}")
    read = sum(path.stat().st_size for path in root.rglob("*.jpg"))
    print(f"{written / clips / 1000:.0f} kB written a clip, of {read / clips / 1000:.0f} kB of frames")
    cached = []
    for _ in range(2):
        found = timed(command(root, clips, out, 2, shard_size, place / "cache"), out)
        cached.append((found["wall"], hashlib.sha256(repr(digest(out)).encode()).hexdigest()))
        shutil.rmtree(out)
    (first, bytes_of_first), (second, bytes_of_second) = cached
    if bytes_of_first != bytes_of_second:
        raise SystemExit("NOT the same files from the cache")
    print(f"from the cache of an earlier build: {second:.1f} s after {first:.1f} s, {100 * second / first:.1f} %")


def killed(place: Path, clips: int, kills: int, seed: int) -> None:
    root, out = place / "root", place / "out"
    root.mkdir()
    write_root(root, [clips])
    arguments = command(root, clips, out, 2, 4)
    length = timed(arguments, out)["wall"]
    expected = digest(out)
    print(f"undisturbed: {clips} clips in {length:.1f} s, {len(expected)} files", flush=True)
    shutil.rmtree(out)
    rng, done, compared = random.Random(seed), 0, 0

    def finished() -> int:
        return len(list(out.with_name("out.building").glob("shards/*.json")))

    while True:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start = time.perf_counter()
        moment = rng.uniform(0, length) if done < kills else None
        if moment is not None and done % 2:
            # Starting takes most of so short a build: every other time the clock runs from the next finished shard.
            before = finished()
            while process.poll() is None and finished() <= before:
                time.sleep(0.02)
            moment = rng.uniform(0, length / 4)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done} after {time.perf_counter() - start:.1f} s, {finished()} shards finished", flush=True)
            if not out.exists():
                continue
            code = 0  # killed while tidying up: the folder was whole already
            shutil.rmtree(out.with_name("out.building"), ignore_errors=True)
        if code not in (0, 4):
            raise SystemExit(f"a resumed build ended with {code}")
        if digest(out) != expected:
            raise SystemExit("NOT the same files as the undisturbed build's")
        compared += 1
        shutil.rmtree(out)
        if done >= kills and moment is None:
            break
    print(f"{done} kills, {compared} finished builds compared: the SHA-256 of every file is the undisturbed build's")


def main() -> None:
    parser = argparse.ArgumentParser(description=re.sub(r"\n\n.*", "", __doc__, flags=re.DOTALL))
    parser.add_argument("--clips", type=int, help="2000, or 60 with --kill")
    parser.add_argument("--rounds", type=int, default=1, help="of one worker and two in alternation")
    parser.add_argument("--shard-size", type=int, default=25)
    parser.add_argument("--kill", type=int, metavar="TIMES", help="kill a build at random moments and resume it")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if arguments.kill:
            killed(Path(place), arguments.clips or 60, arguments.kill, arguments.seed)
        else:
            throughput(Path(place), arguments.clips or 2000, arguments.rounds, arguments.shard_size)


if __name__ == "__main__":
    main()
