"""A clip with its face placed: opened once, cut into windows, spotted, cropped, and taken wherever a clip is."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from deft_llm.processing import AlignedClip, DeftVideoProcessor
from deft_llm.processing.aligned_clip import Stretch, _Notes, intervals_of_stretch, not_measurable
from deft_llm.processing.face_alignment import FaceAlignmentError, crop_transform, warp_to_crop
from deft_llm.processing.head_motion import STILL
from deft_llm.processing.key_frames import KeyFrameError, KeyFrames
from deft_llm.processing.motion_intervals import propose_intervals
from deft_llm.processing.region_tracking import FollowedFrame
from deft_llm.processing.video_reading import ArrayClip, VideoReadError
from tests.processing.made_up_motion import course, motion_of

BOX = (10, 12, 150, 155)
MARKS = ((50.0, 60.0), (110.0, 62.0), (80.0, 115.0))


class Finder:
    """A face source that keeps what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, frame):
        self.seen.append(frame)
        return np.array([MARKS])


@pytest.fixture(scope="module")
def processor():
    return DeftVideoProcessor(num_frames=4, size={"height": 48, "width": 48}, flow_size=16)


def test_the_face_is_looked_for_once_and_in_the_onset_frame(brow_clip, processor):
    finder = Finder()
    clip = AlignedClip.open(brow_clip.frames, face_source=finder, key_frames=(3, 19, 35))
    clip.spot()
    processor([clip, clip])
    assert len(finder.seen) == 1
    np.testing.assert_array_equal(finder.seen[0], brow_clip.frames[3])
    np.testing.assert_array_equal(clip.transform, crop_transform(160, 160, landmarks=MARKS))


def test_without_key_frames_the_face_is_looked_for_where_it_is_said(brow_clip):
    finder = Finder()
    AlignedClip.open(brow_clip.frames, face_source=finder, onset=7)
    np.testing.assert_array_equal(finder.seen[0], brow_clip.frames[7])


@pytest.mark.parametrize("place", [{"face_landmarks": MARKS}, {"face_box": BOX}, {"face_source": Finder()}, {}])
def test_the_processor_measures_it_as_it_measures_the_clip(processor, brow_video, place):
    options = {**place, "key_frames": (3, 19, 35), "fps": None}
    expected = processor(str(brow_video), return_measurement=True, **options)
    found = processor(AlignedClip.open(str(brow_video), **options), return_measurement=True)
    assert set(found) == set(expected)
    for name in ("pixel_values_videos", "flow_values_videos"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(found["lead_in_flow"][0], expected["lead_in_flow"][0])


def test_key_frames_of_the_call_go_before_those_of_the_clip(processor, brow_clip):
    clip = AlignedClip.open(brow_clip.frames, key_frames=(3, 19, 35))
    (metadata,) = processor(clip, key_frames=(2, 10, 20), return_metadata=True)["video_metadata"]
    assert (metadata.frames_indices[0], metadata.frames_indices[-1]) == (2, 20)
    assert clip.key_frames == KeyFrames(3, 19, 35)
    assert clip.reader.metadata.frames_indices is None  # what one call samples is not the clip's


def test_aligned_clips_and_others_go_together(processor, brow_clip, still_clip):
    clip = AlignedClip.open(brow_clip.frames, face_box=BOX, key_frames=(3, 19, 35))
    together = processor([clip, still_clip.frames])["flow_values_videos"]
    np.testing.assert_array_equal(together[0], processor(clip)["flow_values_videos"][0])
    np.testing.assert_array_equal(together[1], processor(still_clip.frames)["flow_values_videos"][0])


def test_spotting_is_the_processors(processor, brow_video):
    clip = AlignedClip.open(str(brow_video))
    assert clip.spot() == processor.spot(str(brow_video)) == processor.spot(clip)
    assert clip.spot(list(clip.follow())) == clip.spot()
    assert clip.key_frames is None
    assert clip.spotted().key_frames == clip.spot()
    known = clip.with_key_frames((1, 5, 9))
    assert known.spotted() is known


def test_a_window_shifts_the_numbers(brow_clip):
    clip = AlignedClip.open(brow_clip.frames, face_box=BOX, key_frames=(3, 19, 35))
    window = clip.window(2, 36)
    assert len(window) == 34
    assert window.key_frames == KeyFrames(1, 17, 33)
    assert window.transform is not None
    np.testing.assert_array_equal(window.transform, clip.transform)
    np.testing.assert_array_equal(window.reader.frames([0, 33]), clip.reader.frames([2, 35]))
    np.testing.assert_array_equal(np.stack(list(window.window(5, 9).reader.scan())), brow_clip.frames[7:11])


@pytest.mark.parametrize(("start", "stop"), [(4, 38), (0, 35)])
def test_a_window_that_cuts_the_expression_has_no_key_frames(brow_clip, start, stop):
    assert AlignedClip.open(brow_clip.frames, key_frames=(3, 19, 35)).window(start, stop).key_frames is None


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (-1, 4), (30, 39)])
def test_a_window_outside_of_the_clip_is_refused(brow_clip, start, stop):
    with pytest.raises(VideoReadError, match="part: no frames"):
        AlignedClip.open(brow_clip.frames).window(start, stop, name="part")


