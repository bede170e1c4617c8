"""What is written says that it is simulated; what is read is checked, and named where it is refused."""

import struct

import nibabel as nib
import numpy as np
import pytest

from mrtutor.data.build import build_cohort
from mrtutor.data.nifti import SIMULATED, TUMOUR, map_labels, read_case, write_nifti
from mrtutor.data.prepare import prepare_subject
from mrtutor.data.sources import find_cases
from tests.data.fakes import AFFINE, SEQUENCES, SHAPE, add_exam, save, volumes

ENDS = dict(zip((*SEQUENCES, TUMOUR), ("flair", "t1", "t1gd", "t2", "seg"), strict=True))
T1 = volumes()["T1"]


@pytest.fixture
def files(tmp_path):
    folder = add_exam(tmp_path)
    return {role: (folder / f"patient7_{end}.nii.gz", None) for role, end in ENDS.items()}


def test_written_cases_are_brats_2021_marked_as_simulated_and_can_be_read_again(files, tmp_path):
    subject = read_case(files)
    subject["subject_id"] = "SIM-000"
    subject[TUMOUR].data[0, 50, 44, 6] = 4
    folder = write_nifti(subject, tmp_path)
    named = {role: (folder / f"SIM-000_{end}.nii.gz", None) for role, end in {**ENDS, "T1Gd": "t1ce"}.items()}
    assert set(folder.iterdir()) == {path for path, _ in named.values()}
    for path in folder.iterdir():
        assert nib.load(path).header["descrip"].item().decode() == SIMULATED
    again = read_case(named)
    for name in SEQUENCES:
        top = float(subject[name].data.max())
        assert np.abs((again[name].data - subject[name].data).numpy()).max() <= 0.51 * top / 32767
    labels = subject[TUMOUR].data.numpy()
    assert np.array_equal(again[TUMOUR].data, np.where(labels == 4, 1, labels))  # BraTS joins 4 with necrosis


@pytest.mark.parametrize("order", ["LPS", "LAS", "PIR", "ASL", "SRP", "IPL"])
def test_every_voxel_order_gives_the_same_slices(files, order):
    plain = prepare_subject(read_case(files))
    for path, _ in files.values():
        image = nib.load(path)
        now, wanted = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(order))
        nib.save(image.as_reoriented(nib.orientations.ornt_transform(now, wanted)), path)
    turned = prepare_subject(read_case(files))
    assert np.array_equal(turned.images, plain.images)
    assert np.array_equal(turned.masks, plain.masks)
    assert np.allclose(turned.z_mm, plain.z_mm)


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u2", "i4", "f4", ">f4", "f8"])
def test_every_number_format_slope_and_trailing_axis_gives_the_same_voxels(files, dtype):
    header = nib.Nifti1Header(endianness=">" if ">" in dtype else "<")
    image = nib.Nifti1Image((T1 // 4).astype(dtype)[..., None], AFFINE, header)
    image.header.set_slope_inter(4, 7)
    nib.save(image, files["T1"][0])
    assert np.array_equal(read_case(files)["T1"].data[0], T1 // 4 * 4 + 7)


NO_HEADS = [  # volume, affine, what is packed into the header, a word of the message
    (T1[..., 0], AFFINE, (), "3-D"),
    (np.stack([T1] * 2, axis=-1), AFFINE, (), "3-D"),
    (T1.astype(np.complex64), AFFINE, (), "complex"),
    (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE, (), "colours"),
    (T1, AFFINE @ np.diag([10, 10, 10, 1]), (), "covers"),
    (T1, AFFINE + np.array([[0, 0.3, 0, 0], *[[0] * 4] * 3]), (), "sheared"),
    (T1, AFFINE, ("<h", 70, 9999), "9999"),  # number format
    (T1, AFFINE, ("<f", 108, 10.0), "vox offset"),
    (T1, AFFINE, ("<f", 108, 1e9), "whole image"),
    (T1, AFFINE, ("<h", 42, -84), "-84"),
    (T1, AFFINE, ("<12f", 280, *[0.0] * 12), "affine"),
    (T1, AFFINE, ("<f", 280, float("nan")), "affine"),
    (T1, AFFINE, ("<hh", 252, 0, 0), "left and right"),
    (T1, AFFINE, ("<b", 123, 1), "meter"),
]


def save_bad(path, data, affine, packed):
    save(path, data, affine)
    if packed:
        layout, offset, *values = packed
        content = bytearray(path.read_bytes())
        struct.pack_into(layout, content, offset, *values)
        path.write_bytes(content)


@pytest.mark.parametrize(("data", "affine", "packed", "word"), NO_HEADS)
def test_what_is_no_head_is_refused_with_the_name_of_the_file(tmp_path, data, affine, packed, word):
    path = tmp_path / "a_t1.nii"
    save_bad(path, data, affine, packed)
    with pytest.raises(ValueError, match=rf"a_t1\.nii.*{word}"):
        read_case({"T1": (path, None)})


def test_each_bad_file_costs_its_own_case_only(tmp_path):
    """All of them in one folder with a good case: every one is skipped with its file and reason, the rest is built."""
    add_exam(tmp_path / "exams", exam="good")
    for number, (data, affine, packed, _) in enumerate(NO_HEADS):
        folder = add_exam(tmp_path / "exams", exam=f"bad{number:02d}")
        (folder / f"{folder.name}_t1.nii.gz").unlink()
        save_bad(folder / f"{folder.name}_t1.nii", data, affine, packed)
    report = build_cohort(find_cases(tmp_path / "exams"), tmp_path / "out", {}, progress=False)
    assert report.cohort.patients["subject_id"].tolist() == ["good"]
    assert len(report.skipped) == len(NO_HEADS)
    for (case, reason), (*_, word) in zip(report.skipped, NO_HEADS, strict=True):
        assert f"{case}_t1.nii" in reason and word in reason


@pytest.mark.parametrize(
    ("values", "codes", "recent", "ours", "note"),
    [
        ([0, 1, 2, 4], None, False, [0, 1, 2, 3], ""),
        ([0, 1, 2, 3], None, True, [0, 1, 2, 3], ""),
        ([1, 2, 3, 4], None, True, [1, 2, 3, 0], "resection cavity"),  # BraTS 2024 by its names
        ([1, 2, 3, 4], "brats-2015", False, [1, 2, 4, 3], ""),
        ([0, 1], None, False, [0, 2], "whole tumour"),
        ([0, 255], None, False, [0, 2], "whole tumour"),
        ([1, 2, 4], None, True, None, ""),  # enhancing of 2021, or the cavity of 2024?
        ([1, 2, 3, 4], None, False, None, ""),
        ([1, 2, 4], "brats-2023", True, None, ""),
        ([float("nan")], None, False, None, ""),
    ],
)
def test_label_numbers(values, codes, recent, ours, note):
    if ours is None:
        with pytest.raises(ValueError, match=r"a_seg\.nii has labels .*--label-codes"):
            map_labels(np.array(values), codes, recent, "a_seg.nii")
        return
    labels, regions, notes = map_labels(np.array(values), codes, recent, "a_seg.nii")
    assert labels.tolist() == ours
    assert regions == (note != "whole tumour")
    assert note in "".join(notes)
    assert len(notes) == bool(note)
