import numpy as np
import pytest

from mrtutor.metrics.intervals import estimate, ratio, sign_flip_test


def test_interval_resamples_patients_and_not_slices():
    values = np.repeat([0.2, 0.4, 0.6, 0.8], 50)  # 200 slices of four patients, all alike within one
    by_patient, by_slice = estimate(values, np.repeat(range(4), 50)), estimate(values)
    assert by_patient.value == by_slice.value == pytest.approx(0.5)
    assert (by_patient.n, by_patient.patients) == (200, 4)
    assert by_patient.high - by_patient.low > 5 * (by_slice.high - by_slice.low)
    assert np.isnan(estimate([0.1, 0.2], ["a", "a"]).low)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    found = [estimate(rng.normal(1, 1, 40)) for _ in range(100)]
    assert 88 <= sum(e.low <= 1 <= e.high for e in found) <= 100


def test_answers_without_exception_get_wilsons_interval_over_patients():
    found = estimate(np.ones(20, bool), np.repeat(range(10), 2))
    assert found.high == 1 and found.low == pytest.approx(0.722, abs=0.001)  # Wilson, 10 of 10
    assert estimate(np.ones(20)).low == 1  # a figure that is exactly 1 is no answer


def test_ratio_is_of_the_means():
    found = ratio([1.0, 3.0, 5.0], [1.0, 1.0, 1.0])
    assert found.value == 3 and found.low < 3 < found.high


@pytest.mark.parametrize(
    ("differences", "patients", "p"),
    [([1.0, 2.0, 3.0], None, 1 / 8), ([1.0, 1.0, 2.0, 3.0], list("aabc"), 1 / 8), ([-1.0, -2.0, -3.0], None, 1)],
)
def test_sign_flip_test_is_exact_for_few_patients(differences, patients, p):
    assert sign_flip_test(differences, patients) == p  # a patient's slices flip together


@pytest.mark.parametrize("values", [[], [np.nan], [[1.0]]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        estimate(values)
