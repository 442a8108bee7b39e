"""`deft doctor`: does this installation work, what is missing, and how is it installed?

Nothing is downloaded. A small face is rendered whose brows are lowered by a known amount, and the clip goes through
the same path as with `deft measure --out`.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement  # transformers needs it as well

# Modules that have another name than the package that brings them.
MODULES = {
    "pympi": "pympi-ling",
    "python_calamine": "python-calamine",
    "rouge_score": "rouge-score",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
DEVELOPMENT = ("dev", "docs", "test")  # extras of those who work on the package
DISTRIBUTIONS = ("deft-llm", "torch", "transformers", "numpy", "opencv-python-headless", "av")
_FPS, _FRAMES, _ONSET, _APEX, _OFFSET = 60.0, 96, 40, 52, 64
_PLANTED = 0.015  # crop widths
_SIZE = 160


def extras() -> dict[str, list[str]]:
    """Extra of the installed package → the packages that it installs by itself, by the package's metadata."""
    found: dict[str, list[str]] = {}
    required = [Requirement(text) for text in requires("deft-llm") or ()]
    for name in metadata("deft-llm").get_all("Provides-Extra") or ():
        own = [one.name for one in required if one.marker and one.marker.evaluate({"extra": name})]
        kept = [package for package in own if package != "deft-llm"]  # the extras it includes have their own line
        if kept and name not in DEVELOPMENT:
            found[name] = kept
    return found


def examine(wanted: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, Any]]:
    """Examines the installation.

    Args:
        wanted (`Mapping[str, Sequence[str]]`, *optional*): Extra → the packages that it installs; by default `extras`.

    Returns:
        `list[dict]`: Findings, each with `name`, `ok`, `core` (whether nothing works without it), `detail`, `fix`
        (what to do, or None) and `seconds`.
    """
    findings = [_timed(f"version of {name}", True, lambda name=name: _version(name)) for name in DISTRIBUTIONS]
    findings.append(_timed("torch runs", True, _torch))
    clip: dict[str, Any] = {}
    findings.append(_timed("a clip is rendered", True, lambda: _render(clip)))
    for name, core in (("pyav", True), ("decord", False), ("opencv", False)):
        findings.append(_timed(f"decoder {name}", core, lambda name=name: _decoder(name, clip)))
    findings.append(_timed("planted motion", True, lambda: _planted(clip)))
    findings.append(_timed("face finder yunet", False, _yunet))
    findings.append(_timed("face finder mediapipe", False, _mediapipe))
    for extra, packages in (extras() if wanted is None else wanted).items():
        findings.append(_timed(f"extra {extra}", False, partial(_extra, extra, packages)))
    return findings


class _MissingError(Exception):
    """Something optional is missing; `fix` says how it is installed."""

    def __init__(self, detail: str, fix: str):
        super().__init__(detail)
        self.fix = fix


