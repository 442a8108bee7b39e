"""`deft data synthesize --recordings`: rows like the rendered ones, from anybody's videos."""

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
from datasets import load_dataset

from deft_llm.cli import main
from deft_llm.hub_datasets.synthetic.clips import Disturbances, encode_frames, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.hub_datasets.synthetic.recordings import build_planted
from deft_llm.processing.video_reading import open_clip
from tests.processes import InThisProcess

REAL = Path(os.environ.get("DEFT_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def _in_this_process():
    """`test_dataset.py` renders in several processes, by the same function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deft_llm.hub_datasets.synthetic.dataset.ProcessPoolExecutor", InThisProcess)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings of a face that fills the frame, one that shows a wall, and a text."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, seed in (("anna.mp4", 1), ("bela.mp4", 2)):
        rng = np.random.default_rng(seed)
        clip = render_clip(
            render_face(rng, size=128), [], rng, count=30, fps=25.0, disturbances=Disturbances(noise=1.0)
        )
        (folder / name).write_bytes(encode_frames(clip.frames, 25.0, 10))
    wall = np.full((30, 128, 128, 3), 120, np.uint8)
    (folder / "wall.mp4").write_bytes(encode_frames(wall, 25.0, 10))
    (folder / "notes.txt").write_text("neutral recordings")
    return folder


def arguments(folder, out):
    return {"recordings": folder, "out": out, "face_source": "cropped", "clips": 6, "test_share": 0.5, "workers": 1}


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def built(folder, printed, tmp_path_factory):
    out = tmp_path_factory.mktemp("planted") / "rows"
    with redirect_stdout(printed):
        build_planted(**arguments(folder, out))
    return out


def test_rows_are_those_of_rendered_clips_and_name_their_recording(built, tmp_path):
    splits = load_dataset(str(built), cache_dir=str(tmp_path))
    truths = load_dataset(str(built), "truth", cache_dir=str(tmp_path))
    assert set(splits) == {"train", "test"}
    subjects = {name: set(split["subject"]) for name, split in splits.items()}
    assert {"planted/anna.mp4", "planted/bela.mp4"} == subjects["train"] | subjects["test"]
    assert subjects["train"].isdisjoint(subjects["test"])
    for name, split in splits.items():
        for row, truth in zip(split, truths[name], strict=True):
            assert row["source"] == "planted"
            assert f"planted/{row['provenance']['sheet']}" == row["subject"]
            assert len(row["provenance"]["sheet_sha256"]) == 64
            assert row["clip_id"] == truth["clip_id"]
            shown = json.loads(truth["parameters"])["expressions"][0]
            assert (row["onset"], row["apex"], row["offset"]) == (shown["onset"], shown["apex"], shown["offset"])
            assert [unit["code"] for unit in row["action_units"]] == [unit["code"] for unit in shown["units"]]
            assert len(open_clip(row["video"]["bytes"])) == row["offset"] + 1
            if shown["units"]:
                # What is measured is what was planted, at the apex.
                measured, true = (np.array(item, np.float32)[3] for item in (row["flow"], truth["true_flow"]))
                moving = np.hypot(*true) > 0.5 * np.hypot(*true).max()
                error = np.hypot(*(measured - true))[moving].mean()
                assert error < 0.5 * np.hypot(*true)[moving].mean()


def test_a_recording_without_a_face_is_skipped_in_one_sentence(built, printed):
    skipped = [line for line in printed.getvalue().splitlines() if line.startswith("Skipped")]
    assert len(skipped) == 1
    assert skipped[0].startswith("Skipped wall.mp4: the face in frame ")


def test_deliberate_errors_are_recorded(folder, tmp_path):
    build_planted(**arguments(folder, tmp_path / "wrong") | {"corrupt": 0.9, "clips": 4})
    splits = load_dataset(str(tmp_path / "wrong"), cache_dir=str(tmp_path))
    truths = load_dataset(str(tmp_path / "wrong"), "truth", cache_dir=str(tmp_path))
    errors = [truth["corruption"] for split in truths.values() for truth in split]
    noted = [[flag for flag in row["quality"] if flag.startswith("corrupted:")] for s in splits.values() for row in s]
    assert any(errors)
    assert noted == [[f"corrupted:{error}"] if error else [] for error in errors]


def run(*options):
    return main(["data", "synthesize", *map(str, options)])


def test_bad_folders_are_one_line_and_write_nothing(folder, tmp_path, capsys):
    out = tmp_path / "new"
    empty, walls = tmp_path / "empty", tmp_path / "walls"
    empty.mkdir()
    walls.mkdir()
    (walls / "wall.mp4").write_bytes((folder / "wall.mp4").read_bytes())
    cases = (
        (("--recordings", tmp_path / "none"), "no such folder of recordings"),
        (("--recordings", empty), "it contains no video"),
        (("--recordings", walls, "--face-source", "cropped", "--workers", 1), "no face could be placed and followed"),
        (("--recordings", folder, "--preset", "long"), "one expression per clip"),
        (("--recordings", folder, "--face-source", "nose"), "`face_source` must be"),
        (("--recordings", folder, "--size", 64), "--size is for rendered faces"),
        (("--face-source", "yunet"), "--face-source goes with --recordings"),
    )
    for options, message in cases:
        assert run("--output-dir", out, *options) == 2, message
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not out.exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="DEFT_REAL_DATA names no folder of real recordings.")
def test_real_recordings(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("single_face.mp4", "no_face.mp4"):
        (videos / name).symlink_to((REAL / "recordings" / name).resolve())
    model = (REAL / "face_detection_yunet_2026may.onnx").resolve()
    build_planted(recordings=videos, out=tmp_path / "rows", face_source=f"yunet:{model}", clips=4, workers=1)
    rows = load_dataset(str(tmp_path / "rows"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["subject"]) == {"planted/single_face.mp4"}
    frame = open_clip(rows[0]["video"]["bytes"]).frames([0])[0]
    # The stored crop shows the face where the atlas has it: the eyes are darker than the cheeks.
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (100, 100), interpolation=cv2.INTER_AREA)
    eyes, cheeks = (grey[y - 3 : y + 3, [*range(26, 36), *range(64, 74)]].mean() for y in (35, 52))
    assert eyes < cheeks
