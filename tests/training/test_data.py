from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from deft_llm.training import data
from deft_llm.training.arguments import DataArguments
from deft_llm.training.collator import DeftCollator
from deft_llm.training.data import (
    ClipOrder,
    balance_keys,
    balanced_shares,
    check_labels,
    choose_splits,
    clip_features,
    label_lists,
    load_splits,
    prepare,
    stream,
    uncoded_sources,
    without_unit_sets,
)

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


def test_clips_with_held_out_sets_of_units_are_not_trained(capsys):
    rows = Dataset.from_list(
        [{"action_units": [{"code": code} for code in codes]} for codes in (["AU9"], ["AU17", "AU9"], ["AU4"], [])]
    )
    kept = without_unit_sets(rows, ["AU9 + AU17", "au4"])
    assert [[unit["code"] for unit in units] for units in kept["action_units"]] == [["AU9"], []]
    assert len(without_unit_sets(rows, ["AU4+AU9"])) == len(rows)  # no clip shows them, so there is none to leave out
    assert "0 of 4 clips left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="AU99"):
        without_unit_sets(rows, ["AU99"])
    with pytest.raises(ValueError, match="leaves no clip"):
        without_unit_sets(rows.select([2]), ["AU4"])


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


# --- Decoding -------------------------------------------------------------------------------------------------------


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
