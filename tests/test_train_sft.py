import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, TrlParser

from train_sft import (
    DataArguments,
    DeftCollator,
    DeftSFTTrainer,
    ModelArguments,
    build_model,
    main,
    part_of,
    prepare,
    with_tasks,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prepared(dataset, processor):
    return prepare(dataset, processor, workers=1)


@pytest.fixture
def collator(processor):
    return DeftCollator(processor, {"explain": 1.0}, appearance_dropout=0.0)


def settings(out, **changes):
    values = {
        "output_dir": str(out), "per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-3,
        "logging_steps": 1, "save_strategy": "no", "bf16": False, "gradient_checkpointing": False, "max_length": None,
        "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "disable_tqdm": True,
        "use_cpu": True,
    }  # fmt: skip
    return SFTConfig(**(values | changes))


def test_only_the_answer_is_scored(collator, prepared, processor):
    batch = collator([prepared[index] for index in range(4)])
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        scored = ids[labels != -100]
        assert torch.equal(scored, labels[labels != -100])
        text = processor.tokenizer.decode(scored)
        assert text.startswith("Class: ")
        assert text.endswith("<|im_end|>")
        prompt = processor.tokenizer.decode(ids[: int((labels != -100).nonzero()[0])])
        assert prompt.endswith("<|im_start|>assistant\n")
        assert prompt.count("<|motion|>") == len(processor.action_units)


def test_the_prompt_in_training_is_the_prompt_in_use(collator, prepared, dataset, processor):
    """Token for token what the pipeline will send, in about half of the clips; the others ask in other words."""
    asked = [row[0]["messages"][0]["content"][1]["text"] for row in dataset["conversations"]]
    default = [index for index, question in enumerate(asked) if question == processor.default_instruction]
    assert len(dataset) / 4 < len(default) < 3 * len(dataset) / 4
    row = dataset[default[0]]
    batch = collator([prepared[default[0]]])
    scored = batch["labels"][0] != -100
    content = [{"type": "video", "video": row["video"]["bytes"]}]
    content.append({"type": "text", "text": processor.default_instruction})
    used = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"key_frames": (row["onset"], row["apex"], row["offset"])},
    )
    assert torch.equal(batch["input_ids"][0][~scored], used["input_ids"][0])
    torch.testing.assert_close(batch["flow_values_videos"], used["flow_values_videos"], atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(batch["pixel_values_videos"], used["pixel_values_videos"], atol=2e-3, rtol=1e-2)


def test_labels_follow_the_configs_lists(collator, prepared, dataset, processor):
    batch = collator([prepared[index] for index in range(len(dataset))])
    for index, row in enumerate(dataset):
        label = int(batch["emotion_labels"][index])
        assert (processor.emotion_labels[label] if label >= 0 else None) == row["emotion"]
        present = {
            code for code, value in zip(processor.action_units, batch["au_labels"][index], strict=True) if value
        }
        assert present == {unit["code"] for unit in row["action_units"]}


def test_batches_without_appearance_have_no_sections_for_it(processor, prepared):
    batch = DeftCollator(processor, None, appearance_dropout=1.0)([prepared[0], prepared[1]])
    assert "pixel_values_videos" not in batch
    structure, texture, _ = processor.video_token_ids
    assert not torch.isin(batch["input_ids"], torch.tensor([structure, texture])).any()


def test_tasks_are_drawn_by_weight(processor, prepared):
    random.seed(0)
    collator = DeftCollator(processor, {"emotion": 3, "action_units": 1}, appearance_dropout=0.0)
    drawn = [collator._draw(prepared[0]["conversations"])["task"] for _ in range(400)]
    assert "explain" not in drawn
    assert drawn.count("emotion") / 400 == pytest.approx(0.75, abs=0.07)


@pytest.fixture(scope="module")
def trained(model_arguments, dataset, tmp_path_factory):
    """A few steps on four clips: (model, trainer, weights before)."""
    torch.manual_seed(0)
    model, processor = build_model(model_arguments, dataset)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = DeftSFTTrainer(
        model=model,
        args=settings(tmp_path_factory.mktemp("run"), max_steps=25),
        train_dataset=prepare(dataset.select(range(4)), processor, workers=1),
        processing_class=processor,
        data_collator=DeftCollator(processor, {"explain": 1.0}, appearance_dropout=0.0),
    )
    trainer.train()
    return model, trainer, before


def test_every_term_is_in_the_log_and_falls(trained):
    log = [entry for entry in trained[1].state.log_history if "language_loss" in entry]
    for term in ("language", "emotion", "action_unit", "region"):
        first, last = float(log[0][f"{term}_loss"]), float(log[-1][f"{term}_loss"])
        assert last < first, term
    assert float(log[-1]["language_loss"]) < 0.6 * float(log[0]["language_loss"])
    gates = [float(log[-1][f"gate_{name}"]) for name in ("structure", "texture", "motion")]
    assert sum(gates) == pytest.approx(1.0, abs=1e-4)


def test_the_logged_terms_add_up_to_the_loss(trained):
    model, trainer, _ = trained
    entry = next(entry for entry in trainer.state.log_history if "language_loss" in entry)
    total = sum(weight * float(entry[f"{name}_loss"]) for name, weight in model.config.loss_weights.items())
    assert float(entry["loss"]) == pytest.approx(total, rel=1e-3)


def test_the_heads_are_trained_by_their_own_terms(trained):
    """No other term reaches these two, and there is no weight decay that could move them."""
    model, trainer, before = trained
    assert trainer.args.weight_decay == 0
    for name in ("model.emotion_head.classifier.weight", "model.motion_expert.au_weight"):
        assert (model.get_parameter(name) - before[name]).abs().mean() > 1e-3, name


def test_one_process_writes_a_complete_folder(dataset, recipe, tmp_path, monkeypatch):
    """The script itself, two steps: YAML in, a folder that loads and generates out."""
    data = tmp_path / "uni-mer" / "data"
    data.mkdir(parents=True)
    dataset.to_parquet(data / "train-0.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "deft"
    parser = TrlParser((DataArguments, ModelArguments, SFTConfig))
    main(
        *parser.parse_args_and_config(
            [
                "--config", str(ROOT / "recipes/tiny.yaml"), "--dataset", str(data.parent), "--output_dir", str(out),
                "--max_steps", "2", "--use_cpu", "true", "--preprocessing_workers", "1",
            ]
        )
    )  # fmt: skip
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: video-text-to-text" in card
    assert "48 clips of 4 subjects" in card
    assert "{{" not in card
    config = json.loads((out / "config.json").read_text())
    assert config["custom_pipelines"]["video-text-to-text"]["impl"].startswith("pipeline_deft.")
    assert (out / "pipeline_deft.py").exists()
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert AutoProcessor.from_pretrained(out, trust_remote_code=True).emotion_labels == model.config.emotion_labels


def test_pretrained_parts_are_put_in_their_places(model_arguments, dataset, tmp_path):
    """From folders, as they would come from the Hub: the tokenizer knows neither placeholders nor turns."""
    torch.manual_seed(1)
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    bare.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|endoftext|>")
    config = AutoConfig.for_model(
        **{**model_arguments.text, "tie_word_embeddings": False, "vocab_size": len(tokenizer)}
    )
    language = AutoModelForCausalLM.from_config(config)
    backbones = {
        name: AutoModel.from_config(AutoConfig.for_model(**getattr(model_arguments, name)))
        for name in ("structure", "texture")
    }
    for name, part in {"text": language, **backbones}.items():
        part.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / "text")
    folders = {name: str(tmp_path / name) for name in ("text", "structure", "texture")}
    model, processor = build_model(replace(model_arguments, **folders), dataset)
    for name, expert in (("structure", model.model.structure_expert), ("texture", model.model.texture_expert)):
        for key, value in backbones[name].state_dict().items():
            assert torch.equal(expert.backbone.state_dict()[key], value), key
    rows = slice(0, config.vocab_size)
    assert torch.equal(model.get_input_embeddings().weight[rows], language.get_input_embeddings().weight)
    assert torch.equal(model.lm_head.weight[rows], language.lm_head.weight)
    assert not torch.equal(model.lm_head.weight[rows], model.get_input_embeddings().weight[rows])
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) == config.vocab_size + 6
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_a_part_can_be_a_config_on_the_command_line():
    assert part_of('{"model_type": "vit"}') == {"model_type": "vit"}
    assert part_of("org/model") == "org/model"


