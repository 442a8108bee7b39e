"""What the tests share: a few rendered clips, a dataset of them, and an untrained tiny model with its processor.

What is heavy is imported where it is used: the process that hands the tests out to the others needs none of it.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from filelock import FileLock

if TYPE_CHECKING:
    from datasets import Dataset

    from deft_llm.hub_datasets.synthetic.clips import Clip
    from deft_llm.hub_datasets.synthetic.faces import Face

# Before any Hugging Face library reads them: the tests never leave this machine, and neither they nor the processes
# they start find a model's code, a data set or a token that somebody's home folder holds.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="deft-tests-")
os.environ["HF_MODULES_CACHE"] = os.path.join(os.environ["HF_HOME"], "modules")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# `make test` keeps every core busy, and the commands that the tests start are to leave the others theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.processes import InThisProcess, output_of

ROOT = Path(__file__).parents[1]
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
# The libraries' objects live as long as the process. Searching them for garbage took a tenth of the tests' time.
gc.set_threshold(10_000)

SLOW_FILES = (
    "tests/training/test_trainer.py",
    "tests/test_client_calls.py",
    "tests/test_hub.py",
    "tests/hub_datasets/build/test_run.py",
    "tests/hub_datasets/synthetic/test_dataset.py",
    "tests/modeling_deft/test_conformance.py",
    "tests/modeling_deft/test_transformers_mixins.py",
    "tests/hub_datasets/build/test_executors.py",
    "tests/modeling_deft/test_saved_folder.py",
    "tests/space/test_app.py",
    "tests/modeling_deft/test_export_deft.py",
    "tests/modeling_deft/test_pipeline_deft.py",
    "tests/hub_datasets/test_every_source.py",
    "tests/hub_datasets/build/test_finishing.py",
    "tests/hub_datasets/build/test_shards.py",
    "tests/space/test_page.py",
    "tests/evaluation/test_recognition.py",
    "tests/evaluation/test_generation.py",
    "tests/test_notebooks.py",
    "tests/evaluation/test_nested.py",
    "tests/hub_datasets/unimer/test_instructions.py",
    "tests/processing/test_video_reading_fuzz.py",
    "tests/training/test_run.py",
    "tests/test_cli.py",
    "tests/test_cli_explain.py",
    "tests/test_explained.py",
    "tests/training/test_recipes.py",
    "tests/evaluation/test_run.py",
    "tests/test_demo.py",
    "tests/processing/test_decoding_process.py",
    "tests/test_tiny_model.py",
    "tests/evaluation/test_fold_runs.py",
)


def pytest_configure(config):
    """Marks of transformers' own test suites (`test_transformers_mixins.py`)."""
    flash = "flash_attn_test flash_attn_3_test flash_attn_4_test"
    for mark in f"accelerate_tests {flash} order slow torch_compile_test".split():
        config.addinivalue_line("markers", f"{mark}: transformers' own")


def pytest_xdist_auto_num_workers():
    """Three processes for two cores: while one waits for a command or a browser it has started, another computes."""
    return (3 * (os.cpu_count() or 1) + 1) // 2


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that none of them is left over for the end."""
    places = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish():
    """What the test files have imported is not searched for garbage either, not even when a library asks for it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def face() -> Face:
    from deft_llm.hub_datasets.synthetic.faces import render_face

    return render_face(np.random.default_rng(3), size=160)


@pytest.fixture(scope="session")
def brow_clip(face) -> Clip:
    """AU4, both sides, 1.5 % of the crop's width, with the usual disturbances."""
    from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, render_clip

    shown = Expression((UnitRequest("AU4", "both", 0.015),), onset=3, apex=19, offset=35)
    return render_clip(face, [shown], np.random.default_rng(0), count=38)


@pytest.fixture(scope="session")
def still_clip(face) -> Clip:
    from deft_llm.hub_datasets.synthetic.clips import render_clip

    return render_clip(face, [], np.random.default_rng(1), count=30)


@pytest.fixture(scope="session")
def brow_video(brow_clip, tmp_path_factory) -> Path:
    from deft_llm.hub_datasets.synthetic.clips import encode_mp4

    path = tmp_path_factory.mktemp("clips") / "brow.mp4"
    path.write_bytes(encode_mp4(brow_clip))
    return path


@pytest.fixture(scope="session")
def still_video(still_clip, tmp_path_factory) -> Path:
    from deft_llm.hub_datasets.synthetic.clips import encode_mp4

    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    path.write_bytes(encode_mp4(still_clip))
    return path


@pytest.fixture(scope="session")
def lost_video(brow_clip, tmp_path_factory) -> Path:
    """The first frames of `brow_clip`, and then noise: the face cannot be followed."""
    from deft_llm.hub_datasets.synthetic.clips import encode_frames

    noise = np.random.default_rng(0).integers(0, 255, brow_clip.frames[10:].shape, np.uint8)
    path = tmp_path_factory.mktemp("clips") / "lost.mp4"
    path.write_bytes(encode_frames(np.concatenate([brow_clip.frames[:10], noise]), 200, 12))
    return path


@pytest.fixture(scope="session")
def tiny_video(brow_clip, tmp_path_factory) -> Path:
    """`brow_clip` with a face that is too small to be measured."""
    import cv2

    from deft_llm.hub_datasets.synthetic.clips import encode_frames

    frames = [cv2.resize(frame, (40, 40), interpolation=cv2.INTER_AREA) for frame in brow_clip.frames]
    path = tmp_path_factory.mktemp("clips") / "tiny.mp4"
    path.write_bytes(encode_frames(frames, 200, 12))
    return path


