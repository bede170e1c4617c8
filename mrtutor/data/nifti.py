"""Cases as files: BraTS-style folders written; NIfTI and kaggle_3m's TIF read, each file checked and named if refused.

What is read keeps the file's own voxel order and affine; `mrtutor.data.prepare` turns it to RAS+ and checks the voxels.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torchio as tio
from PIL import Image

from mrtutor.data.prepare import check_extent
from mrtutor.files import atomic_path
from mrtutor.vocabulary import FILE_NAMES, Modality

SIMULATED = "simulated MR image, no patient; not for diagnosis"  # `descrip` of every file that is written
TUMOUR = "tumour"
LABEL_CODES = {  # number in the file -> ours (1 necrosis, 2 oedema, 3 enhancing, 4 non-enhancing solid); 0 is none
    "brats-2015": {1: 1, 2: 2, 3: 4, 4: 3},  # BraTS 2012-2016
    "brats-2021": {1: 1, 2: 2, 4: 3},  # BraTS 2017-2021, UCSF-PDGM, UPENN-GBM; 1 joins necrosis and non-enhancing core
    "brats-2023": {1: 1, 2: 2, 3: 3},
    "brats-2024": {1: 1, 2: 2, 3: 3, 4: 0},  # 4 is the resection cavity, no tumour
    "msd": {1: 2, 2: 1, 3: 3},
    "mask": {},  # any number: tumour, its parts unknown
}
WHOLE_TUMOUR = 2  # our number for a tumour of which the file does not tell the parts
KAGGLE_CHANNELS = (Modality.T1, Modality.FLAIR, Modality.T1GD)  # pre-contrast, FLAIR, post-contrast
KAGGLE_VOXEL_MM = (0.94, 0.94, 5.0)  # the TIF have none: 240 mm on 256 px, and the usual 5 mm between planes
_TO_BRATS = np.array([0, 1, 2, 4, 1], np.uint8)  # from our numbers
_CHOICES = " or ".join(LABEL_CODES)
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it prints faults without the file; we raise them


def write_nifti(subject: tio.Subject, folder: str | Path) -> Path:
    """Write a simulated subject as BraTS 2021 does, ``<id>/<id>_{flair,t1,t1ce,t2,seg}.nii.gz``; gives its folder.

    Images are int16 with a slope; labels: 1 necrosis and non-enhancing solid tumour, 2 oedema, 4 enhancing.
    """
    name = subject["subject_id"]
    target = Path(folder) / name
    suffixes = {modality: names[0] for modality, names in FILE_NAMES.items() if modality in subject} | {TUMOUR: "seg"}
    for role, suffix in suffixes.items():
        data, slope = subject[role].data[0].numpy(), 1.0
        if role == TUMOUR:
            data = _TO_BRATS[data.astype(np.uint8)]
        else:
            slope = float(np.abs(data).max()) / np.iinfo(np.int16).max
            data = np.round(data / slope).astype(np.int16)
        image = nib.Nifti1Image(data, subject[role].affine)
        image.header.set_slope_inter(slope, 0)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = SIMULATED.encode()
        with atomic_path(target / f"{name}_{suffix}.nii.gz") as temporary:
            nib.save(image, temporary)
    return target


def read_case(files: Mapping[str, tuple[str, int | None]], label_codes: str | None = None) -> tio.Subject:
    """Read the NIfTI of one case; ValueError names the file and why it cannot be used.

    Args:
        files: (path, number of the volume in a 4-D file or None) by sequence, and by ``tumour`` where there is one.

    Returns:
        Subject with float32 images; ``tumour`` numbered as in `map_labels`; ``skull`` (False); ``regions`` (whether the
        segmentation tells the parts of the tumour); ``notes`` (sentences on how something was read).
    """
    images: dict[str, tio.Image] = {}
    about: dict[str, object] = {"skull": False, "regions": True, "notes": []}
    for role, (path, volume) in files.items():
        data, affine = _read_nifti(Path(path), volume)
        if role == TUMOUR:
            recent = any(re.search(r"[-_](t2f|t1n|t1c|t2w)\.nii", str(other).lower()) for other, _ in files.values())
            labels, about["regions"], about["notes"] = map_labels(data, label_codes, recent, Path(path).name)
            images[role] = tio.LabelMap(tensor=labels[None], affine=affine)
        else:
            images[role] = tio.ScalarImage(tensor=data[None], affine=affine)
    return tio.Subject(**images, **about)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever a damaged, missing or forbidden file makes a library raise, it must cost its own case only."""
    try:
        yield
    except Exception as error:
        reason = str(error).split("\n")[0].strip() or type(error).__name__
        raise ValueError(f"Cannot read {name} ({reason}), expected a whole image: download it again.") from error


