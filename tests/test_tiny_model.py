"""The small model of the package: it is what its manifest says, and answers from its folder alone."""

import json
import math

import pytest
from safetensors import safe_open

import deft_llm
from deft_llm.cli import main
from deft_llm.files import file_digest
from deft_llm.recipes import find_recipe
from deft_llm.tiny_model import BOX, complete_folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return complete_folder(tmp_path_factory.mktemp("cache"))


def test_the_model_is_what_its_manifest_says():
    manifest = json.loads((BOX / "manifest.json").read_text(encoding="utf-8"))
    weights = BOX / "model.safetensors"
    assert manifest["weights"]["sha256"] == file_digest(weights)
    assert manifest["weights"]["bytes"] == weights.stat().st_size
    with safe_open(weights, "np") as stored:
        sizes = [math.prod(stored.get_slice(name).get_shape()) for name in stored.keys()]  # noqa: SIM118
    assert manifest["weights"]["parameters"] == sum(sizes)
    recipe = manifest["recipe"]
    # A recipe that changed needs `make release`.
    assert recipe["sha256"] == file_digest(find_recipe(recipe["name"]))
    assert manifest["figures"]["rendered"]["uf1"] > 0.95
    card = (BOX / "README.md").read_text(encoding="utf-8")
    assert "Trained on rendered faces alone" in card
    assert f"{manifest['figures']['people']['uf1']:.3f}" in card


def test_the_box_has_no_code_and_the_complete_folder_has(tiny):
    assert not list(BOX.glob("*.py"))
    for name in ("modeling_deft.py", "processing_deft.py", "pipeline_deft.py", "config.json"):
        assert (tiny / name).is_file(), name
    assert not (tiny / "__init__.py").exists()


def test_the_folder_is_made_once_and_finished_if_it_was_not(tiny):
    made = (tiny / "config.json").stat().st_mtime_ns
    assert complete_folder(tiny.parent) == tiny
    assert (tiny / "config.json").stat().st_mtime_ns == made
    (tiny / "config.json").unlink()
    assert (complete_folder(tiny.parent) / "config.json").is_file()


def test_it_explains_a_clip_in_a_process_without_the_package(tiny, brow_video, without_package):
    code = f"""
from transformers import pipeline
explain = pipeline("video-text-to-text", model={str(tiny)!r}, trust_remote_code=True)
print(explain({str(brow_video)!r})["report"]["action_units"][0]["code"])
"""
    assert without_package(code).split()[-1] == "AU4"


def test_the_package_names_its_folder():
    assert str(complete_folder()) == deft_llm.TINY
    with pytest.raises(AttributeError, match="no attribute 'LARGE'"):
        _ = deft_llm.LARGE


def test_explain_uses_it_if_no_model_is_named_and_says_so(brow_video, capsys):
    assert main(["explain", str(brow_video)]) == 0
    shown = capsys.readouterr()
    assert "AU4 brow lowerer" in shown.out
    assert "trained on rendered faces alone" in shown.err
