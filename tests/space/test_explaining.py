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
from explaining import (
    MAX_FRAMES,
    MAX_SECONDS,
    MAX_VIDEO_FRAMES,
    MAX_VIDEO_SECONDS,
    ClipProblem,
    Explainer,
    Explanation,
    NoFace,
    _check_length,
    _loading_problem,
    _reading_problem,
)
from tests.space.conftest import render_long
from timeline import Watched

CLIP, VIDEO = (MAX_SECONDS, MAX_FRAMES), (MAX_VIDEO_SECONDS, MAX_VIDEO_FRAMES)


@pytest.mark.parametrize(
    ("frames", "fps", "most", "words"),
    [
        (7200, 1.0, CLIP, "2 h 0 min long; at most 10 seconds"),
        (500, 25.0, CLIP, "20 seconds long"),
        (4000, None, CLIP, "4000 frames"),
        (9000, 25.0, VIDEO, "6 minutes long; at most 120 seconds are allowed, so cut it"),
        (60000, 1000.0, VIDEO, "60000 frames"),
        (1, 25.0, CLIP, "single picture"),
        (5, 25.0, CLIP, "only 5 frames"),
    ],
)
def test_lengths_that_are_refused(frames, fps, most, words):
    with pytest.raises(ClipProblem, match=words) as caught:
        _check_length(frames, fps, *most)
    assert str(caught.value).count(". ") <= 1


def test_lengths_that_are_read():
    for frames, fps in ((8, 25.0), (2000, 200.0), (250, 25.0), (3000, None)):
        _check_length(frames, fps, *CLIP)
    for frames, fps in ((3000, 25.0), (24000, 200.0)):
        _check_length(frames, fps, *VIDEO)


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


# --- videos longer than a clip --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explainer(folder):
    return Explainer(str(folder), max_new_tokens=8)


def test_what_is_longer_than_a_clip_gets_a_timeline(explainer, long_video, brow_video, tmp_path):
    told = []
    path = tmp_path / "meeting.mp4"
    path.write_bytes(long_video.read_bytes())
    watched = explainer.explain(str(path), "crop", lambda share, what: told.append((share, what)), timeline=True)
    assert isinstance(watched, Watched)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert sum(what == "Following the face" for _, what in told) == 20
    path.unlink()  # the Space deletes it as soon as the timeline is there
    for number, (apex, region) in enumerate(((161, "inner brow"), (421, "mouth corner"))):
        found = explainer.explain_interval(watched, number)
        assert isinstance(found, Explanation)
        assert (found.interval, found.title) == (number + 1, watched.title(number))
        assert abs(found.keys[1] - apex) <= 2
        assert found.first < found.keys[0] < found.keys[2] < found.first + len(found.motion)
        assert found.region.startswith(region)
        assert found.motion[found.keys[1] - found.first] > 0.95 * found.motion.max() > 1
        assert found.conversation is not None
        assert f"{found.keys[0] / 50 * 1000:.0f} ms" in draw(found)
    with pytest.raises(ClipProblem, match="There is no expression 3 in this video; it has 2"):
        explainer.explain_interval(watched, 2)
    clip = explainer.explain(str(brow_video), "crop", timeline=True)
    assert isinstance(clip, Explanation)
    assert (clip.interval, clip.title, clip.first) == (None, "", 0)


def test_programs_get_one_report_of_up_to_ten_seconds(explainer, face, long_video, tmp_path):
    found = explainer.explain(str(render_long(tmp_path / "five.mp4", face, 5)), "crop")
    assert isinstance(found, Explanation)
    assert abs(found.keys[1] - 161) <= 2
    with pytest.raises(ClipProblem, match="20 seconds long; at most 10 seconds are allowed"):
        explainer.explain(str(long_video), "crop")


def test_a_video_that_was_let_go_is_not_explained(explainer, long_video):
    watched = explainer.explain(str(long_video), "crop", timeline=True)
    watched.forget()
    with pytest.raises(ClipProblem, match="no longer in memory") as caught:
        explainer.explain_interval(watched, 0)
    assert caught.value.status == 410


def test_the_first_face_is_looked_for_and_found_again(explainer, long_video, monkeypatch):
    """The face comes after a second, and is lost in the seconds after the twelfth."""
    asked = []

    def placed(self, frame, face, notes, index=0):
        asked.append(index)
        if len(asked) < 4 or frame.std() < 5:
            raise NoFace("There is none.")
        return explainer._code.face_alignment.crop_transform(*frame.shape[:2])

    monkeypatch.setattr(Explainer, "_placed", placed)
    watched = explainer.explain(str(long_video), "find", timeline=True)
    assert asked[:4] == [0, 24, 49, 74]
    assert asked[4:]  # again, when it was lost
    assert (watched.stretches[0].start, watched.stretches[0].stop) == (0, 74)
    assert watched.stretches[0].reason == "no face was found"


@pytest.mark.parametrize("fps", [5.0, 2500.0])
def test_frame_rates_at_which_no_face_can_be_followed(explainer, fps):
    reader = SimpleNamespace(metadata=SimpleNamespace(fps=fps))
    with pytest.raises(ClipProblem, match=f"{fps:g} frames per second; a face can be followed at 10 to 2000"):
        explainer._watch(reader, "crop", lambda share, what: None, 0.0)


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
