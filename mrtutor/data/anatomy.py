"""One healthy brain per patient: the ICBM152 2009a template, moved, bent and sharpened.

The template is an average of 152 people and therefore blurred. Each patient gets an own affine map, an own smooth
deformation, own ventricles and own sulci; thresholds on the blurred maps, shifted by smooth noise, make crisp tissue.

Axes: X, Y, Z of a RAS+ grid: x grows to the right, y to the front, z upwards. Positions are in voxels (1 mm).
Source of the maps: Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54:313-327
(2011); see data/LICENSE-ICBM152.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import nibabel as nib
import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from torch import Tensor

from mrtutor.data.noise import normal, smooth_field, uniform

GRID = (240, 240, 155)  # the BraTS grid, 1 mm
CROP_START, CROP = (35, 19, 0), (169, 201, 155)  # the box around every brain in which all work is done
COARSE = (85, 101, 78)  # the same box at 2 mm
CHANNELS = ("mask", "white", "sulcus", "ventricle", "deep", "sinus")
MNI_ORIGIN = (98.0, 134.0, 72.0)  # template voxel of MNI (0, 0, 0)
CENTRE = (98.0, 118.0, 78.0)  # template voxel that lands in the middle of the patient's grid


def _read(name: str) -> np.ndarray:
    path = files("nilearn.datasets") / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    return np.asanyarray(nib.load(str(path)).dataobj).astype(np.float32) / 255


def _signed_distance(inside: np.ndarray, smooth: float) -> np.ndarray:
    """Distance to the border in voxels, negative inside, smoothed."""
    distance = ndi.distance_transform_edt(~inside) - ndi.distance_transform_edt(inside)
    return ndi.gaussian_filter(distance, smooth).astype(np.float32)


def _outline(tissue: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the brain's outline: sulci, cisterns and ventricles filled.

    Closing with a ball of 8 mm, holes of axial slices filled; at 2 mm, which is quick and makes it smooth.
    """
    half = np.pad(tissue, [(10, 10 + n % 2) for n in tissue.shape])[::2, ::2, ::2]
    grown = ndi.distance_transform_edt(~half) <= 4
    closed = ndi.distance_transform_edt(grown) > 4
    flat = ndi.generate_binary_structure(3, 1)
    flat[:, :, [0, 2]] = False
    distance = 2 * _signed_distance(ndi.binary_fill_holes(closed, flat), smooth=1.0)
    volume = torch.from_numpy(distance)[None]
    whole = torch.stack(torch.meshgrid(*[(torch.arange(n) + 10) / 2 for n in tissue.shape], indexing="ij"), dim=-1)
    return sample(volume, whole)[0].clamp(-40, 30).numpy()


def _ellipsoid(shape: tuple[int, ...], centre_mni: tuple, radii: tuple) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    terms = (((a - o - c) / r) ** 2 for a, o, c, r in zip(axes, MNI_ORIGIN, centre_mni, radii, strict=True))
    return np.sqrt(sum(terms))


@lru_cache(maxsize=1)
def template() -> Tensor:
    """The maps from which every patient is made, one per name in `CHANNELS`.

    Returns:
        (6, 197, 233, 189) float32. mask and ventricle are signed distances in mm (negative inside), white is the
        fraction of white matter, sulcus is how much darker than its surroundings a voxel is in the T1 template
        (about 0.2 in a sulcus), deep and sinus are weights in [0, 1].
    """
    grey, white, t1 = _read("gm"), _read("wm"), _read("t1")
    mask = _outline(grey + white > 0.35)
    inside = (mask < 0).astype(np.float32)
    around = ndi.gaussian_filter(t1, 5) / np.maximum(ndi.gaussian_filter(inside, 5), 0.3)
    sulcus = np.where(mask < 0, around - t1, 0.4)
    ventricle = np.full(t1.shape, 20, np.float32)
    box = np.s_[45:152, 55:185, 40:125]
    cistern = _ellipsoid(t1.shape, (0, -42, -2), (16, 16, 16)) <= 1  # behind the third ventricle: no ventricle
    middle = ((_ellipsoid(t1.shape, (0, -18, 12), (46, 58, 34)) < 1) & ~cistern)[box]
    ventricle[box] = _signed_distance(middle & (mask < -18)[box] & (grey + white < 0.5)[box], smooth=0.6).clip(-20, 20)
    basal = _ellipsoid(t1.shape, (0, -6, 3), (40, 36, 26)) < 1
    stem = _ellipsoid(t1.shape, (0, -30, -38), (17, 17, 32)) < 1
    deep = ndi.gaussian_filter((basal | stem).astype(np.float32), 2)
    beside = np.abs(np.arange(t1.shape[0]) - MNI_ORIGIN[0])[:, None, None]
    sagittal = (beside < 3) & (np.arange(t1.shape[1])[:, None] < 175) & (np.arange(t1.shape[2]) > 70)
    sinus = sagittal & (np.abs(mask + 2.5) < 2.5)
    white = white + 0.7 * (1 - deep) * (white - ndi.gaussian_filter(white, 3))  # gyral blades, lost in the average
    sinus = ndi.gaussian_filter(sinus.astype(np.float32), 0.8)
    return torch.from_numpy(np.stack([mask, white, sulcus, ventricle, deep, sinus]).astype(np.float32, copy=False))


