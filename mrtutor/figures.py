"""The one table of results, ``data/results/figures.csv``: a row for each measured figure.

README, model cards, PAPER.md and chapters print from it, so that no measured number is typed by hand.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from mrtutor.files import data_root, write_text


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    experiment: str  # what was run: weights, tables, variants, attention, realism, cost, study
    model: str  # paper, A, B, C, D, student, ldm, stylegan2, truth, random, autoencoder, ordinary_ddim100, teacher
    metric: str  # such as ae_psnr_db, fd_mr, edge_f1, seconds_per_sequence
    value: float
    group: str = "mean"  # over modalities; or "all", a modality, a type or a word
    cohort: str = "simulated"  # or "real"
    low: float = math.nan  # ends of its 95 % interval, NaN without one
    high: float = math.nan
    n: int = 0  # slices, sequences or answers behind it
    patients: int = 0  # 0 where it is not about patients
    unit: str = ""  # such as "dB" or "s"; "" for a pure number
    seed: int = 0  # of the run
    weights: str = ""  # key of the weights that were measured
    commit: str = ""  # of the code

    def __str__(self) -> str:
        """Value, interval and unit: ``0.885 [0.879, 0.891]``."""
        digits = 3 - len(str(int(abs(self.value)))) if abs(self.value) >= 1 else 3
        digits = max(digits, 0)
        text = f"{self.value:.{digits}f}"
        if not math.isnan(self.low):
            text += f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{text} {self.unit}".strip()


COLUMNS = [field.name for field in fields(Figure)]
KEY = ["experiment", "model", "metric", "group", "cohort"]


def figures_path() -> Path:
    """``data/results/figures.csv``."""
    return data_root() / "results" / "figures.csv"


def load_figures(path: str | Path | None = None) -> pd.DataFrame:
    """All rows, columns `COLUMNS`; an empty table where there is no file."""
    path = Path(path or figures_path())
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    words = {name: str for name in (*KEY, "unit", "weights", "commit")}
    return pd.read_csv(path, dtype=words, keep_default_na=False, na_values={"low": [""], "high": [""]})


def figure(
    experiment: str,
    model: str,
    metric: str,
    group: str = "mean",
    cohort: str = "simulated",
    path: str | Path | None = None,
) -> Figure:
    """One figure of the table; a ValueError says what there is instead of a row that is missing."""
    match = load_figures(path)
    for name, value in zip(KEY, (experiment, model, metric, group, cohort), strict=True):
        left = match[match[name] == str(value)]
        if left.empty:
            found = ", ".join(sorted(set(match[name]))) or "an empty table"
            raise ValueError(f"No figure with {name} {value!r} in {figures_path()}: expected one of {found}.")
        match = left
    return Figure(**match.iloc[0].to_dict())


def record(rows: Iterable[Figure], path: str | Path | None = None) -> Path:
    """Add figures to the table; a row with the same `KEY` is replaced. The file is sorted and written atomically."""
    path = Path(path or figures_path())
    new = pd.DataFrame([asdict(row) for row in rows], columns=COLUMNS)
    old = load_figures(path)
    table = new if old.empty else pd.concat([old, new], ignore_index=True)
    table = table.drop_duplicates(KEY, keep="last").sort_values(KEY)
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    return path
