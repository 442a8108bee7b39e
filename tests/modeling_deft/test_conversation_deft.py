import pytest
from transformers import TextIteratorStreamer

from deft_llm.modeling_deft import DeftVideoTextToTextPipeline
from deft_llm.modeling_deft.conversation_deft import DeftConversation, question_of
from deft_llm.processing import DeftVideoProcessor


@pytest.fixture
def begin(model, processor):
    return lambda clips, **options: DeftConversation(model, processor, clips, **options)


def allowed(conversation, question):
    """The answers that are true."""
    from deft_llm.processing.clip_statements import answering, differences, replies

    flow, deviation = conversation._tensors["flow_values_videos"], conversation._deviation
    found = conversation.processor.clip_statements(conversation._recognition, flow, flow_deviation=deviation)
    return replies(answering(question, found[0] if len(found) == 1 else differences(*found)))


def test_every_turn_is_a_true_statement_and_is_remembered(begin, brow_video):
    conversation = begin(str(brow_video))
    for question in ("Which side moved?", "Is AU9 there?", "How does the left inner brow move?", "Anything else?"):
        assert conversation.ask(question) in allowed(conversation, question)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 4
    kinds = [block["type"] for message in conversation.messages for block in message["content"]]
    assert kinds == ["video", *["text"] * 8]


def test_the_clip_is_measured_and_recognised_once(begin, model, brow_video, monkeypatch):
    conversation = begin(str(brow_video))
    fail = lambda *_, **__: pytest.fail("the clip was read again")  # noqa: E731
    monkeypatch.setattr(DeftVideoProcessor, "_process_clip", fail)
    monkeypatch.setattr(model.model.recognition, "forward", fail)
    assert conversation.ask("What moves?")


def test_two_clips_are_compared_in_one_prompt(begin, brow_video, still_video):
    conversation = begin([str(brow_video), str(still_video)])
    assert conversation.ask("What differs?") in allowed(conversation, "What differs?")
    assert [block["type"] for block in conversation.messages[0]["content"]] == ["video", "video", "text"]
    with pytest.raises(ValueError, match="about one clip or two; got 3 clips"):
        begin([str(brow_video)] * 3)


def test_tokens_are_streamed(begin, brow_video, processor):
    conversation = begin(str(brow_video))
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    answer = conversation.ask("Which emotion?", streamer=streamer)
    assert "".join(streamer).strip() == answer


def test_free_answers_are_the_language_models(begin, brow_video):
    conversation = begin(str(brow_video), grounded=False)
    assert conversation.ask("Which emotion?", max_new_tokens=3) not in allowed(conversation, "Which emotion?")


def test_a_clip_that_cannot_be_measured_is_not_talked_about(begin, brow_video, still_video, monkeypatch, processor):
    preprocess = DeftVideoProcessor.preprocess

    def marked(self, videos, **kwargs):
        features = preprocess(self, videos, **kwargs)
        features["not_measurable"][-1] = "The face leaves the picture."
        return features

    monkeypatch.setattr(DeftVideoProcessor, "preprocess", marked)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    answer = begin(str(brow_video)).ask("Which emotion?", streamer=streamer)
    assert answer == "".join(streamer) == "The clip cannot be measured: The face leaves the picture."
    both = begin([str(brow_video), str(still_video)])
    assert both.ask("What differs?") == "The second clip cannot be measured: The face leaves the picture."


def test_the_pipeline_answers_the_last_message(model, processor, brow_video):
    pipe = DeftVideoTextToTextPipeline(model=model, processor=processor)
    first = pipe(str(brow_video), text=[{"role": "user", "content": "Which side moved?"}])
    turn = {"role": "user", "content": [{"type": "text", "text": "Is AU4 there?"}]}
    second = pipe(str(brow_video), text=[*first["messages"], turn])
    assert len(second["messages"]) == 4
    assert second["messages"][:2] == first["messages"]
    assert second["generated_text"] == second["messages"][-1]["content"][0]["text"]
    assert "AU4" in second["generated_text"]
    conversation = pipe.conversation(str(brow_video))
    assert conversation.ask("Which side moved?") == first["generated_text"]
    assert conversation.ask("Is AU4 there?") == second["generated_text"]


def test_messages_that_do_not_fit_are_refused(begin, brow_video):
    video, question = {"type": "video"}, {"type": "text", "text": "?"}
    asked = {"role": "user", "content": [video, question]}
    said = {"role": "assistant", "content": "It is still."}
    with pytest.raises(ValueError, match="last message must be a question"):
        question_of([asked, said], 1)
    with pytest.raises(ValueError, match="last message must be a question"):
        question_of([], 1)
    with pytest.raises(ValueError, match="have 1 blocks of type video, and there are 2 clips"):
        question_of([asked], 2)
    with pytest.raises(ValueError, match="have 1 blocks of type video, and there are 1 clips"):
        question_of([{"role": "user", "content": "?"}, said, asked], 1)
    with pytest.raises(ValueError, match=r"end with a question\. Pass it to `ask`"):
        begin(str(brow_video), messages=[asked])
    with pytest.raises(ValueError, match="`convention` is 'nobody'; the model was trained with"):
        begin(str(brow_video), convention="nobody")
    earlier, text = question_of([asked, said, {"role": "user", "content": "and now?"}], 1)
    assert text == "and now?"
    assert earlier[0]["content"] == [video, question]


def test_a_conversation_that_does_not_fit_says_so(begin, model, brow_video, monkeypatch):
    conversation = begin(str(brow_video))
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 300)
    with pytest.raises(ValueError, match=r"has \d+ tokens and its answer up to 256; the language model reads"):
        conversation.ask("Which side moved?")
    assert conversation.messages == []
