import os
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from deft_llm.hub_datasets.synthetic.clips import Clip, Disturbances, encode_mp4
from deft_llm.processing import video_decoding, video_reading
from deft_llm.processing.decoding_process import close_helper_processes, helper_processes
from deft_llm.processing.video_reading import ArrayClip, DamagedVideoError, NotAVideoError, VideoReadError, open_clip
from tests.processing.barcodes import barcoded, encoded, read_barcodes, with_edits, with_matrix

# What decord 0.6 does not open; it says so, and PyAV comes before it anyway.
NOT_FOR_DECORD = {"gif", "ts_h264"}


LUMA = np.array([0.299, 0.587, 0.114])


def need(decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this platform")


@pytest.fixture(scope="module")
def long_video(tmp_path_factory, encode, numbered):
    """700 frames, a key frame every 50; the frames differ from their neighbours and repeat nowhere."""
    frames = numbered(700) // 2
    frames[:, :8, :8] = (np.arange(700) % 256)[:, None, None, None]
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    path.write_bytes(encode("mp4_b_frames", frames, g="50", bf="2"))
    return path


class TestExactFrames:
    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    def test_every_decoder_gives_the_frames_asked_for_from_every_encoding(self, decoder, encoded, numbered):
        need(decoder)
        name, content = encoded
        if decoder == "decord" and name in NOT_FOR_DECORD:
            pytest.skip("decord does not open it")
        clip = open_clip(content, decoders=[decoder])
        assert len(clip) == 24
        assert clip.metadata.fps == pytest.approx(25)
        assert clip.metadata.video_backend == decoder
        scanned = np.stack(list(clip.scan()))
        order = [5, 5, 0, 20, 3, 23, 20]
        np.testing.assert_array_equal(clip.frames(order), scanned[order])
        np.testing.assert_array_equal(list(clip.stream(sorted(order))), scanned[sorted(order)])
        # Each one is nearest to its own number, not to a neighbour's.
        grey, expected = (frames.mean((1, 2)) @ LUMA for frames in (scanned, numbered()))
        grey = np.polyval(np.polyfit(grey, expected, 1), grey)  # 0–255 or 16–235: an encoder may not say which
        assert np.abs(grey[:, None] - expected).argmin(1).tolist() == list(range(24))
        # The decoders' conversions to RGB differ by rounding, and at chroma samples beside an odd edge.
        first = np.stack(list(open_clip(content).scan()))
        assert np.abs(first.astype(int) - scanned).mean() < (1.5 if name == "mp4_10_bits" else 0.5)

    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    @pytest.mark.parametrize("name", ["mp4_444", "avi_mjpeg", "avi_raw", "webm_vp9", "gif"])
    def test_odd_sizes(self, name, decoder, encode, numbered):
        need(decoder)
        if decoder == "decord" and name in NOT_FOR_DECORD:
            pytest.skip("decord does not open it")
        content = encode(name, numbered(10, 47, 61))
        frames = open_clip(content, decoders=[decoder]).frames(range(10))
        assert frames.shape == (10, 47, 61, 3)
        assert np.abs(frames.astype(int) - open_clip(content).frames(range(10))).mean() < 0.5

    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    @pytest.mark.parametrize("name", ["mp4_b_frames", "mkv_ffv1", "webm_vp8"])
    def test_variable_frame_rate_is_counted_and_not_timed(self, name, decoder, encode, numbered):
        need(decoder)
        times = np.cumsum(np.random.default_rng(0).integers(5, 200, 24)).tolist()
        frames = open_clip(encode(name, numbered(), times=times), decoders=[decoder]).frames(range(24))
        even = open_clip(encode(name, numbered())).frames(range(24))
        assert np.abs(frames.mean((1, 2, 3)) - even.mean((1, 2, 3))).max() < 2  # neighbours differ by 6

    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    def test_rotation_is_applied(self, decoder, encode, numbered):
        need(decoder)
        content = bytearray(encode("mp4_b_frames", numbered()))
        at = content.find(b"tkhd") + 44
        assert struct.unpack(">9I", content[at : at + 36])[0] == 1 << 16
        upright = open_clip(bytes(content)).frames([7])[0]
        quarter = (0, 1 << 16, 0, (-1 << 16) & 0xFFFFFFFF, 0, 0, 48 << 16, 0, 1 << 30)
        content[at : at + 36] = struct.pack(">9I", *quarter)
        if decoder == "decord":  # which would mix the pixels up
            with pytest.raises(VideoReadError, match="mixes up their pixels"):
                open_clip(bytes(content), decoders=[decoder])
            return
        turned = open_clip(bytes(content), decoders=[decoder])
        assert (turned.metadata.height, turned.metadata.width) == (64, 48)
        np.testing.assert_array_equal(turned.frames([7])[0], np.rot90(upright, -1))

    def test_where_a_decoder_cannot_mirror_it_does_not_go_on(self, monkeypatch, tmp_path):
        (tmp_path / "unlucky_decoders.py").write_text(
            "from decoding_helper.video_decoding import PyAVDecoder\n"
            "class CrashesOnTheWay(PyAVDecoder):\n"
            "    def decode(self, start, wants):\n"
            "        import os\n"
            "        os._exit(3)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        close_helper_processes()  # the next one gets the path
        content = with_matrix(encoded("mp4", "libx264", "yuv420p", barcoded(4)), -1, 0, 0, 1)
        clip = open_clip(content, decoders=["unlucky_decoders:CrashesOnTheWay", "opencv"])
        with pytest.raises(VideoReadError, match="opencv does not mirror"):
            clip.frames([0])
        close_helper_processes()

    def test_one_frame(self, encode, numbered):
        for name in ("mp4_b_frames", "avi_mjpeg", "webm_vp9"):
            clip = open_clip(encode(name, numbered(1)))
            assert (len(clip), clip.frames([0, 0]).shape) == (1, (2, 48, 64, 3))

    def test_content_decides_and_not_the_extension(self, encode, numbered, tmp_path):
        content = encode("webm_vp9", numbered())
        for name in ("clip.avi", "clip.txt", "clip.png", "clip"):
            (tmp_path / name).write_bytes(content)
            np.testing.assert_array_equal(open_clip(tmp_path / name).frames([9]), open_clip(content).frames([9]))

    def test_frames_of_a_synthetic_clip_tell_their_numbers(self, tmp_path):
        frames = np.full((30, 64, 64, 3), 1, np.uint8) * (40 + 5 * np.arange(30, dtype=np.uint8))[:, None, None, None]
        content = encode_mp4(Clip(frames, 200.0, [], [], np.empty(0), Disturbances()))
        clip = open_clip(content)
        assert clip.metadata.fps == pytest.approx(200, abs=0.5)
        np.testing.assert_allclose((clip.frames([5, 5, 0, 29]).mean((1, 2, 3)) - 40) / 5, [5, 5, 0, 29], atol=0.3)

    def test_bytes_path_and_dataset_dictionaries_are_the_same_clip(self, brow_video, monkeypatch):
        content = brow_video.read_bytes()
        expected = open_clip(brow_video).frames([0, 9])
        monkeypatch.chdir(brow_video.parent)
        for source in (
            brow_video.name,
            content,
            bytearray(content),
            {"bytes": content, "path": None},
            {"path": str(brow_video)},
        ):
            for isolate in (True, False):
                np.testing.assert_array_equal(open_clip(source, isolate=isolate).frames([0, 9]), expected)


class TestEditLists:
    @pytest.mark.parametrize("bf", ["0", "2"])
    def test_far_frames_are_found_where_every_key_frame_is_hidden(self, bf, monkeypatch):
        monkeypatch.setattr(video_decoding, "SEEK_FROM", 3)
        content = encoded("mp4", "libx264", "yuv420p", barcoded(40), bf=bf, g="100")
        clip = open_clip(with_edits(content, (5, 30)), isolate=False)
        assert read_barcodes(clip.frames([25, 4, 29])) == [30, 9, 34]

    def test_far_frames_are_found_behind_a_part_that_is_hidden(self, monkeypatch):
        monkeypatch.setattr(video_decoding, "SEEK_FROM", 3)
        content = encoded("mp4", "libx264", "yuv420p", barcoded(60), bf="2", g="6")
        clip = open_clip(with_edits(content, (3, 20), (40, 15), (5, 10)), isolate=False)
        right = [*range(3, 23), *range(40, 55), *range(5, 15)]
        assert read_barcodes(list(clip.scan())) == right
        for number in range(len(clip)):
            assert read_barcodes(clip.frames([number])) == [right[number]]

    def test_a_cut_file_is_still_noticed(self):
        content = encoded("mp4", "libx264", "yuv420p", barcoded(20), bf="2", settings={"movflags": "frag_keyframe"})
        with pytest.raises(DamagedVideoError):
            list(open_clip(content[: len(content) * 3 // 4]).scan())


class TestNotes:
    """What a file says of its frames and is not applied is told in one warning."""

    @pytest.mark.parametrize("isolate", [True, False])
    def test_interlacing(self, isolate, hears_warnings, tmp_path):
        path = tmp_path / "tape.avi"
        path.write_bytes(encoded("avi", "dvvideo", "yuv420p", barcoded(3, 576, 720)))
        clip = open_clip(path, isolate=isolate)
        assert read_barcodes(list(clip.scan())) == [0, 1, 2]
        assert hears_warnings.text.count("tape.avi: It is interlaced: each frame mixes two moments") == 1

    def test_a_frame_that_is_to_be_turned_by_an_odd_angle(self, hears_warnings):
        content = encoded("mp4", "libx264", "yuv420p", barcoded(3))
        open_clip(with_matrix(content, 0.985, 0.174, -0.174, 0.985))
        assert "asks to be turned by another 10°" in hears_warnings.text

    def test_pixels_of_no_likely_shape_are_not_scaled(self, hears_warnings):
        content = encoded("mp4", "libx264", "yuv420p", barcoded(3), ratio=Fraction(20))
        assert open_clip(content).metadata.width == 48
        assert "pixels are 20 times as wide as high, which is not believed" in hears_warnings.text

    @pytest.mark.parametrize(("high", "told"), [(4095, True), (65535, False), (0, False)])
    def test_twelve_bits_in_sixteen(self, high, told, hears_warnings):
        ramp = np.linspace(0, high, 32 * 48).astype(np.uint16).reshape(32, 48)
        with av.open(buffer := BytesIO(), "w", format="matroska") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "gray16le"
            output.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="gray16le")))
            output.mux(stream.encode())
        assert len(open_clip(buffer.getvalue())) == 1
        assert ("16-bit values do not exceed 4095" in hears_warnings.text) == told

    def test_ordinary_files_say_nothing(self, encoded_ordinary, hears_warnings):
        open_clip(encoded_ordinary)
        assert hears_warnings.text == ""

    @pytest.fixture(params=["mp4_b_frames", "avi_raw", "webm_vp9", "gif", "mov_png_16_bits"])
    def encoded_ordinary(self, request, encode, numbered):
        return encode(request.param, numbered())


class TestFrameRate:
    def test_a_raw_stream_states_none_and_takes_that_of_the_caller(self):
        content = encoded("mjpeg", "mjpeg", "yuvj420p", barcoded(3))
        assert open_clip(content).metadata.fps is None
        assert open_clip(content, fps=120).metadata.fps == 120

    def test_a_rate_that_the_file_states_is_kept(self):
        content = encoded("h264", "libx264", "yuv420p", barcoded(12), rate=50, bf="0")
        assert open_clip(content, fps=120).metadata.fps == 50

    def test_time_stamps_decide_where_the_file_states_the_resolution_of_its_clock(self):
        times = [0, 33, 67, 100, 133, 167, 200, 233, 267, 300, 333, 367]
        content = encoded("webm", "libvpx", "yuv420p", barcoded(12), rate=1000, times=times)
        assert open_clip(content).metadata.fps == pytest.approx(30, rel=0.01)


class TestStreaming:
    def test_far_frames_are_sought_and_still_the_right_ones(self, long_video, monkeypatch):
        everything = np.stack(list(open_clip(long_video).scan()))
        clip, decoded = open_clip(long_video, isolate=False), []
        shown = video_decoding.PyAVDecoder._from

        def counted(self, key):
            for item in shown(self, key):
                decoded.append(item[0])
                yield item

        monkeypatch.setattr(video_decoding.PyAVDecoder, "_from", counted)
        for start in (249, 499, 500, 501, 555, 698):
            decoded.clear()
            np.testing.assert_array_equal(clip.frames([start, start + 1]), everything[start : start + 2])
            assert len(decoded) <= (251 if start < 250 else 60)
        np.testing.assert_array_equal(open_clip(long_video).frames([699, 2, 650]), everything[[699, 2, 650]])

    def test_nothing_is_decoded_twice_or_beyond_what_is_wanted(self, long_video, monkeypatch):
        converted, decoded = [], []
        convert, shown = video_decoding.PyAVDecoder._rgb, video_decoding.PyAVDecoder._from
        monkeypatch.setattr(
            video_decoding.PyAVDecoder, "_rgb", lambda self, *args: converted.append(args[1]) or convert(self, *args)
        )

        def counted(self, key):
            for item in shown(self, key):
                decoded.append(item[0])
                yield item

        monkeypatch.setattr(video_decoding.PyAVDecoder, "_from", counted)
        clip = open_clip(long_video, isolate=False)
        assert decoded == []  # counted in the container
        assert sum(1 for _ in clip.scan()) == 700
        assert decoded == converted == list(range(700))
        decoded.clear(), converted.clear()
        assert len(list(clip.stream([3, 3, 3, 90]))) == 4
        assert (decoded, converted) == (list(range(91)), [3, 90])

    def test_memory_does_not_grow_with_the_clip(self, long_video):
        clip = open_clip(long_video)
        tracemalloc.start()
        try:
            count = sum(1 for _ in clip.scan())
            count += sum(1 for _ in clip.stream([index // 4 for index in range(4 * len(clip))]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 5 * 700
        assert peak < 120 * 48 * 64 * 3  # of 700 frames; the list of indices is in it

    @pytest.mark.parametrize("isolate", [True, False])
    def test_streams_may_be_left_and_run_side_by_side(self, isolate, long_video, brow_video):
        first, second = open_clip(long_video, isolate=isolate), open_clip(brow_video, isolate=isolate)
        expected = first.frames(range(12))
        for index, frame in enumerate(first.scan()):
            np.testing.assert_array_equal(frame, expected[index])
            if index == 5:
                break
        pairs = list(zip(first.stream(range(12)), second.stream(range(12)), strict=True))
        np.testing.assert_array_equal([one for one, _ in pairs], expected)
        np.testing.assert_array_equal([other for _, other in pairs], second.frames(range(12)))
        kept = list(first.stream([1, 2]))  # frames are the caller's own
        next(first.scan())[:] = 0
        np.testing.assert_array_equal(kept, expected[[1, 2]])

    @pytest.mark.parametrize("isolate", [True, False])
    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    def test_two_streams_of_one_clip_do_not_disturb_each_other(self, decoder, isolate, brow_video):
        need(decoder)
        clip = open_clip(brow_video, decoders=[decoder], isolate=isolate)
        expected = clip.frames(range(20))
        for (index, early), late in zip(enumerate(clip.stream(range(10))), clip.stream(range(10, 20)), strict=True):
            np.testing.assert_array_equal(early, expected[index])
            np.testing.assert_array_equal(late, expected[10 + index])

    def test_threads_read_side_by_side(self, encoded):
        clip = open_clip(encoded[1])
        expected = clip.frames(range(24))
        with ThreadPoolExecutor(4) as pool:
            for frames in pool.map(lambda _: clip.frames(range(24)), range(8)):
                np.testing.assert_array_equal(frames, expected)
        assert len(helper_processes()) == 1

    def test_a_stream_does_not_go_back(self, brow_video):
        with pytest.raises(VideoReadError, match="frame 2 is asked for after frame 3"):
            open_clip(brow_video).stream([1, 3, 2])

    @pytest.mark.parametrize("isolate", [True, False])
    def test_no_index_is_no_frame(self, isolate, brow_video):
        clip = open_clip(brow_video, isolate=isolate)
        assert clip.frames([]).shape == (0, clip.metadata.height, clip.metadata.width, 3)
        assert list(clip.stream([])) == []

    @pytest.mark.parametrize("index", [-1, 3, 10**30])
    def test_an_index_outside_the_clip_is_refused(self, index):
        clip = ArrayClip(np.zeros((3, 4, 4, 3), np.uint8), "short")
        for read in (clip.frames, clip.stream):
            with pytest.raises(VideoReadError, match=f"short: no frame {index}; the clip has frames 0 to 2"):
                read([0, index])

    @pytest.mark.parametrize(
        "indices",
        [[True, False, True], np.array([True, False, True]), torch.tensor([True]), [1.0], ["1"], [None]],
        ids=["bools", "mask", "tensor_mask", "float", "string", "none"],
    )
    def test_what_is_no_frame_number_is_refused(self, indices):
        with pytest.raises(TypeError, match="short: a frame number must be an integer"):
            ArrayClip(np.zeros((3, 4, 4, 3), np.uint8), "short").frames(indices)

    def test_integers_of_other_kinds_are_frame_numbers(self):
        clip = ArrayClip(np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, 3), "short")
        for indices in (np.array([2, 0], np.uint8), torch.tensor([2, 0]), (2, 0)):
            assert clip.frames(indices)[:, 0, 0, 0].tolist() == [2, 0]


class TestBadFiles:
    @pytest.mark.parametrize("part", [0.02, 0.5, 0.8, 0.97])
    def test_a_cut_file_is_an_error_or_complete_and_never_a_shorter_clip(self, part, encoded):
        name, content = encoded
        cut = content[: int(part * len(content))]
        whole = open_clip(content)
        try:
            clip = open_clip(cut)
            frames = np.stack(list(clip.scan()))
        except VideoReadError:
            return
        # What is missing then is the table behind the frames.
        assert part >= 0.9
        assert name.startswith(("avi", "mp4"))
        np.testing.assert_array_equal(frames, whole.frames(range(24)))

    def test_a_stream_cut_in_front_of_its_end_is_an_error_too(self, tmp_path, encode, numbered):
        """An mp4 whose table comes first, as web sites have them."""
        source = av.open(BytesIO(encode("mp4_b_frames", numbered())))
        path = tmp_path / "fast.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        content = path.read_bytes()
        assert len(open_clip(content)) == 24
        for part in (0.6, 0.8, 0.99):
            with pytest.raises(VideoReadError, match=r"cut off|damaged"):
                open_clip(content[: int(part * len(content))])

    def test_damage_is_an_error_and_not_a_guess(self, encode, numbered):
        """decord and OpenCV give 24 frames for this file, some of them made up."""
        content = bytearray(encode("mp4_b_frames", numbered(24, 96, 128), crf="5"))
        start = content.find(b"mdat") + 2000
        content[start : start + 400] = bytes(400)
        with pytest.raises(VideoReadError, match=r"damaged"):
            list(open_clip(bytes(content)).scan())
        assert len(open_clip(bytes(content), decoders=["opencv"])) == 24

    def test_check_sums_are_looked_at(self, encode, numbered):
        content = encode("mov_png_16_bits", numbered(6))
        for part in np.linspace(0.05, 0.9, 12):
            damaged = bytearray(content)
            damaged[int(part * len(content))] ^= 1
            with pytest.raises(VideoReadError, match=r"damaged|no frame"):
                list(open_clip(bytes(damaged)).scan())

    @pytest.mark.parametrize("isolate", [True, False])
    def test_a_frame_of_another_size_in_the_middle_is_named(self, isolate, encode, numbered):
        sources = [av.open(BytesIO(encode("avi_mjpeg", numbered(4, *size)))) for size in ((48, 64), (60, 80))]
        buffer = BytesIO()
        with av.open(buffer, "w", format="avi") as container:
            stream = container.add_stream_from_template(sources[0].streams.video[0])
            number = 0
            for source in sources:
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream, packet.pts, packet.dts = stream, number, number
                        container.mux(packet)
                        number += 1
        clip = open_clip(buffer.getvalue(), isolate=isolate)
        assert clip.frames(range(4)).shape == (4, 48, 64, 3)
        with pytest.raises(VideoReadError, match=r"frame 4 has 80×60 pixels, the first one 64×48"):
            clip.frames(range(5))

    @pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("wav", "pcm_s16le")])
    def test_sound_alone_is_no_clip(self, container, codec, tmp_path):
        path = tmp_path / f"sound.{container}"
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream(codec, rate=8000, layout="mono")
            kind = {"aac": ("fltp", np.float32), "pcm_s16le": ("s16", np.int16)}[codec]
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), kind[1]), format=kind[0], layout="mono")
            frame.rate = 8000
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
        with pytest.raises(VideoReadError, match=r"sound\..*: it contains no video, only audio"):
            open_clip(path)

    def test_a_song_with_a_cover_is_no_clip(self, tmp_path):
        path = tmp_path / "song.m4a"
        with av.open(str(path), "w", format="mp4") as output:
            sound, cover = output.add_stream("aac", rate=8000, layout="mono"), output.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = 32, 48, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            output.mux(cover.encode(av.VideoFrame.from_ndarray(barcoded(1)[0], format="rgb24")))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            for stream, item in ((sound, frame), (sound, None), (cover, None)):
                output.mux(stream.encode(item))
        with pytest.raises(NotAVideoError, match=r"song\.m4a: it contains no video, only a cover picture and audio"):
            open_clip(path)

    @pytest.mark.parametrize(("suffix", "options"), [("webp", {"save_all": True}), ("png", {}), ("tiff", {})])
    def test_a_picture_is_not_called_damaged(self, suffix, options, tmp_path):
        pictures = [Image.new("RGB", (16, 16), (level,) * 3) for level in (0, 200)]
        pictures[0].save(tmp_path / f"clip.{suffix}", append_images=pictures[1:], **options)
        with pytest.raises(NotAVideoError, match=rf"clip\.{suffix}: not a video but a picture.*pass their folder"):
            open_clip(tmp_path / f"clip.{suffix}")

    def test_files_that_are_no_video_are_named(self, tmp_path):
        empty, text, playlist = (tmp_path / name for name in ("empty.mp4", "text.mp4", "list.m3u8"))
        empty.touch()
        text.write_text("this is no video")
        playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(VideoReadError, match=r"empty\.mp4: the file is empty"):
            open_clip(empty)
        for path in (text, playlist):
            with pytest.raises(VideoReadError, match=rf"{path.name}: not a video: its first bytes"):
                open_clip(path)
        with pytest.raises(VideoReadError, match=r"pipe\.mp4: neither a file nor a folder"):
            open_clip(tmp_path / "pipe.mp4")
        with pytest.raises(VideoReadError, match="folder holds no frames: no image"):
            open_clip(tmp_path / "folder")
        with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such file"):
            open_clip(tmp_path / "nowhere.mp4")

    def test_a_title_in_another_encoding_is_no_obstacle(self, encode, numbered):
        content = encode("mp4_b_frames", numbered())
        handler = content.find(b"VideoHandler")
        garbled = content[:handler] + b"Vid\xe9o" + content[handler + 5 :]
        assert open_clip(garbled, decoders=["pyav"]).frames([3]).shape == (1, 48, 64, 3)

    def test_a_message_names_no_file_descriptor(self):
        with pytest.raises(VideoReadError) as raised:
            open_clip(b"\0\0\0\x18ftypisom")
        assert "<12 bytes of video>: not a video that can be decoded (pyav:" in str(raised.value)
        assert "/dev/fd" not in str(raised.value)

    def test_eight_thousand_pixels_are_read(self, encode):
        frames = np.full((2, 4320, 7680, 3), 90, np.uint8)
        frames[1, 100:200, 100:200] = 200
        clip = open_clip(encode("avi_mjpeg", frames))
        assert (clip.metadata.width, clip.metadata.height) == (7680, 4320)
        means = [float(frame[100:200, 100:200].mean()) for frame in clip.scan()]
        np.testing.assert_allclose(means, [90, 200], atol=2)

    @pytest.mark.parametrize("decoder", video_reading.DECODERS)
    def test_frames_beyond_the_limit_are_refused(self, decoder, brow_video, monkeypatch):
        need(decoder)
        monkeypatch.setattr(video_decoding, "MAX_FRAME_PIXELS", 1000)
        with pytest.raises(VideoReadError, match=r"have 160×160 pixels; at most 0\.0 million are decoded"):
            open_clip(brow_video, decoders=[decoder], isolate=False)

    def test_a_declared_size_is_not_believed(self, encode, numbered):
        content = bytearray(encode("gif", numbered(3)))
        content[6:10] = struct.pack("<HH", 65000, 65000)
        with pytest.raises(VideoReadError, match="bytes of video>: "):
            open_clip(bytes(content))
