import shutil

import openpyxl
import pytest

from deft_llm.hub_datasets.sources.catalogue import ALIASES
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.sheets import frame_number, frame_number_or_none
from deft_llm.hub_datasets.sources.tables import SheetError
from tests.hub_datasets import miniatures
from tests.hub_datasets.miniatures import CASME2_HEADER, DFME_HEADER, write_xls, write_xlsx


def test_rows_are_counted_as_the_spreadsheet_program_does(tmp_path):
    """Blank rows and columns before the table, blank rows within it."""
    lines = [
        [],
        [None, "notes"],
        [],
        CASME2_HEADER,
        [1, "a", None, 1, 2, 3, None, 4, "fear"],
        [],
        [1, "b", None, 1, 2, 3, None, 4, "fear"],
    ]
    for suffix, write in (("xlsx", write_xlsx), ("xls", write_xls)):
        root = tmp_path / suffix
        write(root / f"CASME2-coding-20190701.{suffix}", {"Sheet1": [[None, *line] for line in lines]})
        records, report = read_source("casme2", root, check_frames=False)
        assert [(record.clip, record.row) for record in records] == [("a", 5), ("b", 7)]
        assert report.drops == []


@pytest.mark.parametrize(
    ("position", "title"),
    [
        (position, title)
        for position, name in {
            0: "subject",
            1: "clip",
            3: "onset",
            4: "apex",
            5: "offset",
            7: "action_units",
            8: "emotion",
        }.items()
        for title in (*ALIASES[name], ALIASES[name][0].upper(), f" {ALIASES[name][-1]} ")
    ],
)
def test_columns_are_known_by_every_title_in_use(tmp_path, position, title):
    header = [title if place == position else name for place, name in enumerate(CASME2_HEADER)]
    write_xlsx(
        tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [header, [1, "a", None, 1, 2, 3, None, 4, "fear"]]}
    )
    (record,), _ = read_source("casme2", tmp_path, check_frames=False)
    assert record.clip_id == "casme2/sub01/a/1"
    assert (record.sheet_frames, record.action_units_raw, record.emotion) == ((1, 2, 3), "4", "fear")


def test_no_sheet_names_what_was_expected(tmp_path):
    with pytest.raises(SheetError, match=r"SAMM: no coding sheet.*Micro_FACS_Codes.*sheet=PATH"):
        read_source("samm", tmp_path)


def test_a_sheet_may_lie_one_level_below_or_be_named(tmp_path):
    miniatures.casme2_without_question_marks(tmp_path / "annotation")
    assert len(read_source("casme2", tmp_path, check_frames=False)[0]) == 8
    (tmp_path / "annotation" / "CASME2_label_Ver_2.xls").rename(tmp_path / "mine.xls")
    assert len(read_source("casme2", tmp_path, sheet=tmp_path / "mine.xls", check_frames=False)[0]) == 8
    with pytest.raises(FileNotFoundError, match="no such coding sheet"):
        read_source("casme2", tmp_path, sheet=tmp_path / "yours.xls")


def test_several_releases_in_one_folder_are_not_guessed_between(copied):
    root = copied("casme2")
    shutil.copy(root / "CASME2-coding-20190701.xlsx", root / "CASME2-coding-20140508.xlsx")
    with pytest.raises(SheetError, match=r"several coding sheets, .*20140508.*20190701.*sheet=PATH"):
        read_source("casme2", root)


def test_what_a_spreadsheet_program_leaves_beside_an_open_sheet_is_no_sheet(copied):
    root = copied("samm")
    (root / "~$SAMM_Micro_FACS_Codes_v2.xlsx").write_bytes(b"locked")
    (root / "._SAMM_Micro_FACS_Codes_v2.xlsx").write_bytes(b"metadata")
    (root / "SAMM_Micro_FACS_Codes_v2.xlsx").rename(root / "old SAMM_Micro_FACS_Codes_v2.xlsx")
    with pytest.raises(SheetError, match="no coding sheet"):
        read_source("samm", root)
    (root / "old SAMM_Micro_FACS_Codes_v2.xlsx").rename(root / "SAMM_Micro_FACS_Codes_v2.xlsx")
    assert len(read_source("samm", root)[0]) == 18


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_text_tables_in_the_encodings_and_separators_in_use(tmp_path, encoding, separator):
    line = ["sub0001", "sub0001_01", "1", "2", "3", "disgust", "2", "500", "4"]
    header = [*DFME_HEADER, "备注"]
    text = "\n".join(separator.join(cells) for cells in (header, [*line, "眨眼"]))
    (tmp_path / "DFME.csv").write_bytes(text.encode(encoding))
    (record,), _ = read_source("dfme", tmp_path, check_frames=False)
    assert (record.clip_id, record.fps) == ("dfme/sub0001/sub0001_01/1", 500)


