import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from deft_llm.cli import main
from deft_llm.evaluation.protocols import make_task
from deft_llm.evaluation.report import make_report
from deft_llm.sharing.card import REPORT_FILE, RUN_FILE, TEMPLATE, CardError, fill_card, write_run
from tests.evaluation.made_up_rows import make_row


def model_figures(uf1, uar, accuracy, **more):
    values = {"uf1": uf1, "uar": uar, "accuracy": accuracy}
    return {**values, "intervals": {key: [value - 0.0215, value + 0.0118] for key, value in values.items()}, **more}


# Of a trained model on its test split, in the form of `evaluation.report.make_report`, as far as the card reads it.
FIXED_REPORT = {
    "dataset": "rendered",
    "protocol": "fixed",
    "target": "emotion",
    "clips": 23,
    "subjects": 7,
    "folds": 1,
    "models": {
        "DEFT, trained before": model_figures(
            0.7654,
            0.8765,
            0.9612,
            action_units={"au_f1": 0.777, "au_f1_macro": 0.888},
            answers={"parsed": 0.961},
            abstention={
                "still_clips": 8,
                "still_clips_abstained": 0.875,
                "expressive_clips": 29,
                "expressive_clips_abstained": 0.0625,
            },
        ),
        "DEFT, trained before: recognition head": model_figures(0.4321, 0.5432, 0.6543),
        "majority": model_figures(0.1234, 0.2345, 0.3456),
    },
}


@pytest.fixture
def carded(card_folder, tmp_path):
    shutil.copytree(card_folder, tmp_path / "deft")
    return tmp_path / "deft"


def read(folder):
    return ModelCard.load(folder / "README.md")


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_without_a_report_nothing_is_claimed(carded, model):
    card = read(carded)
    assert "nothing is claimed about how well it works" in card.text
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["library_name"]) == ("video-text-to-text", "transformers")
    assert (data["license"], data["datasets"]) == ("apache-2.0", ["org/rendered"])
    assert "model-index" not in data
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million" in card.text
    assert "Trained on rendered faces alone" in card.text
    assert "57 seconds of wall time" in card.text
    for said in ("Article 5(1)(f)", "AU4+7", "detect lies", "Energy was not metered", "arXiv 2511.10948"):
        assert said in card.text


def test_a_report_of_the_checkpoint_is_shown_with_its_intervals(carded, tmp_path):
    fill_card(carded, report=write(tmp_path / "report.json", FIXED_REPORT))
    card = read(carded)
    row = "| DEFT, trained before | 0.765 (0.744 to 0.777) | 0.876 (0.855 to 0.888) | 0.961 (0.940 to 0.973) |"
    assert row in card.text
    assert "| majority | 0.123 (" in card.text
    assert "Still clips it abstained from: 87.5 % of\n8. Clips with an expression" in card.text
    assert "Answers that can be parsed: 96.1 %" in card.text
    assert "Action units: F1 0.777, macro F1 over presence and absence\n0.888." in card.text
    assert "not this checkpoint's own" not in card.text
    (f1, *_) = card.data.eval_results
    assert (f1.metric_type, f1.metric_value, f1.metric_args["interval_95"]) == ("f1", 0.7654, [0.7439, 0.7772])
    assert json.loads((carded / REPORT_FILE).read_text()) == FIXED_REPORT
    # Filled again from the folder alone, it is the same.
    before = (carded / "README.md").read_bytes()
    fill_card(carded)
    assert (carded / "README.md").read_bytes() == before


def test_every_number_comes_from_a_report(carded, tmp_path):
    """Change every figure in the files: what the card still has in common with before are the template's own words."""
    fill_card(carded, report=write(tmp_path / "report.json", FIXED_REPORT))
    before = numbers(read(carded).text)
    write(carded / RUN_FILE, shifted(json.loads((carded / RUN_FILE).read_text(encoding="utf-8"))))
    fill_card(carded, report=write(tmp_path / "report.json", shifted(FIXED_REPORT)))
    after = numbers(read(carded).text)
    assert len(before) > 20
    assert before & after <= numbers(TEMPLATE.read_text(encoding="utf-8"))


def numbers(text):
    # Not the software's versions, nor the processor's name.
    text = re.sub(r"cores of .*|Software: .*", "", text)
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", text))


def shifted(value):
    """Every number another one."""
    if isinstance(value, dict):
        return {key: shifted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shifted(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return value * 1009 + 70001 if isinstance(value, int) else value / 1.37 + 0.0113


def test_a_protocols_report(carded, tmp_path):
    rows = [
        {**make_row("casme2", s, c, ("negative", "positive")[c % 2]), "action_units": []}
        for s in range(4)
        for c in range(6)
    ]
    task = make_task({"train": rows}, "loso", target="emotion_coarse")
    predictions = {
        fold.name: {clip: {"label": "negative", "scores": [0.9, 0.1]} for clip in fold.test} for fold in task.folds
    }
    from deft_llm.evaluation.fold_runs import RunResult

    report = make_report(
        rows, task, [RunResult("DEFT", predictions)], dataset="uni-mer", mode="recognition", seed=0, resamples=50
    )
    fill_card(carded, report=write(tmp_path / "report.json", report), dataset_id="lab/uni-mer")
    card = read(carded)
    assert "leave one subject out" in card.text
    assert "they are not this checkpoint's own" in card.text
    low, high = report["models"]["DEFT"]["intervals"]["accuracy"]
    assert f"{report['models']['DEFT']['accuracy']:.3f} ({low:.3f} to {high:.3f})" in card.text
    assert {result.dataset_type for result in card.data.eval_results} == {"lab/uni-mer"}
    front = yaml.safe_load((carded / "README.md").read_text().split("---\n")[1])
    assert front["model-index"][0]["results"][0]["task"]["type"] == "video-classification"


def test_licensed_sources_bring_their_terms(carded, model, dataset):
    rows = dataset.to_dict()
    rows["source"] = ["dfme"] * 10 + ["mylab"] * (len(dataset) - 10)
    write_run(
        carded,
        model,
        type(dataset).from_dict({key: rows[key] for key in ("source", "subject")}),
        dataset="org/x",
        steps=1,
    )
    fill_card(carded)
    card = read(carded)
    assert card.data.to_dict()["license"] == "other"
    assert "Trained on licensed recordings" in card.text
    assert "All intellectual property that arises from the use is assigned to USTC" in card.text
    assert "ask their owner" in card.text
    assert "Neither wall time nor energy was recorded" in card.text


@pytest.mark.parametrize(
    ("content", "message"), [({"a": 1}, "an unknown form"), ("{", "not a JSON file")], ids=["other", "broken"]
)
def test_a_bad_report_changes_nothing(carded, tmp_path, content, message):
    before = {path.name: path.read_bytes() for path in carded.iterdir()}
    path = tmp_path / "report.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CardError, match=message):
        fill_card(carded, report=path)
    assert {path.name: path.read_bytes() for path in carded.iterdir()} == before


def test_a_folder_that_training_has_not_written(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_the_command_line(carded, tmp_path, capsys):
    assert main(["card", str(carded), "--report", str(write(tmp_path / "r.json", FIXED_REPORT))]) == 0
    assert "Card written" in capsys.readouterr().out
    assert main(["card", str(carded), "--report", str(tmp_path / "nowhere.json")]) == 2
