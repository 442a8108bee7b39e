import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from rich.console import Console
from threadpoolctl import threadpool_info, threadpool_limits

from deft_llm.hub_datasets.build import executors, plan, record_rows, shards, work_folder
from deft_llm.hub_datasets.build import run as building
from deft_llm.hub_datasets.build.manifest import LicenceError
from deft_llm.hub_datasets.build.record_rows import record_row, unit_labels
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.build.settings import BuildError, BuildInterruptedError, BuildSettings, NothingBuiltError
from deft_llm.hub_datasets.build.shards import build_shard
from deft_llm.hub_datasets.sources.action_unit_grammar import parse_action_units
from deft_llm.hub_datasets.sources.readers import SubjectClashError, read_source
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.hub_datasets.unimer.constraints import SUPPORTED
from deft_llm.hub_datasets.unimer.instructions import AmbiguousWordError
from deft_llm.hub_datasets.unimer.rows import features, row_tensors
from deft_llm.hub_datasets.unimer.splits import check_written
from deft_llm.processing import DeftVideoProcessor, open_clip
from deft_llm.processing.key_frames import KeyFrameError
from deft_llm.processing.video_reading import VideoReadError
from deft_llm.processing.whole_clip_flow import LEAD_IN
from tests.hub_datasets import miniatures

