"""The card of a trained model, filled from what was measured: `training_run.json` and `evaluation_report.json`.

    deft card build/demo/deft-tiny --report build/demo/evaluation/report.json

Training writes `training_run.json` into the model's folder, evaluation's `report.json` is put beside it, and the card
(README.md) is made from the two and from config.json whenever one of them changes. No figure is written by hand: what
no report holds, the card says is not known.
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
    """A folder or a report that no card can be made of; says what is missing."""


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
    """Writes `training_run.json`, what is known when training has ended.

    Args:
        model: the trained model. rows: the `datasets.Dataset` it was trained on, in the Uni-MER schema.
        dataset: a Hub repository or a folder; of a folder the name alone is kept, and its manifest is read.
        steps: of the optimiser. seconds: wall time of training.
        parts: `text`, `structure` and `texture` as the recipe has them; a name is a pretrained part.
        command: that repeats the run.
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
    """Title and terms of each source: of the data sets that are known, of rendered clips, of own recordings.

    Args:
        people: for each source the subjects of its rows.
        dataset: a Hub repository or a folder, whose manifest is read.
    """
    from deft_llm.hub_datasets.sources import sharing_policy

    manifest = Path(dataset) / "manifest.json"
    built = json.loads(manifest.read_text(encoding="utf-8"))["sources"] if manifest.is_file() else {}
    return sharing_policy.terms_of(people, built)


def _hardware(model: Any) -> dict[str, Any]:
    """Processor and, where the model stands on one, the accelerator."""
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
    except PackageNotFoundError:  # run from a clone that is not installed
        return None


# --- the card -------------------------------------------------------------------------------------------------------


def fill_card(
    folder: str | os.PathLike,
    *,
    report: str | os.PathLike | None = None,
    dataset_id: str | None = None,
) -> Path:
    """(Re)writes the folder's README.md from its config.json, training_run.json and evaluation report.

    Args:
        report: a `report.json` of an evaluation; it is copied into the folder as `evaluation_report.json`. Without
            it the copy that is there is used.
        dataset_id: the dataset's Hub repository, where the run and the report name a folder.

    Returns:
        The card's path.

    Raises:
        CardError: no trained model in the folder, or a report of another form.
        FileNotFoundError: no such report.
    """
    from huggingface_hub import ModelCard

    folder = Path(folder)
    for name in ("config.json", RUN_FILE):
        if not (folder / name).is_file():
            raise CardError(f"{folder} holds no {name}; pass a folder that `deft train` has written.")
    config, run = _read(folder / "config.json"), _read(folder / RUN_FILE)
    if report is not None:
        figures = _read(Path(report))
        # Before anything is written: a report that cannot be shown must not replace one that can.
        results_of(figures, "checked", dataset_id)
        if Path(report).resolve() != (folder / REPORT_FILE).resolve():
            write_whole(folder / REPORT_FILE, Path(report).read_bytes())
    found = folder / REPORT_FILE
    figures = _read(found) if found.is_file() else None
    card = make_card(config, run, figures, name=folder.resolve().name, dataset_id=dataset_id)
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
    """The card's text: front matter for the Hub, then the filled template."""
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
    """The Hub's `EvalResult`s and the card's table, from the report of an evaluation.

    Args:
        report: What `report.json` holds.
        name: Name of the model in the card's `model-index`.
        dataset_id: The dataset's Hub repository, where the report names a folder.

    Returns:
        The results of the model (not of its baselines), and a table {caption, rows: [{name, cells}]}; a cell is a
        figure with its interval.

    Raises:
        CardError: The report has another form.
    """
    import yaml
    from huggingface_hub.repocard_data import model_index_to_eval_results

    if not ("models" in report and "protocol" in report):
        raise CardError("The report has no known form; pass a report.json that `deft evaluate` has written.")
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
        raise CardError(f"{path} is no JSON file ({error}).") from None
