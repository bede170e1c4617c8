"""Small real-looking cases on disk: one smooth head in the layouts of the public cohorts, written in milliseconds."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (84, 88, 12)
SEQUENCES = ("FLAIR", "T1", "T1Gd", "T2")
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])  # RAS+
_RECENT = ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")
EXAMS = {  # an exam of each layout, and how its files end
    "folder": ("patient7", ("_flair", "_t1", "_t1gd", "_t2", "_seg")),
    "ucsf-pdgm": ("UCSF-PDGM-0004", ("_FLAIR", "_T1", "_T1c", "_T2", "_tumor_segmentation")),
    "brats-2021": ("BraTS2021_00001", ("_flair", "_t1", "_t1ce", "_t2", "_seg")),
    "brats-2023": ("BraTS-GLI-00001-000", _RECENT),
    "brats-2024": ("BraTS-GLI-00005-100", _RECENT),
    "brats-africa": ("BraTS-SSA-00002-000", _RECENT),
    "upenn-gbm": ("UPENN-GBM-00001_11", ("_FLAIR", "_T1", "_T1GD", "_T2", "_segm")),
    "msd": ("BRATS_001", ()),
}


def volumes() -> dict[str, np.ndarray]:
    """int16 (X, Y, Z) by sequence, and ``tumour`` in our labels: 1 necrosis, 2 oedema, 3 enhancing."""
    rng = np.random.default_rng(0)
    x, y, _ = np.ogrid[tuple(slice(n) for n in SHAPE)]
    head = ((x - 42) ** 2 + (y - 44) ** 2 <= 38**2) & np.ones(SHAPE, bool)
    distance = np.hypot(x - 55, y - 50) + np.zeros(SHAPE)
    tumour = np.select([distance < 3, distance < 6, distance < 12], [1, 3, 2], 0).astype(np.uint8)
    data = {}
    for name, level in zip(SEQUENCES, (600, 1100, 1300, 800), strict=True):
        noise = 1 + 0.1 * rng.standard_normal(SHAPE)
        data[name] = (level * noise * (1 + 0.6 * (tumour > 0)) * head).astype(np.int16)
    return {**data, "tumour": tumour}


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def add_exam(root: Path, source: str = "folder", exam: str | None = None) -> Path:
    """Write one exam as `source` has it on disk; gives its folder (MSD: its images)."""
    first, suffixes = EXAMS[source]
    exam, data = exam or first, volumes()
    if source == "msd":
        save(root / "labelsTr" / f"{exam}.nii.gz", np.array([0, 2, 1, 3], np.uint8)[data["tumour"]])
        return save(root / "imagesTr" / f"{exam}.nii.gz", np.stack([data[name] for name in SEQUENCES], axis=-1))
    if source in ("ucsf-pdgm", "brats-2021", "upenn-gbm"):  # 4 is enhancing
        data["tumour"] = np.where(data["tumour"] == 3, 4, data["tumour"]).astype(np.uint8)
    folder = root / {"ucsf-pdgm": f"{exam}_nifti", "upenn-gbm": f"images_structural/{exam}"}.get(source, exam)
    for (name, voxels), suffix in zip(data.items(), suffixes, strict=True):
        apart = source == "upenn-gbm" and name == "tumour"
        save((root / "images_segm" if apart else folder) / f"{exam}{suffix}.nii.gz", voxels)
    return folder


def add_tif_exam(root: Path, exam: str = "TCGA_CS_4941_19960909", missing: str = "") -> Path:
    """Write one exam of kaggle_3m; the channel of a missing sequence copies FLAIR."""
    data, folder = volumes(), root / exam
    folder.mkdir(parents=True)
    if missing:
        data[missing] = data["FLAIR"]
    for z in range(SHAPE[2]):
        planes = [np.clip(data[name][::-1, ::-1, z].T / 16, 0, 255) for name in ("T1", "FLAIR", "T1Gd")]
        mask = np.where(data["tumour"][::-1, ::-1, z].T > 0, 255, 0)
        Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).save(folder / f"{exam}_{z + 1}.tif")
        Image.fromarray(mask.astype(np.uint8)).save(folder / f"{exam}_{z + 1}_mask.tif")
    return folder
