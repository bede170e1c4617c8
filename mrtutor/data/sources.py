"""What a cohort is built from: simulated patients, or real exams as public cohorts lie on disk, and their tables.

An *exam* is one scan of one patient. Every exam found becomes a case, faulty ones too, so that a build can list them.
Layouts: Calabrese et al., Radiology: AI 2022 (UCSF-PDGM); Baid et al., 2021, and successors (BraTS); Adewole et al.,
2023 (BraTS-Africa); Bakas et al., Scientific Data 2022 (UPENN-GBM); Antonelli et al., 2022 (MSD); Buda et al., 2019
(kaggle_3m). Nothing is downloaded here.
"""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
import torchio as tio

from mrtutor.data.cohort import SPLITS
from mrtutor.data.nifti import LABEL_CODES, TUMOUR, read_case, read_tif_case, write_nifti
from mrtutor.vocabulary import FILE_NAMES, IDH, Modality, idh_of


class Case(Protocol):
    """One exam to be built; picklable and hashable."""

    key: str  # file-name-safe name that changes whenever the prepared slices would
    label: str  # what to call the case in a message

    def load(self) -> tio.Subject:
        """The subject; ValueError: skip the case, the message says why and names the file, not the case."""


@dataclass(frozen=True)
class SimulatedCase:
    """Patient ``number`` of the simulated cohort ``seed``; ``nifti``: folder that also gets the volumes."""

    number: int
    seed: int
    device: str = "cpu"
    nifti: str | Path | None = None

    @property
    def key(self) -> str:
        kind = self.device.split(":")[0]  # devices round differently
        return f"{self.number:05d}-{kind}{'-nifti' if self.nifti else ''}"  # a part without NIfTI would leave them out

    @property
    def label(self) -> str:
        return f"simulated patient {self.number}"

    def load(self) -> tio.Subject:
        from mrtutor.simulate.patient import simulate_subject  # the brain template takes seconds to load

        subject = simulate_subject(self.number, seed=self.seed, device=self.device)
        if self.nifti:
            write_nifti(subject, self.nifti)
        return subject


LAYOUTS = {  # by the word for --source: how exams begin, key of `LABEL_CODES` (None: read off the numbers), files
    "folder": ("", None, "patient7/patient7_flair.nii.gz and patient7/patient7_seg.nii.gz"),
    "ucsf-pdgm": ("UCSF-PDGM-", "brats-2021", "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR.nii.gz"),
    "brats-2021": ("BraTS2021_", "brats-2021", "BraTS2021_00001/BraTS2021_00001_flair.nii.gz"),
    "brats-2023": ("BraTS-GLI-", "brats-2023", "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz"),
    "brats-2024": ("BraTS-GLI-", "brats-2024", "BraTS-GLI-00005-100/BraTS-GLI-00005-100-t2f.nii.gz"),
    "brats-africa": ("BraTS-SSA-", "brats-2023", "BraTS-SSA-00002-000/BraTS-SSA-00002-000-t2f.nii.gz"),
    "upenn-gbm": ("UPENN-GBM-", "brats-2021", "images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_FLAIR.nii.gz"),
    "msd": ("BRATS_", "msd", "imagesTr/BRATS_001.nii.gz and labelsTr/BRATS_001.nii.gz"),
    "kaggle-3m": ("TCGA", "mask", "TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif"),
}

MSD_VOLUMES = (Modality.FLAIR, Modality.T1, Modality.T1GD, Modality.T2)  # of each 4-D file
SUFFIXES = {  # lower case; after "_" or "-", or all of the name
    **{name: modality for modality, names in FILE_NAMES.items() for name in names},
    **dict.fromkeys(("seg", "seg-auto", "segm", "automated_approx_segm", "tumor_segmentation", "dseg"), TUMOUR),
}
_WORDS = "|".join(sorted(SUFFIXES, key=len, reverse=True))
_FILE = re.compile(rf"(?:.*[-_])?({_WORDS})\.nii(?:\.gz)?", re.IGNORECASE)
_TIF = re.compile(r".+_\d+(_mask)?\.tif", re.IGNORECASE)
File = tuple[str, str, int | None]  # role (a modality, "tumour" or "tif"), path, number of the volume in a 4-D file
_NUMBERED = re.compile(
    r"(BraTS-GLI-|BraTS-SSA-|BraTS2021_|UPENN-GBM-|UCSF-PDGM-|BRATS_)(\d+)(-\d{3}|_FU\d+d|_\d{2})?", re.IGNORECASE
)
_DIGITS = {"ucsf-pdgm-": 4, "brats_": 3}  # all others 5
_TCGA = re.compile(r"TCGA[-_](\w{2})[-_]([A-Z0-9]{4})([-_].*)?", re.IGNORECASE)
_BIDS = re.compile(r"(sub-[A-Z0-9]+)(_ses-[A-Z0-9]+)?", re.IGNORECASE)


