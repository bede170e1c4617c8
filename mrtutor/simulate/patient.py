"""The simulated cohort: one call makes one patient's four sequences with their ground truth.

From tissue to grey value: the signal equations with relaxation times of 3 T, a scanner drawn per patient, and skull
stripping. Axes: X, Y, Z of the crop or V voxels of the brain. Times in ms, concentrations in mmol/l (mM), signals as
a fraction of the full magnetisation of water.
"""

from collections import namedtuple
from dataclasses import asdict, dataclass
from math import exp, log

import torch
import torchio as tio
from torch import Tensor

from mrtutor.simulate import anatomy
from mrtutor.simulate import tumour as growth
from mrtutor.simulate.anatomy import CROP, CROP_START, FIELD, normal, patient_generator, smooth_field, to_crop, uniform
from mrtutor.simulate.tumour import Phenotype
from mrtutor.vocabulary import IDH, Modality

COHORT_SIZE = 484  # as many as the paper's cohort, §4.1
# Typical sd of the Rician noise as a fraction of the brain's 99.5th percentile; each patient's own lies around it.
NOISE = {Modality.FLAIR: 0.007, Modality.T1: 0.015, Modality.T1GD: 0.011, Modality.T2: 0.009}


# At 3 T: ms, ms, proton density (water = 1), mM of gadolinium after injection (behind the barrier only the blood's).
Tissue = namedtuple("Tissue", "t1 t2 pd gd")
TISSUES = {
    # T1, T2: Wansapura et al., J Magn Reson Imaging 9:531-538 (1999); water: Tofts, Quantitative MRI (2003), ch. 4
    "grey": Tissue(1331, 110, 0.82, 0.015),
    "white": Tissue(832, 79.6, 0.70, 0.005),
    "csf": Tissue(4000, 1500, 1.00, 0.0),  # T1: Rooney et al., Magn Reson Med 57:308-318 (2007)
    # Our choice between normal tissue and CSF, so that the order of brightness agrees with public cases.
    "oedema": Tissue(1550, 270, 0.90, 0.0),
    "solid": Tissue(1400, 180, 0.87, 0.0),
    "mismatch": Tissue(2800, 330, 0.94, 0.0),
    "enhancing": Tissue(1450, 145, 0.85, 0.32),
    "necrosis": Tissue(2600, 350, 0.95, 0.03),
    "blood": Tissue(700, 60, 0.80, 0.0),  # old blood: methaemoglobin shortens T1 and T2
    "gliosis": Tissue(1250, 150, 0.82, 0.0),
    "choroid": Tissue(1500, 180, 0.85, 0.15),  # choroid plexus, no blood-brain barrier
    "vessel": Tissue(1650, 90, 0.45, 0.9),  # T1: Lu et al., Magn Reson Med 52:679-682 (2004); flow void as a low pd
}


@dataclass(frozen=True)
class Sequence:
    """One pulse sequence: times in ms; ``ti`` None is a spin echo, else an inversion recovery."""

    tr: float
    te: float
    ti: float | None = None
    contrast_agent: bool = False


# The textbook's protocol; each patient's own is drawn around it by `draw_scanner`.
SEQUENCES: dict[Modality, Sequence] = {
    # FLAIR: CSF is not nulled quite; real cases show it at about a fifth of white matter too.
    Modality.FLAIR: Sequence(tr=9000, te=90, ti=2500),
    # T1: 3 T protocols often weight T1 by an inversion pulse (Mugler and Brookeman, Magn Reson Med 15:152-157, 1990).
    Modality.T1: Sequence(tr=2000, te=8, ti=1000),
    Modality.T1GD: Sequence(tr=2000, te=8, ti=1000, contrast_agent=True),
    Modality.T2: Sequence(tr=6000, te=80),
}


