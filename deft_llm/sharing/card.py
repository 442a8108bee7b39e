"""Write the card of a trained model from `training_run.json` and `evaluation_report.json`.

    deft card build/demo/deft-tiny --report build/demo/evaluation/report.json

Training writes `training_run.json` into the model's folder. The `report.json` of an evaluation is copied next to it.
The card (README.md) is made from both and from config.json. All numbers come from these files; the card says which are
not known.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deft_llm.files import write_whole

TEMPLATE = Path(__file__).with_name("model_card.md")
RUN_FILE, REPORT_FILE = "training_run.json", "evaluation_report.json"
_LIBRARIES = ("deft-llm", "transformers", "trl", "torch", "numpy")
_METRICS = ("uf1", "uar", "accuracy")


class CardError(ValueError):
    """A card cannot be made from the folder or the report. The message says what is missing."""


# --- the run --------------------------------------------------------------------------------------------------------


def write_run(
    folder: str | os.PathLike,
    model: Any,
    rows: Any,
    *,
    dataset: str,
    steps: int,
    seconds: float | None = None,
    seed: int | None = None,
    parts: Mapping[str, Any] | None = None,
    command: str = "",
) -> None:
    """Writes `training_run.json` at the end of training.

    Args:
        folder: The model's folder.
        model: The trained model.
        rows: The `datasets.Dataset` it was trained on, in the Uni-MER schema.
        dataset: A Hub repository or a folder. Only the name of a folder is stored; its manifest is read.
        steps: Number of optimiser steps.
        seconds: Wall time of the training.
        seed: Random seed of the training.
        parts: `text`, `structure` and `texture` from the recipe. A part given by name is pretrained.
        command: The command that repeats the run.
    """
    config = model.config
    sources: dict[str, dict[str, Any]] = {}
    for source, subject in zip(rows["source"], rows["subject"], strict=True):
        entry = sources.setdefault(source, {"clips": 0, "subjects": set()})
        entry["clips"] += 1
        entry["subjects"].add(subject)
    terms = terms_of({name: entry["subjects"] for name, entry in sources.items()}, dataset)
    is_folder = Path(dataset).is_dir()
    run = {
        "dataset": {"name": Path(dataset).resolve().name if is_folder else dataset, "on_the_hub": not is_folder},
        "clips": len(rows),
        "subjects": len(set(rows["subject"])),
        "sources": {
            name: {"clips": entry["clips"], "subjects": len(entry["subjects"]), **terms[name]}
            for name, entry in sorted(sources.items())
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pretrained": {
            name: part
            for name, part in (parts or {}).items()
            if isinstance(part, str) and not part.lstrip().startswith("{") and not Path(part).exists()
        },
        "steps": steps,
        "seconds": None if seconds is None else round(seconds, 1),
        "seed": seed,
        "command": command,
        "hardware": _hardware(model),
        "versions": {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "loss_weights": dict(config.loss_weights),
    }
    write_whole(Path(folder) / RUN_FILE, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def terms_of(people: Mapping[str, Collection[str]], dataset: str) -> dict[str, dict[str, Any]]:
    """Title and terms of each source: a known data set, rendered clips, or own recordings.

    Args:
        people: Source → subjects of its rows.
        dataset: A Hub repository, or a folder, whose manifest is read.
    """
    from deft_llm.hub_datasets.sources import sharing_policy

    manifest = Path(dataset) / "manifest.json"
    built = json.loads(manifest.read_text(encoding="utf-8"))["sources"] if manifest.is_file() else {}
    return sharing_policy.terms_of(people, built)


def _hardware(model: Any) -> dict[str, Any]:
    """The processor, and the accelerator if the model is on one."""
    from deft_llm.evaluation.report import hardware

    found = hardware()
    if model.device.type == "cuda":
        import torch

        found["accelerator"] = torch.cuda.get_device_name(model.device)
        found["accelerators"] = int(os.environ.get("WORLD_SIZE", "1"))
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that is not installed
        return None


# --- the card -------------------------------------------------------------------------------------------------------


def fill_card(
    folder: str | os.PathLike,
    *,
    report: str | os.PathLike | None = None,
    dataset_id: str | None = None,
    name: str | None = None,
) -> Path:
    """Writes or replaces the folder's README.md, from its config.json, training_run.json and evaluation report.

    Args:
        folder: The model's folder.
        report: A `report.json` of an evaluation. It is copied into the folder as `evaluation_report.json`. By default
            an earlier copy is used.
        dataset_id: Hub repository of the dataset, if the run and the report name a folder.
        name: Name of the model; by default that of the folder.

    Returns:
        The card's path.

    Raises:
        CardError: The folder does not contain a trained model, or the report has another form.
        FileNotFoundError: The report does not exist.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    for file in ("config.json", RUN_FILE):
        if not (folder / file).is_file():
            raise CardError(f"{folder} has no {file}; pass a folder that `deft train` has written.")
    config, run = _read(folder / "config.json"), _read(folder / RUN_FILE)
    if report is not None:
        figures = _read(Path(report))
        # Checked before anything is written, so that a broken report does not replace a good one.
        results_of(figures, "checked", dataset_id)
        if Path(report).resolve() != (folder / REPORT_FILE).resolve():
            write_whole(folder / REPORT_FILE, Path(report).read_bytes())
    found = folder / REPORT_FILE
    figures = _read(found) if found.is_file() else None
    card = make_card(config, run, figures, name=name or folder.resolve().name, dataset_id=dataset_id)
    ModelCard(card)  # raises for front matter that the Hub could not read
    write_whole(folder / "README.md", card)
    return folder / "README.md"


