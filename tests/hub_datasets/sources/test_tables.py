"""Files as tables: encodings, separators, merged cells, hidden tabs and JSON lines."""

import codecs
import json

import openpyxl
import pytest
import xlwt

from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.tables import SheetError, cell_text, columns_of, plain_title, read_workbook

HEADER = ["subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion"]


def table(path, **settings):
    (lines,) = read_workbook(path, **settings).tabs.values()
    return lines


def write(path, rows, separator=",", encoding="utf-8", end="\n"):
    path.write_bytes(end.join(separator.join(map(str, row)) for row in rows).encode(encoding))
    return path


# --- Encodings ------------------------------------------------------------------------------------------------------

NAMES = {
    "mac-roman": "Andrés",
    "shift-jis": "田中",
    "big5": "陳小明",
    "gb18030": "陈小明",
    "cp1252": "Andrés Müller",
    "euc-kr": "김민수",
}


@pytest.mark.parametrize(("encoding", "name"), NAMES.items())
def test_an_encoding_that_is_not_stated_is_an_error_that_names_it_and_one_that_is_gives_the_names(
    tmp_path, encoding, name
):
    sheet = write(tmp_path / "annotations.csv", [HEADER, ["1", "plain", *[""] * 6], [name, "a"]], encoding=encoding)
    with pytest.raises(SheetError, match=r"annotations\.csv: .* neither UTF-8 nor UTF-16\. Line 3 has") as caught:
        read_source("mylab", tmp_path, check_frames=False)
    assert f"{name!r} in {encoding}" in str(caught.value)
    assert "--sheet-encoding NAME=ENCODING" in str(caught.value)
    records, _ = read_source("mylab", tmp_path, check_frames=False, encoding=encoding)
    assert [record.subject for record in records] == ["mylab/1", f"mylab/{name}"]
    assert table(sheet, fallback=encoding)[2][0] == name


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
@pytest.mark.parametrize("separator", [",", "\t"])
def test_unicode_needs_no_statement(tmp_path, encoding, mark, separator):
    path = write(tmp_path / "a.csv", [HEADER, ["Andrés 田中", "a"]], separator, encoding)
    path.write_bytes(mark + path.read_bytes())
    assert table(path) == [HEADER, ["Andrés 田中", "a"]]


def test_a_wrong_or_unknown_encoding_is_named(tmp_path):
    path = write(tmp_path / "a.csv", [HEADER, ["1", "a"], ["Andrés", "b"]], encoding="cp1252")
    with pytest.raises(SheetError, match=r"a\.csv, line 3: not valid utf-8"):
        read_workbook(path, "utf-8")
    with pytest.raises(SheetError, match="'latin-99' is not an encoding"):
        read_workbook(path, "latin-99")


# --- Text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_separator_is_the_one_of_the_header(tmp_path, separator, end):
    unit = '"1,2,4,5"' if separator == "," else "1,2,4,5"
    path = write(tmp_path / "a.csv", [["subject", "path", "AU"], ["1", "a", unit]], separator, end=end)
    assert table(path) == [["subject", "path", "AU"], ["1", "a", "1,2,4,5"]]


def test_the_separator_of_a_file_without_known_titles_is_the_most_frequent(tmp_path):
    assert table(write(tmp_path / "a.csv", [["person", "where"], ["1", "a"]], ";")) == [
        ["person", "where"],
        ["1", "a"],
    ]


def test_a_quotation_mark_that_is_not_closed_is_an_error_that_names_the_row(tmp_path):
    path = write(tmp_path / "a.csv", [HEADER, ["1", "a"], ["2", '"b'], ["3", "c"]])
    with pytest.raises(SheetError, match=r"a\.csv, line 4: .*row 3 or above is not closed"):
        read_workbook(path)


def test_json_lines_keep_the_numbers_of_the_file_and_name_lines_that_cannot_be_read(tmp_path):
    items = [{"subject": "1", "path": "a", "AU": [4, "L12"]}, {"subject": "2", "path": "b", "AU": {"4": 1}}]
    lines = [json.dumps(items[0]), "", "[1]", json.dumps(items[1]), '{"subject": ', '{"subject": "3", "path": "c"}']
    (tmp_path / "annotations.jsonl").write_text("\n".join(lines), encoding="utf-8")
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [(record.row, record.subject) for record in records] == [(1, "mylab/1"), (6, "mylab/3")]
    assert [(unit.code, unit.side) for unit in records[0].action_units.units] == [(4, None), (12, "L")]
    assert {drop.row: drop.reason.partition(" (")[2][:21] for drop in report.drops} == {
        3: "it is not an object):",
        4: "the value of 'AU' is ",
        5: "Expecting value: line",
    }


def test_json_lines_of_which_none_can_be_read_are_one_error(tmp_path):
    (tmp_path / "annotations.jsonl").write_text("<html>\n</html>", encoding="utf-8")
    with pytest.raises(SheetError, match="no line can be read; line 1 is not a JSON object"):
        read_source("mylab", tmp_path)


# --- Spreadsheets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["xlsx", "xls"])
def test_merged_cells_hold_their_value_in_every_row(tmp_path, suffix):
    path = tmp_path / f"annotations.{suffix}"
    rows = [["subject", "path", "AU"], ["p1", "a", 4], [None, "b", 7], [None, "c", 12], ["p2", "d", 4]]
    if suffix == "xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.active.merge_cells("A2:A4")
        book.save(path)
    else:
        book = xlwt.Workbook()
        tab = book.add_sheet("a")
        for row, line in enumerate(rows):
            for column, cell in enumerate(line):
                if cell is not None and (row, column) != (1, 0):
                    tab.write(row, column, cell)
        tab.write_merge(1, 3, 0, 0, "p1")
        book.save(str(path))
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [(record.row, record.subject) for record in records] == [
        (2, "mylab/p1"),
        (3, "mylab/p1"),
        (4, "mylab/p1"),
        (5, "mylab/p2"),
    ]
    assert report.drops == []


def test_hidden_tabs_are_marked(tmp_path):
    book = openpyxl.Workbook()
    book.active.append([1])
    book.create_sheet("old").append([2])
    book["old"].sheet_state = "veryHidden"
    book.save(tmp_path / "a.xlsx")
    read = read_workbook(tmp_path / "a.xlsx")
    assert (list(read.tabs), read.hidden) == (["Sheet", "old"], frozenset({"old"}))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (4, "4"),
        (4.0, "4"),
        (4.5, "4.5"),
        (None, ""),
        (float("nan"), ""),
        ([4, 7.0, "L12"], "4, 7, L12"),
        ("\ufeff 4\u200b+7\xa0", "4+7"),
        ("1\u200d2", "12"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # joins the letters of a word
    ],
)
def test_cells_are_text_without_invisible_characters(cell, text):
    assert cell_text(cell) == text


def test_titles_are_known_without_case_and_punctuation():
    assert plain_title(" On-set_Frame ") == "onsetframe"
    assert columns_of(["Sub", "", "Onset Frame", "AUs", "Remarks?"]) == {
        "subject": 0,
        "onset": 2,
        "action_units": 3,
        "notes": 4,
    }
