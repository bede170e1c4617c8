"""A figure never stands alone: value, 95 % interval and N."""

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000
Z95 = 1.959964  # of the normal distribution, two-sided


def estimate(
    values: np.ndarray | list, groups: np.ndarray | list | None = None, seed: int = 0, *, share: bool = True
) -> dict:
    """Mean with a 95 % interval.

    The interval is a bootstrap's (percentile method; Efron & Tibshirani, 1993). For two kinds of values that is of no
    use: proportions without a single exception get Wilson's, values that mix several patients that of the jackknife.

    Args:
        values: (n,) one figure per slice or sequence; 0/1 for proportions.
        groups: (n,) patient of each value. Slices of one patient are alike, so whole patients are resampled; without
            it each value is its own group. Or (n, k): the patients that each value mixes.
        seed: of the resampling.
        share: values that are all 0 or all 1 are answers; False where they are figures that may be exactly that.

    Returns:
        {"value", "ci95": [low, high], "sd", "n"}.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"Expected a non-empty list of finite numbers, got shape {values.shape}: check the figure.")
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    mixed = groups.ndim == 2 and len(np.unique(groups)) > groups.shape[1]
    low, high = _jackknife(values, groups) if mixed else _bootstrap(values, groups, seed, share)
    return {
        "value": float(values.mean()),
        "ci95": [float(low), float(high)],
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "n": len(values),
    }


def _bootstrap(values: np.ndarray, groups: np.ndarray, seed: int, share: bool) -> tuple[float, float]:
    if groups.ndim == 2:  # so few patients that each value mixes them all: nothing to leave out
        groups = np.arange(len(values))
    labels = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(labels, weights=values), np.bincount(labels)
    if share and len(sums) > 1 and (np.all(values == 0) or np.all(values == 1)):
        return binomtest(round(len(sums) * values[0]), len(sums)).proportion_ci(method="wilson")
    draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    return np.percentile(means, [2.5, 97.5])


def _jackknife(values: np.ndarray, members: np.ndarray) -> tuple[float, float]:
    """How far the mean moves when all values with one patient in them are left out (Quenouille, Biometrika, 1956)."""
    without = [values[(members != person).all(axis=1)] for person in np.unique(members)]
    means = np.array([kept.mean() for kept in without if len(kept)])
    error = np.sqrt((len(means) - 1) / len(means) * ((means - means.mean()) ** 2).sum())
    return values.mean() - Z95 * error, values.mean() + Z95 * error


def ratio(a: np.ndarray | list, b: np.ndarray | list, patients: np.ndarray | list, seed: int = 0) -> dict:
    """Mean of a over mean of b, both (n,) of the same slices, with an interval that resamples patients.

    Returns:
        {"value", "ci95": [low, high], "n"}.
    """
    index = np.unique(np.asarray(patients), return_inverse=True)[1]
    sums = [np.bincount(index, weights=np.asarray(x, dtype=np.float64)) for x in (a, b)]
    draws = np.random.default_rng(seed).integers(0, len(sums[0]), (RESAMPLES, len(sums[0])))
    tops, bottoms = (x[draws].sum(axis=1) for x in sums)
    low, high = np.percentile(tops / np.maximum(bottoms, 1e-9), [2.5, 97.5])
    value = sums[0].sum() / max(sums[1].sum(), 1e-9)
    return {"value": float(value), "ci95": [float(low), float(high)], "n": len(a)}
