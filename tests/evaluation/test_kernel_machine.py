import numpy as np
import pytest

from deft_llm.evaluation.kernel_machine import CLUE_WEIGHTS, KernelMachine

# Where each class moves, as (rows, columns, u, v) of a 16 × 16 field; the second one on one side only.
SHOWN = (((2, 6), (4, 12), 0.0, 1.0), ((10, 14), (2, 6), -1.0, -1.0), ((2, 6), (4, 12), 0.0, -1.0))
SIDE = 16


def clips(count: int, seed: int = 0, noise: float = 0.4) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Fields, classes and subjects; four clips per subject."""
    rng = np.random.default_rng(seed)
    fields, targets = [], np.arange(count) % len(SHOWN)
    for target in targets:
        field = rng.normal(0, noise, (2, SIDE, SIDE))
        rows, columns, u, v = SHOWN[target]
        field[:, slice(*rows), slice(*columns)] += np.array([u, v])[:, None, None]
        fields.append(np.exp(rng.normal()) * field)  # weak and strong clips
    return fields, targets, [f"s{number // 4}" for number in range(count)]


def turned(fields: list[np.ndarray]) -> list[np.ndarray]:
    return [field[..., ::-1] * np.array([-1, 1])[:, None, None] for field in fields]


@pytest.fixture(scope="module")
def machine():
    fields, targets, subjects = clips(48)
    units = np.stack([targets == 0, targets == 1, np.ones(48)], axis=1).astype(float)
    units[::5] = -100
    made = KernelMachine(4, ["AU1", "AU12", "AU19"])
    made.fit(fields, targets, subjects, units)
    return made


def test_it_recognises_classes_and_units_of_new_clips(machine):
    fields, targets, _ = clips(60, seed=1)
    emotions, units = machine.predict(fields)
    assert (emotions.argmax(1) == targets).mean() > 0.9  # chance is a third
    np.testing.assert_allclose(emotions.sum(1), 1)
    assert (emotions[:, 3] == 0).all()  # no training clip shows the fourth class
    for number in (0, 1):
        assert units[targets == number, number].min() > units[targets != number, number].max()
    # All 38 clips with known units have the third unit.
    np.testing.assert_allclose(units[:, 2], 39 / 40)


def test_neither_the_mirror_nor_the_units_of_the_channels_matter(machine):
    fields, _, _ = clips(9, seed=2)
    expected = machine.predict(fields)
    for others in (turned(fields), [1e-4 * field for field in fields]):
        for found, one in zip(machine.predict(others), expected, strict=True):
            np.testing.assert_allclose(found, one, atol=1e-9)


def test_a_clip_is_judged_by_itself(machine):
    fields, _, _ = clips(6, seed=3)
    np.testing.assert_allclose(machine.predict(fields[2:3])[0][0], machine.predict(fields)[0][2])


def test_a_face_at_rest_and_other_grids_get_probabilities(machine):
    fields = [np.zeros((2, SIDE, SIDE)), np.random.default_rng(0).normal(size=(2, 28, 28))]
    emotions, units = machine.predict(fields)
    assert np.isfinite(emotions).all()
    assert np.isfinite(units).all()


def test_it_is_less_sure_where_left_out_subjects_are_recognised_badly():
    sure = []
    for noise in (0.4, 4.0):
        fields, targets, subjects = clips(48, noise=noise)
        machine = KernelMachine(3)
        machine.fit(fields, targets, subjects)
        sure.append(machine.predict(clips(48, seed=1, noise=noise)[0])[0].max(1).mean())
    assert sure[0] > 0.8
    assert sure[1] < 0.6


def test_one_training_subject_is_enough():
    fields, targets, _ = clips(12)
    machine = KernelMachine(3, ["AU1"])
    machine.fit(fields, targets, ["s0"] * 12, (targets == 0)[:, None].astype(float))
    emotions, units = machine.predict(fields)
    assert (emotions.argmax(1) == targets).all()
    assert units[targets == 0].min() > units[targets != 0].max()


@pytest.mark.parametrize("informative", [True, False])
def test_how_far_evidence_is_trusted_is_learned(informative):
    fields, targets, subjects = clips(48, noise=2.0)
    present = targets == 0
    rng = np.random.default_rng(5)
    evidence = np.where(present if informative else rng.random(48) < 0.5, 2.0, -2.0)[:, None]
    machine = KernelMachine(3, ["AU1"])
    machine.fit(fields, targets, subjects, present[:, None].astype(float), evidence)
    against, without, for_it = (
        machine.predict(fields, np.full((48, 1), value))[1].mean() for value in (-2.0, np.nan, 2.0)
    )
    if informative:
        assert for_it - against > 0.5
        assert against < without < for_it
    else:
        assert abs(for_it - against) < 0.25


@pytest.mark.parametrize("informative", [True, False])
def test_clues_count_for_the_classes_where_they_help(informative):
    fields, targets, subjects = clips(48, noise=6.0)
    asked, truth, _ = clips(60, seed=1, noise=6.0)
    rng = np.random.default_rng(5)

    def clues(classes: np.ndarray) -> np.ndarray:
        shown = classes if informative else rng.permutation(classes)
        return 3.0 * np.eye(3)[shown] + rng.normal(size=(len(classes), 3))

    alone, machine = KernelMachine(3), KernelMachine(3)
    alone.fit(fields, targets, subjects)
    machine.fit(fields, targets, subjects, clues=clues(targets))
    right, without = machine.predict(asked, clues=clues(truth))[0], alone.predict(asked)[0]
    if informative:
        assert machine.clue_weight == max(CLUE_WEIGHTS)
        assert (right.argmax(1) == truth).mean() > (without.argmax(1) == truth).mean() + 0.2
    else:
        assert machine.clue_weight == 0
        np.testing.assert_array_equal(right, without)


def test_one_training_subject_does_not_decide_about_clues():
    fields, targets, _ = clips(12)
    machine = KernelMachine(3)
    machine.fit(fields, targets, ["s0"] * 12, clues=np.eye(3)[targets])
    assert machine.clue_weight == 0


def test_a_clue_that_is_the_same_in_all_training_clips_tells_nothing():
    fields, targets, subjects = clips(48, noise=6.0)
    clues = np.column_stack([3.0 * np.eye(3)[targets], np.ones(48)])
    machine = KernelMachine(3)
    machine.fit(fields, targets, subjects, clues=clues)
    assert machine.clue_weight > 0
    expected = machine.predict(fields, clues=clues)[0]
    np.testing.assert_array_equal(machine.predict(fields, clues=clues + np.array([0, 0, 0, 5.0]))[0], expected)
