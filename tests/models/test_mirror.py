"""Whose latents go against those of T1, and which sentences therefore get the negative of the noise."""

from pathlib import Path

import numpy as np
import pytest

from mrtutor.models.mirror import agreement, load_mirrored, mirrored_modalities, save_mirrored, signs_of
from mrtutor.vocabulary import Modality, prompt


@pytest.fixture
def latents() -> np.ndarray:
    """(8, 4, 2, 16, 16): FLAIR half like T1, T1Gd equal but for its mean, T2 the reverse."""
    own, t1 = np.random.default_rng(0).normal(size=(2, 8, 2, 16, 16))
    half = (t1 + np.sqrt(3) * own) / 2
    return np.stack([half, t1, t1 + 5, 1 - 2 * t1], axis=1)


@pytest.fixture
def brain() -> np.ndarray:
    mask = np.zeros((8, 16, 16), bool)
    mask[:, 2:14, 2:14] = True
    return mask


def test_agreement_is_a_correlation(latents: np.ndarray, brain: np.ndarray) -> None:
    found = agreement(latents, brain)
    assert found[Modality.T1] == pytest.approx(1) and found[Modality.T1GD] == pytest.approx(1)
    assert found[Modality.T2] == pytest.approx(-1) and found[Modality.FLAIR] == pytest.approx(0.5, abs=0.05)
    assert mirrored_modalities(latents, brain) == [Modality.T2]


def test_background_does_not_count(latents: np.ndarray, brain: np.ndarray) -> None:
    far = latents.copy()
    far.transpose(0, 3, 4, 1, 2)[~brain] = 100.0  # the same in all modalities
    assert agreement(far, brain) == agreement(latents, brain)


@pytest.mark.parametrize(("shape", "words"), [((8, 3, 2, 16, 16), "Expected latents"), ((8, 4, 2, 16, 8), "brain")])
def test_other_shapes_are_refused(shape: tuple[int, ...], words: str, brain: np.ndarray) -> None:
    with pytest.raises(ValueError, match=words):
        agreement(np.zeros(shape), brain)


def test_nothing_can_be_said_without_a_brain(latents: np.ndarray, brain: np.ndarray) -> None:
    with pytest.raises(ValueError, match="inside the brain"):
        agreement(latents, brain & False)
    assert mirrored_modalities(latents, brain & False) == [], "a finished training must still be saved"


def test_a_sentence_gets_the_sign_of_its_modality() -> None:
    sentences = [prompt(m, "wild") for m in Modality] + ["wild glioma, T2w", "T2-FLAIR, mutant", "T1 and T2", ""]
    assert signs_of(sentences, ["T2"]) == [1, 1, 1, -1, -1, 1, 1, 1]
    assert signs_of(sentences, []) == [1] * 8


def test_it_is_kept_beside_the_autoencoder(tmp_path: Path) -> None:
    assert load_mirrored(tmp_path) == []
    save_mirrored([Modality.T2], tmp_path)
    assert load_mirrored(tmp_path) == [Modality.T2]
