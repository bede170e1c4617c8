"""Public cohorts (UCSF-PDGM, BraTS 2021, BraTS 2023 and later, UPENN-GBM) as cases for `mrtutor.data.build`.

Nothing is downloaded here: the data card says where each cohort lies and under which licence. The rules, in order:

1. An exam without its five files, or with two files for one role, is left out.
2. Of each patient one exam enters: the earliest that rule 1 leaves. Later ones are left out, so that a follow-up can
   never stand in another split than its patient. In UPENN-GBM only the baseline (``_11``) qualifies: follow-ups show
   a tumour after surgery.
3. A patient whose IDH type the table does not know is left out.

Everything left out is a case with a refusal, so that the build lists and counts it.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torchio as tio

from mrtutor.data.nifti import read_files
from mrtutor.data.public_layouts import Exam, Layout, find_exams, layout_of
from mrtutor.vocabulary import IDH

UNKNOWN = {"", "unknown", "nos", "nec", "nos/nec", "na", "n/a", "nan", "none", "-"}


@dataclass(frozen=True)
class PublicCase:
    """One exam, as `mrtutor.data.sources.Case`.

    Attributes:
        source: name of the layout.
        exam: patient, name and files.
        idh: "mutant" or "wild"; None where unknown.
        refusal: why it is left out; None where it may be prepared.
    """

    source: str
    exam: Exam
    idh: str | None
    refusal: str | None = None

    @property
    def key(self) -> str:
        files = [(role, path, _state(path)) for role, path in self.exam.files]
        state = repr((self.source, self.exam.label, self.idh, self.refusal, files))
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return self.exam.label

    def load(self) -> tio.Subject:
        if self.refusal:
            raise ValueError(self.refusal)
        recent = layout_of(self.source).recent
        return read_files(dict(self.exam.files), self.exam.patient, self.idh, source=self.source, recent=recent)


def _state(path: str) -> tuple[int, int]:
    stat = Path(path).stat()
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class LabelTable:
    """IDH types of a cohort.

    Attributes:
        rows: number of rows by type ("wild", "mutant", "unknown"), before the exams of a patient are merged.
        types: the types named for each patient; one where the table is consistent, none where it is unknown.
    """

    rows: dict[str, int]
    types: dict[str, frozenset[str]]

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.rows.items())
        return f"{sum(self.rows.values())} rows ({counts}) of {len(self.types)} patients"

    def refusal(self, patient: str) -> str | None:
        """Why the patient has no usable type."""
        if patient not in self.types:
            return f"the IDH type of {patient} is unknown: the table has no such row"
        known = sorted(self.types[patient])
        if not known:
            return f"the IDH type of {patient} is unknown in the table"
        return f"the IDH type of {patient} is unknown: the table says {' and '.join(known)}" if len(known) > 1 else None


def parse_idh(word: str | None, mutations: bool = True) -> str | None:
    """IDH type of a table's word.

    ``wildtype`` (and the aliases of `mrtutor.IDH`) is wild; empty, ``unknown``, ``NOS`` and ``NEC`` (*not otherwise
    specified*, *not elsewhere classified*) are None. All else names a mutation, if the table is a cohort's own:
    ``IDH1 p.R132H``, ``mutated (NOS)``; not so a longer word with "wild" in it ("probably wildtype"): None.
    """
    word = (word or "").strip().lower()
    if word in UNKNOWN:
        return None
    try:
        return str(IDH(word))
    except ValueError:
        return str(IDH.MUTANT) if mutations and "wild" not in word else None


def read_table(layout: Layout, path: str | Path) -> LabelTable:
    """Read a cohort's table; rows of a patient's several exams are one patient, and a known type beats an unknown one.

    Raises:
        FileNotFoundError: no such table.
        ValueError: its columns are others; no row names a patient of the cohort; not UTF-8 text.
    """
    rows, types = Counter({"wild": 0, "mutant": 0, "unknown": 0}), defaultdict(set)
    for name, word in _read_columns(layout, Path(path)):
        if (exam := layout.parse(name)) is None:
            continue  # a patient of another cohort
        kind = parse_idh(word, layout.mutations)
        rows[kind or "unknown"] += 1
        types[exam[0]] |= {kind} - {None}
    if not types:
        raise ValueError(
            f"{path} names no patient of {layout.name}: expected ids such as {layout.patient.format(4)} in the column "
            f"{layout.columns[0]}."
        )
    return LabelTable(dict(rows), {patient: frozenset(known) for patient, known in types.items()})


def _read_columns(layout: Layout, path: Path) -> list[tuple[str, str]]:
    """(id, IDH type) of every row, as the table has them."""
    if not path.is_file():
        raise FileNotFoundError(f"No table {path}: expected a CSV with the columns {' and '.join(layout.columns)}.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
            lines = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): save the table as CSV in UTF-8.") from error
    if not {name.lower() for name in layout.columns} <= set(columns):
        found = ", ".join(name.strip() for name in columns.values()) or "none"
        raise ValueError(
            f"{path} has the columns {found}: {layout.name} needs {' and '.join(layout.columns)}; rename them."
        )
    who, what = (columns[name.lower()] for name in layout.columns)
    return [(line[who] or "", line[what] or "") for line in lines]


def public_cases(
    roots: Iterable[str | Path],
    source: str,
    labels: str | Path | None = None,
    idh: IDH | str | None = None,
) -> list[PublicCase]:
    """Every exam of a public cohort as a case, refused ones too, in the order of patients and times.

    Args:
        roots: folders as downloaded.
        source: "ucsf-pdgm", "brats-2021", "brats-2023" or "upenn-gbm".
        labels: the cohort's table (UCSF-PDGM: columns ID, IDH; UPENN-GBM: ID, IDH1; BraTS: subject_id, idh).
        idh: the type of every patient, instead of a table.

    Raises:
        FileNotFoundError: no such folder or table.
        ValueError: unknown source; neither or both of ``labels`` and ``idh``; no exam; an unreadable table.
    """
    layout = layout_of(source)
    if (labels is None) == (idh is None):
        raise ValueError("Expected either a table of IDH types (--labels CSV) or one type for all cases (--idh wild).")
    table = None if labels is None else read_table(layout, labels)
    one_type = None if idh is None else str(IDH(idh))
    by_patient: dict[str, list[Exam]] = defaultdict(list)
    for exam in dict.fromkeys(exam for root in roots for exam in find_exams(layout, root)):
        by_patient[exam.patient].append(exam)
    cases = []
    for patient in sorted(by_patient):
        refusal = table.refusal(patient) if table else None
        known = one_type or (None if refusal else next(iter(table.types[patient])))
        exams = sorted(by_patient[patient], key=lambda exam: (exam.time, exam.label, exam.files))
        reasons = _refusals(layout, exams)
        cases += [
            PublicCase(source, exam, known, reason or refusal) for exam, reason in zip(exams, reasons, strict=True)
        ]
    return cases


def _refusals(layout: Layout, exams: Sequence[Exam]) -> list[str | None]:
    """For each exam of one patient, ascending in time, why it is left out: rules 1 and 2 of this module."""
    times = Counter(exam.time for exam in exams)
    used: Exam | None = None
    reasons: list[str | None] = []
    for exam in exams:
        if times[exam.time] > 1:
            reason = f"{exam.label} stands in {times[exam.time]} folders, so it is doubled: keep one"
        elif layout.baseline and exam.time != layout.baseline:
            reason = f"follow-up of {exam.patient}: only the scan before treatment is used"
        elif used:
            reason = f"follow-up of {exam.patient}: the earlier {used.label} stands for the patient"
        else:
            reason = f"{exam.label} {exam.fault}" if exam.fault else None
            used = exam if reason is None else None
        reasons.append(reason)
    return reasons
