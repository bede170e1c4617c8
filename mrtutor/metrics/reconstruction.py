"""What the autoencoder alone costs: no picture can be better than its reconstruction.

Axes: n slices · M = 4 modalities · H, W image pixels. Images are floats in [0, 1].
"""

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mrtutor.training.validation import reconstruct
from mrtutor.vocabulary import Modality

ENHANCING = 3
MIN_RIM_PX = 40  # fewer labelled pixels say little
MIN_CONTRAST = 0.08  # grey levels; below it there is no rim to lose


def reconstruct_slices(autoencoder: AutoencoderKL, slices: np.ndarray, precision: torch.dtype) -> np.ndarray:
    """Slices (n, 4, H, W) through encoder and decoder, the same shape."""
    flat = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32)).flatten(0, 1)[:, None]
    return reconstruct(autoencoder, flat, precision)[:, 0].unflatten(0, slices.shape[:2]).numpy()


def psnr(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """PSNR in dB of each slice and modality, (n, 4) -> flattened (4n,)."""
    return np.array([peak_signal_noise_ratio(a, b, data_range=1) for a, b in _pairs(original, decoded)])


def ssim(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """SSIM of each slice and modality, flattened (4n,)."""
    return np.array([structural_similarity(a, b, data_range=1) for a, b in _pairs(original, decoded)])


def _pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True))


def tumour_psnr(original: np.ndarray, decoded: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """PSNR in dB over the tumour's pixels alone, flattened (4n,). masks: (n, H, W) labels, 0 none."""
    error = (original - decoded) ** 2
    mse = [error[i, m][masks[i] > 0].mean() for i in range(len(masks)) for m in range(error.shape[1])]
    return -10 * np.log10(np.maximum(mse, 1e-12))


def rim_contrast(slices: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Contrast of the enhancing tissue on T1Gd to a ring of 3 pixels around it, (n,) in grey levels; NaN: no rim."""
    t1gd = slices[:, list(Modality).index(Modality.T1GD)]
    contrasts = []
    for image, mask in zip(t1gd, masks, strict=True):
        rim = (mask == ENHANCING).astype(np.uint8)
        ring = (cv2.dilate(rim, np.ones((7, 7), np.uint8)) > 0) & (rim == 0) & (image > 0)
        enough = rim.sum() >= MIN_RIM_PX and ring.any()
        contrasts.append(image[rim > 0].mean() - image[ring].mean() if enough else np.nan)
    return np.array(contrasts)


def has_rim(contrasts: np.ndarray) -> np.ndarray:
    """Which slices show an enhancing rim, (n,) bool, by their `rim_contrast`, (n,)."""
    return np.nan_to_num(contrasts) > MIN_CONTRAST


def rim_contrast_ratio(original: np.ndarray, decoded: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of the rim's contrast that survives, for the slices that have one, (k,) with k <= n."""
    before, after = rim_contrast(original, masks), rim_contrast(decoded, masks)
    return after[has_rim(before)] / before[has_rim(before)]
