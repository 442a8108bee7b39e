"""The tokenizer of a new model: trained on a dataset, or that of a pretrained language model with our tokens added."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from deft_llm.processing.processing_deft import CHAT_TOKENS, SPECIAL_TOKENS

CHATML = "chatml"
# Put before the template of a language model, which expects text as content: makes text of the content blocks.
_TEXT_OF_BLOCKS = (
    "{%- macro text_of(message) -%}{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for block in message.content -%}"
    "{%- if block.type == 'video' -%}<|video|>{%- elif block.type == 'text' -%}{{ block.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text_of(message))] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


def train_tokenizer(conversations: list[list[dict]], vocab_size: int) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE tokenizer on the texts of the conversations. It encodes any text without loss.

    Args:
        conversations: The conversations of each row.
        vocab_size: Largest size of the vocabulary.
    """
    texts = [
        block["text"]
        for row in conversations
        for conversation in row
        for message in conversation["messages"]
        for block in message["content"]
        if block["text"]
    ]
    tokenizer = Tokenizer(models.BPE())
    # Each digit is a token, so that the model reads a number digit by digit.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", *CHAT_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*control, *SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CHAT_TOKENS[-1],
        pad_token="<|endoftext|>",
        additional_special_tokens=[CHAT_TOKENS[0], *SPECIAL_TOKENS],
        model_max_length=4096,
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> str | None:
    """Adds the placeholders to a pretrained tokenizer, and makes the token that ends a turn its end token.

    Args:
        tokenizer: The tokenizer, which is changed.
        chat_template: "chatml" for ChatML, whose tokens are added if they are missing; `None` for the tokenizer's own
            template.

    Returns:
        The processor's chat template; `None` for ChatML.

    Raises:
        ValueError: The tokenizer has no chat template, or its template does not end an answer with a special token.
    """
    if chat_template not in (None, CHATML):
        raise ValueError(f"`chat_template` must be {CHATML} or left out; got {chat_template!r}.")
    if chat_template is None and not tokenizer.chat_template:
        raise ValueError(
            "The tokenizer of `text` has no chat template. Use an instruction-tuned model, or set `chat_template: "
            f"{CHATML}` to train the model on ChatML."
        )
    # Placeholders first: chat tokens with larger ids are then those that the vocabulary lacked.
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    if chat_template == CHATML:
        tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL_TOKENS, *CHAT_TOKENS]})
        tokenizer.eos_token, tokenizer.chat_template = CHAT_TOKENS[-1], None
        own = None
    else:
        own = _TEXT_OF_BLOCKS + tokenizer.chat_template
        tokenizer.eos_token = _end_of_turn(tokenizer, own)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return own


def added_chat_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the chat tokens that `prepare_tokenizer` added to the vocabulary."""
    last = max(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in CHAT_TOKENS if vocabulary.get(token, -1) > last]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The special token with which a template ends an answer."""
    question, answer = "a question", "an answer"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    after = tokenizer(text.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not after or after[0] not in special:
        raise ValueError(
            "The chat template of `text` does not end an answer with a special token, so that generation would not "
            f"stop. Set `chat_template: {CHATML}`."
        )
    return tokenizer.convert_ids_to_tokens(after[0])
