import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from deft_llm.modeling_deft import DeftVideoTextToTextPipeline
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.grounded_answer import contradictions
from deft_llm.processing.motion_evidence import measure_motion
from deft_llm.processing.video_processing_deft import list_of_clips
from deft_llm.processing.video_reading import VideoReadError


@pytest.fixture(scope="module")
def pipe(model, processor):
    return DeftVideoTextToTextPipeline(model=model, processor=processor)


def test_one_clip_and_many(pipe, brow_video, still_video, brow_clip):
    one = pipe(str(brow_video), max_new_tokens=4)
    assert isinstance(one, dict)
    many = pipe([str(brow_video), str(still_video)], max_new_tokens=4)
    assert [type(item) for item in many] == [dict, dict]
    assert many[0] == one
    assert pipe(brow_clip.frames, max_new_tokens=4)["frames_indices"][0] < brow_clip.expression.apex


def test_key_frames_reach_the_processor(pipe, brow_video):
    indices = pipe(str(brow_video), key_frames=(2, 10, 20), max_new_tokens=2)["frames_indices"]
    assert (indices[0], indices[4], indices[-1]) == (2, 10, 20)


def test_the_experts_look_once_at_a_clip(pipe, brow_video):
    calls = []
    hook = pipe.model.model.recognition.motion_expert.register_forward_hook(lambda *_: calls.append(1))
    pipe(str(brow_video), max_new_tokens=2)
    hook.remove()
    assert len(calls) == 1


def test_the_convention_reaches_question_and_head(pipe, brow_video, monkeypatch):
    config, seen = pipe.model.config, {}
    forward = type(pipe.model.model).forward

    def spy(self, *args, **kwargs):
        seen.setdefault("convention_ids", kwargs.get("convention_ids"))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.model.model), "forward", spy)
    (name,) = config.label_conventions
    pipe(str(brow_video), convention=name, max_new_tokens=2)
    assert seen["convention_ids"].tolist() == [0]
    assert f"by the convention of {name}." in pipe.processor.instruction(name)
    with pytest.raises(ValueError, match=f"'samm'; the model was trained with {name}"):
        pipe(str(brow_video), convention="samm")


def test_a_grounded_answer_says_what_was_recognised_and_measured(pipe, brow_video):
    """An untrained model recognises anything; its words follow it as far as the motion does."""
    result = pipe(str(brow_video), max_new_tokens=900)
    inputs = pipe.processor.video_processor(str(brow_video), return_tensors="pt")
    with torch.no_grad():
        scores = pipe.model.model(**inputs).au_logits[0].sigmoid().tolist()
    report = result["report"]
    recognised = {code for code, score in zip(pipe.processor.action_units, scores, strict=True) if score >= 0.5}
    assert {unit["code"] for unit in report["action_units"]} == recognised
    (written,) = pipe.processor.post_process_expression(result["generated_text"])
    borne_out = {unit["code"] for unit in report["action_units"] if unit["borne_out"]}
    assert {unit.code for unit in written.action_units} == borne_out < recognised
    motions = measure_motion(inputs["flow_values_videos"][0].numpy())
    assert contradictions(written, motions, report["scores"], pipe.processor.coarse_emotion_of) == []
    assert report["warnings"] == []


@pytest.fixture(scope="module")
def shelf():
    return {}


@pytest.fixture
def measured_once(shelf, monkeypatch):
    """A video is measured once for all tests that ask about it again and again; none depends on another's company."""
    process = DeftVideoProcessor._process_clip

    def processed(self, clip, **options):
        key = clip.name, str(sorted(options.items())), self.to_json_string()
        if key not in shelf:
            shelf[key] = process(self, clip, **options)
        return shelf[key]

    monkeypatch.setattr(DeftVideoProcessor, "_process_clip", processed)


@pytest.fixture
def unmeasurable(monkeypatch):
    """The video processor says that some clips cannot be measured, and why."""
    reasons = {}
    preprocess = DeftVideoProcessor.preprocess

    def marked(self, videos, **kwargs):
        features = preprocess(self, videos, **kwargs)
        features["not_measurable"] = [reasons.get(clip) for clip in list_of_clips(videos)]
        return features

    monkeypatch.setattr(DeftVideoProcessor, "preprocess", marked)
    return reasons


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"grounded": False}, {"text": "Why?"}], ids=["grounded", "free", "own"])
def test_a_clip_that_cannot_be_measured_is_not_explained(
    pipe, videos, measured_once, unmeasurable, batch_size, options
):
    expected = pipe(videos, batch_size=batch_size, max_new_tokens=8, **options)
    unmeasurable[videos[1]] = "The face leaves the picture."
    found = pipe(videos, batch_size=batch_size, max_new_tokens=8, **options)
    for index, result in enumerate(found):
        if index % 2 == 0:
            check_same(result, expected[index])
            assert result["report"]["status"] != "not_measurable"
            continue
        report = result["report"]
        assert (report["status"], report["reason"]) == ("not_measurable", "The face leaves the picture.")
        assert [report[name] for name in ("emotion", "scores", "action_units", "evidence")] == [None, {}, [], []]
        assert result["report_text"] == "Class      not measurable\nReason     The face leaves the picture."
        assert "Rationale: The face leaves the picture." in result["generated_text"]


