import csv
import io

import pytest

from deft_llm.clips import (
    NO_INTERVAL,
    NO_MOTION,
    check_clips,
    explain_clips,
    interval_rows,
    intervals_csv,
    intervals_text,
    load_explainer,
    measure_clips,
    measured_data,
    measured_text,
    spot_video,
)
from deft_llm.processing.motion_evidence import parse_motion
from deft_llm.processing.spotting import Interval

INTERVALS = [
    Interval(12, 18, 30, "expression", 8.125, (("inner brow", "left"), ("inner brow", "right"))),
    Interval(60, 66, 120, "expression", 6.0, (), macro=True),
]


def test_the_measured_motion_is_the_rendered_one(brow_video, still_video):
    moving, still = measure_clips([str(brow_video), str(still_video)], key_frames=(3, 19, 29))
    assert moving["frames_indices"][0] == 3
    assert all(motion.significant for motion in moving["motion"])
    assert moving["motion"][0].region in ("inner brow", "outer brow", "nose root")
    assert len(parse_motion(measured_text(moving))) == len(moving["motion"])
    assert measured_data(moving)["motion"][0]["magnitude"] == moving["motion"][0].magnitude
    assert measured_text(still) == NO_MOTION
    (every,) = measure_clips([str(still_video)], every_region=True)
    assert len(every["motion"]) > 10


def test_what_is_spotted_lies_where_it_was_rendered(spotted_video):
    intervals, rate = spot_video(str(spotted_video))
    assert rate == 200
    assert any(item.overlap(60, 92) > 0.5 for item in intervals if item.kind == "expression")


def test_intervals_in_three_forms():
    first, second = interval_rows(INTERVALS, 60.0)
    assert (first["onset"], first["onset_seconds"], first["score"]) == (12, 0.2, 8.12)
    assert first["regions"][0] == {"region": "inner brow", "side": "left"}
    assert second["macro"]
    table = list(csv.DictReader(io.StringIO(intervals_csv(INTERVALS, 60.0))))
    assert [row["offset"] for row in table] == ["30", "120"]
    assert table[0]["regions"] == "left inner brow; right inner brow"
    lines = intervals_text(INTERVALS, 60.0).splitlines()
    assert "left inner brow, right inner brow" in lines[0]
    assert lines[1].startswith("macro-expression")
    assert intervals_text([], 60.0) == f"{NO_INTERVAL}\n"


def test_clips_are_explained_by_the_installed_code(brow_video, still_video, folder):
    found = list(explain_clips([str(brow_video), str(still_video)], str(folder), max_new_tokens=4))
    assert [item["clip"] for item in found] == [str(brow_video), str(still_video)]
    assert set(found[0]) == {"clip", "report", "report_text", "generated_text", "frames_indices"}
    assert type(load_explainer(str(folder)).model).__module__ == "deft_llm.modeling_deft.modeling_deft"


def test_a_model_of_another_kind_and_one_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--model .*nowhere: the model cannot be read"):
        load_explainer(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ValueError, match=r"is not a DEFT model: the model_type in its config.json is 'qwen3'"):
        load_explainer(str(tmp_path))


def test_a_clip_that_is_not_there_is_named_before_a_model_is_loaded():
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4: no such video or folder of frames"):
        next(explain_clips(["nowhere.mp4"], "org/model"))
    check_clips(["https://example.org/clip.mp4", "."])
