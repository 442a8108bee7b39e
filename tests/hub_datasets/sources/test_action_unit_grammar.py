import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deft_llm.hub_datasets.sources.action_unit_grammar import (
    ParsedActionUnit,
    ParsedCell,
    format_action_units,
    parse_action_units,
)
from deft_llm.processing.action_units import ACTION_UNITS, get_action_unit


def unit(code, side=None, intensity=None, *, kind="AU", certain=True, alternatives=(), notes=()):
    return ParsedActionUnit(code, kind, side, intensity, certain, tuple(alternatives), tuple(notes))


def doubtful(*args, **kwargs):
    return unit(*args, **kwargs, certain=False)


# Every form that the coding sheets in use are known to hold; forms only, none of the sheets' rows.
CELLS = {
    # CASME II
    "L2": [unit(2, "L")],
    "R10": [unit(10, "R")],
    "?": ["?"],
    "L2 R10 ?": [unit(2, "L"), doubtful(10, "R")],
    # SAMM
    "7B": [unit(7, None, "B")],
    "7C": [unit(7, None, "C")],
    "43E": [unit(43, None, "E")],
    "4A/B": [unit(4, None, "A", alternatives=[unit(4, None, "B")])],
    "10A/B": [unit(10, None, "A", alternatives=[unit(10, None, "B")])],
    "A12": [unit(12, "A")],
    "A/L12": [unit(12, "A", alternatives=[unit(12, "L")])],
    "T18": [unit(18, "T")],
    "B18": [unit(18, "B")],
    "L12A": [unit(12, "L", "A")],
    "R14": [unit(14, "R")],
    "A14C": [unit(14, "A", "C")],
    "L12 or L14": [doubtful(12, "L", alternatives=[doubtful(14, "L")])],
    "R12 or R14": [doubtful(12, "R", alternatives=[doubtful(14, "R")])],
    "(R6 or R12) + R15": [doubtful(6, "R", alternatives=[doubtful(12, "R")]), unit(15, "R")],
    "ref(7B)": [unit(7, None, "B", notes=["ref"])],
    "ref(L10)": [unit(10, "L", notes=["ref"])],
    "R14A or 17A or 24A": [
        doubtful(14, "R", "A", alternatives=[doubtful(17, None, "A"), doubtful(24, None, "A")]),
    ],
    "soft focus": ["soft focus"],
    "61": [unit(61, kind="AD")],
    # CAS(ME)^3 A
    "L14": [unit(14, "L")],
    "R2": [unit(2, "R")],
    "B28": [unit(28, "B")],
    "T24": [unit(24, "T")],
    "r18": [unit(18, "R")],
    # CAS(ME)^3 C
    "R4,5": [unit(4, "R"), unit(5)],
    "4，11": [unit(4), unit(11)],
    "14,L24,": [unit(14), unit(24, "L")],
    "13?": [doubtful(13)],
    "R4,R45": [unit(4, "R"), unit(45, "R")],
    # DFME
    "AD31": [unit(31, kind="AD")],
    "AD38": [unit(38, kind="AD")],
    "AD39": [unit(39, kind="AD")],
    "M57": [unit(57, kind="M")],
    "M58": [unit(58, kind="M")],
    "AD38 M57": [unit(38, kind="AD"), unit(57, kind="M")],
    # 4DME
    "AU4+AU7": [unit(4), unit(7)],
    "AU4+AU7 (k)": [unit(4), unit(7, notes=["k"])],
    # Further combinations of the same forms
    " 4 + 7 ": [unit(4), unit(7)],
    "AU04; AU 7": [unit(4), unit(7)],
    "L14 R2 T18": [unit(14, "L"), unit(2, "R"), unit(18, "T")],
    "4A/B?": [doubtful(4, None, "A", alternatives=[doubtful(4, None, "B")])],
    "ref(L12 OR L14)": [doubtful(12, "L", alternatives=[doubtful(14, "L", notes=["ref"])], notes=["ref"])],
    "（Ｒ6 or 12）？": [doubtful(6, "R", alternatives=[doubtful(12)])],
    "AD38 or 38": [unit(38, kind="AD", alternatives=[unit(38)])],
    "6+12 or 14": [unit(6), doubtful(12, alternatives=[doubtful(14)])],
    "": [],
    " , ": [],
    "nan": [],
    "4, NaN": [unit(4)],
    # Own sheets
    "/": [],
    "—": [],
    "TBD": [],
    "4&7": [unit(4), unit(7)],
    "4 & 7 & L12": [unit(4), unit(7), unit(12, "L")],
    "LR4": [unit(4)],
    "LR AU4": [unit(4)],
    "L AU12": [unit(12, "L")],
    "R AU12B + AU 4": [unit(12, "R", "B"), unit(4)],
    "['AU4', 'AU7']": [unit(4), unit(7)],
    '["L12", "4"]': [unit(12, "L"), unit(4)],
    "[4, 7]": [unit(4), unit(7)],
    "[]": [],
    "4\u200b": [unit(4)],
    "4+\u200b7\ufeff": [unit(4), unit(7)],
    "1\u200d2": [unit(12)],
}


@pytest.mark.parametrize(("cell", "expected"), CELLS.items(), ids=lambda value: value if type(value) is str else "")
def test_cell(cell, expected):
    parsed = parse_action_units(cell)
    assert list(parsed.units) == [item for item in expected if not isinstance(item, str)]
    assert list(parsed.unparsed) == [item for item in expected if isinstance(item, str)]
    assert parse_action_units(format_action_units(parsed)) == parsed


