import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from deft_llm.processing import DeftVideoProcessor, face_alignment, open_clip
from deft_llm.processing.action_units import CANONICAL_LANDMARKS
from deft_llm.processing.face_alignment import (
    FaceAlignmentError,
    MediaPipeFaces,
    YuNetFaces,
    crop_transform,
    face_transform,
    make_face_source,
    placed_crop,
    warp_to_crop,
)
from deft_llm.processing.video_reading import ArrayClip
from tests.processing.painted_faces import painted_face

CANONICAL = np.array(list(CANONICAL_LANDMARKS.values()))


def placed(left, top, side):
    """Landmarks of an upright face whose canonical crop is that square."""
    return CANONICAL * side + (left, top)


def test_landmarks_land_on_their_canonical_positions():
    angle, scale = np.radians(12), 180.0
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = CANONICAL @ rotation.T + (60, 25)
    transform = crop_transform(400, 400, landmarks=points)
    np.testing.assert_allclose(points @ transform[:, :2].T + transform[:, 2], CANONICAL, atol=1e-9)


def test_a_face_of_other_proportions_is_not_sheared():
    points = CANONICAL * (200, 240)
    linear = crop_transform(400, 400, landmarks=points)[:, :2]
    assert linear[0, 0] == pytest.approx(linear[1, 1])
    assert linear[0, 1] == pytest.approx(-linear[1, 0])


def test_the_whole_frame_is_the_crop_by_default():
    frame = np.random.default_rng(0).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(warp_to_crop(frame, crop_transform(64, 64), 64), frame, atol=1e-3)


def test_a_wide_frame_is_cut_to_its_middle():
    frame = np.zeros((40, 80), np.float32)
    frame[:, 20:60] = np.arange(40)
    np.testing.assert_allclose(warp_to_crop(frame, crop_transform(40, 80), 40), frame[:, 20:60], atol=1e-3)


def test_a_box_cuts_its_pixels():
    frame = np.random.default_rng(0).uniform(0, 255, (100, 120)).astype(np.float32)
    crop = warp_to_crop(frame, crop_transform(100, 120, box=(30, 20, 78, 68)), 48)
    np.testing.assert_allclose(crop, frame[20:68, 30:78], atol=1e-3)


def test_a_box_that_sticks_out_is_filled_with_the_edge():
    frame = np.random.default_rng(0).uniform(0, 255, (100, 120)).astype(np.float32)
    crop = warp_to_crop(frame, crop_transform(100, 120, box=(-10, 20, 38, 68)), 48)
    np.testing.assert_allclose(crop[:, 10:], frame[20:68, :38], atol=1e-3)
    np.testing.assert_allclose(crop[:, :9], np.broadcast_to(frame[20:68, :1], (48, 9)), atol=1e-3)


def test_shrinking_averages_instead_of_aliasing():
    for side, size in ((256, 60), (1000, 60)):
        stripes = np.zeros((side, side), np.float32)
        stripes[:, ::2] = 200
        small = warp_to_crop(stripes, crop_transform(side, side), size)
        assert np.abs(small[5:-5, 5:-5] - 100).max() < 15


def test_only_the_face_of_a_frame_is_worked_on():
    """The rest of the frame may be anything, even NaN, and the crop is the same to the bit."""
    frame = np.random.default_rng(1).uniform(0, 255, (301, 407, 3)).astype(np.float32)
    transform = crop_transform(301, 407, landmarks=placed(150, 100, 90))
    emptied = np.full_like(frame, np.nan)
    emptied[70:220, 120:270] = frame[70:220, 120:270]
    np.testing.assert_array_equal(warp_to_crop(emptied, transform, 48), warp_to_crop(frame, transform, 48))


