import numpy as np
import pytest

from deft_llm.canvas import ARROW, PAPER, Canvas
from deft_llm.explanation_views import (
    KINDS,
    UNMEASURABLE,
    Timeline,
    class_of,
    faded,
    limits_words,
    marked_face,
    motion_at,
    scale_for,
    write_class,
    write_regions,
    write_sides,
    write_units,
)
from deft_llm.processing.action_units import region_ellipse
from tests.made_up_explanations import explained, report, unmeasured, video

HEIGHT, WIDTH = 500, 400


def inked(canvas):
    """(rows, columns) of what was drawn."""
    return np.nonzero((canvas.pixels != canvas.theme.ground).any(-1))


def test_motion_between_sampled_frames_is_interpolated():
    item = explained(keys=(10, 20, 30))
    region = item.moved[0]
    assert motion_at(item, region, 20) == pytest.approx((-0.8, 0.8))
    assert motion_at(item, region, 15) == pytest.approx((-0.4, 0.4))
    assert motion_at(item, region, 28) == pytest.approx((-0.16, 0.16))
    assert motion_at(item, region, 0) == pytest.approx((0, 0))
    # An apex at the offset: frames repeat, and the first one counts.
    item = explained(keys=(10, 20, 20))
    assert motion_at(item, item.moved[0], 20) == pytest.approx((-0.8, 0.8))


def test_the_scale_is_that_of_the_region_that_moves_farthest():
    assert scale_for(explained()) == 10
    assert scale_for(explained(moved=False)) == 20


@pytest.mark.parametrize(("place", "towards"), [(0, (-1, 1)), (1, (0, 1))])
def test_arrows_start_in_their_region_and_go_its_way(place, towards):
    """The person's left is on the right of the picture."""
    region = explained().moved[place]
    picture = marked_face(np.zeros((400, 400, 3), np.uint8), [(region, region.farthest)], 10)
    x, y = np.array(region_ellipse(region.region, region.side)[:2]) * 400
    assert (x > 200) == (region.side == "left")
    rows, columns = np.nonzero((picture == ARROW).all(-1))
    outline = np.hypot(columns - x, rows - y) > 60
    assert not outline.any()  # nothing is drawn elsewhere
    tip = np.array([x, y]) + 10 * region.farthest / 100 * 400
    assert np.hypot(columns - tip[0], rows - tip[1]).min() < 3
    assert tuple(np.sign(np.round(tip - (x, y), 6))) == towards


def test_the_face_itself_is_not_changed():
    crop = np.full((100, 100, 3), 120, np.uint8)
    region = explained().moved[0]
    assert (marked_face(crop, [(region, region.farthest)], 10) != 120).any()
    assert (crop == 120).all()
    grey = faded(np.full((2, 2, 3), (200, 100, 50), np.uint8))
    assert (grey == grey[..., :1]).all()
    assert grey.max() < 100


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (explained(), "anger (negative)"),
        (explained(report(coarse_emotion="anger")), "anger"),
        (explained(report(emotion=None)), "not readable"),
        (explained(report(status="insufficient_motion")), "insufficient motion"),
        (unmeasured(), "not measurable"),
    ],
)
def test_the_class_in_words(item, words):
    assert class_of(item) == words


def test_words_stay_in_their_column():
    long = report(status="insufficient_motion", reason="a reason of very many words, which are wrapped " * 3)
    for item in (explained(), explained(long), unmeasured()):
        canvas = Canvas(HEIGHT, WIDTH, PAPER)
        top = write_class(canvas, item, 20, 10, 300)
        below = write_units(canvas, item, 20, top, 300, HEIGHT - 60)
        assert top <= below <= HEIGHT
        rows, columns = inked(canvas)
        assert (columns.min() >= 20, columns.max() <= 330, rows.max() <= below + 6) == (True, True, True)


