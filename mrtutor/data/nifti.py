"""Four-sequence cases as NIfTI: BraTS-style folders written, any folder with known suffixes read."""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torchio as tio

from mrtutor.data.volume import check_subject
from mrtutor.files import atomic_path
from mrtutor.vocabulary import IDH, Modality

SIMULATED = "simulated MR image, no patient; not for diagnosis"  # `descrip` of every simulated file
SUFFIXES = {  # lower case, after "_" or "-"; public cohorts and BraTS of every year
    "flair": Modality.FLAIR,
    "t2f": Modality.FLAIR,
    "t1": Modality.T1,
    "t1n": Modality.T1,
    "t1gd": Modality.T1GD,
    "t1ce": Modality.T1GD,
    "t1c": Modality.T1GD,
    "t2": Modality.T2,
    "t2w": Modality.T2,
    "seg": "tumour",
    "seg-auto": "tumour",
}
_NAME = re.compile(rf"[-_]({'|'.join(sorted(SUFFIXES, key=len, reverse=True))})\.nii(?:\.gz)?$", re.IGNORECASE)
_BRATS_NAMES = {Modality.FLAIR: "flair", Modality.T1: "t1", Modality.T1GD: "t1ce", Modality.T2: "t2"}
_TO_BRATS = np.array([0, 1, 2, 4, 1], np.uint8)  # BraTS 2017-2021 joins necrosis and non-enhancing core in 1
_INT16_MAX = 32767


def write_nifti(subject: tio.Subject, folder: str | Path, style: str = "brats") -> Path:
    """Write a simulated subject as a BraTS-style folder.

    Images are int16 with a slope (error below 1/65,000 of the brightest voxel); the label map follows BraTS
    2017-2021: 1 necrosis and non-enhancing solid tumour, 2 oedema, 4 enhancing.

    Args:
        subject: as `mrtutor.data.simulate.simulate_subject` gives it.
        folder: parent folder; ``<id>/<id>_{flair,t1,t1ce,t2,seg}.nii.gz`` is made in it.
        style: "brats", the only one.

    Returns:
        The folder of the subject.

    Raises:
        ValueError: unknown style; a subject that cannot be prepared.
        OSError: no permission or a full disk; no file is left half-written.
    """
    if style != "brats":
        raise ValueError(f"Unknown NIfTI style {style!r}: expected 'brats'.")
    check_subject(subject)
    name = subject["subject_id"]
    target = Path(folder) / name
    for modality, suffix in _BRATS_NAMES.items():
        image = subject[modality]
        data = image.data[0].numpy()
        slope = float(np.abs(data).max()) / _INT16_MAX
        _save(np.round(data / slope).astype(np.int16), image.affine, slope, target / f"{name}_{suffix}.nii.gz")
    labels = _TO_BRATS[subject["tumour"].data[0].numpy().astype(np.uint8)]
    _save(labels, subject["tumour"].affine, 1.0, target / f"{name}_seg.nii.gz")
    return target


