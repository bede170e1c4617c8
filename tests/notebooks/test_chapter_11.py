"""Chapter 11 and its page: numbers in the text are the package's, and the page shows nothing but the study."""

import re
from pathlib import Path

import nbformat
import pytest
from scipy.stats import binomtest

from mrtutor.study.analysis import PAPER, answers_needed, power
from tests.notebooks.anatomy import ROOT, SETUP_CELL

CHAPTER = ROOT / "notebooks/11_run_reader_study.ipynb"
SOLUTIONS = ROOT / "notebooks/solutions/11_run_reader_study.ipynb"
PAGE = ROOT / "notebooks/reader_study.ipynb"


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_numbers_in_the_text_are_right() -> None:
    text = "\n".join(sources(CHAPTER, "markdown"))
    assert "47.5 % is 19 of 40 and 67.5 % is 27 of 40" in text
    assert [f"{100 * p['right'] / p['n']:g}" for p in PAPER.values()] == ["47.5", "67.5"]
    claimed = int(re.search(r"about (\d+) answers for 60 %", text)[1])
    assert abs(answers_needed(0.6) - claimed) <= 10 and 4.5 < answers_needed(0.6) / 40 < 5.5
    assert power(40, 0.6) < 0.35, "far more often missed than found"


@pytest.mark.parametrize(("right", "n"), [(0, 12), (27, 40), (12, 12), (1, 2)])
def test_the_solution_of_exercise_3_is_scipys_exact_interval(right: int, n: int) -> None:
    source = next(s for s in sources(SOLUTIONS, "code") if "def clopper_pearson" in s)
    names: dict = {}
    exec("from scipy.stats import beta\n" + source[: source.index("\n\n\n")], names)
    exact = binomtest(right, n).proportion_ci(method="exact")
    assert names["clopper_pearson"](right, n) == pytest.approx((exact.low, exact.high))


def test_the_page_is_setup_and_study_only() -> None:
    code = sources(PAGE, "code")
    setup = SETUP_CELL.read_text().rstrip("\n").replace("missing = install_missing()", "install_missing()")
    assert code[0] == "%%capture\n" + setup and code[-1] == "display(page)" and not sources(PAGE, "markdown")
    assert all(not cell.get("outputs") for cell in nbformat.read(PAGE, as_version=4).cells)
