import numpy as np
import pytest

from deft_llm.evaluation.baselines.svm import FlowSVM
from tests.evaluation.baselines.moving_rows import LABELS, moving_rows


def predicted(rows, test):
    model = FlowSVM(LABELS)
    model.fit(rows)
    return model.predict(test)


def test_the_heads_shift_and_the_unit_of_the_flow_change_nothing():
    rows = moving_rows(24)
    shift = np.array([2.0, -1.0])[:, None, None]
    other = [{**row, "flow": 4 * np.float32(row["flow"]) + shift} for row in rows]
    for plain, changed in zip(predicted(rows[:18], rows[18:]), predicted(other[:18], other[18:]), strict=True):
        assert plain["label"] == changed["label"]
        assert plain["scores"] == pytest.approx(changed["scores"], abs=1e-2)


def test_two_classes_have_scores_in_the_order_of_the_label_list():
    rows = [row for row in moving_rows(36) if row["label"] != "surprise"]
    for row, item in zip(rows, predicted(rows, rows), strict=True):
        assert item["label"] == row["label"]
        assert LABELS[int(np.argmax(item["scores"]))] == item["label"]
        assert item["scores"][2] == 0.0
