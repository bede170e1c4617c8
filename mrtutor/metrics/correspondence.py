"""How alike two modalities of one slice are: SSIM, NMI and NCC (Table 2 of Kim et al., WACV 2024).

Axes: H, W image pixels. Images are floats in [0, 1].
"""

from itertools import combinations

import numpy as np
from skimage.metrics import structural_similarity

BINS = 64


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004) of two images (H, W) in [0, 1]; 1 for equal ones."""
    _check(a, b)
    return float(structural_similarity(a, b, data_range=1.0))


def ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised cross-correlation of two images (H, W): Pearson's r over pixels, in [-1, 1].

    Raises:
        ValueError: a constant image, for which it is not defined.
    """
    _check(a, b)
    if a.std() == 0 or b.std() == 0:
        raise ValueError("NCC of a constant image is not defined: expected images with some contrast.")
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def nmi(a: np.ndarray, b: np.ndarray, bins: int = BINS) -> float:
    """Normalised mutual information 2·I(a; b) / (H(a) + H(b)) over `bins` grey levels, in [0, 1].

    This is the form that is 1 for equal and 0 for independent images; skimage's (H(a) + H(b)) / H(a, b) lies in [1, 2].
    """
    _check(a, b)
    joint = np.histogram2d(a.ravel(), b.ravel(), bins=bins, range=[[0, 1], [0, 1]])[0]
    joint /= joint.sum()
    marginals = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return float(2 * (marginals - _entropy(joint)) / marginals) if marginals > 0 else 0.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"Expected two images (H, W) of one size, got {a.shape} and {b.shape}.")


FIGURES = {"ssim": ssim, "nmi": nmi, "ncc": ncc}


def sequence_correspondence(sequence: np.ndarray) -> dict[str, float]:
    """Mean of each figure over the six pairs of modalities of one sequence (4, H, W) in [0, 1]."""
    pairs = list(combinations(np.asarray(sequence, dtype=np.float64), 2))
    return {name: float(np.mean([figure(a, b) for a, b in pairs])) for name, figure in FIGURES.items()}