@pytest.mark.parametrize("shape", [(4320, 7680), (1089, 2041), (241, 321)])
def test_size_and_odd_sides_of_a_frame_change_nothing(shape):
    """A smooth pattern, drawn at any resolution, gives the same crop: no shift, no scale, up to 8K."""
    height, width = shape
    x = (np.arange(width) + 0.5 - width / 2) / height
    y = (np.arange(height) + 0.5 - height / 2) / height
    frame = np.outer(np.cos(7 * y), 100 * np.sin(9 * x + 1)).astype(np.float32)
    crop = warp_to_crop(frame, crop_transform(height, width), 128)
    v, u = (np.mgrid[0:128, 0:128] + 0.5) / 128 - 0.5
    expected = 100 * np.sin(9 * u + 1) * np.cos(7 * v)
    assert np.abs(crop - expected)[4:-4, 4:-4].max() < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"landmarks": [(1, 2), (3, 4)]}, r"shape \(2, 2\)"),
        ({"landmarks": "yes"}, "must be numbers"),
        ({"landmarks": [(1, 2), (3, 4), (5,)]}, "must be numbers"),
        ({"landmarks": [(50, 50), (51, 50), (50, 80)]}, "less than 4 pixels apart"),
        ({"landmarks": [(np.nan, 0), (9, 9), (3, 3)]}, "finite"),
        ({"landmarks": [(60, 40), (140, 40), (90, 90)]}, "inside the picture, 100×100"),
        ({"landmarks": [(70, 40), (30, 40), (50, 80)]}, "right eye"),
        ({"landmarks": [(30, 40), (70, 40), (50, 42)]}, "at least 4 pixels below"),
        ({"box": (10, 10, 12, 50)}, "at least 8 pixels"),
        ({"box": (np.nan, 10, 60, 50)}, "at least 8 pixels"),
        ({"box": (60, 60, 20, 20)}, "at least 8 pixels"),
        ({"box": (0.1, 0.1, 0.9, 0.9)}, "at least 8 pixels"),
        ({"box": (120, 10, 180, 70)}, "inside the frame of 100×100"),
        ({"box": (70, 10, 180, 70)}, "at least half"),
        ({"box": (1, 2, 3)}, "left, top, right, bottom"),
        ({"box": (0, 0, 50, 50), "landmarks": CANONICAL * 100}, "not both"),
    ],
)
def test_what_is_no_face_is_refused(arguments, message):
    with pytest.raises(FaceAlignmentError, match=message):
        crop_transform(100, 100, **arguments)


# --- the protocol ---


class Recorder:
    """A user's own source: gives the same answer always and keeps the frames that it was shown."""

    def __init__(self, answer):
        self.answer, self.frames = answer, []

    def __call__(self, frame):
        self.frames.append(frame)
        return self.answer


@pytest.fixture
def processor():
    return DeftVideoProcessor(num_frames=4, size={"height": 48, "width": 48}, flow_resolution=64, flow_size=16)


def in_a_larger_frame(clip):
    frames = np.full((len(clip.frames), 240, 320, 3), 90, np.uint8)
    frames[:, 40:200, 70:230] = clip.frames
    return frames


def test_a_source_is_asked_once_a_clip_on_the_onset_frame_and_used_for_all(processor, brow_clip):
    frames = in_a_larger_frame(brow_clip)
    source = Recorder(placed(70, 40, 160))
    keys = [(3, 19, 35), (5, 19, 30)]
    found = processor([frames, frames], key_frames=keys, face_source=source)
    assert [frame.shape for frame in source.frames] == [(240, 320, 3)] * 2
    for frame, (onset, _, _) in zip(source.frames, keys, strict=True):
        np.testing.assert_array_equal(frame, frames[onset])
    given = processor([frames, frames], key_frames=keys, face_landmarks=[source.answer] * 2)
    for name, value in given.items():
        np.testing.assert_array_equal(found[name], value)


def test_without_key_frames_the_first_frame_is_asked(processor, brow_clip):
    frames = in_a_larger_frame(brow_clip)
    source = Recorder(placed(70, 40, 160))
    processor(frames, face_source=source)
    assert len(source.frames) == 1
    np.testing.assert_array_equal(source.frames[0], frames[0])


def test_what_the_caller_gives_for_a_clip_goes_before_the_source(processor, brow_clip):
    frames = in_a_larger_frame(brow_clip)
    source = Recorder(placed(70, 40, 160))
    keys = [(3, 19, 35)] * 2
    processor([frames, frames], key_frames=keys, face_source=source, face_box=[(70, 40, 230, 200), None])
    assert len(source.frames) == 1


