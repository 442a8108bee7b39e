"""What a visitor keeps: the files are in their links, say what the report says, and the film shows what moved."""

import base64
import csv
import io
import json
import re
from dataclasses import replace

import av
import numpy as np
import pytest

from deft_llm.explained_rows import COLUMNS as OF_THE_COMMAND
from deft_llm.processing import ExpressionReport
from downloads import COLUMNS, HOLDS, SIDE, STRIP, encoded, links, marked_film, table


def files_of(page):
    """Name → content of the files in a page's links."""
    found = re.findall(r'<a class="deft-keep" download="([^"]+)" href="data:[^;]+;base64,([^"]+)">', page)
    return {name: base64.b64decode(content) for name, content in found}


def pictures_of(film):
    with av.open(io.BytesIO(film)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def rows_of(explanation):
    return list(csv.DictReader(io.StringIO(table(explanation))))


def orange(picture):
    """(rows, columns) of the arrows and outlines."""
    red, green, blue = np.moveaxis(picture[STRIP:-STRIP].astype(int), -1, 0)
    return np.nonzero((red > 215) & (blue < 110) & (green > 120))


def grey(explanation):
    return replace(explanation, film=np.full_like(explanation.film, 100))


def test_the_links_contain_their_files(explanation):
    files = files_of(links(explanation))
    assert list(files) == ["report.json", "report.csv", "explanation.mp4"]
    assert json.loads(files["report.json"]) == json.loads(json.dumps(explanation.to_json()))
    assert files["report.csv"].decode() == table(explanation)
    assert len(pictures_of(files["explanation.mp4"])) > 16


def test_the_table_has_the_columns_of_the_command(explanation):
    assert list(OF_THE_COMMAND) == COLUMNS
    (row,) = rows_of(explanation)
    assert (row["action_unit"], row["region"], row["direction"], row["magnitude"]) == (
        "AU4",
        "inner brow",
        "down",
        "0.7",
    )
    assert (row["emotion"], row["emotion_score"], row["onset"], row["apex_seconds"]) == ("anger", "0.75", "2", "0.05")
    assert (row["clip"], row["interval"]) == ("", "")  # the name of an upload is not kept


def test_the_files_of_an_interval_are_named_after_it(explanation):
    found = replace(explanation, interval=3, title="Expression 3, 2.00 to 2.30 s")
    assert list(files_of(links(found))) == ["expression-3.json", "expression-3.csv", "expression-3.mp4"]
    assert [row["interval"] for row in rows_of(found)] == ["3"]


def test_a_clip_that_cannot_be_measured_has_no_film(explanation):
    report = ExpressionReport.not_measurable("the head turns too far").to_dict()
    lost = replace(explanation, report=report, film=explanation.film[:0], keys=None, moved=[])
    assert list(files_of(links(lost))) == ["report.json", "report.csv"]
    (row,) = rows_of(lost)
    assert (row["status"], row["reason"], row["onset"]) == ("not_measurable", "the head turns too far", "")


def test_the_film_stops_at_the_key_frames(explanation):
    shown = pictures_of(marked_film(explanation))
    assert shown[0].shape == (SIDE + 2 * STRIP, SIDE, 3)
    assert len(shown) == 16 + sum(HOLDS.values()) - 3


def test_arrows_start_in_their_region_and_go_its_way(explanation):
    """The left inner brow, right of the middle, moves down and to the middle until the apex."""
    shown = pictures_of(marked_film(grey(explanation)))
    start, apex = shown[0], shown[2 + HOLDS["onset"] + 7 + 5]
    assert not len(orange(start)[0])  # before the onset
    rows, columns = orange(apex)
    x, y = 0.59 * SIDE, 0.2 * SIDE
    tip = np.array([x - 10 * 0.008 * SIDE, y + 10 * 0.008 * SIDE])
    assert np.hypot(columns - tip[0], rows - tip[1]).min() < 6
    opposite = 2 * np.array([x, y]) - tip
    assert np.hypot(columns - opposite[0], rows - opposite[1]).min() > 6
    assert np.hypot(columns - x, rows - y).max() < 0.15 * SIDE


def test_whatever_a_model_says_can_be_kept(explanation):
    report = explanation.report | {"emotion": '愤怒, "x"\n<b>', "scores": {}, "rationale": "a;\nb"}
    odd = replace(explanation, report=report, moved=[], fps=None)
    (row,) = rows_of(odd)
    assert (row["emotion"], row["rationale"], row["onset_seconds"]) == ('愤怒, "x"\n<b>', "a;\nb", "")
    assert set(files_of(links(odd))) == {"report.json", "report.csv", "explanation.mp4"}


@pytest.mark.parametrize("shape", [(64, 48), (120, 256)])
def test_frames_are_encoded_upright_in_their_size(shape):
    frames = np.zeros((3, *shape, 3), np.uint8)
    frames[:, : shape[0] // 2] = 200
    shown = pictures_of(encoded(frames))
    assert len(shown) == 3
    assert shown[0].shape == (*shape, 3)
    assert shown[0][:10].mean() > 180 > 20 > shown[0][-10:].mean()
