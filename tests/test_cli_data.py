import json
import shutil

import pytest

from deft_llm.cli import main
from deft_llm.cli_data import face_sources, pairs, plain, suggestion, visibility_of
from deft_llm.exit_codes import DONE, NOTHING_BUILT, REFUSED
from tests.hub_datasets.miniatures import own_csv


def run(root, out, *more):
    return main(["data", "build", "--source", f"mylab={root}", "--output-dir", str(out), *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "casme2=."], "--accept-licence casme2"),
        (["--source", "mylab=elsewhere"], "--source mylab is given twice"),
        (["--face-source", "cropped", "--face-source", "yunet"], "given twice for all sources"),
        (["--face-source", "haar"], "haar"),
        (["--sheet", "samm=x.csv"], "not a --source"),
        (["--sheet-encoding", "samm=big5"], "not a --source"),
        (["--sheet-encoding", "mylab=latin-99"], "'latin-99' is not an encoding"),
        (["--emotion-word", "delight=bliss"], "delight"),
        (["--executor", "slurm"], "--executor-option time"),
        (["--executor", "local", "--executor-option", "nodes=3"], "has no such argument"),
    ],
)
def test_bad_requests_end_with_two_and_one_message(tmp_path, capsys, more, message):
    root = own_csv(tmp_path / "own")
    if more[0] == "--emotion-word":
        sheet = root / "annotations.csv"
        sheet.write_text(sheet.read_text(encoding="utf-8").replace("disgust", "delight"), encoding="utf-8")
    assert run(root, tmp_path / "out", *more) == REFUSED
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--source", "casme2", "--output-dir", "o"], "--source: 'casme2' does not have the form NAME=VALUE"),
        (
            ["build", "--source", "CASME2=", "--output-dir", "o"],
            "a shell variable there may be empty. Did you mean 'casme2'",
        ),
        (["build"], "Missing option '--source'"),
        (["push", "folder"], "Missing argument 'REPO'"),
        (["inspect"], "Missing argument 'FOLDER'"),
        (["build", "--executor", "kubernetes"], "'kubernetes' is not one of 'local', 'slurm', 'ray'"),
        ([], "Missing command"),
    ],
)
def test_the_form_of_a_command_is_checked(arguments, message, capsys):
    assert main(["data", *arguments]) == REFUSED
    error = capsys.readouterr().err
    assert message in error
    assert "--help`" in error


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "annotations.csv").write_text("subject,path\n", encoding="utf-8"),
            "no clip below the header",
        ),
        (lambda root: (root / "annotations.csv").write_text("person,where\n1,a\n", encoding="utf-8"), "subject"),
        (lambda root: (root / "annotations.csv").unlink(), "Unknown source 'mylab'"),
        (lambda root: shutil.rmtree(root), "no such folder"),
    ],
)
def test_bad_sheets_end_with_two(tmp_path, capsys, spoil, message):
    root = own_csv(tmp_path / "own")
    spoil(root)
    assert run(root, tmp_path / "out") == REFUSED
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_nothing_built_ends_with_three(tmp_path, capsys, inline):
    root = own_csv(tmp_path / "own")
    shutil.rmtree(root / "clips")
    assert run(root, tmp_path / "out", "--face-source", "cropped") == NOTHING_BUILT
    captured = capsys.readouterr()
    assert "neither a folder nor a video" in captured.err
    assert "Dropped rows: 2" in captured.out
    assert not list(tmp_path.glob("out*"))


def test_own_recordings_need_no_licence_and_a_clean_build_ends_with_zero(tmp_path, capsys, inline):
    root = own_csv(tmp_path / "own")
    (tmp_path / "model.task").touch()
    assert run(root, tmp_path / "out", "--face-source", "mylab=cropped") == DONE
    written = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert written["settings"]["face_source_of"] == {"mylab": "cropped"}
    assert "Uni-MER" in capsys.readouterr().out
    assert run(root, tmp_path / "out", "--face-source", "cropped") == REFUSED
    assert "exists and is not empty" in capsys.readouterr().err


def test_an_empty_path_of_a_source_is_answered_with_what_to_write():
    assert suggestion("casme2") == " Write casme2=DIR."
    assert suggestion("Smic_HS") == " Did you mean 'smic-hs'?"
    assert suggestion("my-laboratory") == ""


def test_what_finds_the_face_for_all_sources_and_for_one():
    assert face_sources([]) == ("yunet", {})
    assert face_sources(["cropped", "samm=yunet", "mediapipe:a=b"][:2]) == ("cropped", {"samm": "yunet"})
    assert face_sources(["mediapipe:a=b"]) == ("mediapipe:a=b", {})


def test_values_of_options():
    assert pairs("--sheet", ["samm=a.csv", "samm=a.csv", "mmew=b=c"]) == {"samm": "a.csv", "mmew": "b=c"}
    assert [plain(text) for text in ("true", "false", "-3", "04:00:00")] == [True, False, -3, "04:00:00"]
    assert [visibility_of(*flags) for flags in ((False, False), (True, False), (False, True))] == [
        "public",
        "private",
        "gated",
    ]