@pytest.fixture(scope="session")
def spotted_video(face, tmp_path_factory) -> Path:
    """A video long enough to be searched, with AU4 in frames 60 to 92."""
    from deft_llm.hub_datasets.synthetic.clips import Expression, UnitRequest, encode_mp4, render_clip

    shown = Expression((UnitRequest("AU4", "both", 0.02),), onset=60, apex=76, offset=92)
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    path.write_bytes(encode_mp4(render_clip(face, [shown], np.random.default_rng(2), count=160)))
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """Calls a function with a new folder in the first process to ask for that name; every process gets its result."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        folder, result = place / name, place / f"{name}.pickle"
        with FileLock(place / f"{name}.lock"):
            if not result.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                result.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(result.read_bytes())

    return get


@pytest.fixture
def inline(monkeypatch):
    """Shards of a dataset are built in this process, one after the other."""
    monkeypatch.setattr("deft_llm.hub_datasets.build.executors.ProcessPoolExecutor", InThisProcess)


@pytest.fixture(scope="session")
def dataset(made_once) -> Dataset:
    """24 clips of four faces: every emotion and action unit of the generator occurs."""
    from datasets import Dataset

    from deft_llm.hub_datasets.synthetic.dataset import PRESETS, face_rows
    from deft_llm.hub_datasets.unimer.rows import features
    from deft_llm.processing import DeftVideoProcessor

    settings = {"preset": PRESETS["easy"], "conventions": ("synthetic",), "clips_per_face": 6, "total": 24}
    settings |= {"first_test_face": 4, "corrupt": 0.0, "num_frames": 8, "seed": 1}

    def render(folder: Path) -> str:
        rows = [row for face_index in range(4) for row in face_rows(face_index, **settings)[0]]
        Dataset.from_list(rows, features=features(DeftVideoProcessor(num_frames=8))).save_to_disk(folder)
        return str(folder)

    # In memory: files of a cache would lie beside it, where several processes write them.
    return Dataset.load_from_disk(made_once("rendered-clips", render), keep_in_memory=True)


@pytest.fixture(scope="session")
def recipe() -> dict:
    """`recipes/tiny.yaml` with parts of a quarter of the size, in which a step takes a quarter of the time."""
    settings = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
    width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    settings["text"] |= width | {"num_attention_heads": 2, "num_key_value_heads": 1}
    narrow = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings["structure"] |= narrow | {"patch_size": 16}
    settings["texture"] |= narrow | {"intermediate_size": 64}
    settings["motion"] |= narrow | {"patch_size": 8, "intermediate_size": 64}
    settings["expert_size"] = 64
    return settings


@pytest.fixture(scope="session")
def recipe_file(recipe, tmp_path_factory) -> Path:
    """`recipe` as a file, for the command line."""
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_arguments(recipe):
    from deft_llm.training.arguments import ModelArguments

    names = ModelArguments.__dataclass_fields__
    return ModelArguments(**{name: value for name, value in recipe.items() if name in names})


@pytest.fixture(scope="session")
def built(model_arguments, dataset):
    """(model, processor) of the small recipe, random weights, in evaluation mode."""
    import torch

    from deft_llm.training.parts import build_model

    torch.manual_seed(0)
    model, processor = build_model(model_arguments, dataset)
    return model.eval(), processor


@pytest.fixture(scope="session")
def model(built):
    return built[0]


@pytest.fixture(scope="session")
def processor(built):
    return built[1]


@pytest.fixture(scope="session")
def folder(built, tmp_path_factory) -> Path:
    """Model and processor, saved."""
    path = tmp_path_factory.mktemp("models") / "deft-tiny"
    for part in built:
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def card_folder(folder, model, dataset, tmp_path_factory) -> Path:
    """The saved folder with the facts of a run and the card, as training leaves it."""
    from deft_llm.sharing.card import fill_card, write_run

    path = tmp_path_factory.mktemp("models") / "deft-carded"
    shutil.copytree(folder, path)
    write_run(path, model, dataset, dataset="org/rendered", steps=2, seconds=57.0, seed=0)
    fill_card(path)
    return path


@pytest.fixture(scope="session")
def clips(processor, brow_video, still_video, dataset):
    """Tensors of three clips: `pixel_values_videos` and `flow_values_videos`."""
    videos = [str(brow_video), str(still_video), dataset[0]["video"]]
    return processor.video_processor(videos, return_tensors="pt")


@pytest.fixture(scope="session")
def without_package(tmp_path_factory):
    """Runs Python code in a new process that has every dependency and cannot import deft_llm; returns its output.

    An editable install is a hook in a .pth file, which `-S` does not run; the folders with the dependencies are named
    by hand.
    """

    def run(code: str, **variables: str) -> str:
        packages = os.pathsep.join(path for path in sys.path if Path(path).name == "site-packages")
        environment = {**os.environ, **variables, "PYTHONPATH": packages}
        guard = "import importlib.util; assert importlib.util.find_spec('deft_llm') is None\n"
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        return output_of([sys.executable, "-S", "-c", guard + code], cwd=elsewhere, env=environment)

    return run
