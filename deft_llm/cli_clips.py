"""The commands that need no model: `deft measure`, `deft spot` and `deft doctor`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deft_llm.exit_codes import BROKE_OFF, DONE, REFUSED

if TYPE_CHECKING:
    from deft_llm.clips import Spotted

Clips = Annotated[list[str], typer.Argument(help="Videos, folders of frames, or URLs.", metavar="CLIP...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FaceSource = Annotated[
    str | None,
    typer.Option(
        metavar="FINDER",
        help="Face finder: yunet, yunet:MODEL, mediapipe:MODEL, cropped if the frames are face crops, which are "
        "checked, or canonical if they need no check.",
    ),
]
Rate = Annotated[float | None, typer.Option(help="Frames per second, if the clip does not state them.")]


class TableFormat(StrEnum):
    csv = "csv"
    parquet = "parquet"


class IntervalFormat(StrEnum):
    csv = "csv"
    json = "json"
    eaf = "eaf"
    megc = "megc"


class Reference(StrEnum):
    rest = "rest"
    first = "first"


def measure(
    clips: Clips,
    as_json: AsJson = False,
    face_source: FaceSource = None,
    key_frames: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="ONSET APEX OFFSET", help="Frame numbers. By default they are spotted."),
    ] = None,
    fps: Rate = None,
    every_region: Annotated[bool, typer.Option("--all", help="Also print regions below the noise.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Measure every frame of videos of any length into this folder: a table per video, and clips.csv. The "
            "options below need it. Folders stand for the videos in them.",
        ),
    ] = None,
    kind: Annotated[TableFormat, typer.Option("--format", help="With --out: the tables' format.")] = TableFormat.csv,
    start: Annotated[float | None, typer.Option(min=0, help="With --out: from this second on.")] = None,
    end: Annotated[float | None, typer.Option(min=0, help="With --out: up to this second.")] = None,
    reference: Annotated[
        Reference,
        typer.Option(
            help="With --out: motion is relative to the face at rest, the median of 3 s around, or to the first frame."
        ),
    ] = Reference.rest,
    faces: Annotated[
        int | None, typer.Option(min=1, help="With --out: follow this many faces at most, the largest ones.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --out: processes, one video each.")] = 2,
) -> int:
    """Measure the motion of clips, or with --out of every frame of videos, without a model."""
    options = {"--start": start, "--end": end, "--faces": faces}
    if out is None:
        given = [name for name, value in options.items() if value is not None]
        given += ["--format"] * (kind != TableFormat.csv) + ["--reference"] * (reference != Reference.rest)
        if given:
            raise typer.BadParameter(f"{given[0]} needs --out.")
        return _measure_clips(clips, as_json, face_source, key_frames, fps, every_region)
    if as_json or every_region or key_frames is not None:
        raise typer.BadParameter("--out cannot be combined with --json, --all or --key-frames.")
    from deft_llm.measure_folder import Settings

    settings = Settings(
        face_source=face_source or "cropped",
        reference=reference.value,
        fps=fps,
        start=start,
        end=end,
        faces=faces,
        format=kind.value,
    )
    return _measure_into(out, clips, settings, workers)


def _measure_clips(clips, as_json, face_source, key_frames, fps, every_region) -> int:
    from deft_llm.clips import measure_clips, measured_data, measured_text

    measured = measure_clips(clips, face_source=face_source, key_frames=key_frames, fps=fps, every_region=every_region)
    if as_json:
        print_json([measured_data(item) for item in measured])
        return DONE
    for item in measured:
        print_titled(item["clip"], measured_text(item), alone=len(clips) == 1)
    return DONE


def _measure_into(out: Path, clips: list[str], settings: Any, workers: int) -> int:
    from deft_llm.measure_folder import CLIPS_FILE, MEASURED, REFUSED_CLIP, MeasureFolder, find_videos, measure_videos
    from deft_llm.processing.face_alignment import make_face_source

    if settings.format == "parquet":
        import pyarrow.parquet  # noqa: F401  # said before anything is measured
    make_face_source(settings.face_source)
    videos = find_videos(clips)
    with MeasureFolder(out, settings).opened() as folder:
        rows = measure_videos(folder, videos, workers=workers)
    refused = [row for row in rows if row["status"] == REFUSED_CLIP]
    for row in refused:
        print(f"error: {row['reason']}", file=sys.stderr)
    frames = sum(row["frames"] for row in rows if row["status"] != REFUSED_CLIP)
    nothing = sum(row["status"] not in (MEASURED, REFUSED_CLIP) for row in rows)
    told = [f"{len(rows) - len(refused)} of {len(rows)} videos, {frames} frames, are in {out}"]
    if nothing:
        told.append(f"{nothing} of them cannot be measured")
    told.append(f"{CLIPS_FILE} has one row per video")
    print("; ".join(told) + ".")
    return REFUSED if refused else DONE


def spot(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Videos, folders of frames, or URLs.")],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    face_source: FaceSource = None,
    fps: Rate = None,
    longest: Annotated[float, typer.Option(help="Longest expression to look for, in seconds.")] = 1.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the intervals to a new file.")] = None,
    kind: Annotated[
        IntervalFormat | None,
        typer.Option(
            "--format",
            help="csv, json, eaf for ELAN (needs --out), or megc, the form of MEGC's spotting task. By default that "
            "of --out's suffix.",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="EAF", help="Score the expressions against an ELAN file's annotations.")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="With --against: the tier of the annotations.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the timeline to a new file.")] = None,
) -> int:
    """Find expressions, blinks and speech in videos, and say which stretches cannot be measured."""
    from deft_llm import interval_files as files
    from deft_llm.clips import spotted
    from deft_llm.files import check_new

    if as_json + as_csv + (kind is not None) > 1:
        raise typer.BadParameter(
            "Choose one of --json, --csv and --format." if kind else "Choose one of --json and --csv."
        )
    name = "json" if as_json else "csv" if as_csv else files.format_of(out, kind.value if kind else None)
    for option, value in (("--format eaf", name == "eaf"), ("--against", against), ("--picture", picture)):
        if value and len(videos) > 1:
            raise typer.BadParameter(f"{option} is about one video, got {len(videos)}.")
    if name == "eaf" and out is None:
        raise typer.BadParameter("--format eaf needs --out FILE.eaf.")
    if tier is not None and against is None:
        raise typer.BadParameter("--tier needs --against.")
    for path in (out, picture):
        if path is not None:
            check_new(path)
    annotations = None if against is None else files.read_annotations(against, tier)
    if picture is not None:
        import matplotlib  # noqa: F401  # said before anything is measured
    followed: list[Any] = []
    options = {"fps": fps, "longest": longest, "face_source": face_source}
    noted = None if picture is None else followed.append
    found = [spotted(video, **options, noted=noted) for video in videos]
    if out is not None:
        files.write_intervals(found, out, name)
        print(f"Intervals written to {out}")
    else:
        _print_intervals(found, name, None if annotations is None else files.scored(found[0], annotations))
    if out is not None and annotations is not None:
        print(files.score_text(files.scored(found[0], annotations)))
    if picture is not None:
        from deft_llm.timeline import draw_timeline, motion_course

        draw_timeline(found[0], motion_course(followed, found[0].fps), picture)
        print(f"Picture written to {picture}", file=sys.stderr)
    return DONE


def _print_intervals(found: "list[Spotted]", name: str | None, score: dict[str, Any] | None) -> None:
    from deft_llm.clips import intervals_text, stretches_text
    from deft_llm.interval_files import as_data, as_text, score_text

    if name == "json" and score is not None:
        print_json({**as_data(found[0]), "score": score})
        return
    aside = sys.stdout if name is None else sys.stderr  # tables hold intervals only
    for item in found:
        if name is None:
            lines = intervals_text(item.intervals, item.fps, item.times) + stretches_text(item.stretches, item.fps)
            print_titled(item.video, lines.rstrip("\n"), alone=len(found) == 1)
        elif name != "json":
            print(stretches_text(item.stretches, item.fps), end="", file=sys.stderr)
    if name is not None:
        print(as_text(found, name), end="")
    if score is not None:
        print(score_text(score), file=aside)


def doctor(as_json: AsJson = False) -> int:
    """Check that the installation works: versions, decoders, face finders, and a planted motion that is found."""
    from deft_llm.doctor import examine, report_text

    findings = examine()
    works = all(item["ok"] for item in findings if item["core"])
    if as_json:
        print_json({"works": works, "findings": findings})
    else:
        print(report_text(findings))
    return DONE if works else BROKE_OFF


def print_json(content: Any) -> None:
    """Prints JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def print_titled(clip: str, text: str, *, alone: bool) -> None:
    """Prints a text, under the name of its clip if there are several."""
    print(text if alone else f"{clip}\n{text}\n")
