"""What is found in a video is what `deft spot` finds, and is drawn and written so that nothing is lost."""

import csv
import io
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deft_llm import clips as package
from deft_llm.interval_files import as_data as of_the_command
from deft_llm.processing import (
    aligned_clip,
    key_frames,
    motion_evidence,
    motion_intervals,
    motion_signals,
    region_tracking,
)
from deft_llm.processing.aligned_clip import AlignedClip, Stretch
from deft_llm.processing.key_frames import KeyFrames
from deft_llm.processing.motion_intervals import Interval
from deft_llm.timeline import motion_course as course_of_the_command
from drawing import draw_watched
from tests.space.test_drawing import NASTY, Tags
from timeline import COLUMNS, Shelf, Watched, as_data, highest, motion_course, picture, table, watch

CODE = SimpleNamespace(
    aligned_clip=aligned_clip,
    key_frames=key_frames,
    motion_evidence=motion_evidence,
    motion_intervals=motion_intervals,
    motion_signals=motion_signals,
    region_tracking=region_tracking,
)


@pytest.fixture(scope="module")
def long_clip(long_video):
    """(the clip, its face in every frame)."""
    clip = AlignedClip.open(str(long_video), face_source="canonical")
    return clip, list(clip.follow())


@pytest.fixture(scope="module")
def watched(long_clip):
    return watch(*long_clip, CODE)


def made_up(intervals=(), stretches=(), count=3000, fps=25.0, **options):
    course = np.stack([np.abs(np.sin(np.arange(count) / 30)), np.full(count, 0.25)], axis=1)
    for item in stretches:
        course[item.start : item.stop] = np.nan
    choices = [(None, KeyFrames.of_interval(item)) for item in intervals if item.kind == "expression"]
    values = {"needed": {"nose wing": 0.2, "chin": 0.45}, "motion": np.zeros((count, 1, 2)), "choices": choices}
    found = {"intervals": list(intervals), "stretches": list(stretches), "course": course}
    return Watched(fps=fps, count=count, **(found | values | options))


BUSY = made_up(
    [
        *(Interval(100 * n, 100 * n + 5, 100 * n + 12, "expression", 9.0, (("cheek", "left"),)) for n in range(20)),
        Interval(40, 45, 50, "blink", 8.0),
        Interval(2100, 2200, 2300, "speech", 3.0),
    ],
    [Stretch(2400, 2600, "the head turns too far"), Stretch(2700, 2710, "the face cannot be followed")],
)


def test_what_is_found_is_what_the_command_finds(long_video, watched):
    found = package.spotted(str(long_video), face_source="canonical")
    assert [item.kind for item in watched.intervals] == ["expression", "expression"]
    assert watched.stretches == found.stretches
    assert as_data(watched)["not_measurable"] == of_the_command(found)["not_measurable"]
    for own, theirs in zip(as_data(watched)["intervals"], of_the_command(found)["intervals"], strict=True):
        assert own == theirs
    written = package.intervals_csv(found.intervals, found.fps)
    assert table(watched) == written
    assert tuple(COLUMNS) == package._COLUMNS


def test_the_course_is_that_of_the_command(long_clip, watched):
    clip, followed = long_clip
    moved, limit = course_of_the_command(followed, clip.fps)
    course, needed = motion_course(followed, clip.fps, CODE)
    np.testing.assert_allclose(course, np.stack([moved, limit], axis=1), rtol=1e-6)
    assert np.isnan(course[610]).all()
    assert course[161, 0] > course[161, 1] > course[100, 0]
    assert set(needed) == {region for region, _ in region_tracking.TRACKED_REGIONS}
    assert all(0.1 < value < 1 for value in needed.values())


def test_every_expression_can_be_explained(watched):
    assert [watched.title(number) for number in (0, 1)] == [
        f"Expression {number + 1}, {item.onset / 50:.2f} to {item.offset / 50:.2f} s"
        for number, item in enumerate(watched.expressions)
    ]
    for (clip, keys), item in zip(watched.choices, watched.expressions, strict=True):
        assert clip.key_frames == keys == KeyFrames.of_interval(item)
    watched = made_up([BUSY.intervals[0]])
    watched.forget()
    assert watched.choices == []


def held(count):
    return [made_up([BUSY.intervals[0]]) for _ in range(count)]


def test_the_latest_videos_are_held():
    shelf, videos = Shelf(2, 60.0), held(3)
    shelf.use(videos[0])
    shelf.use(videos[1])
    shelf.use(videos[0])  # was asked about again
    shelf.use(videos[2])
    assert [bool(item.choices) for item in videos] == [True, False, True]