def test_a_source_may_return_the_transform(brow_clip):
    clip = open_clip(in_a_larger_frame(brow_clip))
    transform = crop_transform(240, 320, box=(70, 40, 230, 200))
    np.testing.assert_array_equal(face_transform(clip, 0, Recorder(transform)), transform)


def test_the_largest_of_several_faces_is_used_with_a_warning(brow_clip, hears_warnings):
    clip = open_clip(in_a_larger_frame(brow_clip))
    faces = np.stack([placed(5, 5, 60), placed(70, 40, 160), placed(240, 100, 70)])
    transform = face_transform(clip, 2, Recorder(faces))
    np.testing.assert_allclose(transform, crop_transform(240, 320, landmarks=faces[1]))
    assert f"{clip.name}: 3 faces in frame 2" in hears_warnings.text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.empty((0, 3, 2)), 'No face found in frame 0.*face_landmarks.*face_source="cropped"'),
        (None, r"shape \(\)"),
        (np.zeros((5, 2)), r"shape \(5, 2\)"),
        (placed(0, 0, 900), "inside the picture"),
        ([[0.01, 0, 0], [0, 0.02, 0]], "similarity"),
        ([[-0.01, 0, 0], [0, 0.01, 0]], "similarity"),
        ([[0, 0, 0], [0, 0, 0]], "similarity"),
        ([[0.01, 0, np.nan], [0, 0.01, 0]], "similarity"),
    ],
)
def test_no_usable_face_is_an_error_that_names_the_clip(processor, brow_video, answer, message):
    with pytest.raises(FaceAlignmentError, match=message) as caught:
        processor(str(brow_video), key_frames=(0, 19, 35), face_source=Recorder(answer))
    assert str(brow_video) in str(caught.value)


def test_a_wrong_box_is_an_error_that_names_the_clip(processor, brow_video):
    with pytest.raises(FaceAlignmentError, match=r"brow\.mp4: .*inside the frame"):
        processor(str(brow_video), face_box=(400, 400, 500, 500))


# --- the name in the config ---


def test_the_name_is_saved_and_reloaded(tmp_path):
    assert DeftVideoProcessor().face_source == "cropped"
    for name in ("cropped", "yunet", "yunet:models/yunet.onnx", "mediapipe:C:/models/face_landmarker.task"):
        DeftVideoProcessor(face_source=name).save_pretrained(tmp_path / "saved")
        assert DeftVideoProcessor.from_pretrained(tmp_path / "saved").face_source == name


@pytest.mark.parametrize("name", ["haar", "", "mediapipe", "mediapipe:", "yunet:", "cropped:x"])
def test_an_unknown_name_is_refused(processor, name):
    with pytest.raises(ValueError, match="mediapipe:PATH"):
        make_face_source(name)
    with pytest.raises(ValueError, match="mediapipe:PATH"):
        DeftVideoProcessor(face_source=name)


def test_a_callable_belongs_to_a_call_and_not_to_the_config(processor):
    with pytest.raises(TypeError, match="pass a callable with the call"):
        DeftVideoProcessor(face_source=Recorder(None))
    with pytest.raises(TypeError, match="name or a callable, not int"):
        processor(np.zeros((4, 32, 32, 3), np.uint8), face_source=3)


# --- YuNet, with a detector in its place that finds coloured dots in what FaceDetectorYN is given ---

DOTS = {"right_eye": (255, 0, 0), "left_eye": (0, 0, 255), "nose": (0, 255, 0)}  # RGB
DOTS |= {"mouth_right": (255, 0, 255), "mouth_left": (255, 255, 0)}


def draw_face(frame, left, top, side):
    (right_eye, left_eye, mouth), radius = placed(left, top, side), max(round(side / 20), 2)
    corners = {"nose": (right_eye + left_eye + mouth) / 3}
    corners |= {"mouth_right": mouth - (side * 0.15, 0), "mouth_left": mouth + (side * 0.15, 0)}
    for name, point in {"right_eye": right_eye, "left_eye": left_eye, **corners}.items():
        centre = tuple(round(16 * (value - 0.5)) for value in point)
        cv2.circle(frame, centre, radius * 16, DOTS[name], -1, cv2.LINE_AA, shift=4)


