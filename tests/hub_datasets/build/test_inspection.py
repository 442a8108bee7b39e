import sys

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from deft_llm.cli import main
from deft_llm.exit_codes import DONE, REFUSED
from deft_llm.hub_datasets.build import inspection


def test_inspect_prints_counts_labels_verdicts_and_drops(everything, manifest):
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    inspection.inspect(everything[3], console=console)
    text = console.export_text()
    for title in ("Clips", "Clips of each subject", "Flags", "Emotions", "Labelled action units", "Dropped rows"):
        assert title in text
    for name in everything[2]:
        assert name in text
    verdicts = manifest["verdicts"]["AU4"]
    line = next(line for line in text.splitlines() if "AU4 " in line)
    assert line.split("│")[-2].strip() == str(sum(verdicts.values()))
    assert "repression" in text


def test_a_picture_shows_the_face_the_flow_the_verdicts_the_course_and_the_text(rendered, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    target = tmp_path / "new" / "clip.png"
    assert main(["data", "inspect", str(rendered), "--picture", str(target)]) == DONE
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
    out = everything[3]
    row = inspection.find_row(sorted((out / "data").glob("*.parquet")), "samm/006/006_1_2/558")
    inspection.draw_clip(row, tmp_path / "clip.png")
    image = np.asarray(Image.open(tmp_path / "clip.png").convert("RGB"))
    assert image.std() > 10


def test_an_unknown_clip_and_an_empty_folder_are_refused(everything, tmp_path, capsys):
    assert main(["data", "inspect", str(everything[3]), "--clip", "006_1_2"]) == REFUSED
    assert "samm/006/006_1_2/558" in capsys.readouterr().err  # what may have been meant
    assert main(["data", "inspect", str(tmp_path)]) == REFUSED
    assert "a folder that `deft data build` has written" in capsys.readouterr().err


def test_a_picture_without_matplotlib_says_what_to_install(rendered, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["data", "inspect", str(rendered), "--picture", str(tmp_path / "x.png")]) == REFUSED
    assert "pip install matplotlib" in capsys.readouterr().err
