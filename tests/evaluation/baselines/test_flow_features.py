import numpy as np
import pytest

from deft_llm.evaluation.baselines.flow_features import apex_fields, apex_flow, median_subtracted, resized, strain
from tests.evaluation.baselines.moving_rows import moving_rows
from tests.evaluation.made_up_rows import make_row


def test_the_apex_is_the_middle_field():
    row = moving_rows(1)[0]
    assert np.array_equal(apex_flow(row), np.asarray(row["flow"][1], np.float32))


def test_strain_of_known_fields():
    y, x = np.mgrid[0:8, 0:8].astype(np.float32)
    assert strain(np.stack([0.5 * x, 0 * x])) == pytest.approx(np.full((1, 8, 8), 0.5))
    assert strain(np.stack([y, x])) == pytest.approx(np.full((1, 8, 8), np.sqrt(2)))
    assert strain(np.stack([-y, x])) == pytest.approx(np.zeros((1, 8, 8)))  # a rotation strains nothing


def test_fields_keep_unit_and_lose_the_heads_shift():
    field = np.stack([np.full((12, 12), 3.0), np.full((12, 12), -1.0)]).astype(np.float32)
    assert resized(field, 6) == pytest.approx(field[:, :6, :6])
    assert resized(field, 24).shape == (2, 24, 24)
    assert not median_subtracted(field).any()
    assert apex_fields(moving_rows(2), 14, with_strain=True).shape == (2, 3, 14, 14)


@pytest.mark.parametrize(
    ("flow", "message"),
    [(None, "has no flow"), (np.zeros((2, 8, 8)), r"\(2, 8, 8\)"), (np.full((1, 2, 8, 8), np.nan), "NaN")],
)
def test_unusable_flow_is_named(flow, message):
    with pytest.raises(ValueError, match=f"casme2/sub01/EP01_negative/46.*{message}"):
        apex_flow(make_row("casme2", 1, 1, "negative", flow=flow))
