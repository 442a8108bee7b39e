import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.clips import EVERYDAY, Disturbances, Expression, UnitRequest, render_clip
from deft_llm.hub_datasets.synthetic.turning import HeadPath
from deft_llm.processing.face_alignment import crop_transform
from deft_llm.processing.region_tracking import TRACKED_REGIONS, _RegionTracker, follow_face, track_regions


def rows_of(frames):
    return np.stack(list(track_regions(frames, crop_transform(*frames.shape[1:3]))))


def test_regions_are_followed_through_head_motion_noise_and_changing_light(face):
    shown = Expression((UnitRequest("AU12", "left", 0.015),), onset=10, apex=40, offset=70)
    moving = replace(EVERYDAY, head_shift=0.03, head_rotation=3.0, head_scale=0.03, light_drift=0.05)
    clip = render_clip(face, [shown], np.random.default_rng(2), count=80, disturbances=moving)
    motion = rows_of(clip.frames)
    assert motion.shape == (80, len(TRACKED_REGIONS), 2)
    assert not motion[0].any()
    corner = motion[40, TRACKED_REGIONS.index(("mouth corner", "left"))]
    true = 100 * clip.flow(0, 40, expression_only=True, grid=100)[:, 72:80, 60:69].mean(axis=(1, 2))
    np.testing.assert_allclose(corner, true, atol=0.25)
    brows = [index for index, (region, _) in enumerate(TRACKED_REGIONS) if "brow" in region]
    assert np.abs(motion[:, brows]).max() < 0.35


def test_following_goes_on_when_the_reference_is_renewed(face):
    """Four expressions of the same size over two renewals: none drifts away from the first."""
    shown = [
        Expression((UnitRequest("AU4", "both", 0.015),), 20 + 130 * n, 40 + 130 * n, 60 + 130 * n) for n in range(4)
    ]
    clip = render_clip(face, shown, np.random.default_rng(0), count=540)
    brow = rows_of(clip.frames)[:, TRACKED_REGIONS.index(("inner brow", "right")), 1]
    whole = [100 * clip.flow(0, item.apex, expression_only=True, grid=100)[1] for item in shown]
    true = np.array([field[18:25, 36:45].mean() for field in whole])
    np.testing.assert_allclose([brow[item.apex] for item in shown], true, atol=0.15)
    assert abs(brow[-5:].mean()) < 0.1


def test_a_cut_to_another_face_does_not_end_the_following(face, brow_clip):
    other = render_clip(face, [], np.random.default_rng(5), count=30)
    blank = np.full((5, 160, 160, 3), 128, np.uint8)
    frames = np.concatenate([other.frames, other.frames[:, :, ::-1], blank, brow_clip.frames])
    motion = rows_of(frames)
    assert np.isfinite(motion).all()
    apex = 65 + brow_clip.expression.apex
    down = motion[:, TRACKED_REGIONS.index(("inner brow", "left")), 1]
    assert down[apex] - down[65 + brow_clip.expression.onset] > 0.6


@pytest.mark.parametrize(("left", "taken"), [(0.9, False), (0.3, True)])
def test_a_long_step_is_taken_only_if_it_makes_the_patch_more_alike(still_clip, monkeypatch, left, taken):
    """Along an edge, a patch looks the same everywhere, and noise chooses the place."""
    crop = cv2.resize(cv2.cvtColor(still_clip.frames[0], cv2.COLOR_RGB2GRAY), (128, 128)).astype(np.float32)
    tracker = _RegionTracker(128)
    tracker.update(crop)
    noisy = crop + np.random.default_rng(0).normal(0, 2, crop.shape).astype(np.float32)
    lip = TRACKED_REGIONS.index(("lower lip", "right"))

    def far(image, moved):
        there = moved.copy()
        there[lip] += 4  # pixels
        return there, left * tracker._variance(image, moved)

    monkeypatch.setattr(tracker, "_fit", far)
    motion = tracker.update(noisy)
    assert (np.abs(motion[lip]).max() > 2) == taken


def test_regions_are_followed_lazily(brow_clip):
    endless = itertools.cycle(brow_clip.frames)
    rows = track_regions(endless, crop_transform(160, 160))
    assert [next(rows).shape for _ in range(3)] == [(len(TRACKED_REGIONS), 2)] * 3


def test_noise_in_the_place_of_a_lost_face_is_not_measured(still_clip):
    noise = np.random.default_rng(0).integers(0, 256, (20, *still_clip.frames.shape[1:]), np.uint8)
    frames = np.concatenate([still_clip.frames, noise])
    reasons = [frame.reason for frame in follow_face(frames, crop_transform(160, 160))]
    assert not any(reasons[: len(still_clip.frames)])
    assert all(reasons[len(still_clip.frames) :])


def test_the_head_rests_where_the_face_need_not_be_placed_anew(still_clip):
    """A slow shift by a third of a percent of the crop: the placement stays, and `upright` takes the shift out."""
    transform = crop_transform(160, 160)
    shifts = [np.float32([[1, 0, 0.8 * n / 9], [0, 1, 0]]) for n in range(7)]
    still = still_clip.frames[0]
    frames = [cv2.warpAffine(still, shift, (160, 160), borderMode=cv2.BORDER_REPLICATE) for shift in shifts]
    followed = list(follow_face(frames, transform))
    assert all(np.array_equal(frame.transform, transform) for frame in followed)
    assert followed[-1].upright[0, 2] - transform[0, 2] == pytest.approx(-0.8 * 6 / 9 / 160, abs=1e-3)
    np.testing.assert_allclose(followed[0].upright, transform, atol=1e-9)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(10, 0, 0), (0, -10, 0), (0, 0, 12), (-8, 6, 8)])
def test_the_head_is_followed_over_several_placements(face, yaw, pitch, roll):
    """The face is placed anew where the head has turned far; the angles go on from there."""
    share = np.sin(np.linspace(0, np.pi / 2, 40))[:, None]
    path = HeadPath(share * (yaw, pitch, roll), np.zeros((40, 3)), distance=4.0)
    clip = render_clip(face, [], np.random.default_rng(0), count=40, disturbances=Disturbances(noise=1.5), path=path)
    frames = list(follow_face(clip.frames, crop_transform(160, 160)))
    assert all(frame.reason is None for frame in frames)
    assert frames[0].angles == pytest.approx((0, 0, 0), abs=1e-6)
    assert frames[-1].angles == pytest.approx((yaw, pitch, roll), abs=2.5)
    steps = np.abs(np.diff([frame.angles for frame in frames], axis=0))
    assert steps.max() < 2.5  # no jump where the face is placed anew


def test_a_frame_that_cannot_be_measured_has_no_angles(still_clip):
    noise = np.random.default_rng(0).integers(0, 256, still_clip.frames[:3].shape, np.uint8)
    *_, last = follow_face(np.concatenate([still_clip.frames[:5], noise]), crop_transform(160, 160))
    assert last.reason is not None
    assert last.angles is None
