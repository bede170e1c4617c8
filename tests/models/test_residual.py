"""What the autoencoder leaves out: measured where it is known, drawn as it was measured."""

import numpy as np
import pytest
import torch
from tiny_pipelines import seeded

from mrtutor.models.residual import (
    DARK,
    Residual,
    add_residual,
    draw_residual,
    load_residual,
    measure_residual,
    save_residual,
)

GRAIN = Residual(std=0.014, width=0.75)


def disc(grey=0.5, side=256):
    y, x = np.mgrid[:side, :side] - side / 2
    return np.where(np.hypot(x, y) < 0.4 * side, grey, 0.0).astype(np.float32)


@pytest.mark.parametrize("known", [GRAIN, Residual(0.03, 0.6), Residual(0.01, 1.5), Residual(0.02, 0.0)])
def test_what_is_drawn_is_measured(known):
    means = np.stack([disc(), disc(0.7)])
    noise = draw_residual(known, (256, 256), [seeded(1), seeded(2)]).numpy()
    found = measure_residual(means + noise, means)
    assert found.std == pytest.approx(known.std, rel=0.05)
    assert found.width == pytest.approx(known.width, abs=0.06)  # the formula is that of wide ones


def test_misdrawn_outlines_are_no_noise():
    means = np.stack([disc()])
    wrong = means.copy()
    wrong[:, 100:110, 60:200] += 0.3  # a stripe that the autoencoder left out
    noise = draw_residual(GRAIN, (256, 256), [seeded(1)]).numpy()
    assert measure_residual(wrong + noise, means).std == pytest.approx(GRAIN.std, rel=0.1)


def test_grain_that_the_decoder_draws_itself_is_not_added_again():
    means = np.stack([disc(), disc(0.7)])
    noise, own = (draw_residual(GRAIN, (256, 256), [seeded(s), seeded(s + 1)]).numpy() for s in (1, 3))
    lacking = measure_residual(means + noise, means + 0.6 * own)
    assert lacking.std == pytest.approx(0.8 * GRAIN.std, rel=0.05)  # 0.6² + 0.8² = 1
    assert measure_residual(means + noise, means + 1.2 * own) == Residual()


def test_nothing_flat_to_measure():
    rough = np.random.default_rng(0).random((2, 64, 64))
    assert measure_residual(rough, rough[::-1]) == Residual()
    assert measure_residual(np.zeros((2, 64, 64)), np.zeros((2, 64, 64))) == Residual()


def test_kept_beside_the_autoencoder(tmp_path):
    assert load_residual(tmp_path) == Residual()
    save_residual(GRAIN, tmp_path)
    assert load_residual(tmp_path) == GRAIN


def test_each_generator_has_its_own_noise():
    first, again, other = (draw_residual(GRAIN, (64, 64), [seeded(s)]) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] == pytest.approx(0, abs=0.1)


def test_background_and_range_stay():
    means = torch.from_numpy(np.stack([disc(0.999), disc(DARK / 2)]))
    drawn = add_residual(means, GRAIN, [seeded(1), seeded(2)])
    assert torch.equal(drawn[means <= DARK], means[means <= DARK])
    assert 0.9 < drawn[0][means[0] > 0.5].mean() < 1
    assert drawn.max() == 1
