"""Build a new model from a language model and two vision backbones."""

import copy
from collections.abc import Mapping
from os import PathLike
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .configuration_deft import DeftConfig


class PartsMixin:
    """`from_parts` for [`DeftForConditionalGeneration`]."""

    @classmethod
    def from_parts(
        cls, *, text: Any, structure: Any, texture: Any, vocab_size: int | None = None, **config: Any
    ) -> Any:
        r"""
        Builds a new model from a language model and two vision backbones. All other weights are random.

        Args:
            text: the language model. A folder or Hub repository with pretrained weights, a model whose weights are
                copied, or a configuration (or a mapping with `model_type`) for random weights.
            structure: the backbone of the structure expert, in the same forms as `text`.
            texture: the backbone of the texture expert, in the same forms as `text`.
            vocab_size: size of the tokenizer's vocabulary. The embeddings are enlarged to it if they are smaller.
            **config: the other fields of [`DeftConfig`].

        Raises:
            TypeError: a part has none of these forms.
            OSError: a repository cannot be loaded.
        """
        parts = {"text": text, "structure": structure, "texture": texture}
        configs = {f"{name}_config": _config_of_part(name, part) for name, part in parts.items()}
        model = cls(DeftConfig(**configs, **config))
        for name, part in parts.items():
            if isinstance(part, (str, PathLike)):
                part = (AutoModelForCausalLM if name == "text" else AutoModel).from_pretrained(part)
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


def _config_of_part(name: str, part: Any) -> PreTrainedConfig:
    if isinstance(part, (str, PathLike)):
        return AutoConfig.from_pretrained(part)
    if isinstance(part, PreTrainedModel):
        return copy.deepcopy(part.config)
    if isinstance(part, PreTrainedConfig):
        return copy.deepcopy(part)
    if isinstance(part, Mapping) and "model_type" in part:
        return AutoConfig.for_model(**part)
    raise TypeError(
        f"`{name}` must be the name of pretrained weights, a model, a config, or a mapping with model_type; got "
        f"{part!r}."
    )


__all__ = ["PartsMixin"]
