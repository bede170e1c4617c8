"""Table 2 against closed forms and scikit-image, and its bounds in the right order on a toy cohort."""

import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from mrtutor.metrics.correspondence import nmi
from mrtutor.metrics.draws import SyntheticSet, cohort_set, held_out_rows
from mrtutor.metrics.table2 import (
    GT,
    PAIR_NAMES,
    PAIRS,
    RANDOM,
    bounds,
    brain_of,
    pair_figures,
    sequence_figures,
    table2,
)
from tests.cohorts import ellipse, write_tiny_cohort

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    cohort = write_tiny_cohort(tmp_path_factory.mktemp("table2"))
    return cohort_set(cohort, held_out_rows(cohort, 8))


def likeness(truth, images) -> SyntheticSet:
    return SyntheticSet("ours", images, truth.rows, truth.idh, truth.patients)


@pytest.fixture(scope="module")
def tables(truth):
    noisy = (truth.images + rng.integers(-3, 4, truth.images.shape)).clip(0, 255).astype(np.uint8)
    copies = np.repeat(truth.images[:, :1], 4, axis=1)
    sets = {"ours": likeness(truth, noisy), "copies": likeness(truth, copies), "perfect": likeness(truth, truth.images)}
    return table2(sets, truth)


def test_nmi_of_itself_of_independent_and_of_a_known_joint():
    a = rng.integers(0, 64, (256, 256)) / 64
    assert nmi(a, a) == 1.0
    assert nmi(a, rng.permutation(a.ravel()).reshape(a.shape)) < 0.02
    # two fair bits that agree in 3 of 4 pixels: I = ln 2 - H(1/4)
    x = np.tile([0.0, 0.0, 0.9, 0.9], (4, 64))
    y = np.tile([0.0, 0.0, 0.9, 0.9], (4, 64))
    y[0] = 0.9 - y[0]
    h = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert nmi(x, y) == pytest.approx((np.log(2) - h) / np.log(2))


def test_ssim_is_that_of_scikit_image_and_brain_only_looks_at_the_brain():
    a, b = rng.random((2, 64, 64))
    brain = np.zeros((64, 64), bool)
    brain[20:40, 20:40] = True
    figures = pair_figures(a, b, brain)
    value, local = structural_similarity(a, b, data_range=1.0, full=True)
    assert figures[0, 0] == pytest.approx(value) and figures[1, 0] == pytest.approx(local[brain].mean())
    outside = np.where(brain, b, 1 - b)
    assert np.allclose(pair_figures(a, outside, brain)[1, 1:], figures[1, 1:])
    assert not np.allclose(pair_figures(a, outside, brain)[0], figures[0])


def test_four_copies_are_one_in_all_pairs():
    sequence = np.repeat((ellipse(80, 60) * rng.integers(50, 255, (256, 256))).astype(np.uint8)[None], 4, axis=0)
    assert np.allclose(sequence_figures(sequence), 1.0)
    assert sequence_figures(sequence).shape == (2, len(PAIRS), 3)


def test_the_brain_is_found_with_its_dark_holes():
    brain, hole = ellipse(80, 60), ellipse(10, 10)
    sequence = np.stack([np.where(brain & ~hole, 0.5, 0.0)] * 4)
    assert (brain_of(sequence) == brain).all()


def test_the_toy_cohort_lies_above_random_and_below_copies(tables):
    for name in ("ssim", "nmi", "ncc"):
        row = {source: entry["mean"] for source, entry in tables[name].items()}
        assert row[RANDOM] < row[GT] < row["copies"] and row["copies"] > 0.999
        assert row["perfect"] == pytest.approx(row[GT])
        assert tables[name][GT]["n"] == 8 and tables[name][GT]["sd"] > 0
        assert tables["closeness"][name] == pytest.approx(abs(row["prediction"] - row[GT]) / abs(row[GT] - row[RANDOM]))


def test_the_mean_is_the_mean_of_the_six_pairs(tables):
    assert len(PAIR_NAMES) == 6
    for name, pairs in tables["pairs"].items():
        mean = np.mean([pairs[pair]["prediction"]["mean"] for pair in PAIR_NAMES])
        assert tables[name]["prediction"]["mean"] == pytest.approx(mean)
    json.dumps(tables, allow_nan=False)


def test_places_of_the_plot(tables):
    for row in bounds(tables).values():
        assert row[RANDOM]["place"] == 0 and row[GT]["place"] == pytest.approx(1)
        assert row["perfect"]["place"] == pytest.approx(1)


def test_rows_must_agree(truth):
    other = SyntheticSet("ours", truth.images, truth.rows[::-1], truth.idh, truth.patients)
    with pytest.raises(ValueError, match="other rows"):
        table2({"ours": other}, truth)
    with pytest.raises(ValueError, match="at least one model"):
        table2({}, truth)


def test_a_black_sequence_is_reported():
    with pytest.raises(ValueError, match="black"):
        sequence_figures(np.zeros((4, 64, 64), np.uint8))
