import pytest

from deft_llm.hub_datasets.sources.action_unit_grammar import parse_action_units
from deft_llm.hub_datasets.sources.emotions import (
    UnknownEmotionError,
    coarse_emotion,
    normalise_emotion,
    objective_class,
    parse_objective_class,
)
from deft_llm.hub_datasets.sources.readers import read_source
from tests.hub_datasets.miniatures import CASME2_HEADER, write_xlsx


def test_an_unknown_emotion_names_word_row_and_known_words_until_it_is_mapped(tmp_path):
    rows = [
        [1, "a", None, 1, 2, 3, None, 4, "gloom"],
        [1, "b", None, 1, 2, 3, None, 4, "awe"],
        [2, "a", None, 1, 2, 3, None, 4, "gloom"],
    ]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    with pytest.raises(
        UnknownEmotionError, match=r"'gloom' in row 2, row 4; 'awe' in row 3\..*Known: anger, .*others"
    ):
        read_source("casme2", tmp_path, check_frames=False)
    words = {"gloom": "sadness", "awe": "surprise"}
    records, _ = read_source("casme2", tmp_path, check_frames=False, emotion_words=words)
    assert [(record.emotion, record.emotions) for record in records][:2] == [
        ("gloom", ("sadness",)),
        ("awe", ("surprise",)),
    ]
    with pytest.raises(UnknownEmotionError, match="gloom"):
        read_source("casme2", tmp_path, check_frames=False, emotion_words={**words, "gloom": "melancholy"})


@pytest.mark.parametrize(
    ("text", "words", "coarse"),
    [
        (" Happiness ", ("happiness",), "positive"),
        ("sad", ("sadness",), "negative"),
        ("Other", ("others",), "others"),
        ("repression", ("repression",), "negative"),
        ("Positive,Surprise", ("positive", "surprise"), None),
        ("anger / disgust", ("anger", "disgust"), "negative"),
        ("fear and fear", ("fear",), "negative"),
        *((text, (), None) for text in ("", "/", "N/A", "-", "—", "TBD", "?", "nan", " # N/A".replace(" ", ""))),
    ],
)
def test_emotion_words(text, words, coarse):
    assert normalise_emotion(text) == words
    assert coarse_emotion(words) == coarse


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("12", "I"),
        ("L12A", "I"),
        ("6+7+12", "I"),
        ("1+2", "II"),
        ("4+7", "III"),
        ("4+AD38", "III"),
        ("10", "IV"),
        ("4+5+7+9", "IV"),
        ("15+17", "V"),
        ("1+2+4", "VI"),
        ("14", "VII"),
        ("4+12", "VII"),
        ("12+M57", "I"),
        ("M57", None),
        ("?", None),
        ("L12 or L14", None),  # I or VII
        ("R12 or L12", "I"),
        ("10 or 9", "IV"),
    ],
)
def test_objective_classes_by_the_table(cell, expected):
    assert objective_class(parse_action_units(cell).units) == expected


def test_objective_classes_of_a_sheet():
    assert [parse_objective_class(text) for text in ("3", "VII", " i ", "")] == ["III", "VII", "I", None]
    for text in ("8", "0", "IIX"):
        with pytest.raises(ValueError, match=f"{text!r} is not an objective class"):
            parse_objective_class(text)


def test_the_objective_class_of_a_set_may_differ_by_source(tmp_path):
    assert objective_class(parse_action_units("4+10").units) == "VII"
    assert objective_class(parse_action_units("L10, 4").units, {"4+10": "IV"}) == "IV"
    assert objective_class(parse_action_units("4+7").units, {"4+10": "IV"}) == "III"
    header = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
    write_xlsx(
        tmp_path / "CAS(ME)3_part_A_v2.xlsx", {"label": [header, ["spNO.1", "a", 1, 2, 3, "4+10", None, "sad"]]}
    )
    (record,), _ = read_source("cas-me3a", tmp_path, check_frames=False)
    assert record.objective_class == "VII"


def test_an_emotion_that_means_none_may_be_mapped():
    assert normalise_emotion("/", {"/": "others"}) == ("others",)
