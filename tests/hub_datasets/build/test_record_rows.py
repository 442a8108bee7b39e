import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.build.record_rows import record_row, unit_labels
from deft_llm.hub_datasets.sources.action_unit_grammar import parse_action_units
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.unimer.constraints import NOT_TESTABLE, SUPPORTED
from deft_llm.hub_datasets.unimer.instructions import AmbiguousWordError
from deft_llm.hub_datasets.unimer.rows import row_tensors
from deft_llm.processing import open_clip
from deft_llm.processing.aligned_clip import NotMeasurableError
from deft_llm.processing.key_frames import KeyFrameError
from tests.hub_datasets import miniatures
from tests.hub_datasets.build.own_recordings import CROPPED


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


def with_frames(record, place, change):
    """The record with other frames, which `change` makes of its number and pixels."""
    place.mkdir()
    for number, path in enumerate(record.frames):
        assert cv2.imwrite(str(place / path.name), change(number, cv2.imread(str(path))))
    return dataclasses.replace(record, folder=place)


def lost(number, frame):
    return frame if number < 5 else np.random.default_rng(number).integers(0, 255, frame.shape, np.uint8)


def tiny(number, frame):
    return cv2.resize(frame, (40, 40), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(("change", "why"), [(lost, "the face cannot be followed"), (tiny, "the face is too small")])
def test_a_clip_that_cannot_be_measured_is_a_row_with_the_reason(recorded, processor, tmp_path, change, why):
    record = with_frames(recorded[0], tmp_path / "frames", change)
    row, _ = record_row(record, CROPPED, processor, None)
    (flag,) = row["quality"]
    assert flag.startswith(f"not_measurable:{why}")
    assert not row["flow"].any()
    assert row["motion"] == row["conversations"] == []
    assert [unit["verdict"] for unit in row["action_units"]] == [NOT_TESTABLE]
    assert (row["onset"], row["apex"], row["offset"], row["emotion"]) == (2, 7, 12, "anger")
    assert len(open_clip(row["video"])) == 13


@pytest.mark.parametrize("unknown", [{"apex": None}, {"onset": None, "apex": None, "offset": None}], ids=str)
def test_key_frames_are_not_spotted_in_what_cannot_be_measured(recorded, processor, tmp_path, unknown):
    record = with_frames(dataclasses.replace(recorded[0], **unknown), tmp_path / "frames", tiny)
    with pytest.raises(NotMeasurableError, match="the face is too small") as raised:
        record_row(record, CROPPED, processor, None)
    assert str(raised.value).startswith(f"{record.clip_id}: ")


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
