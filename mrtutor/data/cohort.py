"""A prepared cohort: one folder, one class that opens it, and the one choice of held-out rows.

slices.npy   (N, 4, 256, 256) uint8, memory-mapped, in the order of `Modality`; a missing sequence is all zero
masks.npy    (N, 256, 256) uint8, tumour labels: 1 necrosis, 2 oedema, 3 enhancing, 4 non-enhancing solid
slices.csv   a row per slice: `COLUMNS`
patients.csv a row per exam: subject_id, patient, idh, split, source, slices, and the phenotype where simulated
cohort.json  written last: format version, settings of the preparation, skipped cases, SHA-256 of the other files
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrtutor.data.structure import SIZE, canny
from mrtutor.files import atomic_path, data_root, sha256, write_json, write_text
from mrtutor.vocabulary import IDH, Findings, Modality, sentence

VERSION = 2
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of the patients of each IDH type in validation, and again in test
SLICES, MASKS, TABLE, PATIENTS, MANIFEST = "slices.npy", "masks.npy", "slices.csv", "patients.csv", "cohort.json"
PARTS = ".parts"  # folder of the cases of an unfinished build
WORDS = ("side", "place", "size", "enhancement", "necrosis", "oedema")  # columns of findings, "" where not said
COLUMNS = ("row", "subject_id", "patient", "idh", "split", "source", "z_mm", "tumour_px", "sequences", *WORDS)
YES_NO = {"": None, "yes": True, "no": False}
_TEXT = {value: word for word, value in YES_NO.items()}
_TYPES = defaultdict(lambda: str, row="int64", tumour_px="int64", z_mm="float64")  # of slices.csv
_CHANNEL = {modality: channel for channel, modality in enumerate(Modality)}
_RESTORE = "restore it, or delete the folder and build it again"


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prepared slices of many patients; make one with `Cohort.open`."""

    path: Path
    manifest: dict[str, Any]  # ``cohort.json``
    table: pd.DataFrame  # a row per slice, columns `COLUMNS`; text is "" where unknown
    images: np.ndarray  # (N, 4, 256, 256) uint8 memory map, 0…255 for [0, 1]
    masks: np.ndarray  # (N, 256, 256) uint8 memory map, tumour labels

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "Cohort":
        """Open a cohort folder; `verify` compares the two arrays with their SHA-256 as well (seconds per GB).

        FileNotFoundError: no cohort there, or a file is missing. ValueError: half-written, another format version,
        truncated or altered.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        for name, expected in manifest["sha256"].items():
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path} lacks {name}: {_RESTORE}.")
            if (verify or name.endswith(".csv")) and sha256(path / name) != expected:
                raise ValueError(f"{path / name} does not match its SHA-256 in {MANIFEST}: {_RESTORE}.")
        table = pd.read_csv(path / TABLE, dtype=_TYPES, keep_default_na=False, na_values={"z_mm": [""]})
        try:
            images, masks = (np.load(path / name, mmap_mode="r") for name in (SLICES, MASKS))
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} has an array that is truncated or none ({error}): {_RESTORE}.") from error
        return cls(path, manifest, table, images, masks)

    @classmethod
    def examples(cls) -> "Cohort":
        """The slices that come with the course, ``data/examples``: a few simulated and a few real patients."""
        return cls.open(data_root() / "examples")

    def __repr__(self) -> str:
        return f"Cohort({str(self.path)!r}: {len(self)} slices of {self.table['patient'].nunique()} patients)"

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def patients(self) -> pd.DataFrame:
        """A row per exam: subject_id, patient, idh, split, source, slices and, where simulated, the phenotype."""
        text = dict.fromkeys(("subject_id", "patient", "idh", "split", "source"), str)
        table = pd.read_csv(self.path / PATIENTS, dtype=text, na_values=[""], keep_default_na=False)
        return table.fillna(dict.fromkeys(text, ""))

    @property
    def simulated(self) -> bool:
        """Whether no slice is of a real patient."""
        return bool((self.table["source"] == "simulated").all())

    @cached_property
    def key(self) -> str:
        """12 hex digits that change with the pixels and with the table of slices."""
        sums = self.manifest["sha256"]
        return hashlib.sha256("".join(sums[name] for name in (SLICES, MASKS, TABLE)).encode()).hexdigest()[:12]

    @cached_property
    def available(self) -> np.ndarray:
        """(N, 4) bool: which sequences a row has, in the order of `Modality`."""
        return np.array([[modality in names for modality in Modality] for names in self.table["sequences"].str.split()])

    def rows(
        self,
        split: str | None = None,
        idh: IDH | str | None = None,
        tumour: bool | None = None,
        simulated: bool | None = None,
    ) -> np.ndarray:
        """Row numbers, ascending, (n,) int64: of a split, of an IDH type, with or without tumour, of a kind of patient.

        An unknown split or IDH type is a ValueError.
        """
        keep = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
            keep &= self.table["split"] == split
        if idh is not None:
            keep &= self.table["idh"] == str(IDH(idh))
        if tumour is not None:
            keep &= (self.table["tumour_px"] > 0) == tumour
        if simulated is not None:
            keep &= (self.table["source"] == "simulated") == simulated
        return np.flatnonzero(keep)

    def row_of(self, subject_id: str) -> int:
        """Row of an exam's slice with most tumour (ValueError: no such exam)."""
        areas = self.table.loc[self.table["subject_id"] == subject_id, "tumour_px"]
        if areas.empty:
            some = ", ".join(self.table["subject_id"].unique()[:5])
            raise ValueError(f"No exam {subject_id!r} in {self.path}, expected a subject id of it, such as {some}.")
        return int(areas.idxmax())

    def slice(self, row: int, modality: Modality | str) -> np.ndarray:
        """One slice, (256, 256) float32 in [0, 1]; all 0 where the sequence is missing."""
        return self._pixels(row, modality).astype(np.float32) / 255

    def structure(self, row: int, modality: Modality | str) -> np.ndarray:
        """Edge map of one slice, (256, 256) uint8, 0 or 255."""
        return canny(self._pixels(row, modality))

    def _pixels(self, row: int, modality: Modality | str) -> np.ndarray:
        return np.asarray(self.images[row, _CHANNEL[Modality(modality)]])

    def idh(self, row: int) -> IDH | None:
        """IDH type of a row's patient; None where unknown."""
        word = self.table["idh"].iat[row]
        return IDH(word) if word else None

    def findings(self, row: int) -> Findings:
        """What the sentence of a row can say besides modality and IDH type."""
        record = self.table.iloc[row]
        said = {word: YES_NO.get(record[word], record[word]) for word in WORDS}
        return Findings(tumour=bool(record["tumour_px"] > 0), simulated=record["source"] == "simulated", **said)

    def sentence(self, row: int, modality: Modality | str) -> str:
        """The full sentence of a row: modality, IDH type where known, and its findings."""
        return sentence(Modality(modality), self.idh(row), self.findings(row))


