"""The last two steps of `make demo`."""

import numpy as np
import pytest
from PIL import Image

from deft_llm.cli import main
from deft_llm.demo import LANDMARKS, LOWERING
from deft_llm.processing import DeftVideoProcessor, open_clip

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "new" / "photograph.mp4"
    assert main(["demo", "clip", "--output", str(path)]) == 0
    return path


def test_the_brows_are_lowered_by_what_is_said(photograph, capsys):
    clip = open_clip(str(photograph))
    assert len(clip) == 41
    flow = DeftVideoProcessor(num_frames=3)(clip, key_frames=(4, 20, 36))["flow_values_videos"][0]
    down = np.asarray(flow[0, 1])
    assert down.max() == pytest.approx(100 * LOWERING, rel=0.5)
    assert len(LANDMARKS) == 3


@pytest.mark.filterwarnings("ignore")
def test_it_is_explained_by_the_models_own_code(photograph, folder, tmp_path):
    picture = tmp_path / "new" / "explanation.png"
    assert main(["demo", "explain", str(photograph), "--model", str(folder), "--picture", str(picture)]) == 0
    assert np.asarray(Image.open(picture).convert("L")).std() > 10


@pytest.mark.filterwarnings("ignore")
def test_a_clip_that_cannot_be_measured_has_a_reason_and_no_picture(tiny_video, folder, tmp_path, capfd):
    picture = tmp_path / "explanation.png"
    assert main(["demo", "explain", str(tiny_video), "--model", str(folder), "--picture", str(picture)]) == 0
    told = capfd.readouterr().out
    assert "not measurable" in told
    assert "the face is too small" in told
    assert "No picture was made" in told
    assert not picture.exists()


def test_what_is_not_there_is_named(photograph, tmp_path, capsys):
    options = ["--model", str(tmp_path), "--picture", str(tmp_path / "picture.png")]
    assert main(["demo", "explain", "nowhere.mp4", *options]) == 2
    assert "nowhere.mp4: no such video. `deft demo clip` makes one." in capsys.readouterr().err
    assert main(["demo", "explain", str(photograph), *options]) == 2
    assert "no config.json in it; pass a folder that `deft train` has written" in capsys.readouterr().err
