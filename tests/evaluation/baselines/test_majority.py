from deft_llm.evaluation.baselines import make_baseline
from tests.evaluation.baselines.moving_rows import LABELS, moving_rows


def test_the_majority_class():
    rows = moving_rows(4)
    model = make_baseline("majority", labels=LABELS)
    model.fit(rows)
    assert model.predict(rows[:1]) == [{"scores": [0.5, 0.25, 0.25]}]
