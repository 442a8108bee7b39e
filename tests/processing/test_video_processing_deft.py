import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import IMAGENET_DEFAULT_MEAN

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.face_alignment import face_transform, warp_to_crop
from deft_llm.processing.key_frames import KeyFrameError
from deft_llm.processing.motion_evidence import measure_motion
from deft_llm.processing.video_reading import VideoReadError, open_clip


def keys_of(clip):
    shown = clip.expression
    return shown.onset, shown.apex, shown.offset


@pytest.fixture(scope="module")
def processor():
    return DeftVideoProcessor(num_frames=8, size={"height": 64, "width": 64})


def test_shapes_types_and_a_still_first_frame(processor, brow_video, still_video):
    features = processor([str(brow_video), str(still_video)], return_tensors="pt")
    assert features["pixel_values_videos"].shape == (2, 8, 3, 64, 64)
    assert features["flow_values_videos"].shape == (2, 7, 2, 32, 32)
    assert all(value.dtype == torch.float32 for value in features.values())


def test_flow_is_the_displacement_in_percent_of_the_crop(processor, brow_clip, brow_video):
    """The mean motion of the brows at the apex against the field that the clip was rendered with."""
    keys = keys_of(brow_clip)
    flow = processor(str(brow_video), key_frames=keys)["flow_values_videos"][0]
    moved = {(item.region, item.side): item for item in measure_motion(flow)}
    true = {
        (item.region, item.side): item
        for item in measure_motion(100 * brow_clip.flow(3, 19, expression_only=True, grid=32)[None])
    }
    for key in (("inner brow", "left"), ("inner brow", "right")):
        assert moved[key].direction == true[key].direction == "down and medially"
        assert moved[key].magnitude == pytest.approx(true[key].magnitude, rel=0.2)
    assert not moved["mouth corner", "left"].significant


def test_key_frames_given_are_the_frames_used(processor, brow_clip, brow_video):
    keys = keys_of(brow_clip)
    features = processor(str(brow_video), key_frames=keys, return_metadata=True)
    indices = features["video_metadata"][0].frames_indices
    assert (indices[0], indices[4], indices[-1]) == keys


def test_key_frames_are_spotted_without(processor, brow_clip, brow_video):
    features = processor(str(brow_video), return_metadata=True)
    indices = features["video_metadata"][0].frames_indices
    assert abs(indices[4] - brow_clip.expression.apex) <= 3
    assert indices[0] < brow_clip.expression.apex - 5


def test_a_box_and_landmarks_find_the_face_in_a_larger_frame(processor, brow_clip):
    frames = np.full((len(brow_clip.frames), 240, 320, 3), 90, np.uint8)
    frames[:, 40:200, 70:230] = brow_clip.frames
    keys = keys_of(brow_clip)
    expected = processor(brow_clip.frames, key_frames=keys)
    boxed = processor(frames, key_frames=keys, face_box=(70, 40, 230, 200))
    inner = (..., slice(2, -2), slice(2, -2))  # what lies beyond the crop's edge differs
    np.testing.assert_allclose(boxed["pixel_values_videos"][inner], expected["pixel_values_videos"][inner], atol=0.02)
    np.testing.assert_allclose(boxed["flow_values_videos"][inner], expected["flow_values_videos"][inner], atol=0.15)
    landmarks = [(70 + 160 * x, 40 + 160 * y) for x, y in ((0.31, 0.35), (0.69, 0.35), (0.5, 0.76))]
    aligned = processor(frames, key_frames=keys, face_landmarks=landmarks)
    np.testing.assert_allclose(aligned["flow_values_videos"][inner], expected["flow_values_videos"][inner], atol=0.15)


def test_still_clips_have_no_significant_motion(processor, face):
    for seed in range(6):
        clip = render_clip(face, [], np.random.default_rng(seed), count=30)
        flow = processor(encode_mp4(clip))["flow_values_videos"][0]
        assert not any(item.significant for item in measure_motion(flow))


