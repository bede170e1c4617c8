"""Small synthetic subjects and cases: ellipsoid brains with a spherical tumour, made in milliseconds."""

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

SHAPE = (110, 130, 60)
REAL = Path(os.environ.get("MRTUTOR_REAL_DATA", Path(__file__).resolve().parents[2] / "shared/data/nifti"))
needs_real_cases = pytest.mark.skipif(not REAL.is_dir(), reason=f"the two real cases are not in {REAL}")
BRIGHTNESS = {"FLAIR": 60.0, "T1": 110.0, "T1Gd": 130.0, "T2": 80.0}


def ball(radii: tuple[float, float, float], centre: tuple[float, float, float]) -> np.ndarray:
    """(X, Y, Z) bool on the grid of `SHAPE`."""
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def tiny_subject(number: int = 0, idh: str = "wild", brain: bool = True, radius: float = 14) -> tio.Subject:
    """Brain of 76 x 96 x 52 mm; tumour in the right anterior quarter; texture from ``number``."""
    rng = np.random.default_rng(number)
    head, lesion = ball((38, 48, 26), (55, 65, 30)), ball((radius,) * 3, (70, 85, 32))
    labels = np.where(lesion, 2, 0)
    labels[ball((radius / 2,) * 3, (70, 85, 32))] = 3
    images = {}
    for name, level in BRIGHTNESS.items():
        volume = level * (1 + 0.1 * rng.standard_normal(SHAPE).astype(np.float32))
        volume[lesion] *= 1.6
        images[name] = tio.ScalarImage(tensor=torch.from_numpy(volume * head)[None].float())
    maps = {"tumour": tio.LabelMap(tensor=torch.from_numpy(labels.astype(np.uint8))[None])}
    if brain:
        maps["brain"] = tio.LabelMap(tensor=torch.from_numpy(head.astype(np.uint8))[None])
    return tio.Subject(subject_id=f"TINY-{number:03d}", idh=idh, phenotype={"age": 40 + number}, **images, **maps)


@dataclass(frozen=True)
class TinyCase:
    """A `mrtutor.data.sources.Case`; ``trouble`` happens while it loads."""

    number: int
    trouble: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.number:03d}"

    @property
    def label(self) -> str:
        return f"tiny case {self.number}"

    def load(self) -> tio.Subject:
        time.sleep(self.seconds)
        if self.trouble == "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.trouble == "bad":
            raise ValueError("this case is bad")
        if self.trouble == "killed":
            os._exit(9)
        subject = tiny_subject(self.number, "mutant" if self.number % 2 else "wild")
        subject["source"] = "test"
        return subject


def write_case(folder: Path, names: dict[str, str] | None = None, subject: tio.Subject | None = None) -> Path:
    """Write a subject's volumes as NIfTI; ``names``: file name by key of the subject."""
    subject = subject or tiny_subject()
    folder.mkdir(parents=True, exist_ok=True)
    default = {key: f"{folder.name}_{key.lower()}.nii.gz" for key in BRIGHTNESS}
    for key, name in (names or {**default, "tumour": f"{folder.name}_seg.nii.gz"}).items():
        nib.save(nib.Nifti1Image(subject[key].data[0].numpy(), subject[key].affine), folder / name)
    return folder
