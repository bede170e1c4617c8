"""Write ``data/examples``: eight slices of simulated patients as they are, and a dozen of the ten real test patients.

    python -m experiments.examples REAL_COHORT [--simulated COHORT]

REAL_COHORT is what `mrtutor prepare` made of the real patients. The simulated slices are taken from a cohort as they
are, by default from the examples that are there.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from mrtutor.data.cohort import Cohort, choose_rows, write_cohort
from mrtutor.files import data_root

SOURCES = "BraTS 2021 and BraTS-Africa on The Cancer Imaging Archive, CC BY 4.0; see data/README.md"


def real_rows(cohort: Cohort) -> list[int]:
    """The slice with most tumour of each test patient, a second one of one of them, and the largest one without."""
    people = list(dict.fromkeys(cohort.table.loc[cohort.rows("test"), "subject_id"]))
    rows = [cohort.row_of(name) for name in people]
    second = next(row for row in choose_rows(cohort, 2 * len(people)) if row not in rows)
    free = max(cohort.rows("test", tumour=False), key=lambda row: np.count_nonzero(cohort.images[row].any(axis=0)))
    return [*rows, second, int(free)]


def main(
    real: Path,
    simulated: Annotated[Path | None, typer.Option()] = None,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Write the examples."""
    own, real_cohort = Cohort.open(simulated or data_root() / "examples"), Cohort.open(real)
    pairs = [(own, own.rows(simulated=True)), (real_cohort, real_rows(real_cohort))]
    images, masks = (np.concatenate([getattr(c, name)[rows] for c, rows in pairs]) for name in ("images", "masks"))
    table = pd.concat([cohort.table.iloc[rows] for cohort, rows in pairs], ignore_index=True)
    about = {"preparation": real_cohort.manifest["preparation"], "real_slices_from": SOURCES}
    cohort = write_cohort(out or data_root() / "examples", images, masks, table, manifest=about)
    print(f"{cohort.path}: {len(cohort)} slices of {cohort.table['patient'].nunique()} patients")


if __name__ == "__main__":
    typer.run(main)
