"""Structure maps: Canny edges of a slice, and the check every map passes before it guides a model.

Source: Kim et al., WACV 2024, §3.2 (structure = binary edges) and §4.1 (Canny, minimum 100, maximum 200).
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

CANNY_LOW = 100  # §4.1
CANNY_HIGH = 200  # §4.1
SIZE = 256  # pixels per side of every slice and structure


def canny(image: np.ndarray | Tensor, low: int = CANNY_LOW, high: int = CANNY_HIGH) -> np.ndarray:
    """Canny edges of one slice.

    Args:
        image: (H, W), uint8 in 0…255 or floating point in [0, 1].
        low: gradient below which nothing is an edge, on the 0…255 scale.
        high: gradient above which everything is an edge, on the 0…255 scale.

    Returns:
        (H, W) uint8, 0 or 255.

    Raises:
        ValueError: wrong shape, type or range, NaN, or low > high.
    """
    image = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"Expected one slice (H, W), got shape {image.shape}: pick one modality and one slice.")
    if low > high:
        raise ValueError(f"Expected low <= high, got {low} > {high}: swap the two Canny thresholds.")
    if image.dtype == np.uint8:
        return cv2.Canny(np.ascontiguousarray(image), low, high)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"Expected uint8 in 0…255 or floats in [0, 1], got {image.dtype}: convert the slice first.")
    if not np.isfinite(image).all():
        raise ValueError("Expected finite values, got NaN or infinity in the slice: repair the image first.")
    if image.size and (image.min() < 0 or image.max() > 1):
        raise ValueError(f"Expected floats in [0, 1], got {image.min():.3g}…{image.max():.3g}: scale the slice first.")
    return cv2.Canny(np.round(image * 255).astype(np.uint8), low, high)


def validate_structure(structure: np.ndarray | Tensor | Image.Image | str | Path) -> Tensor:
    """Turn a structure map of any usual form into what the models take.

    Args:
        structure: (256, 256), (1, 256, 256), (B, 256, 256) or (B, 1, 256, 256); bool, uint8 of 0 and 1 or of
            0 and 255, or floats of 0 and 1; a PIL image of that size, or the path of an image file.

    Returns:
        (B, 1, 256, 256) float32 of 0 and 1.

    Raises:
        FileNotFoundError: no file at the path.
        ValueError: not an image file; wrong shape, type or range; NaN; a map without any edge.
    """
    values = _as_array(structure)
    shape = values.shape
    if values.ndim == 4 and shape[1] == 1:
        values = values[:, 0]
    elif values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[0] == 0 or values.shape[1:] != (SIZE, SIZE):
        raise ValueError(
            f"Expected a structure map of shape ({SIZE}, {SIZE}) or (B, 1, {SIZE}, {SIZE}), got {shape}: "
            "resize it with nearest-neighbour interpolation, or prepare it with mrtutor.data.prepare."
        )
    edges = _as_binary(values)
    empty = [i for i, one in enumerate(edges) if not one.any()]
    if empty:
        which = (
            "The structure map" if len(edges) == 1 else f"Structure map(s) {', '.join(map(str, empty))} of the batch"
        )
        raise ValueError(f"{which} is all empty: expected some edge pixels; draw some, or lower the Canny thresholds.")
    return torch.from_numpy(edges.astype(np.float32))[:, None]


def _as_array(structure: object) -> np.ndarray:
    if isinstance(structure, str | Path):
        structure = _open_image(Path(structure))
    if isinstance(structure, Image.Image):
        return _from_pil(structure)
    if isinstance(structure, Tensor):
        structure = structure.detach().cpu()
        return (structure.float() if structure.dtype == torch.bfloat16 else structure).numpy()
    if isinstance(structure, np.ndarray):
        return structure
    raise ValueError(
        f"Expected a structure map as array, tensor, PIL image or path, got {type(structure).__name__}: "
        "make one with mrtutor.data.structure.canny."
    )


def _open_image(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(
            f"No structure map at {path}: expected an image file, {SIZE} x {SIZE}, black and white."
        )
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError) as error:
        raise ValueError(f"Cannot read {path} as an image ({error}): expected a whole PNG file.") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    """Grey values of a picture; a colour picture passes only if it is grey and opaque."""
    if image.mode in ("1", "L"):
        return np.asarray(image)
    rgba = np.asarray(image.convert("RGBA"))
    if not (rgba[..., :3] == rgba[..., :1]).all() or not (rgba[..., 3] == 255).all():
        raise ValueError(
            f"Expected a black-and-white structure map, got a coloured or transparent {image.mode} picture: "
            "save it in greyscale, edges white on black."
        )
    return rgba[..., 0]


def _as_binary(values: np.ndarray) -> np.ndarray:
    """Values of an accepted type and range as bool."""
    if values.dtype == bool:
        return values
    if values.dtype == np.uint8:
        choices: tuple[int, ...] = (0, 255) if values.max(initial=0) > 1 else (0, 1)
    elif np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError("Expected finite values, got NaN or infinity in the structure map: repair the map first.")
        choices = (0, 1)
    else:
        raise ValueError(
            f"Expected a structure map of bool, uint8 or floats, got {values.dtype}: convert it with `map > 0`."
        )
    strange = np.setdiff1d(values, choices)
    if strange.size:
        raise ValueError(
            f"Expected a binary structure map of {choices[0]} and {choices[1]} ({values.dtype}), got also "
            f"{', '.join(f'{v:g}' for v in strange[:3])}{', …' if strange.size > 3 else ''}: "
            "threshold it, or take the edges of an image with mrtutor.data.structure.canny."
        )
    return values > 0
