import copy
import re

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, pipeline

from deft_llm.hub_datasets.unimer.constraints import SUPPORTED, Judgement
from deft_llm.hub_datasets.unimer.instructions import accept_facts, conversations_of
from deft_llm.hub_datasets.unimer.rewriting import (
    FAILED,
    NOT_FREE,
    REFUSED,
    REWRITTEN,
    UNCHANGED,
    RewriteReport,
    endpoint_chat,
    pipeline_chat,
    rewrite,
    rewrite_all,
)
from deft_llm.processing.motion_evidence import RegionMotion


def conversation(task: str, question: str, answer: str) -> dict:
    user = [{"type": "video", "text": None}, {"type": "text", "text": question}]
    messages = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return {"task": task, "messages": messages}


def answer_of(item: dict) -> str:
    return item["messages"][-1]["content"][0]["text"]


SIDE = conversation("side", "Which side of the face shows AU12 (lip corner puller)?", "It is on the left side.")
LIST = conversation(
    "action_units", "What action units can be seen moving?", "The motion shows AU4 brow lowerer, AU7 lid tightener."
)
YES = conversation("action_unit_presence", "Does the face show AU4 (brow lowerer)?", "Yes, the face shows AU4.")
NO = conversation("action_unit_presence", "Does the face show AU4 (brow lowerer)?", "No, the face does not show AU4.")
REGION = conversation("region_motion", "How does the chin on the left move?", "It moves up by 0.9 %.")
EXPLAIN = conversation(
    "explain",
    "Explain it by the convention of samm. Answer in three fields.",
    "Class: anger\nEvidence: AU4 brow lowerer, left side, inner brow moves down and medially by 0.9 %\n"
    "Rationale: The brows lower and draw together on the left; by the convention of samm this is anger.",
)


@pytest.mark.parametrize(
    ("item", "reply", "answer"),
    [
        (SIDE, "AU12 is seen on the left side of the face.", None),
        (LIST, '"Lid tightener (AU7) and brow lowerer (AU4) are active in this clip."\n', None),
        (YES, "Yes: brow lowerer (AU4) is present here.", None),
        (NO, "No, AU4 is not visible on this face.", None),
        (REGION, "The chin shifts upwards by 0.9 percent of the crop width.", None),
        (
            EXPLAIN,
            "This is read as anger by the convention of samm: brow lowerer (AU4) on the left side.",
            "Class: anger\nEvidence: AU4 brow lowerer, left side, inner brow moves down and medially by 0.9 %\n"
            "Rationale: This is read as anger by the convention of samm: brow lowerer (AU4) on the left side.",
        ),
    ],
)
def test_other_words_for_the_same_facts_are_kept(item, reply, answer):
    before = copy.deepcopy(item)
    prompts = []
    result = rewrite(item, lambda prompt: prompts.append(prompt) or reply)
    assert (result.outcome, result.reason) == (REWRITTEN, "")
    assert answer_of(result.conversation) == (answer or " ".join(reply.split()).strip('"'))
    assert result.conversation["messages"][0] == item["messages"][0]
    assert item == before
    assert answer_of(item).splitlines()[-1].removeprefix("Rationale: ") in prompts[0]


@pytest.mark.parametrize(
    ("item", "reply", "reason"),
    [
        (LIST, "The motion shows AU4.", "lost .*AU7.*added \\[\\]"),  # drops
        (LIST, "The motion shows AU4, AU7 and AU12.", "lost \\[\\], added .*AU12"),  # adds
        (LIST, "The motion shows AU4 but not AU7.", "'but'"),
        (LIST, "The motion does not show AU4, AU7.", "'not'"),  # denies
        (LIST, "AU4 and AU7 are absent.", "'absent'"),
        (SIDE, "It is on the right side.", "lost .*left.*added .*right"),  # changes
        (SIDE, "It is hardly on the left side.", "'hardly'"),
        (SIDE, "It is on the left side, which shows that the person lies.", "'lies'"),  # adds what no list knows
        (YES, "No, the face does not show AU4.", "lost .*present.*added .*absent"),
        (NO, "No, AU4 is seen, nothing else moves.", "'else'|denies"),
        (NO, "The face shows AU4.", "neither yes nor no"),
        (REGION, "It moves up by 0.9 % and a bit to the left.", "'bit'"),
        (REGION, "It moves up by 0.8 %.", "0.9.*0.8"),
        (EXPLAIN, "The brows lower and draw together on the left.", "expected one emotion"),
        (EXPLAIN, "The brow lowerer on the left is disgust.", "the rationale disagrees"),
        (EXPLAIN, "The brow lowerer is anger.", "the rationale disagrees"),
        (EXPLAIN, "The brow lowerer on the left is not anger.", "'not'"),
        (EXPLAIN, "AU4 on the left is anger.\nClass: disgust", "expected one emotion"),
        (SIDE, "", "expected one side"),
        (SIDE, "Sure! Here is it: it is on the left side.", "'Sure'"),
    ],
)
def test_other_facts_are_refused_and_the_original_stays(item, reply, reason):
    result = rewrite(item, lambda prompt: reply)
    assert result.outcome == REFUSED
    assert result.conversation is item
    assert re.search(reason, result.reason), result.reason


