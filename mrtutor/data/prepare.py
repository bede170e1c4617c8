"""From a volume to slices of 256 x 256 pixels, 0…255, and to words: one path for simulated and real patients.

Source: Kim et al., WACV 2024, §4.1: 224 x 224 resized to 256 x 256, slices with visible tumour, values in [0, 1].
Unlike the paper, planes are taken as they were measured, a volume is scaled as a whole (one slice's bright rim must not
darken the rest of it), and some slices without tumour are kept.

Axes: volumes are turned to RAS+ (X towards the patient's right, Y anterior, Z superior). Slices: row 0 is anterior,
column 0 is the patient's right (radiological).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torchio as tio
from scipy import ndimage

from mrtutor.data.structure import SIZE
from mrtutor.vocabulary import Findings, Modality

TUMOUR_LABELS = {0: "none", 1: "necrosis", 2: "oedema", 3: "enhancing", 4: "non-enhancing solid"}
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3

# The grid and the choice of slices.
SPACING_MM = 1.0  # in-plane, as in BraTS and in the simulator
CROP = 224  # side of the square cut from the 1 mm grid, px (§4.1)
MIN_TUMOUR_PX = 150  # a tumour is visible from this area on, mm²
MIN_BRAIN_PX = 4000  # slices with less brain (vertex, skull base) are left out, mm²
GAP_MM = 5  # distance between the slices of a patient, at least
MAX_SLICES = 8  # slices with tumour of a patient at most
FREE_SHARE = 1 / 3  # slices without tumour for each one with it: about one in four of all

# Scaling: the median of the brain over the whole volume becomes this grey value; 0 stays 0. On the real training
# patients on average less than 0.5 % of a brain's voxels are cut off at 1.
GREY = {Modality.FLAIR: 0.45, Modality.T1: 0.55, Modality.T1GD: 0.45, Modality.T2: 0.28}

# Checks.
MIN_FIELD_MM, MAX_FIELD_MM = 60, 600  # in-plane field of view
MIN_HEIGHT_MM = 10  # field of view across planes
MAX_PIXEL_MM = 2.5  # a coarser pixel in the axial plane: measured in sagittal or coronal planes
GRID_TOLERANCE_MM = 1e-2  # two affines closer than this are one grid (headers are float32)
TOLERANCE, HEAD_TOLERANCE = 0.01, 0.05  # |x| above this share of the 99.5th percentile is signal; with the skull on
MAX_NEGATIVE = 0.05  # of the signal; more is an image around 0 (z-scored, -1…1), not one with background 0
MIN_BACKGROUND = 0.10  # of the field of view; a box around an ellipsoid has 48 %
MAX_OUTSIDE = 0.25  # of the tumour may lie outside the brain

# Words (`describe`); areas are shares of the slice's brain or of its tumour.
MIDLINE = 0.65  # from this share of the tumour in one half on, that half is its side
SMALL, LARGE = 0.08, 0.16  # of the brain; between them no size is said
ENHANCES_NOT, ENHANCES = 0.01, 0.05  # of the tumour
NECROTIC = 0.05  # of the tumour, and only where something enhances
RING = 0.60  # of the rim around the necrosis enhances
SWELLS_NOT, SWELLS = 0.02, 0.10  # of the tumour

PARAMETERS: dict[str, object] = {  # what prepared slices depend on, for the manifest of a cohort
    "grid": [SPACING_MM, CROP, SIZE],
    "grey": {str(modality): value for modality, value in GREY.items()},
    "planes": [MIN_TUMOUR_PX, MIN_BRAIN_PX, GAP_MM, MAX_SLICES, round(FREE_SHARE, 3)],
    "words": [MIDLINE, SMALL, LARGE, ENHANCES_NOT, ENHANCES, NECROTIC, RING, SWELLS_NOT, SWELLS],
}


@dataclass(frozen=True)
class Volume:
    """A subject on the grid of preparation: RAS+, 1 mm in-plane, planes as measured."""

    images: np.ndarray  # (4, X, Y, Z) float32 in [0, 1], in the order of `Modality`; a missing sequence is all 0
    available: np.ndarray  # (4,) bool, which sequences there are
    tumour: np.ndarray  # (X, Y, Z) uint8, labels of `TUMOUR_LABELS`; all 0 where the subject has no label map
    brain: np.ndarray  # (X, Y, Z) bool
    affine: np.ndarray  # (4, 4) voxel to world in mm, RAS+


@dataclass(frozen=True)
class PreparedSlices:
    """Slices of one patient, from inferior to superior."""

    images: np.ndarray  # (n, 4, 256, 256) uint8, 0…255 for [0, 1], in the order of `Modality`
    masks: np.ndarray  # (n, 256, 256) uint8, tumour labels
    z_mm: list[float]  # n heights (RAS+ world, at the centre of the plane)
    tumour_px: list[int]  # n tumour areas in mm²
    z_index: list[int]  # n numbers of the planes as measured, 0 the lowest
    available: np.ndarray  # (4,) bool, which sequences there are
    findings: list[Findings]


def prepare_subject(subject: tio.Subject) -> PreparedSlices:
    """Slices of a subject as they enter a cohort: with visible tumour, and one in four without.

    The subject has any of FLAIR, T1, T1Gd, T2, the label map ``tumour``, and ``brain`` where known. ValueError: as
    `to_volume`; no label map; no slice with visible tumour; a brain wider than 224 mm.
    """
    if "tumour" not in subject:
        raise ValueError("No tumour label map, expected a segmentation: add the file.")
    volume = to_volume(subject)
    areas = (np.count_nonzero(values, axis=(0, 1)) * SPACING_MM**2 for values in (volume.tumour, volume.brain))
    step_mm = float(np.linalg.norm(volume.affine[:3, 2]))
    return cut_planes(volume, choose_planes(*areas, step_mm), subject)


def prepare_slice(subject: tio.Subject, index: int | None = None) -> PreparedSlices:
    """One slice of a subject: the axial plane `index` as measured, 0 the lowest; None for the one with most tumour.

    ValueError: as `to_volume`; no such plane, or one without brain; None where no tumour is labelled.
    """
    volume = to_volume(subject)
    planes = np.flatnonzero(volume.brain.any(axis=(0, 1)))
    if index is None and volume.tumour.any():
        index = int(np.argmax(np.count_nonzero(volume.tumour, axis=(0, 1))))
    if index not in planes:
        what = "No tumour labelled" if index is None else f"No brain in plane {index}"
        raise ValueError(f"{what}: choose a plane from {planes[0]} (the lowest) to {planes[-1]}.")
    return cut_planes(volume, [index], subject)


def describe(mask: np.ndarray, brain: np.ndarray, simulated: bool = False, regions: bool = True) -> Findings:
    """What a slice shows, in words, from its segmentation; nothing is said where the thresholds above leave it open.

    side: of the patient. place: thirds of the brain's area, front to back. size: share of the slice's brain. necrosis:
    only where something enhances, since challenges label solid tumour without enhancement in the same way.

    `mask` is (H, W) labels of `TUMOUR_LABELS`, `brain` (H, W) bool; row 0 anterior, column 0 the patient's right.
    `regions` is False where all of the tumour has one label, which then says nothing of its parts.
    """
    tumour = mask > 0
    total = np.count_nonzero(tumour)
    if not total:
        return Findings(tumour=False, simulated=simulated)
    tumour_rows, tumour_columns = np.nonzero(tumour)
    rows = brain[brain.any(axis=1)]
    middle = np.median((rows.argmax(axis=1) + rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)) / 2)  # the midline
    before = np.mean(np.nonzero(brain)[0] < tumour_rows.mean())  # share of the brain in front of the tumour's centre
    where = {
        "side": _between(np.mean(tumour_columns > middle), 1 - MIDLINE, MIDLINE, ("right", "left")),
        "place": ("anterior", "middle", "posterior")[min(int(3 * before), 2)],
        "size": _between(total / np.count_nonzero(brain), SMALL, LARGE, ("small", "large")),
    }
    if not regions:
        return Findings(simulated=simulated, **where)
    share = {label: np.count_nonzero(mask == label) / total for label in TUMOUR_LABELS}
    enhances, necrosis = share[ENHANCING] >= ENHANCES, bool(share[NECROSIS] >= NECROTIC)
    enhancement = _between(share[ENHANCING], ENHANCES_NOT, ENHANCES, ("non-enhancing", "enhancing"))
    if enhances and necrosis:
        core = mask == NECROSIS
        rim = ndimage.binary_dilation(core, iterations=3) & ~core
        if np.mean(mask[rim] == ENHANCING) >= RING:
            enhancement = "ring-enhancing"
    return Findings(
        enhancement=enhancement,
        necrosis=necrosis if enhances or not necrosis else None,
        oedema=_between(share[OEDEMA], SWELLS_NOT, SWELLS, (False, True)),
        simulated=simulated,
        **where,
    )


def _between(value: float, low: float, high: float, words: tuple) -> str | bool | None:
    """The first word up to `low`, the second from `high` on, and between them neither."""
    if value <= low:
        return words[0]
    return words[1] if value >= high else None


def check_extent(shape: tuple[int, ...], affine: np.ndarray, name: str) -> None:
    """Refuse a grid of impossible size, from its header alone, before anything costly: no head, or no axial planes.

    `shape` is (X, Y, Z) voxels, `affine` (4, 4) voxel to world in mm; `name` is for the message.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    in_plane = np.abs(affine[:3, :3]).argmax(axis=0) < 2  # voxel axes that run left-right or back-front
    field = spacing * shape
    if field[in_plane].min() < MIN_FIELD_MM or field[~in_plane].min() < MIN_HEIGHT_MM or field.max() > MAX_FIELD_MM:
        raise ValueError(
            f"{name} covers {field.round(3)} mm, expected a head of {MIN_FIELD_MM} to {MAX_FIELD_MM} mm: check the "
            "voxel size and the unit in its header."
        )
    pixel = spacing[in_plane].max()
    if pixel > MAX_PIXEL_MM:
        raise ValueError(f"{name} has axial pixels of {pixel:.3g} mm, expected {MAX_PIXEL_MM}: give an axial series.")


