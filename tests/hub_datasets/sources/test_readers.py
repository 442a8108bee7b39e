"""The readers against the form of the real sheets and folders, one test an irregularity."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deft_llm.hub_datasets.sources.action_unit_grammar import parse_action_units
from deft_llm.hub_datasets.sources.catalogue import ALIASES, SOURCES
from deft_llm.hub_datasets.sources.emotions import (
    COARSE_EMOTION,
    UnknownEmotionError,
    coarse_emotion,
    normalise_emotion,
    objective_class,
    parse_objective_class,
)
from deft_llm.hub_datasets.sources.errata import ERRATA, UNUSABLE, Erratum
from deft_llm.hub_datasets.sources.readers import (
    SubjectClashError,
    check_subjects,
    read_source,
    read_sources,
    refuse_output_in_root,
)
from deft_llm.hub_datasets.sources.sheets import SheetError, read_tabs
from deft_llm.processing.video_reading import open_clip
from tests.hub_datasets import miniatures
from tests.hub_datasets.miniatures import CASME2_HEADER, DFME_HEADER, MINIATURES, write_csv, write_xls, write_xlsx


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Every miniature, written once. Tests that change one work on a copy."""
    folder = tmp_path_factory.mktemp("miniatures")
    made = {}
    for name, write in MINIATURES.items():
        made[name] = made.get(write) or write(folder / write.__name__)
        made[write] = made[name]
    return {name: root for name, root in made.items() if isinstance(name, str)}


@pytest.fixture
def read(roots):
    def run(name, **settings):
        records, report = read_source(name, roots[name], **settings)
        return {record.clip: record for record in records}, report

    return run


@pytest.fixture
def copied(roots, tmp_path):
    def run(name):
        return Path(shutil.copytree(roots[name], tmp_path / "copy"))

    return run


def reasons(report):
    return {drop.key: drop.reason for drop in report.drops}


# --- All sources ----------------------------------------------------------------------------------------------------


def test_the_table_names_known_fields_and_words_only():
    assert len(SOURCES) == 13
    for spec in SOURCES.values():
        assert set(spec.required) <= set(ALIASES)
        assert set(spec.emotion_words.values()) | set(spec.coarse) <= set(COARSE_EMOTION)
        assert not spec.licence.commercial_use
        assert not spec.licence.redistribution


@pytest.mark.parametrize("name", MINIATURES)
def test_every_source_gives_records_that_can_be_opened(roots, name):
    records, report = read_source(name, roots[name])
    assert records
    assert report.records == len(records)
    assert len(records) + len(report.drops) + sum(report.left_out.values()) >= report.rows
    for record in records:
        assert record.clip_id.startswith(f"{name}/{record.subject.partition('/')[2]}/{record.clip}/")
        assert record.fps > 0
        clip = open_clip([str(path) for path in record.frames])
        assert len(clip) == len(record.files)
        if record.onset is not None:
            assert 0 <= record.onset < record.offset < len(clip)
            assert record.apex is None or record.onset < record.apex <= record.offset
        assert (record.apex is None) == any(
            flag.startswith("apex_") or flag == "key_frames_missing" for flag in record.quality
        )


def test_reading_touches_nothing_and_gives_the_same_twice(roots):
    def state():
        return {path: path.stat().st_mtime_ns for path in Path(roots["casme2"]).rglob("*")}

    before = state()
    first, second = (read_source("casme2", roots["casme2"])[0] for _ in range(2))
    assert first == second
    assert state() == before


def test_provenance_and_report_are_complete_and_json(roots):
    records, report = read_source("casme2", roots["casme2"])
    sheet = roots["casme2"] / "CASME2-coding-20190701.xlsx"
    digest = hashlib.sha256(sheet.read_bytes()).hexdigest()
    assert records[0].provenance == {"reader": "readers 1", "sheet": sheet.name, "sheet_sha256": digest, "row": 2}
    manifest = json.loads(json.dumps(report.to_dict()))
    assert manifest["sheets"] == [{"name": sheet.name, "sha256": digest, "rows": 10}]
    assert str(roots["casme2"]) not in json.dumps(manifest)  # relative names only: the manifest is shared
    assert "sub17/EP05_02" in str(report)


@pytest.mark.parametrize(
    ("write", "name", "rows", "version"),
    [
        (miniatures.full_casme2_sheet, "casme2", 255, "released sheet"),
        (miniatures.full_samm_sheet, "samm", 159, "released sheet"),
        (miniatures.full_smic_folders, "smic-hs", 164, "clips as folders"),
    ],
)
def test_the_release_is_told_by_its_row_count(tmp_path, write, name, rows, version):
    records, report = read_source(name, write(tmp_path), check_frames=False)
    assert (report.rows, report.version, len(records)) == (rows, version, rows)
    assert not report.warnings


