"""Videos measured into a folder: resumed with the same bytes, nothing overwritten, and what goes wrong is said."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deft_llm import measure_folder, motion_tables
from deft_llm.files import locked
from deft_llm.hub_datasets.synthetic.clips import encode_frames
from deft_llm.measure_folder import CLIP_COLUMNS, MeasureFolder, Settings, Video, find_videos, measure_videos

CROPS = Settings(face_source="canonical")
ROOT = Path(__file__).parents[1]


def run(out, places, settings=CROPS, workers=1):
    with MeasureFolder(out, settings).opened() as folder:
        return measure_videos(folder, find_videos([str(place) for place in places]), workers=workers)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def bytes_of(folder):
    """Name → content of what a run leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".measure.lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def videos(brow_video, still_video, tmp_path):
    place = tmp_path / "videos"
    (place / "deeper").mkdir(parents=True)
    shutil.copy(brow_video, place / "brow.mp4")
    shutil.copy(still_video, place / "deeper" / "still.mp4")
    return place


def test_every_frame_has_its_rows_and_every_video_its_files(videos, tmp_path):
    out = tmp_path / "out"
    rows = run(out, [videos])
    assert sorted(bytes_of(out)) == [
        *(
            "brow.mp4.csv",
            "brow.mp4.json",
            "clips.csv",
            "deeper/still.mp4.csv",
            "deeper/still.mp4.json",
            "measure.json",
        )
    ]
    brow = table(out / "brow.mp4.csv")
    assert len(brow) == 38 * 24
    assert sorted({int(row["frame"]) for row in brow}) == list(range(38))
    assert all(row["valid"] == "true" for row in brow)
    clips = table(out / "clips.csv")
    assert [row["video"] for row in clips] == ["brow.mp4", "deeper/still.mp4"]
    assert list(clips[0]) == list(CLIP_COLUMNS)
    assert clips[0]["strongest_region"] == "inner brow"
    assert clips[1]["significant_frames"] == "0"
    sidecar = json.loads((out / "brow.mp4.json").read_text())
    assert sidecar["settings"]["face_source"] == "canonical"
    assert (sidecar["clip"]["frames"], sidecar["clip"]["fps"], sidecar["clip"]["duration"]) == (38, 200.0, 0.19)
    assert re.fullmatch("[0-9a-f]{64}", sidecar["clip"]["sha256"])
    assert sidecar["version"]
    assert rows[0] == sidecar["clip"]


