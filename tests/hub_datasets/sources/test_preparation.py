"""Second sheets and further intervals of single sources; the rest is tested with its source in `test_catalogue`."""

import pytest

from deft_llm.hub_datasets.sources.preparation import SheetRow, is_micro, prepare_smic
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.tables import SheetError
from tests.hub_datasets.miniatures import CASME2_HEADER, write_frames, write_xlsx

SMIC_HEADER = "Subject Filename FirstF OnsetF OffsetF Onset2F Offset2F Onset3F Offset3F Emotion".split()


def write_smic(root, name="SMIC-HS-E_annotation.xlsx"):
    """The form of the released workbook: one tab per camera, named after them; rows with up to three intervals."""
    high_speed = [
        ["s1", "s1_ne_01", 10, 12, 18, None, None, None, None, "negative"],
        ["s1", "s1_po_02", 10, 12, 18, 22, 27, 31, 36, "positive"],
        [3, "s3_sur_01", 10, 12, 18, 20, 25, None, None, "surprise"],
    ]
    visible = [["s20", "s20_ne_01", 10, 11, 14, 15, 19, None, None, "negative"]]
    tabs = {
        "HS": [SMIC_HEADER, *high_speed],
        "VIS": [SMIC_HEADER[:7] + ["Emotion"], *([*r[:7], r[9]] for r in visible)],
    }
    write_xlsx(root / name, tabs)
    return root


def test_further_intervals_of_smic_are_clips_with_ids_of_their_own(tmp_path):
    root = write_smic(tmp_path)
    for subject, clip in (("s01", "s1_ne_01"), ("s01", "s1_po_02"), ("s03", "s3_sur_01")):
        folder = root / "SMIC-HS-E" / "HS" / subject / clip
        write_frames([folder / f"image{number:06d}.jpg" for number in range(10, 40)], f"smic{subject}", 7)
    records, report = read_source("smic-hs", root)
    assert [(record.clip_id, record.sheet_frames, record.row) for record in records] == [
        ("smic-hs/s01/s1_ne_01/12", (12, None, 18), 2),
        ("smic-hs/s01/s1_po_02/12", (12, None, 18), 3),
        ("smic-hs/s01/s1_po_02/22", (22, None, 27), 3),
        ("smic-hs/s01/s1_po_02/31", (31, None, 36), 3),
        ("smic-hs/s03/s3_sur_01/12", (12, None, 18), 4),
        ("smic-hs/s03/s3_sur_01/20", (20, None, 25), 4),
    ]
    assert records[3].quality == ("interval:3", "apex_missing")
    assert records[3].emotion == "positive"
    assert records[3].files == tuple(f"image{number:06d}.jpg" for number in range(31, 37))
    assert (report.rows, report.drops) == (3, [])
    assert "3 further intervals of the same rows (Onset2F, …) are clips of their own." in report.warnings


def test_every_camera_of_smic_reads_its_own_tab(tmp_path):
    root = write_smic(tmp_path)
    records, _ = read_source("smic-vis", root, check_frames=False)
    assert [record.clip_id for record in records] == ["smic-vis/s20/s20_ne_01/11", "smic-vis/s20/s20_ne_01/15"]
    given, _ = read_source("smic-vis", root, sheet=root / "SMIC-HS-E_annotation.xlsx", check_frames=False)
    assert given == records
    with pytest.raises(SheetError, match=r"no tab 'NIR' .*; tabs found: 'HS', 'VIS'\. The file name says .* of HS"):
        read_source("smic-nir", root, check_frames=False)


def test_an_interval_without_its_end_is_dropped_by_name(tmp_path):
    write_xlsx(
        tmp_path / "SMIC-HS-E_annotation.xlsx", {"HS": [SMIC_HEADER, ["s1", "a", 1, 2, 8, 9, None, 0, 0, "negative"]]}
    )
    records, report = read_source("smic-hs", tmp_path, check_frames=False)
    assert [record.clip_id for record in records] == ["smic-hs/s01/a/2"]
    assert [(drop.row, drop.key, drop.reason) for drop in report.drops] == [(2, "s01/a/9", "neither offset nor apex")]


def test_rows_with_one_interval_stay_as_they_are():
    rows = [SheetRow(2, {"onset": "1", "offset": "3"}, {"Onset2F": "/", "Offset2F": "", "Remarks": "x"})]
    assert prepare_smic(rows, {}, None) == []
    assert len(rows) == 1
    assert is_micro(rows[0])


def casme2_rows(
    root, header=("Subject", "Filename", "Objective Class"), classes=((1, "EP02_01f", 4), (1, "ep03_02", 7))
):
    rows = [
        [1, "EP02_01f", None, 46, 51, 56, None, "4+10", "disgust"],
        [1, "EP03_02", None, 8, 10, 13, None, "12", "happiness"],
        [4, "EP12_01f", None, 21, "/", 30, None, "4+10", "disgust"],
        [4, "EP13_01f", None, 21, "/", 30, None, "9", "disgust"],
    ]
    write_xlsx(root / "CASME2_label_Ver_2.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    if header:
        write_xlsx(root / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": [list(header), *map(list, classes)]})
    return root


def test_casme2_takes_the_released_objective_classes(tmp_path):
    records, report = read_source("casme2", casme2_rows(tmp_path), check_frames=False)
    assert [record.objective_class for record in records] == ["IV", "VII", "IV", "IV"]
    assert [flag for record in records for flag in record.quality if "objective" in flag] == [
        "objective_class_by_action_units:I"  # of EP03_02: the release goes before the rule
    ]
    assert any(warning.startswith("2 clips are not in the file of objective classes") for warning in report.warnings)
    assert [item["name"] for item in report.sheets] == ["CASME2_label_Ver_2.xlsx", "CASME2-ObjectiveClasses.xlsx"]


def test_casme2_without_the_file_follows_the_release_s_rule(tmp_path):
    records, report = read_source("casme2", casme2_rows(tmp_path, header=()), check_frames=False)
    assert [record.objective_class for record in records] == ["IV", "I", "IV", "IV"]
    assert not any("objective" in warning for warning in report.warnings)


def test_a_file_of_objective_classes_without_its_columns_is_reported(tmp_path):
    records, report = read_source("casme2", casme2_rows(tmp_path, header=("a", "b", "c")), check_frames=False)
    assert records[1].objective_class == "I"
    assert any("it was not used" in warning for warning in report.warnings)
