import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from PIL import Image

from deft_llm.hub_datasets.synthetic.clips import Clip, Disturbances, encode_mp4
from deft_llm.processing import video_decoding, video_reading
from deft_llm.processing.decoding_process import close_helper_processes, helper_processes
from deft_llm.processing.video_reading import ArrayClip, VideoReadError, open_clip

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
        for source in (brow_video.name, content, bytearray(content), {"bytes": content, "path": None},
                       {"path": str(brow_video)}):  # fmt: skip
            for isolate in (True, False):
                np.testing.assert_array_equal(open_clip(source, isolate=isolate).frames([0, 9]), expected)


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


HOSTILE_DECODERS = """
import os, signal, time
from __main__ import PyAVDecoder

class CrashesAtOnce(PyAVDecoder):
    def probe(self):
        os.kill(os.getpid(), signal.SIGSEGV)

class CrashesOnTheWay(PyAVDecoder):
    def decode(self, start, wants):
        for number, image in super().decode(start, wants):
            if number == 9:
                os.kill(os.getpid(), signal.SIGSEGV)
            yield number, image

class Hangs(PyAVDecoder):
    def probe(self):
        time.sleep(600)

class HangsOnTheWay(PyAVDecoder):
    def decode(self, start, wants):
        for number, image in super().decode(start, wants):
            if number == 9:
                time.sleep(600)
            yield number, image

class Exits(PyAVDecoder):
    def probe(self):
        os._exit(3)

class IsSlowButAlive(PyAVDecoder):
    def probe(self):
        for _ in range(30):
            time.sleep(0.1)
            self._progress()
        return super().probe()

class LosesTheEnd(PyAVDecoder):
    def decode(self, start, wants):
        yield from (item for item in super().decode(start, wants) if item[0] < 20)

class GivesMore(PyAVDecoder):
    def probe(self):
        return {**super().probe(), "count": 10}
"""


class TestDecodersThatDie:
    @pytest.fixture(autouse=True)
    def _hostile(self, tmp_path, monkeypatch):
        (tmp_path / "hostile_decoders.py").write_text(HOSTILE_DECODERS)
        monkeypatch.syspath_prepend(tmp_path)
        close_helper_processes()  # the next one gets the path
        yield
        close_helper_processes()

    @pytest.mark.parametrize(
        ("decoder", "message"),
        [
            ("CrashesAtOnce", r"the decoder crashed \(SIGSEGV\)"),
            ("Hangs", r"the decoder did not answer in 3 s"),
            ("Exits", r"the decoder ended with exit status 3"),
        ],
    )
    def test_it_is_survived_reported_and_replaced(self, decoder, message, brow_video):
        with pytest.raises(VideoReadError, match=rf"brow\.mp4: not a video that can be decoded .*{message}"):
            open_clip(brow_video, decoders=[f"hostile_decoders:{decoder}"], timeout=3)
        expected = open_clip(brow_video).frames([0, 9])
        clip = open_clip(brow_video, decoders=[f"hostile_decoders:{decoder}", "opencv"], timeout=3)
        assert clip.metadata.video_backend == "opencv"
        np.testing.assert_array_equal(clip.frames([0, 9]), expected)

    @pytest.mark.parametrize(
        ("decoder", "message"), [("CrashesOnTheWay", "crashed"), ("HangsOnTheWay", "did not answer in 3 s")]
    )
    def test_the_next_one_goes_on_where_it_died(self, decoder, message, brow_video):
        expected = np.stack(list(open_clip(brow_video).scan()))
        hostile = f"hostile_decoders:{decoder}"
        for read in (
            lambda clip: list(clip.scan()),
            lambda clip: clip.frames(range(len(clip))),
            lambda clip: list(clip.stream(range(len(clip)))),
        ):
            clip = open_clip(brow_video, decoders=[hostile, "pyav"], timeout=3)
            np.testing.assert_array_equal(read(clip), expected)
            assert clip.metadata.video_backend == "pyav"
        with pytest.raises(VideoReadError, match=rf"brow\.mp4: .*{message}"):
            open_clip(brow_video, decoders=[hostile], timeout=3).frames(range(20))

    def test_slow_is_not_hanging(self, brow_video):
        assert len(open_clip(brow_video, decoders=["hostile_decoders:IsSlowButAlive"], timeout=2)) == 38

    def test_a_count_that_is_not_kept_is_an_error(self, brow_video):
        clip = open_clip(brow_video, decoders=["hostile_decoders:LosesTheEnd"])
        with pytest.raises(VideoReadError, match=r"lists 38 frames, and frame 20 cannot be decoded"):
            list(clip.scan())
        assert len(clip.frames([3, 19])) == 2
        clip = open_clip(brow_video, decoders=["hostile_decoders:GivesMore"])
        with pytest.raises(VideoReadError, match=r"lists 10 frames, and more of them"):
            list(clip.scan())

    def test_a_decoder_that_refuses_hands_over_to_the_next(self, brow_video):
        assert open_clip(brow_video, decoders=["nowhere:Decoder", "opencv"]).metadata.video_backend == "opencv"
        with pytest.raises(
            VideoReadError, match=r"brow\.mp4: not a video.*nowhere:Decoder: No module named 'nowhere'"
        ):
            open_clip(brow_video, decoders=["nowhere:Decoder"])


