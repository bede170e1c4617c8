"""How far drawn slices are from real ones: Fréchet distance, KID, a classifier, copies, sharpness, lesions.

The Fréchet distance is too large for few slices (Bińkowski et al., ICLR 2018) and blind to copies (Akbar et al., 2025).

Axes: n, m sequences · M = 4 modalities in the order of `Modality` · D features · H, W image pixels (256). Images are
uint8 or floats in [0, 1]; a missing modality is an image of zeros, its features are NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import ResNetModel

from mrtutor.files import data_root, verify_checksums
from mrtutor.metrics.intervals import Estimate, estimate
from mrtutor.metrics.sequence import brain_of, present, unit
from mrtutor.models.autoencoder import decode, encode
from mrtutor.vocabulary import Modality

BATCH = 16  # slices through a network at a time
RESAMPLES = 200  # of the distances' bootstrap
PENALTY = 0.05  # C of the logistic regression: with more features than patients a weak penalty only learns by heart
SIDE = 64  # pixels; anatomy, not noise, decides which training slice is nearest
NEAR = 0.05  # share of held-out slices that count as near to a training slice


def shipped(name: str, folder: str | Path | None = None) -> Path:
    """Folder of a shipped network, data/pretrained/<name> unless another is given; raises as `verify_checksums`."""
    folder = Path(folder or data_root() / "pretrained" / name)
    verify_checksums(folder)
    return folder


def in_batches(images: np.ndarray) -> list[torch.Tensor]:
    """Images (n, …, H, W), uint8 or in [0, 1], as a network takes them: float32 in [-1, 1], `BATCH` at a time."""
    return [torch.from_numpy(unit(images[i : i + BATCH])).float() * 2 - 1 for i in range(0, len(images), BATCH)]


@dataclass(eq=False)
class Features:
    """The MR feature network, trained to read modality, IDH type and tumour size: slices to feature vectors."""

    network: nn.Module

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(…, 256, 256) uint8 or in [0, 1] -> (…, D) float64, NaN for missing slices."""
        flat = np.asarray(images).reshape(-1, 1, *images.shape[-2:])
        found = torch.cat([self.network(part).pooler_output for part in in_batches(flat)]).flatten(1).double().numpy()
        found[~present(flat)[:, 0]] = np.nan
        return found.reshape(*images.shape[:-2], -1)


def load_features(folder: str | Path | None = None) -> Features:
    """The shipped feature network, or another in the same format; computes in float32 on the CPU. Raises: `shipped`."""
    folder = shipped("features", folder)
    return Features(ResNetModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).float().eval())


def frechet_gaussians(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Fréchet distance |μa - μb|² + tr(Ca + Cb - 2 (Ca Cb)^½) of two Gaussians (Heusel et al., NeurIPS 2017).

    The trace of (Ca Cb)^½ is that of the root of Ca^½ Cb Ca^½, which is symmetric: no complex numbers.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(max(0.0, np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b) - 2 * overlap))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features (n, D) and (m, D), none of them NaN."""
    return float(_frechet(a, b, *(np.ones((1, len(x)), int) for x in (a, b)))[0])


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD of (n, D) and (m, D) with the kernel (x·y / D + 1)³; may fall below 0."""
    return float(_kid(a, b, *(np.ones((1, len(x)), int) for x in (a, b)))[0])