def choose_rows(
    cohort: Cohort,
    count: int,
    *,
    split: str = "test",
    seed: int = 0,
    idh: IDH | str | None = None,
    tumour: bool | None = True,
) -> list[int]:
    """Choose held-out slices: patients in random order, one slice of each, then a second of each, and so on.

    So few rows cover many patients, a row is never taken twice, and a smaller count is the start of a larger one; a
    ValueError where there are not that many. `tumour`: with or without a visible one, None for both.
    """
    rows = np.random.default_rng(seed).permutation(cohort.rows(split, idh, tumour))
    if count > len(rows):
        what = f"split {split}, IDH {idh or 'any'}, tumour {'any' if tumour is None else tumour}"
        raise ValueError(f"Expected {count} rows of {what}, got {len(rows)} in {cohort.path}: ask for fewer.")
    patients = cohort.table["patient"].iloc[rows]
    turn = patients.groupby(patients).cumcount()  # how many of the patient's slices come before
    order = np.lexsort((pd.factorize(patients)[0], turn))
    return rows[order][:count].tolist()


def split_patients(idh: Mapping[str, str]) -> dict[str, str]:
    """Split of each patient from the IDH types ("" unknown): 80/10/10, stratified by type, fixed by a hash of the name.

    With three patients of a type or more, each split gets at least one.
    """
    by_type = defaultdict(list)
    for patient, kind in idh.items():
        by_type[kind].append(patient)
    split = dict.fromkeys(idh, "train")
    for members in by_type.values():
        members.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held_out = max(1, round(HELD_OUT * len(members))) if len(members) >= 3 else 0
        last = members[len(members) - 2 * held_out :]
        split |= dict.fromkeys(last[:held_out], "validation") | dict.fromkeys(last[held_out:], "test")
    return split


