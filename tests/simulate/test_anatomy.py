"""A patient's own brain."""

import dataclasses

import torch

from mrtutor.simulate.anatomy import COARSE, Brain, draw_brain, lattice, patient_generator, tissues


def drawn(age: float = 50, number: int = 1) -> Brain:
    return draw_brain(age, patient_generator(0, number, "anatomy"))


def fractions(brain: Brain) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    maps = brain.maps(lattice(COARSE))
    return maps, tissues(maps, brain)


def test_tissues_of_a_brain_add_up_and_it_fits_into_the_crop():
    maps, fraction = fractions(drawn())
    total = fraction["grey"] + fraction["white"] + fraction["csf"]
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
    inside = maps["mask"] < 0
    shares = {name: float(f[inside].mean()) for name, f in fraction.items()}
    assert 0.25 < shares["white"] < 0.6 and 0.3 < shares["grey"] < 0.6 and 0.04 < shares["csf"] < 0.3
    assert not any(inside.select(axis, end).any() for axis in (0, 1) for end in (0, -1))


def test_folds_are_the_patients_own_and_ventricles_have_two_sides():
    first = drawn()
    other = dataclasses.replace(first, folds=drawn(number=2).folds, ventricle_mm=(2.0, -1.0))  # left wide
    (maps, fraction), (_, changed) = fractions(first), fractions(other)
    below = (maps["mask"] < -5) & (maps["mask"] > -12) & (maps["folded"] > 0.9)
    assert 0.02 < float((fraction["csf"] > 0.5)[below].float().mean()) < 0.3  # sulci, 5 to 12 mm below the surface
    assert float((fraction["csf"] - changed["csf"]).abs()[below].mean()) > 0.05
    assert drawn(80).sulcus_mm > first.sulcus_mm + 0.2
    left, right = changed["ventricle"][: COARSE[0] // 2].sum(), changed["ventricle"][COARSE[0] // 2 + 1 :].sum()
    assert left > 1.3 * right
