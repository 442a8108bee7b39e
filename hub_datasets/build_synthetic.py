"""A synthetic Uni-MER dataset: many faces, every emotion's prototypes, exact labels."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deft_llm.processing.video_processing_deft import DeftVideoProcessor

from . import synthetic
from .uni_mer import features, make_row, refuse_existing, write_dataset

STILL_SHARE = 0.1  # clips in which nothing but the disturbances moves
AMPLITUDES = (0.008, 0.025)  # of the crop's width: 0.8 to 2.5 %


def build(
    *, out: Path, identities: int, test_identities: int, clips: int, num_frames: int, seed: int, workers: int
) -> None:
    """Renders `identities + test_identities` faces with `clips` clips each and writes the dataset folder.

    The same seed gives the same rows, however many workers there are. Raises `FileExistsError` before any work when
    `out` is not free, `ValueError` for numbers below 1.
    """
    for name, value in {"identities": identities, "clips": clips, "workers": workers}.items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    refuse_existing(out)
    total = identities + test_identities
    one_identity = partial(identity_rows, clips=clips, num_frames=num_frames, seed=seed)
    rows: list[list[dict]] = []
    columns = (TextColumn("Rendering faces"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console()
    with (
        Progress(*columns, console=console) as progress,
        # Spawned, not forked: the parent has threads by now.
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        task = progress.add_task("", total=total)
        for result in pool.map(one_identity, range(total)):
            rows.append(result)
            progress.advance(task)
    splits = {"train": list(chain(*rows[:identities])), "test": list(chain(*rows[identities:]))}
    splits = {name: values for name, values in splits.items() if values}
    processor = DeftVideoProcessor(num_frames=num_frames)
    write_dataset(splits, features(processor), _card(splits, seed), out)
    console.print(_summary(splits), f"Written to {out}")


def identity_rows(identity: int, *, clips: int, num_frames: int, seed: int) -> list[dict]:
    """All rows of one face."""
    cv2.setNumThreads(1)
    face = synthetic.render_face(np.random.default_rng([seed, identity]))
    processor = DeftVideoProcessor(num_frames=num_frames)
    rows = []
    for index in range(clips):
        rng = np.random.default_rng([seed, identity, index])
        emotion, units = draw_expression(rng)
        clip = synthetic.render_clip(
            face,
            units,
            rng,
            rise=int(rng.integers(8, 14)),
            fall=int(rng.integers(7, 13)),
            lead=int(rng.integers(1, 4)),
            tail=int(rng.integers(0, 3)),
        )
        subject, name = f"synthetic-{seed}/{identity:04d}", f"{index:03d}"
        rows.append(
            make_row(
                clip_id=f"{subject}/{name}/{clip.onset}",
                source="synthetic",
                subject=subject,
                video=synthetic.encode_mp4(clip),
                fps=clip.fps,
                key_frames=(clip.onset, clip.apex, clip.offset),
                units=[(unit.code, unit.side) for unit in units],
                emotion=emotion,
                emotion_coarse=synthetic.COARSE_EMOTION.get(emotion),
                convention=synthetic.CONVENTION,
                provenance={"reader": "synthetic 0.1", "sheet": None, "sheet_sha256": None, "row": index},
                video_processor=processor,
                rng=rng,
            )
        )
    return rows


def draw_expression(rng: np.random.Generator) -> tuple[str | None, list[synthetic.UnitRequest]]:
    """An emotion and one of its prototypes, or (None, []) for a still clip."""
    if rng.random() < STILL_SHARE:
        return None, []
    emotion = str(rng.choice(synthetic.EMOTIONS))
    prototypes = synthetic.EMOTION_PROTOTYPES[emotion]
    codes = prototypes[rng.integers(len(prototypes))]
    side = str(rng.choice(["left", "right"])) if rng.random() < 0.2 else "both"
    strength = rng.uniform(*AMPLITUDES)
    return emotion, [
        synthetic.UnitRequest(
            code,
            side if code in synthetic.UNILATERAL else "both",
            float(np.clip(strength * rng.uniform(0.8, 1.25), *AMPLITUDES)),
        )
        for code in codes
    ]


def _summary(splits: dict[str, list[dict]]) -> Table:
    table = Table(title="Uni-MER, synthetic", title_justify="left")
    for heading in ("split", "clips", "faces", *synthetic.EMOTIONS, "still", "AU labels", "supported"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, rows in splits.items():
        emotions = Counter(row["emotion"] for row in rows)
        verdicts = Counter(unit["verdict"] for row in rows for unit in row["action_units"])
        labels = sum(verdicts.values())
        cells = [len(rows), len({row["subject"] for row in rows})]
        cells += [emotions[emotion] for emotion in (*synthetic.EMOTIONS, None)]
        cells += [labels, f"{100 * verdicts['supported'] / max(labels, 1):.1f} %"]
        table.add_row(name, *map(str, cells))
    return table


def _card(splits: dict[str, list[dict]], seed: int) -> str:
    files = "\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits)
    counts = "\n".join(
        f"- {name}: {len(rows)} clips of {len({row['subject'] for row in rows})} faces"
        for name, rows in splits.items()
    )
    return f"""---
license: apache-2.0
task_categories: [video-text-to-text]
tags: [micro-expression, synthetic]
configs:
- config_name: default
  data_files:
{files}
---
# Synthetic micro-expressions in the Uni-MER schema

Rendered faces; no person is shown and no recording was used. Seed {seed}. The splits share no face.

{counts}

Emotions follow the generator's own convention ("{synthetic.CONVENTION}"), not that of any published data set.
"""
