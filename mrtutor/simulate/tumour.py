"""From an IDH type to a tumour: drawn phenotype, growth by the Fisher-KPP equation, and the tissues that come of it.

    du/dt = div(D grad u) + rho u (1 - u),   u: fraction of the carrying capacity, 0 to 1

Source: Swanson, Alvord and Murray, Cell Prolif 33:317-329 (2000): D in white matter five times and more that in grey.
Axes: X, Y, Z of the 2 mm grid (`anatomy.COARSE`) or V voxels of the brain.
"""

from collections import namedtuple
from dataclasses import dataclass
from math import exp, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mrtutor.simulate.anatomy import COARSE, Brain, lattice, normal, smooth_field, tissues, uniform
from mrtutor.vocabulary import IDH

RHO_PER_DAY = 0.012  # Swanson et al. 2000, high-grade glioma
GREY_TO_WHITE = 1 / 6  # D grey / D white; Swanson et al. 2000: at most 1/5
FRONT = 0.5  # u at the border of the solid tumour
COARSE_MM = 2.0
T2_VISIBLE = 0.16  # u from which T2 shows the infiltration: Harpold et al., J Neuropathol Exp Neurol 66:1-9 (2007)
LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 3, "solid": 4}
MUTANT_FRACTION = 0.45  # our choice, so that both types have patients enough (UCSF-PDGM: 103 of 501, 21 %)


Rate = namedtuple("Rate", "mutant wild source")  # per type a probability, or (mean, sd) in the unit of the name
PHENOTYPES = {
    # pooled sensitivity 42 % for the non-codeleted (Park, Eur Radiol 31:5289, 2021), 29 % of all (PubMed 35169897)
    "mismatch": Rate(0.36, 0.002, "T2-FLAIR mismatch sign: Patel, Clin Cancer Res 23:6078 (2017); Park (2021)"),
    # 87.5 % of the wild types enhance, 92 % of those with necrosis
    "ring_necrosis": Rate(0.06, 0.90, "Heidelberg series, doi:10.1093/neuonc/noaf070; Yamashita, AJNR 37:58 (2016)"),
    "patchy_enhancement": Rate(0.22, 0.60, "of the rest; mutants less: Carrillo, AJNR 33:1349 (2012); shares: ours"),
    "frontal": Rate(0.60, 0.28, "Lai, J Clin Oncol 29:4482 (2011); Tejada Neyra, Neuro-Oncology 20:1517 (2018)"),
    "front_width_mm": Rate((0.9, 0.15), (3.0, 0.7), "mutants are sharper: Carrillo (2012); the widths: ours"),
    "oedema_decades": Rate((0.4, 0.4), (2.3, 0.9), "mutants have less oedema: Carrillo (2012); the numbers: ours"),
    "satellite": Rate(0.15, 0.30, "ours"),
    "radius_mm": Rate((23.0, 5.0), (19.5, 5.0), "ours, from the extent of tumours in public cases"),
    "mass_effect_mm": Rate((4.0, 2.0), (6.0, 3.0), "ours"),
    "age": Rate((40.0, 11.0), (60.0, 12.0), "mutants are younger: Yan, N Engl J Med 360:765 (2009); the numbers: ours"),
}

LOBES = {  # where the first cells may lie, in MNI mm: |x|, y, z; roughly the lobes of the template, drawn by eye
    "frontal": ((12, 58), (2, 50), (-2, 48)),
    "temporal": ((32, 60), (-42, 4), (-18, 4)),
    "parietal": ((12, 55), (-62, -18), (22, 50)),
    "occipital": ((12, 42), (-88, -62), (0, 25)),
    "insula": ((26, 46), (-18, 16), (0, 16)),
}
_OTHER_LOBES = {"temporal": 0.45, "parietal": 0.27, "occipital": 0.10, "insula": 0.18}


@dataclass(frozen=True)
class Phenotype:
    """The tumour of one patient; the ground truth that the images show more or less."""

    idh: str  # "mutant" or "wild"
    age: float  # years
    lobe: str  # a key of `LOBES`
    side: str  # "left" or "right"
    mismatch: bool  # T2-FLAIR mismatch sign
    ring_necrosis: bool  # enhancing ring around necrosis
    patchy_enhancement: bool  # some enhancement without a ring
    radius_mm: float  # radius of a sphere of the solid tumour's volume
    front_width_mm: float  # sqrt(D/rho) in white matter
    mass_effect_mm: float  # largest displacement of the tissue around
    oedema_decades: float  # the oedema reaches to a density of `T2_VISIBLE` / 10^this
    satellite: bool  # a second, younger focus, 12 to 30 mm from the first


