"""A conversation about one clip or two, which are read and recognised once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch


class Conversation:
    """
    Answers chat messages about clips. `DeftVideoTextToTextPipeline.conversation` makes one.

    Args:
        pipeline (`Any`): The pipeline, with model and processor.
        prepared (`Sequence[Mapping[str, Any]]`): What the pipeline's `preprocess` returns for one clip or two.
        convention (`str | None`, *optional*): Label convention to answer in, one of `config.label_conventions`.
        grounded (`bool`, *optional*, defaults to `True`): Whether answers consist of true statements about the clips.
    """

    def __init__(
        self,
        pipeline: Any,
        prepared: Sequence[Mapping[str, Any]],
        *,
        convention: str | None = None,
        grounded: bool = True,
    ):
        self.pipeline, self.prepared = pipeline, list(prepared)
        self.convention, self.grounded = convention, grounded
        self.messages: list[dict[str, Any]] = []
        self.frames_indices = [item["frames_indices"][0].tolist() for item in prepared]
        self.not_measurable = [item["not_measurable"][0] for item in prepared]
        device = pipeline.model.device
        deviations = [item.get("flow_deviation") for item in prepared]
        self.flow_deviation = None if any(one is None for one in deviations) else torch.cat(deviations)
        self.video_inputs = {
            name: torch.cat([item[name] for item in prepared]).to(device)
            for name in ("pixel_values_videos", "flow_values_videos")
        }

    @cached_property
    def recognition(self) -> Any:
        """The model's output for the clips. It is computed when the first question is asked."""
        conventions = None
        if self.convention:
            conventions = torch.cat([item["convention_ids"] for item in self.prepared]).to(self.pipeline.model.device)
        with torch.inference_mode():
            return self.pipeline.model.model(**self.video_inputs, convention_ids=conventions)

    def explain(self, clip: int = 0, **generate_kwargs) -> dict[str, Any]:
        """Explains one of the clips, as a call of the pipeline does.

        Args:
            clip: 0, or 1 for the second clip.
            generate_kwargs: Arguments of `generate`.
        """
        options = {"convention": self.convention} if self.convention else {}
        outputs = self.pipeline.forward(self.prepared[clip], generate_kwargs=generate_kwargs, **options)
        return self.pipeline.postprocess(outputs)

    def ask(self, question: str, **generate_kwargs) -> str:
        """Asks one more question, and returns the answer. Both become part of the conversation.

        Args:
            question: The question.
            generate_kwargs: Arguments of `generate`, such as `streamer`.
        """
        clips = [] if self.messages else [{"type": "video"}] * len(self.frames_indices)
        user = {"role": "user", "content": [*clips, {"type": "text", "text": question}]}
        answer = self.answer([*self.messages, user], **generate_kwargs)
        self.messages += [user, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer

    def answer(self, messages: Sequence[Mapping[str, Any]], **generate_kwargs) -> str:
        """Answers the last of the messages.

        Args:
            messages: Chat messages in transformers' format, with one block of type video per clip.
            generate_kwargs: Arguments of `generate`, such as `streamer`.

        Raises:
            ImportError: The answer is to be grounded, and llguidance is not installed.
            ValueError: The messages do not have one video block per clip, do not end with a question, or are longer
                than the language model's context, alone or with the answer.
        """
        questions = _questions(messages, len(self.frames_indices))
        processor, model = self.pipeline.processor, self.pipeline.model
        text = processor.apply_chat_template(_plain(messages), add_generation_prompt=True, tokenize=False)
        measured = {**self.video_inputs, "flow_deviation": self.flow_deviation, "recognition": self.recognition}
        for place in range(len(self.frames_indices)):
            section = processor.replace_video_token(measured, place)
            text = text.replace(processor.video_token, section, 1)
        inputs = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        kwargs = self.pipeline._prepare_generate_kwargs(generate_kwargs)
        length = inputs["input_ids"].shape[1]
        _check_length(model, length + 1)
        if self.grounded or any(self.not_measurable):  # nothing is made up about a clip that cannot be measured
            constraint = processor.conversation_constraint(
                0,
                questions,
                self.recognition,
                flow_values_videos=self.video_inputs["flow_values_videos"],
                flow_deviation=self.flow_deviation,
                not_measurable=self.not_measurable,
                convention=self.convention,
            )
            kwargs["logits_processor"] = [*kwargs.get("logits_processor", ()), constraint]
        with torch.inference_mode():
            prompt = model.model.embed_prompts(inputs["input_ids"], self.recognition)
            tokens = model.generate(inputs_embeds=prompt, attention_mask=inputs["attention_mask"], **kwargs)
        _check_length(model, length + tokens.shape[1])
        return processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def _questions(messages: Sequence[Mapping[str, Any]], clips: int) -> list[str]:
    """The texts of the user's messages, after a check of the conversation."""
    if not messages or messages[-1].get("role") != "user":
        last = messages[-1].get("role") if messages else "nothing"
        raise ValueError(f"A conversation must end with a question of the user; it ends with {last}.")
    blocks = [block for message in messages for block in _blocks(message)]
    videos = sum(block.get("type") == "video" for block in blocks)
    if videos != clips:
        raise ValueError(
            f"The messages have {videos or 'no'} block{'' if videos == 1 else 's'} of type video, and {clips} "
            f"{'clip was' if clips == 1 else 'clips were'} passed. Give one block {{'type': 'video'}} per clip."
        )
    questions = [
        " ".join(block["text"] for block in _blocks(message) if block.get("type") == "text")
        for message in messages
        if message["role"] == "user"
    ]
    if not questions[-1].strip():
        raise ValueError("The last message has no question: give it a block of type text.")
    return questions


def _blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": message["role"], "content": _blocks(message)} for message in messages]


def _check_length(model: Any, length: int) -> None:
    """Raises `ValueError` if a conversation with its answer, or the beginning of one, does not fit."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ValueError(
            f"The conversation needs {length} tokens or more, and the language model's context holds {longest}. Leave "
            "out earlier turns, or start a new conversation."
        )
