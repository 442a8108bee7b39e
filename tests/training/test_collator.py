import numpy as np
import pytest
import torch

from deft_llm.training.augmentation import Augmentation
from deft_llm.training.collator import DeftCollator


@pytest.fixture
def collator(processor):
    return DeftCollator(processor, {"explain": 1.0}, appearance_dropout=0.0)


def test_only_the_answer_is_scored(collator, prepared, processor):
    batch = collator([prepared[index] for index in range(4)])
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        scored = ids[labels != -100]
        assert torch.equal(scored, labels[labels != -100])
        text = processor.tokenizer.decode(scored)
        assert text.startswith("Class: ")
        assert text.endswith("<|im_end|>")
        prompt = processor.tokenizer.decode(ids[: int((labels != -100).nonzero()[0])])
        assert prompt.endswith("<|im_start|>assistant\n")
        assert prompt.count("<|motion|>") == processor.motion_tokens


@pytest.mark.parametrize("motion_in_words", [False, True])
def test_the_prompt_in_training_is_the_prompt_in_use(
    collator, prepared, dataset, processor, monkeypatch, motion_in_words
):
    """Token for token what the pipeline will send, in about half of the clips; the others ask in other words."""
    monkeypatch.setattr(processor, "motion_in_words", motion_in_words)
    asked = [row[0]["messages"][0]["content"][1]["text"] for row in dataset["conversations"]]
    default = [index for index, question in enumerate(asked) if question == processor.default_instruction]
    assert len(dataset) / 4 < len(default) < 3 * len(dataset) / 4
    row = dataset[default[0]]
    batch = collator([prepared[default[0]]])
    scored = batch["labels"][0] != -100
    content = [{"type": "video", "video": row["video"]["bytes"]}]
    content.append({"type": "text", "text": processor.default_instruction})
    used = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"key_frames": (row["onset"], row["apex"], row["offset"])},
    )
    assert torch.equal(batch["input_ids"][0][~scored], used["input_ids"][0])
    assert ("Measured: " in processor.tokenizer.decode(used["input_ids"][0])) == motion_in_words
    assert set(used) == {"input_ids", "attention_mask", "flow_values_videos", "pixel_values_videos"}
    torch.testing.assert_close(batch["flow_values_videos"], used["flow_values_videos"], atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(batch["pixel_values_videos"], used["pixel_values_videos"], atol=2e-3, rtol=1e-2)


def test_steps_without_appearance_have_no_sections_for_it(processor, prepared):
    collator = DeftCollator(processor, None, appearance_dropout=0.5)
    collator.step_size = 4
    structure, texture, _ = processor.video_token_ids
    dropped = []
    for step in range(40):
        places = range(4 * step, 4 * step + 4)
        rows = [{**prepared[place % len(prepared)], "epoch": 0, "place": place} for place in places]
        halves = [collator(rows[:2]), collator(rows[2:])]  # as two processes would
        without = ["pixel_values_videos" not in batch for batch in halves]
        assert without[0] == without[1]
        for batch in halves:
            shown = torch.isin(batch["input_ids"], torch.tensor([structure, texture])).any()
            assert bool(shown) == ("pixel_values_videos" in batch)
        dropped.append(without[0])
    assert 10 < sum(dropped) < 30


def test_what_is_drawn_depends_on_the_clips_place_and_nothing_else(processor, prepared):
    """Whatever else is in the batch, whatever was drawn before, in whichever process."""
    collator = DeftCollator(processor, None, 0.0, seed=3, augmentation=Augmentation(0.5, 0.5, 0.5, 1.0))
    rows = [{**prepared[0], "epoch": epoch, "place": place} for epoch in range(2) for place in range(6)]
    together = collator(rows)
    np.random.seed(9)
    torch.manual_seed(9)
    alone = [collator([row]) for row in reversed(rows)][::-1]
    for index, batch in enumerate(alone):
        ids = batch["input_ids"][0]
        assert torch.equal(together["input_ids"][index][: len(ids)], ids)
        for name in ("flow_values_videos", "pixel_values_videos", "au_labels"):
            assert torch.equal(together[name][index], batch[name][0])
    assert len({tuple(batch["input_ids"][0].tolist()) for batch in alone}) > 4
    other = DeftCollator(processor, None, 0.0, seed=4, augmentation=Augmentation(0.5, 0.5, 0.5, 1.0))
    assert not torch.equal(other(rows)["flow_values_videos"], together["flow_values_videos"])


def test_clips_to_evaluate_on_are_shown_as_they_are(processor, prepared):
    collator = DeftCollator(processor, None, 1.0, augmentation=Augmentation(1.0, 1.0, 1.0, 1.0))
    batch = collator([prepared[0], prepared[1]])
    np.testing.assert_array_equal(batch["flow_values_videos"][0], np.float32(prepared[0]["flow_values_videos"]))
    np.testing.assert_array_equal(batch["pixel_values_videos"][0], np.float32(prepared[0]["pixel_values_videos"]))


# --- Several questions per clip -------------------------------------------------------------------------------------


def test_questions_that_share_a_clip_have_the_loss_of_separate_sequences(model, processor, prepared):
    weights = {"explain": 1.0, "emotion": 1.0, "action_units": 1.0}
    rows = [{**prepared[index], "epoch": 0, "place": index} for index in range(3)]
    together = DeftCollator(processor, weights, 0.0, questions_per_clip=3)(rows)
    singles = [
        DeftCollator(processor, {task: 1.0}, 0.0)([row])
        for row in rows
        for task in weights
        if task in {item["task"] for item in row["conversations"]}
    ]
    assert len(singles) > len(rows)
    scored, total = 0, 0.0
    for batch in [together, *singles]:
        batch.pop("clip_ids")
    with torch.no_grad():
        for batch in singles:
            count = int((batch["labels"] != -100).sum())
            total += float(model(**batch).language_loss) * count
            scored += count
        assert int((together["labels"] != -100).sum()) == scored
        assert float(model(**together).language_loss) == pytest.approx(total / scored, rel=1e-5)
    separate = sum(batch["input_ids"].shape[1] for batch in singles)
    assert int(together["attention_mask"].diagonal(dim1=-2, dim2=-1).sum()) < separate


def test_eager_attention_takes_the_mask_of_shared_clips(model, processor, prepared):
    batch = DeftCollator(processor, None, 0.0, questions_per_clip=3)(
        [{**prepared[index], "epoch": 0, "place": index} for index in range(2)]
    )
    batch.pop("clip_ids")
    found = {}
    try:
        for kind in ("sdpa", "eager"):
            model.set_attn_implementation(kind)
            with torch.no_grad():
                found[kind] = float(model(**batch).language_loss)
    finally:
        model.set_attn_implementation("sdpa")
    assert found["eager"] == pytest.approx(found["sdpa"], rel=1e-5)


def test_a_question_does_not_attend_to_another_question(processor, prepared):
    batch = DeftCollator(processor, None, 0.0, questions_per_clip=4)([{**prepared[0], "epoch": 0, "place": 0}])
    (allowed,), (positions,) = batch["attention_mask"][0], batch["position_ids"]
    starts = (positions[1:] < positions[:-1]).nonzero().flatten() + 1
    start = int(positions[starts[0]])  # the first position after the clip
    assert len(starts) == 3
    for later in range(len(positions)):
        own = [begin for begin in [start, *starts.tolist()] if begin <= later]
        expected = torch.arange(len(positions)) <= later
        if own:
            expected[start : own[-1]] = False
        assert torch.equal(allowed[later], expected)


def test_fewer_conversations_than_asked_are_all_drawn(processor, prepared):
    few = {**prepared[0], "conversations": prepared[0]["conversations"][:2], "epoch": 0, "place": 0}
    batch = DeftCollator(processor, None, 0.0, questions_per_clip=9)([few])
    assert int((batch["position_ids"][0, 1:] < batch["position_ids"][0, :-1]).sum()) == 1
