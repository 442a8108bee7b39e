import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from deft_llm.cli import main
from deft_llm.evaluation.run import load_splits
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.processing import DeftVideoProcessor
from tests.evaluation.baselines.moving_rows import filmed_rows
from tests.evaluation.made_up_rows import make_row
from tests.gguf_files import write_gguf

ROOT = Path(__file__).parents[2]
LABELS = ["negative", "positive", "surprise"]
FLOORS = ("prior", "majority", "text_only")  # of questions about long videos


@pytest.fixture(scope="module")
def flow_only(tmp_path_factory):
    """A features-only dataset of four subjects in two sources, with three clips of each class."""
    folder = tmp_path_factory.mktemp("flow") / "made-up"
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    for split, subjects in (("train", (1, 2)), ("test", (3, 4))):
        rows = [
            {**make_row(("casme2", "samm")[s % 2], s, c, LABELS[c % 3]), "action_units": []}
            for s in subjects
            for c in range(9)
        ]
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
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path / "a")]) == 0
    assert "leave one subject out" in capsys.readouterr().out
    report = figures_of(tmp_path / "a")
    assert (report["clips"], report["subjects"], report["folds"]) == (36, 4, 4)
    assert list(report["models"]) == ["DEFT, recognition", "majority", "svm"]
    assert report["models"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    assert [item["against"] for item in report["comparisons"]] == ["majority", "svm"]

    # Another folder, other processes, nothing cached: the same report to the last character. And again from the cache.
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path / "b"), "--workers", "1"]) == 0
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path / "a")]) == 0
    for name in ("report.json", "report.md", "model-index.yaml", "predictions.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    timings = json.loads((tmp_path / "a" / "timings.json").read_text())
    assert {entry["folds_from_cache"] for entry in timings.values()} == {4}


def test_nested_and_with_seeds(flow_only, tmp_path):
    recipe = tmp_path / "kernel.yaml"
    recipe.write_text("{kernel_share: 1.0, prior_steps: 0}", encoding="utf-8")
    arguments = ["--dataset", str(flow_only), "--protocol", "loso", "--model", str(recipe), "--resamples", "20"]
    arguments += ["--inner", "3", "--seeds", "2", "--workers", "1", "--output-dir", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 0
    report = figures_of(tmp_path / "out")
    assert report["seeds"]["seeds"] == [0, 1]
    assert figures_of(tmp_path / "out" / "seed-1")["seed"] == 1
    chosen = report["models"]["DEFT, nested"]["chosen"]
    assert {*chosen} == {
        f"{source}/sub{n:02d}" for source, n in (("samm", 1), ("casme2", 2), ("samm", 3), ("casme2", 4))
    }
    assert "Chosen inside the training subjects" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_rows_of_another_dataset_join_the_training(flow_only, tmp_path, capsys):
    other = tmp_path / "other"
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    rows = [{**make_row("smic-hs", 7, c, LABELS[c % 3]), "action_units": []} for c in range(6)]
    rows.append({**make_row("smic-hs", 8, 0, None), "action_units": []})
    Dataset.from_list(rows, features=schema).to_parquet(other / "train-0.parquet")
    arguments = [
        "evaluate",
        "--dataset",
        str(flow_only),
        "--protocol",
        "loso",
        "--baselines",
        "svm",
        "--resamples",
        "20",
    ]
    arguments += ["--workers", "1", "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, "--train-dataset", str(other)]) == 0
    assert "6 of 7 rows" in capsys.readouterr().out
    report = figures_of(tmp_path / "out")
    assert (report["clips"], report["subjects"], report["folds"], report["training_clips"]) == (36, 4, 4, 42)
    assert "Rows of other join the training rows" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert main([*arguments, "--train-dataset", str(flow_only)]) == 2
    assert "is in --dataset and in --train-dataset" in capsys.readouterr().err


@pytest.mark.parametrize(("protocol", "folds"), [("casme2-3", 2), ("lodo", 2), ("fixed", 1)])
def test_the_other_protocols(flow_only, tmp_path, capsys, protocol, folds):
    arguments = ["--dataset", str(flow_only), "--protocol", protocol, "--baselines", "majority"]
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path), "--resamples", "20"]) == 0
    report = figures_of(tmp_path)
    assert report["folds"] == folds
    assert bool(report["differences_from_the_protocol"]) == (protocol == "casme2-3")
    rows = 18 if protocol == "casme2-3" else 36
    assert f"{protocol}: {rows} of 36 rows are used" in capsys.readouterr().out.splitlines()[0]
    assert sum(item["clips"] for item in report["left_out_rows"]) == len(report["left_out"]) == 36 - rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "loso", "--baselines", "forest"], "Unknown baseline 'forest'"),
        (
            ["--protocol", "loso", "--baselines", "svm,micro_attention"],
            "micro_attention: Clip samm/sub01/EP00_negative/46 has no video, which this baseline requires.",
        ),
        (["--protocol", "loso", "--baselines", "mpt_style_flow"], "Give --backbone the folder of a vision model"),
        (
            ["--protocol", "loso", "--baselines", "rcn", "--baseline-setting", "rcn.width=3"],
            "rcn does not have these settings, width: ",
        ),
        (
            ["--protocol", "loso", "--baselines", "rcn", "--baseline-setting", "svm.c=3"],
            "svm.c=3 is not a setting of a baseline that runs. Write NAME.SETTING=VALUE, with a name of --baselines:",
        ),
        (
            ["--protocol", "loso", "--baselines", "mpt_style_flow", "--backbone", "nowhere"],
            "The backbone nowhere cannot be loaded",
        ),
        (
            ["--protocol", "loso", "--model", "nowhere.yaml"],
            "no recipe nowhere.yaml. Pass a YAML file, or an installed recipe: ",
        ),
        (["--protocol", "loso", "--model", "recipes/tiny.yaml"], "recipe of `deft train`; use it with --mode full"),
        (["--protocol", "loso", "--mode", "full", "--model", "recipes/recognition.yaml"], "names no language model"),
        (
            ["--protocol", "loso", "--model", "some/checkpoint"],
            "tests every subject, those it was trained on included",
        ),
        (["--protocol", "loso", "--baselines", "majority", "--labels", "negative"], "only one class in training"),
        (
            ["--protocol", "loso", "--model", "recipes/recognition.yaml", "--inner", "4"],
            "trains on 3 subjects; choose a number from 2 to 3",
        ),
        (["--protocol", "loso", "--baselines", "svm", "--inner", "3"], "--inner chooses settings of a recipe"),
        (["--protocol", "cde", "--baselines", "majority", "--labels", "negative"], "remove --labels"),
        (["--protocol", "loso", "--baselines", "majority", "--emotion-word", "a=b"], "does not read emotion words"),
        (["--protocol", "loso", "--baselines", "majority", "--target", "objective_class"], "No clip has a label"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(flow_only, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert main(["evaluate", "--dataset", str(flow_only), "--output-dir", str(tmp_path / "out"), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()  # before it the dataset's own progress
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "d"], "give --model, or --baselines"),
        (["--model", "m"], "--dataset is missing"),
        (["--questions", "q", "--model", "m"], "--questions needs --videos"),
    ],
)
def test_incomplete_command_lines(arguments, message, tmp_path, capsys):
    assert main(["evaluate", "--output-dir", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_trained_model_on_fixed_splits(dataset, folder, tmp_path):
    """Recognition from the heads, fine emotions joined to the coarse classes by the checkpoint's own table."""
    people = sorted(set(dataset["subject"]))
    (tmp_path / "data").mkdir()
    for split, kept in (("train", people[:3]), ("test", people[3:])):
        rows = dataset.filter(lambda subject, kept=kept: subject in kept, input_columns="subject")
        rows.to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    arguments = ["--dataset", str(tmp_path / "data"), "--mode", "recognition", "--model", str(folder)]
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path / "out"), "--resamples", "20"]) == 0
    report = figures_of(tmp_path / "out")
    figures = report["models"]["DEFT, trained before"]
    assert sum(map(sum, figures["confusion"])) == report["clips"] > 0
    assert 0 <= figures["action_units"]["au_f1"] <= 1