def draw_phenotype(idh: IDH | str | None, generator: torch.Generator) -> Phenotype:
    """Draw the type if it is None, and each trait at its rate of `PHENOTYPES`, so that few images prove the type."""
    drawn = IDH.MUTANT if uniform(0, 1, generator) < MUTANT_FRACTION else IDH.WILD
    idh = drawn if idh is None else IDH(idh)

    def chance(name: str) -> bool:
        return uniform(0, 1, generator) < getattr(PHENOTYPES[name], idh)

    def size(name: str, low: float, high: float) -> float:
        return round(normal(*getattr(PHENOTYPES[name], idh), low, high, generator), 2)

    lobe = "frontal"
    if not chance("frontal"):
        weights = torch.tensor(list(_OTHER_LOBES.values()))
        lobe = list(_OTHER_LOBES)[int(torch.multinomial(weights, 1, generator=generator))]
    side = "left" if uniform(0, 1, generator) < 0.5 else "right"
    mismatch, ring, patchy = chance("mismatch"), chance("ring_necrosis"), chance("patchy_enhancement")
    return Phenotype(
        idh=str(idh),
        age=round(size("age", 19, 88)),
        lobe=lobe,
        side=side,
        mismatch=mismatch,
        ring_necrosis=ring and not mismatch,  # the sign asks for a homogeneous tumour without necrosis (Patel 2017)
        patchy_enhancement=patchy and not ring and not mismatch,
        radius_mm=size("radius_mm", 9, 34),
        front_width_mm=size("front_width_mm", 0.7, 4.8),
        mass_effect_mm=size("mass_effect_mm", 0.5, 13.0),
        oedema_decades=size("oedema_decades", 0.0, 3.5),
        satellite=chance("satellite"),
    )


class Growth(NamedTuple):
    """What has grown."""

    density: Tensor  # (X, Y, Z) u in [0, 1]
    exposure: Tensor  # (X, Y, Z) rho times the time integral of u: how long the tumour has been there
    days: float  # simulated time

    def depth_mm(self, width_mm: float) -> Tensor:
        """Depth in mm behind the front, where u = 1/2; negative ahead of it, where u falls as exp(-z / width_mm).

        Logistic growth has the exposure -ln(1-u), so ln 2 at the front, which runs at 2 sqrt(D rho), that is
        2 ``width_mm`` per 1/rho. Source: Murray, Mathematical Biology I, 3rd ed., §13.2.
        """
        ahead = (2 * self.density).clamp(1e-6, 1).log() * width_mm
        return (self.exposure - 0.6931) * 2 * width_mm + ahead


def first_cells(place: tuple[int, int, int], shape: tuple[int, int, int] = COARSE) -> Tensor:
    """Density of a tumour's first cells: a Gaussian of height 1 and sd 2 mm around voxel ``place``."""
    x, y, z = (torch.arange(n, dtype=torch.float32) - p for n, p in zip(shape, place, strict=True))
    r2 = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) * COARSE_MM**2
    return torch.exp(-r2 / (2 * 2.0**2))


