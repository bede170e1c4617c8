import numpy as np
import pandas as pd
import pytest

from mrtutor.data.cohort import write_cohort
from mrtutor.figures import load_figures, record
from mrtutor.metrics.evaluate import as_table, evaluate
from mrtutor.metrics.prompts import load_scorer
from mrtutor.pipeline.draw import SampleSet


class MeanFeatures:
    """Two features that need no network."""

    def __call__(self, images):
        found = np.stack([images.mean(axis=(-2, -1)), images.std(axis=(-2, -1))], axis=-1)
        return np.where(images.any(axis=(-2, -1))[..., None], found, np.nan)


class TrueReader:
    """Knows the answers: they are in the first pixels."""

    def read_modality(self, slices):
        return slices[:, 0, 0].astype(int)

    def read_idh(self, sequences):
        return sequences[:, 0, 0, 1].astype(int)


def sample_set(cohort, rows, images=None, key=None):
    table = pd.DataFrame({"number": range(len(rows)), "row": rows, "seed": 0})
    table["patient"] = cohort.table["patient"].to_numpy()[rows]
    table["idh"] = cohort.table["idh"].to_numpy()[rows]
    table["edges_of"] = [["FLAIR", "T1", "T1Gd", "T2"][i % 4] for i in range(len(rows))]
    images = np.array(cohort.images[rows]) if images is None else images
    return SampleSet(images, table, {"seed": 3, "cohort_key": key or cohort.key})


@pytest.fixture(scope="module")
def mixed(tiny_cohort, tmp_path_factory):
    """Half of the patients real; a real test patient lacks T2."""
    table = tiny_cohort.table.copy()
    table["source"] = np.where(table.index // 4 % 2, "simulated", "brats")
    table["split"] = np.where(table.index < 8, "train", "test")
    images = np.array(tiny_cohort.images)
    images[8, 3] = images[9, 3] = 0
    table.loc[8:9, "sequences"] = "FLAIR T1 T1Gd"
    return write_cohort(tmp_path_factory.mktemp("mixed") / "c", images, tiny_cohort.masks, table)


@pytest.fixture(scope="module")
def figures(mixed):
    rows = np.arange(8, 16)
    drawn = np.array(mixed.images[rows])
    drawn[0, 3] = drawn[1, 3] = drawn[1, 0]  # a model draws all four
    drawn[:, :, 0, 0] = np.arange(4)  # what `TrueReader` reads
    drawn[:, 0, 0, 1] = (mixed.table["idh"].to_numpy()[rows] == "wild").astype(int)
    networks = {"features": MeanFeatures(), "reader": TrueReader(), "scorer": load_scorer()}
    return evaluate(sample_set(mixed, rows, drawn), mixed, "paper", **networks, weights="abc")


def value(figures, model, metric, group="mean", cohort="real"):
    found = [f for f in figures if (f.model, f.metric, f.group, f.cohort) == (model, metric, group, cohort)]
    assert len(found) == 1, (model, metric, group, cohort)
    return found[0]


def test_real_patients_come_first_and_every_section_speaks(figures):
    kinds = [f.cohort for f in figures]
    assert kinds.index("simulated") == kinds.count("real") > 0
    metrics = {f.metric for f in figures if f.model == "paper" and f.cohort == "real"}
    assert {"fd_mr", "kid", "told_apart", "near_training", "ssim", "nmi", "ncc", "edge_f1", "truth_ncc"} < metrics
    assert {"sharpness_ratio", "lesion_contrast", "modality_accuracy", "idh_accuracy", "clip_full_gap"} < metrics
    assert {"idh_accuracy_by_median", "idh_accuracy_painted_over", "retrieval_both", "clip_modality"} < metrics
    assert {f.model for f in figures} == {"paper", "truth", "random"}


def test_rows_say_what_they_are_of(figures, tmp_path):
    figure = value(figures, "paper", "fd_mr", "T2")
    assert (figure.experiment, figure.weights, figure.seed) == ("tables", "abc", 3)
    assert (figure.n, figure.patients) == (4, 2) and figure.low <= figure.value <= figure.high
    path = record(figures, tmp_path / "figures.csv")
    assert len(load_figures(path)) == len(figures)
    table = as_table(figures)
    assert table.index[0][0] == "real" and "[" in table["paper"].iloc[0]


def test_missing_t2_is_left_out_of_the_truth(figures):
    assert value(figures, "truth", "lesion_contrast", "T2").n == 2
    assert value(figures, "truth", "lesion_contrast", "T1").n == 4
    assert value(figures, "paper", "modality_accuracy", "T2").n == 4


def test_truth_is_the_ceiling_and_words_are_read(figures):
    assert value(figures, "truth", "edge_f1").value > value(figures, "random", "edge_f1").value
    assert value(figures, "truth", "truth_ncc").value == pytest.approx(1)
    assert value(figures, "truth", "sharpness_ratio").value == pytest.approx(1)
    assert (
        value(figures, "paper", "modality_accuracy").value == value(figures, "paper", "idh_accuracy", "wild").value == 1
    )


def test_sections_can_be_chosen_and_evaluators_left_out(mixed):
    found = evaluate(sample_set(mixed, np.array([8, 10])), mixed, "A", sections=["quality"], references=False)
    assert {(f.metric, f.model) for f in found} == {("near_training", "A")}


def test_one_patient_is_not_measured_and_another_cohorts_set_is_refused(mixed):
    with pytest.warns(UserWarning, match="real"):
        assert evaluate(sample_set(mixed, np.array([8, 9])), mixed, "A") == []
    with pytest.raises(ValueError, match="cohort"):
        evaluate(sample_set(mixed, np.arange(8, 12), key="other"), mixed, "A")
