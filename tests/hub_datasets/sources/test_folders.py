import shutil

import pytest
from PIL import Image

from deft_llm.hub_datasets.sources.folders import FolderTree, OutsideError, natural_key
from deft_llm.hub_datasets.sources.readers import read_source
from deft_llm.hub_datasets.sources.tables import SheetError
from tests.hub_datasets import miniatures


def reasons(report):
    return {drop.key: drop.reason for drop in report.drops}


def test_a_clip_folder_that_links_out_of_the_root_is_dropped(copied, tmp_path):
    root = copied("casme2")
    folder = root / "CASME2_RAW_selected" / "sub01" / "EP03_02"
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    _, report = read_source("casme2", root)
    assert reasons(report)["sub01/EP03_02/8"] == (
        "CASME2_RAW_selected/sub01/EP03_02 is a symbolic link out of the root; pass --follow-links if it leads to "
        "your own data"
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
    assert reasons(report)["sub01/EP03_02/8"].endswith(
        "img009.jpg and img9.jpg are both frame 9; keep one file per frame"
    )


def test_images_that_are_not_frames_and_links_to_nowhere_are_named(copied):
    root = copied("casme2")
    folder = root / "CASME2_RAW_selected" / "sub01" / "EP03_02"
    for name in ("apex.jpg", "mean_face.jpg", "img9(1).jpg"):
        shutil.copy(folder / "img9.jpg", folder / name)
    before, report = read_source("casme2", root)
    place = "CASME2_RAW_selected/sub01/EP03_02"
    assert report.warnings[-1] == (
        f"3 images in 1 folders are not frames and were left out: {place}/apex.jpg, {place}/img9(1).jpg, "
        f"{place}/mean_face.jpg."
    )
    (folder / "img10.jpg").unlink()
    (folder / "img10.jpg").symlink_to("/nowhere/img10.jpg")
    after, report = read_source("casme2", root)
    assert report.warnings[-1] == f"1 frames are missing, because they are links to nowhere: {place}/img10.jpg."
    files = [{record.clip: record.files for record in records}["EP03_02"] for records in (before, after)]
    assert not {"apex.jpg", "img9(1).jpg"} & set(files[0])
    assert set(files[0]) - set(files[1]) == {"img10.jpg"}


def test_the_frame_number_need_not_be_the_last_one(tmp_path):
    rows = ["subject,path"]
    for person, names in enumerate((["frame_000{}_1000ms.jpg", "apex.jpg"], ["{}_crop2.jfif"], ["img4{}.pgm"]), 1):
        clip = tmp_path / f"clip{person}"
        clip.mkdir()
        for name in {name.format(number) for name in names for number in range(1, 7)}:
            Image.new("L", (8, 8)).save(clip / name, format="PPM" if name.endswith("pgm") else "JPEG")
        rows.append(f"{person},clip{person}")
    shutil.copy(clip / "img45.pgm", clip / "img45(1).pgm")
    (tmp_path / "annotations.csv").write_text("\n".join(rows))
    (clip / "img42.pgm").unlink()
    records, report = read_source("mine", tmp_path)
    assert report.drops == []
    assert records[-1].quality[:1] == ("frames_missing:1",)
    assert records[-1].files == tuple(f"img4{number}.pgm" for number in (1, 3, 4, 5, 6))
    assert [record.files for record in records[:-1]] == [
        tuple(name.format(number) for number in range(1, 7)) for name in ("frame_000{}_1000ms.jpg", "{}_crop2.jfif")
    ]


def test_names_are_ordered_by_their_numbers():
    assert sorted(["f10", "f9", "f090", "e11", "f2.png"], key=natural_key) == ["e11", "f2.png", "f9", "f10", "f090"]
    assert len(natural_key("9" * 5000)) == 1


def linked_laboratory(tmp_path):
    """Own recordings whose folders, frames and sheet are links to another disk."""
    store, root = tmp_path / "store", tmp_path / "lab"
    for folder in ("day1", "frames"):
        miniatures.write_frames([store / folder / f"{number}.png" for number in range(1, 6)], "p")
    root.mkdir()
    (root / "day1").symlink_to(store / "day1")
    (root / "day2").mkdir()
    for number in range(1, 6):
        (root / "day2" / f"{number}.png").symlink_to(store / "frames" / f"{number}.png")
    (root / "circle").symlink_to(root / "circle")
    rows = [["subject", "path", "onset", "offset"], ["p", "day1", 1, 4], ["p", "day2", 1, 4], ["p", "circle", 1, 4]]
    miniatures.write_csv(store / "annotations.csv", rows)
    (root / "annotations.csv").symlink_to(store / "annotations.csv")
    return root


def test_links_are_followed_only_if_the_user_says_so_and_the_report_says_where_they_lead(tmp_path):
    root = linked_laboratory(tmp_path)
    with pytest.raises(SheetError, match=r"a symbolic link out of .*--follow-links"):
        read_source("mylab", root)
    shutil.copy(root / "annotations.csv", tmp_path / "sheet.csv")
    records, report = read_source("mylab", root, sheet=tmp_path / "sheet.csv")
    assert records == []
    assert all("--follow-links" in drop.reason for drop in report.drops)
    records, report = read_source("mylab", root, follow_links=True)
    assert [(record.clip, len(record.files)) for record in records] == [("day1", 4), ("day2", 4)]
    assert [drop.key for drop in report.drops] == ["p/circle/1"]
    assert report.links == {
        "./*": str(tmp_path / "store"),
        "day1": str(tmp_path / "store/day1"),
        "day2/*": str(tmp_path / "store/frames"),
    }
    assert f"followed the symbolic link day1 to {tmp_path / 'store/day1'}" in str(report)
    assert report.to_dict()["links"] == ["./*", "day1", "day2/*"]  # the manifest is shared: no path of this machine


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("day1/clip.mp4", "day1/clip.mp4"),
        ("./day1//clip.mp4", "day1/clip.mp4"),
        ("day2/../day1/clip.mp4", "day1/clip.mp4"),
        ("day1\\clip.mp4", "day1/clip.mp4"),
        (".\\day1\\clip.mp4", "day1/clip.mp4"),
        ("D:\\data\\Lab\\day1\\clip.mp4", "day1/clip.mp4"),
        ("D:/data/lab/day1/clip.mp4", "day1/clip.mp4"),
        ("\\\\server\\share\\lab\\day1\\clip.mp4", "day1/clip.mp4"),
        ("C:\\lab\\old\\lab\\day1\\clip.mp4", "day1/clip.mp4"),
        ("a\\b.mp4", "a\\b.mp4"),  # a file of Linux with this name
        ("{root}/day1/clip.mp4", "day1/clip.mp4"),
    ],
)
def test_paths_are_read_however_they_are_written(tmp_path, text, name):
    root = (tmp_path / "lab").resolve()
    (root / "day1").mkdir(parents=True)
    for file in ("day1/clip.mp4", "a\\b.mp4"):
        (root / file).touch()
    path, found = FolderTree(root).place(text.format(root=root))
    assert (path, found) == (root / name, name)


@pytest.mark.parametrize(
    "text", ["..", "../elsewhere", "/etc", "a/../../b", "..\\b", "C:\\Users\\me\\clip.mp4", "D:clip.mp4", "a\0b"]
)
def test_paths_out_of_the_root_are_refused_by_name(tmp_path, text):
    with pytest.raises(OutsideError) as caught:
        FolderTree(tmp_path.resolve()).place(text)
    assert str(caught.value).startswith(text)
