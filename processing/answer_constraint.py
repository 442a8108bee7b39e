"""Keeps a generated answer in the three-field format, and its evidence to units, regions and directions that exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import LogitsProcessor

from .action_units import get_action_unit
from .expression_report import FIELDS, INSUFFICIENT_MOTION
from .motion_evidence import DIRECTIONS

_SIDE_WORDS = {"both": "both sides", "left": "left side", "right": "right side"}
_FREE_ORDER = 4  # lines that may stand in any order; beyond that the orders are too many
# A tokenizer as llguidance reads it, and how many tokens it had: 150,000 take seconds, and every answer needs them.
_WRAPPED: WeakKeyDictionary[Any, tuple[int, Any]] = WeakKeyDictionary()


def answer_pattern(
    emotion_labels: Sequence[str],
    action_units: Sequence[str],
    *,
    facts: Mapping[str, str] | None = None,
    fields: Sequence[str] = FIELDS,
    longest_rationale: int = 400,
) -> str:
    """The answer's format as a regular expression.

    A piece of evidence names one of `action_units` with a region that the unit moves; units that motion cannot show
    are left out. A clip with insufficient motion has no evidence. The rationale is a line of `longest_rationale`
    characters at most.

    Args:
        facts: the units that were recognised, with their sides. The evidence then has a line for each of them and for
            nothing else, on that side; in any order, up to four, else in the order given.
    """
    class_field, evidence_field, rationale_field = map(re.escape, fields)
    moved = {code: sorted({motion.region for motion in get_action_unit(code).motions}) for code in action_units}
    sides = {code: _SIDE_WORDS[side] for code, side in (facts or {}).items()}
    lines = {
        code: (
            f"{evidence_field}: {re.escape(f'{code} {get_action_unit(code).name}')}, "
            f"{sides.get(code, '(both sides|left side|right side)')}, {_one_of(regions)} moves {_one_of(DIRECTIONS)} "
            "by [0-9]{1,2}\\.[0-9] %\n"
        )
        for code, regions in moved.items()
        if regions
    }
    none = f"{evidence_field}: none\n"
    if facts is None:
        evidence = f"({none}|({'|'.join(lines.values())}){{1,12}})" if lines else none
    else:
        named = [lines[code] for code in facts if code in lines]
        orders = permutations(named) if len(named) <= _FREE_ORDER else [named]
        evidence = f"({'|'.join(''.join(order) for order in orders)})" if named else none
    answer = f"{_one_of(emotion_labels)}\n{evidence}"
    if not facts:
        answer = f"({re.escape(INSUFFICIENT_MOTION)}\n{none}|{answer})"
    # Whatever some reader takes for the end of a line is left out with the control characters.
    rationale = rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{longest_rationale}}}"
    return f"{class_field}: {answer}{rationale_field}: {rationale}"


def _one_of(words: Sequence[str]) -> str:
    return f"({'|'.join(map(re.escape, words))})"


class AnswerConstraint(LogitsProcessor):
    r"""
    For `generate(logits_processor=[…])`: tokens that would leave the pattern get −inf. Use one object a call; it works
    with batches, beams and sampling.

    Args:
        tokenizer: a fast tokenizer.
        patterns: as of [`answer_pattern`]; one for all prompts, or one each.
        prompt_length: tokens before the answer, padding included.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: a pattern that llguidance does not read.
    """

    def __init__(self, tokenizer: Any, patterns: str | Sequence[str], prompt_length: int):
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ImportError(
                "Answers that are held to what was measured need `pip install llguidance`; the pipeline's "
                "`grounded=False` does without."
            ) from error
        if _WRAPPED.get(tokenizer, (None,))[0] != len(tokenizer):
            _WRAPPED[tokenizer] = len(tokenizer), from_tokenizer(tokenizer)
        wrapped, starts = _WRAPPED[tokenizer][1], []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            starts.append(llguidance.LLMatcher(wrapped, llguidance.LLMatcher.grammar_from_regex(pattern)))
            if starts[-1].is_error():
                raise ValueError(f"The answer's pattern cannot be used: {starts[-1].get_error()}")
        self.prompt_length, self.end, self.prompts = prompt_length, tokenizer.eos_token_id, len(starts)
        # The state behind the tokens of an answer, by its prompt and those tokens: beams change places between calls.
        self._states: dict[tuple[int, tuple[int, ...]], Any] = {(row, ()): start for row, start in enumerate(starts)}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        states: dict[tuple[int, tuple[int, ...]], Any] = {}
        allowed = np.zeros(scores.shape, bool)
        beams = max(1, len(input_ids) // self.prompts) if self.prompts > 1 else len(input_ids)
        for row, tokens in enumerate(input_ids[:, self.prompt_length :].tolist()):
            key = (row // beams, tuple(tokens))
            if key not in states:
                states[key] = self._advanced(*key)
            matcher = states[key]
            if matcher is None or matcher.is_stopped():
                allowed[row, self.end] = True
                continue
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            width = min(len(bits), scores.shape[1])
            allowed[row, :width] = bits[:width]
        self._states = states
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -float("inf"))

    def _advanced(self, prompt: int, tokens: tuple[int, ...]) -> Any:
        """The state after `tokens`, from the one before; `None` behind the answer's end."""
        before = self._states.get((prompt, tokens[:-1]))
        if not tokens or before is None:
            return before
        after = before.deep_copy()
        return after if after.consume_token(tokens[-1]) and not after.is_stopped() else None