class TestHelperProcess:
    def test_one_is_kept_and_a_killed_one_is_replaced(self, brow_video):
        clip = open_clip(brow_video)
        expected = clip.frames([4])
        (process,) = helper_processes()
        open_clip(brow_video).frames([1])
        assert helper_processes() == [process]
        os.kill(process, signal.SIGKILL)
        while helper_processes():
            time.sleep(0.01)
        np.testing.assert_array_equal(clip.frames([4]), expected)
        assert helper_processes() not in ([], [process])

    def test_none_is_started_for_what_needs_none(self, brow_video, brow_clip):
        close_helper_processes()
        open_clip(brow_clip.frames).frames([0])
        open_clip(brow_video, isolate=False).frames([0])
        assert helper_processes() == []

    @pytest.mark.parametrize("executable", ["", "/nowhere/python"])
    def test_where_none_can_be_started_the_message_says_what_to_do(self, executable, brow_video, monkeypatch):
        close_helper_processes()
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(VideoReadError, match=r"brow\.mp4: .*pass isolate=False"):
            open_clip(brow_video)
        assert len(open_clip(brow_video, isolate=False).frames([0])) == 1

    def test_what_it_cannot_import_is_named(self, brow_video, monkeypatch):
        close_helper_processes()
        monkeypatch.setattr(sys, "path", [path for path in sys.path if "packages" not in path])
        with pytest.raises(VideoReadError, match="No module named 'av'"):
            open_clip(brow_video)

    def test_forked_workers_have_their_own(self, brow_video):
        clip = open_clip(brow_video.read_bytes())
        stream = clip.scan()
        expected = next(stream)
        (ours,) = helper_processes()
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()

        def child():
            queue.put((clip.frames([0])[0], helper_processes()))
            close_helper_processes()

        children = [context.Process(target=child) for _ in range(2)]
        for process in children:
            process.start()
        answers = [queue.get() for _ in children]
        for process in children:
            process.join(20)
            assert process.exitcode == 0
        for frame, theirs in answers:
            np.testing.assert_array_equal(frame, expected)
            assert ours not in theirs
            assert len(theirs) == 1
        assert sum(1 for _ in stream) == 37  # ours went on undisturbed
        assert helper_processes() == [ours]

    @pytest.mark.parametrize("end", ["return", "os.kill(os.getpid(), 9)"])
    def test_it_ends_with_the_process_that_started_it(self, end, brow_video, without_package):
        code = f"""
            import importlib, json, os, sys, types
            package = types.ModuleType("flat"); package.__path__ = [{os.path.dirname(video_reading.__file__)!r}]
            sys.modules["flat"] = package
            reading = importlib.import_module("flat.video_reading")
            process = importlib.import_module("flat.decoding_process")
            def main():
                stream = reading.open_clip({str(brow_video)!r}).scan()
                next(stream)
                print(json.dumps(process.helper_processes()), flush=True)
                {end}
            main()
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
        )
        (process,) = json.loads(done.stdout)
        until = time.monotonic() + 10
        while _runs(process):
            assert time.monotonic() < until
            time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
        with pytest.raises(VideoReadError, match=r"sound\..*: it holds no video, only audio"):
            open_clip(path)

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
        with pytest.raises(VideoReadError, match="folder holds no image"):
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

    def test_digits_of_other_scripts_do_not_break_the_order(self, tmp_path):
        for name in ("a².png", "a10.png", "a9.png", "٣.png"):
            Image.new("L", (4, 4)).save(tmp_path / name)
        assert len(open_clip(tmp_path)) == 4

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

    def test_alpha_is_dropped_and_grey_and_palettes_are_rgb(self, tmp_path):
        clear = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
        assert open_clip([clear]).frames([0])[0, 0, 0].tolist() == [200, 100, 50]
        assert open_clip([Image.new("L", (4, 4), 7)]).frames([0])[0, 0, 0].tolist() == [7, 7, 7]
        palette = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
        assert open_clip([palette]).frames([0])[0, 0, 0].tolist() == [255, 0, 0]

    def test_exif_orientation_is_applied(self, tmp_path):
        image, exif = Image.new("RGB", (8, 6)), Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "0.jpg", exif=exif)
        assert open_clip(tmp_path).frames([0]).shape == (1, 8, 6, 3)

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
        ids=["uint8", "channels_first", "unit_floats", "byte_floats", "half", "int64", "fortran", "strides", "tensor",
             "tensor_grad", "tensor_half", "tensor_bfloat16", "pil", "list", "tensors", "alpha"],
    )  # fmt: skip
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
            (np.zeros((0, 5, 6)), VideoReadError, r"shape \(0, 5, 6, 1\) is no clip: there is nothing"),
            (np.zeros((2, 5, 4, 4, 3)), VideoReadError, r"shape \(2, 5, 4, 4, 3\)"),
            (np.zeros((480, 640, 3), np.uint8), VideoReadError, r"shape \(480, 640, 3\) is no clip"),
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
            ([None, None], VideoReadError, "no clip"),
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
