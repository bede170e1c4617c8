"""The template's maps, a patient's own brain, and the fields both are bent with."""

import dataclasses

import pytest
import torch

from mrtutor.data.anatomy import CHANNELS, COARSE, CROP, draw_brain, lattice, sample, template, tissues
from mrtutor.data.noise import one_thread, patient_generator, rician, smooth_field

MASK, VENTRICLE = CHANNELS.index("mask"), CHANNELS.index("ventricle")


def _brain(age: float = 50, number: int = 3):
    return draw_brain(age, patient_generator(0, number, "anatomy"))


def _fractions(brain) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    points = lattice(COARSE)
    maps = sample(template(), brain.to_template(points))
    right = (points[..., 0] > CROP[0] / 2).float()
    return maps, tissues(maps, brain, right, torch.zeros(3, 1, 1, 1))


def test_template_maps_have_the_promised_values():
    maps = template()
    assert maps.shape == (len(CHANNELS), 197, 233, 189)
    assert maps[MASK, 98, 118, 78] < -30  # deep inside, in mm
    assert maps[MASK, 0, 0, 0] > 20
    assert torch.isfinite(maps).all()
    litres = float((maps[MASK] < 0).sum()) / 1e6
    assert 1.5 < litres < 2.2  # the ICBM152 brain is a large one


def test_tissue_fractions_add_up_to_one():
    maps, fraction = _fractions(_brain())
    total = fraction["grey"] + fraction["white"] + fraction["csf"]
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
    inside = maps[MASK] < 0
    for name, f in fraction.items():
        assert float(f[inside].min()) > -0.08 and float((f[inside] < -0.01).float().mean()) < 0.01, name
    shares = {name: float(f[inside].mean()) for name, f in fraction.items()}
    assert 0.25 < shares["white"] < 0.5 and 0.35 < shares["grey"] < 0.6 and 0.08 < shares["csf"] < 0.3


@pytest.mark.parametrize("number", range(4))
def test_every_brain_fits_into_the_crop(number):
    maps, _ = _fractions(_brain(number=number))
    inside = maps[MASK] < 0
    for axis in (0, 1):
        assert not inside.select(axis, 0).any() and not inside.select(axis, -1).any()
    # The brain stem leaves through the floor, and a tall brain loses less than 5 cm² at the vertex, as on a scanner.
    assert int(inside[..., -1].sum()) * 4 < 500  # mm²


def test_ventricles_widen_with_age_and_by_side():
    young, old = (float(_fractions(_brain(age))[1]["ventricle"].sum()) for age in (25, 80))
    assert old > 1.2 * young
    brain = dataclasses.replace(_brain(), ventricle_mm=(2.0, -1.0))  # left wide, right narrow
    ventricle = _fractions(brain)[1]["ventricle"]
    assert ventricle[: COARSE[0] // 2].sum() > 1.3 * ventricle[COARSE[0] // 2 + 1 :].sum()


def test_two_patients_have_different_brains():
    first, second = (_fractions(_brain(number=n))[1]["grey"] for n in (1, 2))
    assert float((first - second).abs().mean()) > 0.02


def test_sample_returns_the_voxels_and_halves_between_them():
    volume = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert sample(volume, torch.tensor([[1.0, 2.0, 3.0]])).item() == pytest.approx(23)
    assert sample(volume, torch.tensor([[0.5, 0.0, 0.0]])).item() == pytest.approx(6)


def test_smooth_field_has_unit_variance_and_no_fine_detail():
    field = smooth_field((60, 60, 60), 5, patient_generator(0, 0, "test"), 2)
    assert field.shape == (2, 60, 60, 60)
    assert float(field.std()) == pytest.approx(1, abs=0.1)
    assert abs(float(torch.corrcoef(field.flatten(1))[0, 1])) < 0.15
    assert float(field.diff(dim=1).std()) < 0.35  # white noise would have 1.41


def test_rician_noise_keeps_bright_values_and_lifts_zero():
    generator = patient_generator(0, 0, "test")
    bright = rician(torch.full((40_000,), 100.0), 2.0, generator)
    assert float(bright.mean()) == pytest.approx(100, abs=0.1) and float(bright.std()) == pytest.approx(2, abs=0.05)
    dark = rician(torch.zeros(40_000), 2.0, generator)
    assert float(dark.mean()) == pytest.approx(2 * (3.14159 / 2) ** 0.5, rel=0.02)  # Rayleigh


def test_streams_of_a_patient_are_independent_and_threads_are_given_back():
    draws = {torch.rand((), generator=patient_generator(0, n, s)).item() for n in (0, 1) for s in ("anatomy", "noise")}
    assert len(draws) == 4
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError("stop")
    assert torch.get_num_threads() == threads
