import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard

from deft_llm.hub_datasets.build import shards
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import NothingBuiltError
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.video_reading import VideoReadError
from tests.hub_datasets.build.own_recordings import CROPPED, Killed, digest


def test_the_folder_is_complete_and_the_schema_is_the_declared_one(own_built, tmp_path):
    out, manifest = own_built
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "data", "manifest.json"]
    assert [path.name for path in sorted((out / "data").iterdir())] == [
        f"train-{number:05d}-of-00004.parquet" for number in range(4)
    ]
    assert not out.with_name("own.building").exists()
    expected = features(DeftVideoProcessor(num_frames=8))
    loaded = load_dataset(str(out), split="train", cache_dir=str(tmp_path))
    streamed = load_dataset(str(out), split="train", streaming=True)
    assert loaded.features == expected
    assert streamed.features == expected
    assert [row["clip_id"] for row in streamed] == loaded["clip_id"]
    assert len(loaded) == manifest["rows"] == 7
    assert DatasetCard.load(out / "README.md").data.license == "other"


def test_nothing_built_leaves_nothing(own_root, tmp_path, monkeypatch, inline):
    def unreadable(*_):
        raise VideoReadError("damaged")

    monkeypatch.setattr(shards, "record_row", unreadable)
    with pytest.raises(NothingBuiltError, match=r"damaged \(7 ×\)") as caught:
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert len(caught.value.drops) == 7
    assert list(tmp_path.iterdir()) == []


def test_wherever_a_build_breaks_off_the_next_one_ends_it(
    own_root, own_built, tmp_path, monkeypatch, inline, measured_once
):
    """Dies before each single change to the file system, one build a change, and goes on."""
    changes = {"count": 0, "fatal": None}

    def mortal(function):
        def run(*arguments, **settings):
            changes["count"] += 1
            if changes["count"] == changes["fatal"]:
                raise Killed
            return function(*arguments, **settings)

        return run

    monkeypatch.setattr(Path, "rename", mortal(Path.rename))
    monkeypatch.setattr(os, "replace", mortal(os.replace))
    monkeypatch.setattr(Path, "write_bytes", mortal(Path.write_bytes))
    monkeypatch.setattr(Path, "rmdir", mortal(Path.rmdir))
    monkeypatch.setattr(os, "link", mortal(os.link))
    monkeypatch.setattr(shutil, "rmtree", mortal(shutil.rmtree))
    monkeypatch.setattr(Dataset, "to_parquet", mortal(Dataset.to_parquet))
    build({"mylab": own_root}, tmp_path / "undisturbed", settings=CROPPED)
    total, expected = changes["count"], digest(own_built[0])
    assert total > 30
    assert digest(tmp_path / "undisturbed") == expected
    for fatal in range(1, total + 1):
        out = tmp_path / f"{fatal}"
        changes.update(count=0, fatal=fatal)
        with pytest.raises(Killed):
            build({"mylab": own_root}, out, settings=CROPPED)
        changes["fatal"] = None
        if out.exists():
            assert digest(out) == expected  # whole from the moment it is there
        finished = {path.stem for path in out.with_name(f"{fatal}.building").glob("shards/*.json")}
        measured_once.clear()
        if out.with_name(f"{fatal}.building").exists() or not out.exists():
            build({"mylab": own_root}, out, settings=CROPPED)
        assert digest(out) == expected, fatal
        assert not out.with_name(f"{fatal}.building").exists()
        if finished:
            shards = [["c1/3", "c2/3"], ["c1/3", "c2/3"], ["c1/3", "c2/3"], ["c1/0"]]
            assert len(measured_once) == sum(len(part) for n, part in enumerate(shards) if f"{n:05d}" not in finished)
        shutil.rmtree(out)