def test_rows_are_counted_as_the_spreadsheet_program_does(tmp_path):
    """Blank rows and columns before the table, blank rows within it."""
    lines = [[], [None, "notes"], [], CASME2_HEADER, [1, "a", None, 1, 2, 3, None, 4, "fear"], [],
             [1, "b", None, 1, 2, 3, None, 4, "fear"]]  # fmt: skip
    for suffix, write in (("xlsx", write_xlsx), ("xls", write_xls)):
        root = tmp_path / suffix
        write(root / f"CASME2-coding-20190701.{suffix}", {"Sheet1": [[None, *line] for line in lines]})
        records, report = read_source("casme2", root, check_frames=False)
        assert [(record.clip, record.row) for record in records] == [("a", 5), ("b", 7)]
        assert report.drops == []


def test_an_unknown_row_count_is_reported_with_the_known_ones(read):
    _, report = read("samm")
    assert report.version == "no known release has 18 rows"
    assert any("159 (released sheet)" in warning for warning in report.warnings)


# --- CASME and CASME II ---------------------------------------------------------------------------------------------


def test_casme_has_two_apexes(read):
    records, _ = read("casme")
    assert records["EP01_5"].sheet_frames == (31, 36, 41)
    assert "second_apex:39" in records["EP01_5"].quality
    assert records["EP01_8"].quality == records["EP06_2"].quality == ()
    assert records["EP06_2"].emotion_coarse == "others"


def test_casme2_frames_are_found_by_number_in_natural_order(read):
    record = read("casme2")[0]["EP03_02"]
    assert record.files == ("img8.jpg", "img9.jpg", "img10.jpg", "img11.jpg", "img12.jpg", "img13.jpg")
    assert (record.onset, record.apex, record.offset) == (0, 2, 5)


def test_casme2_margin_keeps_frames_around_the_expression(read):
    record = read("casme2", margin=5)[0]["EP03_02"]
    assert record.files[0] == "img6.jpg"
    assert record.files[-1] == "img15.jpg"
    assert (record.onset, record.apex, record.offset) == (2, 4, 7)


def test_casme2_subject_numbers_become_names(read):
    assert {record.subject for record in read("casme2")[0].values()} == {
        "casme2/sub01", "casme2/sub04", "casme2/sub05", "casme2/sub17", "casme2/sub26"
    }  # fmt: skip


def test_casme2_action_units_may_be_numbers_or_text(read):
    records, _ = read("casme2")
    assert [unit.code for unit in records["EP03_02"].action_units.units] == [12]
    assert records["EP03_02"].action_units_raw == "12"
    assert [(unit.code, unit.side) for unit in records["EP02_01f"].action_units.units] == [(4, None), (10, "L")]
    assert [(unit.code, unit.side) for unit in records["EP01_06"].action_units.units] == [(2, "L")]


def test_casme2_unknown_action_units_are_flagged(read):
    record = read("casme2")[0]["EP07_01"]
    assert record.action_units_raw == "?"
    assert record.action_units.units == ()
    assert "no_action_units" in record.quality


def test_casme2_apex_slash_is_left_to_be_spotted(read):
    record = read("casme2")[0]["EP12_01f"]
    assert record.apex is None
    assert record.sheet_frames == (21, None, 30)
    assert "apex_missing" in record.quality


def test_casme2_apex_on_the_onset_is_no_apex(read):
    record = read("casme2")[0]["EP09_05f"]
    assert record.apex is None
    assert record.sheet_frames[1] == record.sheet_frames[0]
    assert "apex_is_onset" in record.quality


def test_casme2_raw_frames_go_before_cropped_ones(read, copied):
    assert read("casme2")[0]["EP02_01f"].folder.parts[-3] == "CASME2_RAW_selected"
    root = copied("casme2")
    shutil.rmtree(root / "CASME2_RAW_selected")
    records, report = read_source("casme2", root)
    assert [record.files[0] for record in records] == ["reg_img46.jpg"]
    assert len(report.drops) == 9


def test_frames_that_the_disk_lacks_drop_the_row_with_its_reason(read):
    records, report = read("casme2")
    assert reasons(report)["sub17/EP05_02/30"] == "no folder sub17/EP05_02 under the root"
    assert reasons(report)["sub26/EP15_01/40"] == "frame 50 is not on the disk"
    assert not {"EP05_02", "EP15_01"} & records.keys()


