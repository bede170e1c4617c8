"""From volumes to slices and words: the grid, the scale, the choice of planes, the checks, the findings."""

import numpy as np
import pytest
import torch
import torchio as tio

from mrtutor.data import prepare
from mrtutor.vocabulary import Modality
from tests.data.tiny_cases import SHAPE, ball, tiny_subject

HEAD, EVERY = ball((38, 48, 26), (55, 65, 30)), (*Modality, "tumour")


@pytest.fixture(scope="module")
def prepared():
    return prepare.prepare_subject(tiny_subject())


def changed(change, names=("T1",), spacing=(1, 1, 1)):
    """A tiny subject with some of its images replaced by ``change(array)``."""
    subject = tiny_subject()
    for name in names:
        data = np.ascontiguousarray(change(subject[name].data.numpy()[0].copy()), np.float32)
        kind = tio.LabelMap if name == "tumour" else tio.ScalarImage
        subject[name] = kind(tensor=torch.from_numpy(data)[None], affine=np.diag([*spacing, 1]))
    return subject


def test_slices_are_whole_centred_and_turned(prepared):
    assert prepared.images.shape == (len(prepared.masks), 4, 256, 256) and prepared.images.dtype == np.uint8
    most = np.argmax(prepared.tumour_px)
    for occupied, width_mm in zip(np.nonzero(prepared.images[most].any(axis=0)), (96, 76), strict=True):
        assert (occupied.min() + occupied.max()) / 2 == pytest.approx(127.5, abs=1)
        assert np.ptp(occupied) == pytest.approx(width_mm * 256 / 224, abs=3)
    y, x = (axis.mean() for axis in np.nonzero(prepared.masks[most]))
    assert x < 128 and y < 128, "the patient's right is on the left, the front on top"


def test_thick_planes_are_taken_as_measured_and_fine_pixels_become_a_millimetre():
    subject = changed(lambda volume: volume[..., ::3], EVERY, (1, 1, 3))
    thick, thin = prepare.prepare_subject(subject), prepare.to_volume(tiny_subject()).images[..., ::3]
    assert np.allclose(prepare.to_volume(subject).images, thin, atol=0.01), "no plane is a mixture of two"
    shown = [z for z, area in zip(thick.z_index, thick.tumour_px, strict=True) if area]
    assert np.all(np.diff(shown) == 2), "6 mm is the first multiple of 3 mm from 5 mm on"
    assert thick.z_mm == [3.0 * z for z in thick.z_index]
    fine = changed(lambda volume: volume.repeat(2, 0).repeat(2, 1)[..., ::3], EVERY, (0.5, 0.5, 3))
    assert prepare.prepare_subject(fine).tumour_px == pytest.approx(thick.tumour_px, rel=0.06)


def test_a_volume_has_one_scale_which_a_bright_lesion_hardly_moves():
    tissue = 100 * (1 + 0.1 * np.random.default_rng(0).standard_normal(SHAPE)) * HEAD
    lesion = ball((20, 20, 20), (70, 85, 26)) & HEAD
    plain, marked = (prepare.scale_volume(image, HEAD, Modality.T1GD) for image in (tissue, tissue * (1 + 3 * lesion)))
    assert np.median(plain[HEAD]) == pytest.approx(prepare.GREY[Modality.T1GD], abs=1e-3)
    assert np.allclose(marked[HEAD & ~lesion], plain[HEAD & ~lesion], rtol=0.03)
    assert marked.max() == 1 and not marked[~HEAD].any()


def test_about_one_slice_in_four_is_without_tumour():
    tumour, brain = np.zeros(150), np.zeros(150)
    brain[20:130] = np.sin(np.linspace(0, np.pi, 110)) * 12000
    tumour[60:90], tumour[75] = 900, 1000
    planes = np.array(prepare.choose_planes(tumour, brain))
    free = planes[tumour[planes] == 0]
    assert len(planes) == 8 and len(free) == 2 and np.diff(planes).min() >= 5 and 75 in planes
    assert all(z <= 54 or z >= 95 for z in free), "5 mm from any tumour"
    assert prepare.choose_planes(tumour * (tumour > 900), brain) == [75], "a lesion in one plane"
    with pytest.raises(ValueError, match="visible"):
        prepare.choose_planes(np.full(30, 149), np.full(30, 9000))


