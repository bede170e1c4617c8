"""From growth to tumour tissue: necrosis, enhancing rim, solid part, oedema, and the push on the brain around.

Axes: X, Y, Z of the 2 mm grid (`anatomy.COARSE`) or V voxels of the brain.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mrtutor.data.anatomy import COARSE, CROP, MNI_ORIGIN, Brain, lattice, sample, template, tissues
from mrtutor.data.growth import Growth, grow
from mrtutor.data.noise import smooth_field
from mrtutor.data.phenotype import LOBES, Phenotype

LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 3, "solid": 4}
T2_VISIBLE = 0.16  # u from which T2 shows the infiltration: Harpold et al., J Neuropathol Exp Neurol 66:1-9 (2007)
COARSE_MM = 2.0


@dataclass(frozen=True)
class Tumour:
    """A grown tumour and the displacement it causes, on the 2 mm grid of the crop.

    Attributes:
        growth: density and exposure.
        push: (3, X, Y, Z) displacement of the tissue in mm.
    """

    growth: Growth
    push: Tensor


def _seed(brain: Brain, phenotype: Phenotype, maps: Tensor, points: Tensor, white: Tensor, generator) -> tuple:
    """A voxel of the 2 mm grid in the white matter of the wanted lobe, 9 mm and more below the surface."""
    mni = brain.to_template(points) - torch.tensor(MNI_ORIGIN)
    side = 1.0 if phenotype.side == "right" else -1.0
    position = mni * torch.tensor([side, 1.0, 1.0])
    inside = (white > 0.6) & (maps[0] < -9)
    for k, (low, high) in enumerate(LOBES[phenotype.lobe]):
        inside &= (position[..., k] > low) & (position[..., k] < high)
    candidates = inside.nonzero()
    if len(candidates) == 0:
        raise ValueError(
            f"No white matter in the {phenotype.side} {phenotype.lobe} box of this patient: "
            "the boxes of LOBES and the template do not fit together."
        )
    pick = int(torch.randint(len(candidates), (), generator=generator))
    return tuple(candidates[pick].tolist())


def _push(growth: Growth, phenotype: Phenotype) -> Tensor:
    """Displacement away from the tumour: down the slope of the blurred tumour, its longest arrow as drawn."""
    blurred = (growth.density > 0.5).float()[None, None]
    for size in ((9, 1, 1), (1, 9, 1), (1, 1, 9)) * 3:  # three box filters of 9 voxels: close to a Gaussian, sd 9 mm
        blurred = F.avg_pool3d(blurred, size, stride=1, padding=tuple(n // 2 for n in size))
    slope = torch.stack(torch.gradient(blurred[0, 0]))
    longest = slope.square().sum(0).sqrt().max().clamp(min=1e-6)
    return -slope / longest * phenotype.mass_effect_mm


def grow_tumour(brain: Brain, phenotype: Phenotype, generator: torch.Generator, snapshot=None) -> Tumour:
    """Grow the patient's tumour from a seed in its lobe.

    Args:
        brain: the patient's anatomy.
        phenotype: lobe, size, width of the front, mass effect.
        generator: draws the seed.
        snapshot: see `growth.grow`.
    """
    points = lattice(COARSE)
    maps = sample(template(), brain.to_template(points))
    right = torch.full(COARSE, 0.5)
    fraction = tissues(maps, brain, right, torch.zeros(3, 1, 1, 1))
    inside = (maps[0] < -1).float()
    white, csf = fraction["white"] * inside, fraction["csf"]
    # Thin sulci do not stop a tumour; ventricles and wide fissures do.
    wide = F.avg_pool3d(csf[None, None], 3, stride=1, padding=1)[0, 0]
    grey = (1 - torch.maximum(fraction["ventricle"], (wide > 0.6).float()) - white).clamp(0, 1) * inside
    # Fibres lead the cells along, which the fractions do not show: uneven motility makes the shape uneven.
    motility = torch.exp(0.5 * smooth_field(COARSE, 16 / COARSE_MM, generator)[0])
    seed = _seed(brain, phenotype, maps, points, fraction["white"], generator)
    volume = 4 / 3 * 3.14159 * phenotype.radius_mm**3
    growth = grow(
        white,
        grey,
        seed,
        width_mm=phenotype.front_width_mm,
        volume_mm3=volume,
        spacing_mm=COARSE_MM,
        motility=motility,
        snapshot=snapshot,
    )
    return Tumour(growth, _push(growth, phenotype))


def to_crop(coarse: Tensor) -> Tensor:
    """(C, *COARSE) at 2 mm -> (C, *CROP) at 1 mm, trilinear."""
    return F.interpolate(coarse[None], size=CROP, mode="trilinear", align_corners=True)[0]


def tumour_tissues(
    depth: Tensor, density: Tensor, phenotype: Phenotype, normal: dict[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """Fractions of all tissues, the healthy ones replaced where the tumour is.

    Args:
        depth: (V,) mm behind the tumour's front, see `Growth.depth_mm`.
        density: (V,) u in [0, 1].
        phenotype: ring, mismatch, …
        normal: (V,) fractions from `anatomy.tissues`.
        noise: (3, V) smooth unit noise: coarse (14 mm), middle (7 mm), fine (4 mm).

    Returns:
        (V,) fractions by the names of `signal.TISSUES` (vessels left out) that add up to 1.
    """
    coarse, middle, fine = noise
    open_csf = normal["ventricle"]
    border = depth + 1.6 * coarse + 0.9 * middle
    core = torch.sigmoid(border / (0.5 + 0.25 * phenotype.front_width_mm)) * (1 - open_csf)
    reach = (density.clamp(min=1e-4).log() - torch.log(torch.tensor(T2_VISIBLE)) + 0.35 * coarse) / 0.35
    oedema = torch.sigmoid(reach) * (normal["white"] + 0.35 * normal["grey"]) * 0.95 * (1 - core)
    healthy = 1 - core
    total = (normal["white"] + normal["grey"]).clamp(min=1e-4)
    spared = (healthy * total - oedema).clamp(min=0) / total
    out = {"grey": normal["grey"] * spared, "white": normal["white"] * spared, "csf": normal["csf"] * healthy}
    out["oedema"] = oedema
    inner = core * torch.sigmoid((border - 3.2 - 0.5 * middle) / 0.5)  # what lies under the rim
    rim_mm = 3.8 + 1.5 * coarse + 0.9 * middle
    hollow = core * torch.sigmoid((border - rim_mm.clamp(min=1.8)) / 0.5)
    out |= {name: torch.zeros_like(core) for name in ("necrosis", "enhancing", "mismatch")}
    if phenotype.mismatch:
        out["mismatch"] = inner
    elif phenotype.ring_necrosis:
        out["necrosis"] = hollow
        out["enhancing"] = (core - hollow) * torch.sigmoid((1.1 + coarse + 0.5 * fine) / 0.3)  # a ring with gaps
    elif phenotype.patchy_enhancement:
        out["enhancing"] = inner * torch.sigmoid((middle + 0.5 * coarse - 0.7) / 0.25)
    out["solid"] = core - out["necrosis"] - out["enhancing"] - out["mismatch"]
    return out


def label_map(fractions: dict[str, Tensor]) -> Tensor:
    """(V,) uint8: the commonest tumour tissue where tumour fills more than half of a voxel, else 0."""
    solid = fractions["solid"] + fractions["mismatch"]
    parts = torch.stack([fractions["necrosis"], fractions["oedema"], fractions["enhancing"], solid])
    return torch.where(parts.sum(0) > 0.5, parts.argmax(0) + 1, 0).to(torch.uint8)
