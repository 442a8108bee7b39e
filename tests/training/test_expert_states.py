import copy

import numpy as np
import pytest
import torch
from datasets import Dataset

from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.training.augmentation import Augmentation
from deft_llm.training.collator import RECOGNITION, STATES, UNSAID, DeftCollator
from deft_llm.training.data import prepare
from deft_llm.training.expert_states import INPUTS, precomputed


@pytest.fixture
def frozen(model):
    """A model in which training and evaluation run the experts alike."""
    own = copy.deepcopy(model)
    own.config.appearance_swap = own.config.expert_dropout = 0.0
    return own


@pytest.mark.parametrize("questions", [1, 3])
def test_the_loss_with_precomputed_states_is_that_with_the_clips(frozen, processor, prepared, questions):
    rows = prepared.select(range(4))
    states = precomputed(rows, frozen)
    assert not {"pixel_values_videos", "flow_values_videos"} & set(states.column_names)
    collator = DeftCollator(processor, {"explain": 1, "emotion": 1}, 0.0, questions_per_clip=questions)
    losses = []
    for source in (rows, states):
        batch = collator([source[index] for index in range(4)])
        batch.pop("clip_ids")
        frozen.zero_grad()
        output = frozen(**batch)
        weights = frozen.config.loss_weights
        loss = weights["language"] * output.language_loss + weights["alignment"] * output.alignment_loss
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in frozen.model.connectors.parameters()])
        losses.append((loss.detach(), gradient))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    assert output.emotion_logits is None  # the experts and heads were not run


def test_variants_are_augmented_and_the_first_one_is_the_clip(frozen, processor, prepared):
    rows = prepared.select(range(3))
    plain = precomputed(rows, frozen)
    varied = precomputed(rows, frozen, Augmentation(mirror=1.0), variants=2, seed=1)
    assert len(varied) == 6
    assert list(varied["clip_id"]) == [name for name in rows["clip_id"] for _ in range(2)]
    for index in range(3):
        np.testing.assert_allclose(varied[2 * index][STATES + "motion"], plain[index][STATES + "motion"], atol=1e-5)
        assert np.abs(varied[2 * index + 1][STATES + "motion"] - plain[index][STATES + "motion"]).max() > 1e-4
        same, turned = (varied[2 * index + variant]["motion"] for variant in (0, 1))
        assert same == rows[index]["motion"]
        assert [(one["side"], one["magnitude"]) for one in turned] == [
            ({"left": "right", "right": "left"}[one["side"]], one["magnitude"]) for one in same
        ]


def test_states_are_reused_until_an_expert_changes(frozen, prepared):
    rows = prepared.select(range(2))
    first = precomputed(rows, frozen)
    assert precomputed(rows, frozen)._fingerprint == first._fingerprint
    with torch.no_grad():
        next(frozen.model.recognition.motion_expert.parameters()).add_(0.1)
    assert precomputed(rows, frozen)._fingerprint != first._fingerprint


def test_what_the_heads_decide_is_said_in_the_prompt(frozen, processor, prepared, monkeypatch):
    rows = prepared.select(range(3))
    states = precomputed(rows, frozen.eval())
    monkeypatch.setattr(processor, "recognition_in_words", True)
    collator = DeftCollator(processor, {"explain": 1.0}, 0.0)
    for index in range(3):
        clip = {name: torch.from_numpy(np.float32(rows[index][name]))[None] for name in INPUTS}
        with torch.no_grad():
            recognition = frozen.model(**clip)
        for name in RECOGNITION:
            np.testing.assert_allclose(states[index][name], recognition[name][0], atol=1e-5)
        question = rows[index]["conversations"][0]["messages"][:1]
        known = {**clip, "recognition": recognition, "region_motions": [region_motions(rows[index])]}
        expected = processor.tokenizer(processor.render_prompt(question, known), add_special_tokens=False)["input_ids"]
        batch = collator([states[index]])
        prompt = batch["input_ids"][0][batch["labels"][0] == -100].tolist()
        clip_end = 1 + max(place for place, token in enumerate(expected) if token in processor.video_token_ids)
        assert prompt[:clip_end] == expected[:clip_end]
        assert "Recognised: " in processor.tokenizer.decode(prompt)


def test_some_clips_in_training_do_not_say_what_was_recognised(frozen, processor, prepared, monkeypatch):
    (row,) = precomputed(prepared.select([0]), frozen)
    monkeypatch.setattr(processor, "recognition_in_words", True)
    collator = DeftCollator(processor, {"explain": 1.0}, 0.0)
    batch = collator([{**row, "epoch": 0, "place": place} for place in range(200)])
    said = ["Recognised: " in text for text in processor.tokenizer.batch_decode(batch["input_ids"])]
    assert 0.5 * UNSAID < 1 - np.mean(said) < 2 * UNSAID


def test_steps_without_appearance_leave_its_states_out(frozen, processor, prepared):
    states = precomputed(prepared.select(range(2)), frozen)
    rows = [{**states[index], "epoch": 0, "place": index} for index in range(2)]
    assert set(DeftCollator(processor, None, 1.0)(rows)["expert_states"]) == {"motion"}
    assert set(DeftCollator(processor, None, 0.0)(rows)["expert_states"]) == {"structure", "texture", "motion"}


def test_with_a_clip_without_pixels_only_the_motion_expert_is_run(frozen, processor, dataset):
    rows = [dict(row) for row in dataset.select(range(3))]
    rows[1]["video"] = None
    prepared = prepare(Dataset.from_list(rows, features=dataset.features), processor, workers=1)
    states = precomputed(prepared, frozen)
    assert [name for name in states.column_names if name.startswith(STATES)] == [STATES + "motion"]
    batch = DeftCollator(processor, None, 0.0)([states[index] for index in range(3)])
    assert set(batch["expert_states"]) == {"motion"}
