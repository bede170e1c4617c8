"""Does a map find a region? Three figures, and a test that knows which slices belong to one patient.

A map is any array of scores, the region a mask of the same shape; `within` restricts both to the brain, since black
background is easy to tell from tumour and would flatter every map.

Source: Davis & Goadrich, ICML 2006 (precision-recall); Zhang et al., ECCV 2016 (pointing game); Good, *Permutation,
Parametric and Bootstrap Tests of Hypotheses*, 2005 (sign-flip test).
"""

from itertools import product

import numpy as np

EXACT_UP_TO = 12  # groups: beyond, sign flips are drawn at random


def average_precision(scores: np.ndarray, region: np.ndarray, within: np.ndarray | None = None) -> float:
    """Area under the precision-recall curve (AUPRC) in its step form; a map without information reaches the
    region's share of the pixels.

    Args:
        scores: (…) floats, any scale: only their order counts; equal scores are taken in together.
        region: (…) non-zero inside.
        within: (…) non-zero where to look; default everywhere.

    Raises:
        ValueError: shapes that differ, scores that are not finite, a region that is empty within.
    """
    scores, region = _inside(scores, region, within)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(region[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def prevalence(region: np.ndarray, within: np.ndarray | None = None) -> float:
    """Share of the pixels that are region: the AUPRC of a map that knows nothing.

    Raises:
        ValueError: as `average_precision`.
    """
    return float(_inside(np.zeros(np.shape(region)), region, within)[1].mean())


def points_inside(scores: np.ndarray, region: np.ndarray, within: np.ndarray | None = None) -> float:
    """Pointing game: 1 if the highest score lies in the region; the share that does where several are highest.

    Raises:
        ValueError: as `average_precision`.
    """
    scores, region = _inside(scores, region, within)
    return float(region[scores == scores.max()].mean())


def iou_at_area(scores: np.ndarray, region: np.ndarray, within: np.ndarray | None = None) -> float:
    """Intersection over union of the region and as many of the highest scores as the region has pixels.

    The size is told, the place is not, so no threshold has to be chosen. With a share p of region a map that knows
    nothing reaches about p / (2 - p).

    Raises:
        ValueError: as `average_precision`.
    """
    scores, region = _inside(scores, region, within)
    count = int(region.sum())
    chosen = np.argsort(-scores, kind="stable")[:count]
    hits = int(region[chosen].sum())
    return hits / (2 * count - hits)


FIGURES = {"auprc": average_precision, "pointing": points_inside, "iou": iou_at_area}


def _inside(scores: np.ndarray, region: np.ndarray, within: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) float64 and region (n,) bool of the pixels looked at."""
    scores, region = np.asarray(scores, dtype=np.float64), np.asarray(region) != 0
    where = np.ones(region.shape, bool) if within is None else np.asarray(within) != 0
    if not scores.shape == region.shape == where.shape:
        raise ValueError(
            f"Expected map, region and `within` of one shape, got {scores.shape}, {region.shape} and {where.shape}: "
            "resize the map to the image first."
        )
    scores, region = scores[where], region[where]
    if not np.isfinite(scores).all():
        raise ValueError("Expected finite scores, got NaN or infinity: check the map.")
    if not region.any():
        raise ValueError("The region has no pixel to be found: take slices with tumour.")
    return scores, region


def paired_permutation(
    differences: np.ndarray | list,
    groups: np.ndarray | list | None = None,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """p-value of the mean paired difference being larger than chance makes it, one-sided (sign-flip test).

    Under the null "which of the two is larger is a coin's choice" the sign of each difference may be flipped; slices
    of one patient are alike, so they are flipped together.

    Args:
        differences: (n,) figure of the map minus figure of the rival, case by case.
        groups: (n,) patient of each; default each its own.
        permutations: random flips; with up to 12 groups all flips are taken instead, and p is exact.
        seed: of the flips.

    Returns:
        p in (0, 1]; with random flips at least 1 / (permutations + 1).

    Raises:
        ValueError: no differences, some not finite, or not as many groups.
    """
    differences = np.asarray(differences, dtype=np.float64)
    labels = np.arange(len(differences)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if differences.ndim != 1 or not len(differences) or not np.isfinite(differences).all():
        raise ValueError(f"Expected finite differences (n,), got shape {differences.shape}: one for each case.")
    if labels.shape != differences.shape:
        raise ValueError(f"Got {len(differences)} differences and {len(labels)} groups: expected as many.")
    sums = np.bincount(labels, weights=differences)
    slack = 1e-12 * np.abs(sums).sum()  # equal sums that were added up in another order count as equal
    if len(sums) <= EXACT_UP_TO:
        flips = np.array(list(product((1, -1), repeat=len(sums))))
        return float((flips @ sums >= sums.sum() - slack).mean())
    flips = np.random.default_rng(seed).choice((-1, 1), (permutations, len(sums)))
    return float((1 + np.sum(flips @ sums >= sums.sum() - slack)) / (1 + permutations))
