"""Motion per frame: what it is relative to, how its error is stated, and several faces that are told apart."""

import itertools

import numpy as np
import pytest

from deft_llm.frame_motion import ALONE, Faces, frame_motions, middle_and_width, placed_faces
from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import AlignedClip, open_clip
from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.head_motion import STILL
from deft_llm.processing.motion_evidence import region_masks
from deft_llm.processing.region_tracking import TRACKED_REGIONS, FollowedFrame

BROWS = [TRACKED_REGIONS.index(("inner brow", side)) for side in ("right", "left")]
CORNERS = [TRACKED_REGIONS.index(("mouth corner", side)) for side in ("right", "left")]
LANDMARKS = np.array(list(CANONICAL_LANDMARKS.values()))


def followed(motion, reasons=None):
    """Frames as `follow_face` yields them, all regions moving alike."""
    turned = np.eye(3)
    for place, (value, reason) in enumerate(itertools.zip_longest(motion, reasons or [None] * len(motion))):
        rows = np.full((len(TRACKED_REGIONS), 2), value, np.float32)
        transform = crop_transform(100, 100)
        exact = None if reason else transform
        yield FollowedFrame(rows, reason, STILL, transform, place == 0, exact, None if reason else turned)


def clip_of(face, expressions, count, seed=0, fps=60.0):
    quiet = EVERYDAY.__class__(noise=1.5)
    return render_clip(face, expressions, np.random.default_rng(seed), count=count, fps=fps, disturbances=quiet)


def test_a_known_motion_is_measured_where_and_when_it_is(face):
    shown = Expression((UnitRequest("AU4", "both", 0.015),), 80, 95, 110)
    clip = clip_of(face, [shown], 200)
    found = list(frame_motions(AlignedClip.open(clip.frames, face_source="canonical").follow(), clip.fps))
    assert len(found) == 200
    true = float(
        100 * clip.flow(80, 95, expression_only=True, grid=100)[1][region_masks(100, 100)["inner brow", "left"]].mean()
    )
    apex = found[95]
    assert apex.motion[BROWS, 1] == pytest.approx([true, true], abs=0.25 * true)
    assert apex.significant[BROWS].all()
    assert not apex.significant[CORNERS].any()
    outside = [item.significant for item in found[:76] + found[114:]]
    assert np.mean(outside) < 0.002
    assert apex.error.min() >= 0.05
    assert apex.error.max() < 0.15


def test_a_face_that_stays_elsewhere_is_at_rest_again():
    """What comes and goes is motion. A shift that remains is the new rest, and stays a motion since the first."""
    motion = np.r_[np.zeros(150), np.ones(30), np.zeros(120), np.ones(300)]
    rest = list(frame_motions(followed(motion), 60.0))
    first = list(frame_motions(followed(motion), 60.0, reference="first"))
    assert abs(rest[165].motion[0, 0] - 1) < 0.1
    assert abs(rest[-1].motion[0, 0]) < 0.1
    assert first[-1].motion[0, 0] == pytest.approx(1)
    assert not first[140].motion.any()


def test_a_short_stretch_is_relative_to_its_own_median():
    found = list(frame_motions(followed([5.0] * 10 + [7.0] * 4), 60.0))
    assert [float(item.motion[0, 0]) for item in found] == [0.0] * 10 + [2.0] * 4


def test_frames_that_cannot_be_measured_have_no_numbers():
    reasons = [None] * 20 + ["gone"] * 3 + [None] + ["gone"] * 2
    found = list(frame_motions(followed(np.zeros(26), reasons), 60.0))
    assert [item.reason for item in found] == [None] * 20 + ["gone"] * 3 + [ALONE] + ["gone"] * 2
    assert all((item.motion is None) == (item.reason is not None) for item in found)


def test_memory_does_not_grow_with_the_video():
    """The first result comes when a window is full, not when the video ends."""
    endless = (frame for _ in itertools.count() for frame in followed([0.0]))
    found = frame_motions(endless, 10.0)
    assert len(list(itertools.islice(found, 1000))) == 1000


