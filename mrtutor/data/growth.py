"""Tumour growth: the Fisher-KPP equation on the patient's own white and grey matter.

    du/dt = div(D grad u) + rho u (1 - u),   u: fraction of the carrying capacity, 0 to 1

Source: Swanson, Alvord and Murray, A quantitative model for differential motility of gliomas in grey and white
matter, Cell Prolif 33:317-329 (2000): D in white matter five times and more that in grey matter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RHO_PER_DAY = 0.012  # Swanson et al. 2000, high-grade glioma
GREY_TO_WHITE = 1 / 6  # D grey / D white; Swanson et al. 2000: at most 1/5
SEED_RADIUS_MM = 4.0
LEAST_TISSUE = 0.4  # white + grey from which a voxel counts as tissue
FRONT = 0.5  # u at the border of the solid tumour
MAX_STEPS = 1500


@dataclass(frozen=True)
class Growth:
    """What has grown.

    Attributes:
        density: (X, Y, Z) u in [0, 1].
        exposure: (X, Y, Z) rho times the time integral of u, without unit: how long the tumour has been there.
        days: simulated time.
    """

    density: Tensor
    exposure: Tensor
    days: float

    def depth_mm(self, width_mm: float) -> Tensor:
        """Depth behind the front in mm: about 0 where u = 1/2, positive inside, negative ahead of it.

        Inside: for logistic growth the exposure at u is -ln(1-u), hence ln 2 at the front, and the front of
        Fisher-KPP runs at 2 sqrt(D rho), that is 2 ``width_mm`` per 1/rho. Ahead u falls as exp(-z / width_mm).
        Source: Murray, Mathematical Biology I, 3rd ed., §13.2.
        """
        ahead = (2 * self.density).clamp(1e-6, 1).log() * width_mm
        return (self.exposure - 0.6931) * 2 * width_mm + ahead


def _flux(u: Tensor, faces: list[Tensor]) -> Tensor:
    """div(D grad u) with zero-flux walls; ``faces``: D dt / h² between neighbours along each axis."""
    change = torch.zeros_like(u)
    for axis, face in enumerate(faces):
        n = u.shape[axis]
        flow = face * (u.narrow(axis, 1, n - 1) - u.narrow(axis, 0, n - 1))
        change.narrow(axis, 0, n - 1).add_(flow)
        change.narrow(axis, 1, n - 1).sub_(flow)
    return change


def _faces(diffusion: Tensor, factor: float) -> list[Tensor]:
    """Harmonic mean of D on the faces: 0 as soon as one of the two voxels has no tissue."""
    faces = []
    for axis in range(3):
        n = diffusion.shape[axis]
        a, b = diffusion.narrow(axis, 0, n - 1), diffusion.narrow(axis, 1, n - 1)
        faces.append(factor * 2 * a * b / (a + b).clamp(min=1e-12))
    return faces


def _first_cells(like: Tensor, seed: tuple[float, float, float], spacing_mm: float) -> Tensor:
    """A Gaussian of height 1 and standard deviation `SEED_RADIUS_MM` / 2 around the seed."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) - s for n, s in zip(like.shape, seed, strict=True)]
    r2 = (axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2) * spacing_mm**2
    return torch.exp(-r2 / (2 * (SEED_RADIUS_MM / 2) ** 2))


def _motility(white: Tensor, grey: Tensor, d_white: float, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where cells live (X, Y, Z; 0 or 1), and D there in mm² per day."""
    alive = (white + grey > LEAST_TISSUE).to(white.dtype)
    diffusion = alive * d_white * (white + GREY_TO_WHITE * grey)
    return alive, diffusion if factor is None else diffusion * factor


def grow(
    white: Tensor,
    grey: Tensor,
    seed: tuple[float, float, float],
    *,
    width_mm: float,
    volume_mm3: float,
    spacing_mm: float = 2.0,
    rho: float = RHO_PER_DAY,
    motility: Tensor | None = None,
    snapshot: Callable[[float, Tensor], None] | None = None,
) -> Growth:
    """Grow a tumour until the part with u > 1/2 fills ``volume_mm3``, or for `MAX_STEPS` where it finds no room.

    Args:
        white, grey: (X, Y, Z) tissue fractions in [0, 1]; where both are small (CSF, outside) nothing grows.
        seed: voxel position of the first cells.
        width_mm: sqrt(D/rho) in white matter, the width of the front: about 1 is sharp, 4 diffuse.
        volume_mm3, spacing_mm: wanted volume of the solid tumour, voxel size.
        motility: (X, Y, Z) factor on D, or None for 1 everywhere.
        rho: proliferation per day; sets the clock, not the shape.
        snapshot: called with (days, u) after every step, for film strips.

    Raises:
        ValueError: shapes differ, a size is not positive, or the seed lies where nothing can grow.
    """
    _check(white, grey, seed, width_mm, volume_mm3)
    alive, diffusion = _motility(white, grey, rho * width_mm**2, motility)
    dt = min(0.9 * spacing_mm**2 / (6 * float(diffusion.max())), 0.25 / rho)  # stability of the explicit step
    faces = _faces(diffusion, dt / spacing_mm**2)
    u = alive * _first_cells(alive, seed, spacing_mm)
    exposure, steps, wanted = torch.zeros_like(u), 0, volume_mm3 / spacing_mm**3
    while steps < MAX_STEPS and int((u > FRONT).sum()) < wanted:
        exposure += rho * dt * u
        u = (u + _flux(u, faces) + rho * dt * alive * u * (1 - u)).clamp_(0, 1)
        steps += 1
        if snapshot is not None:
            snapshot(steps * dt, u)
    return Growth(u, exposure, steps * dt)


def _check(white: Tensor, grey: Tensor, seed: tuple, width_mm: float, volume_mm3: float) -> None:
    if white.ndim != 3 or white.shape != grey.shape:
        raise ValueError(
            f"Expected white and grey of one shape (X, Y, Z), got {tuple(white.shape)} and {tuple(grey.shape)}."
        )
    if width_mm <= 0 or volume_mm3 <= 0:
        raise ValueError(f"Expected width_mm and volume_mm3 above 0, got {width_mm} and {volume_mm3}.")
    voxel = tuple(round(s) for s in seed)
    inside = len(voxel) == 3 and all(0 <= v < n for v, n in zip(voxel, white.shape, strict=True))
    if not inside or float(white[voxel] + grey[voxel]) <= LEAST_TISSUE:
        raise ValueError(
            f"The seed {tuple(seed)} lies outside the tissue of a grid {tuple(white.shape)}: "
            f"choose a voxel where white + grey > {LEAST_TISSUE}."
        )
