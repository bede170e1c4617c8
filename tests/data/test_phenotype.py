"""Rates of the phenotype over the whole cohort, as the images' ground truth records them."""

import pytest

from mrtutor import IDH
from mrtutor.data.noise import patient_generator
from mrtutor.data.phenotype import LOBES, MUTANT_FRACTION, PHENOTYPES, draw_idh, draw_phenotype
from mrtutor.data.simulate import COHORT_SIZE


@pytest.fixture(scope="module")
def cohort() -> dict:
    """Phenotypes of the shipped cohort (seed 0), by type."""
    drawn = {idh: [] for idh in IDH}
    for number in range(COHORT_SIZE):
        generator = patient_generator(0, number, "phenotype")
        idh = draw_idh(generator)
        drawn[idh].append(draw_phenotype(idh, generator))
    return drawn


def _share(patients: list, name: str) -> float:
    return sum(getattr(p, name) for p in patients) / len(patients)


def test_mix_of_types(cohort):
    assert len(cohort[IDH.MUTANT]) / COHORT_SIZE == pytest.approx(MUTANT_FRACTION, abs=0.05)


def test_mismatch_sign_is_frequent_in_mutants_and_all_but_absent_in_wild_type(cohort):
    assert 0.29 <= _share(cohort[IDH.MUTANT], "mismatch") <= 0.42
    assert _share(cohort[IDH.WILD], "mismatch") <= 0.01


def test_ring_with_necrosis_is_the_rule_in_wild_type(cohort):
    assert 0.85 <= _share(cohort[IDH.WILD], "ring_necrosis") <= 0.95
    assert _share(cohort[IDH.MUTANT], "ring_necrosis") <= 0.10


def test_mutants_are_frontal_younger_and_sharper(cohort):
    mutant, wild = cohort[IDH.MUTANT], cohort[IDH.WILD]
    frontal = [sum(p.lobe == "frontal" for p in group) / len(group) for group in (mutant, wild)]
    assert frontal[0] > frontal[1] + 0.1
    assert _share(mutant, "age") < _share(wild, "age") - 10
    assert _share(mutant, "front_width_mm") < 0.5 * _share(wild, "front_width_mm")


def test_looks_exclude_each_other_and_lie_in_known_lobes(cohort):
    for patient in (p for group in cohort.values() for p in group):
        assert patient.mismatch + patient.ring_necrosis + patient.patchy_enhancement <= 1
        assert patient.lobe in LOBES and patient.side in ("left", "right")


def test_the_draw_depends_on_the_generator_alone():
    first, again, other = (draw_phenotype("wt", patient_generator(1, n, "phenotype")) for n in (5, 5, 6))
    assert first == again != other
    assert first.idh == "wild" and first.as_dict()["age"] == first.age


def test_every_rate_says_where_it_comes_from():
    assert all(rate.source for rate in PHENOTYPES.values())


def test_unknown_type_lists_the_choices():
    with pytest.raises(ValueError, match=r"Unknown IDH type 'maybe'.*mutant, wild"):
        draw_phenotype("maybe", patient_generator(0, 0, "phenotype"))
