"""A floor of MEGC's question-answering tracks: a language model that reads the questions and sees no video."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from deft_llm.modeling_deft.building_deft import PACKAGE, pretrained_source

from .me_lvqa import asked_for
from .me_vqa import Question, refuse_shared

EXAMPLES = 16  # questions with answers in a prompt
LONGEST = 48  # tokens of an answer


def text_only_answers(
    training: Sequence[Question], questions: Sequence[Question], model: str, *, seed: int = 0
) -> list[str]:
    """What a language model answers that knows examples from the training file, and nothing about the videos.

    The prompt has up to `EXAMPLES` training questions of the same kind with their answers, drawn at random, and then
    the question. Decoding is greedy. Questions with the same words get the same answer.

    Args:
        training (`Sequence[Question]`): Questions with answers.
        questions (`Sequence[Question]`): The questions to answer.
        model (`str`): Folder or Hub repository of a causal language model, path of a GGUF file, or `package:NAME`
            for the GGUF file in an installed package.
        seed (`int`, *optional*, defaults to `0`): Of the choice of examples.

    Raises:
        ValueError: a clip is in both files, no training question has an answer, or `model` is not a causal language
            model.
        FileNotFoundError: the GGUF file or its package does not exist.
        OSError: the repository or folder cannot be loaded.
        ImportError: the package gguf is not installed.
    """
    refuse_shared(training, questions)
    known = [item for item in training if item.answer is not None]
    if not known:
        raise ValueError("None of the questions in the training file has an answer.")
    prompts = _prompts(known, [item.question for item in questions], seed)
    answers = _continued(model, list(dict.fromkeys(prompts.values())))
    return [answers[prompts[item.question]] for item in questions]


def _prompts(known: Sequence[Question], texts: Sequence[str], seed: int) -> dict[str, str]:
    """The prompt of each question."""
    kinds = {_kind(item.question) for item in known}
    shown: dict[Hashable, str] = {}
    prompts = {}
    for text in texts:
        kind = _kind(text) if _kind(text) in kinds else None
        if kind not in shown:
            alike = [item for item in known if kind in (None, _kind(item.question))]
            places = np.random.default_rng(seed).permutation(len(alike))[:EXAMPLES].tolist()
            shown[kind] = "".join(_asked(alike[place].question) + f" {alike[place].answer}\n\n" for place in places)
        prompts[text] = shown[kind] + _asked(text)
    return prompts


def _kind(question: str) -> str:
    """What makes two questions alike: what they ask about a long video, or else their words."""
    asked = asked_for(question)
    return question if asked is None else asked[0]


def _asked(question: str) -> str:
    return f"Question: {' '.join(question.split())}\nAnswer:"


def _continued(name: str, prompts: Sequence[str]) -> dict[str, str]:
    """The first line that a language model writes after each prompt."""
    import torch

    model, tokenizer = _load(name)
    found = {}
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            ids = model.generate(
                **inputs,
                max_new_tokens=LONGEST,
                do_sample=False,
                stop_strings=["\n"],
                tokenizer=tokenizer,
                pad_token_id=tokenizer.eos_token_id,
            )
        written = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found[prompt] = written.strip().partition("\n")[0].strip()
    return found


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    part = {"gguf": name} if name.startswith(PACKAGE) or name.endswith(".gguf") else name
    source = pretrained_source(part)
    try:
        return AutoModelForCausalLM.from_pretrained(**source).eval(), AutoTokenizer.from_pretrained(**source)
    except ValueError as error:
        raise ValueError(f"{name} cannot be loaded as a causal language model: {error}") from error
