from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from deft_llm.training import data
from deft_llm.training.arguments import DataArguments
from deft_llm.training.augmentation import Augmentation
from deft_llm.training.data import (
    ClipOrder,
    DeftCollator,
    balance_keys,
    balanced_shares,
    check_budget,
    check_labels,
    choose_splits,
    clip_features,
    label_lists,
    load_splits,
    prepare,
    stream,
    uncoded_sources,
    with_tasks,
)


@pytest.fixture
def collator(processor):
    return DeftCollator(processor, {"explain": 1.0}, appearance_dropout=0.0)


# --- Batches --------------------------------------------------------------------------------------------------------


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
        assert prompt.count("<|motion|>") == len(processor.action_units)


def test_the_prompt_in_training_is_the_prompt_in_use(collator, prepared, dataset, processor):
    """Token for token what the pipeline will send, in about half of the clips; the others ask in other words."""
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
    torch.testing.assert_close(batch["flow_values_videos"], used["flow_values_videos"], atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(batch["pixel_values_videos"], used["pixel_values_videos"], atol=2e-3, rtol=1e-2)


def test_labels_follow_the_configs_lists(prepared, dataset, processor):
    collator = DeftCollator(processor, None, 0.0, conventions=["another", "synthetic"])
    batch = collator([prepared[index] for index in range(len(dataset))])
    sides = ["both", "left", "right"]
    for index, row in enumerate(dataset):
        label = int(batch["emotion_labels"][index])
        assert (processor.emotion_labels[label] if label >= 0 else None) == row["emotion"]
        units = {unit["code"]: unit for unit in row["action_units"]}
        for column, code in enumerate(processor.action_units):
            side, intensity = (batch[name][index, column] for name in ("au_side_labels", "au_intensity_labels"))
            assert bool(batch["au_labels"][index, column]) == (code in units)
            assert (sides[side] if side >= 0 else None) == units.get(code, {}).get("side")
            assert ("ABCDE"[int(intensity)] if intensity >= 0 else None) == units.get(code, {}).get("intensity")
    assert (batch["au_side_labels"] > 0).any()
    assert set(batch["convention_ids"].tolist()) == {1}
    assert set(DeftCollator(processor, None, 0.0)([prepared[0]])["convention_ids"].tolist()) == {-100}


def test_what_nobody_coded_is_unknown_and_not_absent(dataset, processor):
    row = dict(next(row for row in dataset if row["action_units"]))
    first, column = row["action_units"][0], processor.action_units.index(row["action_units"][0]["code"])
    assert clip_features(row, processor)["au_label"][column] == 1
    doubtful = row | {"action_units": [first | {"certain": False}]}
    features = clip_features(doubtful, processor)
    assert (features["au_label"][column], features["au_side_label"][column]) == (-100, -100)
    both = row | {"action_units": [first | {"side": "left"}, first | {"side": "right", "intensity": "D"}]}
    features = clip_features(both, processor)
    assert (features["au_side_label"][column], features["au_intensity_label"][column]) == (0, 3)
    rows = [{"source": "smic", "action_units": []}, {"source": "casme2", "action_units": [first]}]
    rows.append({"source": "casme2", "action_units": []})
    assert uncoded_sources(Dataset.from_list(rows)) == {"smic"}
    features = clip_features(row | {"action_units": [], "source": "smic"}, processor, {"smic"})
    assert set(features["au_label"]) == {-100}


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


def test_tasks_are_drawn_by_weight(processor, prepared):
    collator = DeftCollator(processor, {"emotion": 3, "action_units": 1}, appearance_dropout=0.0)
    row = next(row for row in prepared if {"emotion", "action_units"} <= {c["task"] for c in row["conversations"]})
    rng = np.random.default_rng(0)
    drawn = [collator._draw(row["conversations"], rng)["task"] for _ in range(400)]
    assert "explain" not in drawn
    assert drawn.count("emotion") / 400 == pytest.approx(0.75, abs=0.07)


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


# --- Drawing --------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_every_clip_once_and_the_next_in_another_order():
    order = ClipOrder(50, seed=1)
    first = list(order)
    assert sorted(row for _, _, row in first) == list(range(50))
    assert [place for _, place, _ in first] == list(range(50))
    assert first == list(order)
    order.epoch = 1
    assert [row for _, _, row in order] != [row for _, _, row in first]


def test_the_last_step_is_filled_up_with_the_first_clips():
    order = list(ClipOrder(50, seed=1, step_size=8))
    assert [place for _, place, _ in order] == list(range(56)) == list(range(len(ClipOrder(50, seed=1, step_size=8))))
    rows = [row for _, _, row in order]
    assert sorted(rows[:50]) == list(range(50))
    assert rows[50:] == rows[:6]
    few = [row for _, _, row in ClipOrder(3, seed=1, step_size=8)]
    assert sorted(few[:3]) == [0, 1, 2]
    assert few == (few[:3] * 3)[:8]


def test_balanced_draws_are_equal_by_source_and_within_it_by_class():
    keys = [("a", "happy")] * 60 + [("a", "sad")] * 30 + [("b", "happy")] * 6 + [("b", None)] * 4
    order = ClipOrder(len(keys), seed=0, keys=keys)
    for epoch in range(5):
        order.epoch = epoch
        rows = [row for _, _, row in order]
        assert len(rows) == len(keys)
        drawn = Counter(keys[row] for row in rows)
        for key in set(keys):
            assert drawn[key] == pytest.approx(25, abs=1)
        often = Counter(rows)
        for key in set(keys):
            # No clip twice before each was drawn once.
            each = [often[row] for row in range(len(keys)) if keys[row] == key]
            assert max(each) - min(each) <= 1
    assert balanced_shares(keys).sum() == pytest.approx(1)


def test_what_clips_cannot_be_balanced_by_is_named(dataset):
    assert balance_keys(dataset, "source, emotion")[0] == (dataset[0]["source"], dataset[0]["emotion"])
    with pytest.raises(ValueError, match="'clip_id'"):
        balance_keys(dataset, "clip_id")


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_a_dataset_that_is_not_there_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing is not a dataset folder, and not a readable Hub repository"
    ):
        load_splits("nobody/nothing")


