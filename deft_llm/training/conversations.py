"""The conversations of a clip: which of them are drawn, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from deft_llm.hub_datasets.unimer.answer_parsing import TASKS
from deft_llm.processing import DeftProcessor

ALL_INPUTS = {"pixel_values_videos": True, "flow_values_videos": True}  # of a clip with all experts


def with_tasks(dataset: Dataset, task_weights: dict[str, float] | None) -> Dataset:
    """Keeps the clips that have a conversation. A clip may have none if its labels and its motion disagree.

    Args:
        dataset: The rows.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.

    Raises:
        ValueError: A task does not exist, or no clip is left.
    """
    unknown = sorted(set(task_weights or ()) - set(TASKS))
    if unknown:
        raise ValueError(f"`task_weights` has {unknown[0]!r}, which is not a task; the tasks are {', '.join(TASKS)}.")
    kept = [index for index, items in enumerate(dataset["conversations"]) if next(weighted(items, task_weights), None)]
    if not kept:
        raise ValueError(f"No clip has a conversation of the tasks {sorted(task_weights or ['any'])}.")
    if len(kept) < len(dataset):
        print(f"{len(dataset) - len(kept)} of {len(dataset)} clips left out: no conversation of the weighted tasks")
    return dataset.select(kept)


def weighted(conversations: Sequence[dict], task_weights: Mapping[str, float] | None) -> Iterator[dict]:
    """The conversations whose task has a weight above 0."""
    return (item for item in conversations if task_weights is None or task_weights.get(item["task"], 0) > 0)


def drawn(
    conversations: Sequence[dict], task_weights: Mapping[str, float] | None, count: int, rng: np.random.Generator
) -> list[dict]:
    """Draws conversations by the weights of their tasks, without repetition.

    Args:
        conversations: The conversations of a clip.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks equally often.
        count: Largest number of conversations.
        rng: Random generator.
    """
    candidates = list(weighted(conversations, task_weights))
    weights = np.array([1.0 if task_weights is None else float(task_weights[item["task"]]) for item in candidates])
    weights /= weights.sum()
    if count == 1:
        return [candidates[int(rng.choice(len(candidates), p=weights))]]
    places = rng.choice(len(candidates), min(count, len(candidates)), replace=False, p=weights)
    return [candidates[int(place)] for place in places]


def conversation_tokens(
    processor: DeftProcessor, messages: Sequence[Mapping[str, Any]], video_inputs: Mapping[str, Any]
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation about one clip.

    Args:
        processor: The processor.
        messages: Questions and answers in turn, with a block of type video in the first question.
        video_inputs: What the clip has, as in `DeftProcessor.render_prompt`.

    Returns:
        The ids, and which of them are scored: the answers, each with the end of its turn.

    Raises:
        ValueError: The chat template writes earlier turns differently when others follow.
    """
    ids: list[int] = []
    scored: list[bool] = []
    written, tokenizer = "", processor.tokenizer
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = processor.render_prompt(messages[:place], video_inputs)
        if not prompt.startswith(written):
            raise ValueError(
                "The chat template writes earlier turns differently when others follow, so that a conversation of "
                "several turns cannot be trained. Leave the task `several_turns` out of `task_weights`, or set "
                "`chat_template: chatml`."
            )
        answer = message["content"][0]["text"] + tokenizer.eos_token
        for text, is_answer in ((prompt[len(written) :], False), (answer, True)):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            scored += [is_answer] * len(tokens)
        written = prompt + answer
    return ids, scored


def check_budget(dataset: Dataset, processor: DeftProcessor, task_weights: Mapping[str, float] | None, budget: int):
    """Checks that every prompt with its answer fits into a number of tokens.

    Args:
        dataset: The rows.
        processor: The processor.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.
        budget: Largest number of tokens.

    Raises:
        ValueError: A conversation is too long. The message names the clip.
    """
    clip = processor._get_num_multimodal_tokens(video_sizes=[None])["num_video_tokens"][0]
    for row in dataset.select_columns(["clip_id", "conversations"]):
        longest = max(
            (
                len(conversation_tokens(processor, item["messages"], ALL_INPUTS)[0])
                for item in weighted(row["conversations"], task_weights)
            ),
            default=0,
        )
        if longest > budget:
            raise ValueError(
                f"Clip {row['clip_id']} needs {longest} tokens, {clip} of them for the clip itself, and only "
                f"{budget} fit. Increase `max_length` (and the language model's max_position_embeddings), or reduce "
                "structure_tokens and texture_tokens. Texts are never truncated."
            )
