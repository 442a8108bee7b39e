"""Where live frames come from: cameras that fail, recordings that are replayed, and a queue that stays short."""

import threading

import cv2
import numpy as np
import pytest

from deft_llm import live_frames
from deft_llm.live_frames import (
    HELD_SECONDS,
    PATIENCE_SECONDS,
    Camera,
    Feed,
    Recording,
    is_recorded,
    open_source,
    rate_of,
)
from deft_llm.processing import open_clip

FRAME = np.zeros((48, 64, 3), np.uint8)


class Capture:
    """A camera of OpenCV. `None` stands for a frame that could not be read; after the last one, none can."""

    def __init__(self, frames, opened=True):
        self.frames, self.opened, self.released, self.settings = iter(frames), opened, False, {}

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opened

    def set(self, name, value):
        self.settings[name] = value

    def read(self):
        frame = next(self.frames, None)
        return frame is not None, frame

    def release(self):
        self.released = True


class Time:
    """A clock that moves only when somebody waits."""

    def __init__(self):
        self.now, self.waits = 0.0, []

    def clock(self):
        return self.now

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


# --- Cameras --------------------------------------------------------------------------------------------------------


def test_a_camera_that_was_unplugged_is_named_and_released():
    blue = FRAME.copy()
    blue[..., 0] = 200  # OpenCV's first channel
    capture, time = Capture([blue, None, None, FRAME]), Time()
    frames = Camera("Camera 0", capture).frames(time.clock, time.wait)
    moment, first = next(frames)
    assert first[0, 0].tolist() == [0, 0, 200]
    assert next(frames)[0] > moment  # two frames that could not be read are bridged
    assert not capture.released
    with pytest.raises(OSError, match=r"Camera 0 gives no more frames\. Was it unplugged"):
        next(frames)
    assert capture.released
    assert PATIENCE_SECONDS <= time.now < PATIENCE_SECONDS + 0.5


def test_grey_cameras_are_shown_in_three_equal_channels():
    time = Time()
    _, frame = next(Camera("Camera 0", Capture([np.full((4, 6), 7, np.uint8)])).frames(time.clock, time.wait))
    assert frame.shape == (4, 6, 3)
    assert (frame == 7).all()


def test_cameras_are_opened_by_number_and_asked_for_a_rate(monkeypatch):
    opened = {}

    def capture(source):
        opened[source] = Capture([FRAME], opened=source in (0, "rtsp://here/face"))
        return opened[source]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    assert open_source("0", 60.0).name == "Camera 0"
    assert opened[0].settings == {cv2.CAP_PROP_FPS: 60.0}
    assert open_source("rtsp://here/face").name == "rtsp://here/face"
    assert opened["rtsp://here/face"].settings == {}
    with pytest.raises(FileNotFoundError, match=r"Camera 7 cannot be opened\. Is it connected"):
        open_source("7")
    assert opened[7].released
    with pytest.raises(FileNotFoundError, match=r"rtsp://there cannot be opened\. Is the address right"):
        open_source("rtsp://there")


@pytest.mark.parametrize(
    ("source", "recorded"),
    [
        ("0", False),
        ("/dev/null", False),  # a device file
        ("rtsp://here/face", False),
        ("http://here/stream?kind=mjpeg", False),
        ("https://here/clip.mp4", True),
        ("file:///clip.mp4", True),
        ("clip.mp4", True),
    ],
)
def test_what_is_replayed(source, recorded):
    assert is_recorded(source) == recorded


# --- Recordings -----------------------------------------------------------------------------------------------------


def test_a_recording_is_replayed_as_fast_as_it_was_recorded():
    frames = np.stack([np.full((32, 32, 3), value, np.uint8) for value in range(5)])
    time = Time()
    found = list(Recording(open_clip(frames, fps=20.0)).frames(time.clock, time.wait))
    assert [moment for moment, _ in found] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [int(frame[0, 0, 0]) for _, frame in found] == [0, 1, 2, 3, 4]
    assert time.now == pytest.approx(0.2)


def test_a_recording_that_is_decoded_too_slowly_keeps_its_time_stamps():
    time = Time()
    replayed = Recording(open_clip(np.zeros((3, 32, 32, 3), np.uint8), fps=20.0)).frames(time.clock, time.wait)
    assert next(replayed)[0] == 0
    time.now = 0.4
    assert [moment for moment, _ in replayed] == pytest.approx([0.05, 0.1])
    assert time.waits == []


