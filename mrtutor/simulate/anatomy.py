"""One healthy brain per patient: the ICBM152 2009a template, moved and bent, with ventricles and folds of its own.

The template averages 152 people, whose folds differ: a grey haze. Each patient therefore gets folds drawn as the zero
level of a smooth random field. Axes: X, Y, Z of a RAS+ grid, positions in voxels (1 mm).
Source of the maps: Fonov et al., NeuroImage 54:313-327 (2011); see data/LICENSE-ICBM152.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import nibabel as nib
import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from torch import Tensor

GRID = (240, 240, 155)  # the BraTS grid, 1 mm
CROP_START, CROP = (35, 19, 0), (169, 201, 155)  # the box around every brain in which all work is done
COARSE = (85, 101, 78)  # the same box at 2 mm
FIELD = (43, 51, 40)  # the same box at about 4 mm
CHANNELS = ("mask", "white", "sulcus", "ventricle", "deep", "sinus", "folded")
MNI_ORIGIN = (98.0, 134.0, 72.0)  # template voxel of MNI (0, 0, 0)


def patient_generator(seed: int, number: int, stream: str) -> torch.Generator:
    """A generator for one patient's ``stream`` ("anatomy", "noise", …), the same in any order of patients."""
    digest = hashlib.sha256(f"mrtutor/{seed}/{number}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def normal(mean: float, sd: float, low: float, high: float, generator: torch.Generator) -> float:
    """One number from a normal distribution, clamped to [low, high]."""
    return min(max(mean + sd * torch.randn((), generator=generator, dtype=torch.float64).item(), low), high)


def smooth_field(shape: tuple[int, int, int], spacing: float, generator: torch.Generator, channels: int = 1) -> Tensor:
    """Random fields (channels, *shape) of mean 0 and sd 1: cubic B-splines, control points ``spacing`` voxels apart."""
    bases = []
    for n in shape:
        control = torch.arange(int((n - 1) / spacing) + 4, dtype=torch.float32) - 1
        t = (torch.arange(n, dtype=torch.float32)[:, None] / spacing - control).abs()
        bases.append(torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6))
    field = torch.randn(channels, *(b.shape[1] for b in bases), generator=generator)
    for axis, basis in enumerate(bases, start=1):
        # A B-spline average of unit normals has a variance below 1: bring it back, axis by axis.
        basis = basis / (basis**2).sum(dim=1).mean().sqrt()
        field = torch.tensordot(field, basis, dims=([axis], [1])).movedim(-1, axis)
    return field.contiguous()