def _frechet(a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """R distances; counts (R, n) and (R, m) say how often each vector counts."""

    def gaussian(x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.average(x, axis=0, weights=counts), np.atleast_2d(np.cov(x.T, fweights=counts))

    pairs = zip(counts_a, counts_b, strict=True)
    return np.array([frechet_gaussians(*gaussian(a, u), *gaussian(b, v)) for u, v in pairs])


def _kid(a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """As `_frechet`. A vector is never paired with itself or a copy: with these pairs the mean would be biased."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    found = -2 * np.sum(counts_a @ kernel(a, b) * counts_b, axis=1) / counts_a.sum(axis=1) / counts_b.sum(axis=1)
    for x, counts in ((a, counts_a), (b, counts_b)):
        alike, squares = kernel(x, x), np.square(counts)
        pairs = np.square(counts.sum(axis=1)) - squares.sum(axis=1)
        found += (np.sum(counts @ alike * counts, axis=1) - squares @ alike.diagonal()) / pairs
    return found


def distance_estimate(
    distance: str, a: np.ndarray, b: np.ndarray, patients_a: Sequence, patients_b: Sequence, seed: int = 0
) -> dict[str, Estimate]:
    """Distances of each modality and their "mean", with intervals of one bootstrap over the patients of both sets.

    `distance` is "frechet" or "kid", of features (n, M, D) and (m, M, D). A modality of which a set has fewer than two
    slices is left out. Resampled sets repeat vectors, which raises the biased distance; so the interval is moved back
    by what the resamples' mean exceeds the value (Efron & Tibshirani, 1993, chapter 10).
    """
    rng, measure = np.random.default_rng(seed), {"frechet": _frechet, "kid": _kid}[distance]
    counts_a, counts_b = (_counts(patients, rng) for patients in (patients_a, patients_b))
    seen_a, seen_b = np.isfinite(a[..., 0]), np.isfinite(b[..., 0])
    table = np.full((1 + RESAMPLES, a.shape[1]), np.nan)
    for m in range(a.shape[1]):
        u, v = counts_a[:, seen_a[:, m]], counts_b[:, seen_b[:, m]]
        enough = (np.count_nonzero(u, axis=1) > 1) & (np.count_nonzero(v, axis=1) > 1)
        if enough[0]:
            table[enough, m] = measure(a[seen_a[:, m], m], b[seen_b[:, m], m], u[enough], v[enough])
    kept = np.isfinite(table[0])
    table = np.column_stack([table, table[:, kept].mean(axis=1)])
    value, draws = table[0], table[1:][np.isfinite(table[1:, -1])]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0) - (draws.mean(axis=0) - value)
    low = low.clip(min=0) if distance == "frechet" else low
    sizes, people = [*seen_a.sum(axis=0), seen_a[:, kept].sum()], len(np.unique(patients_a))
    numbers = np.column_stack([value, np.fmin(low, value), np.fmax(high, value), sizes]).tolist()
    named = zip([*map(str, Modality), "mean"], numbers, strict=True)
    return {group: Estimate(v, lo, hi, int(n), people) for group, (v, lo, hi, n) in named if np.isfinite(v)}


def _counts(patients: Sequence, rng: np.random.Generator) -> np.ndarray:
    """How often each sequence counts, (1 + RESAMPLES, n): once, then as often as its patient is drawn."""
    names, index = np.unique(patients, return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.vstack([np.ones_like(names, int), drawn])[:, index]


def tell_by_features(
    a: np.ndarray, b: np.ndarray, patients_a: Sequence, patients_b: Sequence, seed: int = 0
) -> Estimate:
    """Two-sample test: accuracy of a logistic regression that tells set a from set b, 0.5 being "not by these means".

    Features are (n, M, D) of equally many sequences, two patients or more in each set. One regression a modality; the
    patients whose slices it is asked about never trained it. Lopez-Paz & Oquab, ICLR 2017.
    """
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    machine = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000, class_weight="balanced"))
    right, people = [], []
    for m in range(a.shape[1]):
        seen = np.isfinite(a[:, m, 0]) & np.isfinite(b[:, m, 0])
        x, labels = np.concatenate([a[seen, m], b[seen, m]]), np.repeat([1, 0], seen.sum())
        who = np.concatenate([np.asarray(patients_a)[seen], np.asarray(patients_b)[seen]])
        if min(len(np.unique(part)) for part in np.split(who, 2)) < 2:
            continue  # a modality that nearly nobody has
        right.append(cross_val_predict(machine, x, labels, groups=who, cv=folds) == labels)
        people.append(who)
    return estimate(np.concatenate(right), np.concatenate(people), seed)


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RMS distance of slices (n, H, W) to the nearest of (m, H, W), of one modality, and that one's number: (n,)."""

    def embed(slices: np.ndarray) -> np.ndarray:  # block means (n, 64 · 64) in [0, 1]
        return np.stack([cv2.resize(unit(x), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel() for x in slices])

    numbers, distances = pairwise_distances_argmin_min(embed(queries), embed(references))
    return distances / SIDE, numbers


def near_training(drawn: np.ndarray, held_out: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Which drawn slices (n, M, H, W) are nearer to a training slice than 5 % of held-out ones: (n, M) 0, 1 or NaN."""
    near = np.full(drawn.shape[:2], np.nan)
    for m in range(drawn.shape[1]):
        queries, others, references = (images[present(images[:, m]), m] for images in (drawn, held_out, training))
        if min(len(queries), len(others), len(references)):
            limit = np.quantile(nearest_distance(others, references)[0], NEAR)
            near[present(drawn[:, m]), m] = nearest_distance(queries, references)[0] < limit
    return near


@torch.inference_mode()
def reconstruct_slices(autoencoder: AutoencoderKL, slices: np.ndarray) -> np.ndarray:
    """Slices (n, M, H, W) through encoder and decoder, float32 in [0, 1]; missing ones stay 0. No drawing is better."""
    flat = np.asarray(slices).reshape(-1, 1, *slices.shape[-2:])
    parts = [part.to(autoencoder.device) for part in in_batches(flat)]
    decoded = torch.cat([decode(autoencoder, encode(autoencoder, part)).cpu() for part in parts])
    images = ((decoded.float() + 1) / 2).clamp(0, 1).numpy().reshape(slices.shape)
    return images * present(slices)[..., None, None]


def sharpness(slices: np.ndarray) -> np.ndarray:
    """Mean gradient inside the brain of slices (n, M, H, W): (n, M) grey levels per pixel, NaN where missing."""
    found = np.full(slices.shape[:2], np.nan)
    for i, m in np.argwhere(present(slices)):
        found[i, m] = np.hypot(*np.gradient(unit(slices[i, m])))[brain_of(slices[i])].mean()
    return found


def lesion_contrast(slices: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How much brighter slices (n, M, H, W) are where `masks` (n, H, W) are not 0 than in the rest of the brain.

    (n, M) in standard deviations of that rest; NaN without a tumour, and where missing.
    """
    found = np.full(slices.shape[:2], np.nan)
    for i, m in np.argwhere(present(slices) & masks.any(axis=(1, 2))[:, None]):
        image, inside = unit(slices[i, m]), masks[i] > 0
        rest = image[brain_of(slices[i]) & ~inside]
        found[i, m] = (image[inside].mean() - rest.mean()) / rest.std()
    return found
