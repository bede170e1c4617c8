"""Augmentation: nothing at p = 0, the same for the same generator, differentiable; and p goes the right way."""

import pytest
import torch

from mrtutor.baselines.augment import AdaptiveChance, augment


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 16) -> torch.Tensor:
    """A bright corner on a black ground, [-1, 1]: no mirror image or turn of it looks like it."""
    images = torch.full((count, 1, 32, 32), -1.0)
    images[:, :, 12:15, 12:20] = 1.0
    images[:, :, 12:24, 12:15] = 0.5
    return images


def test_p_0_is_the_identity():
    assert torch.equal(augment(pictures(), 0.0, random()), pictures())


def test_share_of_changed_pictures_grows_with_p():
    def changed(p: float) -> float:
        return (augment(pictures(400), p, random()) != pictures(400)).flatten(1).any(dim=1).float().mean().item()

    assert changed(0.1) == pytest.approx(1 - (1 - 0.05) * (1 - 0.075) * 0.9**3, abs=0.07)
    assert changed(0.1) < changed(0.5) < changed(1.0) == pytest.approx(1, abs=0.01)


def test_same_generator_same_change():
    first, again = (augment(pictures(), 0.7, random(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(pictures(), 0.7, random(4)))


def test_only_position_and_grey_scale_change():
    """Undo brightness and contrast: each picture keeps its share of black, grey and white pixels."""
    seen = augment(pictures(64), 1.0, random())
    low, high = seen.amin(dim=(1, 2, 3), keepdim=True), seen.amax(dim=(1, 2, 3), keepdim=True)
    restored = (seen - low) / (high - low) * 2 - 1
    assert high.flatten().std() > 0.1 and low.flatten().std() > 0.1
    for value in (-1.0, 0.5, 1.0):
        count = torch.isclose(restored, torch.tensor(value), atol=1e-4).sum(dim=(1, 2, 3))
        assert (count == (pictures(1) == value).sum()).all(), value


def test_gradient_passes_through_every_change():
    images = pictures().requires_grad_(True)
    augment(images, 1.0, random()).sum().backward()
    inner = images.grad[:, :, 12:20, 12:20]  # within reach of no shift's border
    assert (inner > 0).all(), "every pixel that stays in view is felt"


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="p in"):
        augment(pictures(), 1.5, random())
    with pytest.raises(ValueError, match="square images"):
        augment(pictures()[..., :20], 0.5, random())


def test_p_rises_for_a_sure_discriminator_and_falls_for_a_guessing_one():
    chance = AdaptiveChance(target=0.6, images=160, every=2)
    chance.observe(torch.ones(8))
    assert chance.p == 0, "it waits for its second batch"
    chance.observe(torch.ones(8))
    assert chance.p == pytest.approx(0.1)
    chance.observe(torch.tensor([1.0] * 7 + [-1.0]))  # together E sign = 0.75
    chance.observe(torch.tensor([1.0] * 7 + [-1.0]))
    assert chance.p == pytest.approx(0.2)
    for _ in range(2):
        chance.observe(torch.tensor([3.0, -1.0] * 4))  # E sign = 0, however large the logits
    assert chance.p == pytest.approx(0.1)


def test_p_stays_a_probability():
    low, high = AdaptiveChance(images=16, every=1), AdaptiveChance(images=16, every=1)
    for _ in range(5):
        low.observe(-torch.ones(8))
        high.observe(torch.ones(8))
    assert low.p == 0 and high.p == 1
