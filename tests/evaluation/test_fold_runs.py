import json
import os
import subprocess
import sys

import numpy as np
import pytest

from deft_llm.evaluation.baselines.majority import MajorityClass
from deft_llm.evaluation.fold_runs import (
    FOLD_CODE,
    IncompleteError,
    ModelSpec,
    RunResult,
    code_hash,
    row_hash,
    run_protocol,
)
from deft_llm.evaluation.protocols import make_task, split_hash
from deft_llm.hub_datasets.unimer.splits import LeakageError
from tests.evaluation.made_up_rows import make_row
from tests.evaluation.planted_models import Broken, Cheat, Fair, Forgetful, OverTheTestSubject, Unsure

LABELS = ("negative", "positive")


@pytest.fixture
def rows():
    """Three subjects with four clips each, both classes with every one."""
    return [make_row("casme2", s, c, LABELS[c % 2]) for s in (1, 2, 3) for c in range(4)]


def run(rows, task, factory, cache, name="model", **options):
    settings = {key: options.pop(key) for key in list(options) if key not in ("workers", "seed", "on_fold")}
    return run_protocol(rows, task, ModelSpec(name, factory, settings), cache=cache, **options)


def test_a_cheat_gets_nothing(rows, tmp_path):
    """Columns, names, text, other folds' memory, the harness's memory: it takes any label it finds and finds none."""
    for row in rows:
        said = [{"type": "text", "text": f"It is {row['emotion']}."}]
        row["conversations"] = [{"task": "emotion", "messages": [{"role": "assistant", "content": said}]}]
    task = make_task({"train": rows}, "loso", target="emotion")
    result = run(rows, task, Cheat, tmp_path, workers=1)
    predictions = result.pooled(task)
    assert all(prediction["scores"] == [0.5, 0.5] for prediction in predictions.values())
    assert not any("answer" in prediction for prediction in predictions.values())
    # Trained and asked without the harness, in one process and with the rows as they are, it is always right.
    careless = Cheat(task.labels)
    careless.fit([{**row, "label": row["emotion"]} for row in rows[:4]])
    for row, prediction in zip(rows, careless.predict(rows), strict=True):
        assert prediction["scores"][task.labels.index(row["emotion"])] == 1.0


def test_training_sees_and_scales_by_the_training_rows_only(rows, tmp_path):
    """Normalisation over all subjects, and selection on the test subject, need rows that are not there."""
    task = make_task({"train": rows}, "loso")
    result = run(rows, task, Fair, tmp_path)
    by_id = {row["clip_id"]: row for row in rows}
    for fold in task.folds:
        mean = np.mean([np.asarray(by_id[clip]["flow"], np.float32)[0, 0].mean() for clip in fold.train])
        for prediction in result.predictions[fold.name].values():
            assert prediction["answer"] == f"8 clips, mean {mean:.4f}, {' '.join(sorted(fold.train))}"
    assert set(result.seconds) == {fold.name for fold in task.folds}


def test_a_prediction_that_leans_on_the_other_test_clips(rows, tmp_path):
    with pytest.raises(LeakageError, match="changes if the other test clips are absent"):
        run(rows, make_task({"train": rows}, "loso"), OverTheTestSubject, tmp_path, workers=1)


def test_missing_and_impossible_predictions_are_refused(rows, tmp_path):
    task = make_task({"train": rows}, "loso")
    with pytest.raises(IncompleteError, match="3 predictions for 4 clips"):
        run(rows, task, Forgetful, tmp_path / "a", workers=1)
    with pytest.raises(ValueError, match="not 2 probabilities"):
        run(rows, task, Unsure, tmp_path / "b", workers=1)


