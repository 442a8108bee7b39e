"""How many clips a second does a LoRA step take in, beside TRL's SFTTrainer on a stock video model?

    python benchmarks/speed/training_step.py

Qwen3-0.6B's architecture with random weights in both, the same LoRA on it, equal batches, answers of the same length:
DEFT of `recipes/qwen3-0.6b-lora.yaml` with its hybrid objective, experts trained in full, by `DeftSFTTrainer`; and
LLaVA-OneVision with its own vision tower, frozen, at eight frames by TRL's SFTTrainer. Every model in a process of
its own, in alternation; a step is forward, backward and optimiser, activations checkpointed, in bfloat16 where the
processor has instructions for it and otherwise in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from models import PRECISION, WORD, clips_of, large_model, prompts_of, stock_inputs, stock_model
from peft import LoraConfig, get_peft_model
from timing import fitted, side_by_side
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from deft_llm.training.parts import add_adapters
from deft_llm.training.trainer import DeftSFTTrainer
from deft_llm.training.tuning import LORA_TARGETS, TuningArguments

ANSWER = 120  # tokens
NAMES = ("DEFT", "stock")


def with_answer(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The prompt and an answer behind it, which alone is scored."""
    ids = inputs["input_ids"]
    answer = torch.full((len(ids), ANSWER), WORD)
    whole = torch.cat([ids, answer], 1)
    labels = torch.cat([torch.full_like(ids, -100), answer], 1)
    return inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole), "labels": labels}


def batch_of(name: str, model: Any, size: int) -> dict[str, torch.Tensor]:
    if name == "stock":
        return with_answer(stock_inputs(size, dtype=PRECISION))
    config = model.config
    labels = {
        "emotion_labels": torch.arange(size) % len(config.emotion_labels),
        "au_labels": (torch.rand(size, len(config.action_units)) < 0.1).float(),
    }
    return with_answer(prompts_of(config, size)) | clips_of(config, size, dtype=PRECISION) | labels


def words() -> PreTrainedTokenizerFast:
    """TRL wants a tokenizer; the batches are made already."""
    vocabulary = {"<end>": 0, "<pad>": 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "<pad>")), eos_token="<end>", pad_token="<pad>"
    )


def one(name: str, size: int, steps: int, result: Path) -> None:
    """Trains one model for some steps, and writes the seconds of each and the memory that they needed."""
    gpu = torch.cuda.is_available()
    model = (large_model if name == "DEFT" else stock_model)(PRECISION)
    batch = batch_of(name, model, size)
    if name == "DEFT":
        model = add_adapters(model, TuningArguments(use_peft=True), "base")
    else:
        lora = TuningArguments()
        settings = LoraConfig(
            r=lora.lora_r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, settings)

    def collate(_: list) -> dict[str, Any]:
        """The same batch again and again: what making one takes is another question."""
        return batch | ({"clip_ids": list(map(str, range(size)))} if name == "DEFT" else {})

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            folder,
            per_device_train_batch_size=size,
            max_steps=steps,
            bf16=gpu,
            use_cpu=not gpu,
            report_to=[],
            gradient_checkpointing=True,
            save_strategy="no",
            logging_steps=steps,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        )
        trainer = (DeftSFTTrainer if name == "DEFT" else SFTTrainer)(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"clip": range(size * steps)}),
            data_collator=collate,
            processing_class=words(),
        )
        clock = Clock()
        trainer.add_callback(clock)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.train()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    memory = torch.cuda.max_memory_allocated() if gpu else memory
    result.write_text(json.dumps({"seconds": clock.times[1:], "memory": memory}))


class Clock(TrainerCallback):
    def __init__(self):
        self.times: list[float] = []

    def on_step_begin(self, *args, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.perf_counter() - self.began)


def in_a_process(name: str, batch: int, steps: int) -> dict[str, Any]:
    """What `one` writes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        options = f"--one {name} --batch {batch} --steps {steps}".split()
        command = [sys.executable, __file__, *options, "--result", str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="a round, of which the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.batch, arguments.steps, arguments.result)
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for _ in range(arguments.rounds):
        for name, rounds in found.items():
            rounds.append(in_a_process(name, arguments.batch, arguments.steps))
    times = {name: [second for item in rounds for second in item["seconds"]] for name, rounds in found.items()}
    precision = str(PRECISION).removeprefix("torch.")
    side_by_side(f"LoRA step, batch of {arguments.batch}, {precision}", times, "stock", {"DEFT": "≤ 0.333"})
    for name, rounds in found.items():
        rate = arguments.batch / statistics.median(times[name])
        memory = statistics.median(item["memory"] for item in rounds)
        print(f"\n{name}: {rate:.3g} clips/s, {memory / 1e9:.1f} GB for the steps")
    # Not four clips: with these random weights in bfloat16, a gradient of the language model is then NaN.
    sizes = [arguments.batch * factor for factor in (1, 2, 3)]
    steps = {size: in_a_process("DEFT", size, arguments.steps)["seconds"] for size in sizes}
    fitted("clips of a batch, DEFT", {size: statistics.median(seconds) for size, seconds in steps.items()})


if __name__ == "__main__":
    main()
