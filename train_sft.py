"""Supervised fine-tuning of DEFT on a Uni-MER dataset: TRL's SFTTrainer with the hybrid objective.

    python train_sft.py --config recipes/tiny.yaml --dataset build/demo/data --output_dir build/deft-tiny

Every key of the YAML can be overridden on the command line. The folder that is written is complete: weights,
processor, the code that loads both anywhere, and a model card.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from datasets import Array4D, Dataset, DatasetDict, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl import SFTConfig, SFTTrainer, TrlParser

from deft_llm.hub_datasets.uni_mer import row_tensors
from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration
from deft_llm.processing import DeftProcessor, DeftVideoProcessor
from deft_llm.processing.action_units import action_unit_ellipses, get_action_unit
from deft_llm.processing.processing_deft import CHAT_TOKENS, SPECIAL_TOKENS
from model_card import fill_card, write_run


@dataclass
class DataArguments:
    """What to train on, and how clips become examples."""

    dataset: str = field(metadata={"help": "Uni-MER dataset: a folder or a Hub repository."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    task_weights: dict | None = field(
        default=None, metadata={"help": "How often each conversation task is drawn; default: all alike."}
    )
    appearance_dropout: float = field(
        default=0.0,
        metadata={"help": "Share of batches without pixels, so that the answer learns to rest on motion alone."},
    )
    preprocessing_workers: int = field(default=2, metadata={"help": "Processes that decode the clips, once."})


@dataclass
class ModelArguments:
    """The parts of the model.

    Language model and backbones are each a Hub repository or folder with pretrained weights, or a config (a mapping in
    YAML, JSON on the command line) for one that starts from random weights.
    """

    text: str = field(metadata={"help": "Language model: pretrained, or a config."})
    structure: str = field(metadata={"help": "The structure expert's vision backbone: pretrained, or a config."})
    texture: str = field(metadata={"help": "The texture expert's vision or video backbone: pretrained, or a config."})
    motion: dict = field(default_factory=dict, metadata={"help": "Config of the motion expert."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the face crop in pixels; default: the structure backbone's."}
    )
    expert_size: int = field(default=256, metadata={"help": "Width of the experts' tokens."})
    structure_tokens: int = field(default=4, metadata={"help": "Language tokens of the structure expert."})
    texture_tokens: int = field(default=8, metadata={"help": "Language tokens of the texture expert."})
    loss_weights: dict | None = field(default=None, metadata={"help": "Weights of the loss terms."})
    vocab_size: int = field(default=1024, metadata={"help": "Largest vocabulary of a tokenizer trained here."})
    num_frames: int = field(default=8, metadata={"help": "Frames a clip, the onset among them."})


def train_tokenizer(conversations: list[list[dict]], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE over the conversations' own text; reads and writes any text without loss."""
    texts = [
        block["text"]
        for row in conversations
        for conversation in row
        for message in conversation["messages"]
        for block in message["content"]
        if block["text"]
    ]
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone, so that a magnitude is read figure by figure.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", *CHAT_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*control, *SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CHAT_TOKENS[-1],
        pad_token="<|endoftext|>",
        additional_special_tokens=[CHAT_TOKENS[0], *SPECIAL_TOKENS],
        model_max_length=4096,
    )


def unit_number(code: str) -> tuple[str, int]:
    unit = get_action_unit(code)
    return unit.kind, unit.number


def build_model(arguments: ModelArguments, dataset: Dataset) -> tuple[DeftForConditionalGeneration, DeftProcessor]:
    """Model and processor from configs, with the labels that the dataset has."""
    emotions = sorted({value for value in dataset["emotion"] if value is not None})
    coarse = dict(zip(dataset["emotion"], dataset["emotion_coarse"], strict=True))
    units = sorted({unit["code"] for row in dataset["action_units"] for unit in row}, key=unit_number)
    if len(emotions) < 2 or not units:
        raise ValueError(
            f"The training split names {len(emotions)} emotions and {len(units)} action units; "
            "recognition needs at least two emotions and one action unit."
        )
    parts = {name: part_of(getattr(arguments, name)) for name in ("text", "structure", "texture")}
    configs = {
        name: AutoConfig.from_pretrained(part) if isinstance(part, str) else AutoConfig.for_model(**part)
        for name, part in parts.items()
    }
    if isinstance(parts["text"], str):
        tokenizer = AutoTokenizer.from_pretrained(parts["text"])
        tokenizer.add_special_tokens({"additional_special_tokens": [*CHAT_TOKENS, *SPECIAL_TOKENS]})
        # The chat template ends a turn with this one, whatever the base model ends a text with.
        tokenizer.eos_token = CHAT_TOKENS[-1]
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    else:
        tokenizer = train_tokenizer(dataset["conversations"], arguments.vocab_size)
        configs["text"].vocab_size = len(tokenizer)
    image_size = arguments.image_size or configs["structure"].image_size
    video_processor = DeftVideoProcessor(
        num_frames=arguments.num_frames,
        size={"height": image_size, "width": image_size},
        flow_size=arguments.motion.get("flow_size", 32),
    )
    processor = DeftProcessor(
        video_processor,
        tokenizer,
        structure_tokens=arguments.structure_tokens,
        texture_tokens=arguments.texture_tokens,
        action_units=units,
        emotion_labels=emotions,
        coarse_emotion_of={emotion: coarse[emotion] for emotion in emotions},
        label_convention=", ".join(sorted(set(dataset["source"]))),
    )
    structure_id, texture_id, motion_id = processor.video_token_ids
    config = DeftConfig(
        text_config=configs["text"],
        structure_config=configs["structure"],
        texture_config=configs["texture"],
        motion_config=arguments.motion,
        image_size=image_size,
        action_units=units,
        action_unit_regions={code: [list(ellipse) for ellipse in action_unit_ellipses(code)] for code in units},
        emotion_labels=emotions,
        coarse_emotion_of=processor.coarse_emotion_of,
        structure_tokens=arguments.structure_tokens,
        texture_tokens=arguments.texture_tokens,
        expert_size=arguments.expert_size,
        structure_token_id=structure_id,
        texture_token_id=texture_id,
        motion_token_id=motion_id,
        loss_weights=arguments.loss_weights,
    )
    model = DeftForConditionalGeneration(config)
    load_pretrained_parts(model, parts)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    # Not before the embeddings have grown: a padding id must lie within them.
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model.config.text_config.update(ids)
    model.generation_config.update(**ids, max_new_tokens=512, do_sample=False)
    return model, processor


