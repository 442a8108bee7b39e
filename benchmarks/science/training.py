"""Is training quick, exact and resumable, and what would the large recipes cost?

    python benchmarks/science/training.py [--parts share trainer resume processes recipe estimates gpu] [--dataset DIR]

Everything on rendered faces. `recipe` trains recipes/tiny.yaml on the `realistic` preset and scores it on unseen
identities; `resume` kills runs at five random steps; `processes` compares two DDP processes with one; `share` is the
part of a step that waits for data, decoded beforehand; `trainer` runs the same model on the same batches by the
hybrid trainer and by TRL's own SFTTrainer, in alternation; `estimates` counts parameters and FLOP of the large recipes
on meta tensors, with no weights and no GPU; `gpu` takes steps of the 4B recipe with random weights, where there is
one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
PARTS = ("share", "trainer", "resume", "processes", "recipe", "estimates", "gpu")
STEPS = 20


def qwen3(hidden: int, intermediate: int, *, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    """The config of a Qwen3 of a size."""
    return {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


# The published sizes of the pretrained parts that recipes name, as their configs have them.
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES = {
    "Qwen/Qwen3-0.6B": qwen3(1024, 3072, layers=28, heads=16, tied=True),
    "Qwen/Qwen3-4B": qwen3(2560, 9728, layers=36, heads=32, tied=True),
    "Qwen/Qwen3-8B": qwen3(4096, 12288, layers=36, heads=32, tied=False),
    "facebook/dinov2-base": {"model_type": "dinov2", **BASE, "image_size": 518, "patch_size": 14},
    "facebook/dinov2-large": {"model_type": "dinov2", **LARGE, "image_size": 518, "patch_size": 14},
    "MCG-NJU/videomae-base": {"model_type": "videomae", **BASE, "intermediate_size": 3072},
    "MCG-NJU/videomae-large": {"model_type": "videomae", **LARGE, "intermediate_size": 4096},
}

# What the estimates take for granted.
UNITS, EMOTIONS, CLIPS, TOKENS, SCORED = 20, 7, 10_000, 260, 130
PEAK, UTILISATION = 989e12, 0.35  # an H200-class GPU in bfloat16, and the share of it that such runs reach


def run_script(*options: str, kill_at: int | None = None, check: bool = True) -> subprocess.CompletedProcess:
    words = ["train_sft.py", *options]
    if kill_at is not None:
        words = ["tests/training/forked_runs.py", json.dumps([{"options": options, "kill_at": kill_at}])]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    if check and done.returncode:
        sys.exit(f"train_sft.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done


def history(folder: Path) -> list[dict[str, Any]]:
    """The log of a run by its last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    log = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry for entry in log if "loss" in entry]


