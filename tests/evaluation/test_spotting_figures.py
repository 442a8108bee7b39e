import json
from dataclasses import replace

import pytest

from deft_llm.cli import main
from deft_llm.evaluation.spotting_figures import Row, read_intervals, score_spotting, spotting_table

ANNOTATED = """vid,onset,offset,type,emotion,subject
006_1,101,120,me,negative,6
006_1,300,419,mae,positive,6
006_2,,,,,6
007_1,50,69,me,surprise,7
007_1,200,219,me,negative,7
"""
SPOTTED = """vid,pred_onset,pred_offset,type,emotion
006_1,103,122,me,negative
006_1,301,420,me,positive
006_2,10,29,me,negative
007_1,50,69,me,negative
"""


@pytest.fixture
def files(tmp_path):
    for name, text in (("annotated", ANNOTATED), ("spotted", SPOTTED)):
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path / "annotated.csv", tmp_path / "spotted.csv"


def test_figures_by_hand(files):
    figures = score_spotting(*map(read_intervals, files))
    assert (figures["videos"], figures["subjects"], figures["annotated"], figures["spotted"]) == (3, 2, 4, 4)
    micro, macro, both = (figures[name] for name in ("micro", "macro", "all"))
    # The macro-expression was spotted as a micro-expression, so it counts against both types.
    assert [micro[name] for name in ("true_positives", "false_positives", "false_negatives")] == [2, 2, 1]
    assert [macro[name] for name in ("true_positives", "false_positives", "false_negatives")] == [0, 0, 1]
    assert micro["f1_spot"] == pytest.approx(4 / 7)
    assert both["f1_spot"] == pytest.approx(4 / 8)
    # Of the two that are right, one "negative" is right and "surprise" is called "negative".
    assert micro["f1_analysis"] == pytest.approx((2 / 3 + 0) / 2)
    assert micro["uar_analysis"] == pytest.approx(0.5)
    assert micro["strs"] == pytest.approx(4 / 7 / 3)
    assert figures["per_video"]["006_2"] == {
        "true_positives": 0,
        "false_positives": 1,
        "false_negatives": 0,
        "f1_spot": 0.0,
    }
    # Each draw of two subjects has one of them or both: F1 of subject 6 is 2/4, of subject 7 it is 2/3.
    assert micro["intervals"]["f1_spot"] == pytest.approx((2 / 4, 2 / 3))


def test_without_types_and_emotions_only_the_intervals_count(files):
    annotated, spotted = map(read_intervals, files)
    plain = [Row(row.video, row.onset, row.offset) for row in spotted]
    figures = score_spotting(annotated, plain)
    assert not {"micro", "macro"} & set(figures)
    assert figures["all"]["true_positives"] == 3
    assert "strs" not in figures["all"]
    assert figures["subjects"] == 2
    nobody = [Row(row.video, row.onset, row.offset) for row in annotated]
    assert score_spotting(nobody, plain)["subjects"] is None


def test_a_spotted_interval_without_an_emotion_has_the_wrong_class(files):
    annotated, spotted = map(read_intervals, files)
    unsure = [replace(spotted[0], emotion=""), *spotted[1:]]
    micro = score_spotting(annotated, unsure)["micro"]
    assert micro["f1_spot"] == pytest.approx(4 / 7)
    assert micro["f1_analysis"] == 0.0


def test_spotting_nothing_scores_nothing(files):
    figures = score_spotting(read_intervals(files[0]), [])
    assert figures["all"]["f1_spot"] == 0.0
    assert figures["all"]["false_negatives"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset,offset\n1,2\n", "the column vid or video or clip or filename is missing; it has onset, offset"),
        ("vid,onset,offset\n,1,2\n", "line 2: the name of the video is empty"),
        ("vid,onset,offset\na,1,x\n", "line 2: onset and offset must be frame numbers, got '1' and 'x'"),
        ("vid,onset,offset\na,9,2\n", "line 2: the interval 9–2 ends before it begins"),
        ("vid,onset,offset,type\na,1,2,long\n", "line 2: the type 'long' is not one of me"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_intervals(tmp_path / "bad.csv")


def test_files_that_do_not_belong_together_are_refused(files, tmp_path):
    annotated, spotted = map(read_intervals, files)
    with pytest.raises(ValueError, match="do not name the video '007_9'"):
        score_spotting(annotated, [*spotted, Row("007_9", 1, 2)])
    with pytest.raises(ValueError, match="contain no intervals"):
        score_spotting([Row("a", None, None)], [])
    some = [Row("a", 1, 9, "micro"), Row("a", 20, 29)]
    with pytest.raises(ValueError, match="1 of 2 annotated intervals have a value of 'kind'; give all of them one"):
        score_spotting(some, [])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_intervals(tmp_path / "none.csv")


def test_the_command_prints_tables_and_writes_the_figures(files, tmp_path, capsys):
    annotated, spotted = map(str, files)
    out = tmp_path / "out"
    options = ["--spotted", spotted, "--annotated", annotated, "--output-dir", str(out)]
    assert main(["evaluate", *options]) == 0
    printed = capsys.readouterr().out
    assert "3 videos of 2 subjects: 4 annotated, 4 spotted" in " ".join(printed.split())
    assert "007_1" in printed
    figures = json.loads((out / "spotting.json").read_text())
    assert figures["micro"]["strs"] == pytest.approx(4 / 21)
    assert main(["evaluate", "--spotted", spotted, "--output-dir", str(out)]) == 2
    assert "go together" in capsys.readouterr().err


def test_the_table_has_a_dash_for_what_is_not_known(files):
    annotated, spotted = map(read_intervals, files)
    together, _ = spotting_table(score_spotting(annotated, [Row(row.video, row.onset, row.offset) for row in spotted]))
    assert list(together.columns[-1].cells) == ["–"]