def test_identity_in_appearance_and_not_in_flow(processor):
    """The same movement on two faces: other pixels, nearly the same flow."""
    flows, pixels = [], []
    for seed in (5, 6):
        shown = Expression((UnitRequest("AU12", "both", 0.02),), onset=2, apex=14, offset=26)
        other = render_face(np.random.default_rng(seed), size=160)
        clip = render_clip(other, [shown], np.random.default_rng(0), count=30)
        features = processor(clip.frames, key_frames=keys_of(clip))
        flows.append(features["flow_values_videos"][0][3])
        pixels.append(features["pixel_values_videos"][0][0])
    assert np.corrcoef(flows[0].ravel(), flows[1].ravel())[0, 1] > 0.75
    assert np.abs(pixels[0] - pixels[1]).mean() > 0.2


def test_settings_survive_saving(processor, tmp_path):
    other = DeftVideoProcessor(num_frames=6, flow_estimator="dis", size={"height": 48, "width": 48}, flow_size=16)
    other.save_pretrained(tmp_path)
    loaded = DeftVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == other.to_dict()
    assert loaded.flow_shape == (5, 2, 16, 16)


def test_settings_can_be_overridden_for_a_call(processor, brow_video):
    features = processor(str(brow_video), num_frames=4, flow_size=16, do_estimate_flow=True)
    assert features["flow_values_videos"].shape == (1, 3, 2, 16, 16)
    assert processor.num_frames == 8
    assert set(processor(str(brow_video), do_estimate_flow=False)) == {"pixel_values_videos"}
    assert set(processor(str(brow_video), do_crop_appearance=False)) == {"flow_values_videos"}


@pytest.mark.parametrize(
    ("videos", "arguments", "error", "message"),
    [
        ("nowhere.mp4", {}, FileNotFoundError, "nowhere.mp4"),
        (np.zeros((1, 32, 32, 3), np.uint8), {}, VideoReadError, "one frame only"),
        (np.zeros((9, 32, 32, 3), np.uint8), {"key_frames": (5, 2, 8)}, KeyFrameError, "onset < apex"),
        (np.zeros((9, 32, 32, 3), np.uint8), {"key_frames": (0, 2, 9)}, KeyFrameError, "outside"),
        (np.zeros((9, 32, 32, 3), np.uint8), {"key_frames": [(0, 2, 8)] * 2}, ValueError, "1 clips, 2 values"),
        (np.zeros((9, 32, 32, 3), np.uint8), {"do_sample_frames": False}, VideoReadError, "9 frames.*must have 8"),
        (np.zeros((9, 32, 32, 3), np.uint8), {"colour": "red"}, TypeError, "colour"),
    ],
)
def test_bad_input_gets_one_clear_error(processor, videos, arguments, error, message):
    with pytest.raises(error, match=message):
        processor(videos, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 1}, "at least 2"),
        ({"size": {"height": 64, "width": 48}}, "square"),
        ({"flow_estimator": "magic"}, "magic"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeftVideoProcessor(**arguments)


def test_spotting_finds_the_frames_that_the_processor_would_use(processor, brow_clip, brow_video):
    spotted = processor.spot(str(brow_video))
    assert abs(spotted.apex - brow_clip.expression.apex) <= 2
    indices = processor(str(brow_video), return_metadata=True)["video_metadata"][0].frames_indices
    assert (indices[0], indices[-1]) == (spotted.onset, spotted.offset)


def test_what_moves_before_the_onset_is_an_error_of_what_moves_after_it(processor, brow_clip, brow_video):
    """Reports pass the deviation alone, `deft measure` the lead-in as well; both say the same."""
    shown = brow_clip.expression
    late = (shown.apex, shown.apex + 2, shown.offset)  # the brow moves before this onset
    found = processor(str(brow_video), key_frames=late, return_measurement=True)
    flow, lead_in, deviation = (found[name][0] for name in ("flow_values_videos", "lead_in_flow", "flow_deviation"))
    neutral = np.sqrt(np.square(lead_in).mean((0, 1)))
    assert neutral.max() > 0.1
    assert (deviation >= neutral).all()
    assert measure_motion(flow, deviation=deviation) == measure_motion(flow, lead_in=lead_in, deviation=deviation)


def test_the_lead_in_is_as_long_as_there_are_frames_before_the_onset(processor, brow_clip, brow_video):
    keys = keys_of(brow_clip)
    lead_in = processor(str(brow_video), key_frames=keys, return_measurement=True)["lead_in_flow"][0]
    assert lead_in.shape == (keys[0], 2, processor.flow_size, processor.flow_size)
    assert np.hypot(*lead_in.transpose(1, 0, 2, 3)).mean() < 0.1
    start = (0, *keys[1:])
    assert len(processor(str(brow_video), key_frames=start, return_measurement=True)["lead_in_flow"][0]) == 0


@pytest.mark.parametrize("switched_off", [None, "do_rescale", "do_normalize"])
def test_pixels_are_the_crops_rescaled_and_normalised(brow_clip, switched_off):
    processor = DeftVideoProcessor(num_frames=8, **({switched_off: False} if switched_off else {}))
    # Key frames so close that some are sampled twice.
    options = {"key_frames": (3, 4, 6), "face_source": "cropped", "do_estimate_flow": False, "return_metadata": True}
    features = processor(brow_clip.frames, **options)
    pixels, indices = features["pixel_values_videos"][0], features["video_metadata"][0].frames_indices
    assert len(set(indices)) < len(indices)
    side = processor.size["height"]
    transform = face_transform(open_clip(brow_clip.frames), 3, None)
    for index, found in zip(indices, pixels, strict=True):
        expected = warp_to_crop(brow_clip.frames[index], transform, side).astype(np.float32)
        if switched_off != "do_rescale":
            expected *= processor.rescale_factor
        if switched_off != "do_normalize":
            expected = (expected - np.float32(processor.image_mean)) / np.float32(processor.image_std)
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [48, {"shortest_edge": 48}, {"height": 48, "width": 48}, (48, 48)], ids=str)
def test_the_side_in_every_form_that_transformers_knows(processor, brow_video, size):
    assert DeftVideoProcessor(size=size).size == {"height": 48, "width": 48}
    features = processor(str(brow_video), size=size, do_estimate_flow=False)
    assert features["pixel_values_videos"].shape == (1, 8, 3, 48, 48)


