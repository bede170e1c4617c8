"""Intervals, reconstruction, memory and generation figures, on inputs whose answer is known."""

import numpy as np
import pytest

from mrtutor.metrics.generation import random_sequences, structure_f1
from mrtutor.metrics.intervals import estimate
from mrtutor.metrics.memorisation import nearest_distance
from mrtutor.metrics.reconstruction import psnr, rim_contrast, rim_contrast_ratio, tumour_psnr

rng = np.random.default_rng(0)


def test_interval_covers_the_true_mean_about_95_percent_of_the_time():
    hits = 0
    for seed in range(200):
        low, high = estimate(np.random.default_rng(seed).normal(3, 2, 60), seed=seed)["ci95"]
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_alike_slices_of_a_patient_do_not_narrow_the_interval():
    patients = np.arange(20)
    values = rng.normal(size=20)
    once = estimate(values)
    repeated = estimate(np.repeat(values, 10), np.repeat(patients, 10))
    assert repeated["n"] == 200
    assert np.diff(repeated["ci95"]) == pytest.approx(np.diff(once["ci95"]), rel=0.15)


def test_no_or_broken_values_are_reported():
    with pytest.raises(ValueError, match="non-empty"):
        estimate([])
    with pytest.raises(ValueError, match="finite"):
        estimate([1.0, float("nan")])


def test_psnr_of_a_known_error():
    images = rng.random((2, 4, 32, 32)) * 0.5
    assert np.allclose(psnr(images, images + 0.1), 20.0)
    masks = np.ones((2, 32, 32), int)
    assert np.allclose(tumour_psnr(images, images + 0.1, masks), 20.0)


def test_tumour_psnr_looks_at_the_tumour_alone():
    images = np.zeros((1, 4, 32, 32))
    masks = np.zeros((1, 32, 32), int)
    masks[0, :8, :8] = 1
    spoiled = images.copy()
    spoiled[..., 20:, 20:] = 1.0
    assert (tumour_psnr(images, spoiled, masks) > 100).all()


def ring_case(height: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:64, :64] - 32
    rim = (np.hypot(y, x) > 10) & (np.hypot(y, x) < 14)
    images = np.full((1, 4, 64, 64), 0.4)
    images[0, :, rim] = 0.4 + height
    return images, np.where(rim, 3, 0)[None]


def test_rim_contrast_and_what_survives():
    original, masks = ring_case(0.4)
    faded, _ = ring_case(0.3)
    assert rim_contrast(original, masks) == pytest.approx(0.4)
    assert rim_contrast_ratio(original, faded, masks) == pytest.approx(0.75)


def test_slices_without_a_rim_are_left_out():
    images, masks = ring_case(0.4)
    assert np.isnan(rim_contrast(images, np.zeros_like(masks))).all()
    assert len(rim_contrast_ratio(images, images, np.zeros_like(masks))) == 0


def test_a_copy_is_found_and_has_distance_zero():
    references = rng.random((10, 64, 64)).astype(np.float32)
    distance, nearest = nearest_distance(references[[7]], references)
    assert nearest[0] == 7 and distance[0] == pytest.approx(0, abs=1e-3)
    far, _ = nearest_distance(1 - references[[7]], references)
    assert far[0] > 0.1


def test_uint8_and_floats_have_one_scale():
    references = rng.integers(0, 256, (5, 64, 64), dtype=np.uint8)
    distance, _ = nearest_distance(references.astype(np.float32) / 255, references)
    assert np.allclose(distance, 0, atol=1e-3)


def test_random_sequences_mix_cases_but_not_modalities():
    images = np.arange(12 * 4).reshape(12, 4, 1, 1) * np.ones((1, 1, 2, 2))
    patients = np.arange(12) // 2  # two slices each
    mixed, members = random_sequences(images, patients)
    for m in range(4):
        assert np.isin(mixed[:, m, 0, 0], images[:, m, 0, 0]).all(), "a modality in another's place"
    assert np.array_equal(patients[mixed[..., 0, 0].astype(int) // 4], members)
    assert all(len(set(row)) == 4 for row in members), "two modalities of one patient are no random pair"


def test_interval_of_values_that_mix_patients():
    """Each value is the mean of three patients' own values; 95 % of the intervals must hold the true mean."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(200):
        own = rng.normal(size=30)
        members = np.stack([rng.permutation(30)[:3] for _ in range(200)])
        low, high = estimate(own[members].mean(axis=1), members)["ci95"]
        covered.append(low <= 0 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_no_exception_seen_is_no_certainty():
    """32 of 32: Wilson's interval of as many patients, not [1, 1]."""
    low, high = estimate(np.ones(32))["ci95"]
    assert low == pytest.approx(0.893, abs=1e-3) and high == pytest.approx(1)
    assert estimate(np.ones(32), np.repeat(np.arange(8), 4))["ci95"][0] == pytest.approx(0.676, abs=1e-3)
    assert estimate(np.zeros(32))["ci95"][1] == pytest.approx(0.107, abs=1e-3)
    assert estimate(np.ones(32), share=False)["ci95"] == [1, 1], "SSIM of equal pictures, no answers"


def test_structure_f1_leaves_out_the_modality_that_gave_the_edges():
    square = np.zeros((64, 64), np.float32)
    square[16:48, 16:48] = 1.0
    from mrtutor.data.structure import canny

    wanted = canny(square) > 0
    blank = np.zeros_like(square)
    follows = np.stack([blank, square, square, square])  # modality 0 gave the edges and is blank
    result = structure_f1(wanted[None], np.array([0]), follows[None], np.array(["a"]))
    assert result["value"] == pytest.approx(1.0)
    ignores = np.stack([square, blank, blank, blank])
    assert structure_f1(wanted[None], np.array([0]), ignores[None], np.array(["a"]))["value"] == 0.0
