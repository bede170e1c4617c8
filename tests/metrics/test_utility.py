"""The segmenter learns an easy toy, and learns nothing from masks that do not belong to the pictures."""

import numpy as np
import pytest
import torch

from mrtutor.metrics.utility import SmallUNet, dice, train_segmenter


def toy(n: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Discs of random place that are bright in the first modality; (n, 4, side, side) and masks (n, side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    centres = rng.uniform(8, side - 8, (n, 2, 1, 1))
    masks = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 25).astype(np.uint8)
    images = rng.integers(40, 90, (n, 4, side, side))
    images[:, 0] += 120 * masks
    return images.astype(np.uint8), 2 * masks


def test_dice_rises_on_an_easy_toy() -> None:
    images, masks = toy(24, seed=1)
    test = toy(12, seed=2)
    before = dice(train_segmenter(images, masks, steps=1), *test).mean()
    after = dice(train_segmenter(images, masks, steps=60), *test).mean()
    assert after > 0.85 > 0.5 > before


def test_masks_of_other_pictures_teach_nothing() -> None:
    images, masks = toy(24, seed=1)
    wrong = dice(train_segmenter(images, np.roll(masks, 5, axis=0), steps=60), *toy(12, seed=2)).mean()
    assert wrong < 0.5


def test_dice_by_hand() -> None:
    class Left(SmallUNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.full(x.shape[:1] + x.shape[2:], -1.0)
            logits[..., :8] = 1
            return logits

    masks = np.zeros((3, 32, 32), np.uint8)
    masks[0, :, :16] = 3  # all of it found
    masks[1, :, :8] = 1  # half of what is found is tumour
    images = np.zeros((3, 4, 32, 32), np.uint8)
    assert dice(Left(), images, masks) == pytest.approx([1, 2 / 3, 0])


def test_same_seed_same_network() -> None:
    images, masks = toy(8, seed=1)
    a, b, c = (train_segmenter(images, masks, steps=2, seed=s).exit.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_errors() -> None:
    images, masks = toy(4, seed=1)
    for wrong in ((images / 255, masks), (images[:, :3], masks), (images, masks[:2]), (images[:0], masks[:0])):
        with pytest.raises(ValueError, match="same rows"):
            train_segmenter(*wrong)
    with pytest.raises(ValueError, match="only background"):
        train_segmenter(images, 0 * masks)
