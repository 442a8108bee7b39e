"""Make the small model that comes with the package out of a trained model: the last step of `make release`.

    python -m deft_llm.sharing.release build/release/model --report build/release/evaluation/report.json \
        [--planted-report …/report.json] [--people …/real-features/casme2-half] [--box DIR]

The folder gets weights, configs, tokenizer, card and `manifest.json`: what was trained with what, and the figures on
rendered faces, on recordings with planted motion, and on people. What was not measured is null in the manifest.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deft_llm import __version__
from deft_llm.evaluation.metrics import bootstrap_intervals, emotion_metrics, subject_confusions
from deft_llm.files import code_fingerprint, file_digest, files_together
from deft_llm.recipes import find_recipe
from deft_llm.sharing.card import RUN_FILE, fill_card
from deft_llm.tiny_model import BOX

RECIPE, WEIGHTS, MANIFEST = "tiny.yaml", "model.safetensors", "manifest.json"
DATA = "deft data synthesize --free-sets 0.5"  # as in the Makefile
TRAINED_WITH = ("hub_datasets", "modeling_deft", "processing", "training")  # the code that decides the weights
PEOPLE_PROTOCOL = "casme2-3"  # three classes, which every label convention has
NAMES = {
    "rendered": "rendered faces, none of them seen in training; all classes",
    "planted": "recordings of people with planted action units; all classes",
    "people": "CASME II, half of the subjects; three classes, nothing trained on people",
}


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the first model of a `report.json`.

    Args:
        report: Content of the file.
    """
    figures = next(iter(report["models"].values()))
    units = figures.get("action_units") or {}
    return {
        "uf1": figures["uf1"],
        "uf1_interval": list(figures["intervals"]["uf1"]),
        "action_unit_f1": units.get("au_f1"),
        "action_unit_auc": units.get("auc_of_sought"),
        "clips": report["clips"],
        "subjects": report["subjects"],
    }


def people_figures(model: Any, processor: Any, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the recognition heads on clips of people, of which the model has seen none.

    Args:
        model: The model, in evaluation mode.
        processor: Its processor.
        splits: Split → Uni-MER rows of CASME II.
    """
    import torch

    from deft_llm.evaluation.generation import stacked_tensors
    from deft_llm.evaluation.protocols import make_task
    from deft_llm.evaluation.unit_figures import unit_figures

    rows = [row for part in splits.values() for row in part]
    task = make_task(splits, PEOPLE_PROTOCOL)
    with torch.inference_mode():
        output = model.model(**stacked_tensors(rows, processor, model.device))
    probabilities = output.emotion_logits.softmax(-1).cpu()
    coarse = [processor.coarse_emotion_of[name] for name in model.config.emotion_labels]
    members = torch.tensor([[name == label for name in coarse] for label in task.labels], dtype=probabilities.dtype)
    said = [task.labels[int(place)] for place in (probabilities @ members.T).argmax(-1)]
    by_id = {row["clip_id"]: row for row in rows}
    units = output.au_logits.sigmoid().cpu().tolist()
    predictions = {
        row["clip_id"]: {"action_units": dict(zip(model.config.action_units, scores, strict=True)), "emotion": word}
        for row, scores, word in zip(rows, units, said, strict=True)
    }
    clips = [row["clip_id"] for row in rows if row["clip_id"] in task.label_of]
    true, answers = [task.label_of[clip] for clip in clips], [predictions[clip]["emotion"] for clip in clips]
    matrices = subject_confusions([by_id[clip]["subject"] for clip in clips], true, answers, task.labels)
    found = unit_figures(predictions, list(by_id), by_id)
    return {
        "uf1": emotion_metrics(true, answers, task.labels)["uf1"],
        "uf1_interval": list(bootstrap_intervals(matrices)["uf1"]),
        "action_unit_f1": found["au_f1"],
        "action_unit_auc": found["auc_of_sought"],
        "clips": len(clips),
        "subjects": len(matrices),
    }


def write_box(model: Path, figures: Mapping[str, Any], box: Path = BOX) -> None:
    """Writes the small model's folder. A model that is there is replaced when everything is written.

    Args:
        model: Folder that `deft train` has written.
        figures: Keys of `NAMES` → figures, or None for what was not measured.
        box: Folder to write.

    Raises:
        FileNotFoundError: The folder does not contain a trained model.
    """
    run = json.loads((model / RUN_FILE).read_text(encoding="utf-8"))
    recipe = find_recipe(RECIPE)
    manifest = {
        "version": __version__,
        "recipe": {"name": RECIPE, "sha256": file_digest(recipe)},
        "data": {"command": DATA, "seed": 0, "clips": run["clips"], "faces": run["subjects"]},
        "training": {name: run[name] for name in ("steps", "seed", "seconds", "versions")},
        "code_sha256": code_fingerprint(*(f"deft_llm.{name}" for name in TRAINED_WITH)),
        "weights": {
            "sha256": file_digest(model / WEIGHTS),
            "bytes": (model / WEIGHTS).stat().st_size,
            "parameters": run["parameters"],
        },
        "figures": {name: figures.get(name) for name in NAMES},
    }
    with files_together(box, last="config.json") as partial:
        for path in sorted(model.iterdir()):
            if path.is_file() and path.suffix not in (".py", ".bin"):
                shutil.copyfile(path, partial / path.name)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        card = fill_card(partial, name=model.resolve().name)
        text = card.read_text(encoding="utf-8").rstrip()
        card.write_text(f"{text}\n\n{figures_table(figures)}", encoding="utf-8")


def figures_table(figures: Mapping[str, Any]) -> str:
    """The section of the card about all three kinds of clips.

    Args:
        figures: As in `write_box`.
    """
    lines = [
        "## Rendered faces, recordings and people",
        "",
        "| clips | UF1 (95 %) | F1 of action units | AUC of action units |",
        "|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        own = figures.get(name)
        if own is None:
            lines.append(f"| {title} | not measured | | |")
            continue
        low, high = own["uf1_interval"]
        size = f"{own['clips']} clips of {own['subjects']}"
        units = [f"{own[key]:.3f}" if own[key] is not None else "" for key in ("action_unit_f1", "action_unit_auc")]
        lines.append(f"| {title} ({size}) | {own['uf1']:.3f} ({low:.3f} to {high:.3f}) | {' | '.join(units)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that `deft train` has written")
    parser.add_argument("--report", type=Path, required=True, help="report.json on rendered faces")
    parser.add_argument("--planted-report", type=Path, help="report.json on recordings with planted motion")
    parser.add_argument("--people", type=Path, help="Uni-MER folder of CASME II with flow")
    parser.add_argument("--box", type=Path, default=BOX, help="folder to write")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name, report in (("rendered", arguments.report), ("planted", arguments.planted_report)):
        if report is not None:
            figures[name] = figures_of(json.loads(report.read_text(encoding="utf-8")))
    if arguments.people is not None:
        from deft_llm.evaluation.run import load_splits
        from deft_llm.training.parts import load_model

        model, processor = load_model(str(arguments.model))
        people = load_splits(str(arguments.people), with_video=False)
        figures["people"] = people_figures(model.eval(), processor, people)
    write_box(arguments.model, figures, arguments.box)
    print(figures_table(figures))
    print(f"Written to {arguments.box}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
