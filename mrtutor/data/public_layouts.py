"""How public cohorts lie on disk as they are downloaded: names of exams, of files, of the columns of their tables.

An *exam* is one scan of one patient. Sources: Calabrese et al., Radiology: AI 2022 (UCSF-PDGM); Baid et al., 2021,
and its successors (BraTS); Bakas et al., Scientific Data 2022 (UPENN-GBM).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from mrtutor.vocabulary import Modality

TUMOUR = "tumour"
ROLES = (*Modality, TUMOUR)


@dataclass(frozen=True)
class Layout:
    """One cohort's conventions.

    Attributes:
        name: word for ``--source``.
        exam: pattern of an exam's name; group ``patient`` is the patient's number, group ``time``, where there is one,
            the number of the follow-up. Digits may be padded in more than one way.
        patient: how the patient is called in the cohort, with the number in as many digits as in the public folders.
        words: what a file's name holds after the exam's, by role, as patterns; in another case too.
        columns: the table's columns of ids and of IDH types.
        subfolders: where the exams' files stand below the root; empty: each exam has a folder of its own. Where two
            subfolders hold a segmentation, the first in this order is taken.
        baseline: number of the first exam, 0 where it bears none.
        recent: labels are numbered as in BraTS 2023 and later (`mrtutor.data.nifti.map_labels`).
        mutations: the table is the cohort's own and names mutations; else it is the user's, in the words of `IDH`.
        example: a folder and a file, for messages.
    """

    name: str
    exam: str
    patient: str
    words: dict[str, str]
    columns: tuple[str, str]
    example: str
    subfolders: tuple[str, ...] = ()
    baseline: int = 0
    recent: bool = False
    mutations: bool = False

    def parse(self, name: str) -> tuple[str, int] | None:
        """(patient, time) of an exam, padded in any way: ``UCSF-PDGM-004_FU003d`` -> (``UCSF-PDGM-0004``, 3)."""
        match = re.fullmatch(self.exam, name.strip(), re.IGNORECASE)
        return None if match is None else self._read(match)

    def parse_file(self, name: str) -> tuple[str, int, str, str] | None:
        """(patient, time, role, rest) of a file's name; rest is ``_bias`` for a file corrected for the coil's bias."""
        for role, word in self.words.items():
            pattern = rf"(?:{self.exam})[-_](?:{word})(?P<rest>_bias)?\.nii(?:\.gz)?"
            if match := re.fullmatch(pattern, name, re.IGNORECASE):
                return *self._read(match), role, (match["rest"] or "").lower()
        return None

    def _read(self, match: re.Match) -> tuple[str, int]:
        groups = match.groupdict()
        time = groups.get("time")
        return self.patient.format(int(groups["patient"])), self.baseline if time is None else int(time)


_NAMED = {
    "ucsf-pdgm": Layout(
        name="ucsf-pdgm",
        exam=r"UCSF-PDGM-(?P<patient>\d+)(?:_FU(?P<time>\d+)d)?(?:_nifti)?",
        patient="UCSF-PDGM-{:04d}",
        words={"FLAIR": "FLAIR", "T1": "T1", "T1Gd": "T1c", "T2": "T2", TUMOUR: "tumor_segmentation"},
        columns=("ID", "IDH"),
        example="UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR.nii.gz",
        mutations=True,
    ),
    "brats-2021": Layout(
        name="brats-2021",
        exam=r"BraTS2021_(?P<patient>\d+)",
        patient="BraTS2021_{:05d}",
        words={"FLAIR": "flair", "T1": "t1", "T1Gd": "t1ce", "T2": "t2", TUMOUR: "seg"},
        columns=("subject_id", "idh"),
        example="BraTS2021_00001/BraTS2021_00001_flair.nii.gz",
    ),
    "brats-2023": Layout(
        name="brats-2023",
        exam=r"BraTS-GLI-(?P<patient>\d+)(?:-(?P<time>\d{3}))?",
        patient="BraTS-GLI-{:05d}",
        words={"FLAIR": "t2f", "T1": "t1n", "T1Gd": "t1c", "T2": "t2w", TUMOUR: "seg"},
        columns=("subject_id", "idh"),
        example="BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz",
        recent=True,
    ),
    "upenn-gbm": Layout(
        name="upenn-gbm",
        exam=r"UPENN-GBM-(?P<patient>\d+)(?:_(?P<time>\d{2}))?",
        patient="UPENN-GBM-{:05d}",
        words={"FLAIR": "FLAIR", "T1": "T1", "T1Gd": "T1GD", "T2": "T2", TUMOUR: "segm|automated_approx_segm"},
        columns=("ID", "IDH1"),
        example="images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_FLAIR.nii.gz",
        subfolders=("images_structural", "images_segm", "automated_segm"),
        baseline=11,
        mutations=True,
    ),
}
LAYOUTS = tuple(_NAMED)


def layout_of(name: str) -> Layout:
    """Layout by the word for ``--source``.

    Raises:
        ValueError: unknown word; the message lists the choices.
    """
    if name not in _NAMED:
        raise ValueError(f"Unknown source {name!r}: expected 'folder' or one of {', '.join(LAYOUTS)}.")
    return _NAMED[name]


@dataclass(frozen=True)
class Exam:
    """One scan of one patient, as found.

    Attributes:
        patient: as in `Layout.patient`.
        time: number of the follow-up; `Layout.baseline` for the first scan.
        label: the folder's name.
        files: (role, path) of every file that claims a role, ascending; of ``_bias`` pairs only the corrected one.
    """

    patient: str
    time: int
    label: str
    files: tuple[tuple[str, str], ...]

    @property
    def fault(self) -> str | None:
        """Why the exam cannot be used, by its file names alone."""
        roles = [role for role, _ in self.files]
        if missing := [role for role in ROLES if role not in roles]:
            return f"lacks {', '.join(missing)}: expected one file of each of {', '.join(ROLES)}"
        for role in ROLES:
            if roles.count(role) > 1:
                names = " and ".join(Path(path).name for found, path in self.files if found == role)
                return f"has {role} {roles.count(role)} times ({names}): expected one; move the others"
        return None


def find_exams(layout: Layout, root: str | Path) -> list[Exam]:
    """Exams below a folder: the folder of one, of many, or one level above.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none in the layout.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root}: expected the folder of {layout.name} as downloaded.")
    folders = _structural(layout, root.resolve())
    if not folders:
        raise ValueError(f"No {layout.name} exam in {root}: expected files such as {layout.example}.")
    segmentations = _segmentations(layout, folders[0].parent.parent) if layout.subfolders else {}
    exams = []
    for folder in folders:
        patient, time = layout.parse(folder.name)
        files = _files(layout, folder, (patient, time))
        if TUMOUR not in dict(files) and (path := segmentations.get((patient, time))):
            files.append((TUMOUR, path))
        exams.append(Exam(patient, time, folder.name, tuple(files)))
    return exams


