"""Every miniature built by the command line, a rendered dataset, and a chat model's server for rewriting answers."""

import io
import json
import threading
import time
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from deft_llm.cli import main
from deft_llm.hub_datasets.sources.catalogue import SOURCES
from deft_llm.hub_datasets.synthetic.dataset import build as build_synthetic
from tests.hub_datasets.miniatures import MINIATURES
from tests.processes import InThisProcess


@pytest.fixture(scope="session")
def everything(made_once):
    """Every miniature, built in one go by the command line: (exit code, what was printed, roots, dataset folder)."""

    def build(place):
        roots = {name: write(place / "copies" / name) for name, write in MINIATURES.items()}
        sources = [f"{name}={root}" for name, root in roots.items()]
        licensed = [name for name in roots if name in SOURCES]
        options = "--face-source cropped --split fixed --shard-size 8 --features-only".split()
        words = ["--source", *sources, "--accept-licence", *licensed, "--output-dir", str(place / "uni-mer")]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as told:
            patch.setattr("deft_llm.hub_datasets.build.executors.ProcessPoolExecutor", InThisProcess)
            code = main(["data", "build", *words, *options])
        return code, told.getvalue(), roots, place / "uni-mer"

    return made_once("laboratory", build)


@pytest.fixture(scope="session")
def manifest(everything):
    return json.loads((everything[3] / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def rendered(made_once):
    def build(place):
        out = place / "data"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("deft_llm.hub_datasets.synthetic.dataset.ProcessPoolExecutor", InThisProcess)
            build_synthetic(
                out=out,
                clips=2,
                clips_per_face=1,
                test_share=0.5,
                preset="easy",
                seed=4,
                workers=1,
                conventions=("synthetic",),
                corrupt=0.0,
                num_frames=8,
            )
        return out

    return made_once("rendered-dataset", build)


@pytest.fixture
def endpoint(monkeypatch):
    """(address, requests, settings) of a server that speaks OpenAI's chat completions; `reply` is a text, or what
    makes one of the prompt."""
    requests, settings = [], {"reply": "", "status": 200, "delay": 0.0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers.get("Authorization"), body))
            time.sleep(settings["delay"])
            reply = settings["reply"]
            text = reply(body["messages"][-1]["content"]) if callable(reply) else reply
            message = {"role": "assistant", "content": text}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
            data = json.dumps(reply).encode()
            try:
                self.send_response(settings["status"])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:
                assert settings["delay"]  # the client has given up, as it should

        def log_message(self, *arguments):
            pass

    # The client refuses every address in offline mode, the loopback too.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_person")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests, settings
    server.shutdown()
    server.server_close()
    thread.join()
