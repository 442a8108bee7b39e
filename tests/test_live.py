"""What is said about a stream: in time, in bounded memory, with frames dropped and counted, and why it cannot tell."""

import json
import re
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from deft_llm import live
from deft_llm.frame_motion import NO_FACE
from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.live import (
    LEAST_MICRO_RATE,
    MEMORY_SECONDS,
    FaceWatcher,
    rate_text,
    report_row,
    report_text,
    reports,
)
from deft_llm.live_frames import Feed
from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.head_motion import STILL
from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame

LANDMARKS = np.array(list(CANONICAL_LANDMARKS.values()))
FRAME = np.zeros((100, 100, 3), np.uint8)
HIDDEN = np.full((100, 100, 3), 255, np.uint8)
FPS, ONSET, APEX, OFFSET = 60.0, 90, 100, 112


class Scripted(Feed):
    """A feed whose clock moves to the next frame, and by what measuring a frame takes.

    Args:
        coming: (time stamp, frame) in order.
        error: What the source ends with.
    """

    def __init__(self, coming, error=None):
        self.now, self._coming = 0.0, deque(coming)
        super().__init__(None, clock=lambda: self.now)
        self._last = error

    def take(self, until):
        while True:
            while self._coming and self._coming[0][0] <= self.now:
                self.put(*self._coming.popleft())
            if not self._coming:
                self._ended, self.error = True, self._last
            if self._waiting:
                return self._waiting.popleft()
            if self._ended or self.now >= until:
                return None
            self.now = min(until, self._coming[0][0])


class Slow(FaceWatcher):
    """Measuring a frame takes some seconds of the feed's clock."""

    def __init__(self, feed, cost, source="canonical"):
        super().__init__(source)
        self.feed, self.cost, self.lengths = feed, cost, []

    def add(self, moment, frame):
        super().add(moment, frame)
        self.feed.now += self.cost
        self.lengths.append(len(self))


def watched(coming, *, cost=0.003, source="canonical", error=None, **options):
    """All reports on these frames, and the feed."""
    feed = Scripted(coming, error)
    return list(reports(feed, Slow(feed, cost, source), clock=lambda: feed.now, **options)), feed


def follow(frames, transform, *, find=None):
    """Follows a face that does not move. White frames hide it, and after those it is looked for."""
    still, lost = np.zeros((len(TRACKED_REGIONS), 2), np.float32), False
    for frame in frames:
        hidden = frame.max() == 255
        if lost and find is not None and (again := find(frame)) is not None:
            transform = again
        yield FollowedFrame(still, "the face is hidden" if hidden else None, STILL, transform, lost and not hidden)
        lost = hidden


@pytest.fixture
def simple(monkeypatch):
    """Following and spotting take no time, so that long streams can be watched."""
    monkeypatch.setattr(live, "follow_face", follow)
    monkeypatch.setattr(live, "intervals_of_stretch", lambda frames, fps, longest: ([], len(frames)))


def stream(count, fps, frame=FRAME):
    return [(number / fps, frame) for number in range(count)]


# --- What is seen ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brows(face):
    """Three seconds in which the brows are lowered once, for a third of a second."""
    shown = Expression((UnitRequest("AU4", "both", 0.015),), ONSET, APEX, OFFSET)
    quiet = Disturbances(noise=1.5)
    clip = render_clip(face, [shown], np.random.default_rng(0), count=180, fps=FPS, disturbances=quiet)
    return watched([(number / FPS, frame) for number, frame in enumerate(clip.frames)])[0]


def test_a_movement_is_reported_in_time(brows):
    assert len(brows) == pytest.approx(30, abs=1)
    assert max(report.longest_wait for report in brows) <= 0.15
    assert all(report.latency <= report.longest_wait for report in brows)
    moving = [report for report in brows if {"inner brow"} <= {item.region for item in report.moving}]
    assert ONSET / FPS < moving[0].time <= APEX / FPS + 0.1
    assert all(ONSET / FPS < report.time <= OFFSET / FPS + 0.12 for report in moving)
    apex = next(report for report in brows if report.time >= APEX / FPS)
    strongest = apex.motions[0]
    assert (strongest.region, strongest.direction) in {("inner brow", "down"), ("inner brow", "down and medially")}
    assert 0.6 < strongest.magnitude < 1.8
    assert 0.05 <= strongest.standard_error < 0.15
    assert [(unit.evidence.action_unit, unit.side) for unit in apex.units] == [("AU4", "both")]


def test_a_face_at_rest_does_not_move(brows):
    at_rest = [report for report in brows if report.reason is None and report.time < ONSET / FPS]
    assert len(at_rest) >= 4
    assert [report.moving for report in at_rest if report.moving] == []
    assert "nothing moves above the noise of 0.0" in report_text(at_rest[0])


