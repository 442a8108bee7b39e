from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from deft_llm.processing import DeftProcessor, processing_deft
from deft_llm.processing.action_units import REGIONS
from deft_llm.processing.grounded_answer import recognition_in_words
from deft_llm.processing.motion_evidence import detection_limits, measure_motion

ANSWER = (
    "Class: anger\n"
    "Evidence: AU4 brow lowerer, both sides, inner brow moves down and medially by 1.0 %\n"
    "Rationale: The brows lower and draw together."
)


def chat(*clips, text="Explain."):
    return [
        {
            "role": "user",
            "content": [*({"type": "video", "video": clip} for clip in clips), {"type": "text", "text": text}],
        }
    ]


def encode(processor, messages):
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


def test_a_clip_becomes_three_sections_of_placeholders(processor, brow_video):
    inputs = encode(processor, chat(str(brow_video)))
    ids = inputs["input_ids"][0].tolist()
    counts = [ids.count(token) for token in processor.video_token_ids]
    assert counts == [processor.structure_tokens, processor.texture_tokens, processor.motion_tokens]
    positions = [ids.index(token) for token in processor.video_token_ids]
    assert positions == sorted(positions)
    assert processor.video_token_id not in ids
    assert set(inputs) >= {"pixel_values_videos", "flow_values_videos", "attention_mask"}