def test_nothing_is_generated_for_a_clip_that_cannot_be_measured(pipe, brow_video, unmeasurable, monkeypatch):
    unmeasurable[str(brow_video)] = "Too dark."
    monkeypatch.setattr(type(pipe.model), "generate", lambda *_, **__: pytest.fail("generated"))
    assert pipe(str(brow_video))["report"]["reason"] == "Too dark."


def test_the_reason_is_not_an_input_of_the_model(pipe, brow_video, unmeasurable):
    unmeasurable[str(brow_video)] = "Too dark."
    assert "not_measurable" not in pipe.processor(text="<|video|>Why?", videos=[str(brow_video)], return_tensors="pt")


def test_the_prompt_says_what_was_recognised(pipe, brow_video, still_video, monkeypatch):
    monkeypatch.setattr(pipe.processor, "recognition_in_words", True)
    told = []
    embed = pipe.model.model.embed_prompts

    def spy(input_ids, recognition):
        told.extend(pipe.processor.tokenizer.batch_decode(input_ids))
        return embed(input_ids, recognition)

    monkeypatch.setattr(pipe.model.model, "embed_prompts", spy)
    videos = [str(brow_video), str(still_video)]
    options = {"text": "What moves?", "max_new_tokens": 2}
    alone = [pipe(video, **options) for video in videos]
    together = pipe(videos, batch_size=2, **options)
    assert [one["generated_text"] for one in together] == [one["generated_text"] for one in alone]
    padding = pipe.processor.tokenizer.pad_token
    assert [text.replace(padding, "") for text in told[2:]] == [text.replace(padding, "") for text in told[:2]]
    for text in told:
        said = text.partition("Recognised: ")[2].partition("\n")[0]
        assert "What moves?" in text
        assert said.startswith("AU")  # heads that are not trained recognise something in every clip
    assert "Emotion: insufficient motion\n" in told[1]


@pytest.mark.parametrize("options", [{"text": "What moves?"}, {"grounded": False}], ids=["own question", "asked"])
def test_a_free_answer_is_what_generate_says(pipe, brow_video, options):
    inputs = pipe.preprocess(str(brow_video), text=options.get("text"))
    del inputs["frames_indices"], inputs["not_measurable"], inputs["flow_deviation"], inputs["questions"]
    sequence = pipe.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = pipe.processor.tokenizer.decode(sequence, skip_special_tokens=True)
    assert pipe(str(brow_video), max_new_tokens=12, **options)["generated_text"] == expected


def test_without_llguidance_it_says_what_to_do(pipe, brow_video, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"pip install llguidance.*grounded=False"):
        pipe(str(brow_video), max_new_tokens=2)
    assert pipe(str(brow_video), grounded=False, max_new_tokens=2)["generated_text"]


def test_a_still_clip_is_not_explained(pipe, still_video):
    report = pipe(str(still_video), max_new_tokens=4)["report"]
    assert report["insufficient_motion"]
    assert report["emotion"] is None


def test_the_answer_is_read_as_it_was_generated(pipe, brow_video):
    """An untrained model says nothing readable of itself, and the report must say that."""
    result = pipe(str(brow_video), grounded=False, max_new_tokens=6)
    assert result["report"]["text"] == result["generated_text"]
    assert not result["report"]["parsed"]
    assert "could not be read" in result["report"]["warnings"][0]


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        ("nowhere.mp4", FileNotFoundError, "nowhere.mp4"),
        (np.zeros((1, 32, 32, 3), np.uint8), VideoReadError, "one frame only"),
        (b"no video", VideoReadError, "not a video"),
    ],
)
def test_bad_clips_are_named(pipe, clip, error, message):
    with pytest.raises(error, match=message):
        pipe(clip)


@pytest.fixture(scope="module")
def videos(brow_video, still_video):
    return [str(path) for path in (brow_video, still_video, brow_video, still_video, brow_video)]


