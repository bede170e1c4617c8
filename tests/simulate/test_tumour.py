"""Rates of the phenotype; speed, walls, borders and parts of the simulated growth."""

import dataclasses

import pytest
import torch

from mrtutor.simulate import COHORT_SIZE
from mrtutor.simulate.anatomy import patient_generator
from mrtutor.simulate.tumour import RHO_PER_DAY, Growth, draw_phenotype, first_cells, grow, label_map, tumour_tissues
from mrtutor.vocabulary import IDH

SHAPE = (36, 36, 36)


def test_shares_are_the_published_rates():
    """Phenotypes of the shipped cohort (seed 0)."""
    drawn = [draw_phenotype(None, patient_generator(0, number, "phenotype")) for number in range(COHORT_SIZE)]
    mutant, wild = ([p for p in drawn if p.idh == idh] for idh in IDH)

    def share(patients: list, name: str) -> float:
        return sum(getattr(p, name) for p in patients) / len(patients)

    assert len(mutant) / COHORT_SIZE == pytest.approx(0.45, abs=0.05) and drawn[3] == draw_phenotype(
        None, patient_generator(0, 3, "phenotype")
    )
    assert 0.29 <= share(mutant, "mismatch") <= 0.42 and share(wild, "mismatch") <= 0.01
    assert 0.85 <= share(wild, "ring_necrosis") <= 0.95 and share(mutant, "ring_necrosis") <= 0.10
    frontal = [sum(p.lobe == "frontal" for p in group) / len(group) for group in (mutant, wild)]
    assert frontal[0] > frontal[1] + 0.1
    assert share(mutant, "age") < share(wild, "age") - 10
    assert share(mutant, "front_width_mm") < 0.5 * share(wild, "front_width_mm")
    assert all(p.mismatch + p.ring_necrosis + p.patchy_enhancement <= 1 for p in drawn)
    traits = torch.tensor([[p.ring_necrosis, p.lobe == "frontal", p.satellite, p.side == "left", p.age] for p in wild])
    correlation = torch.corrcoef(traits.float().T)  # independent within a type
    assert float((correlation - torch.eye(5)).abs().max()) < 4 / len(wild) ** 0.5


def sphere(radius_mm: float) -> float:
    return 4 / 3 * 3.14159 * radius_mm**3


def grown(radius_mm: float = 12, white: float | torch.Tensor = 1.0, width_mm: float = 2.0, **factors) -> Growth:
    white = white * torch.ones(SHAPE)
    return grow(white, 1 - white, first_cells((18, 18, 18), SHAPE), width_mm, sphere(radius_mm), **factors)


def test_one_step_is_the_equation_in_millimetres_and_days():
    rod, first = torch.ones(60, 1, 1), first_cells((30, 0, 0), (60, 1, 1))
    growth = grow(rod, 0 * rod, first, width_mm=2.0, volume_mm3=8 * float((first > 0.5).sum() + 2))
    u, dt = first[:, 0, 0], 0.9 * 2**2 / (6 * RHO_PER_DAY * 2**2)  # D = rho width²; voxels of 2 mm
    dt = min(dt, 0.25 / RHO_PER_DAY)
    for _ in range(round(growth.days / dt)):
        flow = torch.zeros(61)
        flow[1:-1] = RHO_PER_DAY * 2**2 * (u[1:] - u[:-1]) / 2
        u = u + dt * ((flow[1:] - flow[:-1]) / 2 + RHO_PER_DAY * u * (1 - u))
    assert growth.days >= dt and torch.allclose(u, growth.density[:, 0, 0], atol=1e-5)


def test_depth_is_zero_at_the_front_and_counts_millimetres_behind_it():
    growth = grown(22, width_mm=1.5)
    assert sphere(22) <= float((growth.density > 0.5).sum()) * 8 < 1.2 * sphere(22)
    depth = growth.depth_mm(1.5)[18:, 18, 18]  # one ray from the seed, 2 mm a voxel
    front = int((growth.density[18:, 18, 18] > 0.5).sum())
    assert abs(float(depth[front - 1] + depth[front]) / 2) < 1.5
    # The front of a sphere runs slower than the plane front of the equation, so 8 mm count as somewhat more.
    assert 8 < float(depth[front - 5] - depth[front - 1]) < 16
    assert float(depth[-1]) < -5


def test_width_tissue_motility_and_proliferation_shape_the_tumour():
    sharp, wide = (grown(14, width_mm=width).density for width in (1.0, 3.0))
    shares = [float(((u > 0.16) & (u <= 0.5)).sum() / (u > 0.5).sum()) for u in (sharp, wide)]
    assert shares[1] > 2 * shares[0]
    uneven, along_x, white = torch.ones(SHAPE), torch.ones(3, *SHAPE), torch.ones(SHAPE)
    uneven[:18], along_x[1:], white[24] = 0.1, 0.1, 0.0  # 24: a wall of CSF, one voxel thick
    assert float(grown(16, white).density[25:].max()) > 0.01  # grey in the wall: nothing stops it
    walled = grow(white, 0 * white, first_cells((18, 18, 18), SHAPE), 2.0, sphere(16)).density
    assert float(walled[25:].max()) < 0.01 < float(walled[:12].max())
    assert grown(white=0.0).days > 1.3 * grown().days  # white matter is faster
    for change in ({"motility": uneven}, {"proliferation": uneven}):
        solid = grown(14, **change).density > 0.5
        assert solid[19:].sum() > 1.4 * solid[:18].sum(), change
    solid = grown(14, width_mm=3.0, motility=along_x).density > 0.5
    assert solid.any(2).any(1).sum() > 1.3 * solid.any(2).any(0).sum()


def parts(**look) -> dict[str, torch.Tensor]:
    """Tissues along a ray from 10 mm ahead of the front to 25 mm behind it, in white matter."""
    phenotype = dataclasses.replace(
        draw_phenotype("wild", torch.Generator().manual_seed(0)), front_width_mm=2.0, **look
    )
    depth = torch.linspace(-10, 25, 71)
    healthy = {"grey": 0 * depth, "white": 1 + 0 * depth, "csf": 0 * depth, "ventricle": 0 * depth}
    density = 0.5 * torch.exp(depth.clamp(max=0) / 2.0)
    return tumour_tissues(depth, density, phenotype, healthy, torch.zeros(3, 71))


def test_a_ring_lies_between_oedema_and_necrosis():
    labels = label_map(parts(ring_necrosis=True, oedema_decades=1.0)).tolist()
    assert [n for n, before in zip(labels, [0, *labels], strict=False) if n != before] == [2, 3, 1]
    solid = label_map(parts(ring_necrosis=False, oedema_decades=1.0)).tolist()
    assert solid[-1] == 4 and 3 not in solid
