import shutil

from deft_llm.hub_datasets.sources.folders import natural_key
from deft_llm.hub_datasets.sources.readers import read_source


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
    assert reasons(report)["sub01/EP03_02/8"].endswith("are both frame 9")


def test_names_are_ordered_by_their_numbers():
    assert sorted(["f10", "f9", "f090", "e11", "f2.png"], key=natural_key) == ["e11", "f2.png", "f9", "f10", "f090"]
