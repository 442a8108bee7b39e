import json
import os
import subprocess
import sys

import numpy as np
import pytest

from deft_llm.evaluation.baselines.majority import MajorityClass
from deft_llm.evaluation.fold_runs import IncompleteError, ModelSpec, RunResult, code_hash, row_hash, run_protocol
from deft_llm.evaluation.protocols import check_leaks, make_task, split_hash
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


# --- Tasks


def test_loso_tests_every_clip_once(rows):
    task = make_task({"train": rows[:8], "test": rows[8:]}, "loso")
    assert [fold.name for fold in task.folds] == ["casme2/sub01", "casme2/sub02", "casme2/sub03"]
    assert sorted(clip for fold in task.folds for clip in fold.test) == sorted(row["clip_id"] for row in rows)
    assert task.labels == LABELS


def test_lodo_leaves_a_source_out(rows):
    others = [make_row("samm", s, c, LABELS[c % 2]) for s in (1, 2) for c in range(2)]
    task = make_task({"train": rows + others}, "lodo")
    assert {fold.name: len(fold.test) for fold in task.folds} == {"casme2": 12, "samm": 4}


def test_the_composite_has_its_own_classes_and_says_what_differs(rows):
    others = [make_row("samm", s, c, LABELS[c % 2]) for s in (1, 2) for c in range(2)]
    task = make_task({"train": [*rows, *others, make_row("mmew", 1, 1, "negative")]}, "cde")
    assert task.labels == ("negative", "positive", "surprise")
    assert len(task.folds) == 5
    assert task.left_out == {"mmew/sub01/EP01_negative/46": "mmew is not part of the composite"}
    assert len(task.differences) == 3


def test_fixed_keeps_to_the_splits(rows):
    task = make_task({"train": rows[:8], "test": rows[8:]}, "fixed")
    assert [len(task.folds[0].train), len(task.folds[0].test)] == [8, 4]
    with pytest.raises(ValueError, match="needs the split 'test'"):
        make_task({"train": rows}, "fixed")


def test_dfme_keeps_to_its_sheets():
    def clips(sheet, subjects):
        given = {"reader": "test", "sheet": sheet, "sheet_sha256": None, "row": 1}
        return [make_row("dfme", s, c, LABELS[c % 2], provenance=given) for s in subjects for c in range(2)]

    every = clips("train_full_with_AU.xlsx", (1, 2)) + clips("testA.xlsx", (3,)) + clips("testB.xlsx", (4,))
    task = make_task({"train": every}, "fixed")
    assert {fold.name: (len(fold.train), len(fold.test)) for fold in task.folds} == {
        "test_a": (4, 2),
        "test_b": (4, 2),
    }
    assert task.differences


def test_clips_without_a_label_are_left_out_by_name(rows):
    task = make_task({"train": [*rows, make_row("casme2", 1, 9, None)]}, "loso")
    assert task.left_out == {"casme2/sub01/EP09_None/46": "no emotion_coarse"}


def test_bad_tasks_are_named(rows):
    with pytest.raises(ValueError, match=r"EP00_negative.*'negative'.*not in the list"):
        make_task({"train": rows}, "loso", labels=("positive", "surprise"))
    with pytest.raises(ValueError, match="Unknown protocol 'k-fold'"):
        make_task({"train": rows}, "k-fold")
    with pytest.raises(ValueError, match="no rows"):
        make_task({"train": []}, "loso")
    with pytest.raises(ValueError, match="at least two subjects"):
        make_task({"train": rows[:4]}, "loso")
    with pytest.raises(ValueError, match="no column 'mood'"):
        make_task({"train": rows}, "loso", target="mood")
    with pytest.raises(ValueError, match="Fold test is empty: it has no clip to test on"):
        make_task({"train": rows, "test": [make_row("casme2", 9, 1, None)]}, "fixed")
    alone = [make_row("casme2", 1, 1, "negative"), make_row("casme2", 2, 1, "positive")]
    with pytest.raises(ValueError, match="casme2/sub01 has one class only in training, 'positive'"):
        make_task({"train": alone}, "loso")