def test_a_hole_between_key_frames_is_flagged(read):
    record = read("casme2")[0]["EP18_44"]
    assert "frames_missing:1" in record.quality
    assert record.files == ("img5.jpg", "img6.jpg", "img8.jpg", "img9.jpg", "img10.jpg", "img11.jpg")
    assert (record.onset, record.apex, record.offset) == (0, 2, 5)


def test_a_row_that_is_there_twice_is_dropped_once(read):
    records, report = read("casme2")
    assert records["EP18_44"].row == 10
    assert [drop.reason for drop in report.drops if drop.row == 11] == ["same subject, clip and onset as row 10"]


def test_casme2_variant_with_other_titles_and_unnamed_columns(tmp_path):
    records, report = read_source("casme2", miniatures.casme2_without_question_marks(tmp_path), check_frames=False)
    assert report.rows == 9
    assert records[0].action_units_raw == "4+L10"  # of "Action Units", not of "au"
    assert records[0].emotion == "disgust"
    assert records[0].sheet_frames == (46, 51, 56)


@pytest.mark.parametrize(
    ("position", "title"),
    [(position, title) for position, name in
     {0: "subject", 1: "clip", 3: "onset", 4: "apex", 5: "offset", 7: "action_units", 8: "emotion"}.items()
     for title in (*ALIASES[name], ALIASES[name][0].upper(), f" {ALIASES[name][-1]} ")],
)  # fmt: skip
def test_columns_are_known_by_every_title_in_use(tmp_path, position, title):
    header = [title if place == position else name for place, name in enumerate(CASME2_HEADER)]
    write_xlsx(
        tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [header, [1, "a", None, 1, 2, 3, None, 4, "fear"]]}
    )
    (record,), _ = read_source("casme2", tmp_path, check_frames=False)
    assert record.clip_id == "casme2/sub01/a/1"
    assert (record.sheet_frames, record.action_units_raw, record.emotion) == ((1, 2, 3), "4", "fear")


def test_expressions_longer_than_half_a_second_are_flagged(tmp_path):
    rows = [[1, "a", None, 100, 150, 200, None, 4, "fear"], [1, "b", None, 100, 150, 201, None, 4, "fear"]]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    records, _ = read_source("casme2", tmp_path, check_frames=False)
    assert [record.quality for record in records] == [(), ("longer_than_half_a_second",)]  # at 200 fps


# --- SAMM -----------------------------------------------------------------------------------------------------------


def test_samm_header_stands_below_a_preamble(read):
    records, report = read("samm")
    assert records["006_1_2"].row == 15
    assert report.rows == 18


def test_samm_saved_again_without_the_preamble(tmp_path):
    lines = miniatures.samm_lines()[13:]
    write_xlsx(tmp_path / "SAMM_20181215_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": lines})
    records, _ = read_source("samm", tmp_path, check_frames=False)
    assert (len(records), records[0].row) == (18, 2)


def test_samm_padding_differs_by_clip(read):
    records, _ = read("samm")
    assert records["006_1_2"].files[0] == "006_00558.jpg"
    assert records["006_1_3"].files[:5] == (
        "006_0096.jpg", "006_0097.jpg", "006_0098.jpg", "006_0099.jpg", "006_0100.jpg"
    )  # fmt: skip
    assert records["007_3_1"].files[0] == "007_005.jpg"
    assert {records["006_1_2"].subject, records["007_3_1"].subject} == {"samm/006", "samm/007"}


def test_samm_irregular_action_units_keep_every_reading(read):
    units = {clip: record.action_units.units for clip, record in read("samm")[0].items()}
    assert [(u.code, u.intensity) for u in units["006_1_3"]] == [(7, "C"), (43, "E")]
    assert [u.intensity for u in (units["007_3_1"][0], *units["007_3_1"][0].alternatives)] == ["A", "B"]
    assert [u.side for u in (units["009_2_1"][0], *units["009_2_1"][0].alternatives)] == ["A", "L"]
    assert [u.side for u in units["009_3_1"]] == ["T", "B"]
    assert [u.code for u in (units["013_4_1"][0], *units["013_4_1"][0].alternatives)] == [14, 17, 24]
    assert not units["013_4_1"][0].certain
    assert units["013_2_1"][1].notes == ("ref",)
    assert [[a.code for a in u.alternatives] for u in units["013_1_1"]] == [[12], []]


def test_samm_words_that_are_no_action_unit_are_kept_and_flagged(read):
    record = read("samm")[0]["014_1_1"]
    assert record.action_units.unparsed == ("soft focus",)
    assert "action_units_unread" in record.quality


