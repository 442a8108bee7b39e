import numpy as np
import pytest
import torch
from PIL import Image

from deft_llm.hub_datasets.synthetic import Clip, Disturbances, encode_mp4
from deft_llm.processing import video_reading
from deft_llm.processing.video_reading import ArrayClip, OpenCVClip, PyAVClip, VideoReadError, open_clip


@pytest.fixture
def numbered_folder(tmp_path):
    """Twelve images without zero padding; frame k is filled with grey level 10 k. A text file lies between them."""
    for index in range(12):
        Image.new("RGB", (24, 16), (10 * index,) * 3).save(tmp_path / f"img{index}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_folder_is_read_in_natural_order(numbered_folder):
    clip = open_clip(numbered_folder)
    assert [int(frame[0, 0, 0]) for frame in clip.scan()] == [10 * index for index in range(12)]
    assert (clip.metadata.width, clip.metadata.height) == (24, 16)


@pytest.mark.parametrize("backend", list(video_reading.DECODERS))
def test_asked_for_frames_come_back_exactly_with_repetitions(backend, tmp_path):
    """Frame k of the file is filled with grey level 40 + 5 k, so every frame tells its own number."""
    if backend == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this platform")
    frames = np.full((30, 64, 64, 3), 1, np.uint8) * (40 + 5 * np.arange(30, dtype=np.uint8))[:, None, None, None]
    path = tmp_path / "numbered.mp4"
    path.write_bytes(encode_mp4(Clip(frames, 200.0, [], [], np.empty(0), Disturbances())))
    clip = video_reading.DECODERS[backend](str(path), "clip")
    assert len(clip) == 30
    assert clip.metadata.fps == pytest.approx(200, abs=0.5)
    order = [5, 5, 0, 20, 3, 29, 20]
    numbers = (clip.frames(order).mean((1, 2, 3)) - 40) / 5
    np.testing.assert_allclose(numbers, order, atol=0.3)
    scanned = [(frame.mean() - 40) / 5 for frame in clip.scan()]
    np.testing.assert_allclose(scanned, range(30), atol=0.3)


def test_decoders_agree(brow_video):
    pytest.importorskip("decord", reason="decord has no wheel for this platform")
    order = [0, 7, 15]
    frames = [decoder(str(brow_video), "clip").frames(order) for decoder in video_reading.DECODERS.values()]
    for other in frames[1:]:
        # Colour conversion may round differently by a level or two.
        assert np.abs(frames[0].astype(int) - other).max() <= 3


def test_a_decoder_that_refuses_hands_over_to_the_next(brow_video, monkeypatch):
    def refuse(*_):
        raise RuntimeError("cannot open")

    monkeypatch.setitem(video_reading.DECODERS, "decord", refuse)
    assert isinstance(open_clip(brow_video), PyAVClip)
    monkeypatch.setitem(video_reading.DECODERS, "pyav", refuse)
    assert isinstance(open_clip(brow_video), OpenCVClip)


def test_bytes_path_and_dataset_dictionaries_are_the_same_clip(brow_video):
    content = brow_video.read_bytes()
    expected = open_clip(brow_video).frames([0, 9])
    for source in (str(brow_video), content, {"bytes": content, "path": None}, {"path": str(brow_video)}):
        np.testing.assert_array_equal(open_clip(source).frames([0, 9]), expected)


@pytest.mark.parametrize(
    "convert",
    [
        lambda frames: frames,
        lambda frames: frames.transpose(0, 3, 1, 2),
        lambda frames: frames.astype(np.float32) / 255,
        lambda frames: frames.astype(np.float64),
        lambda frames: torch.from_numpy(frames),
        lambda frames: [Image.fromarray(frame) for frame in frames],
        lambda frames: list(frames),
        lambda frames: np.concatenate([frames, np.full_like(frames[..., :1], 255)], axis=-1),
    ],
    ids=["uint8", "channels_first", "unit_floats", "byte_floats", "tensor", "pil", "list", "alpha"],
)
def test_layouts_and_types_of_arrays(convert, brow_clip):
    frames = brow_clip.frames[:6]
    np.testing.assert_array_equal(open_clip(convert(frames)).frames(range(6)), frames)


def test_grey_and_sixteen_bit_frames(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(1, 6, 8).repeat(2, 0)
    frames = open_clip(grey).frames([0])
    assert frames.shape == (1, 6, 8, 3)
    np.testing.assert_array_equal(frames[0, :, :, 1], grey[0])
    deep = (np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).astype(np.uint16)
    for index in range(2):
        Image.fromarray(deep).save(tmp_path / f"{index}.png")
    read = open_clip(tmp_path).frames([0])[0, :, :, 0]
    np.testing.assert_array_equal(read, (deep / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere.mp4", FileNotFoundError, "nowhere.mp4: no such file"),
        (b"", VideoReadError, "not a video"),
        (b"RIFF, but no video follows", VideoReadError, "not a video"),
        ([], VideoReadError, "empty list"),
        (np.zeros((4, 4)), VideoReadError, r"shape \(4, 4\)"),
        (np.full((2, 8, 8, 3), np.nan), VideoReadError, "NaN"),
        (np.full((2, 8, 8, 3), 300.0), VideoReadError, "0–255"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], VideoReadError, "9×8"),
        (object(), TypeError, "not object"),
    ],
    ids=["missing", "empty_bytes", "garbage", "empty_list", "shape", "nan", "range", "sizes", "type"],
)
def test_bad_sources_are_named(source, error, message):
    with pytest.raises(error, match=message):
        open_clip(source)


def test_bad_files_are_named(tmp_path):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("this is no video")
    (tmp_path / "folder").mkdir()
    with pytest.raises(VideoReadError, match=r"empty\.mp4: the file is empty"):
        open_clip(empty)
    with pytest.raises(VideoReadError, match=r"text\.mp4: not a video.*pyav.*opencv"):
        open_clip(text)
    with pytest.raises(VideoReadError, match="folder holds no image"):
        open_clip(tmp_path / "folder")


def test_truncated_file_is_an_error_not_a_shorter_clip_in_silence(brow_video, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(brow_video.read_bytes()[: brow_video.stat().st_size // 2])
    with pytest.raises(VideoReadError, match=r"cut\.mp4"):
        open_clip(cut)


def test_a_frame_of_another_size_and_an_unreadable_one_are_named(numbered_folder):
    Image.new("RGB", (30, 16)).save(numbered_folder / "img3.png")
    with pytest.raises(VideoReadError, match=r"img3\.png: 30×16 pixels"):
        open_clip(numbered_folder).frames([2, 3])
    (numbered_folder / "img4.png").write_bytes(b"broken")
    with pytest.raises(VideoReadError, match=r"img4\.png: not an image"):
        open_clip(numbered_folder).frames([4])


def test_an_index_outside_the_clip_is_refused():
    clip = ArrayClip(np.zeros((3, 4, 4, 3), np.uint8), "short")
    for index in (-1, 3):
        with pytest.raises(VideoReadError, match=f"short: no frame {index}"):
            clip.frames([0, index])