def test_prescribed_forms_are_never_given_to_the_model():
    def chat(prompt):
        raise AssertionError("asked")

    bare = conversation("emotion", "One word: which emotion is it by the convention of samm?", "anger")
    track = conversation("me_vqa_presence", "Is the action unit brow lowerer shown on the face?", "yes")
    still = conversation("side", "Where is AU4: left, right or both sides?", "There is insufficient motion.")
    for item in (bare, track, still):
        assert rewrite(item, chat).outcome == NOT_FREE


def test_failures_are_counted_and_reported(caplog):
    replies = iter([TimeoutError("no answer in 60 s"), "It is on the left side.", None, "On the left side.", "right"])

    def chat(prompt):
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    track = conversation("me_vqa_presence", "Is the action unit brow lowerer shown on the face?", "yes")
    results, report = rewrite_all([SIDE, track, SIDE, SIDE, SIDE, SIDE], chat)
    assert [answer_of(item) for item in results[:-2]] == [answer_of(item) for item in (SIDE, track, SIDE, SIDE)]
    assert [answer_of(item) for item in results[-2:]] == ["On the left side.", answer_of(SIDE)]
    assert report.outcomes == {FAILED: 2, NOT_FREE: 1, UNCHANGED: 1, REWRITTEN: 1, REFUSED: 1}
    assert report.reasons["failed: TimeoutError: no answer in 60 s"] == 1
    assert report.reasons["failed: TypeError: the chat model returned NoneType, not text"] == 1
    assert "no answer in 60 s" in caplog.text
    assert "2 failed" in str(report)
    assert "no answer in 60 s" in str(report)


def test_a_model_that_is_not_there_ends_the_run():
    calls = []

    def chat(prompt):
        calls.append(prompt)
        raise OSError("refused")

    report = RewriteReport()
    with pytest.raises(ConnectionError, match=r"failed 10 times in a row.*refused.*Check that it is running"):
        rewrite_all([SIDE] * 50, chat, report=report)
    assert len(calls) == report.outcomes[FAILED] == 10


def test_an_answer_that_cannot_be_read_before_is_an_error():
    with pytest.raises(ValueError, match="'maybe'"):
        rewrite(conversation("side", "Where is AU4?", "On the left, maybe."), lambda prompt: "left")


def test_an_openai_compatible_endpoint(endpoint):
    address, requests, settings = endpoint
    settings["reply"] = "AU12 shows on the left."
    chat = endpoint_chat(address + "/v1", "local-model", max_tokens=50, temperature=0.3, seed=9)
    result = rewrite(SIDE, chat)
    assert (result.outcome, answer_of(result.conversation)) == (REWRITTEN, "AU12 shows on the left.")
    ((path, authorization, body),) = requests
    assert path == "/v1/chat/completions"
    assert "hf_of_the_person" not in authorization
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("local-model", 50, 0.3, 9)
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert "It is on the left side." in message["content"]
    endpoint_chat(address, "local-model", api_key="own-key")("hello")
    assert requests[1][:2] == ("/v1/chat/completions", "Bearer own-key")


def test_an_endpoint_that_fails_or_is_slow_keeps_the_original(endpoint):
    address, _, settings = endpoint
    settings["status"] = 503
    result = rewrite(SIDE, endpoint_chat(address, "m"))
    assert (result.outcome, result.conversation) == (FAILED, SIDE)
    assert "503" in result.reason
    settings.update(status=200, delay=1.0)
    result = rewrite(SIDE, endpoint_chat(address, "m", timeout=0.2))
    assert (result.outcome, result.conversation) == (FAILED, SIDE)
    assert "timed out" in result.reason


def test_a_local_pipeline(processor):
    """Random weights write nonsense, which is refused: nothing of it gets into the data."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = processor.chat_template
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    generator = pipeline("text-generation", model=AutoModelForCausalLM.from_config(config), tokenizer=tokenizer)
    chat = pipeline_chat(generator, max_new_tokens=12)
    reply = chat("Say it in other words: it is on the left side.")
    assert isinstance(reply, str)
    assert "in other words" not in reply  # the prompt is not part of the reply
    assert reply == chat("Say it in other words: it is on the left side.")
    result = rewrite(SIDE, chat)
    assert (result.outcome, result.conversation) == (REFUSED, SIDE)


def test_every_conversation_of_a_clip_can_be_given():
    """The loop over a clip's real conversations: what the model echoes is unchanged, and every answer is readable."""
    motions = [
        RegionMotion("mouth corner", side, 1.1, "up and laterally", 0.9, side == "left") for side in ("left", "right")
    ]
    judged = [Judgement("AU12", "left", "mouth corner", SUPPORTED, 1.0, 1.1, "up and laterally")]
    facts = accept_facts(judged, motions, emotion="Joyful", emotion_coarse="positive", convention="CAS(ME)^3")
    report = RewriteReport()
    for seed in range(20):
        conversations = conversations_of(facts, np.random.default_rng(seed))
        kept, _ = rewrite_all(
            conversations, lambda prompt: prompt.rsplit("Statement: ", 1)[1], emotions=["Joyful", None], report=report
        )
        assert kept == conversations
    assert set(report.outcomes) == {UNCHANGED, NOT_FREE}
    assert report.outcomes[UNCHANGED] > 50