def test_a_dataset_without_labels_is_refused(model_arguments, dataset):
    still = dataset.filter(lambda row: row["emotion"] is None)
    with pytest.raises(ValueError, match="names 0 emotions and 0 action units"):
        build_model(model_arguments, still)


def test_clips_without_a_weighted_task_are_left_out_and_counted(dataset, capsys):
    silent = [row | {"conversations": []} for row in dataset.select(range(2))]
    motion_only = dataset[2] | {
        "conversations": [item for item in dataset[2]["conversations"] if item["task"] == "motions"]
    }
    rows = dataset.from_list([*silent, motion_only, dataset[3]], features=dataset.features)
    assert with_tasks(rows, {"explain": 4, "emotion": 0})["clip_id"] == [dataset[3]["clip_id"]]
    assert "3 of 4 clips left out" in capsys.readouterr().out
    assert len(with_tasks(rows, {"motions": 1})) == len(with_tasks(rows, None)) == 2
    assert len(with_tasks(dataset, {"explain": 1})) == len(dataset)
    with pytest.raises(ValueError, match="'guess'"):
        with_tasks(rows, {"guess": 1})


def test_the_full_size_recipe_is_read(tmp_path):
    parser = TrlParser((DataArguments, ModelArguments, SFTConfig))
    arguments = ["--config", str(ROOT / "recipes/qwen3-0.6b.yaml"), "--dataset", "x", "--output_dir", str(tmp_path)]
    data, parts, training = parser.parse_args_and_config([*arguments, "--bf16", "false", "--use_cpu", "true"])
    assert (parts.text, parts.structure, parts.texture) == (
        "Qwen/Qwen3-0.6B",
        "facebook/dinov2-base",
        "MCG-NJU/videomae-base",
    )
    assert data.task_weights["explain"] == 4
    assert training.learning_rate == pytest.approx(2e-5)
    # The clip must fit the budget of the design.
    assert parts.structure_tokens + parts.texture_tokens + 30 <= 64


def test_unknown_keys_in_a_recipe_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text((ROOT / "recipes" / "tiny.yaml").read_text() + "\nlerning_rate: 1\n")
    parser = TrlParser((DataArguments, ModelArguments, SFTConfig))
    with pytest.raises(ValueError, match="lerning_rate"):
        parser.parse_args_and_config(["--config", str(path), "--dataset", "x", "--output_dir", str(tmp_path)])