def test_missing_columns_are_named_together(tmp_path):
    Dataset.from_list([{"clip_id": "a", "flow": 1}]).to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns source, subject, action_units.*video"):
        load_splits(str(tmp_path))


def people(**splits):
    return {name: Dataset.from_list([{"subject": s} for s in subjects]) for name, subjects in splits.items()}


@pytest.mark.parametrize(
    ("options", "splits", "message"),
    [
        ({}, {"train": "aab", "test": "bc"}, "1 subjects are in both train and test, such as b"),
        ({"eval_split": "val"}, {"train": "ab", "val": "bc", "test": "d"}, "both train and val"),
        ({"eval_split": "val"}, {"train": "ab", "val": "cd", "test": "d"}, "both val and test"),
        ({"eval_split": "test"}, {"train": "ab", "test": "d"}, "which is for testing"),
        ({"eval_split": "dev"}, {"train": "ab", "test": "d"}, "no eval_split 'dev'; it has train, test"),
        ({"train_split": "all"}, {"train": "ab"}, "no train_split 'all'"),
        ({"eval_share": 0.9}, {"train": "ab"}, "leaves none to train on"),
    ],
)
def test_splits_that_share_people_are_refused(options, splits, message):
    with pytest.raises(ValueError, match=message):
        choose_splits(DataArguments(dataset="d", **options), people(**splits), seed=0)


def test_subjects_held_out_for_evaluation_are_not_trained_on():
    splits = people(train="aabbccddee", test="ff")
    train, evaluation = choose_splits(DataArguments(dataset="d", eval_share=0.4), splits, seed=0)
    assert set(train["subject"]) | set(evaluation["subject"]) == set("abcde")
    assert not set(train["subject"]) & set(evaluation["subject"])
    assert len(set(evaluation["subject"])) == 2
    again = choose_splits(DataArguments(dataset="d", eval_share=0.4), splits, seed=0)[1]
    assert list(again["subject"]) == list(evaluation["subject"])


