"""The feature network: trained, saved, checked, loaded; the shipped one opens and tells modalities apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrtutor.data.cohort import Cohort
from mrtutor.data.examples import examples_cohort
from mrtutor.metrics.feature_training import HEADS, FeatureBatches, train_features
from mrtutor.metrics.features import Features, features_folder, load_features, load_reference
from mrtutor.presets import StagePreset
from mrtutor.training.loop import step_generator
from tests.cohorts import write_tiny_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_tiny_cohort(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def shipped() -> Features:
    return load_features()


def test_training_writes_a_folder_that_loads(cohort: Cohort, tmp_path: Path) -> None:
    recipe = StagePreset(2, 2, 1e-3, warmup=1, checkpoint_every=1)
    trained = train_features(cohort, tmp_path / "features", recipe=recipe)
    card = (tmp_path / "features/README.md").read_text()
    assert "32 training slices" in card and "No generator was ever conditioned on it" in card
    stored = load_file(tmp_path / "features/model.safetensors")
    assert {v.dtype for v in stored.values() if v.is_floating_point()} == {torch.float16}
    found = trained.of(cohort.images[:2])
    kept = load_reference(tmp_path / "features")
    assert kept["train"].shape == (32, 4, 128) and len(set(kept["train_patients"])) == 16
    assert kept["held_out"].shape == (8, 4, 128) and not set(kept["train_patients"]) & set(kept["held_out_patients"])
    rows = cohort.rows("train")
    assert np.allclose(trained.of_rows(cohort, rows), kept["train"], rtol=1e-2, atol=1e-2)
    assert found.shape == (2, 4, 128) and found.dtype == np.float64 and np.isfinite(found).all()


def test_batches_answer_the_three_questions(cohort: Cohort) -> None:
    batch = FeatureBatches(cohort, cohort.rows("train"))(6, step_generator(0, 0))
    assert batch["image"].shape == (6, 1, 256, 256) and -1 <= batch["image"].min() < batch["image"].max() <= 1
    assert all(0 <= int(batch[name].min()) <= int(batch[name].max()) < labels for name, labels in HEADS.items())
    again = FeatureBatches(cohort, cohort.rows("train"))(6, step_generator(0, 0))
    assert torch.equal(batch["image"], again["image"])


def test_the_shipped_network_is_small_and_says_what_trained_it(shipped: Features) -> None:
    assert sum(p.stat().st_size for p in features_folder().iterdir()) <= 2 * 2**20
    config = json.loads((features_folder() / "config.json").read_text())
    assert config["architectures"] == ["ResNetModel"] and config["num_channels"] == 1
    assert "training slices" in (features_folder() / "README.md").read_text()
    assert not shipped.network.training and next(shipped.network.parameters()).dtype == torch.float32


def test_the_shipped_network_tells_modalities_apart(shipped: Features) -> None:
    cohort = examples_cohort()
    found = shipped.of(cohort.images)  # (8, 4, 128)
    centred = found - found.mean(axis=(0, 1))
    same = np.square(centred - centred.mean(axis=0)).sum(axis=-1).mean()
    between = np.square(centred.mean(axis=0)).sum(axis=-1).mean()
    assert between > 0.5 * same, "the mean picture of a modality says little about a slice of it"
    assert np.allclose(shipped.of_rows(cohort, np.array([5, 2])), found[[5, 2]], atol=1e-4)


def test_what_was_computed_is_remembered(shipped: Features) -> None:
    images = examples_cohort().images[:1, 0]
    first = shipped.of(images)
    assert shipped.of(images.copy()) is first
    assert not np.array_equal(shipped.of(255 - images), first)
    direct = shipped(torch.from_numpy(images).float() / 255).numpy()
    assert np.allclose(first, direct, atol=1e-5)


def test_an_altered_file_is_found_out(tmp_path: Path) -> None:
    folder = shutil.copytree(features_folder(), tmp_path / "features")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        load_features(folder)
    with pytest.raises(FileNotFoundError, match="train_features"):
        load_features(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 256, 256)), np.zeros((256, 256))])
def test_wrong_slices(shipped: Features, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        shipped.of(wrong)
    with pytest.raises(ValueError, match="floats"):
        shipped(torch.zeros(1, 4, 256, 256))