def sample(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values of ``volume`` (C, X, Y, Z) at voxel positions ``points`` (..., 3): (C, ...)."""
    grid = (2 * points / (torch.tensor(volume.shape[1:], device=points.device) - 1) - 1).flip(-1)  # Z, Y, X
    flat = F.grid_sample(volume[None], grid.reshape(1, 1, 1, -1, 3), align_corners=True, padding_mode="border")
    return flat.reshape(volume.shape[0], *points.shape[:-1])


def lattice(shape: tuple[int, int, int]) -> Tensor:
    """Crop voxels (*shape, 3) of a grid of ``shape`` that spans the crop from corner to corner."""
    axes = [torch.linspace(0, n - 1, m) for n, m in zip(CROP, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def to_crop(coarse: Tensor) -> Tensor:
    """(C, X, Y, Z) on a coarse grid of the crop -> (C, *CROP) at 1 mm, trilinear."""
    return F.interpolate(coarse[None], size=CROP, mode="trilinear", align_corners=True)[0]


def _signed_distance(inside: np.ndarray, smooth: float) -> np.ndarray:
    distance = ndi.distance_transform_edt(~inside) - ndi.distance_transform_edt(inside)
    return ndi.gaussian_filter(distance, smooth).astype(np.float32)


def _outline(tissue: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the outline: closed with a ball of 8 mm and filled, at 2 mm, which makes it smooth."""
    half = np.pad(tissue, [(10, 10 + n % 2) for n in tissue.shape])[::2, ::2, ::2]
    closed = ndi.distance_transform_edt(ndi.distance_transform_edt(~half) <= 4) > 4
    flat = ndi.generate_binary_structure(3, 1)
    flat[:, :, [0, 2]] = False
    distance = 2 * _signed_distance(ndi.binary_fill_holes(closed, flat), smooth=1.0)
    whole = torch.stack(torch.meshgrid(*[(torch.arange(n) + 10) / 2 for n in tissue.shape], indexing="ij"), dim=-1)
    return sample(torch.from_numpy(distance)[None], whole)[0].clamp(-40, 30).numpy()


@lru_cache(maxsize=1)
def template() -> Tensor:
    """The maps from which every patient is made: (7, 197, 233, 189) float32, one per name in `CHANNELS`.

    mask and ventricle are signed distances in mm (negative inside), white is the fraction of white matter, sulcus how
    much darker than its surroundings the T1 template is (about 0.2 in a sulcus); the others are weights in [0, 1].
    """
    folder = files("nilearn.datasets") / "data"
    paths = [str(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("gm", "wm", "t1")]
    grey, white, t1 = (np.asanyarray(nib.load(path).dataobj).astype(np.float32) / 255 for path in paths)
    axes = [a - o for a, o in zip(np.ogrid[tuple(slice(n) for n in t1.shape)], MNI_ORIGIN, strict=True)]

    def ellipsoid(centre: tuple, radii: tuple) -> np.ndarray:
        return np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)))

    mask = _outline(grey + white > 0.35)
    around = ndi.gaussian_filter(t1, 5) / np.maximum(ndi.gaussian_filter((mask < 0).astype(np.float32), 5), 0.3)
    sulcus = np.where(mask < 0, around - t1, 0.4)
    ventricle = np.full(t1.shape, 20, np.float32)
    box = np.s_[45:152, 55:185, 40:125]
    cistern = ellipsoid((0, -42, -2), (16, 16, 16)) <= 1  # behind the third ventricle: no ventricle
    middle = ((ellipsoid((0, -18, 12), (46, 58, 34)) < 1) & ~cistern)[box]
    ventricle[box] = _signed_distance(middle & (mask < -18)[box] & (grey + white < 0.5)[box], smooth=0.6).clip(-20, 20)
    central = (ellipsoid((0, -6, 3), (40, 36, 26)) < 1) | (ellipsoid((0, -30, -38), (17, 17, 32)) < 1)
    cerebellum = ellipsoid((0, -66, -40), (62, 40, 27)) < 1
    deep = ndi.gaussian_filter(central.astype(np.float32), 2)
    folded = 1 - ndi.gaussian_filter((cerebellum | central).astype(np.float32), 2)
    sagittal = (np.abs(axes[0]) < 3) & (axes[1] < 41) & (axes[2] > -2)
    sinus = ndi.gaussian_filter((sagittal & (np.abs(mask + 2.5) < 2.5)).astype(np.float32), 0.8)
    white = white + 0.7 * (1 - deep) * (white - ndi.gaussian_filter(white, 3))  # gyral blades, lost in the average
    maps = np.stack([mask, white, sulcus, ventricle, deep, sinus, folded])
    return torch.from_numpy(maps.astype(np.float32, copy=False))


@dataclass(frozen=True)
class Brain:
    """The map from a patient's grid to the template, and what age and chance do to the brain."""

    affine: Tensor  # (3, 3), template mm per patient mm
    bend: Tensor  # (3, *FIELD) displacement in mm
    folds: Tensor  # (6, *FIELD): a field that is 0 in the folds, its slope per mm, their depth, (3) bows in mm
    ventricle_mm: tuple[float, float]  # shift of the left and right ventricle's wall, positive is wider
    sulcus_mm: float  # half the width of a sulcus

    def maps(self, points: Tensor) -> dict[str, Tensor]:
        """At crop voxels (..., 3): `CHANNELS`, MNI position x_mm, y_mm, z_mm, and pial, mm below outline or fold."""
        device = points.device
        middle = torch.tensor([119.5 - s for s in CROP_START[:2]] + [77.0], device=device)
        linear = (points - middle) @ self.affine.to(device).T
        place = linear + torch.tensor([98.0, 118.0, 78.0], device=device) + _on_field(self.bend, points).movedim(0, -1)
        maps = dict(zip(CHANNELS, sample(template().to(device), place), strict=True))
        mni = place - torch.tensor(MNI_ORIGIN, device=device)
        maps |= dict(zip(("x_mm", "y_mm", "z_mm"), mni.unbind(-1), strict=True))
        # Folds go down towards the middle of their hemisphere: the field is read at one radius for all depths.
        middle = torch.stack([22 * mni[..., 0].sign(), *torch.full_like(mni[..., :2], -20.0).unbind(-1)], dim=-1)
        middle[..., 2] = 12.0
        arm = mni + _on_field(self.folds[3:], points).movedim(0, -1) - middle
        radius = arm.norm(dim=-1, keepdim=True).clamp(min=1)
        shell = arm / radius * 58 + middle + torch.tensor([84.0, 116.0, 71.0], device=device)
        level, slope, hollow = _on_field(self.folds[:3], shell)
        aside = level.abs() / slope.clamp(min=0.1) * (radius[..., 0] / 58)
        bottom = 6 + 17 * torch.sigmoid(1.6 * hollow)  # 6 to 23 mm deep
        fold = torch.sqrt(aside**2 + (-maps["mask"] - bottom).clamp(min=0) ** 2)
        rim = 2 * (self.sulcus_mm - 0.65) + 0.6 * hollow  # how much fluid skull stripping leaves outside
        maps["pial"] = torch.minimum(-maps["mask"] - rim, fold - self.sulcus_mm)
        return maps


