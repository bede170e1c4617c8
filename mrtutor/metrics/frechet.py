"""Distances between two sets of feature vectors: Fréchet distance and kernel distance (KID), with intervals.

The Fréchet distance fits a Gaussian to each set (Heusel et al., NeurIPS 2017; Dowson & Landau, 1982):

    d² = |μa - μb|² + tr(Ca + Cb - 2 (Ca Cb)^½)

It is biased: with few vectors it is too large (Bińkowski et al., ICLR 2018). KID, the squared maximum mean discrepancy
with a cubic kernel, has an unbiased estimator, which may therefore fall below 0. A distance without its N says nothing.

Axes: n, m feature vectors · D features · G groups (patients) · R resamples.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch

RESAMPLES = 200
DEGREE = 3  # of KID's kernel
CHUNK = 64  # groups whose second moments are in memory at once
Set = tuple[np.ndarray, np.ndarray]  # vectors (n, D) and the number of each one's group (n,)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two sets of features (n, D) and (m, D), the d² above.

    Raises:
        ValueError: fewer than two vectors in a set, another D, or values that are not finite.
    """
    return _once(_frechet, a, b)


def frechet_gaussians(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> np.ndarray:
    """d² of two Gaussians, or of a stack of them: means (…, D), covariances (…, D, D), positive semi-definite.

    tr (Ca Cb)^½ is the sum of the roots of the eigenvalues of Ca^½ Cb Ca^½, a symmetric matrix: no matrix root of a
    product that is not symmetric, and no complex numbers, which `scipy.linalg.sqrtm` gives where Ca is singular.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    middle = root @ cov_b @ root
    overlap = np.sqrt(np.linalg.eigvalsh((middle + np.swapaxes(middle, -1, -2)) / 2).clip(min=0)).sum(axis=-1)
    gap = np.square(np.asarray(mean_a) - mean_b).sum(axis=-1)
    traces = np.trace(cov_a, axis1=-2, axis2=-1) + np.trace(cov_b, axis1=-2, axis2=-1)
    return np.maximum(0.0, gap + traces - 2 * overlap)


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x·y / D + 1)³, as KID (Bińkowski et al., ICLR 2018).

    Raises:
        ValueError: as `frechet_distance`.
    """
    return _once(_kid, a, b)


def distance_estimate(
    distance: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict]:
    """Distances with 95 % intervals from one bootstrap over patients, and their average at the end.

    Whole groups (patients, or sequences) of both sets are drawn with replacement, the same for all pairs, so that the
    average over modalities has an honest interval too. Resampled sets repeat vectors, which raises the biased d²; so
    the interval is moved back by what the resamples' mean exceeds the value (Efron & Tibshirani, 1993, chapter 10).

    Args:
        distance: "frechet" or "kid".
        pairs: for each modality, features (n, D) and (m, D); n and m are the same for all.
        groups_a: (n,) patient of each vector of the first sets; without it each is a group of its own.
        groups_b: (m,) likewise of the second sets.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        {"value", "ci95": [low, high], "n"} of each pair, then of the average; n counts the first set's vectors.

    Raises:
        ValueError: as `frechet_distance`; unknown distance; sets or groups of different lengths.
    """
    if distance not in _DISTANCES:
        raise ValueError(f"Unknown distance {distance!r}: expected one of {', '.join(_DISTANCES)}.")
    pairs = [_check(a, b) for a, b in pairs]
    sizes = sorted({(len(a), len(b)) for a, b in pairs})
    if len(sizes) != 1:
        raise ValueError(f"Expected sets of one size for all modalities, got {sizes or 'none'}: use the same rows.")
    n, m = sizes[0]
    labels = _labels(groups_a, n), _labels(groups_b, m)
    rng = np.random.default_rng(seed)
    weights = [_weights(groups.max() + 1, resamples, rng) for groups in labels]
    table = np.stack([_DISTANCES[distance]((a, labels[0]), (b, labels[1]), *weights) for a, b in pairs], axis=1)
    table = np.column_stack([table, table.mean(axis=1)])  # (1 + R, modalities + average); row 0: every group once
    value, draws = table[0], table[1:][np.isfinite(table[1:]).all(axis=1)]
    draws = draws if len(draws) else table[:1]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0) - (draws.mean(axis=0) - value)
    if distance == "frechet":
        low = low.clip(min=0)
    counts = [n] * len(pairs) + [n * len(pairs)]
    return [
        {"value": float(v), "ci95": [float(min(lo, v)), float(max(hi, v))], "n": c}
        for v, lo, hi, c in zip(value, low, high, counts, strict=True)
    ]


