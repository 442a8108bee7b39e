"""Computes the experts' states in advance, for stages in which the experts are frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, Value

from deft_llm.modeling_deft import DeftForConditionalGeneration

from .augmentation import Augmentation
from .collator import RECOGNITION, STATES

CLIPS_AT_ONCE = 32
INPUTS = ("pixel_values_videos", "flow_values_videos")
LABELS = ("emotion_label", "au_label", "au_side_label", "au_intensity_label")
KEPT = ("clip_id", "source", "motion", "conversations", *LABELS)


def precomputed(
    clips: Dataset,
    model: DeftForConditionalGeneration,
    augmentation: Augmentation | None = None,
    variants: int = 1,
    seed: int = 0,
) -> Dataset:
    """Runs the experts once per clip and variant. A later run with the same experts and clips reuses the result.

    The experts are in evaluation mode: structures are not swapped and experts are not dropped. If a clip has no
    pixels, only the motion expert is run, for all clips, because the rows of a dataset have the same columns.

    Args:
        clips: Rows from `data.prepare`.
        model: The model, whose experts do not change any more.
        augmentation: Applied to all variants but the first, which is the clip itself.
        variants: Rows per clip.
        seed: Seed of the augmentation.

    Returns:
        The labels and conversations of the rows, one column of states per expert, `(tokens, expert_size)`, and what
        the heads decide.
    """
    recognition, units = model.model.recognition, model.config.action_units
    inputs = INPUTS if not clips.data.column(INPUTS[0]).null_count else INPUTS[1:]
    experts = model.config.experts if inputs == INPUTS else ("motion",)
    sizes = {name: getattr(model.config, f"{name}_tokens") for name in experts}
    schema = Features({name: clips.features[name] for name in KEPT})
    for name, tokens in sizes.items():
        schema[STATES + name] = Array2D((tokens, model.config.expert_size), "float32")
    logits = [Value("float32")]
    schema |= {name: [logits] if name == "au_side_logits" else logits for name in RECOGNITION}

    def states_of(batch: Mapping[str, list], places: list[int]) -> dict[str, list]:
        rows = [{name: values[index] for name, values in batch.items()} for index in range(len(places))]
        changed = []
        for row, place in zip(rows, places, strict=True):
            row["motion"] = list(row["motion"])  # `map` makes it an array, which pyarrow does not take
            changed.append(row)
            for variant in range(1, variants):
                rng = np.random.default_rng([seed, place, variant])
                changed.append(augmentation(row, rng, units) if augmentation else row)
        device = next(recognition.parameters()).device
        stacked = {name: np.stack([row[name] for row in changed]).astype(np.float32) for name in inputs}
        with torch.inference_mode():
            output = recognition(**{name: torch.from_numpy(value).to(device) for name, value in stacked.items()})
        computed = {STATES + name: value for name, value in output.expert_states.items()}
        computed |= {name: output[name] for name in RECOGNITION}
        states = {name: list(value.float().cpu().numpy()) for name, value in computed.items()}
        return {name: [row[name] for row in changed] for name in KEPT} | states

    training = recognition.training
    recognition.eval()
    try:
        return (
            clips.select_columns([*INPUTS, *KEPT])
            .map(
                states_of,
                batched=True,
                batch_size=CLIPS_AT_ONCE,
                with_indices=True,
                remove_columns=list(INPUTS),
                features=schema,
                new_fingerprint=_fingerprint(clips, recognition, [augmentation, variants, seed, *schema]),
                desc="Running the frozen experts",
            )
            .with_format("numpy", columns=[STATES + name for name in sizes], output_all_columns=True)
        )
    finally:
        recognition.train(training)


def _fingerprint(clips: Dataset, recognition: torch.nn.Module, settings: list[Any]) -> str:
    digest = hashlib.sha256(repr([clips._fingerprint, *settings]).encode())
    for name, value in sorted(recognition.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