def part_of(value: str | dict) -> str | dict:
    """A part as it was given on the command line or in YAML: the name of pretrained weights, or a config."""
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def load_pretrained_parts(model: DeftForConditionalGeneration, parts: dict[str, str | dict]) -> None:
    """Puts pretrained weights where a part is a name; the others keep their random ones."""
    if isinstance(parts["text"], str):
        language = AutoModelForCausalLM.from_pretrained(parts["text"])
        model.model.language_model.load_state_dict(language.base_model.state_dict())
        if not model.config.tie_word_embeddings:
            model.lm_head.load_state_dict(language.get_output_embeddings().state_dict())
    for name, expert in (("structure", model.model.structure_expert), ("texture", model.model.texture_expert)):
        if isinstance(parts[name], str):
            expert.backbone.load_state_dict(AutoModel.from_pretrained(parts[name]).state_dict())


def clip_features(row: dict[str, Any], processor: DeftProcessor) -> dict[str, Any]:
    """One dataset row's tensors and labels."""
    cv2.setNumThreads(1)
    tensors = row_tensors(row, processor.video_processor)
    codes = {unit["code"] for unit in row["action_units"]}
    emotion = row["emotion"]
    return {
        "pixel_values_videos": tensors.get("pixel_values_videos"),
        "flow_values_videos": tensors["flow_values_videos"],
        "emotion_label": processor.emotion_labels.index(emotion) if emotion in processor.emotion_labels else -100,
        "au_label": [float(code in codes) for code in processor.action_units],
    }


def prepare(dataset: Dataset, processor: DeftProcessor, workers: int) -> Dataset:
    """Decodes every clip once; the tensors are kept on disk in float16 and mapped into memory."""
    video_processor = processor.video_processor
    side = video_processor.size["height"]
    schema = dataset.features.copy()
    for column in ("video", "flow"):
        del schema[column]
    schema["pixel_values_videos"] = Array4D((video_processor.num_frames, 3, side, side), "float16")
    schema["flow_values_videos"] = Array4D(video_processor.flow_shape, "float16")
    schema["emotion_label"] = dataset.features["onset"]
    schema["au_label"] = [dataset.features["fps"]]
    prepared = dataset.map(
        clip_features,
        fn_kwargs={"processor": processor},
        remove_columns=["video", "flow"],
        features=schema,
        num_proc=min(workers, len(dataset)),
        desc="Decoding clips",
    )
    return prepared.with_format(
        "numpy", columns=["pixel_values_videos", "flow_values_videos"], output_all_columns=True
    )


def with_tasks(dataset: Dataset, task_weights: dict[str, float] | None) -> Dataset:
    """The clips that a conversation can be drawn from: where labels and motion disagree there may be none.

    Raises:
        ValueError: no clip is left.
    """
    kept = dataset.filter(
        lambda conversations: any(
            task_weights is None or task_weights.get(item["task"], 0) > 0 for item in conversations
        ),
        input_columns="conversations",
    )
    if not len(kept):
        raise ValueError(f"No clip has a conversation of the tasks {sorted(task_weights or ['any'])}.")
    if len(kept) < len(dataset):
        print(f"{len(dataset) - len(kept)} of {len(dataset)} clips left out: no conversation of the weighted tasks")
    return kept