CROPPED = BuildSettings(face_source="cropped", shard_size=2)


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(folder):
    return [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def inline(monkeypatch):
    """Shards in this process, one after the other."""

    def run(work, shards, workers, console):
        for number in range(len(shards)):
            build_shard(work, number)

    monkeypatch.setattr(building, "run_processes", run)


@pytest.fixture(scope="module")
def own_root(tmp_path_factory):
    """Six clips of three people, and one that is not coded."""
    root = tmp_path_factory.mktemp("own") / "root"
    root.mkdir()
    header = ["subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion", "partition"]
    lines = [header]
    for person in (1, 2, 3):
        face = render_face(np.random.default_rng(person), size=128)
        for number in (1, 2):
            path = f"p{person}/c{number}"
            lines.append([f"p{person}", path, 3, 8, 13, 100, "4", "anger", "test" if person == 3 else ""])
            shown = Expression((UnitRequest("AU4", "both", 0.025),), onset=2, apex=7, offset=12)
            clip = render_clip(face, [shown], np.random.default_rng([person, number]), count=14)
            (root / path).mkdir(parents=True)
            for index, frame in enumerate(clip.frames, 1):
                assert cv2.imwrite(str(root / path / f"{index:03d}.png"), frame[..., ::-1])
    lines.append(["p2", "p2/c1", "", "", "", 100, "", "", ""])
    miniatures.write_csv(root / "annotations.csv", lines)
    return root


@pytest.fixture(scope="module")
def own_built(own_root, tmp_path_factory):
    """The same with two workers."""
    out = tmp_path_factory.mktemp("built") / "own"
    manifest = build({"mylab": own_root}, out, settings=CROPPED, workers=2)
    return out, manifest


# --- One clip -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processor():
    return DeftVideoProcessor(num_frames=8)


@pytest.fixture(scope="module")
def recorded(own_root):
    records, _ = read_source("mylab", own_root, margin=LEAD_IN)
    return records


def test_a_row_measures_the_frames_and_stores_the_clip_from_the_lead_in_to_the_offset(recorded, processor):
    record = recorded[0]
    row, signature = record_row(record, CROPPED, processor, None)
    assert (row["onset"], row["apex"], row["offset"]) == (2, 7, 12)  # frames 1 and 2 lead in
    stored = open_clip(row["video"])
    original = open_clip([str(path) for path in record.frames[:13]])
    assert len(stored) == len(original) == 13
    difference = stored.frames(range(13)).astype(int) - original.frames(range(13)).astype(int)
    assert np.abs(difference).mean() < 1.5  # of 255
    direct = processor(open_clip([str(p) for p in record.frames]), key_frames=(2, 7, 12))["flow_values_videos"][0]
    np.testing.assert_array_equal(np.float32(row["flow"]), direct.astype(np.float16).astype(np.float32))
    (unit,) = row["action_units"]
    assert (unit["code"], unit["side"], unit["raw"], unit["certain"]) == ("AU4", "both", "4", True)
    assert unit["verdict"] == SUPPORTED
    assert row["provenance"]["row"] == record.row
    assert row["provenance"]["sheet_sha256"] == record.sheet_sha256
    assert signature.shape == (510,)


def test_what_is_stored_is_what_a_model_will_read(recorded, processor):
    row, _ = record_row(recorded[0], CROPPED, processor, None)
    tensors = row_tensors(row, processor)
    again = processor(row["video"], key_frames=(2, 7, 12))["flow_values_videos"][0]
    moving = np.abs(tensors["flow_values_videos"]) > 0.5
    assert np.abs(again - tensors["flow_values_videos"])[moving].mean() < 0.2


def test_a_missing_apex_is_the_frame_that_moved_most(recorded, processor):
    record = dataclasses.replace(recorded[0], apex=None, quality=("apex_missing",))
    row, _ = record_row(record, CROPPED, processor, None)
    assert row["onset"] == 2
    assert row["offset"] == 12
    assert abs(row["apex"] - 7) <= 1
    assert row["quality"] == ["apex_missing", "apex_spotted"]


def test_an_early_apex_is_not_taken_for_the_middle(face, processor, tmp_path):
    shown = Expression((UnitRequest("AU4", "both", 0.025),), onset=2, apex=7, offset=38)
    clip = render_clip(face, [shown], np.random.default_rng(0), count=42)
    (tmp_path / "a.mp4").write_bytes(encode_mp4(clip))
    miniatures.write_csv(
        tmp_path / "annotations.csv",
        [["subject", "path", "onset", "offset", "AU"], ["p", "a.mp4", 2, 38, "4"]],
    )
    (record,), _ = read_source("mylab", tmp_path)
    row, _ = record_row(record, CROPPED, processor, None)
    assert abs(row["apex"] - 7) <= 3
    assert row["fps"] == pytest.approx(clip.fps)  # the video's own
    assert row["offset"] == 38


def test_a_clip_without_key_frames_is_searched(recorded, processor):
    record = next(record for record in recorded if record.onset is None)
    row, _ = record_row(record, CROPPED, processor, None)
    assert "key_frames_spotted" in row["quality"]
    assert row["onset"] < row["apex"] <= row["offset"]
    assert abs(row["apex"] - 7) <= 2
    assert row["action_units"] == []


def test_a_found_face_is_stored_as_its_aligned_crop(recorded, processor):
    def smaller(frame):
        height, width = frame.shape[:2]
        return np.array([[2 / width, 0, -0.5], [0, 2 / height, -0.5]])  # the middle half

    row, _ = record_row(recorded[0], CROPPED, processor, smaller)
    assert open_clip(row["video"]).metadata.width == 64  # the least that is stored
    whole, _ = record_row(recorded[0], CROPPED, processor, None)
    assert np.abs(np.float32(row["flow"]) - np.float32(whole["flow"])).max() > 0.1


def test_a_row_is_the_same_in_whichever_order_it_is_made(recorded, processor):
    first, _ = record_row(recorded[1], CROPPED, processor, None)
    record_row(recorded[0], CROPPED, processor, None)
    second, _ = record_row(recorded[1], CROPPED, processor, None)
    np.testing.assert_equal(first, second)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("R10", [("AU10", "right", None, True, ())]),
        ("L12A", [("AU12", "left", "A", True, ())]),
        ("T18+B28", [("AU18", "both", None, True, ()), ("AU28", "both", None, True, ())]),
        ("13?", [("AU13", "both", None, False, ())]),
        ("L12 or L14", [("AU12", "left", None, False, ("AU14",))]),
        ("AD38", [("AU38", "both", None, True, ())]),
    ],
)
def test_cells_become_labels(cell, expected):
    labels = unit_labels(parse_action_units(cell))
    found = [(label.code, label.side, label.intensity, label.certain, label.alternatives) for label in labels]
    assert found == expected
    assert [label.raw for label in labels] == (cell.split("+") if "+" in cell else [cell])


def test_an_uncertain_label_is_judged_and_nothing_is_said_of_it(recorded, processor):
    record = dataclasses.replace(recorded[0], action_units=parse_action_units("4?"))
    row, _ = record_row(record, CROPPED, processor, None)
    assert [(unit["verdict"], unit["certain"]) for unit in row["action_units"]] == [(SUPPORTED, False)]
    tasks = {item["task"] for item in row["conversations"]}
    assert tasks.isdisjoint({"action_units", "explain", "emotion", "me_vqa_action_units", "me_vqa_fine"})
    texts = " ".join(str(item["messages"][-1]) for item in row["conversations"])
    assert "AU4" not in texts
    assert "brow lowerer" not in texts


