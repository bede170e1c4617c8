"""Edge maps: Canny edges of a slice, the check every map passes before it guides a model, and composing a new one.

Source: Kim et al., WACV 2024, §3.2 (structure = binary edges) and §4.2 (Canny, minimum 100, maximum 200).
Axes: H, W image pixels (256); x runs to the right, y downwards, row 0 is anterior.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

CANNY_LOW, CANNY_HIGH = 100, 200  # §4.2
SIZE = 256  # pixels per side of every slice and edge map
PIXEL_MM = 224 / SIZE  # §4.1: 224 mm shown by 256 pixels
MAX_EDGES = 0.25  # of the pixels; more is no drawing of lines (the edge maps of the examples have 1 to 7 %)
RIM = 6  # pixels from the hull inwards that count as the brain's outline, which no tumour erases
MARGIN = 4  # pixels around a tumour where its own edges lie
_SHIFT = 4  # cv2 draws with 4 bits of sub-pixel precision


def canny(image: np.ndarray | Tensor, low: int = CANNY_LOW, high: int = CANNY_HIGH) -> np.ndarray:
    """Canny edges, (H, W) uint8 of 0 and 255, of one slice (H, W): uint8 in 0…255 or floats in [0, 1].

    Gradients below `low` are no edge, above `high` all are, on the 0…255 scale. ValueError: wrong shape, type or range.
    """
    image = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"Expected one slice (H, W), got shape {image.shape}: pick one modality and one slice.")
    if image.dtype != np.uint8:
        if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= 1):  # NaN as well
            raise ValueError(f"Expected uint8 or floats in [0, 1], got {image.dtype} of other values: scale the slice.")
        image = np.round(image * 255).astype(np.uint8)
    return cv2.Canny(np.ascontiguousarray(image), low, high)


def validate_structure(structure: np.ndarray | Tensor | Image.Image | str | Path) -> Tensor:
    """Turn an edge map of any usual form into what the models take: (B, 1, 256, 256) float32 of 0 and 1.

    It may be (256, 256), (1, 256, 256), (B, 256, 256) or (B, 1, 256, 256); bool, uint8 of 0 and 1 or of 0 and 255, or
    floats of 0 and 1; a greyscale PIL image of that size, or the path of an image file.
    ValueError: not an image; wrong shape, type or range; NaN; no edge at all, or more than a quarter.
    """
    values = _as_array(structure)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or len(values) == 0 or values.shape[1:] != (SIZE, SIZE):
        raise ValueError(
            f"Expected an edge map of shape ({SIZE}, {SIZE}) or (B, 1, {SIZE}, {SIZE}), got {values.shape}: resize it "
            "with nearest-neighbour interpolation."
        )
    top = 255 if values.dtype == np.uint8 and values.max() > 1 else 1
    if values.dtype.kind not in "buf" or not np.isin(values, (0, top)).all():
        raise ValueError(f"Expected a binary edge map of 0 and {top}, got other values ({values.dtype}): threshold it.")
    for number, share in enumerate((values > 0).mean(axis=(1, 2))):
        if share == 0:
            raise ValueError(f"Edge map {number} is all empty: expected some edge pixels; lower the thresholds.")
        if share > MAX_EDGES:
            raise ValueError(
                f"Edge map {number} has {share:.0%} edge pixels, expected thin lines, at most {MAX_EDGES:.0%}: invert "
                "it (edges are white on black), or take the outline of what is filled."
            )
    return torch.from_numpy((values > 0).astype(np.float32))[:, None]


def _as_array(structure: np.ndarray | Tensor | Image.Image | str | Path) -> np.ndarray:
    if isinstance(structure, str | Path):
        if not Path(structure).is_file():
            raise FileNotFoundError(f"No edge map at {structure}: expected an image file, {SIZE} x {SIZE}.")
        try:
            with Image.open(structure) as image:
                structure = image.convert("RGBA")
        except (OSError, SyntaxError) as error:
            raise ValueError(f"Cannot read {structure} as an image ({error}): expected a whole PNG file.") from error
    if isinstance(structure, Image.Image):
        colours = np.asarray(structure.convert("RGBA"))
        if (colours[..., :3] != colours[..., :1]).any() or (colours[..., 3] < 255).any():
            raise ValueError("Expected a black-and-white edge map, got a coloured or transparent picture: convert it.")
        return colours[..., 0]
    if isinstance(structure, Tensor):
        structure = structure.detach().cpu()
        return (structure.float() if structure.is_floating_point() else structure).numpy()
    if not isinstance(structure, np.ndarray):
        raise ValueError(f"Expected an edge map as array, tensor, image or path, got {type(structure).__name__}.")
    return structure


@dataclass(frozen=True)
class Ellipse:
    """A tumour's outline, in pixels."""

    x: float = 96.0  # column of the centre
    y: float = 104.0  # row of the centre
    width: float = 48.0  # full axes before rotation
    height: float = 36.0
    angle: float = 0.0  # rotation in degrees, clockwise as seen on the screen
    core: float = 0.0  # a second, inner line at this share of the axes, as around a necrosis; 0 for none


