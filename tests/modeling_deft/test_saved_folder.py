"""The saved folder as a stranger meets it: loaded by every auto class in a process without this package."""

import json

import pytest
import torch

from tests.modeling_deft.small_models import CLOSE

CODE_FILES = {
    "action_units.py",
    "aligned_clip.py",
    "common_deft.py",
    "building_deft.py",
    "configuration_deft.py",
    "decoding_process.py",
    "experts_deft.py",
    "explanation_deft.py",
    "expression_report.py",
    "face_alignment.py",
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

LOAD = """
import json, sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
folder, inputs = sys.argv[1], torch.load(sys.argv[2])
options = {"trust_remote_code": True}
clips = {name: inputs[name] for name in ("pixel_values_videos", "flow_values_videos")}
result = {"config": type(AutoConfig.from_pretrained(folder, **options)).__name__}
with torch.no_grad():
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        result[auto.__name__] = auto.from_pretrained(folder, **options).eval()(**inputs).logits
    result["AutoModel"] = AutoModel.from_pretrained(folder, **options).eval()(**clips).au_logits
processor = AutoProcessor.from_pretrained(folder, **options)
result["processor"] = type(processor).__name__
result["flow"] = processor.video_processor(sys.argv[3], return_tensors="pt")["flow_values_videos"]
torch.save(result, sys.argv[4])
"""

EXPLAIN = """
import json, sys
from transformers import pipeline
pipe = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True)
print("RESULT" + json.dumps(pipe(sys.argv[2], max_new_tokens=40)))
"""

RESAVE = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
first, second = sys.argv[1:3]
AutoModelForImageTextToText.from_pretrained(first, trust_remote_code=True).save_pretrained(second)
AutoProcessor.from_pretrained(first, trust_remote_code=True).save_pretrained(second)
"""


def call(without_package, code, *arguments):
    return without_package(f"import sys; sys.argv = {['script', *map(str, arguments)]!r}\n" + code)


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


def test_every_auto_class_gives_the_same_numbers(
    without_package, folder, model, processor, inputs, brow_video, tmp_path
):
    torch.save(inputs, tmp_path / "inputs.pt")
    call(without_package, LOAD, folder, tmp_path / "inputs.pt", brow_video, tmp_path / "result.pt")
    result = torch.load(tmp_path / "result.pt")
    with torch.no_grad():
        expected = model(**inputs)
    assert (result["config"], result["processor"]) == ("DeftConfig", "DeftProcessor")
    for name, logits in (("AutoModelForImageTextToText", expected.logits), ("AutoModel", expected.au_logits)):
        torch.testing.assert_close(result[name], logits, **CLOSE)
    torch.testing.assert_close(result["AutoModelForMultimodalLM"], expected.logits, **CLOSE)
    flow = processor.video_processor(str(brow_video), return_tensors="pt")["flow_values_videos"]
    torch.testing.assert_close(result["flow"], flow, **CLOSE)


def test_load_and_save_again_keeps_every_file(without_package, folder, tmp_path):
    second, third = tmp_path / "second", tmp_path / "third"
    call(without_package, RESAVE, folder, second)
    call(without_package, RESAVE, second, third)
    assert files_of(third) == files_of(second) == files_of(folder)
    for name in CODE_FILES:
        assert (third / name).read_text() == (folder / name).read_text()
    configs = [json.loads((path / "config.json").read_text()) for path in (second, third)]
    assert configs[0] == configs[1]


def test_the_pipeline_explains_a_file(without_package, folder, brow_video, processor):
    output = call(without_package, EXPLAIN, folder, brow_video)
    result = json.loads(output.split("RESULT")[1])
    assert set(result) == {"generated_text", "report", "report_text", "frames_indices"}
    assert len(result["frames_indices"]) == processor.video_processor.num_frames
    assert set(result["report"]["scores"]) == set(processor.emotion_labels)


def test_the_pipeline_survives_being_saved_again(without_package, folder, brow_video, tmp_path):
    call(without_package, RESAVE, folder, tmp_path / "again")
    output = call(without_package, EXPLAIN, tmp_path / "again", brow_video)
    assert "RESULT" in output
