import json
import shutil
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from deft_llm.hub_datasets.__main__ import BUILT_WITH_DROPS, DONE, NOTHING_BUILT, REFUSED, main
from deft_llm.hub_datasets.build import run as building
from deft_llm.hub_datasets.build.shards import build_shard
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.hub_datasets.unimer.splits import check_written, leave_one_subject_out
from deft_llm.processing import DeftVideoProcessor
from tests.hub_datasets.miniatures import own_csv


def test_every_source_is_built_and_the_exit_code_tells_of_drops(everything, manifest):
    done, roots, out = everything
    assert done.returncode == BUILT_WITH_DROPS, done.stderr[-3000:]
    assert set(manifest["sources"]) == set(roots)
    for name, source in manifest["sources"].items():
        assert source["clips"] > 0, name
        assert source["clips"] + source["dropped"] + sum(source["left_out"].values()) == source["rows_in_sheets"], name
    rows = Counter(name for path in (out / "data").iterdir() for name in pq.read_table(path)["source"].to_pylist())
    assert rows == {name: source["clips"] for name, source in manifest["sources"].items()}
    assert "Measuring clips" in done.stdout
    assert "Dropped rows" in done.stdout
    assert f"Written to {out}" in done.stdout


def test_drops_have_reasons_and_none_is_forgotten(manifest):
    reasons = {drop["source"]: drop["reason"] for drop in manifest["drops"]}
    assert all(drop["reason"] for drop in manifest["drops"])
    assert any("no folder sub17/EP05_02" in drop["reason"] for drop in manifest["drops"])
    assert "cas-me3a" in reasons
    dropped = Counter(drop["source"] for drop in manifest["drops"])
    assert dropped == {name: item["dropped"] for name, item in manifest["sources"].items() if item["dropped"]}


def test_the_written_splits_share_no_subject_and_folds_can_be_made(everything, manifest, tmp_path):
    out = everything[2]
    written = check_written(out / "data")
    assert set(written) == {"train", "test_a", "test_b"}
    assert {name: {"clips": clips, "subjects": people} for name, (clips, people) in written.items()} == (
        manifest["splits"]
    )
    splits = load_dataset(str(out), cache_dir=str(tmp_path))
    streamed = load_dataset(str(out), streaming=True)
    for name, split in splits.items():
        assert split.features == streamed[name].features == features(DeftVideoProcessor(num_frames=8))
    folds = leave_one_subject_out(splits["train"].select_columns(["clip_id", "subject"]))
    assert len(folds) == manifest["splits"]["train"]["subjects"]
    # One person filmed by three cameras is one subject.
    smic = {row["subject"] for row in splits["train"] if row["source"].startswith("smic")}
    assert smic == {"smic/s01", "smic/s03", "smic/s20"}


def test_originals_are_left_as_they_were(everything):
    _, roots, _ = everything
    for root in roots.values():
        assert not [path for path in root.rglob("*") if path.name.endswith((".tmp", ".parquet", "lock"))]


def run(root, out, *more):
    return main(["build", "--source", f"mylab={root}", "--out", str(out), *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "casme2=."], "--accept-licence casme2"),
        (["--source", "mylab=elsewhere"], "--source mylab is given twice"),
        (["--face-source", "cropped", "--face-source", "yunet"], "given twice for all sources"),
        (["--face-source", "haar"], "haar"),
        (["--sheet", "samm=x.csv"], "no --source"),
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


@pytest.mark.parametrize("arguments", [["build", "--source", "casme2"], ["build"], ["push"], ["inspect"], []])
def test_the_form_of_a_command_is_checked(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == REFUSED
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "annotations.csv").write_text("subject,path\n", encoding="utf-8"), "below the header"),
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


def test_nothing_built_ends_with_three(tmp_path, capsys):
    root = own_csv(tmp_path / "own")
    shutil.rmtree(root / "clips")
    assert run(root, tmp_path / "out", "--face-source", "cropped") == NOTHING_BUILT
    captured = capsys.readouterr()
    assert "neither a folder nor a video" in captured.err
    assert "Dropped rows: 2" in captured.out
    assert not list(tmp_path.glob("out*"))


def test_own_recordings_need_no_licence_and_a_clean_build_ends_with_zero(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        building, "run_processes",
        lambda work, shards, *_: [build_shard(work, number) for number in range(len(shards))],
    )  # fmt: skip
    root = own_csv(tmp_path / "own")
    (tmp_path / "model.task").touch()
    assert run(root, tmp_path / "out", "--face-source", "mylab=cropped") == DONE
    written = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert written["settings"]["face_source_of"] == {"mylab": "cropped"}
    assert "Uni-MER" in capsys.readouterr().out
    assert run(root, tmp_path / "out", "--face-source", "cropped") == REFUSED
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("deft_llm.hub_datasets.build.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run(tmp_path / "own", tmp_path / "out") == REFUSED
    assert "pip install 'deft-llm[data]'" in capsys.readouterr().err


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys; from deft_llm.hub_datasets.__main__ import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'datasets', 'transformers', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "exit status" in done.stdout