def test_a_second_run_measures_nothing_again(videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first, before = run(out, [videos]), bytes_of(out)
    monkeypatch.setattr(measure_folder, "measure_video", lambda *_: pytest.fail("measured again"))
    assert run(out, [videos]) == first
    assert bytes_of(out) == before


def test_workers_change_no_byte(videos, tmp_path):
    run(tmp_path / "one", [videos])
    run(tmp_path / "two", [videos], workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_run_that_is_killed_goes_on_with_the_same_bytes(videos, tmp_path):
    """Killed as soon as a table is being written, before it has its name."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run(whole, [videos])
    words = ["measure", str(videos), "--out", str(out), "--face-source", "canonical", "--workers", "1"]
    slow = (
        "import sys, time\nfrom deft_llm import motion_tables\nfrom deft_llm.cli import main\n"
        "rows = motion_tables.frame_rows\n"
        "def slowly(frame, *given):\n"
        "    time.sleep(0.02)\n"
        "    return rows(frame, *given)\n"
        "motion_tables.frame_rows = slowly\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *words], cwd=ROOT)
    until = time.monotonic() + 120
    while not list(out.rglob(".still*.partial")) and time.monotonic() < until:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.rglob(".still*.partial"))
    assert not (out / "deeper" / "still.mp4.csv").exists()
    finished = (out / "brow.mp4.csv").stat().st_mtime_ns
    run(out, [videos])
    assert bytes_of(out) == bytes_of(whole)
    assert (out / "brow.mp4.csv").stat().st_mtime_ns == finished
    assert not list(out.rglob("*.partial"))


def test_a_disk_that_fills_keeps_what_is_measured(videos, tmp_path, monkeypatch):
    written = []

    class Full(motion_tables.CsvTable):
        def write(self, rows):
            written.append(rows)
            if len(written) > 50:  # within the second video
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(rows)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(motion_tables, "CsvTable", Full)
        with pytest.raises(OSError, match=r"No space left on device. 1 of 2 videos are measured and kept; run"):
            run(out, [videos])
    assert [row["video"] for row in table(out / "clips.csv")] == ["brow.mp4"]
    assert not (out / "deeper" / "still.mp4.csv").exists()
    assert not list(out.rglob("*.partial"))
    run(out, [videos])
    run(tmp_path / "whole", [videos])
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_two_runs_on_one_folder(videos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        locked(out / ".measure.lock"),
        pytest.raises(RuntimeError, match=r"another run writes this folder \(Process \d+ on .*\)\. Wait for it, or"),
    ):
        run(out, [videos])
    assert not (out / "clips.csv").exists()


def test_other_settings_and_strange_folders_are_refused(videos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(out, [videos])
    before = bytes_of(out)
    with pytest.raises(ValueError, match="was measured with reference=rest, and now it is first; pass another --out"):
        run(out, [videos], Settings(face_source="canonical", reference="first"))
    monkeypatch.setattr(measure_folder, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"was measured with deft-llm .*, and this is 9.9"):
        run(out, [videos])
    assert bytes_of(out) == before
    with pytest.raises(FileExistsError, match=r"has files that `deft measure` did not write, such as brow.mp4"):
        run(videos, [videos])
    with pytest.raises(FileExistsError, match="is a file"):
        run(videos / "brow.mp4", [videos])


def test_a_video_that_has_changed_is_not_overwritten(videos, tmp_path):
    out = tmp_path / "out"
    run(out, [videos])
    before = bytes_of(out)
    shutil.copy(videos / "deeper" / "still.mp4", videos / "brow.mp4")
    row, _ = run(out, [videos])
    assert row["status"] == "refused"
    assert "brow.mp4: has changed since" in row["reason"]
    assert bytes_of(out)["brow.mp4.csv"] == before["brow.mp4.csv"]


def test_what_cannot_be_read_is_a_row_and_the_others_go_on(videos, tmp_path, brow_clip):
    (videos / "aaa.mp4").write_bytes(b"no video")
    (videos / "slow.mp4").write_bytes(encode_frames(brow_clip.frames[:4], 1, 12))
    rows = {row["video"]: row for row in run(tmp_path / "out", [videos])}
    assert "aaa.mp4: not a video" in rows["aaa.mp4"]["reason"]
    assert "slow.mp4: 1 frames per second" in rows["slow.mp4"]["reason"]
    assert rows["brow.mp4"]["status"] == rows["deeper/still.mp4"]["status"] == "measured"
    told = {row["video"]: row["status"] for row in table(tmp_path / "out" / "clips.csv")}
    assert told == {name: row["status"] for name, row in rows.items()}
    assert not (tmp_path / "out" / "aaa.mp4.csv").exists()


def test_a_face_that_cannot_be_followed_has_rows_with_a_reason(lost_video, tmp_path):
    (row,) = run(tmp_path / "out", [lost_video])
    rows = table(tmp_path / "out" / "lost.mp4.csv")
    assert len(rows) == 38 * 24
    valid = [row["valid"] for row in rows[::24]]
    assert valid[:10] == ["true"] * 10
    assert "false" in valid
    last = rows[-1]
    assert last["reason"]
    assert {last[name] for name in ("u", "v", "magnitude", "error", "significant", "yaw", "scale")} == {""}
    assert row["measured_frames"] < 38
    assert row["reason"]


def test_no_face_at_all(brow_video, tmp_path, monkeypatch):
    monkeypatch.setattr("deft_llm.frame_motion.make_face_source", lambda _: lambda frame: np.empty((0, 3, 2)))
    (row,) = run(tmp_path / "out", [brow_video])
    assert (row["status"], row["faces_found"], row["reason"]) == ("not_measurable", 0, "no face was found")
    rows = table(tmp_path / "out" / "brow.mp4.csv")
    assert len(rows) == 38 * 24
    assert {(item["valid"], item["reason"], item["u"]) for item in rows} == {("false", "no face was found", "")}


def test_time_is_the_containers(brow_clip, tmp_path):
    """A variable frame rate: every second frame stands for twice as long."""
    path = tmp_path / "variable.mkv"
    ticks = np.cumsum([0, *([10, 20] * 19)])[:38]
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=66, options={"crf": "12"})
        stream.width = stream.height = 160
        stream.codec_context.time_base = Fraction(1, 1000)
        for tick, frame in zip(ticks, brow_clip.frames, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = int(tick), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    run(tmp_path / "out", [path])
    times = [float(row["time"]) for row in table(tmp_path / "out" / "variable.mkv.csv")[::24]]
    assert times == pytest.approx(ticks / 1000, abs=1e-6)


def test_part_of_a_video(spotted_video, tmp_path):
    (row,) = run(tmp_path / "out", [spotted_video], Settings(face_source="canonical", start=0.25, end=0.5))
    rows = table(tmp_path / "out" / "long.mp4.csv")
    assert [int(item["frame"]) for item in rows[::24]] == list(range(50, 100))
    assert (float(rows[0]["time"]), float(rows[-1]["time"])) == (0.25, 0.495)
    assert (row["first_frame"], row["frames"]) == (50, 50)
    (row,) = run(tmp_path / "late", [spotted_video], Settings(face_source="canonical", start=7))
    assert "no frame from 7 s to" in row["reason"]


def test_folders_of_frames_and_of_videos(brow_clip, videos, tmp_path):
    from PIL import Image

    frames = videos / "frames"
    frames.mkdir()
    for number, frame in enumerate(brow_clip.frames):
        Image.fromarray(frame).save(frames / f"img{number:03d}.png")
    found = find_videos([str(videos)])
    assert [video.name for video in found] == ["brow.mp4", "deeper/still.mp4", "frames"]
    assert find_videos([str(frames)])[0].name == "frames"
    assert find_videos([str(videos / "brow.mp4"), str(videos)]) == found  # named twice, measured once
    (row,) = run(tmp_path / "none", [frames])
    assert "does not state a frame rate; pass --fps" in row["reason"]
    (row,) = run(tmp_path / "out", [frames], Settings(face_source="canonical", fps=200))
    assert (row["frames"], row["status"]) == (38, "measured")


def test_which_videos_cannot_be_told_apart_or_are_not_there(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    for places, error, message in (
        (["https://example.org/a.mp4"], ValueError, "--out needs files"),
        (["nowhere.mp4"], FileNotFoundError, "no such video"),
        ([str(tmp_path / "empty")], FileNotFoundError, "no video and no image"),
    ):
        with pytest.raises(error, match=message):
            find_videos(places)
    shutil.copytree(videos, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"would both be written as brow.mp4"):
        find_videos([str(videos), str(tmp_path / "copy")])


def test_a_model_file_is_recorded_by_its_content(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"weights")
    recorded = Settings(face_source=f"yunet:{model}").recorded()["face_source"]
    assert recorded.startswith("yunet:sha256:")
    assert str(tmp_path) not in recorded


def test_a_missing_model_of_the_face_finder_ends_the_run(videos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such YuNet model file"):
        run(tmp_path / "out", [videos], Settings(face_source=f"yunet:{tmp_path / 'nowhere.onnx'}"))


def test_a_video_that_is_deleted_meanwhile_is_refused(tmp_path):
    with MeasureFolder(tmp_path / "out", CROPS).opened() as folder:
        row = folder.measure(Video("gone.mp4", str(tmp_path / "gone.mp4")))
    assert row["reason"].endswith("gone.mp4: was deleted.")
    assert os.listdir(tmp_path / "out")
