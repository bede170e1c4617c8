"""What the autoencoder cannot code: the grain of the scanner.

An autoencoder trained with a pixel loss gives the *mean* of p(x|z), the pictures that one latent stands for, and noise
has mean zero. A picture of the cohort is a sample: mean and noise. This is the noise, Gaussian, of one strength and one
width: as much as decoded training slices lack where the cohort's are flat, so that no outline is mistaken for noise.
*Lack*: a decoder that learnt to look scanned (`mrtutor.training.adversarial`) draws some grain of its own, which is not
the slice's; in the difference of the two both would count.

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
from scipy import ndimage, signal
from torch import Generator, Tensor

from mrtutor.files import write_json

DARK = 0.02  # below it a picture is background, which skull-stripping has set to 0: no noise there
SMOOTH = 2.0  # pixels: the Gaussian under which a slice's gradient is taken
FLAT = 0.006  # grey values per pixel: a gradient below which hardly anything but noise is fine
BORDER = 4  # pixels from the background
MINIMUM = 1000  # flat pixels without which there is nothing to measure
WIDTHS = np.arange(0, 2.01, 0.02)  # pixels, the widths that are told apart
SMALLER_HALF = 0.3247  # mean of the smaller half of |z|, z standard normal
FILE = "residual.json"  # beside an autoencoder's weights, in the folder of a run


@dataclass(frozen=True)
class Residual:
    """Gaussian noise: `std` in grey values of [0, 1], `width` the Gaussian that smooths it, in pixels (sd)."""

    std: float = 0.0
    width: float = 0.0


def measure_residual(images: np.ndarray, decoded: np.ndarray) -> Residual:
    """Strength and width of the noise that makes `decoded` as grainy as `images` in flat places of the brain.

    What is compared is fine, a picture less its 3 x 3 mean: its variance and the covariance of neighbours, those of
    `images` minus those of `decoded`. They belong to white noise under a Gaussian of one width.

    Args:
        images: (N, H, W) slices in [0, 1].
        decoded: (N, H, W) the same through the autoencoder.

    Returns:
        No residual where hardly a place is flat, or where nothing is lacking.
    """
    inside = ndimage.binary_erosion((images > DARK) & (decoded > DARK), np.ones((1, 3, 3)), iterations=BORDER)
    down, across = (ndimage.gaussian_filter(images, (0, SMOOTH, SMOOTH), order=o) for o in ((0, 1, 0), (0, 0, 1)))
    flat = inside & (np.hypot(down, across) < FLAT)
    if flat.sum() < MINIMUM:
        return Residual()
    variance, covariance = np.subtract(_fine_moments(images, flat), _fine_moments(decoded, flat))
    if variance <= 0:
        return Residual()
    unit = np.array([_fine_moments_of_noise(width) for width in WIDTHS])
    nearest = np.argmin(np.abs(unit[:, 1] / unit[:, 0] - covariance / variance))
    return Residual(float(np.sqrt(variance / unit[nearest, 0])), float(WIDTHS[nearest]))


def _fine_moments(pictures: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """Variance of what is fine, and covariance of neighbours."""
    fine = pictures - ndimage.uniform_filter(pictures, (0, 3, 3))
    beside, below = where[:, :, :-1] & where[:, :, 1:], where[:, :-1] & where[:, 1:]
    first = np.concatenate([fine[:, :, :-1][beside], fine[:, :-1][below]])
    second = np.concatenate([fine[:, :, 1:][beside], fine[:, 1:][below]])
    return _spread(fine[where]) ** 2, (_spread(first + second) ** 2 - _spread(first - second) ** 2) / 4


def _spread(values: np.ndarray) -> float:
    """Standard deviation of normal values; the larger half, where vessels and outlines are, does not count."""
    smaller = np.sort(np.abs(values))[: len(values) // 2]
    return float(smaller.mean()) / SMALLER_HALF


def _fine_moments_of_noise(width: float) -> tuple[float, float]:
    """What `_fine_moments` gives for noise of sd 1 and this width."""
    line = np.correlate(_profile(width), _profile(width), mode="full")
    fine = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 9
    covariances = signal.convolve2d(np.outer(line, line), signal.convolve2d(fine, fine))
    middle = len(covariances) // 2
    return float(covariances[middle, middle]), float(covariances[middle, middle + 1])


def _profile(width: float) -> np.ndarray:
    """A line of the Gaussian that keeps the variance of white noise."""
    radius = math.ceil(4 * width)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(width, 1e-6)) ** 2)
    return profile / np.sqrt((profile**2).sum())


def draw_residual(residual: Residual, shape: tuple[int, int], generators: Sequence[Generator]) -> Tensor:
    """One sample per generator, (N, H, W) float32 on the CPU, with mean 0 and the strength and width of `residual`."""
    white = torch.stack([torch.randn(shape, generator=generator) for generator in generators])[:, None]
    profile = torch.from_numpy(_profile(residual.width)).float()
    radius = len(profile) // 2
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
