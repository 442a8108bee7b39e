import base64
import functools
import http.server
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.utils import httpx
from PIL import Image

from deft_llm.processing import video_reading
from deft_llm.processing.video_reading import VideoReadError, open_clip


@pytest.fixture
def numbered_folder(tmp_path):
    """Twelve images without zero padding; frame k is filled with grey level 10 k. Other files lie between them."""
    for index in range(12):
        Image.new("RGB", (24, 16), (10 * index,) * 3).save(tmp_path / f"img{index}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "Thumbs.db").write_bytes(b"not an image")
    (tmp_path / "._img3.png").write_bytes(b"what another system leaves behind")
    (tmp_path / "img4.png.d").mkdir()
    return tmp_path


class TestImages:
    def test_folder_is_read_in_natural_order(self, numbered_folder):
        clip = open_clip(numbered_folder, fps=200)
        assert [int(frame[0, 0, 0]) for frame in clip.scan()] == [10 * index for index in range(12)]
        assert (clip.metadata.width, clip.metadata.height, clip.metadata.fps) == (24, 16, 200)
        assert clip.frames([11, 0, 11])[:, 0, 0, 0].tolist() == [110, 0, 110]

    def test_strangers_and_gaps_are_named(self, numbered_folder, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("deft_llm"), "propagate", True)
        (numbered_folder / "img5.png").unlink()
        for name in ("apex.png", "img1 (1).png", "img1 - Copy.png"):
            Image.new("RGB", (24, 16)).save(numbered_folder / name)
        clip = open_clip(numbered_folder)
        assert [int(frame[0, 0, 0]) // 10 for frame in clip.scan()] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        strangers, gap = (record.getMessage() for record in caplog.records)
        assert "left out: apex.png, img1 (1).png, img1 - Copy.png" in strangers
        assert f"{numbered_folder}: no file for frame 5" in gap

    def test_a_folder_that_is_not_one_series_is_refused(self, numbered_folder):
        with pytest.raises(VideoReadError, match="holds no frames: no image"):
            open_clip(numbered_folder / "img4.png.d")
        Image.new("L", (4, 4)).save(numbered_folder / "img4.png.d" / "apex.png")
        with pytest.raises(VideoReadError, match=r"no number in the name of apex\.png, or pass a list"):
            open_clip(numbered_folder / "img4.png.d")
        Image.new("L", (4, 4)).save(numbered_folder / "img7.jpg")
        with pytest.raises(VideoReadError, match=r"img7\.jpg and img7\.png are both frame 7"):
            open_clip(numbered_folder)
        (numbered_folder / "img7.jpg").unlink()
        (numbered_folder / "img12.png").symlink_to("nowhere")
        with pytest.raises(FileNotFoundError, match=r"img12\.png: the frame is missing"):
            open_clip(numbered_folder)

    def test_a_frame_of_another_size_and_an_unreadable_one_are_named(self, numbered_folder):
        Image.new("RGB", (30, 16)).save(numbered_folder / "img3.png")
        with pytest.raises(VideoReadError, match=r"img3\.png: 30×16 pixels"):
            open_clip(numbered_folder).frames([2, 3])
        (numbered_folder / "img4.png").write_bytes(b"broken")
        with pytest.raises(VideoReadError, match=r"img4\.png: not an image"):
            open_clip(numbered_folder).frames([4])
        whole = (numbered_folder / "img5.png").read_bytes()
        (numbered_folder / "img5.png").write_bytes(whole[:60])
        with pytest.raises(VideoReadError, match=r"img5\.png: not an image"):
            open_clip(numbered_folder).frames([5])
        (numbered_folder / "img6.png").write_bytes(b"")
        with pytest.raises(VideoReadError, match=r"img6\.png: not an image"):
            open_clip(numbered_folder).frames([6])

    def test_lists_of_paths_are_read_one_by_one(self, numbered_folder):
        paths = [numbered_folder / f"img{index}.png" for index in (3, 1)]
        assert open_clip(paths).frames([0, 1])[:, 0, 0, 0].tolist() == [30, 10]
        with pytest.raises(FileNotFoundError, match=r"gone\.png: no such file"):
            open_clip([*paths, numbered_folder / "gone.png"]).frames([2])
        with pytest.raises(VideoReadError, match="mixes images or paths with arrays"):
            open_clip([paths[0], np.zeros((4, 4), np.uint8)])

    def test_sixteen_bits_are_scaled_alike_in_dark_and_bright_frames(self, tmp_path):
        deep = (np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).astype(np.uint16)
        dark = np.full_like(deep, 200)
        for index, values in enumerate((deep, dark)):
            Image.fromarray(values).save(tmp_path / f"{index}.png")
        read = open_clip(tmp_path).frames([0, 1])
        np.testing.assert_array_equal(read[0, :, :, 1], np.rint(deep / 257).astype(np.uint8))
        assert read[1].max() == 1
        Image.fromarray(deep).save(tmp_path / "deep.pgm")
        np.testing.assert_array_equal(open_clip([tmp_path / "deep.pgm"]).frames([0])[0], read[0])

    def test_alpha_is_dropped_and_grey_and_palettes_are_rgb(self, tmp_path):
        clear = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
        assert open_clip([clear]).frames([0])[0, 0, 0].tolist() == [200, 100, 50]
        assert open_clip([Image.new("L", (4, 4), 7)]).frames([0])[0, 0, 0].tolist() == [7, 7, 7]
        palette = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
        assert open_clip([palette]).frames([0])[0, 0, 0].tolist() == [255, 0, 0]

    def test_what_is_no_frame_is_refused(self, tmp_path):
        with pytest.raises(VideoReadError, match=r"list of frames>, image 0: .*mode F"):
            open_clip([Image.new("F", (4, 4))])
        pages = [Image.new("L", (4, 4), level) for level in (1, 2)]
        pages[0].save(tmp_path / "0.tiff", save_all=True, append_images=pages[1:])
        with pytest.raises(VideoReadError, match=r"0\.tiff: 2 images in one"):
            open_clip(tmp_path)

    def test_a_decompression_bomb_is_refused_before_it_goes_off(self, tmp_path):
        Image.new("1", (20000, 20000)).save(tmp_path / "0.png")
        with pytest.raises(VideoReadError, match=r"0\.png: .*(million|decompression bomb)"):
            open_clip(tmp_path)


class TestArrays:
    @pytest.mark.parametrize(
        "convert",
        [
            lambda frames: frames,
            lambda frames: frames.transpose(0, 3, 1, 2),
            lambda frames: frames.astype(np.float32) / 255,
            lambda frames: frames.astype(np.float64),
            lambda frames: frames.astype(np.float16),
            lambda frames: frames.astype(np.int64),
            lambda frames: np.asfortranarray(frames),
            lambda frames: frames[:, ::-1][:, ::-1],
            lambda frames: torch.from_numpy(frames),
            lambda frames: (torch.from_numpy(frames).float() / 255).requires_grad_(),
            lambda frames: torch.from_numpy(frames).half(),
            lambda frames: torch.from_numpy(frames).permute(0, 3, 1, 2).bfloat16(),
            lambda frames: [Image.fromarray(frame) for frame in frames],
            lambda frames: list(frames),
            lambda frames: list(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255),
            lambda frames: np.concatenate([frames, np.full_like(frames[..., :1], 255)], axis=-1),
        ],
        ids=(
            "uint8 channels_first unit_floats byte_floats half int64 fortran strides tensor tensor_grad tensor_half "
            "tensor_bfloat16 pil list tensors alpha"
        ).split(),
    )
    def test_layouts_and_types(self, convert, brow_clip):
        frames = brow_clip.frames[:6]
        np.testing.assert_array_equal(open_clip(convert(frames)).frames(range(6)), frames)

    def test_a_device_tensor_is_fetched(self):
        class OnDevice:
            """What a tensor on an accelerator looks like: NumPy cannot see it before it is fetched."""

            def detach(self):
                return self

            def cpu(self):
                return torch.full((2, 4, 5), 9, dtype=torch.uint8)

            def __array__(self, *_):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")

        assert open_clip(OnDevice()).frames([1])[0, 0, 0].tolist() == [9, 9, 9]

    def test_grey_frames(self):
        grey = np.arange(48, dtype=np.uint8).reshape(1, 6, 8).repeat(2, 0)
        for clip in (grey, grey[..., None], grey[:, None], list(grey)):
            frames = open_clip(clip).frames([0])
            assert frames.shape == (1, 6, 8, 3)
            np.testing.assert_array_equal(frames[0, :, :, 1], grey[0])

    def test_the_range_of_floats_is_that_of_the_clip_and_not_of_a_frame(self):
        frames = [np.zeros((4, 5), np.float32), np.full((4, 5), 1.0, np.float32), np.full((4, 5), 200.0, np.float32)]
        assert open_clip(frames).frames([0, 1, 2])[:, 0, 0, 0].tolist() == [0, 1, 200]
        assert open_clip(frames[:2]).frames([0, 1])[:, 0, 0, 0].tolist() == [0, 255]

    @pytest.mark.parametrize(
        ("source", "error", "message"),
        [
            (b"", VideoReadError, "not a video"),
            (b"RIFF, but no video follows", VideoReadError, "not a video"),
            ([], VideoReadError, "empty list"),
            (np.zeros((4, 4)), VideoReadError, r"shape \(4, 4\)"),
            (np.zeros((0, 5, 6)), VideoReadError, r"shape \(0, 5, 6, 1\) is not a clip: there is nothing"),
            (np.zeros((2, 5, 4, 4, 3)), VideoReadError, r"shape \(2, 5, 4, 4, 3\)"),
            (np.zeros((480, 640, 3), np.uint8), VideoReadError, r"shape \(480, 640, 3\) is not a clip"),
            (np.zeros((9, 3, 8, 4), np.uint8), VideoReadError, "channels first or last"),
            (np.full((2, 8, 8, 3), np.nan), VideoReadError, "NaN"),
            (np.pad(np.full((1, 1, 1, 3), np.inf), ((0, 1), (0, 7), (0, 7), (0, 0))), VideoReadError, "infinite"),
            (torch.full((2, 8, 8, 3), torch.nan, dtype=torch.bfloat16), VideoReadError, "NaN"),
            (np.full((2, 8, 8, 3), 300.0), VideoReadError, "0–255.*spans 300 to 300.*divide by 257"),
            (np.full((2, 8, 8, 3), 60000, np.uint16), VideoReadError, "0–255.*spans 60000"),
            (np.full((2, 8, 8, 3), -1), VideoReadError, "0–255.*spans -1"),
            (np.zeros((2, 8, 8, 3), bool), VideoReadError, "array of bool"),
            (np.zeros((2, 8, 8, 3), complex), VideoReadError, "array of complex128"),
            (np.full((2, 8, 8), "a"), VideoReadError, "pixels must be integers or floats"),
            (np.full((2, 8, 8, 3), None), VideoReadError, "array of object"),
            (np.ma.masked_equal(np.eye(8)[None], 0), VideoReadError, "masked"),
            (torch.zeros(2, 8, 8, 3, device="meta"), VideoReadError, "Tensor cannot be turned into an array"),
            ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], VideoReadError, "9×8"),
            ([np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.float32)], VideoReadError, "float32, uint8"),
            ([None, None], VideoReadError, "not a clip"),
            (object(), TypeError, "not object"),
            (7, TypeError, "not int"),
            ({"path": None}, TypeError, "not NoneType"),
        ],
    )
    def test_bad_sources_are_named(self, source, error, message):
        with pytest.raises(error, match=message):
            open_clip(source)

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
    def test_a_frame_rate_is_positive(self, fps):
        with pytest.raises(ValueError, match="fps"):
            open_clip(np.zeros((2, 4, 4), np.uint8), fps=fps)


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def online(monkeypatch):
    """The tests run with HF_HUB_OFFLINE, which forbids every request."""
    monkeypatch.setattr(video_reading, "get_session", lambda: httpx.Client())


