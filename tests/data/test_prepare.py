"""Preparation: orientation, scale, window and choice of slices, on synthetic and on real volumes."""

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from subjects import REAL, SHAPE, needs_real_cases, tiny_subject

from mrtutor.data.nifti import read_folder
from mrtutor.data.prepare import choose_slices, prepare_slice, prepare_subject, scale_slice
from mrtutor.data.structure import canny
from mrtutor.data.volume import find_brain, to_volume
from mrtutor.vocabulary import Modality


def changed(key, data=None, affine=None):
    """The tiny subject with other voxels or another affine in one image."""
    subject = tiny_subject()
    image = subject[key]
    tensor = image.data if data is None else torch.as_tensor(data)
    subject[key] = type(image)(tensor=tensor, affine=image.affine if affine is None else affine)
    return subject


@pytest.fixture(scope="module")
def prepared():
    return prepare_subject(tiny_subject())


def test_shapes_types_and_spacing(prepared):
    n = len(prepared)
    assert n == 5  # a ball of radius 14 has 150 mm² up to 12 mm from its centre
    assert prepared.images.shape == (n, 4, 256, 256)
    assert prepared.masks.shape == (n, 256, 256)
    assert prepared.images.dtype == prepared.masks.dtype == np.uint8
    assert np.all(np.diff(prepared.z_mm) == 5)
    assert prepared.z_index.tolist() == [22, 27, 32, 37, 42]
    assert set(np.unique(prepared.masks)) == {0, 2, 3}


def test_tumour_area_is_in_mm2_and_mask_scales_with_it(prepared):
    assert prepared.tumour_px[2] == pytest.approx(np.pi * 14**2, rel=0.03)
    assert (prepared.masks > 0).sum((1, 2)) == pytest.approx(prepared.tumour_px * (256 / 224) ** 2, rel=0.05)


def test_row_0_is_anterior_and_column_0_the_right(prepared):
    """The tumour lies 15 mm to the right (RAS: high x) and 20 mm anterior of the brain's centre."""
    rows, columns = np.nonzero(prepared.masks[2])
    assert rows.mean() == pytest.approx(127.5 - 20 * 256 / 224, abs=1)
    assert columns.mean() == pytest.approx(127.5 - 15 * 256 / 224, abs=1)


def test_every_modality_is_scaled_by_itself(prepared):
    for image in prepared.images.reshape(-1, 256, 256):
        assert 240 <= image.max() <= 255
        assert image[0].max() == 0
        assert np.median(image[image > 0]) > 100