def _on_field(field: Tensor, points: Tensor) -> Tensor:
    """Values of ``field`` (C, *FIELD) at crop voxels ``points`` (..., 3)."""
    scale = (torch.tensor(FIELD).float() - 1) / (torch.tensor(CROP).float() - 1)
    return sample(field.to(points.device), points * scale.to(points.device))


def draw_brain(age: float, generator: torch.Generator) -> Brain:
    """Draw size (± 4 %), tilt (± 5°), bends, folds, and ventricles and sulci that widen with ``age`` (ours, by eye)."""
    # 1.06: the template is larger than a head; so the brain gets the extent of real ones.
    affine = torch.diag(1.06 * torch.tensor([uniform(0.96, 1.04, generator) for _ in range(3)]))
    for axis in range(3):
        angle = uniform(-0.09, 0.09, generator)
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    bend = 2.4 * smooth_field(FIELD, 55 / 4, generator, 3) + 0.9 * smooth_field(FIELD, 22 / 4, generator, 3)
    level = smooth_field(FIELD, 9.5 / 4, generator)  # folds 9.5 mm apart
    slope = torch.stack(torch.gradient(level[0])).norm(dim=0, keepdim=True) / 4
    folds = [level, slope, smooth_field(FIELD, 16 / 4, generator), 2.5 * smooth_field(FIELD, 12 / 4, generator, 3)]
    ventricle = 0.04 * (age - 45) + normal(0, 0.9, -1.8, 1.8, generator)
    skew = normal(0, 0.35, -0.8, 0.8, generator)
    sulcus = max(0.45 + 0.008 * (age - 45) + normal(0, 0.15, -0.3, 0.3, generator), 0.2)
    return Brain(affine, bend, torch.cat(folds), (ventricle + skew, ventricle - skew), sulcus)


def tissues(maps: dict[str, Tensor], brain: Brain, noise: Tensor | None = None) -> dict[str, Tensor]:
    """Fractions (...) of grey, white and csf, which add up to 1, and of csf in the ventricles, from `Brain.maps`.

    ``noise`` (3, ...) is smooth and moves the borders of white matter, sulci and ventricles.
    """
    noise = torch.zeros(3, 1) if noise is None else noise
    deep, pial, depth = maps["deep"], maps["pial"], -maps["mask"]
    left_mm, right_mm = brain.ventricle_mm
    right = torch.sigmoid(maps["x_mm"] / 3)
    ventricle = torch.sigmoid((left_mm + (right_mm - left_mm) * right + 0.5 * noise[2] - maps["ventricle"]) / 0.35)
    folded = maps["folded"] * torch.sigmoid((26 - depth) / 3)
    # Of the template's furrows the cerebrum keeps the great fissures; the rest are drawn.
    furrow = torch.sigmoid((maps["sulcus"] + 0.03 * noise[1] - 0.165 - 0.12 * deep - 0.02 * folded) / 0.024)
    furrow = torch.maximum(furrow * torch.sigmoid((depth - 3 * folded) / 0.5), folded * torch.sigmoid(-pial / 0.25))
    csf = 1 - (1 - ventricle) * (1 - furrow)
    crisp = torch.sigmoid((maps["white"] + 0.1 * noise[0] - 0.5) / 0.12)
    # Near the surface the template is a haze, and the depth below the folds decides; deeper it decides itself.
    haze = torch.sigmoid((maps["white"] + 0.1 * noise[0] - 0.45 + 1.1 * torch.sigmoid((11 - depth) / 2)) / 0.12)
    banks = torch.sigmoid((0.1 - maps["sulcus"]) / 0.02)
    drawn = torch.sigmoid((pial - 3.6 + 0.5 * noise[0]) / 0.45) * haze * banks  # 3.6 mm of cortex, cut obliquely
    crisp = folded * drawn + (1 - folded) * crisp
    white = (deep * maps["white"] + (1 - deep) * crisp) * (1 - csf)
    return {"grey": 1 - csf - white, "white": white, "csf": csf, "ventricle": ventricle}
