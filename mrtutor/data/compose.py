"""Composing a structure map: an anatomy keeps its lines, its tumour is taken out, another one is drawn in.

Axes: H, W image pixels (256); x runs to the right, y downwards, row 0 is anterior. One pixel is 0.875 mm.
"""

import math
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from mrtutor.data.structure import SIZE

RIM = 6  # pixels from the hull inwards that count as the brain's outline, which no tumour erases
MARGIN = 4  # pixels around a tumour where its own edges lie
_SHIFT = 4  # cv2 draws with 4 bits of sub-pixel precision


@dataclass(frozen=True)
class Ellipse:
    """A tumour's outline.

    Attributes:
        x: column of the centre, pixels.
        y: row of the centre, pixels.
        width: full axis before rotation, pixels.
        height: the other full axis, pixels.
        angle: rotation in degrees, clockwise as seen on the screen.
        core: a second, inner line at this share of the axes, as around a necrosis; 0 for none.
    """

    x: float = 96.0
    y: float = 104.0
    width: float = 48.0
    height: float = 36.0
    angle: float = 0.0
    core: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn (ValueError)."""
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"Expected a finite number as {name} of the ellipse, got {value!r}: try {DEFAULTS[name]:g}."
                )
        for name in ("x", "y"):
            if not 0 <= getattr(self, name) < SIZE:
                raise ValueError(f"Expected {name} of the ellipse in 0…{SIZE - 1}, got {getattr(self, name):g}.")
        for name in ("width", "height"):
            if not 4 <= getattr(self, name) <= SIZE:
                raise ValueError(f"Expected {name} of the ellipse in 4…{SIZE} pixels, got {getattr(self, name):g}.")
        if not 0 <= self.core < 1:
            raise ValueError(f"Expected core in 0…1 (1 excluded), got {self.core:g}: 0 draws no inner line.")


DEFAULTS = {name: field.default for name, field in Ellipse.__dataclass_fields__.items()}


def ellipse_mask(ellipse: Ellipse) -> np.ndarray:
    """(256, 256) bool, True inside the outline and on it."""
    return _draw(ellipse, 1.0, filled=True) > 0


def ellipse_outline(ellipse: Ellipse) -> np.ndarray:
    """(256, 256) bool, one pixel wide; the line around the core as well."""
    lines = _draw(ellipse, 1.0, filled=False)
    if ellipse.core:
        lines |= _draw(ellipse, ellipse.core, filled=False)
    return lines > 0


def _draw(ellipse: Ellipse, share: float, filled: bool) -> np.ndarray:
    unit = 1 << _SHIFT
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    centre = (round(ellipse.x * unit), round(ellipse.y * unit))
    axes = (round(share * ellipse.width / 2 * unit), round(share * ellipse.height / 2 * unit))
    cv2.ellipse(canvas, centre, axes, ellipse.angle, 0, 360, 255, -1 if filled else 1, cv2.LINE_8, _SHIFT)
    return canvas


def brain_hull(edges: np.ndarray) -> np.ndarray:
    """(256, 256) bool: convex hull of all edges, which on an axial slice is the brain, nearly.

    Raises:
        ValueError: another shape, or fewer than three edge pixels.
    """
    edges = _checked(edges, "edges")
    points = cv2.findNonZero(edges)
    if points is None or len(points) < 3:
        raise ValueError("Expected the edges of an anatomy, got fewer than three edge pixels: choose another one.")
    hull = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 255)
    return hull > 0


def without_tumour(edges: np.ndarray, tumour: np.ndarray, margin: int = MARGIN) -> np.ndarray:
    """Edges of an anatomy with those of its tumour taken out; the brain's outline stays.

    Args:
        edges: (256, 256), any non-zero value being an edge.
        tumour: (256, 256), any non-zero value being tumour.
        margin: pixels around the tumour that are cleared as well.

    Returns:
        (256, 256) uint8, 0 or 255.

    Raises:
        ValueError: another shape, or no anatomy.
    """
    edges, region = _checked(edges, "edges"), _checked(tumour, "tumour")
    if margin:
        region = cv2.dilate(region, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1,) * 2))
    return np.where((region > 0) & ~_rim(edges), 0, edges).astype(np.uint8)


def compose_structure(edges: np.ndarray, tumour: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """An anatomy's edges with its tumour taken out and an ellipse drawn in.

    Inside the ellipse nothing of the anatomy is left; outside the brain nothing of the ellipse.

    Args:
        edges: (256, 256), any non-zero value being an edge.
        tumour: (256, 256), any non-zero value being tumour.
        ellipse: where the new tumour is.

    Returns:
        (256, 256) uint8, 0 or 255, as `mrtutor.data.structure.canny` gives.

    Raises:
        ValueError: another shape, no anatomy, or an ellipse whose centre lies outside the brain.
    """
    edges = _checked(edges, "edges")
    hull = brain_hull(edges)
    if not hull[round(min(ellipse.y, SIZE - 1)), round(min(ellipse.x, SIZE - 1))]:
        raise ValueError(
            f"The ellipse's centre ({ellipse.x:g}, {ellipse.y:g}) lies outside the brain: move it inwards."
        )
    emptied = without_tumour(edges, tumour)
    inside = ellipse_mask(ellipse) & ~_rim(edges)
    emptied[inside] = 0
    emptied[ellipse_outline(ellipse) & hull] = 255
    return emptied


def _rim(edges: np.ndarray) -> np.ndarray:
    """Inside the hull of the edges and within `RIM` pixels of its border."""
    hull = np.pad(brain_hull(edges).astype(np.uint8), 1)  # the picture's border counts as outside
    return (cv2.distanceTransform(hull, cv2.DIST_L2, 3)[1:-1, 1:-1] <= RIM) & (hull[1:-1, 1:-1] > 0)


def _checked(values: np.ndarray, what: str) -> np.ndarray:
    """As uint8 of 0 and 255."""
    values = np.asarray(values)
    if values.shape != (SIZE, SIZE):
        raise ValueError(f"Expected {what} of shape ({SIZE}, {SIZE}), got {values.shape}: take them from one slice.")
    return np.where(values != 0, 255, 0).astype(np.uint8)