def patient_of(name: str) -> str:
    """The patient of an exam's name, as the public cohort calls it; a name of no known cohort is its own patient.

    ``BraTS-GLI-00005-101`` -> ``BraTS-GLI-00005``, ``UCSF-PDGM-004_FU003d`` -> ``UCSF-PDGM-0004``.
    """
    numbered, tcga, bids = (pattern.fullmatch(name) for pattern in (_NUMBERED, _TCGA, _BIDS))
    if numbered:
        return numbered[1] + numbered[2].lstrip("0").zfill(_DIGITS.get(numbered[1].lower(), 5))
    if tcga:
        return f"TCGA-{tcga[1]}-{tcga[2]}"
    return bids[1] if bids else name


@dataclass(frozen=True)
class FilesCase:
    """A real exam."""

    label: str  # name of the exam, as its folder is called
    source: str  # word of its layout, in `LAYOUTS`
    files: tuple[File, ...]
    label_codes: str | None  # how its segmentation is numbered, see `mrtutor.data.nifti.map_labels`
    fault: str | None  # why it cannot be used, as far as the names tell
    patient: str  # the person; exams of one person share it
    idh: str = ""  # this and the rest: "" where no table says it
    split: str = ""
    collection: str = ""

    @property
    def key(self) -> str:
        stats = [os.stat(path) for _, path, _ in self.files if os.path.exists(path)]
        states = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        return hashlib.sha256(repr((self, states)).encode()).hexdigest()[:16]

    def load(self) -> tio.Subject:
        if self.fault:
            raise ValueError(self.fault)
        if self.source == "kaggle-3m":
            subject = read_tif_case([path for _, path, _ in self.files])
        else:
            subject = read_case({role: (path, volume) for role, path, volume in self.files}, self.label_codes)
        subject["subject_id"] = self.label
        for name in ("source", "patient", "idh", "split", "collection"):
            subject[name] = getattr(self, name)
        return subject


class _Exam(NamedTuple):
    name: str
    files: set[File]
    fault: str | None


def find_cases(
    folders: Iterable[str | Path] | str | Path,
    source: str = "folder",
    labels: "str | Path | Table | None" = None,
    idh: IDH | str | None = None,
    *,
    skull: bool = False,
    label_codes: str | None = None,
    segmentation: bool = True,
) -> list[FilesCase]:
    """Every exam below some folders, faulty ones too, by name.

    Args:
        folders: where to look: an exam, a folder of exams, or levels above (HGG and LGG, BIDS, a download).
        source: word of the layout, in `LAYOUTS`; "folder" takes every folder with known file names.
        labels: what `read_table` takes or gave. Exams that it does not name stay unknown.
        idh: the type of every exam, instead of a table. Neither: all unknown.
        skull: agree to heads with their skull (kaggle-3m).
        label_codes: how segmentations are numbered, where the layout's rule is wrong.
        segmentation: whether an exam without one is faulty.
    """
    if source not in LAYOUTS:
        raise ValueError(f"Unknown source {source!r}: expected one of {', '.join(LAYOUTS)}.")
    if label_codes not in (None, *LABEL_CODES):
        raise ValueError(f"Unknown label codes {label_codes!r}: expected one of {', '.join(LABEL_CODES)}.")
    if source == "kaggle-3m" and not skull:
        raise ValueError("kaggle-3m shows heads with their skull, expected none: strip it, or accept it with --skull.")
    if labels is not None and idh is not None:
        raise ValueError("Expected a table of IDH types or one type for all exams, got both: leave one out.")
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    table = read_table(labels, folders) if isinstance(labels, str | Path) else labels
    exams, where = _find_exams(folders, source), ", ".join(map(str, folders))
    _, codes, example = LAYOUTS[source]
    if not exams:
        raise ValueError(f"No exam of {source} in {where}: expected files such as {example}; check the names.")
    if table is not None and not any(table.of(exam.name) for exam in exams):
        raise ValueError(f"{table.path} names no exam of {where}: expected ids such as {exams[0].name}; correct them.")
    names = Counter(exam.name for exam in exams)
    cases = []
    for exam in sorted(exams, key=lambda exam: (exam.name, sorted(exam.files))):
        fault = exam.fault or _fault(exam, source, segmentation)
        if names[exam.name] > 1 and not exam.fault:
            fault = f"{names[exam.name]} folders have this name, expected one: rename or remove the others"
        row = {"patient": patient_of(exam.name), "idh": str(IDH(idh)) if idh else ""}
        if table is not None:
            row = table.of(exam.name) or row
        cases.append(FilesCase(exam.name, source, tuple(sorted(exam.files)), label_codes or codes, fault, **row))
    return cases