def ideal_signal(tissue: str, sequence: Sequence | Modality | str, dose: float = 1.0) -> float:
    """Signal of a pure tissue (a key of `TISSUES`) without bias field, texture or noise.

    ``sequence`` is a protocol, or a modality for that of `SEQUENCES`; ``dose`` a factor on the contrast agent.
    """
    t1, t2, pd, gd = TISSUES[tissue]
    s = sequence if isinstance(sequence, Sequence) else SEQUENCES[Modality(sequence)]
    if s.contrast_agent:
        t1 = 1 / (1 / t1 + 5.0 * (gd * dose) / 1000)  # 5 per mM and s: Szomolanyi et al., Invest Radiol 54:559 (2019)
    if s.ti is None:
        return pd * (1 - exp(-s.tr / t1)) * exp(-s.te / t2)
    return pd * abs(1 - 2 * exp(-s.ti / t1) + exp(-s.tr / t1)) * exp(-s.te / t2)  # the magnitude image


@dataclass(frozen=True)
class Scanner:
    """How one patient is scanned."""

    sequences: dict[Modality, Sequence]
    dose: float  # factor on the concentration of the contrast agent
    blur_mm: dict[Modality, tuple[float, float]]  # sd in plane and across planes
    noise: dict[Modality, float]  # sd of the Rician noise as a fraction of the brain's 99.5th percentile
    bias: float  # sd of the log of the coil's bias field
    texture: float  # sd of the tissue texture as a fraction of the signal
    mixing: float  # share of grey matter in the signal of white matter and the other way round, 0 to 1/2


def draw_scanner(generator: torch.Generator) -> Scanner:
    """Draw protocol, sharpness and noise; the ranges are ours, as wide as those of the public training cases."""

    def log_normal(median: float, sd: float) -> float:
        return median * exp(normal(0, sd, -2 * sd, 2 * sd, generator))

    tr = uniform(7000, 11000, generator)
    null = TISSUES["csf"].t1 * log(2 / (1 + exp(-tr / TISSUES["csf"].t1)))
    flair = Sequence(tr, uniform(90, 130, generator), null * uniform(0.95, 1.12, generator))
    t2 = Sequence(uniform(4500, 8000, generator), uniform(85, 125, generator))
    t1 = []
    inverted = uniform(0, 1, generator) < 0.25
    for _ in range(2):  # T1 and T1Gd are mostly, not always, of one kind
        if inverted is not (uniform(0, 1, generator) < 0.2):
            t1.append((2000.0, uniform(4, 8, generator), uniform(950, 1150, generator)))
        else:
            t1.append((uniform(450, 900, generator), uniform(8, 15, generator), None))
    plain, agent = Sequence(*t1[0]), Sequence(*t1[1], contrast_agent=True)
    sharp, noisy = log_normal(0.4, 0.4), log_normal(1.0, 0.4)
    blur = {}
    for modality in SEQUENCES:
        thick = uniform(0, 1, generator) < 0.5  # planes of 3 to 6 mm, as most clinical protocols
        across = uniform(1.2, 2.4, generator) if thick else 0.5
        blur[modality] = (sharp * log_normal(1.0, 0.2), across)
    return Scanner(
        sequences=dict(zip(SEQUENCES, (flair, plain, agent, t2), strict=True)),
        dose=log_normal(1.1, 0.5),
        blur_mm=blur,
        noise={modality: level * noisy for modality, level in NOISE.items()},
        bias=uniform(0.07, 0.22, generator),
        texture=uniform(0.025, 0.05, generator),
        mixing=uniform(0.1, 0.34, generator),
    )