class DeftCollator:
    """Rows to a batch: one conversation drawn a clip, placeholders expanded, only the answer scored."""

    def __init__(self, processor: DeftProcessor, task_weights: dict[str, float] | None, appearance_dropout: float):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.task_weights, self.appearance_dropout = task_weights, appearance_dropout

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {"flow_values_videos": _stack(rows, "flow_values_videos")}
        complete = all(row["pixel_values_videos"] is not None for row in rows)
        if complete and random.random() >= self.appearance_dropout:
            batch["pixel_values_videos"] = _stack(rows, "pixel_values_videos")
        prompts, answers = [], []
        for row in rows:
            *question, answer = self._draw(row["conversations"])["messages"]
            prompt = self.processor.render_prompt(question, batch)
            prompts.append(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
            text = answer["content"][0]["text"] + self.tokenizer.eos_token
            answers.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        input_ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            input_ids[index, :end] = torch.tensor(prompt + answer)
            labels[index, len(prompt) : end] = torch.tensor(answer)
            mask[index, :end] = 1
        batch |= {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        batch["emotion_labels"] = torch.tensor([row["emotion_label"] for row in rows])
        batch["au_labels"] = torch.tensor(np.array([row["au_label"] for row in rows]), dtype=torch.float32)
        return batch

    def _draw(self, conversations: list[dict]) -> dict:
        if self.task_weights is None:
            return random.choice(conversations)
        weights = [self.task_weights.get(conversation["task"], 0) for conversation in conversations]
        return random.choices(conversations, weights)[0]


def _stack(rows: list[dict[str, Any]], column: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([row[column] for row in rows]).astype(np.float32))


class DeftSFTTrainer(SFTTrainer):
    """SFTTrainer whose loss is the model's own hybrid one, every term of it logged.

    The stock trainer takes the language loss from the hidden states and never calls the model's `forward` with
    labels, so the terms of the experts would not be trained.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        mode = "train" if self.model.training else "eval"
        outputs = model(
            **inputs, use_cache=False, skip_logits=not return_outputs, num_items_in_batch=num_items_in_batch
        )
        terms = {name: outputs[f"{name}_loss"] for name in self.loss_weights if f"{name}_loss" in outputs}
        loss = 0.0
        for name, value in terms.items():
            if name == "language":
                # `num_items_in_batch` counts the tokens of all processes, whose gradients are then averaged.
                if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                    value = value * self.accelerator.num_processes
            elif num_items_in_batch is not None:
                # With it the Trainer leaves the division by the accumulation steps to the loss.
                value = value / self.current_gradient_accumulation_steps
            loss = loss + self.loss_weights[name] * value
        for name, value in terms.items():
            self._metrics[mode][f"{name}_loss"].append(self.accelerator.gather(value.detach()).mean().item())
        gates = self.accelerator.gather(outputs.expert_gates.detach()).mean(0).tolist()
        for name, gate in zip(("structure", "texture", "motion"), gates, strict=True):
            self._metrics[mode][f"gate_{name}"].append(gate)
        return (loss, outputs) if return_outputs else loss

    @property
    def loss_weights(self) -> dict[str, float]:
        return self.accelerator.unwrap_model(self.model).config.loss_weights

    def create_model_card(self, *args, **kwargs):
        """Our card instead of TRL's generic one. The Trainer calls this before every push, when the model is saved.

        `card_facts` (dataset, parts, seconds) is what the trainer itself does not know of the run.
        """
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and (folder / "config.json").exists():
            model = self.accelerator.unwrap_model(self.model)
            facts = {"dataset": "unnamed", "seed": self.args.seed, **getattr(self, "card_facts", {})}
            write_run(folder, model, self.train_dataset, steps=self.state.global_step, **facts)
            fill_card(folder)


def main(data: DataArguments, model_arguments: ModelArguments, training: SFTConfig) -> None:
    set_seed(training.seed)
    splits: DatasetDict = load_dataset(data.dataset)
    if data.train_split not in splits:
        raise ValueError(f"{data.dataset} has no split {data.train_split!r}; it has {', '.join(splits)}.")
    dataset = with_tasks(splits[data.train_split], data.task_weights)
    model, processor = build_model(model_arguments, dataset)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(dataset)} clips of {len(set(dataset['subject']))} subjects; model of {size / 1e6:.1f} M parameters")

    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.max_length = None
    trainer = DeftSFTTrainer(
        model=model,
        args=training,
        train_dataset=prepare(dataset, processor, data.preprocessing_workers),
        processing_class=processor,
        data_collator=DeftCollator(processor, data.task_weights, data.appearance_dropout),
    )
    parts = {name: getattr(model_arguments, name) for name in ("text", "structure", "texture")}
    trainer.card_facts = {"dataset": data.dataset, "parts": parts}
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.card_facts["seconds"] = time.monotonic() - started
    trainer.save_model(training.output_dir)
    trainer.create_model_card()
    print(f"Model folder written to {training.output_dir}")


if __name__ == "__main__":
    parser = TrlParser((DataArguments, ModelArguments, SFTConfig))
    main(*parser.parse_args_and_config())
