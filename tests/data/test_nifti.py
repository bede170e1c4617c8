"""NIfTI: what is written says that it is simulated, what is read is checked."""

import errno

import nibabel as nib
import numpy as np
import pytest
from subjects import SHAPE, tiny_subject, write_case

from mrtutor.data.nifti import SIMULATED, map_labels, read_folder, write_nifti
from mrtutor.data.prepare import prepare_subject
from mrtutor.vocabulary import Modality


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(np.asarray(data), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def case(tmp_path):
    return write_case(tmp_path / "case")


def test_what_is_written_can_be_prepared_again(tmp_path):
    subject = tiny_subject()
    folder = write_nifti(subject, tmp_path)
    again = read_folder(folder, "wt")
    assert (again["subject_id"], again["idh"]) == ("TINY-000", "wild")
    for modality in Modality:
        top = float(subject[modality].data.max())
        assert np.abs((again[modality].data - subject[modality].data).numpy()).max() <= 0.51 * top / 32767
        assert again[modality].data[subject[modality].data == 0].abs().max() == 0
    assert np.array_equal(again["tumour"].data, subject["tumour"].data)
    before, after = prepare_subject(subject), prepare_subject(again)
    assert np.array_equal(before.masks, after.masks)
    assert np.abs(before.images.astype(int) - after.images).max() <= 1


def test_brats_names_labels_and_the_word_simulated(tmp_path):
    subject = tiny_subject()
    labels = subject["tumour"].data
    labels[0, 50, 60, 30], labels[0, 51, 60, 30] = 1, 4
    folder = write_nifti(subject, tmp_path)
    assert folder == tmp_path / "TINY-000"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"TINY-000_{suffix}.nii.gz" for suffix in ("flair", "seg", "t1", "t1ce", "t2")
    ]
    for path in folder.iterdir():
        assert nib.load(path).header["descrip"].item().decode() == SIMULATED
        assert "simulated" in SIMULATED
    segmentation = np.asarray(nib.load(folder / "TINY-000_seg.nii.gz").dataobj)
    assert set(np.unique(segmentation)) == {0, 1, 2, 4}
    assert segmentation[50, 60, 30] == segmentation[51, 60, 30] == 1
    assert np.array_equal(segmentation == 4, labels[0] == 3)


def test_unknown_style(tmp_path):
    with pytest.raises(ValueError, match="Unknown NIfTI style 'bids'"):
        write_nifti(tiny_subject(), tmp_path, style="bids")


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_trouble_while_writing_leaves_no_half_file(tmp_path, monkeypatch, trouble):
    whole, count = nib.save, iter(range(9))

    def third_fails(image, path):
        if next(count) == 2:
            path.write_bytes(b"half")
            raise trouble
        whole(image, path)

    monkeypatch.setattr(nib, "save", third_fails)
    with pytest.raises(type(trouble)):
        write_nifti(tiny_subject(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "TINY-000").iterdir()) == ["TINY-000_flair.nii.gz", "TINY-000_t1.nii.gz"]


@pytest.mark.parametrize(
    "names",
    [
        ("x_flair.nii.gz", "x_t1.nii.gz", "x_t1Gd.nii.gz", "x_t2.nii.gz", "x_seg-auto.nii.gz"),
        ("x_FLAIR.nii", "x_T1.nii", "x_T1GD.nii", "x_T2.nii", "x_seg.nii"),
        ("x_flair.nii.gz", "x_t1.nii.gz", "x_t1ce.nii.gz", "x_t2.nii.gz", "x_seg.nii.gz"),
        ("x-t2f.nii.gz", "x-t1n.nii.gz", "x-t1c.nii.gz", "x-t2w.nii.gz", "x-seg.nii.gz"),
    ],
)
def test_known_layouts(tmp_path, names):
    subject = tiny_subject()
    folder = write_case(tmp_path / "case", dict(zip([*Modality, "tumour"], names, strict=True)))
    (folder / "notes.txt").write_text("not an image")
    (folder / "x_brainmask.nii.gz").write_bytes(b"not a known suffix")
    again = read_folder(folder)
    assert again["subject_id"] == "case"
    assert "idh" not in again
    for key in [*Modality, "tumour"]:
        assert np.array_equal(again[key].data, subject[key].data)