def test_a_part_is_never_pooled(rows):
    task = make_task({"train": rows}, "loso")
    whole = {f.name: {clip: {"label": "negative", "scores": [1, 0]} for clip in f.test} for f in task.folds}
    assert len(RunResult("m", whole).pooled(task)) == 12
    with pytest.raises(IncompleteError, match="1 of 3 folds are missing: casme2/sub02"):
        RunResult("m", {name: clips for name, clips in whole.items() if name != "casme2/sub02"}).pooled(task)
    lost = whole["casme2/sub01"].pop("casme2/sub01/EP00_negative/46")
    with pytest.raises(IncompleteError, match=r"no prediction for casme2/sub01/EP00_negative/46"):
        RunResult("m", whole).pooled(task)
    whole["casme2/sub01"] |= {"casme2/sub01/EP00_negative/46": lost, "other": lost}
    with pytest.raises(IncompleteError, match="other is not in its test clips"):
        RunResult("m", whole).pooled(task)


@pytest.mark.parametrize(("hard", "message"), [(False, "planted failure"), (True, "exit code 9")])
def test_a_stopped_run_goes_on_where_it_was(rows, tmp_path, hard, message):
    task = make_task({"train": rows}, "loso")
    options = {"counter": str(tmp_path / "starts"), "fails_at": 2, "hard": hard, "workers": 1}
    with pytest.raises(RuntimeError, match=message) as caught:
        run(rows, task, Broken, tmp_path / "cache", **options)
    assert "fold casme2/sub02" in str(caught.value)
    done = []
    result = run(rows, task, Broken, tmp_path / "cache", **options, on_fold=done.append)
    assert result.cached == 1
    assert done == ["casme2/sub01", "casme2/sub02", "casme2/sub03"]
    assert (tmp_path / "starts").stat().st_size == 4
    assert not list((tmp_path / "cache").glob("*.partial"))
    again = run(rows, task, Broken, tmp_path / "cache", **options)
    assert (again.cached, again.predictions) == (3, result.predictions)


def test_what_is_cached_is_what_was_asked(rows, tmp_path):
    task = make_task({"train": rows}, "loso")
    run(rows, task, MajorityClass, tmp_path)
    assert run(rows, task, MajorityClass, tmp_path).cached == 3
    assert run(rows, task, MajorityClass, tmp_path, seed=1).cached == 0
    assert run(rows, task, Fair, tmp_path, bias=1.0).cached == 0
    assert run(rows, task, Fair, tmp_path, bias=2.0).cached == 0
    rows[0]["flow"] = rows[0]["flow"] + 1
    assert run(rows, make_task({"train": rows}, "loso"), MajorityClass, tmp_path).cached == 0
    rows[0]["emotion_coarse"] = "positive"
    assert run(rows, make_task({"train": rows}, "loso"), MajorityClass, tmp_path).cached == 0
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps({"key": "another"}))
    with pytest.raises(ValueError, match="contains a different fold"):
        run(rows, make_task({"train": rows}, "loso"), MajorityClass, tmp_path)


def test_hashes_follow_content_and_not_the_container(rows):
    first = rows[0]
    listed = {**first, "flow": np.asarray(first["flow"]).tolist()}
    assert row_hash(first) == row_hash(listed) == row_hash(dict(reversed(first.items())))
    assert row_hash(first) != row_hash({**first, "emotion": "anger"})
    film = {**first, "video": {"bytes": b"film", "path": None}}
    assert row_hash(film) != row_hash(first) == row_hash(film, with_video=False)
    task = make_task({"train": rows}, "loso")
    assert split_hash(task) == split_hash(make_task({"train": rows[::-1]}, "loso"))
    assert code_hash(MajorityClass) != code_hash(Fair)
    parts = {"training", "hub_datasets", "processing", "modeling_deft"}
    assert parts <= {module.split(".")[1] for module in FOLD_CODE}


def test_another_process_finds_the_same_hashes():
    """Finished folds are found again by a new process, whatever order its sets have."""
    code = (
        "from deft_llm.evaluation.baselines.majority import MajorityClass as M\n"
        "from deft_llm.evaluation.fold_runs import code_hash\n"
        "print(code_hash(M))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == code_hash(MajorityClass)
