"""The saved folder as a stranger meets it: loaded by every auto class in a process without this package."""

import json

import pytest
import torch

from tests.modeling_deft.small_models import CLOSE

CODE_FILES = {
    "action_units.py",
    "aligned_clip.py",
    "common_deft.py",
    "crop_geometry.py",
    "building_deft.py",
    "configuration_deft.py",
    "container_ends.py",
    "decoding_process.py",
    "decoding_server.py",
    "display_geometry.py",
    "experts_deft.py",
    "explanation_deft.py",
    "expression_report.py",
    "face_alignment.py",
    "frame_folder.py",
    "frame_pixels.py",
    "key_frames.py",
    "generation_deft.py",
    "modeling_deft.py",
    "motion_evidence.py",
    "motion_intervals.py",
    "motion_signals.py",
    "optical_flow.py",
    "outputs_deft.py",
    "pipeline_deft.py",
    "processing_deft.py",
    "region_tracking.py",
    "recognition_deft.py",
    "unit_evidence.py",
    "unit_patterns.py",
    "video_decoding.py",
    "video_processing_deft.py",
    "video_reading.py",
}

STRANGER = """
import json, sys, torch
from transformers import (AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor,
                          pipeline)
options = {"trust_remote_code": True}
first, second, third, inputs, video, answer = sys.argv[1:]

def load(folder):
    tensors = torch.load(inputs)
    clips = {name: tensors[name] for name in ("pixel_values_videos", "flow_values_videos")}
    result = {"config": type(AutoConfig.from_pretrained(folder, **options)).__name__}
    with torch.no_grad():
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
            result[auto.__name__] = auto.from_pretrained(folder, **options).eval()(**tensors).logits
        result["AutoModel"] = AutoModel.from_pretrained(folder, **options).eval()(**clips).au_logits
    processor = AutoProcessor.from_pretrained(folder, **options)
    result["processor"] = type(processor).__name__
    result["flow"] = processor.video_processor(video, return_tensors="pt")["flow_values_videos"]
    return result

def explain(folder):
    return pipeline("video-text-to-text", model=folder, **options)(video, max_new_tokens=40)

def save_again(folder, place):
    AutoModelForImageTextToText.from_pretrained(folder, **options).save_pretrained(place)
    AutoProcessor.from_pretrained(folder, **options).save_pretrained(place)
"""
# Two processes: one begins with the auto classes and the folder as it was saved, one with the pipeline and the folder
# that the first one has saved again.
PARTS = {
    "auto classes": "torch.save(load(first), answer); save_again(first, second)",
    "pipeline": "again = explain(second); save_again(second, third); torch.save([explain(first), again], answer)",
}


def files_of(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def inputs(processor, clips):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    prompt = processor.render_prompt(message, clips)
    text = processor.tokenizer([prompt] * 3, add_special_tokens=False, return_tensors="pt")
    return {**text, **clips}


def test_the_folder_holds_every_file_needed(folder):
    assert files_of(folder) >= CODE_FILES | {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    }


@pytest.fixture(scope="module")
def stranger(without_package, folder, inputs, brow_video, tmp_path_factory):
    """(the folders: as it was saved, loaded and saved again, and once more; what each part has found)."""
    place = tmp_path_factory.mktemp("stranger")
    folders = [folder, place / "second", place / "third"]
    torch.save(inputs, place / "inputs.pt")
    found = {}
    for part, code in PARTS.items():
        arguments = ["script", *map(str, (*folders, place / "inputs.pt", brow_video, place / f"{part}.pt"))]
        without_package(f"import sys; sys.argv = {arguments!r}\n{STRANGER}\n{code}")
        found[part] = torch.load(place / f"{part}.pt")
    return folders, found


def test_every_auto_class_gives_the_same_numbers(stranger, model, processor, inputs, brow_video):
    result = stranger[1]["auto classes"]
    with torch.no_grad():
        expected = model(**inputs)
    assert (result["config"], result["processor"]) == ("DeftConfig", "DeftProcessor")
    for name, logits in (("AutoModelForImageTextToText", expected.logits), ("AutoModel", expected.au_logits)):
        torch.testing.assert_close(result[name], logits, **CLOSE)
    torch.testing.assert_close(result["AutoModelForMultimodalLM"], expected.logits, **CLOSE)
    flow = processor.video_processor(str(brow_video), return_tensors="pt")["flow_values_videos"]
    torch.testing.assert_close(result["flow"], flow, **CLOSE)


def test_load_and_save_again_keeps_every_file(stranger):
    first, second, third = stranger[0]
    assert files_of(third) == files_of(second) == files_of(first)
    for name in CODE_FILES:
        assert (third / name).read_text() == (first / name).read_text()
    configs = [json.loads((path / "config.json").read_text()) for path in (second, third)]
    assert configs[0] == configs[1]


def test_the_pipeline_explains_a_file_and_survives_being_saved_again(stranger, processor):
    for result in stranger[1]["pipeline"]:
        assert set(result) == {"generated_text", "report", "report_text", "frames_indices"}
        assert len(result["frames_indices"]) == processor.video_processor.num_frames
        assert set(result["report"]["scores"]) == set(processor.emotion_labels)
