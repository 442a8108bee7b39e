"""How fast is the Space, does it answer a crowd, and does it keep its memory?

    python benchmarks/speed/space_load.py [--model build/demo/deft-tiny] [--requests 200] [--crowd 20]

Starts `space/app.py` as it runs on the Hub, in a process that cannot import this package, and asks it over HTTP with
gradio_client: a visitor's first answer once the model is loaded (upload included), a crowd that uploads different
clips at the same moment, and a row of requests with the server's resident memory before, between and after. Clips are
one second at 200 frames a second, rendered. Without `--model` an untrained one of recipes/tiny.yaml's size is used,
whose answers are as long as their form or `--max-new-tokens` lets them be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file
from rich.console import Console
from rich.table import Table

from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip
from deft_llm.hub_datasets.synthetic.faces import render_face

ROOT = Path(__file__).parents[2]
FRAMES = 200  # one second
UNITS = ("AU4", "AU12", "AU2", "AU15", "AU9")


def write_clips(folder: Path, count: int) -> list[Path]:
    """Different clips, as many visitors would have."""
    paths = []
    for index in range(count):
        rng = np.random.default_rng(index)
        shown = Expression((UnitRequest(UNITS[index % len(UNITS)], "both", 0.015),), onset=60, apex=85, offset=120)
        clip = render_clip(render_face(rng, size=160), [shown], rng, count=FRAMES)
        paths.append(folder / f"clip-{index}.mp4")
        paths[-1].write_bytes(encode_mp4(clip))
    return paths


def untrained_model(folder: Path) -> Path:
    import yaml
    from datasets import load_dataset

    from deft_llm.training.arguments import ModelArguments
    from deft_llm.training.parts import build_model

    command = [sys.executable, "-m", "deft_llm.cli", "data", "synthesize", "--output-dir", str(folder / "data")]
    subprocess.run([*command, "--clips", "72"], check=True, stdout=subprocess.DEVNULL)
    recipe = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
    names = ModelArguments.__dataclass_fields__
    arguments = ModelArguments(**{name: value for name, value in recipe.items() if name in names})
    for part in build_model(arguments, load_dataset(str(folder / "data"))["train"]):
        part.save_pretrained(folder / "model")
    return folder / "model"


def start(model: Path, place: Path, port: int, max_new_tokens: int) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(place / "uploads"),
        "DEFT_MODEL": str(model.resolve()),
        "DEFT_FACE_FINDER": "cascade",
        "DEFT_MAX_NEW_TOKENS": str(max_new_tokens),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-S", str(ROOT / "space" / "app.py")],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def connect(url: str) -> Client:
    deadline = time.monotonic() + 120
    while True:
        try:
            return Client(url, verbose=False)
        # httpx's and gradio_client's own: the server is not up yet.
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def resident(process: psutil.Process) -> float:
    """MB of the server and the decoding processes it keeps."""
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a trained model's folder")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--crowd", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--port", type=int, default=7979)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        clips = write_clips(place, arguments.crowd)
        model = arguments.model or untrained_model(place)
        server = start(model, place, arguments.port, arguments.max_new_tokens)
        try:
            url = f"http://127.0.0.1:{arguments.port}"
            client, process = connect(url), psutil.Process(server.pid)

            def ask(one: Client, clip: Path) -> float:
                began = time.perf_counter()
                report = one.predict(handle_file(str(clip)), "find", api_name="/explain")
                assert report["key_frames"]["apex"] > 0
                return time.perf_counter() - began

            began = time.perf_counter()
            ask(client, clips[0])  # waits until the model, which is loaded when the page comes up, is there
            waking = time.perf_counter() - began
            first = ask(connect(url), clips[1])
            single = [ask(client, clip) for clip in clips[:5]]

            clients = [connect(url) for _ in clips]
            began = time.perf_counter()
            with ThreadPoolExecutor(len(clips)) as pool:
                waits = list(pool.map(ask, clients, clips))
            crowd = time.perf_counter() - began

            memory = []
            for number in range(arguments.requests):
                ask(client, clips[number % len(clips)])
                if (number + 1) % max(arguments.requests // 8, 1) == 0:
                    memory.append((number + 1, resident(process)))
            left = [path for path in (place / "uploads").rglob("*.mp4") if path.is_file()]
        finally:
            server.terminate()
            server.wait(20)

    table = Table(title=f"The Space on {os.cpu_count()} cores, clips of one second", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_row("answer to a visitor while the model is being loaded", f"{waking:.2f} s")
    table.add_row("first answer to a visitor after that, upload included", f"{first:.2f} s")
    table.add_row("later answers, median of five", f"{statistics.median(single):.2f} s")
    table.add_row(f"{len(clips)} uploads at once: answered", f"{len(waits)} of {len(clips)}")
    table.add_row("… the last after", f"{crowd:.1f} s")
    for number, megabytes in memory:
        table.add_row(f"resident memory after {number} more requests", f"{megabytes:.0f} MB")
    table.add_row("uploaded clips left on the disk", str(len(left)))
    console.print(table)


if __name__ == "__main__":
    main()