def ellipse_mask(ellipse: Ellipse) -> np.ndarray:
    """(256, 256) bool, True inside the outline and on it."""
    return _draw(ellipse, 1.0, thickness=-1)


def ellipse_outline(ellipse: Ellipse) -> np.ndarray:
    """(256, 256) bool, one pixel wide; the line around the core as well."""
    outline = _draw(ellipse, 1.0, thickness=1)
    return outline | _draw(ellipse, ellipse.core, thickness=1) if ellipse.core else outline


def _draw(ellipse: Ellipse, share: float, thickness: int) -> np.ndarray:
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    centre = [round(value * 2**_SHIFT) for value in (ellipse.x, ellipse.y)]
    axes = [round(share * value / 2 * 2**_SHIFT) for value in (ellipse.width, ellipse.height)]
    return cv2.ellipse(canvas, centre, axes, ellipse.angle, 0, 360, 255, thickness, cv2.LINE_8, _SHIFT) > 0


def brain_hull(edges: np.ndarray) -> np.ndarray:
    """(256, 256) bool: convex hull of all edges, which on an axial slice is the brain, nearly."""
    points = cv2.findNonZero((edges != 0).astype(np.uint8))
    if points is None or len(points) < 3:
        raise ValueError("Expected the edges of an anatomy, got fewer than three edge pixels: choose another one.")
    return cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), cv2.convexHull(points), 255) > 0


def without_tumour(edges: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """Edges of an anatomy, (256, 256) uint8 of 0 and 255, without those of its tumour and `MARGIN` around it.

    Whatever is not 0 in `edges` and `tumour` counts. The brain's outline stays.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN + 1,) * 2)
    region = cv2.dilate((tumour != 0).astype(np.uint8), kernel) > 0
    return np.where((edges != 0) & (~region | _rim(edges)), 255, 0).astype(np.uint8)


def compose_structure(edges: np.ndarray, tumour: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """An anatomy's edges with its tumour taken out and an ellipse drawn in, (256, 256) uint8 of 0 and 255.

    Inside the ellipse nothing of the anatomy is left; outside the brain nothing of the ellipse. `edges` and `tumour` as
    in `without_tumour`. ValueError: no anatomy, or an ellipse whose centre lies outside the brain.
    """
    hull = brain_hull(edges)
    y, x = round(ellipse.y), round(ellipse.x)
    if not (0 <= y < SIZE and 0 <= x < SIZE and hull[y, x]):
        raise ValueError(f"The ellipse's centre ({x}, {y}) lies outside the brain: move it inwards.")
    emptied = without_tumour(edges, tumour)
    emptied[ellipse_mask(ellipse) & ~_rim(edges)] = 0
    emptied[ellipse_outline(ellipse) & hull] = 255
    return emptied


def _rim(edges: np.ndarray) -> np.ndarray:
    """Inside the hull of the edges and within `RIM` pixels of its border."""
    hull = np.pad(brain_hull(edges).astype(np.uint8), 1)  # the picture's border counts as outside
    return (cv2.distanceTransform(hull, cv2.DIST_L2, 3)[1:-1, 1:-1] <= RIM) & (hull[1:-1, 1:-1] > 0)
