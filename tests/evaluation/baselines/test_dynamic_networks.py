import pytest
from torch import nn

from deft_llm.evaluation.baselines.dynamic_networks import DynamicFlowNetwork, DynamicImageNetwork
from tests.evaluation.baselines.moving_rows import LABELS, filmed_rows, moving_rows


def linear(classes, side):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, classes))


class Images(DynamicImageNetwork):
    network = linear


class Flows(DynamicFlowNetwork):
    network = linear


def test_images_are_read_from_video_and_flow_from_all_fields():
    for kind, rows in ((Images, filmed_rows(3)), (Flows, moving_rows(3))):
        model = kind(LABELS, side=8, epochs=1)
        model.fit(rows)
        assert model.network[1].in_features == 192
        assert len(model.predict(rows)) == 3
    assert Images.needs_video
    assert not Flows.needs_video


def test_another_number_of_fields_is_refused_in_training_and_in_test():
    rows = moving_rows(3)
    longer = {**rows[1], "flow": rows[1]["flow"][[0, 0, 1, 1, 2]]}
    model = Flows(LABELS, side=8, epochs=1)
    with pytest.raises(ValueError, match=r"casme2/sub01/.* has 5 flow fields, and other clips have 3.*num_frames"):
        model.fit([rows[0], longer])
    model.fit(rows)
    with pytest.raises(ValueError, match="has 5 flow fields, and other clips have 3"):
        model.predict([longer])