@pytest.mark.parametrize("cell", [4, 4.0, np.int64(4), np.float64(4), np.float32(4), "4", "4.0", np.str_("4")])
def test_numbers_as_cells(cell):
    parsed = parse_action_units(cell)
    assert parsed == ParsedCell((unit(4),))
    assert parsed.units[0].raw == str(cell)


@pytest.mark.parametrize("cell", [None, float("nan"), np.nan, np.float32("nan"), "NaN", "  ", "\n", "None"])
def test_empty_cells(cell):
    assert parse_action_units(cell) == ParsedCell()
    assert parse_action_units(cell).warnings == []


@pytest.mark.parametrize(
    "cell",
    [
        "?",
        "soft focus",
        "99",
        "AU3",
        "M12",
        "4.5",
        "4/7",
        "4-7",
        "4?7",
        "4?-7",
        "4F",
        "(6+12) or 14",
        "4 or soft focus",
        "(4, 7",
        "4)",
        "or",
        "ref()",
        "(" * 5000 + "4",
    ],
)
def test_unreadable_text_is_kept_and_named(cell):
    """None of these is read as half of what it says."""
    parsed = parse_action_units(cell)
    assert parsed == ParsedCell((), (cell,))
    assert parsed.warnings == [f"{cell!r} could not be read as action units."]
    assert parse_action_units(f"12, {cell}") == ParsedCell((unit(12),), (cell,))


@pytest.mark.parametrize("cell", [4.5, -4, 0, 10**30, float("inf"), True, b"4", [4, 7], object])
def test_cells_of_another_type_are_a_warning(cell):
    parsed = parse_action_units(cell)
    assert parsed.units == ()
    assert parsed.unparsed


def test_words_beside_a_unit_make_it_uncertain():
    parsed = parse_action_units("not 4A/B soft focus, 12")
    assert parsed.units == (doubtful(4, None, "A", alternatives=[doubtful(4, None, "B")]), unit(12))
    assert parsed.unparsed == ("not", "soft focus")


def test_raw_is_the_cell_as_typed():
    parsed = parse_action_units("( r6 or  R12 ) + ref( 7B )，Ｌ12 ?")
    assert [item.raw for item in parsed.units] == ["( r6 or  R12 )", "ref( 7B )", "Ｌ12 ?"]
    assert [item.raw for item in parsed.units[0].alternatives] == ["R12"]


def test_row_of_the_table():
    parsed = parse_action_units("AD38, 38, M57, 57, L12")
    assert [item.unit.code for item in parsed.units] == ["AU38", "AU38", "M57", "AD57", "AU12"]


def test_canonical_form():
    cell = "au4 l12a/b; AD38,38 soft focus"
    assert format_action_units(parse_action_units(cell)) == "4, L12A or L12B, AD38, 38?, soft focus"


SIDES, INTENSITIES = st.sampled_from([None, *"LRTBA"]), st.sampled_from([None, *"ABCDE"])
NOTES = st.lists(st.sampled_from(["ref", *"kxor"]), max_size=2).map(tuple)


@st.composite
def readings(draw):
    row = draw(st.sampled_from(list(ACTION_UNITS.values())))
    kind = row.kind if row.kind == "M" else draw(st.sampled_from(["AU", "AD"]))
    return unit(row.number, draw(SIDES), draw(INTENSITIES), kind=kind, certain=draw(st.booleans()), notes=draw(NOTES))


@st.composite
def units(draw):
    """A reading and its alternatives; with another unit among them none is certain."""
    found = draw(st.lists(readings(), min_size=1, max_size=3))
    if len({item.unit.code for item in found}) > 1:
        found = [doubtful(item.code, item.side, item.intensity, kind=item.kind, notes=item.notes) for item in found]
    first = found[0]
    return unit(
        first.code,
        first.side,
        first.intensity,
        kind=first.kind,
        certain=first.certain,
        alternatives=found[1:],
        notes=first.notes,
    )


@given(st.lists(units(), max_size=6).map(tuple))
def test_what_is_written_is_read_back(generated):
    assert parse_action_units(format_action_units(ParsedCell(generated))) == ParsedCell(generated)


def visible(text):
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


PIECES = [*CELLS, *"?()+,;/，（ ", " or ", "ref(", "(k)", "\n", "\u3000", "nan", "AU", "AU 99", "soft", "x4"]


@example("['AU4', 'AU7']+")
@example("+/")
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text()))
def test_any_text_survives_reading_and_writing(text):
    parsed = parse_action_units(text)
    assert parse_action_units(format_action_units(parsed)) == parsed
    seen = visible(text)
    for piece in (*parsed.unparsed, *(item.raw for item in parsed.units)):
        assert visible(piece) in seen
    for item in parsed.units:
        for reading in (item, *item.alternatives):
            assert get_action_unit(f"{reading.kind}{reading.code}") is reading.unit
            assert str(reading.code) in item.raw or not item.raw.isascii()


@given(st.lists(st.sampled_from([*CELLS, "soft", "99"]).filter(lambda cell: cell.strip(" ,?")), max_size=5))
def test_nothing_is_dropped(cells):
    """Every number of a cell comes back, in a unit or in what could not be read."""
    parsed = parse_action_units(", ".join(cells))
    digits = sum(character.isdigit() for character in "".join(cells))
    kept = "".join([*parsed.unparsed, *(item.raw for item in parsed.units)])
    assert sum(character.isdigit() for character in kept) == digits
