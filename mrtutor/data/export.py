"""Saving generated slices so that the file itself says what it is: synthetic, not for diagnosis."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from mrtutor.data.structure import PIXEL_MM
from mrtutor.files import atomic_path

NOTICE = "synthetic image; not for diagnosis"


def save_png(image: np.ndarray | Tensor, path: str | Path, **text: str) -> Path:
    """Write a slice (H, W), floats in [0, 1] or uint8, as an 8-bit PNG.

    Its text chunk "Description" is `NOTICE`; `text` are further ones, for example ``Prompt="A T1 …"``.
    """
    info = PngImagePlugin.PngInfo()
    for key, value in {"Description": NOTICE, **text}.items():
        info.add_itxt(key, value)
    values = _checked(image)
    grey = values if values.dtype == np.uint8 else np.round(values * 255).astype(np.uint8)
    with atomic_path(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG", pnginfo=info)
    return Path(path)


def save_nifti_slice(image: np.ndarray | Tensor, path: str | Path) -> Path:
    """Write a slice (256, 256), row 0 anterior, column 0 the patient's right, as a NIfTI volume of one plane.

    Pixels of 0.875 mm, RAS+, values as they are, `NOTICE` in the header's ``descrip``.
    """
    volume = np.ascontiguousarray(_checked(image).T[::-1, ::-1])[..., None]
    nifti = nib.Nifti1Image(volume, np.diag([PIXEL_MM, PIXEL_MM, 1.0, 1.0]))
    nifti.header["descrip"] = NOTICE.encode()
    nifti.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(nifti, temporary)
    return Path(path)


def _checked(image: np.ndarray | Tensor) -> np.ndarray:
    values = image.detach().float().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    in_range = values.dtype == np.uint8 or (values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1)
    if values.ndim != 2 or not in_range:  # NaN is not in range
        raise ValueError(f"Expected one slice (H, W), floats in [0, 1] or uint8, got {values.dtype} {values.shape}.")
    return values if values.dtype == np.uint8 else values.astype(np.float32)
