import json

import numpy as np
import pytest
from PIL import Image

from deft_llm.evaluation import generation
from deft_llm.evaluation.me_vqa import (
    Question,
    answer_questions,
    majority_answers,
    read_questions,
    score_answers,
    write_submission,
)

COARSE = "What is the coarse expression class?"
FINE = "What is the fine-grained expression class?"


def written(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_both_forms_of_the_track_are_read(tmp_path):
    path = written(
        tmp_path / "q.jsonl",
        {
            "id": "casme2_sub01_EP02_01f_1",
            "dataset": "casme2",
            "image_id": 1,
            "subject": "sub01",
            "filename": "EP02_01f",
            "question": COARSE,
            "answer": "negative",
        },
        "",
        {"video_id": 7, "video": "007.mp4", "question": FINE},
    )
    assert read_questions(path) == [
        Question("casme2_sub01_EP02_01f_1", "EP02_01f", COARSE, "negative"),
        Question("7", "007.mp4", FINE, None),
    ]


def of_long_video(onset, offset, question=COARSE, **changes):
    """A line of a test file whose clips lie in one long video."""
    return {
        "id": f"made_up_1_001_2_{onset}_{question[12:15]}",
        "dataset": "made_up",
        "image_id": f"1_001_2_{onset}",
        "subject": 1,
        "filename": "001_2",
        "onset_frame": onset,
        "offset_frame": offset,
        "question": question,
        "answer": "",
        **changes,
    }


def test_the_interval_is_read_and_the_submission_keeps_every_field(tmp_path):
    lines = [of_long_video(10, 30), of_long_video("70", 90.0, FINE), of_long_video(None, None, note="whole video")]
    questions = read_questions(written(tmp_path / "q.jsonl", *lines))
    assert [item.interval for item in questions] == [(10, 30), (70, 90), None]
    assert [item.answer for item in questions] == [None, None, None]
    write_submission(tmp_path / "pred.jsonl", questions, ["negative", "anger", "surprise"])
    sent = [json.loads(line) for line in (tmp_path / "pred.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sent == [
        {**line, "answer": answer} for line, answer in zip(lines, ["negative", "anger", "surprise"], strict=True)
    ]
    assert list(sent[0]) == list(lines[0])


def test_one_video_may_be_asked_about_twice_in_two_intervals(tmp_path):
    lines = [of_long_video(10, 30, id="a"), of_long_video(70, 90, id="a")]
    assert len(read_questions(written(tmp_path / "q.jsonl", *lines))) == 2
    with pytest.raises(ValueError, match=r"line 3: repeats the question of line 2 \(a, frames 70 to 90"):
        read_questions(written(tmp_path / "q.jsonl", *lines, lines[1]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (of_long_video(90, 70), "line 2: the interval is reversed or empty, onset_frame 90 and offset_frame 70"),
        (of_long_video(70, 70), "line 2: the interval is reversed or empty"),
        (of_long_video(70, None), "line 2: the field 'offset_frame' is missing"),
        (of_long_video("", 70), "line 2: the field 'onset_frame' is missing"),
        (of_long_video(-1, 70), "line 2: the field 'onset_frame' must be a frame number, found -1"),
        (of_long_video(1, "end"), "line 2: the field 'offset_frame' must be a frame number, found 'end'"),
        (of_long_video(0.5, 7), "line 2: the field 'onset_frame' must be a frame number, found 0.5"),
        (of_long_video(False, 7), "line 2: the field 'onset_frame' must be a frame number, found False"),
        ('{"video_id": "1", ', r"q\.jsonl, line 2: not JSON"),
        ("[1, 2]", r"q\.jsonl, line 2: expected an object"),
        ({"video_id": "1", "question": COARSE}, r"line 2: no field 'video' or 'filename'"),
        ({"video": "a", "question": COARSE}, r"line 2: no field 'video_id' or 'id'"),
        ({"video_id": "1", "video": "a", "question": " "}, r"line 2: the field 'question' must be text"),
        ({"video_id": "1", "video": "a", "question": FINE, "answer": ["3"]}, r"line 2: the answer must be text"),
        ({"video_id": "0", "video": "a", "question": COARSE}, r"line 2: repeats the question of line 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = written(tmp_path / "q.jsonl", {"video_id": "0", "video": "a", "question": COARSE}, line)
    with pytest.raises(ValueError, match=message):
        read_questions(path)


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="contains no question"):
        read_questions(written(tmp_path / "q.jsonl", ""))


def test_a_submission_is_the_test_file_with_answers(tmp_path):
    questions = [Question("1", "1.mp4", COARSE), Question("1", "1.mp4", FINE)]
    path = tmp_path / "new" / "me_vqa_samm_test_pred.jsonl"
    write_submission(path, questions, ["negative", "anger"])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[1] == {"video_id": "1", "video": "1.mp4", "question": FINE, "answer": "anger"}
    assert [item.answer for item in read_questions(path)] == ["negative", "anger"]
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        write_submission(tmp_path / "other", questions, ["negative"])
    with pytest.raises(ValueError, match=r"Question .*fine-grained.* of 1 cannot be answered"):
        write_submission(tmp_path / "other", questions, ["negative", " "])
    assert not (tmp_path / "other").exists()


def test_figures_of_the_track():
    pytest.importorskip("sacrebleu")
    questions = [
        Question("1", "1", COARSE, "negative"),
        Question("2", "2", COARSE, "surprise"),
        Question("3", "3", COARSE, "negative"),
        Question("1", "1", FINE, "anger"),
        Question("1", "1", "What is the action unit?", "brow lowerer"),
    ]
    perfect = score_answers(questions, [item.answer for item in questions])
    assert (perfect["uf1_coarse"], perfect["uar_coarse"], perfect["uf1_fine"]) == (1.0, 1.0, 1.0)
    assert (perfect["clips_coarse"], perfect["clips_fine"], perfect["rouge1"]) == (3, 1, 1.0)
    worse = score_answers(questions, ["Negative.", "something else", "surprise", "disgust", "brow lowerer"])
    # negative: TP 1, FN 1; surprise: FP 1, FN 1
    assert worse["uf1_coarse"] == pytest.approx((2 / 3 + 0) / 2)
    assert worse["uar_coarse"] == pytest.approx(0.25)
    assert worse["uf1_fine"] == 0.0
    with pytest.raises(ValueError, match="no reference answer"):
        score_answers([Question("1", "1", COARSE)], ["negative"])
    with pytest.raises(ValueError, match="'brow' does not name a coarse"):
        score_answers([Question("1", "1", COARSE, "brow")], ["negative"])


def test_the_floor_answers_from_the_training_file_alone():
    training = [Question("1", "a", COARSE, "negative"), Question("2", "b", COARSE, "negative")]
    training += [Question("3", "c", COARSE, "surprise"), Question("3", "c", FINE, "anger")]
    asked = [Question("9", "x", COARSE), Question("9", "x", FINE), Question("9", "x", "What is the action unit?")]
    assert majority_answers(training, asked) == ["negative", "anger", "negative"]
    with pytest.raises(ValueError, match="Clips of 1 videos are in the training file and in the questions, such as c"):
        majority_answers(training, [Question("7", "c", COARSE)])
    # Another interval of the same long video is another clip.
    assert majority_answers(training, [Question("7", "c", FINE, interval=(1, 9))]) == ["anger"]
    with pytest.raises(ValueError, match="None of the questions in the training file"):
        majority_answers([Question("1", "a", COARSE)], asked)


def test_every_question_about_a_video_is_answered(folder, brow_video):
    questions = [Question("1", brow_video.name, COARSE), Question("1", brow_video.name, FINE)]
    answers = answer_questions(questions, brow_video.parent, folder, max_new_tokens=4)
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)
    with pytest.raises(FileNotFoundError, match=r"lost\.mp4 does not exist"):
        answer_questions([Question("1", "lost.mp4", COARSE)], brow_video.parent, folder)


@pytest.fixture(scope="module")
def long_video(brow_clip, tmp_path_factory):
    """A folder of frames 101 to 138."""
    folder = tmp_path_factory.mktemp("videos") / "001_2"
    folder.mkdir()
    for number, frame in enumerate(brow_clip.frames, 101):
        Image.fromarray(frame).save(folder / f"001_2_{number:04d}.png")
    return folder


def test_every_clip_of_a_long_video_has_its_own_answer(folder, long_video, brow_clip, tmp_path, monkeypatch):
    """What reaches the model: the frames from onset to offset, by the numbers of the files."""
    seen, looked = [], []

    def answer(model, processor, tensors, questions, max_new_tokens, recognition):
        seen.append(tensors)
        return [f"answer {len(seen)}"]

    def load(checkpoint):
        model, processor = generation_load(checkpoint)
        looked.append(processor.video_processor)
        return model, processor

    generation_load = generation.load_checkpoint
    monkeypatch.setattr(generation, "generate_answers", answer)
    monkeypatch.setattr(generation, "load_checkpoint", load)
    spans = [(104, 136), (120, 138)]
    lines = [of_long_video(*span, question) for question in (COARSE, FINE) for span in spans]
    questions = read_questions(written(tmp_path / "q.jsonl", *lines))
    # Both questions about the first clip come before those about the second.
    assert answer_questions(questions, long_video.parent, folder) == ["answer 1", "answer 3", "answer 2", "answer 4"]
    for tensors, (onset, offset) in zip((seen[0], seen[2]), spans, strict=True):
        shown = brow_clip.frames[[onset - 101, (onset + offset) // 2 - 101, offset - 101]]
        expected = looked[0](shown, key_frames=(0, 1, 2), return_tensors="pt")["pixel_values_videos"]
        for place in (0, -1):
            assert np.array_equal(tensors["pixel_values_videos"][0, place], expected[0, place])
    assert not np.array_equal(seen[0]["flow_values_videos"], seen[2]["flow_values_videos"])


@pytest.mark.parametrize(
    ("onset", "offset", "message"),
    [
        (
            90,
            120,
            r"made_up_1_001_2_90_coa, frames 90 to 120: frame 90 is not in .*001_2, which has frames 1",
        ),
        (120, 139, r"frames 120 to 139: frame 139 is not in .*001_2, which has frames 101 to 138"),
    ],
)
def test_an_interval_outside_of_the_video_is_named_before_the_model_is_loaded(
    long_video, tmp_path, onset, offset, message
):
    questions = read_questions(written(tmp_path / "q.jsonl", of_long_video(onset, offset)))
    with pytest.raises(ValueError, match=message):
        answer_questions(questions, long_video.parent, tmp_path / "no model")


def test_the_frames_of_a_video_file_are_counted_from_zero(brow_video, brow_clip, tmp_path):
    lines = [of_long_video(3, len(brow_clip.frames), filename=brow_video.name)]
    with pytest.raises(ValueError, match=r"frame 38 is not in .*brow\.mp4, which has frames 0 to 37"):
        answer_questions(read_questions(written(tmp_path / "q.jsonl", *lines)), brow_video.parent, "no model")
