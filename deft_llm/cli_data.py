"""The `deft data` commands: build, render, inspect and share datasets."""

import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deft_llm.exit_codes import BROKE_OFF, BUILT_WITH_DROPS, DONE, NOTHING_BUILT
from deft_llm.processing.common_deft import NUM_FRAMES


class Group(typer.core.TyperGroup):
    """A group of commands, of which one can be chosen without importing pydantic."""

    def get_help_option(self, ctx: typer.Context) -> Any:
        option = super().get_help_option(ctx)
        # Typer has pydantic convert every value that is not a bool, and pydantic takes long to import.
        option.default = False
        return option


app = typer.Typer(cls=Group, help="Build, render, inspect and share datasets.", rich_markup_mode=None)


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
            "smic-nir, cas-me2, cas-me3a, cas-me3c, mmew, 4dme, dfme, or any other name for your own recordings with "
            "an annotations.csv.",
        ),
    ],
    output_dir: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")],
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="Confirm that you hold the licence of a source and accept it."),
    ] = None,
    features_only: Annotated[
        bool, typer.Option("--features-only", help="Write flow and labels, but no pixels.")
    ] = False,
    sheet: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Coding sheet of a source, if no sheet or several are found by name."),
    ] = None,
    sheet_encoding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ENCODING",
            help="Encoding of a source's text sheet, such as mac-roman, if it is neither UTF-8 nor UTF-16.",
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links", help="Follow symbolic links that lead out of a source's folder. Each is reported."
        ),
    ] = False,
    emotion_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=KNOWN", help="An emotion word of your own sheets, and the known word with the same meaning."
        ),
    ] = None,
    face_source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FINDER",
            help="Face finder: yunet (default), yunet:MODEL, mediapipe:MODEL, cropped if the frames are face "
            "crops, which are checked, or canonical if they need no check. With NAME= for one source.",
        ),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(help="none: all clips in train. fixed: the sets of the source. holdout: some subjects in test."),
    ] = Split.none,
    test_share: Annotated[float, typer.Option(help="Share of the subjects in test, for --split holdout.")] = 0.2,
    num_frames: Annotated[int, typer.Option(help="Frames that the model samples, for the flow column.")] = NUM_FRAMES,
    crf: Annotated[int, typer.Option(help="x264's constant rate factor (CRF) of the stored clips.")] = 6,
    shard_size: Annotated[int, typer.Option(help="Clips per Parquet file.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the phrasings and of --split holdout.")] = 0,
    rewriter: Annotated[
        str | None,
        typer.Option(
            metavar="URL|pipeline",
            help="Chat model that rewrites the answers: an OpenAI-compatible endpoint (key in DEFT_REWRITER_KEY) or a "
            "transformers pipeline. A rewritten answer is kept if its facts are the same.",
        ),
    ] = None,
    rewriter_model: Annotated[str | None, typer.Option(help="Name of the chat model.")] = None,
    workers: Annotated[int, typer.Option(help="Number of processes, or of parallel tasks on a cluster.")] = 2,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps measured clips, for reuse in later builds.")
    ] = None,
    executor: Annotated[
        Executor | None, typer.Option(help="datatrove executor that runs the shards (extra scale).")
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

    Reads each source's sheet, measures every clip, and writes one dataset folder with a manifest and a data card.
    Nothing is written to the sources. Run the same command again to resume an interrupted build.
    """
    from concurrent.futures import BrokenExecutor

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
            encodings=pairs("--sheet-encoding", sheet_encoding or ()),
            follow_links=follow_links,
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
    clips: Annotated[int, typer.Option(help="Number of clips in both splits together.")] = 1584,
    preset: Annotated[
        str, typer.Option(help="easy, realistic, entangled (looks tied to emotions) or long (for spotting).")
    ] = "easy",
    conventions: Annotated[
        list[str], typer.Option(metavar="NAME...", help="Label conventions: synthetic, synthetic-b or both.")
    ] = ["synthetic"],  # noqa: B006  Typer copies it
    clips_per_face: Annotated[int, typer.Option(help="Clips per face.")] = 18,
    test_share: Annotated[float, typer.Option(help="Share of the faces kept for testing.")] = 0.18,
    corrupt: Annotated[float, typer.Option(help="Share of the clips with one wrong label.")] = 0.0,
    free_sets: Annotated[
        float, typer.Option(help="Share of the training clips with sets of action units that are not prototypes.")
    ] = 0.0,
    num_frames: Annotated[int, typer.Option(help="Frames that the model samples, for the flow column.")] = NUM_FRAMES,
    size: Annotated[int | None, typer.Option(help="Side of the frames in pixels. Default: the preset's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of faces, motion and texts.")] = 0,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 2,
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
        if free_sets:
            raise typer.BadParameter("--free-sets is for rendered faces.")
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
        free_sets=free_sets,
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
        typer.Option(metavar="ID", help="Clip to show. Default: the first one with a supported action unit."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG to write, with a picture of the clip.")] = None,
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
    gated: Annotated[
        bool, typer.Option("--gated", help="Everybody can see it, but you approve access to its files.")
    ] = False,
    i_may_share: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Why the licences allow it. Required for rows of licensed data. Written into the data card.",
        ),
    ] = None,
) -> int:
    """Push a dataset folder to the Hub, if its licences allow it."""
    visibility = visibility_of(private, gated)
    from deft_llm.hub_datasets.build.publishing import push as push_folder

    print(push_folder(folder, repo, visibility=visibility, i_may_share=i_may_share))
    return DONE


def visibility_of(private: bool, gated: bool) -> str:
    """The visibility that the two flags stand for.

    Args:
        private: Whether `--private` is set.
        gated: Whether `--gated` is set.

    Raises:
        typer.BadParameter: Both are set.
    """
    if private and gated:
        raise typer.BadParameter("Choose one of --private and --gated.")
    return "private" if private else "gated" if gated else "public"


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """Parses the values of an option that takes NAME=VALUE.

    Args:
        flag: The option.
        texts: Its values.

    Raises:
        typer.BadParameter: A text has another form.
        ValueError: A name is given twice with different values.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name and equals and not value:
            raise typer.BadParameter(
                f"{flag}: {text!r} has nothing after the equals sign; a shell variable there may be empty."
                f"{suggestion(name) if flag == '--source' else ''}"
            )
        if not (name and equals):
            raise typer.BadParameter(f"{flag}: {text!r} does not have the form NAME=VALUE.")
        if found.setdefault(name, value) != value:
            raise ValueError(f"{flag} {name} is given twice: {found[name]} and {value}.")
    return found


def suggestion(name: str) -> str:
    """For messages: how `--source` is written for the source that is probably meant."""
    from deft_llm.hub_datasets.sources.catalogue import SOURCES, did_you_mean

    return f" Write {name}=DIR." if name in SOURCES else did_you_mean(name)


def face_sources(texts: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Parses the values of `--face-source`.

    Args:
        texts: The values: FINDER or NAME=FINDER.

    Returns:
        The face finder of all sources, and source name → face finder of that source.

    Raises:
        ValueError: Two finders are given for all sources.
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
    """Converts a text to a number or a Boolean if it is one. Slurm's times such as 04:00:00 stay text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else text
