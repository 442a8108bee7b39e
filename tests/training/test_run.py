import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from deft_llm.training import run as training_run
from deft_llm.training.arguments import OURS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    """A dataset folder: 12 clips of two people to train on, and of two others to test on."""
    folder = tmp_path_factory.mktemp("uni-mer")
    for split, rows in {"train": range(12), "test": range(12, 24)}.items():
        (folder / "data").mkdir(exist_ok=True)
        dataset.select(rows).to_parquet(folder / "data" / f"{split}-0.parquet")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def options(data, recipe_file, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(data / "cache"))
    options = (
        "--max_steps 2 --use_cpu true --preprocessing_workers 1 --per_device_train_batch_size 4 --disable_tqdm true "
        "--logging_steps 1"
    ).split()
    return ["--config", str(recipe_file), "--dataset", str(data / "data"), *options]


# --- Options --------------------------------------------------------------------------------------------------------


def test_help_names_every_option_of_ours_and_imports_nothing_heavy():
    code = (
        "import sys, train_sft; status = train_sft.main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'trl', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for group in OURS:
        for name in group.__dataclass_fields__:
            assert f"--{name.replace('_', '-')} " in done.stdout, name


# --- A whole run ----------------------------------------------------------------------------------------------------


def test_one_command_writes_a_complete_folder(options, data, tmp_path, capsys):
    """YAML in, a folder out that loads anywhere, with a card that says how it came about."""
    out = tmp_path / "deft"
    evaluated = "--eval_share 0.5 --eval_strategy steps --eval_steps 2".split()
    assert training_run.main([*options, "--output_dir", str(out), *evaluated]) == training_run.DONE
    told = capsys.readouterr().out
    assert "6 clips of 1 subjects" in told
    assert "Calibrated on the held-out clips: emotion_temperature" in told
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: video-text-to-text" in card
    assert "| training data | 6 clips of 1 subjects" in card
    assert "{{" not in card
    assert not list(out.glob("*partial*"))
    config = json.loads((out / "config.json").read_text())
    # Neither untouched nor what fits nothing: two steps leave logits near zero, which want to be enlarged.
    assert config["emotion_temperature"] != 1.0
    assert config["action_unit_temperature"] != 1.0
    assert config["custom_pipelines"]["video-text-to-text"]["impl"].startswith("pipeline_deft.")
    assert (out / "pipeline_deft.py").exists()
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert AutoProcessor.from_pretrained(out, trust_remote_code=True).emotion_labels == model.config.emotion_labels


def test_stages_follow_one_another(options, recipe_file, tmp_path):
    """Experts, connectors, LoRA: each goes on from the last one's folder and changes its own weights alone."""
    recipe, out = tmp_path / "staged.yaml", tmp_path / "lora"
    stages = [
        {"stage": "experts"},
        {"stage": "connectors", "bf16": False, "learning_rate": 0.01, "questions_per_clip": 3},
        {"stage": "language", "use_peft": True, "bf16": False, "learning_rate": 0.01, "expert_variants": 2},
    ]
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe_file.read_text()), "mirror": 0.5, "stages": stages}))
    assert training_run.main(["--config", str(recipe), *options[2:], "--output-dir", str(out)]) == training_run.DONE
    folders = [str(out / "stages" / "1-experts"), str(out / "stages" / "2-connectors"), str(out)]
    states = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in folders]
    for first, second, moved in ((0, 1, "connectors."), (1, 2, "language_model.")):
        for name, value in states[first].items():
            if moved not in name:
                assert torch.equal(states[second][name], value), name
        assert any(not torch.equal(states[second][name], states[first][name]) for name in states[first])
    adapter = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == folders[1]
    assert adapter["modules_to_save"] is None
    assert not (out / "base").exists()


def test_streamed_clips_train(options, tmp_path):
    out = tmp_path / "deft"
    assert training_run.main([*options, "--output_dir", str(out), "--streaming", "true", "--shuffle_buffer", "6"]) == 0
    assert (out / "config.json").exists()


# --- Refused before anything is computed ----------------------------------------------------------------------------


def refused(capsys, *options) -> str:
    assert training_run.main(list(options)) == training_run.REFUSED
    found = capsys.readouterr().err.strip()
    error = [line for line in found.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, found
    return error[0]


def test_what_is_there_is_not_overwritten(options, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert "contains a finished model" in refused(capsys, *options, "--output_dir", str(tmp_path))
    run = tmp_path / "run"
    (run / "checkpoint-7").mkdir(parents=True)
    message = refused(capsys, *options, "--output_dir", str(run))
    assert "contains checkpoint-7. Resume it with `--resume-from-checkpoint last`" in message
    message = refused(
        capsys, *options, "--output_dir", str(run), "--resume_from_checkpoint", str(run / "checkpoint-9")
    )
    assert "checkpoint-9 is not a checkpoint" in message


def test_a_disk_without_room_is_said_so_with_the_sizes(options, tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    message = refused(capsys, *options, "--output_dir", str(tmp_path / "deft"))
    assert "Checkpoints and model take 0.0 GB" in message
    assert "has 0.0 GB left" in message


def test_a_repository_that_cannot_be_written_is_said_so_first(options, tmp_path, capsys):
    options += ["--push_to_hub", "true", "--hub_model_id", "nobody/nothing", "--output_dir", str(tmp_path / "deft")]
    assert "`push_to_hub`: nobody/nothing cannot be written on the Hub" in refused(capsys, *options)


def test_a_public_model_of_licensed_recordings_is_refused_before_it_is_trained(options, data, tmp_path, capsys):
    rows = load_dataset(str(data), split="train")
    rows = rows.map(lambda row: {"source": "casme2"}, features=rows.features)
    rows.to_parquet(tmp_path / "licensed" / "train-0.parquet")
    options[options.index("--dataset") + 1] = str(tmp_path / "licensed")
    options += ["--push_to_hub", "true", "--hub_model_id", "nobody/nothing", "--output_dir", str(tmp_path / "deft")]
    message = refused(capsys, *options)
    assert "CASME II" in message
    assert "--hub-private-repo true" in message
    # What binds is settled; what is left is that nobody may write there.
    assert "cannot be written on the Hub" in refused(capsys, *options, "--hub_private_repo", "true")


def test_evaluation_needs_people_to_evaluate_on(options, tmp_path, capsys):
    options += ["--output_dir", str(tmp_path / "deft"), "--eval_strategy", "steps", "--eval_steps", "1"]
    assert "set `eval_share` or `eval_split`" in refused(capsys, *options)
    assert "which is for testing" in refused(capsys, *options, "--eval_split", "test")


@pytest.mark.parametrize("changes", [["--stage", "all"], ["--stage", "answers", "--streaming", "true"]])
def test_words_about_the_recognition_need_trained_experts(options, tmp_path, capsys, changes):
    options += ["--output_dir", str(tmp_path / "deft"), "--recognition_in_words", "true", *changes]
    assert "needs experts that are trained already" in refused(capsys, *options)


def test_a_stream_needs_an_end(options, tmp_path, capsys):
    options = [option if option != "2" else "-1" for option in options]
    message = refused(capsys, *options, "--output_dir", str(tmp_path / "deft"), "--streaming", "true")
    assert "set `max_steps`" in message
