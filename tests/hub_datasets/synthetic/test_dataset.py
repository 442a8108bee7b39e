import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from datasets import load_dataset

from deft_llm.cli import main
from deft_llm.hub_datasets.synthetic import dataset
from deft_llm.hub_datasets.synthetic.dataset import (
    CONVENTIONS,
    EMOTIONS,
    PRESETS,
    build,
    draw_expression,
    face_rows,
)
from deft_llm.hub_datasets.unimer import rows as uni_mer
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.emotion_prototypes import emotion_of
from tests.processes import InThisProcess

ARGUMENTS = {"clips": 5, "clips_per_face": 2, "test_share": 0.34, "preset": "realistic", "seed": 5}


@pytest.fixture(scope="module")
def built_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("uni-mer") / "two-workers"
    build(out=out, workers=2, **ARGUMENTS)
    return out


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(preset, faces=1, **changes):
    settings = {
        "preset": PRESETS[preset],
        "conventions": ("synthetic",),
        "clips_per_face": 4,
        "total": 10**6,
        "first_test_face": 10**6,
        "corrupt": 0.0,
        "num_frames": 8,
        "seed": 1,
    }
    parts = [face_rows(index, **(settings | changes)) for index in range(faces)]
    return [row for rows, _ in parts for row in rows], [truth for _, truths in parts for truth in truths]


