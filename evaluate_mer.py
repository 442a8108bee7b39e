"""Scores a trained DEFT folder on a split of a Uni-MER dataset, beside what guessing the majority would score.

    python evaluate_mer.py --model build/deft-tiny --dataset build/demo/data --output build/evaluation

Reports the emotion read from the generated answer and the one read from the recognition head; UF1 and UAR are over the
pooled predictions with the model's fixed label list. Writes `report.json` and `predictions.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub repository of a trained model")
    parser.add_argument("--dataset", required=True, help="Uni-MER dataset: folder or Hub repository")
    parser.add_argument("--split", default="test", help="split to score; its subjects must be unseen (default: test)")
    parser.add_argument("--train-split", default="train", help="split whose majority class is the baseline")
    parser.add_argument("--output", type=Path, required=True, help="folder for report.json and predictions.jsonl")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    return parser.parse_args(argv)


def emotion_metrics(true: list[str], predicted: list[str | None], labels: list[str]) -> dict[str, float]:
    """UF1 = mean over classes of 2TP/(2TP+FP+FN), UAR = mean over classes of TP/N, and accuracy.

    The label list is fixed. A class without a true clip is left out of UAR's mean, which is undefined for it, and
    counts 0 in UF1 when it was predicted; without true and predicted clips it is left out of both. A prediction of
    `None` (unreadable, or abstained) is wrong for every class.

    Raises:
        ValueError: no clips, unequal lengths, or a true label outside the list.
    """
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    if not true or len(true) != len(predicted):
        raise ValueError(f"{len(true)} labels and {len(predicted)} predictions: expected equal numbers above zero.")
    outside = sorted(set(true) - set(labels))
    if outside:
        raise ValueError(f"The data names the emotion {outside[0]!r}, which the model's list {labels} lacks.")
    answers = [value if value in labels else "none of them" for value in predicted]
    seen = [label for label in labels if label in true or label in answers]
    return {
        "uf1": float(f1_score(true, answers, labels=seen, average="macro", zero_division=0)),
        "uar": float(recall_score(true, answers, labels=[x for x in labels if x in true], average="macro")),
        "accuracy": float(accuracy_score(true, answers)),
    }


def au_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """F1 of the positive class, and macro F1 of both classes, each averaged over the action units that occur.

    Args:
        true, predicted: (clips, action_units) of 0 and 1.
    """
    import numpy as np
    from sklearn.metrics import f1_score

    occurring = [column for column in range(true.shape[1]) if true[:, column].any()]
    if not occurring:
        return {"au_f1": 0.0, "au_f1_macro": 0.0}
    pairs = [(true[:, column], predicted[:, column]) for column in occurring]
    return {
        "au_f1": float(np.mean([f1_score(t, p, zero_division=0) for t, p in pairs])),
        "au_f1_macro": float(
            np.mean([f1_score(t, p, labels=[0, 1], average="macro", zero_division=0) for t, p in pairs])
        ),
    }


def predict(model: Any, processor: Any, rows: Any, batch_size: int, max_new_tokens: int) -> list[dict[str, Any]]:
    """Generated answers and the heads' scores for every row, in order."""
    import numpy as np
    import torch
    from rich.progress import track

    from deft_llm.hub_datasets.uni_mer import row_tensors

    question = [{"type": "video"}, {"type": "text", "text": processor.default_instruction}]
    messages = [{"role": "user", "content": question}]
    predictions = []
    starts = range(0, len(rows), batch_size)
    for start in track(starts, description="Evaluating on unseen identities"):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        columns = [row_tensors(row, processor.video_processor) for row in batch]
        names = set.intersection(*(set(column) for column in columns))
        tensors = {
            name: torch.from_numpy(np.stack([column[name] for column in columns])).to(model.device) for name in names
        }
        prompts = [processor.render_prompt(messages, tensors)] * len(batch)
        inputs = processor.tokenizer(
            prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            outputs = model.model(**tensors)
            sequences = model.generate(**inputs, **tensors, max_new_tokens=max_new_tokens, do_sample=False)
        answers = processor.tokenizer.batch_decode(
            sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        flow = tensors["flow_values_videos"]
        reports = processor.post_process_expression(answers, outputs=outputs, flow_values_videos=flow)
        written = processor.post_process_expression(answers)
        scores = outputs.au_logits.float().sigmoid().cpu().tolist()
        for row, answer, report, text, au_scores in zip(batch, answers, reports, written, scores, strict=True):
            predictions.append(
                {
                    "clip_id": row["clip_id"],
                    "subject": row["subject"],
                    "emotion": row["emotion"],
                    "action_units": [unit["code"] for unit in row["action_units"]],
                    "generated": text.emotion,
                    "head": max(report.scores, key=report.scores.get),
                    "abstained": report.insufficient_motion,
                    "parsed": text.parsed,
                    "au_scores": au_scores,
                    "answer": answer,
                }
            )
    return predictions


def summarise(predictions: list[dict[str, Any]], config: Any, majority: str) -> dict[str, Any]:
    """All figures of the report."""
    import numpy as np

    labels = list(config.emotion_labels)
    expressed = [item for item in predictions if item["emotion"] is not None]
    still = [item for item in predictions if item["emotion"] is None]
    true = [item["emotion"] for item in expressed]
    au_true = np.array([[code in item["action_units"] for code in config.action_units] for item in predictions])
    au_predicted = np.array([item["au_scores"] for item in predictions]) >= 0.5
    return {
        "clips": len(predictions),
        "subjects": len({item["subject"] for item in predictions}),
        "expressive_clips": len(expressed),
        "emotions": {
            "majority class": emotion_metrics(true, [majority] * len(true), labels),
            "recognition head": emotion_metrics(true, [item["head"] for item in expressed], labels),
            "generated answer": emotion_metrics(true, [item["generated"] for item in expressed], labels),
        },
        "action_units": {
            "majority class": au_metrics(au_true, np.zeros_like(au_true)),
            "recognition head": au_metrics(au_true, au_predicted),
        },
        "answers_parsed": sum(item["parsed"] for item in predictions) / len(predictions),
        "still_clips": len(still),
        "still_clips_abstained": sum(item["abstained"] for item in still) / len(still) if still else None,
        "expressive_clips_abstained": sum(item["abstained"] for item in expressed) / len(expressed),
    }


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # Imported late: --help should not wait for torch.
    from collections import Counter

    from datasets import load_dataset
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import deft_llm.modeling_deft  # noqa: F401  registers the model's classes

    splits = load_dataset(arguments.dataset)
    for split in (arguments.split, arguments.train_split):
        if split not in splits:
            print(f"error: {arguments.dataset} has no split {split!r}; it has {', '.join(splits)}.", file=sys.stderr)
            return 1
    rows, train = splits[arguments.split], splits[arguments.train_split]
    shared = set(rows["subject"]) & set(train["subject"])
    if shared and arguments.split != arguments.train_split:
        print(f"error: {len(shared)} subjects are in both splits, such as {min(shared)}.", file=sys.stderr)
        return 1
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=True)
    majority = Counter(value for value in train["emotion"] if value is not None).most_common(1)[0][0]
    predictions = predict(model, processor, rows, arguments.batch_size, arguments.max_new_tokens)
    report = summarise(predictions, model.config, majority)

    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(item) + "\n" for item in predictions)
    (arguments.output / "predictions.jsonl").write_text(lines, encoding="utf-8")

    table = Table(title=f"{report['clips']} clips of {report['subjects']} unseen identities", title_justify="left")
    for heading in ("", "UF1", "UAR", "accuracy", "AU F1", "AU macro F1"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, metrics in report["emotions"].items():
        units = report["action_units"].get(name)
        cells = [f"{value:.3f}" for value in metrics.values()]
        cells += [f"{value:.3f}" for value in units.values()] if units else ["", ""]
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(f"answers that parse: {100 * report['answers_parsed']:.1f} %")
    if still := report["still_clips"]:
        console.print(f"still clips abstained from: {100 * report['still_clips_abstained']:.1f} % of {still}")
    console.print(f"Written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