def test_zero_shot_tests_every_row_of_another_dataset(flow_only, tmp_path, capsys):
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    rows = [{**make_row("rendered", s, c, LABELS[c % 2], 1), "action_units": []} for s in (1, 2) for c in range(4)]
    Dataset.from_list(rows, features=schema).to_parquet(tmp_path / "rendered" / "train-0.parquet")
    arguments = ["evaluate", "--dataset", str(flow_only), "--baselines", "majority", "--resamples", "20"]
    arguments += ["--output-dir", str(tmp_path / "out"), "--protocol"]
    assert main([*arguments, "zero-shot", "--train-dataset", str(tmp_path / "rendered")]) == 0
    report = figures_of(tmp_path / "out")
    assert (report["clips"], report["training_clips"], report["trained_on"]) == (24, 8, "rendered")
    assert "Trained on 8 clips of rendered." in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for wrong, message in (
        (["zero-shot"], "give --train-dataset to train on"),
        (["fixed", "--train-dataset", str(tmp_path)], "remove --train-dataset"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_baselines_with_a_backbone_read_flow_or_pixels(flow_only, backbone, tmp_path):
    arguments = ["evaluate", "--protocol", "fixed", "--backbone", backbone, "--resamples", "20"]
    flow = ["--dataset", str(flow_only), "--baselines", "mpt_style_flow", "--output-dir", str(tmp_path / "flow")]
    flow += [
        "--baseline-setting",
        "mpt_style_flow.epochs=2",
        "--baseline-setting",
        "mpt_style_flow.learning_rate=0.01",
    ]
    assert main([*arguments, *flow]) == 0
    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    for split, rows in (("train", filmed_rows(12)[:9]), ("test", filmed_rows(12)[9:])):
        rows = [{name: row[name] for name in schema} | {"action_units": []} for row in rows]
        Dataset.from_list(rows, features=schema).to_parquet(tmp_path / "film" / f"{split}-0.parquet")
    pixels = ["--dataset", str(tmp_path / "film"), "--baselines", "mpt_style", "--output-dir", str(tmp_path / "seen")]
    pixels += ["--baseline-setting", "mpt_style.epochs=1"]
    assert main([*arguments, *pixels]) == 0
    assert figures_of(tmp_path / "flow")["models"]["mpt_style_flow"]["config"] == {
        "name": "mpt_style_flow",
        "epochs": 2,
        "learning_rate": 0.01,
        "backbone": "vit",
    }
    assert figures_of(tmp_path / "seen")["clips"] == 3


def split_by_people(dataset, folder):
    """The clips of two people as train and test, still ones among the latter: (rows of the test split)."""
    people = sorted(set(dataset["subject"]))
    folder.mkdir()
    for split, person in (("train", people[0]), ("test", people[2])):
        rows = dataset.filter(lambda subject, person=person: subject == person, input_columns="subject")
        rows.to_parquet(folder / f"{split}-0.parquet")
    return rows


def test_a_trained_model_is_scored_by_what_it_answers_and_the_card_is_filled(dataset, card_folder, tmp_path, capsys):
    """What `make demo` runs: no training, still clips asked about too."""
    test = split_by_people(dataset, tmp_path / "data")
    model = shutil.copytree(card_folder, tmp_path / "deft")
    arguments = ["--model", str(model), "--dataset", str(tmp_path / "data"), "--target", "emotion"]
    arguments += ["--baselines", "majority", "--max-new-tokens", "4", "--resamples", "20"]
    assert main(["evaluate", *arguments, "--output-dir", str(tmp_path / "out")]) == 0
    report = figures_of(tmp_path / "out")
    still = sum(emotion is None for emotion in test["emotion"])
    assert (report["clips"], report["subjects"], report["protocol"]) == (6 - still, 1, "fixed")
    assert still > 0
    assert list(report["models"]) == ["DEFT, trained before", "DEFT, trained before: recognition head", "majority"]
    figures = report["models"]["DEFT, trained before"]
    assert figures["answers"]["parsed"] == 0.0  # four tokens are no answer
    assert figures["no_answer"] == 6 - still
    assert (figures["abstention"]["still_clips"], figures["abstention"]["expressive_clips"]) == (still, 6 - still)
    assert 0 <= figures["abstention"]["still_clips_abstained"] <= 1
    assert "abstention" not in report["models"]["majority"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sum(line["model"] == "DEFT, trained before" for line in lines) == 6
    assert "Card filled" in capsys.readouterr().out
    card = (model / "README.md").read_text(encoding="utf-8")
    assert f"% of\n{still}. Clips with an expression" in card


def test_a_still_clip_of_a_person_in_training_is_refused(dataset, folder, tmp_path, capsys):
    split_by_people(dataset, tmp_path / "data")
    path = tmp_path / "data" / "test-0.parquet"
    rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    person = dataset["subject"][0]
    moved = rows.map(lambda row: {"subject": person if row["emotion"] is None else row["subject"]})
    moved.to_parquet(path)
    arguments = ["--model", str(folder), "--dataset", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 2
    assert person in capsys.readouterr().err


def test_questions_about_a_long_video_with_floors_and_a_zip(spotted_video, tmp_path, capsys):
    """Without a model. A training file that has the video is refused before it is read."""
    texts = [
        "How many expression events appear in this video?",
        "How many micro-expression events appear in this video?",
    ]
    lines = {
        "asked": [{"id": "1", "filename": spotted_video.name, "question": text, "answer": "1"} for text in texts],
        "known": [{"id": "2", "filename": "other.mp4", "question": text, "answer": "3"} for text in texts],
    }
    for name, entries in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries), encoding="utf-8")
    line = ["evaluate", "--questions", str(tmp_path / "asked.jsonl"), "--videos", str(spotted_video.parent)]
    line += ["--face-source", "canonical", "--output-dir", str(tmp_path / "out"), "--training-questions"]
    assert main([*line, str(tmp_path / "asked.jsonl")]) == 2
    assert "a floor must not know the answers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*line[:-1], "--text-model", "any"]) == 2
    assert "--text-model needs --training-questions" in capsys.readouterr().err
    language_model = str(write_gguf(tmp_path / "made_up.gguf", context=1024))
    assert main([*line, str(tmp_path / "known.jsonl"), "--text-model", language_model]) == 0
    figures = json.loads((tmp_path / "out" / "me_vqa.json").read_text(encoding="utf-8"))
    assert set(figures["floors"]) == {f"{start}{name}" for start in ("", "ahead_of_") for name in FLOORS}
    assert figures["mae_events"] == figures["mae_micro"] == 0.0
    assert figures["floors"]["prior"]["mae_events"] == figures["floors"]["majority"]["mae_events"] == 2.0
    assert figures["floors"]["ahead_of_prior"]["mae_events"][0] == 2.0
    with zipfile.ZipFile(tmp_path / "out" / "asked_pred.zip") as archive:
        (said,) = archive.namelist()
        assert archive.read(said) == (tmp_path / "out" / "asked_pred.jsonl").read_bytes()
    assert len(list((tmp_path / "out" / "timelines").glob("*.json"))) == 1