class DotDetector:
    """Has the interface of `cv2.FaceDetectorYN` and, like YuNet, sees faces of some 10 to 300 pixels only."""

    def __init__(self, model, config, input_size, score_threshold=0.9):
        assert Path(model).is_file()
        self.input_size, self.score_threshold = input_size, score_threshold

    def detect(self, image):
        assert image.shape[1::-1] == self.input_size
        assert image.dtype == np.uint8
        dots = {}
        for name, colour in DOTS.items():
            mask = np.all(np.abs(image[..., ::-1].astype(int) - colour) < 60, axis=2).astype(np.uint8)
            count, _, statistics, centres = cv2.connectedComponentsWithStats(mask)
            dots[name] = [centres[i] + 0.5 for i in range(1, count) if statistics[i, cv2.CC_STAT_AREA] > 3]
        rows = []
        for points in zip(*dots.values(), strict=True):
            left, top = np.min(points, 0)
            width, height = 1.6 * (np.max(points, 0) - (left, top))
            if 10 < height < 300:
                rows.append([left - 0.19 * width, top - 0.19 * height, width, height, *np.ravel(points), 0.9])
        return 1, np.float32(rows) if rows else None


@pytest.fixture
def yunet(monkeypatch, tmp_path):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"stands for the model")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", DotDetector)
    return YuNetFaces(path)


@pytest.mark.parametrize(
    ("shape", "square"),
    [
        ((480, 640), (200, 100, 250)),
        ((481, 643), (31, 20, 420)),  # fills the frame
        ((160, 160), (0, 0, 160)),
        ((151, 97), (3, 30, 90)),
        ((4320, 7680), (3000, 1200, 1900)),
        ((2160, 1080), (20, 300, 1000)),
    ],
)
def test_yunet_finds_a_face_in_frames_of_any_size(yunet, shape, square):
    frame = np.full((*shape, 3), 128, np.uint8)
    draw_face(frame, *square)
    faces = yunet(frame)
    assert faces.shape == (1, 3, 2)
    np.testing.assert_allclose(faces[0], placed(*square), atol=0.012 * square[2])


def test_yunet_finds_each_of_two_faces_once(yunet, hears_warnings):
    frames = np.full((2, 480, 640, 3), 128, np.uint8)
    draw_face(frames[0], 20, 30, 150)
    draw_face(frames[0], 300, 100, 300)
    transform = face_transform(open_clip(frames), 0, yunet)
    assert "2 faces in frame 0" in hears_warnings.text
    np.testing.assert_allclose(placed(300, 100, 300) @ transform[:, :2].T + transform[:, 2], CANONICAL, atol=0.02)


def test_yunet_finds_no_face_in_an_empty_frame(yunet):
    assert yunet(np.zeros((99, 101, 3), np.uint8)).shape == (0, 3, 2)
    with pytest.raises(FaceAlignmentError, match="No face found in frame 1"):
        face_transform(open_clip(np.zeros((3, 99, 101, 3), np.uint8)), 1, yunet)


def test_yunet_by_its_path_in_the_config(yunet):
    frames = np.full((6, 240, 320, 3), 128, np.uint8)
    for frame in frames:
        draw_face(frame, 100, 40, 160)
    keys = {"num_frames": 4, "size": {"height": 48, "width": 48}, "flow_resolution": 64, "flow_size": 16}
    found = DeftVideoProcessor(face_source=f"yunet:{yunet.path}", **keys)(frames, key_frames=(0, 2, 5))
    given = DeftVideoProcessor(**keys)(frames, key_frames=(0, 2, 5), face_box=(100, 40, 260, 200))
    difference = np.abs(found["pixel_values_videos"] - given["pixel_values_videos"])
    assert difference.mean() < 0.05
    whole = DeftVideoProcessor(**keys)(frames, key_frames=(0, 2, 5))
    assert np.abs(whole["pixel_values_videos"] - given["pixel_values_videos"]).mean() > 0.1


