import numpy as np
import pytest

from deft_llm.hub_datasets.unimer.constraints import SUPPORTED
from deft_llm.hub_datasets.unimer.rows import UnitLabel, make_row, row_tensors
from deft_llm.processing import DeftVideoProcessor, parse_answer
from deft_llm.processing.motion_evidence import measure_motion


def test_rows_say_what_the_motion_says(dataset):
    """Every sentence of evidence is a labelled unit whose region moved that way by that much."""
    claims, silent = 0, 0
    for row in dataset:
        explain = next((item for item in row["conversations"] if item["task"] == "explain"), None)
        if explain is None:  # the face moves, but as none of its labels says
            assert not any(unit["verdict"] == "supported" for unit in row["action_units"])
            assert any(item["significant"] for item in row["motion"])
            silent += 1
            continue
        report = parse_answer(explain["messages"][-1]["content"][0]["text"])
        assert report.parsed
        labelled = {unit["code"]: unit for unit in row["action_units"]}
        supported = {code for code, unit in labelled.items() if unit["verdict"] == "supported"}
        assert {unit.code for unit in report.action_units} == supported
        assert report.insufficient_motion == (not supported)
        motions = measure_motion(np.asarray(row["flow"], np.float32))
        for item in report.evidence:
            side = labelled[item.action_unit]["side"]
            shown = [m for m in motions if m.region == item.region and side in ("both", m.side)]
            assert item.direction in {motion.direction for motion in shown}
            assert item.magnitude == pytest.approx(np.mean([motion.magnitude for motion in shown]), abs=0.051)
            claims += 1
    assert claims > 30
    assert silent <= 1


def test_every_emotion_and_still_clips_occur(dataset):
    assert set(dataset["emotion"]) == {"happiness", "surprise", "sadness", "disgust", "anger", None}


def test_stored_flow_is_used_and_equals_a_fresh_measurement(dataset):
    processor = DeftVideoProcessor(num_frames=8, size={"height": 32, "width": 32})
    row = dataset[0]
    stored = row_tensors(row, processor)
    fresh = row_tensors({**row, "flow": None}, processor)
    np.testing.assert_allclose(stored["flow_values_videos"], fresh["flow_values_videos"], atol=2e-3)
    other_grid = DeftVideoProcessor(num_frames=8, flow_size=16, size={"height": 32, "width": 32})
    assert row_tensors(row, other_grid)["flow_values_videos"].shape == (7, 2, 16, 16)
    features_only = row_tensors({**row, "video": None}, processor)
    assert set(features_only) == {"flow_values_videos"}
    with pytest.raises(ValueError, match="has no video"):
        row_tensors({**row, "video": None}, other_grid)


def row_of(video, **changes):
    values = {
        "clip_id": "lab/p/c/3",
        "source": "lab",
        "subject": "lab/p",
        "video": video.read_bytes(),
        "fps": 200.0,
        "key_frames": (3, 19, 35),
        "units": [UnitLabel("AU4"), UnitLabel("AU12", "left")],
        "emotion": "anger",
        "emotion_coarse": "negative",
        "convention": "lab",
        "quality": ["apex_missing"],
        "provenance": {},
        "video_processor": DeftVideoProcessor(num_frames=8, face_source="cropped"),
        "rng": np.random.default_rng(0),
    }
    return make_row(**{**values, **changes})


def test_what_cannot_be_measured_is_not_compared_and_nothing_is_said_of_it(lost_video):
    row = row_of(lost_video)
    assert row["quality"][0] == "apex_missing"
    name, _, reason = row["quality"][1].partition(":")
    assert name == "not_measurable"
    assert "cannot be followed" in reason
    assert (row["flow"].shape, row["flow"].any()) == ((7, 2, 32, 32), np.False_)
    assert row["motion"] == row["conversations"] == []
    assert [(unit["code"], unit["side"]) for unit in row["action_units"]] == [("AU4", "both"), ("AU12", "left")]
    assert {(unit["verdict"], unit["agreement"], unit["region"]) for unit in row["action_units"]} == {
        ("not_testable", 0.0, "")
    }


def test_the_errors_of_a_row_are_those_that_the_flow_and_the_head_state(brow_video):
    row = row_of(brow_video)
    assert row["action_units"][0]["verdict"] == SUPPORTED
    options = {"key_frames": (3, 19, 35), "return_measurement": True, "do_crop_appearance": False}
    found = DeftVideoProcessor(num_frames=8)(str(brow_video), **options)
    flow = found["flow_values_videos"][0].astype(np.float16)
    stated = {"lead_in": found["lead_in_flow"][0], "deviation": found["flow_deviation"][0]}
    expected = [item.standard_error for item in measure_motion(flow, **stated)]
    assert [item["standard_error"] for item in row["motion"]] == expected
    assert expected != [item.standard_error for item in measure_motion(flow)]
