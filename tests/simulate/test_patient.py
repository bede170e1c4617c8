"""The signal equations against numbers worked out by hand; a simulated patient's form, reproducibility and look."""

from math import exp, log

import pytest
import torch
from scipy.ndimage import minimum_filter

from mrtutor.simulate import simulate_subject
from mrtutor.simulate.anatomy import patient_generator
from mrtutor.simulate.patient import TISSUES, Sequence, draw_scanner, ideal_signal
from mrtutor.vocabulary import Modality

WILD = 4  # of the shipped cohort: a wild type with a ring


def test_signal_equations_have_the_limits_of_the_textbook():
    t1, t2, pd, _ = TISSUES["white"]
    assert ideal_signal("white", Sequence(tr=1e9, te=0)) == pytest.approx(pd)  # nothing but proton density
    assert ideal_signal("white", Sequence(t1 * log(2), t2 * log(2))) == pytest.approx(pd / 4)  # half of a half
    t1, _, _, gd = TISSUES["enhancing"]
    shortened = 1 / (1 / t1 + 2 * gd * 5.0 / 1000)  # double dose
    agent = Sequence(tr=shortened * log(2), te=0, contrast_agent=True)
    assert ideal_signal("enhancing", agent, dose=2) == pytest.approx(TISSUES["enhancing"].pd / 2)
    null = TISSUES["csf"].t1 * log(2 / (1 + exp(-9000 / TISSUES["csf"].t1)))
    assert ideal_signal("csf", Sequence(9000, 90, null)) == pytest.approx(0, abs=1e-12)
    assert min(ideal_signal("csf", Sequence(9000, 90, null + shift)) for shift in (-200, 200)) > 0.02


ORDER = {
    Modality.FLAIR: ["oedema", "grey", "white", "mismatch", "csf"],
    Modality.T1: ["white", "grey", "oedema", "csf"],
    Modality.T1GD: ["enhancing", "white", "grey", "oedema", "csf"],
    Modality.T2: ["csf", "mismatch", "solid", "grey", "white"],
}


@pytest.mark.parametrize("modality", list(Modality))
def test_order_of_brightness(modality):
    """In the textbook's protocol, and in FLAIR, T1 and T2 of every drawn scanner."""
    values = [ideal_signal(tissue, modality) for tissue in ORDER[modality]]
    assert values == sorted(values, reverse=True)
    healthy = [t for t in ORDER[modality] if t in ("grey", "white", "csf")]
    for number in range(40):
        scanner = draw_scanner(patient_generator(0, number, "scanner"))
        values = [ideal_signal(t, scanner.sequences[modality], scanner.dose) for t in healthy]
        assert modality is Modality.T1GD or values == sorted(values, reverse=True), scanner


@pytest.fixture(scope="session")
def noisy():
    return simulate_subject(WILD)


@pytest.fixture(scope="session")
def clean():
    """The same patient without noise, after other work and with other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    yield simulate_subject(WILD, noise=False)
    torch.set_num_threads(threads)


def label(subject, *labels: int) -> torch.Tensor:
    return torch.isin(subject.tumour.data, torch.tensor(labels, dtype=torch.uint8))


def eroded(mask: torch.Tensor, radius: int) -> torch.Tensor:
    return torch.from_numpy(minimum_filter(mask[0].numpy(), 2 * radius + 1))[None]


def test_form_bits_and_noise_of_a_subject(noisy, clean):
    """The same bits after other work and with other threads; ``noise=False`` leaves nothing out but the noise."""
    assert noisy.subject_id == "SIM-0004" and noisy.source == "simulated" and noisy.idh == "wild"
    assert torch.equal(noisy.tumour.data, clean.tumour.data) and torch.equal(noisy.brain.data, clean.brain.data)
    assert noisy.phenotype == clean.phenotype and noisy.scanner == clean.scanner
    inside = clean.brain.data > 0
    assert 1.0e6 < int(inside.sum()) < 1.9e6 and not label(noisy, 1, 2, 3, 4)[~inside].any()  # mm³
    draws = patient_generator(0, WILD, "noise")
    for modality in Modality:
        image = noisy[modality]
        assert image.data.shape == (1, 240, 240, 155) and image.data.dtype == torch.float32
        assert image.orientation == ("R", "A", "S") and image.spacing == pytest.approx((1, 1, 1))
        assert not image.data[~inside].any()
        values = clean[modality].data[inside]
        top = values.kthvalue(int(0.995 * values.numel())).values.item()
        sigma = noisy.scanner["noise"][modality] * top
        real, imaginary = (torch.randn(values.shape, generator=draws) for _ in range(2))
        assert torch.equal(image.data[inside], torch.hypot(values + sigma * real, sigma * imaginary))


def test_lesions_look_as_real_ones_do(clean):
    """Scaled so that the brain's median is the grey of the preparation, real FLAIR oedema has a SD of .04 to .09."""
    assert clean.phenotype["ring_necrosis"]
    flair, t1gd, t2 = clean["FLAIR"].data, clean["T1Gd"].data, clean["T2"].data
    ring, necrosis, healthy = label(clean, 3), label(clean, 1), (clean.brain.data > 0) & ~label(clean, 1, 2, 3, 4)
    assert int(ring.sum()) > 500 and int(necrosis.sum()) > 500
    assert t1gd[ring].median() > 1.1 * t1gd[healthy].median() > 1.1 * t1gd[necrosis].median()
    assert float(t2[necrosis].std() / t2[healthy].median()) > 0.1
    oedema = eroded(label(clean, 2), 1)
    assert 0.03 < 0.4 * float(flair[oedema].std() / flair[healthy].median()) < 0.14
    for image in (flair, t2):
        assert 1.15 < float(image[oedema].median() / image[healthy].median()) < 2.2