def test_an_expression_is_told_once_after_it_is_over(brows):
    found = [(report, event) for report in brows for event in report.events]
    ((report, event),) = found
    assert (event.kind, event.macro) == ("expression", False)
    assert event.onset == pytest.approx(ONSET / FPS, abs=0.1)
    assert event.apex == pytest.approx(APEX / FPS, abs=0.1)
    assert event.offset == pytest.approx(OFFSET / FPS, abs=0.1)
    assert event.offset < report.time < event.offset + 0.9
    assert "AU4" in [unit.evidence.action_unit for unit in event.units]
    assert f"expression from {event.onset:.2f} to {event.offset:.2f} s: " in report_text(report)


def test_the_first_second_is_needed_to_know_the_face_at_rest(brows):
    early = [report for report in brows if report.time < 0.95]
    assert len(early) >= 8
    assert all("the face at rest is not known yet" in report.reason for report in early)
    assert all(report.motions == () for report in early)


def test_reports_are_data(brows):
    rows = [json.loads(json.dumps(report_row(report))) for report in brows]
    assert {row["status"] for row in rows} == {"measured", "not_measurable"}
    (event,) = [event for row in rows for event in row["events"]]
    assert event["action_units"][0]["code"] == "AU4"
    apex = next(row for row in rows if row["time"] >= APEX / FPS)
    assert apex["motion"][0].keys() == {"region", "side", "direction", "magnitude", "standard_error"}
    assert apex["action_units"][0]["standard_error"] > 0
    assert rows[-1]["fps"] == rows[-1]["measured_fps"] == pytest.approx(FPS, rel=0.02)
    assert sum(row["frames"] for row in rows) == 180


def test_what_the_data_means_is_documented(brows):
    page = (Path(__file__).parents[1] / "docs" / "watch.md").read_text(encoding="utf-8")
    table = page.partition("| key of the JSON | meaning |")[2].partition("\n\n")[0]
    first = [line.split("|")[1] for line in table.strip().splitlines()[1:]]
    assert re.findall(r"`(\w+)`", " ".join(first)) == list(report_row(brows[0]))
    (event,) = [event for report in brows for event in report_row(report)["events"]]
    assert all(f"`{key}`" in table for key in event)


# --- Too slow, too long ---------------------------------------------------------------------------------------------


def test_frames_that_come_too_fast_are_dropped_and_counted(simple):
    found, feed = watched(stream(600, 100.0), cost=0.02)
    assert sum(report.frames for report in found) + sum(report.dropped for report in found) == feed.arrived == 600
    assert feed.dropped == pytest.approx(300, rel=0.1)
    last = found[-1]
    assert last.rate == pytest.approx(100, rel=0.02)
    assert last.measured_rate == pytest.approx(50, rel=0.1)
    assert max(report.longest_wait for report in found) <= 0.25  # it does not grow
    assert "frames dropped" in report_text(next(report for report in found if report.dropped))


def test_memory_does_not_grow_with_the_stream(simple):
    feed = Scripted(stream(9000, 30.0))  # five minutes
    watcher = Slow(feed, 0.003)
    most, count = 0, 0
    for report in reports(feed, watcher, clock=lambda: feed.now):
        count += report.frames
        most = max(most, len(feed._waiting))
    assert count == 9000
    assert max(watcher.lengths) == max(watcher.lengths[:600]) <= MEMORY_SECONDS * 30 + 1
    assert most <= 4
    assert len(watcher._fresh) == len(watcher._events) == 0
    assert len(watcher._moments) <= 62


def test_what_nobody_asks_for_is_forgotten(simple):
    watcher = FaceWatcher("canonical")
    for moment, frame in stream(2000, 100.0):
        watcher.add(moment, frame)
    assert len(watcher._fresh) <= MEMORY_SECONDS * 100 + 1


def test_a_stream_is_watched_for_some_seconds(simple):
    found, _ = watched(stream(600, 30.0), seconds=2.0)
    assert 1.9 <= found[-1].time < 2.0
    assert sum(report.frames for report in found) == 60


# --- Why it cannot tell ---------------------------------------------------------------------------------------------


def test_frames_without_a_face_are_said_and_watched_on(simple):
    def finder(frame):
        return 100 * LANDMARKS[None] if frame.max() else np.zeros((0, 3, 2))

    shown = np.full((100, 100, 3), 100, np.uint8)
    coming = stream(60, 30.0) + [(2 + number / 30, shown) for number in range(90)]
    found, _ = watched(coming, source=finder)
    assert {report.reason for report in found if report.time < 2} == {NO_FACE}
    assert found[-1].reason is None
    assert found[-1].moving == ()
    assert f"cannot tell: {NO_FACE}" in report_text(found[0])


