"""Adaptive discriminator augmentation: with few slices, a discriminator learns them by heart.

Cohort and drawn slices pass the same random changes before the discriminator sees them, each change with probability
p. As long as p < 1 the generator cannot gain by drawing changed slices; p grows only while the discriminator is too
sure of the cohort's.

Axes: B batch · C channels · H image pixels per side.

Source: Karras et al., NeurIPS 2020, §3.1 and Appendix B; of its changes these: mirror, quarter turn, shift by whole
pixels, brightness, contrast.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SHIFT = 0.125  # largest shift as a share of the side
BRIGHTNESS = 0.2  # standard deviation, of images in [-1, 1]
CONTRAST = 0.5  # standard deviation of the factor's binary logarithm


def augment(images: Tensor, p: float, generator: Generator) -> Tensor:
    """Change each image at random; differentiable, and the identity at p = 0.

    Args:
        images: (B, C, H, H) in about [-1, 1].
        p: probability of each change, in [0, 1].
        generator: on the CPU.

    Raises:
        ValueError: images that are not square, or p outside [0, 1].
    """
    count, _, height, width = images.shape
    if height != width or not 0 <= p <= 1:
        raise ValueError(f"Expected square images and p in [0, 1], got {tuple(images.shape)} and p = {p}.")
    if p == 0:
        return images

    def chance(share: float = 1.0) -> Tensor:
        return torch.rand(count, generator=generator) < p * share

    mirrored, shifted = chance(0.5), chance()
    turns = torch.randint(1, 4, (count,), generator=generator) * chance(0.75)  # no turn is one of the four
    reach = round(SHIFT * height)
    shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator) * shifted[:, None]
    brightness = BRIGHTNESS * torch.randn(count, generator=generator) * chance()
    contrast = torch.exp2(CONTRAST * torch.randn(count, generator=generator) * chance())

    moved = []
    padded = F.pad(images, [reach] * 4, mode="replicate")  # the border is background, and stays so
    for b in range(count):
        y, x = (reach + shifts[b]).tolist()
        image = padded[b, :, y : y + height, x : x + width]
        image = image.flip(-1) if mirrored[b] else image
        moved.append(torch.rot90(image, int(turns[b]), (-2, -1)))
    factor, offset = (v.to(images.device)[:, None, None, None] for v in (contrast, brightness))
    return torch.stack(moved) * factor + offset


@dataclass
class AdaptiveChance:
    """The p of `augment`, driven by r = E[sign D(cohort)]: 0 for a discriminator that guesses, 1 for one that knows.

    p moves by a fixed step towards r = `target`, every `every` batches, and needs `images` images from 0 to 1.
    """

    target: float = 0.6
    images: int = 50_000
    every: int = 4
    p: float = 0.0
    signs: float = 0.0  # sum since the last move
    count: int = 0  # images since the last move
    batches: int = 0

    def observe(self, logits: Tensor) -> None:
        """Logits (B,) of cohort slices, augmented as they were seen."""
        self.signs += logits.detach().sign().sum().item()
        self.count += len(logits)
        self.batches += 1
        if self.batches == self.every:
            excess = self.signs / self.count - self.target
            step = self.count / self.images
            self.p = min(1.0, max(0.0, self.p + (step if excess > 0 else -step)))
            self.signs, self.count, self.batches = 0.0, 0, 0
