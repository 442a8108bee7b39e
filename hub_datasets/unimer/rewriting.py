"""Answers in other words, by any chat model, kept only where exactly the same facts are read from them.

A build does it with `--rewriter`; by hand:

    chat = endpoint_chat("http://localhost:8000/v1", model="Qwen/Qwen3-8B")
    conversations, report = rewrite_all(row["conversations"], chat, emotions=[row["emotion"], row["emotion_coarse"]])

`answer_parsing.parse_facts` decides, and refuses what it does not understand: a rewrite that drops, adds, changes or
denies a fact never gets in, and neither does a harmless one in words the reader lacks. The original stays then.
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
"""A chat model: the prompt in, the reply's text out. Whatever it raises counts as a failure of this one call."""

REWRITTEN, UNCHANGED, NOT_FREE, REFUSED, FAILED = "rewritten", "unchanged", "not_free", "refused", "failed"

PROMPT = (
    "Rewrite the statement below in other words. Keep every name of an action unit, code, side, region, direction, "
    "number and emotion exactly as it is written, and the phrase 'the convention of …'. Add nothing, leave nothing "
    "out, deny nothing. A statement that begins with Yes or No must still begin with it. Reply with the rewritten "
    "statement alone, on one line.\n\nQuestion: {question}\nStatement: {statement}"
)
# The challenge prescribes the form of its answers.
_FIXED_TASKS = "me_vqa_"
_RATIONALE = f"{FIELDS[2]}: "


@dataclass(frozen=True)
class Rewrite:
    """`outcome` is REWRITTEN, UNCHANGED (the statement came back as it was), NOT_FREE (the form is prescribed,
    the model was not asked), REFUSED (other facts, or unreadable) or FAILED (the model raised); `reason` says why."""

    conversation: dict[str, Any]
    outcome: str
    reason: str = ""


@dataclass
class RewriteReport:
    """How often each outcome occurred, the reasons for what was not kept with their counts, and how many failures the
    last ones were."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures_in_a_row: int = 0

    def __str__(self) -> str:
        lines = [f"{self.outcomes[name]:>8} {name}" for name in (REWRITTEN, UNCHANGED, NOT_FREE, REFUSED, FAILED)]
        return "\n".join(lines + [f"{count:>8} × {reason}" for reason, count in self.reasons.most_common(10)])


def rewrite(conversation: dict[str, Any], chat: Chat, *, emotions: Collection[str | None] = ()) -> Rewrite:
    """One conversation with its answer in other words, or as it was.

    The question stays. Of an answer in three fields only the rationale is rewritten.

    Args:
        conversation: {"task", "messages"} from `instructions.conversations_of`; it is not changed.
        emotions: the source's own words for the clip's emotion, `None` ignored.

    Raises:
        ValueError: an unknown task, or an answer that cannot be read even before it is rewritten.
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
    except Exception as error:  # whatever a server or a model may raise: the original is kept, and the failure counted
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
    """The answer as (what must stay, what may be worded freely): of bare words and lists, nothing."""
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
    """`rewrite` over a clip's conversations.

    Args:
        report: one to go on counting in, for many clips.
        most_failures: so many in a row mean that the model is not there.

    Raises:
        ConnectionError: `chat` failed that often in a row.
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
    """Raises `ValueError` for what `make_chat` cannot use; asks nobody."""
    if not model:
        raise ValueError(f"Rewriting by {rewriter} needs the model's name: --rewriter-model NAME.")
    if rewriter != "pipeline" and not rewriter.startswith(("http://", "https://")):
        raise ValueError(
            f'A rewriter is "pipeline" or an address beginning with http:// or https://, not {rewriter!r}.'
        )


def make_chat(rewriter: str, model: str) -> Chat:
    """The chat model that a build names.

    Args:
        rewriter: address of an endpoint (its key, if it wants one, in the environment as DEFT_REWRITER_KEY), or
            "pipeline" for transformers' own on this machine.
        model: its name there, or a Hub repository or folder.
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
    """A model behind an endpoint that speaks OpenAI's chat completions, such as vLLM, llama.cpp or TGI.

    What is sent holds labels of the clips: an endpoint outside the laboratory may break a data set's licence.

    Args:
        base_url: with or without the final /v1.
        api_key: what the endpoint wants; the token of the Hugging Face login is never sent.
        timeout: seconds a call.
    """
    # With no key at all the client would send the stored Hugging Face token to whatever the address is.
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
    """A local model: `generator` is transformers' `pipeline("text-generation", …)`; decoding is greedy."""

    def chat(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        reply = generator(messages, max_new_tokens=max_new_tokens, do_sample=False, return_full_text=False)
        return reply[0]["generated_text"]

    return chat