def test_a_word_that_cannot_be_read_back_drops_its_clip_only(recorded, processor):
    record = dataclasses.replace(recorded[0], emotion="insufficient motion")
    with pytest.raises(AmbiguousWordError, match="insufficient motion"):
        record_row(record, CROPPED, processor, None)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"offset": 40}, KeyFrameError),
        ({"apex": None, "offset": 40}, KeyFrameError),
        ({"folder": None, "files": (), "video": Path("no.mp4")}, FileNotFoundError),
    ],
)
def test_frames_that_are_not_there_are_named(recorded, processor, change, error):
    with pytest.raises(error):
        record_row(dataclasses.replace(recorded[0], **change), CROPPED, processor, None)


# --- The whole ------------------------------------------------------------------------------------------------------


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


def test_workers_and_order_change_no_byte(own_root, own_built, tmp_path, inline):
    build({"mylab": own_root}, tmp_path / "again", settings=CROPPED)
    assert digest(tmp_path / "again") == digest(own_built[0])


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


def test_the_manifest_accounts_for_everything_and_names_no_folder(own_root, own_built):
    out, manifest = own_built
    assert manifest == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    source = manifest["sources"]["mylab"]
    sheet = (own_root / "annotations.csv").read_bytes()
    assert source["sheets"] == [{"name": "annotations.csv", "sha256": hashlib.sha256(sheet).hexdigest(), "rows": 7}]
    assert source["rows_in_sheets"] == source["clips"] + source["dropped"]
    assert source["labels"]["anger"] == {"emotions": ["anger"], "coarse": "negative", "clips": 6}
    assert manifest["verdicts"]["AU4"][SUPPORTED] >= 4
    for path in out.rglob("*"):
        if path.is_file():
            assert str(own_root).encode() not in path.read_bytes()


def test_fixed_sets_and_held_out_subjects_share_nobody(own_root, tmp_path, inline):
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


def test_a_rewriter_that_is_not_there_breaks_off_and_keeps_nothing(own_root, tmp_path, endpoint):
    address, _, settings = endpoint
    settings["status"] = 503
    rewriting = replace(CROPPED, rewriter=address, rewriter_model="chat")
    with pytest.raises(ConnectionError, match="build without rewriting"):
        build({"mylab": own_root}, tmp_path / "out", settings=rewriting, workers=1)
    assert not (tmp_path / "out").exists()


def test_two_people_with_one_recording_are_reported(own_root, tmp_path, inline):
    root = tmp_path / "copy"
    shutil.copytree(own_root / "p1" / "c1", root / "b")
    shutil.copytree(own_root / "p1" / "c1", root / "a")
    miniatures.write_csv(
        root / "annotations.csv",
        [["subject", "path", "onset", "apex", "offset"], ["a", "a", 3, 8, 13], ["b", "b", 3, 8, 13]],
    )
    manifest = build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    (pair,) = manifest["near_duplicates"]
    assert {pair["first"], pair["second"]} == {"mylab/a/a/3", "mylab/b/b/3"}
    assert pair["distance"] == 0
    assert "mylab/a/a/3 and mylab/b/b/3" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_damaged_frame_drops_its_clip_with_the_reason_and_no_other(own_root, tmp_path, inline):
    root = tmp_path / "root"
    shutil.copytree(own_root, root)
    (root / "p1/c1/006.png").write_bytes(b"no picture")
    before = digest(root)
    manifest = build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    (drop,) = manifest["drops"]
    assert (drop["stage"], drop["key"], drop["row"]) == ("frames", "mylab/p1/c1/3", 2)
    assert drop["reason"].startswith("p1/c1/006.png: not an image")
    assert "mylab/p1/c1/3" not in {row["clip_id"] for row in rows_of(tmp_path / "out")}
    assert manifest["rows"] == 6
    assert manifest["sources"]["mylab"]["dropped"] == 1
    assert digest(root) == before