def _check(subject: tio.Subject, keys: list[str]) -> None:
    """Refuse images (`keys`, the first a sequence) that cannot be prepared."""
    reference = subject[keys[0]]
    check_extent(reference.spatial_shape, reference.affine, keys[0])
    for name in keys:
        image = subject[name]
        same = image.spatial_shape == reference.spatial_shape
        if not same or not np.allclose(image.affine, reference.affine, atol=GRID_TOLERANCE_MM):
            raise ValueError(f"{name} lies on another grid than {keys[0]}: register and resample onto one grid first.")
        data = image.data.numpy()
        if name == "tumour":
            if not np.isin(data, list(TUMOUR_LABELS)).all():
                raise ValueError(f"{name} has labels {np.unique(data)}, expected {TUMOUR_LABELS}: map them first.")
        elif name != "brain":
            _check_voxels(name, data, background="brain" not in keys and not subject.get("skull"))


def _check_voxels(name: str, data: np.ndarray, background: bool) -> None:
    if not np.isfinite(data).all():
        raise ValueError(f"{name} has NaN or infinite voxels, expected finite values: repair the file.")
    if data.min() == data.max():
        raise ValueError(f"{name} is constant ({data.min():g} everywhere), expected an image: check the export.")
    signal = _signal(data)
    negative = np.mean(data[signal] < 0)
    if negative > MAX_NEGATIVE:
        raise ValueError(
            f"{name} is negative in {negative:.0%} of its signal, expected positive signal on background 0: give the "
            "image as it was before z-scoring or scaling to -1…1."
        )
    empty = 1 - signal.mean()
    if background and empty < MIN_BACKGROUND:
        raise ValueError(
            f"{name} is 0 in {empty:.0%} of its voxels, expected a stripped head: set its background to 0."
        )


