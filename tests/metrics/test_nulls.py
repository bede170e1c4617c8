"""Spoilt pictures are spoilt in the way they say, and in no other."""

import numpy as np
import pytest

from mrtutor.metrics.nulls import NULLS, blurred, noisy, wrong_modality


@pytest.fixture
def images() -> np.ndarray:
    x = np.zeros((2, 4, 64, 64), np.uint8)
    for m in range(4):
        x[:, m, 16:48, 16:48] = 60 + 40 * m
    return x


def test_blur_keeps_the_mean_and_takes_the_edges(images: np.ndarray) -> None:
    soft = blurred(images)
    assert soft.mean() == pytest.approx(images.mean(), rel=0.01)
    steepest = [np.abs(np.diff(x.astype(int), axis=-1)).max() for x in (images, soft)]
    assert steepest[1] < steepest[0] / 2


def test_noise_has_the_standard_deviation_it_says_and_is_rician(images: np.ndarray) -> None:
    rough = noisy(images, sd=0.05)
    assert rough[:, 1, 20:44, 20:44].std() == pytest.approx(0.05 * 255, rel=0.05)
    assert not rough[:, :, :12].any(), "noise where the cohort has none"
    dark = images.copy()
    dark[:, 1, 20:44, 20:44] = 0  # a hole in the brain
    hole = noisy(dark, sd=0.05)[:, 1, 20:44, 20:44]
    assert hole.mean() == pytest.approx(0.05 * 255 * (np.pi / 2) ** 0.5, rel=0.05)  # Rayleigh where there is no signal
    assert np.array_equal(rough, noisy(images, sd=0.05)) and not np.array_equal(rough, noisy(images, seed=1))


def test_wrong_modality_shows_real_slices_under_another_word(images: np.ndarray) -> None:
    wrong = wrong_modality(images)
    assert np.array_equal(wrong[:, 0], images[:, 1]) and np.array_equal(wrong[:, 3], images[:, 0])


@pytest.mark.parametrize("name", NULLS)
def test_form_and_errors(name: str, images: np.ndarray) -> None:
    spoilt = NULLS[name](images)
    assert spoilt.shape == images.shape and spoilt.dtype == np.uint8 and not np.array_equal(spoilt, images)
    for wrong in (images / 255, images[0]):
        with pytest.raises(ValueError, match="uint8"):
            NULLS[name](wrong)