def test_crops_are_the_warped_frames(brow_clip):
    clip = AlignedClip.open(brow_clip.frames, face_box=BOX)
    expected = warp_to_crop(brow_clip.frames[6], clip.transform, 40)
    shown, again, other = clip.crops(40, [6, 6, 9])
    np.testing.assert_array_equal(shown, expected)
    np.testing.assert_array_equal(again, expected)
    assert np.abs(other.astype(int) - expected).max() > 0
    (grey,) = clip.crops(40, [6], grey=True)
    assert (grey.shape, grey.dtype) == ((40, 40), np.float32)
    np.testing.assert_allclose(grey, expected @ (0.299, 0.587, 0.114), atol=1.5)
    assert len(list(clip.crops(16))) == len(brow_clip.frames)
    assert clip.face_width == pytest.approx(143)


def test_a_frame_rate_is_stated_once(brow_clip, brow_video):
    clip = AlignedClip.open(brow_clip.frames)
    assert clip.fps is None
    again = AlignedClip.open(clip, fps=50.0)
    assert again.fps == 50.0
    assert clip.fps is None
    np.testing.assert_array_equal(again.reader.frames([4]), clip.reader.frames([4]))
    with pytest.raises(ValueError, match=r"states .* frames per second"):
        AlignedClip.open(AlignedClip.open(str(brow_video)), fps=7.0)
    with pytest.raises(ValueError, match="pass fps="):
        clip.intervals()


def test_the_stretches_come_with_the_intervals(still_clip):
    noise = np.random.default_rng(0).integers(0, 255, (6, *still_clip.frames.shape[1:]), np.uint8)
    clip = AlignedClip.open(np.concatenate([still_clip.frames[:12], noise, still_clip.frames[12:]]), fps=25.0)
    intervals, stretches = clip.intervals_and_stretches()
    assert intervals == clip.intervals()
    assert stretches == clip.stretches()
    assert stretches[1].start == 12
    assert "cannot be followed" in stretches[1].reason
    assert (stretches[0].start, stretches[-1].stop) == (0, len(clip))


def test_a_clip_that_was_followed_is_not_followed_again(still_clip):
    clip = AlignedClip.open(still_clip.frames, face_source="canonical", fps=200.0)
    followed = list(clip.follow())
    lost = [*followed[:20], *(replace(frame, reason="it is dark") for frame in followed[20:])]
    stretches = clip.intervals_and_stretches(followed=lost)[1]
    assert [(item.start, item.stop, item.reason) for item in stretches] == [(0, 20, None), (20, 30, "it is dark")]
    assert clip.intervals_and_stretches(followed=followed) == clip.intervals_and_stretches()


