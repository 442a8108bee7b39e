import numpy as np
import pytest

from deft_llm.evaluation.protocols import check_leaks, in_one_line, left_out_rows, make_task, with_joined
from deft_llm.hub_datasets.unimer.published_protocols import PUBLISHED
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
    assert task.left_out == {"mmew/sub01/EP01_negative/46": "mmew is not part of megc2019"}
    assert len(task.differences) == 3
    assert in_one_line(task) == "cde: 16 of 17 rows are used, 1 are left out (1: mmew is not part of megc2019)."
    assert left_out_rows(task, [*rows, *others, make_row("mmew", 1, 1, "negative")]) == [
        {"source": "mmew", "emotion": "disgust", "reason": "mmew is not part of megc2019", "clips": 1}
    ]


def test_the_composite_goes_by_two_names(rows):
    old, new = (make_task({"train": rows}, name) for name in ("cde", "megc2019"))
    assert (old.label_of, old.folds, old.differences) == (new.label_of, new.folds, new.differences)
    assert in_one_line(new) == "megc2019: 12 of 12 rows are used."


def test_a_published_protocol_has_its_own_classes_and_folds():
    words = ("happiness", "others", "fear", "repression")
    rows = [make_row("casme2", s, c, LABELS[c % 2], emotion=words[c]) for s in (1, 2, 3) for c in range(4)]
    task = make_task({"train": rows}, "casme2-5")
    assert (task.labels, len(task.folds), len(task.label_of)) == (PUBLISHED["casme2-5"].classes, 3, 9)
    assert set(task.left_out.values()) == {"fear is not part of casme2-5 for casme2"}
    people = [make_row("dfme", s, 1, "negative", emotion=("fear", "anger")[s % 2]) for s in range(12)]
    assert len(make_task({"train": people}, "dfme-7").folds) == 10


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        ("samm-5", {}, r"samm-5 uses rows of samm; the dataset has casme2.*12 rows: casme2 is not part of samm-5"),
        ("casme2-3", {"labels": ["positive"]}, "has the labels negative, positive, surprise; remove --labels"),
        ("casme2-3", {"target": "emotion"}, "has classes of its own; remove --target emotion"),
        ("loso", {"emotion_words": {"gloom": "sadness"}}, "loso does not read emotion words"),
        ("loso", {"labels": ["negative", "postive"]}, r"'postive' in emotion_coarse\. Did you mean 'positive'\?"),
        ("loso", {"labels": ["Negative", "positive"]}, r"'Negative' in emotion_coarse\. Did you mean 'negative'\?"),
        ("loso", {"labels": ["negative", "fear"]}, r"'fear' in emotion_coarse\. The rows have negative 6, positive 6"),
        ("loso", {"labels": ["negative", "negative"]}, "--labels names 'negative' twice"),
    ],
)
def test_what_does_not_fit_the_protocol_is_named(rows, protocol, options, message):
    with pytest.raises(ValueError, match=message):
        make_task({"train": rows}, protocol, **options)


@pytest.mark.parametrize("protocol", ["loso", "fixed"])
def test_rows_of_other_labels_are_left_out_and_counted(rows, protocol):
    others = [make_row("casme2", s, 7, "surprise", emotion="fear", emotion_coarse="fear") for s in (1, 3)]
    splits = {"train": [*rows[:8], others[0]], "test": [*rows[8:], others[1]]}
    task = make_task(splits, protocol, labels=("positive", "negative"))
    assert (task.labels, len(task.label_of)) == (("positive", "negative"), 12)
    assert task.left_out == {row["clip_id"]: "fear is not one of the labels" for row in others}
    (counted,) = left_out_rows(task, [*rows, *others])
    assert counted == {"source": "casme2", "emotion": "fear", "reason": "fear is not one of the labels", "clips": 2}


def test_a_word_that_the_protocol_does_not_know_stops_it(rows):
    rows[0]["emotion"] = "gloom"
    with pytest.raises(ValueError, match="megc2019 does not say what becomes of the emotions 'gloom' of casme2"):
        make_task({"train": rows}, "cde")
    assert len(make_task({"train": rows}, "cde", emotion_words={"gloom": "disgust"}).label_of) == 12


