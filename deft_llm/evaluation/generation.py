"""Models that write answers: a trained checkpoint, and fine-tuning in every fold (full mode)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deft_llm.hub_datasets.unimer.rows import features, region_motions, row_tensors
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.motion_evidence import RegionMotion

TRAINING = ("-P", "-m", "deft_llm.training.run")  # Python arguments of the training process

ANSWERS_AT_ONCE = 8  # clips per batch


def load_checkpoint(path: str | Path) -> tuple[Any, Any]:
    """Loads the model, in evaluation mode, and the processor from a folder or a Hub repository."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import deft_llm.modeling_deft  # noqa: F401  registers the model's classes

    model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True).eval()
    return model, AutoProcessor.from_pretrained(path, trust_remote_code=True)


def stacked_tensors(rows: Sequence[Mapping[str, Any]], processor: Any, device: Any) -> dict[str, torch.Tensor]:
    """Stacks the rows' clips into a batch. Pixels are included only if every row has a video.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows.
        processor (`Any`): The model's processor.
        device (`Any`): Device of the tensors.
    """
    columns = [row_tensors(row, processor.video_processor) for row in rows]
    names = set.intersection(*(set(column) for column in columns))
    return {
        name: torch.from_numpy(np.stack([column[name] for column in columns])).to(device) for name in sorted(names)
    }


def generate_answers(
    model: Any,
    processor: Any,
    tensors: Mapping[str, torch.Tensor],
    questions: Sequence[str],
    max_new_tokens: int,
    recognition: Any,
    *,
    motions: Sequence[Sequence[RegionMotion]] | None = None,
    grounded: bool = False,
) -> list[str]:
    """Generates greedy answers to one question per clip.

    Args:
        model (`Any`): The model.
        processor (`Any`): Its processor.
        tensors (`Mapping[str, torch.Tensor]`): The clips, from `stacked_tensors`.
        questions (`Sequence[str]`): One question per clip.
        max_new_tokens (`int`): Maximum length of an answer in tokens.
        recognition (`Any`): `model.model(**tensors)`.
        motions (`Sequence[Sequence[RegionMotion]]`, *optional*): The measured motion of each clip, from
            `rows.region_motions`; by default that of the flow in `tensors`.
        grounded (`bool`, *optional*, defaults to `False`): Whether to limit the answers to what was recognised and
            measured.
    """
    clips, prompts = {**tensors, "region_motions": motions, "recognition": recognition}, []
    for place, question in enumerate(questions):
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompts.append(processor.render_prompt([{"role": "user", "content": content}], clips, place))
    inputs = processor.tokenizer(
        prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    ).to(model.device)
    constraints = None
    if grounded:
        measured = {"flow_values_videos": tensors.get("flow_values_videos"), "region_motions": motions}
        constraints = [processor.answer_constraint(0, recognition, **measured)]
    with torch.inference_mode():
        sequences = model.generate(
            inputs_embeds=model.model.embed_prompts(inputs["input_ids"], recognition),
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=constraints,
        )
    return processor.tokenizer.batch_decode(sequences, skip_special_tokens=True)


def answer_clips(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    max_new_tokens: int,
    track: Any = None,
) -> list[dict[str, Any]]:
    """Generates an answer and computes the heads' scores for every row, in order. Labels are not read.

    Args:
        model (`Any`): The model.
        processor (`Any`): Its processor.
        rows (`Sequence[Mapping[str, Any]]`): Uni-MER rows.
        batch_size (`int`): Clips per batch.
        max_new_tokens (`int`): Maximum length of an answer in tokens.
        track (`Any`, *optional*): Wraps the iterator of batches, for a progress bar.

    Returns:
        One dictionary per row: `answer`, `parsed`, `generated` (the answer's emotion or `None`), `abstained`, `scores`
        (emotion → probability), `au_scores` (probabilities in the order of the config), `sides` (code → side named in
        the answer).
    """
    predictions = []
    starts = range(0, len(rows), batch_size)
    for start in track(starts) if track else starts:
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        tensors = stacked_tensors(batch, processor, model.device)
        with torch.inference_mode():
            outputs = model.model(**tensors)
        questions = [processor.default_instruction] * len(batch)
        motions = [region_motions(row) for row in batch]
        answers = generate_answers(model, processor, tensors, questions, max_new_tokens, outputs, motions=motions)
        flow = tensors["flow_values_videos"]
        reports = processor.post_process_expression(answers, outputs=outputs, flow_values_videos=flow)
        written = processor.post_process_expression(answers)
        scores = outputs.au_logits.float().sigmoid().cpu().tolist()
        for answer, report, text, au_scores in zip(answers, reports, written, scores, strict=True):
            predictions.append(
                {
                    "answer": answer,
                    "parsed": text.parsed,
                    "generated": text.emotion,
                    "abstained": report.insufficient_motion,
                    "scores": report.scores,
                    "au_scores": au_scores,
                    "sides": {unit.code: unit.side for unit in text.action_units},
                }
            )
    return predictions