def test_a_case_without_segmentation_can_be_read(case):
    (case / "case_seg.nii.gz").unlink()
    assert "tumour" not in read_folder(case)


def test_a_trailing_axis_of_one_is_dropped(case):
    data = nib.load(case / "case_t1.nii.gz").get_fdata()[..., None]
    save(case / "case_t1.nii.gz", data)
    assert read_folder(case)["T1"].shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        ("t1", np.ones(SHAPE[:2]), r"case_t1.*shape \(110, 130\): expected a 3-D volume"),
        ("t1", np.random.default_rng(0).random((*SHAPE[:2], 1)), "expected a 3-D volume"),
        ("t1", np.random.default_rng(0).random((*SHAPE, 2)), "expected a 3-D volume"),
        ("t2", np.full(SHAPE, np.nan), "T2 has 858000 NaN"),
        ("t2", np.full(SHAPE, 3.0), r"T2 is constant \(3 everywhere\)"),
        ("flair", np.random.default_rng(0).random((110, 130, 61)), "lies on another grid"),
        ("seg", np.full(SHAPE, 7.0), r"case_seg.*has labels \[7.0\]"),
        ("seg", np.full(SHAPE, 1.5), r"has labels \[1.5\]"),
        ("seg", np.full(SHAPE, np.nan), r"has labels \[nan\]"),
    ],
)
def test_bad_files(case, suffix, data, message):
    save(case / f"case_{suffix}.nii.gz", data)
    with pytest.raises(ValueError, match=message):
        read_folder(case)


def test_another_affine_is_another_grid(case):
    data = nib.load(case / "case_t2.nii.gz").get_fdata()
    save(case / "case_t2.nii.gz", data, np.diag([1, 1, 2, 1]))
    with pytest.raises(ValueError, match="T2 lies on another grid than FLAIR"):
        read_folder(case)


@pytest.mark.parametrize("modality", Modality)
def test_missing_modality(case, modality):
    (case / f"case_{modality.lower()}.nii.gz").unlink()
    with pytest.raises(ValueError, match=f"case lacks {modality}: expected files that end in one of _flair"):
        read_folder(case)


def test_doubled_modality(case):
    (case / "case_t1ce.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has T1Gd 2 times \(case_t1ce.nii and case_t1gd.nii.gz\): expected one"):
        read_folder(case)


@pytest.mark.parametrize("content", ["half", "text", "empty"])
def test_unreadable_files(case, content):
    path = case / "case_t2.nii.gz"
    path.write_bytes({"half": path.read_bytes()[:5000], "text": b"no volume", "empty": b""}[content])
    with pytest.raises(ValueError, match=r"Cannot read case_t2\.nii\.gz as NIfTI"):
        read_folder(case)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        read_folder(tmp_path / "nowhere")


def test_unknown_idh(case):
    with pytest.raises(ValueError, match="Unknown IDH type 'blue'"):
        read_folder(case, "blue")


@pytest.mark.parametrize(
    ("values", "recent", "ours"),
    [
        ([0, 1, 2, 4], False, [0, 1, 2, 3]),  # BraTS 2017-2021
        ([1, 2, 3, 4], False, [1, 2, 4, 3]),  # BraTS 2012-2016
        ([0, 1, 2, 3], False, [0, 1, 2, 3]),
        ([0, 1, 2, 3], True, [0, 1, 2, 3]),  # BraTS 2023
        ([1, 2, 3, 4], True, [1, 2, 3, 0]),  # BraTS 2024: 4 is the resection cavity
    ],
)
def test_labels(values, recent, ours):
    data = np.array(values, np.float32).reshape(1, 1, -1)
    assert map_labels(data, recent).ravel().tolist() == ours
