import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from deft_llm.training import run as training_run
from deft_llm.training.arguments import OURS, parse_arguments

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "recipes" / "tiny.yaml")


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    """A dataset folder: 24 clips of two people to train on, and of two others to test on."""
    folder = tmp_path_factory.mktemp("uni-mer")
    for split, rows in {"train": range(24), "test": range(24, 48)}.items():
        (folder / "data").mkdir(exist_ok=True)
        dataset.select(rows).to_parquet(folder / "data" / f"{split}-0.parquet")
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def options(data, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(data / "cache"))
    return ["--config", TINY, "--dataset", str(data / "data"), "--max_steps", "2", "--use_cpu", "true",
            "--preprocessing_workers", "1", "--per_device_train_batch_size", "4", "--disable_tqdm", "true",
            "--logging_steps", "1"]  # fmt: skip


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
            assert f"--{name} " in done.stdout, name


def test_an_unknown_key_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(Path(TINY).read_text() + "\nlerning_rate: 1\n")
    options = ["--config", str(path), "--dataset", "x", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=r"a key 'lerning_rate', which is no option. The nearest is 'learning_rate'"):
        parse_arguments(options)
    options[1] = TINY
    with pytest.raises(ValueError, match=r"no option '--mirorr'. The nearest is 'mirror'"):
        parse_arguments([*options, "--mirorr", "0.5"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--stage", "heads"], "`stage` must be one of all, experts"),
        (["--stage", "experts", "--use_peft", "true"], "LoRA has nothing to adapt"),
        (["--load_in_4bit", "true"], "set `use_peft`"),
        (["--mirror", "1.5"], "`mirror` is a share"),
        (["--eval_share", "0.1", "--eval_split", "val"], "one of `eval_split` and `eval_share`"),
        (["--streaming", "true", "--balance", "emotion"], "does not go with `streaming`"),
        (["--model", "org/deft"], "brings its own `text`"),
    ],
)
def test_options_that_exclude_each_other_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", TINY, "--dataset", "x", "--output_dir", str(tmp_path), *changes])


def test_a_recipe_without_a_part_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("text: org/language\nbf16: false\n")
    options = ["--config", str(path), "--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with pytest.raises(ValueError, match="names no `structure`"):
        parse_arguments(options)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.filterwarnings("error:.*gradient_checkpointing:FutureWarning")
def test_checkpointing_of_activations_goes_by_either_name(tmp_path, name):
    options = ["--config", TINY, "--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    assert parse_arguments(options)[3].gradient_checkpointing is False
    assert parse_arguments([*options, f"--{name}", "true"])[3].gradient_checkpointing is True
    path = tmp_path / "recipe.yaml"
    path.write_text(Path(TINY).read_text().replace("gradient_checkpointing: false", f"{name}: true"))
    options[1] = str(path)
    assert parse_arguments(options)[3].gradient_checkpointing is True


def test_mappings_can_be_given_on_the_command_line(tmp_path):
    options = ["--config", TINY, "--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    data, model, *_ = parse_arguments([*options, "--task_weights", '{"emotion": 2}', "--motion", '{"flow_size": 16}'])
    assert data.task_weights == {"emotion": 2}
    assert model.motion == {"flow_size": 16}


# --- A whole run ----------------------------------------------------------------------------------------------------


def test_one_command_writes_a_complete_folder(options, data, tmp_path, capsys):
    """YAML in, a folder out that loads anywhere, with a card that says how it came about."""
    out = tmp_path / "deft"
    assert training_run.main([*options, "--output_dir", str(out), "--eval_share", "0.5", "--eval_strategy", "steps",
                           "--eval_steps", "2"]) == training_run.DONE  # fmt: skip
    told = capsys.readouterr().out
    assert "12 clips of 1 subjects" in told
    assert "Calibrated on the held-out clips: emotion_temperature" in told
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: video-text-to-text" in card
    assert "| training data | 12 clips of 1 subjects" in card
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


def test_stages_follow_one_another(options, tmp_path):
    """Experts, connectors, LoRA: each goes on from the last one's folder and changes its own weights alone."""
    folders = [str(tmp_path / name) for name in ("experts", "connectors", "lora")]
    assert training_run.main([*options, "--output_dir", folders[0], "--stage", "experts"]) == training_run.DONE
    rest = [option for option in options if option not in ("--config", TINY)]
    rest += ["--bf16", "false", "--learning_rate", "0.01"]
    assert training_run.main([*rest, "--model", folders[0], "--output_dir", folders[1], "--stage", "connectors"]) == 0
    assert training_run.main([*rest, "--model", folders[1], "--output_dir", folders[2], "--stage", "language",
                           "--use_peft", "true"]) == 0  # fmt: skip
    states = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in folders]
    for first, second, moved in ((0, 1, "connectors."), (1, 2, "language_model.")):
        for name, value in states[first].items():
            if moved not in name:
                assert torch.equal(states[second][name], value), name
        assert any(not torch.equal(states[second][name], states[first][name]) for name in states[first])
    adapter = json.loads((tmp_path / "lora" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == folders[1]
    assert adapter["modules_to_save"] is None
    assert not (tmp_path / "lora" / "base").exists()


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
    assert "holds a finished model" in refused(capsys, *options, "--output_dir", str(tmp_path))
    run = tmp_path / "run"
    (run / "checkpoint-7").mkdir(parents=True)
    message = refused(capsys, *options, "--output_dir", str(run))
    assert "holds checkpoint-7. Go on with it by `--resume_from_checkpoint last`" in message
    message = refused(
        capsys, *options, "--output_dir", str(run), "--resume_from_checkpoint", str(run / "checkpoint-9")
    )
    assert "checkpoint-9 is no checkpoint" in message


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
    assert "--hub_private_repo true" in message
    # What binds is settled; what is left is that nobody may write there.
    assert "cannot be written on the Hub" in refused(capsys, *options, "--hub_private_repo", "true")


def test_evaluation_needs_people_to_evaluate_on(options, tmp_path, capsys):
    options += ["--output_dir", str(tmp_path / "deft"), "--eval_strategy", "steps", "--eval_steps", "1"]
    assert "set `eval_share` or `eval_split`" in refused(capsys, *options)
    assert "which is for testing" in refused(capsys, *options, "--eval_split", "test")


def test_a_stream_needs_an_end(options, tmp_path, capsys):
    options = [option if option != "2" else "-1" for option in options]
    message = refused(capsys, *options, "--output_dir", str(tmp_path / "deft"), "--streaming", "true")
    assert "set `max_steps`" in message
