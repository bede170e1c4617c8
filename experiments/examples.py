"""Write ``data/examples``: eight slices of simulated patients as they are, and a dozen of the ten real test patients.

    python -m experiments.examples REAL_COHORT [--simulated FOLDER]

REAL_COHORT is what `mrtutor prepare` made of the real patients. The simulated slices keep their pixels, as the first
weights were trained with their scaling; they are taken from the examples that are there, or from a folder of ``.npz``
of the first edition.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from mrtutor.data.cohort import WORDS, Cohort, choose_rows, write_cohort
from mrtutor.data.prepare import describe
from mrtutor.files import data_root
from mrtutor.vocabulary import Modality

PIXEL_MM2 = (224 / 256) ** 2
SOURCES = "BraTS 2021 and BraTS-Africa on The Cancer Imaging Archive, CC BY 4.0; see data/README.md"


def simulated_slices(folder: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Images (n, 4, 256, 256), masks (n, 256, 256) and table of the first edition's ``.npz`` files, or of a cohort."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        cohort = Cohort.open(folder)
        rows = cohort.rows(simulated=True)
        return cohort.images[rows], cohort.masks[rows], cohort.table.iloc[rows]
    images, masks, records = [], [], []
    for file in files:
        with np.load(file) as stored:
            images.append(stored["images"])
            masks.append(stored["mask"])
            words = {key: str(stored[key]) for key in ("subject_id", "idh", "split", "source")}
        found = describe(masks[-1], (images[-1] > 0).any(axis=0), simulated=True)
        records.append(
            words
            | {"patient": words["subject_id"], "z_mm": np.nan, "sequences": " ".join(Modality)}
            | {"tumour_px": round(np.count_nonzero(masks[-1]) * PIXEL_MM2)}
            | {word: getattr(found, word) for word in WORDS}
        )
    return np.stack(images), np.stack(masks), pd.DataFrame(records)


def real_rows(cohort: Cohort) -> list[int]:
    """The slice with most tumour of each test patient, a second one of one of them, and the largest one without."""
    people = list(dict.fromkeys(cohort.table.loc[cohort.rows("test"), "subject_id"]))
    rows = [cohort.row_of(name) for name in people]
    second = next(row for row in choose_rows(cohort, 2 * len(people)) if row not in rows)
    free = max(cohort.rows("test", tumour=False), key=lambda row: np.count_nonzero(cohort.images[row].any(axis=0)))
    return [*rows, second, int(free)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", type=Path)
    parser.add_argument("--simulated", type=Path, default=data_root() / "examples")
    parser.add_argument("--out", type=Path, default=data_root() / "examples")
    options = parser.parse_args()
    images, masks, table = simulated_slices(options.simulated)
    real = Cohort.open(options.real)
    rows = real_rows(real)
    table = pd.concat([table, real.table.iloc[rows]], ignore_index=True)
    images, masks = np.concatenate([images, real.images[rows]]), np.concatenate([masks, real.masks[rows]])
    about = {"preparation": real.manifest["preparation"], "real_slices_from": SOURCES}
    cohort = write_cohort(options.out, images, masks, table, manifest=about)
    print(f"{cohort.path}: {len(cohort)} slices of {cohort.table['patient'].nunique()} patients")


if __name__ == "__main__":
    main()
