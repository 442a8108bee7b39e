"""Build a new model from a language model and two vision backbones."""

import copy
import importlib.util
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .configuration_deft import DeftConfig

PACKAGE = "package:"  # before the name of an installed package that contains a GGUF file


class PartsMixin:
    """`from_parts` for [`DeftForConditionalGeneration`]."""

    @classmethod
    def from_parts(
        cls, *, text: Any, structure: Any, texture: Any, vocab_size: int | None = None, **config: Any
    ) -> Any:
        r"""
        Builds a new model from a language model and two vision backbones. All other weights are random.

        Args:
            text: the language model. A folder or Hub repository with pretrained weights, `{"gguf": …}` with the
                path of a GGUF file or `"package:NAME"` for the file in an installed package, a model whose weights
                are copied, or a configuration (or a mapping with `model_type`) for random weights.
            structure: the backbone of the structure expert, in the same forms as `text`, without GGUF.
            texture: the backbone of the texture expert, in the same forms as `structure`.
            vocab_size: size of the tokenizer's vocabulary. The embeddings are enlarged to it if they are smaller; the
                new ones start close to the mean of the others.
            **config: the other fields of [`DeftConfig`].

        Raises:
            TypeError: a part has none of these forms.
            ValueError: a GGUF file is incomplete, or its model is not a causal language model.
            ImportError: the package gguf is not installed.
            OSError: a repository or file cannot be loaded.
        """
        parts = {"text": text, "structure": structure, "texture": texture}
        configs = {f"{name}_config": _config_of_part(name, part) for name, part in parts.items()}
        model = cls(DeftConfig(**configs, **config))
        for name, part in parts.items():
            source = pretrained_source(part) if name == "text" else {}
            if source:
                part = AutoModelForCausalLM.from_pretrained(**source)
            elif isinstance(part, (str, PathLike)):
                part = AutoModel.from_pretrained(part)
            if not isinstance(part, PreTrainedModel):
                continue
            if name == "text":
                model.model.language_model.load_state_dict(part.base_model.state_dict())
                head = part.get_output_embeddings()
                if head is not None and not model.config.tie_word_embeddings:
                    model.lm_head.load_state_dict(head.state_dict())
            else:
                getattr(model.model.recognition, f"{name}_expert").backbone.load_state_dict(part.state_dict())
        if vocab_size is not None and vocab_size > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(vocab_size)
        return model


def pretrained_source(text: Any) -> dict[str, str]:
    r"""
    Finds the arguments with which `from_pretrained` of a model, config or tokenizer loads a language model.

    Args:
        text: the part, as in `from_parts`.

    Returns:
        `dict`: the arguments; empty if the part is not a repository, folder or GGUF file.

    Raises:
        FileNotFoundError: the GGUF file or its package does not exist.
        ValueError: the GGUF file is incomplete, or its model is not a causal language model.
        ImportError: the package gguf is not installed.
    """
    if isinstance(text, (str, PathLike)):
        return {"pretrained_model_name_or_path": str(text)}
    if not isinstance(text, Mapping) or "gguf" not in text:
        return {}
    path = _gguf_path(str(text["gguf"]))
    _check_gguf(path)
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def _gguf_path(name: str) -> Path:
    path = Path(name)
    if name.startswith(PACKAGE):
        package = name[len(PACKAGE) :]
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                f"`text` names the package {package!r}, which is not installed. Install it with pip."
            )
        path = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if len(files) != 1:
        raise FileNotFoundError(f"{path} has {len(files)} GGUF files; `text` needs the path of one.")
    if not files[0].is_file():
        raise FileNotFoundError(f"There is no GGUF file {files[0]}.")
    return files[0]


def _check_gguf(path: Path) -> None:
    """Reads the header: transformers reports neither a truncated file nor another kind of model clearly."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError("Reading a GGUF file needs the package gguf: pip install 'deft-llm[gguf]'") from error
    try:
        reader = GGUFReader(path)
        architecture = reader.get_field("general.architecture").contents()
    except (ValueError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a complete GGUF file. Download it again.") from error
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    except ValueError:  # an architecture that transformers does not read
        config = None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{path} contains a {architecture} model, which transformers does not read as a causal language model. "
            "`text` needs a causal language model, such as Llama or Qwen3."
        )


def _config_of_part(name: str, part: Any) -> PreTrainedConfig:
    source = pretrained_source(part) if name == "text" else {}
    if source:
        return AutoConfig.from_pretrained(**source)
    if isinstance(part, (str, PathLike)):
        return AutoConfig.from_pretrained(part)
    if isinstance(part, PreTrainedModel):
        return copy.deepcopy(part.config)
    if isinstance(part, PreTrainedConfig):
        return copy.deepcopy(part)
    if isinstance(part, Mapping) and "model_type" in part:
        return AutoConfig.for_model(**part)
    raise TypeError(
        f"`{name}` must be the name of pretrained weights, a model, a config, or a mapping with model_type"
        f"{' or gguf' if name == 'text' else ''}; got {part!r}."
    )


__all__ = ["PartsMixin", "pretrained_source"]