def make_card(
    config: Mapping[str, Any],
    run: Mapping[str, Any],
    report: Mapping[str, Any] | None,
    *,
    name: str,
    dataset_id: str | None = None,
) -> str:
    """Makes the text of the card: front matter for the Hub, and the filled template.

    Args:
        config: Content of `config.json`.
        run: Content of `training_run.json`.
        report: Content of the evaluation's `report.json`, if any.
        name: Name of the model.
        dataset_id: Hub repository of the dataset, if the run and the report name a folder.

    Raises:
        CardError: The report has another form.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from deft_llm.processing.action_units import get_action_unit

    rendered = all(source["kind"] == "rendered" for source in run["sources"].values())
    on_the_hub = dataset_id or (run["dataset"]["name"] if run["dataset"]["on_the_hub"] else None)
    licence = {"license": "apache-2.0"}
    if not rendered:
        licence = {"license": "other", "license_name": "terms-of-the-training-data"}
    results, table = (None, None) if report is None else results_of(report, name, dataset_id)
    data = ModelCardData(
        **licence,
        language="en",
        library_name="transformers",
        pipeline_tag="video-text-to-text",
        base_model=sorted(run["pretrained"].values()) or None,
        datasets=[on_the_hub] if on_the_hub else None,
        metrics=["f1", "recall", "accuracy"] if results else None,
        tags=["micro-expression", "action-units", "optical-flow", "custom_code"],
        model_name=name if results else None,
        eval_results=results,
    )
    units = [f"{code} ({get_action_unit(code).name})" for code in config["action_units"]]
    return str(
        ModelCard.from_template(
            data,
            template_path=str(TEMPLATE),
            name=name,
            run=run,
            report=report,
            table=table,
            figures=None if report is None else next(iter(report["models"].values())),
            rendered=rendered,
            parameters=f"{run['parameters'] / 1e6:,.1f} million",
            kinds={part: config[f"{part}_config"]["model_type"] for part in ("text", "structure", "texture")},
            emotions=", ".join(config["emotion_labels"]),
            action_units=", ".join(units),
            duration=None if run["seconds"] is None else _duration(run["seconds"]),
            hardware=_hardware_words(run["hardware"]),
            conventions=[source["title"] for source in run["sources"].values()],
        )
    )


def results_of(
    report: Mapping[str, Any], name: str, dataset_id: str | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Makes the Hub's `EvalResult`s and the card's table from the report of an evaluation.

    Args:
        report: Content of `report.json`.
        name: Name of the model in the card's `model-index`.
        dataset_id: Hub repository of the dataset, if the report names a folder.

    Returns:
        The results of the model (not of its baselines), and a table {caption, rows: [{name, cells}]}. A cell is a
        number with its interval.

    Raises:
        CardError: The report has another form.
    """
    import yaml
    from huggingface_hub.repocard_data import model_index_to_eval_results

    if not ("models" in report and "protocol" in report):
        raise CardError("The report has an unknown form; pass a report.json that `deft evaluate` has written.")
    from deft_llm.evaluation.report import PROTOCOL_NAMES, model_index

    index = yaml.safe_load(model_index(report, name, dataset_id=dataset_id))["model-index"]
    rows = [
        {"name": model, "cells": [_cell(figures[key], figures["intervals"][key]) for key in _METRICS]}
        for model, figures in report["models"].items()
    ]
    protocol = PROTOCOL_NAMES.get(report["protocol"], report["protocol"])
    caption = (
        f"{report['dataset']}, {protocol}: {report['clips']} clips of {report['subjects']} subjects, target "
        f"{report['target']}" + (f", pooled over {report['folds']} folds." if report["folds"] > 1 else ".")
    )
    return model_index_to_eval_results(index)[1], {"caption": caption, "rows": rows}


def _cell(value: float, interval: Any) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _hardware_words(hardware: Mapping[str, Any]) -> str:
    processor = hardware.get("processor") or hardware.get("machine") or "a processor of unknown kind"
    words = f"{hardware['cores']} cores of {processor}" if hardware.get("cores") else processor
    if hardware.get("accelerator"):
        words = f"{hardware.get('accelerators', 1)} × {hardware['accelerator']}; {words}"
    return words


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CardError(f"{path} is not a JSON file ({error}).") from None