def test_samm_notes_on_confounds_are_kept(read):
    records, _ = read("samm")
    assert records["006_1_3"].notes == "Eye movement"
    assert records["009_1_3"].notes == "L12?"


def test_samm_objective_class_of_the_sheet_goes_before_the_table(read):
    records, _ = read("samm")
    assert records["014_3_1"].objective_class == "II"
    assert "objective_class_by_action_units:VI" in records["014_3_1"].quality
    assert records["006_1_2"].objective_class == "III"


def test_samm_keeps_its_own_word_beside_the_normalised_one(read):
    record = read("samm")[0]["006_1_2"]
    assert (record.emotion, record.emotions, record.emotion_coarse) == ("Anger", ("anger",), "negative")


def test_samm_long_videos_take_emotions_from_samm_and_leave_macro_out(read):
    records, report = read("samm-long")
    assert report.left_out == {"Macro": 1}
    assert records["006_1_2"].emotion == "Anger"
    assert records["006_1_2"].folder.name == "006_1"
    assert records["006_1_2"].files[0] == "006_1_0014.jpg"
    assert records["011_9_1"].emotion is None
    assert "no_emotion" in records["011_9_1"].quality
    assert [(item["name"], item["rows"]) for item in report.sheets] == [
        ("SAMM_LongVideos_V2_Release.xlsx", 4), ("SAMM_Micro_FACS_Codes_v2.xlsx", None)
    ]  # fmt: skip


def test_samm_and_its_long_videos_share_their_people(roots):
    records, _ = read_sources({"samm": roots["samm"], "samm-long": roots["samm-long"]})
    people = [{r.subject for r in records if r.source == source} for source in ("samm", "samm-long")]
    assert people[1] <= people[0]


# --- SMIC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("camera", "clips", "fps"), [("hs", 5, 100), ("vis", 3, 25), ("nir", 3, 25)])
def test_smic_is_read_from_its_folders_one_camera_at_a_time(read, camera, clips, fps):
    records, report = read(f"smic-{camera}")
    assert len(records) == report.rows == clips  # non_micro is not among them
    record = records["s20_ne_01"]
    assert (record.fps, record.emotion, record.emotion_coarse) == (fps, "negative", "negative")
    assert record.folder.parts[-6:] == (
        "SMIC_all_cropped", camera.upper(), "s20", "micro", "negative", "s20_ne_01"
    )  # fmt: skip
    assert (record.onset, record.apex, record.offset) == (0, None, 8)
    assert record.action_units is None


def test_smic_cameras_filmed_the_same_people(roots):
    records, _ = read_sources({f"smic-{camera}": roots["smic-hs"] for camera in ("hs", "vis", "nir")})
    assert {record.subject for record in records} == {"smic/s01", "smic/s03", "smic/s20"}
    assert len({record.clip_id for record in records}) == len(records)


def test_smic_subjects_come_in_natural_order(roots):
    records, _ = read_source("smic-hs", roots["smic-hs"])
    assert [record.clip for record in records] == ["s1_ne_01", "s3_sur_01", "s20_ne_01", "s20_ne_02", "s20_po_01"]


def test_smic_folder_and_clip_code_that_disagree_are_flagged(read):
    records, _ = read("smic-vis")
    assert [clip for clip, record in records.items() if "emotion_folder_disagrees" in record.quality] == ["s20_ne_02"]


def test_smic_e_sheet_ends_in_lines_of_text(tmp_path):
    records, report = read_source("smic-hs", miniatures.smic_long(tmp_path))
    assert len(records) == report.rows == 5
    assert [drop.reason for drop in report.drops] == [
        "no clip but text: Total: 157 clips of 16 subjects",
        "no clip but text: ne: negative po: positive",
    ]
    assert records[0].files[0] == "image17581040.jpg"
    assert records[0].sheet_frames == (17581040, None, 17581048)


# --- CAS(ME)^2 and CAS(ME)^3 ----------------------------------------------------------------------------------------


def test_cas_me2_without_header_joins_three_tabs(read):
    records, report = read("cas-me2")
    assert records["disgust1_1"].folder.parts[-2:] == ("s15", "15_0101disgustingteeth")
    assert records["happy1_10"].subject == "cas-me2/s16"
    assert records["happy1_10"].folder.name == "16_0502funnyerrors"
    assert report.left_out == {"macro-expression": 1}
    assert "anger1_1" not in records


def test_cas_me2_offset_zero_means_the_apex(read):
    record = read("cas-me2")[0]["disgust1_2"]
    assert record.sheet_frames == (14, 17, 17)
    assert (record.onset, record.apex, record.offset) == (0, 3, 3)
    assert "offset_is_apex" in record.quality


