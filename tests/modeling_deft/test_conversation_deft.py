import io
import sys
from contextlib import redirect_stdout

import pytest
from transformers import TextStreamer

from deft_llm.modeling_deft import DeftVideoTextToTextPipeline
from deft_llm.processing.clip_statements import knowledge


@pytest.fixture(scope="module")
def pipe(model, processor):
    return DeftVideoTextToTextPipeline(model=model, processor=processor, max_new_tokens=120)


@pytest.fixture(scope="module")
def talk(pipe, brow_video):
    """A conversation about a clip; its clip is not read again."""
    return pipe.conversation(str(brow_video))


@pytest.fixture(autouse=True)
def fresh(talk):
    talk.messages.clear()


def user(text, clips=0):
    return {"role": "user", "content": [*[{"type": "video"}] * clips, {"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_answers_are_about_what_was_asked(talk):
    """The model is untrained: whatever is said is said because of the constraint."""
    assert talk.ask("What would you expect to see for AU9?") == knowledge("AU9")
    assert talk.ask("Is there an AU12?") == "No, AU12 (lip corner puller) is not visible in the motion."
    answer = talk.ask("How does the inner brow on the left move?")
    assert answer.startswith("The left inner brow moves down")
    assert answer.endswith("% of the crop width.")
    assert talk.ask("Where is AU14?") == "Motion in the image cannot show AU14 (dimpler)."
    assert talk.ask("And the chin on the right?") == "The right chin does not move above the noise of the clip."
    assert len(talk.messages) == 10


def test_a_call_with_messages_is_the_same_conversation(pipe, talk, brow_video):
    first = talk.ask("Is there an AU12?")
    second = talk.ask("Which side is it on?")
    assert "AU12" in second
    messages = [user("Is there an AU12?", clips=1), assistant(first), user("Which side is it on?")]
    result = pipe(str(brow_video), text=messages)
    assert result["generated_text"] == second
    assert result["frames_indices"] == talk.frames_indices[0]


def test_the_experts_look_once_at_a_conversations_clip(pipe, brow_video):
    calls = []
    hook = pipe.model.model.recognition.motion_expert.register_forward_hook(lambda *_: calls.append(1))
    talk = pipe.conversation(str(brow_video))
    assert not calls  # nothing was asked yet
    talk.ask("Is there an AU12?")
    talk.ask("Is there an AU9?")
    hook.remove()
    assert len(calls) == 1


def test_a_conversation_explains_its_clip(pipe, talk, brow_video):
    assert talk.explain() == pipe(str(brow_video))
    assert (
        talk.explain(max_new_tokens=3)["generated_text"] == pipe(str(brow_video), max_new_tokens=3)["generated_text"]
    )


def test_two_clips_are_compared(pipe, brow_video, still_video):
    question = user("What differs between the clips?", clips=2)
    clips = [str(brow_video), str(still_video)]
    result = pipe(clips, text=[question])
    assert "second" in result["generated_text"]
    assert [len(frames) for frames in result["frames_indices"]] == [8, 8]
    told = pipe(clips, text=[user("How does the inner brow on the left move in the second clip?", clips=2)])
    assert told["generated_text"] == (
        "In the second clip: the left inner brow does not move above the noise of the clip."
    )


def test_nothing_is_claimed_about_a_still_clip(pipe, still_video):
    talk = pipe.conversation(str(still_video))
    assert talk.ask("Is AU4 there?") in (
        "No, AU4 (brow lowerer) is not visible in the motion.",
        "AU4 (brow lowerer) is recognised, but the motion does not bear it out.",
    )
    assert talk.ask("Which emotion is it?") == "The clip shows insufficient motion."
    assert talk.ask("Could this be surprise?") == "The clip shows insufficient motion."
    assert talk.ask("What moves most?") == "No region moves above the noise of the clip."


def test_a_clip_that_cannot_be_measured_says_why(pipe, lost_video):
    for grounded in (True, False):
        answer = pipe.conversation(str(lost_video), grounded=grounded).ask("Which emotion is it?")
        assert answer.startswith("The clip cannot be measured: ")
        assert "cannot be followed" in answer


def test_tokens_are_streamed(pipe, brow_video):
    streamer = TextStreamer(pipe.processor.tokenizer, skip_special_tokens=True)
    with redirect_stdout(io.StringIO()) as told:
        result = pipe(str(brow_video), text=[user("Is there an AU12?", clips=1)], streamer=streamer)
    assert told.getvalue().strip() == result["generated_text"]
    with redirect_stdout(io.StringIO()) as told:
        explained = pipe(str(brow_video), streamer=streamer, max_new_tokens=900)
    assert told.getvalue().strip() == explained["generated_text"].strip()


def test_the_prompt_says_what_was_recognised(pipe, brow_video, still_video, monkeypatch):
    monkeypatch.setattr(pipe.processor, "recognition_in_words", True)
    told = []
    tokenizer = type(pipe.processor.tokenizer)
    call = tokenizer.__call__
    monkeypatch.setattr(
        tokenizer, "__call__", lambda self, text, **kwargs: told.append(text) or call(self, text, **kwargs)
    )
    pipe.conversation([str(brow_video), str(still_video)]).ask("What differs?", max_new_tokens=2)
    first, second = told[-1].split("Recognised: ")[1:]
    assert first.startswith("AU")
    assert second.partition("\n")[0].endswith(". Emotion: insufficient motion")


def test_free_answers_are_the_language_models(pipe, talk, brow_video):
    free = pipe(str(brow_video), text=[user("Is there an AU12?", clips=1)], grounded=False, max_new_tokens=8)
    assert free["generated_text"] != talk.ask("Is there an AU12?")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user("What moves?")], "no blocks of type video, and 1 clip was passed"),
        ([user("What moves?", clips=2)], "2 blocks of type video, and 1 clip was"),
        (
            [user("What moves?", clips=1), assistant("The brows.")],
            "must end with a question of the user; .* assistant",
        ),
        ([], "ends with nothing"),
        ([{"role": "user", "content": [{"type": "video"}]}], "no question"),
        ([user("Is AU99 there?", clips=1)], "AU99"),
        (
            [user("What moves? " * 600, clips=1)],
            r"needs \d+ tokens or more, .*context holds 1024",
        ),
    ],
)
def test_a_wrong_conversation_is_named(talk, messages, message):
    with pytest.raises(ValueError, match=message):
        talk.answer(messages)


def test_more_clips_than_blocks(pipe, brow_video, still_video):
    clips = [str(brow_video), str(still_video)]
    with pytest.raises(ValueError, match="1 block of type video, and 2 clips were passed"):
        pipe(clips, text=[user("What differs?", clips=1)])
    with pytest.raises(ValueError, match="one clip or two, got 3"):
        pipe.conversation([*clips, clips[0]])


def test_without_llguidance_it_says_what_to_do(talk, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"pip install llguidance.*grounded=False"):
        talk.ask("What moves?")
    assert talk.messages == []


def test_an_answer_that_outgrows_the_context_is_refused(talk, monkeypatch):
    question = user("Is there an AU12?", clips=1)
    talk.answer([question])
    text = talk.pipeline.model.config.get_text_config()
    processor = talk.pipeline.processor
    prompt = processor.render_prompt([question], talk.video_inputs)
    length = len(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    monkeypatch.setattr(text, "max_position_embeddings", length + 3)
    with pytest.raises(ValueError, match=f"context holds {length + 3}"):
        talk.answer([question])