@dataclass(frozen=True)
class Brain:
    """The map from a patient's grid to the template, and what the age does to the brain.

    Attributes:
        affine: (3, 3), template mm per patient mm.
        bend: (3, 43, 51, 40) displacement in mm on a grid of about 4 mm over the crop.
        ventricle_mm: (left, right) shift of the ventricle's wall, positive is wider.
        sulcus: shift of the threshold between grey matter and CSF, positive is more CSF.
    """

    affine: Tensor
    bend: Tensor
    ventricle_mm: tuple[float, float]
    sulcus: float

    def to_template(self, points: Tensor) -> Tensor:
        """Template voxels (..., 3) of crop voxels ``points`` (..., 3)."""
        size = torch.tensor(CROP, dtype=torch.float32, device=points.device)
        coarse = torch.tensor(self.bend.shape[1:]).to(size)
        bend = sample(self.bend.to(points.device), points * ((coarse - 1) / (size - 1)))
        middle = torch.tensor([119.5 - s for s in CROP_START[:2]] + [77.0], device=points.device)
        linear = (points - middle) @ self.affine.to(points.device).T
        return linear + torch.tensor(CENTRE, device=points.device) + bend.movedim(0, -1)


def draw_brain(age: float, generator: torch.Generator) -> Brain:
    """Draw a patient's map: size ± 4 %, tilt ± 5°, a bend of two scales (55 mm, 22 mm), ventricles by age.

    5 mm and 2 mm of bend made wavy outlines in a first trial, hence less. Ventricles and sulci widen with age: Scahill
    et al., A longitudinal study of brain volume changes in normal aging, Arch Neurol 60:989-994 (2003); the
    millimetres are ours, chosen by eye.
    """
    # 1.06: the template is larger than a head; so the brain gets the extent of the public cases of our tests.
    scale = 1.06 * torch.tensor([uniform(0.96, 1.04, generator) for _ in range(3)])
    tilt = [uniform(-0.09, 0.09, generator) for _ in range(3)]
    affine = torch.diag(scale)
    for axis, angle in enumerate(tilt):
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    shape = tuple(-(-n // 4) for n in CROP)
    bend = 2.4 * smooth_field(shape, 55 / 4, generator, 3) + 0.9 * smooth_field(shape, 22 / 4, generator, 3)
    ventricle = 0.04 * (age - 45) + normal(0, 0.7, -1.5, 1.5, generator)
    skew = normal(0, 0.35, -0.8, 0.8, generator)
    sulcus = 0.0008 * (age - 45) + normal(0, 0.012, -0.03, 0.03, generator)
    return Brain(affine, bend, (ventricle + skew, ventricle - skew), sulcus)


def sample(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values of ``volume`` (C, X, Y, Z) at voxel positions ``points`` (..., 3): (C, ...)."""
    size = torch.tensor(volume.shape[1:], dtype=points.dtype, device=points.device)
    grid = (2 * points / (size - 1) - 1).flip(-1)  # grid_sample counts the axes backwards
    flat = F.grid_sample(volume[None], grid.reshape(1, 1, 1, -1, 3), align_corners=True, padding_mode="border")
    return flat.reshape(volume.shape[0], *points.shape[:-1])


def lattice(shape: tuple[int, int, int], device: str = "cpu") -> Tensor:
    """Crop voxels (*shape, 3) of a grid of ``shape`` that spans the crop from corner to corner."""
    axes = [torch.linspace(0, n - 1, m, device=device) for n, m in zip(CROP, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def tissues(maps: Tensor, brain: Brain, right: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Fractions of grey matter, white matter and CSF from the template's maps.

    Args:
        maps: (6, ...) sampled `template` in the order of `CHANNELS`.
        brain: the patient's ventricle and sulcus shifts.
        right: (...) weight of the right half, 0 to 1.
        noise: (3, ...) smooth unit noise that moves the borders of white matter, sulci and ventricles, or zeros.

    Returns:
        grey, white, csf: (...) fractions that add up to 1; ventricle: the part of csf inside the ventricles. At the
        border of the deep nuclei the sharpened template overshoots: 0.4 % of the voxels have a grey or white of
        -0.07 to -0.01.
    """
    _, white, sulcus, wall, deep, _ = maps
    left_mm, right_mm = brain.ventricle_mm
    ventricle = torch.sigmoid((left_mm + (right_mm - left_mm) * right + 0.5 * noise[2] - wall) / 0.35)
    furrow = torch.sigmoid((sulcus + brain.sulcus + 0.03 * noise[1] - 0.165 - 0.12 * deep) / 0.024)
    csf = 1 - (1 - ventricle) * (1 - furrow)
    crisp = torch.sigmoid((white + 0.1 * noise[0] - 0.5) / 0.12)
    white = (deep * white + (1 - deep) * crisp) * (1 - csf)
    return {"grey": 1 - csf - white, "white": white, "csf": csf, "ventricle": ventricle}
