import numpy as np
import pytest

from deft_llm.hub_datasets.unimer.answer_parsing import parse_facts
from deft_llm.hub_datasets.unimer.questions import QUESTIONS, wording_of
from deft_llm.hub_datasets.unimer.rows import region_motions
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.grounded_answer import measurement_in_words
from deft_llm.processing.motion_evidence import flow_noise, measure_motion
from deft_llm.training.augmentation import (
    MIRRORED_UNITS,
    Augmentation,
    jittered,
    mirrored,
    mirrored_text,
    noisy,
    temporally_cropped,
)

OTHER = {"left": "right", "right": "left"}


def texts_of(row):
    return [block["text"] for item in row["conversations"] for m in item["messages"] for block in m["content"]]


def test_every_answer_about_the_mirrored_clip_is_read_back_as_the_mirrored_facts(prepared, processor):
    changed = 0
    for row in prepared:
        turned = mirrored(row, processor.action_units)
        words = [row["emotion"], row["emotion_coarse"]]
        for before, after in zip(row["conversations"], turned["conversations"], strict=True):
            facts, mirror_facts = (
                parse_facts(
                    item["task"],
                    item["messages"][0]["content"][1]["text"],
                    item["messages"][1]["content"][0]["text"],
                    emotions=[word for word in words if word],
                )
                for item in (before, after)
            )
            expected = {tuple(OTHER.get(word, word) for word in fact) for fact in facts}
            assert mirror_facts == expected, (before, after)
            changed += mirror_facts != facts
    assert changed > 20


def test_the_wording_of_a_question_is_the_same_in_the_mirror():
    filled = {"convention": "synthetic", "emotion": "fear", "options": "fear or anger", "region": "chin"}
    filled |= {"unit": "AU12 (lip corner puller)", "name": "lip corner puller", "side": "left"}
    for task, wordings in QUESTIONS.items():
        for place, wording in enumerate(wordings):
            assert wording_of(task, mirrored_text(wording.format(**filled), asks=True)) == place


def test_two_mirrors_are_none(prepared, processor):
    row = prepared[0]
    back = mirrored(mirrored(row, processor.action_units), processor.action_units)
    assert texts_of(back) == texts_of(row)
    for name in ("pixel_values_videos", "flow_values_videos", "au_label", "au_side_label", "au_intensity_label"):
        np.testing.assert_array_equal(back[name], row[name])


def test_the_motion_measured_in_the_mirror_is_that_of_the_other_side(prepared, processor):
    for row in prepared.select(range(8)):
        plain = {
            (item.region, item.side): item for item in measure_motion(row["flow_values_videos"]) if item.significant
        }
        turned = measure_motion(mirrored(row, processor.action_units)["flow_values_videos"])
        turned = {(item.region, OTHER[item.side]): item for item in turned if item.significant}
        assert turned.keys() == plain.keys()
        for key, item in plain.items():
            assert turned[key].direction == item.direction
            assert turned[key].magnitude == pytest.approx(item.magnitude, rel=1e-3)
        words = measurement_in_words(region_motions(mirrored(row, processor.action_units)))
        assert words == mirrored_text(measurement_in_words(region_motions(row)))


def test_flow_is_mirrored_as_the_flow_of_the_mirrored_video(brow_clip):
    video_processor = DeftVideoProcessor(num_frames=8, size={"height": 64, "width": 64})
    frames, shown = np.stack(brow_clip.frames), brow_clip.expression
    keys = (shown.onset, shown.apex, shown.offset)
    straight = video_processor(frames, key_frames=keys)
    turned = video_processor(np.ascontiguousarray(frames[:, :, ::-1]), key_frames=keys)
    row = {name: straight[name][0] for name in straight} | {
        "motion": [],
        "au_label": [],
        "au_side_label": [],
        "au_intensity_label": [],
        "conversations": [],
    }
    ours = mirrored(row, [])
    difference = np.abs(ours["flow_values_videos"] - turned["flow_values_videos"][0])
    assert difference.mean() < 0.05 * np.abs(straight["flow_values_videos"]).max()
    unturned = np.abs(straight["flow_values_videos"][0] - turned["flow_values_videos"][0])
    assert difference.mean() < 0.5 * unturned.mean()
    np.testing.assert_allclose(ours["pixel_values_videos"], turned["pixel_values_videos"][0], atol=0.1)


