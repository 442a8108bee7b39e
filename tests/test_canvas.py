import numpy as np
import pytest

from deft_llm.canvas import (
    ARROW_SCALES,
    LONGEST_ARROW,
    PAPER,
    SCREEN,
    Canvas,
    arrow_scale,
    draw_arrow,
    draw_outline,
    fitted,
    shortened,
    text_width,
    wrapped,
    written,
)


def changed(picture, before=0):
    """(rows, columns) of the pixels that are not as before."""
    return np.nonzero((picture != before).any(-1))


def blank(side=200):
    return np.zeros((side, side, 3), np.uint8)


def test_text_is_written_where_it_belongs_and_nowhere_else():
    canvas = Canvas(100, 400, PAPER)
    below = canvas.text("0.5 ± 0.1 %", 40, 20, size=20)
    rows, columns = changed(canvas.pixels, 255)
    assert below == 45
    assert rows.min() >= 20
    assert rows.max() < 20 + 28
    assert columns.min() >= 40
    assert columns.max() <= 42 + text_width("0.5 ± 0.1 %", 20)
    assert (canvas.pixels[rows, columns].min(0) <= np.array(PAPER.text) + 40).all()


def test_text_beyond_the_border_is_cut_off():
    canvas = Canvas(30, 60, SCREEN)
    canvas.text("much too long", 50, 20, size=20, width=400)
    canvas.text("outside", 70, 40, size=20, width=100)
    assert canvas.pixels.shape == (30, 60, 3)


def test_long_text_is_wrapped_and_the_rest_is_cut_off():
    rows = wrapped("inner brow moves down and medially by 1.0 %", 16, 120)
    assert len(rows) > 2
    assert all(text_width(row, 16) <= 120 for row in rows)
    assert " ".join(rows) == "inner brow moves down and medially by 1.0 %"
    long = wrapped("a" * 80, 16, 100)
    assert "".join(long) == "a" * 80
    assert all(text_width(row, 16) <= 100 for row in long)
    canvas = Canvas(200, 120, PAPER)
    assert canvas.text("inner brow moves down and medially", 0, 0, size=16, width=120, lines=2) == 40
    cut = shortened("a_very_long_name_of_a_recording.mp4", 16, 120)
    assert cut.endswith("...")
    assert text_width(cut, 16) <= 120
    assert shortened("short", 16, 120) == "short"


def test_letters_that_the_font_does_not_have_are_replaced():
    assert written("4 × – é ± · 中") == "4 x - e ± · ?"


def test_an_arrow_points_where_the_motion_goes():
    picture = blank()
    draw_arrow(picture, (0.5, 0.5), (0.3, -0.2))
    rows, columns = changed(picture)
    assert columns.max() == pytest.approx(160, abs=4)
    assert rows.min() == pytest.approx(60, abs=4)
    assert columns.min() == pytest.approx(100, abs=6)
    assert rows.max() == pytest.approx(100, abs=6)
    # The head is at the tip: that quarter has more pixels than the first one.
    share = ((columns - 100) * 60 + (rows - 100) * -40) / (60**2 + 40**2)
    assert (share > 0.75).sum() > 1.2 * (share < 0.25).sum()


def test_an_arrow_too_short_to_show_a_direction_is_left_out():
    picture = blank()
    draw_arrow(picture, (0.5, 0.5), (0.01, 0.0))
    assert not picture.any()


@pytest.mark.parametrize(("longest", "scale"), [(0.0, 20), (0.5, 20), (1.4, 10), (2.9, 5), (6.0, 2), (40.0, 1)])
def test_arrows_are_as_long_as_the_face_allows(longest, scale):
    assert arrow_scale(longest) == scale
    assert scale == ARROW_SCALES[-1] or scale * longest / 100 <= LONGEST_ARROW


def test_an_outline_leaves_the_region_free():
    picture = blank()
    draw_outline(picture, (0.3, 0.6, 0.1, 0.05))
    rows, columns = changed(picture)
    assert (columns.min(), columns.max()) == (pytest.approx(40, abs=3), pytest.approx(80, abs=3))
    assert (rows.min(), rows.max()) == (pytest.approx(110, abs=3), pytest.approx(130, abs=3))
    assert not picture[115:125, 50:70].any()


def test_bars_are_filled_by_their_share():
    canvas = Canvas(20, 120, PAPER)
    canvas.bar(0.25, 10, 5, width=100, height=8)
    assert (canvas.pixels[8, 10:35] == PAPER.mark).all()
    assert (canvas.pixels[8, 35:110] == PAPER.fill).all()
    assert (canvas.pixels[8, 110:] == PAPER.ground).all()


def test_small_pictures_are_scaled_up_and_large_ones_down():
    assert fitted(np.zeros((40, 80, 3), np.uint8), 400, 300).shape == (200, 400, 3)
    assert fitted(np.zeros((1080, 1920, 3), np.uint8), 380, 285).shape == (214, 380, 3)


def test_a_copy_is_drawn_on_without_the_first():
    canvas = Canvas(10, 10, PAPER)
    other = canvas.copy()
    other.box(0, 0, 5, 5, (0, 0, 0))
    other.place(np.zeros((2, 2, 3), np.uint8), 8, 8)
    other.line([(0, 9), (9, 9)], (0, 0, 0))
    assert (canvas.pixels == 255).all()
    assert not other.pixels[:5, :5].any()
