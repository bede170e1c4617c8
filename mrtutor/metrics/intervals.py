"""A figure never stands alone: value, 95 % interval and N."""

import numpy as np

RESAMPLES = 2000


def estimate(values: np.ndarray | list, groups: np.ndarray | list | None = None, seed: int = 0) -> dict:
    """Mean with a bootstrap 95 % interval (percentile method; Efron & Tibshirani, 1993).

    Args:
        values: (n,) one figure per slice or sequence; 0/1 for proportions.
        groups: (n,) patient of each value. Slices of one patient are alike, so whole patients are resampled; without
            it each value is its own group.
        seed: of the resampling.

    Returns:
        {"value", "ci95": [low, high], "sd", "n"}.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"Expected a non-empty list of finite numbers, got shape {values.shape}: check the figure.")
    labels = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(labels, weights=values)
    counts = np.bincount(labels)
    draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "value": float(values.mean()),
        "ci95": [float(low), float(high)],
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "n": len(values),
    }