def test_cas_me2_without_the_naming_tabs_says_so(tmp_path, roots):
    rows = [[1, "disgust1_1", 3, 7, 11, "4+9", "negative", "micro-expression", "disgust"]]
    write_xlsx(tmp_path / "code_final.xlsx", {"CASFEcode_final": rows})
    records, report = read_source("cas-me2", tmp_path, check_frames=False)
    assert "no_folder_code" in records[0].quality
    assert any("naming rule1" in warning for warning in report.warnings)


def test_cas_me3_several_clips_of_one_video(roots):
    records, _ = read_source("cas-me3a", roots["cas-me3a"])
    ids = [record.clip_id for record in records if record.subject == "cas-me3a/spNO.1" and record.clip == "a"]
    assert ids == ["cas-me3a/spNO.1/a/5", "cas-me3a/spNO.1/a/15"]


def test_cas_me3_colour_and_not_depth(read):
    record = read("cas-me3a")[0]["m"]
    assert record.folder.parts[-3:] == ("spNO.39", "m", "color")
    assert record.files[0] == "2.jpg"


def test_cas_me3_unusable_apexes_are_flagged_and_empty_tabs_ignored(roots):
    records, report = read_source("cas-me3a", roots["cas-me3a"])
    flags = {record.sheet_frames: record.quality for record in records}
    assert flags[(3, 3, 8)] == ("apex_is_onset",)
    assert flags[(2, 12, 9)] == ("apex_after_offset",)
    assert report.rows == 8


def test_cas_me3_missing_and_damaged_images_drop_the_row(read):
    _, report = read("cas-me3a")
    assert reasons(report) == {
        "spNO.2/b/0": "frame 0 is not on the disk",
        "spNO.3/b/2": "part_A/spNO.3/b/color/6.jpg is no readable image",
    }


def test_cas_me3_words_of_its_own(roots):
    records, _ = read_source("cas-me3a", roots["cas-me3a"], check_frames=False)
    words = {record.emotion: (record.emotions, record.emotion_coarse) for record in records}
    assert words["happy"] == (("happiness",), "positive")
    assert words["sad"] == (("sadness",), "negative")
    assert words["Others"] == words["others"] == (("others",), "others")


def test_cas_me3_version_1_has_columns_without_title(tmp_path):
    records, report = read_source("cas-me3a", miniatures.cas_me3a_v1(tmp_path), check_frames=False)
    assert report.rows == len(records) == 8
    assert records[0].objective_class == "VII"


def test_cas_me3_full_sheet_has_macro_expressions_and_blinks(tmp_path):
    records, report = read_source("cas-me3a", miniatures.cas_me3a_full(tmp_path))
    assert report.left_out == {"Macro-expression": 1}
    blinking = {(r.subject, r.clip, r.sheet_frames[0]) for r in records if "blink" in r.quality}
    assert blinking == {("cas-me3a/spNO.1", "a", 5), ("cas-me3a/spNO.1", "a", 15)}
    assert all(record.emotion is None for record in records)
    assert any("no column for emotion" in warning for warning in report.warnings)


def test_cas_me3_label_sheet_is_preferred_to_the_full_one(tmp_path):
    miniatures.cas_me3a_full(tmp_path)
    miniatures.cas_me3a(tmp_path)
    records, _ = read_source("cas-me3a", tmp_path, check_frames=False)
    assert {record.sheet for record in records} == {"cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"}


def test_cas_me3_part_c_separators_and_numbers_for_names(roots):
    records, _ = read_source("cas-me3c", roots["cas-me3c"])
    found = [[(u.code, u.side, u.certain) for u in record.action_units.units] for record in records]
    assert found == [
        [(4, "R", True), (5, None, True)],
        [(4, None, True), (11, None, True)],
        [(14, None, True), (24, "L", True)],
        [(13, None, False)],
        [(4, "R", True), (45, "R", True)],
    ]
    assert [record.clip for record in records] == ["1", "2", "3", "1", "2"]
    assert records[0].subject == "cas-me3c/05"
    assert [record.emotion_coarse for record in records[:4]] == ["negative", "positive", "surprise", "others"]


# --- MMEW, 4DME, DFME -----------------------------------------------------------------------------------------------


