import numpy as np
import pytest

from deft_llm.clips import load_explainer
from deft_llm.explained import NO_EXPRESSION, NO_FACE, explain_clips, explain_video, moved_regions
from deft_llm.processing.motion_evidence import direction_of, measure_motion


@pytest.fixture(scope="module")
def pipe(folder):
    return load_explainer(str(folder))


def short(pipe, source, **options):
    return explain_video(pipe, source, options={"max_new_tokens": 2}, **options)


def test_clips_are_explained_as_the_pipeline_does(brow_video, still_video, folder, pipe):
    found = list(explain_clips([str(brow_video), str(still_video)], str(folder)))
    assert [item["clip"] for item in found] == [str(brow_video), str(still_video)]
    expected = pipe(str(brow_video))
    assert {name: found[0][name] for name in expected} == expected
    assert set(found[0]) == {"clip", *expected}


def test_a_clip_that_is_not_there_is_named_before_a_model_is_loaded():
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4: no such video or folder of frames"):
        next(explain_clips(["nowhere.mp4"], "org/model"))
    with pytest.raises(ValueError, match=r"https:/a.org/b.mp4: a mistyped URL"):
        next(explain_clips(["https:/a.org/b.mp4"], "org/model"))


def test_what_has_arrows_is_what_the_measurement_says(brow_video, pipe):
    """AU4: the brows go down and towards the midline, on both sides."""
    found = short(pipe, str(brow_video))
    (item,) = found.explained
    assert [found.followed[frame].reason for frame in item.frames_indices] == [None] * len(item.frames_indices)
    keys = item.key_frames
    assert (item.frames_indices[0], item.frames_indices[-1]) == (keys.onset, keys.offset)
    by_place = {(region.region, region.side): region for region in item.moved}
    assert {("inner brow", "left"), ("inner brow", "right")} <= set(by_place)
    assert by_place["inner brow", "left"].farthest[0] < 0 < by_place["inner brow", "right"].farthest[0]
    for region in item.moved:
        assert direction_of(*region.farthest, region.side) == region.direction
        assert not region.course[0].any()
        assert len(region.course) == len(item.frames_indices)
    assert [region.magnitude for region in item.moved] == sorted((r.magnitude for r in item.moved), reverse=True)
    inner = by_place["inner brow", "left"]
    assert (inner.direction, inner.farthest[1] > 0) == ("down and medially", True)


def test_regions_within_the_noise_have_no_arrows():
    flow = np.random.default_rng(0).normal(0, 0.3, (7, 2, 28, 28)).astype(np.float32)
    deviation = np.full((7, 28, 28), 0.5, np.float32)
    assert moved_regions(flow, deviation) == ()
    flow[:, 1, 4:9, 9:14] += 4  # where the right inner brow is
    moved = moved_regions(flow, deviation)
    assert (moved[0].region, moved[0].side, moved[0].direction) == ("inner brow", "right", "down")
    measured = [item for item in measure_motion(flow, deviation=deviation) if item.significant]
    assert [item.magnitude for item in measured] == pytest.approx([region.magnitude for region in moved])


def test_every_expression_of_a_video_is_explained(spotted_video, pipe):
    found = short(pipe, str(spotted_video), longest=1.0)
    shown = [item for item in found.intervals if item.kind == "expression"]
    assert found.spotted
    assert len(shown) == len(found.explained) == 1
    keys = found.explained[0].key_frames
    assert (keys.onset, keys.apex, keys.offset) == (shown[0].onset, shown[0].apex, shown[0].offset)
    assert keys.onset == pytest.approx(60, abs=8)
    assert {region.region for region in found.explained[0].moved} >= {"inner brow"}
    # The frames are numbered as those of the video.
    assert found.explained[0].frames_indices[0] == keys.onset


def test_a_video_without_an_expression_has_a_report_that_says_so(still_video, pipe):
    found = short(pipe, str(still_video), longest=1.0)
    (item,) = found.explained
    assert (item.report["status"], item.report["reason"]) == ("insufficient_motion", NO_EXPRESSION)
    assert item.key_frames is None
    assert item.report_text == f"Class      {NO_EXPRESSION}"


@pytest.mark.parametrize("longest", [None, 1.0])
def test_a_clip_that_cannot_be_measured_has_a_report_with_the_reason(tiny_video, pipe, longest):
    found = short(pipe, str(tiny_video), longest=longest)
    (item,) = found.explained
    assert item.report["status"] == "not_measurable"
    assert item.report["reason"].startswith("the face is too small")
    assert item.generated_text.startswith("Class: not measurable")
    assert (item.key_frames, item.moved, item.frames_indices) == (None, (), [])
    assert [(one.start, one.stop) for one in found.stretches] == [(0, 38)]


def test_a_clip_without_a_face_is_not_measurable(brow_video, pipe):
    found = short(pipe, str(brow_video), face_source=lambda frame: np.zeros((0, 3, 2)))
    (item,) = found.explained
    assert (item.report["status"], item.report["reason"]) == ("not_measurable", NO_FACE)
    assert len(found.followed) == len(found.clip)


def test_what_does_not_fit_is_said(brow_clip, pipe):
    with pytest.raises(ValueError, match="does not state a frame rate; pass --fps"):
        short(pipe, brow_clip.frames, longest=1.0)
    assert short(pipe, brow_clip.frames, fps=200.0, longest=1.0).fps == 200
    with pytest.raises(ValueError, match="one frame only; motion needs at least two"):
        short(pipe, brow_clip.frames[:1])
    with pytest.raises(ValueError, match="`convention` is 'samm'"):
        explain_video(pipe, brow_clip.frames, options={"convention": "samm"})
