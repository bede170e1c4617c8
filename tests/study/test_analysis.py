"""Figures beside closed forms and scipy's."""

from itertools import product
from math import comb, sqrt

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from mrtutor.study.analysis import (
    PAPER,
    accuracy,
    answers_needed,
    cohen_kappa,
    fleiss_kappa,
    power,
    rating,
    readers_needed,
    wilson,
)
from mrtutor.study.summary import agreement, by_reader


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (19, 40), (27, 40), (1, 1), (500, 1000)])
def test_wilson_and_p_are_scipys(right: int, n: int) -> None:
    test = binomtest(right, n)
    other = test.proportion_ci(method="wilson")
    found = accuracy(right, n)
    assert found["ci95"] == pytest.approx([other.low, other.high]) and found["p"] == pytest.approx(test.pvalue)
    assert wilson(right, n) == tuple(found["ci95"])


def test_wilson_solves_its_own_equation() -> None:
    for bound in wilson(27, 40):
        assert abs(27 / 40 - bound) == pytest.approx(1.959964 * sqrt(bound * (1 - bound) / 40), rel=1e-5)


def test_p_is_the_sum_of_what_is_as_unlikely() -> None:
    ways = [comb(40, k) for k in range(41)]
    assert accuracy(27, 40)["p"] == pytest.approx(sum(w for w in ways if w <= ways[27]) / 2**40)


def test_the_papers_40_answers() -> None:
    blind, typed = (accuracy(**{k: v for k, v in PAPER[name].items()}) for name in PAPER)
    assert blind["value"] == 0.475 and typed["value"] == 0.675
    assert blind["ci95"] == pytest.approx([0.329, 0.625], abs=1e-3) and blind["p"] > 0.8
    assert typed["ci95"] == pytest.approx([0.520, 0.799], abs=1e-3) and 0.03 < typed["p"] < 0.05


@pytest.mark.parametrize("bad", [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Expected 0 ≤ right ≤ n"):
        wilson(*bad)


def test_rating() -> None:
    assert rating([4, 5, 3]) == {"value": 4.0, "sd": 1.0, "n": 3}
    assert rating([2])["sd"] == 0.0
    for bad in ([], [6], [-1, 2]):
        with pytest.raises(ValueError, match="Expected ratings"):
            rating(bad)


def test_cohens_kappa() -> None:
    rng = np.random.default_rng(0)
    for words in (2, 3):
        a, b = rng.integers(0, words, (2, 50))
        assert cohen_kappa(a.tolist(), b.tolist()) == pytest.approx(cohen_kappa_score(a, b))
    assert cohen_kappa("abab", "abab") == 1 and cohen_kappa("aabb", "bbaa") == -1
    assert cohen_kappa(
        ["y"] * 20 + ["y"] * 5 + ["n"] * 10 + ["n"] * 15, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    ) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa("aa", "aa"))
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa("ab", "a")


def test_fleiss_kappa_of_his_own_table() -> None:
    """Fleiss, 1971, as printed in textbooks: 10 subjects, 14 raters, 5 categories, κ = 0.210."""
    counts = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]]
    counts += [[7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]
    answers = [[word for word, n in enumerate(row) for _ in range(n)] for row in counts]
    assert fleiss_kappa(answers) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([["a", "a"], ["b", "b"]]) == 1 and np.isnan(fleiss_kappa([["a", "a"]]))
    for bad in ([], [["a"]], [["a", "b"], ["a"]]):
        with pytest.raises(ValueError, match="same two or more readers"):
            fleiss_kappa(bad)


@pytest.mark.parametrize(("n", "true"), [(5, 0.6), (20, 0.7), (40, 0.6), (41, 0.35), (10, 0.5)])
def test_power_is_the_share_of_outcomes_that_the_exact_test_rejects(n: int, true: float) -> None:
    chances = [comb(n, k) * true**k * (1 - true) ** (n - k) for k in range(n + 1)]
    rejected = sum(c for k, c in enumerate(chances) if binomtest(k, n).pvalue <= 0.05)
    assert power(n, true) == pytest.approx(rejected)


def test_power_by_listing_all_answers() -> None:
    rejected = [p for p in product((0, 1), repeat=8) if sum(p) in (0, 8)]
    assert power(8, 0.6) == pytest.approx(sum(0.6 ** sum(p) * 0.4 ** (8 - sum(p)) for p in rejected))


def test_answers_needed_is_where_the_power_stays() -> None:
    n = answers_needed(0.6)
    assert 190 <= n <= 215 and power(n - 1, 0.6) < 0.8
    assert all(power(k, 0.6) >= 0.8 for k in range(n, n + 300))
    assert answers_needed(0.4) == n, "0.4 is as far from chance as 0.6"
    assert answers_needed(0.9) < answers_needed(0.7) < n
    with pytest.raises(ValueError, match="other than chance"):
        answers_needed(0.5)
    with pytest.raises(ValueError, match="answers would be needed"):
        answers_needed(0.501)


def _frame(said: dict[str, list[str]], test: str = "sequences") -> pd.DataFrame:
    truth = ["mutant", "wild", "mutant", "wild"]
    rows = [
        {"reader": r, "simulated": False, "test": test, "item": i, "said": s, "correct": float(s == truth[i])}
        | {"rating": 4.0, "seconds": 2.0}
        for r, words in said.items()
        for i, s in enumerate(words)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_agreement_is_over_items_that_all_answered() -> None:
    frame = _frame({"a": ["mutant", "wild", "wild", ""], "b": ["mutant", "wild", "mutant", "wild"]})
    two_thirds = {"same": pytest.approx(2 / 3), "kappa": pytest.approx(cohen_kappa("mww", "mwm")), "readers": 2, "n": 3}
    assert agreement(frame, "sequences") == two_thirds
    more = _frame({r: ["mutant", "wild", "mutant", "wild"] for r in "abc"})
    assert agreement(more, "sequences") == {"same": 1.0, "kappa": 1.0, "readers": 3, "n": 4}
    assert agreement(_frame({r: ["mutant"] * 4 for r in "ab"}), "sequences")["kappa"] is None
    for alone in (_frame({"a": ["wild"] * 4}), _frame({"a": ["wild", "", "", ""], "b": ["", "wild", "", ""]})):
        with pytest.raises(ValueError, match="two or more readers with items in common"):
            agreement(alone, "sequences")


def test_figures_of_each_reader() -> None:
    figures = by_reader(_frame({"a": ["mutant", "wild", "wild", ""], "b": [""] * 4}))
    assert figures["a"]["types"] == accuracy(2, 3) and figures["a"]["unanswered"] == 1
    assert figures["a"]["pairs"] is None and figures["a"]["rating"]["n"] == 3 and figures["a"]["seconds"] == 2
    assert figures["b"]["types"] is None and figures["b"]["rating"] is None and figures["b"]["unanswered"] == 4


def test_readers_needed() -> None:
    assert readers_needed(200, 20) == 10 and readers_needed(201, 20) == 11
    assert readers_needed(200, 20, correlation=1.0) == 200, "twins of one answer: a reader counts once"
