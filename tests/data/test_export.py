"""Files of generated slices carry the stamp and the pixels."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.data.export import NOTICE, save_nifti_slice, save_png

SLICE = np.linspace(0, 1, 65536, dtype=np.float32).reshape(256, 256)


def test_files_keep_pixels_words_side_and_size(tmp_path):
    with Image.open(save_png(torch.from_numpy(SLICE), tmp_path / "a.png", Prompt="A T1")) as picture:
        assert np.array_equal(np.asarray(picture), np.round(SLICE * 255).astype(np.uint8))
        assert picture.text == {"Description": NOTICE, "Prompt": "A T1"}
    image = nib.load(save_nifti_slice(SLICE, tmp_path / "a.nii.gz"))
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and image.header.get_zooms()[:2] == (0.875, 0.875)
    assert image.header["descrip"].tobytes().rstrip(b"\0").decode() == NOTICE
    assert np.array_equal(np.asarray(image.dataobj)[::-1, ::-1, 0].T, SLICE), "row 0 anterior, column 0 the right"


def test_what_is_no_slice_is_refused_and_nothing_is_left(tmp_path):
    for bad in (SLICE * 2, SLICE - 1, SLICE * np.nan, SLICE[None], SLICE.astype(int)):
        with pytest.raises(ValueError, match="Expected"):
            save_png(bad, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
