"""Command line of the data: rendered datasets, and Uni-MER from one's own licensed copies.

exit status: 0 done, 1 broke off (the same command goes on with it), 2 the request or the data is at fault,
3 nothing was built, 4 built, with some rows dropped (each with its reason in manifest.json), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

DONE, BROKE_OFF, REFUSED, NOTHING_BUILT, BUILT_WITH_DROPS, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(argv: list[str] | None = None) -> int:
    arguments = vars(_parser().parse_args(argv))
    run = arguments.pop("run")
    del arguments["command"]
    try:
        return run(arguments)
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on with what is unfinished.", file=sys.stderr)
        return INTERRUPTED
    # The loops over clips raise BuildInterruptedError, so a ValueError is about what was asked for.
    except (ValueError, FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except ModuleNotFoundError as error:
        hint = f". This needs `pip install 'deft-llm[data]'`, which brings {error.name}." if error.name else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return BROKE_OFF


def _synthesize(arguments: dict[str, Any]) -> int:
    # Imported late, here and below: --help should not wait for torch.
    from .synthetic.dataset import build

    arguments["conventions"] = tuple(arguments["conventions"])
    build(**arguments)
    return DONE


def _build(arguments: dict[str, Any]) -> int:
    from rich.console import Console

    from .build.inspection import print_drops, print_manifest
    from .build.run import build
    from .build.settings import BuildInterruptedError, BuildSettings, NothingBuiltError

    console = Console()
    single, each = {}, []
    for text in arguments.pop("face_source"):
        name, equals, value = text.partition("=")
        if equals and ":" not in name:
            single[name] = value
        else:
            each.append(text)
    if len(each) > 1:
        raise ValueError(f"--face-source is given twice for all sources: {' and '.join(each)}.")
    names = ("features_only", "num_frames", "split", "test_share", "crf", "shard_size", "seed", "rewriter",
             "rewriter_model")  # fmt: skip
    options = {name: arguments.pop(name) for name in names}
    settings = BuildSettings(**options, face_source=(each or ["yunet"])[0], face_source_of=single)
    sources = _unique("--source", arguments.pop("source"))
    try:
        manifest = build(
            sources,
            arguments["out"],
            accepted=arguments["accept_licence"],
            sheets=_unique("--sheet", arguments["sheet"]),
            emotion_words=_unique("--emotion-word", arguments["emotion_word"]),
            settings=settings,
            workers=arguments["workers"],
            cache=arguments["cache"],
            executor=arguments["executor"],
            executor_options={
                key: _plain(value) for key, value in _unique("--executor-option", arguments["executor_option"]).items()
            },
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
    console.print(f"Written to {arguments['out']}", highlight=False, soft_wrap=True)
    return BUILT_WITH_DROPS if manifest["drops"] else DONE


def _inspect(arguments: dict[str, Any]) -> int:
    from .build.inspection import inspect

    inspect(arguments["folder"], clip=arguments["clip"], picture=arguments["picture"])
    return DONE


def _push(arguments: dict[str, Any]) -> int:
    from .build.publishing import push

    visibility = "private" if arguments["private"] else "gated" if arguments["gated"] else "public"
    url = push(arguments["folder"], arguments["repo_id"], visibility=visibility, i_may_share=arguments["i_may_share"])
    print(url)
    return DONE


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _unique(flag: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise ValueError(f"{flag} {name} is given twice: {found[name]} and {value}.")
    return found


def _plain(text: str) -> Any:
    """A number or a truth value where it is one; Slurm's times such as 04:00:00 stay text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else text


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deft_llm.hub_datasets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_inspect(commands)
    _add_push(commands)
    _add_synthesize(commands)
    return parser