def test_one_processor_s_settings_are_not_the_next_one_s():
    first = DeftVideoProcessor()
    first.size["height"] = first.image_mean[0] = 0
    second = DeftVideoProcessor()
    assert second.size == {"height": 224, "width": 224}
    assert second.image_mean == list(IMAGENET_DEFAULT_MEAN) == [0.485, 0.456, 0.406]


def test_the_frame_rate_of_clips_that_state_none(processor, brow_clip, brow_video):
    options = {"return_metadata": True, "do_estimate_flow": False}
    (known,) = processor(brow_clip.frames, fps=100, **options)["video_metadata"]
    assert known.fps == 100
    stated = open_clip(brow_video).metadata.fps
    assert processor(str(brow_video), fps=stated, **options)["video_metadata"][0].fps == stated
    with pytest.raises(ValueError, match=r"states \d+ frames per second and `fps` says 7.*num_frames"):
        processor(str(brow_video), fps=7)
    assert DeftVideoProcessor(fps=60)(brow_clip.frames, **options)["video_metadata"][0].fps == 60


def test_lists_of_images_and_of_their_paths_are_clips(brow_clip, tmp_path):
    images = [Image.fromarray(frame) for frame in brow_clip.frames[:9]]
    paths = [tmp_path / f"{index}.png" for index in range(9)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    count = DeftVideoProcessor.list_of_clips
    assert [len(count(some)) for some in (images, paths, list(map(str, paths)), [images, paths])] == [1, 1, 1, 2]
    assert len(count(["a.mp4", "b.mp4"])) == 2
    assert len(count([str(tmp_path), str(tmp_path)])) == 2
    small = DeftVideoProcessor(size=32)
    expected = small(brow_clip.frames[:9])["pixel_values_videos"]
    np.testing.assert_array_equal(small(paths)["pixel_values_videos"], expected)
    np.testing.assert_array_equal(small([[paths]])["pixel_values_videos"], expected)  # as chats pass them
