"""The options of `deft explain`: its formats, its files, and what cannot be combined."""

import csv
import json
import shutil

import av
import pytest
from PIL import Image

from deft_llm.cli import main
from deft_llm.exit_codes import BROKE_OFF, DONE, REFUSED
from deft_llm.explained_rows import COLUMNS


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explain(*words, model):
    return main(["explain", *map(str, words), "--model", str(model), "--max-new-tokens", "2"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--json --format csv", "--json cannot be combined with --format, --out or --spot. Use --format jsonl."),
        ("--json --spot", "--json cannot be combined with"),
        ("--chat --spot", "--chat cannot be combined with --spot,"),
        ("--format xml", "'xml' is not one of 'text', 'jsonl', 'csv'"),
        ("b.mp4 --picture p.png", "--picture is for one video, got 2."),
        ("b.mp4 --overlay o.mp4", "--overlay is for one video, got 2."),
        ("--picture p.jpg", "--picture p.jpg: the name must end with .png."),
        ("--overlay o.avi", "--overlay o.avi: the name must end with .mp4."),
        ("--overlay there.mp4", "there.mp4 exists already and is not overwritten."),
        ("--out there.mp4", "there.mp4 exists already and is not overwritten."),
        ("--out nowhere/a.csv", "nowhere/a.csv: the folder nowhere does not exist."),
        ("--out a.png --picture ./a.png", "must be different files."),
        ("--slow 0.5", "Invalid value for '--slow'"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(words, message, place, capsys):
    (place / "there.mp4").write_bytes(b"mine")
    assert main(["explain", "a.mp4", *words.split(), "--model", "nowhere"]) == REFUSED
    assert message in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["there.mp4"]
    assert (place / "there.mp4").read_bytes() == b"mine"


def test_a_table_a_picture_and_a_film_of_a_clip(brow_video, folder, place, capsys):
    files = ["--format", "csv", "--out", "a.csv", "--picture", "a.png", "--overlay", "a.mp4"]
    assert explain(brow_video, *files, model=folder) == DONE
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in place.iterdir()) == ["a.csv", "a.mp4", "a.png"]
    with open("a.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(COLUMNS)
    assert {row["clip"] for row in table} == {str(brow_video)}
    with Image.open("a.png") as picture:
        assert picture.format == "PNG"
    with av.open("a.mp4") as film:
        assert sum(1 for _ in film.decode(video=0)) == 38 + 1
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert explain(brow_video, *files, model=folder) == REFUSED  # the same again
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_json_lines_of_clips_one_of_which_cannot_be_measured(brow_video, tiny_video, folder, place, capsys):
    assert explain(brow_video, tiny_video, "--format", "jsonl", model=folder) == DONE
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["clip"], second["clip"]) == (str(brow_video), str(tiny_video))
    assert first["onset"] < first["apex"] <= first["offset"]
    assert second["report"]["reason"].startswith("the face is too small")


def test_a_film_of_a_clip_that_cannot_be_measured(tiny_video, folder, place, capsys):
    files = ["--picture", "tiny.png", "--overlay", "tiny.mp4"]
    assert explain(tiny_video, *files, model=folder) == DONE
    assert capsys.readouterr().out.startswith("Class      not measurable\nReason     the face is too small")
    assert sorted(path.name for path in place.iterdir()) == ["tiny.mp4", "tiny.png"]


def test_the_expressions_of_a_video(spotted_video, folder, place, capsys):
    files = ["--overlay", "long.mp4", "--picture", "long.png", "--out", "long.txt"]
    assert explain(spotted_video, "--spot", *files, model=folder) == DONE
    told = (place / "long.txt").read_text(encoding="utf-8")
    assert told.startswith("0.3")
    assert "Class " in told.splitlines()[1]
    with av.open("long.mp4") as film:
        assert film.duration / 1e6 > 160 / 200 + 2  # the key frames are held for two seconds


def test_after_an_error_no_file_is_left(brow_video, folder, place, capsys, monkeypatch):
    shutil.copy(brow_video, place / "a.mp4")
    (place / "b.mp4").write_bytes(b"no video")
    assert explain("a.mp4", "b.mp4", "--format", "csv", "--out", "all.csv", model=folder) == REFUSED
    assert "b.mp4" in capsys.readouterr().err

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deft_llm.overlay.write_film", full)
    files = ["--picture", "a.png", "--overlay", "o.mp4", "--out", "a.txt"]
    assert explain("a.mp4", *files, model=folder) == BROKE_OFF
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["a.mp4", "b.mp4"]