def write_cohort(
    out: str | Path,
    images: np.ndarray | Iterable[np.ndarray],
    masks: np.ndarray | Iterable[np.ndarray],
    table: pd.DataFrame,
    patients: pd.DataFrame | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Cohort:
    """Write a cohort folder, each file whole or not at all, ``cohort.json`` last.

    Args:
        out: the folder; files of a cohort that is there are replaced.
        images: (N, 4, 256, 256) uint8, or blocks of it one after the other, (n, 4, 256, 256).
        masks: (N, 256, 256) uint8, or blocks of it.
        table: N rows with the columns `COLUMNS` but row; a split that is "" becomes that of `split_patients`.
        patients: a row per exam with subject_id and what else is known of it.
        manifest: what ``cohort.json`` says besides counts and checksums, JSON-able.

    ValueError: shapes that do not fit, an unknown split or IDH type, or one patient in two splits.
    """
    out = Path(out)
    table = _complete(table)
    exams = table.groupby("subject_id", sort=False)
    people = exams[["patient", "idh", "split", "source"]].first().assign(slices=exams.size()).reset_index()
    if patients is not None:
        extra = [name for name in patients if name == "subject_id" or name not in people]
        people = people.merge(patients[extra], on="subject_id", how="left")
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    _write_array(out / SLICES, images, (len(table), len(Modality), SIZE, SIZE))
    _write_array(out / MASKS, masks, (len(table), SIZE, SIZE))
    write_text(out / TABLE, table.to_csv(index=False, lineterminator="\n"))
    write_text(out / PATIENTS, people.to_csv(index=False, lineterminator="\n"))
    sums = {name: sha256(out / name) for name in (SLICES, MASKS, TABLE, PATIENTS)}
    counts = {"exams": len(people), "patients": int(people["patient"].nunique()), "slices": len(table)}
    about = {"format": "mrtutor cohort", "version": VERSION, **(manifest or {}), **counts, "sha256": sums}
    write_json(out / MANIFEST, about)
    return Cohort.open(out)


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table with row numbers, every patient's split, and findings as words."""
    table = table.assign(row=range(len(table)))[list(COLUMNS)].reset_index(drop=True)
    for name in WORDS:
        table[name] = [_TEXT.get(value, value) for value in table[name]]
    for column, words in {"split": ("", *SPLITS), "idh": ("", *IDH)}.items():
        if not table[column].isin(words).all():
            raise ValueError(f"Column {column} of the table has {set(table[column])}, expected {words}: correct it.")
    split = split_patients(table.groupby("patient")["idh"].max().to_dict())
    given = table[table["split"] != ""].groupby("patient")["split"]
    if (given.nunique() > 1).any():
        raise ValueError(f"Patient {given.nunique().idxmax()} is in two splits: give all exams of a person one split.")
    table["split"] = table["patient"].map(split | given.first().to_dict())
    return table


def _write_array(final: Path, blocks: np.ndarray | Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write one ``.npy`` by plain writes: on a full disk a memory map kills the process instead of raising OSError."""
    blocks = [blocks] if isinstance(blocks, np.ndarray) else blocks
    written = 0
    with atomic_path(final) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in blocks:
            if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                raise ValueError(f"Expected uint8 of shape (n, *{shape[1:]}), got {block.dtype} {block.shape}.")
            file.write(np.ascontiguousarray(block).data)
            written += len(block)
        if written != shape[0]:
            raise ValueError(f"The table has {shape[0]} rows, but {written} came for {final.name}: they must agree.")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise FileNotFoundError(f"No folder {path}, expected a cohort: make one with `mrtutor simulate --out {path}`.")
    if not (path / MANIFEST).is_file():
        if (path / PARTS).exists() or (path / SLICES).exists():
            raise ValueError(f"The cohort in {path} is half-written (no {MANIFEST}): run the same command again.")
        raise FileNotFoundError(f"No cohort in {path}, expected {MANIFEST}: make one with `mrtutor simulate`.")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, _ = manifest["version"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} is no cohort manifest ({error}): {_RESTORE}.") from error
    if version != VERSION:
        raise ValueError(f"{path} has format version {version}, expected {VERSION}: delete it and build it again.")
    return manifest
