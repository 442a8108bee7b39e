"""`deft measure --out`, `deft spot` and `deft doctor` from the command line. Their errors are in test_cli.py."""

import csv
import io
import json

import pytest

from deft_llm import doctor
from deft_llm.cli import main
from deft_llm.exit_codes import BROKE_OFF, DONE, REFUSED


def test_measure_into_a_folder(brow_video, lost_video, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["measure", str(brow_video), str(lost_video), "--out", str(out), "--face-source", "canonical"]
    assert main([*words, "--workers", "1"]) == DONE
    assert capsys.readouterr().out == f"2 of 2 videos, 76 frames, are in {out}; clips.csv has one row per video.\n"
    assert main(words) == DONE
    assert main([*words, "--reference", "first"]) == REFUSED
    assert "was measured with reference=rest, and now it is first" in capsys.readouterr().err


def test_what_cannot_be_measured_is_said_and_the_rest_is_done(brow_video, tiny_video, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    out = tmp_path / "out"
    words = ["measure", str(broken), str(tiny_video), str(brow_video), "--out", str(out), "--format", "parquet"]
    assert main([*words, "--face-source", "canonical", "--workers", "1"]) == REFUSED
    told = capsys.readouterr()
    assert "error: " in told.err
    assert "broken.mp4: not a video" in told.err
    assert told.out.startswith(f"2 of 3 videos, 76 frames, are in {out}; 1 of them cannot be measured; ")
    assert (out / "brow.mp4.parquet").exists()
    assert (out / "tiny.mp4.parquet").exists()


@pytest.mark.parametrize("kind", ["csv", "json", "megc", "eaf"])
def test_spot_into_a_file(spotted_video, tmp_path, capsys, kind):
    out = tmp_path / f"intervals.{kind}"
    options = ["--format", "megc"] if kind == "megc" else []
    assert main(["spot", str(spotted_video), "--out", str(out), *options]) == DONE
    assert capsys.readouterr().out == f"Intervals written to {out}\n"
    assert "expression" in out.read_text() or kind == "megc"
    assert main(["spot", str(spotted_video), "--out", str(out), *options]) == REFUSED
    assert "exists already" in capsys.readouterr().err


def test_spot_several_videos(spotted_video, still_video, capsys):
    assert main(["spot", str(spotted_video), str(still_video), "--csv"]) == DONE
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["video"] for row in rows} == {str(spotted_video)}
    assert rows[0]["kind"] == "expression"
    assert main(["spot", str(spotted_video), str(still_video), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert [item["video"] for item in found] == [str(spotted_video), str(still_video)]
    assert main(["spot", str(spotted_video), str(still_video)]) == DONE
    assert capsys.readouterr().out.startswith(f"{spotted_video}\nexpression")


def test_spot_scores_and_draws(spotted_video, tmp_path, capsys):
    eaf, picture = tmp_path / "own.eaf", tmp_path / "timeline.png"
    assert main(["spot", str(spotted_video), "--out", str(eaf)]) == DONE
    capsys.readouterr()
    assert main(["spot", str(spotted_video), "--against", str(eaf), "--picture", str(picture)]) == DONE
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].startswith("F1 1.00 at IoU 0.5: 1 of 1 annotated expressions are found (TP 1")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["spot", str(spotted_video), "--against", str(eaf), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["score"] == {"f1": 1.0, "true_positives": 1, "false_positives": 0, "false_negatives": 0}


def test_doctor_prints_and_its_exit_code_says_whether_the_core_works(monkeypatch, capsys):
    fine = {"name": "version of av", "core": True, "ok": True, "detail": "18", "fix": None, "seconds": 0.1}
    absent = {**fine, "name": "extra x", "core": False, "ok": False, "fix": "pip install 'deft-llm[x]'"}
    monkeypatch.setattr(doctor, "examine", lambda: [fine, absent])
    assert main(["doctor"]) == DONE
    told = capsys.readouterr().out
    assert "pip install 'deft-llm[x]'" in told
    assert "The core works." in told
    monkeypatch.setattr(doctor, "examine", lambda: [{**fine, "ok": False}, absent])
    assert main(["doctor", "--json"]) == BROKE_OFF
    assert json.loads(capsys.readouterr().out)["works"] is False
