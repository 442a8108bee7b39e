"""The `deft` command: explain, measure, spot and watch clips; build data sets; train, evaluate and share models."""

import sys
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

# Modules that the commands need are imported when they run, so that --help does not wait for torch. In the cli modules
# annotations are objects: Typer would compile those of `from __future__ import annotations` four times each.
from deft_llm.cli_clips import FaceSource, doctor, measure, spot
from deft_llm.cli_data import Group, pairs
from deft_llm.cli_data import app as data_app
from deft_llm.cli_explain import explain
from deft_llm.cli_watch import watch
from deft_llm.exit_codes import BROKE_OFF, DONE, INTERRUPTED, REFUSED, table
from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED

# Click's own class. Older versions of Typer import Click, newer ones contain a copy of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# Options that take several values: `--source a=A b=B` stands for `--source a=A --source b=B`.
SEVERAL = ("--source", "--accept-licence", "--conventions")

app = typer.Typer(
    name="deft",
    cls=Group,
    help="Micro-expression recognition with class, evidence and rationale per clip.",
    epilog=f"\b\nExit codes:\n{table()}",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
demo_app = typer.Typer(
    cls=Group, help="Make a photograph clip with known motion, and explain it.", rich_markup_mode=None
)
app.add_typer(demo_app, name="demo")


Protocol = StrEnum("Protocol", {name: name for name in ("loso", "cde", "lodo", "fixed", "zero-shot", *PUBLISHED)})


class Mode(StrEnum):
    recognition = "recognition"
    full = "full"


Megc = StrEnum("Megc", {"practice": "practice"})
Private = Annotated[bool, typer.Option("--private", help="Only you and your organisation can see it.")]
Gated = Annotated[bool, typer.Option("--gated", help="Everybody can see it, but you approve access to its files.")]


# --- Clips ----------------------------------------------------------------------------------------------------------


app.command()(explain)


app.command()(measure)
app.command()(spot)
app.command()(watch)
app.command()(doctor)


# --- Models ---------------------------------------------------------------------------------------------------------


# The training prints its own help, because TRL's parser reads its options from YAML and the command line.
@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> int:
    """Train a model with a recipe (TRL's SFTTrainer)."""
    from deft_llm.training.arguments import print_help

    if print_help(context.args):
        return DONE
    from deft_llm.training.run import main as train_main

    try:
        return train_main(context.args)
    except Exception:
        # The options were valid, so the whole traceback is shown.
        traceback.print_exc()
        return BROKE_OFF


@app.command()
def evaluate(
    output_dir: Annotated[Path, typer.Option(help="Folder for the report, and for finished folds.")],
    dataset: Annotated[str | None, typer.Option(help="Uni-MER dataset: folder or Hub repository.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Recipe (YAML) to train in every fold, or a trained model's folder or repository."),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="loso: leave one subject out. lodo: leave one dataset out. fixed: the dataset's train and test "
            "splits; a trained model is not trained again. zero-shot: train on --train-dataset, test on every row. "
            "The others are published protocols with classes of their own; cde is megc2019."
        ),
    ] = Protocol["fixed"],
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="recognition: the class is from the heads (default for a recipe). full: the class is from the "
            "generated answer (default for a trained model)."
        ),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            help="Separated by commas, such as majority,svm,rcn,micro_attention. docs/evaluation.md lists them all."
        ),
    ] = "",
    backbone: Annotated[
        str | None,
        typer.Option(help="For mpt_style and mpt_style_flow: folder or Hub repository of a vision model."),
    ] = None,
    baseline_setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME.SETTING=VALUE",
            help="A setting of a baseline that replaces its own, such as micro_attention.side=64. Can be repeated.",
        ),
    ] = None,
    train_dataset: Annotated[
        str | None,
        typer.Option(
            help="Uni-MER dataset, a folder or a Hub repository. zero-shot trains on it; under other protocols its "
            "rows join the training rows of every fold."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = "emotion_coarse",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Fixed label list, separated by commas. Default: all labels that occur. Rows with another label are "
            "left out."
        ),
    ] = None,
    emotion_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=KNOWN",
            help="For published protocols: an emotion word of your own sheets, and the known word of that meaning.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Folds at a time, one core each.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of training and bootstrap.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on; mean and range are given.")] = 1,
    inner: Annotated[
        int | None,
        typer.Option(
            min=2, help="Choose the recipe's settings in this number of folds of the training subjects (nested)."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Resamples of the bootstrap over subjects.")] = 2000,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen",
            help="Confirm that the trained model has not seen a subject of the dataset (not needed for fixed).",
        ),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    questions: Annotated[
        Path | None,
        typer.Option(help="Answer this JSONL of the MEGC question-answering tracks instead, ME-VQA or ME-LVQA."),
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder with the videos that the questions name.")] = None,
    training_questions: Annotated[
        Path | None,
        typer.Option(help="JSONL of the track with answers: figures of guesses from it stand beside the others."),
    ] = None,
    text_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --training-questions or --megc: a language model that sees no video answers, too. Folder, Hub "
            "repository, GGUF file or package:NAME.",
        ),
    ] = None,
    face_source: FaceSource = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of videos that are folders of frames.")] = None,
    megc: Annotated[
        Megc | None,
        typer.Option(help="practice: render long videos with known events, and answer questions about them."),
    ] = None,
    spotted: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Score spotted intervals, such as `deft spot --format megc` writes."),
    ] = None,
    annotated: Annotated[
        Path | None, typer.Option(metavar="CSV", help="With --spotted: the true intervals, with frames counted alike.")
    ] = None,
) -> int:
    """Evaluate a recipe, a trained model or baselines."""
    if (spotted is None) != (annotated is None):
        raise typer.BadParameter("--spotted and --annotated go together.")
    if spotted is not None:
        from rich.console import Console

        from deft_llm.evaluation.spotting_figures import score_files, spotting_table

        Console().print(*spotting_table(score_files(annotated, spotted, output_dir)), sep="\n")
        return DONE
    if megc is not None:
        from rich.console import Console

        from deft_llm.evaluation.practice import practice_table, practise

        figures = practise(output_dir, model=model, text_model=text_model, seed=seed, workers=workers)
        Console().print(practice_table(figures))
        return DONE
    if questions is not None:
        if videos is None:
            raise typer.BadParameter("--questions needs --videos.")
        from deft_llm.evaluation.run import answer_track

        options = {"max_new_tokens": max_new_tokens, "face_source": face_source, "fps": fps}
        options |= {"training": training_questions, "text_model": text_model}
        answer_track(model, questions, videos, output_dir, **options)
        return DONE
    if dataset is None:
        raise typer.BadParameter("--dataset is missing.")
    from deft_llm.evaluation.run import evaluate as run_evaluation

    run_evaluation(
        dataset,
        output_dir,
        model=model,
        protocol=protocol.value,
        mode=None if mode is None else mode.value,
        baselines=_listed(baselines),
        target=target,
        labels=None if labels is None else _listed(labels),
        emotion_words=pairs("--emotion-word", emotion_word or ()),
        workers=workers,
        seed=seed,
        resamples=resamples,
        unseen=unseen,
        backbone=backbone,
        baseline_settings=pairs("--baseline-setting", baseline_setting or ()),
        train_dataset=train_dataset,
        inner=inner,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
    )
    return DONE


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder that `deft train` has written.")],
    report: Annotated[Path | None, typer.Option(help="report.json that `deft evaluate` has written.")] = None,
    dataset_id: Annotated[
        str | None, typer.Option(help="Hub repository of the dataset, if the report names a folder.")
    ] = None,
) -> int:
    """Write the card of a trained model."""
    from deft_llm.sharing.card import fill_card

    print(f"Card written to {fill_card(folder, report=report, dataset_id=dataset_id)}")
    return DONE


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder that `deft train` has written.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Hub repository, such as org/deft-llm.")],
    private: Private = False,
    gated: Gated = False,
    i_may_share: Annotated[
        str | None, typer.Option(metavar="REASON", help="Why the terms of the training data allow it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to. Default: main.")] = None,
) -> int:
    """Push a trained model to the Hub in one commit."""
    from deft_llm.cli_data import visibility_of
    from deft_llm.sharing.push import push_model

    visibility = visibility_of(private, gated)
    print(push_model(folder, repo, visibility=visibility, i_may_share=i_may_share, revision=revision))
    return DONE


