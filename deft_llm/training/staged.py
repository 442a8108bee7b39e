"""Splits a recipe with several stages into one run per stage. Each starts from the model of the one before."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from deft_llm.files import write_whole
from deft_llm.recipes import find_recipe

from .arguments import ModelArguments

STAGES_KEY = "stages"


@dataclass(frozen=True)
class StageRun:
    """One stage of a recipe.

    Args:
        folder: Output folder of the stage.
        recipe: The YAML of the stage, which is written before it is run.
        settings: Content of that YAML.
        overrides: Options of the command line. Those of the model's parts apply to the first stage, the others to all.
    """

    folder: Path
    recipe: Path
    settings: dict[str, Any]
    overrides: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the stage's model is written."""
        return (self.folder / "config.json").exists()

    @property
    def stopped(self) -> bool:
        """Whether the stage has a checkpoint to resume from."""
        return not self.finished and any(self.folder.glob("checkpoint-*"))

    @property
    def arguments(self) -> list[str]:
        """The command line of the stage."""
        resume = ["--resume-from-checkpoint", "last"] if self.stopped else []
        return ["--config", str(self.recipe), "--output-dir", str(self.folder), *self.overrides, *resume]


def stage_runs(argv: Sequence[str]) -> list[StageRun]:
    """Splits the command line of a recipe with `stages`. Each item of `stages` overrides keys of the recipe.

    Args:
        argv: Arguments of `deft train`.

    Returns:
        The stages; an empty list if the recipe has none. The last one writes the output folder itself, the others
        write folders in its `stages/`.

    Raises:
        ValueError: `stages` is not a list of mappings, or there is no output folder.
        FileNotFoundError: The recipe does not exist.
    """
    options, named = _taken_out(argv, ("config", "output_dir"))
    config, output = named.get("config"), named.get("output_dir")
    if config is None:
        return []
    recipe = yaml.safe_load(find_recipe(config).read_text(encoding="utf-8")) or {}
    if STAGES_KEY not in recipe:
        return []
    stages = recipe.pop(STAGES_KEY)
    output = output or recipe.pop("output_dir", None)
    if not isinstance(stages, list) or not stages or not all(isinstance(item, dict) for item in stages):
        raise ValueError(f"`{STAGES_KEY}` of {config} must be a list of mappings, one per stage.")
    if output is None:
        raise ValueError("Pass --output-dir, the folder to write.")
    own, work = {item.name for item in fields(ModelArguments)}, Path(output) / STAGES_KEY
    names = [f"{number}-{item.get('stage', 'all')}" for number, item in enumerate(stages, start=1)]
    folders = [*(work / name for name in names[:-1]), Path(output)]
    runs = []
    for index, item in enumerate(stages):
        settings = {**recipe, **item}
        if index:
            # The parts are those of the first stage; later stages load its model.
            settings = {name: value for name, value in settings.items() if name not in own}
            settings["model_name_or_path"] = str(folders[index - 1])
            options, _ = _taken_out(options, own)
        runs.append(StageRun(folders[index], work / f"{names[index]}.yaml", settings, tuple(options)))
    return runs


def write_recipes(runs: Sequence[StageRun]) -> None:
    """Writes the YAML of every stage.

    Args:
        runs: The stages.

    Raises:
        FileExistsError: A stage that is finished or was stopped was run with other settings.
    """
    for run in runs:
        text = f"# {shlex.join(run.overrides)}\n" + yaml.safe_dump(run.settings, sort_keys=False)
        begun = run.finished or run.stopped
        if begun and run.recipe.exists() and run.recipe.read_text() != text:
            raise FileExistsError(
                f"{run.folder} was trained with other settings, which are in {run.recipe}. Choose another "
                "--output-dir, or delete the folder to train this stage again."
            )
        run.recipe.parent.mkdir(parents=True, exist_ok=True)
        write_whole(run.recipe, text)


def _taken_out(argv: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """The command line without these options, and their values."""
    rest, found, name = [], {}, None
    for argument in argv:
        if name is not None:
            found[name], name = argument, None
            continue
        option, equals, value = argument.partition("=")
        key = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or key not in names:
            rest.append(argument)
        elif equals:
            found[key] = value
        else:
            name = key
    return rest, found
