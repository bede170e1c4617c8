"""A simulated patient: form, reproducibility, signal ratios and the look of both phenotypes."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mrtutor import IDH, Modality
from mrtutor.data.anatomy import CHANNELS, CROP, CROP_START, draw_brain, lattice, sample, template, tissues
from mrtutor.data.noise import patient_generator
from mrtutor.data.signal import ideal_signal
from mrtutor.data.simulate import NOISE, simulate_subject

WILD, MISMATCH = 2, 27  # of the shipped cohort: a wild type with a ring, a mutant with the mismatch sign
PART = tuple(slice(s, s + n) for s, n in zip(CROP_START, CROP, strict=True))
REAL = Path(os.environ.get("MRTUTOR_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nifti"


@pytest.fixture(scope="module")
def noisy():
    return simulate_subject(WILD)


@pytest.fixture(scope="module")
def clean():
    return simulate_subject(WILD, noise=False)


@pytest.fixture(scope="module")
def mutant():
    return simulate_subject(MISMATCH, noise=False)


def _label(subject, *labels: int) -> torch.Tensor:
    return torch.isin(subject.tumour.data, torch.tensor(labels, dtype=torch.uint8))


def test_form_of_a_subject(noisy):
    assert noisy.subject_id == "SIM-0002" and noisy.idh == noisy.phenotype["idh"] == "wild"
    inside = noisy.brain.data > 0
    assert 1.0e6 < int(inside.sum()) < 1.8e6  # mm³
    for modality in Modality:
        image = noisy[modality]
        assert image.data.shape == (1, 240, 240, 155) and image.data.dtype == torch.float32
        assert image.orientation == ("R", "A", "S") and image.spacing == pytest.approx((1, 1, 1))
        assert not image.data[~inside].any() and torch.isfinite(image.data).all() and image.data.min() >= 0
    assert not _label(noisy, 1, 2, 3, 4)[~inside].any()


def test_same_bits_after_other_work_and_with_other_threads(noisy):
    threads = torch.get_num_threads()
    torch.manual_seed(99)
    torch.set_num_threads(3 if threads != 3 else 2)
    try:
        again = simulate_subject(WILD)
    finally:
        torch.set_num_threads(threads)
    for name in (*Modality, "tumour", "brain"):
        assert torch.equal(again[name].data, noisy[name].data), name
    assert again.phenotype == noisy.phenotype


def test_noise_is_all_that_noise_false_leaves_out(noisy, clean):
    assert torch.equal(noisy.tumour.data, clean.tumour.data) and torch.equal(noisy.brain.data, clean.brain.data)
    inside = clean.brain.data > 0
    for modality in Modality:
        values = clean[modality].data[inside]
        top = values.kthvalue(int(0.995 * values.numel())).values
        bright = inside & (clean[modality].data > 0.2 * top)
        difference = (noisy[modality].data - clean[modality].data)[bright] / top
        assert float(difference.std()) == pytest.approx(NOISE, rel=0.1)
        assert abs(float(difference.mean())) < 0.1 * NOISE


def _maximum(volume: torch.Tensor, radius: int) -> torch.Tensor:
    """Largest value within ``radius`` voxels along each axis: (1, X, Y, Z) -> the same shape."""
    n = 2 * radius + 1
    for size in ((n, 1, 1), (1, n, 1), (1, 1, n)):
        volume = torch.nn.functional.max_pool3d(volume, size, 1, tuple(k // 2 for k in size))
    return volume


@pytest.fixture(scope="module")
def pure(clean) -> dict[str, torch.Tensor]:
    """Masks (X, Y, Z) of the crop where grey, white or CSF is alone, taken from the anatomy and not from the images.

    Grey is deep grey: in the cortex the patient's own sulci, which the anatomy does not know, bring CSF into a voxel.
    """
    brain = draw_brain(clean.phenotype["age"], patient_generator(0, WILD, "anatomy"))
    maps = sample(template(), brain.to_template(lattice(CROP)))
    fraction = tissues(maps, brain, torch.full(CROP, 0.5), torch.zeros(3, 1, 1, 1))
    fraction["csf"] = fraction["ventricle"]
    away = _maximum((clean.tumour.data > 0).float(), 12)[0][PART] == 0
    masks = {}
    for name in ("grey", "white", "csf"):
        eroded = -_maximum(-fraction[name][None], 1)[0]
        masks[name] = (eroded > (0.95 if name == "grey" else 0.99)) & (maps[0] < -4) & away
    masks["grey"] &= maps[CHANNELS.index("deep")] > 0.9
    return masks


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("tissue", ["grey", "csf"])
def test_signal_ratios_follow_the_equations(clean, pure, modality, tissue):
    image = clean[modality].data[0][PART]
    assert all(int(mask.sum()) > 300 for mask in pure.values())
    measured = float(image[pure[tissue]].median() / image[pure["white"]].median())
    expected = ideal_signal(tissue, modality) / ideal_signal("white", modality)
    assert measured == pytest.approx(expected, rel=0.10)


def test_ring_enhances_around_necrosis(clean):
    assert clean.phenotype["ring_necrosis"]
    t1, t1gd = clean["T1"].data, clean["T1Gd"].data
    ring, necrosis = _label(clean, 3), _label(clean, 1)
    assert int(ring.sum()) > 500 and int(necrosis.sum()) > 500
    assert t1gd[ring].median() > 2 * t1[ring].median()
    assert t1gd[ring].median() > 2 * t1gd[necrosis].median()


def test_mismatch_core_is_bright_on_t2_and_dark_within_a_bright_rim_on_flair(mutant):
    assert mutant.phenotype["mismatch"] and mutant.idh == "mutant"
    solid = _label(mutant, 4)
    core = _maximum((~solid).float(), 4) == 0  # 4 mm below the border
    rim = solid & (_maximum((~solid).float(), 1) > 0)
    white = mutant["T1"].data > 0.9 * mutant["T1"].data[mutant.brain.data > 0].quantile(0.7)
    assert int(core.sum()) > 200
    assert mutant["T2"].data[core].median() > 2 * mutant["T2"].data[white].median()
    assert mutant["FLAIR"].data[core].median() < 0.85 * mutant["FLAIR"].data[rim].median()


def test_tumour_is_seen_in_enough_slices(clean, mutant):
    for subject in (clean, mutant):
        area = (subject.tumour.data[0] > 0).sum(dim=(0, 1))
        assert 25 <= int((area > 100).sum()) <= 100  # mm


def _oedema_signs(volumes: dict, oedema: np.ndarray, brain: np.ndarray) -> dict:
    """+1 where oedema is more than 10 % brighter than the rest of the brain (medians), -1 darker, else 0."""
    ratios = {m: np.median(v[oedema]) / np.median(v[brain & ~oedema]) for m, v in volumes.items()}
    return {m: int(ratio > 1.1) - int(ratio < 0.9) for m, ratio in ratios.items()}


@pytest.mark.parametrize("case", ["TCGA-DU-7294", "TCGA-FG-6692"])
def test_oedema_is_bright_and_dark_where_real_oedema_is(clean, case):
    folder = REAL / case
    if not folder.is_dir():
        pytest.skip(f"no real cases at {REAL} (set MRTUTOR_REAL_DATA to the folder that holds nifti/)")
    files = {m: folder / f"{case}_{n}.nii.gz" for m, n in zip(Modality, ("flair", "t1", "t1Gd", "t2"), strict=True)}
    volumes = {m: np.asanyarray(nib.load(f).dataobj) for m, f in files.items()}
    labels = np.asanyarray(nib.load(folder / f"{case}_seg-auto.nii.gz").dataobj)
    real = _oedema_signs(volumes, labels == 2, np.abs(volumes[Modality.FLAIR]) > 1)
    ours = _oedema_signs(
        {m: clean[m].data.numpy() for m in Modality}, _label(clean, 2).numpy(), clean.brain.data.numpy() > 0
    )
    assert ours == real


def test_type_can_be_asked_for_by_any_alias():
    subject = simulate_subject(WILD, idh="mut", noise=False)
    assert subject.idh == IDH.MUTANT and subject.phenotype["idh"] == "mutant"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": -1}, "Expected number to be an integer from 0, got -1"),
        ({"number": 1.5}, "Expected number"),
        ({"number": True}, "Expected number"),
        ({"number": 0, "seed": -3}, "Expected seed"),
        ({"number": 0, "idh": "unknown"}, "Unknown IDH type 'unknown'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_subject(**arguments)
