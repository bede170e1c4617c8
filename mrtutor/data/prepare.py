"""From a volume to slices of 256 x 256 pixels, 0…255: one code path for simulated and real subjects.

Source: Kim et al., WACV 2024, §4.1: 224 x 224 resized to 256 x 256 with their masks, only slices with visible
tumour, values in [0, 1]. What the paper leaves open is fixed by the constants below and recorded in every cohort.

Orientation: row 0 is anterior, column 0 is the patient's right (radiological).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torchio as tio

from mrtutor.data.structure import CANNY_HIGH, CANNY_LOW, SIZE
from mrtutor.data.volume import BRAIN_TOLERANCE, SPACING_MM, Volume, to_volume

CROP = 224  # side of the square cut from the 1 mm grid, px (§4.1)
PERCENTILE = 99.5  # this percentile of the brain, in each slice and modality, becomes 1; 0 stays 0
MIN_TUMOUR_PX = 150  # a tumour is visible from this area on, px at 1 mm = mm²
MIN_BRAIN_PX = 4000  # slices with less brain (vertex, skull base) are left out, px at 1 mm = mm²
GAP_MM = 5  # distance between the slices of a patient
MAX_SLICES = 8  # slices of a patient at most

PARAMETERS: dict[str, object] = {
    "crop_px": CROP,
    "size_px": SIZE,
    "spacing_mm": SPACING_MM,
    "brain_percentile": PERCENTILE,
    "brain_tolerance": BRAIN_TOLERANCE,
    "min_tumour_px": MIN_TUMOUR_PX,
    "min_brain_px": MIN_BRAIN_PX,
    "gap_mm": GAP_MM,
    "max_slices": MAX_SLICES,
    "canny": [CANNY_LOW, CANNY_HIGH],
    "crop_rule": "centred in-plane on the bounding box of the whole brain",
}


@dataclass(frozen=True)
class PreparedSlices:
    """Slices of one patient, from inferior to superior.

    Attributes:
        images: (n, 4, 256, 256) uint8, 0…255 for [0, 1], in the order of `Modality`.
        masks: (n, 256, 256) uint8, tumour labels (`mrtutor.data.volume.TUMOUR_LABELS`).
        z_mm: (n,) float32, height of the slice in mm (RAS+ world).
        tumour_px: (n,) int64, tumour area in px at 1 mm (mm²).
        z_index: (n,) int64, number of the slice on the 1 mm RAS+ grid.
    """

    images: np.ndarray
    masks: np.ndarray
    z_mm: np.ndarray
    tumour_px: np.ndarray
    z_index: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def prepare_subject(subject: tio.Subject) -> PreparedSlices:
    """Slices of a subject in which the tumour is visible, as they enter a cohort.

    Args:
        subject: FLAIR, T1, T1Gd, T2 and the label map ``tumour``; ``brain`` where known.

    Returns:
        About 8 slices, 5 mm apart, around the one with most tumour.

    Raises:
        ValueError: as `mrtutor.data.volume.to_volume`; no label map; no slice with visible tumour;
            a brain wider than 224 mm.
    """
    volume = to_volume(subject)
    if volume.tumour is None:
        raise ValueError("No tumour label map: expected a segmentation beside the four sequences; add the file.")
    chosen = choose_slices(np.count_nonzero(volume.tumour, axis=(0, 1)), volume.brain.sum(axis=(0, 1)))
    return _cut_all(volume, chosen)


def prepare_slice(subject: tio.Subject, index: int | None = None) -> PreparedSlices:
    """One slice of a subject, with or without tumour.

    Args:
        subject: as in `prepare_subject`; ``tumour`` is needed only where ``index`` is None.
        index: number of the axial slice on the 1 mm RAS+ grid, 0 lowest; None for the one with most tumour.

    Raises:
        ValueError: as `prepare_subject`; no such slice; a slice without brain.
    """
    volume = to_volume(subject)
    depth = volume.brain.shape[2]
    if index is None:
        if volume.tumour is None or not volume.tumour.any():
            raise ValueError(f"No tumour labelled, so no slice with most tumour: choose a slice from 0 to {depth - 1}.")
        index = int(np.argmax(np.count_nonzero(volume.tumour, axis=(0, 1))))
    if not 0 <= index < depth:
        raise ValueError(f"No slice {index}: expected 0 to {depth - 1} on the 1 mm grid.")
    if not volume.brain[:, :, index].any():
        rows = np.flatnonzero(volume.brain.any(axis=(0, 1)))
        raise ValueError(f"No brain in slice {index}: choose one from {rows[0]} to {rows[-1]}.")
    return _cut_all(volume, [index])


def choose_slices(tumour_px: np.ndarray, brain_px: np.ndarray) -> list[int]:
    """Slices with visible tumour, at steps of 5 mm from the one with most tumour, the nearest to it first.

    Args:
        tumour_px: (Z,) tumour area of each slice, px at 1 mm.
        brain_px: (Z,) brain area of each slice, px at 1 mm.

    Returns:
        At most 8 indices, ascending.

    Raises:
        ValueError: no slice has enough tumour and brain.
    """
    visible = (np.asarray(tumour_px) >= MIN_TUMOUR_PX) & (np.asarray(brain_px) >= MIN_BRAIN_PX)
    if not visible.any():
        raise ValueError(
            f"No slice with visible tumour: expected at least {MIN_TUMOUR_PX} mm² of tumour and {MIN_BRAIN_PX} mm² of "
            f"brain in one slice, got at most {int(np.max(tumour_px))} and {int(np.max(brain_px))} mm²; "
            "check the segmentation."
        )
    centre = int(np.argmax(np.where(visible, tumour_px, -1)))
    step = round(GAP_MM / SPACING_MM)
    candidates = [z for z in range(centre % step, len(visible), step) if visible[z]]
    nearest = sorted(candidates, key=lambda z: (abs(z - centre), z))[:MAX_SLICES]
    return sorted(nearest)


def _cut_all(volume: Volume, indices: list[int]) -> PreparedSlices:
    """Cut, scale and resize the chosen slices of a volume."""
    x0, y0 = (_window_start(volume.brain.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    images = np.empty((len(indices), len(volume.images), SIZE, SIZE), np.uint8)
    masks = np.zeros((len(indices), SIZE, SIZE), np.uint8)
    for row, z in enumerate(indices):
        brain = volume.brain[:, :, z]
        for channel, image in enumerate(volume.images):
            scaled = scale_slice(image[:, :, z], brain)
            resized = cv2.resize(_turn(_window(scaled, x0, y0)), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
            images[row, channel] = np.round(resized * 255)
        if volume.tumour is not None:
            labels = _turn(_window(volume.tumour[:, :, z], x0, y0))
            masks[row] = cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)
    tumour_px = [0 if volume.tumour is None else np.count_nonzero(volume.tumour[:, :, z]) for z in indices]
    heights = np.array([volume.z_mm(z) for z in indices], np.float32)
    return PreparedSlices(images, masks, heights, np.array(tumour_px, np.int64), np.array(indices, np.int64))


def scale_slice(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Scale a slice so that the 99.5th percentile of its brain becomes 1 and 0 stays 0.

    Args:
        image: (X, Y) arbitrary units.
        brain: (X, Y) bool.

    Returns:
        (X, Y) float32 in [0, 1], 0 outside the brain.

    Raises:
        ValueError: no positive signal in the brain.
    """
    top = np.percentile(image[brain], PERCENTILE)
    if not top > 0:
        raise ValueError(f"The brain's {PERCENTILE}th percentile is {top:g} in a slice: expected positive signal.")
    return np.where(brain, np.clip(image / top, 0, 1), 0).astype(np.float32)


