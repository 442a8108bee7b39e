import json

import numpy as np
import pytest
import yaml
from PIL import Image

from deft_llm.evaluation.fold_runs import IncompleteError, RunResult
from deft_llm.evaluation.protocols import make_task
from deft_llm.evaluation.report import make_report, markdown, model_index, over_seeds, with_heads, write_report
from tests.evaluation.made_up_rows import make_row

LABELS = ("negative", "positive")


@pytest.fixture
def rows():
    units = {"negative": [{"code": "AU4", "side": "both"}], "positive": [{"code": "AU12", "side": "left"}]}
    sources = {1: "casme2", 2: "casme2", 3: "samm"}
    return [
        make_row(sources[s], s, c, LABELS[c % 2], action_units=units[LABELS[c % 2]]) for s in sources for c in range(4)
    ]


@pytest.fixture
def task(rows):
    return make_task({"train": rows}, "loso")


def result_of(task, name, wrong=(), **extra):
    predictions = {}
    for fold in task.folds:
        predictions[fold.name] = {}
        for clip in fold.test:
            label = task.label_of[clip] if clip not in wrong else LABELS[task.label_of[clip] == "negative"]
            scores = [0.8 if label == other else 0.2 / (len(task.labels) - 1) for other in task.labels]
            predictions[fold.name][clip] = {"label": label, "scores": scores, **extra}
    return RunResult(
        name, predictions, {fold.name: 1.0 for fold in task.folds}, {fold.name: 10 for fold in task.folds}
    )


def report_of(rows, task, *results, **options):
    settings = {"dataset": "made up", "mode": "recognition", "seed": 3, "resamples": 100} | options
    return make_report(rows, task, results, **settings)


def test_figures_of_two_models(rows, task):
    wrong = {"samm/sub03/EP00_negative/46", "samm/sub03/EP01_positive/46"}
    report = report_of(rows, task, result_of(task, "good"), result_of(task, "worse", wrong))
    good, worse = report["models"]["good"], report["models"]["worse"]
    assert (good["uf1"], good["intervals"]["uf1"]) == (1.0, [1.0, 1.0])
    assert worse["accuracy"] == pytest.approx(10 / 12)
    assert worse["intervals"]["accuracy"][0] < 10 / 12 <= worse["intervals"]["accuracy"][1]
    assert worse["per_source"]["casme2"]["uf1"] == 1.0
    assert worse["per_source"]["samm"] == {"clips": 4, "uf1": 0.5, "uar": 0.5, "accuracy": 0.5}
    assert worse["confusion"] == [[5, 1, 0], [1, 5, 0]]
    assert good["calibration"]["ece"] == pytest.approx(0.2)
    (comparison,) = report["comparisons"]
    assert comparison["uf1_difference"] == pytest.approx(1 / 6)
    assert comparison["mcnemar"] == {"model_only": 2, "other_only": 0, "p_value": pytest.approx(0.5)}
    assert report["classes"] == {"negative": 6, "positive": 6}
    assert len(report["split_sha256"]) == 64
    assert "cores" in report["hardware"]
    assert json.loads(json.dumps(report)) == report


def test_action_units_and_sides(rows, task):
    found = result_of(task, "m", action_units={"AU4": 0.9, "AU12": 0.1}, sides={"AU12": "left"})
    units = report_of(rows, task, found)["models"]["m"]["action_units"]
    # AU4: TP 6, FP 6; AU12: FN 6
    assert units["per_unit"]["AU4"] == {
        "clips": 6,
        "f1": pytest.approx(2 / 3),
        "f1_macro": pytest.approx(1 / 3),
        "auc": 0.5,
        "icc": None,
    }
    assert units["au_f1"] == pytest.approx(1 / 3)
    assert units["side_accuracy"] == {"accuracy": 0.5, "accuracy_where_found": 1.0, "labelled": 12, "found": 6}


def test_answers_and_the_head_beside_them(rows, task):
    text = (
        "Class: disgust\nEvidence: AU4 brow lowerer, both sides, inner brow moves down by 0.9 %\nRationale: It is so."
    )
    for row in rows:
        block = [{"type": "text", "text": text}]
        row["conversations"] = [{"task": "explain", "messages": [{"role": "assistant", "content": block}]}]
    written = result_of(task, "m", answer=text, parsed=True, head_label="negative")
    report = report_of(rows, task, *with_heads([written]))
    assert list(report["models"]) == ["m", "m: recognition head"]
    assert report["models"]["m: recognition head"]["accuracy"] == 0.5
    answers = report["models"]["m"]["answers"]
    assert (answers["parsed"], answers["faithfulness"]["claims"]) == (1.0, 12)
    assert answers["text"].get("rouge1", 1.0) == 1.0
    assert "answers" not in report["models"]["m: recognition head"]


