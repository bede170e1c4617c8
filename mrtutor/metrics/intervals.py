"""Means with 95 % intervals that know which slices belong to one patient: whole patients are resampled.

Source: Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993; Wilson, JASA 1927.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, permutation_test

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval [low, high], over n values of some patients."""

    value: float
    low: float
    high: float
    n: int
    patients: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float], patients: Sequence | None = None, seed: int = 0) -> Estimate:
    """Mean of `values` (n,), with a bootstrap interval over `patients` (n,); default each value its own patient.

    Answers (bool) that are all wrong or all right leave a bootstrap nothing to vary: they get Wilson's interval over
    the patients. A single patient has no interval: low and high are NaN. No values, NaN or infinity: a ValueError.
    """
    found = ratio(values, np.ones(len(values)), patients, seed)
    if np.asarray(values).dtype == bool and found.value in (0, 1) and found.patients > 1:
        successes = round(found.patients * found.value)
        low, high = binomtest(successes, found.patients).proportion_ci(method="wilson")
        return Estimate(found.value, float(low), float(high), found.n, found.patients)
    return found


def ratio(a: Sequence[float], b: Sequence[float], patients: Sequence | None = None, seed: int = 0) -> Estimate:
    """Mean of a over mean of b, both (n,) of the same slices; the rest is as in `estimate`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or not len(a) or not np.isfinite([a, b]).all():
        raise ValueError(f"Expected finite numbers (n,), got shape {a.shape}: leave missing slices out first.")
    index = _index(a, patients)
    tops, bottoms = np.bincount(index, a), np.bincount(index, b)
    low = high = np.nan
    if len(tops) > 1:
        draws = np.random.default_rng(seed).integers(0, len(tops), (RESAMPLES, len(tops)))
        low, high = np.percentile(tops[draws].sum(axis=1) / bottoms[draws].sum(axis=1), [2.5, 97.5])
    return Estimate(float(a.sum() / b.sum()), float(low), float(high), len(a), len(tops))


def sign_flip_test(differences: Sequence[float], patients: Sequence | None = None, seed: int = 0) -> float:
    """One-sided p of a mean paired difference (n,) above 0: by chance, each patient's could have the other sign."""
    sums = np.bincount(_index(differences, patients), differences)
    test = {"permutation_type": "samples", "alternative": "greater", "vectorized": True, "rng": seed}
    return float(permutation_test((sums,), np.mean, **test).pvalue) if len(sums) > 1 else 0.5


def _index(values: Sequence[float], patients: Sequence | None) -> np.ndarray:
    """Number of each value's patient, from 0."""
    return np.unique(np.arange(len(values)) if patients is None else patients, return_inverse=True)[1]
