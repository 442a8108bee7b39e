from dataclasses import replace

import pytest

from deft_llm.hub_datasets.sources.catalogue import ALIASES, SOURCES
from deft_llm.hub_datasets.sources.errata import ERRATA, UNUSABLE, Erratum
from deft_llm.hub_datasets.sources.readers import read_source
from tests.hub_datasets import miniatures


def test_the_errata_speak_of_known_sources_releases_and_fields():
    assert len(set(ERRATA)) == len(ERRATA)
    for item in ERRATA:
        assert item.rows in SOURCES[item.source].versions
        assert 0 <= item.row < item.rows
        assert item.field in ALIASES
        assert "meb" in item.why


def test_an_erratum_is_applied_where_the_row_is_wrong_and_listed(roots):
    wrong = Erratum("cas-me3a", 8, 3, "offset", UNUSABLE, "18", "apex after offset")
    (*_, before), (*_, after) = (
        [r for r in read_source("cas-me3a", roots["cas-me3a"], errata=errata)[0] if r.sheet_frames[:2] == (2, 12)]
        for errata in ((), (wrong,))
    )
    assert (before.sheet_frames, before.apex) == ((2, 12, 9), None)
    assert (after.sheet_frames, after.apex) == ((2, 12, 18), 10)
    assert "erratum:offset" in after.quality
    _, report = read_source("cas-me3a", roots["cas-me3a"], errata=(wrong,))
    (note,) = report.errata
    assert (note.applied, note.found) == (True, "9")
    assert "erratum applied" in str(report)


@pytest.mark.parametrize(
    "erratum",
    [
        Erratum("cas-me3a", 8, 0, "apex", UNUSABLE, "10", "the row is usable as it stands"),
        Erratum("cas-me3a", 8, 0, "apex", "8", "10", "the sheet has another value"),
    ],
)
def test_an_erratum_that_does_not_fit_is_listed_and_changes_nothing(roots, erratum):
    plain, _ = read_source("cas-me3a", roots["cas-me3a"])
    records, report = read_source("cas-me3a", roots["cas-me3a"], errata=(erratum,))
    assert records == plain
    assert [note.applied for note in report.errata] == [False]
    assert "not applied" in str(report)


def test_an_erratum_that_would_leave_the_row_unusable_is_not_applied(roots):
    """A value of another row: 0 is not after the onset."""
    wrong = Erratum("cas-me3a", 8, 3, "offset", UNUSABLE, "1", "apex after offset")
    _, report = read_source("cas-me3a", roots["cas-me3a"], errata=(wrong,))
    assert [note.applied for note in report.errata] == [False]


def test_an_erratum_counts_micro_expressions_so_the_full_sheet_is_corrected_too(tmp_path):
    root = miniatures.cas_me3a_full(tmp_path)  # seven micro-expressions and one macro-expression
    path = root / "CAS(ME)3_part_A_v2.xls"
    lines = [["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Expression type", "Objective class"]]
    lines += [["spNO.9", "z", "1", "2", "3", "4", "Macro-expression", "III"]]
    lines += [[*row[:6], "Micro-expression", row[6]] for row in miniatures.CAS_ME3_ROWS]
    miniatures.write_xls(path, {"AU+Emotion": lines})
    wrong = Erratum("cas-me3a", 8, 3, "offset", UNUSABLE, "18", "apex after offset")
    records, report = read_source("cas-me3a", root, errata=(wrong,), check_frames=False)
    assert (2, 12, 18) in {record.sheet_frames for record in records}
    assert [(note.applied, note.key) for note in report.errata] == [(True, "row 6, spNO.2/a")]


def test_a_value_that_is_right_already_is_not_called_a_difference(roots):
    item = Erratum("cas-me3a", 8, 0, "apex", UNUSABLE, "9", "a slip of the pen")
    _, report = read_source("cas-me3a", roots["cas-me3a"], errata=(item,))
    text = str(report)
    assert "erratum not needed: row 2, spNO.1/a, apex is '9' in this sheet" in text
    assert "not applied" not in text


def test_the_slip_of_casme2_is_corrected_in_both_releases_that_have_it():
    found = {(item.rows, item.row, item.new) for item in ERRATA if item.source == "casme2"}
    assert found == {(255, 60, "91"), (256, 60, "91")}


def test_an_erratum_of_another_release_is_not_tried(roots):
    _, report = read_source(
        "cas-me3a", roots["cas-me3a"], errata=(Erratum("cas-me3a", 860, 0, "apex", "9", "10", "-"),)
    )
    assert report.errata == []


def test_an_erratum_may_rest_on_what_is_on_the_disk(roots):
    """Row 4 names frame 0, which is not there: usable by its numbers alone."""
    fix = Erratum("cas-me3a", 8, 4, "onset", UNUSABLE, "1", "0.jpg is missing")
    records, _ = read_source("cas-me3a", roots["cas-me3a"], errata=(fix,))
    assert "cas-me3a/spNO.2/b/1" in {record.clip_id for record in records}
    _, report = read_source("cas-me3a", roots["cas-me3a"], errata=(fix,), check_frames=False)
    assert [note.applied for note in report.errata] == [False]


def test_swapped_rows_of_4dme_are_put_right_only_where_they_are_swapped(tmp_path):
    swap = [
        replace(item, rows=4, row=item.row - 144, new=f"from row {item.donor - 144}")
        for item in ERRATA
        if item.source == "4dme"
    ]
    for swapped in (True, False):
        root = miniatures.four_dme(tmp_path / str(swapped), swapped=swapped)
        records, report = read_source("4dme", root, errata=swap)
        assert [record.action_units_raw for record in records[:2]] == ["AU4+AU7 (k)", "AU12"]
        assert [note.applied for note in report.errata] == [swapped, swapped]
        assert "emotion_columns_disagree" not in records[0].quality + records[1].quality
        unfixed = read_source("4dme", root, errata=())[0]
        assert ("emotion_columns_disagree" in unfixed[0].quality) == swapped
