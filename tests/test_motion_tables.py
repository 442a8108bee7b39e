import csv
from pathlib import Path

import numpy as np
import pytest

from deft_llm.frame_motion import frame_motions, middle_and_width
from deft_llm.motion_tables import COLUMNS, FORMATS, Summary, frame_rows, open_table
from deft_llm.processing import AlignedClip
from deft_llm.processing.region_tracking import TRACKED_REGIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def motions(brow_clip):
    clip = AlignedClip.open(brow_clip.frames, face_source="canonical")
    return list(frame_motions(clip.follow(), 200.0, reference="first"))


def rows_of(motions):
    width = middle_and_width(motions[0].followed.exact)[2]
    rows = [row for number, item in enumerate(motions) for row in frame_rows(number, number / 200, 0, item, width)]
    return [*rows, *frame_rows(len(motions), len(motions) / 200, 0, None, width, "no face was found")]


def test_rows_say_what_was_measured(motions):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(motions)]
    assert len(rows) == 24 * (len(motions) + 1)
    assert [(row["region"], row["side"]) for row in rows[:24]] == list(TRACKED_REGIONS)
    brow = next(row for row in rows if row["frame"] == 19 and (row["region"], row["side"]) == ("inner brow", "left"))
    assert brow["v"] > 0.5
    assert brow["magnitude"] == pytest.approx(np.hypot(brow["u"], brow["v"]), abs=2e-4)
    assert brow["significant"]
    assert brow["time"] == 0.095
    assert brow["scale"] == pytest.approx(1, abs=0.02)
    assert (brow["x"], brow["y"]) == pytest.approx((80, 80), abs=3)
    last = rows[-1]
    assert (last["valid"], last["reason"]) == (False, "no face was found")
    assert [name for name in COLUMNS if last[name] is None] == list(COLUMNS)[7:]


@pytest.mark.parametrize("kind", FORMATS)
def test_tables_hold_what_is_written(motions, tmp_path, kind):
    rows = rows_of(motions)
    paths = [tmp_path / f"{name}.{kind}" for name in ("one", "two")]
    for path in paths:
        table = open_table(path, kind)
        for start in range(0, len(rows), 24):
            table.write(rows[start : start + 24])
        table.close()
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if kind == "csv":
        with open(paths[0], newline="", encoding="utf-8") as file:
            header, *read = csv.reader(file)
        told = {None: "", True: "true", False: "false"}
        assert read == [
            [
                told[value] if value is None or (value in (True, False) and isinstance(value, bool)) else str(value)
                for value in row
            ]
            for row in rows
        ]
        assert header == list(COLUMNS)
    else:
        import pyarrow.parquet

        read = pyarrow.parquet.read_table(paths[0])
        assert read.column_names == list(COLUMNS)
        assert [str(field.type).replace("double", "float64") for field in read.schema] == list(COLUMNS.values())
        assert list(zip(*read.to_pydict().values(), strict=True)) == rows


def test_the_summary_names_the_strongest_motion_and_why_frames_are_missing(motions):
    summary = Summary()
    for number, item in enumerate(motions):
        summary.add(number, number / 200, item)
    summary.add(len(motions), len(motions) / 200, None, "no face was found")
    row = summary.row()
    assert row["strongest_region"] == "inner brow"
    assert abs(row["strongest_frame"] - 19) <= 4
    assert row["measured_frames"] == len(motions)
    assert row["reason"] == "no face was found"
    nothing = Summary()
    nothing.add(0, 0.0, None, "dark")
    assert nothing.row()["strongest_region"] is None
    assert nothing.row()["mean_error"] is None


def test_the_page_explains_every_column():
    page = (ROOT / "docs" / "measure.md").read_text(encoding="utf-8")
    for name in COLUMNS:
        assert f"| `{name}`" in page, name