@pytest.mark.parametrize(
    ("fps", "message"), [(None, "pass --fps"), (5.0, "5 frames per second. A face moves too far")]
)
def test_recordings_without_a_rate_that_is_enough_are_refused(fps, message):
    with pytest.raises(ValueError, match=message):
        Recording(open_clip(np.zeros((3, 32, 32, 3), np.uint8), fps=fps))


def test_the_times_are_the_container_s_own(brow_video):
    reader = open_clip(str(brow_video))
    time = Time()
    moments = [moment for moment, _ in Recording(reader).frames(time.clock, time.wait)]
    assert moments == pytest.approx(reader.times())


# --- The queue ------------------------------------------------------------------------------------------------------


class Given:
    """A source with these frames, which then waits or fails."""

    name = "given"

    def __init__(self, moments, error=None, wait_for=0.0):
        self.moments, self.error, self.wait_for = moments, error, wait_for

    def frames(self, clock, wait):
        for moment in self.moments:
            yield moment, FRAME
        wait(self.wait_for)
        if self.error is not None:
            raise self.error


def at_once():
    """A clock by which no frame is late."""
    return 0.0


def test_frames_come_in_order_and_the_end_is_known():
    moments = [0.0, 0.01, 0.02]
    with Feed(Given(moments), clock=at_once) as feed:
        taken = []
        while not feed.ended:
            item = feed.take(feed._clock() + 5)
            taken += [] if item is None else [item[0]]
    assert taken == moments
    assert (feed.arrived, feed.dropped, feed.error) == (3, 0, None)


def test_what_breaks_a_source_is_kept_for_the_one_who_measures():
    with Feed(Given([0.0], OSError("unplugged")), clock=at_once) as feed:
        assert feed.take(feed._clock() + 5)[0] == 0
        assert feed.take(feed._clock() + 5) is None
        assert feed.ended
    assert str(feed.error) == "unplugged"


def test_nothing_is_waited_for_beyond_the_time_asked():
    with Feed(Given([], wait_for=60), clock=at_once) as feed:
        assert feed.take(feed._clock() + 0.01) is None
        assert not feed.ended
    assert not feed._thread.is_alive()  # leaving it ends the wait
    assert threading.active_count() >= 1


def test_a_queue_that_is_full_is_thinned_evenly():
    feed = Feed(Given([]), clock=at_once)
    for number in range(11):
        feed.put(number / 100, FRAME)
    assert feed.dropped == 0  # they span HELD_SECONDS
    feed.put(0.11, FRAME)
    kept = [moment for moment, _ in feed._waiting]
    assert kept == pytest.approx([0.01, 0.03, 0.05, 0.07, 0.09, 0.11])
    assert (feed.arrived, feed.dropped) == (12, 6)
    for number in range(12, 1000):
        feed.put(number / 100, FRAME)
    moments = [moment for moment, _ in feed._waiting]
    assert moments[-1] - moments[0] <= HELD_SECONDS + 1e-9
    assert feed.dropped + len(moments) == feed.arrived == 1000
    assert feed.rate == pytest.approx(100, rel=0.01)


def test_frames_that_come_too_late_are_dropped():
    """So that what a slow decoder gives is not measured later and later."""
    feed = Feed(Given([]), clock=lambda: 1.0)
    for number in range(20):
        feed.put(number / 20, FRAME)
    assert [moment for moment, _ in feed._waiting] == pytest.approx([0.9, 0.95])
    assert (feed.arrived, feed.dropped) == (20, 18)


def test_rates_are_those_of_the_last_seconds():
    moments = live_frames.deque()
    for moment in [*np.arange(0, 3, 1 / 30), *np.arange(3, 8, 1 / 60)]:
        live_frames.note_moment(moments, float(moment))
    assert rate_of(moments) == pytest.approx(60, rel=0.01)
    assert len(moments) <= 122
    slow = live_frames.deque()
    for moment in range(0, 40, 4):
        live_frames.note_moment(slow, float(moment))
    assert rate_of(slow) == pytest.approx(0.25)
    assert rate_of(live_frames.deque([0.0, 0.03])) is None