def _structural(layout: Layout, root: Path) -> list[Path]:
    """Folders of exams: root itself, or those in it, or one or two levels deeper."""
    if layout.parse(root.name) and any(layout.parse_file(path.name) for path in root.iterdir()):
        return [root]
    for depth in ("*", "*/*", "*/*/*"):
        found = [p for p in sorted(root.glob(depth)) if layout.parse(p.name) and p.is_dir()]
        if layout.subfolders:
            found = [p for p in found if p.parent.name == layout.subfolders[0]]
        if found:
            return found
    return []


def _files(layout: Layout, folder: Path, exam: tuple[str, int]) -> list[tuple[str, str]]:
    """(role, path) in a folder; digits may be padded otherwise than in the folder's name."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.iterdir()):
        named = layout.parse_file(path.name)
        if named and named[:2] == exam and path.is_file():
            found.setdefault(named[2:], []).append(str(path))
    return [
        (role, path)
        for (role, rest), paths in found.items()
        for path in paths
        if rest or (role, "_bias") not in found  # the corrected twin of a file replaces it
    ]


def _segmentations(layout: Layout, base: Path) -> dict[tuple[str, int], str]:
    """Segmentations that stand apart from the images, by exam."""
    found: dict[tuple[str, int], str] = {}
    for name in layout.subfolders[1:]:
        for path in sorted((base / name).glob("*.nii*")):
            named = layout.parse_file(path.name)
            if named and named[2] == TUMOUR:
                found.setdefault(named[:2], str(path))
    return found
