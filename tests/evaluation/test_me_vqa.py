import json

import pytest

from deft_llm.evaluation.me_vqa import Question, answer_questions, read_questions, score_answers, write_submission

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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video_id": "1", ', r"q\.jsonl, line 2: not JSON"),
        ("[1, 2]", r"q\.jsonl, line 2: expected an object"),
        ({"video_id": "1", "question": COARSE}, r"line 2: no field 'video' or 'filename'"),
        ({"video": "a", "question": COARSE}, r"line 2: no field 'video_id' or 'id'"),
        ({"video_id": "1", "video": "a", "question": " "}, r"line 2: the field 'question' must be text"),
        ({"video_id": "1", "video": "a", "question": FINE, "answer": 3}, r"line 2: the answer must be text"),
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
    with pytest.raises(ValueError, match=r"There is no answer to .*fine-grained.* of 1"):
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


def test_every_question_about_a_video_is_answered(folder, brow_video):
    questions = [Question("1", brow_video.name, COARSE), Question("1", brow_video.name, FINE)]
    answers = answer_questions(questions, brow_video.parent, folder, max_new_tokens=4)
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)
    with pytest.raises(FileNotFoundError, match=r"lost\.mp4 does not exist"):
        answer_questions([Question("1", "lost.mp4", COARSE)], brow_video.parent, folder)
