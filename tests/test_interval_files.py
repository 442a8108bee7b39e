"""Spotted intervals as files that other programs read, and scored against annotations."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pympi.Elan import Eaf

from deft_llm.clips import Spotted as Found
from deft_llm.clips import spotted
from deft_llm.interval_files import (
    as_text,
    format_of,
    read_annotations,
    score_text,
    scored,
    write_intervals,
)
from deft_llm.processing.aligned_clip import Stretch
from deft_llm.processing.spotting import Interval

INTERVALS = [
    Interval(61, 77, 93, "expression", 12.34, (("inner brow", "left"), ("inner brow", "right"))),
    Interval(200, 205, 215, "blink", 9.0, (("upper lid", "left"),)),
    Interval(301, 377, 453, "expression", 7.0, (("mouth corner", "left"),), macro=True),
]
STRETCHES = [Stretch(500, 520, "the head turns too far")]


def found(fps=200.0, times=None, video="somewhere/s1.mp4", intervals=INTERVALS):
    return Found(video, intervals, STRETCHES, fps, np.arange(600) / fps if times is None else times)


@pytest.mark.parametrize("fps", [23.976, 30.0, 200.0])
def test_elan_files_keep_every_millisecond_and_every_frame(tmp_path, fps):
    """Through the file and back: the times that were written, and the frames that they stand for."""
    item, path = found(fps), tmp_path / "s1.eaf"
    write_intervals([item], path, "eaf")
    file = Eaf(str(path))
    written = {name: sorted(file.get_annotation_data_for_tier(name)) for name in file.get_tier_names()}
    assert set(written) == {"expression", "apex", "blink", "speech", "not measurable"}
    expected = [(round(1000 * one.onset / fps), round(1000 * (one.offset + 1) / fps)) for one in item.expressions]
    assert [(start, end) for start, end, _ in written["expression"]] == expected
    assert written["expression"][0][2] == "micro: left inner brow, right inner brow (score 12.3)"
    assert written["expression"][1][2].startswith("macro: ")
    assert [value for *_, value in written["apex"]] == ["frame 77", "frame 377"]
    assert written["not measurable"][0][2] == "the head turns too far"
    assert written["speech"] == []
    back = [item.frames(start, end) for start, end, _ in read_annotations(path)]
    assert back == [(one.onset, one.offset) for one in item.expressions]


def test_elan_files_follow_a_variable_frame_rate(tmp_path):
    times = np.cumsum([0.0, *([0.01, 0.02] * 300)])[:600]
    item, path = found(1 / 0.015, times), tmp_path / "s1.eaf"
    write_intervals([item], path, "eaf")
    start, end, _ = read_annotations(path)[0]
    assert (start, end) == (round(1000 * times[61]), round(1000 * times[94]))
    assert item.frames(start, end) == (61, 93)
    row = next(csv.DictReader(io.StringIO(as_text([item], "csv"))))
    assert float(row["onset_seconds"]) == pytest.approx(times[61], abs=1e-3)


def test_an_elan_file_links_its_video_and_the_same_gives_the_same_bytes(brow_video, tmp_path):
    item = found(video=str(brow_video))
    for name in ("one.eaf", "two.eaf"):
        write_intervals([item], tmp_path / name, "eaf")
    ((path, relative, kind),) = [
        (item["MEDIA_URL"], item["RELATIVE_MEDIA_URL"], item["MIME_TYPE"])
        for item in Eaf(str(tmp_path / "one.eaf")).get_linked_files()
    ]
    assert path == brow_video.absolute().as_uri()
    assert (tmp_path / relative).resolve() == brow_video.resolve()
    assert kind == "video/mp4"
    assert (tmp_path / "one.eaf").read_bytes() == (tmp_path / "two.eaf").read_bytes()


def test_megc_form():
    """Expressions only, frames numbered from 1, the video's name without a suffix."""
    assert as_text([found(), found(video="b/s2.mp4", intervals=[])], "megc") == (
        "vid,pred_onset,pred_offset,type\ns1,62,94,me\ns1,302,454,mae\n"
    )


