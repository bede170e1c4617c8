"""A prepared cohort: one folder, one class that opens it and gives torch datasets.

slices.npy   (N, 4, 256, 256) uint8, memory-mapped, in the order of `Modality`
masks.npy    (N, 256, 256) uint8, tumour labels
slices.csv   row, subject_id, idh, split, z_mm, tumour_px, source
patients.csv subject_id, idh, split, slices, source, and the simulated phenotype of each patient
cohort.json  written last: format version, seed, preparation parameters, skipped cases, SHA-256 of the other files
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from mrtutor.data.manifest import MASKS, PATIENTS, SLICES, TABLE, read_manifest, verify_files
from mrtutor.data.split import SPLITS
from mrtutor.data.structure import SIZE, canny
from mrtutor.vocabulary import IDH, Modality, prompt

COLUMNS = ("row", "subject_id", "idh", "split", "z_mm", "tumour_px", "source")
_ORDER = {m: i for i, m in enumerate(Modality)}


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prepared slices of many patients; make one with `Cohort.open`.

    Attributes:
        path: its folder.
        manifest: ``cohort.json``.
        table: a row per slice, columns `COLUMNS`.
        images: (N, 4, 256, 256) uint8 memory map, 0…255 for [0, 1].
        masks: (N, 256, 256) uint8 memory map, tumour labels.
    """

    path: Path
    manifest: dict[str, Any]
    table: pd.DataFrame
    images: np.ndarray
    masks: np.ndarray

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "Cohort":
        """Open a cohort folder.

        Args:
            path: the folder.
            verify: compare every file with its SHA-256 first (seconds per GB).

        Raises:
            FileNotFoundError: no such folder, no cohort in it, or a file is missing.
            ValueError: half-written, another format version, truncated or altered.
        """
        path = Path(path)
        manifest = read_manifest(path)
        verify_files(path, manifest, checksums=verify)
        rows = manifest["slices"]
        images = _memory_map(path / SLICES, (rows, len(Modality), SIZE, SIZE))
        masks = _memory_map(path / MASKS, (rows, SIZE, SIZE))
        table = _read_table(path / TABLE, rows)
        return cls(path, manifest, table, images, masks)

    def __reduce__(self) -> tuple:
        return Cohort.open, (self.path,)  # a worker process maps the files again; a pickled memory map is a copy

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def patients(self) -> pd.DataFrame:
        """A row per patient: subject_id, idh, split, slices, source and, where simulated, the true phenotype."""
        return pd.read_csv(self.path / PATIENTS, dtype={"subject_id": str})

    @property
    def simulated(self) -> bool:
        """Whether no slice is of a real patient."""
        return set(self.table["source"]) == {"simulated"}

    def rows(self, split: str | None = None, idh: IDH | str | None = None) -> np.ndarray:
        """Row numbers of a split and of an IDH type, ascending, (n,) int64.

        Raises:
            ValueError: unknown split or IDH type.
        """
        keep = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
            keep &= (self.table["split"] == split).to_numpy()
        if idh is not None:
            keep &= (self.table["idh"] == str(IDH(idh))).to_numpy()
        return np.flatnonzero(keep)

    def slice(self, row: int, modality: Modality | str) -> np.ndarray:
        """One slice, (256, 256) float32 in [0, 1].

        Raises:
            ValueError: unknown modality.
            IndexError: no such row.
        """
        return self._pixels(row, modality).astype(np.float32) / 255

    def structure(self, row: int, modality: Modality | str) -> np.ndarray:
        """Canny edges of one slice, (256, 256) uint8, 0 or 255.

        Raises:
            ValueError: unknown modality.
            IndexError: no such row.
        """
        return canny(self._pixels(row, modality))

    def _pixels(self, row: int, modality: Modality | str) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"No row {row}: expected 0 to {len(self) - 1}.")
        return np.asarray(self.images[row, _ORDER[Modality(modality)]])

    def dataset(
        self,
        split: str | None = None,
        idh: IDH | str | None = None,
        modalities: tuple[Modality | str, ...] = tuple(Modality),
        structure_of: Modality | str | None = None,
    ) -> "SliceDataset":
        """Torch dataset over every slice of a split in every modality asked for.

        Args:
            split: "train", "validation", "test", or None for all.
            idh: IDH type, or None for both.
            modalities: modalities of the images.
            structure_of: whose edges go with an image: its own (None), one modality's for all, or "any", drawn
                from torch's global generator at each access, as one mask serves a whole sequence.

        Raises:
            ValueError: unknown word, or no slice left.
        """
        rows = self.rows(split, idh)
        if not len(rows):
            raise ValueError(f"No slice with split {split} and IDH {idh} in {self.path}: use a larger cohort.")
        if structure_of not in (None, "any"):
            structure_of = Modality(structure_of)
        return SliceDataset(self, rows, tuple(Modality(m) for m in modalities), structure_of)


class SliceDataset(Dataset):
    """Items of `Cohort.dataset`: one slice in one modality, all modalities of a slice one after the other."""

    def __init__(
        self, cohort: Cohort, rows: np.ndarray, modalities: tuple[Modality, ...], structure_of: Modality | str | None
    ):
        self.cohort = cohort
        self.rows = rows
        self.modalities = modalities
        self.structure_of = structure_of

    def __len__(self) -> int:
        return len(self.rows) * len(self.modalities)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Item as a dict.

        image (1, 256, 256) float32 in [0, 1]; structure (1, 256, 256) float32 of 0 and 1; mask (256, 256) uint8
        tumour labels; prompt, modality, idh and subject_id str; row int.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"No item {index}: expected 0 to {len(self) - 1}.")
        place, channel = divmod(index, len(self.modalities))
        row, modality = int(self.rows[place]), self.modalities[channel]
        record = self.cohort.table.iloc[row]
        structure = self.cohort.structure(row, self._structure_modality(modality))
        return {
            "image": torch.from_numpy(self.cohort.slice(row, modality))[None],
            "structure": torch.from_numpy(structure > 0).float()[None],
            "mask": torch.from_numpy(np.array(self.cohort.masks[row])),
            "prompt": prompt(modality, record["idh"]),
            "modality": str(modality),
            "idh": record["idh"],
            "subject_id": record["subject_id"],
            "row": row,
        }

    def _structure_modality(self, modality: Modality) -> Modality:
        if self.structure_of is None:
            return modality
        if self.structure_of == "any":
            return tuple(Modality)[int(torch.randint(len(Modality), ()))]
        return Modality(self.structure_of)


def _memory_map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is truncated or no NumPy file ({error}): restore it, or build again.") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.shape} {array.dtype}, expected {shape} uint8: build again.")
    return array


def _read_table(path: Path, rows: int) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"subject_id": str})
    if tuple(table.columns) != COLUMNS or len(table) != rows:
        raise ValueError(
            f"{path} has {len(table)} rows of {', '.join(table.columns)}; expected {rows} of {', '.join(COLUMNS)}: "
            "restore it, or build again."
        )
    return table