def _add_build(commands: Any) -> None:
    command = commands.add_parser(
        "build",
        help="build Uni-MER from the data sets you hold",
        description="Reads each source's sheet, measures every clip, and writes one dataset folder with manifest and\n"
        "data card. Nothing is written to the sources. Interrupted, the same command goes on where it was.",
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=_Help,
    )
    command.set_defaults(run=_build)
    command.add_argument(
        "--source", metavar="NAME=DIR", type=_pair, nargs="+", action="extend", required=True,
        default=argparse.SUPPRESS,
        help="a data set and the folder it was unpacked to: casme, casme2, samm, samm-long, smic-hs, smic-vis, "
        "smic-nir, cas-me2, cas-me3a, cas-me3c, mmew, 4dme, dfme, or any other name for own recordings with an "
        "annotations.csv",
    )  # fmt: skip
    command.add_argument(
        "--accept-licence", metavar="NAME", nargs="+", action="extend", default=[],
        help="say that you hold the licence of a source and accept it",
    )  # fmt: skip
    command.add_argument("--out", metavar="DIR", type=Path, required=True, default=argparse.SUPPRESS,
                         help="folder to write; must not exist or be empty")  # fmt: skip
    command.add_argument("--features-only", action="store_true", help="write flow and labels and not a pixel")
    command.add_argument("--sheet", metavar="NAME=FILE", type=_pair, action="append", default=[],
                         help="coding sheet of a source in which none is found by name, or several are")  # fmt: skip
    command.add_argument("--emotion-word", metavar="WORD=KNOWN", type=_pair, action="append", default=[],
                         help="an emotion word of your own sheets, and the known word it stands for")  # fmt: skip
    command.add_argument(
        "--face-source", metavar="[NAME=]FINDER", action="append", default=[],
        help="what finds the face: yunet (if not given), yunet:MODEL, mediapipe:MODEL, or cropped where frames are "
        "face crops already; with NAME= for one source",
    )  # fmt: skip
    command.add_argument(
        "--split", choices=("none", "fixed", "holdout"), default="none",
        help="none: all clips in train; fixed: the sets a source states; holdout: subjects kept for testing",
    )  # fmt: skip
    command.add_argument("--test-share", type=float, default=0.2, help="share of the subjects, for --split holdout")
    command.add_argument("--num-frames", type=int, default=8, help="frames the model samples, for the flow column")
    command.add_argument("--crf", type=int, default=6, help="x264's rate factor of the stored clips")
    command.add_argument("--shard-size", type=int, default=50, help="clips a Parquet file")
    command.add_argument("--seed", type=int, default=0, help="of the phrasings and of --split holdout")
    command.add_argument(
        "--rewriter", metavar="URL|pipeline",
        help="a chat model that words the answers anew, kept where the facts stay the same: an OpenAI-compatible "
        "endpoint (key in DEFT_REWRITER_KEY) or a transformers pipeline",
    )  # fmt: skip
    command.add_argument("--rewriter-model", metavar="NAME", help="the model's name there")
    command.add_argument("--workers", type=int, default=2, help="processes, or tasks at once on a cluster")
    command.add_argument(
        "--cache", metavar="DIR", help="keep measured clips there, and take those that an earlier build has kept"
    )
    command.add_argument("--executor", choices=("local", "slurm", "ray"), default=None,
                         help="run the shards by datatrove (extra scale) instead of own processes")  # fmt: skip
    command.add_argument(
        "--executor-option", metavar="KEY=VALUE", type=_pair, action="append", default=[],
        help="argument of datatrove's executor: partition=cpu and time=04:00:00 for slurm, address=auto for ray",
    )  # fmt: skip


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="tables about a dataset folder, and a picture of a clip")
    command.set_defaults(run=_inspect)
    command.add_argument("folder", metavar="DIR", type=Path)
    command.add_argument(
        "--clip", metavar="ID", help="clip to show; without it, the first with a supported action unit"
    )
    command.add_argument("--picture", metavar="PNG", type=Path, help="draw the clip into this file")


def _add_push(commands: Any) -> None:
    command = commands.add_parser("push", help="put a dataset folder on the Hub, as far as its licences allow")
    command.set_defaults(run=_push)
    command.add_argument("repo_id", metavar="REPO_ID")
    command.add_argument("--from", dest="folder", metavar="DIR", type=Path, required=True, help="the dataset folder")
    who = command.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", help="only you and your organisation can see it")
    who.add_argument("--gated", action="store_true", help="visible; files on a request that you answer")
    command.add_argument(
        "--i-may-share", metavar="REASON",
        help="needed for rows derived from licensed data: why the licences allow this; written into the data card",
    )  # fmt: skip


def _add_synthesize(commands: Any) -> None:
    command = commands.add_parser(
        "synthesize", help="render a labelled dataset of synthetic faces in the Uni-MER schema", formatter_class=_Help
    )
    command.set_defaults(run=_synthesize)
    command.add_argument("--out", type=Path, required=True, help="folder to write; must not exist or be empty")
    command.add_argument("--clips", type=int, default=1584, help="clips in both splits together")
    command.add_argument(
        "--preset", default="easy", help="easy, realistic, entangled (looks go with emotions) or long (for spotting)"
    )
    command.add_argument(
        "--conventions", nargs="+", default=["synthetic"], help="label conventions: synthetic, synthetic-b or both"
    )
    command.add_argument("--clips-per-face", type=int, default=18)
    command.add_argument("--test-share", type=float, default=0.18, help="share of the faces kept for testing")
    command.add_argument("--corrupt", type=float, default=0.0, help="share of clips with one wrong label")
    command.add_argument("--num-frames", type=int, default=8, help="frames the model samples, for the flow column")
    command.add_argument("--size", type=int, help="side of the frames in pixels, if not the preset's")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=int, default=2, help="processes")


if __name__ == "__main__":
    sys.exit(main())
