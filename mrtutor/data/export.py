"""Saving generated slices so that the file itself says what it is: synthetic, not for diagnosis."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from mrtutor.data.prepare import CROP
from mrtutor.data.structure import SIZE
from mrtutor.files import atomic_path

NOTICE = "synthetic image; not for diagnosis"
PIXEL_MM = CROP / SIZE  # 224 mm shown by 256 pixels


def save_png(image: np.ndarray | Tensor, path: str | Path, notice: str = NOTICE, **text: str) -> Path:
    """Write a slice as an 8-bit PNG with text chunks.

    Args:
        image: (H, W), floats in [0, 1] or uint8 in 0…255.
        path: ends in ``.png``.
        notice: text of the chunk "Description".
        text: further text chunks, for example ``Prompt="A T1 …"``.

    Raises:
        ValueError: wrong shape, type, range or name.
        OSError: no permission or a full disk; nothing is left half-written.
    """
    path = _named(path, ".png")
    info = PngImagePlugin.PngInfo()
    for key, value in {"Description": notice, **text}.items():
        info.add_itxt(key, value)
    picture = Image.fromarray(_as_uint8(image))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
    return path


def save_nifti_slice(image: np.ndarray | Tensor, path: str | Path, notice: str = NOTICE) -> Path:
    """Write a 256 x 256 slice as a NIfTI volume of one plane: 0.875 mm pixels, RAS+, values as they are.

    Args:
        image: (256, 256), row 0 anterior, column 0 the patient's right; floats in [0, 1] or uint8.
        path: ends in ``.nii`` or ``.nii.gz``.
        notice: the header's ``descrip``, at most 79 bytes.

    Raises:
        ValueError: wrong shape, type, range, name, or too long a notice.
        OSError: no permission or a full disk; nothing is left half-written.
    """
    path = _named(path, ".nii", ".nii.gz")
    if len(notice.encode()) > 79:
        raise ValueError(f"NIfTI's descrip holds 79 bytes, got {len(notice.encode())}: shorten the notice.")
    values = _as_array(image)
    if values.shape != (SIZE, SIZE):
        raise ValueError(f"Expected a slice of shape ({SIZE}, {SIZE}), got {values.shape}: save one slice per file.")
    _as_uint8(values)  # the same checks of type and range
    volume = np.ascontiguousarray(values.T[::-1, ::-1])[..., None]
    nifti = nib.Nifti1Image(volume, np.diag([PIXEL_MM, PIXEL_MM, 1.0, 1.0]))
    nifti.header["descrip"] = notice.encode()
    nifti.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(nifti, temporary)
    return path


def _named(path: str | Path, *endings: str) -> Path:
    path = Path(path)
    if not path.name.lower().endswith(endings):
        raise ValueError(f"Expected a file name that ends in {' or '.join(endings)}, got {path.name!r}: rename it.")
    return path


def _as_array(image: np.ndarray | Tensor) -> np.ndarray:
    values = image.detach().float().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    return values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values


def _as_uint8(image: np.ndarray | Tensor) -> np.ndarray:
    values = _as_array(image)
    if values.ndim != 2:
        raise ValueError(f"Expected one slice (H, W), got shape {values.shape}: save one slice per file.")
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"Expected floats in [0, 1] or uint8, got {values.dtype}: convert the slice first.")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueError(f"Expected finite floats in [0, 1], got {values.min():g}…{values.max():g}: clip the slice.")
    return np.round(values * 255).astype(np.uint8)