def _once(distance: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray) -> float:
    """A distance without resampling."""
    a, b = _check(a, b)
    whole = np.ones((1, 1))
    return float(distance((a, np.zeros(len(a), int)), (b, np.zeros(len(b), int)), whole, whole)[0])


def _frechet(a: Set, b: Set, weights_a: np.ndarray, weights_b: np.ndarray) -> np.ndarray:
    """d² (R,) of the sets whose groups count `weights` (R, G) times."""
    centre = a[0].mean(axis=0)  # sums of squares of values near 0 lose no digits
    return frechet_gaussians(*_gaussians(a[0] - centre, a[1], weights_a), *_gaussians(b[0] - centre, b[1], weights_b))


def _gaussians(x: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (R, D) and unbiased covariances (R, D, D): one matrix product over groups serves all resamples."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(x[order], np.cumsum(np.bincount(labels))[:-1])
    total = (weights @ [len(g) for g in groups])[:, None]
    mean = weights @ np.stack([g.sum(axis=0) for g in groups]) / total
    second = np.zeros((len(weights), x.shape[1] ** 2))
    for start in range(0, len(groups), CHUNK):
        squares = np.stack([(g.T @ g).ravel() for g in groups[start : start + CHUNK]])
        second += weights[:, start : start + CHUNK] @ squares
    second = second.reshape(-1, x.shape[1], x.shape[1])
    total = total[..., None]
    return mean, (second - total * mean[:, :, None] * mean[:, None, :]) / (total - 1)


def _kid(a: Set, b: Set, weights_a: np.ndarray, weights_b: np.ndarray) -> np.ndarray:
    """MMD² (R,); a vector that is drawn twice is never compared with itself, which would not be unbiased."""
    within = sum(_within(*one, weights) for one, weights in ((a, weights_a), (b, weights_b)))
    across = _group_sums(_kernel(a[0], b[0]), a[1], b[1])
    counts = weights_a @ np.bincount(a[1]), weights_b @ np.bincount(b[1])
    return within - 2 * ((weights_a @ across) * weights_b).sum(axis=1) / (counts[0] * counts[1])


def _within(x: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean kernel (R,) over the pairs of different vectors of a set."""
    kernel, sizes = _kernel(x, x), np.bincount(labels)
    own = weights**2 @ np.bincount(labels, weights=kernel.diagonal())
    pairs = ((weights @ _group_sums(kernel, labels, labels)) * weights).sum(axis=1) - own
    with np.errstate(invalid="ignore"):  # a single vector, drawn again and again, has no pair: NaN, left out
        return pairs / ((weights @ sizes) ** 2 - weights**2 @ sizes)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** DEGREE


def _group_sums(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n, m) summed over the pairs of groups, (G, H): all that a resampling of groups can change."""
    for labels in (rows, columns):  # after two turns the axes stand as they were
        order = np.argsort(labels, kind="stable")
        starts = np.cumsum([0, *np.bincount(labels)[:-1]])
        kernel = np.add.reduceat(kernel[order], starts, axis=0).T
    return kernel


_DISTANCES = {"frechet": _frechet, "kid": _kid}


def _labels(groups: np.ndarray | None, count: int) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"Expected a patient for each of {count} feature vectors, got {len(groups)}.")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _weights(groups: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each group counts, (1 + R, G): once each, then as drawn with replacement."""
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), resamples)
    return np.vstack([np.ones((1, groups)), drawn])


def _check(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    for x in (a, b):
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"Expected at least two feature vectors (n, D) in a set, got {x.shape}: add samples.")
        if not np.isfinite(x).all():
            raise ValueError("Expected finite features, got NaN or infinity: look at the images first.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"Expected as many features in both sets, got {a.shape[1]} and {b.shape[1]}.")
    return a, b


def inception_fid(a: np.ndarray, b: np.ndarray, batch_size: int = 16) -> dict:
    """FID as it is usually reported, on Inception features of photographs, where torch-fidelity is installed.

    The course does not need it, and ImageNet features are a doubtful yardstick for MR slices; it is here for comparison
    with papers. torch-fidelity downloads its weights on first use.

    Args:
        a: (n, H, W) uint8 slices.
        b: (m, H, W) uint8 slices.

    Returns:
        {"value", "n"}, or {"value": None, "note"} where the library is missing.
    """
    if find_spec("torch_fidelity") is None:
        return {
            "value": None,
            "note": "torch-fidelity is not installed: pip install torch-fidelity to add Inception FID",
        }
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=2048)
    for slices, real in ((a, False), (b, True)):
        for part in torch.from_numpy(np.ascontiguousarray(slices)).split(batch_size):
            metric.update(part[:, None].expand(-1, 3, -1, -1), real=real)
    return {"value": float(metric.compute()), "n": len(a)}
