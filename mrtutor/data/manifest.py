"""The manifest of a cohort folder, ``cohort.json``: written last, checked first."""

import json
from pathlib import Path
from typing import Any

from mrtutor.files import sha256

VERSION = 1
MANIFEST = "cohort.json"
PARTS = ".parts"  # folder of the patients of an unfinished build
SLICES, MASKS, TABLE, PATIENTS = "slices.npy", "masks.npy", "slices.csv", "patients.csv"
AGAIN = "run the same `mrtutor simulate` or `mrtutor prepare` command again: it goes on where it stopped"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check ``cohort.json``.

    Raises:
        FileNotFoundError: no such folder, or nothing of a cohort in it.
        ValueError: half-written, unreadable, or of another version.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"No folder {path}: expected a cohort; make one with `mrtutor simulate --out {path}`.")
    if not (path / MANIFEST).is_file():
        if (path / PARTS).exists() or any((path / name).exists() for name in (SLICES, MASKS, TABLE, PATIENTS)):
            raise ValueError(f"The cohort in {path} is half-written (no {MANIFEST}): {AGAIN}.")
        raise FileNotFoundError(f"No cohort in {path}: expected {MANIFEST}; make one with `mrtutor simulate`.")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} is no cohort manifest ({error}): restore it, or build again.") from error
    if version != VERSION:
        raise ValueError(
            f"The cohort in {path} has format version {version}, this package reads {VERSION}: "
            "delete the folder and build it again, or install the package version that wrote it."
        )
    return manifest


def verify_files(path: Path, manifest: dict[str, Any], checksums: bool) -> None:
    """Check that every file of a cohort is there and, where asked, unaltered.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file does not match its SHA-256.
    """
    for name, expected in manifest["sha256"].items():
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} lacks {name}: restore it, or delete the folder and {AGAIN}.")
        if checksums and sha256(path / name) != expected:
            raise ValueError(
                f"{path / name} does not match its SHA-256 in {MANIFEST}: it was truncated or altered; "
                "restore it, or delete the folder and build it again."
            )
