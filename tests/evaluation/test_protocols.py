import numpy as np
import pytest

from deft_llm.evaluation.protocols import check_leaks, make_task
from deft_llm.hub_datasets.unimer.splits import LeakageError
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive")


@pytest.fixture
def rows():
    """Three subjects with four clips each, both classes with every one."""
    return [make_row("casme2", s, c, LABELS[c % 2]) for s in (1, 2, 3) for c in range(4)]


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
    with pytest.raises(ValueError, match="casme2/sub01 has only one class in training, 'positive'"):
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
        {
            **row,
            "clip_id": row["clip_id"].replace("/46", f"_{n}/46"),
            "subject": f"casme2/file{n}-{k}",
            "flow": np.random.default_rng([n, k]).normal(size=(1, 2, 8, 8)),
        }
        for n in (1, 2)
        for k, row in enumerate(rows)
    ]
    with pytest.raises(LeakageError, match="is one person by its clip ids but has clips under the subjects"):
        check_leaks(files, make_task({"train": files}, "loso"))


@pytest.mark.parametrize("form", ["{clip}", "casme2_sub03_EP01_positive"])
def test_instruction_text_of_a_test_clip_in_training(rows, form):
    text = f"The clip {form.format(clip=rows[9]['clip_id'])} shows a lip corner puller."
    block = [{"type": "text", "text": text}]
    rows[0]["conversations"] = [{"task": "explain", "messages": [{"role": "user", "content": block}]}]
    with pytest.raises(LeakageError, match="instruction text of training clip casme2/sub01/EP00_negative/46"):
        check_leaks(rows, make_task({"train": rows}, "loso"))
    block[0]["text"] = "The clip casme2/sub01/EP00_negative/46, itself."
    check_leaks(rows, make_task({"train": rows}, "loso"))


# --- Running
