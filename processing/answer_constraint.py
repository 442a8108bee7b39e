"""Keeps a generated answer in the three-field format, and its evidence to units, regions and directions that exist."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from .action_units import get_action_unit
from .expression_report import FIELDS, INSUFFICIENT_MOTION
from .motion_evidence import DIRECTIONS


def answer_pattern(
    emotion_labels: Sequence[str],
    action_units: Sequence[str],
    *,
    fields: Sequence[str] = FIELDS,
    longest_rationale: int = 400,
) -> str:
    """The answer's format as a regular expression.

    A piece of evidence names one of `action_units` with a region that the unit moves; units that motion cannot show
    are left out. A clip with insufficient motion has no evidence. The rationale is a line of `longest_rationale`
    characters at most.
    """
    class_field, evidence_field, rationale_field = map(re.escape, fields)
    units = []
    for code in action_units:
        unit = get_action_unit(code)
        regions = sorted({motion.region for motion in unit.motions})
        if regions:
            units.append(f"{re.escape(f'{code} {unit.name}')}, (both sides|left side|right side), {_one_of(regions)}")
    none = f"{evidence_field}: none\n"
    evidence = none
    if units:
        line = f"({'|'.join(units)}) moves {_one_of(DIRECTIONS)} by [0-9]{{1,2}}\\.[0-9] %"
        evidence = f"({none}|({evidence_field}: {line}\n){{1,12}})"
    answer = f"({re.escape(INSUFFICIENT_MOTION)}\n{none}|{_one_of(emotion_labels)}\n{evidence})"
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
        pattern: as of [`answer_pattern`].
        prompt_length: tokens before the answer, padding included.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: a pattern that llguidance does not read.
    """

    def __init__(self, tokenizer: Any, pattern: str, prompt_length: int):
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ImportError("Constrained answers need `pip install deft-llm[constrained]` (llguidance).") from error
        wrapped = from_tokenizer(tokenizer)
        start = llguidance.LLMatcher(wrapped, llguidance.LLMatcher.grammar_from_regex(pattern))
        if start.is_error():
            raise ValueError(f"The answer's pattern cannot be used: {start.get_error()}")
        self.prompt_length, self.end = prompt_length, tokenizer.eos_token_id
        self._states: dict[tuple[int, ...], Any] = {(): start}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        states: dict[tuple[int, ...], Any] = {}
        allowed = np.zeros(scores.shape, bool)
        for row, tokens in enumerate(input_ids[:, self.prompt_length :].tolist()):
            key = tuple(tokens)
            if key not in states:
                states[key] = self._advanced(key)
            matcher = states[key]
            if matcher is None or matcher.is_stopped():
                allowed[row, self.end] = True
                continue
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            width = min(len(bits), scores.shape[1])
            allowed[row, :width] = bits[:width]
        self._states = states
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -float("inf"))

    def _advanced(self, tokens: tuple[int, ...]) -> Any:
        """The state after `tokens`, from the one before; `None` behind the answer's end."""
        before = self._states.get(tokens[:-1]) if tokens else self._states.get(())
        if not tokens or before is None:
            return before
        after = before.deep_copy()
        return after if after.consume_token(tokens[-1]) and not after.is_stopped() else None