def grow(
    white: Tensor,
    grey: Tensor,
    first: Tensor,
    width_mm: float,
    volume_mm3: float,
    motility: Tensor | float = 1.0,
    proliferation: Tensor | float = 1.0,
) -> Growth:
    """Grow a tumour until the part with u > 1/2 fills ``volume_mm3``, or for 1500 steps where it finds no room.

    ``white, grey, first``: (X, Y, Z) tissue fractions and first cells in [0, 1]; ``width_mm``: sqrt(D/rho) in white
    matter, 1 is sharp, 4 diffuse; ``motility``: factor on D, for each axis if (3, X, Y, Z); ``proliferation``: on rho.
    """
    alive = (white + grey > 0.4).float()  # elsewhere nothing grows
    diffusion = (alive * RHO_PER_DAY * width_mm**2 * (white + GREY_TO_WHITE * grey)).expand(3, *white.shape) * motility
    dt = min(0.9 * COARSE_MM**2 / (6 * float(diffusion.max())), 0.25 / RHO_PER_DAY)  # stability of the explicit step
    faces = []  # D dt / h² between neighbours along each axis: the harmonic mean, 0 as soon as one has no tissue
    for axis, along in enumerate(diffusion):
        a, b = along.narrow(axis, 0, along.shape[axis] - 1), along.narrow(axis, 1, along.shape[axis] - 1)
        faces.append(dt / COARSE_MM**2 * 2 * a * b / (a + b).clamp(min=1e-12))
    rate = RHO_PER_DAY * dt * alive * proliferation
    u = first * alive
    exposure, steps, wanted = torch.zeros_like(u), 0, volume_mm3 / COARSE_MM**3
    while steps < 1500 and int((u > FRONT).sum()) < wanted:
        exposure += RHO_PER_DAY * dt * u
        spread = torch.zeros_like(u)
        for axis, face in enumerate(faces):
            n = face.shape[axis]
            flow = face * (u.narrow(axis, 1, n) - u.narrow(axis, 0, n))
            spread.narrow(axis, 0, n).add_(flow)
            spread.narrow(axis, 1, n).sub_(flow)
        u = (u + spread + rate * u * (1 - u)).clamp_(0, 1)
        steps += 1
    return Growth(u, exposure, steps * dt)


def _pick(candidates: Tensor, generator: torch.Generator) -> tuple[int, int, int]:
    places = candidates.nonzero()
    return tuple(places[int(torch.randint(len(places), (), generator=generator))].tolist())


