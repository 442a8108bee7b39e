"""Show what a dataset folder contains: tables in the terminal, and a picture per clip."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from deft_llm.drawing import ARROW_SCALE, as_unit_square, draw_crop, draw_flow
from deft_llm.processing.action_units import CANONICAL_LANDMARKS, SIDES, ellipse_mask, get_action_unit, region_ellipse
from deft_llm.processing.key_frames import KeyFrames, apex_position, sample_indices
from deft_llm.processing.motion_evidence import SIGNIFICANT_AT
from deft_llm.processing.video_processing_deft import DeftVideoProcessor

from ..sources.sharing_policy import licence_of
from ..unimer.constraints import CONTRADICTED, NOT_TESTABLE, NOT_VISIBLE, SUPPORTED
from ..unimer.rows import NOT_MEASURABLE
from .manifest import DATA

VERDICTS = (SUPPORTED, CONTRADICTED, NOT_VISIBLE, NOT_TESTABLE)
_COLOURS = {SUPPORTED: "#1a9850", CONTRADICTED: "#d73027", NOT_VISIBLE: "#f0a030", NOT_TESTABLE: "#808080"}
_MOST_DROPS = 20  # rows shown
_SHOWN = 320  # pixels of a crop in the picture


def inspect(
    folder: str | os.PathLike,
    *,
    clip: str | None = None,
    picture: str | os.PathLike | None = None,
    console: Console | None = None,
) -> None:
    """Prints tables about a dataset, or about one clip, and draws a clip.

    Args:
        folder: Folder that `build` or `synthesize` has written.
        clip: Id of the clip to print. Without it, the tables of the dataset are printed, and the picture shows the
            first clip with a supported action unit, or the first clip if there is none.
        picture: PNG file to write.
        console: Prints the tables; by default the terminal.

    Raises:
        FileNotFoundError: The folder does not contain a dataset.
        ValueError: There is not a clip with this id.
        ModuleNotFoundError: A picture is requested, but matplotlib is not installed.
    """
    folder, console = Path(folder), console or Console()
    files = sorted((folder / DATA).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder} has no {DATA}/*.parquet; pass a folder that `deft data build` has written.")
    if clip is None:
        rows = _labels(files)
        print_counts(rows, console)
        print_labels(rows, console)
        print_verdicts(_count_verdicts(rows), console)
        manifest = folder / "manifest.json"
        if manifest.exists():
            print_drops(json.loads(manifest.read_text(encoding="utf-8"))["drops"], console)
        if picture is None:
            return
        clip = next(
            (row["clip_id"] for row in rows if any(unit["verdict"] == SUPPORTED for unit in row["action_units"])),
            rows[0]["clip_id"],
        )
    row = find_row(files, clip)
    print_clip(row, console)
    if picture is not None:
        draw_clip(row, picture)
        console.print(f"Picture of {clip} written to {picture}", highlight=False, soft_wrap=True)


def find_row(files: Sequence[Path], clip: str) -> dict[str, Any]:
    """Reads the row of a clip, without reading the videos of other clips.

    Raises:
        ValueError: There is not a clip with this id.
    """
    near = []
    for path in files:
        ids = pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()
        if clip in ids:
            (row,) = pq.read_table(path, filters=[("clip_id", "==", clip)]).to_pylist()
            return row
        near += [other for other in ids if clip in other]
    hint = f" Clips with that in their id: {', '.join(near[:5])}." if near else ""
    raise ValueError(f"No clip {clip!r} in the dataset.{hint}")


# --- Tables ---------------------------------------------------------------------------------------------------------


def _labels(files: Iterable[Path]) -> list[dict[str, Any]]:
    columns = ["clip_id", "source", "subject", "emotion", "emotion_coarse", "action_units", "quality"]
    rows = []
    for path in files:
        split = path.name.rsplit("-", 3)[0]
        rows += [{**row, "split": split} for row in pq.read_table(path, columns=columns).to_pylist()]
    return rows


def _table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        # Headings break only between words. The table then fits 80 characters.
        table.add_column(
            name, justify="left" if number < left else "right", overflow="fold", min_width=max(map(len, name.split()))
        )
    return table


def print_counts(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    splits = list(dict.fromkeys(row["split"] for row in rows))
    clips = Counter((row["source"], row["split"]) for row in rows)
    people = defaultdict(set)
    for row in rows:
        people[row["source"]].add(row["subject"])
    table = _table("Clips", ["source", "subjects", *splits, "clips"])
    for source in people:
        counts = [clips[source, split] for split in splits]
        table.add_row(source, str(len(people[source])), *map(str, counts), str(sum(counts)))
    if len(people) > 1:
        counts = [sum(clips[source, split] for source in people) for split in splits]
        everyone = len(set().union(*people.values()))
        table.add_row("all", str(everyone), *map(str, counts), str(sum(counts)), style="bold")
    console.print(table)
    subjects = _table("Clips of each subject", ["source", "subject: clips"], left=2)
    for source, names in people.items():
        counts = Counter(row["subject"].partition("/")[2] for row in rows if row["source"] == source)
        shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        text = ", ".join(f"{name}: {count}" for name, count in shown[:_MOST_DROPS])
        subjects.add_row(source, text + (f", and {len(names) - _MOST_DROPS} more" * (len(names) > _MOST_DROPS)))
    console.print(subjects)
    flags = Counter(flag.split(":")[0] for row in rows for flag in row["quality"])
    if flags:
        table = _table("Flags", ["quality", "clips"])
        for flag, count in sorted(flags.items()):
            table.add_row(flag, str(count))
        console.print(table)
    if flags[NOT_MEASURABLE]:
        console.print(f"not measurable: {flags[NOT_MEASURABLE]}", highlight=False)


def print_labels(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = _table("Emotions, in the words of their source", ["source", "emotion", "coarse", "clips"], left=3)
    counts = Counter((row["source"], row["emotion"] or "–", row["emotion_coarse"] or "–") for row in rows)
    for (source, emotion, coarse), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0])):
        table.add_row(source, emotion, coarse, str(count))
    console.print(table)


def _count_verdicts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for unit in row["action_units"]:
            counts[unit["code"]][unit["verdict"]] += 1
    return {code: dict(counts[code]) for code in sorted(counts, key=_by_number)}


def _by_number(code: str) -> tuple[str, int]:
    return code.rstrip("0123456789"), int(code.lstrip("AUDM"))


def print_verdicts(verdicts: Mapping[str, Mapping[str, int]], console: Console) -> None:
    """Prints how many labels of each action unit the motion supports."""
    if not verdicts:
        console.print("No action unit is labelled.")
        return
    known = [*VERDICTS, *sorted({name for counts in verdicts.values() for name in counts} - set(VERDICTS))]
    titles = [name.removesuffix("_in_motion").replace("_", " ") for name in known]
    table = _table("Labelled action units and the motion", ["unit", "name", *titles, "labels"], left=2)
    total: Counter[str] = Counter()
    for code, counts in verdicts.items():
        total.update(counts)
        cells = [str(counts.get(name, 0) or "") for name in known]
        table.add_row(code, get_action_unit(code).name, *cells, str(sum(counts.values())))
    table.add_row("all", "", *(str(total[name]) for name in known), str(total.total()), style="bold")
    console.print(table)


def print_drops(drops: Sequence[Mapping[str, Any]], console: Console) -> None:
    if not drops:
        return
    table = _table(f"Dropped rows: {len(drops)}", ["source", "sheet", "row", "clip", "reason"], left=5)
    for drop in drops[:_MOST_DROPS]:
        cells = (drop.get("source"), drop["sheet"], drop["row"], drop["key"], drop["reason"])
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    console.print(table)
    if len(drops) > _MOST_DROPS:
        console.print(f"and {len(drops) - _MOST_DROPS} more, all in manifest.json")


def print_manifest(manifest: Mapping[str, Any], console: Console) -> None:
    """Prints the summary at the end of a build."""
    print_drops(manifest["drops"], console)
    print_verdicts(manifest["verdicts"], console)
    table = _table("Uni-MER", ["source", "subjects", "rows in sheets", "left out", "dropped", "clips"])
    for name, item in manifest["sources"].items():
        cells = (item["subjects"], item["rows_in_sheets"], sum(item["left_out"].values()), item["dropped"])
        table.add_row(name, *map(str, cells), str(item["clips"]))
    if len(manifest["sources"]) > 1:
        table.add_row("all", "", "", "", str(len(manifest["drops"])), str(manifest["rows"]), style="bold")
    console.print(table)
    splits = ", ".join(
        f"{name} {part['clips']} clips of {part['subjects']} subjects" for name, part in manifest["splits"].items()
    )
    console.print(f"{splits}; {manifest['conversations']} questions and answers", highlight=False)
    if manifest.get("not_measurable"):
        console.print(f"not measurable: {sum(manifest['not_measurable'].values())}", highlight=False)
    if manifest["rewriting"]:
        outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in manifest["rewriting"].items())
        console.print(f"Rewritten by {manifest['settings']['rewriter_model']}: {outcomes}", highlight=False)
    if manifest["near_duplicates"]:
        pairs = manifest["near_duplicates"]
        console.print(
            f"{len(pairs)} pairs of clips of different subjects look alike, such as {pairs[0]['first']} and "
            f"{pairs[0]['second']}: see the manifest."
        )


def print_clip(row: Mapping[str, Any], console: Console) -> None:
    table = _table(row["clip_id"], ["unit", "sheet", "side", "verdict", "agreement", "region"], left=4)
    for unit in row["action_units"]:
        table.add_row(
            f"{unit['code']} {get_action_unit(unit['code']).name}",
            unit["raw"],
            unit["side"],
            unit["verdict"].replace("_", " "),
            f"{unit['agreement']:.2f}",
            unit["region"],
        )
    console.print(table)
    for text in [_headline(row), *_motion_lines(row), "", _explanation(row)]:
        console.print(text, highlight=False, markup=False)


def _headline(row: Mapping[str, Any]) -> str:
    emotion = row["emotion"] or "no emotion"
    coarse = f" ({row['emotion_coarse']})" if row["emotion_coarse"] else ""
    frames = f"onset {row['onset']}, apex {row['apex']}, offset {row['offset']}"
    rate = f" at {row['fps']:g} frames/s" if row["fps"] else ""
    flags = f"; flags: {', '.join(row['quality'])}" if row["quality"] else ""
    return f"{row['source']}: {emotion}{coarse}; {frames}{rate}{flags}"


def _motion_lines(row: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{item['side']} {item['region']} moves {item['direction']} by {item['magnitude']:.1f} %"
        for item in row["motion"]
        if item["significant"]
    ]
    return lines or [_why_not(row) or "no motion above the clip's noise"]


def _why_not(row: Mapping[str, Any]) -> str | None:
    """Why the clip cannot be measured, or `None` if it can."""
    reasons = [text.partition(":")[2] for text in row["quality"] if text.startswith(f"{NOT_MEASURABLE}:")]
    return f"not measurable: {reasons[0]}" if reasons else None


def _explanation(row: Mapping[str, Any]) -> str:
    """The answer to the full question; if there is none, the answers to the other questions."""
    answers = {
        item["task"]: item["messages"][-1]["content"][-1]["text"] for item in reversed(row["conversations"] or [])
    }
    if "explain" in answers:
        return answers["explain"]
    nothing = "the clip cannot be measured" if _why_not(row) else "label and motion do not agree on any action unit"
    return "\n".join(f"{task.replace('_', ' ')}: {text}" for task, text in sorted(answers.items())) or (
        f"nothing can be said: {nothing}"
    )


# --- Picture --------------------------------------------------------------------------------------------------------


def draw_clip(row: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws a clip: onset, apex, flow, the regions of the labelled units, the motion over time, and the text.

    Args:
        row: Uni-MER row of the clip.
        path: PNG file to write.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: The clip has no key frames.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise ModuleNotFoundError("--picture needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    if row["flow"] is None:
        raise ValueError(f"{row['clip_id']} has no key frames and no flow, so it cannot be drawn.")
    flow = np.asarray(row["flow"], np.float32)
    keys = KeyFrames(row["onset"], row["apex"], row["offset"])
    apex = apex_position(len(flow) + 1)
    crops = _crops(row, len(flow) + 1)
    figure = plt.figure(figsize=(15, 8.2), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1.0, 0.9))
    axes = [figure.add_subplot(grid[0, column]) for column in range(4)]
    titles = (
        f"Onset, frame {keys.onset}",
        f"Apex, frame {keys.apex}",
        f"Flow onset to apex, arrows {ARROW_SCALE} ×",
        "Labelled units, by verdict",
    )
    shown = (crops[0], crops[1], crops[1], crops[0])
    for axis, title, crop in zip(axes, titles, shown, strict=True):
        as_unit_square(axis)
        axis.set_title(title, fontsize=11)
        if crop is None:
            _draw_outline(axis)
            if axis in axes[:2]:
                axis.text(0.5, 0.95, "features only, no video", ha="center", fontsize=9, color="#808080")
        else:
            draw_crop(axis, crop, faded=axis in axes[2:])
    _draw_flow_bar(figure, axes[2], draw_flow(axes[2], flow[apex - 1]))
    _draw_units(axes[3], row["action_units"])
    _draw_course(figure.add_subplot(grid[1, :2]), row, flow, keys)
    _draw_text(figure.add_subplot(grid[1, 2:]), row)
    licence = licence_of(row["source"])
    note = (
        ""
        if licence is None or licence.show_faces
        else "   [not for publication: the licence does not allow showing faces]"
    )
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.94))
    figure.text(0.01, 0.988, f"{row['clip_id']}{note}", fontsize=12, ha="left", va="top", weight="bold")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)


def _crops(row: Mapping[str, Any], num_frames: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Onset and apex, (side, side, 3) in 0–1; `None` for features only."""
    if row["video"] is None:
        return None, None
    processor = DeftVideoProcessor(
        num_frames=num_frames, size={"height": _SHOWN, "width": _SHOWN}, do_normalize=False, do_estimate_flow=False
    )
    keys = (row["onset"], row["apex"], row["offset"])
    pixels = processor(row["video"], key_frames=keys, face_source="canonical")["pixel_values_videos"][0]
    frames = pixels.transpose(0, 2, 3, 1).clip(0, 1)
    return frames[0], frames[apex_position(num_frames)]


