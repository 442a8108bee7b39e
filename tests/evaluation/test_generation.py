import pytest

from deft_llm.evaluation import generation
from deft_llm.evaluation.generation import Checkpoint, FineTuned
from tests.evaluation.made_up_rows import make_row


@pytest.fixture(scope="module")
def rows(dataset):
    return [{**row, "label": row["emotion_coarse"]} for row in dataset.select(range(14)) if row["emotion_coarse"]]


def test_full_mode_trains_on_what_it_is_given_and_answers(rows, recipe_file):
    """One step of the small recipe: nothing is learnt, but everything runs, and only from the rows."""
    labels = sorted({row["label"] for row in rows})
    options = ["--max_steps", "1", "--warmup_steps", "0", "--per_device_train_batch_size", "2"]
    model = FineTuned(labels, 0, recipe_file=str(recipe_file), overrides=options, max_new_tokens=4)
    model.fit(rows[:10])
    (item,) = model.predict([{**rows[10], "emotion": None, "action_units": [], "conversations": []}])
    assert sum(item["scores"]) == pytest.approx(1)
    assert item["head_label"] in labels
    assert item["label"] is None  # four tokens are no answer
    assert not item["parsed"]
    assert set(item["action_units"]) <= {unit["code"] for row in rows[:10] for unit in row["action_units"]}


def test_a_failed_training_says_why(rows, tmp_path, monkeypatch):
    (tmp_path / "training.py").write_text("import sys; print('no memory', file=sys.stderr); sys.exit(3)")
    monkeypatch.setattr(generation, "TRAINING", [str(tmp_path / "training.py")])
    with pytest.raises(RuntimeError, match="Training ended with exit code 3:\nno memory"):
        FineTuned(["a", "b"], 0, recipe_file="recipes/tiny.yaml").fit(rows[:2])


def test_a_checkpoint_joins_fine_emotions_to_coarse_labels(folder, model, rows):
    coarse = sorted(set(model.config.coarse_emotion_of.values()))
    items = Checkpoint(coarse, path=str(folder), generate=False).predict(rows[:2])
    fine = Checkpoint(model.config.emotion_labels, path=str(folder), generate=False).predict(rows[:2])
    for one, two in zip(items, fine, strict=True):
        for label, score in zip(coarse, one["scores"], strict=True):
            parts = [
                value
                for emotion, value in zip(model.config.emotion_labels, two["scores"], strict=True)
                if model.config.coarse_emotion_of[emotion] == label
            ]
            assert score == pytest.approx(sum(parts), abs=1e-6)
    with pytest.raises(ValueError, match="does not know 'boredom'"):
        Checkpoint(["boredom", "negative"], path=str(folder), generate=False).predict(
            [make_row("a", 1, 1, "negative")]
        )
