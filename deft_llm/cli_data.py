"""`deft data`: build, render, look at and share datasets."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deft_llm.exit_codes import BROKE_OFF, BUILT_WITH_DROPS, DONE, NOTHING_BUILT

app = typer.Typer(help="Build, render, look at and share datasets.", rich_markup_mode=None)


class Split(StrEnum):
    none = "none"
    fixed = "fixed"
    holdout = "holdout"


class Executor(StrEnum):
    local = "local"
    slurm = "slurm"
    ray = "ray"


@app.command()
def build(
    source: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=DIR...",
            help="Data sets and the folders they were unpacked to: casme, casme2, samm, samm-long, smic-hs, smic-vis, "
            "smic-nir, cas-me2, cas-me3a, cas-me3c, mmew, 4dme, dfme, or any other name for own recordings with an "
            "annotations.csv.",
        ),
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")],
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Say that you hold the licence of a source and accept it."),
    ] = None,
    features_only: Annotated[
        bool, typer.Option("--features-only", help="Write flow and labels, and no pixels.")
    ] = False,
    sheet: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Coding sheet of a source, if none is found by name, or several are."),
    ] = None,
    emotion_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=KNOWN", help="An emotion word of your own sheets, and the known word it stands for."
        ),
    ] = None,
    face_source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FINDER",
            help="What finds the face: yunet (if not given), yunet:MODEL, mediapipe:MODEL, or cropped where frames "
            "are face crops already; with NAME= for one source.",
        ),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            help="none: all clips in train; fixed: the sets that a source states; holdout: subjects kept for testing."
        ),
    ] = Split.none,
    test_share: Annotated[float, typer.Option(help="Share of the subjects, for --split holdout.")] = 0.2,
    num_frames: Annotated[int, typer.Option(help="Frames that the model samples, for the flow column.")] = 8,
    crf: Annotated[int, typer.Option(help="x264's rate factor of the stored clips.")] = 6,
    shard_size: Annotated[int, typer.Option(help="Clips per Parquet file.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the phrasings and of --split holdout.")] = 0,
    rewriter: Annotated[
        str | None,
        typer.Option(
            metavar="URL|pipeline",
            help="A chat model that words the answers anew, kept where the facts stay the same: an OpenAI-compatible "
            "endpoint (key in DEFT_REWRITER_KEY) or a transformers pipeline.",
        ),
    ] = None,
    rewriter_model: Annotated[str | None, typer.Option(help="Name of the chat model.")] = None,
    workers: Annotated[int, typer.Option(help="Processes, or tasks at once on a cluster.")] = 2,
    cache: Annotated[
        Path | None, typer.Option(help="Keep measured clips there, and take those of an earlier build.")
    ] = None,
    executor: Annotated[
        Executor | None, typer.Option(help="Run the shards by datatrove (extra scale) instead of own processes.")
    ] = None,
    executor_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of datatrove's executor: partition=cpu and time=04:00:00 for slurm, address=auto for ray.",
        ),
    ] = None,
) -> int:
    """Build Uni-MER from the data sets you hold.

    Reads each source's sheet, measures every clip, and writes one dataset folder with manifest and data card. Nothing
    is written to the sources. Interrupted, the same command goes on where it was.
    """
    from rich.console import Console

    from deft_llm.hub_datasets.build.inspection import print_drops, print_manifest
    from deft_llm.hub_datasets.build.run import build as run_build
    from deft_llm.hub_datasets.build.settings import BuildInterruptedError, BuildSettings, NothingBuiltError

    console = Console()
    finder, finder_of = face_sources(face_source or ())
    settings = BuildSettings(
        features_only=features_only,
        num_frames=num_frames,
        split=split.value,
        test_share=test_share,
        face_source=finder,
        face_source_of=finder_of,
        crf=crf,
        shard_size=shard_size,
        seed=seed,
        rewriter=rewriter,
        rewriter_model=rewriter_model,
    )
    options = pairs("--executor-option", executor_option or ())
    try:
        manifest = run_build(
            pairs("--source", source),
            output_dir,
            accepted=accept_licence or (),
            sheets=pairs("--sheet", sheet or ()),
            emotion_words=pairs("--emotion-word", emotion_word or ()),
            settings=settings,
            workers=workers,
            cache=cache,
            executor=None if executor is None else executor.value,
            executor_options={key: plain(value) for key, value in options.items()},
            console=console,
        )
    except NothingBuiltError as error:
        print_drops(error.drops, console)
        print(f"error: {error}", file=sys.stderr)
        return NOTHING_BUILT
    except BuildInterruptedError as error:
        if not isinstance(error.__cause__, BrokenExecutor):
            traceback.print_exception(error.__cause__)
        print(f"error: {error}", file=sys.stderr)
        return BROKE_OFF
    if manifest is None:
        return DONE
    print_manifest(manifest, console)
    console.print(f"Written to {output_dir}", highlight=False, soft_wrap=True)
    return BUILT_WITH_DROPS if manifest["drops"] else DONE


@app.command()
def synthesize(
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")],
    clips: Annotated[int, typer.Option(help="Clips in both splits together.")] = 1584,
    preset: Annotated[
        str, typer.Option(help="easy, realistic, entangled (looks go with emotions) or long (for spotting).")
    ] = "easy",
    conventions: Annotated[
        list[str], typer.Option(metavar="NAME...", help="Label conventions: synthetic, synthetic-b or both.")
    ] = ["synthetic"],  # noqa: B006  Typer copies it
    clips_per_face: Annotated[int, typer.Option(help="Clips per face.")] = 18,
    test_share: Annotated[float, typer.Option(help="Share of the faces kept for testing.")] = 0.18,
    corrupt: Annotated[float, typer.Option(help="Share of clips with one wrong label.")] = 0.0,
    num_frames: Annotated[int, typer.Option(help="Frames that the model samples, for the flow column.")] = 8,
    size: Annotated[int | None, typer.Option(help="Side of the frames in pixels, if not the preset's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of faces, motion and texts.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of videos of anybody: plant the expressions into them instead of rendering faces. One "
            "recording counts as one face.",
        ),
    ] = None,
    face_source: Annotated[
        str | None,
        typer.Option(
            metavar="FINDER",
            help="What finds the face in --recordings: yunet (if not given), yunet:MODEL, mediapipe:MODEL or cropped.",
        ),
    ] = None,
) -> int:
    """Render a labelled dataset of synthetic faces, or plant its expressions into recordings."""
    if recordings is not None:
        if size is not None:
            raise typer.BadParameter("--size is for rendered faces; recordings keep their own resolution.")
        from deft_llm.hub_datasets.synthetic.recordings import build_planted

        build_planted(
            recordings=recordings,
            out=output_dir,
            clips=clips,
            face_source=face_source or "yunet",
            preset=preset,
            conventions=tuple(conventions),
            clips_per_recording=clips_per_face,
            test_share=test_share,
            corrupt=corrupt,
            num_frames=num_frames,
            seed=seed,
            workers=workers,
        )
        return DONE
    if face_source is not None:
        raise typer.BadParameter("--face-source goes with --recordings; rendered faces need none.")
    from deft_llm.hub_datasets.synthetic.dataset import build as render

    render(
        out=output_dir,
        clips=clips,
        preset=preset,
        conventions=tuple(conventions),
        clips_per_face=clips_per_face,
        test_share=test_share,
        corrupt=corrupt,
        num_frames=num_frames,
        size=size,
        seed=seed,
        workers=workers,
    )
    return DONE


@app.command("inspect")
def inspect_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Dataset folder.")],
    clip: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Clip to show; without it, the first one with a supported action unit."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG to draw the clip into.")] = None,
) -> int:
    """Print tables about a dataset folder, and draw a clip."""
    from deft_llm.hub_datasets.build.inspection import inspect

    inspect(folder, clip=clip, picture=picture)
    return DONE


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Dataset folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Hub repository, such as org/uni-mer.")],
    private: Annotated[bool, typer.Option("--private", help="Only you and your organisation can see it.")] = False,
    gated: Annotated[bool, typer.Option("--gated", help="Visible; you answer requests for its files.")] = False,
    i_may_share: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Why the licences allow it: needed for rows of licensed data, and written into the data card.",
        ),
    ] = None,
) -> int:
    """Put a dataset folder on the Hub, as far as its licences allow."""
    visibility = visibility_of(private, gated)
    from deft_llm.hub_datasets.build.publishing import push as push_folder

    print(push_folder(folder, repo, visibility=visibility, i_may_share=i_may_share))
    return DONE


def visibility_of(private: bool, gated: bool) -> str:
    """The word for the two flags.

    Raises:
        typer.BadParameter: Both are set.
    """
    if private and gated:
        raise typer.BadParameter("Choose one of --private and --gated.")
    return "private" if private else "gated" if gated else "public"


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """The names and values of an option that takes NAME=VALUE.

    Raises:
        typer.BadParameter: A text has another form.
        ValueError: A name is given twice with different values.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{flag}: {text!r} does not have the form NAME=VALUE.")
        if found.setdefault(name, value) != value:
            raise ValueError(f"{flag} {name} is given twice: {found[name]} and {value}.")
    return found


def face_sources(texts: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What finds the face: for all sources, and for single ones by their names.

    Raises:
        ValueError: Two are given for all sources.
    """
    single, each = {}, []
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and ":" not in name:
            single[name] = value
        else:
            each.append(text)
    if len(each) > 1:
        raise ValueError(f"--face-source is given twice for all sources: {' and '.join(each)}.")
    return (each or ["yunet"])[0], single


def plain(text: str) -> Any:
    """A number or a truth value where it is one; Slurm's times such as 04:00:00 stay text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else text