class Checkpoint:
    """A trained model with the interface of `baselines.Recogniser`. `fit` does not change it.

    If the model's emotions are finer than the labels, they are merged by the checkpoint's own coarse classes.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`, *optional*, defaults to `0`): Not used.
        path (`str`): Folder or Hub repository.
        generate (`bool`): Whether to take the class from the generated answer instead of the heads.
        batch_size (`int`, *optional*, defaults to `16`): Clips per batch of the heads.
        max_new_tokens (`int`, *optional*, defaults to `256`): Maximum length of an answer in tokens.
    """

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        path: str,
        generate: bool,
        batch_size: int = 16,
        max_new_tokens: int = 256,
    ):
        self.labels, self.path, self.generate = list(labels), path, generate
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Does nothing."""

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        model, processor = load_checkpoint(self.path)
        label_of = self._labels_of(model.config)
        codes = list(model.config.action_units)
        if self.generate:
            # Batches of one size, filled up with copies of a clip: the batch size changes rounding and thereby
            # sometimes a word, and an answer must not depend on the number of other clips.
            filled = [*rows, *[rows[0]] * (-len(rows) % ANSWERS_AT_ONCE)]
            raw = answer_clips(model, processor, filled, ANSWERS_AT_ONCE, self.max_new_tokens)[: len(rows)]
        else:
            raw = self._recognised(model, processor, rows)
        predictions = []
        for item in raw:
            scores = dict.fromkeys(self.labels, 0.0)
            for emotion, probability in item["scores"].items():
                if emotion in label_of:
                    scores[label_of[emotion]] += probability
            total = sum(scores.values())
            prediction = {
                "scores": [value / total for value in scores.values()],
                "action_units": dict(zip(codes, item["au_scores"], strict=True)),
            }
            if self.generate:
                # Units, sides and class are the answer's. The heads' class is reported separately.
                prediction |= {
                    "label": label_of.get(item["generated"]),
                    "head_label": max(scores, key=scores.get),
                    "answer": item["answer"],
                    "parsed": item["parsed"],
                    "abstained": item["abstained"],
                    "sides": item["sides"],
                }
            predictions.append(prediction)
        return predictions

    def _recognised(self, model, processor, rows):
        raw = []
        for start in range(0, len(rows), self.batch_size):
            tensors = stacked_tensors(rows[start : start + self.batch_size], processor, model.device)
            with torch.inference_mode():
                outputs = model.model(**tensors)
            emotions = outputs.emotion_logits.double().softmax(1).tolist()
            units = outputs.au_logits.double().sigmoid().tolist()
            for scores, au_scores in zip(emotions, units, strict=True):
                raw.append(
                    {"scores": dict(zip(model.config.emotion_labels, scores, strict=True)), "au_scores": au_scores}
                )
        return raw

    def _labels_of(self, config: Any) -> dict[str, str]:
        """The checkpoint's emotion → label."""
        if set(config.emotion_labels) >= set(self.labels):
            return {label: label for label in self.labels}
        coarse = {emotion: config.coarse_emotion_of.get(emotion) for emotion in config.emotion_labels}
        missing = sorted(set(self.labels) - set(coarse.values()))
        if missing:
            raise ValueError(
                f"The checkpoint {self.path} does not know {missing[0]!r}. It knows "
                f"{', '.join(config.emotion_labels)}."
            )
        return {emotion: label for emotion, label in coarse.items() if label in self.labels}


class FineTuned(Checkpoint):
    """Full mode: trains with `deft_llm.training.run` on the fold's training rows; the class is from the answer.

    Tokenizer, label lists and instructions come from the training rows only, because the training folder contains
    nothing else.

    Args:
        labels (`Sequence[str]`): The fixed label list.
        seed (`int`, *optional*, defaults to `0`): Random seed of the training.
        recipe (`str | None`, *optional*): YAML of `deft_llm.training.run`.
        overrides (`Sequence[str]`, *optional*): Options that replace those of the recipe.
        max_new_tokens (`int`, *optional*, defaults to `256`): Maximum length of an answer in tokens.
        recipe_file (`str | Path | None`, *optional*): YAML that replaces `recipe`.
    """

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        recipe: str | None = None,
        overrides: Sequence[str] = (),
        max_new_tokens: int = 256,
        recipe_file: str | Path | None = None,
    ):
        super().__init__(labels, seed, path="", generate=True, max_new_tokens=max_new_tokens)
        self.seed, self.recipe, self.overrides = seed, recipe_file or recipe, list(overrides)

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from datasets import Dataset

        self.folder = tempfile.TemporaryDirectory(prefix="deft-fold-")  # removed with this object
        data, out = Path(self.folder.name) / "data", Path(self.folder.name) / "model"
        data.mkdir()
        fields, _, side, _ = np.shape(rows[0]["flow"])
        schema = features(DeftVideoProcessor(num_frames=fields + 1, flow_size=side))
        kept = [{name: row.get(name) for name in schema} for row in rows]
        Dataset.from_list(kept, features=schema).to_parquet(data / "train-00000-of-00001.parquet")
        command = [sys.executable, *TRAINING, "--config", str(self.recipe), "--dataset", str(data)]
        command += ["--output_dir", str(out), "--seed", str(self.seed % 2**31), *self.overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Training ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
        self.path = str(out)
