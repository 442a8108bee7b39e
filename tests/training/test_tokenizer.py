import copy

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deft_llm.processing import DeftProcessor, DeftVideoProcessor
from deft_llm.processing.processing_deft import CHAT_TOKENS, SPECIAL_TOKENS
from deft_llm.training.parts import add_adapters
from deft_llm.training.tokenizer import added_chat_tokens, prepare_tokenizer, train_tokenizer
from deft_llm.training.tuning import TuningArguments
from tests.gguf_files import SYSTEM, TEMPLATE, write_gguf

QUESTION = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what moves?"}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "the chin"}]}


@pytest.fixture
def pretrained(tmp_path):
    def make(template=TEMPLATE):
        write_gguf(tmp_path / "text.gguf", template=template)
        return AutoTokenizer.from_pretrained(tmp_path, gguf_file="text.gguf")

    return make


def test_a_trained_tokenizer_encodes_any_text_digit_by_digit(dataset):
    tokenizer = train_tokenizer(dataset["conversations"], 400)
    for text in ("AU12 moves up by 1.25 %", "ünïcode 表情"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert {"1", "2"} <= set(tokenizer.tokenize("12"))
    assert len(tokenizer) <= 400


def test_the_base_models_chat_template_is_used_with_clips(pretrained):
    tokenizer = pretrained()
    before = len(tokenizer)
    processor = DeftProcessor(DeftVideoProcessor(), tokenizer, chat_template=prepare_tokenizer(tokenizer))
    text = processor.apply_chat_template([QUESTION, ANSWER, QUESTION], add_generation_prompt=True, tokenize=False)
    turn = "<|im_start|>user\n<|video|>what moves?<|im_end|>\n"
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{turn}<|im_start|>assistant\nthe chin<|im_end|>\n{turn}"
        "<|im_start|>assistant\n"
    )
    assert len(tokenizer) == before + len(SPECIAL_TOKENS)
    assert tokenizer.eos_token == "<|im_end|>"
    assert added_chat_tokens(tokenizer) == []


def test_the_end_of_a_turn_is_found_in_the_template(pretrained):
    tokenizer = pretrained(TEMPLATE.replace("<|im_end|>", "<|endoftext|>"))
    prepare_tokenizer(tokenizer)
    assert tokenizer.eos_token == "<|endoftext|>"


def test_without_a_chat_template_the_choice_is_the_users(pretrained):
    with pytest.raises(ValueError, match=r"has no chat template\. Use an instruction-tuned model, or set"):
        prepare_tokenizer(pretrained(None))
    tokenizer = pretrained(None)
    assert prepare_tokenizer(tokenizer, "chatml") is None
    assert tokenizer.eos_token == CHAT_TOKENS[-1]
    with pytest.raises(ValueError, match="`chat_template` must be chatml or left out; got 'llama'"):
        prepare_tokenizer(pretrained(), "llama")


def test_a_template_that_does_not_end_a_turn_is_refused(pretrained):
    endless = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="does not end an answer with a special token"):
        prepare_tokenizer(pretrained(endless))


def test_chat_tokens_that_the_vocabulary_lacks_are_known_as_new(pretrained):
    tokenizer = pretrained(None)
    backend = tokenizer.backend_tokenizer.to_str().replace(CHAT_TOKENS[0], "<|other|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend))
    before = len(tokenizer)
    prepare_tokenizer(tokenizer, "chatml")
    assert added_chat_tokens(tokenizer) == [before + len(SPECIAL_TOKENS)]
    assert tokenizer.convert_ids_to_tokens(added_chat_tokens(tokenizer)) == [CHAT_TOKENS[0]]


def test_embeddings_of_new_tokens_are_trained_beside_lora(model, tmp_path):
    own = copy.deepcopy(model)
    before = own.get_input_embeddings().weight.detach().clone()
    adapted = add_adapters(own, TuningArguments(use_peft=True, stage="language"), str(tmp_path), [7])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    tokens = torch.tensor([[3, 7, 5, 7, 9]])
    adapted(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    after = adapted.merge_and_unload().get_input_embeddings().weight
    others = torch.arange(len(before)) != 7
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[7], before[7])