def _save(data: np.ndarray, affine: np.ndarray, slope: float, path: Path) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = SIMULATED.encode()
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def read_folder(folder: str | Path, idh: IDH | str | None = None) -> tio.Subject:
    """Read a case of four NIfTI whose names end in a known suffix, and its segmentation where there is one.

    Suffixes, after "_" or "-", in any case, ``.nii`` or ``.nii.gz``: flair, t2f; t1, t1n; t1Gd, t1ce, t1c; t2, t2w;
    seg, seg-auto. Labels become ours (`mrtutor.data.volume.TUMOUR_LABELS`): see `map_labels`.

    Args:
        folder: the folder of one case.
        idh: its IDH type where known.

    Returns:
        Subject with FLAIR, T1, T1Gd, T2 and, where present, ``tumour``; ``subject_id`` is the folder's name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a modality is missing or doubled; a file is 2-D, unreadable, NaN or constant; grids differ.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}: expected the folder of one case with four NIfTI files.")
    files = find_files(folder)
    recent = bool(re.search(r"[-_](t2f|t1n)\.nii", files[Modality.FLAIR].name.lower()))
    return read_files(files, folder.resolve().name, idh, recent=recent)


def read_files(
    files: Mapping[str, str | Path],
    subject_id: str,
    idh: IDH | str | None = None,
    source: str = "real",
    recent: bool = False,
) -> tio.Subject:
    """Read the files of one case.

    Args:
        files: paths by modality and, where there is one, ``tumour``.
        subject_id: name of the patient.
        idh: its IDH type where known.
        source: name of the cohort.
        recent: labels are numbered as in BraTS 2023 and later, see `map_labels`.

    Returns:
        Subject with FLAIR, T1, T1Gd, T2 and, where given, ``tumour``.

    Raises:
        ValueError: a file is 2-D, unreadable, NaN or constant; grids differ; unknown labels.
    """
    images = {m: tio.ScalarImage(tensor=d[None], affine=a) for m in Modality for d, a in [_load(Path(files[m]))]}
    if "tumour" in files:
        path = Path(files["tumour"])
        data, affine = _load(path)
        images["tumour"] = tio.LabelMap(tensor=map_labels(data, recent, path.name)[None], affine=affine)
    known = {} if idh is None else {"idh": str(IDH(idh))}
    subject = tio.Subject(**images, **known, subject_id=subject_id, source=source)
    check_subject(subject)
    return subject


def find_files(folder: Path) -> dict[str, Path]:
    """Files of a case by modality (and ``tumour``).

    Raises:
        ValueError: a modality is missing, or two files claim it.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _NAME.search(path.name)):
            found.setdefault(SUFFIXES[match[1].lower()], []).append(path)
    missing = [m for m in Modality if m not in found]
    if missing:
        raise ValueError(
            f"{folder.name} lacks {', '.join(missing)}: expected files that end in one of "
            f"{', '.join('_' + s for s in SUFFIXES)} and .nii or .nii.gz; add or rename the file(s)."
        )
    for what, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(p.name for p in paths)
            raise ValueError(f"{folder.name} has {what} {len(paths)} times ({names}): expected one; move the others.")
    return {what: paths[0] for what, paths in found.items()}


def is_case(folder: Path) -> bool:
    """Whether a folder holds at least one file with a known suffix."""
    return any(_NAME.search(p.name) for p in folder.iterdir() if p.is_file())


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) float32 and affine of a NIfTI file."""
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj, dtype=np.float32)
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise ValueError(f"Cannot read {path.name} as NIfTI ({error}): the file is truncated or no NIfTI.") from error
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3 or min(data.shape) < 2:
        raise ValueError(f"{path.name} has shape {data.shape}: expected a 3-D volume; give the whole series.")
    return data, image.affine


def map_labels(data: np.ndarray, recent: bool, name: str = "The segmentation") -> np.ndarray:
    """Label numbers of the public cohorts to ours: 1 necrosis, 2 oedema, 3 enhancing, 4 non-enhancing solid.

    BraTS 2017-2021 has 1, 2 and 4 = enhancing; BraTS 2012-2016 also 3 = non-enhancing solid; names of 2023 and later
    (t1n, t2f …) 3 = enhancing, and 4 = resection cavity (2024), which is no tumour. A lone 3 is enhancing.

    Args:
        data: (X, Y, Z) numbers as read.
        recent: whether the files bear the names of BraTS 2023 and later.
        name: what to call the file in an error.

    Returns:
        (X, Y, Z) uint8.

    Raises:
        ValueError: other numbers.
    """
    values = set(np.unique(data).tolist())
    if not values <= {0, 1, 2, 3, 4}:
        raise ValueError(
            f"{name} has labels {sorted(values)[:8]}: expected 0 none, 1 necrosis, 2 oedema, 3 and 4 as in BraTS; "
            "map them first."
        )
    if recent:
        table = [0, 1, 2, 3, 0]
    else:
        table = [0, 1, 2, 4 if 4 in values else 3, 3]
    return np.array(table, np.uint8)[data.astype(np.uint8)]