def test_a_face_that_was_hidden_starts_anew(simple):
    coming = [(number / 30, HIDDEN if 60 <= number < 75 else FRAME) for number in range(150)]
    found, _ = watched(coming)
    hidden = [report for report in found if 2.1 < report.time < 2.45]
    assert {report.reason for report in hidden} == {"the face is hidden"}
    after = next(report for report in found if report.time > 2.6)
    assert "the face at rest is not known yet" in after.reason
    assert found[-1].reason is None


def test_what_the_finder_says_is_forgotten_when_the_face_is_back(simple):
    found = [LANDMARKS[None] * 100]
    watcher = FaceWatcher(lambda frame: found.pop() if found else np.zeros((0, 3, 2)))
    reasons = []
    for moment, frame in ((0.0, FRAME), (0.3, HIDDEN), (0.6, HIDDEN), (0.65, FRAME), (0.7, HIDDEN)):
        watcher.add(moment, frame)
        reasons.append(watcher.report(moment).reason)
    assert reasons[1:3] + reasons[4:] == ["the face is hidden", NO_FACE, "the face is hidden"]
    assert "not known yet" in reasons[3]


def test_of_several_faces_the_one_that_is_followed_is_said(simple):
    small, large = 55 * LANDMARKS, 60 * LANDMARKS + (40, 30)
    shown = [np.stack([small, large])]

    def finder(frame):
        return shown[0]

    watcher = FaceWatcher(finder)
    watcher.add(0.0, FRAME)
    (note,) = watcher.report(0.1).notes
    assert note == "2 faces: the largest one is followed, 60 pixels wide, in the middle of which is (70, 60)."
    # It is hidden, and then the other one is larger.
    watcher.add(1.0, HIDDEN)
    shown[0] = np.stack([small * 1.2, large, small + (0, 40)])
    watcher.add(2.0, HIDDEN)
    (note,) = watcher.report(2.1).notes
    assert note.startswith("3 faces: the one nearest to where it was lost is followed, 60 pixels wide")
    watcher.add(3.0, FRAME)
    assert watcher.report(3.1).notes == ()


def test_a_face_that_is_too_small_is_not_followed():
    watcher = FaceWatcher(lambda frame: crop_transform(100, 100, box=(30, 30, 60, 60)))
    watcher.add(0.0, FRAME)
    assert watcher.report(0.1).reason == "the face is too small: its crop is 30 pixels wide, and 48 are needed"


def test_a_stream_that_stalls_is_said_once_a_second(simple):
    found, _ = watched([*stream(60, 30.0), *((6 + number / 30, FRAME) for number in range(6))])
    stalled = [report for report in found if report.frames == 0]
    assert len(stalled) == 3
    assert stalled[0].reason.startswith("no frame has come in time for 1.")
    assert stalled[-1].time == pytest.approx(5, abs=0.35)
    assert "the face at rest is not known yet" in found[-1].reason  # nobody saw what it did meanwhile


def test_a_camera_that_was_unplugged_ends_it_after_its_last_frames(simple):
    feed = Scripted(stream(32, 30.0), OSError("Camera 0 gives no more frames"))
    found = []
    with pytest.raises(OSError, match="Camera 0 gives no more frames"):
        found.extend(reports(feed, Slow(feed, 0.003), clock=lambda: feed.now))
    assert sum(report.frames for report in found) == 32


def test_one_frame_per_second_is_too_few(simple):
    found, _ = watched(stream(8, 1.0))
    assert found[-1].reason == (
        "1.0 frames per second, and from one to the next a face moves too far to be followed; 10 are needed"
    )


def test_what_a_frame_rate_can_show_is_said_plainly():
    assert LEAST_MICRO_RATE == 37.5
    assert rate_text(30.02) == (
        "30 frames per second see a movement of 160 ms, the shortest that is looked for, in 5 frames: too few for "
        "micro-expressions, which need 38 frames per second."
    )
    assert rate_text(200) == (
        "200 frames per second see a movement of 160 ms, the shortest that is looked for, in 32 frames."
    )
    assert rate_text(1) == "1.0 frames per second are too few to follow a face; 10 are needed."


def test_warming_up_leaves_no_trace():
    watcher = FaceWatcher("canonical")
    watcher.warm_up()
    assert (len(watcher), watcher.report(0.0).frames) == (0, 0)
    broken = FaceWatcher("yunet:nowhere.onnx")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        broken.warm_up()
