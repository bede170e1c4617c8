"""Metrics against closed forms and independent implementations."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import normalized_mutual_info_score

from mrtutor.metrics.correspondence import ncc, nmi, sequence_correspondence, ssim
from mrtutor.metrics.edges import edge_f1

rng = np.random.default_rng(0)
A = rng.random((256, 256))
B = 0.5 * A + 0.5 * rng.random((256, 256))


def test_an_image_with_itself_is_one():
    assert ssim(A, A) == nmi(A, A) == 1.0
    assert ncc(A, A) == pytest.approx(1.0)


def test_independent_images_are_near_zero():
    other = rng.random((256, 256))
    assert nmi(A, other) < 0.02  # (bins - 1)² / 2N of finite-sample bias
    assert abs(ncc(A, other)) < 0.02


def test_nmi_agrees_with_sklearn():
    levels = [np.minimum((x * 64).astype(int), 63).ravel() for x in (A, B)]
    assert nmi(A, B) == pytest.approx(normalized_mutual_info_score(*levels), abs=1e-9)


def test_nmi_ignores_inversion_and_ncc_flips_sign():
    assert nmi(A, 1 - A) == pytest.approx(1.0, abs=1e-3)
    assert ncc(A, 1 - A) == pytest.approx(-1.0)


def test_ncc_agrees_with_scipy():
    assert ncc(A, B) == pytest.approx(pearsonr(A.ravel(), B.ravel()).statistic)


def test_sequence_is_the_mean_of_six_pairs():
    sequence = np.stack([A, A, B, B])
    expected = (2 * 1.0 + 4 * ncc(A, B)) / 6
    assert sequence_correspondence(sequence)["ncc"] == pytest.approx(expected)


def test_wrong_sizes_and_constants_are_reported():
    with pytest.raises(ValueError, match="one size"):
        ssim(A, A[:100])
    with pytest.raises(ValueError, match="constant"):
        ncc(A, np.zeros_like(A))


def test_edge_f1_tolerates_two_pixels_and_no_more():
    line = np.zeros((64, 64), np.uint8)
    line[:, 30] = 255
    for shift, expected in ((0, 1.0), (2, 1.0), (3, 0.0)):
        assert edge_f1(np.roll(line, shift, axis=1), line) == expected


def test_edge_f1_counts_misses_and_inventions():
    wanted = np.zeros((64, 64), np.uint8)
    wanted[:, [10, 40]] = 255
    found = wanted.copy()
    found[:, 40] = 0  # precision 1, recall 1/2
    assert edge_f1(found, wanted) == pytest.approx(2 / 3)
    assert edge_f1(wanted, found) == pytest.approx(2 / 3)
    assert edge_f1(np.zeros_like(wanted), wanted) == 0.0
