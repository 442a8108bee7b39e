import io
import struct

import av
import numpy as np
import pytest

from deft_llm.processing.container_ends import Ending, empty_avi_chunks, ending, frames_before_gap
from deft_llm.processing.video_reading import DamagedVideoError, NotAVideoError, VideoReadError, open_clip
from tests.processing.barcodes import barcoded, encoded, read_barcodes

COUNT = 24
H264 = {"bf": "2", "g": "12", "crf": "18"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
# name: container, codec, pixel format, options, whether the end of the file is stated
CONTAINERS = {
    "mp4": ("mp4", "libx264", "yuv420p", H264, True),
    "mp4 in fragments": ("mp4", "libx264", "yuv420p", {**H264, "settings": FRAGMENTS}, False),
    "mov": ("mov", "libx264", "yuv420p", H264, True),
    "3gp": ("3gp", "mpeg4", "yuv420p", {"b": "2M"}, True),
    "avi": ("avi", "mpeg4", "yuv420p", {"b": "2M", "bf": "2"}, True),
    "matroska": ("matroska", "libx264", "yuv420p", H264, True),
    "matroska from a pipe": ("matroska", "libx264", "yuv420p", {**H264, "piped": True}, False),
    "webm": ("webm", "libvpx", "yuv420p", {"b": "1M"}, True),
    "webm from a pipe": ("webm", "libvpx", "yuv420p", {"b": "1M", "piped": True}, False),
    "flv": ("flv", "libx264", "yuv420p", H264, True),
    "flv from a pipe": ("flv", "libx264", "yuv420p", {**H264, "piped": True}, True),
    "flv without B-frames": ("flv", "flv", "yuv420p", {"b": "1M"}, True),
    "ogg": ("ogg", "libvpx", "yuv420p", {"b": "1M"}, True),
    "ogg from a pipe": ("ogg", "libvpx", "yuv420p", {"b": "1M", "piped": True}, True),
    "wmv": ("asf", "wmv2", "yuv420p", {"b": "2M"}, True),
    "mxf": ("mxf", "mpeg2video", "yuv420p", {"bf": "2", "b": "2M"}, True),
    "gif": ("gif", "gif", "rgb8", {}, True),
    "ts": ("mpegts", "libx264", "yuv420p", H264, False),
    "mpg": ("vob", "mpeg2video", "yuv420p", {"bf": "2", "b": "2M"}, False),
    "y4m": ("yuv4mpegpipe", "rawvideo", "yuv420p", {}, False),
    "ivf": ("ivf", "libvpx", "yuv420p", {"b": "1M"}, True),
    "nut": ("nut", "libx264", "yuv420p", H264, False),
    "JPEGs": ("mjpeg", "mjpeg", "yuvj420p", {"b": "4M"}, False),
    "H.264": ("h264", "libx264", "yuv420p", H264, False),
    "MPEG-2": ("mpeg2video", "mpeg2video", "yuv420p", {"bf": "2", "b": "2M"}, False),
}


@pytest.fixture(scope="module")
def files():
    return {
        name: encoded(container, codec, pixels, barcoded(COUNT), **options)
        for name, (container, codec, pixels, options, _) in CONTAINERS.items()
    }


def numbers_in(content):
    """The numbers of the frames, or None for a refusal."""
    try:
        return read_barcodes(list(open_clip(content).scan()))
    except VideoReadError:
        return None


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_cut_off_is_not_read_as_whole(name, files):
    content = files[name]
    assert numbers_in(content) == list(range(COUNT))
    refused = 0
    for part in np.linspace(0.1, 0.98, 9):
        found = numbers_in(content[: int(part * len(content))])
        refused += found is None
        if found is not None and CONTAINERS[name][-1]:  # what is missing then stands behind the frames
            assert found == list(range(COUNT)), part
        elif found is not None:
            sure = found[:-3] if name == "H.264" else found  # it has no time stamps, which is said
            assert sure == list(range(len(sure))), part
    assert refused >= 5


def ends_of_frames(content, container, after=0):
    """For every frame in the order of storage: where it ends in the file, and its number."""
    with av.open(io.BytesIO(content), format=container) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        order = np.argsort([packet.pts for packet in packets])
    numbers = np.empty(len(order), int)
    numbers[order] = np.arange(len(order))
    found, position = [], 0
    for packet in packets:
        position = content.index(bytes(packet), position) + packet.size + after
        found.append(position)
    return found, numbers


@pytest.mark.parametrize(("name", "container", "after"), [("matroska from a pipe", "matroska", 0), ("flv", "flv", 4)])
def test_a_file_cut_between_frames_is_refused_if_frames_are_missing_among_the_last(name, container, after, files):
    content = files[name]
    if container == "flv":  # without the length that is stated, as after a recording that broke off
        at = content.index(b"filesize\0") + 9
        content = content[:at] + bytes(8) + content[at + 8 :]
    else:  # the cluster's length, as of programs that do not know it
        cluster = content.index(b"\x1f\x43\xb6\x75") + 4
        while cluster >= 4:
            length = 9 - content[cluster].bit_length()
            unknown = ((1 << 7 * length + 1) - 1).to_bytes(length, "big")
            content = content[:cluster] + unknown + content[cluster + length :]
            cluster = content.find(b"\x1f\x43\xb6\x75", cluster) + 4
    ends, numbers = ends_of_frames(content, container, after)
    gaps = 0
    for stored, end in enumerate(ends[:-1], 1):
        kept = sorted(numbers[:stored].tolist())
        whole = kept == list(range(stored))
        gaps += not whole
        assert numbers_in(content[:end]) == (kept if whole else None), stored
    assert gaps >= 8


def test_frames_that_a_capture_program_dropped_are_not_missing(tmp_path):
    content = encoded("avi", "mjpeg", "yuvj420p", barcoded(COUNT), b="4M")
    for number in (23, 8, 7):  # chunks without content; the sizes of the lists are not kept
        at = content.index(b"movi")
        for _ in range(number + 1):
            at = content.index(b"00dc", at + 1)
        (size,) = struct.unpack_from("<I", content, at + 4)
        content = content[: at + 4] + bytes(4) + content[at + 8 + size + size % 2 :]
    # The index would still point at what was there.
    content = content[: content.index(b"idx1")]
    path = tmp_path / "dropped.avi"
    path.write_bytes(content)
    assert empty_avi_chunks(str(path)) == 3
    assert read_barcodes(list(open_clip(path).scan())) == [n for n in range(COUNT) if n not in (7, 8, 23)]
    path.write_bytes(content[: content.rindex(b"00dc")])
    with pytest.raises(DamagedVideoError, match="cut off: it lists 24 frames and contains 23"):
        open_clip(path)


def test_a_gap_is_looked_for_where_a_cut_can_have_left_one():
    whole = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    assert frames_before_gap(whole, 1, 1) is None
    assert frames_before_gap(whole[:-1], 1, 1) == 8
    assert frames_before_gap(whole[:-2], 1, 1) == 7
    assert frames_before_gap([0, 3], 1, 1) == 1
    # Without reordering, what is lost is shown after what is left.
    assert frames_before_gap([0, 1, 2, 5], 0, 1) is None
    # A pause long before the end was there before the cut.
    assert frames_before_gap([0, 1, 2, 9, 12, 10, 11, 15, 13, 14, 18, 16, 17, *range(19, 40)], 1, 1) is None
    # Where the time between frames varies, it tells nothing.
    uneven = np.cumsum(np.tile([10, 40, 20], 8)).tolist()
    assert frames_before_gap([*uneven[:-2], uneven[-1]], 1, None) is None


@pytest.mark.parametrize("name", ["mp4", "matroska", "flv", "ogg", "wmv", "mxf", "gif"])
def test_endings(name, files, tmp_path):
    path, container = tmp_path / "clip", CONTAINERS[name][0]
    path.write_bytes(files[name])
    assert ending(str(path), container) is Ending.WHOLE
    path.write_bytes(files[name] + b"\0" * 16 if name != "mxf" else files[name])
    assert ending(str(path), container) is not Ending.CUT
    path.write_bytes(files[name][: len(files[name]) // 2])
    assert ending(str(path), container) is Ending.CUT


def test_a_file_that_is_not_of_its_kind_is_not_called_cut(tmp_path):
    path = tmp_path / "clip"
    path.write_bytes(b"\0" * 64)
    for container in ("matroska,webm", "flv", "ogg", "asf", "mov,mp4", "something"):
        assert ending(str(path), container) is Ending.UNKNOWN
    with pytest.raises(NotAVideoError):
        open_clip(path)
