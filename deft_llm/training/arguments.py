"""The options of `deft train`, from YAML and the command line.

Heavy libraries are not imported, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from deft_llm.processing.common_deft import NUM_FRAMES, STRUCTURE_TOKENS, TEXTURE_TOKENS
from deft_llm.recipes import find_recipe

from .stages import STAGES, StageArguments

_DESCRIPTION = """\
Supervised fine-tuning of DEFT on a Uni-MER dataset with TRL's SFTTrainer and the losses of all experts.

    deft train --config recipes/tiny.yaml --dataset build/demo/data --output-dir build/deft-tiny

Options on the command line override those of the YAML. The output folder contains the weights, the processor, the code
that loads both, and a model card. With LoRA it contains the merged model, the adapter in `adapter/` and the base model
in `base/`.

    accelerate launch --config_file recipes/accelerate/ddp.yaml train_sft.py --config …     several GPUs
    deft train --config … --resume-from-checkpoint last                                     resume a stopped run

`deft --help` lists the exit codes.
"""

# transformers 5.23 renamed the argument and warns about the old name; 5.20 has only the old name.
_RENAMED = (
    ("gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
)
# Our own names for fields of TRL's ModelConfig.
_TRL_NAMES = (("model", "model_name_or_path"), ("language_dtype", "dtype"))


@dataclass
class DataArguments:
    """The data to train on, and how clips become examples.

    Args:
        dataset (`str`): Uni-MER dataset: a folder or a Hub repository.
        train_split (`str`): Split to train on.
        test_split (`str`): Split whose subjects are kept out of training and its evaluation.
        eval_split (`str`, *optional*): Split for evaluation during training.
        eval_share (`float`): Share of the training subjects held out for evaluation, from 0 to 1.
        streaming (`bool`): Whether to read clips as they are needed.
        shuffle_buffer (`int`): Number of clips that a streamed clip is drawn from.
        task_weights (`dict[str, float]`, *optional*): Conversation task → how often it is drawn.
        balance (`str`, *optional*): Columns whose values are drawn equally often, separated by commas.
        mirror (`float`): Share of the clips that are mirrored, from 0 to 1.
        appearance_jitter (`float`): Strength of changes in brightness, contrast and colour; 0 for none.
        temporal_crop (`float`): Largest share of the frames cut off before and after the apex, from 0 to 1.
        flow_noise (`float`): Largest noise added to the flow, in units of the clip's own noise.
        appearance_dropout (`float`): Share of the steps without pixels, from 0 to 1.
        preprocessing_workers (`int`): Number of processes that decode the clips.
        questions_per_clip (`int`): Largest number of conversations per clip and step.
        turns (`int`): Largest number of questions that follow each other in one conversation.
        held_out_wordings (`int`): Wordings per task that are not trained.
        held_out_unit_sets (`list[str]`, *optional*): Sets of action units, such as "AU9+AU17", whose clips are not
            trained.
        expert_variants (`int`): Variants of each clip whose expert states are computed in advance, in stages without
            experts.
    """

    dataset: str = field(metadata={"help": "Uni-MER dataset: a folder or a Hub repository."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(
        default="test", metadata={"help": "Split whose subjects are kept out of training and its evaluation."}
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split for evaluation during training. No other split has its subjects."}
    )
    eval_share: float = field(
        default=0.0,
        metadata={"help": "Share of the training subjects held out for evaluation during training, if no eval_split."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read clips as they are needed instead of decoding all of them first."}
    )
    shuffle_buffer: int = field(default=256, metadata={"help": "Number of clips that a streamed clip is drawn from."})
    task_weights: dict | None = field(
        default=None,
        metadata={
            "help": "How often each conversation task is drawn (JSON on the command line); default: equally often."
        },
    )
    balance: str | None = field(
        default=None,
        metadata={
            "help": "Columns whose values are drawn equally often, nested from left to right: 'emotion', or "
            "'source,emotion'."
        },
    )
    mirror: float = field(
        default=0.0, metadata={"help": "Share of clips that are mirrored, with sides swapped in labels and texts."}
    )
    appearance_jitter: float = field(
        default=0.0, metadata={"help": "Strength of changes in brightness, contrast and colour of the pixels."}
    )
    temporal_crop: float = field(
        default=0.0, metadata={"help": "Largest share of the frames cut off before and after the apex."}
    )
    flow_noise: float = field(
        default=0.0,
        metadata={"help": "Largest noise added to the flow, in units of the noise measured in the clip itself."},
    )
    appearance_dropout: float = field(
        default=0.0,
        metadata={"help": "Share of steps without pixels, so that the model learns to answer from motion only."},
    )
    preprocessing_workers: int = field(default=2, metadata={"help": "Number of processes that decode the clips."})
    questions_per_clip: int = field(
        default=1,
        metadata={"help": "Largest number of conversations per clip and step. They share the clip's tokens."},
    )
    turns: int = field(
        default=1,
        metadata={
            "help": "Largest number of questions that follow each other in one conversation; at most "
            "questions_per_clip."
        },
    )
    held_out_wordings: int = field(
        default=0,
        metadata={"help": "Wordings per task that are not trained, so that they can be tested: the last ones."},
    )
    held_out_unit_sets: list[str] | None = field(
        default=None,
        metadata={
            "help": 'Clips that show all units of a set, such as "AU9+AU17", are not trained, so that sets of '
            "units that were never seen together can be tested."
        },
    )
    expert_variants: int = field(
        default=1,
        metadata={
            "help": "In stages without experts, their states are computed once for each clip, and for this many "
            "variants of it: the clip itself, and augmented ones."
        },
    )


@dataclass
class ModelArguments:
    """The parts of a new model.

    A part is a Hub repository or folder with pretrained weights, or a config (a mapping in YAML, JSON on the command
    line) for random weights. `text` can also be `{gguf: PATH}` or `{gguf: "package:NAME"}`.

    Args:
        text (`str`, *optional*): The language model.
        chat_template (`str`, *optional*): "chatml" to replace the chat template of a pretrained language model.
        structure (`str`, *optional*): The structure expert's vision backbone.
        texture (`str`, *optional*): The texture expert's vision or video backbone.
        motion (`dict`): Fields of [`DeftMotionConfig`].
        image_size (`int`, *optional*): Side of the face crop in pixels; by default the structure backbone's.
        expert_size (`int`): Width of the experts' tokens.
        structure_tokens (`int`): Language tokens of the structure expert.
        texture_tokens (`int`): Language tokens of the texture expert.
        emotion_token (`bool`): Whether a token tells the language model the emotion head's probabilities.
        motion_in_words (`bool`): Whether the prompt says in words what was measured, see `DeftProcessor`.
        recognition_in_words (`bool`): Whether the prompt says in words what was recognised, see `DeftProcessor`. The
            experts must then be trained in a stage of their own.
        texture_share (`float`): Share of the patches that VideoMAE reads, from 0 to 1.
        loss_weights (`dict[str, float]`, *optional*): Weights of the loss terms.
        appearance_swap (`float`): Share of the clips that get the structure of another clip, from 0 to 1.
        expert_dropout (`float`): Share of the clips without structure, and without texture, from 0 to 1.
        vocab_size (`int`): Largest vocabulary of a tokenizer that is trained on the dataset.
        num_frames (`int`): Frames per clip, including the onset.
    """

    text: str | None = field(
        default=None,
        metadata={"help": "Language model: pretrained, {gguf: PATH}, {gguf: 'package:NAME'}, or a config."},
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "chatml to train on ChatML; default: the chat template of a pretrained language model."},
    )
    structure: str | None = field(
        default=None, metadata={"help": "The structure expert's vision backbone: pretrained, or a config."}
    )
    texture: str | None = field(
        default=None, metadata={"help": "The texture expert's vision or video backbone: pretrained, or a config."}
    )
    motion: dict = field(default_factory=dict, metadata={"help": "Config of the motion expert."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the face crop in pixels; default: the structure backbone's."}
    )
    expert_size: int = field(default=256, metadata={"help": "Width of the experts' tokens."})
    structure_tokens: int = field(
        default=STRUCTURE_TOKENS, metadata={"help": "Language tokens of the structure expert."}
    )
    texture_tokens: int = field(default=TEXTURE_TOKENS, metadata={"help": "Language tokens of the texture expert."})
    emotion_token: bool = field(
        default=False, metadata={"help": "Whether a token tells the language model what the emotion head decides."}
    )
    motion_in_words: bool = field(
        default=False, metadata={"help": "Whether the prompt says in words what moves, and how far."}
    )
    recognition_in_words: bool = field(
        default=False,
        metadata={"help": "Whether the prompt says in words what is recognised. The experts must be trained before."},
    )
    texture_share: float = field(
        default=1.0, metadata={"help": "Share of the patches that VideoMAE reads: those that change most."}
    )
    loss_weights: dict | None = field(default=None, metadata={"help": "Weights of the loss terms."})
    appearance_swap: float = field(
        default=0.5, metadata={"help": "Share of clips that get the structure of another clip in the batch."}
    )
    expert_dropout: float = field(
        default=0.1, metadata={"help": "Share of clips without structure, and of clips without texture."}
    )
    vocab_size: int = field(
        default=1024, metadata={"help": "Largest vocabulary of a tokenizer that is trained on the dataset."}
    )
    num_frames: int = field(default=NUM_FRAMES, metadata={"help": "Frames per clip, including the onset."})


OURS = (DataArguments, ModelArguments, StageArguments)


def parse_arguments(argv: Sequence[str]) -> tuple[DataArguments, ModelArguments, Any, Any]:
    """Reads the options of a run.

    Args:
        argv: Arguments of the command line. Options may be written with hyphens or underscores.

    Returns:
        The four groups of options; the third is `tuning.TuningArguments`, the last is TRL's `SFTConfig`.

    Raises:
        ValueError: An option does not exist (the message names the closest one), or options contradict each other.
        FileNotFoundError: The YAML file does not exist.
    """
    from trl import SFTConfig, TrlParser

    from .tuning import TuningArguments

    class Parser(TrlParser):
        def set_defaults_with_config(self, **config):
            names = {action.dest for action in self._actions} - {"help"}
            config = {_current_name(name, names): value for name, value in config.items()}
            for name in config:
                if name not in names:
                    raise ValueError(f"The recipe has a key {name!r}, which is not an option.{_nearest(name, names)}")
            return super().set_defaults_with_config(**config)

    parser = Parser((DataArguments, ModelArguments, TuningArguments, SFTConfig))
    names = {action.dest for action in parser._actions}
    mappings = {item.name for group in OURS for item in fields(group) if "dict" in str(item.type)}
    for action in parser._actions:
        if action.dest in mappings:
            action.type = _mapping  # `dict` itself cannot parse a string
    for old, new in _RENAMED:
        if new in names:
            parser.set_defaults(**{new: parser.get_default(old), old: None})
    arguments = [_current_option(argument, names) for argument in argv]
    if "--config" in arguments[:-1]:
        place = arguments.index("--config") + 1
        arguments[place] = str(find_recipe(arguments[place]))
    data, model, tuning, training, remaining = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if remaining:
        name = remaining[0].lstrip("-").partition("=")[0]
        raise ValueError(f"There is no option {remaining[0]!r}.{_nearest(name, names)}")
    _check(data, model, tuning)
    return data, model, tuning, training


def _mapping(text: str) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text} is not a mapping")
    return value


def _current_name(name: str, names: set[str]) -> str:
    for pair in (*_RENAMED, *_TRL_NAMES):
        if name in pair:
            return pair[1] if pair[1] in names else pair[0]
    return name


def _current_option(argument: str, names: set[str]) -> str:
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    return f"--{_current_name(name[2:].replace('-', '_'), names)}{equals}{value}"


def _nearest(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" The nearest is {close[0]!r}." if close else " See --help and --help-all."


def _check(data: DataArguments, model: ModelArguments, tuning: Any) -> None:
    parts = {name: getattr(model, name) for name in ("text", "structure", "texture")}
    if tuning.model_name_or_path is None:
        missing = [name for name, part in parts.items() if part is None]
        if missing:
            raise ValueError(
                f"The recipe has no `{missing[0]}`; set text, structure and texture, or `model_name_or_path`."
            )
    elif any(part is not None for part in parts.values()):
        given = next(name for name, part in parts.items() if part is not None)
        raise ValueError(
            f"`model_name_or_path` is a complete DEFT model with its own `{given}`; set only one of them."
        )
    if tuning.stage not in STAGES:
        raise ValueError(f"`stage` must be one of {', '.join(STAGES)}; got {tuning.stage!r}.")
    if tuning.use_peft and "language" not in STAGES[tuning.stage]:
        raise ValueError(f"Stage {tuning.stage!r} does not train the language model, so LoRA cannot be used with it.")
    if (tuning.load_in_4bit or tuning.load_in_8bit) and not tuning.use_peft:
        raise ValueError("A language model in 4 or 8 bits cannot be trained directly: set `use_peft`.")
    for name in ("eval_share", "mirror", "appearance_dropout", "temporal_crop"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1; got {getattr(data, name)}.")
    for name in ("appearance_jitter", "flow_noise"):
        if getattr(data, name) < 0:
            raise ValueError(f"`{name}` must not be negative; got {getattr(data, name)}.")
    for name in ("questions_per_clip", "turns", "expert_variants"):
        if getattr(data, name) < 1:
            raise ValueError(f"`{name}` must be at least 1; got {getattr(data, name)}.")
    if data.turns > data.questions_per_clip:
        raise ValueError(f"`turns` {data.turns} is larger than `questions_per_clip` {data.questions_per_clip}.")
    if data.questions_per_clip > 1 and tuning.attn_implementation not in (None, "sdpa", "eager"):
        raise ValueError(
            "`questions_per_clip` above 1 needs attn_implementation sdpa or eager; got "
            f"{tuning.attn_implementation!r}."
        )
    if data.eval_split and data.eval_share:
        raise ValueError("Set only one of `eval_split` and `eval_share`.")
    if data.streaming and data.balance:
        raise ValueError("`balance` needs all clips in advance, so it cannot be used with `streaming`.")


def print_help(argv: Sequence[str]) -> bool:
    """Prints the help, if the arguments ask for it. TRL is imported for `--help-all` only.

    Args:
        argv: Arguments of `deft train`.

    Returns:
        Whether they ask for help.
    """
    if "--help-all" in argv:
        _print_every_option()
    elif "-h" in argv or "--help" in argv:
        _print_our_options()
    else:
        return False
    return True


def _print_our_options() -> None:
    parser = argparse.ArgumentParser(
        usage="deft train --config YAML --dataset DATASET --output-dir FOLDER [--OPTION VALUE …]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("--config", metavar="YAML", help="recipe; may set every option below")
    parser.add_argument(
        "--help-all",
        action="store_true",
        help="also show the options of TRL's ModelConfig (--model-name-or-path, --dtype, --use-peft, --lora-r, "
        "--load-in-4bit …) and SFTConfig",
    )
    for group in OURS:
        section = parser.add_argument_group(group.__doc__.partition("\n")[0].rstrip("."))
        for item in fields(group):
            required = item.default is MISSING and item.default_factory is MISSING
            default = "" if required or item.default in (None, MISSING) else f" (default: {item.default})"
            shown = (item.metadata["help"] + default).replace("%", "%%")
            section.add_argument(f"--{item.name.replace('_', '-')}", metavar=item.name.upper(), help=shown)
    parser.print_help()


def _print_every_option() -> None:
    from trl import SFTConfig, TrlParser

    from .tuning import TuningArguments

    TrlParser((DataArguments, ModelArguments, TuningArguments, SFTConfig)).print_help()
