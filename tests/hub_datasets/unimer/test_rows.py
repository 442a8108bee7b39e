import numpy as np
import pytest

from deft_llm.hub_datasets.unimer.rows import row_tensors
from deft_llm.processing import DeftVideoProcessor, parse_answer
from deft_llm.processing.motion_evidence import measure_motion


def test_rows_say_what_the_motion_says(dataset):
    """Every sentence of evidence is a labelled unit whose region moved that way by that much."""
    claims = 0
    for row in dataset:
        explain = next(item for item in row["conversations"] if item["task"] == "explain")
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
    assert claims > 40


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