def simulate_subject(
    number: int, *, seed: int = 0, idh: IDH | str | None = None, noise: bool = True, device: str = "cpu"
) -> tio.Subject:
    """Simulate one patient: the same (seed, number, idh) gives the same bits on one machine.

    On another x86 CPU with AVX2 hardly a pixel differs while MKL_CBWR=AVX2 is set, as `mrtutor simulate` does; other
    devices round differently. ``noise=False`` leaves the Rician noise out and nothing else.
    The subject has FLAIR, T1, T1Gd, T2 ((1, 240, 240, 155) float32, RAS+, 1 mm, 0 outside the brain), ``tumour``
    (0 none, 1 necrosis, 2 oedema, 3 enhancing, 4 solid) and ``brain`` label maps, ``subject_id``, ``idh``, ``source``
    "simulated", ``phenotype`` and ``scanner`` (dicts of `Phenotype` and `Scanner`).
    """
    phenotype = growth.draw_phenotype(idh, patient_generator(seed, number, "phenotype"))
    scanner = draw_scanner(patient_generator(seed, number, "scanner"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums split over threads round differently
    try:
        volumes = _render(phenotype, scanner, seed, number, noise, device)
    finally:
        torch.set_num_threads(threads)
    affine = torch.eye(4, dtype=torch.float64).numpy()
    affine[:3, 3] = (-119.5, -136.0, -71.0)  # about MNI: voxel (119.5, 136, 71) is (0, 0, 0)
    x, y, z = (slice(s, s + n) for s, n in zip(CROP_START, CROP, strict=True))
    images = {}
    for name, volume in volumes.items():
        whole = torch.zeros(1, *anatomy.GRID, dtype=volume.dtype)
        whole[0, x, y, z] = volume.cpu()
        kind = tio.LabelMap if name in ("tumour", "brain") else tio.ScalarImage
        images[name] = kind(tensor=whole, affine=affine)
    images |= {"phenotype": asdict(phenotype), "scanner": asdict(scanner)}
    return tio.Subject(subject_id=f"SIM-{number:04d}", idh=phenotype.idh, source="simulated", **images)


def _render(
    phenotype: Phenotype, scanner: Scanner, seed: int, number: int, noise: bool, device: str
) -> dict[str, Tensor]:
    """FLAIR, T1, T1Gd, T2, tumour and brain, each (X, Y, Z) of the crop."""
    generator = patient_generator(seed, number, "anatomy")
    brain = anatomy.draw_brain(phenotype.age, generator)
    grown, push = growth.grow_tumour(brain, phenotype, generator)
    outline = to_crop(brain.maps(anatomy.lattice(anatomy.COARSE))["mask"][None].to(device))[0]
    shell = outline < 1.8  # a voxel more than the brain, so that moving an image by half a voxel finds a value
    coarse = torch.cat([push, grown.depth_mm(phenotype.front_width_mm)[None], grown.density[None]])
    push, (depth, density) = to_crop(coarse.to(device))[:, shell].split([3, 2])
    maps = brain.maps(shell.nonzero().float() - push.T)
    fields = [smooth_field(CROP, mm, generator, n).to(device)[:, shell] for mm, n in ((14, 1), (7, 3), (4, 3))]
    coarse, middle, fine = fields
    swollen = torch.sigmoid((density.clamp(min=1e-7).log10() + 2.5) / 0.4)  # closes the sulci
    maps["pial"] = maps["pial"] + 0.9 * swollen
    maps["sulcus"] = maps["sulcus"] - 0.06 * swollen
    healthy = anatomy.tissues(maps, brain, 0.75 * middle + 0.65 * fine)
    noises = torch.stack([coarse[0], middle[0], fine[0]])
    mix = growth.tumour_tissues(depth, density, phenotype, healthy, noises)
    cut = 0.8 * middle[1] + 0.4 * fine[1]  # skull stripping is not smooth, and leaves a dark rim of meninges
    mask = shell.clone()
    mask[shell] = outline[shell] + cut < 0.9
    brain_side = torch.sigmoid((0.3 - outline[shell] - 0.5 * cut) / 0.35)
    labels = torch.zeros(CROP, dtype=torch.uint8, device=device)
    labels[shell] = growth.label_map(mix)
    mix = _details(growth.textured(mix, noises), maps, healthy["ventricle"], phenotype.age, middle, fine)
    texture = 0.7 * coarse[0] + 0.6 * middle[0] + 0.5 * fine[1]  # shared by the sequences
    volumes = {}
    for modality in scanner.sequences:
        pure = {tissue: ideal_signal(tissue, scanner.sequences[modality], scanner.dose) for tissue in mix}
        gap = scanner.mixing * (pure["white"] - pure["grey"])
        pure |= {"grey": pure["grey"] + gap, "white": pure["white"] - gap}
        values = brain_side * sum(1000.0 * pure[tissue] * fraction for tissue, fraction in mix.items())
        volumes[str(modality)] = _acquire(values, texture, shell, scanner, modality, generator) * mask
    if noise:
        draws = patient_generator(seed, number, "noise")
        for modality in scanner.sequences:
            inside = volumes[modality][mask]
            top = inside.kthvalue(int(0.995 * inside.numel())).values.item()
            # Rician: both parts of the complex signal are noisy (Gudbjartsson and Patz, Magn Reson Med 34:910, 1995).
            real, imaginary = (torch.randn(inside.shape, generator=draws).to(device) for _ in range(2))
            sigma = scanner.noise[modality] * top
            volumes[modality][mask] = torch.hypot(inside + sigma * real, sigma * imaginary)
    return volumes | {"tumour": labels * mask, "brain": mask.to(torch.uint8)}


def _details(
    mix: dict[str, Tensor], maps: dict[str, Tensor], ventricle: Tensor, age: float, middle: Tensor, fine: Tensor
) -> dict[str, Tensor]:
    """Add the sagittal sinus, veins (where two smooth fields are 0 at once), choroid plexus and gliosis."""
    out = dict(mix)
    vein = torch.exp(-(middle[1] ** 2 + fine[0] ** 2) / 0.02) * (ventricle < 0.05)
    vessel = torch.maximum(0.9 * maps["sinus"], 0.7 * vein) * out["csf"].clamp(0, 1)
    out["csf"] = out["csf"] - vessel
    for tissue, share in (("grey", 0.45), ("white", 0.3)):
        thin = share * torch.exp(-(middle[2] ** 2 + fine[1] ** 2) / 0.012) * out[tissue].clamp(0, 1)
        out[tissue] = out[tissue] - thin
        vessel = vessel + thin
    out["vessel"] = vessel
    atrium = ((maps["x_mm"].abs() - 20) / 13) ** 2 + ((maps["y_mm"] + 36) / 16) ** 2 + ((maps["z_mm"] - 6) / 16) ** 2
    plexus = torch.sigmoid((fine[0] + 0.6 * middle[0] - 0.8) / 0.2) * torch.sigmoid((1 - atrium) / 0.1)
    out["choroid"] = plexus * ventricle * (out["csf"].clamp(0, 1))
    out["csf"] = out["csf"] - out["choroid"]
    cap = torch.exp(-((maps["ventricle"] / 2.5) ** 2)) * (0.25 + 0.005 * (age - 40))
    spots = torch.sigmoid((middle[1] + 0.5 * fine[2] + 0.02 * (age - 60) - 2.4) / 0.15)
    out["gliosis"] = torch.maximum(cap, 0.8 * spots).clamp(0, 1) * out["white"].clamp(0, 1)
    out["white"] = out["white"] - out["gliosis"]
    return out


def _acquire(
    values: Tensor, texture: Tensor, shell: Tensor, scanner: Scanner, modality: Modality, generator: torch.Generator
) -> Tensor:
    """Volume of the crop from ``values`` of the shell: texture, coil bias, blur and half a voxel of misregistration."""
    own = smooth_field(FIELD, 6 / 4, generator)  # half of the texture is the sequence's own
    bias = scanner.bias * smooth_field(FIELD, 90 / 4, generator)
    own, bias = to_crop(torch.cat([own, torch.exp(bias)]).to(values.device))
    image = torch.zeros(CROP, device=values.device)
    image[shell] = values * (1 + scanner.texture * (texture + 0.6 * own[shell]))
    image *= bias
    in_plane, across = scanner.blur_mm[modality]
    for axis, sd in enumerate((in_plane, in_plane, across)):
        shift = uniform(-0.4, 0.4, generator)  # mm between the sequences
        steps = range(-max(1, round(2 * sd)), max(1, round(2 * sd)) + 1)
        weights = torch.tensor([exp(-((k - shift) ** 2) / (2 * max(sd, 0.35) ** 2)) for k in steps])
        blurred = torch.zeros_like(image)
        for k, weight in zip(steps, (weights / weights.sum()).tolist(), strict=True):
            length = image.shape[axis] - abs(k)
            blurred.narrow(axis, max(k, 0), length).add_(image.narrow(axis, max(-k, 0), length), alpha=weight)
        image = blurred
    return image