def test_a_clip_behind_a_url(server, online, tmp_path, encode, numbered):
    content = encode("mp4_b_frames", numbered())
    (tmp_path / "my clip.mp4").write_bytes(content)
    expected = open_clip(content).frames([0, 5])
    sources = (
        f"{server}/my%20clip.mp4",
        (tmp_path / "my clip.mp4").as_uri(),
        "data:video/mp4;base64," + base64.b64encode(content).decode(),
    )
    for source in sources:
        np.testing.assert_array_equal(open_clip(source).frames([0, 5]), expected)


def test_urls_that_give_no_clip_are_named(server, online, tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "large.mp4").write_bytes(bytes(5000))
    monkeypatch.setattr(video_reading, "MAX_DOWNLOAD_BYTES", 4000)
    for source, message in {
        f"{server}/none.mp4": "the server answered 404",
        f"{server}/page.html": "page.html: not a video",
        f"{server}/large.mp4": "larger than 0 MiB.*pass its path",
        "http://127.0.0.1:9/clip.mp4": "could not be fetched.*online",
        "s3://bucket/clip.mp4": "not s3://",
        "data:video/mp4;base64,***": "must be `data:video/mp4;base64,",
        "data:text/plain,hello": "must be `data:video/mp4;base64,",
    }.items():
        with pytest.raises(VideoReadError, match=message):
            open_clip(source)


