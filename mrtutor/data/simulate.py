"""The simulated cohort: one call makes one patient's four sequences with their ground truth.

Everything that comes out is simulated; no patient's data goes in. Source of each step: see `anatomy`, `growth`,
`phenotype`, `tumour`, `signal` and `noise`.
"""

import torch
import torchio as tio
from torch import Tensor

from mrtutor.data import signal
from mrtutor.data.anatomy import (
    CHANNELS,
    COARSE,
    CROP,
    CROP_START,
    GRID,
    draw_brain,
    lattice,
    sample,
    template,
    tissues,
)
from mrtutor.data.noise import one_thread, patient_generator, rician, smooth_field, uniform
from mrtutor.data.phenotype import Phenotype, draw_idh, draw_phenotype
from mrtutor.data.tumour import grow_tumour, label_map, to_crop, tumour_tissues
from mrtutor.vocabulary import IDH, Modality

COHORT_SIZE = 484  # as many as the paper's cohort, §4.1
NOISE = 0.013  # sd of the Rician noise as a fraction of the brain's 99.5th percentile
BIAS = 0.09  # sd of the log of the coil's bias field
TEXTURE = 0.025  # sd of the tissue texture as a fraction of the signal
SHIFT_MM = 0.4  # largest misregistration of a sequence along an axis; two sequences differ by 0.27 mm on average
SCALE = 1000.0  # signal 1 (all magnetisation of water) in the units of the images


def simulate_subject(
    number: int, *, seed: int = 0, idh: IDH | str | None = None, noise: bool = True, device: str = "cpu"
) -> tio.Subject:
    """Simulate one patient.

    Args:
        number: number of the patient in the cohort, from 0.
        seed: seed of the cohort; the same (seed, number, idh) gives the same bits on one machine; on another x86 CPU
            with AVX2 hardly a pixel differs while MKL_CBWR=AVX2 is set, as `mrtutor simulate` does.
        idh: the type; None draws it at the cohort's proportion (`phenotype.MUTANT_FRACTION`).
        noise: False leaves the Rician noise out and nothing else: what no model can predict.
        device: where the voxels are computed; other devices round differently from the CPU.

    Returns:
        Subject with FLAIR, T1, T1Gd, T2 ((1, 240, 240, 155) float32, RAS+, 1 mm, 0 outside the brain), tumour and
        brain label maps, `subject_id`, `idh`, `phenotype` (dict of `phenotype.Phenotype`).

    Raises:
        ValueError: negative or non-integer number or seed, unknown type.
    """
    for name, value in (("number", number), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"Expected {name} to be an integer from 0, got {value!r}.")
    draws = patient_generator(seed, number, "phenotype")
    drawn = draw_idh(draws)
    phenotype = draw_phenotype(drawn if idh is None else idh, draws)
    with one_thread(), torch.no_grad():
        images, brain, tumour = _render(phenotype, seed, number, noise, device)
    return _subject(number, phenotype, images, brain, tumour)


def _render(phenotype: Phenotype, seed: int, number: int, noise: bool, device: str) -> tuple[dict, Tensor, Tensor]:
    """Images by modality, brain mask and tumour labels, each (X, Y, Z) of the crop."""
    generator = patient_generator(seed, number, "anatomy")
    brain = draw_brain(phenotype.age, generator)
    tumour = grow_tumour(brain, phenotype, generator)
    outline = to_crop(sample(template()[:1], brain.to_template(lattice(COARSE))).to(device))[0]
    shell = outline < 1.2  # a voxel more than the brain, so that moving an image by half a voxel finds a value
    voxels = shell.nonzero().float()  # (V, 3)
    width = phenotype.front_width_mm
    coarse = torch.cat([tumour.push, tumour.growth.depth_mm(width)[None], tumour.growth.density[None]])
    push, depth, density = to_crop(coarse.to(device))[:, shell].split([3, 1, 1])
    maps = sample(template().to(device), brain.to_template(voxels - push.T))
    fields = [smooth_field(CROP, mm, generator, n).to(device)[:, shell] for mm, n in ((14, 1), (7, 3), (4, 3))]
    wobble = 0.75 * fields[1] + 0.65 * fields[2]
    right = torch.sigmoid((voxels[:, 0] - 84.5) / 3)
    healthy = tissues(maps, brain, right, wobble)
    mix = tumour_tissues(
        depth[0], density[0], phenotype, healthy, torch.stack([fields[0][0], fields[1][0], fields[2][0]])
    )
    mask = outline < 0
    labels = torch.zeros(CROP, dtype=torch.uint8, device=device)
    labels[shell] = label_map(mix)
    mix = _vessels(mix, healthy["ventricle"], maps[CHANNELS.index("sinus")], fields)
    texture = 0.6 * fields[1][0] + 0.5 * fields[2][1]  # shared by the sequences
    images = {m: _acquire(_signal(mix, m), texture, shell, mask, generator) for m in Modality}
    if noise:
        images = _noisy(images, mask, patient_generator(seed, number, "noise"))
    return images, mask, labels * mask