def test_a_face_that_is_found_and_lost_at_once_does_not_cut_a_stretch():
    turns, gone = "the head turns too far", "the face cannot be followed"
    parts = [(0, 5, None), (5, 20, turns), (20, 22, None), (22, 30, turns), (30, 31, None), (31, 40, gone)]
    stretches = [Stretch(*part) for part in [*parts, (40, 60, None), (60, 70, gone), (70, 72, None)]]
    assert not_measurable(stretches, 50.0) == [Stretch(5, 31, turns), Stretch(31, 40, gone), Stretch(60, 70, gone)]
    assert not_measurable([Stretch(0, 3)], 50.0) == []


def test_what_is_placed_is_not_placed_again(brow_clip):
    finder = Finder()
    clip = AlignedClip.open(brow_clip.frames, face_box=BOX)
    assert AlignedClip.open(clip, face_source=finder) is clip
    assert finder.seen == []
    with pytest.raises(FaceAlignmentError, match="placed already"):
        AlignedClip.open(clip, face_landmarks=MARKS)


def test_nobody_changes_it_in_passing(brow_clip):
    transform = crop_transform(160, 160)
    clip = AlignedClip(ArrayClip(brow_clip.frames, "brow"), transform)
    transform[:] = 0
    assert clip.transform.any()
    with pytest.raises(ValueError, match="read-only"):
        clip.transform[0, 0] = 1
    with pytest.raises(AttributeError):
        clip.key_frames = None


@pytest.mark.parametrize(
    ("transform", "keys", "error", "message"),
    [
        (np.zeros((3, 3)), None, FaceAlignmentError, "shape"),
        (np.ones((2, 3)), None, FaceAlignmentError, "similarity"),
        (crop_transform(160, 160), KeyFrames(3, 2, 9), KeyFrameError, "onset < apex"),
        (crop_transform(160, 160), KeyFrames(3, 8, 90), KeyFrameError, "outside"),
    ],
)
def test_contradictions_are_refused(brow_clip, transform, keys, error, message):
    with pytest.raises(error, match=message):
        AlignedClip(ArrayClip(brow_clip.frames, "brow"), transform, keys)


def test_the_intervals_of_one_stretch_are_those_of_the_clip(spotted_video):
    clip = AlignedClip.open(str(spotted_video), face_source="canonical")
    followed = list(clip.follow())
    found, count = intervals_of_stretch(followed, clip.fps)
    assert found
    assert (found, count) == (clip.intervals_and_stretches(followed=followed)[0], len(clip))


def test_of_a_long_stretch_the_notes_of_a_window_are_kept_and_nothing_else_changes():
    fps, count = 20.0, 4000
    shown = [(400, 406, 414), (2500, 2507, 2515), (3900, 3906, 3913)]
    motion = np.sum([motion_of("AU4", course(*frames, count), noise=0.02) for frames in shown], axis=0)
    followed = [FollowedFrame(row, None, STILL, crop_transform(160, 160)) for row in motion]
    found, seen = intervals_of_stretch(iter(followed), fps)
    assert seen == count
    assert found == propose_intervals(motion, fps)
    assert [any(item.overlap(frames[0], frames[2]) > 0.5 for item in found) for frames in shown] == [True] * 3
    notes = _Notes(50)
    for kept, _ in enumerate(notes.motion_of(followed), 1):
        assert min(kept, 50) <= len(notes._rows) < 100
    # The head turns while the brow moves, which the turn may have feigned.
    turns = [cv2.Rodrigues(np.array([0.0, 0.5 * row[0, 1], 0.0]))[0] for row in motion]
    turning = [replace(frame, pose=replace(STILL, rotation=turn)) for frame, turn in zip(followed, turns, strict=True)]
    assert intervals_of_stretch(turning, fps)[0] == []
