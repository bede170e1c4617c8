"""One grid for every volume: checks, RAS+ orientation, 1 mm voxels, a brain mask.

The same code path takes simulated and real subjects. Axes: X towards the patient's right, Y anterior, Z superior.
"""

from dataclasses import dataclass

import numpy as np
import torchio as tio
from scipy import ndimage

from mrtutor.vocabulary import Modality

SPACING_MM = 1.0  # grid of preparation, as in BraTS and in the simulator
SPACING_TOLERANCE = 1e-3  # a grid closer than this to 1 mm is not resampled
GRID_TOLERANCE_MM = 1e-2  # two affines closer than this are one grid (headers are float32)
BRAIN_TOLERANCE = 0.01  # |x| above this share of the modality's 99.5th percentile is signal …
BRAIN_VOTES = 2  # … in at least this many modalities: brain (fluid is dark in FLAIR and in T1)
TUMOUR_LABELS = {0: "none", 1: "necrosis", 2: "oedema", 3: "enhancing", 4: "non-enhancing solid"}


@dataclass(frozen=True)
class Volume:
    """A subject on the grid of preparation.

    Attributes:
        images: (4, X, Y, Z) float32, arbitrary units, in the order of `Modality`.
        tumour: (X, Y, Z) uint8, labels of `TUMOUR_LABELS`; None where the subject has no label map.
        brain: (X, Y, Z) bool.
        affine: (4, 4) voxel to world in mm, RAS+.
    """

    images: np.ndarray
    tumour: np.ndarray | None
    brain: np.ndarray
    affine: np.ndarray

    def z_mm(self, index: int) -> float:
        """World height in mm of axial slice ``index``, at the centre of its plane."""
        x, y = self.brain.shape[:2]
        return float(self.affine[2] @ [(x - 1) / 2, (y - 1) / 2, index, 1.0])


def check_subject(subject: tio.Subject) -> None:
    """Refuse a subject that cannot be prepared.

    Raises:
        ValueError: a modality is missing; a volume is 2-D, has several channels, NaN or is constant; grids differ;
            an unknown tumour label.
    """
    who = subject.get("subject_id", "subject")
    missing = [m for m in Modality if m not in subject]
    if missing:
        raise ValueError(f"{who} lacks {', '.join(missing)}: expected all of {', '.join(Modality)}; add the file(s).")
    for name in Modality:
        _check_image(f"{who} {name}", subject[name].data.numpy())
    reference = subject[Modality.FLAIR]
    for name in [*Modality, "tumour", "brain"]:
        if name in subject:
            _check_grid(f"{who} {name}", subject[name], reference)
    if "tumour" in subject:
        labels = subject["tumour"].data.numpy()
        strange = np.unique(labels[~np.isin(labels, list(TUMOUR_LABELS))])[:8].tolist()
        if strange:
            known = ", ".join(f"{k} {v}" for k, v in TUMOUR_LABELS.items())
            raise ValueError(f"{who} tumour has unknown label(s) {strange}: expected {known}; map them first.")


def _check_image(name: str, data: np.ndarray) -> None:
    """One image, (1, X, Y, Z)."""
    if data.shape[0] != 1:
        raise ValueError(f"{name} has {data.shape[0]} channels: expected one 3-D volume; split the series first.")
    if min(data.shape[1:]) < 2:
        raise ValueError(f"{name} is 2-D (grid {data.shape[1:]}): expected a 3-D volume; give the whole series.")
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise ValueError(f"{name} has {count} NaN or infinite voxel(s): expected finite values; repair the file.")
    if data.min() == data.max():
        raise ValueError(f"{name} is constant ({data.min():g} everywhere): expected an image; check the export.")


def _check_grid(name: str, image: tio.Image, reference: tio.Image) -> None:
    same = image.spatial_shape == reference.spatial_shape
    if not same or not np.allclose(image.affine, reference.affine, atol=GRID_TOLERANCE_MM):
        raise ValueError(
            f"{name} lies on another grid than {Modality.FLAIR}: {image.spatial_shape} at "
            f"{_origin(image)} mm against {reference.spatial_shape} at {_origin(reference)} mm; "
            "register and resample the sequences of a patient onto one grid first."
        )


def _origin(image: tio.Image) -> tuple[float, ...]:
    return tuple(round(float(v), 2) for v in image.affine[:3, 3])


def to_volume(subject: tio.Subject) -> Volume:
    """Check a subject and put it on the grid of preparation: RAS+, 1 mm, with a brain mask.

    Args:
        subject: images FLAIR, T1, T1Gd, T2; label maps ``tumour`` and ``brain`` where known.

    Raises:
        ValueError: as `check_subject`; or no brain is found.
    """
    check_subject(subject)
    keys = [*Modality, *(k for k in ("tumour", "brain") if k in subject)]
    subject = tio.ToCanonical()(tio.Subject({k: subject[k] for k in keys}))
    if not np.allclose(subject[Modality.FLAIR].spacing, SPACING_MM, atol=SPACING_TOLERANCE):
        subject = tio.Resample(SPACING_MM)(subject)  # label maps by nearest neighbour
    images = np.concatenate([subject[m].data.numpy() for m in Modality]).astype(np.float32, copy=False)
    tumour = subject["tumour"].data.numpy()[0].astype(np.uint8) if "tumour" in subject else None
    brain = subject["brain"].data.numpy()[0] > 0 if "brain" in subject else find_brain(images)
    if not brain.any():
        raise ValueError("The brain mask is empty: expected a skull-stripped head with signal inside a brain.")
    return Volume(images, tumour, brain, subject[Modality.FLAIR].affine)


def find_brain(images: np.ndarray) -> np.ndarray:
    """Brain of a skull-stripped case that comes without a mask.

    Interpolation leaves small negative values inside a brain, so signal is |x| > tolerance, not x > 0.

    Args:
        images: (4, X, Y, Z), background 0.

    Returns:
        (X, Y, Z) bool: the largest connected piece of signal, its holes filled slice by slice.
    """
    votes = np.zeros(images.shape[1:], np.uint8)
    for image in images:
        magnitude = np.abs(image)
        signal = magnitude[magnitude > 0]
        votes += magnitude > BRAIN_TOLERANCE * np.percentile(signal, 99.5)
    pieces, count = ndimage.label(votes >= BRAIN_VOTES)
    if count == 0:
        return np.zeros(images.shape[1:], bool)
    brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    for z in range(brain.shape[2]):
        brain[:, :, z] = ndimage.binary_fill_holes(brain[:, :, z])
    return brain
