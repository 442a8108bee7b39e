"""The endpoint `/explain` as programs use it, and what is left on the disk."""

import json
from concurrent.futures import ThreadPoolExecutor

import gradio
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard

from tests.loopback_hub import OWNER_TOKEN, READER_TOKEN, REVOKED_TOKEN, LoopbackHub
from tests.space.conftest import SPACE, serving


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False)


def explain(client, path, face="find"):
    return client.predict(handle_file(str(path)), face, api_name="/explain")


def test_a_clip_and_its_report(client, brow_video, brow_clip, processor):
    report = explain(client, brow_video, "crop")
    assert set(report["scores"]) == set(processor.emotion_labels)
    assert set(report["action_unit_scores"]) == set(processor.action_units)
    assert sum(report["experts"].values()) == pytest.approx(1, abs=1e-3)
    assert abs(report["key_frames"]["apex"] - brow_clip.expression.apex) <= 4
    assert report["key_frames"]["fps"] == pytest.approx(brow_clip.fps)
    assert len(report["frames_indices"]) == processor.video_processor.num_frames
    json.dumps(report)


def test_the_face_is_found(client, brow_video):
    assert explain(client, brow_video)["key_frames"]["apex"] > 0


def test_a_still_face_is_no_expression(client, still_video):
    report = explain(client, still_video, "crop")
    assert report["insufficient_motion"]
    assert report["emotion"] is None


def test_there_is_one_endpoint_for_programs(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/explain"]
    assert [parameter["parameter_name"] for parameter in named["/explain"]["parameters"]] == ["video", "face"]


BAD = {
    "text": (415, "is not a video that can be read"),
    "empty": (415, "is empty"),
    "cut off": (415, "is not a video that can be read|damaged or cut off"),
    "long": (413, "This video is 2 h 0 min long"),
    "picture": (422, "a single picture; motion needs a clip"),
    "no face": (422, "No face was found in the first frame"),
    "two faces": (422, "2 faces were found"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_clips_are_refused_in_words_and_with_a_status(client, server, bad_clips, brow_video, kind):
    status, words = BAD[kind]
    with pytest.raises(AppError, match=words) as caught:
        explain(client, bad_clips[kind])
    assert caught.value.title == f"Status {status}"
    assert str(server.uploads) not in str(caught.value)
    assert server.left_behind() == []
    assert explain(client, brow_video, "crop")["scores"]


def call(server, path, face="crop"):
    """(event, data) over plain HTTP: `gradio_client` would upload a file of that name instead of naming it."""
    video = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{server.url}/gradio_api/call/explain", json={"data": [video, face]}).json()
    told = httpx.get(f"{server.url}/gradio_api/call/explain/{asked['event_id']}", timeout=60).text
    lines = [line for line in told.splitlines() if line and not line.startswith("event: heartbeat")]
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


@pytest.mark.parametrize("name", ["../../x.mp4", "<img src=x onerror=alert(1)>.mp4", "a\nb.mp4", "ü" * 120 + ".mp4"])
def test_names_of_files_do_no_harm(server, brow_video, name):
    files = {"files": (name, brow_video.read_bytes(), "video/mp4")}
    answer = httpx.post(f"{server.url}/gradio_api/upload", files=files)
    assert answer.status_code == 200
    path = answer.json()[0]
    assert path.startswith(str(server.uploads))
    assert ".." not in path
    assert not (server.uploads.parent / "x.mp4").exists()
    event, data = call(server, path)
    assert event == "complete"
    assert data[0]["scores"]
    assert server.left_behind() == []


def test_files_of_the_server_are_neither_read_nor_deleted(server, folder):
    for path in ("/etc/hostname", str(folder / "config.json"), str(SPACE / "app.py")):
        event, data = call(server, path)
        assert event == "error", data
    assert (folder / "config.json").exists()
    assert (SPACE / "app.py").exists()


def test_a_file_over_the_limit_is_not_taken(server):
    answer = httpx.post(
        f"{server.url}/gradio_api/upload", files={"files": ("big.mp4", bytes(101 * 2**20))}, timeout=60
    )
    assert answer.status_code == 413
    assert server.left_behind() == []


def test_no_clip_at_all(client):
    with pytest.raises(AppError, match="There is not a clip yet") as caught:
        client.predict(None, "find", api_name="/explain")
    assert caught.value.title == "Status 400"


def test_identical_uploads_at_once_are_all_answered_and_deleted(server, brow_video):
    """Gradio keeps them as one file: the first answer must not take it from the others."""
    with ThreadPoolExecutor(5) as pool:
        clients = list(pool.map(lambda _: Client(server.url, verbose=False), range(5)))
        reports = list(pool.map(lambda one: explain(one, brow_video, "crop"), clients))
    assert all(report["scores"] == reports[0]["scores"] for report in reports)
    assert server.left_behind() == []


def test_the_examples_are_explained(client):
    for path in sorted((SPACE / "examples").glob("*.mp4")):
        report = explain(client, path, "crop")
        assert report["insufficient_motion"] == (path.stem == "face-4"), path


# --- models that cannot be loaded -----------------------------------------------------------------------------------


PRIVATE = "org/private"
LOAD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from explaining import ClipProblem, Explainer
told = []
for repository, token in json.loads(sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    try:
        Explainer(repository).load()
    except ClipProblem as problem:
        told.append([problem.status, str(problem)])
Path(sys.argv[3]).write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as opened:
        opened.create("model", PRIVATE, True)
        yield opened


def test_a_model_that_cannot_be_loaded_is_said_to_be_so(hub, without_package, tmp_path):
    cases = {
        ("org/nowhere", OWNER_TOKEN): "there is no such model, or it is private",
        (PRIVATE, READER_TOKEN): "there is no such model, or it is private",
        (PRIVATE, REVOKED_TOKEN): "it may have been revoked",
        (PRIVATE, OWNER_TOKEN): "its files do not fit this program",
    }
    arguments = ["script", str(SPACE), json.dumps(list(cases)), str(tmp_path / "told.json")]
    variables = hub.environment(HF_HOME=str(tmp_path / "home"))
    without_package(f"import sys; sys.argv = {arguments!r}\n" + LOAD, **variables)
    told = json.loads((tmp_path / "told.json").read_text())
    for ((repository, _), words), (status, message) in zip(cases.items(), told, strict=True):
        assert status == 503
        assert message.startswith(f"The model {repository} cannot be loaded: ")
        assert words in message
        assert "hf_" not in message


def test_programs_are_told_that_the_model_cannot_be_loaded(hub, brow_video, tmp_path):
    variables = hub.environment(REVOKED_TOKEN, HF_HOME=str(tmp_path / "home"))
    with serving(tmp_path / "space", DEFT_MODEL=PRIVATE, **variables) as server:
        client = Client(server.url, verbose=False)
        with pytest.raises(AppError, match="it may have been revoked") as caught:
            explain(client, brow_video, "crop")
        assert caught.value.title == "Status 503"
        assert "hf_" not in str(caught.value)
        assert server.left_behind() == []


def test_the_space_has_what_the_hub_wants():
    """Front matter that a Space is started by, and requirements whose versions agree with it."""
    card = SpaceCard.load(SPACE / "README.md")
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "apache-2.0")
    assert data["sdk_version"] == gradio.__version__
    wanted = (SPACE / "requirements.txt").read_text()
    assert "deft" not in wanted.partition("\n")[2]