def test_mmew_folders_by_subject_or_by_emotion_and_repression_for_others(read):
    records, _ = read("mmew")
    assert records["S03-05-001"].folder.parts[-2] == "repression"
    assert records["S03-05-001"].emotion == "others"
    assert records["S03-05-001"].notes == "head turns"
    assert records["S04-03-001"].folder.parts[-3:] == ("Micro_Expression", "surprise", "S04-03-001")
    assert [unit.code for unit in records["S04-03-001"].action_units.units] == [1, 2]


def test_4dme_marks_several_emotions_and_its_own_coarse_classes(read):
    records, _ = read("4dme")
    assert records["F01_0_1"].action_units.units[1].notes == ("k",)
    assert records["M02_0_1"].emotion == "Negative & Surprise"
    assert records["M02_0_1"].emotions == ("negative", "surprise")
    assert records["M02_0_1"].emotion_coarse is None
    assert "several_emotions" in records["M02_0_1"].quality
    assert records["M02_0_2"].emotion_coarse == "repression"


def test_4dme_columns_that_contradict_the_text_are_flagged(read):
    records, _ = read("4dme")
    assert [clip for clip, r in records.items() if "action_unit_columns_disagree" in r.quality] == ["M02_0_2"]
    assert [clip for clip, r in records.items() if "blink" in r.quality] == ["F01_0_2"]


def test_dfme_sets_frame_rates_and_descriptors(roots):
    records, report = read_source("dfme", roots["dfme"])
    by_clip = {record.clip: record for record in records}
    assert {clip: (record.partition, record.fps) for clip, record in by_clip.items()} == {
        "sub0008_01": ("train", 500),
        "sub0008_02": ("train", 500),
        "sub0012_01": ("train", 300),
        "sub0100_01": ("test_a", 200),
        "sub0200_01": ("test_b", 200),
    }
    assert len(report.sheets) == 3
    assert by_clip["sub0012_01"].subject == "dfme/sub0012"
    assert by_clip["sub0008_01"].files[0] == "00095.png"
    assert [(u.kind, u.code) for u in by_clip["sub0008_02"].action_units.units] == [("AU", 7), ("AD", 31)]
    assert [(u.kind, u.code) for u in by_clip["sub0100_01"].action_units.units] == [("M", 57)]


def test_dfme_word_and_number_that_disagree_are_flagged(read):
    records, _ = read("dfme")
    assert [clip for clip, r in records.items() if "emotion_id_disagrees" in r.quality] == ["sub0200_01"]


def test_dfme_damaged_key_frame_drops_the_row(copied):
    root = copied("dfme")
    path = root / "train_frames" / "sub0008_02" / "00008.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    _, report = read_source("dfme", root)
    assert reasons(report) == {"sub0008/sub0008_02/4": "train_frames/sub0008_02/00008.png is no readable image"}


def test_dfme_as_csv(tmp_path, read):
    expected = [r for r in read("dfme")[0].values() if r.partition == "train"]
    records, _ = read_source("dfme", miniatures.dfme_csv(tmp_path), check_frames=False)
    for record, same in zip(records, expected, strict=True):
        assert (record.clip_id, record.action_units, record.fps) == (same.clip_id, same.action_units, same.fps)


def test_dfme_licence_names_its_clauses():
    licence = SOURCES["dfme"].licence
    clauses = dict(licence.clauses)
    assert licence.verified
    assert not licence.show_faces
    assert "USTC" in clauses["7"]
    assert "004, 010, 030, 031" in clauses["4"]


# --- Own recordings -------------------------------------------------------------------------------------------------


def test_own_recordings_as_csv(read):
    records, report = read("own")
    first, second = records["p1-1"], records["p2-1"]
    assert (first.subject, first.fps, first.files[0]) == ("own/p1", 120, "002.png")
    assert (first.onset, first.apex, first.offset) == (0, 3, 6)
    assert len(second.files) == 10
    assert (second.onset, second.apex, second.emotion) == (None, None, None)
    assert "key_frames_missing" in second.quality
    assert second.notes == "not coded yet"
    assert report.version == "own recordings"


def test_own_recordings_as_json_lines(tmp_path):
    records, _ = read_source("my-lab", miniatures.own_jsonl(tmp_path))
    assert [record.clip_id for record in records] == ["my-lab/p1/p1-1/2", "my-lab/p2/p2-1/0"]
    assert records[0].emotions == ("happiness",)
    assert records[1].partition == "test"


