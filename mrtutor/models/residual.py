"""What the autoencoder cannot code: the grain of the scanner.

An autoencoder trained with a pixel loss gives the *mean* of p(x|z), the pictures that one latent stands for, and noise
has mean zero. A picture of the cohort is a sample: mean and noise. This is the noise, Gaussian, of one strength and one
width, as measured where training slices are flat, so that no outline is mistaken for noise.

Axes: N pictures · H, W image pixels. Pictures are in [0, 1].
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Generator, Tensor

from mrtutor.files import write_json

DARK = 0.02  # below it a picture is background, which skull-stripping has set to 0: no noise there
FLAT = 0.02  # grey values per pixel: the gradient of a mean in which nothing but noise is to be seen
BORDER = 4  # pixels from the background
MINIMUM = 1000  # flat pixels without which there is nothing to measure
FILE = "residual.json"  # beside an autoencoder's weights, in the folder of a run


@dataclass(frozen=True)
class Residual:
    """Gaussian noise: `std` in grey values of [0, 1], `width` the Gaussian that smooths it, in pixels (sd)."""

    std: float = 0.0
    width: float = 0.0


def measure_residual(images: np.ndarray, decoded: np.ndarray) -> Residual:
    """Strength and width of `images` - `decoded` in flat places of the brain.

    The strength is 1.4826 times the median absolute deviation, which the few misdrawn pixels do not move. White noise
    under a Gaussian of sd s has correlation exp(-1 / 4s²) between neighbours: that gives the width.

    Args:
        images: (N, H, W) slices in [0, 1].
        decoded: (N, H, W) the same through the autoencoder.

    Returns:
        No residual where hardly a place is flat, as behind an autoencoder that has learnt nothing yet.
    """
    residual = images - decoded
    inside = ndimage.binary_erosion(decoded > DARK, np.ones((1, 3, 3)), iterations=BORDER)
    down, across = (ndimage.gaussian_filter(decoded, (0, 1, 1), order=o) for o in ((0, 1, 0), (0, 0, 1)))
    flat = inside & (np.hypot(down, across) < FLAT)
    if flat.sum() < MINIMUM:
        return Residual()
    std = 1.4826 * float(np.median(np.abs(residual[flat] - np.median(residual[flat]))))
    calm = flat & (np.abs(residual) < 4 * std)
    beside, below = calm[:, :, :-1] & calm[:, :, 1:], calm[:, :-1] & calm[:, 1:]
    first = np.concatenate([residual[:, :, :-1][beside], residual[:, :-1][below]])
    second = np.concatenate([residual[:, :, 1:][beside], residual[:, 1:][below]])
    correlation = float(np.corrcoef(first, second)[0, 1])
    return Residual(std, math.sqrt(-0.25 / math.log(correlation)) if 0.01 < correlation < 1 else 0.0)


def draw_residual(residual: Residual, shape: tuple[int, int], generators: Sequence[Generator]) -> Tensor:
    """One sample per generator, (N, H, W) float32 on the CPU, with mean 0 and the strength and width of `residual`."""
    white = torch.stack([torch.randn(shape, generator=generator) for generator in generators])[:, None]
    if residual.width > 0:
        radius = math.ceil(4 * residual.width)
        profile = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / residual.width) ** 2)
        profile /= profile.square().sum().sqrt()  # keeps the variance
        white = F.conv2d(white, profile.view(1, 1, 1, -1), padding=(0, radius))
        white = F.conv2d(white, profile.view(1, 1, -1, 1), padding=(radius, 0))
    return residual.std * white[:, 0]


def add_residual(images: Tensor, residual: Residual, generators: Sequence[Generator]) -> Tensor:
    """Means (N, H, W) in [0, 1] -> samples (N, H, W) in [0, 1]; the background stays as it is."""
    noisy = (images + draw_residual(residual, images.shape[1:], generators).to(images)).clamp(0, 1)
    return torch.where(images > DARK, noisy, images)


def save_residual(residual: Residual, folder: Path) -> None:
    """Write it beside the autoencoder in `folder`."""
    write_json(folder / FILE, asdict(residual))


def load_residual(folder: Path) -> Residual:
    """What stands beside the autoencoder in `folder`; none where nothing was measured, as for one from elsewhere."""
    path = folder / FILE
    return Residual(**json.loads(path.read_text())) if path.is_file() else Residual()