def test_fixed_keeps_to_the_splits(rows):
    task = make_task({"train": rows[:8], "test": rows[8:]}, "fixed")
    assert [len(task.folds[0].train), len(task.folds[0].test)] == [8, 4]
    with pytest.raises(ValueError, match="needs the split 'test'"):
        make_task({"train": rows}, "fixed")


def test_zero_shot_keeps_the_labels_of_both_datasets(rows):
    others = [
        make_row("rendered", s, c, ("negative", "positive", "surprise")[c % 3]) for s in (1, 2) for c in range(3)
    ]
    rows.append(make_row("casme2", 3, 9, "positive", emotion_coarse="others"))
    task = make_task({"train": others, "test": rows}, "zero-shot")
    (fold,) = task.folds
    assert (task.labels, len(fold.train), len(fold.test)) == (LABELS, 4, 12)
    assert {clip.split("/")[0] for clip in fold.train} == {"rendered"}
    assert set(task.left_out.values()) == {"surprise is not one of the labels", "others is not one of the labels"}
    with pytest.raises(LeakageError, match="casme2/sub01"):
        make_task({"train": rows[:4], "test": rows}, "zero-shot")
    surprised = [make_row("rendered", 1, c, "surprise") for c in range(3)]
    with pytest.raises(ValueError, match=r"no label in common: they have surprise and negative, others, positive\."):
        make_task({"train": surprised, "test": rows}, "zero-shot")


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


@pytest.mark.parametrize("protocol", ["loso", "cde", "fixed"])
def test_clips_that_cannot_be_measured_are_tested_but_not_trained(rows, protocol):
    """A task without them would be easier than the published one."""
    chosen = rows[0]["clip_id"]
    marked = [row | {"quality": ["blurred", "not_measurable:the face leaves the picture"]} for row in rows[:1]]
    half = [row["subject"] for row in rows].index(rows[-1]["subject"])
    splits = {"train": rows[half:], "test": [*marked, *rows[1:half]]}
    task = make_task(splits, protocol)
    assert task.not_trained == {chosen: "the face leaves the picture"}
    assert not any(chosen in fold.train for fold in task.folds)
    assert sum(chosen in fold.test for fold in task.folds) == 1
    assert "1 cannot be measured, and are tested but not trained" in in_one_line(task)
    plain = make_task({name: [row | {"quality": []} for row in part] for name, part in splits.items()}, protocol)
    assert plain.not_trained == {}
    assert [fold.test for fold in plain.folds] == [fold.test for fold in task.folds]


def test_what_cannot_be_measured_is_not_taken_for_still(rows):
    still = make_row("casme2", 9, 1, None, emotion=None, action_units=[])
    blurred = make_row("casme2", 9, 2, None, emotion=None, action_units=[], quality=["not_measurable:blurred"])
    others = [make_row("casme2", 9, 3 + index, label) for index, label in enumerate(LABELS)]
    task = make_task({"train": rows, "test": [*others, still, blurred]}, "fixed")
    assert task.still == {"test": (still["clip_id"],)}


def test_rows_that_join_the_training_can_be_measured(rows):
    task = make_task({"train": rows}, "loso")
    others = [make_row("samm", 1, index, label) for index, label in enumerate(LABELS)]
    others.append(make_row("samm", 1, 9, LABELS[0], quality=["not_measurable:blurred"]))
    _, joined = with_joined(task, others)
    assert {row["clip_id"] for row in joined} == {row["clip_id"] for row in others[:-1]}


def test_bad_tasks_are_named(rows):
    with pytest.raises(ValueError, match="Unknown protocol 'k-fold'"):
        make_task({"train": rows}, "k-fold")
    with pytest.raises(ValueError, match="no rows"):
        make_task({"train": []}, "loso")
    with pytest.raises(ValueError, match="at least two subjects"):
        make_task({"train": rows[:4]}, "loso")
    with pytest.raises(ValueError, match="column 'mood' was not found"):
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
