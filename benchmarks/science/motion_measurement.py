"""How well, and how fast, is motion measured?

    python benchmarks/science/motion_measurement.py [--table NAME …] [--clips N]

Six tables on fresh rendered clips whose flow is known in closed form, every estimator on the same frames:

- `error`: end-point error from onset to apex inside the face, motion of 0.2–2 px at 224 × 224, the head moving, by
  sensor noise; "none" predicts no motion, "head" the similarity that the true flow follows best.
- `bound`: the default estimator's error against two Cramér-Rao bounds, on the better textured half of the face.
- `units`: how many action units are found in their region and direction (8 directions ± 1), from H.264 files of the
  `realistic` preset through the processor.
- `still`: clips without expression and blink in which some region is significant. The stated rate is `FALSE_ALARMS`.
- `head`: what is left of the head's motion on the stable regions (3 % translation, 3°, 3 % scale).
- `time`: 640 × 480 H.264, 64 frames, file to tensors, on one core, and what part of it is decoding; two workers; the
  batched estimator on a GPU where there is one.

TV-L1 needs opencv-contrib-python-headless in place of opencv-python-headless, RAFT torchvision and its weights; what
is missing is left out and said so.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.special import ellipe

from deft_llm.hub_datasets.synthetic.clips import Clip, Disturbances, Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.dataset import CONVENTIONS, EMOTIONS, PRESETS, draw_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.action_units import ellipse_mask, get_action_unit
from deft_llm.processing.head_motion import remove_rigid_motion
from deft_llm.processing.motion_evidence import FALSE_ALARMS, RegionMotion, measure_motion, octants_apart
from deft_llm.processing.optical_flow import FLOW_ESTIMATORS, estimate_flow, fit_similarity
from deft_llm.processing.video_reading import open_clip
from deft_llm.processing.whole_clip_flow import _LEVELS, whole_clip_flow

SIDE = 224
FACE = ellipse_mask((0.5, 0.5, 0.40, 0.46), SIDE, SIDE)
# Parts of a rendered face that expressions hardly move, so that motion there is head motion.
STABLE = (
    (0.50, 0.075, 0.26, 0.050),  # forehead below the hair line
    (0.09, 0.330, 0.055, 0.110),  # right temple
    (0.91, 0.330, 0.055, 0.110),  # left temple
    (0.50, 0.440, 0.045, 0.060),  # bridge of the nose
    (0.12, 0.640, 0.055, 0.090),  # right ramus of the jaw
    (0.88, 0.640, 0.055, 0.090),  # left ramus of the jaw
)
NOISES = (1.0, 2.0, 4.0)
DEFAULT = "whole_clip"
STRONG, WEAK = "CDE", "AB"
SEED = 2024  # no clip of this seed was looked at while anything was tuned
console = Console(width=150)


def small_motion_clip(index: int, noise: float) -> Clip:
    """64 frames at 200 fps, eight of them neutral before the onset; `realistic` light, furrows and head, no blink."""
    rng = np.random.default_rng([SEED, index])
    face = render_face(rng, size=SIDE)
    prototypes = CONVENTIONS["synthetic"][str(rng.choice(EMOTIONS))]
    units = [
        UnitRequest(code, "both", float(rng.uniform(0.2, 2.0)) / SIDE)
        for code in prototypes[rng.integers(len(prototypes))]
    ]
    apex = 8 + int(rng.integers(18, 28))
    shown = Expression(tuple(units), 8, apex, apex + int(rng.integers(18, 28)))
    disturbances = replace(PRESETS["realistic"].disturbances, noise=noise, blinks=0.0, gaze=0.0)
    return render_clip(face, [shown], rng, count=64, fps=200.0, disturbances=disturbances)


def grey(clip: Clip) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]).astype(np.float32)


def available(estimators: list[str]) -> list[str]:
    blank = np.zeros((64, 64), np.float32)
    kept = []
    for name in estimators:
        try:
            estimate_flow(blank, blank[None], estimator=name)
            kept.append(name)
        except (ImportError, OSError) as error:
            console.print(f"{name} left out: {error}")
    return kept


def mean_with_interval(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {1.96 * np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def error_table(clips: int) -> None:
    estimators = available(list(FLOW_ESTIMATORS))
    errors: dict[tuple[str, float], list[float]] = defaultdict(list)
    for noise in NOISES:
        for index in range(clips):
            clip = small_motion_clip(index, noise)
            shown, frames = clip.expression, grey(clip)
            truth = SIDE * clip.flow(shown.onset, shown.apex)
            guesses = {"none": np.zeros_like(truth), "head": fit_similarity(truth, FACE.astype(np.float32))}
            for name in estimators:
                # Every one is offered the whole clip; those that take pairs are spared the frames not asked about.
                others = [i for i in range(len(frames)) if i != shown.onset] if name == DEFAULT else [shown.apex]
                flow = estimate_flow(frames[shown.onset], frames[others], estimator=name)
                guesses[name] = flow[others.index(shown.apex)]
            for name, guess in guesses.items():
                errors[name, noise].append(float(np.hypot(*(guess - truth))[FACE].mean()))
    table = Table(title=f"End-point error in px inside the face, {clips} clips, 95 % interval", title_justify="left")
    table.add_column("estimator")
    for noise in NOISES:
        table.add_column(f"noise {noise:g}", justify="right")
        table.add_column("default / it", justify="right")
    for name in ["none", "head", *estimators]:
        cells = []
        for noise in NOISES:
            ratio = np.mean(errors[DEFAULT, noise]) / np.mean(errors[name, noise])
            cells += [mean_with_interval(errors[name, noise]), f"{ratio:.2f}"]
        table.add_row(name, *cells)
    console.print(table)


def pair_bound(clean: np.ndarray, noise: float, sigma: float = 7.0) -> np.ndarray:
    """Least mean end-point error, (H, W) px, of an estimator that sees two frames and takes the motion for constant
    under a Gaussian window.

    The covariance is 2 noise² (Σ w ∇I ∇Iᵀ)⁻¹ with the effective weights of independent pixels, w² / w; the mean length
    of a Gaussian vector with variances a ≥ b is √(2a/π) E(1 − b/a), E the complete elliptic integral.
    """
    gx, gy = (cv2.Scharr(clean, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1)))
    weights = [cv2.GaussianBlur(product, (0, 0), sigma) for product in (gx * gx, gx * gy, gy * gy)]
    # A window's weights sum to 4πσ² in the sense of independent pixels: (Σ w)² / Σ w².
    pixels = 4 * np.pi * sigma**2
    xx, xy, yy = (pixels * weight.astype(np.float64) for weight in weights)
    middle, spread = 0.5 * (xx + yy), np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
    large, small = (2 * noise**2 / np.maximum(value, 1e-9) for value in (middle - spread, middle + spread))
    return np.sqrt(2 * large / np.pi) * ellipe(1 - small / large)


def bound_table(clips: int) -> None:
    table = Table(title="Error against the Cramér-Rao bounds, textured half of the face", title_justify="left")
    for column in ("noise", "error px", "bound of two frames px", "error / it", "bound of the clip px", "error / it "):
        table.add_column(column, justify="right")
    for noise in NOISES:
        measured, two, whole = [], [], []
        for index in range(clips):
            clip = small_motion_clip(index, noise)
            clean = grey(small_motion_clip(index, 0.0))
            shown = clip.expression
            result = whole_clip_flow(torch.from_numpy(grey(clip)), reference=shown.onset)
            bound = pair_bound(clean[shown.onset], noise)
            textured = FACE & (bound <= np.median(bound[FACE]))
            distance = np.hypot(*(result.flow[shown.apex].numpy() - SIDE * clip.flow(shown.onset, shown.apex)))
            measured.append(distance[textured].mean())
            two.append(bound[textured].mean())
            # Rayleigh: the mean length of an isotropic error with this deviation along each axis.
            whole.append(np.sqrt(np.pi / 2) * result.deviation()[shown.apex].numpy()[textured].mean())
        error, two, whole = np.mean(measured), np.mean(two), np.mean(whole)
        table.add_row(
            f"{noise:g}", f"{error:.4f}", f"{two:.4f}", f"{error / two:.2f}", f"{whole:.4f}", f"{error / whole:.2f}"
        )
    console.print(table)
    console.print(
        "Two frames: motion constant under a window of σ = 7 px, each pair by itself. The clip: the smooth fields of "
        "the whole-clip model with its prior, all frames, courses and head known."
    )


def measured(processor: DeftVideoProcessor, video: bytes, key_frames: tuple[int, int, int]) -> list[RegionMotion]:
    """The regions' motion with the errors that the estimator and the fit of the head state, as reports have it."""
    options = {"face_source": "canonical", "do_crop_appearance": False, "return_measurement": True}
    tensors = processor(video, key_frames=key_frames, **options)
    flow, lead_in = tensors["flow_values_videos"][0], tensors["lead_in_flow"][0]
    return measure_motion(flow, lead_in=lead_in, deviation=tensors["flow_deviation"][0])


