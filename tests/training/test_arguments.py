from pathlib import Path

import pytest

from deft_llm.training.arguments import parse_arguments

ROOT = Path(__file__).parents[2]


TINY = str(ROOT / "recipes" / "tiny.yaml")


def test_an_unknown_key_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(Path(TINY).read_text() + "\nlerning_rate: 1\n")
    options = ["--config", str(path), "--dataset", "x", "--output_dir", str(tmp_path)]
    with pytest.raises(
        ValueError, match=r"a key 'lerning_rate', which is not an option. The nearest is 'learning_rate'"
    ):
        parse_arguments(options)
    options[1] = TINY
    with pytest.raises(ValueError, match=r"no option '--mirorr'. The nearest is 'mirror'"):
        parse_arguments([*options, "--mirorr", "0.5"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--stage", "heads"], "`stage` must be one of all, experts"),
        (["--stage", "experts", "--use_peft", "true"], "LoRA cannot be used with it"),
        (["--load_in_4bit", "true"], "set `use_peft`"),
        (["--mirror", "1.5"], "`mirror` must be from 0 to 1"),
        (["--eval_share", "0.1", "--eval_split", "val"], "one of `eval_split` and `eval_share`"),
        (["--streaming", "true", "--balance", "emotion"], "cannot be used with `streaming`"),
        (["--model", "org/deft"], "with its own `text`"),
    ],
)
def test_options_that_exclude_each_other_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", TINY, "--dataset", "x", "--output_dir", str(tmp_path), *changes])


def test_a_recipe_without_a_part_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("text: org/language\nbf16: false\n")
    options = ["--config", str(path), "--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with pytest.raises(ValueError, match="has no `structure`"):
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


def test_options_have_trls_names_and_are_read_with_hyphens(tmp_path):
    options = ["--config", TINY, "--dataset", "x", "--output-dir", str(tmp_path), "--use-cpu", "true"]
    *_, tuning, training = parse_arguments([*options, "--use-peft", "true", "--lora-target-modules", r"a\\..*"])
    assert training.output_dir == str(tmp_path)
    assert (tuning.use_peft, tuning.lora_target_modules) == (True, r"a\\..*")
    # Names of earlier versions go on being read, in the recipe and on the command line.
    path = tmp_path / "recipe.yaml"
    path.write_text("model: org/deft\nlanguage_dtype: bfloat16\nbf16: false\n")
    options[1] = str(path)
    tuning = parse_arguments(options)[2]
    assert (tuning.model_name_or_path, tuning.dtype) == ("org/deft", "bfloat16")
    assert parse_arguments([*options, "--model", "org/other"])[2].model_name_or_path == "org/other"


def test_an_installed_recipe_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "x", "--output-dir", str(tmp_path), "--use-cpu", "true"]
    for name in ("tiny.yaml", "recipes/tiny.yaml"):
        assert parse_arguments(["--config", name, *options])[3].max_steps == 600
    with pytest.raises(
        FileNotFoundError, match=r"no recipe other/tiny.yaml. Pass a YAML file, or an installed recipe"
    ):
        parse_arguments(["--config", "other/tiny.yaml", *options])


def test_mappings_can_be_given_on_the_command_line(tmp_path):
    options = ["--config", TINY, "--dataset", "x", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    data, model, *_ = parse_arguments([*options, "--task_weights", '{"emotion": 2}', "--motion", '{"flow_size": 16}'])
    assert data.task_weights == {"emotion": 2}
    assert model.motion == {"flow_size": 16}