def test_missing_sequences_stay_empty_and_one_slice_is_chosen_by_number(prepared):
    subject = tiny_subject()
    del subject["T2"]
    found = prepare.prepare_slice(subject)
    assert found.available.tolist() == [True, True, True, False] and found.z_index == [26]
    assert not found.images[:, 3].any()
    assert np.array_equal(found.images[0, :3], prepared.images[prepared.z_index.index(26), :3])
    del subject["tumour"]
    assert prepare.prepare_slice(subject, 20).tumour_px == [0]
    for wrong in (None, 0, 99):
        with pytest.raises(ValueError, match="plane"):
            prepare.prepare_slice(subject, wrong)
    for parts in (subject, tio.Subject(tumour=tiny_subject()["tumour"])):  # no segmentation, and no sequence
        with pytest.raises(ValueError, match="add the file"):
            prepare.prepare_subject(parts)


def test_a_brain_with_negative_voxels_is_found_whole():
    subject = changed(lambda image: np.where(np.arange(image.size).reshape(image.shape) % 50, image, -0.02 * image))
    found = prepare.find_brain([subject[name].data.numpy()[0] for name in Modality])
    assert np.count_nonzero(found ^ HEAD) < 0.001 * HEAD.sum()


@pytest.mark.parametrize(
    ("names", "change", "spacing", "word"),
    [
        (["T1"], lambda image: np.where(image, image - 110, 0), 1, "T1 is negative"),  # z-scored
        (["T1"], lambda image: 2 * image / image.max() - 1, 1, "T1 is negative"),  # -1…1, background too
        (["T1"], lambda image: image + 30, 1, "background"),
        (["T1"], np.zeros_like, 1, "constant"),
        (["T1"], lambda image: np.where(image == image.max(), np.nan, image), 1, "NaN"),
        (["T2"], lambda image: image, 1.1, "another grid"),
        (["tumour"], lambda labels: np.roll(labels, 55, axis=0), 1, "outside"),
        (["tumour"], lambda labels: 3 * labels, 1, "label"),
        (EVERY, lambda image: image, 2.4, "wide"),
        (EVERY, lambda image: image, 2.6, "axial"),
        (EVERY, lambda image: image, 0.001, "expected a head"),  # metres
        (EVERY, lambda image: image[..., 28:30], 2, "expected a head"),
    ],
)
def test_what_cannot_be_prepared_is_refused(names, change, spacing, word):
    with pytest.raises(ValueError, match=word):
        prepare.prepare_subject(changed(change, names, (spacing,) * 3))


RING = {"side": "left", "place": "anterior", "size": None, "enhancement": "ring-enhancing", "necrosis": True}
SOLID = {"side": "right", "place": "posterior", "size": "small", "enhancement": "non-enhancing", "necrosis": False}


@pytest.mark.parametrize(
    ("discs", "expected"),  # a disc: label, row, column, radius
    [
        ([(2, 20, 60, 17), (3, 20, 60, 12), (1, 20, 60, 8)], RING | {"oedema": True, "tumour": True}),
        ([(4, 80, 15, 10)], SOLID | {"oedema": False}),
        ([(2, 50, 40, 24)], {"side": None, "place": "middle", "size": "large", "oedema": True}),
        ([(1, 50, 20, 20)], {"enhancement": "non-enhancing", "necrosis": None, "simulated": True}),
        ([(1, 50, 20, 12), (3, 50, 34, 6)], {"enhancement": "enhancing", "necrosis": True}),
        ([], {"tumour": False, "side": None, "size": None}),
    ],
)
def test_findings(discs, expected):
    mask, brain = np.zeros((100, 80), np.uint8), np.ones((100, 80), bool)
    for label, y, x, radius in discs:
        mask[np.hypot(*(np.mgrid[0:100, 0:80] - np.reshape([y, x], (2, 1, 1)))) < radius] = label
    found = vars(prepare.describe(mask, brain, simulated=True))
    assert {name: found[name] for name in expected} == expected
    unsaid = dict.fromkeys(("enhancement", "necrosis", "oedema"))
    assert vars(prepare.describe(mask, brain, simulated=True, regions=False)) == found | unsaid