def _fault(exam: _Exam, source: str, segmentation: bool) -> str | None:
    """Why an exam cannot be used, as far as the names of its files tell."""
    roles = Counter(role for role, _, _ in exam.files)
    role, count = roles.most_common(1)[0]
    if count > 1 and source != "kaggle-3m":
        names = " and ".join(sorted(Path(path).name for other, path, _ in exam.files if other == role))
        return f"it has {role} {count} times ({names}), expected one: move the others"
    if set(roles) == {TUMOUR}:
        return f"it has no sequence, expected at least one of {', '.join(Modality)}: add or rename the files"
    if segmentation and TUMOUR not in roles:
        return "it has no segmentation, expected a mask such as _seg.nii.gz: add or rename it"
    if source == "upenn-gbm" and not exam.name.endswith("_11"):
        return "it is a scan after treatment, expected the one before (_11): leave it out"
    return None


def _find_exams(folders: list[str | Path], source: str) -> list[_Exam]:
    """Exams of a layout, and folders that cannot be searched, below some folders; each once."""
    exams: dict[str, _Exam] = {}
    for folder in folders:
        root = Path(os.path.abspath(folder))  # links kept: an exam is called as its folder is, not what it points to
        if not root.is_dir():
            raise FileNotFoundError(f"No folder {folder}: expected the folder of an exam, or one with exams below it.")
        for below, names, fault in _walk(root):
            if fault:
                exams[str(below)] = _Exam(below.name, set(), fault)
            for name in names:
                key, title, files = _files_of(below, name, source) or ("", "", [])
                if files and title.lower().startswith(LAYOUTS[source][0].lower()):
                    exams.setdefault(key, _Exam(title, set(), None)).files.update(files)
    return list(exams.values())


def _files_of(folder: Path, name: str, source: str) -> tuple[str, str, list[File]] | None:
    """Key and name of the exam that a file belongs to, and what it is; None where it belongs to none."""
    path = str(folder / name)
    if source == "kaggle-3m":  # folders of TIF, each with its mask
        match = _TIF.fullmatch(name)
        if not match:
            return None
        return str(folder), folder.name, [(TUMOUR if match[1] else "tif", path, None)]
    if source == "msd":  # 4-D files, with their labels in another folder; imagesTs has none
        if folder.name != "imagesTr":
            return None
        files = [(modality, path, number) for number, modality in enumerate(MSD_VOLUMES)]
        labels = folder.parent / "labelsTr" / name
        return path, name.partition(".nii")[0], files + ([(TUMOUR, str(labels), None)] if labels.exists() else [])
    match, bids = _FILE.fullmatch(name), _BIDS.match(name)
    if not match or folder.name in ("images_segm", "automated_segm"):
        return None
    role = SUFFIXES[match[1].lower()]
    if bids:  # an exam has several folders
        copied = "derivatives" in folder.parts and role != TUMOUR
        role = Modality.T1GD if role == Modality.T1 and "_ce-" in name else role
        return bids[0], bids[0], [] if copied else [(role, path, None)]
    files = [(role, path, None)]
    if folder.parent.name == "images_structural":  # UPENN-GBM: masks elsewhere, images_segm better than automated_segm
        masks = sorted(map(str, folder.parent.parent.glob(f"*_segm/{folder.name}_*segm.nii*")))
        files += [(TUMOUR, mask, None) for mask in masks[-1:]]
    return str(folder), folder.name.removesuffix("_nifti"), files  # UCSF-PDGM-0004_nifti


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, list[str], str | None]]:
    """Every folder from here down; names in it that are no folder to search; why it cannot be searched."""
    here = os.path.realpath(folder)
    if here in above:  # a link that leads back up
        return
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))  # ._x_t1.nii
    except OSError as error:
        yield folder, [], f"cannot list {folder} ({error.strerror}), expected a readable folder: change its permissions"
        return
    below = [name for name in names if os.path.isdir(folder / name) and not _FILE.fullmatch(name)]
    yield folder, [name for name in names if name not in below], None
    for name in below:
        yield from _walk(folder / name, (*above, here))


# Tables. Headers in any case, with "_" for other signs; the first that is there is taken.
_ID_COLUMNS = ("subject_id", "id", "participant_id", "patient_id", "case_id", "case", "subject", "patient")
_IDH_COLUMNS = ("idh", "idh1", "idh_status", "idh_type", "idh_mutation")
_NUMBERS = {"1": IDH.MUTANT, "1.0": IDH.MUTANT, "0": IDH.WILD, "0.0": IDH.WILD}


