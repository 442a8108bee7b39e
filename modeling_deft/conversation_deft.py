"""A conversation about one clip, or about how two clips differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

MOST_CLIPS = 2


class DeftConversation:
    r"""
    Answers questions about one clip or two. The clips are measured and recognised once.

    Args:
        model: a [`DeftForConditionalGeneration`].
        processor: its [`DeftProcessor`].
        clips: one clip, or a list of two.
        messages (`list[dict]`, *optional*): earlier questions and answers. Blocks of type video in the first question
            stand for the clips, in their order; without any, the clips come before the first question.
        convention (`str`, *optional*): label convention of the classes; by default the mean of all conventions.
        grounded (`bool`): restrict the answers to true statements about the clips (requires llguidance).
        **clip_options: arguments of [`DeftVideoProcessor`], such as `key_frames`.

    Raises:
        ValueError: there are more than two clips, the messages have another number of clips or end with a question,
            or the model was not trained with this `convention`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        clips: Any,
        *,
        messages: Sequence[Mapping[str, Any]] = (),
        convention: str | None = None,
        grounded: bool = True,
        **clip_options: Any,
    ):
        self.model, self.processor, self.convention, self.grounded = model, processor, convention, grounded
        self.messages = [dict(message) for message in messages]
        inputs = processor.video_processor(clips, return_tensors="pt", return_metadata=True, **clip_options)
        self.not_measurable = inputs.pop("not_measurable")
        inputs.pop("video_metadata")
        self._deviation = inputs.pop("flow_deviation", None)
        self._tensors = {name: value.to(model.device) for name, value in inputs.items() if torch.is_tensor(value)}
        self.clips = len(self.not_measurable)
        if self.clips > MOST_CLIPS:
            raise ValueError(f"A conversation is about one clip or two; got {self.clips} clips.")
        if self.messages:
            _place_clips(self.messages, self.clips)
            if self.messages[-1]["role"] != "assistant":
                raise ValueError("The earlier messages end with a question. Pass it to `ask`.")
        if convention is not None:
            check_convention(model.config, convention)
            index = model.config.label_conventions.index(convention)
            self._tensors["convention_ids"] = torch.full((self.clips,), index, device=model.device)
        with torch.inference_mode():
            self._recognition = model.model(**self._tensors)

    @torch.inference_mode()
    def ask(self, question: str, *, streamer: Any = None, **generate_kwargs: Any) -> str:
        r"""
        Answers a question, and adds both to `messages`.

        Args:
            question (`str`): the question.
            streamer (`BaseStreamer`, *optional*): gets the answer's tokens as they are generated.
            **generate_kwargs: further arguments of `generate`.

        Raises:
            ValueError: the conversation and its answer do not fit into the language model's context.
            ImportError: the conversation is grounded and llguidance is not installed.
        """
        content = [{"type": "text", "text": question}]
        if not self.messages:
            content = [{"type": "video"}] * self.clips + content
        messages = [*self.messages, {"role": "user", "content": content}]
        answer = self._refusal()
        if answer is None:
            answer = self._generated(question, messages, streamer, generate_kwargs)
        elif streamer is not None:
            tokens = self.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
            streamer.put(tokens[:, :0])  # in the place of the prompt
            streamer.put(tokens)
            streamer.end()
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer

    def _refusal(self) -> str | None:
        """What is said instead of an answer if a clip cannot be measured."""
        for place, reason in zip(("first", "second"), self.not_measurable, strict=False):
            if reason is not None:
                name = "clip" if self.clips == 1 else f"{place} clip"
                return f"The {name} cannot be measured: {reason}"
        return None

    def _generated(self, question, messages, streamer, generate_kwargs) -> str:
        processor, tokenizer = self.processor, self.processor.tokenizer
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        text = text.replace(processor.video_token, processor.replace_video_token(self._tensors))
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        settings = {"max_new_tokens": 256, "do_sample": False, **generate_kwargs}
        longest = settings["max_new_tokens"]
        room = getattr(self.model.config.text_config, "max_position_embeddings", None)
        length = inputs["input_ids"].shape[1]
        if room is not None and length + longest > room:
            raise ValueError(
                f"The conversation has {length} tokens and its answer up to {longest}; the language model reads at "
                f"most {room}. Begin a new conversation, or reduce max_new_tokens."
            )
        if self.grounded:
            flow = self._tensors["flow_values_videos"]
            options = {"flow_deviation": self._deviation, "convention": self.convention}
            statements = processor.clip_statements(self._recognition, flow, **options)
            constraint = processor.reply_constraint(0, question, statements)
            settings["logits_processor"] = [*settings.get("logits_processor", ()), constraint]
        sequences = self.model.generate(
            inputs_embeds=self.model.model.embed_prompts(inputs["input_ids"], self._recognition),
            attention_mask=inputs["attention_mask"],
            streamer=streamer,
            **settings,
        )
        return tokenizer.decode(sequences[0], skip_special_tokens=True).strip()


def check_convention(config: Any, convention: str | None) -> None:
    r"""
    Checks that a model knows a label convention.

    Args:
        config ([`DeftConfig`]): the model's config.
        convention (`str`, *optional*): the convention; `None` is always known.

    Raises:
        ValueError: the model was not trained with it.
    """
    known = config.label_conventions
    if convention is not None and convention not in known:
        raise ValueError(f"`convention` is {convention!r}; the model was trained with {', '.join(known) or 'none'}.")


def question_of(messages: Sequence[Mapping[str, Any]], clips: int) -> tuple[list[dict], str]:
    r"""
    Splits messages into the earlier ones and the text of the last question.

    Args:
        messages (`list[dict]`): chat messages; the last one is a question.
        clips (`int`): number of clips.

    Raises:
        ValueError: the last message is not a question, or the blocks of type video do not fit the clips.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("The last message must be a question, with the role user.")
    placed = [dict(message) for message in messages]
    _place_clips(placed, clips)
    *earlier, last = placed
    return earlier, " ".join(block["text"] for block in last["content"] if block["type"] == "text")


def _place_clips(messages: list[dict], clips: int) -> None:
    """Makes blocks of all contents, and puts the clips before the first question if no message has them."""
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    counts = [sum(block["type"] == "video" for block in message["content"]) for message in messages]
    asked = next((index for index, message in enumerate(messages) if message["role"] == "user"), 0)
    if not any(counts):
        messages[asked]["content"] = [{"type": "video"}] * clips + list(messages[asked]["content"])
    elif counts[asked] != clips or sum(counts) != clips:
        raise ValueError(
            f"The messages have {sum(counts)} blocks of type video, and there are {clips} clips. Give each clip one "
            "block in the first question, or none."
        )


__all__ = ["DeftConversation", "check_convention", "question_of"]
