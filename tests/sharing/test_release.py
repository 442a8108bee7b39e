"""The small model's folder: what is copied, the manifest, and the figures."""

import json
from pathlib import Path

import pytest

from deft_llm.sharing.release import figures_of, main, people_figures, write_box
from deft_llm.tiny_model import BOX
from deft_llm.training.parts import load_model

FIGURES = {"uf1": 0.5, "uf1_interval": [0.25, 0.75], "action_unit_f1": None, "action_unit_auc": 0.625}
FIGURES |= {"clips": 7, "subjects": 3}


@pytest.fixture
def report():
    units = {"au_f1": 0.75, "auc_of_sought": 0.875}
    model = {"uf1": 0.5, "intervals": {"uf1": [0.25, 0.75]}, "action_units": units}
    return {"models": {"DEFT": model, "majority": {**model, "uf1": 0.1}}, "clips": 7, "subjects": 3}


def test_the_figures_of_a_report_are_those_of_its_first_model(report):
    found = figures_of(report)
    assert (found["uf1"], found["action_unit_f1"], found["action_unit_auc"]) == (0.5, 0.75, 0.875)
    del report["models"]["DEFT"]["action_units"]
    assert figures_of(report)["action_unit_f1"] is None


def test_the_folder_has_no_code_and_a_manifest_and_a_card_with_the_figures(card_folder, tmp_path):
    write_box(card_folder, {"rendered": FIGURES}, tmp_path / "box")
    written = {path.name for path in (tmp_path / "box").iterdir()}
    assert {"model.safetensors", "config.json", "manifest.json", "README.md", "tokenizer.json"} <= written
    assert not [name for name in written if name.endswith(".py")]
    manifest = json.loads((tmp_path / "box" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["figures"] == {"rendered": FIGURES, "planted": None, "people": None}
    card = (tmp_path / "box" / "README.md").read_text(encoding="utf-8")
    assert "(7 clips of 3) | 0.500 (0.250 to 0.750) |  | 0.625 |" in card
    assert card.count("| not measured |") == 2
    assert f"# {card_folder.name}: " in card


def test_the_manifest_names_the_command_that_renders_the_data():
    manifest = json.loads((BOX / "manifest.json").read_text(encoding="utf-8"))
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert f"@$(BIN)/{manifest['data']['command']} --output-dir" in makefile


def test_a_folder_without_a_trained_model_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training_run\.json"):
        write_box(tmp_path, {}, tmp_path / "box")
    assert not (tmp_path / "box").exists()


def test_figures_on_people_are_those_of_the_heads(dataset):
    # CASME II has no anger.
    kept = [row for row in dataset if row["emotion"] not in (None, "anger")]
    rows = [{**row, "source": "casme2", "video": None} for row in kept]
    model, processor = load_model(str(BOX))
    found = people_figures(model.eval(), processor, {"train": rows})
    # They are rendered faces here, with the labels of the generator, so the model knows them.
    assert found["uf1"] > 0.9
    assert found["action_unit_auc"] > 0.95
    assert found["subjects"] == len({row["subject"] for row in rows})
    low, high = found["uf1_interval"]
    assert low <= found["uf1"] <= high


def test_the_command_writes_the_folder(card_folder, report, tmp_path, monkeypatch, capsys):
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    line = [str(card_folder), "--report", str(tmp_path / "report.json"), "--box", str(tmp_path / "box")]
    monkeypatch.setattr("sys.argv", ["release", *line])
    assert main() == 0
    assert (tmp_path / "box" / "config.json").is_file()
    assert "not measured" in capsys.readouterr().out
