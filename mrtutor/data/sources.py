"""What a cohort is built from: simulated patients, or folders of real cases. Each case is a picklable loader."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torchio as tio

from mrtutor.data.nifti import is_case, read_folder, write_nifti
from mrtutor.vocabulary import IDH


class Case(Protocol):
    """One patient to be built."""

    @property
    def key(self) -> str:
        """File-name-safe name that changes whenever the prepared slices would."""

    @property
    def label(self) -> str:
        """What to call the case in a message."""

    def load(self) -> tio.Subject:
        """Subject with ``subject_id``, ``idh`` and ``source``; ValueError or FileNotFoundError: skip the case."""


@dataclass(frozen=True)
class SimulatedCase:
    """Patient ``number`` of the simulated cohort ``seed``."""

    number: int
    seed: int
    noise: bool = True
    device: str = "cpu"
    nifti: str | None = None  # folder that also gets the volumes

    @property
    def key(self) -> str:
        kind = self.device.split(":")[0]  # devices round differently; no word means the CPU
        words = [f"{self.number:05d}", *([kind] if kind != "cpu" else [])]
        return "-".join([*words, "nifti"] if self.nifti else words)  # a part without NIfTI would leave them out

    @property
    def label(self) -> str:
        return f"simulated patient {self.number}"

    def load(self) -> tio.Subject:
        from mrtutor.data.simulate import simulate_subject  # the brain template takes seconds to load

        subject = simulate_subject(self.number, seed=self.seed, noise=self.noise, device=self.device)
        if self.nifti:
            write_nifti(subject, self.nifti)
        subject["source"] = "simulated"
        return subject


@dataclass(frozen=True)
class FolderCase:
    """A real case: the folder of its four sequences and segmentation."""

    folder: str  # absolute
    idh: str | None  # as the user's table has it; None where unknown

    @property
    def key(self) -> str:
        folder = Path(self.folder)
        files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()]
        state = repr((self.folder, self.idh, files))
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return Path(self.folder).name

    def load(self) -> tio.Subject:
        if self.idh is None:
            raise ValueError(f"the IDH type of {self.label} is unknown: add it to the labels, or give --idh")
        return read_folder(self.folder, self.idh)


def simulated_cases(patients: int, seed: int, **options: Any) -> list[SimulatedCase]:
    """Patients 0 … ``patients`` - 1 of a simulated cohort; ``options``: fields of `SimulatedCase`.

    Raises:
        ValueError: no patients, or a negative seed.
    """
    if patients < 1:
        raise ValueError(f"Expected at least 1 patient, got {patients}.")
    if seed < 0:
        raise ValueError(f"Expected a seed of 0 or more, got {seed}.")
    return [SimulatedCase(number, seed, **options) for number in range(patients)]


def folder_cases(
    folders: Iterable[str | Path], labels: str | Path | None = None, idh: IDH | str | None = None
) -> list[FolderCase]:
    """Cases in folders: each is a case itself, or holds one case per sub-folder.

    Args:
        folders: where to look.
        labels: CSV with columns subject_id (the folder's name) and idh; other words or none mean unknown.
        idh: the type of every case, instead of a table.

    Raises:
        FileNotFoundError: no such folder or table.
        ValueError: neither or both of ``labels`` and ``idh``; an unreadable table; no case at all; two cases
            with one name.
    """
    if (labels is None) == (idh is None):
        raise ValueError("Expected either a table of IDH types (--labels CSV) or one type for all cases (--idh wild).")
    found = list(dict.fromkeys(case.resolve() for folder in folders for case in _cases_in(Path(folder))))
    if not found:
        raise ValueError(
            "No case found: expected folders with files such as *_flair.nii.gz, or a folder of such folders."
        )
    names = Counter(case.name for case in found)
    if doubled := [str(case) for case in found if names[case.name] > 1]:
        raise ValueError(f"Several cases have one name ({', '.join(doubled)}): expected one folder per subject id.")
    table = {} if labels is None else read_labels(labels)
    known = None if idh is None else str(IDH(idh))
    return [FolderCase(str(case), known or table.get(case.name)) for case in found]


def _cases_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}: expected the folder of a case, or a folder of such folders.")
    if is_case(folder):
        return [folder]
    return [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and is_case(sub)]


def read_labels(path: str | Path) -> dict[str, str | None]:
    """IDH type by subject id; None where the table does not know it.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no columns subject_id and idh, or a patient with two different types.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No table {path}: expected a CSV with the columns subject_id and idh.")
    table: dict[str, str | None] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"subject_id", "idh"} <= set(reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ()) or "none"
            raise ValueError(f"{path} has the columns {found}: expected subject_id and idh; rename them.")
        for line in reader:
            name, idh = (line["subject_id"] or "").strip(), _known_idh(line["idh"])  # None where a row is short
            if name and table.setdefault(name, idh) != idh:
                raise ValueError(f"{path} gives {name} two IDH types ({table[name]} and {idh}): keep one line.")
    return table


def _known_idh(word: str | None) -> str | None:
    try:
        return str(IDH(word))
    except ValueError:
        return None