def test_tables_and_json_of_one_video_and_of_several():
    one = list(csv.DictReader(io.StringIO(as_text([found()], "csv"))))
    both = list(csv.DictReader(io.StringIO(as_text([found(), found(video="s2")], "csv"))))
    assert "video" not in one[0]
    assert [row["video"] for row in both] == ["somewhere/s1.mp4"] * 3 + ["s2"] * 3
    assert {name: value for name, value in both[0].items() if name != "video"} == one[0]
    data = json.loads(as_text([found()], "json"))
    assert [item["kind"] for item in data["intervals"]] == ["expression", "blink", "expression"]
    assert data["not_measurable"][0]["reason"] == "the head turns too far"
    assert [item["video"] for item in json.loads(as_text([found(), found(video="s2")], "json"))][1] == "s2"


def test_what_a_file_is_told_by():
    assert format_of(Path("a.eaf"), None) == "eaf"
    assert format_of(Path("a.txt"), "csv") == "csv"
    assert format_of(None, None) is None
    with pytest.raises(ValueError, match=r"a.txt: the suffix .txt stands for no format"):
        format_of(Path("a.txt"), None)


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "a.csv"
    write_intervals([found()], path, "csv")
    with pytest.raises(FileExistsError, match="exists already"):
        write_intervals([found()], path, "csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_intervals([found()], tmp_path / "nowhere" / "a.csv", "csv")
    with pytest.raises(ValueError, match="is about one video"):
        write_intervals([found(), found()], tmp_path / "a.eaf", "eaf")
    assert [item.name for item in tmp_path.iterdir()] == ["a.csv"]


def annotated(path, tiers):
    file = Eaf()
    file.remove_tier("default")
    for name, spans in tiers.items():
        file.add_tier(name)
        for start, end in spans:
            file.add_annotation(name, start, end, "x")
    file.to_file(str(path))
    return path


def test_the_score_is_that_of_the_packages_metric(tmp_path):
    """One found, one missed, one proposed for nothing; blinks are not proposals."""
    path = annotated(tmp_path / "a.eaf", {"faces": [(310, 470), (2500, 2700)], "notes": []})
    score = scored(found(), read_annotations(path))
    assert score == {"f1": 0.5, "true_positives": 1, "false_positives": 1, "false_negatives": 1}
    assert score_text(score).startswith("F1 0.50 at IoU 0.5: 1 of 2 annotated expressions are found")
    assert scored(found(intervals=[]), [])["f1"] == 0.0


def test_which_tier_is_meant(tmp_path):
    several = annotated(tmp_path / "a.eaf", {"a": [(0, 10)], "b": [(5, 20)], "c": []})
    with pytest.raises(ValueError, match=r"2 tiers have annotations. Name one with --tier: a, b\."):
        read_annotations(several)
    assert read_annotations(several, "b") == [(5, 20, "x")]
    assert read_annotations(several, "c") == []
    with pytest.raises(ValueError, match=r"no tier 'd'. Name one with --tier: a, b, c."):
        read_annotations(several, "d")
    own = annotated(tmp_path / "b.eaf", {"expression": [(0, 10)], "blink": [(5, 20)]})
    assert read_annotations(own) == [(0, 10, "x")]
    (tmp_path / "c.eaf").write_text("<no></yes>")
    with pytest.raises(ValueError, match=r"c.eaf: not an ELAN file"):
        read_annotations(tmp_path / "c.eaf")


def test_a_video_is_spotted_with_its_times(spotted_video):
    noted = []
    item = spotted(str(spotted_video), noted=noted.append)
    assert (len(noted), len(item.times), item.fps) == (160, 160, 200.0)
    (shown,) = item.expressions
    assert shown.overlap(60, 92) > 0.5
    assert item.seconds(160) == pytest.approx(0.8)
    assert item.seconds(80) == pytest.approx(0.4)
