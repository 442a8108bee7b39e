"""Build the model from its parts, and choose the weights to train."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig

from deft_llm.modeling_deft import DeftForConditionalGeneration
from deft_llm.modeling_deft.building_deft import pretrained_source
from deft_llm.processing import DeftProcessor, DeftVideoProcessor
from deft_llm.processing.action_units import action_unit_ellipses, get_action_unit
from deft_llm.processing.processing_deft import SPECIAL_TOKENS

from .arguments import ModelArguments
from .stages import STAGES
from .tokenizer import prepare_tokenizer, train_tokenizer
from .tuning import TuningArguments


def unit_number(code: str) -> tuple[str, int]:
    """Kind and number of an action unit, to sort by."""
    unit = get_action_unit(code)
    return unit.kind, unit.number


def build_model(arguments: ModelArguments, dataset: Dataset) -> tuple[DeftForConditionalGeneration, DeftProcessor]:
    """Builds the model and the processor for the labels of a dataset.

    Args:
        arguments: The parts and sizes of the model.
        dataset: Rows from `data.label_lists`.

    Raises:
        ValueError: The dataset has too few labels.
        FileNotFoundError: A part is neither a folder nor a readable Hub repository.
    """
    emotions = sorted({value for value in dataset["emotion"] if value is not None})
    coarse = dict(zip(dataset["emotion"], dataset["emotion_coarse"], strict=True))
    units = sorted({unit["code"] for row in dataset["action_units"] for unit in row}, key=unit_number)
    if len(emotions) < 2 or not units:
        raise ValueError(
            f"The training split has {len(emotions)} emotions and {len(units)} action units; "
            "recognition needs at least two emotions and one action unit."
        )
    parts = {name: part_of(getattr(arguments, name)) for name in ("text", "structure", "texture")}
    chat_template, source = None, pretrained_source(parts["text"])
    if source:
        tokenizer = _fetched(AutoTokenizer, source.pop("pretrained_model_name_or_path"), "text", **source)
        chat_template = prepare_tokenizer(tokenizer, arguments.chat_template)
    else:
        tokenizer = train_tokenizer(dataset["conversations"], arguments.vocab_size)
        parts["text"] = {**parts["text"], "vocab_size": len(tokenizer)}
    sources = sorted(set(dataset["source"]))
    coarse_emotion_of = {emotion: coarse[emotion] for emotion in emotions}
    sizes = {name: getattr(arguments, name) for name in ("structure_tokens", "texture_tokens")}
    _, structure_id, texture_id, motion_id = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    model = _from_parts(
        **parts,
        vocab_size=len(tokenizer),
        motion_config=arguments.motion,
        image_size=arguments.image_size,
        action_units=units,
        action_unit_regions={code: [list(ellipse) for ellipse in action_unit_ellipses(code)] for code in units},
        emotion_labels=emotions,
        coarse_emotion_of=coarse_emotion_of,
        **sizes,
        texture_share=arguments.texture_share,
        emotion_token=arguments.emotion_token,
        expert_size=arguments.expert_size,
        structure_token_id=structure_id,
        texture_token_id=texture_id,
        motion_token_id=motion_id,
        loss_weights=arguments.loss_weights,
        appearance_swap=arguments.appearance_swap,
        expert_dropout=arguments.expert_dropout,
        label_conventions=sources,
        action_unit_name_ids={
            code: tokenizer(f" {get_action_unit(code).name}", add_special_tokens=False)["input_ids"] for code in units
        },
    )
    side = model.config.image_size
    video_processor = DeftVideoProcessor(
        num_frames=arguments.num_frames,
        size={"height": side, "width": side},
        flow_size=model.config.motion_config.flow_size,
    )
    processor = DeftProcessor(
        video_processor,
        tokenizer,
        chat_template=chat_template,
        **sizes,
        motion_tokens=model.config.motion_tokens,
        motion_in_words=arguments.motion_in_words,
        recognition_in_words=arguments.recognition_in_words,
        action_units=units,
        emotion_labels=emotions,
        coarse_emotion_of=coarse_emotion_of,
        label_convention=", ".join(sources),
    )
    # Set after the embeddings were enlarged, because the padding id must be a valid index.
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model.config.text_config.update(ids)
    model.generation_config.update(**ids, max_new_tokens=512, do_sample=False)
    return model, processor


def load_model(
    name: str, revision: str | None = None, **options: Any
) -> tuple[DeftForConditionalGeneration, DeftProcessor]:
    """Loads a trained DEFT model with the code of the installed package. Remote code is not run.

    Args:
        name: Folder or Hub repository.
        revision: Revision of the repository.
        **options: Further arguments of `from_pretrained` for the model.

    Raises:
        FileNotFoundError: The model is neither a folder nor a readable Hub repository.
    """
    model = _fetched(DeftForConditionalGeneration, name, "model_name_or_path", revision=revision, **options)
    return model, _fetched(DeftProcessor, name, "model_name_or_path", revision=revision)


def _fetched(loader: Any, name: str, option: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(name, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise FileNotFoundError(
            f"`{option}` is {name}, which is neither a folder nor a readable Hub repository ({reason}). If it is "
            "private or gated, ask for access on its page and log in with `hf auth login`."
        ) from error


def part_of(value: str | dict) -> str | dict:
    """Parses a part from the command line or YAML: the name of pretrained weights, or a config."""
    return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def _from_parts(**options: Any) -> DeftForConditionalGeneration:
    """Calls `from_parts`. The error names the part that cannot be read."""
    for name in ("text", "structure", "texture"):
        if isinstance(options[name], str):
            _fetched(AutoConfig, options[name], name)
    return DeftForConditionalGeneration.from_parts(**options)


# --- What is trained ------------------------------------------------------------------------------------------------


def part_of_parameter(name: str) -> str:
    """The part that a parameter belongs to: language, connectors, or experts (which include the heads).

    Args:
        name: Name of the parameter, with or without the prefixes of adapters and wrappers.
    """
    pieces = name.split(".")
    if "language_model" in pieces or "lm_head" in pieces:
        return "language"
    return "connectors" if "connectors" in pieces else "experts"


def set_stage(model: torch.nn.Module, stage: str) -> None:
    """Freezes all weights except those of a stage.

    Args:
        model: The model.
        stage: One of `stages.STAGES`.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(part_of_parameter(name) in STAGES[stage])