def test_the_reason_is_written_in_place_of_scores():
    canvas = Canvas(HEIGHT, WIDTH, PAPER)
    write_class(canvas, unmeasured(), 20, 10, 300)
    assert (canvas.pixels == PAPER.warning).all(-1).any()
    assert not (canvas.pixels == PAPER.mark).all(-1).any()
    with_bars = Canvas(HEIGHT, WIDTH, PAPER)
    write_class(with_bars, explained(), 20, 10, 300)
    assert (with_bars.pixels == PAPER.mark).all(-1).any()


def test_many_units_are_cut_off():
    unit = report().action_units[0]
    item = explained(report(action_units=[unit] * 30))
    canvas = Canvas(HEIGHT, WIDTH, PAPER)
    assert write_units(canvas, item, 20, 10, 300, 300) <= 300


def test_regions_are_listed_unless_nothing_was_measured(monkeypatch):
    told = []
    monkeypatch.setattr(Canvas, "text", lambda self, words, left, top, **options: told.append(words) or top + 20)
    canvas = Canvas(HEIGHT, WIDTH, PAPER)
    write_regions(canvas, explained(), 0, 0, 300)
    assert told[1:] == ["left inner brow down and medially 1.13 ± 0.04 %", "right outer brow down 0.50 ± 0.05 %"]
    told.clear()
    write_regions(canvas, explained(moved=False), 0, 0, 300)
    assert told[-1] == "no region moves above the noise"
    assert write_regions(canvas, unmeasured(), 0, 7, 300) == 7
    assert limits_words(explained()).startswith("Motion is seen from 0.21 % (inner brow) to 0.40 % (chin)")
    assert limits_words(unmeasured()) == ""


def test_the_persons_left_is_named_on_the_right(monkeypatch):
    told = []
    monkeypatch.setattr(Canvas, "text", lambda self, words, left, top, **options: told.append((words, left)))
    write_sides(Canvas(HEIGHT, WIDTH, PAPER), 10, 0, 300)
    (right, first), (left, second) = told
    assert (right, left) == ("person's right", "person's left")
    assert first < 160 < second


def drawn(shown):
    canvas = Canvas(200, 640, PAPER)
    timeline = Timeline(shown, 20, 30, 600, 130)
    timeline.draw(canvas)
    return canvas, timeline


def test_the_timeline_spans_the_video_and_stays_in_its_place():
    canvas, timeline = drawn(video())
    assert (timeline.x(0), timeline.x(19)) == (20, 620)
    rows, columns = inked(canvas)
    assert rows.min() >= 30
    assert rows.max() < 30 + 130
    assert columns.max() <= 622
    before = canvas.pixels.copy()
    timeline.mark(canvas, 8)
    columns = np.nonzero((before != canvas.pixels).any(-1))[1]
    assert abs(columns.mean() - timeline.x(8)) < 2


def test_the_timeline_shows_what_was_found_and_what_cannot_be_measured():
    found = [("expression", 3, 6, 9), ("blink", 11, 12, 13)]
    canvas, timeline = drawn(video(explained(), spotted=True, intervals=found, lost=(15, 20, "it turns")))
    row = canvas.pixels[timeline.bottom - 5]
    assert (row[timeline.x(6)] == KINDS["expression"]).all()
    assert (row[timeline.x(12)] == KINDS["blink"]).all()
    assert (row[timeline.x(1)] == PAPER.fill).all()
    assert (row[timeline.x(15) + 5 : timeline.x(19)] == UNMEASURABLE).all(-1).mean() == pytest.approx(0.5, abs=0.1)
    still, _ = drawn(video(unmeasured(), lost=(0, 20, "it turns")))
    assert not (still.pixels == PAPER.mark).all(-1).any()


def test_the_curve_is_high_where_the_region_is_away():
    canvas, timeline = drawn(video())
    curve = (canvas.pixels[timeline.top : timeline.bottom] == PAPER.mark).all(-1)
    middle, start = (np.nonzero(curve[:, timeline.x(frame)])[0].mean() for frame in (7, 1))
    assert middle < start - 30  # rows are counted from the top
