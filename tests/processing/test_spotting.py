from dataclasses import replace

import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import (
    EVERYDAY,
    Disturbances,
    Expression,
    UnitRequest,
    encode_mp4,
    render_clip,
)
from deft_llm.processing import AlignedClip
from deft_llm.processing.face_alignment import FaceAlignmentError
from deft_llm.processing.spotting import spot_expressions


@pytest.fixture(scope="module")
def lively(face):
    """(clip, its two expressions, the encoded video)."""
    units = (UnitRequest("AU4", "both", 0.012),)
    shown = [Expression(units, 100, 115, 132), Expression(units, 260, 275, 300)]
    disturbances = Disturbances(head_shift=0.012, head_rotation=1.0, noise=1.5, gaze=0.004, crf=14)
    clip = render_clip(face, shown, np.random.default_rng(0), count=400, fps=100.0, disturbances=disturbances)
    return clip, shown, encode_mp4(clip)


def test_expressions_of_a_video_file(lively):
    _, shown, video = lively
    found = spot_expressions(video)
    assert [item.kind for item in found] == ["expression", "expression"]
    for item, true in zip(found, shown, strict=True):
        assert item.overlap(true.onset, true.offset) >= 0.5
        assert abs(item.apex - true.apex) <= 2
        assert {region for region, _ in item.regions} <= {"inner brow", "outer brow", "nose root"}


def test_a_face_in_a_larger_frame_is_found_by_box_landmarks_or_a_source(lively):
    clip, shown, _ = lively
    frames = np.full((len(clip.frames), 220, 260, 3), 90, np.uint8)
    frames[:, 40:200, 70:230] = clip.frames
    landmarks = [(70 + 160 * x, 40 + 160 * y) for x, y in ((0.31, 0.35), (0.69, 0.35), (0.5, 0.76))]
    seen = []

    def finder(frame):
        seen.append(frame)
        return np.array(landmarks)

    by_landmarks = spot_expressions(frames, fps=100.0, face_landmarks=landmarks)
    assert spot_expressions(frames, fps=100.0, face_source=finder) == by_landmarks
    assert len(seen) == 1
    for found in (by_landmarks, spot_expressions(frames, fps=100.0, face_box=(70, 40, 230, 200))):
        assert [item.kind for item in found] == ["expression", "expression"]
        assert all(item.overlap(true.onset, true.offset) >= 0.5 for item, true in zip(found, shown, strict=True))
    with pytest.raises(FaceAlignmentError, match="not both"):
        spot_expressions(frames, fps=100.0, face_landmarks=landmarks, face_box=(70, 40, 230, 200))


def test_a_clip_that_is_open_is_taken_as_it_is(lively):
    _, _, video = lively
    assert spot_expressions(AlignedClip.open(video)) == spot_expressions(video)


def test_a_still_video_has_no_expressions(still_clip, face):
    clip = render_clip(
        face, [], np.random.default_rng(4), count=200, fps=50.0, disturbances=replace(EVERYDAY, noise=3)
    )
    assert spot_expressions(clip.frames, fps=50.0) == []
    assert spot_expressions(np.repeat(still_clip.frames[:1], 100, axis=0), fps=100.0) == []


def test_a_video_without_a_frame_rate_is_refused(brow_clip):
    with pytest.raises(ValueError, match="pass fps="):
        spot_expressions(brow_clip.frames)
