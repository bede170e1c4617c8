"""The independent reader: what it looks at, and that it is trained once."""

import numpy as np
import pytest
import torch

from mrtutor.metrics.reader import READERS, Reader, ReaderBatches, build_reader, pixels, train_reader
from mrtutor.presets import StagePreset
from mrtutor.training.loop import step_generator
from tests.cohorts import write_tiny_cohort

TINY = StagePreset(2, 4, 1e-3, warmup=1, validate_every=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def tiny_cohort(tmp_path_factory):
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"))


def test_slices_keep_their_resolution_and_sequences_are_halved():
    assert pixels(torch.zeros(2, 1, 256, 256)).shape == (2, 1, 256, 256)
    assert pixels(torch.ones(2, 4, 256, 256)).shape == (2, 4, 128, 128)
    assert pixels(torch.ones(1, 4, 256, 256)).unique().tolist() == [1.0]


def test_one_bright_spot_reaches_the_modality_reader_whole():
    """The maximum over the slice does not shrink with the slice, the mean does."""
    torch.manual_seed(0)
    network, dark = build_reader("modality").eval().resnet, torch.full((1, 1, 256, 256), -1.0)
    spot = dark.clone()
    spot[..., 100:104, 100:104] = 1
    with torch.inference_mode():
        moved = (network(spot).pooler_output - network(dark).pooler_output).abs().max()
        maps = network(spot).last_hidden_state - network(dark).last_hidden_state
    assert moved > 5 * maps.mean(dim=(-2, -1)).abs().max()


def test_both_networks_are_trained_once(tiny_cohort, tmp_path, monkeypatch):
    reader = train_reader(tiny_cohort, tmp_path, recipe=TINY)
    monkeypatch.setattr("mrtutor.metrics.reader.fit", None)  # a second training would fail
    again = train_reader(tiny_cohort, tmp_path, recipe=TINY)
    slices = torch.from_numpy(np.array(tiny_cohort.images[0])).float() / 255
    assert torch.equal(reader.read_modality(slices), again.read_modality(slices))
    assert again.read_modality(slices).shape == (4,) and again.read_idh(slices[None]).shape == (1,)
    assert isinstance(Reader.load(tmp_path).modality, READERS["modality"])


def test_hard_modalities_come_more_often(tiny_cohort):
    batches = ReaderBatches(tiny_cohort, tiny_cohort.rows("train"), whole=False)
    counts = np.bincount(batches(240, step_generator(0, 0))["label"], minlength=4)
    assert counts[1] + counts[2] > 1.5 * (counts[0] + counts[3])
