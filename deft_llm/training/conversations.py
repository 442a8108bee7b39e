"""The conversations of a clip: which of them are drawn, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from deft_llm.hub_datasets.unimer.answer_parsing import TASKS
from deft_llm.hub_datasets.unimer.questions import QUESTIONS, task_of_turn, wording_of
from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.processing import DeftProcessor

ALL_INPUTS = {"pixel_values_videos": True, "flow_values_videos": True}  # of a clip with all experts


def with_tasks(dataset: Dataset, task_weights: dict[str, float] | None, held_out_wordings: int = 0) -> Dataset:
    """Keeps the clips that have a conversation. A clip may have none if its labels and its motion disagree.

    Args:
        dataset: The rows.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.
        held_out_wordings: See `weighted`.

    Raises:
        ValueError: A task does not exist, all wordings of a task are held out, or no clip is left.
    """
    unknown = sorted(set(task_weights or ()) - set(TASKS))
    if unknown:
        raise ValueError(f"`task_weights` has {unknown[0]!r}, which is not a task; the tasks are {', '.join(TASKS)}.")
    for task in task_weights or TASKS:
        wordings = len(QUESTIONS[task])
        if not _has_fixed_wording(task) and held_out_wordings >= wordings:
            raise ValueError(
                f"`held_out_wordings` {held_out_wordings} leaves none of the {wordings} wordings of the task {task}."
            )
    kept = [
        index
        for index, items in enumerate(dataset["conversations"])
        if next(weighted(items, task_weights, held_out_wordings), None)
    ]
    if not kept:
        raise ValueError(f"No clip has a conversation of the tasks {sorted(task_weights or ['any'])}.")
    if len(kept) < len(dataset):
        print(f"{len(dataset) - len(kept)} of {len(dataset)} clips left out: no conversation of the weighted tasks")
    return dataset.select(kept)


def weighted(
    conversations: Sequence[dict], task_weights: Mapping[str, float] | None, held_out_wordings: int = 0
) -> Iterator[dict]:
    """The conversations that are trained.

    Args:
        conversations: The conversations of a clip.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks.
        held_out_wordings: Number of wordings per task, the last ones of `QUESTIONS`, that are not trained. Tasks with
            a fixed wording keep it.
    """
    for item in conversations:
        task = item["task"]
        if task_weights is not None and not task_weights.get(task, 0) > 0:
            continue
        if not held_out_wordings or not is_held_out(item, held_out_wordings):
            yield item


def is_held_out(conversation: Mapping[str, Any], held_out_wordings: int) -> bool:
    """Whether a question of a conversation has one of the last wordings of its task.

    Args:
        conversation: A conversation.
        held_out_wordings: Number of wordings, as in `weighted`.
    """
    task = conversation["task"]
    if _has_fixed_wording(task):
        return False
    questions = [message["content"][-1]["text"] for message in conversation["messages"] if message["role"] == "user"]
    turns = [(task_of_turn(question) if task == "several_turns" else task, question) for question in questions]
    return any(wording_of(turn, question) >= len(QUESTIONS[turn]) - held_out_wordings for turn, question in turns)


def _has_fixed_wording(task: str) -> bool:
    """Whether a task has the wording of the ME-VQA track, which depends on the answer and is not a choice."""
    return task.startswith("me_vqa")


def drawn(
    conversations: Sequence[dict],
    task_weights: Mapping[str, float] | None,
    count: int,
    rng: np.random.Generator,
    held_out_wordings: int = 0,
) -> list[dict]:
    """Draws conversations by the weights of their tasks, without repetition.

    Args:
        conversations: The conversations of a clip.
        task_weights: Conversation task → how often it is drawn; `None` for all tasks equally often.
        count: Largest number of conversations.
        rng: Random generator.
        held_out_wordings: See `weighted`.
    """
    candidates = list(weighted(conversations, task_weights, held_out_wordings))
    weights = np.array([1.0 if task_weights is None else float(task_weights[item["task"]]) for item in candidates])
    weights /= weights.sum()
    if count == 1:
        return [candidates[int(rng.choice(len(candidates), p=weights))]]
    places = rng.choice(len(candidates), min(count, len(candidates)), replace=False, p=weights)
    return [candidates[int(place)] for place in places]


def joined(conversations: Sequence[dict], turns: int, rng: np.random.Generator) -> list[list[dict]]:
    """Joins conversations about one clip to conversations of several turns.

    Args:
        conversations: The conversations.
        turns: Largest number of questions per conversation. Its size is drawn each time. A conversation that already
            has more questions is not joined with others.
        rng: Random generator.

    Returns:
        The messages of each conversation. Only the first question of each has the clip.
    """
    rest, found = list(conversations), []
    while rest:
        size = 1 if turns == 1 else int(rng.integers(1, turns + 1))
        questions = np.cumsum([len(item["messages"]) // 2 for item in rest[:size]])
        count = max(int((questions <= size).sum()), 1)
        first, *others = rest[:count]
        messages = list(first["messages"])
        for item in others:
            for message in item["messages"]:
                content = [block for block in message["content"] if block["type"] != "video"]
                messages.append({**message, "content": content})
        found.append(messages)
        rest = rest[count:]
    return found


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
                "several turns cannot be trained. Set `turns` to 1, or `chat_template: chatml`."
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
    for row in dataset.select_columns(["clip_id", "conversations", "motion"]):
        inputs = {**ALL_INPUTS, "region_motions": [region_motions(row)]}
        longest = max(
            (
                len(conversation_tokens(processor, item["messages"], inputs)[0])
                for item in weighted(row["conversations"], task_weights)
            ),
            default=0,
        )
        if longest > budget:
            clip = len(
                processor.tokenizer(processor.replace_video_token(inputs), add_special_tokens=False)["input_ids"]
            )
            raise ValueError(
                f"Clip {row['clip_id']} needs {longest} tokens, {clip} of them for the clip itself, and only "
                f"{budget} fit. Increase `max_length` (and the language model's max_position_embeddings), or reduce "
                "structure_tokens and texture_tokens, or leave out motion_in_words. Texts are never truncated."
            )