def test_windows_leave_no_seams():
    times = np.arange(4000)
    motion = 0.5 * np.sin(2 * np.pi * times / 40)  # faster than the face's rest follows
    found = np.array([item.motion[0, 0] for item in frame_motions(followed(motion), 60.0)])
    assert len(found) == 4000
    np.testing.assert_allclose(found[100:-100], motion[100:-100], atol=0.15)
    np.testing.assert_allclose(found, motion, atol=0.25)  # the rest is known less well at the ends


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fps": 5.0}, "5 frames per second"), ({"fps": 60.0, "reference": "mean"}, "must be rest or first")],
)
def test_what_cannot_be_asked(options, message):
    with pytest.raises(ValueError, match=message):
        next(frame_motions(followed([0.0, 0.0]), options.pop("fps"), **options))


# --- Several faces --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    """A large face that lowers its brows, and a smaller one at its right that pulls its lip corners, in grey."""
    large = clip_of(
        render_face(np.random.default_rng(3), size=160),
        [Expression((UnitRequest("AU4", "both", 0.02),), 40, 55, 70)],
        150,
    )
    small = clip_of(
        render_face(np.random.default_rng(8), size=120),
        [Expression((UnitRequest("AU12", "both", 0.02),), 90, 105, 120)],
        150,
    )
    frames = np.full((150, 200, 360, 3), 128, np.uint8)
    frames[:, 20:180, 10:170] = large.frames
    frames[:, 40:160, 220:340] = small.frames
    return frames


def both_faces(frame):
    return np.stack([LANDMARKS * 120 + (220, 40), LANDMARKS * 160 + (10, 20)])


def test_two_faces_are_told_apart(two):
    reader = open_clip(two, fps=60.0)
    faces = placed_faces(reader, both_faces)
    assert (len(faces), faces.found) == (2, 2)
    assert [round(middle_and_width(clip.transform)[2]) for clip in faces.clips] == [160, 120]
    rows = list(faces.motions(60.0, reader.scan()))
    assert [len(row) for row in rows] == [2] * 150
    large, small = rows[55]
    assert large.significant[BROWS].all()
    assert not small.significant[BROWS].any()
    large, small = rows[105]
    assert small.significant[CORNERS].any()
    assert not large.significant[CORNERS].any()
    alone = placed_faces(reader, both_faces, 1)
    assert (len(alone), alone.found) == (1, 2)
    first = np.array([row[0].motion for row in rows])
    np.testing.assert_array_equal([row[0].motion for row in alone.motions(60.0, reader.scan())], first)


def test_a_face_that_was_lost_is_found_where_no_other_is(two):
    """The small face goes away and comes back higher up; the large one is not taken for it."""
    frames = two.copy()
    frames[60:100, :, 180:] = 128
    frames[100:, :, 180:] = 128
    frames[100:, 5:125, 230:350] = two[100:, 40:160, 220:340]

    def find(frame):
        shown = [LANDMARKS * 160 + (10, 20)]
        if frame[100, 280].std() > 0 or frame[:, 180:].std() > 1:
            shown.append(LANDMARKS * 120 + ((230, 5) if frame[10, 290].std() > 0 else (220, 40)))
        return np.stack(shown)

    reader = open_clip(frames, fps=60.0)
    faces = placed_faces(reader, find)
    rows = list(faces.motions(60.0, reader.scan()))
    assert all(row[0].reason is None for row in rows)
    assert rows[80][1].reason is not None
    assert rows[140][1].reason is None
    x, y, _ = middle_and_width(rows[140][1].followed.exact)
    assert (x, y) == pytest.approx((290, 65), abs=4)


def test_a_video_without_a_face(two):
    reader = open_clip(two, fps=60.0)
    faces = placed_faces(reader, lambda frame: np.empty((0, 3, 2)))
    assert (len(faces), faces.found) == (0, 0)
    with pytest.raises(ValueError, match="no face was found"):
        next(faces.motions(60.0, reader.scan()))


def test_frames_before_the_first_face_say_so(two):
    reader = open_clip(np.concatenate([np.full_like(two[:40], 128), two[:60]]), fps=60.0)
    faces = placed_faces(reader, lambda frame: both_faces(frame) if frame.std() > 5 else np.empty((0, 3, 2)))
    assert isinstance(faces, Faces)
    rows = list(faces.motions(60.0, reader.scan()))
    assert len(rows) == 100
    assert {row[0].reason for row in rows[: faces.placed_in]} == {"no face was found"}
    assert rows[-1][1].reason is None