def test_sides_and_sided_units_change_places(prepared):
    units = ["AU4", "M61", "M62"]
    row = dict(prepared[0]) | {
        "au_label": [1.0, 1.0, 0.0],
        "au_side_label": [1, -100, 0],
        "au_intensity_label": [2.0, 3.0, -100.0],
    }
    turned = mirrored(row, units)
    assert turned["au_label"] == [1.0, 0.0, 1.0]
    assert turned["au_side_label"] == [2, 0, -100]
    assert turned["au_intensity_label"] == [2.0, -100.0, 3.0]
    assert MIRRORED_UNITS["AD51"] == "AD52"
    assert mirrored_text("M61 (eyes left) and AU12 on the Right") == "M62 (eyes right) and AU12 on the Left"
    with pytest.raises(ValueError, match="M61 is M62 in a mirror"):
        mirrored(row, ["AU4", "M61", "AU12"])


def test_a_choice_of_sides_and_the_sources_own_words_stay():
    question = "Answer left, right or both in one word."
    assert mirrored_text(question, asks=True) == question
    assert mirrored_text("How does the chin on the left move?", asks=True) == "How does the chin on the right move?"
    text = "By the convention of left-lab this is the left side"
    assert mirrored_text(text, names=["left-lab"]) == "By the convention of left-lab this is the right side"


def test_appearance_changes_alike_in_all_frames_and_flow_never(prepared, processor):
    row = prepared[0]
    augment = Augmentation(appearance_jitter=1.0)
    changed = augment(row, np.random.default_rng(0), processor.action_units)
    np.testing.assert_array_equal(changed["flow_values_videos"], row["flow_values_videos"])
    before = np.asarray(row["pixel_values_videos"], np.float32)
    after = changed["pixel_values_videos"]
    assert np.abs(after - before).mean() > 0.05
    # What appears since the onset is scaled by one number, and nothing appears where nothing did.
    was, now = before - before[:1], after - after[:1]
    factor = (was * now).sum() / (was * was).sum()
    np.testing.assert_allclose(now, factor * was, atol=1e-3)
    still = jittered(np.repeat(before[:1], 8, axis=0), np.random.default_rng(1), 1.0)
    np.testing.assert_allclose(still - still[:1], 0, atol=1e-5)


def test_a_temporal_crop_keeps_onset_and_apex_and_the_order(processor):
    frames = 8
    row = {
        "flow_values_videos": np.arange(1, frames)[:, None, None, None] * np.ones((1, 2, 4, 4), np.float32),
        "pixel_values_videos": np.arange(frames)[:, None, None, None] * np.ones((1, 3, 4, 4), np.float32),
    }
    seen = set()
    for seed in range(40):
        crop = temporally_cropped(row, np.random.default_rng(seed), 0.6)
        order = crop["pixel_values_videos"][:, 0, 0, 0].astype(int).tolist()
        assert order[1:] == crop["flow_values_videos"][:, 0, 0, 0].astype(int).tolist()
        assert (order[0], order[frames // 2]) == (0, frames // 2)
        assert order == sorted(order)
        seen.add(tuple(order))
    assert len(seen) > 4
    assert {order[1] for order in seen} > {1}
    assert {order[-1] for order in seen} > {frames - 1}


def test_flow_noise_is_that_of_the_clip_and_changes_no_evidence(prepared):
    for row in prepared.select(range(6)):
        flow = np.asarray(row["flow_values_videos"], np.float32)
        added = noisy(flow, np.random.default_rng(0), 1.0) - flow
        measured = flow_noise(flow)
        assert added.std() == pytest.approx(measured, rel=0.05)
        strong = {
            (item.region, item.side)
            for item in measure_motion(flow)
            if item.magnitude > 8 * item.standard_error and item.concentration > 0.8
        }
        still_there = {(item.region, item.side) for item in measure_motion(flow + added) if item.significant}
        assert strong <= still_there
    np.testing.assert_array_equal(noisy(flow, np.random.default_rng(0), 0.0), flow)


def test_one_kind_of_augmentation_does_not_change_the_draws_of_another(prepared, processor):
    row = prepared[0]
    alone = Augmentation(mirror=0.5, flow_noise=1.0)
    together = Augmentation(mirror=0.5, flow_noise=1.0, appearance_jitter=1.0)
    for seed in range(4):
        a, b = (
            augment(row, np.random.default_rng(seed), processor.action_units)["flow_values_videos"]
            for augment in (alone, together)
        )
        np.testing.assert_array_equal(a, b)
