"""What the IDH type does to a glioma's look: published rates, drawn independently for each patient.

The phenotype is probabilistic on purpose: from many images the type cannot be read, as in life.
"""

from dataclasses import asdict, dataclass

import torch

from mrtutor.data.noise import normal, uniform
from mrtutor.vocabulary import IDH

MUTANT_FRACTION = 0.45
"""Share of IDH mutants in the simulated cohort: a choice for teaching, so that both types have patients enough.

UCSF-PDGM, the public twin of the paper's cohort, has 103 mutant of 501 with known type (about 21 %).
"""


@dataclass(frozen=True)
class Rate:
    """One number per IDH type and where it comes from.

    Attributes:
        mutant, wild: probability in [0, 1], or (mean, sd) in the unit that the name says.
        source: citation; "ours" where no paper gives the number.
    """

    mutant: float | tuple[float, float]
    wild: float | tuple[float, float]
    source: str

    def of(self, idh: IDH) -> float | tuple[float, float]:
        """The number of one type."""
        return self.mutant if idh is IDH.MUTANT else self.wild


PHENOTYPES: dict[str, Rate] = {
    "mismatch": Rate(
        0.36,
        0.002,
        "T2-FLAIR mismatch sign: pooled sensitivity 42 % for IDH-mutant non-codeleted, specificity 100 %: Park et al., "
        "Eur Radiol 31:5289-5299 (2021); 29 % of all IDH mutants, specificity 99 %: meta-analysis of 14 studies, "
        "PubMed 35169897 (2022); the sign: Patel et al., Clin Cancer Res 23:6078-6085 (2017)",
    ),
    "ring_necrosis": Rate(
        0.06,
        0.90,
        "308 of 352 (87.5 %) IDH-wild-type glioblastomas enhance, 92 % of those with necrosis (histology): Heidelberg "
        "series, Neuro-Oncology, doi:10.1093/neuonc/noaf070 (2025); less necrosis in mutants: Yamashita et al., AJNR "
        "Am J Neuroradiol 37:58-65 (2016); the shares themselves: ours",
    ),
    "patchy_enhancement": Rate(
        0.22,
        0.60,
        "share of those with neither ring nor mismatch; mutants enhance less: Carrillo et al., AJNR Am J Neuroradiol "
        "33:1349-1355 (2012); the exact share: ours",
    ),
    "frontal": Rate(
        0.60,
        0.28,
        "IDH mutants lie mostly in the frontal lobe: Lai et al., J Clin Oncol 29:4482-4490 (2011); Tejada Neyra et "
        "al., Neuro-Oncology 20:1517-1524 (2018); the exact shares: ours",
    ),
    "front_width_mm": Rate(
        (0.9, 0.15),
        (3.0, 0.7),
        "mutants: sharper border, less oedema: Carrillo et al. (2012); the widths (sqrt(D/rho) of Fisher-KPP in white "
        "matter): ours, narrower than the 7 mm of Swanson et al., Cell Prolif 33:317-329 (2000)",
    ),
    "radius_mm": Rate((19.0, 3.5), (15.5, 3.5), "radius of a sphere of the solid tumour's volume: ours"),
    "mass_effect_mm": Rate((3.0, 1.0), (4.0, 1.5), "largest displacement of the tissue around: ours"),
    "age": Rate(
        (40.0, 11.0),
        (60.0, 12.0),
        "mutants are younger: Yan et al., N Engl J Med 360:765-773 (2009); the numbers: ours",
    ),
}

LOBES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "frontal": ((12, 58), (2, 50), (-2, 48)),
    "temporal": ((32, 60), (-42, 4), (-18, 4)),
    "parietal": ((12, 55), (-62, -18), (22, 50)),
    "occipital": ((12, 42), (-88, -62), (0, 25)),
    "insula": ((26, 46), (-18, 16), (0, 16)),
}
"""Boxes of the seed in MNI mm: |x|, y, z. Roughly the lobes of the ICBM152 template; drawn by eye."""

_OTHER_LOBES = {"temporal": 0.45, "parietal": 0.27, "occipital": 0.10, "insula": 0.18}


@dataclass(frozen=True)
class Phenotype:
    """The tumour of one patient; the ground truth that the images show more or less.

    Attributes:
        idh: "mutant" or "wild".
        age: years.
        lobe: a key of `LOBES`.
        side: "left" or "right".
        mismatch: T2-FLAIR mismatch sign.
        ring_necrosis: enhancing ring around necrosis.
        patchy_enhancement: some enhancement without a ring.
        radius_mm: radius of a sphere of the solid tumour's volume.
        front_width_mm: sqrt(D/rho) in white matter; the oedema's width grows with it.
        mass_effect_mm: largest displacement of the tissue around.
    """

    idh: str
    age: float
    lobe: str
    side: str
    mismatch: bool
    ring_necrosis: bool
    patchy_enhancement: bool
    radius_mm: float
    front_width_mm: float
    mass_effect_mm: float

    def as_dict(self) -> dict:
        """Plain dict, for `torchio.Subject` and JSON."""
        return asdict(self)


def draw_idh(generator: torch.Generator) -> IDH:
    """Draw the type at the cohort's proportion `MUTANT_FRACTION`."""
    return IDH.MUTANT if uniform(0, 1, generator) < MUTANT_FRACTION else IDH.WILD


def draw_phenotype(idh: IDH | str, generator: torch.Generator) -> Phenotype:
    """Draw one patient's phenotype at the rates of `PHENOTYPES`.

    Args:
        idh: the type, or an alias of it.
        generator: a CPU generator.

    Raises:
        ValueError: unknown type; the message lists the choices.
    """
    idh = IDH(idh)
    rate = {name: r.of(idh) for name, r in PHENOTYPES.items()}

    def chance(name: str) -> bool:
        return uniform(0, 1, generator) < rate[name]

    def size(name: str, low: float, high: float) -> float:
        return round(normal(*rate[name], low, high, generator), 2)

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
        radius_mm=size("radius_mm", 9, 28),
        front_width_mm=size("front_width_mm", 0.7, 4.8),
        mass_effect_mm=size("mass_effect_mm", 0.5, 7.0),
    )