@demo_app.command("clip")
def demo_clip(output: Annotated[Path, typer.Option(help="Video to write, such as photograph.mp4.")]) -> int:
    """Write a clip of a photograph in which the brows are lowered."""
    from deft_llm.demo import make_clip

    make_clip(output)
    return DONE


@demo_app.command("explain")
def demo_explain(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Clip to explain.")],
    model: Annotated[Path, typer.Option(help="Model folder.")],
    picture: Annotated[Path, typer.Option(help="PNG to write.")],
) -> int:
    """Explain a clip, and draw a picture.

    The code in the model's folder is run, like after loading the model from the Hub.
    """
    from deft_llm.demo import explain_elsewhere

    return explain_elsewhere(video, model, picture)


# --- Command line and exit codes ------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments of the command line; by default those of this process.

    Returns:
        One of the exit codes of `deft_llm.exit_codes`.
    """
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if words[0] != "train":
        words = _repeated(_dashed(words))
    command = typer.main.get_command(app)
    # There is nothing to resume of what was watched.
    return _guarded(lambda: command.main(words, prog_name="deft", standalone_mode=False), resumes=words[0] != "watch")


def _guarded(command: Callable[[], Any], *, resumes: bool = True) -> int:
    """Runs a command. Expected errors are printed to stderr as one message and give an exit code."""
    try:
        code = command() or DONE
    except UsageError as error:
        context = getattr(error, "ctx", None)
        path = "deft" if context is None else context.command_path
        return _refused(f"{error.format_message()} See `{path} --help`.")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ImportError as error:
        return _refused(_with_extra(error))
    except (
        ValueError,
        TypeError,
        FileExistsError,
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
    ) as error:
        return _refused(str(error))
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BROKE_OFF
    if code == INTERRUPTED:
        print(f"error: interrupted{'; run the same command again to resume it' * resumes}.", file=sys.stderr)
    return code


def _refused(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return REFUSED


def _with_extra(error: ImportError) -> str:
    module = (error.name or "").partition(".")[0]
    from deft_llm.doctor import MODULES, extras

    extra = next((name for name, packages in extras().items() if MODULES.get(module, module) in packages), None)
    if extra is None or "pip install" in str(error):
        return str(error)
    return f"{str(error).rstrip('.')}. Run `pip install 'deft-llm[{extra}]'`, which installs {module}."


def _dashed(words: Sequence[str]) -> list[str]:
    """Replaces underscores in options, as TRL and earlier versions write them, by hyphens."""
    dashed = []
    for word in words:
        name, equals, value = word.partition("=")
        dashed.append(f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word)
    return dashed


def _repeated(words: Sequence[str]) -> list[str]:
    """Repeats an option that takes several values before each value."""
    repeated: list[str] = []
    option = None
    for word in words:
        if word.startswith("-"):
            option = word if word in SEVERAL else None
        elif option and repeated[-1] != option:
            repeated.append(option)
        repeated.append(word)
    return repeated


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


if __name__ == "__main__":
    sys.exit(main())