def _signal(image: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Where an image is not background; interpolation leaves small negative values in a brain, so |x|, not x."""
    magnitude = np.abs(image)
    return magnitude > tolerance * np.percentile(magnitude[magnitude > 0], 99.5)


def to_volume(subject: tio.Subject) -> Volume:
    """Check a subject, turn it to RAS+ with pixels of 1 mm and planes as measured, find its brain, and scale it.

    ValueError: no sequence; one that has NaN, is constant or centred on 0; no background; grids that differ; an
    impossible field of view; an unknown label; no brain; the tumour outside it.
    """
    sequences = [modality for modality in Modality if modality in subject]
    if not sequences:
        raise ValueError(f"None of {', '.join(Modality)} there, expected at least one: add the files.")
    keys = [*sequences, *(key for key in ("tumour", "brain") if key in subject)]
    _check(subject, keys)
    turned = tio.ToCanonical()(tio.Subject({key: subject[key] for key in keys}))
    spacing = turned[sequences[0]].spacing
    if not np.allclose(spacing[:2], SPACING_MM, atol=1e-3):
        turned = tio.Resample((SPACING_MM, SPACING_MM, spacing[2]))(turned)  # label maps by nearest neighbour
    arrays = {key: turned[key].data.numpy()[0] for key in keys}
    scans = [arrays[modality].astype(np.float32, copy=False) for modality in sequences]
    tolerance = HEAD_TOLERANCE if subject.get("skull") else TOLERANCE
    brain = arrays["brain"] > 0 if "brain" in arrays else find_brain(scans, tolerance)
    if not brain.any():
        raise ValueError("The brain is empty, expected a skull-stripped head with signal inside.")
    tumour = arrays.get("tumour", np.zeros(brain.shape)).astype(np.uint8)
    outside = np.count_nonzero(tumour[~brain]) / max(np.count_nonzero(tumour), 1)
    if outside > MAX_OUTSIDE:
        raise ValueError(f"{outside:.0%} of the tumour is outside the brain, expected its segmentation: is it flipped?")
    available = np.array([modality in subject for modality in Modality])
    images = np.zeros((len(Modality), *brain.shape), np.float32)
    for channel, modality, scan in zip(np.flatnonzero(available), sequences, scans, strict=True):
        images[channel] = scale_volume(scan, brain, modality)
    return Volume(images, available, tumour, brain, turned[sequences[0]].affine)


def find_brain(images: list[np.ndarray], tolerance: float = TOLERANCE) -> np.ndarray:
    """Brain (X, Y, Z) bool of a skull-stripped case without a mask: the largest piece of signal, its holes filled.

    Fluid is dark in FLAIR and T1, so two sequences must agree where there are two; `tolerance` is the share of the
    99.5th percentile that is signal.
    """
    votes = sum(_signal(image, tolerance).astype(np.uint8) for image in images)
    pieces = ndimage.label(votes >= min(2, len(images)))[0]
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    brain = (pieces == sizes.argmax()) & (pieces > 0)
    for z in range(brain.shape[2]):
        brain[:, :, z] = ndimage.binary_fill_holes(brain[:, :, z])
    return brain


def scale_volume(image: np.ndarray, brain: np.ndarray, modality: Modality) -> np.ndarray:
    """Scale an image (X, Y, Z) so that the median of its brain becomes the sequence's grey value.

    Gives (X, Y, Z) float32 in [0, 1]; 0 stays 0, outside the brain all is 0. Every slice of a patient has the same
    scale; a large bright lesion hardly moves it.
    """
    tissue = image[brain & (image > 0)]
    if not tissue.size:
        raise ValueError(f"{modality} has no positive signal in the brain, expected some: check the export.")
    scaled = np.clip(image * (GREY[modality] / np.median(tissue)), 0, 1)
    return np.where(brain, scaled, 0).astype(np.float32)


def choose_planes(tumour_px: np.ndarray, brain_px: np.ndarray, step_mm: float = 1.0) -> list[int]:
    """Planes with visible tumour, 5 mm apart or more, the nearest to the largest area first, and a third as many free.

    Areas are (Z,) in mm², one for each plane, and `step_mm` apart. Gives indices, ascending: at most 8 with tumour; of
    the planes 5 mm or more from any tumour those with most brain, so that both kinds show the same parts of it as far
    as may be. ValueError: no plane has enough tumour and brain.
    """
    visible = (tumour_px >= MIN_TUMOUR_PX) & (brain_px >= MIN_BRAIN_PX)
    if not visible.any():
        expected = f"{MIN_TUMOUR_PX} mm² of it and {MIN_BRAIN_PX} mm² of brain in one plane"
        raise ValueError(
            f"No slice with visible tumour: expected {expected}, got at most {tumour_px.max():.0f} mm² of tumour."
        )
    centre = int(np.argmax(np.where(visible, tumour_px, -1)))
    step = math.ceil(GAP_MM / step_mm - 1e-3)
    grid = range(centre % step, len(visible), step)
    shown = sorted((z for z in grid if visible[z]), key=lambda z: (abs(z - centre), z))[:MAX_SLICES]
    near = ndimage.binary_dilation(tumour_px > 0, iterations=step)
    free = sorted((z for z in grid if not near[z] and brain_px[z] >= MIN_BRAIN_PX), key=lambda z: (-brain_px[z], z))
    return sorted([*shown, *free[: round(FREE_SHARE * len(shown))]])


def cut_planes(volume: Volume, planes: list[int], subject: tio.Subject) -> PreparedSlices:
    """Cut, resize and describe the chosen planes of a volume."""
    x0, y0 = (_window_start(volume.brain.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    images = np.zeros((len(planes), len(volume.images), SIZE, SIZE), np.uint8)
    masks = np.zeros((len(planes), SIZE, SIZE), np.uint8)
    tumour_px, findings = [], []
    for row, z in enumerate(planes):
        for channel in np.flatnonzero(volume.available):
            plane = _square(volume.images[channel, :, :, z], x0, y0)
            images[row, channel] = np.round(cv2.resize(plane, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) * 255)
        labels, brain = (_square(part[:, :, z], x0, y0) for part in (volume.tumour, volume.brain))
        masks[row] = cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)
        tumour_px.append(round(np.count_nonzero(labels) * SPACING_MM**2))
        findings.append(describe(labels, brain, subject.get("source") == "simulated", subject.get("regions", True)))
    x, y = volume.brain.shape[:2]
    z_mm = [round(float(volume.affine[2] @ [(x - 1) / 2, (y - 1) / 2, z, 1]), 3) for z in planes]
    return PreparedSlices(images, masks, z_mm, tumour_px, planes, volume.available, findings)


def _window_start(occupied: np.ndarray) -> int:
    """First voxel (perhaps negative) of the window of 224 that is centred on the occupied stretch of an axis."""
    inside = np.flatnonzero(occupied)
    width = inside[-1] - inside[0] + 1
    if width > CROP:
        raise ValueError(f"The brain is {width} mm wide, expected {CROP} mm: strip the skull, or check the voxel size.")
    return int(inside[0] + inside[-1] + 1 - CROP) // 2


def _square(plane: np.ndarray, x0: int, y0: int) -> np.ndarray:
    """RAS+ (X, Y) -> (224, 224) from (x0, y0), zeros beyond the border; rows from anterior, columns from the right."""
    window = np.pad(plane, CROP)[x0 + CROP : x0 + 2 * CROP, y0 + CROP : y0 + 2 * CROP]
    return np.ascontiguousarray(window[::-1, ::-1].T)
