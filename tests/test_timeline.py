import numpy as np
import pytest
from PIL import Image

from deft_llm.clips import Spotted, spotted
from deft_llm.processing.aligned_clip import Stretch
from deft_llm.processing.spotting import Interval
from deft_llm.timeline import COLOURS, _lines, _thinned, draw_timeline, motion_course

LONG = Spotted(
    "s1.mp4",
    [
        *(Interval(100 * n, 100 * n + 5, 100 * n + 12, "expression", 9.0, (("cheek", "left"),)) for n in range(20)),
        Interval(40, 45, 50, "blink", 8.0),
        Interval(2100, 2200, 2300, "speech", 3.0),
    ],
    [Stretch(2400, 2600, "the head turns too far"), Stretch(2700, 2710, "the face cannot be followed")],
    10.0,
    np.arange(3000) / 10,
)


def shares(path, colour):
    """Share of the picture's pixels that are nearly of a colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return float((np.abs(pixels - wanted).max(-1) < 12).mean())


def test_the_course_is_that_of_the_region_that_moves_most(spotted_video):
    followed = []
    item = spotted(str(spotted_video), noted=followed.append)
    moved, limit = motion_course(followed, item.fps)
    assert moved.shape == limit.shape == (160,)
    assert abs(int(np.argmax(moved)) - 76) <= 6
    assert moved[76] > limit[76]
    assert moved[:50].max() < 0.5 * moved.max()


def test_a_timeline_is_drawn_with_all_that_was_found(tmp_path):
    moved = np.abs(np.sin(np.arange(3000) / 30.0))
    moved[2400:2600] = np.nan
    path = tmp_path / "timeline.png"
    draw_timeline(LONG, (moved, np.full(3000, 0.3)), path)
    assert Image.open(path).width == 1440
    for kind in ("micro", "speech"):
        assert shares(path, COLOURS[kind]) > 0.0005, kind
    assert shares(path, COLOURS["macro"]) == 0
    assert shares(path, "#e5e7eb") > 0.005  # what cannot be measured is grey
    draw_timeline(LONG, (moved, np.full(3000, 0.3)), tmp_path / "again.png")
    assert path.read_bytes() == (tmp_path / "again.png").read_bytes()


def test_the_margins_of_the_picture_are_empty(tmp_path):
    """Nothing is cut off at the picture's edges."""
    path = tmp_path / "timeline.png"
    draw_timeline(LONG, (np.ones(3000), np.full(3000, 0.3)), path)
    pixels = np.asarray(Image.open(path).convert("L"))
    edges = [pixels[:3], pixels[-3:], pixels[:, :3].T, pixels[:, -3:].T]
    assert all((edge == 255).all() for edge in edges)


def test_a_list_that_is_too_long_is_cut_with_a_count():
    lines = [text for text, _ in _lines(LONG)]
    assert len(lines) == 12
    assert lines[0].startswith("1   micro-expression 0.00 to 1.20 s, apex 0.50 s, score 9.0: left cheek")
    assert lines[9] == "and 11 more expressions"
    assert lines[10] == "grey   240.00 to 260.00 s: the head turns too far"


@pytest.mark.parametrize(
    ("stretches", "said"),
    [([], "No expression was found, and everything can be measured."), (LONG.stretches, "No expression was found.")],
)
def test_a_video_without_an_expression_says_so(stretches, said):
    empty = Spotted("s1.mp4", [], stretches, 10.0, np.arange(3000) / 10)
    assert _lines(empty)[0][0] == said


def test_long_courses_keep_their_peaks():
    values = np.zeros(10_000)
    values[5_003], values[:100] = 7.0, np.nan
    thin = _thinned(values)
    assert len(thin) <= 1500
    assert np.nanmax(thin) == 7.0
    assert np.isnan(thin[0])
