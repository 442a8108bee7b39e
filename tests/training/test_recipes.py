"""Every recipe, with random weights in place of pretrained ones and at a shrunken size, takes two steps."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from deft_llm.training import run as training_run
from deft_llm.training.arguments import ModelArguments, parse_arguments
from deft_llm.training.parts import build_model, load_model
from tests.gguf_files import SYSTEM, write_gguf

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
# What stands for the pretrained part of each family.
SHRUNKEN = {
    "Qwen/Qwen3-": {
        "model_type": "qwen3",
        **SMALL,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
    },
    "facebook/dinov2-": {
        "model_type": "dinov2",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
    },
    "MCG-NJU/videomae-": {"model_type": "videomae", "image_size": 32, "patch_size": 16, "num_frames": 8, **SMALL},
}


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uni-mer")
    dataset.select(range(12)).to_parquet(folder / "train-0.parquet")
    return folder


@pytest.mark.parametrize("name", ["tiny", "qwen3-0.6b-lora", "qwen3-4b-lora", "qwen3-8b-fsdp"])
def test_a_recipe_takes_two_steps(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = RECIPES / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = ["--config", str(path), "--dataset", str(data), "--output_dir", str(tmp_path / "out")]
    for part in ("text", "structure", "texture"):
        family = next((config for prefix, config in SHRUNKEN.items() if str(recipe[part]).startswith(prefix)), None)
        assert family or isinstance(recipe[part], dict), recipe[part]
        if family:
            options += [f"--{part}", json.dumps(family)]
    if name != "tiny":
        motion = {**recipe["motion"], "flow_size": 32, "hidden_size": 24, "num_hidden_layers": 1}
        options += ["--image_size", "32", "--num_frames", "8", "--expert_size", "64", "--motion", json.dumps(motion)]
    options += (
        "--max_steps 2 --per_device_train_batch_size 2 --use_cpu true --bf16 false --logging_steps 1 "
        "--preprocessing_workers 1 --dataloader_num_workers 0 --eval_strategy no --save_strategy no "
        "--disable_tqdm true --appearance_dropout 0"
    ).split()
    data_arguments, model_arguments, tuning, training = parse_arguments(options)
    assert tuning.use_peft == name.endswith("lora")
    # The recipe's own settings got through.
    assert training.lr_scheduler_type.value == recipe["lr_scheduler_type"]
    assert data_arguments.balance == recipe.get("balance")
    assert training.gradient_checkpointing == recipe["gradient_checkpointing"]
    run = training_run.make_run(data_arguments, model_arguments, tuning, training)
    assert training_run.train(run) == training_run.DONE
    losses = [entry["loss"] for entry in run.trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert (tmp_path / "out" / "config.json").exists()
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists() == tuning.use_peft


def test_the_recipe_of_smollm2_takes_two_steps_per_stage(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    text = {"gguf": str(write_gguf(tmp_path / "text.gguf", context=2048))}
    options = (
        "--max_steps 2 --per_device_train_batch_size 2 --use_cpu true --logging_steps 1 --preprocessing_workers 1 "
        "--save_strategy no --disable_tqdm true"
    ).split()
    argv = ["--config", "smollm2-135m-lora.yaml", "--dataset", str(data), "--output-dir", str(tmp_path / "out")]
    assert training_run.main([*argv, "--text", json.dumps(text), *options]) == training_run.DONE
    model, processor = load_model(str(tmp_path / "out"))
    assert model.config.text_config.model_type == "llama"
    assert SYSTEM in processor.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize("name", ["qwen3-0.6b-lora", "qwen3-4b-lora", "qwen3-8b-fsdp"])
def test_a_recipe_loads_a_language_model_of_its_true_width_from_a_folder(name, processor, dataset, tmp_path):
    """With two layers and a small vocabulary."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    hidden, intermediate, heads = {"0.6B": (1024, 3072, 16), "4B": (2560, 9728, 32), "8B": (4096, 12288, 32)}[
        recipe["text"].rpartition("-")[2]
    ]
    vocabulary = len(processor.tokenizer)
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        num_hidden_layers=2,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    arguments = ModelArguments(
        text=str(tmp_path),
        structure=SHRUNKEN["facebook/dinov2-"],
        texture=SHRUNKEN["MCG-NJU/videomae-"],
        expert_size=recipe["expert_size"],
        motion={**recipe["motion"], "flow_size": 32},
    )
    model, _ = build_model(arguments, dataset)
    assert model.config.text_config.hidden_size == hidden
    tokens = model.model.connectors["motion"](torch.zeros(1, 2, recipe["expert_size"]))
    assert tokens.shape == (1, 2, hidden)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[3, 4]])).logits
    assert logits.shape == (1, 2, vocabulary)


def test_every_recipe_of_train_sft_is_tried():
    named = {path.stem for path in RECIPES.glob("*.yaml") if "text:" in path.read_text(encoding="utf-8")}
    assert named == {"tiny", "smollm2-135m-lora", "qwen3-0.6b-lora", "qwen3-4b-lora", "qwen3-8b-fsdp"}


@pytest.mark.parametrize("name", ["single_gpu", "ddp", "fsdp2"])
def test_an_engines_config_is_read_by_accelerate(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    expected = {"single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}[name]
    assert getattr(config.distributed_type, "value", config.distributed_type) == expected
    if name == "fsdp2":
        from accelerate.commands.launch import launch_command_parser

        assert set(config.fsdp_config) <= {action.dest for action in launch_command_parser()._actions}
