import dataclasses
import json
import shutil

import pytest
from datasets import load_dataset

from deft_llm.hub_datasets.build import plan
from deft_llm.hub_datasets.build import run as building
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildError
from deft_llm.hub_datasets.sources.readers import SubjectClashError
from deft_llm.hub_datasets.sources.tables import SheetError
from deft_llm.hub_datasets.unimer.splits import check_written
from tests.hub_datasets import miniatures
from tests.hub_datasets.build.own_recordings import CROPPED, Killed


def test_fixed_sets_and_held_out_subjects_share_nobody(own_root, tmp_path, inline, measured_once):
    for split, expected in (
        ("fixed", {"train": (5, 2), "test": (2, 1)}),
        ("holdout", {"train": (5, 2), "test": (2, 1)}),
    ):
        settings = dataclasses.replace(CROPPED, split=split, test_share=0.34, features_only=True)
        build({"mylab": own_root}, tmp_path / split, settings=settings)
        written = check_written(tmp_path / split / "data")
        assert sum(clips for clips, _ in written.values()) == 7
        assert {name: people for name, (_, people) in written.items()} == {
            name: people for name, (_, people) in expected.items()
        }
        loaded = load_dataset(str(tmp_path / split), cache_dir=str(tmp_path / "cache" / split))
        assert {name: len(part) for name, part in loaded.items()} == {
            name: clips for name, (clips, _) in written.items()
        }
    assert written["test"][0] in (2, 3)


def test_a_subject_in_two_sources(own_root, tmp_path):
    miniatures.casme2(tmp_path / "casme2")
    shutil.copytree(own_root, tmp_path / "mine")
    sheet = tmp_path / "mine/annotations.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace("p1,", "casme2/sub01,"), encoding="utf-8")
    with pytest.raises(SubjectClashError, match="casme2/sub01"):
        build({"casme2": tmp_path / "casme2", "mine": tmp_path / "mine"}, tmp_path / "out", accepted=["casme2"])
    assert not list(tmp_path.glob("out*"))


def test_a_face_finder_that_cannot_work_is_one_error_and_no_drop_a_clip(own_root, tmp_path, inline):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    settings = dataclasses.replace(CROPPED, face_source=f"yunet:{tmp_path / 'model.onnx'}")
    with pytest.raises(ValueError, match="not a YuNet model"):
        build({"mylab": own_root}, tmp_path / "out", settings=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def break_off_build(root, out, monkeypatch):
    def interrupt(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(building, "run_processes", interrupt)
        with pytest.raises(Killed):
            build({"mylab": root}, out, settings=CROPPED)


def test_an_interrupted_build_goes_on_with_the_same_arguments_only(own_root, tmp_path, monkeypatch, inline):
    break_off_build(own_root, tmp_path / "out", monkeypatch)
    with pytest.raises(BuildError, match="differs in: seed") as caught:
        build({"mylab": own_root}, tmp_path / "out", settings=dataclasses.replace(CROPPED, seed=1))
    assert "remove that folder" in str(caught.value)
    copy = tmp_path / "root"
    shutil.copytree(own_root, copy)
    with pytest.raises(BuildError, match="sources, clips"):
        build({"mylab": copy}, tmp_path / "out", settings=CROPPED)
    monkeypatch.setattr(plan, "_package_version", lambda: "0.0.0")
    with pytest.raises(BuildError, match="differs in: versions"):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)


def test_the_encoding_of_a_sheet_and_links_reach_the_reader_and_the_output_stays_out_of_their_targets(
    own_root, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    root.mkdir()
    text = (own_root / "annotations.csv").read_text(encoding="utf-8").replace("p3,", "Andrés,")
    (root / "annotations.csv").write_bytes(text.encode("mac-roman"))
    for folder in ("p1", "p2", "p3"):
        (root / folder).symlink_to(own_root / folder)
    stated = {"encodings": {"mylab": "mac-roman"}, "follow_links": True, "settings": CROPPED}

    def interrupt(*_):
        raise Killed

    monkeypatch.setattr(building, "run_processes", interrupt)
    with pytest.raises(SheetError, match="'Andrés' in mac-roman"):
        build({"mylab": root}, tmp_path / "none", settings=CROPPED)
    with pytest.raises(BuildError, match="--sheet-encoding names lab, which is not a --source"):
        build({"mylab": root}, tmp_path / "none", encodings={"lab": "mac-roman"})
    with pytest.raises(Killed):
        build({"mylab": root}, tmp_path / "out", **stated)
    job = json.loads((tmp_path / "out.building/job.json").read_text(encoding="utf-8"))
    assert job["reports"]["mylab"]["links"] == ["p1", "p2", "p3"]
    assert job["reports"]["mylab"]["subjects"] == 3
    assert "mylab/Andrés" in (tmp_path / "out.building/plan/00002.jsonl").read_text(encoding="utf-8").encode().decode(
        "unicode-escape"
    )
    with pytest.raises(ValueError, match="contain each other"):
        build({"mylab": root}, own_root / "p1" / "out", **stated)
    assert not (own_root / "p1" / "out").exists()
    with pytest.raises(BuildError, match="differs in: sheet encodings, clips"):
        build({"mylab": root}, tmp_path / "out", **{**stated, "encodings": {"mylab": "cp1252"}})


def test_a_changed_sheet_is_another_build(own_root, tmp_path, monkeypatch, inline):
    root = tmp_path / "root"
    shutil.copytree(own_root, root)

    break_off_build(root, tmp_path / "out", monkeypatch)
    sheet = root / "annotations.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace("anger", "fear", 1), encoding="utf-8")
    with pytest.raises(BuildError, match="sheet digests"):
        build({"mylab": root}, tmp_path / "out", settings=CROPPED)
