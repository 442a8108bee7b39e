"""Planted motion is what the truth says, stands on the face wherever it goes, and leaves every other pixel alone."""

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.planting import PlantingError, plant
from deft_llm.processing.aligned_clip import AlignedClip
from deft_llm.processing.face_alignment import warp_to_crop

SMILE = (UnitRequest("AU12", "left", 0.03),)


def recording(face, count=9, around=40, step=0.0, **disturbances):
    """A recording whose frames are wider than the face, which moves by `step` pixels per frame to the right."""
    clip = render_clip(
        face, [], np.random.default_rng(2), count=count, fps=30.0, disturbances=Disturbances(**disturbances)
    )
    size = face.size
    frames = []
    for index, frame in enumerate(clip.frames):
        wide = cv2.copyMakeBorder(frame, around, around, around, around, cv2.BORDER_REFLECT)
        moved = np.float32([[1, 0, step * index], [0, 1, 0]])
        frames.append(
            cv2.warpAffine(wide, moved, wide.shape[1::-1], borderMode=cv2.BORDER_REFLECT, flags=cv2.INTER_CUBIC)
        )
    box = (around, around, around + size, around + size)
    return AlignedClip.open(np.stack(frames), face_box=box, fps=30.0)


def planted_in(clip, units=SMILE, onset=1, apex=4, offset=7, **options):
    return plant(clip, Expression(units, onset, apex, offset), np.random.default_rng(0), **options)


def residual(first, second, flow):
    """Mean difference of two crops where the flow, in percent, is large, the second one taken back along it."""
    size = len(first)
    grid = np.float32(np.mgrid[0:size, 0:size][::-1])
    back = cv2.remap(second, *(grid + size / 100 * flow), cv2.INTER_CUBIC)
    moving = np.hypot(*flow) > 0.5 * np.hypot(*flow).max()
    return np.abs(back - first)[moving].mean(), np.abs(second - first)[moving].mean()


@pytest.mark.parametrize("step", [0.0, 1.7])
def test_the_truth_takes_every_frame_back(face, step):
    clip = recording(face, step=step)
    result = planted_in(clip)
    flow = result.flow(160)
    assert flow.shape == (9, 2, 160, 160)
    for index in (2, 4, 6):
        # The crop of a frame goes with the head: the pose's own crop.
        pose = result.poses[index]
        inverse = np.linalg.inv(pose[:, :2])
        transform = np.column_stack([inverse, -inverse @ pose[:, 2]])
        crops = [
            warp_to_crop(np.float32(cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY)), transform, 160)
            for frames in (clip.reader.frames(range(9)), result.frames)
        ]
        after, before = residual(*crops, flow[index])
        assert after < 0.3 * before
        for other in (0.8, 1.2):  # nor would any other length do
            assert after < residual(*crops, other * flow[index])[0]


def test_the_place_follows_the_head(face):
    result = planted_in(recording(face, step=1.7))
    middles = np.array([pose[:, :2] @ (0.5, 0.5) + pose[:, 2] for pose in result.poses])
    np.testing.assert_allclose(np.diff(middles[1:8, 0]), 1.7, atol=0.1)
    np.testing.assert_allclose(middles[1:8, 1], middles[1, 1], atol=0.1)


def test_pixels_that_are_not_displaced_keep_every_bit(face):
    clip = recording(face, noise=2.0)
    result = planted_in(clip)
    before, after = clip.reader.frames(range(9)), result.frames
    changed = (before != after).any(-1)
    assert not changed[[0, 1, 7, 8]].any()
    assert changed[2:7].any((1, 2)).all()
    assert (
        changed[:, :, : 40 + 80].mean() < 0.01
    )  # the subject's right half: the left corner's field hardly gets there
    assert not changed[:, : 40 + 60].any()  # nor above the nose
    field = result.flow(160, [4])[0]
    still = np.hypot(*field) == 0
    assert 0.7 < still.mean() < 1
    assert not changed[4, 40:200, 40:200][cv2.erode(np.uint8(still), np.ones((9, 9))) > 0].any()


def test_no_seam_where_the_field_ends(face):
    clip = recording(face)
    result = planted_in(clip)
    difference = np.int16(result.frames[4]) - np.int16(clip.reader.frames([4])[0])
    field = np.hypot(*result.flow(160, [4])[0])
    weak = (field > 0) & (field < 0.04 * field.max())
    assert np.abs(difference[40:200, 40:200][weak]).max() <= 6


def test_given_poses_are_used(face):
    clip = recording(face)
    shifted = np.repeat(np.array([[[160.0, 0, 46], [0, 160, 40]]]), 9, axis=0)
    own, moved = planted_in(clip), planted_in(clip, poses=list(shifted))
    places = [np.argwhere((item.frames[4] != clip.reader.frames([4])[0]).any(-1)).mean(0) for item in (own, moved)]
    np.testing.assert_allclose(places[1] - places[0], (0, 6), atol=0.7)
    with pytest.raises(ValueError, match="one matrix per frame"):
        planted_in(clip, poses=shifted[:4])


def test_truth_and_key_frames(face):
    result = planted_in(recording(face), (UnitRequest("AU1", "both", 0.004), UnitRequest("AU15", "right", 0.02)))
    shown = result.truth()["expressions"][0]
    assert (shown["onset"], shown["apex"], shown["offset"]) == (1, 4, 7)
    assert [(item["code"], item["side"], item["intensity"]) for item in shown["units"]] == [
        ("AU1", "both", "A"),
        ("AU15", "right", "D"),
    ]
    assert (result.clip.key_frames.onset, result.clip.key_frames.apex, result.clip.key_frames.offset) == (1, 4, 7)
    # At the apex the region of AU15 goes down by about what was asked for.
    x, y = int(0.355 * 100), int(0.76 * 100)
    assert result.flow(100, [4])[0, 1, y, x] == pytest.approx(2.0, abs=0.2)


def test_nothing_planted_changes_nothing(face):
    clip = recording(face)
    result = planted_in(clip, ())
    np.testing.assert_array_equal(result.frames, clip.reader.frames(range(9)))
    assert not result.flow(32).any()


def test_a_face_that_cannot_be_followed_is_refused(face):
    frames = recording(face).reader.frames(range(9))
    lost = frames.copy()
    lost[4:] = np.random.default_rng(0).integers(0, 255, lost[4:].shape)
    box = (40, 40, 200, 200)
    with pytest.raises(PlantingError, match="from frame 3 to frame 4"):
        planted_in(AlignedClip.open(lost, face_box=box, fps=30.0))
    with pytest.raises(PlantingError, match="too little texture"):
        planted_in(AlignedClip.open(np.full_like(frames, 90), face_box=box, fps=30.0))
    with pytest.raises(ValueError, match="onset < apex < offset"):
        planted_in(AlignedClip.open(frames, face_box=box, fps=30.0), offset=12)