def units_table(clips: int) -> None:
    """Shares of unit sides found, each side of a bilateral unit counted by itself, and false alarms of still clips."""
    found: dict[str, list[bool]] = defaultdict(list)
    processor = DeftVideoProcessor(num_frames=8)
    still, index = [], 0
    while sum(map(len, found.values())) < clips:
        rng = np.random.default_rng([SEED, 1, index])
        index += 1
        preset = PRESETS["realistic"]
        clip, _ = draw_clip(render_face(rng, size=preset.size), preset, "synthetic", rng)
        shown = clip.expression
        keys = (shown.onset, shown.apex, shown.offset)
        motions = measured(processor, encode_mp4(clip), keys)
        if not shown.units:
            still.append(any(motion.significant for motion in motions))
        for unit in shown.units:
            table_entry = get_action_unit(unit.code)
            if not table_entry.testable:
                continue
            expected = table_entry.motions[0]
            for motion in motions:
                if motion.region == expected.region and unit.side in ("both", motion.side):
                    apart = octants_apart(motion.direction, expected.phrase)
                    found[unit.intensity].append(motion.significant and apart is not None and apart <= 1)
    table = Table(title=f"Action units found, `realistic`, {index} clips", title_justify="left")
    for column in ("intensity", "unit sides", "found"):
        table.add_column(column, justify="right")
    for letters in (*STRONG, STRONG, *WEAK, WEAK):
        values = [value for letter in letters for value in found[letter]]
        table.add_row(letters, str(len(values)), f"{100 * np.mean(values):.1f} %" if values else "—")
    console.print(table)
    console.print(f"Still clips in which some region counts as moving (blinks occur): {sum(still)} of {len(still)}")