def _vessels(mix: dict[str, Tensor], ventricle: Tensor, sinus: Tensor, fields: list[Tensor]) -> dict[str, Tensor]:
    """Put the sagittal sinus and thin veins into the CSF: a vein is where two smooth fields are 0 at once."""
    _, middle, fine = fields
    vein = torch.exp(-(middle[1] ** 2 + fine[0] ** 2) / 0.03) * (ventricle < 0.05)
    vessel = torch.maximum(0.8 * sinus, 0.7 * vein) * mix["csf"].clamp(0, 1)
    return {**mix, "csf": mix["csf"] - vessel, "vessel": vessel}


def _signal(mix: dict[str, Tensor], modality: Modality) -> Tensor:
    """Partial volume: signals of the pure tissues weighted with their fractions."""
    total = torch.zeros_like(mix["csf"])
    for tissue, fraction in mix.items():
        total += signal.ideal_signal(tissue, modality) * fraction
    return SCALE * total


def _acquire(values: Tensor, texture: Tensor, shell: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Texture, coil bias, less than half a voxel of misregistration, skull stripping: (X, Y, Z), 0 outside the brain.

    The texture is half the patient's (``texture``) and half the sequence's own.
    """
    own = smooth_field(CROP, 6, generator)[0].to(values.device)[shell]
    bias = torch.exp(BIAS * smooth_field(tuple(-(-n // 4) for n in CROP), 90 / 4, generator)).to(values.device)
    image = torch.zeros(CROP, device=values.device)
    image[shell] = values * (1 + TEXTURE * (texture + 0.6 * own))
    image *= to_crop(bias)[0]
    for axis in range(3):
        shift = uniform(-SHIFT_MM, SHIFT_MM, generator)
        neighbour = image.roll(1 if shift > 0 else -1, dims=axis)
        image = image + abs(shift) * (neighbour - image)
    return image * mask


def _noisy(images: dict[Modality, Tensor], mask: Tensor, generator: torch.Generator) -> dict[Modality, Tensor]:
    """Rician noise inside the brain, its strength relative to the 99.5th percentile there."""
    noisy = {}
    for modality, image in images.items():
        inside = image[mask]
        top = inside.kthvalue(int(0.995 * inside.numel())).values.item()
        noisy[modality] = torch.zeros_like(image)
        noisy[modality][mask] = rician(inside, NOISE * top, generator)
    return noisy


def _subject(number: int, phenotype: Phenotype, images: dict, brain: Tensor, tumour: Tensor) -> tio.Subject:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = torch.tensor([-119.5, -136.0, -71.0])  # about MNI: voxel (119.5, 136, 71) is (0, 0, 0)
    affine = affine.numpy()
    return tio.Subject(
        subject_id=f"SIM-{number:04d}",
        idh=phenotype.idh,
        phenotype=phenotype.as_dict(),
        **{str(m): tio.ScalarImage(tensor=_on_grid(v), affine=affine) for m, v in images.items()},
        tumour=tio.LabelMap(tensor=_on_grid(tumour), affine=affine),
        brain=tio.LabelMap(tensor=_on_grid(brain.to(torch.uint8)), affine=affine),
    )


def _on_grid(crop: Tensor) -> Tensor:
    """(X, Y, Z) of the crop -> (1, 240, 240, 155), zeros around."""
    whole = torch.zeros(1, *GRID, dtype=crop.dtype)
    x, y, z = (slice(s, s + n) for s, n in zip(CROP_START, CROP, strict=True))
    whole[0, x, y, z] = crop.cpu()
    return whole