def _draw_outline(axis: Any) -> None:
    """Draws the positions of eyes and mouth in the canonical crop, if there is no video."""
    from matplotlib.patches import Ellipse

    axis.set_facecolor("#f4f4f4")
    axis.add_patch(Ellipse((0.5, 0.5), 0.82, 0.98, fill=False, color="#bbbbbb"))
    for x, y in CANONICAL_LANDMARKS.values():
        axis.add_patch(Ellipse((x, y), 0.16 if y < 0.55 else 0.26, 0.05, fill=False, color="#bbbbbb"))


def _draw_flow_bar(figure: Any, axis: Any, arrows: Any) -> None:
    bar = figure.colorbar(arrows, cax=axis.inset_axes((0.05, -0.07, 0.9, 0.04)), orientation="horizontal")
    bar.set_label("% of the crop's width", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw_units(axis: Any, units: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    taken: Counter[tuple[str, str]] = Counter()
    for unit in units:
        region = unit["region"] or next((motion.region for motion in get_action_unit(unit["code"]).motions), None)
        if region is None:
            continue
        for side in SIDES if unit["side"] == "both" else (unit["side"],):
            cx, cy, rx, ry = region_ellipse(region, side)
            grown = 1 + 0.15 * taken[region, side]  # keeps two units of one region apart
            taken[region, side] += 1
            colour = _COLOURS.get(unit["verdict"], "black")
            axis.add_patch(
                Ellipse(
                    (cx, cy),
                    2 * rx * grown,
                    2 * ry * grown,
                    fill=False,
                    color=colour,
                    linewidth=2.2,
                    linestyle="-" if unit["certain"] else ":",
                )
            )
    names = [
        Line2D([], [], color=_COLOURS.get(unit["verdict"], "black"), lw=3, label=_unit_name(unit)) for unit in units
    ]
    names = names or [Line2D([], [], lw=0, label="no unit labelled")]
    axis.legend(handles=names, loc="upper center", bbox_to_anchor=(0.5, -0.01), fontsize=8.5, frameon=False)


def _unit_name(unit: Mapping[str, Any]) -> str:
    side = "" if unit["side"] == "both" else f", {unit['side']}"
    sheet = "" if unit["raw"].upper() in (unit["code"], unit["code"].lstrip("AUDM")) else f' (sheet: "{unit["raw"]}")'
    return f"{unit['code']}{side}{sheet}: {unit['verdict'].replace('_', ' ')}"


def _draw_course(axis: Any, row: Mapping[str, Any], flow: np.ndarray, keys: KeyFrames) -> None:
    """Draws the motion since the onset of the regions that move most, and the noise floor."""
    fps = row["fps"]
    times = np.array(sample_indices(keys, len(flow) + 1), float)
    at = (times - keys.onset) * (1000 / fps if fps else 1)
    shown = [item for item in row["motion"] if item["significant"]][:4] or row["motion"][:2]
    _, _, height, width = flow.shape
    for item in shown:
        mask = ellipse_mask(region_ellipse(item["region"], item["side"]), height, width)
        course = np.hypot(*flow[:, :, mask].mean(-1).T)
        axis.plot(at, [0, *course], marker="o", markersize=4, label=f"{item['side']} {item['region']}")
    # The regions' limits differ little. Rows of older data have no errors.
    limit = SIGNIFICANT_AT * max((item.get("standard_error") or 0.0 for item in shown), default=0.0)
    axis.set_ylim(0, 1.35 * max(limit, axis.get_ylim()[1]))
    if limit:
        axis.axhline(limit, color="#808080", linestyle="--", linewidth=1)
        axis.annotate("limit of noise", (at[-1], limit), ha="right", va="bottom", fontsize=8.5, color="#606060")
    apex = at[apex_position(len(flow) + 1)]
    axis.axvline(apex, color="#cccccc", zorder=0)
    axis.annotate(
        "apex",
        (apex, 1),
        xycoords=("data", "axes fraction"),
        ha="left",
        va="top",
        fontsize=8.5,
        color="#606060",
        xytext=(3, -3),
        textcoords="offset points",
    )
    axis.set_xlabel("ms since the onset" if fps else "frames since the onset")
    axis.set_ylabel("motion in % of the crop's width")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8.5, frameon=False, loc="upper left")
    axis.set_title("Strongest regions over time", fontsize=11)


def _draw_text(axis: Any, row: Mapping[str, Any]) -> None:
    axis.axis("off")
    questions = {item["task"]: item["messages"][0]["content"][-1]["text"] for item in reversed(row["conversations"])}
    blocks = [("Label", _headline(row)), ("Motion", "; ".join(_motion_lines(row)[:4]))]
    if "explain" in questions:
        blocks.append(("Question", questions["explain"]))
    blocks.append(("Answer", _explanation(row)))
    lines = []
    for title, text in blocks:
        lines.append(r"$\bf{" + title + "}$")
        for part in text.splitlines():
            lines += textwrap.wrap(part, 88, subsequent_indent="   ") or [""]
    most = 25
    if len(lines) > most:
        lines = [*lines[: most - 1], "…"]
    text = "\n".join(line.replace("$", r"\$") if not line.startswith(r"$\bf") else line for line in lines)
    axis.text(0, 1, text, va="top", ha="left", fontsize=9.5, linespacing=1.35, transform=axis.transAxes)
