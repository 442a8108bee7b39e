"""`deft watch` from the command line. Its errors about files are in test_cli.py."""

import json
import sys

import numpy as np
import pytest

from deft_llm import live, live_frames
from deft_llm.cli import main
from deft_llm.cli_watch import _Printer
from deft_llm.exit_codes import BROKE_OFF, DONE, INTERRUPTED, REFUSED
from deft_llm.live import Report


class Capture:
    """A camera that gives some frames, and then none."""

    def __init__(self, count):
        self.left = count

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((120, 120, 3), np.uint8)

    def release(self):
        pass


def test_a_video_is_replayed_and_nothing_is_stored(brow_video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["watch", str(brow_video), "--face-source", "canonical", "--every", "0.05"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert "the face at rest is not known yet" in lines[0]
    assert lines[-1].startswith("0.2 s watched: ")
    assert lines[-1].endswith("Nothing was stored.")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_lines_of_json(brow_video, capsys):
    assert main(["watch", str(brow_video), "--face-source", "canonical", "--json"]) == DONE
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert rows[0]["status"] == "not_measurable"
    assert sum(row["frames"] + row["dropped"] for row in rows) == 38
    assert "Nothing was stored." in told.err


def test_a_camera_that_is_unplugged_ends_it(monkeypatch, capsys):
    monkeypatch.setattr(live_frames, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(
        live_frames, "open_source", lambda source, fps: live_frames.Camera(f"Camera {source}", Capture(3))
    )
    assert main(["watch", "0", "--face-source", "canonical"]) == BROKE_OFF
    told = capsys.readouterr()
    assert told.err.strip() == (
        "error: Camera 0 gives no more frames. Was it unplugged or switched off, or did the stream end?"
    )
    assert "watched" in told.out


def test_a_camera_needs_a_face_finder(monkeypatch, capsys):
    asked = []

    def watcher(source):
        asked.append(source)
        raise ValueError("enough")

    monkeypatch.setattr(live_frames, "open_source", lambda source, fps: live_frames.Camera(source, Capture(0)))
    monkeypatch.setattr(live, "FaceWatcher", watcher)
    assert main(["watch", "0"]) == REFUSED
    assert main(["watch", "0", "--face-source", "cropped"]) == REFUSED
    assert asked == ["yunet", "cropped"]


def test_the_keyboard_ends_it(brow_video, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        yield Report(0.1, 3, 0, None, None, "no face was found")
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "reports", interrupted)
    assert main(["watch", str(brow_video), "--face-source", "canonical"]) == INTERRUPTED
    told = capsys.readouterr()
    assert told.err == "error: interrupted.\n"
    assert "0.1 s watched: 3 frames measured" in told.out


def report(time, rate=30.0, measured=30.0, reason="no face was found"):
    return Report(time, 3, 0, rate, measured, reason)


def test_the_frame_rate_is_said_once_and_when_it_changes(capsys):
    printer = _Printer("Camera 0", as_json=False)
    for item in (report(0.1, None, None), report(1.1), report(1.2), report(3.0, 200.0, 90.0)):
        printer.add(item)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0.10", "Camera", "1.10", "1.20", "Camera", "3.00"]
    assert "too few for micro-expressions" in lines[1]
    assert lines[4].startswith("Camera 0: 200 frames per second come, and some are dropped. 90 frames per second see")


def test_in_a_terminal_what_is_said_again_takes_the_place_of_the_line_before(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    printer = _Printer("Camera 0", as_json=False)
    for item in (report(0.1, None, None), report(0.2, None, None), report(0.3, None, None, "the face is hidden")):
        printer.add(item)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert told.count("\r") == 1
    assert told.index("0.20 s") < told.index("\n") < told.index("0.30 s")


@pytest.mark.parametrize("word", ["0", "-1"])
def test_seconds_must_be_some(word, brow_video, capsys):
    assert main(["watch", str(brow_video), "--seconds", word]) == REFUSED
    assert "--seconds" in capsys.readouterr().err
