"""`deft explain`."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Modules that the command needs are imported when it runs, so that --help does not wait for torch.
from deft_llm.cli_clips import AsJson, Clips, FaceSource, Rate
from deft_llm.exit_codes import DONE

if TYPE_CHECKING:
    from deft_llm.explained import ExplainedVideo


class Format(StrEnum):
    text = "text"
    jsonl = "jsonl"
    csv = "csv"


def explain(
    clips: Clips,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub repository of a trained model. Default: the small model of this package, which was "
            "trained on rendered faces alone."
        ),
    ] = None,
    as_json: AsJson = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="text (default); jsonl: one JSON line per report; csv: one row per evidence."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the reports to, instead of printing them.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write, for one video: onset, apex, what moved, class and units.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="MP4 to write, for one video: the clip slowed, with what moved drawn on it.")
    ] = None,
    slow: Annotated[
        float, typer.Option(min=1, max=100, help="How many times slower than life the overlay shows expressions.")
    ] = 4.0,
    spot: Annotated[
        bool, typer.Option("--spot", help="Find the expressions in a long video, and explain each of them.")
    ] = False,
    longest: Annotated[float, typer.Option(help="Longest expression that --spot looks for, in seconds.")] = 1.0,
    fps: Rate = None,
    face_source: FaceSource = None,
    convention: Annotated[str | None, typer.Option(help="Label convention to answer in.")] = None,
    question: Annotated[str | None, typer.Option(help="Question that replaces the default one.")] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Then answer questions about the clip, or about two clips, from standard input."),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
) -> int:
    """Explain clips with a trained model."""
    if model is None:
        if revision is not None:
            raise typer.BadParameter("--revision needs --model.")
        from deft_llm.tiny_model import BOX

        model = str(BOX)
        print("No --model: the small model of this package answers, trained on rendered faces alone.", file=sys.stderr)
    options: dict[str, Any] = {
        "revision": revision,
        "convention": convention,
        "face_source": face_source,
        "max_new_tokens": max_new_tokens,
    }
    if chat:
        if as_json or question is not None:
            raise typer.BadParameter("--chat cannot be combined with --json or --question.")
        if spot or form or out or picture or overlay or fps:
            raise typer.BadParameter(
                "--chat cannot be combined with --spot, --fps, --format, --out, --picture or --overlay."
            )
        from deft_llm.clips import chat_about_clips

        chat_about_clips(clips, model, sys.stdin, **options)
        return DONE
    if as_json and (form or out or spot):
        raise typer.BadParameter("--json cannot be combined with --format, --out or --spot. Use --format jsonl.")
    _check_files(clips, out, picture, overlay)
    from deft_llm.explained import explain_videos

    videos = explain_videos(clips, model, question=question, fps=fps, spot=spot, longest=longest, **options)
    with ExitStack() as files:
        videos = _drawn(videos, files, picture, overlay, slow)
        if as_json:
            from deft_llm.explained import as_result

            found = [as_result(video) for video in videos]
            kept = ("clip", "report", "generated_text", "frames_indices")
            print(json.dumps([{name: item[name] for name in kept} for item in found], indent=2, ensure_ascii=False))
            return DONE
        pieces = _pieces(videos, form or Format.text, titled=len(clips) > 1, question=question is not None)
        if out is None:
            for piece in pieces:
                print(piece, end="", flush=True)
            return DONE
        from deft_llm.files import new_file

        partial = files.enter_context(new_file(out))
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.writelines(pieces)
    return DONE


def _pieces(videos: "Iterator[ExplainedVideo]", form: Format, *, titled: bool, question: bool) -> Iterator[str]:
    """What is printed or written, video by video."""
    from deft_llm.explained_rows import texts, written

    if form is not Format.text:
        yield from written(videos, form.value)
        return
    for video in videos:
        text = texts(video, question=question)
        yield f"{video.source}\n{text}\n\n" if titled else f"{text}\n"


def _drawn(
    videos: "Iterator[ExplainedVideo]", files: ExitStack, picture: Path | None, overlay: Path | None, slow: float
) -> "Iterator[ExplainedVideo]":
    """The same videos. The picture and the film are drawn on the way, and get their names when `files` is closed."""
    from deft_llm.files import new_file

    for video in videos:
        if picture is not None:
            from deft_llm.explained_picture import picture as drawn
            from deft_llm.explained_picture import png

            files.enter_context(new_file(picture)).write_bytes(png(drawn(video)))
        if overlay is not None:
            from deft_llm.overlay import write_overlay

            write_overlay(files.enter_context(new_file(overlay)), video, slow=slow)
        yield video


def _check_files(clips: list[str], out: Path | None, picture: Path | None, overlay: Path | None) -> None:
    """Refuses files that cannot be written, before a model is loaded."""
    from deft_llm.files import check_new

    for name, file, suffix in (("--picture", picture, ".png"), ("--overlay", overlay, ".mp4")):
        if file is None:
            continue
        if len(clips) > 1:
            raise typer.BadParameter(f"{name} is for one video, got {len(clips)}.")
        if file.suffix.lower() != suffix:
            raise typer.BadParameter(f"{name} {file}: the name must end with {suffix}.")
    given = [file for file in (out, picture, overlay) if file is not None]
    if len({file.resolve() for file in given}) < len(given):
        raise typer.BadParameter("--out, --picture and --overlay must be different files.")
    for file in given:
        check_new(file)
