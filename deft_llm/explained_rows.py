"""Explanations as text, JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from deft_llm.clips import stretches_text
from deft_llm.explained import Explained, ExplainedVideo

FORMATS = ("text", "jsonl", "csv")
COLUMNS = {
    "clip": "the clip, as it was named in the command",
    "interval": "number of the interval in the video, from 1; empty without --spot",
    "onset": "frame number, from 0; this and the next five are empty if nothing was measured",
    "apex": "frame number",
    "offset": "frame number",
    "onset_seconds": "onset divided by the frame rate; empty if the rate is not known, as are the next two",
    "apex_seconds": "apex divided by the frame rate",
    "offset_seconds": "offset divided by the frame rate",
    "status": "measured, insufficient_motion or not_measurable",
    "reason": "why the status is not measured",
    "emotion": "class of the answer; empty if there is none",
    "coarse_emotion": "coarse class of the emotion",
    "emotion_score": "probability of the emotion by the recognition head, 0 to 1",
    "action_unit": "code of the unit of this row, such as AU4; empty if no unit was recognised",
    "action_unit_name": "name of the unit in FACS",
    "side": "left, right or both; the person's own sides",
    "intensity": "of the unit, A to E; empty if the model does not say it",
    "action_unit_score": "probability of the unit by the recognition head, 0 to 1",
    "borne_out": "yes or no: whether the measured motion bears the unit out; empty if this was not checked",
    "region": "region that moves; empty if no motion bears the unit out",
    "direction": "where it moves, in words",
    "magnitude": "how far it moves, in percent of the face crop's width",
    "standard_error": "of the magnitude, in the same unit",
    "detection_limit": "motion that would have been seen in this region in 90 % of clips like this one, same unit",
    "rationale": "the rationale of the answer",
    "warnings": "problems with the answer, separated by semicolons",
}
"""The columns of the CSV, and what they contain."""


def texts(video: ExplainedVideo, *, question: bool = False) -> str:
    """A video's explanations as text.

    Args:
        video: The video.
        question: Whether the answers are shown as they were generated, because the question is the caller's own.
    """
    parts = []
    for item in video.explained:
        text = item.generated_text if question else item.report_text
        parts.append(f"{when(item, video.fps)}\n{text}\n" if video.spotted and item.key_frames else text)
    if video.spotted:
        others = [item.kind for item in video.intervals if item.kind != "expression"]
        if others:
            parts.append(f"Not explained: {_counted(others)}.")
        parts.append(stretches_text(video.stretches, video.fps))
    return "\n".join(filter(None, parts)).rstrip("\n")


def _counted(kinds: list[str]) -> str:
    names = {"blink": ("blink", "blinks"), "speech": ("stretch of speech", "stretches of speech")}
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return ", ".join(f"{count} {names[kind][count > 1]}" for kind, count in counts.items())


def when(item: Explained, fps: float | None) -> str:
    """When an expression was found, such as `"0.30 s to 0.46 s (frames 60, 76, 92)"`."""
    keys = item.key_frames
    frames = f"frames {keys.onset}, {keys.apex}, {keys.offset}"
    return f"{keys.onset / fps:.2f} s to {keys.offset / fps:.2f} s ({frames})" if fps else frames


def records(video: ExplainedVideo) -> Iterator[dict[str, Any]]:
    """A video's explanations as JSON data, one record per explanation."""
    for number, item in enumerate(video.explained, start=1):
        yield {
            **_place(video, item, number),
            "fps": video.fps,
            "report": item.report,
            "generated_text": item.generated_text,
            "frames_indices": item.frames_indices,
        }


def rows(video: ExplainedVideo) -> Iterator[dict[str, Any]]:
    """A video's explanations as rows of `COLUMNS`: one per evidence, and one per unit or explanation without any."""
    for number, item in enumerate(video.explained, start=1):
        report = item.report
        common = {
            **_place(video, item, number),
            **{name: report[name] for name in ("status", "reason", "emotion", "coarse_emotion", "rationale")},
            "emotion_score": _rounded(report["scores"].get(report["emotion"])),
            "warnings": "; ".join(report["warnings"]),
        }
        for unit in report["action_units"] or [None]:
            of_unit = {}
            if unit is not None:
                of_unit = {
                    "action_unit": unit["code"],
                    "action_unit_name": unit["name"],
                    "side": unit["side"],
                    "intensity": unit["intensity"],
                    "action_unit_score": _rounded(unit["score"]),
                    "borne_out": {True: "yes", False: "no"}.get(unit["borne_out"]),
                }
            shown = [entry for entry in report["evidence"] if unit and entry["action_unit"] == unit["code"]]
            for entry in shown or [{}]:
                of_region = {
                    "region": entry.get("region"),
                    "direction": entry.get("direction"),
                    "magnitude": _rounded(entry.get("magnitude")),
                    "standard_error": _rounded(entry.get("standard_error")),
                    "detection_limit": report["detection_limits"].get(entry.get("region")),
                }
                yield {name: (common | of_unit | of_region).get(name) for name in COLUMNS}


def written(videos: Iterable[ExplainedVideo], form: str) -> Iterator[str]:
    """The lines of JSON lines or CSV, piece by piece as the videos are explained.

    Args:
        videos: The videos.
        form: "jsonl" or "csv".
    """
    if form == "csv":
        yield _csv_lines([], header=True)
    for video in videos:
        if form == "csv":
            yield _csv_lines(rows(video))
        else:
            yield "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(video))


def _csv_lines(entries: Iterable[dict[str, Any]], *, header: bool = False) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(entries)
    return file.getvalue()


def _place(video: ExplainedVideo, item: Explained, number: int) -> dict[str, Any]:
    names, keys, rate = ("onset", "apex", "offset"), item.key_frames, video.fps
    frames = {name: None if keys is None else getattr(keys, name) for name in names}
    times = {f"{name}_seconds": None if keys is None or not rate else round(frames[name] / rate, 4) for name in names}
    interval = number if video.spotted and keys is not None else None
    return {"clip": video.source, "interval": interval, **frames, **times}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