# --- The planted leaks of field guide 2.3


def test_a_subject_in_two_folds(rows):
    with pytest.raises(LeakageError, match="Subject casme2/sub02 is in train and in test"):
        make_task({"train": rows[:6], "test": rows[6:]}, "fixed")
    task = make_task({"train": rows}, "loso")
    moved = [{**row, "subject": "casme2/sub02"} if row["clip_id"].startswith("casme2/sub03") else row for row in rows]
    with pytest.raises(LeakageError, match="casme2/sub02"):
        check_leaks(moved, task)


def test_a_clip_id_twice(rows):
    with pytest.raises(LeakageError, match="again"):
        make_task({"train": [*rows, dict(rows[0])]}, "loso")


def test_augmented_copies_made_before_the_split(rows):
    flow = np.asarray(rows[0]["flow"], np.float32)
    mirror = flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    for number, copied in enumerate((flow, 2.5 * mirror, flow + 0.3)):
        copy = make_row("augmented", number, 1, "negative", flow=copied.astype(np.float16))
        task = make_task({"train": [*rows, copy]}, "loso")
        with pytest.raises(LeakageError, match="copies of one clip"):
            check_leaks([*rows, copy], task)
    other = make_row("casme2", 7, 1, "negative")
    check_leaks([*rows, other], make_task({"train": [*rows, other]}, "loso"))


def test_one_recording_under_two_names(rows):
    rows[0]["video"] = rows[5]["video"] = {"bytes": b"the same film", "path": None}
    with pytest.raises(LeakageError, match="copies of one clip"):
        check_leaks(rows, make_task({"train": rows}, "loso"))


def test_several_files_a_clip_as_keys(rows):
    """Subjects made from file names: a person's clips, and one clip's files, land on both sides."""
    files = [
        {**row, "clip_id": row["clip_id"].replace("/46", f"_{n}/46"), "subject": f"casme2/file{n}-{k}",
         "flow": np.random.default_rng([n, k]).normal(size=(1, 2, 8, 8))}
        for n in (1, 2) for k, row in enumerate(rows)
    ]  # fmt: skip
    with pytest.raises(LeakageError, match="one person, has clips under the subjects"):
        check_leaks(files, make_task({"train": files}, "loso"))


@pytest.mark.parametrize("form", ["{clip}", "casme2_sub03_EP01_positive"])
def test_instruction_text_of_a_test_clip_in_training(rows, form):
    text = f"The clip {form.format(clip=rows[9]['clip_id'])} shows a lip corner puller."
    block = [{"type": "text", "text": text}]
    rows[0]["conversations"] = [{"task": "explain", "messages": [{"role": "user", "content": block}]}]
    with pytest.raises(LeakageError, match="instruction text of casme2/sub01/EP00_negative/46, in training"):
        check_leaks(rows, make_task({"train": rows}, "loso"))
    block[0]["text"] = "The clip casme2/sub01/EP00_negative/46, itself."
    check_leaks(rows, make_task({"train": rows}, "loso"))


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
    with pytest.raises(LeakageError, match="changes when the other test clips are absent"):
        run(rows, make_task({"train": rows}, "loso"), OverTheTestSubject, tmp_path, workers=1)


# --- Running


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
    with pytest.raises(IncompleteError, match="other is not tested there"):
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
    with pytest.raises(ValueError, match="holds another fold"):
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


def test_another_process_finds_the_same_hashes():
    """Finished folds are found again by a new process, whatever order its sets have."""
    code = (
        "from deft_llm.baselines.majority import MajorityClass as M\n"
        "from deft_llm.evaluation.protocols import code_hash\n"
        "print(code_hash(M))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == code_hash(MajorityClass)
