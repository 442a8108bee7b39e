"""Every data set against the form of its real sheets and folders, one test an irregularity."""

import re
import shutil

import pytest

from deft_llm.hub_datasets.sources.catalogue import ALIASES, SOURCES, did_you_mean
from deft_llm.hub_datasets.sources.readers import check_subjects, read_source
from deft_llm.processing.emotion_prototypes import COARSE_EMOTION
from tests.hub_datasets import miniatures
from tests.hub_datasets.miniatures import write_xlsx


def reasons(report):
    return {drop.key: drop.reason for drop in report.drops}


def test_the_table_names_known_fields_and_words_only():
    assert len(SOURCES) == 13
    for spec in SOURCES.values():
        assert set(spec.required) <= set(ALIASES)
        assert set(spec.emotion_words.values()) | set(spec.coarse) <= set(COARSE_EMOTION)
        assert not spec.licence.commercial_use
        assert not spec.licence.redistribution


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
        "casme2/sub01",
        "casme2/sub04",
        "casme2/sub05",
        "casme2/sub17",
        "casme2/sub26",
    }


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


def test_casme2_variant_with_other_titles_and_unnamed_columns(tmp_path):
    records, report = read_source("casme2", miniatures.casme2_without_question_marks(tmp_path), check_frames=False)
    assert report.rows == 9
    assert records[0].action_units_raw == "4+L10"  # of "Action Units", not of "au"
    assert records[0].emotion == "disgust"
    assert records[0].sheet_frames == (46, 51, 56)


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
    assert records["006_1_3"].files[:5] == tuple(f"006_{number:04d}.jpg" for number in range(96, 101))
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
        ("SAMM_LongVideos_V2_Release.xlsx", 4),
        ("SAMM_Micro_FACS_Codes_v2.xlsx", None),
    ]


def test_samm_and_its_long_videos_share_their_people(roots):
    records = [record for name in ("samm", "samm-long") for record in read_source(name, roots[name])[0]]
    check_subjects(records)
    people = [{r.subject for r in records if r.source == source} for source in ("samm", "samm-long")]
    assert people[1] <= people[0]


@pytest.mark.parametrize(("camera", "clips", "fps"), [("hs", 5, 100), ("vis", 3, 25), ("nir", 3, 25)])
def test_smic_is_read_from_its_folders_one_camera_at_a_time(read, camera, clips, fps):
    records, report = read(f"smic-{camera}")
    assert len(records) == report.rows == clips  # non_micro is not among them
    record = records["s20_ne_01"]
    assert (record.fps, record.emotion, record.emotion_coarse) == (fps, "negative", "negative")
    assert record.folder.parts[-6:] == ("SMIC_all_cropped", camera.upper(), "s20", "micro", "negative", "s20_ne_01")
    assert (record.onset, record.apex, record.offset) == (0, None, 8)
    assert record.action_units is None


def test_smic_cameras_filmed_the_same_people(roots):
    cameras = ("smic-hs", "smic-vis", "smic-nir")
    records = [record for name in cameras for record in read_source(name, roots["smic-hs"])[0]]
    check_subjects(records)
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
        "text, not a clip: Total: 157 clips of 16 subjects",
        "text, not a clip: ne: negative po: positive",
    ]
    assert records[0].files[0] == "image17581040.jpg"
    assert records[0].sheet_frames == (17581040, None, 17581048)


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
        "spNO.2/b/0": "frame 0 is not on disk",
        "spNO.3/b/2": "part_A/spNO.3/b/color/6.jpg is not a readable image",
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


@pytest.mark.parametrize(
    ("files", "version"),
    [
        (["CAS(ME)3_part_A_v1.xls"], "v1, full sheet with macro-expressions"),
        (["CAS(ME)3_part_A_v2.xls"], "v2, full sheet with macro-expressions"),
        (["mine.xls"], "version not stated in the file name, full sheet with macro-expressions"),
    ],
)
def test_cas_me3_versions_with_the_same_number_of_rows_are_told_by_the_file_name(files, version):
    assert SOURCES["cas-me3a"].release_of(4206, files) == version
    assert SOURCES["cas-me3a"].release_of(860, files) == "v2, micro-expressions"
    assert SOURCES["cas-me3a"].release_of(4207, files) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CASME2", "'casme2' or 'cas-me2'"),
        ("samm_long", "'samm-long'"),
        ("cas(me)^3a", "'cas-me3a'"),
        ("laboratory", ""),
    ],
)
def test_a_name_that_is_nearly_a_source_s_is_answered_with_it(tmp_path, name, meant):
    assert did_you_mean(name) == (f" Did you mean {meant}?" if meant else "")
    with pytest.raises(ValueError, match=re.escape(meant)):
        read_source(name, tmp_path)


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
    assert reasons(report) == {"sub0008/sub0008_02/4": "train_frames/sub0008_02/00008.png is not a readable image"}


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
