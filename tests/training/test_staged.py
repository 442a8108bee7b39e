import pytest
import yaml

from deft_llm.training import run as training
from deft_llm.training.staged import stage_runs, write_recipes

RECIPE = """
text: {model_type: qwen3}
structure: {model_type: vit}
texture: {model_type: vit}
vocab_size: 300
seed: 3
bf16: false
max_steps: 9
stages:
  - {stage: experts, learning_rate: 0.1}
  - {stage: connectors, max_steps: 4}
  - {stage: answers, use_peft: true}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "staged.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def argv(recipe, tmp_path):
    return ["--config", str(recipe), "--dataset", "data", f"--output-dir={tmp_path / 'out'}", "--seed", "5"]


def test_a_recipe_without_stages_is_one_run(tmp_path):
    (tmp_path / "plain.yaml").write_text("stage: experts\n")
    assert stage_runs(["--config", str(tmp_path / "plain.yaml"), "--output-dir", "out"]) == []
    assert stage_runs(["--stage", "experts"]) == []


def test_each_stage_starts_from_the_model_of_the_one_before(argv, tmp_path):
    out = tmp_path / "out"
    first, second, third = stage_runs(argv)
    assert [run.folder for run in (first, second, third)] == [
        out / "stages" / "1-experts",
        out / "stages" / "2-connectors",
        out,
    ]
    common = {"seed": 3, "bf16": False, "max_steps": 9}
    assert first.settings == {
        **common,
        "text": {"model_type": "qwen3"},
        "structure": {"model_type": "vit"},
        "texture": {"model_type": "vit"},
        "vocab_size": 300,
        "stage": "experts",
        "learning_rate": 0.1,
    }
    model = {"model_name_or_path": str(first.folder)}
    assert second.settings == {**common, "stage": "connectors", "max_steps": 4, **model}
    model = {"model_name_or_path": str(second.folder)}
    assert third.settings == {**common, "stage": "answers", "use_peft": True, **model}
    assert second.arguments == [
        *("--config", str(out / "stages" / "2-connectors.yaml"), "--output-dir", str(second.folder)),
        *("--dataset", "data", "--seed", "5"),
    ]
    parts = ["--text", "other", "--image-size=64"]
    first, second, third = stage_runs([*argv, *parts])
    assert first.overrides == ("--dataset", "data", "--seed", "5", *parts)
    assert second.overrides == third.overrides == ("--dataset", "data", "--seed", "5")
    write_recipes([first, second, third])
    assert yaml.safe_load(second.recipe.read_text()) == second.settings


def test_a_stopped_stage_resumes_and_a_finished_one_keeps_its_settings(argv, recipe):
    first, second, third = stage_runs(argv)
    write_recipes([first, second, third])
    (second.folder / "checkpoint-2").mkdir(parents=True)
    assert second.arguments[-2:] == ["--resume-from-checkpoint", "last"]
    assert "--resume-from-checkpoint" not in third.arguments
    recipe.write_text(RECIPE.replace("max_steps: 4", "max_steps: 6"))
    with pytest.raises(FileExistsError, match=r"2-connectors was trained with other settings, which are in .*yaml"):
        write_recipes(stage_runs(argv))
    recipe.write_text(RECIPE.replace("use_peft: true", "use_peft: false"))
    write_recipes(stage_runs(argv))  # the third stage has not begun


@pytest.mark.parametrize("stages", ["experts", "[]", "[experts, language]"])
def test_stages_that_are_not_mappings_are_refused(tmp_path, stages):
    (tmp_path / "bad.yaml").write_text(f"stages: {stages}\n")
    with pytest.raises(ValueError, match=r"`stages` of .*bad\.yaml must be a list of mappings"):
        stage_runs(["--config", str(tmp_path / "bad.yaml"), "--output-dir", "out"])


def test_without_an_output_folder_the_stages_have_no_place(recipe):
    with pytest.raises(ValueError, match="Pass --output-dir"):
        stage_runs(["--config", str(recipe)])


def test_an_error_in_the_last_stage_is_found_before_the_first_one_runs(argv, recipe, capsys, monkeypatch):
    monkeypatch.setattr(training, "_run", lambda *_: pytest.fail("a stage was run"))
    recipe.write_text(RECIPE.replace("use_peft: true", "use_pft: true"))
    assert training.main(argv) == training.REFUSED
    assert "'use_pft'" in capsys.readouterr().err


def test_finished_stages_are_skipped_and_a_failure_ends_the_run(argv, monkeypatch):
    codes, begun = iter([0, 143]), []

    def run(arguments, command):
        begun.append(arguments[arguments.index("--config") + 1].rpartition("/")[2])
        assert command.startswith("deft train --config")
        return next(codes)

    monkeypatch.setattr(training, "_run", run)
    first, *_ = stage_runs(argv)
    first.folder.mkdir(parents=True)
    (first.folder / "config.json").touch()
    assert training.main(argv) == 143
    assert begun == ["2-connectors.yaml", "3-answers.yaml"]
