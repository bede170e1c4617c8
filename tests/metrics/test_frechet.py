"""Fréchet distance and KID: closed forms, torchmetrics, bias, intervals, errors."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mrtutor.metrics.frechet import distance_estimate, frechet_distance, frechet_gaussians, inception_fid, kid


def draws(n: int, d: int = 6, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def test_one_dimension_by_hand() -> None:
    one = np.ones((1, 1))
    assert frechet_gaussians(np.zeros(1), one, np.array([3.0]), 4 * one) == pytest.approx(3**2 + (2 - 1) ** 2)


def test_diagonal_gaussians_by_hand() -> None:
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25])  # variances; one is singular
    expected = 5.0 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    got = frechet_gaussians(np.zeros(3), np.diag(a), np.array([1.0, 0.0, 2.0]), np.diag(b))
    assert got == pytest.approx(expected)


def test_it_does_not_depend_on_the_axes() -> None:
    rotation = np.linalg.qr(draws(6, seed=5))[0]
    a, b = draws(80, seed=1), draws(90, seed=2, shift=0.4) * np.arange(1, 7)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_more_features_than_vectors_is_finite() -> None:
    assert 0 < frechet_distance(draws(5, 40, 1), draws(6, 40, 2)) < np.inf


def test_samples_approach_the_closed_form() -> None:
    got = frechet_distance(draws(40_000, seed=1), draws(40_000, seed=2, shift=0.5, scale=2.0))
    assert got == pytest.approx(6 * (0.5**2 + 1), rel=0.02)


def test_few_vectors_make_it_too_large() -> None:
    same = {
        n: np.mean([frechet_distance(draws(n, seed=s), draws(n, seed=99 + s)) for s in range(8)]) for n in (20, 200)
    }
    assert same[20] > 5 * same[200] > 0


class Mean8(nn.Module):
    """A feature module for torchmetrics: block means of the first channel, (B, 3, 32, 32) -> (B, 16)."""

    num_features = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images[:, :1].double(), 8).flatten(1)


def test_against_torchmetrics_with_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    generator = torch.Generator().manual_seed(0)
    a = torch.rand(60, 3, 32, 32, generator=generator, dtype=torch.float64)
    b = torch.rand(70, 3, 32, 32, generator=generator, dtype=torch.float64) ** 1.5
    theirs = FrechetInceptionDistance(feature=Mean8(), normalize=False).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    network = Mean8()
    assert frechet_distance(network(b).numpy(), network(a).numpy()) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_kid_against_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = draws(50, seed=1), draws(50, seed=2, shift=0.3)
    assert kid(a, b) == pytest.approx(float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-6)


def test_kid_is_unbiased_where_the_frechet_distance_is_not() -> None:
    values = [kid(draws(12, seed=s), draws(15, seed=1000 + s)) for s in range(400)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3.5 * error and min(values) < 0
    frechet = [frechet_distance(draws(12, seed=s), draws(15, seed=1000 + s)) for s in range(50)]
    assert min(frechet) > 0.5


def test_kid_sees_a_shift() -> None:
    assert kid(draws(200, seed=1), draws(200, seed=2, shift=1.0)) > 0.5


def test_estimate_is_the_plain_distance_with_an_average() -> None:
    pairs = [(draws(60, seed=1), draws(80, seed=2)), (draws(60, seed=3), draws(80, seed=4, shift=0.5))]
    patients = np.arange(60) // 3
    for name, plain in (("frechet", frechet_distance), ("kid", kid)):
        first, second, average = distance_estimate(name, pairs, patients, resamples=50)
        assert first["value"] == pytest.approx(plain(*pairs[0])) and first["n"] == 60
        assert second["value"] == pytest.approx(plain(*pairs[1]))
        assert average["value"] == pytest.approx((first["value"] + second["value"]) / 2) and average["n"] == 120
        for one in (first, second, average):
            assert one["ci95"][0] <= one["value"] <= one["ci95"][1]


def test_resampling_counts_as_drawing_again_would() -> None:
    a, b = draws(30, seed=1), draws(40, seed=2)
    patients = np.repeat(np.arange(10), 3)
    rng = np.random.default_rng(7)
    weights = rng.multinomial(10, np.full(10, 0.1), 1)[0]
    again = np.concatenate([np.repeat(a[patients == p], weights[p], axis=0) for p in range(10)])
    from mrtutor.metrics.frechet import _frechet

    got = _frechet((a, patients), (b, np.zeros(40, int)), weights[None].astype(float), np.ones((1, 1)))[0]
    assert got == pytest.approx(frechet_distance(again, b))


def test_whole_patients_are_resampled() -> None:
    centres = draws(8, seed=3, scale=3.0)
    a = np.repeat(centres, 10, axis=0) + draws(80, seed=4, scale=0.1)  # eight patients, ten slices alike
    b = draws(200, seed=5, scale=3.0)
    width = [np.diff(distance_estimate("kid", [(a, b)], g)[0]["ci95"])[0] for g in (None, np.repeat(np.arange(8), 10))]
    assert width[1] > 1.5 * width[0]


def test_intervals_cover_the_truth() -> None:
    truth, covered = 6 * 0.5**2, 0
    for s in range(20):
        pair = (draws(150, seed=s), draws(600, seed=500 + s, shift=0.5))
        low, high = distance_estimate("frechet", [pair], resamples=80, seed=s)[0]["ci95"]
        covered += low - 0.25 < truth < high  # the value itself is biased upwards by about 0.2 at this N
    assert covered >= 16


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (draws(1), draws(9), "at least two"),
        (draws(9)[:, 0], draws(9), "at least two"),
        (draws(9, 3), draws(9, 4), "as many features"),
        (np.full((9, 3), np.nan), draws(9, 3), "finite"),
    ],
)
def test_errors(a: np.ndarray, b: np.ndarray, message: str) -> None:
    for distance in (frechet_distance, kid):
        with pytest.raises(ValueError, match=message):
            distance(a, b)


def test_estimate_errors() -> None:
    pair = (draws(9), draws(9))
    with pytest.raises(ValueError, match="frechet, kid"):
        distance_estimate("fid", [pair])
    with pytest.raises(ValueError, match="a patient for each"):
        distance_estimate("kid", [pair], np.arange(4))
    with pytest.raises(ValueError, match="one size"):
        distance_estimate("kid", [pair, (draws(8), draws(9))])


def test_inception_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrtutor.metrics.frechet.find_spec", lambda name: None)
    answer = inception_fid(np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8), np.uint8))
    assert answer["value"] is None and "pip install torch-fidelity" in answer["note"]


def test_inception_where_torch_fidelity_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], torch.dtype, bool]] = []

    class Metric:
        def __init__(self, feature: int):
            assert feature == 2048

        def update(self, images: torch.Tensor, real: bool) -> None:
            seen.append((tuple(images.shape), images.dtype, real))

        def compute(self) -> torch.Tensor:
            return torch.tensor(7.0)

    module = ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = Metric
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    monkeypatch.setattr("mrtutor.metrics.frechet.find_spec", lambda name: object())
    assert inception_fid(np.zeros((3, 8, 8), np.uint8), np.zeros((5, 8, 8), np.uint8)) == {"value": 7.0, "n": 3}
    assert seen == [((3, 3, 8, 8), torch.uint8, False), ((5, 3, 8, 8), torch.uint8, True)]
