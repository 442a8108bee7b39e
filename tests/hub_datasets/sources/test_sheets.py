import shutil

import pytest

from deft_llm.hub_datasets.sources.catalogue import ALIASES
from deft_llm.hub_datasets.sources.readers import read_source
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
