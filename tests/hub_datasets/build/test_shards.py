import dataclasses
import os
import shutil
from dataclasses import replace

import cv2
import pytest
from rich.console import Console
from threadpoolctl import threadpool_info, threadpool_limits

from deft_llm.hub_datasets.build import record_rows, shards
from deft_llm.hub_datasets.build.record_rows import record_row
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildInterruptedError
from tests.hub_datasets.build.own_recordings import CROPPED, digest, rows_of


def test_a_second_build_takes_its_clips_from_the_cache_and_measures_what_changed(
    own_root, own_built, tmp_path, inline, monkeypatch
):
    root, cache, made = tmp_path / "root", tmp_path / "cache", []
    shutil.copytree(own_root, root)
    row = shards.record_row
    monkeypatch.setattr(shards, "record_row", lambda record, *rest: made.append(record.clip_id) or row(record, *rest))

    def built(name, settings=CROPPED):
        made.clear()
        build({"mylab": root}, tmp_path / name, settings=settings, cache=cache, console=Console(quiet=True))
        return digest(tmp_path / name)

    first = built("first")
    assert {name: value for name, value in first.items() if name.startswith("data/")} == {
        name: value for name, value in digest(own_built[0]).items() if name.startswith("data/")
    }
    assert len(made) == 7
    assert built("second") == first
    assert made == []
    # Another frame of one clip, another setting, a damaged file: measured anew, and no more than these.
    frame = sorted((root / "p1").rglob("*.png"))[0]
    os.utime(frame, ns=(1, 1))
    assert built("third") == first
    assert len(made) == CROPPED.shard_size
    built("fourth", replace(CROPPED, crf=20))
    assert len(made) == 7
    for path in cache.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    assert built("fifth") == first
    assert len(made) == 7


def test_features_only_holds_no_pixel(own_root, own_built, tmp_path, inline):
    build({"mylab": own_root}, tmp_path / "out", settings=dataclasses.replace(CROPPED, features_only=True))
    rows, with_video = rows_of(tmp_path / "out"), rows_of(own_built[0])
    assert all(row["video"] is None for row in rows)
    for row, other in zip(rows, with_video, strict=True):
        assert {**row, "video": None} == {**other, "video": None}  # all else is the same
    signs = (b"ftyp", b"x264", b"moov", b"mdat", b"\xff\xd8\xff", b"\x89PNG")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        assert not [sign for sign in signs if sign in content], path
    # The search finds them where they are.
    stored = b"".join(path.read_bytes() for path in (own_built[0] / "data").iterdir())
    assert b"ftyp" in stored
    assert b"mdat" in stored


def test_answers_are_rewritten_where_the_facts_stay(own_root, own_built, tmp_path, inline, endpoint):
    address, requests, settings = endpoint
    said = "It is anger by the convention of mylab."
    # Every statement comes back as the same sentence, which is right for some of them only.
    settings["reply"] = said
    manifest = build(
        {"mylab": own_root}, tmp_path / "out", settings=replace(CROPPED, rewriter=address, rewriter_model="chat")
    )
    assert len(requests) == sum(manifest["rewriting"].values()) - manifest["rewriting"]["not_free"]
    assert manifest["settings"]["rewriter_model"] == "chat"
    rewritten = 0
    for before, after in zip(rows_of(own_built[0]), rows_of(tmp_path / "out"), strict=True):
        for old, new in zip(before["conversations"], after["conversations"], strict=True):
            texts = [item["messages"][-1]["content"][0]["text"] for item in (old, new)]
            changed = texts[0] != texts[1]
            rewritten += changed
            assert not changed or (texts[1] == said and old["task"] in ("emotion", "emotion_coarse"))
            assert old["messages"][:-1] == new["messages"][:-1]
        assert {**before, "conversations": 0} == {**after, "conversations": 0}
    assert rewritten == manifest["rewriting"]["rewritten"] > 0
    assert manifest["rewriting"]["refused"] > 0


def test_a_rewriter_that_is_not_there_breaks_off_and_keeps_nothing(own_root, tmp_path, inline, endpoint):
    address, _, settings = endpoint
    settings["status"] = 503
    rewriting = replace(CROPPED, rewriter=address, rewriter_model="chat")
    with pytest.raises(ConnectionError, match="build without rewriting"):
        build({"mylab": own_root}, tmp_path / "out", settings=rewriting, workers=1)
    assert not (tmp_path / "out").exists()


def test_a_damaged_frame_drops_its_clip_with_the_reason_and_no_other(own_root, tmp_path, inline):
    root = tmp_path / "root"
    shutil.copytree(own_root, root)
    (root / "p1/c1/006.png").write_bytes(b"no picture")
    before = digest(root)
    manifest = build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    (drop,) = manifest["drops"]
    assert (drop["stage"], drop["key"], drop["row"]) == ("frames", "mylab/p1/p1/c1/3", 2)
    assert drop["reason"].startswith("p1/c1/006.png: not an image")
    assert "mylab/p1/p1/c1/3" not in {row["clip_id"] for row in rows_of(tmp_path / "out")}
    assert manifest["rows"] == 6
    assert manifest["sources"]["mylab"]["dropped"] == 1
    assert digest(root) == before


def test_a_mistake_in_the_code_is_no_drop(own_root, tmp_path, monkeypatch, inline):
    monkeypatch.setattr(record_rows, "make_row", lambda **_: 1 / 0)
    with pytest.raises(BuildInterruptedError, match=r"Shard \d: ZeroDivisionError"):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert not (tmp_path / "out").exists()


def test_a_clip_is_measured_on_one_thread(own_root, tmp_path, inline, monkeypatch):
    """A library's second thread would wait for work, spinning, on the core that another worker needs."""
    seen = []

    def watched(*arguments):
        seen.extend((library["filepath"], library["num_threads"]) for library in threadpool_info())
        seen.append(("OpenCV", cv2.getNumThreads()))
        return record_row(*arguments)

    monkeypatch.setattr(shards, "record_row", watched)
    with threadpool_limits(2):
        assert any(library["num_threads"] == 2 for library in threadpool_info())
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert len(seen) >= 12
    assert [(name, count) for name, count in seen if count != 1] == []


def test_the_cache_is_not_used_after_the_code_has_changed(monkeypatch):
    before = shards._shard_key([], {})
    assert shards._shard_key([], {}) == before
    monkeypatch.setattr(shards, "_row_code", lambda: "other code")
    assert shards._shard_key([], {}) != before