def test_a_file_that_is_no_model_is_refused(tmp_path):
    """OpenCV's own detector."""
    path = tmp_path / "yunet.onnx"
    with pytest.raises(FileNotFoundError, match=r"yunet\.onnx: no such YuNet model file"):
        YuNetFaces(path)(np.zeros((64, 64, 3), np.uint8))
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"yunet\.onnx: not a YuNet model"):
        YuNetFaces(path)(np.zeros((64, 64, 3), np.uint8))


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """The Hub's cache, empty; and whatever is written into it stands where the model's pinned revision would."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--opencv--face_detection_yunet" / "snapshots" / face_alignment.YUNET_REVISION

    def put(content):
        folder.mkdir(parents=True)
        path = folder / face_alignment.YUNET_FILE
        path.write_bytes(content)
        return path

    return put


def test_offline_the_error_says_what_to_pass_instead(hub_cache, processor, brow_video):
    with pytest.raises(FileNotFoundError, match=r'face_landmarks or face_box.*"cropped".*"yunet:PATH"'):
        processor(str(brow_video), face_source="yunet")
    # Nothing is asked of the Hub for a clip whose face is known.
    processor(str(brow_video), face_source="yunet", face_box=(0, 0, 160, 160))


def test_a_download_is_pinned_and_said_and_a_cached_model_is_quiet(hub_cache, monkeypatch, hears_warnings):
    content = b"stands for the model"
    digest = face_alignment.hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(face_alignment, "YUNET_SHA256", digest)
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", DotDetector)
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return str(hub_cache(content))

    monkeypatch.setattr(face_alignment, "hf_hub_download", download)
    frame = np.full((240, 240, 3), 128, np.uint8)
    draw_face(frame, 20, 20, 200)
    source = make_face_source("yunet")
    assert asked == []
    assert len(source(frame)) == len(source(frame)) == 1
    assert len(asked) == 1
    assert asked[0][:2] == ("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx")
    assert len(asked[0][2]) == 40
    said = [record.getMessage() for record in hears_warnings.records]
    assert len(said) == 1
    assert "MIT licence" in said[0]
    assert "opencv/face_detection_yunet" in said[0]


def test_a_model_with_another_checksum_is_refused(hub_cache):
    path = hub_cache(b"something else")
    with pytest.raises(ValueError, match="delete it") as caught:
        make_face_source("yunet")(np.zeros((64, 64, 3), np.uint8))
    assert str(path) in str(caught.value)


# --- MediaPipe, with a module in its place that has the names and types of version 1.2 ---


@pytest.fixture
def mediapipe(monkeypatch, tmp_path):
    """Returns (task file, list of faces, each (478, 2) in fractions of the frame, options seen)."""
    faces, seen = [], []

    class Landmarker:
        @classmethod
        def create_from_options(cls, options):
            if Path(options.base_options.model_asset_path).read_bytes() != b"task":
                raise RuntimeError("Unable to open zip archive.")
            seen.append(options)
            return cls()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            seen.append("closed")

        def detect(self, image):
            assert image.image_format == "SRGB"
            assert image.data.flags.c_contiguous
            points = [[types.SimpleNamespace(x=x, y=y) for x, y in face] for face in faces]
            return types.SimpleNamespace(face_landmarks=points)

    vision = types.SimpleNamespace(FaceLandmarker=Landmarker, FaceLandmarkerOptions=types.SimpleNamespace)
    package = types.ModuleType("mediapipe")
    package.Image, package.ImageFormat = types.SimpleNamespace, types.SimpleNamespace(SRGB="SRGB")
    tasks, python = types.ModuleType("mediapipe.tasks"), types.ModuleType("mediapipe.tasks.python")
    python.BaseOptions, python.vision = types.SimpleNamespace, vision
    for module in (package, tasks, python):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"task")
    return path, faces, seen


def test_mediapipe_points_become_the_three_landmarks(mediapipe):
    path, faces, seen = mediapipe
    (right, left, mouth), half = placed(0.2, 0.1, 0.6), 0.04
    points = np.random.default_rng(0).uniform(0, 1, (478, 2))
    for (outer, inner), centre in zip(MediaPipeFaces.CORNERS, (right, left, mouth), strict=True):
        points[outer], points[inner] = centre - (half, 0), centre + (half, 0)
    faces.append(points)
    found = MediaPipeFaces(path)(np.zeros((300, 400, 3), np.uint8)[:, ::-1])
    np.testing.assert_allclose(found, [np.array([right, left, mouth]) * (400, 300)])
    assert seen[0].num_faces == 5
    assert seen[-1] == "closed"


def test_mediapipe_without_a_face_package_or_file(mediapipe, monkeypatch, tmp_path):
    path, _, _ = mediapipe
    frame = np.zeros((30, 40, 3), np.uint8)
    assert make_face_source(f"mediapipe:{path}")(frame).shape == (0, 3, 2)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.task: no such MediaPipe task file"):
        MediaPipeFaces("nowhere.task")(frame)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a task file"):
        MediaPipeFaces(path)(frame)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match=r"pip install deft-llm\[mediapipe\]"):
        MediaPipeFaces(path)(frame)


def test_mediapipe_indices_are_those_of_the_package():
    vision = pytest.importorskip("mediapipe.tasks.python.vision")
    connections = vision.FaceLandmarksConnections
    names = ("FACE_LANDMARKS_RIGHT_EYE", "FACE_LANDMARKS_LEFT_EYE", "FACE_LANDMARKS_LIPS")
    for name, corners in zip(names, MediaPipeFaces.CORNERS, strict=True):
        points = {point for link in getattr(connections, name) for point in (link.start, link.end)}
        assert set(corners) <= points


@pytest.fixture(scope="module")
def loose():
    """(a crop as data sets ship them, the face's landmarks in it)."""
    return painted_face(340, 280, crop=200, middle=(150, 190))


def said(caplog, action):
    """What `action` returns, and what it logs."""
    face_alignment.logger.addHandler(caplog.handler)
    try:
        return action(), caplog.text
    finally:
        face_alignment.logger.removeHandler(caplog.handler)


def test_a_crop_of_other_geometry_is_aligned_and_said(loose, caplog):
    frame, truth = loose
    clip = ArrayClip(np.stack([frame, frame]), "loose crop", 25.0)
    transform, text = said(caplog, lambda: face_transform(clip, 0, None))
    np.testing.assert_allclose(truth @ transform[:, :2].T + transform[:, 2], CANONICAL, atol=0.04)
    assert "loose crop: In frame 0, eyes or mouth are up to" in text
    assert 'face_source="canonical"' in text


def test_a_frame_without_a_face_is_used_as_it_is_and_said(caplog):
    clip = ArrayClip(np.full((2, 60, 80, 3), 90, np.uint8), "empty crop", 25.0)
    transform, text = said(caplog, lambda: face_transform(clip, 1, None))
    np.testing.assert_array_equal(transform, crop_transform(60, 80))
    assert "empty crop: In frame 1, no face is recognised with certainty" in text


@pytest.mark.parametrize(
    "given",
    [
        {"box": (0, 30, 280, 310)},
        {"landmarks": [(100, 120), (180, 120), (140, 200)]},
        {"source": make_face_source("canonical")},
    ],
)
def test_what_the_caller_says_is_not_checked(loose, given, caplog):
    clip = ArrayClip(np.stack([loose[0]] * 2), "given", 25.0)
    source, place = given.get("source"), {key: value for key, value in given.items() if key != "source"}
    transform, text = said(caplog, lambda: face_transform(clip, 0, source, **place))
    np.testing.assert_array_equal(transform, crop_transform(340, 280, **place))
    assert text == ""


def test_a_rendered_crop_is_used_as_it_is(brow_video):
    frame = open_clip(str(brow_video)).frames([0])[0]
    transform, remark = placed_crop(frame)
    np.testing.assert_array_equal(transform, crop_transform(*frame.shape[:2]))
    assert remark is None
