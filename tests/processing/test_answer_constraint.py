from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor

from deft_llm.processing.action_units import ellipse_mask, region_ellipse
from deft_llm.processing.answer_constraint import AnswerConstraint, answer_pattern
from deft_llm.processing.common_deft import SIDE_LABELS
from deft_llm.processing.grounded_answer import contradictions, measured_report, possible_answers
from deft_llm.processing.motion_evidence import measure_motion


@pytest.fixture(scope="module")
def prompt(processor, clips):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Explain."}]}]
    text = processor.render_prompt(message, clips)
    inputs = processor.tokenizer([text] * 3, add_special_tokens=False, return_tensors="pt")
    return {**inputs, **clips}


@pytest.mark.parametrize(
    "arguments", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampled", "beams"]
)
def test_even_an_untrained_model_writes_readable_answers(model, processor, prompt, arguments):
    torch.manual_seed(0)
    length = prompt["input_ids"].shape[1]
    options = {
        "max_new_tokens": 500,
        "logits_processor": [processor.answer_constraint(length, longest_rationale=20)],
        **arguments,
    }
    sequences = model.generate(**prompt, **options)
    texts = processor.tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    for text, report in zip(texts, processor.post_process_expression(texts), strict=True):
        assert report.parsed, (text, report.warnings)
        assert report.insufficient_motion or report.emotion in processor.emotion_labels
        assert {unit.code for unit in report.action_units} <= set(processor.action_units)


def heads(processor, emotions, facts):
    """What the recognition heads say of some clips: the emotion, and code -> side of the action units."""
    codes, labels = processor.action_units, processor.emotion_labels
    units, sides = torch.full((len(facts), len(codes)), -9.0), torch.zeros(len(facts), len(codes), 3)
    for row, named in enumerate(facts):
        for code, side in named.items():
            units[row, codes.index(code)] = 9.0
            sides[row, codes.index(code), SIDE_LABELS.index(side)] = 9.0
    logits = torch.full((len(facts), len(labels)), -2.0)
    logits[range(len(facts)), [labels.index(name) for name in emotions]] = 2.0
    return SimpleNamespace(
        au_logits=units, au_side_logits=sides, emotion_logits=logits, au_intensity=torch.zeros_like(units)
    )


@pytest.mark.parametrize("arguments", [{"do_sample": True}, {"num_beams": 2}], ids=["sampled", "beams"])
def test_without_flow_the_evidence_names_what_was_recognised(model, processor, prompt, arguments):
    """Each prompt of a batch has facts of its own."""
    torch.manual_seed(0)
    facts = [{"AU4": "left"}, {}, {"AU1": "both", "AU2": "right"}]
    emotions = ["anger", "sadness", "surprise"]
    length = prompt["input_ids"].shape[1]
    constraint = processor.answer_constraint(length, heads(processor, emotions, facts), longest_rationale=20)
    sequences = model.generate(**prompt, max_new_tokens=300, logits_processor=[constraint], **arguments)
    texts = processor.tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    reports = processor.post_process_expression(texts)
    for text, report, named, emotion in zip(texts, reports, facts, emotions, strict=True):
        assert report.parsed, (text, report.warnings)
        assert {unit.code: unit.side for unit in report.action_units} == named
        assert report.emotion == emotion or (report.insufficient_motion and not named)


class Prefers(LogitsProcessor):
    """A language model that wants to write one text, whatever the clip shows."""

    def __init__(self, processor, text, length):
        self.tokens, self.length = processor.tokenizer(text, add_special_tokens=False)["input_ids"], length

    def __call__(self, input_ids, scores):
        for place in range(input_ids.shape[1] - self.length, len(self.tokens)):
            scores[:, self.tokens[place]] += 100.0 / (1 + place)
        return scores


WRONG = (
    "Class: happiness\n"
    "Evidence: AU12 lip corner puller, left side, mouth corner moves down by 7.7 %\n"
    "Rationale: The brows rise, which is happiness."
)


def flow_of(*moving):
    """(7, 2, 32, 32) flow in which regions move by (dx, dy) percent."""
    flow = np.zeros((7, 2, 32, 32), np.float32)
    for region, side, dx, dy in moving:
        cells = ellipse_mask(region_ellipse(region, side), 32, 32)
        flow[3, 0][cells], flow[3, 1][cells] = dx, dy
    return flow