def synthesized(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "deft_llm.cli", "data", "synthesize", "--output-dir", str(folder), *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return str(folder)


def options_of(data: str, *more: str) -> list[str]:
    options = "--config recipes/tiny.yaml --use_cpu true --disable_tqdm true --logging_steps 1"
    return [*options.split(), "--dataset", data, *more]


AUGMENTED = "--mirror 0.5 --flow_noise 1 --temporal_crop 0.5 --appearance_jitter 0.5".split()


def data_share(data: str, work: Path) -> None:
    """Median over the last steps of the part of a step spent waiting for the next batch."""
    for name, more in {"as the recipe is": [], "with every augmentation": AUGMENTED}.items():
        out = work / f"share-{len(more)}"
        steps = "--max_steps 30 --save_strategy steps --save_steps 30".split()
        run_script(*options_of(data, *more), *steps, "--output_dir", str(out))
        entries = history(out)[10:]
        shares = [entry["data_wait_share"] for entry in entries]
        clips = statistics.median(entry["clips_per_second"] for entry in entries)
        tokens = statistics.median(entry["tokens_per_second"] for entry in entries)
        print(
            f"waiting for data, {name}: {100 * statistics.median(shares):.1f} % of a step "
            f"({clips:.0f} clips/s, {tokens:.0f} tokens/s)"
        )


def against_trl(data: str, work: Path) -> None:
    """Each trainer in a process of its own, three rounds in alternation: median step and peak memory."""
    code = (
        "import sys; sys.path.insert(0, '.'); from benchmarks.science.training import one_trainer\n"
        "one_trainer(*sys.argv[1:])"
    )
    figures: dict[str, list[dict]] = {"plain": [], "hybrid": []}
    for round_ in range(3):
        for name, found in figures.items():
            result = work / f"{name}-{round_}.json"
            command = [sys.executable, "-c", code, name, data, str(work / f"{name}-{round_}"), str(result)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            found.append(json.loads(result.read_text()))
    for name, found in figures.items():
        seconds = [item["seconds"] for item in found]
        print(
            f"{name:>6}: {1000 * statistics.median(seconds):.0f} ms a step "
            f"({1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}), "
            f"{statistics.median(item['memory'] for item in found) / 2**20:.0f} MB more than before the first step"
        )
    time_ratio, memory_ratio = (
        statistics.median(item[key] for item in figures["hybrid"])
        / statistics.median(item[key] for item in figures["plain"])
        for key in ("seconds", "memory")
    )
    print(f"hybrid against plain: {time_ratio:.2f} × time, {memory_ratio:.2f} × memory")


def one_trainer(name: str, data: str, out: str, result: str) -> None:
    """Steps of one trainer on fixed batches. The model runs experts and language model alike in both."""
    import resource

    from trl import SFTTrainer

    from deft_llm.training import run as training_run
    from deft_llm.training.arguments import parse_arguments

    run = training_run.make_run(*parse_arguments(options_of(data, "--output_dir", out, "--max_steps", str(STEPS))))
    hybrid = run.trainer
    collator = hybrid.data_collator
    times: list[float] = []
    if name == "plain":

        def without_labels(rows):
            batch = collator(rows)
            return {
                key: value for key, value in batch.items() if key not in ("clip_ids", "emotion_labels", "au_labels")
            }

        trainer = SFTTrainer(
            model=hybrid.model,
            args=hybrid.args,
            train_dataset=hybrid.train_dataset,
            processing_class=hybrid.processing_class,
            data_collator=without_labels,
        )
    else:
        trainer = hybrid
    # The same clips in the same order, with the same conversations.
    trainer.get_train_dataloader = lambda: _fixed_batches(trainer, hybrid.train_dataset)
    step = trainer.training_step

    def timed(*args, **kwargs):
        start = time.perf_counter()
        value = step(*args, **kwargs)
        times.append(time.perf_counter() - start)
        return value

    trainer.training_step = timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(result).write_text(json.dumps({"seconds": statistics.median(times[3:]), "memory": 1024 * (peak - before)}))


def _fixed_batches(trainer: Any, clips: Any) -> Any:
    size = trainer.args.per_device_train_batch_size
    rows = [
        [{**clips[index % len(clips)], "epoch": 0, "place": index} for index in range(s, s + size)]
        for s in range(0, STEPS * size, size)
    ]
    return trainer.accelerator.prepare(
        torch.utils.data.DataLoader(rows, batch_size=None, collate_fn=trainer.data_collator)
    )


def resumed(data: str, work: Path) -> None:
    """Runs killed by SIGKILL at random steps and resumed, against an undisturbed one; every random thing is on."""
    steps, rng = 24, random.Random(time.time_ns())
    more = options_of(data, *AUGMENTED)
    more += f"--max_steps {steps} --per_device_train_batch_size 8 --use_peft true".split()
    more += "--save_strategy steps --save_steps 5".split()
    run_script(*more, "--output_dir", str(work / "straight"))
    expected = [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in history(work / "straight")]
    equal = []
    for number, step in enumerate(sorted(rng.sample(range(2, steps + 1), 5))):
        out = work / f"killed-{number}"
        run_script(*more, "--output_dir", str(out), kill_at=step, check=False)
        run_script(*more, "--output_dir", str(out), "--resume_from_checkpoint", "last")
        found = [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in history(out)]
        equal.append(found == expected)
        print(f"killed in step {step:>2}: curve of {len(found)} steps {'bit-equal' if equal[-1] else 'DIFFERENT'}")
    print(f"resumed after SIGKILL: {sum(equal)} of {len(equal)} bit-equal")


def two_processes(data: str, work: Path) -> None:
    """Without what draws for the clips of one process together."""
    alone = "--appearance_swap 0 --expert_dropout 0".split()
    steps = f"--max_steps {STEPS} --save_strategy steps --save_steps {STEPS}".split()
    more = [*options_of(data, *AUGMENTED, *alone), *steps]
    command = [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node 2 train_sft.py".split()]
    batch = "--per_device_train_batch_size"
    subprocess.run(
        [*command, *more, batch, "4", "--output_dir", str(work / "two")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    run_script(*more, batch, "8", "--output_dir", str(work / "one"))
    run_script(*more, batch, "2", "--gradient_accumulation_steps", "4", "--output_dir", str(work / "accumulated"))
    one = [entry["loss"] for entry in history(work / "one")]
    for name in ("two", "accumulated"):
        other = [entry["loss"] for entry in history(work / name)]
        worst = max(abs(a - b) for a, b in zip(one, other, strict=True))
        print(f"{name} against one process and one batch: losses of {len(one)} steps differ by at most {worst:.1e}")


def tiny_recipe(data: str | None, work: Path) -> None:
    """Training and evaluation of recipes/tiny.yaml on the realistic preset; UF1 on unseen identities."""
    data = data or synthesized(work / "realistic", "--preset", "realistic", "--clips", "1000")
    out = work / "tiny"
    start = time.perf_counter()
    run_script("--config", "recipes/tiny.yaml", "--dataset", data, "--output_dir", str(out), "--use_cpu", "true")
    minutes = (time.perf_counter() - start) / 60
    command = [sys.executable, *"-m deft_llm.cli evaluate --target emotion".split()]
    command += ["--model", str(out), "--dataset", data, "--output-dir", str(work / "e")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report = json.loads((work / "e" / "report.json").read_text())
    for name, figures in report["models"].items():
        print(
            f"tiny recipe, realistic preset, {report['subjects']} unseen identities, {name}: UF1 {figures['uf1']:.3f}"
        )
    figures = next(iter(report["models"].values()))
    units = {name: figures["action_units"][name] for name in ("au_f1", "au_f1_macro")}
    print(f"action units: {units}; answers that parse {100 * figures['answers']['parsed']:.0f} %")
    print(f"decoding and training: {minutes:.1f} minutes on {os.cpu_count()} cores")


def full_size(recipe: dict[str, Any], device: str) -> Any:
    """A recipe's model in its full size with random weights, or none on the meta device, and made-up labels."""
    from transformers import AutoConfig

    from deft_llm.modeling_deft import DeftConfig, DeftForConditionalGeneration
    from deft_llm.processing.action_units import ACTION_UNITS

    configs = {name: AutoConfig.for_model(**SIZES[recipe[name]]) for name in ("text", "structure", "texture")}
    config = DeftConfig(
        text_config=configs["text"],
        structure_config=configs["structure"],
        texture_config=configs["texture"],
        motion_config=recipe["motion"],
        image_size=recipe["image_size"],
        action_units=[code for code, unit in ACTION_UNITS.items() if unit.testable][:UNITS],
        emotion_labels=[str(number) for number in range(EMOTIONS)],
        expert_size=recipe["expert_size"],
        structure_tokens=recipe["structure_tokens"],
        texture_tokens=recipe["texture_tokens"],
        texture_share=recipe["texture_share"],
        structure_token_id=1,
        texture_token_id=2,
        motion_token_id=3,
    )
    with torch.device(device):
        return DeftForConditionalGeneration(config)


def made_up_batch(model: Any, recipe: dict[str, Any], size: int, device: str) -> dict[str, torch.Tensor]:
    """Noise in the shapes of a batch: placeholders, words, and an answer that is scored."""
    side, frames, flow = recipe["image_size"], recipe["num_frames"], recipe["motion"]["flow_size"]
    config = model.config
    ids = torch.full((size, TOKENS), 10)
    counts = {1: config.structure_tokens, 2: config.texture_tokens, 3: config.motion_tokens}
    clip = torch.cat([torch.full((count,), token) for token, count in counts.items()])
    ids[:, : len(clip)] = clip
    labels = torch.full_like(ids, -100)
    labels[:, -SCORED:] = 10
    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(size, frames, 3, side, side),
        "flow_values_videos": torch.randn(size, frames - 1, 2, flow, flow),
        "emotion_labels": torch.zeros(size, dtype=torch.long),
        "au_labels": torch.zeros(size, len(config.action_units)),
    }
    return {name: value.to(device) for name, value in batch.items()}


def estimate(name: str) -> dict[str, float]:
    """Parameters, memory of one process and GPU hours of a recipe, by the formulas that stand below."""
    from torch.utils.flop_counter import FlopCounterMode

    from deft_llm.training.parts import part_of_parameter

    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    model = full_size(recipe, "meta")
    parts = {"language": 0, "connectors": 0, "experts": 0}
    for parameter_name, parameter in model.named_parameters():
        parts[part_of_parameter(parameter_name)] += parameter.numel()
    language, experts = parts["language"], parts["connectors"] + parts["experts"]
    text, side, frames = model.config.text_config, recipe["image_size"], recipe["num_frames"]
    flow = recipe["motion"]["flow_size"]
    with FlopCounterMode(display=False) as counter:
        model.get_video_features(
            torch.empty(1, frames, 3, side, side, device="meta"),
            torch.empty(1, frames - 1, 2, flow, flow, device="meta"),
        )
    seen = counter.get_total_flops()
    lora = recipe.get("use_peft", False)
    width = text.num_attention_heads * text.head_dim
    kv = text.num_key_value_heads * text.head_dim
    inner = 3 * (text.hidden_size + text.intermediate_size)
    adapters = (
        recipe.get("lora_r", 0)
        * text.num_hidden_layers
        * (2 * (text.hidden_size + width) + 2 * (text.hidden_size + kv) + inner)
        if lora
        else 0
    )

    # Memory: 16 bytes a trained parameter (weight, gradient, two moments); frozen language weights in bfloat16; with
    # PEFT the experts' first weights once more. Activations: one checkpoint a layer, one layer's insides at a time
    # (34 bytes a token and unit of width: Korthikanti et al. 2022), and the scored logits in float32 with gradient.
    batch = recipe["per_device_train_batch_size"]
    fixed = 2 * language + 16 * adapters + 20 * experts if lora else 16 * (language + experts)
    tokens = batch * TOKENS
    patches = batch * (frames // 2) * recipe["texture_share"] * (side // 16) ** 2
    activations = text.num_hidden_layers * 2 * tokens * text.hidden_size + 34 * tokens * text.hidden_size
    texture = model.config.texture_config
    activations += (2 * texture.num_hidden_layers + 34) * patches * texture.hidden_size
    motion = recipe["motion"]
    cells = batch * (frames - 1) * (flow // motion["patch_size"]) ** 2
    activations += motion["num_hidden_layers"] * 50 * cells * motion["hidden_size"]  # not checkpointed
    activations += 3 * 4 * batch * SCORED * text.vocab_size

    # FLOP of a clip: 2 a parameter and token for the forward pass, as many for the inputs' gradients, as many again
    # for those of trained weights, and one more forward pass where activations are checkpointed.
    per_token = (6 if lora else 8) * language
    flops = TOKENS * per_token + 4 * seen
    hours = recipe["num_train_epochs"] * CLIPS * flops / (UTILISATION * PEAK) / 3600
    return {
        "language": language / 1e9,
        "experts": experts / 1e9,
        "adapters": adapters / 1e6,
        "memory": (fixed + activations) / 1e9,
        "activations": activations / 1e9,
        "tflop": flops / 1e12,
        "hours": hours,
    }


def estimates() -> None:
    print(
        f"ESTIMATES, not measured: {CLIPS} clips, {TOKENS} tokens each, {100 * UTILISATION:.0f} % of {PEAK:.3g} FLOP/s"
    )
    for name in ("qwen3-0.6b-lora", "qwen3-4b-lora", "qwen3-8b-fsdp"):
        found = estimate(name)
        print(
            f"{name}: {found['language']:.2f} + {found['experts']:.2f} billion parameters, "
            f"{found['adapters']:.0f} million in adapters; {found['memory']:.0f} GB in all, "
            f"{found['activations']:.0f} GB of it activations; {found['tflop']:.1f} TFLOP a clip; "
            f"{found['hours']:.1f} GPU hours"
        )


def on_gpu(name: str = "qwen3-4b-lora", steps: int = 20) -> None:
    """Steps of the 4B recipe with random weights: tokens/s, peak memory, share of the peak FLOP/s."""
    if not torch.cuda.is_available():
        print(f"{name} on a GPU: not measured (no GPU here)")
        return
    from deft_llm.training.trainer import peak_flops

    device = torch.cuda.get_device_name()
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    figures = lora_steps(recipe, "cuda", steps)
    peak = peak_flops(device)
    needed = 1e12 * estimate(name)["tflop"] * recipe["per_device_train_batch_size"] / figures["seconds"]
    share = f"{100 * needed / peak:.0f} %" if peak else "not known"
    print(
        f"{name}, random weights, bfloat16, batch {recipe['per_device_train_batch_size']}, {device}: "
        f"{figures['tokens']:.0f} tokens/s, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, "
        f"share of peak FLOP/s {share}"
    )


def lora_steps(recipe: dict[str, Any], device: str, steps: int) -> dict[str, float]:
    """Median seconds of a step, and tokens/s, of a recipe's model with its adapters and AdamW."""
    from deft_llm.training.parts import add_adapters, cast_language_model
    from deft_llm.training.tuning import TuningArguments

    model = full_size(recipe, device)
    cast_language_model(model, recipe["dtype"])
    size = recipe["per_device_train_batch_size"]
    batch = made_up_batch(model, recipe, size, device)
    model = add_adapters(model, TuningArguments(use_peft=True, lora_r=recipe["lora_r"]), "base").train()
    model.enable_input_require_grads()
    # Renamed in transformers 5.23.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            loss = model(**batch, use_cache=False, skip_logits=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())  # waits for the device
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[steps // 4 :])
    return {"seconds": seconds, "tokens": size * TOKENS / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--dataset", help="a realistic dataset that is there already, for `recipe`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deft-training-") as folder:
        work = Path(folder)
        os.environ.setdefault("HF_DATASETS_CACHE", str(work / "cache"))
        needs_data = {"share", "trainer", "resume", "processes"} & set(arguments.parts)
        data = synthesized(work / "easy", "--clips", "120") if needs_data else ""
        steps = {
            "share": lambda: data_share(data, work),
            "trainer": lambda: against_trl(data, work),
            "resume": lambda: resumed(data, work),
            "processes": lambda: two_processes(data, work),
            "recipe": lambda: tiny_recipe(arguments.dataset, work),
            "estimates": estimates,
            "gpu": on_gpu,
        }
        for name in arguments.parts:
            steps[name]()


if __name__ == "__main__":
    main()