def grow_tumour(brain: Brain, phenotype: Phenotype, generator: torch.Generator) -> tuple[Growth, Tensor]:
    """Grow the patient's tumour from first cells in the white matter of its lobe, 9 mm and more below the surface.

    Returns the growth and the displacement (3, X, Y, Z) in mm of the tissue around it, on the 2 mm grid of the crop.
    """
    maps = brain.maps(lattice(COARSE))
    fraction = tissues(maps, brain)
    inside = (maps["mask"] < -1).float()
    white = fraction["white"] * inside
    # Thin sulci do not stop a tumour; ventricles and wide fissures do.
    wide = F.avg_pool3d(fraction["csf"][None, None], 3, stride=1, padding=1)[0, 0] > 0.6
    grey = (1 - torch.maximum(fraction["ventricle"], wide.float()) - white).clamp(0, 1) * inside
    # Fibres lead the cells along and clones differ: both make the shape irregular.
    motility = torch.exp(smooth_field(COARSE, 14 / COARSE_MM, generator, 3)).clamp(0.1, 2.5)
    proliferation = torch.exp(0.45 * smooth_field(COARSE, 12 / COARSE_MM, generator)[0]).clamp(0.4, 2)
    matter = (white > 0.6) & (maps["mask"] < -9)
    lobe = matter.clone()
    side = 1.0 if phenotype.side == "right" else -1.0
    place = (side * maps["x_mm"], maps["y_mm"], maps["z_mm"])
    for axis, (low, high) in zip(place, LOBES[phenotype.lobe], strict=True):
        lobe &= (axis > low) & (axis < high)
    seed = _pick(lobe, generator)
    first = first_cells(seed)
    if phenotype.satellite:
        apart = (lattice(COARSE) - lattice(COARSE)[seed]).norm(dim=-1)  # mm
        second = _pick(matter & (apart > 12) & (apart < 30), generator)
        first = torch.maximum(first, exp(-uniform(1, 5, generator)) * first_cells(second))
    box = tuple(slice(max(0, s - 44), s + 44) for s in seed)  # 88 mm to each side, to save time
    width, volume = phenotype.front_width_mm, 4 / 3 * pi * phenotype.radius_mm**3
    grown = grow(white[box], grey[box], first[box], width, volume, motility[:, *box], proliferation[box])
    density, exposure = torch.zeros(2, *COARSE)
    density[box], exposure[box] = grown.density, grown.exposure
    # The tissue is pushed down the slope of the blurred tumour, its longest arrow as the phenotype says.
    blurred = (density > FRONT).float()[None, None]
    for size in ((13, 1, 1), (1, 13, 1), (1, 1, 13)) * 3:  # three box filters: close to a Gaussian of sd 13 mm
        blurred = F.avg_pool3d(blurred, size, stride=1, padding=tuple(n // 2 for n in size))
    slope = torch.stack(torch.gradient(blurred[0, 0]))
    push = -slope / slope.square().sum(0).sqrt().max().clamp(min=1e-6) * phenotype.mass_effect_mm
    return Growth(density, exposure, grown.days), push


def tumour_tissues(
    depth: Tensor, density: Tensor, phenotype: Phenotype, healthy: dict[str, Tensor], noise: Tensor
) -> dict[str, Tensor]:
    """Fractions (V,) of all tissues that add up to 1: ``healthy`` of `anatomy.tissues`, replaced where the tumour is.

    ``depth``, ``density``: (V,) mm behind the front and u; ``noise``: (3, V) smooth unit noise of 14, 7 and 4 mm.
    """
    coarse, middle, fine = noise
    border = depth + 2.0 * coarse + 1.3 * middle + 0.5 * fine
    core = torch.sigmoid(border / (0.5 + 0.2 * phenotype.front_width_mm)) * (1 - healthy["ventricle"])
    level = torch.tensor(T2_VISIBLE).log() - 2.303 * phenotype.oedema_decades
    reach = (density.clamp(min=1e-7).log() - level + 2.5 * coarse + 0.8 * middle) / 0.8
    oedema = torch.sigmoid(reach) * (0.95 * healthy["white"] + 0.5 * healthy["grey"]) * (1 - core)
    matter = (healthy["white"] + healthy["grey"]).clamp(min=1e-4)
    spared = ((1 - core) * matter - oedema).clamp(min=0) / matter
    out = {"grey": healthy["grey"] * spared, "white": healthy["white"] * spared, "csf": healthy["csf"] * (1 - core)}
    inner = core * torch.sigmoid((border - 3.2 - 0.5 * middle) / 0.5)  # what lies under the mismatch's bright rim
    rim_mm = 3.8 * torch.exp(0.4 * coarse + 0.3 * middle)
    hollow = core * torch.sigmoid((border - rim_mm.clamp(min=1.4) + fine) / 0.6)
    out |= {"oedema": oedema} | {name: torch.zeros_like(core) for name in ("necrosis", "enhancing", "mismatch")}
    if phenotype.mismatch:
        out["mismatch"] = inner
    elif phenotype.ring_necrosis:
        out["necrosis"] = hollow
        out["enhancing"] = (core - hollow) * torch.sigmoid((1.3 + 0.9 * coarse + 0.6 * middle) / 0.4)  # with gaps
    elif phenotype.patchy_enhancement:
        out["enhancing"] = inner * torch.sigmoid((middle + 0.5 * coarse + 0.4 * fine - 0.7) / 0.25)
    out["solid"] = core - out["necrosis"] - out["enhancing"] - out["mismatch"]
    return out


def label_map(fractions: dict[str, Tensor]) -> Tensor:
    """(V,) uint8 by `LABELS`: the commonest tumour tissue where tumour fills more than half of a voxel, else 0."""
    parts = [fractions[name] for name in ("necrosis", "oedema", "enhancing")]
    parts.append(fractions["solid"] + fractions["mismatch"])
    return ((torch.stack(parts).argmax(dim=0) + 1) * (sum(parts) > 0.5)).to(torch.uint8)


def textured(fractions: dict[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
    """Make the tumour uneven: debris and old blood ("blood") in necrosis, cysts in solid tumour, streaks in oedema.

    ``fractions`` and ``noise`` as in `tumour_tissues`; the sum stays, and labels are drawn before.
    """
    coarse, middle, fine = noise
    out = dict(fractions)

    def move(source: str, target: str, share: Tensor) -> None:
        part = out[source] * share.clamp(0, 1)
        out[source] = out[source] - part
        out[target] = out.get(target, 0) + part

    move("oedema", "white", 0.2 + 0.35 * coarse + 0.2 * middle + 0.08 * fine)
    move("enhancing", "solid", 0.15 + 0.3 * fine + 0.25 * middle)
    move("necrosis", "blood", 0.8 * torch.sigmoid((middle - 0.8 * fine - 1.7) / 0.4))
    move("necrosis", "solid", 0.35 + 0.5 * middle + 0.3 * fine - 0.2 * coarse)
    move("solid", "mismatch", 0.35 * middle - 0.3 * coarse + 0.15 * fine)
    move("solid", "grey", 0.05 + 0.35 * fine - 0.3 * middle)
    move("mismatch", "solid", 0.1 + 0.3 * fine)
    return out
