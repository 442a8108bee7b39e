import csv
import io
import json

from deft_llm.explained_rows import COLUMNS, records, rows, texts, when, written
from tests.made_up_explanations import explained, report, unmeasured, video


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_per_evidence_and_one_for_a_unit_without_any():
    table = read("".join(written([video()], "csv")))
    assert list(table[0]) == list(COLUMNS)
    shown = [(row["action_unit"], row["region"], row["direction"], row["magnitude"]) for row in table]
    assert shown == [
        ("AU4", "inner brow", "down and medially", "1.0"),
        ("AU4", "outer brow", "down", "0.5"),
        ("AU12", "", "", ""),
    ]
    first, second, third = table
    assert (first["clip"], first["interval"], first["status"], first["emotion"]) == (
        "folder/clip.mp4",
        "",
        "measured",
        "anger",
    )
    assert (first["onset"], first["apex"], first["offset"]) == ("3", "8", "12")
    assert (first["onset_seconds"], first["apex_seconds"], first["offset_seconds"]) == ("0.06", "0.16", "0.24")
    assert (first["emotion_score"], first["action_unit_score"]) == ("0.75", "0.9")
    assert (first["standard_error"], second["standard_error"]) == ("0.04", "")
    assert (first["detection_limit"], second["detection_limit"]) == ("0.21", "")
    assert (first["borne_out"], third["borne_out"], third["side"]) == ("", "no", "left")
    assert {row["intensity"] for row in table} == {""}


def test_clips_without_evidence_have_a_row_too():
    nothing = explained(report(emotion=None, action_units=[], evidence=[], status="insufficient_motion", reason="no"))
    table = read("".join(written([video(nothing), video(unmeasured("no face, was “found”"))], "csv")))
    assert [row["status"] for row in table] == ["insufficient_motion", "not_measurable"]
    assert table[1]["reason"] == "no face, was “found”"
    assert (table[0]["onset"], table[1]["onset"]) == ("3", "")
    assert all(row["action_unit"] == row["emotion"] == "" for row in table)


def test_intervals_are_numbered_and_have_their_times():
    both = video(explained(), explained(keys=(13, 16, 18)), spotted=True)
    assert [(row["interval"], row["onset"]) for row in rows(both)] == [(1, 3)] * 3 + [(2, 13)] * 3
    assert [record["interval"] for record in records(both)] == [1, 2]
    assert [record["onset_seconds"] for record in records(both)] == [0.06, 0.26]
    assert when(both.explained[1], 50.0) == "0.26 s to 0.36 s (frames 13, 16, 18)"
    assert when(both.explained[1], None) == "frames 13, 16, 18"


def test_json_lines_have_one_report_per_line():
    lines = "".join(written([video(), video(unmeasured())], "jsonl")).splitlines()
    first, second = map(json.loads, lines)
    assert first["report"] == report().to_dict()
    assert (first["fps"], first["frames_indices"], first["interval"]) == (50.0, [3, 8, 12], None)
    assert (second["report"]["status"], second["onset"]) == ("not_measurable", None)


def test_times_are_left_out_if_the_rate_is_not_known():
    (record,) = records(video(fps=None))
    assert (record["fps"], record["onset"], record["onset_seconds"]) == (None, 3, None)


def test_text_of_a_clip_is_its_report():
    assert texts(video()) == str(report())
    assert texts(video(), question=True) == "Class: anger"


def test_text_of_a_video_says_when_and_what_was_left_out():
    found = video(
        explained(),
        spotted=True,
        intervals=[("expression", 3, 8, 12), ("blink", 13, 14, 15), ("blink", 16, 17, 18)],
        lost=(18, 20, "the head turns too far"),
    )
    lines = texts(found).splitlines()
    assert lines[0] == "0.06 s to 0.24 s (frames 3, 8, 12)"
    assert lines[1].startswith("Class      anger")
    assert lines[-2:] == ["Not explained: 2 blinks.", "0.36–0.40 s cannot be measured: the head turns too far"]
