import itertools
import time
from itertools import pairwise
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from deft_llm.processing.video_reading import DamagedVideoError, NotAVideoError, VideoReadError, VideoTooLargeError
from drawing import draw
from explaining import ClipProblem, Explainer, _check_length, _loading_problem, _reading_problem


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (7200, 1.0, "2 h 0 min long"),
        (9000, 25.0, "6 minutes long"),
        (500, 25.0, "20 seconds long"),
        (4000, None, "4000 frames"),
        (1, 25.0, "single picture"),
        (5, 25.0, "only 5 frames"),
    ],
)
def test_lengths_that_are_refused(frames, fps, words):
    with pytest.raises(ClipProblem, match=words):
        _check_length(frames, fps)


def test_lengths_that_are_read():
    for frames, fps in ((8, 25.0), (2000, 200.0), (250, 25.0), (3000, None)):
        _check_length(frames, fps)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NotAVideoError, "is not a video that can be read"),
        (VideoTooLargeError, "pictures of this clip are too large"),
        (DamagedVideoError, "damaged or cut off"),
        (VideoReadError, "cannot be read"),
    ],
)
def test_reading_errors_are_told_apart_by_their_class(kind, words):
    assert words in _reading_problem(kind("not a video at most too large"))


def refused(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An error of the Hub's client, as transformers has it for the cause of its own."""
    return kind("no", response=httpx.Response(status, request=httpx.Request("GET", "https://hub")))


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (refused(GatedRepoError, 403), "access must be requested"),
        (refused(HfHubHTTPError, 403), "access must be requested"),
        (refused(RepositoryNotFoundError, 401), "there is no such model"),
        (refused(HfHubHTTPError, 404), "there is no such model"),
        (refused(HfHubHTTPError, 401), "does not accept this Space's token"),
        (LocalEntryNotFoundError("not cached"), "does not answer"),
        (httpx.ConnectTimeout("slow"), "does not answer"),
        (ConnectionError("cut"), "does not answer"),
        (KeyError("model_type"), "do not fit this program"),
    ],
)
def test_why_a_model_cannot_be_loaded_is_told_by_the_kind_of_error(cause, words):
    error = OSError("words that say nothing")
    error.__cause__ = cause
    assert words in _loading_problem("org/model", error)


def test_a_model_that_failed_is_not_loaded_again_at_once(monkeypatch):
    explainer, asked = Explainer("org/nowhere"), []

    def load():
        asked.append(1)
        raise OSError("org/nowhere is not a valid model identifier") from refused(RepositoryNotFoundError, 404)

    monkeypatch.setattr(explainer, "_load", load)
    for _ in range(3):
        with pytest.raises(ClipProblem, match="there is no such model") as caught:
            explainer.load()
        assert caught.value.status == 503
    assert asked == [1]


def test_no_path_and_no_token_is_told(tmp_path):
    told = _loading_problem(str(tmp_path), RuntimeError(f"{tmp_path}/config.json hf_secret"))
    assert str(tmp_path) not in told
    assert "hf_secret" not in told


def test_the_evidence_is_what_the_scores_say(folder, brow_video):
    """An untrained model may not name other units than it scores, nor leave the form."""
    report = Explainer(str(folder), max_new_tokens=900).explain(str(brow_video), "crop").to_json()
    assert report["parsed"]
    scored = {code for code, score in report["action_unit_scores"].items() if score >= 0.5}
    assert {unit["code"] for unit in report["action_units"]} == scored


def test_a_clip_without_a_measurable_stretch_is_a_result_with_the_reason(folder, tiny_video):
    explanation = Explainer(str(folder)).explain(str(tiny_video), "crop")
    assert explanation.report["status"] == "not_measurable"
    assert explanation.report["reason"].startswith("the face is too small")
    written = explanation.to_json()
    assert (written["key_frames"], written["action_unit_scores"], written["experts"]) == (None, {}, {})
    assert "Not measurable" in draw(explanation)
    assert "The face is too small" in draw(explanation)


def test_what_the_pipeline_cannot_measure_is_shown_with_its_reason(folder, brow_video, monkeypatch):
    explainer = Explainer(str(folder), max_new_tokens=8)
    pipe = explainer.load()
    real = pipe.preprocess
    marked = {"not_measurable": ["the head turns too far"]}
    monkeypatch.setattr(pipe, "preprocess", lambda clip: {**real(clip), **marked})
    explanation = explainer.explain(str(brow_video), "crop")
    assert (explanation.report["status"], explanation.report["reason"]) == ("not_measurable", "the head turns too far")
    assert explanation.to_json()["key_frames"]["onset"] < explanation.to_json()["key_frames"]["offset"]
    assert "The head turns too far. Nothing is said about this clip." in draw(explanation)


class Talk:
    """A conversation whose model writes one word after the other, until it is told to stop."""

    def __init__(self, tokenizer, words):
        self.pipeline = SimpleNamespace(processor=SimpleNamespace(tokenizer=tokenizer))
        self.words, self.written = words, []

    def ask(self, question, *, max_new_tokens, streamer, stopping_criteria):
        if question == "Is AU99 there?":
            raise ValueError("There is no AU99.")
        streamer.put(torch.empty((1, 0), dtype=torch.long))  # `generate` puts the prompt first
        for word in self.words:
            if stopping_criteria(torch.zeros((1, 1), dtype=torch.long), None).all():
                break
            self.written.append(word)
            streamer.put(torch.tensor(self.pipeline.processor.tokenizer(word)["input_ids"]))
        streamer.end()
        return "".join(self.written).strip()


def test_an_answer_is_shown_while_it_is_written(processor):
    talk = Talk(processor.tokenizer, ["The ", "face ", "moves ", "up. "])
    shown = list(Explainer("nowhere").ask(talk, " Does  it move? "))
    assert shown[-1] == "The face moves up."
    assert len(shown) > 3
    assert all(later.startswith(earlier.strip()) for earlier, later in pairwise(shown))


def test_a_question_that_cannot_be_answered_ends_with_its_problem(processor):
    explainer, talk = Explainer("nowhere"), Talk(processor.tokenizer, ["yes "])
    with pytest.raises(ClipProblem, match="There is no AU99"):
        list(explainer.ask(talk, "Is AU99 there?"))
    for question, status in ((" ", 400), ("why " * 100, 413)):
        with pytest.raises(ClipProblem) as caught:
            list(explainer.ask(talk, question))
        assert caught.value.status == status
    assert list(explainer.ask(talk, "Is AU1 there?"))[-1] == "yes"  # the model is free again


def test_the_model_stops_when_the_visitor_goes(processor):
    talk = Talk(processor.tokenizer, itertools.chain(["so ", "it "], iter(lambda: time.sleep(0.01) or "goes on ", "")))
    answer = Explainer("nowhere").ask(talk, "Does it move?")
    next(answer)
    answer.close()
    stopped = len(talk.written)
    time.sleep(0.1)
    assert len(talk.written) == stopped
