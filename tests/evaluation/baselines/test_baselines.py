import numpy as np
import pytest

from deft_llm.evaluation.baselines import BASELINES, baseline_class, check_readable, make_baseline
from deft_llm.evaluation.fold_runs import ModelSpec, run_protocol
from deft_llm.evaluation.protocols import make_task
from deft_llm.hub_datasets.unimer.splits import LeakageError
from tests.evaluation.baselines.moving_rows import LABELS, filmed_rows, moving_rows
from tests.evaluation.planted_models import StandardisedOverTheTestSubject

QUICK = {
    "ststnet": {"epochs": 30, "learning_rate": 1e-2},
    "off_apexnet": {"epochs": 6, "learning_rate": 1e-3},
    "rcn": {"side": 16, "epochs": 8, "learning_rate": 2e-2, "batch_size": 8},
    "micro_attention": {"side": 24, "widths": (8, 8, 8, 8)},
    "micro_attention_flow": {"side": 16, "widths": (8, 8, 8, 8), "iterations": 60, "learning_rate": 3e-2},
    "learnet": {"side": 24},
    "learnet_flow": {"side": 16, "epochs": 6, "batch_size": 8},
    "affectivenet_style": {"side": 24},
    "affectivenet_style_flow": {"side": 16, "epochs": 4, "batch_size": 8},
    "mpt_style": {"epochs": 8, "learning_rate": 1e-2, "batch_size": 8},
    "mpt_style_flow": {},
}
# The others have the network of the one beside them, on inputs that their own tests look at.
SAME_NETWORK = ("micro_attention", "learnet", "affectivenet_style", "mpt_style_flow")
LEARNING = [name for name in BASELINES if name not in ("majority", *SAME_NETWORK)]


@pytest.fixture(scope="module")
def rows_for():
    """Rows that a baseline can read, with video or with flow."""
    filmed, moving = filmed_rows(36), moving_rows(60)
    return lambda name, count: (filmed if baseline_class(name).needs_video else moving)[:count]


@pytest.fixture
def settings(backbone):
    """A baseline's settings for a fast training."""
    return lambda name: QUICK.get(name, {}) | ({"backbone": backbone} if name.startswith("mpt") else {})


@pytest.fixture
def make(settings):
    return lambda name, seed=0, **changes: make_baseline(name, labels=LABELS, seed=seed, **settings(name) | changes)


def shortest(name):
    settings = {"iterations": 1} if name.startswith("micro") else {"epochs": 1}
    return settings if name in QUICK else {}


@pytest.mark.parametrize("name", LEARNING)
def test_a_baseline_learns_what_moves_where(name, make, rows_for):
    rows = rows_for(name, 60)
    learned, asked = rows[:-9], rows[-9:]
    model = make(name)
    model.fit(learned)
    test = [{key: value for key, value in row.items() if key != "label"} for row in asked]
    predictions = model.predict(test)
    chosen = [item.get("label", LABELS[int(np.argmax(item["scores"]))]) for item in predictions]
    assert np.mean([a == row["label"] for a, row in zip(chosen, asked, strict=True)]) > 0.8
    assert all(sum(item["scores"]) == pytest.approx(1) for item in predictions)
    assert model.predict(test[:1])[0]["scores"] == pytest.approx(predictions[0]["scores"], abs=1e-5)


@pytest.mark.parametrize("name", list(BASELINES))
def test_one_seed_one_result(name, make, rows_for):
    rows = rows_for(name, 12)
    predictions = []
    for _ in range(2):
        model = make(name, seed=3, **shortest(name))
        model.fit(rows)
        predictions.append(model.predict(rows))
    assert predictions[0] == predictions[1]


@pytest.mark.parametrize("name", ["majority", *LEARNING])
def test_a_class_that_training_lacks_keeps_its_place(name, make, rows_for):
    rows = [row for row in rows_for(name, 12) if row["label"] != "positive"]
    model = make(name, **shortest(name))
    model.fit(rows)
    scores = model.predict(rows[:2])[0]["scores"]
    assert len(scores) == 3
    if name in ("majority", "svm"):
        assert scores[1] == 0.0


@pytest.mark.parametrize("name", [name for name in QUICK if name not in ("ststnet", "off_apexnet")])
def test_a_fold_of_a_network_and_a_planted_leak(name, settings, rows_for, tmp_path):
    """It needs no column that a test clip lacks in a fold; a statistic over the test clips is caught, nothing else."""
    rows = rows_for(name, 9)
    task = make_task({"train": rows[:6], "test": rows[6:]}, "fixed")
    config = {"name": name, **settings(name), **shortest(name)}
    needs_video = baseline_class(name).needs_video
    if name in ("rcn", "mpt_style"):  # one that reads flow, and one that reads pixels
        fair = ModelSpec(name, make_baseline, config, needs_video=needs_video)
        assert len(run_protocol(rows, task, fair, cache=tmp_path, workers=1).pooled(task)) == 3
    leaky = ModelSpec(name, StandardisedOverTheTestSubject, config, needs_video=needs_video)
    with pytest.raises(LeakageError, match="changes if the other test clips are absent"):
        run_protocol(rows, task, leaky, cache=tmp_path, workers=1)


def test_an_unknown_baseline():
    with pytest.raises(ValueError, match=r"Unknown baseline 'forest'\. Known: majority, svm"):
        make_baseline("forest", labels=LABELS)


@pytest.mark.parametrize("name", list(BASELINES))
def test_rows_that_a_baseline_cannot_read_are_named(name):
    needed = baseline_class(name)
    assert needed.needs_video + needed.needs_flow == (name != "majority")
    filmed, moving = {**moving_rows(1)[0], "video": {"bytes": b"film"}, "flow": None}, moving_rows(2)[1]
    if name == "majority":
        check_readable(name, [filmed, moving])
        return
    advice = "Use its flow variant" if needed.needs_video else "Remove the clip"
    wrong = moving["clip_id"] if needed.needs_video else filmed["clip_id"]
    with pytest.raises(ValueError, match=f"{name}: Clip {wrong} has no .*{advice}"):
        check_readable(name, [filmed, moving])
    check_readable(name, [filmed if needed.needs_video else moving])


def test_all_fields_need_one_number_of_fields():
    rows = moving_rows(2)
    rows[1]["flow"] = rows[1]["flow"][:2]
    check_readable("rcn", rows)  # reads the apex only
    with pytest.raises(
        ValueError, match=r"learnet_flow: Clip casme2/sub01/.* has 2 flow fields, and other clips have 3"
    ):
        check_readable("learnet_flow", rows)
