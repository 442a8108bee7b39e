import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from deft_llm.evaluation.run import load_splits, main, summarise
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.processing import DeftVideoProcessor
from tests.evaluation.made_up_rows import make_row

ROOT = Path(__file__).parents[2]
LABELS = ["negative", "positive", "surprise"]


def prediction(emotion, generated, head, parsed=True, abstained=False):
    return {
        "clip_id": "c", "subject": f"s{emotion}", "emotion": emotion, "action_units": ["AU4"] if emotion else [],
        "generated": generated, "head": head, "parsed": parsed, "abstained": abstained, "au_scores": [0.9],
    }  # fmt: skip


def test_still_clips_are_not_scored_as_emotions():
    config = SimpleNamespace(emotion_labels=LABELS, action_units=["AU4"])
    predictions = [
        prediction("negative", "negative", "negative"),
        prediction("positive", None, "positive", parsed=False),
        prediction(None, None, "surprise", abstained=True),
    ]
    report = summarise(predictions, config, "negative")
    assert (report["clips"], report["expressive_clips"], report["still_clips"]) == (3, 2, 1)
    assert report["emotions"]["recognition head"]["uf1"] == 1.0
    assert report["emotions"]["generated answer"]["accuracy"] == 0.5
    assert report["emotions"]["majority class"]["accuracy"] == 0.5
    assert report["answers_parsed"] == pytest.approx(2 / 3)
    assert report["still_clips_abstained"] == 1.0
    assert json.loads(json.dumps(report)) == report


