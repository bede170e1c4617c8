import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mrtutor.metrics import distances


@pytest.fixture(scope="module")
def slices(tiny_cohort):
    return np.asarray(tiny_cohort.images[:6])


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4000, 3)), rng.normal(0, 2, (4000, 3)) + 1
    assert distances.frechet_distance(a, b) == pytest.approx(6, abs=0.4)  # 3 · (1² + (2 - 1)²)
    assert distances.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    by_hand = (a[:, 0].mean() - b[:, 0].mean()) ** 2 + (a[:, 0].std(ddof=1) - b[:, 0].std(ddof=1)) ** 2
    assert distances.frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(by_hand)
    up, down = (np.array([[1, r], [r, 1]]) for r in (0.8, -0.8))
    overlap = np.sqrt(np.linalg.eigvals(up @ down).real).sum()
    assert distances.frechet_gaussians(np.zeros(2), up, np.zeros(2), down) == pytest.approx(4 - 2 * overlap)


def test_kid_is_the_unbiased_mmd():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(12, 4)), rng.normal(size=(9, 4)) + 0.5

    def kernel(x, y):
        return (x @ y / 4 + 1) ** 3

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    assert distances.kid(a, b) == pytest.approx(sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b]))
    same = [distances.kid(rng.normal(size=(30, 4)), rng.normal(size=(30, 4))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)  # no bias, so some lie below 0


@pytest.mark.parametrize(("distance", "plain"), [("frechet", distances.frechet_distance), ("kid", distances.kid)])
def test_estimate_of_modalities_and_their_mean(distance, plain):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(40, 4, 3)) + 1, rng.normal(size=(60, 4, 3))
    a[::5, 3] = np.nan  # some patients lack T2
    found = distances.distance_estimate(distance, a, b, np.repeat(range(20), 2), np.arange(60))
    kept = np.isfinite(a[:, 3, 0])
    assert [e.n for e in found.values()] == [40, 40, 40, 32, 152] and found["FLAIR"].patients == 20
    assert found["FLAIR"].value == pytest.approx(plain(a[:, 0], b[:, 0]))
    assert found["T2"].value == pytest.approx(plain(a[kept, 3], b[:, 3]))
    assert found["mean"].value == pytest.approx(np.mean([e.value for e in list(found.values())[:4]]))
    assert all(e.low < e.value < e.high for e in found.values())
    a[:, 3] = np.nan  # nobody has T2, as in kaggle-3m
    without = distances.distance_estimate(distance, a, b, np.repeat(range(20), 2), np.arange(60))
    assert set(without) == {"FLAIR", "T1", "T1Gd", "mean"} and without["mean"].n == 120


def test_estimate_counts_patients_and_not_slices():
    rng = np.random.default_rng(3)
    a = np.repeat(rng.normal(size=(10, 1, 2)), 8, axis=0) + rng.normal(0, 0.01, (80, 1, 2))
    a, b = np.tile(a, (1, 4, 1)), np.tile(rng.normal(size=(100, 1, 2)), (1, 4, 1))
    people = (np.repeat(range(10), 8), np.arange(80))
    wide, narrow = (distances.distance_estimate("frechet", a, b, p, np.arange(100))["FLAIR"] for p in people)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_shipped_features_tell_modalities_apart(slices):
    network = distances.load_features()
    found = network(slices)
    assert found.shape == (6, 4, 128) and np.allclose(network(slices[0] / 255), found[0], atol=1e-4)
    same = distances.frechet_distance(found[:3, 1], found[3:, 1])
    assert same < 0.5 * distances.frechet_distance(found[:3, 0], found[3:, 1])


def test_missing_slices_have_no_features(slices, tmp_path):
    class Mean(torch.nn.Module):
        def forward(self, images):
            return type("Output", (), {"pooler_output": images.mean(dim=(2, 3))})

    images = slices.copy()
    images[1, 2] = 0
    found = distances.Features(Mean())(images)
    assert np.argwhere(np.isnan(found[..., 0])).tolist() == [[1, 2]]
    assert found[0, 0, 0] == pytest.approx(slices[0, 0].mean() / 127.5 - 1, abs=1e-5)
    with pytest.raises(FileNotFoundError, match="none"):
        distances.load_features(tmp_path / "none")


def test_two_sample_test_needs_a_difference_and_new_patients():
    rng = np.random.default_rng(4)
    patients = np.repeat(range(20), 3)
    habit = np.repeat(rng.normal(size=(20, 1, 5)), 3, axis=0)  # each patient is recognised at once
    a, b = habit + rng.normal(0, 0.1, (60, 1, 5)), habit + rng.normal(0, 0.1, (60, 1, 5))
    same = distances.tell_by_features(a, b, patients, patients)
    assert abs(same.value - 0.5) < 0.12 and same.n == 120
    assert distances.tell_by_features(a + 1.5, b, patients, patients).value > 0.8
    a[:30, 0] = np.nan
    assert distances.tell_by_features(a, b, patients, patients).n == 60


def test_copies_are_near_and_others_are_not(slices):
    copies = np.roll(slices[:2], 1, axis=-1)
    near, number = distances.nearest_distance(copies[:, 0], slices[:, 0])
    far, _ = distances.nearest_distance(slices[4:, 0], slices[:4, 0])
    assert number.tolist() == [0, 1] and near.max() < far.min()
    assert distances.near_training(copies, slices[4:], slices[:4]).all()
    holed = slices[4:].copy()
    holed[0, 1] = 0
    assert np.isnan(distances.near_training(holed, slices[4:], slices[:4])[0, 1])
    assert distances.near_training(slices[4:], slices[4:], slices[:4]).mean() <= 0.5


def test_reconstruction_keeps_shape_and_missing_slices(smoke_pipe, slices):
    images = slices[:1].copy()
    images[0, 3] = 0
    decoded = distances.reconstruct_slices(smoke_pipe.autoencoder, images)
    assert decoded.shape == images.shape and 0 <= decoded.min() <= decoded.max() <= 1
    assert not decoded[0, 3].any() and decoded[0, 0].any()


def test_sharpness_and_lesion_contrast(tiny_cohort, slices):
    masks, blurred = np.array(tiny_cohort.masks[:6]), gaussian_filter(slices[:2], (0, 0, 3, 3))
    assert (distances.sharpness(blurred) < distances.sharpness(slices[:2])).all()
    masks[1] = 0
    found = distances.lesion_contrast(slices, masks)
    assert found[0, 0] > 1 > -0.5 > found[0, 1]  # bright in FLAIR, dark in T1
    assert np.isnan(found[1]).all() and np.isfinite(found[2:]).all()