def test_a_mistake_in_the_code_is_no_drop(own_root, tmp_path, monkeypatch, inline):
    monkeypatch.setattr(record_rows, "make_row", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert not (tmp_path / "out").exists()


def test_nothing_built_leaves_nothing(own_root, tmp_path, monkeypatch, inline):
    def unreadable(*_):
        raise VideoReadError("damaged")

    monkeypatch.setattr(shards, "record_row", unreadable)
    with pytest.raises(NothingBuiltError, match=r"damaged \(7 ×\)") as caught:
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert len(caught.value.drops) == 7
    assert list(tmp_path.iterdir()) == []


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_each_licensed_source_must_be_accepted(tmp_path):
    with pytest.raises(LicenceError) as caught:
        build({"casme2": tmp_path / "a", "samm": tmp_path / "b"}, tmp_path / "x", accepted=["samm"])
    message = str(caught.value)
    assert "--accept-licence casme2" in message
    assert "--accept-licence samm" not in message
    assert "signed" in message


def test_the_output_stays_out_of_the_roots(own_root, tmp_path):
    for out in (own_root, own_root / "out", own_root.parent):
        with pytest.raises(ValueError, match="lie in each other"):
            build({"mylab": own_root}, out)
    (tmp_path / "link").symlink_to(own_root)
    with pytest.raises(ValueError, match="lie in each other"):
        build({"mylab": own_root}, tmp_path / "link" / "out")
    assert not list(own_root.parent.glob("*.building"))


def test_an_existing_folder_is_not_overwritten(own_root, own_built):
    before = digest(own_built[0])
    with pytest.raises(FileExistsError, match="choose another --out"):
        build({"mylab": own_root}, own_built[0], settings=CROPPED)
    assert digest(own_built[0]) == before
    assert not own_built[0].with_name("own.building").exists()


def test_a_subject_in_two_sources(own_root, tmp_path):
    miniatures.casme2(tmp_path / "casme2")
    shutil.copytree(own_root, tmp_path / "mine")
    sheet = tmp_path / "mine/annotations.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace("p1,", "casme2/sub01,"), encoding="utf-8")
    with pytest.raises(SubjectClashError, match="casme2/sub01"):
        build({"casme2": tmp_path / "casme2", "mine": tmp_path / "mine"}, tmp_path / "out", accepted=["casme2"])
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "At least one worker"),
        ({"executor": "dask"}, "Known: local, slurm, ray"),
        ({"executor": "slurm"}, "--executor-option time"),
        ({"sheets": {"samm": "x.csv"}}, "samm, which is no --source"),
    ],
)
def test_requests_that_make_no_sense(own_root, tmp_path, arguments, message):
    with pytest.raises(BuildError, match=message):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED, **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "loso"},
        {"shard_size": 0},
        {"crf": 52},
        {"test_share": 0.7},
        {"face_source": "haar"},
        {"rewriter_model": "chat"},
        {"rewriter": "http://localhost:1"},
        {"rewriter": "localhost:1", "rewriter_model": "chat"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        BuildSettings(**settings)


def test_a_face_finder_that_cannot_work_is_one_error_and_no_drop_a_clip(own_root, tmp_path, inline):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    settings = dataclasses.replace(CROPPED, face_source=f"yunet:{tmp_path / 'model.onnx'}")
    with pytest.raises(ValueError, match="not a YuNet model"):
        build({"mylab": own_root}, tmp_path / "out", settings=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_two_builds_into_one_output(own_root, tmp_path, inline):
    with (
        work_folder.locked(tmp_path / "out.building"),
        pytest.raises(BuildError, match=f"Process {os.getpid()} .* is building into out"),
    ):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_holder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from deft_llm.hub_datasets.build.work_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(BuildError, match=f"Process {holder.pid}"), work_folder.locked(tmp_path / "x"):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / "x/lock").read_text(encoding="utf-8").startswith(f"Process {holder.pid}")
    with work_folder.locked(tmp_path / "x"):
        assert (tmp_path / "x/lock").read_text(encoding="utf-8").startswith(f"Process {os.getpid()}")


# --- Interrupted ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def measured_once(own_root, monkeypatch):
    """Rows from the shelf, so that many builds cost little; counts how often each was asked for."""
    shelf, asked = {}, []
    real = shards.record_row

    def row(record, *rest):
        if record.clip_id not in shelf:
            shelf[record.clip_id] = real(record, *rest)
        asked.append(record.clip_id)
        return shelf[record.clip_id]

    monkeypatch.setattr(shards, "record_row", row)
    return asked


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


def test_an_interrupted_build_goes_on_with_the_same_arguments_only(own_root, tmp_path, monkeypatch, inline):
    def interrupt(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(building, "_run_processes", interrupt)
        with pytest.raises(Killed):
            build({"mylab": own_root}, tmp_path / "out", settings=CROPPED)
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


def test_a_changed_sheet_is_another_build(own_root, tmp_path, monkeypatch, inline):
    root = tmp_path / "root"
    shutil.copytree(own_root, root)

    def interrupt(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(building, "_run_processes", interrupt)
        with pytest.raises(Killed):
            build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    sheet = root / "annotations.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace("anger", "fear", 1), encoding="utf-8")
    with pytest.raises(BuildError, match="sheet digests"):
        build({"mylab": root}, tmp_path / "out", settings=CROPPED)


def command(root, out, *more):
    return [
        sys.executable, "-m", "deft_llm.hub_datasets", "build", "--source", f"mylab={root}", "--out", str(out),
        "--face-source", "cropped", "--shard-size", "2", *more,
    ]  # fmt: skip


def test_a_killed_build_is_resumed_to_the_same_bytes(own_root, own_built, tmp_path):
    """SIGKILL while planning, with one shard finished, and with three; no worker lives on."""
    out, work = tmp_path / "out", tmp_path / "out.building"
    moments = (lambda: (work / "lock").exists(), lambda: shards() >= 1, lambda: shards() >= 3)

    def shards():
        return len(list(work.glob("shards/*.json")))

    kept = {}
    for due in moments:
        process = subprocess.Popen(
            command(own_root, out, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not due():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, living = psutil.wait_procs(workers, timeout=20)
        assert not living
        assert not out.exists()
        for path, written in kept.items():
            assert path.stat().st_mtime_ns == written  # not made again
        kept = {path: path.stat().st_mtime_ns for path in work.glob("shards/*.parquet")}
    assert kept
    done = subprocess.run(command(own_root, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(own_built[0])
    assert not work.exists()


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


def test_a_worker_that_is_killed_is_an_error(tmp_path, monkeypatch):
    for name in ("shards", "plan"):
        (tmp_path / name).mkdir()
    for name in ("plan/00000.jsonl", "cache"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(executors, "build_shard", _die)
    with pytest.raises(BuildInterruptedError, match="run the same command again"):
        executors.run_processes(tmp_path, [1], 1, Console(quiet=True))


def _die(work, number):
    os.kill(os.getpid(), signal.SIGKILL)


# --- datatrove ------------------------------------------------------------------------------------------------------


def test_the_local_executor_of_datatrove_makes_the_same_bytes(own_root, own_built, tmp_path):
    done = subprocess.run(
        command(own_root, tmp_path / "out", "--executor", "local", "--workers", "2"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(tmp_path / "out") == digest(own_built[0])
    assert not (tmp_path / "out.building").exists()


def test_slurm_gets_one_task_a_shard_and_a_last_job_behind_them(own_root, own_built, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    log = tmp_path / "submitted"
    (tools / "sbatch").write_text(
        f'#!/bin/sh\nfor last; do :; done\necho "$@" >> {log}\ncat "$last" >> {log}\necho Submitted batch job 4711\n',
        encoding="utf-8",
    )
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    options = {"time": "04:00:00", "partition": "cpu"}
    handed_over = build(
        {"mylab": own_root}, out, settings=CROPPED, workers=3, executor="slurm", executor_options=options
    )
    assert handed_over is None
    text = log.read_text(encoding="utf-8")
    assert "array=0-3%3" in text
    assert "partition=cpu" in text
    assert "time=04:00:00" in text
    assert "4711" in text  # the last job waits for the first
    assert not out.exists()
    # What the jobs run, here one after the other.
    work = tmp_path / "out.building"
    for rank in range(4):
        build_shard(work, rank)
    executors._finish_task(str(work), None)
    assert digest(out) == digest(own_built[0])


def test_a_missing_executor_says_what_to_install(own_root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BuildError, match=r"pip install 'deft-llm\[scale\]' 'datatrove\[ray\]'"):
        build({"mylab": own_root}, tmp_path / "out", settings=CROPPED, executor="ray")