def test_a_video_is_let_go_some_time_after_its_last_use():
    shelf, (first, second) = Shelf(2, 0.5), held(2)
    shelf.use(first)
    shelf.use(second)
    for _ in range(3):
        time.sleep(0.25)
        shelf.use(second)
    assert (bool(first.choices), bool(second.choices)) == (False, True)
    time.sleep(0.8)
    assert not second.choices


def test_without_an_expression_there_is_the_strongest_motion(still_video):
    clip = AlignedClip.open(str(still_video), face_source="canonical")
    found = watch(clip, list(clip.follow()), CODE)
    assert found.expressions == []
    assert found.title(0).startswith("Strongest motion, 0.")
    drawn = Tags(draw_watched(found)).text
    assert "No expression found in 0.1 s" in drawn or "No expression found in 0.2 s" in drawn
    assert "Strongest motion" in drawn


def test_a_video_without_a_measurable_stretch_says_why(tiny_video):
    clip = AlignedClip.open(str(tiny_video), face_source="canonical")
    found = watch(clip, list(clip.follow()), CODE)
    assert found.choices == []
    assert found.reason.startswith("the face is too small")
    page = Tags(draw_watched(found))
    assert "Not measurable" in page.text
    assert "The face is too small" in page.text
    assert [tag for tag, _ in page.opened if tag == "button"] == []
    assert "nan" not in re.sub('base64,[^"]*', "", draw_watched(found))


def test_the_timeline_has_a_button_for_each_expression_and_says_the_rest():
    page = Tags(draw_watched(BUSY))
    assert page.open == []
    buttons = [attributes for tag, attributes in page.opened if tag == "button"]
    assert [item["data-number"] for item in buttons] == [str(number) for number in range(20)]
    assert {item["aria-pressed"] for item in buttons} == {"false"}
    for said in (
        "20 expressions in 120.0 s",
        "Expression 20, 76.00 to 76.48 s",
        "left cheek; score 9.0",
        "1 blink and 1 interval of speech, not explained",
        "Speech, 84.00 to 92.00 s",
        "96.00 to 104.00 s: the head turns too far",
        "from 0.20 % (nose wing) to 0.45 % (chin) of the face’s width; weaker expressions may be overlooked",
    ):
        assert said in page.text, said
    (svg,) = (attributes for tag, attributes in page.opened if tag == "svg")
    assert svg["role"] == "img"
    assert svg["aria-label"].startswith(
        "Timeline of 120.0 seconds, 20 expressions, 1 blink, 1 interval of speech, 8.4 seconds cannot be measured"
    )


def rectangles(drawn, kind):
    """(x, width) of the rectangles of a kind."""
    found = re.findall(rf'<rect class="deft-is-{kind}" x="([\d.]+)" y="\S+" width="([\d.]+)"', drawn)
    return [(float(x), float(width)) for x, width in found]


def test_what_is_drawn_lies_where_it_happened():
    drawn = picture(BUSY)
    assert rectangles(drawn, "lost") == [(800.0, pytest.approx(66.67)), (900.0, pytest.approx(3.33))]
    assert rectangles(drawn, "speech") == [(700.0, 67.0)]
    assert len(rectangles(drawn, "micro")) == 20
    assert min(width for _, width in rectangles(drawn, "micro")) >= 2
    assert len(re.findall('<polyline class="deft-moved"', drawn)) == 3  # with gaps where nothing is measured
    heights = [float(pair.partition(",")[2]) for pair in re.search('deft-moved" points="([^"]+)"', drawn)[1].split()]
    assert min(heights) == pytest.approx(110 * (1 - 1 / highest(BUSY)), abs=1)
    assert max(heights) <= 110


def test_what_others_write_stays_text():
    nasty = made_up([], [Stretch(0, 100, NASTY)], notes=[NASTY], reason=NASTY)
    page = Tags(draw_watched(nasty))
    assert "script" not in {tag for tag, _ in page.opened}
    assert page.text.count("alert(1)") == 3
    assert "${" not in draw_watched(nasty)


def test_the_files_of_the_timeline(watched):
    data = json.loads(json.dumps(as_data(watched)))
    assert [row["macro"] for row in data["intervals"]] == [False, True]
    assert data["not_measurable"][0]["reason"].startswith("the face cannot be followed")
    (first, _) = csv.DictReader(io.StringIO(table(watched)))
    assert first["regions"] in ("right inner brow; left inner brow", "left inner brow; right inner brow")


@pytest.mark.parametrize("count", [8, 31, 24000])
def test_videos_of_every_length_can_be_drawn(count):
    drawn = draw_watched(made_up([Interval(0, 3, 7, "expression", 6.0)], count=count))
    assert Tags(drawn).open == []
    assert "nan" not in re.sub('base64,[^"]*', "", drawn)
    assert len(drawn) < 60_000