def test_a_url_without_a_network_says_so():
    with pytest.raises(VideoReadError, match="not fetched, because HF_HUB_OFFLINE is set"):
        open_clip("https://example.org/clip.mp4")
    with pytest.raises(FileNotFoundError, match="A URL must be passed as a string"):
        open_clip(Path("https://example.org/clip.mp4"))


@pytest.mark.parametrize("typed", ["https:/a.org/b.mp4", "https:a.org/b.mp4", "https:///a.org/b.mp4"])
def test_a_mistyped_url_is_not_a_missing_file(typed, tmp_path, monkeypatch):
    with pytest.raises(VideoReadError, match=r"a mistyped URL. Two slashes follow the colon: https://a\.org/b\.mp4"):
        open_clip(typed)
    monkeypatch.chdir(tmp_path)
    Path("https:").mkdir()
    Image.new("RGB", (4, 4)).save("https:/frame1.png")
    assert len(open_clip("https:")) == 1


class TestWindows:
    def test_a_window_counts_from_its_first_frame(self, numbered_folder):
        clip = open_clip(numbered_folder, fps=200)
        window = clip.window(1, 3, name="part")
        assert (len(window), window.name, window.metadata.fps) == (2, "part", 200)
        np.testing.assert_array_equal(window.frames([1, 0]), clip.frames([2, 1]))
        np.testing.assert_array_equal(np.stack(list(window.scan())), clip.frames([1, 2]))
        np.testing.assert_array_equal(window.window(1, 2).frames([0]), clip.frames([2]))
        with pytest.raises(VideoReadError, match="part: no frame 2; the clip has frames 0 to 1"):
            window.frames([2])

    @pytest.mark.parametrize(("start", "stop"), [(2, 2), (2, 1), (-1, 2), (0, 99)])
    def test_a_window_that_is_empty_or_leaves_the_clip_is_refused(self, numbered_folder, start, stop):
        with pytest.raises(VideoReadError, match=f"no frames {start} to {stop - 1}"):
            open_clip(numbered_folder).window(start, stop)

    def test_a_rate_may_be_stated_for_a_window(self, numbered_folder):
        clip = open_clip(numbered_folder)
        assert clip.window(0, 2, fps=25.0).metadata.fps == 25.0
        assert clip.metadata.fps is None

    def test_frames_in_memory_are_not_read_again(self, numbered_folder):
        clip = open_clip(numbered_folder, fps=200)
        expected = clip.frames(range(len(clip)))
        assert clip.in_memory(limit=10) is clip
        held = clip.in_memory()
        shutil.rmtree(numbered_folder)
        np.testing.assert_array_equal(held.frames(range(len(held))), expected)
        assert (held.name, held.metadata.fps) == (clip.name, 200)


