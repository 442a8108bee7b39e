"""Rewords answers with a chat model. A rewrite is kept only if it states exactly the same facts.

A build does this with `--rewriter`. From Python:

    chat = endpoint_chat("http://localhost:8000/v1", model="Qwen/Qwen3-8B")
    conversations, report = rewrite_all(row["conversations"], chat, emotions=[row["emotion"], row["emotion_coarse"]])

`answer_parsing.parse_facts` decides. A rewrite that drops, adds, changes or denies a fact is rejected, and so is one
with words that the parser does not know. The original is kept in these cases.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import InferenceClient

from deft_llm.processing.expression_report import FIELDS

from .answer_parsing import UnreadableAnswerError, parse_facts

logger = logging.getLogger(__name__)

Chat = Callable[[str], str]
"""A chat model: takes a prompt and returns the reply's text. Any exception counts as a failure of that call."""

REWRITTEN, UNCHANGED, NOT_FREE, REFUSED, FAILED = "rewritten", "unchanged", "not_free", "refused", "failed"

PROMPT = (
    "Rewrite the statement below in other words. Keep every name of an action unit, code, side, region, direction, "
    "number and emotion exactly as it is written, and the phrase 'the convention of …'. Add nothing, leave nothing "
    "out, deny nothing. A statement that begins with Yes or No must still begin with it. Reply with the rewritten "
    "statement alone, on one line.\n\nQuestion: {question}\nStatement: {statement}"
)
# The form of these answers is prescribed: by the MEGC challenge, or because it is the form of a grounded answer.
_FIXED_TASKS = ("me_vqa_", "could_be", "why_not", "expected_motion", "class_of_emotion", "several_turns")
_RATIONALE = f"{FIELDS[2]}: "


@dataclass(frozen=True)
class Rewrite:
    """The result of rewriting one conversation.

    Args:
        conversation (`dict[str, Any]`): The conversation, rewritten or as it was.
        outcome (`str`): REWRITTEN, UNCHANGED (the reply equals the statement), NOT_FREE (the form is prescribed, so
            the model was not asked), REFUSED (other facts, or unreadable) or FAILED (the model raised an exception).
        reason (`str`, *optional*, defaults to `""`): Why the outcome is REFUSED or FAILED.
    """

    conversation: dict[str, Any]
    outcome: str
    reason: str = ""


