"""Mock public cohorts on disk: the layouts and their quirks, volumes of 84 x 84 x 12 voxels made in milliseconds."""

import os
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (84, 84, 12)
LOOKS = 7  # different volumes per modality; patients share them by hard links, so that 495 cost no disk
LEVELS = {"FLAIR": 60, "T1": 110, "T1Gd": 130, "T2": 80}
NAMES = {  # role -> end of the file's name
    "ucsf-pdgm": {"FLAIR": "_FLAIR", "T1": "_T1", "T1Gd": "_T1c", "T2": "_T2", "tumour": "_tumor_segmentation"},
    "brats-2021": {"FLAIR": "_flair", "T1": "_t1", "T1Gd": "_t1ce", "T2": "_t2", "tumour": "_seg"},
    "brats-2023": {"FLAIR": "-t2f", "T1": "-t1n", "T1Gd": "-t1c", "T2": "-t2w", "tumour": "-seg"},
    "upenn-gbm": {"FLAIR": "_FLAIR", "T1": "_T1", "T1Gd": "_T1GD", "T2": "_T2", "tumour": "_segm"},
}


@cache
def arrays(look: int, enhancing: int) -> dict[str, np.ndarray]:
    """int16 volumes and label map: necrosis 1, oedema 2, ``enhancing`` the number of the enhancing rim."""
    rng = np.random.default_rng(look)
    x, y, _ = np.ogrid[tuple(slice(n) for n in SHAPE)]
    head = ((x - 42) ** 2 + (y - 42) ** 2 <= 38**2) & np.ones(SHAPE, bool)
    distance = np.hypot(x - 55, y - 50 + look) + np.zeros(SHAPE)
    labels = np.select([distance < 3, distance < 6, distance < 10], [1, enhancing, 2], 0).astype(np.uint8)
    texture = {name: 1 + 0.1 * rng.standard_normal(SHAPE) for name in LEVELS}
    images = {
        name: (10 * level * texture[name] * (1 + 0.6 * (labels > 0)) * head).astype(np.int16)
        for name, level in LEVELS.items()
    }
    return {**images, "tumour": labels}


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def add_exam(root: Path, source: str, exam: str, look: int = 0, files: str | None = None) -> Path:
    """Write one exam as ``source`` has it; ``files``: what the files call the exam, where the folder says otherwise."""
    upenn = source == "upenn-gbm"
    folder = root / "images_structural" / exam if upenn else root / f"{exam}{'_nifti' * (source == 'ucsf-pdgm')}"
    store = root.parent / f".volumes-{source}"
    for role, data in arrays(look % LOOKS, 3 if source == "brats-2023" else 4).items():
        original = store / f"{look % LOOKS}{NAMES[source][role]}.nii.gz"
        if not original.exists():
            save(original, data)
        target = root / "images_segm" if upenn and role == "tumour" else folder
        target.mkdir(parents=True, exist_ok=True)
        os.link(original, target / f"{files or exam}{NAMES[source][role]}.nii.gz")
    return folder


def ucsf_tree(root: Path, patients: int = 495, rows: int = 501, wild_rows: int = 398) -> Path:
    """UCSF-PDGM in small: ``rows`` exams and rows of ``patients`` patients, 4 digits on disk and 3 in the table.

    The last ``rows - patients`` rows are follow-ups of the first patients. Returns the table.
    """
    lines = ["ID,Sex,IDH,1p/19q"]
    follow_ups = rows - patients
    for number in range(1, rows + 1):
        patient = number if number <= patients else number - patients
        time = "" if number <= patients else f"_FU{patient + 2:03d}d"
        # both types have follow-ups: odd patients of the first `follow_ups` are wild, even ones mutant
        wild = patient % 2 == 1 if patient <= follow_ups else None
        if wild is None:
            fixed_wild = 2 * sum(p % 2 == 1 for p in range(1, follow_ups + 1))
            wild = patient - follow_ups <= wild_rows - fixed_wild
        mutation = ("IDH1 p.R132H", "mutated (NOS)", "IDH2 p.Arg172Lys")[patient % 3]
        lines.append(f"UCSF-PDGM-{patient:03d}{time},M,{'wildtype' if wild else mutation},unknown")
        add_exam(root, "ucsf-pdgm", f"UCSF-PDGM-{patient:04d}{time}", look=number)
    table = root.parent / "UCSF-PDGM-metadata_v2.csv"
    table.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return table
