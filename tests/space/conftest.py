"""The Space as it runs: a process of its own, which cannot import deft_llm, and a browser in front of it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deft_llm.hub_datasets.synthetic.clips import Disturbances, Expression, UnitRequest, encode_frames, render_clip

SPACE = Path(__file__).parents[2] / "space"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "NO BROWSER: the page of the Space was not tested. Install one (Debian: apt-get install chromium) and run again."
)


@dataclass
class Server:
    url: str
    uploads: Path
    log: Path
    process: subprocess.Popen

    def left_behind(self) -> list[str]:
        """Files of visitors on the disk; Gradio's own copies of the examples' pictures are not theirs."""
        found = [path for path in self.uploads.rglob("*") if path.is_file()]
        return [str(path) for path in found if not path.name.startswith("face-")]


@contextmanager
def serving(place: Path, **variables: str):
    """`python space/app.py` with these variables; ends the process afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.mkdir(parents=True, exist_ok=True)
    packages = os.pathsep.join(path for path in sys.path if Path(path).name == "site-packages")
    environment = {
        **os.environ,
        "PYTHONPATH": packages,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(place / "uploads"),
        "DEFT_FACE_FINDER": "cascade",
        "DEFT_MAX_NEW_TOKENS": "8",
        "OMP_NUM_THREADS": "1",
        "HF_MODULES_CACHE": str(place / "modules"),
        "no_proxy": "127.0.0.1,localhost",
        **variables,
    }
    log = place / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-S", str(SPACE / "app.py")], cwd=place, env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/config", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"The Space did not start:\n{log.read_text()[-3000:]}") from None
                time.sleep(0.3)
        yield Server(url, place / "uploads", log, process)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def server(folder, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("space"), DEFT_MODEL=str(folder)) as started:
        yield started


# --- videos longer than a clip --------------------------------------------------------------------------------------

LONG_FPS = 50


def render_long(path: Path, face, seconds: int) -> Path:
    """A video of a still face with AU4 from 3.0 to 3.4 s, AU12 from 8.0 to 8.8 s, and no face from 12.0 to 13.0 s.

    Few frames are rendered: the still face is the same sixteen frames again and again.
    """
    camera = Disturbances(noise=1.0)

    def shown(code: str, frames: int, seed: int) -> np.ndarray:
        expression = Expression((UnitRequest(code, "both", 0.02),), onset=1, apex=frames // 2, offset=frames - 2)
        return render_clip(face, [expression], np.random.default_rng(seed), count=frames, disturbances=camera).frames

    still = render_clip(face, [], np.random.default_rng(0), count=16, disturbances=camera).frames
    nothing = np.full_like(still, 128)
    parts = {150: shown("AU4", 22, 1), 400: shown("AU12", 42, 2), 600: np.resize(nothing, (50, *still.shape[1:]))}

    def frames():
        number = 0
        while number < seconds * LONG_FPS:
            part = parts.get(number, still[number % 16][None])
            yield from part
            number += len(part)

    path.write_bytes(encode_frames(frames(), LONG_FPS, 16))
    return path


@pytest.fixture(scope="session")
def long_video(face, made_once) -> Path:
    return made_once("long-video", lambda folder: render_long(folder / "meeting.mp4", face, 20))


# --- clips that are no good -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bad_clips(brow_clip, tmp_path_factory) -> dict[str, Path]:
    """Name → file, for everything that the page must refuse in words."""
    place = tmp_path_factory.mktemp("bad")
    files = {name: place / f"{name}.mp4" for name in ("text", "empty", "long", "no face", "two faces", "cut off")}
    files["text"].write_text("<b>This is a letter.</b>")
    files["empty"].write_bytes(b"")
    two_hours = (np.zeros((32, 32, 3), np.uint8) for _ in range(7200))
    files["long"].write_bytes(encode_frames(two_hours, 1, 40))
    rng = np.random.default_rng(0)
    field = cv2.resize(rng.integers(60, 200, (12, 16, 3), np.uint8), (240, 180), interpolation=cv2.INTER_CUBIC)
    files["no face"].write_bytes(encode_frames([np.roll(field, step, 1) for step in range(20)], 100, 20))
    pair = [cv2.copyMakeBorder(frame, 40, 40, 40, 40, cv2.BORDER_REPLICATE) for frame in brow_clip.frames[:20]]
    files["two faces"].write_bytes(encode_frames([np.hstack([frame, frame]) for frame in pair], 100, 12))
    whole = encode_frames(brow_clip.frames, 200, 12)
    files["cut off"].write_bytes(whole[: len(whole) // 3])
    files["picture"] = place / "picture.gif"
    Image.fromarray(brow_clip.frames[0]).save(files["picture"])
    return files


@pytest.fixture
def explanation():
    """Of a clip of 16 frames, made up."""
    from explaining import CROP, Explanation, Moved

    rng = np.random.default_rng(0)
    report = {
        "emotion": "anger",
        "coarse_emotion": "negative",
        "scores": {"anger": 0.75, "surprise": 0.25},
        "action_units": [{"code": "AU4", "name": "brow lowerer", "side": "both", "intensity": None, "score": 0.9}],
        "evidence": [{"action_unit": "AU4", "region": "inner brow", "direction": "down", "magnitude": 0.7}],
        "rationale": "The brows lower.",
        "status": "measured",
        "reason": "",
        "insufficient_motion": False,
        "parsed": True,
        "text": "",
        "warnings": [],
    }
    frames = rng.integers(0, 255, (4, CROP, CROP, 3), np.uint8)
    return Explanation(
        report=report,
        answer="Class: anger",
        frames=frames,
        indices=[2, 6, 10, 14],
        film=np.repeat(frames, 4, axis=0),
        film_indices=list(range(16)),
        fps=200.0,
        keys=(2, 10, 14),
        motion=np.sin(np.linspace(0, 3, 16)),
        region="inner brow, left side",
        flow=rng.normal(0, 0.2, (2, 32, 32)).astype(np.float32),
        units=[("AU4", "brow lowerer", 0.9), ("AU12", "lip corner puller", 0.1)],
        attention=rng.dirichlet(np.ones(64), 2).reshape(2, 8, 8).astype(np.float32),
        experts={"structure": 0.1, "dynamic texture": 0.2, "motion": 0.7},
        notes=[],
        seconds=0.5,
        moved=[Moved((0.59, 0.2, 0.06, 0.05), np.array([(0, 0), (-0.4, 0.4), (-0.8, 0.8), (0, 0)]))],
    )


# --- the browser ----------------------------------------------------------------------------------------------------


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def browser():
    path = browser_path()
    if path is None:
        # Where a browser is promised, its absence is a failure and not a skip.
        assert not os.environ.get("DEFT_REQUIRE_BROWSER"), NO_BROWSER
        pytest.skip(NO_BROWSER)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def pytest_terminal_summary(terminalreporter):
    if browser_path() is None:
        terminalreporter.section("browser", red=True, bold=True)
        terminalreporter.write_line(NO_BROWSER, red=True, bold=True)
