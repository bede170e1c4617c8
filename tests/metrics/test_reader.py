"""The independent reader: what it looks at, and that it is trained once."""

import numpy as np
import pytest
import torch

from mrtutor.metrics.reader import Reader, ReaderBatches, shrink, train_reader
from mrtutor.presets import StagePreset
from mrtutor.training.loop import step_generator
from tests.cohorts import write_tiny_cohort

TINY = StagePreset(2, 4, 1e-3, warmup=1, validate_every=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def tiny_cohort(tmp_path_factory):
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"))


def test_pictures_are_averaged_to_half_their_side():
    assert shrink(torch.ones(2, 4, 256, 256)).shape == (2, 4, 128, 128)
    assert shrink(torch.ones(1, 1, 256, 256)).unique().tolist() == [1.0]


def test_both_networks_are_trained_once(tiny_cohort, tmp_path, monkeypatch):
    reader = train_reader(tiny_cohort, tmp_path, recipe=TINY)
    monkeypatch.setattr("mrtutor.metrics.reader.fit", None)  # a second training would fail
    again = train_reader(tiny_cohort, tmp_path, recipe=TINY)
    slices = torch.from_numpy(np.array(tiny_cohort.images[0])).float() / 255
    assert torch.equal(reader.read_modality(slices), again.read_modality(slices))
    assert Reader.load(tmp_path).read_idh(slices[None]).shape == (1,)


def test_a_network_that_is_missing_is_trained_alone(tiny_cohort, tmp_path):
    train_reader(tiny_cohort, tmp_path, recipe=TINY)
    kept = (tmp_path / "idh" / "model.safetensors").read_bytes()
    (tmp_path / "modality").rename(tmp_path / "gone")
    train_reader(tiny_cohort, tmp_path, recipe=TINY)
    assert (tmp_path / "modality").is_dir() and (tmp_path / "idh" / "model.safetensors").read_bytes() == kept


def test_a_reader_of_other_patients_is_no_independent_reader(tiny_cohort, tmp_path):
    first = train_reader(tiny_cohort, tmp_path, recipe=TINY)
    other = train_reader(tiny_cohort, tmp_path, seed=2, recipe=TINY)
    assert not torch.equal(first.idh.classifier[-1].weight, other.idh.classifier[-1].weight)
    (tmp_path / "of.json").unlink()
    with pytest.raises(ValueError, match="which patients"):
        train_reader(tiny_cohort, tmp_path, recipe=TINY)


def test_labels_are_modalities_of_slices_and_types_of_sequences(tiny_cohort):
    rows, generator = tiny_cohort.rows("train"), step_generator(0, 0)
    one = ReaderBatches(tiny_cohort, rows, whole=False)(8, generator)
    whole = ReaderBatches(tiny_cohort, rows, whole=True)(8, generator)
    assert one["image"].shape == (8, 1, 128, 128) and set(one["label"].tolist()) <= {0, 1, 2, 3}
    assert whole["image"].shape == (8, 4, 128, 128) and set(whole["label"].tolist()) <= {0, 1}
