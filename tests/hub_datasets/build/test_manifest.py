import hashlib
import json
import shutil

import cv2
import yaml
from huggingface_hub import DatasetCard
from rich.console import Console

from deft_llm.hub_datasets.build.inspection import inspect, print_manifest
from deft_llm.hub_datasets.build.run import build
from deft_llm.hub_datasets.sources.catalogue import SOURCES
from deft_llm.hub_datasets.unimer.constraints import NOT_TESTABLE, SUPPORTED
from tests.hub_datasets import miniatures
from tests.hub_datasets.build.own_recordings import CROPPED


def test_the_manifest_accounts_for_everything_and_names_no_folder(own_root, own_built):
    out, manifest = own_built
    assert manifest == json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    source = manifest["sources"]["mylab"]
    sheet = (own_root / "annotations.csv").read_bytes()
    assert source["sheets"] == [{"name": "annotations.csv", "sha256": hashlib.sha256(sheet).hexdigest(), "rows": 7}]
    assert source["rows_in_sheets"] == source["clips"] + source["dropped"]
    assert source["labels"]["anger"] == {"emotions": ["anger"], "coarse": "negative", "clips": 6}
    assert manifest["verdicts"]["AU4"][SUPPORTED] >= 4
    for path in out.rglob("*"):
        if path.is_file():
            assert str(own_root).encode() not in path.read_bytes()


def test_two_people_with_one_recording_are_reported(own_root, tmp_path, inline):
    root = tmp_path / "copy"
    shutil.copytree(own_root / "p1" / "c1", root / "b")
    shutil.copytree(own_root / "p1" / "c1", root / "a")
    miniatures.write_csv(
        root / "annotations.csv",
        [["subject", "path", "onset", "apex", "offset"], ["a", "a", 3, 8, 13], ["b", "b", 3, 8, 13]],
    )
    manifest = build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    (pair,) = manifest["near_duplicates"]
    assert {pair["first"], pair["second"]} == {"mylab/a/a/3", "mylab/b/b/3"}
    assert pair["distance"] == 0
    assert "mylab/a/a/3 and mylab/b/b/3" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_clips_that_cannot_be_measured_are_counted_and_do_not_stop_a_build(own_root, tmp_path, inline, capsys):
    root = tmp_path / "copy"
    shutil.copytree(own_root / "p1" / "c1", root / "a")
    for name in ("b", "c"):
        (root / name).mkdir()
        for path in sorted((root / "a").iterdir()):
            small = cv2.resize(cv2.imread(str(path)), (40, 40), interpolation=cv2.INTER_AREA)
            assert cv2.imwrite(str(root / name / path.name), small)
    header = ["subject", "path", "onset", "apex", "offset", "AU"]
    lines = [[name, name, 3, "" if name == "c" else 8, 13, "4"] for name in "abc"]
    miniatures.write_csv(root / "annotations.csv", [header, *lines])
    manifest = build({"mylab": root}, tmp_path / "out", settings=CROPPED)
    assert manifest["rows"] == 2
    ((reason, count),) = manifest["not_measurable"].items()
    assert reason.startswith("the face is too small")
    assert (count, manifest["quality"]["not_measurable"]) == (1, 1)
    assert sorted(manifest["verdicts"]["AU4"]) == [NOT_TESTABLE, SUPPORTED]
    (drop,) = manifest["drops"]
    assert (drop["key"], drop["reason"].startswith("the face is too small")) == ("mylab/c/c/3", True)
    out = tmp_path / "out"
    for show in (lambda: print_manifest(manifest, Console()), lambda: inspect(out)):
        show()
        assert "not measurable: 1\n" in capsys.readouterr().out
    inspect(out, clip="mylab/b/b/3")
    told = " ".join(capsys.readouterr().out.split())
    assert "not measurable: the face is too small" in told
    assert "nothing can be said: the clip cannot be measured" in told


def test_the_card_is_valid_and_says_what_the_licences_ask_for(everything):
    card = DatasetCard.load(everything[3] / "README.md")
    assert card.data.license == "other"
    files = card.data.to_dict()["configs"][0]["data_files"]
    assert {item["split"] for item in files} == {"train", "test_a", "test_b"}
    text = card.text
    assert "004, 010, 030, 031" in text
    assert "Clause 7" in text
    assert "assigned to USTC" in text
    assert "disgust in CASME II and anger in SAMM" in text
    assert yaml.safe_load(card.content.split("---")[1])["pretty_name"] == "Uni-MER"


def test_the_manifest_names_licences_versions_errata_and_labels(everything, manifest):
    _, _, roots, out = everything
    assert manifest["licences_accepted"] == sorted(name for name in roots if name in SOURCES)
    assert manifest["versions"]["readers"] == manifest["sources"]["samm"]["reader"]
    assert manifest["settings"]["seed"] == 0
    assert manifest["sources"]["samm"]["labels"]["Anger"]["emotions"] == ["anger"]
    assert manifest["sources"]["own"]["licence"] is None
    assert all(sheet["sha256"] for item in manifest["sources"].values() for sheet in item["sheets"])
    text = (out / "manifest.json").read_text(encoding="utf-8")
    assert str(out.parent) not in text
