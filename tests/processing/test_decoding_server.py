import pytest

from deft_llm.processing import decoding_process
from deft_llm.processing.decoding_server import SCRIPT
from deft_llm.processing.video_reading import (
    DamagedVideoError,
    NotAVideoError,
    VideoReadError,
    VideoTooLargeError,
    open_clip,
)
from tests.processing.barcodes import barcoded, encoded


@pytest.mark.parametrize("isolate", [True, False])
def test_errors_keep_their_class_on_the_way(isolate, tmp_path):
    content = encoded("mp4", "libx264", "yuv420p", barcoded(8), crf="10")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "cut.gif").write_bytes(encoded("gif", "gif", "rgb8", barcoded(8))[:-400])
    huge = encoded("yuv4mpegpipe", "rawvideo", "yuv420p", barcoded(2)).replace(b"W48 H32", b"W9000 H9000")
    (tmp_path / "huge.y4m").write_bytes(huge)
    for name, kind in (("text.mp4", NotAVideoError), ("cut.gif", DamagedVideoError), ("huge.y4m", VideoTooLargeError)):
        with pytest.raises(VideoReadError, match=name) as raised:
            open_clip(tmp_path / name, isolate=isolate)
        assert type(raised.value) is kind, name
    assert len(open_clip(content, isolate=isolate)) == 8


def test_the_helper_finds_its_modules_beside_the_server():
    assert decoding_process._SERVER[1] == "decoding_server"
    assert SCRIPT.startswith(decoding_process._SERVER[0])