def test_a_subject_in_both_splits_is_refused(dataset, folder, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    dataset.to_parquet(tmp_path / "data" / "train-0.parquet")
    dataset.select(range(3)).to_parquet(tmp_path / "data" / "test-0.parquet")
    arguments = ["--model", str(folder), "--dataset", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "subjects are in both splits" in capsys.readouterr().err
    assert main([*arguments, "--split", "validation"]) == 1
    assert "no split 'validation'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def flow_only(tmp_path_factory):
    """A features-only dataset of four subjects in two sources, with three clips of each class."""
    folder = tmp_path_factory.mktemp("flow") / "made-up"
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    for split, subjects in (("train", (1, 2)), ("test", (3, 4))):
        rows = [
            {**make_row(("casme2", "samm")[s % 2], s, c, LABELS[c % 3]), "action_units": []}
            for s in subjects for c in range(9)
        ]  # fmt: skip
        Dataset.from_list(rows, features=schema).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_clip_without_flow_stays_one(tmp_path):
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    rows = [{**make_row("casme2", 1, c, "negative"), "action_units": []} for c in range(2)]
    rows[1] |= {"flow": None, "emotion_coarse": None}
    Dataset.from_list(rows, features=schema).to_parquet(tmp_path / "train-0.parquet")
    first, second = load_splits(str(tmp_path), with_video=False)["train"]
    assert np.array_equal(first["flow"], rows[0]["flow"])
    assert second["flow"] is None


def figures_of(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_protocol_from_folder_to_report(flow_only, tmp_path, capsys):
    recipe = tmp_path / "small.yaml"
    recipe.write_text("{members: 1, epochs: 2, prior_steps: 0, flow_size: 8, hidden_size: 8}", encoding="utf-8")
    arguments = ["--dataset", str(flow_only), "--protocol", "loso", "--model", str(recipe), "--baselines"]
    arguments += ["majority,svm", "--resamples", "50"]
    assert main([*arguments, "--output", str(tmp_path / "a")]) == 0
    assert "leave one subject out" in capsys.readouterr().out
    report = figures_of(tmp_path / "a")
    assert (report["clips"], report["subjects"], report["folds"]) == (36, 4, 4)
    assert list(report["models"]) == ["DEFT, recognition", "majority", "svm"]
    assert report["models"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert [item["against"] for item in report["comparisons"]] == ["majority", "svm"]

    # Another folder, other processes, nothing cached: the same report to the last character. And again from the cache.
    assert main([*arguments, "--output", str(tmp_path / "b"), "--workers", "1"]) == 0
    assert main([*arguments, "--output", str(tmp_path / "a")]) == 0
    for name in ("report.json", "report.md", "model-index.yaml", "predictions.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    timings = json.loads((tmp_path / "a" / "timings.json").read_text())
    assert {entry["folds_from_cache"] for entry in timings.values()} == {4}


@pytest.mark.parametrize(("protocol", "folds"), [("cde", 4), ("lodo", 2), ("fixed", 1)])
def test_the_other_protocols(flow_only, tmp_path, protocol, folds):
    arguments = ["--dataset", str(flow_only), "--protocol", protocol, "--baselines", "majority"]
    assert main([*arguments, "--output", str(tmp_path), "--resamples", "20"]) == 0
    report = figures_of(tmp_path)
    assert report["folds"] == folds
    assert bool(report["differences_from_the_protocol"]) == (protocol == "cde")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "loso", "--baselines", "forest"], "Unknown baseline 'forest'"),
        (["--protocol", "loso", "--model", "nowhere.yaml"], "no recipe nowhere.yaml"),
        (["--protocol", "loso", "--model", "recipes/tiny.yaml"], "recipe of train_sft; use it with --mode full"),
        (["--protocol", "loso", "--mode", "full", "--model", "recipes/recognition.yaml"], "names no language model"),
        (
            ["--protocol", "loso", "--model", "some/checkpoint"],
            "tests every subject, those it was trained on included",
        ),
        (["--protocol", "loso", "--baselines", "majority", "--labels", "negative"], "not in the list negative"),
        (["--protocol", "loso", "--baselines", "majority", "--target", "objective_class"], "No clip has a label"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(flow_only, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert main(["--dataset", str(flow_only), "--output", str(tmp_path / "out"), *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()  # before it the dataset's own progress
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("arguments", [["--dataset", "d"], ["--model", "m"], ["--questions", "q", "--model", "m"]])
def test_incomplete_command_lines(arguments, tmp_path):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), *arguments])


def test_a_trained_model_on_fixed_splits(dataset, folder, tmp_path):
    """Recognition from the heads, fine emotions joined to the coarse classes by the checkpoint's own table."""
    people = sorted(set(dataset["subject"]))
    (tmp_path / "data").mkdir()
    for split, kept in (("train", people[:3]), ("test", people[3:])):
        rows = dataset.filter(lambda subject, kept=kept: subject in kept, input_columns="subject")
        rows.to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    arguments = ["--dataset", str(tmp_path / "data"), "--protocol", "fixed", "--model", str(folder)]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--resamples", "20"]) == 0
    report = figures_of(tmp_path / "out")
    figures = report["models"]["DEFT, trained before"]
    assert sum(map(sum, figures["confusion"])) == report["clips"] > 0
    assert 0 <= figures["action_units"]["au_f1"] <= 1


def test_a_trained_model_on_one_split(dataset, folder, tmp_path, capsys):
    """Without a protocol: what `make demo` runs."""
    people = sorted(set(dataset["subject"]))
    (tmp_path / "data").mkdir()
    for split, person in (("train", people[0]), ("test", people[1])):
        rows = dataset.filter(lambda subject, person=person: subject == person, input_columns="subject")
        rows.select(range(4)).to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    arguments = ["--model", str(folder), "--dataset", str(tmp_path / "data"), "--max-new-tokens", "4"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    report = figures_of(tmp_path / "out")
    assert (report["clips"], report["subjects"]) == (4, 1)
    assert list(report["emotions"]) == ["majority class", "recognition head", "generated answer"]
    assert report["answers_parsed"] == 0.0  # four tokens are no answer
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 4
    assert "4 clips of 1 unseen identities" in capsys.readouterr().out