def test_a_partial_result_is_no_report(rows, task):
    partial = result_of(task, "m")
    del partial.predictions["samm/sub03"]
    with pytest.raises(IncompleteError, match="m: 1 of 3 folds are missing: samm/sub03"):
        report_of(rows, task, result_of(task, "whole"), partial)
    with pytest.raises(ValueError, match="differently named"):
        report_of(rows, task, result_of(task, "m"), result_of(task, "m"))


def test_files(rows, task, tmp_path):
    results = [result_of(task, "DEFT"), result_of(task, "svm", {"samm/sub03/EP00_negative/46"})]
    report = report_of(rows, task, *results)
    write_report(report, results, tmp_path)
    names = (
        "confusion.png model-index.yaml predictions.jsonl reliability.png report.json report.md timings.json"
    ).split()
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert "seconds" not in (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "timings.json").read_text())["svm"]["fold_seconds"] == 3.0
    assert len((tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 24
    for name in ("confusion.png", "reliability.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert pixels.std() > 10
    first = {name: (tmp_path / name).read_bytes() for name in names}
    write_report(report, results, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first


def test_the_page_says_what_was_left_out_and_differs(rows):
    rows.append(make_row("mmew", 1, 1, "negative"))
    task = make_task({"train": rows}, "cde")
    page = markdown(report_of(rows, task, result_of(task, "DEFT")))
    assert "| DEFT | 1.000 (1.000 to 1.000) |" in page
    assert "(negative 6, positive 6, surprise 0); rows left out: 1; target: classes of MEGC 2019 composite" in page
    assert "| mmew | disgust | 1 | mmew is not part of megc2019 |" in page
    assert "published are 70/51/43 of 16 subjects" in page
    assert page.startswith("# made up: MEGC 2019 composite, leave one subject out\n")
    assert "Not measurable" not in page
    marked = [rows[0] | {"quality": ["not_measurable:blurred"]}, *rows[1:]]
    task = make_task({"train": marked}, "cde")
    report = report_of(marked, task, result_of(task, "DEFT"))
    assert report["not_trained"] == {rows[0]["clip_id"]: "blurred"}
    assert f"Not measurable, tested but not trained: {rows[0]['clip_id']}." in markdown(report)
    assert "| surprise | – | – | – | 0 | 0 |" in page


def test_the_block_of_the_model_card(rows, task):
    block = yaml.safe_load(model_index(report_of(rows, task, result_of(task, "DEFT")), "deft", dataset_id="org/set"))
    (entry,) = block["model-index"]
    assert entry["name"] == "deft"
    (result,) = entry["results"]
    assert result["dataset"]["type"] == "org/set"
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("f1", 1.0),
        ("recall", 1.0),
        ("accuracy", 1.0),
    ]
    assert result["metrics"][0]["args"]["interval_95"] == [1.0, 1.0]


def test_seeds_have_a_mean_and_a_range(rows, task):
    wrong = {"samm/sub03/EP00_negative/46", "samm/sub03/EP01_positive/46"}
    reports = {0: report_of(rows, task, result_of(task, "m")), 1: report_of(rows, task, result_of(task, "m", wrong))}
    seeds = over_seeds(reports)
    accuracy = seeds["models"]["m"]["accuracy"]
    assert accuracy == {"mean": pytest.approx(11 / 12), "lowest": pytest.approx(10 / 12), "highest": 1.0}
    page = markdown(reports[0] | {"seeds": seeds})
    assert "Mean over the seeds 0, 1;" in page
    assert "0.917 (0.833 to 1.000)" in page


def test_what_was_chosen_stands_in_the_report(rows, task):
    result = result_of(task, "m")
    result.chosen = {fold.name: {"kernel_share": 0.75, "inner_loss": 0.5} for fold in task.folds}
    report = report_of(rows, task, result)
    assert report["models"]["m"]["chosen"] == result.chosen
    assert f"| {task.folds[0].name} | 0.75 | 0.5 |" in markdown(report)


def test_rules_stand_beside_the_models(rows, task):
    page = markdown(report_of(rows, task, result_of(task, "m", action_units={"AU4": 0.9})))
    assert "| evidence by rule, nothing learned | 12 |" in page
