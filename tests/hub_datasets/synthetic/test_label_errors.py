import numpy as np
import pytest

from deft_llm.hub_datasets.synthetic.label_errors import Labels, corrupt_labels


def labels():
    return Labels([("AU1", "both", "C"), ("AU2", "left", "D")], 3, 12, 24, "surprise")


@pytest.mark.parametrize("seed", range(30))
def test_one_error_of_a_named_kind_is_put_in(seed):
    wrong, note = corrupt_labels(labels(), np.random.default_rng(seed))
    right, kind = labels(), note.split(":")[0]
    changed = {
        "wrong_unit": [unit[0] for unit in wrong.units] != ["AU1", "AU2"] and len(wrong.units) == 2,
        "missing_unit": len(wrong.units) == 1,
        "swapped_side": ("AU2", "right", "D") in wrong.units,
        "shifted_apex": abs(wrong.apex - 12) >= 3 and 3 < wrong.apex <= 24,
        "wrong_emotion": wrong.emotion != "surprise",
    }
    assert changed[kind]
    assert sum(changed.values()) == 1
    assert right == labels()


def test_a_still_clip_keeps_its_labels():
    still = Labels([], 0, 0, 0, None)
    assert corrupt_labels(still, np.random.default_rng(0)) == (still, None)
