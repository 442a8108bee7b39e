import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from deft_llm.processing import video_reading
from deft_llm.processing.decoding_process import close_helper_processes, helper_processes
from deft_llm.processing.video_reading import VideoReadError, open_clip

HOSTILE_DECODERS = """
import os, signal, time
from decoding_helper.video_decoding import PyAVDecoder

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
        with pytest.raises(VideoReadError, match=r"lists 38 frames, but frame 20 cannot be decoded"):
            list(clip.scan())
        assert len(clip.frames([3, 19])) == 2
        clip = open_clip(brow_video, decoders=["hostile_decoders:GivesMore"])
        with pytest.raises(VideoReadError, match=r"lists 10 frames, but more"):
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
        with pytest.raises(VideoReadError, match="No module named 'numpy'"):
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