@dataclass(frozen=True)
class Table:
    """A table of patients; printed, it says in one line how it was read."""

    path: Path
    rows: dict[str, dict[str, str]]  # patient, idh, split, collection ("" unknown) by lower-case name of `patient_of`
    summary: str  # number of rows, words read as unknown, …

    def of(self, name: str) -> dict[str, str] | None:
        """What the table says of an exam; None where it does not name its patient."""
        return self.rows.get(patient_of(name).lower())

    def __str__(self) -> str:
        return self.summary


def read_table(path: str | Path, folders: Iterable[str | Path] | str | Path = ()) -> Table:
    """Read a table of IDH types, splits, persons and collections: CSV of any separator, UTF-8, UTF-16 or Latin-1.

    Columns, in any case: an id (`_ID_COLUMNS`), and any of idh (`_IDH_COLUMNS`), split, patient, collection. Types are
    the words of `mrtutor.vocabulary.idh_of`; a column of 1 and 0 without words is mutant and wild; all else is unknown.
    Exams of a person share a known type; where two differ, it is unknown. UCSF-PDGM's BraTS21 ID is a second id. A path
    that leads nowhere is tried from `folders`.
    """
    folders = [folders] if isinstance(folders, str | Path) else folders
    paths = [place for place in (Path(path), *(Path(folder) / path for folder in folders)) if place.is_file()]
    if not paths:
        raise FileNotFoundError(f"No table {path}, nor in the folder of the exams: expected a CSV; check the path.")
    name, frame = paths[0].name, _read_frame(paths[0])
    who = next((column for column in _ID_COLUMNS if column in frame), None)
    what = next((column for column in _IDH_COLUMNS if column in frame), None)
    if who is None or not {what, "split", "patient", "collection"} & set(frame) - {who}:
        raise ValueError(
            f"{name} has the columns {', '.join(frame)[:200]}, expected subject_id and one of idh, split, patient, "
            "collection: rename them, check the separator, or save the table as CSV."
        )
    about = ["idh", "split", "collection"]
    columns = frame.columns.union([*about, "patient", "brats21_id"])
    frame = frame[frame[who] != ""].reindex(columns=columns, fill_value="")
    words = list(frame[what or "idh"])
    types = _types_of(words)
    read = Counter(f"{word or 'empty'} as {kind or 'unknown'}" for word, kind in zip(words, types, strict=True))
    frame["idh"] = [str(kind or "") for kind in types]
    frame["split"] = frame["split"].str.lower().replace({"training": "train", "val": "validation"})
    frame["person"] = [patient_of(patient or own) for patient, own in zip(frame["patient"], frame[who], strict=True)]
    people = frame.groupby("person")[about].agg(lambda words: " and ".join(sorted({*words} - {""})))
    wrong = people[~people["split"].isin(["", *SPLITS])]
    if len(wrong):
        raise ValueError(f"{name} has split {wrong['split'].iloc[0]} for {wrong.index[0]}, expected one of {SPLITS}.")
    summary = [f"{name}: {len(frame)} rows of {len(people)} patients"]
    if what:
        summary.append(f"{what} read: " + ", ".join(f"{word} {count}" for word, count in read.items()))
    doubtful = people["idh"] == "mutant and wild"
    if doubtful.any():
        summary.append(f"two types, so unknown: {', '.join(people.index[doubtful])}")
    people.loc[doubtful, "idh"] = ""
    told = people.assign(patient=people.index).to_dict("index")
    persons = pd.concat([frame.set_index("brats21_id"), frame.set_index(who)])["person"]  # the first id counts more
    rows = {patient_of(own).lower(): told[person] for own, person in persons.items()}
    return Table(paths[0], rows, "; ".join(summary))


def _types_of(words: list[str]) -> list[IDH | None]:
    types = [idh_of(word) for word in words]
    if not any(types) and {"1", "1.0"} & set(words):  # among words, a 0 may mean anything
        return [_NUMBERS.get(word) for word in words]
    return types


def _read_frame(path: Path) -> pd.DataFrame:
    """Every cell a string without spaces around it, headers in lower case with "_" for other signs."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # reads anything
    separator = max(",;\t|", key=text.partition("\n")[0].count)  # pandas' own guess splits "subject_id" at "u"
    try:  # a patient may be called NA
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:
        raise ValueError(f"Cannot read {path.name} as a table ({error}), expected CSV: save it as such.") from error
    frame = frame.fillna("").map(str.strip)
    frame.columns = [re.sub(r"\W+", "_", str(column).strip().lower()) for column in frame.columns]
    return frame.loc[:, ~frame.columns.duplicated()]