def _window_start(occupied: np.ndarray) -> int:
    """First voxel (perhaps negative) of the window of 224 that is centred on the occupied stretch of an axis."""
    inside = np.flatnonzero(occupied)
    width = inside[-1] - inside[0] + 1
    if width > CROP:
        raise ValueError(
            f"The brain is {width} mm wide, more than the window of {CROP} mm: expected a skull-stripped head; "
            "strip the skull, or check the voxel size in the header."
        )
    return int(inside[0] + inside[-1] + 1 - CROP) // 2


def _window(plane: np.ndarray, x0: int, y0: int) -> np.ndarray:
    """(X, Y) -> (224, 224) from (x0, y0), zeros beyond the border."""
    out = np.zeros((CROP, CROP), plane.dtype)
    (xs, xd), (ys, yd) = (_overlap(start, length) for start, length in zip((x0, y0), plane.shape, strict=True))
    out[xd, yd] = plane[xs, ys]
    return out


def _overlap(start: int, length: int) -> tuple[slice, slice]:
    """Slices of source and destination where the window [start, start + 224) meets [0, length)."""
    low, high = max(start, 0), min(start + CROP, length)
    return slice(low, high), slice(low - start, high - start)


def _turn(plane: np.ndarray) -> np.ndarray:
    """RAS+ (X, Y) -> rows from anterior, columns from the patient's right."""
    return np.ascontiguousarray(plane[::-1, ::-1].T)