def check_same(found, expected):
    """The same words and frames; probabilities may differ in their last bits."""
    for name in ("generated_text", "frames_indices"):
        assert found[name] == expected[name]
    assert found["report"]["scores"] == pytest.approx(expected["report"]["scores"], abs=1e-6)
    units, others = (
        {unit["code"]: unit["score"] for unit in result["report"]["action_units"]} for result in (found, expected)
    )
    assert units == pytest.approx(others, abs=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize(
    "options", [{}, {"grounded": False}, {"text": "What moves?"}], ids=["grounded", "free", "own"]
)
def test_a_batch_answers_as_one_by_one(pipe, videos, measured_once, batch_size, options):
    alone = [pipe(video, max_new_tokens=40, **options) for video in videos[:2]]
    together = pipe(videos, batch_size=batch_size, max_new_tokens=40, **options)
    for index, found in enumerate(together):
        check_same(found, alone[index % 2])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_generate_answers_a_batch_as_one_by_one(pipe, videos, measured_once, batch_size):
    """Chats of different lengths, padded by the processor."""
    texts = ["Explain.", "Which regions of the face move, and by how much?", "What moves?", "Why?", "Explain it."]
    chats = [
        [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": text}]}]
        for video, text in zip(videos, texts, strict=True)
    ]

    def answers(some):
        inputs = pipe.processor.apply_chat_template(
            some,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        )
        sequences = pipe.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        return pipe.processor.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    assert answers(chats[:batch_size]) == [answers([chat])[0] for chat in chats[:batch_size]]


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_transformers_own_pipelines_answer_a_batch_as_one_by_one(pipe, videos, measured_once, task, monkeypatch):
    from transformers.pipelines import any_to_any

    # "any-to-any" asks for torchvision before it looks at the processor, and DEFT's does without.
    monkeypatch.setattr(any_to_any, "requires_backends", lambda *_: None)
    chats = [
        [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": text}]}]
        for video, text in zip(videos, ("a", "What moves in this face?", "b", "c", "Explain."), strict=True)
    ]
    stock = pipeline(task, model=pipe.model, processor=pipe.processor)
    options = {"max_new_tokens": 8, "return_full_text": False}
    alone = [stock(text=chat, **options)[0]["generated_text"] for chat in chats]
    for batch_size in (2, 5):
        found = stock(text=chats, batch_size=batch_size, **options)
        assert [(item[0] if isinstance(item, list) else item)["generated_text"] for item in found] == alone


def test_a_list_of_images_is_one_clip(pipe, brow_clip, tmp_path):
    images = [Image.fromarray(frame) for frame in brow_clip.frames]
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index:03}.png")
    expected = pipe(brow_clip.frames, max_new_tokens=4)
    assert pipe(images, max_new_tokens=4) == expected
    assert pipe(sorted(map(str, tmp_path.iterdir())), max_new_tokens=4) == expected
    for found in pipe([images, images], max_new_tokens=4, batch_size=2):
        check_same(found, expected)


def test_no_clips_no_answers(pipe):
    assert pipe([]) == []


def test_settings_of_the_pipeline_hold_for_every_call(model, processor, brow_video):
    (name,) = model.config.label_conventions
    short = DeftVideoTextToTextPipeline(
        model=model, processor=processor, text="What moves?", convention=name, max_new_tokens=3, key_frames=(2, 10, 20)
    )
    result = short(str(brow_video))
    assert result["frames_indices"][0] == 2
    assert not result["report"]["parsed"]  # a question of one's own is not held to the answer's form
    assert len(processor.tokenizer(result["generated_text"])["input_ids"]) <= 3


def test_arguments_of_generate_can_be_passed_by_name(pipe, brow_video):
    free = {"grounded": False, "do_sample": False}
    long = pipe(str(brow_video), max_new_tokens=12, **free)["generated_text"]
    prompt = pipe.preprocess(str(brow_video))["input_ids"].shape[1]
    assert pipe(str(brow_video), max_length=prompt + 12, **free)["generated_text"] == long
    assert pipe(str(brow_video), generate_kwargs={"max_length": prompt + 12}, **free)["generated_text"] == long


@pytest.mark.parametrize(
    ("wrong", "near"), [("key_frame", "key_frames"), ("max_new_token", "max_new_tokens"), ("groundd", "grounded")]
)
def test_a_misspelt_argument_is_named_with_the_nearest(pipe, brow_video, wrong, near):
    with pytest.raises(TypeError, match=f"no argument '{wrong}'; did you mean '{near}'"):
        pipe(str(brow_video), **{wrong: 1})


def test_a_loaded_model_and_processor_make_a_pipeline(model, processor, brow_video, pipe):
    """Importing the code registers the task. To add adapters or to quantise, the model is loaded first."""
    made = pipeline("video-text-to-text", model=model, processor=processor)
    assert made(str(brow_video), max_new_tokens=4) == pipe(str(brow_video), max_new_tokens=4)


def test_a_saved_pipeline_loads_again(pipe, brow_video, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("video-text-to-text", model=str(tmp_path), trust_remote_code=True)
    check_same(again(str(brow_video), max_new_tokens=4), pipe(str(brow_video), max_new_tokens=4))