# --- Times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolate", [True, False])
def test_times_are_the_files_own(encode, numbered, isolate):
    stamps = [40 * k + (15 if k % 3 else 0) for k in range(24)]
    clip = open_clip(encode("mkv_ffv1", numbered(), times=stamps), isolate=isolate)
    np.testing.assert_allclose(clip.times(), np.array(stamps) / 1000, atol=1e-6)
    np.testing.assert_allclose(clip.window(5, 9).times(), (np.array(stamps[5:9]) - stamps[5]) / 1000, atol=1e-6)


@pytest.mark.parametrize("name", ["mp4_b_frames", "ts_h264", "avi_mjpeg"])
def test_times_begin_with_the_first_frame(encode, numbered, name):
    np.testing.assert_allclose(open_clip(encode(name, numbered())).times(), np.arange(24) / 25, atol=1e-3)


def test_times_without_time_stamps_follow_the_frame_rate(numbered, numbered_folder):
    np.testing.assert_allclose(open_clip(numbered(), fps=50).times(), np.arange(24) / 50)
    assert open_clip(numbered()).times() is None
    assert open_clip(str(numbered_folder)).times() is None
    rate = open_clip(str(numbered_folder)).window(0, 2, fps=10)
    np.testing.assert_allclose(rate.times(), [0, 0.1])
