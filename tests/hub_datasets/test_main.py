import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import CommitOperationDelete, DatasetCard
from PIL import Image
from rich.console import Console

from deft_llm.hub_datasets.__main__ import BUILT_WITH_DROPS, DONE, NOTHING_BUILT, REFUSED, main
from deft_llm.hub_datasets.build import inspection, publishing
from deft_llm.hub_datasets.build import run as building
from deft_llm.hub_datasets.build.manifest import LicenceError, check_licences, licensed_sources
from deft_llm.hub_datasets.build.publishing import push
from deft_llm.hub_datasets.build.shards import build_shard
from deft_llm.hub_datasets.sources.catalogue import SOURCES
from deft_llm.hub_datasets.synthetic.dataset import build as build_synthetic
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.hub_datasets.unimer.splits import check_written, leave_one_subject_out
from deft_llm.processing import DeftVideoProcessor
from tests.hub_datasets.miniatures import MINIATURES, own_csv


def command(*arguments):
    return [sys.executable, "-m", "deft_llm.hub_datasets", *map(str, arguments)]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every miniature, built in one go by the command line: (process, roots, dataset folder)."""
    place = tmp_path_factory.mktemp("laboratory")
    roots = {name: write(place / "copies" / name) for name, write in MINIATURES.items()}
    sources = [f"{name}={root}" for name, root in roots.items()]
    licensed = [name for name in roots if name in SOURCES]
    done = subprocess.run(
        command(
            "build", "--source", *sources, "--accept-licence", *licensed, "--out", place / "uni-mer", "--face-source",
            "cropped", "--split", "fixed", "--shard-size", 8, "--features-only", "--workers", 2,
        ),
        capture_output=True, text=True, check=False, env=None,
    )  # fmt: skip
    return done, roots, place / "uni-mer"


@pytest.fixture(scope="module")
def manifest(everything):
    return json.loads((everything[2] / "manifest.json").read_text(encoding="utf-8"))


# --- build ----------------------------------------------------------------------------------------------------------


def test_every_source_is_built_and_the_exit_code_tells_of_drops(everything, manifest):
    done, roots, out = everything
    assert done.returncode == BUILT_WITH_DROPS, done.stderr[-3000:]
    assert set(manifest["sources"]) == set(roots)
    for name, source in manifest["sources"].items():
        assert source["clips"] > 0, name
        assert source["clips"] + source["dropped"] + sum(source["left_out"].values()) == source["rows_in_sheets"], name
    rows = Counter(name for path in (out / "data").iterdir() for name in pq.read_table(path)["source"].to_pylist())
    assert rows == {name: source["clips"] for name, source in manifest["sources"].items()}
    assert "Measuring clips" in done.stdout
    assert "Dropped rows" in done.stdout
    assert f"Written to {out}" in done.stdout


def test_drops_have_reasons_and_none_is_forgotten(manifest):
    reasons = {drop["source"]: drop["reason"] for drop in manifest["drops"]}
    assert all(drop["reason"] for drop in manifest["drops"])
    assert any("no folder sub17/EP05_02" in drop["reason"] for drop in manifest["drops"])
    assert "cas-me3a" in reasons
    dropped = Counter(drop["source"] for drop in manifest["drops"])
    assert dropped == {name: item["dropped"] for name, item in manifest["sources"].items() if item["dropped"]}


def test_the_written_splits_share_no_subject_and_folds_can_be_made(everything, manifest, tmp_path):
    out = everything[2]
    written = check_written(out / "data")
    assert set(written) == {"train", "test_a", "test_b"}
    assert {name: {"clips": clips, "subjects": people} for name, (clips, people) in written.items()} == (
        manifest["splits"]
    )
    splits = load_dataset(str(out), cache_dir=str(tmp_path))
    streamed = load_dataset(str(out), streaming=True)
    for name, split in splits.items():
        assert split.features == streamed[name].features == features(DeftVideoProcessor(num_frames=8))
    folds = leave_one_subject_out(splits["train"].select_columns(["clip_id", "subject"]))
    assert len(folds) == manifest["splits"]["train"]["subjects"]
    # One person filmed by three cameras is one subject.
    smic = {row["subject"] for row in splits["train"] if row["source"].startswith("smic")}
    assert smic == {"smic/s01", "smic/s03", "smic/s20"}


def test_the_card_is_valid_and_says_what_the_licences_ask_for(everything):
    card = DatasetCard.load(everything[2] / "README.md")
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
    _, roots, out = everything
    assert manifest["licences_accepted"] == sorted(name for name in roots if name in SOURCES)
    assert manifest["versions"]["readers"] == manifest["sources"]["samm"]["reader"]
    assert manifest["settings"]["seed"] == 0
    assert manifest["sources"]["samm"]["labels"]["Anger"]["emotions"] == ["anger"]
    assert manifest["sources"]["own"]["licence"] is None
    assert all(sheet["sha256"] for item in manifest["sources"].values() for sheet in item["sheets"])
    text = (out / "manifest.json").read_text(encoding="utf-8")
    assert str(out.parent) not in text


def test_originals_are_left_as_they_were(everything):
    _, roots, _ = everything
    for root in roots.values():
        assert not [path for path in root.rglob("*") if path.name.endswith((".tmp", ".parquet", "lock"))]


def run(root, out, *more):
    return main(["build", "--source", f"mylab={root}", "--out", str(out), *more])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "casme2=."], "--accept-licence casme2"),
        (["--source", "mylab=elsewhere"], "--source mylab is given twice"),
        (["--face-source", "cropped", "--face-source", "yunet"], "given twice for all sources"),
        (["--face-source", "haar"], "haar"),
        (["--sheet", "samm=x.csv"], "no --source"),
        (["--emotion-word", "delight=bliss"], "delight"),
        (["--executor", "slurm"], "--executor-option time"),
        (["--executor", "local", "--executor-option", "nodes=3"], "has no such argument"),
    ],
)
def test_bad_requests_end_with_two_and_one_message(tmp_path, capsys, more, message):
    root = own_csv(tmp_path / "own")
    if more[0] == "--emotion-word":
        sheet = root / "annotations.csv"
        sheet.write_text(sheet.read_text(encoding="utf-8").replace("disgust", "delight"), encoding="utf-8")
    assert run(root, tmp_path / "out", *more) == REFUSED
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


@pytest.mark.parametrize("arguments", [["build", "--source", "casme2"], ["build"], ["push"], ["inspect"], []])
def test_the_form_of_a_command_is_checked(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == REFUSED
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "annotations.csv").write_text("subject,path\n", encoding="utf-8"), "no clip below it"),
        (lambda root: (root / "annotations.csv").write_text("person,where\n1,a\n", encoding="utf-8"), "subject"),
        (lambda root: (root / "annotations.csv").unlink(), "Unknown source 'mylab'"),
        (lambda root: shutil.rmtree(root), "no such folder"),
    ],
)
def test_bad_sheets_end_with_two(tmp_path, capsys, spoil, message):
    root = own_csv(tmp_path / "own")
    spoil(root)
    assert run(root, tmp_path / "out") == REFUSED
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_nothing_built_ends_with_three(tmp_path, capsys):
    root = own_csv(tmp_path / "own")
    shutil.rmtree(root / "clips")
    assert run(root, tmp_path / "out", "--face-source", "cropped") == NOTHING_BUILT
    captured = capsys.readouterr()
    assert "neither a folder nor a video" in captured.err
    assert "Dropped rows: 2" in captured.out
    assert not list(tmp_path.glob("out*"))


def test_own_recordings_need_no_licence_and_a_clean_build_ends_with_zero(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        building, "run_processes",
        lambda work, shards, *_: [build_shard(work, number) for number in range(len(shards))],
    )  # fmt: skip
    root = own_csv(tmp_path / "own")
    (tmp_path / "model.task").touch()
    assert run(root, tmp_path / "out", "--face-source", "mylab=cropped") == DONE
    written = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert written["settings"]["face_source_of"] == {"mylab": "cropped"}
    assert "Uni-MER" in capsys.readouterr().out
    assert run(root, tmp_path / "out", "--face-source", "cropped") == REFUSED
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("deft_llm.hub_datasets.build.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run(tmp_path / "own", tmp_path / "out") == REFUSED
    assert "pip install 'deft-llm[data]'" in capsys.readouterr().err


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys; from deft_llm.hub_datasets.__main__ import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'datasets', 'transformers', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "exit status" in done.stdout


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_prints_counts_labels_verdicts_and_drops(everything, manifest):
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    inspection.inspect(everything[2], console=console)
    text = console.export_text()
    for title in ("Clips", "Clips of each subject", "Flags", "Emotions", "Labelled action units", "Dropped rows"):
        assert title in text
    for name in everything[1]:
        assert name in text
    verdicts = manifest["verdicts"]["AU4"]
    line = next(line for line in text.splitlines() if "AU4 " in line)
    assert line.split("│")[-2].strip() == str(sum(verdicts.values()))
    assert "repression" in text


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered") / "data"
    build_synthetic(
        out=out, clips=2, clips_per_face=1, test_share=0.5, preset="easy", seed=4, workers=1,
        conventions=("synthetic",), corrupt=0.0, num_frames=8,
    )  # fmt: skip
    return out


def test_a_picture_shows_the_face_the_flow_the_verdicts_the_course_and_the_text(rendered, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    target = tmp_path / "new" / "clip.png"
    assert main(["inspect", str(rendered), "--picture", str(target)]) == DONE
    assert f"written to {target}" in " ".join(capsys.readouterr().out.split())
    image = np.asarray(Image.open(target).convert("RGB")).astype(int)
    assert image.shape[0] > 600
    assert image.shape[1] > 1200
    row = inspection.find_row(sorted((rendered / "data").glob("*.parquet")), _first_supported(rendered))
    crop, _ = inspection._crops(row, 8)
    shown = np.asarray(Image.fromarray((crop * 255).astype(np.uint8))).astype(np.float32)
    upper = np.float32(image[: image.shape[0] // 2, : image.shape[1] // 3])
    best = max(
        cv2.matchTemplate(upper, cv2.resize(shown, (side, side)), cv2.TM_CCOEFF_NORMED).max()
        for side in range(260, 320, 4)
    )
    assert best > 0.9  # the onset is there, as a person would see it
    green = (np.abs(image - (0x1A, 0x98, 0x50)).max(-1) < 12).sum()
    assert green > 100  # an ellipse of a supported unit


def _first_supported(folder):
    for path in sorted((folder / "data").glob("*.parquet")):
        for row in pq.read_table(path, columns=["clip_id", "action_units"]).to_pylist():
            if any(unit["verdict"] == "supported" for unit in row["action_units"]):
                return row["clip_id"]
    raise AssertionError("no supported unit among the rendered clips")


def test_a_picture_without_pixels_has_flow_and_regions(everything, tmp_path):
    pytest.importorskip("matplotlib")
    out = everything[2]
    row = inspection.find_row(sorted((out / "data").glob("*.parquet")), "samm/006/006_1_2/558")
    inspection.draw_clip(row, tmp_path / "clip.png")
    image = np.asarray(Image.open(tmp_path / "clip.png").convert("RGB"))
    assert image.std() > 10


def test_an_unknown_clip_and_an_empty_folder_are_refused(everything, tmp_path, capsys):
    assert main(["inspect", str(everything[2]), "--clip", "006_1_2"]) == REFUSED
    assert "samm/006/006_1_2/558" in capsys.readouterr().err  # what may have been meant
    assert main(["inspect", str(tmp_path)]) == REFUSED
    assert "a folder that `build` has written" in capsys.readouterr().err


def test_a_picture_without_matplotlib_says_what_to_install(rendered, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["inspect", str(rendered), "--picture", str(tmp_path / "x.png")]) == REFUSED
    assert "pip install matplotlib" in capsys.readouterr().err


# --- push -----------------------------------------------------------------------------------------------------------


class Hub:
    """The boundary to the Hub; remembers what it was asked for."""

    endpoint = "https://hub"

    def __init__(self, private=None, gated=False):
        self.calls, self.existing, self.gated = [], private, gated

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert repo_type == "dataset"
        assert exist_ok
        self.calls.append(("create", private))
        self.private = private if self.existing is None else self.existing

    def repo_info(self, repo_id, *, repo_type, revision=None):
        return SimpleNamespace(private=self.private, gated=self.gated, sha="0" * 40)

    def list_repo_files(self, repo_id, *, repo_type, revision):
        return ["README.md", "data/stale-00000.parquet"]

    def update_repo_settings(self, repo_id, *, repo_type, gated=None, private=None):
        self.calls.append(("settings", gated, private))

    def create_commit(self, repo_id, operations, *, repo_type, commit_message, revision, parent_commit):
        files = {operation.path_in_repo: operation for operation in operations}
        card = Path(files["README.md"].path_or_fileobj).read_text(encoding="utf-8")
        assert isinstance(files["data/stale-00000.parquet"], CommitOperationDelete)
        self.calls.append(("upload", repo_id, card))
        return SimpleNamespace(oid="1" * 40)


@pytest.fixture
def licensed_folder(everything, tmp_path):
    shutil.copytree(everything[2], tmp_path / "uni-mer")
    return tmp_path / "uni-mer"


@pytest.mark.parametrize("reason", [None, "we asked"])
def test_licensed_rows_never_go_to_a_public_repository(licensed_folder, reason):
    hub = Hub()
    with pytest.raises(LicenceError, match="cannot go to a public repository") as caught:
        push(licensed_folder, "lab/uni-mer", i_may_share=reason, api=hub)
    assert "CASME II" in str(caught.value)
    assert "assigned to USTC" in str(caught.value)
    assert hub.calls == []


@pytest.mark.parametrize("visibility", ["private", "gated"])
def test_licensed_rows_need_a_statement_that_goes_into_the_card(licensed_folder, visibility):
    hub = Hub()
    for reason in (None, "  "):
        with pytest.raises(LicenceError, match="--i-may-share"):
            push(licensed_folder, "lab/uni-mer", visibility=visibility, i_may_share=reason, api=hub)
    assert hub.calls == []
    before = (licensed_folder / "README.md").read_text(encoding="utf-8")
    for reason in ("Written permission of all authors.", "Permission was renewed."):
        url = push(licensed_folder, "lab/uni-mer", visibility=visibility, i_may_share=reason, api=hub)
    assert url == "https://hub/datasets/lab/uni-mer"
    kinds = [call[0] for call in hub.calls]
    assert hub.calls[0] == ("create", True)  # private while the files go up
    card = next(call for call in reversed(hub.calls) if call[0] == "upload")[2]
    assert "Permission was renewed." in card
    assert "Written permission" not in card  # one note, not two
    assert f"the {visibility} repository `lab/uni-mer`" in card
    assert card.startswith(before.rstrip("\n"))
    assert card == (licensed_folder / "README.md").read_text(encoding="utf-8")
    if visibility == "gated":
        assert kinds == ["create", "settings", "upload", "settings"] * 2
        assert hub.calls[1] == ("settings", "manual", None)
        assert hub.calls[3] == ("settings", None, False)
    else:
        assert kinds == ["create", "upload"] * 2


def test_an_existing_public_repository_gets_no_licensed_row(licensed_folder):
    hub = Hub(private=False)
    before = (licensed_folder / "README.md").read_bytes()
    with pytest.raises(LicenceError, match="exists and is public"):
        push(licensed_folder, "lab/uni-mer", visibility="private", i_may_share="we may", api=hub)
    assert [call[0] for call in hub.calls] == ["create"]
    assert (licensed_folder / "README.md").read_bytes() == before


def test_what_is_licensed_is_read_from_the_rows(licensed_folder):
    path = licensed_folder / "manifest.json"
    path.write_text(json.dumps({"sources": {"mylab": {}}}), encoding="utf-8")
    with pytest.raises(LicenceError, match="CASME II"):
        push(licensed_folder, "lab/uni-mer", api=Hub())
    path.unlink()
    with pytest.raises(LicenceError, match="CASME II"):
        push(licensed_folder, "lab/uni-mer", api=Hub())
    assert licensed_sources({"mylab"}, {"mylab/p1", "casme2/sub01"}) == ["casme2"]
    assert licensed_sources({"samm-long"}, {"samm/006"}) == ["samm-long"]
    assert licensed_sources({"mylab"}, {"mylab/p1"}) == []


def test_rendered_clips_may_be_shown_to_anybody(rendered):
    hub = Hub()
    push(rendered, "me/rendered", api=hub)
    assert [call[0] for call in hub.calls] == ["create", "upload"]
    assert hub.calls[0] == ("create", False)
    assert "Sharing" not in hub.calls[1][2]


def test_push_over_the_command_line(licensed_folder, monkeypatch, capsys):
    hub = Hub()
    monkeypatch.setattr(publishing, "HfApi", lambda: hub)
    arguments = ["push", "lab/uni-mer", "--from", str(licensed_folder)]
    assert main(arguments) == REFUSED
    assert main([*arguments, "--private"]) == REFUSED
    assert hub.calls == []
    capsys.readouterr()
    assert main([*arguments, "--private", "--i-may-share", "Signed by all."]) == DONE
    assert capsys.readouterr().out == "https://hub/datasets/lab/uni-mer\n"
    with pytest.raises(SystemExit):
        main([*arguments, "--private", "--gated"])
    assert main(["push", "lab/x", "--from", str(licensed_folder / "data"), "--private"]) == REFUSED


def test_only_what_the_manifest_can_name_is_accepted():
    check_licences(["mylab"], [])
    with pytest.raises(LicenceError, match="DFME"):
        check_licences(["dfme"], ["casme2"])