def _timed(name: str, core: bool, check: Callable[[], str]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        found: dict[str, Any] = {"ok": True, "detail": check(), "fix": None}
    except _MissingError as error:
        found = {"ok": False, "detail": str(error), "fix": error.fix}
    # Whatever fails is a finding, and the examination goes on.
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        found = {"ok": False, "detail": detail, "fix": "pip install --force-reinstall deft-llm" if core else None}
    return {"name": name, "core": core, **found, "seconds": round(time.perf_counter() - start, 2)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        if name.startswith("opencv"):
            import cv2  # another build of OpenCV will do

            return f"OpenCV {cv2.__version__}, another build"
        raise _MissingError("is not installed", f"pip install {name}") from None


def _torch() -> str:
    import torch

    total = float(torch.ones(3) @ torch.ones(3))
    if total != 3:
        raise RuntimeError(f"1 + 1 + 1 is {total}")
    return f"on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "on the processor"


def _render(clip: dict[str, Any]) -> str:
    import numpy as np

    from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
    from deft_llm.hub_datasets.synthetic.faces import render_face

    rng = np.random.default_rng(4)
    shown = Expression((UnitRequest("AU4", "both", _PLANTED),), _ONSET, _APEX, _OFFSET)
    rendered = render_clip(render_face(rng, size=_SIZE), [shown], rng, count=_FRAMES, fps=_FPS)
    truth = 100 * rendered.flow(_ONSET, _APEX, expression_only=True, grid=100)
    clip.update(video=encode_mp4(rendered), flow=truth)
    return f"{_FRAMES} frames of {_SIZE} × {_SIZE} pixels"


def _decoder(name: str, clip: Mapping[str, Any]) -> str:
    from deft_llm.processing.video_reading import open_clip

    module = {"pyav": "av", "opencv": "cv2"}.get(name, name)
    if importlib.util.find_spec(module) is None:
        raise _MissingError("is not installed", f"pip install 'deft-llm[{name}]'")
    reader = open_clip(clip["video"], decoders=[name])
    count = sum(1 for _ in reader.scan())
    if count != _FRAMES:
        raise RuntimeError(f"{count} frames instead of {_FRAMES}")
    return f"{module} {_module_version(module)} reads {count} frames"


def _module_version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", ""))


def _planted(clip: Mapping[str, Any]) -> str:
    from deft_llm.measure_folder import MeasureFolder, Settings, find_videos, measure_videos
    from deft_llm.motion_tables import COLUMNS
    from deft_llm.processing.motion_evidence import region_masks

    with tempfile.TemporaryDirectory(prefix="deft-doctor-") as place:
        video, out = Path(place) / "planted.mp4", Path(place) / "out"
        video.write_bytes(clip["video"])
        with MeasureFolder(out, Settings(face_source="canonical")).opened() as folder:
            (row,) = measure_videos(folder, find_videos([str(video)]))
        if row["status"] != "measured":
            raise RuntimeError(f"the clip was not measured: {row['reason']}")
        with open(out / row["table"], newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    if list(table[0]) != list(COLUMNS) or len(table) != 24 * _FRAMES:
        raise RuntimeError(f"the table has {len(table)} rows of {len(table[0])} columns")
    masks = region_masks(100, 100)
    told = []
    for side in ("left", "right"):
        true = float(clip["flow"][1][masks["inner brow", side]].mean())
        rows = [item for item in table if (item["region"], item["side"]) == ("inner brow", side)]
        apex = rows[_APEX]
        if apex["significant"] != "true" or not 0.6 * true < float(apex["v"]) < 1.4 * true:
            raise RuntimeError(
                f"the {side} inner brow goes down by {true:.2f} % of the face's width, and {apex['v']} was measured"
            )
        told.append(f"{side} inner brow {float(apex['v']):.2f} of {true:.2f} %")
    still = [item["significant"] == "true" for item in table[: 24 * (_ONSET - 4)]]
    if any(still):
        raise RuntimeError(f"{sum(still)} of {len(still)} regions move while the face is at rest")
    return f"AU4 found at its apex: {', '.join(told)}"


def _yunet() -> str:
    from huggingface_hub import try_to_load_from_cache

    from deft_llm.processing.face_alignment import YUNET_FILE, YUNET_REPOSITORY, YUNET_REVISION

    path = try_to_load_from_cache(YUNET_REPOSITORY, YUNET_FILE, revision=YUNET_REVISION)
    if not isinstance(path, str):
        raise _MissingError(
            "its model file is not on this machine",
            f"use --face-source yunet once with a network (0.2 MB from {YUNET_REPOSITORY}), or yunet:PATH",
        )
    return path


def _mediapipe() -> str:
    if importlib.util.find_spec("mediapipe") is None:
        raise _MissingError("is not installed", "pip install 'deft-llm[mediapipe]'")
    return f"installed, {version('mediapipe')}; --face-source mediapipe:PATH needs face_landmarker.task"


def _extra(extra: str, packages: Sequence[str]) -> str:
    missing = []
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise _MissingError(f"{', '.join(missing)} not installed", f"pip install 'deft-llm[{extra}]'")
    return ", ".join(packages)


def report_text(findings: Sequence[Mapping[str, Any]]) -> str:
    """The findings as text: one per line, what to do about each, and whether the core works.

    Args:
        findings (`Sequence[Mapping[str, Any]]`): From `examine`.
    """
    lines = [f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    width = max(len(item["name"]) for item in findings)
    for item in findings:
        mark = "ok" if item["ok"] else "FAILS" if item["core"] else "absent"
        lines.append(f"{mark:<7} {item['name']:<{width}}  {item['detail']}")
        if item["fix"]:
            lines.append(f"{'':<7} {'':<{width}}  → {item['fix']}")
    broken = [item["name"] for item in findings if item["core"] and not item["ok"]]
    seconds = sum(item["seconds"] for item in findings)
    verdict = f"It does not work: {', '.join(broken)}." if broken else "The core works."
    lines.append(f"{verdict} {seconds:.0f} s.")
    return "\n".join(lines)
