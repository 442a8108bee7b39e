import av
import numpy as np
import pytest

from deft_llm.explained import ExplainedVideo
from deft_llm.explanation_views import faded, marked_face, motion_at
from deft_llm.overlay import HEIGHT, HOLDS, WIDTH, explanation_at, film, key_name, write_overlay
from deft_llm.processing.face_alignment import warp_to_crop
from tests.made_up_explanations import APEX, COUNT, FPS, OFFSET, ONSET, SIDE, explained, unmeasured, video

FACE = np.s_[56 : 56 + 480, 412 : 412 + 480]
SOURCE = np.s_[56 : 56 + 285, 16 : 16 + 380]


def pictures(shown: ExplainedVideo, **options):
    return list(film(shown, **options))


def crop_of(shown, frame):
    return warp_to_crop(shown.clip.reader.frames([frame])[0], shown.clip.transform, 480)


def test_the_film_holds_at_key_frames_and_is_slowed():
    shown = pictures(video(), slow=5)
    assert [picture.shape for picture, _ in shown] == [(HEIGHT, WIDTH, 3)] * COUNT
    expected = [5 / FPS] * COUNT
    for name, frame in (("onset", ONSET), ("apex", APEX), ("offset", OFFSET)):
        expected[frame] = HOLDS[name]
    assert [seconds for _, seconds in shown] == pytest.approx(expected)


def test_nothing_but_arrows_and_outlines_lies_over_the_face():
    shown = video()
    (item,), found = shown.explained, pictures(shown)
    moved = [(region, motion_at(item, region, APEX)) for region in item.moved]
    assert (found[APEX][0][FACE] == marked_face(crop_of(shown, APEX), moved, 10)).all()
    # Before the onset and after the offset nothing is said about the motion.
    for frame in (0, OFFSET + 1):
        assert (found[frame][0][FACE] == crop_of(shown, frame)).all()


def test_the_clip_itself_is_shown_free():
    """Only the outline of the face's crop lies over it."""
    shown = video(size=(60, 80))
    plain = pictures(shown)[APEX][0][SOURCE]
    frame = shown.clip.reader.frames([APEX])[0]
    import cv2

    expected = cv2.resize(frame, (380, 285), interpolation=cv2.INTER_CUBIC)
    assert (plain == expected).all(-1).mean() > 0.97


def test_frames_that_cannot_be_measured_are_grey_and_say_why(monkeypatch):
    from deft_llm.canvas import Canvas

    told, write = [], Canvas.text
    monkeypatch.setattr(
        Canvas, "text", lambda self, words, *rest, **more: told.append(words) or write(self, words, *rest, **more)
    )
    shown = video(unmeasured(), lost=(5, 20, "the head turns too far"))
    found = pictures(shown)
    assert (found[10][0][FACE] == faded(crop_of(shown, 10))).all()
    assert (found[2][0][FACE] == crop_of(shown, 2)).all()
    assert told.count("Not measurable: the head turns too far") == 15
    assert "not measurable" in told
    assert "The head turns too far." in told


def test_a_video_is_slowed_around_its_expressions_only():
    shown = video(
        explained(keys=(30, 33, 36)),
        spotted=True,
        intervals=[("expression", 30, 33, 36)],
        count=60,
    )
    seconds = [time for _, time in pictures(shown, slow=3)]
    assert len(seconds) == 60
    fast = 1 / FPS
    assert seconds[0] == seconds[19] == seconds[47] == pytest.approx(fast)
    assert seconds[20] == seconds[46] == pytest.approx(3 * fast)
    assert seconds[33] == HOLDS["apex"]


def test_fast_recordings_leave_frames_out_where_nothing_is_slowed():
    shown = video(explained(keys=(80, 85, 90)), spotted=True, count=140, fps=240.0)
    found = pictures(shown)
    around = round(0.2 * 240)
    slowed = range(80 - around, 90 + around + 1)
    assert len(found) == len(slowed) + len([frame for frame in range(140) if frame not in slowed and frame % 4 == 0])
    assert sum(seconds for _, seconds in found) == pytest.approx(
        len(slowed) * 4 / 240 + 4 / 240 * (len(found) - len(slowed)) + sum(HOLDS.values()) - 3 * 4 / 240
    )


def test_of_two_expressions_the_nearer_one_is_shown():
    shown = video(explained(keys=(2, 4, 6)), explained(keys=(10, 12, 14)), spotted=True)
    places = [explanation_at(shown, frame, 3) for frame in range(COUNT)]
    assert places == [0] * 9 + [1] * 9 + [None] * 2
    assert explanation_at(video(), 0, 0) == 0
    assert [key_name(shown, 1, frame) for frame in (10, 11, 12, 14)] == ["onset", None, "apex", "offset"]
    assert key_name(shown, None, 10) is key_name(video(unmeasured()), 0, 3) is None


def test_the_file_can_be_played(tmp_path):
    path = tmp_path / "film.partial"
    write_overlay(path, video(), slow=4)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.width, stream.height) == (
            "h264",
            "yuv420p",
            WIDTH,
            HEIGHT,
        )
        times = [float(frame.time) for frame in container.decode(video=0)]
        assert container.format.name.startswith("mov,mp4")
    slowed = 4 / FPS
    assert len(times) == COUNT + 1  # the last picture once more, which ends it
    assert times[1] == pytest.approx(slowed, abs=1e-3)
    assert times[APEX + 1] - times[APEX] == pytest.approx(HOLDS["apex"], abs=1e-3)
    assert times[-1] == pytest.approx((COUNT - 3) * slowed + sum(HOLDS.values()), abs=1e-2)


@pytest.mark.parametrize("size", [(24, 40), (SIDE, SIDE), (480, 640), (1080, 607)])
def test_sources_of_any_size_fill_the_same_film(size):
    first, _ = next(film(video(size=size)))
    assert first.shape == (HEIGHT, WIDTH, 3)


def test_a_clip_without_a_frame_rate_has_a_film():
    found = pictures(video(fps=None), slow=2)
    assert found[0][1] == pytest.approx(2 / 25)
