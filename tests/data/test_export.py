"""Generated slices on disk: the file itself says that the image is synthetic."""

import errno
import tempfile

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.data.export import NOTICE, save_nifti_slice, save_png


@pytest.fixture
def image():
    """Dark, with a bright patch at the patient's right and anterior (top left of the picture)."""
    picture = np.full((256, 256), 0.2, np.float32)
    picture[20:60, 30:80] = 0.8
    return picture


def test_png_keeps_pixels_and_says_what_it_is(tmp_path, image):
    path = save_png(image, tmp_path / "slice.png", Prompt="A T1 modality MR image, type of IDH wild glioma")
    with Image.open(path) as opened:
        assert opened.text["Description"] == NOTICE == "synthetic image; not for diagnosis"
        assert opened.text["Prompt"].startswith("A T1")
        assert np.array_equal(np.asarray(opened), np.round(image * 255).astype(np.uint8))


def test_nifti_lies_in_space_as_it_looks(tmp_path, image):
    path = save_nifti_slice(torch.from_numpy(image), tmp_path / "slice.nii.gz")
    nifti = nib.load(path)
    assert nifti.header["descrip"].item().decode() == NOTICE
    assert nifti.shape == (256, 256, 1)
    assert nib.aff2axcodes(nifti.affine) == ("R", "A", "S")
    assert nifti.header.get_zooms()[:2] == (0.875, 0.875)
    x, y = (axis.mean() for axis in np.nonzero(np.asarray(nifti.dataobj)[..., 0] > 0.5))
    assert x > 128  # RAS+: right
    assert y > 128  # anterior
    assert np.asarray(nifti.dataobj).max() == np.float32(0.8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 256, 256), np.float32), r"shape \(.*4, 256, 256\)"),
        (np.full((256, 256), 1.2, np.float32), "clip the slice"),
        (np.full((256, 256), -0.2, np.float32), "clip the slice"),
        (np.full((256, 256), np.nan, np.float32), "clip the slice"),
        (np.zeros((256, 256), np.int64), "int64"),
    ],
)
@pytest.mark.parametrize(("save", "name"), [(save_png, "a.png"), (save_nifti_slice, "a.nii.gz")])
def test_bad_images(tmp_path, bad, message, save, name):
    with pytest.raises(ValueError, match=message):
        save(bad, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_bad_names_and_notices(tmp_path, image):
    with pytest.raises(ValueError, match=r"ends in \.png, got 'a\.jpg'"):
        save_png(image, tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"ends in \.nii or \.nii\.gz"):
        save_nifti_slice(image, tmp_path / "a.img")
    with pytest.raises(ValueError, match="79 bytes, got 80"):
        save_nifti_slice(image, tmp_path / "a.nii", notice="x" * 80)
    with pytest.raises(ValueError, match=r"\(256, 256\), got \(128, 128\)"):
        save_nifti_slice(image[:128, :128], tmp_path / "a.nii")


@pytest.mark.parametrize(("save", "name"), [(save_png, "a.png"), (save_nifti_slice, "a.nii.gz")])
def test_full_disk_and_no_permission(tmp_path, monkeypatch, image, save, name):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / name).write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", full)
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="No space left"):
            save(image, tmp_path / name)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError):
        save(image, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"
