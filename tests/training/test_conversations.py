import numpy as np
import pytest

from deft_llm.hub_datasets.unimer.questions import QUESTIONS
from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.training.conversations import (
    ALL_INPUTS,
    check_budget,
    conversation_tokens,
    drawn,
    is_held_out,
    joined,
    weighted,
    with_tasks,
)


def test_tasks_are_drawn_by_weight(processor, prepared):
    weights = {"emotion": 3, "action_units": 1}
    row = next(row for row in prepared if {"emotion", "action_units"} <= {c["task"] for c in row["conversations"]})
    rng = np.random.default_rng(0)
    tasks = [drawn(row["conversations"], weights, 1, rng)[0]["task"] for _ in range(400)]
    assert "explain" not in tasks
    assert tasks.count("emotion") / 400 == pytest.approx(0.75, abs=0.07)


def test_a_budget_that_cannot_hold_a_clip_names_clip_and_tokens(dataset, processor):
    section = processor.replace_video_token({**ALL_INPUTS, "region_motions": [region_motions(dataset[0])]})
    per_clip = len(processor.tokenizer(section, add_special_tokens=False)["input_ids"])
    assert per_clip > processor.structure_tokens + processor.texture_tokens + processor.motion_tokens
    check_budget(dataset, processor, {"explain": 1}, 1024)
    with pytest.raises(
        ValueError, match=rf"needs \d+ tokens, {per_clip} of them for the clip itself, and only 64 fit"
    ):
        check_budget(dataset, processor, {"explain": 1}, 64)


def test_clips_without_a_weighted_task_are_left_out_and_counted(dataset, capsys):
    silent = [row | {"conversations": []} for row in dataset.select(range(2))]
    motion_only = dataset[2] | {
        "conversations": [item for item in dataset[2]["conversations"] if item["task"] == "motions"]
    }
    rows = dataset.from_list([*silent, motion_only, dataset[3]], features=dataset.features)
    assert list(with_tasks(rows, {"explain": 4, "emotion": 0})["clip_id"]) == [dataset[3]["clip_id"]]
    assert "3 of 4 clips left out" in capsys.readouterr().out
    assert len(with_tasks(rows, {"motions": 1})) == len(with_tasks(rows, None)) == 2
    assert len(with_tasks(dataset, {"explain": 1})) == len(dataset)
    with pytest.raises(ValueError, match="has 'guess', which is not a task; the tasks are explain"):
        with_tasks(rows, {"guess": 1})
    with pytest.raises(ValueError, match=r"No clip has a conversation of the tasks \['side'\]"):
        with_tasks(rows.select(range(2)), {"side": 1})


def test_each_answer_of_a_conversation_is_scored_with_the_end_of_its_turn(processor):
    def says(role, text, *blocks):
        return {"role": role, "content": [*blocks, {"type": "text", "text": text}]}

    first = [says("user", "Which side?", {"type": "video", "text": None}), says("assistant", "The left side.")]
    messages = [*first, says("user", "How far?"), says("assistant", "It moves up by 1.2 %.")]
    ids, scored = conversation_tokens(processor, messages, ALL_INPUTS)
    tokenizer = processor.tokenizer
    text = processor.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(ids) == text.replace(processor.video_token, processor.replace_video_token(ALL_INPUTS))
    answers = tokenizer.decode([token for token, is_scored in zip(ids, scored, strict=True) if is_scored])
    assert answers == "The left side.<|im_end|>It moves up by 1.2 %.<|im_end|>"
    alone, _ = conversation_tokens(processor, first, ALL_INPUTS)
    assert ids[: len(alone)] == alone


def test_a_template_that_rewrites_earlier_turns_is_refused_for_several_turns(processor, monkeypatch):
    last_only = "{{ messages[-1].role }}:{% for block in messages[0].content %}{% if block.type == 'video' %}<|video|>"
    monkeypatch.setattr(processor, "chat_template", last_only + "{% endif %}{% endfor %}{{ messages | length }}")
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "up"}]}
    assert conversation_tokens(processor, [turn, answer], ALL_INPUTS)[1].count(True) > 1
    with pytest.raises(ValueError, match="writes earlier turns differently"):
        conversation_tokens(processor, [turn, answer, turn, answer], ALL_INPUTS)


def test_drawn_conversations_are_different_ones(prepared):
    rng, items = np.random.default_rng(1), prepared[0]["conversations"]
    for _ in range(20):
        chosen = drawn(items, None, 3, rng)
        assert len({id(item) for item in chosen}) == 3
    assert len(drawn(items, None, 100, rng)) == len(items)


def test_held_out_wordings_are_not_trained_and_fixed_ones_are(dataset):
    items = [item for row in dataset["conversations"] for item in row]
    trained = list(weighted(items, None, 4))
    left_out = [item for item in items if item not in trained]
    assert {item["task"] for item in left_out} >= {"explain", "emotion", "action_units"}
    for item in left_out:
        assert is_held_out(item, 4)
        assert not item["task"].startswith("me_vqa")
    asked = {item["messages"][0]["content"][-1]["text"] for item in trained if item["task"] == "action_units"}
    assert asked <= set(QUESTIONS["action_units"][:-4])
    assert list(weighted(items, None)) == items
    with pytest.raises(ValueError, match="`held_out_wordings` 15 leaves none of the 15 wordings of the task explain"):
        with_tasks(dataset, None, 15)


def test_joined_conversations_have_the_clip_once_and_every_question(prepared):
    items = [item for item in prepared[0]["conversations"] if not item["task"].startswith("me_vqa")]
    alone = joined(items, 1, np.random.default_rng(0))
    assert list(alone) == [item["messages"] for item in items]
    together = joined(items, 3, np.random.default_rng(0))
    own = max(len(item["messages"]) // 2 for item in items)  # several_turns has two to four questions
    assert 1 < max(len(messages) // 2 for messages in together) <= max(3, own)
    for messages in together:
        kinds = [block["type"] for message in messages for block in message["content"]]
        assert kinds.count("video") == 1
        assert kinds[0] == "video"
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    assert _texts(together) == _texts([item["messages"] for item in items])
    single = next(item for item in items if len(item["messages"]) == 2)
    double = {**single, "messages": single["messages"] * 2}
    assert max(len(m) // 2 for seed in range(9) for m in joined([double] * 3, 3, np.random.default_rng(seed))) == 2


def _texts(conversations):
    blocks = [block for messages in conversations for message in messages for block in message["content"]]
    return [block["text"] for block in blocks if block["text"]]
