"""The last two steps of `make demo`."""

import numpy as np
import pytest
from PIL import Image

from deft_llm.demo import LANDMARKS, LOWERING, main
from deft_llm.processing import DeftVideoProcessor, open_clip

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "new" / "photograph.mp4"
    assert main(["clip", "--output", str(path)]) == 0
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
    assert main(["explain", str(photograph), "--model", str(folder), "--picture", str(picture)]) == 0
    assert np.asarray(Image.open(picture).convert("L")).std() > 10


def test_a_form_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "clip.mp4"])
    assert "--model" in capsys.readouterr().err
