"""How alike the modalities of one patient are (SSIM, NMI, NCC: Table 2), and whether a picture follows its edge map.

Axes: n sequences · M = 4 modalities in the order of `Modality` · H, W image pixels. Images are uint8, or floats in
[0, 1]. A modality that a patient lacks is an image of zeros; it is left out.

Source: Kim et al., WACV 2024, §4.3 and Table 2; Wang et al., IEEE TIP 2004 (SSIM); Martin et al., TPAMI 2004 (edge F1).
"""

from collections.abc import Callable
from itertools import combinations

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes
from scipy.stats import entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import mutual_info_score

from mrtutor.data.structure import canny
from mrtutor.vocabulary import Modality

BINS = 64  # grey levels of NMI
TOLERANCE = 2  # pixels, of edges
FOREGROUND = 0.06  # grey value that the brightest modality of a brain pixel exceeds; background noise stays below


def unit(image: np.ndarray) -> np.ndarray:
    """An image, or several, as float64 in [0, 1]. ValueError: neither uint8 nor finite floats in [0, 1]; empty."""
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.size:
        return image / 255.0
    if not np.issubdtype(image.dtype, np.floating) or not image.size or not (image.min() >= 0 and image.max() <= 1):
        values = f"from {image.min()} to {image.max()}" if image.size else "without a pixel"
        raise ValueError(
            f"Expected uint8 or finite floats in [0, 1], got {image.dtype} {values}: rescale or repair them."
        )
    return image.astype(np.float64)


def present(images: np.ndarray) -> np.ndarray:
    """Which images (…, H, W) exist: (…) bool, False where all pixels are 0."""
    return np.asarray(images).any(axis=(-2, -1))


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Structural similarity of two images (H, W), 1 for equal ones; `where` (H, W) bool restricts the mean.

    ValueError, here and in the next three: two sizes, another range, NaN, or a region without a pixel.
    """
    a, b, where = _pair(a, b, where)
    return float(structural_similarity(a, b, data_range=1.0, full=True)[1][where].mean())


def nmi(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None, bins: int = BINS) -> float:
    """Normalised mutual information 2·I(a; b) / (H(a) + H(b)) over `bins` grey levels, in [0, 1]."""
    a, b, where = _pair(a, b, where)
    joint = np.histogram2d(a[where], b[where], bins, [[0, 1], [0, 1]])[0]
    entropies = entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1))
    return float(2 * mutual_info_score(None, None, contingency=joint) / entropies) if entropies else 0.0


def ncc(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Normalised cross-correlation of two images (H, W): Pearson's r over pixels; NaN if one is constant."""
    a, b, where = _pair(a, b, where)
    return float(np.corrcoef(a[where], b[where])[0, 1]) if a[where].std() * b[where].std() else np.nan


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of two images (H, W) in dB, infinite for equal ones."""
    a, b, where = _pair(a, b, where)
    return float(peak_signal_noise_ratio(a[where], b[where], data_range=1))


FIGURES = {"ssim": ssim, "nmi": nmi, "ncc": ncc}


def _pair(a: np.ndarray, b: np.ndarray, where: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = unit(a), unit(b)
    where = np.ones(a.shape, bool) if where is None else np.asarray(where) != 0
    if a.ndim != 2 or not a.shape == b.shape == where.shape or not where.any():
        raise ValueError(
            f"Expected two images and a region (H, W) of one size, got {a.shape}, {b.shape}, {where.sum()}."
        )
    return a, b, where


def each(figure: Callable[..., float], a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """A figure of two images for each slice of two stacks: (n, M), NaN where one is missing; `where` is (n, H, W)."""
    found = np.full(np.shape(a)[:2], np.nan)
    for i, m in np.argwhere(present(a) & present(b)):
        found[i, m] = figure(a[i, m], b[i, m], None if where is None else where[i])
    return found


def brain_of(sequence: np.ndarray) -> np.ndarray:
    """Brain of a sequence (M, H, W), without a mask: pixels bright in some modality, holes filled; (H, W) bool."""
    return binary_fill_holes(unit(sequence).max(axis=0) > FOREGROUND)


def sequence_correspondence(sequence: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
    """Mean of SSIM, NMI and NCC over the (six) pairs of modalities of a sequence (M, H, W), NaN without a pair.

    Higher is not better: four copies of one picture reach 1. `where` (H, W), such as `brain_of`, restricts the pixels.
    """
    pairs = list(combinations(np.asarray(sequence)[present(sequence)], 2))
    if not pairs:
        return dict.fromkeys(FIGURES, np.nan)
    return {name: float(np.mean([figure(a, b, where) for a, b in pairs])) for name, figure in FIGURES.items()}


def random_sequences(images: np.ndarray, patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Sequences (n, M, H, W) whose modalities are of different patients (of few, some serve twice): Table 2's null."""
    rng, images, patients = np.random.default_rng(seed), np.asarray(images), np.asarray(patients)
    there, mixed = present(images), np.zeros_like(images)
    for sequence in mixed:
        used = []
        for m in range(images.shape[1]):
            candidates = np.flatnonzero(there[:, m])
            others = candidates[~np.isin(patients[candidates], used)]
            if len(candidates):
                row = rng.choice(others if len(others) else candidates)
                sequence[m] = images[row, m]
                used.append(patients[row])
    return mixed


def edge_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """F1 of two edge maps (H, W), non-zero at edges; one counts as found within `tolerance` pixels."""
    found, wanted = (np.ascontiguousarray(np.asarray(x) != 0).astype(np.uint8) for x in (found, wanted))
    kernel = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    precision = (found & cv2.dilate(wanted, kernel)).sum() / max(1, found.sum())
    recall = (wanted & cv2.dilate(found, kernel)).sum() / max(1, wanted.sum())
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def structure_f1(sequence: np.ndarray, structure: np.ndarray, edges_of: Modality | str | None = None) -> float:
    """Mean edge F1 between an edge map (H, W) and the edges of each modality of a sequence (M, H, W); NaN without one.

    `edges_of`, the modality that gave the edges, is left out, so that true and drawn sequences are asked the same.
    """
    asked = present(sequence) & [modality != edges_of for modality in Modality]
    return float(np.mean([edge_f1(canny(image), structure) for image in sequence[asked]])) if asked.any() else np.nan
