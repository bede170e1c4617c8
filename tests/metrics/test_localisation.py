"""Figures against scikit-learn, SciPy and closed forms."""

import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import average_precision_score

from mrtutor.metrics.localisation import (
    FIGURES,
    average_precision,
    iou_at_area,
    paired_permutation,
    points_inside,
    prevalence,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("levels", [3, 50, None])
def test_average_precision_is_scikit_learns(levels):
    for _ in range(5):
        region = RNG.random((20, 30)) < 0.2
        scores = RNG.random((20, 30)) + 0.3 * region
        scores = scores if levels is None else np.round(scores * levels)  # many equal scores
        within = RNG.random((20, 30)) < 0.7
        wanted = average_precision_score(region[within], scores[within])
        assert average_precision(scores, region, within) == pytest.approx(wanted, abs=1e-12)


def test_a_perfect_and_an_empty_map():
    region = np.zeros((16, 16))
    region[4:8, 4:8] = 3  # labels, not only 0 and 1
    for name, figure in FIGURES.items():
        assert figure(region, region) == pytest.approx(1.0), name
    flat = np.zeros_like(region)
    assert average_precision(flat, region) == pytest.approx(prevalence(region)) == 16 / 256
    assert points_inside(flat, region) == pytest.approx(16 / 256)


def test_scale_does_not_count():
    region, scores = RNG.random((9, 9)) < 0.3, RNG.random((9, 9))
    for figure in FIGURES.values():
        assert figure(scores, region) == pytest.approx(figure(5 * scores**3 - 2, region))


def test_iou_by_hand():
    region = np.array([1, 1, 0, 0])
    assert iou_at_area([4, 1, 3, 0], region) == pytest.approx(1 / 3)
    assert iou_at_area([1, 1, 3, 4], region) == 0


def test_random_map_reaches_what_the_docstring_says():
    region = RNG.random(40_000) < 0.1
    scores = RNG.random(40_000)
    assert iou_at_area(scores, region) == pytest.approx(0.1 / 1.9, abs=0.01)
    assert average_precision(scores, region) == pytest.approx(0.1, abs=0.01)


def test_pointing_where_two_are_highest():
    assert points_inside([2, 2, 0], [1, 0, 0]) == 0.5


@pytest.mark.parametrize(
    ("scores", "region", "within", "message"),
    [
        (np.ones(3), np.ones(4), None, "one shape"),
        (np.ones(3), np.ones(3), np.ones(2), "one shape"),
        ([1, np.nan], [1, 0], None, "finite"),
        ([1, 2], [0, 0], None, "no pixel"),
        ([1, 2], [1, 0], [0, 1], "no pixel"),
    ],
)
def test_what_cannot_be_scored(scores, region, within, message):
    for figure in FIGURES.values():
        with pytest.raises(ValueError, match=message):
            figure(scores, region, within)


def test_exact_test_is_scipys():
    for n in (4, 9):
        d = RNG.normal(0.4, 1, n)
        wanted = permutation_test((d,), np.mean, permutation_type="samples", alternative="greater").pvalue
        assert paired_permutation(d) == pytest.approx(wanted)


def test_random_flips_come_near_the_exact_value():
    d = RNG.normal(0.5, 1, 14)
    wanted = permutation_test((d,), np.mean, permutation_type="samples", alternative="greater", n_resamples=10**6)
    assert paired_permutation(d, permutations=20_000) == pytest.approx(wanted.pvalue, abs=0.006)
    assert paired_permutation(d, seed=1) == paired_permutation(d, seed=1)


def test_slices_of_a_patient_flip_together():
    """Three patients, all in favour: p is 1/8, however many slices each has."""
    d = np.ones(30)
    assert paired_permutation(d, np.repeat(["a", "b", "c"], 10)) == pytest.approx(1 / 8)
    assert paired_permutation(d) < 0.001


def test_even_chances_without_effect():
    p = [paired_permutation(RNG.normal(0, 1, 20), permutations=500, seed=i) for i in range(100)]
    assert 0.35 < np.mean(p) < 0.65 and 0 < np.mean(np.array(p) < 0.1) < 0.25
    assert paired_permutation([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize(
    ("differences", "groups", "message"),
    [
        ([], None, "finite differences"),
        ([np.nan], None, "finite"),
        ([[1.0]], None, "finite"),
        ([1.0, 2.0], ["a"], "groups"),
    ],
)
def test_what_cannot_be_tested(differences, groups, message):
    with pytest.raises(ValueError, match=message):
        paired_permutation(differences, groups)
