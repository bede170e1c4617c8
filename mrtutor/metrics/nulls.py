"""Pictures that are wrong in a known way: what a distance says of them tells what it reacts to.

Axes: n sequences · M = 4 modalities in the order of `Modality` · H, W image pixels. Images are uint8, 0…255 for [0, 1].
"""

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

BLUR_SD_PX = 1.5
NOISE_SD = 0.05  # of the range [0, 1]


def blurred(images: np.ndarray, sd: float = BLUR_SD_PX) -> np.ndarray:
    """Each slice through a Gaussian filter of `sd` pixels: what a cautious generator draws. (n, M, H, W) uint8."""
    _check(images)
    flat = [cv2.GaussianBlur(slice_, (0, 0), sd) for slice_ in images.reshape(-1, *images.shape[-2:])]
    return np.stack(flat).reshape(images.shape)


def noisy(images: np.ndarray, sd: float = NOISE_SD, seed: int = 0) -> np.ndarray:
    """Rician noise of standard deviation `sd` on top of the slices' own, as in magnitude images. (n, M, H, W) uint8.

    Only in the brain: around it cohort slices are exactly 0, and noise there would be all that a network looks at.
    """
    _check(images)
    rng = np.random.default_rng(seed)
    out = np.empty_like(images)
    for i, sequence in enumerate(images):  # one at a time: complex noise for a whole cohort would fill the memory
        real, imaginary = rng.normal(0, 255 * sd, (2, *sequence.shape))
        brain = binary_fill_holes((sequence > 0).any(axis=0))
        out[i] = np.hypot(sequence + real, imaginary).round().clip(0, 255) * brain
    return out


def wrong_modality(images: np.ndarray) -> np.ndarray:
    """Perfect slices under the wrong word: each modality shows the next one, T2 shows FLAIR. (n, M, H, W) uint8."""
    _check(images)
    return np.roll(images, -1, axis=1)


NULLS = {"blurred real": blurred, "noisy real": noisy, "wrong modality": wrong_modality}


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f"Expected sequences (n, M, H, W) uint8, got {images.shape} {images.dtype}: take them from a Cohort, or "
            "multiply images in [0, 1] by 255 and round."
        )
