"""Near 50 % on equal sets, near 100 % on separable ones, and no patient on both sides."""

import numpy as np
import pytest

from mrtutor.metrics.two_sample import patient_folds, tell_by_features, tell_by_pixels

PATIENTS = np.repeat(np.arange(40), 3)


def features(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (120, 2, 6))


def test_equal_sets_are_not_told_apart() -> None:
    accuracy = tell_by_features(features(1), features(2), PATIENTS, PATIENTS)
    assert 0.4 < accuracy["value"] < 0.6 and accuracy["n"] == 2 * 240


def test_separable_sets_are() -> None:
    assert tell_by_features(features(1), features(2, shift=2.0), PATIENTS, PATIENTS)["value"] > 0.97


def test_one_modality_alone_may_differ() -> None:
    b = features(2)
    b[:, 1] += 3
    assert 0.7 < tell_by_features(features(1), b, PATIENTS, PATIENTS)["value"] < 0.8  # half at 50 %, half at 100 %


def test_knowing_the_patient_does_not_help() -> None:
    """Sets that differ only in which patients they hold: learnt by heart with a split by slice, chance by patient."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 5, (40, 2, 6)).repeat(3, axis=0) + rng.normal(0, 0.01, (120, 2, 6)) for _ in range(2))
    assert 0.3 < tell_by_features(a, b, PATIENTS, PATIENTS + 100)["value"] < 0.7


def test_folds_hold_whole_patients() -> None:
    folds = patient_folds(PATIENTS)
    assert all(len(set(folds[PATIENTS == p])) == 1 for p in range(40))
    assert abs((folds == 0).mean() - 0.5) < 0.05
    labels = np.repeat([0, 1], 60)  # twenty patients each
    folds = patient_folds(PATIENTS, labels=labels)
    assert [int((folds[labels == side] == 0).sum()) for side in (0, 1)] == [30, 30]
    with pytest.raises(ValueError, match="at least 2 patients"):
        patient_folds(np.zeros(9))


def pictures(seed: int, rough: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.integers(60, 180, (24, 2, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    return (x + rng.normal(0, rough, x.shape)).clip(0, 255).astype(np.uint8)


def test_the_small_network_sees_texture() -> None:
    patients = np.arange(24)
    told = tell_by_pixels(pictures(1), pictures(2, rough=25), patients, patients, steps=40)
    same = tell_by_pixels(pictures(1), pictures(2), patients, patients, steps=40)
    assert told["value"] > 0.9 and 0.3 < same["value"] < 0.7
    assert told == tell_by_pixels(pictures(1), pictures(2, rough=25), patients, patients, steps=40), "not reproducible"


def test_errors() -> None:
    with pytest.raises(ValueError, match="one shape"):
        tell_by_features(features(1)[:100], features(2), PATIENTS[:100], PATIENTS)
    with pytest.raises(ValueError, match="patient for"):
        tell_by_features(features(1), features(2), PATIENTS[:7], PATIENTS)
    with pytest.raises(ValueError, match="uint8"):
        tell_by_pixels(pictures(1) / 255, pictures(2) / 255, np.arange(24), np.arange(24))
