"""Constrains generation to the three-field answer, or to the answers that say what was measured."""

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
_FREE_ORDER = 4  # maximum number of lines in any order; with more lines there are too many orders
# Cache of llguidance tokenizers with their sizes. Converting 150,000 tokens takes seconds, and every answer needs it.
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

    A piece of evidence names one of `action_units` with a region that the unit moves. Units that motion cannot show
    are left out. A clip with insufficient motion has no evidence.

    Args:
        emotion_labels (`Sequence[str]`): Classes.
        action_units (`Sequence[str]`): Codes of the action units.
        facts (`Mapping[str, str] | None`, *optional*): Code -> side of the recognised units. If given, the evidence
            has exactly one line for each of them, on that side. Up to four lines may be in any order; more must be in
            the order given.
        fields (`Sequence[str]`, *optional*, defaults to `FIELDS`): Names of the three fields.
        longest_rationale (`int`, *optional*, defaults to `400`): Maximum length of the rationale in characters.
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
    # Excludes control characters and everything that could be taken as the end of a line.
    rationale = rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{longest_rationale}}}"
    return f"{class_field}: {answer}{rationale_field}: {rationale}"


def answers_pattern(answers: Sequence[str]) -> str:
    """A regular expression that matches these answers and no others."""
    # `re.escape` writes a line feed as an escaped one, which llguidance does not know.
    return _one_of(answers).replace("\\\n", "\n")


def _one_of(words: Sequence[str]) -> str:
    return f"({'|'.join(map(re.escape, words))})"


class AnswerConstraint(LogitsProcessor):
    r"""
    A logits processor for `generate(logits_processor=[…])`. Tokens that would violate the pattern get −inf. Use a new
    object per call. It works with batches, beams and sampling.

    Args:
        tokenizer (`Any`): A fast tokenizer.
        patterns (`str | Sequence[str]`): Patterns from [`answer_pattern`] or [`answers_pattern`]; one for all prompts,
            or one per prompt.
        prompt_length (`int`): Number of tokens before the answer, including padding.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: llguidance cannot use a pattern.
    """

    def __init__(self, tokenizer: Any, patterns: str | Sequence[str], prompt_length: int):
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ImportError(
                "Grounded answers need llguidance: `pip install llguidance`, or pass `grounded=False` to the pipeline."
            ) from error
        if _WRAPPED.get(tokenizer, (None,))[0] != len(tokenizer):
            _WRAPPED[tokenizer] = len(tokenizer), from_tokenizer(tokenizer)
        wrapped, starts = _WRAPPED[tokenizer][1], []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            starts.append(llguidance.LLMatcher(wrapped, llguidance.LLMatcher.grammar_from_regex(pattern)))
            if starts[-1].is_error():
                raise ValueError(f"The answer's pattern cannot be used: {starts[-1].get_error()}")
        self.prompt_length, self.end, self.prompts = prompt_length, tokenizer.eos_token_id, len(starts)
        # The state after the tokens of an answer, by prompt and tokens, because beams are reordered between calls.
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
        """The state after `tokens`, computed from the previous one; `None` after the end of the answer."""
        before = self._states.get((prompt, tokens[:-1]))
        if not tokens or before is None:
            return before
        after = before.deep_copy()
        return after if after.consume_token(tokens[-1]) and not after.is_stopped() else None
