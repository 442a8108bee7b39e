from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from deft_llm.processing.answer_constraint import AnswerConstraint, answer_pattern


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


@pytest.mark.parametrize("arguments", [{"do_sample": True}, {"num_beams": 2}], ids=["sampled", "beams"])
def test_the_evidence_is_what_was_recognised(model, processor, prompt, arguments):
    """Each prompt of a batch has facts of its own."""
    torch.manual_seed(0)
    codes = processor.action_units
    facts = [{"AU4": "left"}, {}, {"AU1": "both", "AU2": "right"}]
    units, sides = torch.full((3, len(codes)), -9.0), torch.zeros(3, len(codes), 3)
    for row, named in enumerate(facts):
        for code, side in named.items():
            units[row, codes.index(code)] = 9.0
            sides[row, codes.index(code), ("both", "left", "right").index(side)] = 9.0
    length = prompt["input_ids"].shape[1]
    outputs = SimpleNamespace(au_logits=units, au_side_logits=sides)
    constraint = processor.answer_constraint(length, outputs, longest_rationale=20)
    sequences = model.generate(**prompt, max_new_tokens=300, logits_processor=[constraint], **arguments)
    texts = processor.tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    for text, report, named in zip(texts, processor.post_process_expression(texts), facts, strict=True):
        assert report.parsed, (text, report.warnings)
        assert {unit.code: unit.side for unit in report.action_units} == named
        assert not (named and report.insufficient_motion)


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