@pytest.mark.parametrize(("column", "renamed", "field"), [(3, "Begin", "onset"), (7, "Muscles", "action_units")])
def test_renamed_columns_are_named_with_those_needed(tmp_path, column, renamed, field):
    header = [renamed if position == column else title for position, title in enumerate(CASME2_HEADER)]
    write_xlsx(
        tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [header, [1, "a", None, 1, 2, 3, None, 4, "fear"]]}
    )
    with pytest.raises(SheetError, match=rf"columns found: Subject, .*{renamed}.*Missing: {field} \("):
        read_source("casme2", tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the sheet is empty"),
        ([CASME2_HEADER], "no clip below the header"),
        (
            [["nothing"], ["of", "the", "kind"]],
            "no header in the first 20 rows of 'Sheet1'. Required are columns for subject",
        ),
    ],
)
@pytest.mark.parametrize(("suffix", "write"), [("xlsx", write_xlsx), ("xls", write_xls)])
def test_empty_sheets(tmp_path, lines, message, suffix, write):
    write(tmp_path / f"CASME2-coding-20190701.{suffix}", {"Sheet1": lines})
    with pytest.raises(SheetError, match=message.replace("(", r"\(")):
        read_source("casme2", tmp_path)


@pytest.mark.parametrize("name", ["CASME2-coding-20190701.xlsx", "CASME2_label_Ver_2.xls"])
@pytest.mark.parametrize("content", [b"", b"<html>log in to download</html>", b"PK\x03\x04 cut off"])
def test_a_damaged_sheet_is_one_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SheetError, match=f"{name}: cannot be read"):
        read_source("casme2", tmp_path)


def test_a_sheet_that_links_out_of_the_root_is_refused(copied, tmp_path):
    root = copied("casme2")
    sheet = root / "CASME2-coding-20190701.xlsx"
    sheet.rename(tmp_path / "sheet.xlsx")
    sheet.symlink_to(tmp_path / "sheet.xlsx")
    with pytest.raises(SheetError, match="a symbolic link out of"):
        read_source("casme2", root)


# --- Tabs -----------------------------------------------------------------------------------------------------------

OWN = ["subject", "path", "onset", "offset"]


def own_book(root, tabs, hidden=()):
    write_xlsx(root / "annotations.xlsx", {name: [OWN, *rows] for name, rows in tabs.items()})
    if hidden:
        book = openpyxl.load_workbook(root / "annotations.xlsx")
        for name in hidden:
            book[name].sheet_state = "hidden"
        book.active = len(tabs) - 1
        book.save(root / "annotations.xlsx")
    return read_source("mylab", root, check_frames=False)


def test_a_hidden_tab_is_not_read_and_the_report_says_so(tmp_path):
    records, report = own_book(tmp_path, {"old": [["p1", "old", 1, 5]], "new": [["p1", "new", 1, 5]]}, ["old"])
    assert [record.clip for record in records] == ["new"]
    assert "annotations.xlsx: the hidden tab 'old' has the same columns and was not read." in report.warnings


def test_a_hidden_tab_is_read_if_no_visible_one_has_the_columns(tmp_path):
    write_xlsx(tmp_path / "annotations.xlsx", {"data": [OWN, ["p1", "a", 1, 5]], "remarks": [["nothing"]]})
    book = openpyxl.load_workbook(tmp_path / "annotations.xlsx")
    book["data"].sheet_state, book.active = "hidden", 1
    book.save(tmp_path / "annotations.xlsx")
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [record.clip for record in records] == ["a"]
    assert any("only the hidden tab 'data'" in warning for warning in report.warnings)


def test_all_tabs_with_the_columns_are_read_and_rows_name_their_tab(tmp_path):
    tabs = {"day 1": [["p1", "a", 1, 5]], "day 2": [["P1", "b", 1, 5], ["p2", "c", "x", 5]], "notes": []}
    records, report = own_book(tmp_path, tabs)
    assert [(record.subject, record.clip, record.sheet, record.row) for record in records] == [
        ("mylab/p1", "a", "annotations.xlsx, tab day 1", 2),
        ("mylab/p1", "b", "annotations.xlsx, tab day 2", 2),
    ]
    assert [(drop.sheet, drop.row) for drop in report.drops] == [("annotations.xlsx, tab day 2", 3)]
    assert any("'day 1' (1 rows), 'day 2' (2 rows), 'notes' (0 rows)" in warning for warning in report.warnings)
    assert report.rows == 3


