import io

import numpy as np
import pytest
from PIL import Image

from deft_llm.canvas import PAPER, Canvas
from deft_llm.explained_picture import MOST, SIDE, picture, png
from deft_llm.explanation_views import marked_face
from deft_llm.processing.face_alignment import warp_to_crop
from tests.made_up_explanations import APEX, ONSET, explained, unmeasured, video

FIRST, SECOND = np.s_[56 : 56 + SIDE, 24 : 24 + SIDE], np.s_[56 : 56 + SIDE, 44 + SIDE : 44 + 2 * SIDE]


@pytest.fixture
def told(monkeypatch):
    words, write = [], Canvas.text

    def text(self, line, *rest, **more):
        words.append(line)
        return write(self, line, *rest, **more)

    monkeypatch.setattr(Canvas, "text", text)
    return words


def test_onset_and_apex_lie_beside_each_other(told):
    shown = video()
    drawn = picture(shown)
    onset, apex = (
        warp_to_crop(frame, shown.clip.transform, SIDE) for frame in shown.clip.reader.frames([ONSET, APEX])
    )
    moved = [(region, region.farthest) for region in shown.explained[0].moved]
    assert (drawn[FIRST] == onset).all()
    assert (drawn[SECOND] == marked_face(apex, moved, 10)).all()
    assert told[0] == "clip.mp4  ·  0.06 s to 0.24 s (frames 3, 8, 12)"
    assert {"onset, frame 3", "apex, frame 8", "anger (negative)", "0.75"} <= set(told)
    assert any(line.startswith("Arrows: farthest motion since the onset, 10 x as long.") for line in told)
    assert any(line.startswith("Motion is seen from 0.21 %") for line in told)
    assert (drawn[:, -20:] == PAPER.ground).all()  # a margin on the right


def test_a_clip_that_cannot_be_measured_shows_its_first_frame_and_the_reason(told):
    shown = video(unmeasured(), lost=(0, 20, "the head turns too far"))
    drawn = picture(shown)
    assert (drawn[FIRST] == warp_to_crop(shown.clip.reader.frames([0])[0], shown.clip.transform, SIDE)).all()
    assert {"not measurable", "The head turns too far.", "frame 0"} <= set(told)
    assert not any(line.startswith(("Arrows", "The class is")) for line in told)


def test_expressions_of_a_video_lie_below_each_other(told):
    one = picture(video())
    two = picture(video(explained(), explained(keys=(13, 15, 18)), spotted=True))
    assert two.shape == (2 * len(one), *one.shape[1:])
    assert "clip.mp4  ·  expression 2: 0.26 s to 0.36 s (frames 13, 15, 18)" in told
    many = picture(video(*[explained()] * (MOST + 3), spotted=True))
    assert len(many) == MOST * len(one) + 44
    assert told[-1] == "3 more expressions are not shown."


def test_a_picture_is_encoded_without_loss():
    drawn = picture(video())
    assert (np.asarray(Image.open(io.BytesIO(png(drawn)))) == drawn).all()
