"""Rendered clips as tensors, with the labels that probes and scores need at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset, load_dataset

from deft_llm.files import whole_file
from deft_llm.hub_datasets.synthetic.dataset import build
from deft_llm.hub_datasets.unimer.rows import row_tensors
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.common_deft import SIDE_LABELS

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = 0.2  # of the entangled training faces: unseen faces whose look goes with the emotion as in training


def recipe() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))


def load_rows(preset: str, place: Path, clips: int) -> dict[str, Dataset]:
    """Splits by name; of `entangled`, the last training faces are `same_look` and the test split `turned_look`."""
    folder = place / f"{preset}-{clips}"
    if not folder.exists():
        build(out=folder, clips=clips, preset=preset)
    splits = load_dataset(str(folder), cache_dir=str(place / "datasets"))
    if preset != "entangled":
        return {"train": splits["train"], "test": splits["test"]}
    subjects = sorted(set(splits["train"]["subject"]))
    held_out = set(subjects[len(subjects) - round(HELD_OUT * len(subjects)) :])
    held = np.array([subject in held_out for subject in splits["train"]["subject"]])
    return {
        "train": splits["train"].select(np.flatnonzero(~held)),
        "same_look": splits["train"].select(np.flatnonzero(held)),
        "turned_look": splits["test"],
    }


def clip_tensors(rows: Dataset, path: Path) -> dict[str, torch.Tensor]:
    """Pixels and flow of all rows as the tiny model reads them; decoded once and kept beside the data."""
    if not path.exists():
        settings = recipe()
        side = settings["structure"]["image_size"]
        processor = DeftVideoProcessor(
            num_frames=8, size={"height": side, "width": side}, flow_size=settings["motion"]["flow_size"]
        )
        columns = [row_tensors(row, processor) for row in rows]
        stacked = {name: torch.from_numpy(np.stack([column[name] for column in columns])) for name in columns[0]}
        stacked["pixel_values_videos"] = stacked["pixel_values_videos"].half()
        with whole_file(path) as partial:
            torch.save(stacked, partial)
    return torch.load(path)


class ClipSet:
    """Rows with their tensors and labels at hand."""

    def __init__(self, rows: Dataset, tensors: dict[str, torch.Tensor]):
        self.rows = rows.remove_columns(["video", "flow"]).to_list()
        self.tensors = tensors
        self.known: tuple[list[str], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def clips(self, chosen: Any) -> dict[str, torch.Tensor]:
        return {name: values[chosen].float() for name, values in self.tensors.items()}

    def batches(
        self, size: int, *, pixels: bool = True, flow: torch.Tensor | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The model's inputs for all clips in their order, `size` at a time.

        Args:
            size: clips of one batch.
            pixels: False leaves the appearance out.
            flow: (clips, frames, 2, h, w) in place of the clips' own flow.
        """
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            inputs = self.clips(chosen)
            if flow is not None:
                inputs["flow_values_videos"] = flow[chosen]
            if not pixels:
                del inputs["pixel_values_videos"]
            yield inputs

    def faces(self) -> np.ndarray:
        return np.array([row["subject"] for row in self.rows])

    def units(self, codes: list[str]) -> np.ndarray:
        """(clips, codes) of 0 and 1."""
        if self.known is None or self.known[0] != codes:
            named = [{unit["code"] for unit in row["action_units"]} for row in self.rows]
            self.known = (codes, np.array([[int(code in present) for code in codes] for present in named]))
        return self.known[1]

    def examples(self, chosen: list[int], processor: Any, place: int = 0) -> list[dict[str, Any]]:
        """What the collator reads; `place` in the order of training seeds what it draws."""
        labels, codes = processor.emotion_labels, processor.action_units
        units, details = self.units(codes), self.unit_details(chosen, codes)
        examples = []
        for number, index in enumerate(chosen):
            row = self.rows[index]
            examples.append(
                {
                    **{name: row[name] for name in ("clip_id", "source", "conversations")},
                    **{name: values[index].numpy() for name, values in self.tensors.items()},
                    "emotion_label": labels.index(row["emotion"]) if row["emotion"] in labels else -100,
                    "au_label": units[index].tolist(),
                    "au_side_label": details["au_side_labels"][number].tolist(),
                    "au_intensity_label": details["au_intensity_labels"][number].tolist(),
                    "epoch": 0,
                    "place": place + number,
                }
            )
        return examples

    def unit_details(self, chosen: list[int], codes: list[str]) -> dict[str, torch.Tensor]:
        """Sides and intensities of the present units."""
        side = torch.full((len(chosen), len(codes)), -100)
        intensity = torch.full((len(chosen), len(codes)), -100.0)
        for row, index in enumerate(chosen):
            for unit in self.rows[index]["action_units"]:
                column = codes.index(unit["code"])
                side[row, column] = SIDE_LABELS.index(unit["side"])
                if unit["intensity"]:
                    intensity[row, column] = "ABCDE".index(unit["intensity"])
        return {"au_side_labels": side, "au_intensity_labels": intensity}


def clip_sets(preset: str, place: Path, clips: int) -> tuple[dict[str, Dataset], dict[str, ClipSet]]:
    rows = load_rows(preset, place, clips)
    sets = {
        name: ClipSet(split, clip_tensors(split, place / f"{preset}-{clips}-{name}.pt"))
        for name, split in rows.items()
    }
    return rows, sets