@pytest.mark.parametrize("wanted", ["", WRONG], ids=["random", "wrong"])
@pytest.mark.parametrize("arguments", [{"do_sample": True}, {"num_beams": 2}], ids=["sampled", "beams"])
def test_no_contradiction_comes_out_whatever_the_language_model_prefers(model, processor, prompt, arguments, wanted):
    torch.manual_seed(0)
    flows = np.stack(
        [
            flow_of(("inner brow", "left", -0.7, 0.7), ("mouth corner", "left", 0, 0.9)),
            flow_of(),
            flow_of(("inner brow", "left", 0, -1.0), ("inner brow", "right", 0, -0.8), ("chin", "left", 0, 0.8)),
        ]
    )
    outputs = heads(
        processor,
        ["anger", "sadness", "surprise"],
        [{"AU4": "both", "AU12": "left"}, {"AU12": "both"}, {"AU1": "right", "AU2": "both"}],
    )
    length = prompt["input_ids"].shape[1]
    constraint = processor.answer_constraint(length, outputs, flow_values_videos=flows)
    sequences = model.generate(
        **prompt, max_new_tokens=300, logits_processor=[Prefers(processor, wanted, length), constraint], **arguments
    )
    texts = processor.tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    reports = processor.post_process_expression(texts, outputs=outputs, flow_values_videos=flows, grounded=True)
    for text, report, flow in zip(texts, reports, flows, strict=True):
        assert report.parsed, (text, report.warnings)
        assert report.warnings == []
        assert contradictions(report, measure_motion(flow), report.scores, processor.coarse_emotion_of) == []
    frown, still, rise = reports
    assert "Evidence: AU4 brow lowerer, left side, inner brow moves down and medially by 1.0 %\n" in texts[0]
    assert [(unit.code, unit.side, unit.borne_out) for unit in frown.action_units] == [
        ("AU4", "left", True),
        ("AU12", "left", False),
    ]
    assert still.insufficient_motion
    assert "Evidence: none" in texts[1]
    assert "Evidence: AU1 inner brow raiser, both sides, inner brow moves up by 0.9 %\n" in texts[2]
    assert [report.emotion for report in reports] == ["anger", None, "surprise"]
    assert all(unit.score > 0.99 for report in reports for unit in report.action_units)
    assert [unit.code for unit in rise.action_units if not unit.borne_out] == ["AU2"]


def test_the_convention_that_was_asked_for_is_named(processor):
    flow = flow_of(("inner brow", "left", 0, -1.0))[None]
    constraint = processor.answer_constraint(
        0, heads(processor, ["surprise"], [{"AU1": "left"}]), flow_values_videos=flow, convention="a (b)"
    )
    (said,) = possible_answers(
        measured_report({"AU1": "left"}, "surprise", measure_motion(flow[0])), ["surprise"], "a (b)"
    )[:1]
    tokens = processor.tokenizer(said + processor.tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    for end, token in enumerate(tokens):
        scores = constraint(torch.tensor([tokens[:end]], dtype=torch.long), torch.zeros(1, len(processor.tokenizer)))
        assert torch.isfinite(scores[0, token]), processor.tokenizer.decode(tokens[:end])
    assert "by the convention of a (b) this is surprise" in said


def test_the_trained_format_passes_unchanged(processor, dataset):
    """Every answer of the data, token by token, matches the pattern."""
    explained = [
        conversation["messages"][-1]["content"][0]["text"]
        for row in dataset.select(range(12))["conversations"]
        for conversation in row
        if conversation["task"] == "explain"
    ]
    assert len(explained) > 5
    for answer in explained:
        constraint = processor.answer_constraint(0)
        tokens = processor.tokenizer(answer + processor.tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        scores = torch.zeros(1, len(processor.tokenizer))
        for end, token in enumerate(tokens):
            allowed = constraint(torch.tensor([tokens[:end]], dtype=torch.long), scores)
            assert torch.isfinite(allowed[0, token]), (answer, processor.tokenizer.decode(tokens[:end]))


def test_a_foreign_unit_is_refused(processor):
    pattern = answer_pattern(["anger"], ["AU4"])
    constraint = AnswerConstraint(processor.tokenizer, pattern, 0)
    tokens = processor.tokenizer("Class: anger\nEvidence: AU", add_special_tokens=False)["input_ids"]
    for end in range(len(tokens)):
        scores = constraint(torch.tensor([tokens[:end]], dtype=torch.long), torch.zeros(1, len(processor.tokenizer)))
        assert torch.isfinite(scores[0, tokens[end]])
    scores = constraint(torch.tensor([tokens]), torch.zeros(1, len(processor.tokenizer)))
    four, nine = (processor.tokenizer(digit, add_special_tokens=False)["input_ids"][0] for digit in "49")
    assert torch.isfinite(scores[0, four])
    assert torch.isneginf(scores[0, nine])


def test_a_pattern_that_is_none_is_refused(processor):
    with pytest.raises(ValueError, match="pattern cannot be used"):
        AnswerConstraint(processor.tokenizer, "Class: (", 0)


def test_a_vocabulary_is_read_once_and_again_when_it_grew(processor, monkeypatch):
    import llguidance.hf

    read, from_tokenizer = [], llguidance.hf.from_tokenizer
    monkeypatch.setattr(llguidance.hf, "from_tokenizer", lambda one: read.append(len(one)) or from_tokenizer(one))
    tokenizer = deepcopy(processor.tokenizer)
    for _ in range(2):
        AnswerConstraint(tokenizer, "Class", 0)
    tokenizer.add_tokens("Clas")
    grown = AnswerConstraint(tokenizer, "Class", 0)
    assert read == [len(tokenizer) - 1, len(tokenizer)]
    scores = grown(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, len(tokenizer)))
    assert torch.isfinite(scores[0, tokenizer.convert_tokens_to_ids("Clas")])