def test_frames_folder_array_and_file_give_the_same_prompt(processor, brow_clip, brow_video, tmp_path):
    for index, frame in enumerate(brow_clip.frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    sources = (str(brow_video), str(tmp_path), brow_clip.frames, brow_video.read_bytes())
    prompts = [encode(processor, chat(source)) for source in sources]
    for other in prompts[1:]:
        assert torch.equal(other["input_ids"], prompts[0]["input_ids"])
        # Compression leaves traces in the flow, but no other motion.
        pair = torch.stack([other["flow_values_videos"].flatten(), prompts[0]["flow_values_videos"].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.9


def test_a_missing_input_leaves_its_section_out(processor, clips):
    messages = chat("ignored")
    flow_only = processor.render_prompt(messages, {"flow_values_videos": clips["flow_values_videos"]})
    assert "<|motion|>" in flow_only
    assert "<|structure|>" not in flow_only
    assert "Structure:" not in flow_only


def test_the_recognition_is_said_if_it_is_known_and_asked_for(processor, model, clips, monkeypatch):
    with torch.no_grad():
        recognition = model.model(**clips)
    known = {**clips, "recognition": recognition}
    silent = processor.render_prompt(chat("ignored"), known, 1)
    monkeypatch.setattr(processor, "recognition_in_words", True)
    assert processor.render_prompt(chat("ignored"), clips, 1) == silent
    told = processor.render_prompt(chat("ignored"), known, 1)
    before, after = told.split("Recognised: ")
    said, after = after.split("\n", maxsplit=1)
    assert before + after == silent
    reports = processor.post_process_expression(recognition, flow_values_videos=clips["flow_values_videos"])
    assert said == recognition_in_words(reports[1], processor.coarse_emotion_of)
    monkeypatch.setattr(processor, "motion_in_words", True)
    assert "It could be: " in processor.render_prompt(chat("ignored"), clips, 0)
    assert "It could be: " not in processor.render_prompt(chat("ignored"), known, 0)


def test_motion_that_was_measured_before_constrains_the_answer(processor, model, clips, monkeypatch):
    pytest.importorskip("llguidance")
    flow = clips["flow_values_videos"]
    with torch.no_grad():
        recognition = model.model(**clips)
    patterns = []
    monkeypatch.setattr(processing_deft, "AnswerConstraint", lambda tokenizer, found, length: patterns.append(found))
    processor.answer_constraint(0, recognition, flow_values_videos=flow)
    motions = [measure_motion(one.numpy()) for one in flow]
    processor.answer_constraint(0, recognition, flow_values_videos=flow, region_motions=motions)
    assert patterns[0] == patterns[1]
    still = [[replace(item, significant=False) for item in motions[0]]] * len(motions)
    processor.answer_constraint(0, recognition, flow_values_videos=flow, region_motions=still)
    assert patterns[2][0] != patterns[0][0]
    assert all("insufficient" in pattern for pattern in patterns[2])


def test_motion_only_goes_through_the_processor_too(processor, brow_video):
    prompt = "<|video|>Explain."
    inputs = processor(text=prompt, videos=[str(brow_video)], do_crop_appearance=False, return_tensors="pt")
    assert "pixel_values_videos" not in inputs
    structure, texture, motion = processor.video_token_ids
    ids = inputs["input_ids"][0].tolist()
    assert (ids.count(structure), ids.count(texture), ids.count(motion)) == (0, 0, processor.motion_tokens)


@pytest.mark.parametrize("count", [0, 2])
def test_placeholders_and_clips_must_agree(processor, brow_video, count):
    with pytest.raises(ValueError, match=rf"hold {count} .*placeholders and 1 clips"):
        processor(text="<|video|>" * count + "Explain.", videos=[str(brow_video)])
    with pytest.raises(ValueError, match=r"hold 1 .*placeholders and 0 clips"):
        processor(text="<|video|>Explain.")


@pytest.mark.parametrize("arguments", [{}, {"text": ["a", 3]}, {"text": "a", "images": [1]}])
def test_inputs_it_cannot_process_are_refused(processor, arguments):
    with pytest.raises(ValueError, match=r"pass|must be"):
        processor(**arguments)


def test_saved_and_loaded_unchanged(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = DeftProcessor.from_pretrained(tmp_path)
    written, read = processor.to_dict(), loaded.to_dict()
    for values in (written, read):
        values.pop("auto_map", None)  # only the saved one knows where its code is
    assert read == written
    assert loaded.chat_template == processor.chat_template
    text = "Class: anger ü 3.1 %"
    assert loaded.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_the_tokenizer_loses_no_text(processor):
    for text in (ANSWER, "Ünïcode 表情 and  two spaces\n"):
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert processor.tokenizer.decode(ids) == text


def outputs_for(processor, emotion, codes):
    emotion_logits = torch.full((1, len(processor.emotion_labels)), -4.0)
    emotion_logits[0, processor.emotion_labels.index(emotion)] = 4.0
    au_logits = torch.tensor([[5.0 if code in codes else -5.0 for code in processor.action_units]])
    sides = torch.tensor([0.0, 0.0, 5.0]).expand(1, len(processor.action_units), 3)  # the right one
    return SimpleNamespace(
        emotion_logits=emotion_logits,
        au_logits=au_logits,
        au_side_logits=sides,
        au_intensity=torch.full_like(au_logits, 2.2),
    )


def brow_flow(dx=0.0, dy=1.0):
    from deft_llm.processing.action_units import ellipse_mask, region_ellipse

    flow = np.zeros((1, 7, 2, 32, 32), np.float32)
    for side, sign in (("right", 1), ("left", -1)):
        cells = ellipse_mask(region_ellipse("inner brow", side), 32, 32)
        flow[0, 3, 0][cells], flow[0, 3, 1][cells] = sign * dx, dy
    return flow


def test_text_with_scores(processor):
    outputs = outputs_for(processor, "anger", ["AU4"])
    (report,) = processor.post_process_expression(ANSWER, outputs=outputs, flow_values_videos=brow_flow(0.7, 0.7))
    assert (report.emotion, report.coarse_emotion) == ("anger", "negative")
    assert report.action_units[0].score > 0.99
    assert report.scores["anger"] == pytest.approx(1.0, abs=0.01)
    assert report.warnings == []


def test_scores_without_text(processor):
    outputs = outputs_for(processor, "anger", ["AU4"])
    (report,) = processor.post_process_expression(outputs, flow_values_videos=brow_flow(0.7, 0.7))
    assert report.emotion == "anger"
    assert [(unit.code, unit.side, unit.intensity) for unit in report.action_units] == [("AU4", "both", "C")]
    # Where nothing was measured, the side is the head's.
    assert report.detection_limits
    (unmeasured,) = processor.post_process_expression(outputs)
    assert unmeasured.detection_limits == {}
    assert [(unit.code, unit.side) for unit in unmeasured.action_units] == [("AU4", "right")]
    assert report.evidence[0].direction == "down and medially"


def test_scores_without_text_name_only_motion_that_was_measured(processor):
    """The head recognises the lip corners, and a brow moves upwards."""
    outputs = outputs_for(processor, "anger", ["AU4", "AU12"])
    (report,) = processor.post_process_expression(outputs, flow_values_videos=brow_flow(0, -1.0))
    assert (report.emotion, report.coarse_emotion, report.evidence) == (None, None, [])
    assert report.status == "insufficient_motion"
    assert "borne out" in report.reason
    assert [(unit.code, unit.borne_out, unit.score > 0.99) for unit in report.action_units] == [
        ("AU4", False, True),
        ("AU12", False, True),
    ]
    assert report.scores["anger"] > 0.99


@pytest.mark.parametrize("generated", [[ANSWER, ANSWER], None], ids=["text", "scores"])
def test_clips_that_cannot_be_measured_are_left_out(processor, generated):
    one = outputs_for(processor, "anger", ["AU4"])
    outputs = SimpleNamespace(**{name: torch.cat([value, value]) for name, value in vars(one).items()})
    given = {"outputs": outputs, "flow_values_videos": np.concatenate([brow_flow(0.7, 0.7)] * 2)}
    if generated is None:
        generated, given = outputs, {"flow_values_videos": given["flow_values_videos"]}
    expected = processor.post_process_expression(generated, **given)
    found = processor.post_process_expression(generated, **given, not_measurable=["A cut in frame 4.", None])
    assert found[1] == expected[1]
    assert (found[0].status, found[0].reason) == ("not_measurable", "A cut in frame 4.")
    assert (found[0].emotion, found[0].scores, found[0].action_units, found[0].evidence) == (None, {}, [], [])
    assert found[0].detection_limits == {}
    assert found[1].detection_limits


def test_a_language_model_cannot_say_that_a_clip_is_not_measurable(processor):
    text = "Class: not measurable\nEvidence: none\nRationale: Too dark."
    (report,) = processor.post_process_expression(text, flow_values_videos=brow_flow(0.7, 0.7))
    assert (report.status, report.parsed, report.text) == ("measured", False, text)
    assert "Too dark." in report.warnings[0]


def test_a_still_clip_is_not_explained(processor):
    still = np.zeros((1, 7, 2, 32, 32), np.float32)
    (report,) = processor.post_process_expression(
        ANSWER, outputs=outputs_for(processor, "anger", ["AU4"]), flow_values_videos=still
    )
    assert report.insufficient_motion
    assert (report.emotion, report.coarse_emotion, report.evidence) == (None, None, [])
    assert "No region moves" in report.warnings[0]
    assert report.detection_limits == detection_limits(measure_motion(still[0]))
    assert set(report.detection_limits) == set(REGIONS)


def test_claims_that_the_motion_denies_are_questioned(processor):
    (upwards,) = processor.post_process_expression(ANSWER, flow_values_videos=brow_flow(0, -1.0))
    assert any("moves up" in warning for warning in upwards.warnings)
    assert any("AU4: the motion does not show it" in warning for warning in upwards.warnings)
    (head_disagrees,) = processor.post_process_expression(ANSWER, outputs=outputs_for(processor, "disgust", []))
    assert any("emotion head disgust" in warning for warning in head_disagrees.warnings)


def test_an_unreadable_answer_is_no_answer(processor):
    (report,) = processor.post_process_expression("He looks angry.")
    assert not report.parsed
    assert report.emotion is None


def test_a_tokenizer_without_the_placeholders_is_refused(processor):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), unk_token=None)
    with pytest.raises(ValueError, match=r"lacks <\|video\|>"):
        DeftProcessor(processor.video_processor, bare)


def test_padding_comes_before_the_prompt_saved_or_not(processor, tmp_path):
    assert processor.tokenizer.padding_side == "left"
    processor.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True).padding_side == "left"


def test_loading_asks_nothing(folder, monkeypatch):
    """AutoTokenizer would ask on the terminal whether the folder's code may be run."""
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(f"asked: {prompt}"))
    loaded = DeftProcessor.from_pretrained(folder)
    assert loaded.tokenizer("Explain.")["input_ids"]


def test_frame_paths_in_a_block_are_one_clip(processor, brow_clip, brow_video, tmp_path):
    for index, frame in enumerate(brow_clip.frames):
        Image.fromarray(frame).save(tmp_path / f"{index:03}.png")
    paths = sorted(map(str, tmp_path.iterdir()))
    inputs = encode(processor, chat(paths, str(brow_video)))
    assert inputs["pixel_values_videos"].shape[0] == 2
