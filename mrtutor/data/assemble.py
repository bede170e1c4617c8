"""Join the parts of a build into the files of a cohort, one part in memory at a time."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrtutor.data.cohort import COLUMNS
from mrtutor.data.manifest import MANIFEST, MASKS, PATIENTS, SLICES, TABLE
from mrtutor.data.split import split_patients
from mrtutor.files import atomic_path, sha256, write_json, write_text


def assemble(parts: Sequence[Path], out: Path, manifest: dict[str, Any]) -> tuple[int, int]:
    """Write slices.npy, masks.npy, slices.csv, patients.csv and, last, cohort.json.

    Args:
        parts: one ``.npz`` per patient.
        out: folder of the cohort.
        manifest: what ``cohort.json`` says besides counts and checksums.

    Returns:
        Numbers of patients and of slices.

    Raises:
        ValueError: two parts of one subject id.
        OSError: no permission or a full disk; no file is left half-written.
    """
    slices, patients = _tables(parts)
    _stack(parts, "images", len(slices), out / SLICES)
    _stack(parts, "masks", len(slices), out / MASKS)
    write_text(out / TABLE, slices.to_csv(index=False, lineterminator="\n"))
    write_text(out / PATIENTS, patients.to_csv(index=False, lineterminator="\n"))
    sums = {name: sha256(out / name) for name in (SLICES, MASKS, TABLE, PATIENTS)}
    counts = {"patients": len(patients), "slices": len(slices)}
    write_json(out / MANIFEST, {"format": "mrtutor cohort", **manifest, **counts, "sha256": sums})
    return len(patients), len(slices)


def read_part(path: Path, *names: str) -> dict[str, Any]:
    """Arrays of a part by name; "about" as a dict."""
    with np.load(path) as part:
        return {name: json.loads(str(part[name])) if name == "about" else part[name] for name in names}


def _tables(parts: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of slices and of patients."""
    records, patients = [], {}
    for path in parts:
        part = read_part(path, "about", "z_mm", "tumour_px")
        about = part["about"]
        name, phenotype = about["subject_id"], about.pop("phenotype")
        if name in patients:
            raise ValueError(f"Two cases are called {name}: expected one folder per subject id; rename or move one.")
        patients[name] = {**about, "slices": len(part["z_mm"]), **phenotype}
        for z_mm, tumour_px in zip(part["z_mm"].tolist(), part["tumour_px"].tolist(), strict=True):
            records.append({**about, "row": len(records), "z_mm": round(z_mm, 3), "tumour_px": tumour_px})
    split = split_patients({name: patient["idh"] for name, patient in patients.items()})
    slices = pd.DataFrame(records).assign(split=lambda table: table["subject_id"].map(split))[list(COLUMNS)]
    people = pd.DataFrame(patients.values())
    people.insert(2, "split", people["subject_id"].map(split))
    return slices, people


def _stack(parts: Sequence[Path], name: str, rows: int, final: Path) -> None:
    """Write one array of all parts as a single ``.npy``, by plain writes.

    A memory map would be shorter, but on a full disk it kills the process instead of raising OSError.
    """
    with atomic_path(final) as temporary, open(temporary, "wb") as file:
        for number, array in enumerate(_arrays(parts, name)):
            if number == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(array).data)


def _arrays(parts: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    for path in parts:
        yield read_part(path, name)[name]
