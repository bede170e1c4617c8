"""A tumour drawn on the other side: what a sampler that follows it, and one that does not, are told."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mrtutor.metrics.generation import Cases, moved_tumour, tumour_movement
from mrtutor.vocabulary import IDH


@pytest.fixture
def cases() -> Cases:
    brain = np.zeros((256, 256), np.uint8)
    cv2.ellipse(brain, (128, 128), (80, 96), 0, 0, 360, 255, 1)
    tumour = np.zeros((2, 256, 256), np.uint8)
    tumour[:, 150:170, 100:120] = 1
    images = np.full((2, 4, 256, 256), 0.3, np.float32)
    images[:, :, tumour[0] > 0] = 0.9
    structures = np.stack([brain > 0] * 2)
    return Cases(np.arange(2), np.zeros(2, int), structures, images, tumour, [IDH.WILD] * 2, np.array(["a", "b"]))


def test_the_two_tumours_mirror_each_other(cases: Cases) -> None:
    pair = moved_tumour(cases.structures[0], cases.masks[0])
    assert pair.left.sum() == pytest.approx(pair.right.sum(), rel=0.02)
    assert pair.left_area.sum() == pair.right_area.sum() > 1000
    assert not (pair.left_area & pair.right_area).any()
    assert np.nonzero(pair.left_area)[1].mean() < 128 < np.nonzero(pair.right_area)[1].mean()


def fills_outlines(idh, structure, seed, modalities) -> dict:
    """A sampler that paints what a line encloses within the brain."""
    lines = np.asarray(structure, np.uint8)
    flooded = np.pad((lines > 0).astype(np.uint8), 1)
    cv2.floodFill(flooded, None, (0, 0), 1)  # outside the brain
    cv2.floodFill(flooded, None, (129, 220), 1)  # brain outside the tumour
    picture = torch.from_numpy((flooded[1:-1, 1:-1] == 0).astype(np.float32))
    return {m: 0.3 + 0.6 * picture for m in modalities}


def test_a_sampler_that_follows_the_outline(cases: Cases) -> None:
    figures = tumour_movement(SimpleNamespace(sequence=fills_outlines), cases)
    assert figures["moved"]["value"] == 1
    assert figures["brightening"]["value"] == pytest.approx(0.6, abs=0.1)
    assert figures["cohort"]["value"] == pytest.approx(0.6, abs=0.01)


def test_a_sampler_that_does_not_look(cases: Cases) -> None:
    def ignorant(idh, structure, seed, modalities):
        noise = torch.rand(256, 256, generator=torch.Generator().manual_seed(seed))
        return dict.fromkeys(modalities, noise)

    figures = tumour_movement(SimpleNamespace(sequence=ignorant), cases)
    assert figures["brightening"]["value"] == pytest.approx(0, abs=1e-6)
    assert figures["moved"]["value"] == 0.5
