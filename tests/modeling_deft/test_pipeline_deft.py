import sys

import numpy as np
import pytest
import torch

from deft_llm.modeling_deft import DeftVideoTextToTextPipeline
from deft_llm.processing.video_reading import VideoReadError


@pytest.fixture(scope="module")
def pipe(model, processor):
    return DeftVideoTextToTextPipeline(model=model, processor=processor)


def test_one_clip_and_many(pipe, brow_video, still_video, brow_clip):
    one = pipe(str(brow_video), max_new_tokens=4)
    assert isinstance(one, dict)
    many = pipe([str(brow_video), str(still_video)], max_new_tokens=4)
    assert [type(item) for item in many] == [dict, dict]
    assert many[0] == one
    assert pipe(brow_clip.frames, max_new_tokens=4)["frames_indices"][0] < brow_clip.expression.apex


def test_key_frames_reach_the_processor(pipe, brow_video):
    indices = pipe(str(brow_video), key_frames=(2, 10, 20), max_new_tokens=2)["frames_indices"]
    assert (indices[0], indices[4], indices[-1]) == (2, 10, 20)


def test_the_experts_look_once_at_a_clip(pipe, brow_video):
    calls = []
    hook = pipe.model.model.motion_expert.register_forward_hook(lambda *_: calls.append(1))
    pipe(str(brow_video), max_new_tokens=2)
    hook.remove()
    assert len(calls) == 1


def test_the_convention_reaches_question_and_head(pipe, brow_video, monkeypatch):
    config, seen = pipe.model.config, {}
    forward = type(pipe.model.model).forward

    def spy(self, *args, **kwargs):
        seen.setdefault("convention_ids", kwargs.get("convention_ids"))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.model.model), "forward", spy)
    (name,) = config.label_conventions
    pipe(str(brow_video), convention=name, max_new_tokens=2)
    assert seen["convention_ids"].tolist() == [0]
    assert f"by the convention of {name}." in pipe.processor.instruction(name)
    with pytest.raises(ValueError, match=f"'samm'; the model was trained with {name}"):
        pipe(str(brow_video), convention="samm")


def test_a_grounded_answer_names_what_was_recognised(pipe, brow_video):
    """An untrained model recognises anything; its words follow it."""
    result = pipe(str(brow_video), max_new_tokens=900)
    written = pipe.processor.post_process_expression(result["generated_text"].split("Rationale:")[0] + "Rationale: .")[
        0
    ]
    inputs = pipe.processor.video_processor(str(brow_video), return_tensors="pt")
    with torch.no_grad():
        scores = pipe.model.model(**inputs).au_logits[0].sigmoid().tolist()
    shown = {code for code, score in zip(pipe.processor.action_units, scores, strict=True) if score >= 0.5}
    assert written.parsed
    assert {unit.code for unit in written.action_units} == shown


@pytest.mark.parametrize("options", [{"text": "What moves?"}, {"grounded": False}], ids=["own question", "asked"])
def test_a_free_answer_is_what_generate_says(pipe, brow_video, options):
    inputs = pipe.preprocess(str(brow_video), text=options.get("text"))
    del inputs["frames_indices"]
    sequence = pipe.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = pipe.processor.tokenizer.decode(sequence, skip_special_tokens=True)
    assert pipe(str(brow_video), max_new_tokens=12, **options)["generated_text"] == expected


def test_without_llguidance_it_says_what_to_do(pipe, brow_video, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"pip install llguidance.*grounded=False"):
        pipe(str(brow_video), max_new_tokens=2)
    assert pipe(str(brow_video), grounded=False, max_new_tokens=2)["generated_text"]


def test_a_still_clip_is_not_explained(pipe, still_video):
    report = pipe(str(still_video), max_new_tokens=4)["report"]
    assert report["insufficient_motion"]
    assert report["emotion"] is None


def test_the_answer_is_read_as_it_was_generated(pipe, brow_video):
    """An untrained model says nothing readable of itself, and the report must say that."""
    result = pipe(str(brow_video), grounded=False, max_new_tokens=6)
    assert result["report"]["text"] == result["generated_text"]
    assert not result["report"]["parsed"]
    assert "could not be read" in result["report"]["warnings"][0]


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        ("nowhere.mp4", FileNotFoundError, "nowhere.mp4"),
        (np.zeros((1, 32, 32, 3), np.uint8), VideoReadError, "one frame only"),
        (b"no video", VideoReadError, "not a video"),
    ],
)
def test_bad_clips_are_named(pipe, clip, error, message):
    with pytest.raises(error, match=message):
        pipe(clip)