def still_table(clips: int) -> None:
    table = Table(title="Still clips, no blinks", title_justify="left")
    for column in ("preset", "clips", "some region significant", "stated"):
        table.add_column(column, justify="right")
    processor = DeftVideoProcessor(num_frames=8)
    for number, name in enumerate(("realistic", "easy")):
        preset, alarms = PRESETS[name], []
        for index in range(clips):
            rng = np.random.default_rng([SEED, 3, number, index])
            count = preset.count or 30
            quiet = replace(preset.disturbances, blinks=0.0)
            face = render_face(rng, size=preset.size)
            clip = render_clip(face, [], rng, count=count, fps=preset.fps, disturbances=quiet)
            motions = measured(processor, encode_mp4(clip), (2, count // 2, count - 2))
            alarms.append(any(motion.significant for motion in motions))
        table.add_row(name, str(clips), f"{sum(alarms)} ({100 * np.mean(alarms):.1f} %)", f"{100 * FALSE_ALARMS:g} %")
    console.print(table)


def head_table(clips: int) -> None:
    residuals = []
    for index in range(clips):
        rng = np.random.default_rng([SEED, 2, index])
        noise = PRESETS["realistic"].disturbances.noise
        head = Disturbances(head_shift=0.03, head_rotation=3.0, head_scale=0.03, noise=noise, light_drift=0.03)
        preset = replace(PRESETS["realistic"], disturbances=head)
        clip, _ = draw_clip(render_face(rng, size=SIDE), preset, "synthetic", rng)
        shown, frames = clip.expression, grey(clip)
        others = [i for i in range(len(frames)) if i != shown.onset]
        flow = estimate_flow(frames[shown.onset], frames[others])
        stable = np.any([ellipse_mask(ellipse, SIDE, SIDE) for ellipse in STABLE], axis=0)
        cleaned = SIDE / 100 * remove_rigid_motion(100 / SIDE * flow)[0]
        truth = np.stack([SIDE * clip.flow(shown.onset, i, expression_only=True) for i in others])
        residuals.append(float(np.median(np.hypot(*(cleaned - truth).transpose(1, 0, 2, 3))[:, stable])))
    console.print(
        f"Head motion left on the stable regions (3 %, 3°, 3 %), {clips} clips: median {np.median(residuals):.4f} px, "
        f"worst clip {np.max(residuals):.4f} px"
    )


def time_table(clips: int) -> None:
    estimators = available([DEFAULT, "lucas_kanade", "farneback", "dis", "tvl1"])
    videos = [_large_video(index) for index in range(3)]
    decoding = _median_seconds(lambda video: [frame.sum() for frame in open_clip(video).scan()], videos)
    table = Table(title="640 × 480, 64 frames, file to tensors (63 flow fields), one core", title_justify="left")
    for column in ("estimator", "ms", "of it decoding", "default / it"):
        table.add_column(column, justify="right")
    seconds = {}
    for name in estimators:
        processor = DeftVideoProcessor(num_frames=64, flow_estimator=name, flow_frames=64)
        box = (140, 60, 500, 420)
        keys = (0, 32, 63)
        seconds[name] = _median_seconds(lambda v, p=processor, b=box, k=keys: p(v, key_frames=k, face_box=b), videos)
    for name, value in seconds.items():
        table.add_row(name, f"{1e3 * value:.0f}", f"{100 * decoding / value:.0f} %", f"{seconds[DEFAULT] / value:.3f}")
    console.print(table)
    rates = {workers: _clips_per_second(videos[0], workers, max(24, clips)) for workers in (1, 2)}
    console.print(
        f"Default processor, workers: one {rates[1]:.1f} clips/s, two {rates[2]:.1f} clips/s, "
        f"{rates[2] / rates[1]:.2f} × ({os.cpu_count()} cores)"
    )
    if torch.cuda.is_available():
        _gpu_rate()
    else:
        console.print("GPU: not measured, none here")


def _large_video(index: int) -> bytes:
    rng = np.random.default_rng([SEED, 3, index])
    shown = Expression((UnitRequest("AU4", "both", 0.01),), 0, 32, 63)
    clip = render_clip(render_face(rng, size=480), [shown], rng, count=64)
    wide = [cv2.copyMakeBorder(frame, 0, 0, 80, 80, cv2.BORDER_REPLICATE) for frame in clip.frames]
    return encode_mp4(replace(clip, frames=np.stack(wide)))


def _median_seconds(job, inputs: list, rounds: int = 5) -> float:
    job(inputs[0])
    times = []
    for round_ in range(rounds):
        start = time.perf_counter()
        job(inputs[round_ % len(inputs)])
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _worker_batch(video: bytes, count: int) -> float:
    """Seconds for `count` clips, decoder start and warm-up not counted."""
    processor = DeftVideoProcessor(num_frames=8)
    processor(video, key_frames=(0, 32, 63), face_box=(140, 60, 500, 420))
    start = time.perf_counter()
    for _ in range(count):
        processor(video, key_frames=(0, 32, 63), face_box=(140, 60, 500, 420))
    return time.perf_counter() - start


def _clips_per_second(video: bytes, workers: int, count: int) -> float:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        jobs = [pool.submit(_worker_batch, video, count) for _ in range(workers)]
        return workers * count / max(job.result() for job in jobs)


def _gpu_rate(repeats: int = 20) -> None:
    frames = torch.from_numpy(grey(small_motion_clip(0, 2.0))).cuda()
    for step in range(repeats + 3):
        if step == 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        whole_clip_flow(frames, reference=8)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / repeats
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        target.copy_(source)
    torch.cuda.synchronize()
    bandwidth = 2 * source.nbytes * repeats / (time.perf_counter() - start)
    # Least traffic: each of a level's steps reads the refined frames, four times as many pixels, and writes residuals.
    least = sum(steps * 5 * frames[0].numel() * share**2 for share, steps, _ in _LEVELS) * len(frames) * 4
    console.print(
        f"GPU {torch.cuda.get_device_name()}: {1 / seconds:.1f} clips/s of 64 frames at {SIDE} px, "
        f"{100 * least / seconds / bandwidth:.1f} % of the measured copy bandwidth"
    )


TABLES = {
    "error": error_table,
    "bound": bound_table,
    "units": units_table,
    "still": still_table,
    "head": head_table,
    "time": time_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--clips", type=int, default=30, help="clips a table and noise level; unit sides for `units`")
    arguments = parser.parse_args()
    _one_thread()
    for name in arguments.table:
        TABLES[name](arguments.clips)


if __name__ == "__main__":
    main()