def test_tabs_that_contradict_each_other_are_not_guessed_between(tmp_path):
    with pytest.raises(
        SheetError, match=r"p1/a is in row 2 of .*tab old and, .*in row 3 of .*tab new\. Hide or delete"
    ):
        own_book(tmp_path, {"old": [["p1", "a", 1, 5]], "new": [["p1", "b", 1, 5], ["p1", "a", 2, 5]]})


def test_tabs_may_hold_other_expressions_of_one_video_and_the_same_row_twice(tmp_path):
    records, report = own_book(tmp_path, {"a": [["p1", "v", 1, 5]], "b": [["p1", "v", 6, 9], ["p1", "v", 1, 5]]})
    assert [record.clip_id for record in records] == ["mylab/p1/v/1", "mylab/p1/v/6"]
    assert [drop.reason for drop in report.drops] == ["same subject, clip and onset as row 2"]


# --- Rows and numbers -----------------------------------------------------------------------------------------------


def test_a_comma_in_a_cell_of_a_comma_table_is_named_and_moves_no_other_cell(tmp_path):
    text = "subject,path,AU,emotion\np1,a,4,7,disgust\np1,b,4+7,disgust,,\np1,c\n"
    (tmp_path / "annotations.csv").write_text(text, encoding="utf-8")
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [(record.clip, record.emotion) for record in records] == [("b", "disgust"), ("c", None)]
    (drop,) = report.drops
    assert (drop.row, drop.reason) == (
        2,
        "it has 5 cells and the header has 4; put a cell that contains the separator into quotation marks: "
        "p1 a 4 7 disgust",
    )


def test_a_line_break_in_a_key_cell_is_named(tmp_path):
    (tmp_path / "annotations.csv").write_text('subject,path\np1,"a\np1,b"\np2,c\n', encoding="utf-8")
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [record.clip for record in records] == ["c"]
    assert "the cell for path contains a line break; check the quotation marks" in report.drops[0].reason


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(
            (text, None)
            for text in ("", "/", "\\", "-", "-1", "?", "—", "none", "NaN", "n/a", "NA", "#N/A", "TBD", ".")
        ),
        *((text, 10) for text in ("10", "10.0", "10,0", "10,00", "1e1", "１０", "010")),
        *(
            (text, ValueError)
            for text in ("10.5", "10,5", "1,020", "10,000", "img10", "inf", "-2", "1_0", "2147483648", "x")
        ),
    ],
)
def test_frame_numbers_as_they_are_typed(text, number):
    if number is ValueError:
        assert frame_number_or_none(text) is None
        with pytest.raises(ValueError, match=r"\S"):
            frame_number(text)
    else:
        assert frame_number(text) == number


@pytest.mark.parametrize(("text", "fps"), [("29,97", 29.97), ("29.97", 29.97), ("59,9401", 59.9401), ("200", 200)])
def test_decimal_commas_are_read(tmp_path, text, fps):
    (tmp_path / "annotations.csv").write_text(f"subject;path;fps\np1;a;{text}\n", encoding="utf-8")
    (record,), report = read_source("mylab", tmp_path, check_frames=False)
    assert record.fps == fps
    assert not any("frame rate" in warning for warning in report.warnings)


@pytest.mark.parametrize("text", ["1,000", "fast", "-5", "0", "inf"])
def test_a_frame_rate_that_is_not_clear_is_named(tmp_path, text):
    (tmp_path / "annotations.csv").write_text(f"subject;path;fps\np1;a;{text}\n", encoding="utf-8")
    (record,), report = read_source("mylab", tmp_path, check_frames=False)
    assert (record.fps, "fps_unknown" in record.quality) == (None, True)
    assert any(f"row 2, p1/a: the frame rate {text!r} is not read" in warning for warning in report.warnings)


def test_the_file_of_objective_classes_is_never_the_coding_sheet(tmp_path):
    write_xlsx(tmp_path / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": [["Subject", "Filename", "Objective Class"]]})
    with pytest.raises(SheetError, match="CASME II: no coding sheet"):
        read_source("casme2", tmp_path)