def test_own_recordings_as_videos(tmp_path, brow_video):
    shutil.copy(brow_video, tmp_path / "brow.mp4")
    write_csv(
        tmp_path / "annotations.csv", [["subject", "path", "onset", "apex", "offset"], ["a", "brow.mp4", 3, 19, 35]]
    )
    (record,), _ = read_source("my-lab", tmp_path)
    assert record.video == tmp_path.resolve() / "brow.mp4"
    assert (record.onset, record.apex, record.offset) == (3, 19, 35)
    assert record.frames == []


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "clips/nothing", "annotations.csv"])
def test_own_recordings_stay_in_their_root(tmp_path, path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_csv(tmp_path / "lab" / "annotations.csv", [["subject", "path"], ["a", path]])
    records, report = read_source("my-lab", tmp_path / "lab")
    assert records == []
    assert path in report.drops[0].reason


# --- Errata ---------------------------------------------------------------------------------------------------------


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
    swap = [replace(item, rows=4, row=item.row - 144, new=f"from row {item.donor - 144}")
            for item in ERRATA if item.source == "4dme"]  # fmt: skip
    for swapped in (True, False):
        root = miniatures.four_dme(tmp_path / str(swapped), swapped=swapped)
        records, report = read_source("4dme", root, errata=swap)
        assert [record.action_units_raw for record in records[:2]] == ["AU4+AU7 (k)", "AU12"]
        assert [note.applied for note in report.errata] == [swapped, swapped]
        assert "emotion_columns_disagree" not in records[0].quality + records[1].quality
        unfixed = read_source("4dme", root, errata=())[0]
        assert ("emotion_columns_disagree" in unfixed[0].quality) == swapped


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; pass the folder that casme2 was unpacked to"):
        read_source("casme2", tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="not a folder"):
        read_source("casme2", tmp_path / "file")


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(SheetError, match=r"Unknown source 'casme-2'\. Known: casme, casme2, .*annotations\.csv"):
        read_source("casme-2", tmp_path)


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
    tabs = read_tabs(tmp_path / "DFME.csv")
    assert tabs == {"DFME": [header, [*line, "眨眼"]]}
    assert len(read_source("dfme", tmp_path, check_frames=False)[0]) == 1


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
        ([CASME2_HEADER], "a header and no clip below it"),
        (
            [["nothing"], ["of", "the", "kind"]],
            "no header in the first 20 rows of 'Sheet1'. Needed are columns for subject",
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


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([1, "a", None, "x7", 8, 9], "onset is 'x7', which is no frame number"),
        ([1, "a", None, 7, 8.5, 9], "apex is '8.5', which is no frame number"),
        ([1, "a", None, 7, 8, 10**10], "offset is '10000000000', which is no frame number"),
        ([1, "a", None, "/", 8, 9], "no onset"),
        ([1, "a", None, 7, "/", "/"], "neither offset nor apex"),
        ([1, "a", None, 7, 8, 5], "offset 5 is not after onset 7"),
        ([None, "a", None, 7, 8, 9], "no clip but text: a 7 8 9 4 fear"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_their_reason(tmp_path, cells, reason):
    rows = [[1, "good", None, 1, 2, 3, None, 4, "fear"], [*cells, None, 4, "fear"]]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    records, report = read_source("casme2", tmp_path, check_frames=False)
    assert [record.clip for record in records] == ["good"]
    assert [(drop.row, drop.reason) for drop in report.drops] == [(3, reason)]


def test_an_unknown_emotion_names_word_row_and_known_words_until_it_is_mapped(tmp_path):
    rows = [[1, "a", None, 1, 2, 3, None, 4, "gloom"], [1, "b", None, 1, 2, 3, None, 4, "awe"],
            [2, "a", None, 1, 2, 3, None, 4, "gloom"]]  # fmt: skip
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


def test_a_clip_folder_that_links_out_of_the_root_is_dropped(copied, tmp_path):
    root = copied("casme2")
    folder = root / "CASME2_RAW_selected" / "sub01" / "EP03_02"
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    _, report = read_source("casme2", root)
    assert reasons(report)["sub01/EP03_02/8"] == (
        "CASME2_RAW_selected/sub01/EP03_02 is a symbolic link out of the root"
    )


def test_a_frame_that_links_out_of_the_root_drops_its_clip_and_one_within_does_not(copied, tmp_path):
    root = copied("casme2")
    folder = root / "CASME2_RAW_selected" / "sub01" / "EP03_02"
    (folder / "img9.jpg").rename(tmp_path / "img9.jpg")
    (folder / "img9.jpg").symlink_to(tmp_path / "img9.jpg")
    (folder / "img10.jpg").unlink()
    (folder / "img10.jpg").symlink_to(folder / "img11.jpg")
    _, report = read_source("casme2", root)
    assert reasons(report)["sub01/EP03_02/8"].startswith(
        "CASME2_RAW_selected/sub01/EP03_02/img9.jpg is a symbolic link"
    )
    (folder / "img9.jpg").unlink()
    shutil.copy(tmp_path / "img9.jpg", folder / "img9.jpg")
    records, _ = read_source("casme2", root)
    assert "EP03_02" in {record.clip for record in records}


def test_a_sheet_that_links_out_of_the_root_is_refused(copied, tmp_path):
    root = copied("casme2")
    sheet = root / "CASME2-coding-20190701.xlsx"
    sheet.rename(tmp_path / "sheet.xlsx")
    sheet.symlink_to(tmp_path / "sheet.xlsx")
    with pytest.raises(SheetError, match="a symbolic link out of"):
        read_source("casme2", root)


def test_two_folders_that_could_be_the_clip_are_not_guessed_between(copied):
    root = copied("mmew")
    shutil.copytree(root / "Micro_Expression/S03/happiness/S03-01-002", root / "Micro_Expression/S03/fear/S03-01-002")
    _, report = read_source("mmew", root)
    assert reasons(report)["S03/S03-01-002/1"] == (
        "ambiguous: Micro_Expression/S03/fear/S03-01-002, Micro_Expression/S03/happiness/S03-01-002"
    )


def test_two_files_with_one_frame_number_are_ambiguous(copied):
    root = copied("casme2")
    folder = root / "CASME2_RAW_selected" / "sub01" / "EP03_02"
    shutil.copy(folder / "img9.jpg", folder / "img009.jpg")
    _, report = read_source("casme2", root)
    assert reasons(report)["sub01/EP03_02/8"].endswith("are both frame 9")


def test_a_subject_that_two_sources_claim_is_refused(roots, tmp_path):
    lab = miniatures.own_jsonl(tmp_path / "lab")
    text = (lab / "annotations.jsonl").read_text(encoding="utf-8")
    (lab / "annotations.jsonl").write_text(text.replace('"p1"', '"casme2/sub01"'), encoding="utf-8")
    with pytest.raises(SubjectClashError, match="casme2/sub01 is claimed by casme2 and my-lab"):
        read_sources({"casme2": roots["casme2"], "my-lab": lab})
    records, _ = read_source("my-lab", lab)
    assert {record.subject for record in records} == {"casme2/sub01", "my-lab/p2"}


def test_frames_that_two_subjects_claim_are_refused(roots):
    first, _ = read_source("casme2", roots["casme2"])
    check_subjects(first)
    with pytest.raises(
        SubjectClashError, match="EP02_01f belongs to casme2/sub01 in casme2 and to my-lab/p in my-lab"
    ):
        check_subjects([*first, replace(first[0], source="my-lab", subject="my-lab/p")])


@pytest.mark.parametrize("place", [".", "out", "CASME2_RAW_selected/sub01", ".."])
def test_the_output_never_lies_in_a_data_set(roots, place, monkeypatch):
    monkeypatch.chdir(roots["casme2"])
    with pytest.raises(ValueError, match="lie in each other"):
        refuse_output_in_root(place, [roots["casme2"]])
    refuse_output_in_root(roots["casme2"].parent / "casme2-out", [roots["casme2"]])


def test_the_output_never_lies_in_a_data_set_behind_a_link(roots, tmp_path):
    (tmp_path / "link").symlink_to(roots["casme2"])
    with pytest.raises(ValueError, match="lie in each other"):
        refuse_output_in_root(tmp_path / "link" / "out", [roots["casme2"]])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.permutations([*DFME_HEADER, "", "Remarks"]),
    lines=st.lists(
        st.lists(
            st.sampled_from(["1", "2", "3", "4+7", "disgust", "sub0001", "/", "200"])
            | st.text(max_size=6)
            | st.integers(-5, 10**12).map(str),
            min_size=9,
            max_size=12,
        ),
        max_size=6,
    ),
)
def test_whatever_the_cells_hold_rows_are_accounted_for_or_one_error_is_raised(tmp_path, header, lines):
    write_csv(tmp_path / "DFME.csv", [header, *lines])
    try:
        records, report = read_source("dfme", tmp_path, check_frames=False)
    except (SheetError, UnknownEmotionError):
        return
    filled = [line for line in lines if any(cell.strip() for cell in line)]
    assert len(records) + len(report.drops) <= len(filled)
    assert len(records) + len(report.drops) == report.rows + sum("text" in drop.reason for drop in report.drops)


# --- Words and classes ----------------------------------------------------------------------------------------------


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
        ("", (), None),
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
        with pytest.raises(ValueError, match=f"{text!r} is no objective class"):
            parse_objective_class(text)
