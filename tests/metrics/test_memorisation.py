"""A copy is found, a stranger is not; the closest pairs are the closest."""

import numpy as np
import pytest
import torch

from mrtutor.metrics.memorisation import closest_pairs, embed, nearest_distance


@pytest.fixture
def training() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 16))
    return coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)  # (12, 256, 256)


def test_a_copy_has_distance_0_and_its_own_row(training: np.ndarray) -> None:
    distances, rows = nearest_distance(training[[7, 3]], training)
    assert rows.tolist() == [7, 3] and distances == pytest.approx(0, abs=1e-3)


def test_the_distance_is_a_root_mean_square(training: np.ndarray) -> None:
    dark = (training * 0.5 / 255).astype(np.float32)
    distances, rows = nearest_distance(dark[:1], training[:1])
    assert rows.tolist() == [0]
    assert distances[0] == pytest.approx(np.sqrt(np.mean((training[0] / 255 * 0.5) ** 2)), rel=1e-4)


def test_fine_noise_does_not_hide_a_copy(training: np.ndarray) -> None:
    rough = (training[:1] / 255 + np.random.default_rng(1).normal(0, 0.05, (1, 256, 256))).astype(np.float32)
    distances, rows = nearest_distance(rough, training)
    assert rows.tolist() == [0] and distances[0] < 0.02


def test_many_queries_go_in_chunks(training: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest_distance(training[::-1], training)
    monkeypatch.setattr("mrtutor.metrics.memorisation.CHUNK", 5)
    for a, b in zip(nearest_distance(training[::-1], training), whole, strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_closest_pairs_name_each_neighbour_once() -> None:
    pairs = closest_pairs(np.array([0.3, 0.1, 0.2, 0.15]), np.array([5, 8, 8, 2]), count=2)
    assert [(p["query"], p["reference"]) for p in pairs] == [(1, 8), (3, 2)]
    assert [p["distance"] for p in pairs] == pytest.approx([0.1, 0.15])


def test_errors(training: np.ndarray) -> None:
    for wrong in (training[0], training[:0], training[None]):
        with pytest.raises(ValueError, match="slices"):
            embed(wrong)
    assert isinstance(embed(training), torch.Tensor)
