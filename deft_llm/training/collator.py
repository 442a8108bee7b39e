"""Collates training batches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.processing import DeftProcessor
from deft_llm.processing.common_deft import EXPERTS

from .augmentation import Augmentation
from .conversations import conversation_tokens, drawn, joined
from .data import UNKNOWN

# Columns of `expert_states.precomputed`: the states, before the expert's name, and what the heads decide.
STATES = "expert_states_"
RECOGNITION = ("emotion_logits", "au_logits", "au_side_logits")
UNSAID = 0.1  # share of training clips without the recognition in words, which a processor alone does not know either


class DeftCollator:
    """Collates rows to a batch, with random conversations per clip. Only the answers have labels.

    With several questions per clip, the clip's tokens are in the sequence once. Each question attends to them and to
    itself, not to the other questions, so the loss equals that of one sequence per question.

    Args:
        processor: The processor.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks equally often.
        appearance_dropout: Share of the steps without pixels, from 0 to 1.
        seed: Seed of all random choices.
        augmentation: Applied to training clips.
        text: Whether to include texts; `False` if the language model is not run.
        conventions: The config's `label_conventions`, for `convention_ids`.
        questions_per_clip: Largest number of conversations drawn per clip.
        turns: Largest number of questions that follow each other in one conversation.
        held_out_wordings: Number of wordings per task that are not trained, see `conversations.weighted`.
    """

    def __init__(
        self,
        processor: DeftProcessor,
        task_weights: dict[str, float] | None,
        appearance_dropout: float,
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        text: bool = True,
        conventions: Sequence[str] = (),
        questions_per_clip: int = 1,
        turns: int = 1,
        held_out_wordings: int = 0,
    ):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.task_weights, self.appearance_dropout, self.seed = task_weights, appearance_dropout, seed
        self.augmentation, self.text = augmentation, text
        self.conventions = list(conventions)
        self.questions_per_clip, self.turns, self.held_out_wordings = questions_per_clip, turns, held_out_wordings
        # Set by the trainer: the clips per optimiser step, which are all with or all without pixels, and the epoch of
        # streamed clips, whose rows do not contain it.
        self.step_size, self.epoch = 1, 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        generators = [self._generator(row) for row in rows]
        if self.augmentation is not None:
            rows = [
                # Clips without a place are for evaluation and are not augmented.
                row if row.get("place") is None else self.augmentation(row, rng, self.processor.action_units)
                for row, rng in zip(rows, generators, strict=True)
            ]
        seen = not self._drops_appearance(rows[0])
        batch = _states(rows, seen) or _clips(rows, seen)
        if self.text:
            batch |= self._text(rows, generators, batch)
        batch["emotion_labels"] = torch.tensor([int(row["emotion_label"]) for row in rows])
        batch["au_labels"] = torch.tensor(np.array([row["au_label"] for row in rows]), dtype=torch.float32)
        sides, graded = (np.array([row[name] for row in rows]) for name in ("au_side_label", "au_intensity_label"))
        batch["au_side_labels"] = torch.tensor(sides, dtype=torch.long)
        batch["au_intensity_labels"] = torch.tensor(graded, dtype=torch.float32)
        batch["convention_ids"] = torch.tensor(
            [self.conventions.index(row["source"]) if row["source"] in self.conventions else UNKNOWN for row in rows]
        )
        batch["clip_ids"] = [row["clip_id"] for row in rows]
        return batch

    def _text(self, rows, generators, batch) -> dict[str, torch.Tensor]:
        states = batch.get("expert_states")
        inputs = batch
        if states is not None:
            inputs = {"pixel_values_videos": states.get("structure"), "flow_values_videos": states.get("motion")}
        sequences = []
        for row, rng in zip(rows, generators, strict=True):
            count = self.questions_per_clip
            items = drawn(row["conversations"], self.task_weights, count, rng, self.held_out_wordings)
            conversations = joined(items, self.turns, rng)
            clip = {**inputs, "region_motions": [region_motions(row)], "recognition": _recognition(row)}
            if row.get("place") is not None and rng.random() < UNSAID:
                clip["recognition"] = None
            sequences.append([conversation_tokens(self.processor, messages, clip) for messages in conversations])
        if self.questions_per_clip > 1:
            return self._shared_clips(sequences)
        length = max(len(ids) for ((ids, _),) in sequences)
        input_ids, labels = self._padded(len(rows), length)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, ((ids, scored),) in enumerate(sequences):
            input_ids[index, : len(ids)] = torch.tensor(ids)
            labels[index, : len(ids)] = _targets(ids, scored)
            mask[index, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def _shared_clips(self, sequences: list[list[tuple[list[int], list[bool]]]]) -> dict[str, torch.Tensor]:
        """Sequences of a clip followed by several conversations that do not attend to each other."""
        shared = [self._clip_end([ids for ids, _ in items]) for items in sequences]
        length = max(
            start + sum(len(ids) - start for ids, _ in items) for start, items in zip(shared, sequences, strict=True)
        )
        input_ids, labels = self._padded(len(sequences), length)
        positions = torch.zeros((len(sequences), length), dtype=torch.long)
        mask = torch.zeros((len(sequences), 1, length, length), dtype=torch.bool)
        mask[..., 0] = True  # padding attends to the first token, because it must attend to something
        for index, (start, items) in enumerate(zip(shared, sequences, strict=True)):
            input_ids[index, :start] = torch.tensor(items[0][0][:start])
            positions[index, :start] = torch.arange(start)
            mask[index, 0, :start, :start] = torch.ones(start, start, dtype=torch.bool).tril()
            end = start
            for ids, scored in items:
                own = slice(end, end + len(ids) - start)
                input_ids[index, own] = torch.tensor(ids[start:])
                labels[index, own] = _targets(ids, scored)[start:]
                positions[index, own] = torch.arange(start, len(ids))
                mask[index, 0, own, :start] = True
                mask[index, 0, own, own] = torch.ones(len(ids) - start, len(ids) - start, dtype=torch.bool).tril()
                end = own.stop
        return {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "labels": labels}

    def _clip_end(self, prompts: list[list[int]]) -> int:
        """Number of first tokens that are shared: all up to the last one of the clip."""
        placeholders = set(self.processor.video_token_ids)
        return 1 + max(place for place, token in enumerate(prompts[0]) if token in placeholders)

    def _padded(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((rows, length), self.tokenizer.pad_token_id), torch.full((rows, length), -100)

    def _generator(self, row: Mapping[str, Any]) -> np.random.Generator:
        clip = zlib.crc32(row["clip_id"].encode())
        if row.get("place") is None:
            return np.random.default_rng([self.seed, clip])
        return np.random.default_rng([self.seed, int(row.get("epoch", self.epoch)), int(row["place"]), clip])

    def _drops_appearance(self, first: Mapping[str, Any]) -> bool:
        if not self.appearance_dropout or first.get("place") is None:
            return False
        epoch, step = int(first.get("epoch", self.epoch)), int(first["place"]) // self.step_size
        rng = np.random.default_rng([self.seed, epoch, step, zlib.crc32(b"appearance")])
        return bool(rng.random() < self.appearance_dropout)


def _clips(rows: list[dict[str, Any]], seen: bool) -> dict[str, Any]:
    batch = {"flow_values_videos": _stack(rows, "flow_values_videos")}
    if seen and all(row["pixel_values_videos"] is not None for row in rows):
        batch["pixel_values_videos"] = _stack(rows, "pixel_values_videos")
    return batch


def _states(rows: list[dict[str, Any]], seen: bool) -> dict[str, Any] | None:
    """The experts' states, if they were computed in advance."""
    names = [name for name in EXPERTS if all(row.get(STATES + name) is not None for row in rows)]
    if not names:
        return None
    return {
        "expert_states": {name: _stack(rows, STATES + name) for name in names if seen or name == "motion"},
    }


def _recognition(row: Mapping[str, Any]) -> SimpleNamespace | None:
    """What the heads decide about a clip, if it was computed in advance, as a model's output for one clip."""
    if any(row.get(name) is None for name in RECOGNITION):
        return None
    return SimpleNamespace(**{name: torch.tensor(np.asarray(row[name]))[None] for name in RECOGNITION})


def _targets(ids: list[int], scored: list[bool]) -> torch.Tensor:
    return torch.tensor([token if is_scored else -100 for token, is_scored in zip(ids, scored, strict=True)])


def _stack(rows: list[dict[str, Any]], column: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([row[column] for row in rows]).astype(np.float32))
