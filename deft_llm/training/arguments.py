"""What a training run is told: the options of `deft train`, from YAML and the command line.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from deft_llm.recipes import find_recipe

from .stages import STAGES, StageArguments

# transformers 5.23 renamed the argument and warns about the old name; 5.20 has the old one only.
_RENAMED = (
    ("gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
)
# Names of our own for what TRL's ModelConfig has.
_TRL_NAMES = (("model", "model_name_or_path"), ("language_dtype", "dtype"))


@dataclass
class DataArguments:
    """What to train on, and how clips become examples."""

    dataset: str = field(metadata={"help": "Uni-MER dataset: a folder or a Hub repository."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(
        default="test", metadata={"help": "Split whose subjects neither training nor its evaluation may touch."}
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split for evaluation during training; shares no subject with any other."}
    )
    eval_share: float = field(
        default=0.0,
        metadata={"help": "Share of the training subjects held out for evaluation during training, if no eval_split."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read clips as they are needed instead of decoding all of them first."}
    )
    shuffle_buffer: int = field(default=256, metadata={"help": "Clips among which a streamed one is drawn."})
    task_weights: dict | None = field(
        default=None,
        metadata={"help": "How often each conversation task is drawn (JSON on the command line); default: all alike."},
    )
    balance: str | None = field(
        default=None,
        metadata={
            "help": "Columns whose values are drawn equally often, each within the one before: 'emotion', or "
            "'source,emotion'."
        },
    )
    mirror: float = field(
        default=0.0, metadata={"help": "Share of clips shown in a mirror, with sides exchanged in labels and texts."}
    )
    appearance_jitter: float = field(
        default=0.0, metadata={"help": "Strength of changes in brightness, contrast and colour; flow is not touched."}
    )
    temporal_crop: float = field(
        default=0.0, metadata={"help": "Largest share of the frames cut off before and after the apex."}
    )
    flow_noise: float = field(
        default=0.0,
        metadata={"help": "Most noise added to the flow, in units of the noise measured in the clip itself."},
    )
    appearance_dropout: float = field(
        default=0.0,
        metadata={"help": "Share of steps without pixels, so that the answer learns to rest on motion alone."},
    )
    preprocessing_workers: int = field(default=2, metadata={"help": "Processes that decode the clips, once."})


@dataclass
class ModelArguments:
    """The parts of a new model.

    Language model and backbones are each a Hub repository or folder with pretrained weights, or a config (a mapping in
    YAML, JSON on the command line) for one that starts from random weights.
    """

    text: str | None = field(default=None, metadata={"help": "Language model: pretrained, or a config."})
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
    structure_tokens: int = field(default=4, metadata={"help": "Language tokens of the structure expert."})
    texture_tokens: int = field(default=8, metadata={"help": "Language tokens of the texture expert."})
    texture_share: float = field(
        default=1.0, metadata={"help": "Share of the places in the crop, those that change most, that VideoMAE reads."}
    )
    loss_weights: dict | None = field(default=None, metadata={"help": "Weights of the loss terms."})
    appearance_swap: float = field(
        default=0.5, metadata={"help": "Share of clips shown with the structure of another clip of the batch."}
    )
    expert_dropout: float = field(
        default=0.1, metadata={"help": "Share of clips without structure, and of clips without texture."}
    )
    vocab_size: int = field(default=1024, metadata={"help": "Largest vocabulary of a tokenizer trained here."})
    num_frames: int = field(default=8, metadata={"help": "Frames a clip, the onset among them."})


OURS = (DataArguments, ModelArguments, StageArguments)


def parse_arguments(argv: Sequence[str]) -> tuple[DataArguments, ModelArguments, Any, Any]:
    """Reads the options of a run.

    Args:
        argv: The words of the command line. Options may be written with hyphens or underscores.

    Returns:
        The four groups of options; the third is `tuning.TuningArguments`, the last TRL's `SFTConfig`.

    Raises:
        ValueError: An option does not exist (the message has the nearest one that does), or values exclude each other.
        FileNotFoundError: There is no such YAML.
    """
    from trl import SFTConfig, TrlParser

    from .tuning import TuningArguments

    class Parser(TrlParser):
        def set_defaults_with_config(self, **config):
            names = {action.dest for action in self._actions} - {"help"}
            config = {_current_name(name, names): value for name, value in config.items()}
            for name in config:
                if name not in names:
                    raise ValueError(f"The recipe has a key {name!r}, which is no option.{_nearest(name, names)}")
            return super().set_defaults_with_config(**config)

    parser = Parser((DataArguments, ModelArguments, TuningArguments, SFTConfig))
    names = {action.dest for action in parser._actions}
    mappings = {item.name for group in OURS for item in fields(group) if "dict" in str(item.type)}
    for action in parser._actions:
        if action.dest in mappings:
            action.type = _mapping  # `dict` itself reads nothing that can be written on a command line
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
        raise ValueError(f"{text} is no mapping")
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
    return f" The nearest is {close[0]!r}." if close else " --help and --help-all list them."


def _check(data: DataArguments, model: ModelArguments, tuning: Any) -> None:
    parts = {name: getattr(model, name) for name in ("text", "structure", "texture")}
    if tuning.model_name_or_path is None:
        missing = [name for name, part in parts.items() if part is None]
        if missing:
            raise ValueError(
                f"The recipe names no `{missing[0]}`; give text, structure and texture, or `model_name_or_path`."
            )
    elif any(part is not None for part in parts.values()):
        given = next(name for name, part in parts.items() if part is not None)
        raise ValueError(f"`model_name_or_path` is a whole DEFT and brings its own `{given}`; give one of the two.")
    if tuning.stage not in STAGES:
        raise ValueError(f"`stage` must be one of {', '.join(STAGES)}, got {tuning.stage!r}.")
    if tuning.use_peft and tuning.stage in ("experts", "connectors"):
        raise ValueError(f"Stage {tuning.stage!r} leaves the language model as it is: LoRA has nothing to adapt.")
    if (tuning.load_in_4bit or tuning.load_in_8bit) and not tuning.use_peft:
        raise ValueError("A language model in 4 or 8 bits cannot be trained itself: set `use_peft`.")
    for name in ("eval_share", "mirror", "appearance_dropout", "temporal_crop"):
        if not 0 <= getattr(data, name) <= 1:
            raise ValueError(f"`{name}` is a share and must lie in 0–1, got {getattr(data, name)}.")
    for name in ("appearance_jitter", "flow_noise"):
        if getattr(data, name) < 0:
            raise ValueError(f"`{name}` must not be negative, got {getattr(data, name)}.")
    if data.eval_split and data.eval_share:
        raise ValueError("Choose one of `eval_split` and `eval_share`.")
    if data.streaming and data.balance:
        raise ValueError("`balance` must know all clips beforehand; it does not go with `streaming`.")


def print_help(description: str) -> None:
    """Our own options, without importing what the others come from."""
    parser = argparse.ArgumentParser(
        usage="deft train --config YAML --dataset DATASET --output-dir FOLDER [--OPTION VALUE …]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("--config", metavar="YAML", help="recipe; every option below can stand in it")
    parser.add_argument(
        "--help-all",
        action="store_true",
        help="also those of TRL's ModelConfig (--model-name-or-path, --dtype, --use-peft, --lora-r, --load-in-4bit …) "
        "and SFTConfig, which all apply",
    )
    for group in OURS:
        section = parser.add_argument_group(group.__doc__.partition("\n")[0].rstrip("."))
        for item in fields(group):
            required = item.default is MISSING and item.default_factory is MISSING
            default = "" if required or item.default in (None, MISSING) else f" (default: {item.default})"
            shown = (item.metadata["help"] + default).replace("%", "%%")
            section.add_argument(f"--{item.name.replace('_', '-')}", metavar=item.name.upper(), help=shown)
    parser.print_help()


def print_full_help() -> None:
    from trl import SFTConfig, TrlParser

    from .tuning import TuningArguments

    TrlParser((DataArguments, ModelArguments, TuningArguments, SFTConfig)).print_help()