def _read_nifti(path: Path, volume: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) float32, scaled as the header says, and the affine; the header is checked before a voxel is read."""
    name = path.name
    with _reading(name):
        if not path.is_file():
            raise FileNotFoundError("it is a folder" if path.is_dir() else "it is a link that leads nowhere")
        image = nib.load(path)
    shape, header, affine = image.shape, image.header, image.affine
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{name} holds colours or complex numbers, expected one grey value a voxel: export it again.")
    count = 1 if volume is None else 4
    if len(shape) < 3 or min(shape[:3]) < 2 or np.prod(shape[3:], dtype=int) != count:
        raise ValueError(f"{name} has shape {shape}, expected {count} 3-D volume(s): export whole series.")
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ValueError(f"{name} measures in {unit}, expected mm: correct unit and voxel size in its header.")
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise ValueError(f"{name} has no sform or qform, expected one: left and right are unknown; convert it again.")
    with np.errstate(invalid="ignore"):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not np.allclose(axes.T @ axes, np.eye(3), atol=0.01):
        raise ValueError(f"{name} has a sheared, 0 or NaN affine, expected axes at right angles: resample it so.")
    check_extent(shape[:3], affine, name)
    with _reading(name):
        voxels = image.dataobj if volume is None else image.dataobj[..., volume]
        return np.asanyarray(voxels, dtype=np.float32).reshape(shape[:3]), affine


def map_labels(data: np.ndarray, codes: str | None, recent: bool, name: str) -> tuple[np.ndarray, bool, list[str]]:
    """Numbers of a public segmentation (X, Y, Z) to ours: 1 necrosis, 2 oedema, 3 enhancing, 4 non-enhancing solid.

    Args:
        codes: key of `LABEL_CODES`; None reads it off the numbers, and refuses where that is a guess.
        recent: whether the files have the names of BraTS 2023 and later (t1n, t2f …), where a 4 may be the cavity.

    Returns:
        uint8 labels; whether the parts of the tumour are told apart; sentences on how it was read.
    """
    found = set(np.unique(data[data != 0]).tolist())
    codes = codes or _guess_codes(found, recent)
    if codes == "mask":
        note = f"{name} read as a mask of the whole tumour, its parts unknown"
        return np.where(data != 0, WHOLE_TUMOUR, 0).astype(np.uint8), False, [note]
    if codes is None or not found <= set(LABEL_CODES[codes]):
        values = ", ".join(f"{value:g}" for value in sorted(found)[:8])
        expected = f"those of {codes}" if codes else "numbers with one meaning"
        raise ValueError(f"{name} has labels {values}, expected {expected}: set --label-codes to {_CHOICES}.")
    table = LABEL_CODES[codes]
    labels = np.select([data == number for number in table], list(table.values())).astype(np.uint8)
    note = f"label 4 of {name} read as BraTS 2024's resection cavity and left out of the tumour"
    return labels, True, [note] if codes == "brats-2024" and 4 in found else []


def _guess_codes(values: set[float], recent: bool) -> str | None:
    """Key of `LABEL_CODES`, or None where the numbers can mean two things."""
    if values in ({1}, {255}):
        return "mask"
    if 4 not in values:
        return "brats-2023"
    if 3 in values:
        return "brats-2024" if recent else None
    return None if recent else "brats-2021"


def read_tif_case(paths: Iterable[str]) -> tio.Subject:
    """Read a case of kaggle_3m (TCGA-LGG): ``<name>_<number>.tif`` and ``<name>_<number>_mask.tif`` for every plane.

    Channels: pre-contrast T1, FLAIR, T1Gd; one that copies FLAIR is a missing sequence. There is no T2. Planes are
    numbered upwards, row 0 is anterior, column 0 the patient's right. The mask is the abnormality of FLAIR, whole.
    Source: Buda et al., Computers in Biology and Medicine 2019, and the data set's README. See `read_case`.
    """
    pictures = sorted(path.removesuffix(".tif") for path in paths if not path.endswith("_mask.tif"))
    pictures.sort(key=lambda path: int(path.rpartition("_")[2]))
    planes, masks = [], []
    for picture in pictures:
        plane, mask = _read_tif(f"{picture}.tif"), _read_tif(f"{picture}_mask.tif")
        planes.append(plane)
        masks.append(mask)
        if plane.shape != (*masks[0].shape, 3) or mask.shape != masks[0].shape:
            name, got = Path(picture).name, f"{plane.shape} and {mask.shape}"
            raise ValueError(f"{name} and its mask are {got}, expected all of one size: download them again.")
    colours = np.stack(planes).transpose(2, 1, 0, 3).astype(np.float32)  # to X, Y, Z, channel
    tumour = np.where(np.stack(masks).transpose(2, 1, 0) > 0, WHOLE_TUMOUR, 0).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([*KAGGLE_VOXEL_MM, 1.0])  # columns to the left, rows backwards
    notes = [f"read with voxels of {' x '.join(map(str, KAGGLE_VOXEL_MM))} mm, as TIF have no voxel size"]
    images: dict[str, tio.Image] = {TUMOUR: tio.LabelMap(tensor=tumour[None], affine=affine)}
    for channel, modality in enumerate(KAGGLE_CHANNELS):
        if modality != Modality.FLAIR and np.array_equal(colours[..., channel], colours[..., 1]):
            notes.append(f"{modality} copies FLAIR, so it is missing")
        else:
            images[modality] = tio.ScalarImage(tensor=colours[None, ..., channel], affine=affine)
    return tio.Subject(**images, skull=True, regions=False, notes=notes)


def _read_tif(path: str) -> np.ndarray:
    with _reading(Path(path).name), Image.open(path) as image:
        return np.asarray(image)
