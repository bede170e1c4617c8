import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from mrtutor.data.structure import canny
from mrtutor.metrics import sequence as metrics


@pytest.fixture(scope="module")
def slices(tiny_cohort):
    return np.asarray(tiny_cohort.images[:6])


def test_nmi_is_that_of_sklearn(slices):
    a, b = slices[0, 0] / 255, slices[0, 2] / 255
    levels = [np.minimum((image.ravel() * 64).astype(int), 63) for image in (a, b)]
    assert metrics.nmi(a, b) == pytest.approx(normalized_mutual_info_score(*levels), abs=1e-9)


@pytest.mark.parametrize("figure", [metrics.ssim, metrics.nmi, metrics.ncc, metrics.psnr])
def test_uint8_and_floats_give_the_same_and_other_ranges_are_refused(slices, figure):
    a, b = slices[0, 0], slices[0, 1]
    assert figure(a, b) == pytest.approx(figure(a / 255, (b / 255).astype(np.float32)), abs=1e-4)
    for bad in (np.full(a.shape, 7.0), np.full(a.shape, np.nan), np.ones(a.shape, int), b[:10]):
        with pytest.raises(ValueError, match="Expected"):
            figure(a, bad)


def test_equal_and_inverted_images(slices):
    image = slices[0, 0] / 255
    assert metrics.ssim(image, image) == pytest.approx(1) and metrics.nmi(image, image) == pytest.approx(1)
    assert metrics.ncc(image, 1 - image) == pytest.approx(-1) and metrics.psnr(image, image) == np.inf
    assert np.isnan(metrics.ncc(image, np.zeros_like(image)))


def test_region_leaves_the_background_out(slices):
    changed, brain = slices[0, 0].copy(), metrics.brain_of(slices[0])
    changed[~brain] = 200
    assert metrics.ncc(slices[0, 0], changed, brain) == pytest.approx(1)
    assert metrics.ncc(slices[0, 0], changed) < 0.9


def test_missing_modalities_are_left_out(slices):
    other = slices.copy()
    other[2, 1] = 0
    found = metrics.each(metrics.psnr, slices, np.clip(other.astype(int) + 2, 0, 255).astype(np.uint8) * (other > 0))
    assert np.argwhere(np.isnan(found)).tolist() == [[2, 1]]
    pairs = [metrics.ssim(other[2, a], other[2, b]) for a, b in ((0, 2), (0, 3), (2, 3))]
    assert metrics.sequence_correspondence(other[2])["ssim"] == pytest.approx(np.mean(pairs))
    other[2, 1:] = 0
    assert np.isnan(metrics.sequence_correspondence(other[2])["nmi"])


def test_random_sequences_mix_patients(slices):
    patients = np.array(["a", "a", "b", "b", "c", "d"])
    marked = np.ones((6, 4, 2, 2), np.uint8) * np.arange(1, 7, dtype=np.uint8)[:, None, None, None]
    mixed = metrics.random_sequences(marked, patients)[:, :, 0, 0] - 1
    assert all(len({patients[row] for row in sequence}) == 4 for sequence in mixed)
    marked[:, 3] = 0  # nobody has T2
    assert not metrics.random_sequences(marked, patients)[:, 3].any()


def test_correspondence_orders_chance_truth_and_copies(slices):
    mixed = metrics.random_sequences(slices, np.repeat(["a", "b", "c"], 2))
    sets = (mixed, slices, np.repeat(slices[:, :1], 4, axis=1))
    found = [[metrics.sequence_correspondence(sequence) for sequence in images] for images in sets]
    for figure in ("ssim", "nmi", "ncc"):
        chance, truth, copies = (np.mean([row[figure] for row in rows]) for rows in found)
        assert chance < truth < copies == pytest.approx(1)


def test_edge_f1_tolerates_two_pixels():
    wanted = np.zeros((64, 64), np.uint8)
    wanted[20, 10:50] = 255
    assert metrics.edge_f1(np.roll(wanted, 2, axis=0), wanted) == 1
    assert metrics.edge_f1(np.roll(wanted, 3, axis=0), wanted) == 0
    assert metrics.edge_f1(np.zeros_like(wanted), wanted) == 0


def test_structure_f1_leaves_the_lender_out(slices):
    sequence, structure = slices[0], canny(slices[0, 0])
    scores = [metrics.edge_f1(canny(image), structure) for image in sequence]
    assert metrics.structure_f1(sequence, structure) == pytest.approx(np.mean(scores))
    assert metrics.structure_f1(sequence, structure, "FLAIR") == pytest.approx(np.mean(scores[1:]))