def test_labels_come_from_all_people_and_words_only_from_those_trained_on(dataset):
    subjects = sorted(set(dataset["subject"]))
    train = dataset.filter(lambda row: row["subject"] != subjects[0])
    lists = label_lists(train, dataset)
    assert list(lists["emotion"]) == list(dataset["emotion"])
    texts = dict(zip(lists["clip_id"], lists["conversations"], strict=True))
    for row in dataset:
        assert bool(texts[row["clip_id"]]) == (row["subject"] != subjects[0])


def test_a_label_without_an_output_is_named_with_its_clip(dataset, processor):
    check_labels(dataset, processor.action_units, processor.emotion_labels, "train")
    code = next(row["action_units"][0]["code"] for row in dataset if row["action_units"])
    others = [unit for unit in processor.action_units if unit != code]
    with pytest.raises(ValueError, match=rf"Clip synthetic-1/.* is labelled {code}, which is not among"):
        check_labels(dataset, others, processor.emotion_labels, "train")
    with pytest.raises(ValueError, match="which is not among the model's emotions"):
        check_labels(dataset, processor.action_units, processor.emotion_labels[:2], "train")


def test_a_budget_that_cannot_hold_a_clip_names_clip_and_tokens(dataset, processor):
    per_clip = processor.structure_tokens + processor.texture_tokens + processor.motion_tokens
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


# --- Decoding -------------------------------------------------------------------------------------------------------


def test_streamed_clips_are_the_decoded_ones_in_an_order_of_their_own(dataset, prepared, processor):
    kept = list(dataset["clip_id"])[:10]
    rows = dataset.to_iterable_dataset()
    streamed = list(stream(rows, processor, kept, frozenset(), seed=0, shuffle_buffer=8))
    assert [row["place"] for row in streamed] == list(range(10))
    ids = [row["clip_id"] for row in streamed]
    assert sorted(ids) == sorted(kept)
    assert ids != kept
    assert ids == [row["clip_id"] for row in stream(rows, processor, kept, (), seed=0, shuffle_buffer=8)]
    by_id = {row["clip_id"]: row for row in prepared.select(range(10))}
    collator = DeftCollator(processor, None, 0.0)
    for row in streamed[:3]:
        streamed_batch, batch = collator([row | {"place": None}]), collator([by_id[row["clip_id"]]])
        assert torch.equal(streamed_batch["input_ids"], batch["input_ids"])
        torch.testing.assert_close(
            streamed_batch["flow_values_videos"], batch["flow_values_videos"], atol=2e-3, rtol=1e-2
        )
    watched = [row["clip_id"] for row in stream(rows, processor, kept, ())]
    assert watched == kept


def test_clips_are_decoded_once_whatever_the_process(dataset, processor, tmp_path, monkeypatch):
    """The second preparation finds the first one's files: nothing is decoded."""
    path = tmp_path / "train-0.parquet"
    dataset.select(range(3)).to_parquet(path)
    loaded = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    first = prepare(loaded, processor, workers=1)
    monkeypatch.setattr("deft_llm.training.data.row_tensors", lambda *_: SimpleNamespace())
    again = prepare(Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache")), processor, workers=1)
    np.testing.assert_array_equal(again[2]["flow_values_videos"], first[2]["flow_values_videos"])


def test_clips_are_prepared_again_when_the_code_has_changed(dataset, processor, monkeypatch):
    few = dataset.select(range(2))
    first = prepare(few, processor, 1)._fingerprint
    assert prepare(few, processor, 1)._fingerprint == first
    assert any(module == "deft_llm.processing" for module in data.PREPARING_CODE)
    monkeypatch.setattr(data, "code_fingerprint", lambda *modules: "other code")
    assert prepare(few, processor, 1)._fingerprint != first