def test_orientation_on_disk_does_not_matter(prepared):
    subject = tiny_subject()
    turned = {
        key: type(subject[key])(
            tensor=subject[key].data.flip(1, 2).transpose(1, 3).contiguous(),
            affine=np.array([[0, 0, -1, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
        )
        for key in [*Modality, "tumour", "brain"]
    }
    again = prepare_subject(tio.Subject(**turned))
    assert nib.aff2axcodes(turned["T1"].affine) == ("S", "P", "L")
    assert np.array_equal(again.images, prepared.images)
    assert np.array_equal(again.masks, prepared.masks)
    assert np.array_equal(again.z_mm, prepared.z_mm)


def test_other_voxel_sizes_are_resampled(prepared):
    coarse = tio.Resample(1.6)(tiny_subject())
    again = prepare_subject(coarse)
    assert to_volume(coarse).affine[:3, :3] == pytest.approx(np.eye(3))
    assert again.tumour_px.max() == pytest.approx(prepared.tumour_px.max(), rel=0.1)
    assert set(np.unique(again.masks)) <= {0, 2, 3}


def test_the_brain_is_centred_and_never_cut():
    """A brain at the border of the grid comes out as the same picture as one in its middle."""
    subject = tiny_subject()
    moved = {k: type(subject[k])(tensor=subject[k].data[:, 17:, 15:]) for k in [*Modality, "tumour", "brain"]}
    again, before = prepare_subject(tio.Subject(**moved)), prepare_subject(subject)
    assert np.array_equal(again.images, before.images)


def test_a_brain_wider_than_the_window_is_refused():
    wide = np.ones((1, 240, 60, 20), np.uint8)
    images = {m: tio.ScalarImage(tensor=torch.rand(1, 240, 60, 20)) for m in Modality}
    subject = tio.Subject(**images, brain=tio.LabelMap(tensor=wide), tumour=tio.LabelMap(tensor=wide))
    with pytest.raises(ValueError, match="240 mm wide, more than the window of 224"):
        prepare_subject(subject)


def test_scale_slice():
    rng = np.random.default_rng(0)
    image, brain = rng.uniform(-5, 200, (50, 60)), np.zeros((50, 60), bool)
    brain[10:40, 10:50] = True
    scaled = scale_slice(image, brain)
    assert scaled.max() == 1
    assert np.mean(scaled[brain] == 1) == pytest.approx(0.005, abs=0.002)
    assert scaled[~brain].max() == 0
    assert np.all(scaled[brain & (image < 0)] == 0)
    with pytest.raises(ValueError, match="positive signal"):
        scale_slice(-np.ones((50, 60)), brain)


def areas(**px):
    """(Z,) area by slice number, z12=… ."""
    out = np.zeros(155, int)
    for z, area in px.items():
        out[int(z[1:])] = area
    return out


def test_choice_is_centred_on_the_most_tumour():
    brain = np.full(155, 9000)
    tumour = np.clip(2000 - 30 * np.abs(np.arange(155) - 73), 0, None)
    assert choose_slices(tumour, brain) == [53, 58, 63, 68, 73, 78, 83, 88]
    tumour[73:] = 0
    assert choose_slices(tumour, brain) == [37, 42, 47, 52, 57, 62, 67, 72]


def test_choice_leaves_out_little_tumour_and_little_brain():
    brain = np.full(155, 9000)
    assert choose_slices(areas(z50=149, z55=150, z60=900, z62=800, z65=149), brain) == [55, 60]
    brain[60] = 3999
    assert choose_slices(areas(z55=150, z60=900), brain) == [55]


def test_no_visible_tumour():
    with pytest.raises(ValueError, match=r"No slice with visible tumour: .*150 mm².*at most 149 and 9000"):
        choose_slices(areas(z50=149), np.full(155, 9000))
    with pytest.raises(ValueError, match="No slice with visible tumour"):
        prepare_subject(changed("tumour", np.zeros((1, *SHAPE), np.uint8)))
    subject = tiny_subject()
    subject.remove_image("tumour")
    with pytest.raises(ValueError, match="No tumour label map"):
        prepare_subject(subject)


def test_one_slice_by_number_or_by_most_tumour(prepared):
    best = prepare_slice(tiny_subject())
    assert best.z_index.tolist() == [32]
    assert np.array_equal(best.images[0], prepared.images[2])
    healthy = prepare_slice(tiny_subject(), 10)
    assert len(healthy) == 1
    assert healthy.tumour_px.tolist() == [0]
    subject = tiny_subject()
    subject.remove_image("tumour")
    assert np.array_equal(prepare_slice(subject, 32).images, best.images)
    with pytest.raises(ValueError, match="choose a slice from 0 to 59"):
        prepare_slice(subject)


@pytest.mark.parametrize(("index", "message"), [(60, "No slice 60"), (-1, "No slice -1"), (1, "from 4 to 56")])
def test_slices_that_do_not_exist(index, message):
    with pytest.raises(ValueError, match=message):
        prepare_slice(tiny_subject(), index)


def test_brain_is_found_where_no_mask_is_given(prepared):
    """Negative voxels and dark holes inside belong to it, a speck outside does not."""
    subject = tiny_subject(brain=False)
    for modality in Modality:
        data = subject[modality].data
        data[0, 55, 65, 30] = -20
        data[0, 40:43, 50:53, 20:40] = 0
        data[0, 1, 1, 1] = 100
    found = find_brain(np.concatenate([subject[m].data.numpy() for m in Modality]))
    assert np.array_equal(found, tiny_subject()["brain"].data[0].numpy() > 0)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (lambda: changed("T1", torch.rand(1, *SHAPE[:2], 1)), "T1 is 2-D"),
        (lambda: changed("T2", torch.full((1, *SHAPE), torch.nan)), "T2 has 858000 NaN"),
        (lambda: changed("T2", torch.full((1, *SHAPE), 7.0)), r"T2 is constant \(7 everywhere\)"),
        (lambda: changed("FLAIR", torch.rand(2, *SHAPE)), "FLAIR has 2 channels"),
        (lambda: changed("T1Gd", torch.rand(1, 110, 130, 61)), "T1Gd lies on another grid than FLAIR"),
        (lambda: changed("T1Gd", affine=np.diag([1, 1, 1.1, 1])), "T1Gd lies on another grid than FLAIR"),
        (lambda: changed("tumour", affine=np.diag([1, 1, 2.0, 1])), "tumour lies on another grid than FLAIR"),
        (lambda: changed("tumour", torch.full((1, *SHAPE), 9)), r"unknown label\(s\) \[9\].*3 enhancing"),
        (lambda: changed("brain", torch.zeros(1, *SHAPE)), "brain mask is empty"),
    ],
)
def test_bad_volumes(subject, message):
    with pytest.raises(ValueError, match=message):
        prepare_subject(subject())


@pytest.mark.parametrize("modality", Modality)
def test_missing_modality(modality):
    subject = tiny_subject()
    subject.remove_image(modality)
    with pytest.raises(ValueError, match=f"lacks {modality}: expected all of FLAIR, T1, T1Gd, T2"):
        prepare_subject(subject)


# Edge pixels in percent, FLAIR, T1, T1Gd, T2: the design's table, measured by another program.
@needs_real_cases
@pytest.mark.parametrize(
    ("case", "slices", "edge_percent"),
    [("TCGA-DU-7294", 7, (2.7, 4.3, 4.8, 3.3)), ("TCGA-FG-6692", 8, (5.2, 4.1, 3.2, 5.2))],
)
def test_real_cases(case, slices, edge_percent):
    subject = read_folder(REAL / case)
    prepared = prepare_subject(subject)
    assert len(prepared) == slices
    assert np.all(np.diff(prepared.z_mm) == 5)
    assert prepared.tumour_px.min() >= 150
    assert to_volume(subject).brain.sum() / 1e6 == pytest.approx(1.4, abs=0.3)  # litres
    found = [100 * np.mean([canny(s) > 0 for s in prepared.images[:, m]]) for m in range(4)]
    assert found == pytest.approx(edge_percent, abs=0.3)
    occupied = prepared.images.max(axis=(0, 1)) > 0
    rows, columns = np.flatnonzero(occupied.any(1)), np.flatnonzero(occupied.any(0))
    assert rows[0] > 5
    assert rows[-1] < 250
    assert np.ptp(rows) > np.ptp(columns)  # a head is longer than wide: anterior-posterior runs along the rows
