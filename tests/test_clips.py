import csv
import io

import numpy as np
import pytest

from deft_llm.clips import (
    NO_INTERVAL,
    NO_MOTION,
    chat_about_clips,
    check_clips,
    interval_rows,
    intervals_csv,
    intervals_text,
    load_explainer,
    measure_clips,
    measured_data,
    measured_text,
    spot_video,
    stretch_rows,
    stretches_text,
)
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_frames, encode_mp4, render_clip
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.action_units import REGIONS
from deft_llm.processing.aligned_clip import Stretch
from deft_llm.processing.clip_statements import knowledge
from deft_llm.processing.motion_evidence import measure_motion, parse_motion
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
    *sentences, limits = measured_text(moving).splitlines()
    assert len(parse_motion("\n".join(sentences))) == len(moving["motion"])
    assert set(moving["detection_limits"]) == set(REGIONS)
    assert f"inner brow {moving['detection_limits']['inner brow']:.2f}" in limits
    assert "Below 35 % of that" in limits
    assert measured_data(moving)["motion"][0]["magnitude"] == moving["motion"][0].magnitude
    assert measured_text(still).splitlines()[0] == NO_MOTION
    assert measured_data(still)["detection_limits"] == still["detection_limits"]
    (every,) = measure_clips([str(still_video)], every_region=True)
    assert len(every["motion"]) > 10
    assert every["detection_limits"].keys() == still["detection_limits"].keys()


def test_the_errors_are_those_that_the_flow_and_the_head_state(brow_video):
    (measured,) = measure_clips([str(brow_video)], key_frames=(3, 19, 29), every_region=True)
    options = {"key_frames": (3, 19, 29), "return_measurement": True, "do_crop_appearance": False}
    found = DeftVideoProcessor()(str(brow_video), **options)
    stated = {"lead_in": found["lead_in_flow"][0], "deviation": found["flow_deviation"][0]}
    assert measured["motion"] == measure_motion(found["flow_values_videos"][0], **stated)


def test_a_clip_that_cannot_be_measured_has_a_reason_and_no_regions(lost_video, brow_video):
    lost, seen = measure_clips([str(lost_video), str(brow_video)], key_frames=(3, 19, 29))
    assert set(lost) == {"clip", "status", "reason"}
    assert measured_data(lost) == lost
    assert lost["status"] == "not_measurable"
    assert measured_text(lost) == f"The clip cannot be measured: {lost['reason']}."
    assert "cannot be followed" in lost["reason"]
    assert seen["status"] == "measured"


def test_what_is_spotted_lies_where_it_was_rendered(spotted_video):
    intervals, stretches, rate = spot_video(str(spotted_video))
    assert (rate, stretches) == (200, [])
    assert any(item.overlap(60, 92) > 0.5 for item in intervals if item.kind == "expression")


def test_nothing_is_spotted_where_the_face_is_lost(face, tmp_path):
    units = (UnitRequest("AU4", "both", 0.02),)
    shown = [Expression(units, 40, 48, 58), Expression(units, 150, 158, 168)]
    clip = render_clip(face, shown, np.random.default_rng(2), count=230, fps=50.0)
    noise = np.random.default_rng(0).integers(0, 255, (40, *clip.frames.shape[1:]), np.uint8)
    whole, gone = tmp_path / "whole.mp4", tmp_path / "gone.mp4"
    whole.write_bytes(encode_mp4(clip))
    frames = np.concatenate([clip.frames[:135], noise, clip.frames[175:]])
    gone.write_bytes(encode_frames(frames, 50.0, 12))
    intervals, stretches, _ = spot_video(str(whole))
    assert stretches == []
    assert any(item.overlap(150, 168) > 0.3 for item in intervals)
    intervals, stretches, rate = spot_video(str(gone))
    assert any(item.overlap(40, 58) > 0.3 for item in intervals)
    (stretch,) = stretches
    assert 133 <= stretch.start <= 135
    assert 175 <= stretch.stop <= 182
    assert "cannot be followed" in stretch.reason
    assert not any(item.onset < stretch.stop and item.offset >= stretch.start for item in intervals)
    assert stretches_text(stretches, rate).startswith(f"{stretch.start / 50:.2f}–{stretch.stop / 50:.2f} s cannot be")


def test_stretches_in_two_forms():
    stretches = [Stretch(20, 60, "the head turns too far")]
    assert stretches_text(stretches, 50.0) == "0.40–1.20 s cannot be measured: the head turns too far\n"
    (row,) = stretch_rows(stretches, 50.0)
    assert row == {
        "start": 20,
        "stop": 60,
        "start_seconds": 0.4,
        "stop_seconds": 1.2,
        "reason": "the head turns too far",
    }
    assert (stretches_text([], 50.0), stretch_rows([], 50.0)) == ("", [])


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


def test_a_model_is_loaded_with_the_installed_code(folder):
    assert type(load_explainer(str(folder)).model).__module__ == "deft_llm.modeling_deft.modeling_deft"


def test_a_model_of_another_kind_and_one_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--model .*nowhere: the model cannot be read"):
        load_explainer(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ValueError, match=r"is not a DEFT model: the model_type in its config.json is 'qwen3'"):
        load_explainer(str(tmp_path))


def test_a_clip_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4: no such video or folder of frames"):
        check_clips(["nowhere.mp4"])
    with pytest.raises(ValueError, match=r"https:/a.org/b.mp4: a mistyped URL"):
        check_clips(["https:/a.org/b.mp4"])
    check_clips(["https://example.org/clip.mp4", "."])


def test_a_chat_reads_questions_until_an_empty_line(brow_video, still_video, folder, capsys):
    """Each answer is printed as it is generated; what cannot be asked is refused, and the chat goes on."""
    questions = io.StringIO("Is AU12 there?\nIs AU99 there?\nWhat would you expect of AU9?\n\nNot read.\n")
    chat_about_clips([str(brow_video)], str(folder), questions, max_new_tokens=120)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("Class ")
    assert lines[-2:] == ["No, AU12 (lip corner puller) is not visible in the motion.", knowledge("AU9")]
    assert told.err.count("error:") == 1
    assert "AU99" in told.err
    assert questions.read() == "Not read.\n"
    clips = [str(brow_video), str(still_video)]
    chat_about_clips(clips, str(folder), io.StringIO("Is AU12 there in the second clip?"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("In the second clip: no, AU12")
    with pytest.raises(ValueError, match="--chat is about one clip or two, got 3"):
        chat_about_clips([*clips, clips[0]], str(folder), questions)