@dataclass
class RewriteReport:
    """Counts of rewritten answers.

    Args:
        outcomes: Outcome → number of answers.
        reasons: Reason for rejection → number of answers.
        failures_in_a_row: Number of failures since the last success.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures_in_a_row: int = 0

    def __str__(self) -> str:
        lines = [f"{self.outcomes[name]:>8} {name}" for name in (REWRITTEN, UNCHANGED, NOT_FREE, REFUSED, FAILED)]
        return "\n".join(lines + [f"{count:>8} × {reason}" for reason, count in self.reasons.most_common(10)])


def rewrite(conversation: dict[str, Any], chat: Chat, *, emotions: Collection[str | None] = ()) -> Rewrite:
    """Rewords the answer of one conversation, or keeps it.

    The question does not change. In an answer with three fields, only the rationale is rewritten.

    Args:
        conversation (`dict[str, Any]`): {"task", "messages"} from `instructions.conversations_of`; not modified.
        chat (`Chat`): The chat model.
        emotions (`Collection[str | None]`, *optional*): The source's own words for the clip's emotion; `None` is
            ignored.

    Raises:
        ValueError: the task is unknown, or the original answer cannot be parsed.
    """
    *_, user, assistant = conversation["messages"]
    task, question, answer = conversation["task"], user["content"][-1]["text"], assistant["content"][0]["text"]
    known = [word for word in emotions if word]
    facts = parse_facts(task, question, answer, emotions=known)
    head, statement = _free_part(task, answer)
    if not statement or ("insufficient motion",) in facts:
        return Rewrite(conversation, NOT_FREE)
    try:
        reply = chat(PROMPT.format(question=question, statement=statement))
        if not isinstance(reply, str):
            raise TypeError(f"the chat model returned {type(reply).__name__}, not text")
    except Exception as error:  # servers and models may raise anything: keep the original and count the failure
        logger.warning("Rewriting failed, the original is kept: %s: %s", type(error).__name__, error)
        return Rewrite(conversation, FAILED, f"{type(error).__name__}: {error}")
    text = " ".join(reply.split()).strip('"“”')
    if text == statement:
        return Rewrite(conversation, UNCHANGED)
    try:
        read = parse_facts(task, question, head + text, emotions=known)
    except UnreadableAnswerError as error:
        return Rewrite(conversation, REFUSED, str(error))
    if read != facts:
        lost, added = sorted(facts - read), sorted(read - facts)
        return Rewrite(conversation, REFUSED, f"lost {lost}, added {added}")
    messages = [
        *conversation["messages"][:-1],
        {**assistant, "content": [{**assistant["content"][0], "text": head + text}]},
    ]
    return Rewrite({**conversation, "messages": messages}, REWRITTEN)


def _free_part(task: str, answer: str) -> tuple[str, str]:
    """Splits the answer into (fixed part, part that may be reworded). Single words and lists have no free part."""
    if task.startswith(_FIXED_TASKS):
        return answer, ""
    if task == "explain":
        head, mark, rationale = answer.partition(_RATIONALE)
        return head + mark, rationale
    return ("", answer) if answer.endswith(".") else (answer, "")


def rewrite_all(
    conversations: Sequence[dict[str, Any]],
    chat: Chat,
    *,
    emotions: Collection[str | None] = (),
    report: RewriteReport | None = None,
    most_failures: int = 10,
) -> tuple[list[dict[str, Any]], RewriteReport]:
    """Applies `rewrite` to all conversations of a clip.

    Args:
        conversations (`Sequence[dict[str, Any]]`): Conversations of a clip.
        chat (`Chat`): The chat model.
        emotions (`Collection[str | None]`, *optional*): The source's own words for the clip's emotion; `None` is
            ignored.
        report (`RewriteReport | None`, *optional*): Report to continue counting in, for several clips.
        most_failures (`int`, *optional*, defaults to `10`): Number of consecutive failures after which the model is
            considered unavailable.

    Raises:
        ConnectionError: `chat` failed `most_failures` times in a row.
    """
    report = RewriteReport() if report is None else report
    results = []
    for conversation in conversations:
        result = rewrite(conversation, chat, emotions=emotions)
        report.outcomes[result.outcome] += 1
        if result.reason:
            report.reasons[f"{result.outcome}: {result.reason}"] += 1
        if result.outcome != NOT_FREE:
            report.failures_in_a_row = report.failures_in_a_row + 1 if result.outcome == FAILED else 0
        if report.failures_in_a_row >= most_failures:
            raise ConnectionError(
                f"The chat model failed {most_failures} times in a row, last with {result.reason!r}. Check that it is "
                "running, or build without rewriting."
            )
        results.append(result.conversation)
    return results, report


def check_rewriter(rewriter: str, model: str | None) -> None:
    """Raises `ValueError` if `make_chat` cannot use the arguments. Sends no request."""
    if not model:
        raise ValueError(f"Rewriting with {rewriter} needs the model's name: --rewriter-model NAME.")
    if rewriter != "pipeline" and not rewriter.startswith(("http://", "https://")):
        raise ValueError(
            f'A rewriter must be "pipeline" or a URL that begins with http:// or https://, got {rewriter!r}.'
        )


def make_chat(rewriter: str, model: str) -> Chat:
    """Creates the chat model for a build.

    Args:
        rewriter (`str`): URL of an endpoint, with its key in the environment variable DEFT_REWRITER_KEY if it needs
            one, or "pipeline" for a local transformers pipeline.
        model (`str`): The model's name at the endpoint, or a Hub repository or folder.
    """
    if rewriter == "pipeline":
        from transformers import pipeline

        return pipeline_chat(pipeline("text-generation", model=model))
    return endpoint_chat(rewriter, model, api_key=os.environ.get("DEFT_REWRITER_KEY"))


def endpoint_chat(
    base_url: str,
    model: str,
    *,
    api_key: str | None = None,
    timeout: float = 60.0,
    max_tokens: int = 256,
    temperature: float = 0.7,
    seed: int | None = 0,
) -> Chat:
    """A model behind an endpoint with OpenAI's chat completions API, such as vLLM, llama.cpp or TGI.

    Requests contain labels of the clips. Using an endpoint outside the laboratory may violate a data set's licence.

    Args:
        base_url (`str`): URL with or without the final /v1.
        model (`str`): The model's name at the endpoint.
        api_key (`str | None`, *optional*): The endpoint's key. The token of the Hugging Face login is never sent.
        timeout (`float`, *optional*, defaults to `60.0`): Seconds per call.
        max_tokens (`int`, *optional*, defaults to `256`): Maximum length of a reply in tokens.
        temperature (`float`, *optional*, defaults to `0.7`): Sampling temperature.
        seed (`int | None`, *optional*, defaults to `0`): Sampling seed.
    """
    # Without any key, the client would send the stored Hugging Face token to the endpoint.
    client = InferenceClient(base_url=base_url, api_key=api_key or "none", timeout=timeout)

    def chat(prompt: str) -> str:
        reply = client.chat_completion(
            [{"role": "user", "content": prompt}],
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        return reply.choices[0].message.content

    return chat


def pipeline_chat(generator: Any, *, max_new_tokens: int = 256) -> Chat:
    """A local chat model. `generator` is a transformers `pipeline("text-generation", …)`; decoding is greedy."""

    def chat(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        reply = generator(messages, max_new_tokens=max_new_tokens, do_sample=False, return_full_text=False)
        return reply[0]["generated_text"]

    return chat
