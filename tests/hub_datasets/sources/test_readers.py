"""What is common to all data sets: frames that are found, own recordings, and input that is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deft_llm.hub_datasets.sources.emotions import UnknownEmotionError
from deft_llm.hub_datasets.sources.readers import (
    VIDEO_SUFFIXES,
    SubjectClashError,
    check_subjects,
    read_source,
    refuse_output_in_root,
)
from deft_llm.hub_datasets.sources.tables import SheetError, cell_text
from deft_llm.processing.video_reading import open_clip
from tests.hub_datasets import miniatures
from tests.hub_datasets.miniatures import CASME2_HEADER, DFME_HEADER, MINIATURES, write_csv, write_xlsx


def reasons(report):
    return {drop.key: drop.reason for drop in report.drops}


# --- All sources ----------------------------------------------------------------------------------------------------


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


# --- Frames and key frames -------------------------------------------------------------------------------------------


def test_frames_that_the_disk_lacks_drop_the_row_with_its_reason(read):
    records, report = read("casme2")
    assert reasons(report)["sub17/EP05_02/30"] == "no folder sub17/EP05_02 under the root"
    assert reasons(report)["sub26/EP15_01/40"] == "frame 50 is not on disk"
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


def test_expressions_longer_than_half_a_second_are_flagged(tmp_path):
    rows = [[1, "a", None, 100, 150, 200, None, 4, "fear"], [1, "b", None, 100, 150, 201, None, 4, "fear"]]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    records, _ = read_source("casme2", tmp_path, check_frames=False)
    assert [record.quality for record in records] == [(), ("longer_than_half_a_second",)]  # at 200 fps


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


def test_clips_that_only_their_folder_tells_apart_are_all_kept(tmp_path, brow_video):
    header = ["subject", "path", "onset", "apex", "offset"]
    paths = ["day1/clip.mp4", "day2/clip.mp4", "ep1/color", "ep2/color", "day1\\clip.mov"]
    for path in paths:
        place = tmp_path / path.replace("\\", "/")
        place.parent.mkdir(exist_ok=True)
        if place.suffix:
            place.symlink_to(tmp_path / "brow.mp4")
        else:
            miniatures.write_frames([place / f"{number}.png" for number in range(1, 5)], "p")
    shutil.copy(brow_video, tmp_path / "brow.mp4")
    write_csv(tmp_path / "annotations.csv", [header, *([1, path, 1, 2, 3] for path in [*paths, "./day1/clip.mp4"])])
    records, report = read_source("mylab", tmp_path)
    names = ["day1/clip.mp4", "day2/clip.mp4", "ep1/color", "ep2/color", "day1/clip.mov"]
    assert [record.clip_id for record in records] == [f"mylab/1/{name}/1" for name in names]
    assert [record.clip for record in records] == names
    assert [drop.row for drop in report.drops] == [7]


def test_one_clip_name_for_two_paths_is_named_with_what_would_mend_it(tmp_path):
    rows = [["subject", "clip", "path"], ["p", "a", "day1"], ["p", "a", "day2"]]
    write_csv(tmp_path / "annotations.csv", rows)
    _, report = read_source("mylab", tmp_path, check_frames=False)
    assert [drop.reason for drop in report.drops] == [
        "same subject, clip and onset as row 2, but another path; give each a name of its own in the column clip"
    ]


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES) + [".MP4"])
def test_every_suffix_of_a_video_is_taken(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"-")
    write_csv(tmp_path / "annotations.csv", [["subject", "path"], ["p", f"a{suffix}"]])
    (record,), _ = read_source("mylab", tmp_path)
    assert record.video == tmp_path.resolve() / f"a{suffix}"


@pytest.mark.parametrize("suffix", [".pgm", ".jfif", ".JPG"])
def test_frames_of_further_image_formats_are_read(tmp_path, suffix):
    for number in range(1, 4):
        image = Image.new("L", (8, 8), number)
        (tmp_path / "clip").mkdir(exist_ok=True)
        image.save(tmp_path / "clip" / f"{number}{suffix}", format={".pgm": "PPM"}.get(suffix, "JPEG"))
    write_csv(tmp_path / "annotations.csv", [["subject", "path", "onset", "offset"], ["p", "clip", 1, 3]])
    (record,), _ = read_source("mylab", tmp_path)
    assert record.files == tuple(f"{number}{suffix}" for number in range(1, 4))
    assert len(open_clip([str(path) for path in record.frames])) == 3


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; pass the folder that casme2 was unpacked to"):
        read_source("casme2", tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="not a folder"):
        read_source("casme2", tmp_path / "file")


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(
        SheetError,
        match=r"Unknown source 'casme-2'\. Did you mean 'casme2' or 'cas-me2'\? Known: casme, .*annotations\.csv",
    ):
        read_source("casme-2", tmp_path)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([1, "a", None, "x7", 8, 9], "onset is 'x7', which is not a frame number"),
        ([1, "a", None, 7, 8, 10**10], "offset is '10000000000', which is not a frame number"),
        ([1, "a", None, "/", 8, 9], "no onset: the cell contains '/'"),
        ([1, "a", None, 7, "/", "/"], "neither offset nor apex: the cell contains '/'"),
        ([1, "a", None, 7, 8, 5], "offset 5 is not after onset 7"),
        ([None, "a", None, 7, 8, 9], "no subject; write it in this row: a 7 8 9 4 fear"),
        (["n/a", "a", None, 7, 8, 9], "no subject; write it in this row: n/a a 7 8 9 4 fear"),
        ([1, "a", None, -1, 8, 9], "no onset: the cell contains '-1'"),
        ([1, "a", None, "TBD", 8, 9], "no onset: the cell contains 'TBD'"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_their_reason(tmp_path, cells, reason):
    rows = [[1, "good", None, 1, 2, 3, None, 4, "fear"], [*cells, None, 4, "fear"]]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    records, report = read_source("casme2", tmp_path, check_frames=False)
    assert [record.clip for record in records] == ["good"]
    assert [(drop.row, drop.reason) for drop in report.drops] == [(3, reason)]


@pytest.mark.parametrize("apex", ["-1", -1, "—", "TBD", "x", "n/a", "8.5", 10**10, "1,020"])
def test_an_apex_that_is_no_frame_number_is_missing_and_the_row_is_kept(tmp_path, apex):
    rows = [[1, "a", None, 7, apex, 9, None, 4, "fear"]]
    write_xlsx(tmp_path / "CASME2-coding-20190701.xlsx", {"Sheet1": [CASME2_HEADER, *rows]})
    (record,), report = read_source("casme2", tmp_path, check_frames=False)
    assert (record.sheet_frames, record.quality) == ((7, None, 9), ("apex_missing",))
    named = [warning for warning in report.warnings if "row 2, sub01/a/7: apex is " in warning]
    assert len(named) == (str(apex) in ("x", "8.5", "10000000000", "1,020"))


BAD_ROWS = {
    # subject, path, onset, apex, offset, fps, AU, emotion -> what the report says about the row
    "no subject": (["", "day1/a", 1, 2, 3, 200, "4", "fear"], "no subject; write it in this row"),
    "no path": (["p9", "", 1, 2, 3, 200, "4", "fear"], "no path; write the clip's folder or video"),
    "onset": (["p9", "day1/a", "x1", 2, 3, 200, "4", "fear"], "onset is 'x1', which is not a frame number"),
    "no onset": (["p9", "day1/a", "TBD", 2, 3, 200, "4", "fear"], "no onset: the cell contains 'TBD'"),
    "reversed": (["p9", "day1/a", 3, "", 1, 200, "4", "fear"], "offset 1 is not after onset 3"),
    "absent": (["p9", "day3/a", 1, 2, 3, 200, "4", "fear"], "no file or folder day3/a under the root"),
    "frame": (["p9", "day1/a", 1, 2, 99, 200, "4", "fear"], "frame 99 is not on disk"),
    "outside": (["p9", "../x", 1, 2, 3, 200, "4", "fear"], "../x leads out of the root; write a path below it"),
    "windows": (["p9", "E:\\x\\a", 1, 2, 3, 200, "4", "fear"], "E:\\x\\a is a path of another computer"),
    "long": (["p9", "a" * 300, 1, 2, 3, 200, "4", "fear"], "no file or folder aaa"),
    "no video": (["p9", "annotations.csv", 1, 2, 3, 200, "4", "fear"], "annotations.csv is neither a folder nor"),
    "twice": (["p1", "day1/a", 1, 2, 3, 200, "4", "fear"], "same subject, clip and onset as row 2"),
    "comma": (["p9", "day1/a", 1, 2, 3, 200, "4", "fear", "7"], "it has 9 cells and the header has 8"),
}
DOUBTFUL_ROWS = {
    "apex": (["p1", "day1/b", 1, "soon", 3, 200, "4", "fear"], "apex is 'soon', which is not a frame number"),
    "fps": (["p1", "day1/c", 1, 2, 3, "fast", "4", "fear"], "the frame rate 'fast' is not read"),
    "emotion": (["p1", "day1/d", 1, 2, 3, 200, "4", "N/A"], "the emotion 'N/A' is read as no emotion"),
    "range": (["p1", "day1/e", 1, 2, 3, 200, "4-7", "fear"], "'4-7' of the action units '4-7' is not read"),
    "slash": (["p1", "day1/f", 1, 2, 3, 200, "12+4/7", "fear"], "'4/7' of the action units '12+4/7' is not read"),
}


def write_bad_rows(root):
    """Own recordings with one of each bad row between good ones; returns the numbers of the rows."""
    header = ["subject", "path", "onset", "apex", "offset", "fps", "AU", "emotion"]
    lines, numbers = [header, ["p1", "day1/a", 1, 2, 3, 200, "4+7", "fear"]], {}
    for name, (line, _) in {**BAD_ROWS, **DOUBTFUL_ROWS}.items():
        numbers[name] = len(lines) + 1
        lines += [line, ["p2", f"day2/{name}", 1, 2, 3, 200, "12", "happiness"]]
    image = Image.new("L", (8, 8))
    for line in lines[1:]:
        if line[1].startswith(("day1", "day2")):
            folder = root / line[1]
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, 4):
                image.save(folder / f"{number}.png")
    write_csv(root / "annotations.csv", lines)
    return numbers


def test_one_of_each_bad_row_all_good_rows_are_kept_and_each_bad_one_is_named(tmp_path):
    numbers = write_bad_rows(tmp_path)
    records, report = read_source("mylab", tmp_path)
    clips = {record.clip: record for record in records}
    assert {"day1/a", *(f"day2/{name}" for name in numbers)} <= clips.keys()
    for name in numbers:
        good = clips[f"day2/{name}"]
        assert (good.row, good.emotion, good.sheet_frames) == (numbers[name] + 1, "happiness", (1, 2, 3))
    drops = {drop.row: drop for drop in report.drops}
    assert drops.keys() == {numbers[name] for name in BAD_ROWS}
    for name, (_, reason) in BAD_ROWS.items():
        assert drops[numbers[name]].reason.startswith(reason), name
        assert drops[numbers[name]].sheet == "annotations.csv"
    for name, (line, what) in DOUBTFUL_ROWS.items():
        assert clips[line[1]].row == numbers[name]
        named = [text for text in report.warnings if text.startswith(f"annotations.csv row {numbers[name]}, p1/")]
        assert len(named) == 1
        assert what in named[0]
    assert len(records) + len(report.drops) == 1 + 2 * len(numbers)
    assert clips["day1/e"].action_units.units == ()
    assert [unit.code for unit in clips["day1/f"].action_units.units] == [12]


def test_a_subject_that_two_sources_claim_is_refused(roots, tmp_path):
    lab = miniatures.own_jsonl(tmp_path / "lab")
    text = (lab / "annotations.jsonl").read_text(encoding="utf-8")
    (lab / "annotations.jsonl").write_text(text.replace('"p1"', '"casme2/sub01"'), encoding="utf-8")
    records, _ = read_source("my-lab", lab)
    with pytest.raises(SubjectClashError, match="casme2/sub01 is claimed by casme2 and my-lab"):
        check_subjects([*read_source("casme2", roots["casme2"])[0], *records])
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
    with pytest.raises(ValueError, match="contain each other"):
        refuse_output_in_root(place, [roots["casme2"]])
    refuse_output_in_root(roots["casme2"].parent / "casme2-out", [roots["casme2"]])


def test_the_output_never_lies_in_a_data_set_behind_a_link(roots, tmp_path):
    (tmp_path / "link").symlink_to(roots["casme2"])
    with pytest.raises(ValueError, match="contain each other"):
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
    filled = [line for line in lines if any(cell_text(cell) for cell in line)]
    assert len(records) + len(report.drops) == len(filled)
    assert len(records) <= report.rows <= len(filled)
