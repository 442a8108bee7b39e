"""Encodings that cameras, phones and editors write: the frames that are shown, in order, upright and at their rate.

What is right is drawn into the frames. Where the ffmpeg command is installed, its pictures are compared as well.
"""

import shutil
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest

from deft_llm.processing.display_geometry import nearest_orientation
from deft_llm.processing.video_reading import VIDEO_SUFFIXES, open_clip
from tests.processing.barcodes import barcoded, encoded, read_barcodes, with_edits, with_matrix

COUNT = 12
H264 = {"bf": "2", "g": "100", "crf": "12"}
TURNS = {
    "mirrored": (-1, 0, 0, 1),
    "half turn": (-1, 0, 0, -1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "quarter turn": (0, 1, -1, 0),
    "transposed the other way": (0, -1, -1, 0),
    "quarter turn back": (0, -1, 1, 0),
    "ten degrees": (0.98, 0.17, -0.17, 0.98),
    "one degree back": (1, -0.017, 0.017, 1),
    "no matrix": (0, 0, 0, 0),
}


@dataclass
class Case:
    """One encoding.

    Args:
        container: FFmpeg's name of the container.
        codec: Name of the encoder.
        pixels: Pixel format.
        options: Of `encoded`.
        rate: Frames per second, stated and expected.
        shows: Parts that an edit list shows, as (first frame, number of frames).
        turn: Display matrix.
        size: (height, width) of what is shown.
        stored: (height, width) of what is stored.
        filters: What the ffmpeg command must be told to do the same.
        before: Options of the ffmpeg command for its input.
    """

    container: str
    codec: str
    pixels: str
    options: dict = field(default_factory=dict)
    rate: Fraction | int = 25
    shows: tuple = ()
    turn: tuple | None = None
    size: tuple[int, int] = (32, 48)
    stored: tuple[int, int] = (32, 48)
    filters: str = ""
    before: tuple[str, ...] = ()

    def numbers(self):
        return [first + number for first, count in self.shows or [(0, COUNT)] for number in range(count)]

    def content(self):
        frames = barcoded(COUNT, *self.stored)
        if self.turn is not None:
            frames = unturned(self.turn)
        content = encoded(self.container, self.codec, self.pixels, frames, rate=self.rate, **self.options)
        if self.shows:
            content = with_edits(content, *self.shows, rate=self.rate)
        return content if self.turn is None else with_matrix(content, *self.turn)


def unturned(turn):
    """The frames that are to be stored so that the upright ones are shown."""
    placed = nearest_orientation([*turn[:2], 0, *turn[2:], 0, 0, 0, 1])
    frames = barcoded(COUNT)
    if placed.upside_down:
        frames = frames[:, ::-1]
    if placed.left_right:
        frames = frames[:, :, ::-1]
    return frames.transpose(0, 2, 1, 3) if placed.swapped else frames


def mp4(**others):
    return Case("mp4", "libx264", "yuv420p", options=H264, **others)


CASES = {
    "phone, mp4 with B-frames": mp4(),
    "camera, 4:2:2 in 10 bits": Case("mp4", "libx264", "yuv422p10le", H264),
    "screen recording, 4:4:4": Case("mp4", "libx264", "yuv444p", H264),
    "grey camera": Case("mp4", "libx264", "gray", H264),
    "full range": Case("mp4", "libx264", "yuvj420p", H264),
    "HEVC": Case("mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}, stored=(64, 96), size=(64, 96)),
    "HEVC in 10 bits": Case(
        "mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}, stored=(64, 96), size=(64, 96)
    ),
    "AV1": Case(
        "mp4", "libsvtav1", "yuv420p", {"preset": "11", "svtav1-params": "lp=1"}, stored=(64, 96), size=(64, 96)
    ),
    "old camera, MPEG-4 with B-frames": Case("mp4", "mpeg4", "yuv420p", {"b": "4M", "bf": "2"}),
    "fragments": Case("mp4", "libx264", "yuv420p", {**H264, "settings": {"movflags": "frag_keyframe+empty_moov"}}),
    "fragments from a pipe": Case(
        "mp4", "libx264", "yuv420p", {**H264, "piped": True, "settings": {"movflags": "frag_keyframe+empty_moov"}}
    ),
    "NTSC rate": mp4(rate=Fraction(30000, 1001)),
    "high speed": mp4(rate=200),
    "higher speed": mp4(rate=1000),
    "variable rate": Case(
        "mp4", "libx264", "yuv420p", {**H264, "times": [0, 30, 90, 120, 180, 290, 300, 330, 400, 420, 460, 500]}, 22
    ),
    **{f"turned: {name}": mp4(turn=turn) for name, turn in TURNS.items()},
    "trimmed at the start": mp4(shows=((5, 7),)),
    "trimmed at the end": mp4(shows=((0, 7),)),
    "trimmed at both ends, no B-frames": Case("mp4", "libx264", "yuv420p", {**H264, "bf": "0"}, shows=((3, 6),)),
    "the middle cut out": mp4(shows=((1, 3), (7, 4))),
    "shown twice": mp4(shows=((2, 3), (2, 3))),
    "trimmed and mirrored": mp4(shows=((4, 6),), turn=TURNS["mirrored"]),
    "ProRes": Case("mov", "prores_ks", "yuv422p10le"),
    "QuickTime animation": Case("mov", "qtrle", "rgb24"),
    "PNG in QuickTime": Case("mov", "png", "rgb24"),
    "DNxHR": Case("mov", "dnxhd", "yuv422p", {"profile": "dnxhr_sq"}, stored=(128, 256), size=(128, 256)),
    "AVI, Motion JPEG": Case("avi", "mjpeg", "yuvj422p", {"b": "8M"}),
    "AVI, MPEG-4 with B-frames": Case("avi", "mpeg4", "yuv420p", {"b": "4M", "bf": "2"}),
    "AVI, uncompressed": Case("avi", "rawvideo", "bgr24"),
    "AVI, HuffYUV": Case("avi", "huffyuv", "yuv422p"),
    "AVI, Ut Video": Case("avi", "utvideo", "gbrp"),
    "Matroska from a pipe": Case("matroska", "libx264", "yuv420p", {**H264, "piped": True}),
    "Matroska, FFV1 in 16 bits": Case("matroska", "ffv1", "yuv444p16le"),
    "browser, VP8": Case("webm", "libvpx", "yuv420p", {"b": "2M", "crf": "4"}),
    "browser, VP9": Case("webm", "libvpx-vp9", "yuv420p", {"crf": "10", "cpu-used": "8"}),
    "camcorder": Case("mpegts", "libx264", "yuv420p", H264, rate=50),
    "DVD": Case("vob", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
    "Windows Media": Case("asf", "wmv2", "yuv420p", {"b": "4M"}),
    "Flash": Case("flv", "libx264", "yuv420p", H264),
    "old Flash": Case("flv", "flv", "yuv420p", {"b": "4M"}),
    "old phone": Case("3gp", "mpeg4", "yuv420p", {"b": "4M"}),
    "Ogg": Case("ogg", "libvpx", "yuv420p", {"b": "2M", "crf": "4"}),
    "broadcast": Case("mxf", "mpeg2video", "yuv420p", {"b": "4M", "bf": "2"}),
    "animation": Case("gif", "gif", "rgb8"),
    "wide pixels": Case(
        "mp4", "libx264", "yuv420p", {**H264, "ratio": Fraction(4, 3)}, size=(32, 64), filters="scale=64:32"
    ),
    "high pixels": Case(
        "matroska", "mpeg2video", "yuv420p", {"b": "4M", "ratio": Fraction(8, 9)}, size=(36, 48), filters="scale=48:36"
    ),
}
CASES["turned: ten degrees"].before = CASES["turned: one degree back"].before = ("-noautorotate",)
CASES["turned: no matrix"].before = ("-noautorotate",)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodings")
    paths = {name: folder / f"{number}" for number, name in enumerate(CASES)}
    for name, case in CASES.items():
        paths[name].write_bytes(case.content())
    return paths


@pytest.fixture(scope="module")
def theirs(files, tmp_path_factory):
    """What the ffmpeg command makes of the files, in one run."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the ffmpeg command is not installed")
    folder = tmp_path_factory.mktemp("ffmpeg")
    command = ["ffmpeg", "-v", "error", "-nostdin"]
    for name, path in files.items():
        command += ["-threads", "1", *CASES[name].before, "-i", str(path)]
    for number, case in enumerate(CASES.values()):
        command += ["-map", f"{number}:v", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-vf", case.filters] * bool(case.filters) + [str(folder / f"{number}.rgb")]
    subprocess.run(command, check=True, timeout=120)
    return {name: folder / f"{number}.rgb" for number, name in enumerate(CASES)}


def test_there_are_enough_of_them():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_the_frames_are_those_that_are_shown(name, files):
    case = CASES[name]
    clip = open_clip(files[name])
    frames = np.stack(list(clip.scan()))
    assert frames.shape[1:3] == case.size
    assert read_barcodes(frames) == case.numbers()
    assert clip.metadata.fps == pytest.approx(float(case.rate), rel=0.02)
    # Upright: dark at the top left, bright at the bottom right.
    height = case.size[0]
    shade = frames[:, height // 2 :, :, 1].mean(0)
    assert shade[-4:, -4:].mean() - shade[-4:, :4].mean() > 60
    assert shade[-4:, -4:].mean() - shade[:4, -4:].mean() > 15
    last = len(frames) - 1
    np.testing.assert_array_equal(clip.frames([last, 1, 1]), frames[[last, 1, 1]])


@pytest.mark.parametrize("name", CASES)
def test_the_ffmpeg_command_shows_the_same(name, files, theirs):
    frames = np.stack(list(open_clip(files[name]).scan()))
    shown = np.fromfile(theirs[name], np.uint8).reshape(-1, *CASES[name].size, 3)
    assert len(shown) == len(frames)
    # Conversions to RGB differ by rounding from one version of FFmpeg to the next.
    assert np.abs(frames.astype(int) - shown).mean() < 2


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_suffix_of_a_video_belongs_to_an_encoding_that_is_read(suffix):
    containers = {case.container for case in CASES.values()}
    known = {".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts"}
    known |= {".mpg": "vob", ".mpeg": "vob", ".wmv": "asf", ".asf": "asf", ".ogv": "ogg"}
    assert known.get(suffix, suffix[1:]) in containers