def test_the_number_of_workers_and_the_process_change_no_byte(built_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", InThisProcess)
    build(out=tmp_path / "one-worker", workers=1, **ARGUMENTS)
    assert digest(tmp_path / "one-worker") == digest(built_folder)


def test_load_dataset_reads_rows_and_truth(built_folder, tmp_path):
    splits = load_dataset(str(built_folder), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 4, "test": 1}
    assert set(splits["train"]["subject"]).isdisjoint(splits["test"]["subject"])
    streamed = next(iter(load_dataset(str(built_folder), split="train", streaming=True)))
    assert streamed["clip_id"] == splits["train"][0]["clip_id"]
    truth = load_dataset(str(built_folder), "truth", split="train", cache_dir=str(tmp_path))
    assert truth["clip_id"] == splits["train"]["clip_id"]
    for row, true in zip(splits["train"], truth, strict=True):
        parameters = json.loads(true["parameters"])
        shown = parameters["expressions"][0]
        assert (row["onset"], row["apex"], row["offset"]) == (shown["onset"], shown["apex"], shown["offset"])
        assert {unit["code"]: unit["intensity"] for unit in row["action_units"]} == {
            unit["code"]: unit["intensity"] for unit in shown["units"]
        }
        assert set(parameters["disturbances"]) >= {"head_shift", "noise", "blinks", "crf"}


def test_the_written_truth_agrees_with_the_measured_flow():
    rows, truths = rows_of("easy", clips_per_face=6)
    for row, truth in zip(rows, truths, strict=True):
        true, measured = np.array(truth["true_flow"]), np.float32(row["flow"])
        assert true.shape == measured.shape
        if row["emotion"] is not None:
            apex_true, apex_measured = true[3, :, 4:-4, 4:-4].ravel(), measured[3, :, 4:-4, 4:-4].ravel()
            assert np.corrcoef(apex_true, apex_measured)[0, 1] > 0.8
        else:
            assert np.abs(true).max() == 0


def test_every_emotion_of_a_convention_is_drawn_from_its_prototypes():
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(400):
        emotion, units = draw_expression(PRESETS["easy"], "synthetic-b", rng)
        codes = tuple(unit.code for unit in units)
        assert (emotion is None) == (codes == ())
        if emotion is not None:
            assert codes in CONVENTIONS["synthetic-b"][emotion]
            assert {unit.intensity for unit in units} <= set("CDE")
        seen[emotion] += 1
    assert set(seen) == {*EMOTIONS, None}


def test_the_conventions_contradict_each_other():
    """Lowered brows are anger by the one and disgust by the other, as in published data sets."""
    read = [
        {units: emotion for emotion, sets in convention.items() for units in sets}
        for convention in CONVENTIONS.values()
    ]
    assert (read[0]["AU4",], read[1]["AU4",]) == ("anger", "disgust")
    for convention in CONVENTIONS.values():
        sets = [units for prototypes in convention.values() for units in prototypes]
        assert len(sets) == len(set(sets))


def test_the_convention_is_named_in_the_question():
    rows, _ = rows_of("easy", conventions=("synthetic-b",))
    question = rows[0]["conversations"][0]["messages"][0]["content"][1]["text"]
    assert "the convention of synthetic-b" in question
    assert {row["source"] for row in rows} == {"synthetic-b"}


def test_entangled_looks_go_with_emotions_in_train_and_with_others_in_test(monkeypatch):
    monkeypatch.setattr(dataset, "make_row", lambda **row: row)  # nothing is measured
    settings = {
        "preset": PRESETS["entangled"],
        "conventions": ("synthetic",),
        "clips_per_face": 12,
        "total": 10**6,
        "corrupt": 0.0,
        "num_frames": 2,
        "seed": 1,
    }
    usual = {}
    for face_index, first_test_face in ((0, 5), (5, 5)):
        rows, _ = face_rows(face_index, first_test_face=first_test_face, **settings)
        usual[face_index] = Counter(row["emotion"] for row in rows if row["emotion"]).most_common(1)[0]
    # Faces 0 and 5 have one look; the one in train and the other in test show different emotions.
    assert usual[0][1] >= 7
    assert usual[5][1] >= 7
    assert usual[0][0] != usual[5][0]


def test_long_videos_hold_several_expressions_and_their_times():
    rows, truths = rows_of("long", clips_per_face=1)
    parameters = json.loads(truths[0]["parameters"])
    assert rows[0]["onset"] is None
    assert rows[0]["conversations"] == []
    assert len(parameters["expressions"]) == len(parameters["emotions"]) >= 1
    assert parameters["frames"] > 100
    assert parameters["disturbances"]["talking"] > 0
    ends = [(item["onset"], item["offset"]) for item in parameters["expressions"]]
    assert all(first[1] < second[0] for first, second in pairwise(ends))


def test_errors_are_recorded_and_the_truth_is_kept():
    rows, truths = rows_of("easy", clips_per_face=10, corrupt=0.9)
    wrong = [(row, truth) for row, truth in zip(rows, truths, strict=True) if truth["corruption"]]
    assert len(wrong) >= 4
    for row, truth in wrong:
        assert row["quality"][0] == f"corrupted:{truth['corruption']}"
        if truth["corruption"].startswith("missing_unit"):
            assert any(flag.startswith("unlabelled_motion:") for flag in row["quality"])
        shown = json.loads(truth["parameters"])["expressions"][0]
        written = (sorted((unit["code"], unit["side"]) for unit in row["action_units"]), row["apex"], row["emotion"])
        true = (sorted((unit["code"], unit["side"]) for unit in shown["units"]), shown["apex"], truth["emotion"])
        assert written != true


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "0"], "--clips must be at least 1"),
        (["--preset", "hard"], "'hard'"),
        (["--conventions", "samm"], "'samm'"),
        (["--corrupt", "2"], "--corrupt must lie in"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(arguments, message, tmp_path, capsys):
    assert main(["data", "synthesize", "--output-dir", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(built_folder, capsys):
    before = digest(built_folder)
    assert main(["data", "synthesize", "--output-dir", str(built_folder)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert digest(built_folder) == before


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uni_mer.Dataset, "to_parquet", full)
    rows, _ = rows_of("easy", clips_per_face=1)
    schema = uni_mer.features(DeftVideoProcessor(num_frames=8))
    with pytest.raises(OSError, match="No space left"):
        uni_mer.write_dataset({"data": (schema, {"train": rows})}, "card", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_free_sets_are_in_train_only_and_show_the_emotion(monkeypatch):
    preset = replace(PRESETS["realistic"], free_sets=1.0)
    rng = np.random.default_rng(0)
    drawn = [draw_expression(preset, "synthetic", rng) for _ in range(300)]
    prototypes = {frozenset(codes) for sets in CONVENTIONS["synthetic"].values() for codes in sets}
    sets = {frozenset(unit.code for unit in units) for _, units in drawn if units}
    assert len(sets) > 40
    assert sum(len(codes) > 1 for codes in sets) == len(sets)
    assert len(sets - prototypes) > len(sets & prototypes)
    for emotion, units in drawn:
        codes = [unit.code for unit in units]
        assert emotion == (emotion_of(codes, "synthetic") if units else None)
        assert not {"AU12", "AU15"} <= set(codes)  # they move the same region
    # The faces of the test split show the same as without free sets.
    monkeypatch.setitem(PRESETS, "free", preset)
    changed, same = (rows_of(name, clips_per_face=3, first_test_face=0)[0] for name in ("free", "realistic"))
    assert [row["action_units"] for row in changed] == [row["action_units"] for row in same]


def test_free_sets_are_for_rendered_faces(tmp_path, capsys):
    options = ["--output-dir", str(tmp_path / "out"), "--recordings", str(tmp_path), "--free-sets", "0.5"]
    assert main(["data", "synthesize", *options]) == 2
    assert "--free-sets is for rendered faces" in capsys.readouterr().err
