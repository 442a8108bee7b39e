import json

import numpy as np
import pytest

from deft_llm.evaluation.fold_runs import ModelSpec, run_protocol
from deft_llm.evaluation.nested import RIDGES, WIDTHS, NestedRecogniser, candidates
from deft_llm.evaluation.protocols import make_task
from deft_llm.hub_datasets.unimer.splits import LeakageError
from deft_llm.training.recognition import RecognitionConfig
from tests.evaluation.made_up_rows import make_row
from tests.evaluation.planted_models import ChoosesLate
from tests.evaluation.test_recognition import LABELS as CLASSES
from tests.evaluation.test_recognition import region_rows

LABELS = ("negative", "positive")
KERNEL = {"kernel_share": 1.0, "inner": 3}


def people(count: int = 5, clips: int = 6) -> list[dict]:
    return [make_row("casme2", s, c, LABELS[c % 2], action_units=[]) for s in range(count) for c in range(clips)]


def trained(rows) -> list[dict]:
    return [{**row, "label": row["emotion_coarse"]} for row in rows]


def chosen_in(rows, cache, factory=NestedRecogniser, config=KERNEL):
    task = make_task({"train": rows}, "loso")
    return run_protocol(rows, task, ModelSpec("nested", factory, dict(config)), cache=cache, workers=1).chosen


def test_the_recipe_is_the_first_candidate_and_a_network_is_never_alone():
    found = candidates(RecognitionConfig(kernel_share=0.75, kernel_ridge=2.0))
    assert found[0] == {"kernel_share": 0.75, "kernel_ridge": 2.0, "kernel_width": 1.0}
    assert len(found) == 2 * len(RIDGES) * len(WIDTHS)
    assert len(candidates(RecognitionConfig(kernel_share=1.0))) == len(RIDGES) * len(WIDTHS)
    with pytest.raises(ValueError, match="kernel_share: 0"):
        candidates(RecognitionConfig(kernel_share=0.0))


def test_the_test_subject_has_no_influence_on_what_is_chosen(tmp_path):
    """Its labels are turned and its flow replaced. What is chosen without it stays, and what is chosen with it not."""
    rows = people()
    before = chosen_in(rows, tmp_path / "a")
    assert len(before) == 5
    person = rows[0]["subject"]
    turned = [
        make_row("casme2", 0, c, LABELS[(c + 1) % 2], seed=9, clip_id=row["clip_id"], action_units=[])
        if row["subject"] == person
        else row
        for c, row in enumerate(rows)
    ]
    after = chosen_in(turned, tmp_path / "b")
    (own,) = (name for name in before if name == person)
    assert after[own] == before[own]
    assert all(after[name] != before[name] for name in before if name != own)


def test_a_choice_made_on_test_clips_is_caught(tmp_path):
    with pytest.raises(LeakageError, match="changed its chosen settings when it saw the test clips"):
        chosen_in(people(), tmp_path, ChoosesLate, {})


def test_inner_folds_keep_people_together():
    """A person's clips are copies under one label. Whoever sees the person in training knows it; others cannot."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(12):
        flow = rng.normal(size=(1, 2, 14, 14))
        for clip in range(4):
            near = flow + 0.01 * rng.normal(size=flow.shape)
            rows.append(make_row("casme2", person, clip, LABELS[person % 2], flow=near, action_units=[]))
    model = NestedRecogniser(LABELS, **KERNEL)
    model.fit(trained(rows))
    assert model.chosen["inner_loss"] > 0.55  # log 2 is chance; with people on both sides it is below 0.3
    apart = [{**row, "subject": f"{row['subject']} {number}"} for number, row in enumerate(rows)]
    model.fit(trained(apart))
    assert model.chosen["inner_loss"] < 0.3


def test_it_recognises_and_says_what_it_chose():
    rows = region_rows(36)
    model = NestedRecogniser(CLASSES, **KERNEL)
    model.fit(rows[:24])
    items = model.predict(rows[24:])
    assert [CLASSES[int(np.argmax(item["scores"]))] for item in items] == [row["label"] for row in rows[24:]]
    assert [sum(item["scores"]) for item in items] == pytest.approx([1.0] * 12)
    settings = {"kernel_share", "kernel_ridge", "kernel_width", "rule_weight"}
    assert {*model.chosen} == {*settings, "sharpness", "inner_loss"}
    assert json.loads(json.dumps(model.chosen)) == model.chosen


def test_rows_that_join_are_used_where_they_help_and_never_asked():
    own = region_rows(18)
    good = [{**row, "joined": True, "clip_id": f"more/{k}"} for k, row in enumerate(region_rows(36))]
    model = NestedRecogniser(CLASSES, **KERNEL)
    model.fit([*own, *good])
    assert model.chosen["joined"] is True
    turned = {"negative": "positive", "positive": "surprise", "surprise": "negative"}
    model.fit([*own, *({**row, "label": turned[row["label"]]} for row in good)])
    assert model.chosen["joined"] is False
    # What is not used changes nothing.
    alone = NestedRecogniser(CLASSES, **KERNEL)
    alone.fit(own)
    assert model.predict(own) == alone.predict(own)


def test_networks_vote_in_the_inner_folds_too():
    small = {"members": 1, "epochs": 1, "hidden_size": 8, "flow_size": 8, "kernel_share": 0.5, "inner": 2}
    model = NestedRecogniser(LABELS, **small)
    model.fit(trained(people(4)))
    assert model.chosen["kernel_share"] in (0.5, 1.0)
