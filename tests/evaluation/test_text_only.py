"""A language model that sees no video, as a floor of the question-answering tracks."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from deft_llm.evaluation import text_only
from deft_llm.evaluation.me_vqa import Question
from deft_llm.evaluation.text_only import text_only_answers
from tests.gguf_files import write_gguf

COUNT = "How many expression events appear in this video?"
KIND = "What is the expression type of the {}-th expression event in this video?"
TRAINING = [Question(f"t{number}", f"t{number}", COUNT, str(number % 4)) for number in range(30)]
TRAINING += [Question("t1_2", "t1", KIND.format(1), "micro-expression")]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    pytest.importorskip("gguf")
    return write_gguf(tmp_path_factory.mktemp("gguf") / "made_up.gguf", context=4096)


@pytest.fixture
def asked(monkeypatch):
    """Prompts that the model was given; it answers with the length of each."""
    prompts = []

    def continued(name, some):
        prompts.extend(some)
        return {prompt: str(len(prompt)) for prompt in some}

    monkeypatch.setattr(text_only, "_continued", continued)
    return prompts


def test_a_prompt_has_examples_of_the_same_kind_and_nothing_of_the_video(asked):
    questions = [
        Question(f"v{video}_{text}", f"v{video}", text) for video in range(3) for text in (COUNT, KIND.format(7))
    ]
    answers = text_only_answers(TRAINING, questions, "any")
    assert len(asked) == 2  # one per wording
    assert answers == [str(len(asked[0])), str(len(asked[1]))] * 3
    counts, kinds = asked
    assert counts.count(COUNT) == text_only.EXAMPLES + 1
    assert counts.endswith(f"Question: {COUNT}\nAnswer:")
    assert kinds == f"Question: {KIND.format(1)}\nAnswer: micro-expression\n\nQuestion: {KIND.format(7)}\nAnswer:"
    assert not any(f"v{video}" in prompt for video in range(3) for prompt in asked)


def test_a_question_that_the_training_file_lacks_gets_examples_of_others(asked):
    text_only_answers(TRAINING[:3], [Question("c", "c", "What is the coarse expression class?")], "any")
    assert asked[0].count("Answer:") == 4


def test_a_real_language_model_continues_the_prompt(gguf):
    questions = [Question("v", "v", COUNT), Question("w", "w", COUNT)]
    first, second = text_only_answers(TRAINING, questions, str(gguf))
    assert first == second
    assert "\n" not in first
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer, model = AutoTokenizer.from_pretrained(**source), AutoModelForCausalLM.from_pretrained(**source)
    prompt = text_only._prompts(TRAINING, [COUNT], 0)[COUNT]
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=text_only.LONGEST, do_sample=False)
    written = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert first == written.strip().partition("\n")[0].strip()


def test_what_cannot_be_used_is_named(gguf, tmp_path):
    with pytest.raises(ValueError, match="a floor must not know the answers"):
        text_only_answers(TRAINING, [Question("x", "t3", COUNT)], str(gguf))
    with pytest.raises(ValueError, match="None of the questions in the training file"):
        text_only_answers([Question("t", "t", COUNT)], [Question("v", "v", COUNT)], str(gguf))
    with pytest.raises(FileNotFoundError, match="no_such_package"):
        text_only_answers(TRAINING, [Question("v", "v", COUNT)], "package:no_such_package")
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "dinov2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        text_only_answers(TRAINING, [Question("v", "v", COUNT)], str(folder))
