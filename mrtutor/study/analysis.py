"""What the answers of a study say, and what they cannot say.

A share of right answers k/n stands with Wilson's interval and the exact binomial test; agreement with Cohen's and
Fleiss' κ; and a study that is too small to see a difference is told so beforehand by its power.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy.stats import binom, binomtest, norm

PAPER = {  # §4.5 of Kim et al., WACV 2024: two readers, 20 questions each
    "cohort or synthetic": {"right": 19, "n": 40},  # 47.5 %
    "mutant or wild": {"right": 27, "n": 40},  # 67.5 %
}


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson, J. Am. Stat. Assoc. 22:209, 1927); stays inside [0, 1], also at 0 and n.

    Raises:
        ValueError: not 0 ≤ right ≤ n, or n = 0.
    """
    _check_counts(right, n)
    z = norm.ppf(0.5 + level / 2)
    share, extra = right / n, z**2 / n
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * np.sqrt(share * (1 - share) / n + extra / (4 * n))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def accuracy(right: int, n: int, chance: float = 0.5) -> dict:
    """Share of right answers, its interval, and the exact two-sided test against guessing.

    Returns:
        {"value", "ci95", "p", "right", "n"}.

    Raises:
        ValueError: as `wilson`.
    """
    interval = wilson(right, n)
    p = float(binomtest(right, n, chance).pvalue)
    return {"value": right / n, "ci95": list(interval), "p": p, "right": int(right), "n": int(n)}


def rating(values: Sequence[float]) -> dict:
    """Mean ± standard deviation of ratings 0…5: {"value", "sd", "n"}.

    Raises:
        ValueError: none, or one outside 0…5.
    """
    values = np.asarray(values, dtype=float)
    if not values.size or not ((values >= 0) & (values <= 5)).all():
        raise ValueError(f"Expected ratings of 0…5, got {np.unique(values).tolist() or 'none'}.")
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"value": float(values.mean()), "sd": sd, "n": len(values)}


def cohen_kappa(one: Sequence, other: Sequence) -> float:
    """Agreement of two readers beyond chance, 1 for perfect, 0 for chance (Cohen, 1960); NaN if chance is certain.

    Args:
        one: (n,) what a reader said of each item.
        other: (n,) what another said of the same items.

    Raises:
        ValueError: different lengths, or nothing.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"Expected two readers' answers to the same items, got {len(one)} and {len(other)}.")
    words = sorted(set(one) | set(other))
    table = np.array([[sum(a == x and b == y for a, b in zip(one, other, strict=True)) for y in words] for x in words])
    share = table / table.sum()
    expected = float(share.sum(1) @ share.sum(0))
    return float("nan") if expected == 1 else float((np.trace(share) - expected) / (1 - expected))


def fleiss_kappa(answers: Sequence[Sequence]) -> float:
    """Agreement of any number of readers (Fleiss, 1971); NaN if all say one word only.

    Args:
        answers: (items, readers), at least two readers, each of whom answered each item.

    Raises:
        ValueError: ragged, or fewer than two readers.
    """
    sizes = {len(item) for item in answers}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"Expected each item answered by the same two or more readers, got {sorted(sizes)}.")
    words = sorted({word for item in answers for word in item})
    counts = np.array([[sum(said == word for said in item) for word in words] for item in answers], dtype=float)
    readers = sizes.pop()
    agreed = ((counts**2).sum(1) - readers) / (readers * (readers - 1))
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return float("nan") if expected == 1 else float((agreed.mean() - expected) / (1 - expected))


def power(n: int | np.ndarray, true: float, chance: float = 0.5, alpha: float = 0.05) -> float | np.ndarray:
    """How often the exact two-sided test at `alpha` rejects guessing after n independent answers.

    Both tails of the binomial distribution are summed, nothing is approximated.

    Args:
        n: answers, one number or many.
        true: share of right answers that is really there.
        chance: share under guessing.
        alpha: level of the test; each tail gets at most half of it.
    """
    low = binom.ppf(alpha / 2, n, chance) - 1  # rejected: up to here (ppf is the first whose tail reaches alpha / 2)
    high = binom.isf(alpha / 2, n, chance) + 1  # and from here
    found = binom.cdf(low, n, true) + binom.sf(high - 1, n, true)
    return float(found) if np.isscalar(n) else found


def answers_needed(
    true: float, chance: float = 0.5, alpha: float = 0.05, wanted: float = 0.8, most: int = 20_000
) -> int:
    """Fewest answers from which on the power stays at `wanted` (it goes up in saw teeth).

    Raises:
        ValueError: `true` is `chance`, or more than `most` answers would be needed.
    """
    if not 0 < abs(true - chance) < 1:
        raise ValueError(f"Expected a share other than chance ({chance:g}), got {true:g}: nothing is there to be seen.")
    z = norm.ppf(1 - alpha / 2) * np.sqrt(chance * (1 - chance)) + norm.ppf(wanted) * np.sqrt(true * (1 - true))
    guess = ceil((z / (true - chance)) ** 2)  # the usual approximation; the answer lies near it
    if 2 * guess + 50 > most:
        raise ValueError(f"About {guess} answers would be needed: more than {most}.")
    short = np.flatnonzero(power(np.arange(1, 2 * guess + 50), true, chance, alpha) < wanted)
    return int(short[-1]) + 2 if len(short) else 1


def readers_needed(answers: int, questions: int = 20, correlation: float = 0.0) -> int:
    """Readers of `questions` answers each; answers of one reader are alike by the intraclass `correlation` (0…1)."""
    return ceil(answers * (1 + (questions - 1) * correlation) / questions)


def _check_counts(right: int, n: int) -> None:
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"Expected 0 ≤ right ≤ n and n ≥ 1, got {right} of {n}: count the answered questions only.")
