"""The signal equations against numbers worked out by hand, and the order of brightness they give."""

from math import exp, log

import pytest

from mrtutor import Modality
from mrtutor.data.signal import (
    SEQUENCES,
    TISSUES,
    gadolinium_t1,
    ideal_signal,
    inversion_recovery,
    spin_echo,
)


def test_spin_echo_has_the_two_limits_of_the_textbook():
    assert spin_echo(1000, 100, 0.8, tr=1e9, te=0) == pytest.approx(0.8)  # nothing but proton density
    assert spin_echo(1000, 100, 1.0, tr=1000 * log(2), te=100 * log(2)) == pytest.approx(0.25)  # half of a half


def test_inversion_recovery_is_zero_at_the_null_point_and_positive_around_it():
    t1, tr = 4000.0, 9000.0
    null = t1 * log(2 / (1 + exp(-tr / t1)))
    assert inversion_recovery(t1, 1500, 1.0, tr, 90, null) == pytest.approx(0, abs=1e-12)
    for ti in (null - 200, null + 200):
        assert inversion_recovery(t1, 1500, 1.0, tr, 90, ti) > 0.02


def test_gadolinium_shortens_t1_by_the_relaxivity():
    assert gadolinium_t1(1500, 0.0) == pytest.approx(1500)
    assert gadolinium_t1(1000, 0.2, relaxivity=5.0) == pytest.approx(500)  # 1/s + 0.2 mM x 5 /mM/s = 2/s


@pytest.mark.parametrize(
    ("modality", "order"),
    [
        (Modality.FLAIR, ["oedema", "grey", "white", "csf"]),
        (Modality.T1, ["white", "grey", "oedema", "csf"]),
        (Modality.T1GD, ["enhancing", "white", "grey", "oedema", "csf"]),
        (Modality.T2, ["csf", "oedema", "grey", "white"]),
    ],
)
def test_order_of_brightness(modality, order):
    values = [ideal_signal(tissue, modality) for tissue in order]
    assert values == sorted(values, reverse=True)


def test_mismatch_is_bright_on_t2_and_dark_on_flair():
    assert ideal_signal("mismatch", "T2") > 1.1 * ideal_signal("solid", "T2")
    assert ideal_signal("mismatch", "FLAIR") < 0.6 * ideal_signal("solid", "FLAIR")
    assert ideal_signal("mismatch", "FLAIR") < ideal_signal("white", "FLAIR")


def test_contrast_agent_changes_only_what_takes_it_up():
    for name, tissue in TISSUES.items():
        before, after = ideal_signal(name, "T1"), ideal_signal(name, "T1Gd")
        assert after > 1.2 * before if tissue.gd else after == pytest.approx(before)


def test_every_tissue_names_its_source_and_every_modality_has_a_sequence():
    assert all(tissue.source for tissue in TISSUES.values())
    assert list(SEQUENCES) == list(Modality)


def test_unknown_tissue_lists_the_choices():
    with pytest.raises(ValueError, match=r"Unknown tissue 'bone'.*grey, white, csf"):
        ideal_signal("bone", "T1")
    with pytest.raises(ValueError, match="Unknown modality 'PET'"):
        ideal_signal("grey", "PET")