def cast_language_model(model: DeftForConditionalGeneration, dtype: str) -> None:
    """Converts the weights of the language model and its head.

    Args:
        model: The model.
        dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 where it is fast, and otherwise float32.

    Raises:
        ValueError: `dtype` is not one of these.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        dtype = "bfloat16" if multiplies_bfloat16() else "float32"
    if dtype not in known:
        raise ValueError(f"`dtype` must be one of {', '.join(known)}; got {dtype!r}.")
    model.model.language_model.to(known[dtype])
    model.lm_head.to(known[dtype])


def multiplies_bfloat16() -> bool:
    """Whether the GPU, or without one the processor, has instructions for bfloat16. Without them it is slow."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every release of torch
    return any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))


def quantization_config(tuning: TuningArguments, model: DeftForConditionalGeneration) -> BitsAndBytesConfig | None:
    """Makes the config that quantises the language model. Experts and heads are trained and are not quantised.

    Args:
        tuning: The options; `load_in_4bit` and `load_in_8bit` are used.
        model: The model.

    Returns:
        The config; `None` without quantisation.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if not (tuning.load_in_4bit or tuning.load_in_8bit):
        return None
    from trl import get_quantization_config

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"`load_in_{'4' if tuning.load_in_4bit else '8'}bit` needs bitsandbytes: pip install 'deft-llm[quantized]'"
        )
    config = get_quantization_config(tuning)
    config.llm_int8_skip_modules = [*(f"model.{name}" for name in fully_trained_modules(model)), "lm_head"]
    return config


def fully_trained_modules(model: DeftForConditionalGeneration) -> list[str]:
    """Names of the modules that PEFT trains in full: all except the language model and its head."""
    names = []
    for name, child in model.model.named_children():
        if name != "language_model":
            # PEFT wraps modules that have a `forward`; a ModuleDict does not have one.
            inner = [f"{name}.{key}" for key in child] if isinstance(child, torch.nn.ModuleDict) else [name]
            names += inner
    return names


def add_adapters(
    model: DeftForConditionalGeneration, tuning: TuningArguments, base: str, new_tokens: Sequence[int] = ()
) -> torch.nn.Module:
    """Adds LoRA adapters to the language model. The other parts of the stage are trained in full.

    The embeddings of new tokens are trained as well, although LoRA freezes the others. Placeholders are not such
    tokens: the experts' tokens replace their embeddings, and answers do not contain them.

    Args:
        model: The model.
        tuning: The options of the adapters.
        base: Folder or repository of the model without adapters. The adapter's config names it.
        new_tokens: Ids of the tokens whose embeddings are trained, from `tokenizer.added_chat_tokens`.

    Raises:
        ValueError: `lora_target_modules` does not match a layer.
    """
    from peft import get_peft_model
    from trl import get_peft_config

    config = get_peft_config(tuning)
    whole = [name for name in fully_trained_modules(model) if part_of_parameter(name) in STAGES[tuning.stage]]
    config.modules_to_save = [*whole, *(tuning.lora_modules_to_save or ())] or None
    config.trainable_token_indices = {"embed_tokens": list(new_tokens)} if new_tokens else None
    model.name_or_path = base  # PEFT writes it into the adapter's config
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"`lora_target_modules` {tuning.lora_target_modules!r}: {error}") from error


@contextlib.contextmanager
def adapters_in_half_precision(model: torch.nn.Module) -> Iterator[None]:
    """Context in which LoRA adapters compute in the precision of a language model that has fewer than 32 bits.

    The adapters' weights, gradients and updates stay in float32. Without this context PEFT computes the adapters in
    float32, which takes a seventh of a step on a CPU and makes the result no better, because it is added to what the
    language model computes in its own precision. Without adapters, or beside a language model in float32, nothing
    changes.

    Args:
        model: The model.
    """
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    dtype = model.get_base_model().lm_head.weight.dtype if isinstance(model, PeftModel) else torch.float32
    if dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    with torch.autocast(model.device.type, dtype), disable_input_dtype_casting(model):
        yield


def merged(adapter: str | Path, base: str | Path, dtype: str) -> DeftForConditionalGeneration:
    """Merges an adapter into its base model. The base model is loaded without quantisation.

    Args:
        adapter: Folder of the adapter.
        base: Folder or Hub repository of the base model.
        dtype: Type of the language model's weights, as in `cast_language_model`.
    """
    from peft import PeftModel

    model = DeftForConditionalGeneration.from_pretrained(base)
    cast_language_model(model, dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()
