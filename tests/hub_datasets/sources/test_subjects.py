import pytest

from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.subjects import name_subjects, numbered, one_name_each
from deft_llm.hub_datasets.sources.tables import SheetError
from tests.hub_datasets.miniatures import CASME2_HEADER, write_csv, write_xlsx

SPELLINGS = ["1", "01", 1, 1.0, "sub01", "Sub 01", "S01", "sub1", "sub_01", "sub-01", "subject1", "１", "SUB01 "]


def test_a_numbered_participant_has_one_name_however_it_is_written(tmp_path):
    rows = [[name, f"EP{number}", None, 1, 2, 3, None, 4, "fear"] for number, name in enumerate(SPELLINGS)]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    records, report = read_source("casme2", tmp_path, check_frames=False)
    assert {record.subject for record in records} == {"casme2/sub01"}
    assert (len(records), report.subjects) == (len(SPELLINGS), 1)


@pytest.mark.parametrize(
    ("text", "template", "name"),
    [("7", "{:03d}", "007"), ("a7", "s{:02d}", "s07"), ("1a", "sub{:02d}", "1a"), ("spNO.1", "{}", "spNO.1")],
)
def test_the_template_is_of_the_source(text, template, name):
    assert numbered(text, template) == name


def test_one_person_of_own_recordings_has_one_name_and_the_report_says_so(tmp_path):
    names = ["sub_01", "Sub 01", "1", "01", "sub2", "p1-1", "p11", "Andre\u0301", "André", "casme2/1", "casme2/sub01"]
    write_csv(tmp_path / "annotations.csv", [["subject", "path"], *([name, f"c{i}"] for i, name in enumerate(names))])
    records, report = read_source("mylab", tmp_path, check_frames=False)
    assert [record.subject for record in records] == [
        *["mylab/sub_01"] * 4,
        "mylab/sub2",
        "mylab/p1-1",
        "mylab/p11",
        *["mylab/Andre\u0301"] * 2,
        *["casme2/sub01"] * 2,
    ]
    said = [warning for warning in report.warnings if "one person" in warning]
    assert len(said) == 2
    assert said[0].startswith(
        "annotations.csv: the subjects 'sub_01', 'Sub 01', '1', '01' are read as one person, 'sub"
    )


@pytest.mark.parametrize(
    ("names", "people"),
    [
        (["a1", "b1", "c1"], 3),
        (["s1", "p1", "s01"], 2),
        (["p1", "participant-1", "1"], 1),
        (["1", "2", "10"], 3),
        (["1-1", "11", "1_1"], 2),
        (["sub1", "2", "subject 2"], 2),
        (["anna", "Anna", "ANNA "], 1),
        (["?", "!"], 2),
        (["9" * 5000, "0" + "9" * 5000], 1),
    ],
)
def test_people_are_told_apart(names, people):
    assert len(set(one_name_each(names).values())) == people


def test_a_number_that_may_be_one_of_two_people_is_an_error(tmp_path):
    write_csv(tmp_path / "annotations.csv", [["subject", "path"], ["s1", "a"], ["p1", "b"], ["1", "c"]])
    with pytest.raises(SheetError, match=r"annotations\.csv: The subject '1' may be 's1' or 'p1'"):
        read_source("mylab", tmp_path, check_frames=False)
    assert name_subjects([], "{}", "annotations.csv") == []
