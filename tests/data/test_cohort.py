"""The cohort: what it gives, how it is split, and how it refuses a damaged folder."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from subjects import TinyCase

from mrtutor.data.build import build_cohort
from mrtutor.data.cohort import COLUMNS, Cohort
from mrtutor.data.split import split_patients
from mrtutor.data.structure import canny
from mrtutor.vocabulary import Modality, prompt


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "tiny"
    build_cohort([TinyCase(n) for n in range(8)], folder, {"source": "test", "seed": 0}, progress=False)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


@pytest.fixture(scope="module")
def cohort(built):
    return Cohort.open(built, verify=True)


def test_files_agree_with_each_other(cohort):
    assert len(cohort) == 40  # 8 patients of 5 slices
    assert cohort.images.shape == (40, 4, 256, 256)
    assert isinstance(cohort.images, np.memmap)
    assert cohort.masks.shape == (40, 256, 256)
    assert tuple(cohort.table.columns) == COLUMNS
    assert cohort.table["row"].tolist() == list(range(40))
    assert (cohort.table.groupby("subject_id")["split"].nunique() == 1).all()
    assert cohort.table["source"].unique().tolist() == ["test"]
    area = (cohort.masks[:] > 0).sum((1, 2)) * (224 / 256) ** 2
    assert area == pytest.approx(cohort.table["tumour_px"].to_numpy(), rel=0.05)


def test_patients_keep_their_phenotype(cohort):
    assert cohort.patients["subject_id"].tolist() == [f"TINY-{n:03d}" for n in range(8)]
    assert cohort.patients["age"].tolist() == [40 + n for n in range(8)]
    assert cohort.patients["slices"].sum() == len(cohort)


def test_manifest_says_how_it_was_made(cohort):
    assert cohort.manifest["version"] == 1
    assert cohort.manifest["seed"] == 0
    assert cohort.manifest["preparation"]["brain_percentile"] == 99.5
    assert cohort.manifest["preparation"]["canny"] == [100, 200]


def test_rows_by_split_and_type(cohort):
    everything = np.concatenate([cohort.rows(split) for split in ("train", "validation", "test")])
    assert sorted(everything) == list(range(40))
    wild = cohort.rows("train", "wt")
    assert (cohort.table["idh"].to_numpy()[wild] == "wild").all()
    assert len(wild) + len(cohort.rows("train", "mutant")) == len(cohort.rows("train")) == 20
    with pytest.raises(ValueError, match="Unknown split 'val': expected one of train, validation, test"):
        cohort.rows("val")
    with pytest.raises(ValueError, match="Unknown IDH"):
        cohort.rows(idh="none")


def test_slice_and_structure(cohort):
    image = cohort.slice(3, "t1ce")
    assert image.dtype == np.float32
    assert 0.9 < image.max() <= 1
    assert np.array_equal(np.round(image * 255), cohort.images[3, 2])
    assert np.array_equal(cohort.structure(3, "T2"), canny(cohort.images[3, 3]))
    with pytest.raises(ValueError, match="Unknown modality"):
        cohort.slice(3, "CT")
    for row in (40, -1):
        with pytest.raises(IndexError, match="expected 0 to 39"):
            cohort.slice(row, "T1")


def test_dataset_items(cohort):
    data = cohort.dataset("train")
    rows = cohort.rows("train")
    assert len(data) == 4 * len(rows)
    item = data[6]
    assert item["image"].shape == item["structure"].shape == (1, 256, 256)
    assert item["mask"].shape == (256, 256)
    assert (item["modality"], item["row"]) == ("T1Gd", rows[1])
    assert item["prompt"] == prompt("T1Gd", item["idh"])
    assert torch.equal(item["image"][0], torch.from_numpy(cohort.slice(rows[1], "T1Gd")))
    assert torch.equal(item["structure"][0] > 0, torch.from_numpy(cohort.structure(rows[1], "T1Gd") > 0))
    with pytest.raises(IndexError):
        data[len(data)]
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3)))
    assert batch["image"].shape == (3, 1, 256, 256)
    assert list(batch["modality"]) == ["FLAIR", "T1", "T1Gd"]


def test_structure_of_another_modality(cohort):
    fixed = cohort.dataset("test", modalities=("T1",), structure_of="flair")
    row = fixed[0]["row"]
    assert torch.equal(fixed[0]["structure"][0] > 0, torch.from_numpy(cohort.structure(row, "FLAIR") > 0))
    drawn = cohort.dataset("test", modalities=("T1",), structure_of="any")
    torch.manual_seed(0)
    first = [drawn[0]["structure"] for _ in range(12)]
    torch.manual_seed(0)
    assert all(torch.equal(a, drawn[0]["structure"]) for a in first)
    assert len({a.numpy().tobytes() for a in first}) == len(Modality)


def test_dataset_refuses_what_does_not_exist(cohort):
    with pytest.raises(ValueError, match="Unknown modality"):
        cohort.dataset("train", modalities=("PET",))
    with pytest.raises(ValueError, match="Unknown modality"):
        cohort.dataset("train", structure_of="PET")


def test_a_worker_process_maps_the_files_instead_of_copying_them(cohort):
    pickled = pickle.dumps(cohort.dataset("train"))
    assert len(pickled) < 5000
    assert torch.equal(pickle.loads(pickled)[0]["image"], cohort.dataset("train")[0]["image"])


def test_split_is_80_10_10_within_each_type_and_fixed():
    idh = {f"SIM-{n:04d}": "mutant" if n % 5 == 0 else "wild" for n in range(484)}
    split = split_patients(idh)
    for kind, total in (("mutant", 97), ("wild", 387)):
        counts = [sum(split[p] == name and idh[p] == kind for p in idh) for name in ("train", "validation", "test")]
        assert sum(counts) == total
        assert counts == pytest.approx([0.8 * total, 0.1 * total, 0.1 * total], abs=1)
    backwards = split_patients(dict(reversed(idh.items())))
    assert backwards == split
    only_wild = split_patients({p: kind for p, kind in idh.items() if kind == "wild"})
    assert all(only_wild[p] == split[p] for p in only_wild)
    assert split["SIM-0000"] == split_patients(idh)["SIM-0000"]


@pytest.mark.parametrize(("patients", "counts"), [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [1, 1, 1]), (10, [8, 1, 1])])
def test_split_of_few_patients(patients, counts):
    split = list(split_patients({str(n): "wild" for n in range(patients)}).values())
    assert [split.count(name) for name in ("train", "validation", "test")] == counts


def test_an_empty_choice_says_so(tmp_path):
    build_cohort([TinyCase(0)], tmp_path / "one", {}, progress=False)
    with pytest.raises(ValueError, match="No slice with split test"):
        Cohort.open(tmp_path / "one").dataset("test")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        Cohort.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No cohort in .*expected cohort\.json"):
        Cohort.open(tmp_path)


def test_half_written(copy, tmp_path):
    (copy / "cohort.json").unlink()
    with pytest.raises(ValueError, match=r"half-written .*run the same"):
        Cohort.open(copy)
    (tmp_path / "started/.parts").mkdir(parents=True)
    with pytest.raises(ValueError, match="half-written"):
        Cohort.open(tmp_path / "started")


def test_another_version(copy):
    manifest = json.loads((copy / "cohort.json").read_text())
    (copy / "cohort.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match="format version 2, this package reads 1"):
        Cohort.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_no_manifest_at_all(copy, text):
    (copy / "cohort.json").write_text(text)
    with pytest.raises(ValueError, match="is no cohort manifest"):
        Cohort.open(copy)


@pytest.mark.parametrize("name", ["slices.npy", "masks.npy", "slices.csv", "patients.csv"])
def test_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}"):
        Cohort.open(copy)


@pytest.mark.parametrize("name", ["slices.npy", "masks.npy"])
@pytest.mark.parametrize("size", [0, 60, 100_000])
def test_truncated_file(copy, name, size):
    (copy / name).write_bytes((copy / name).read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{name} is truncated or no NumPy file"):
        Cohort.open(copy)


def test_altered_files(copy):
    whole = bytearray((copy / "slices.npy").read_bytes())
    whole[-1] ^= 1
    (copy / "slices.npy").write_bytes(whole)
    Cohort.open(copy)
    with pytest.raises(ValueError, match=r"slices\.npy does not match its SHA-256"):
        Cohort.open(copy, verify=True)
    np.save(copy / "masks.npy", np.zeros((3, 256, 256), np.uint8))
    with pytest.raises(ValueError, match=r"holds \(3, 256, 256\) uint8, expected \(40, 256, 256\)"):
        Cohort.open(copy)


def test_table_of_another_length(copy):
    lines = (copy / "slices.csv").read_text().splitlines()
    (copy / "slices.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="has 39 rows"):
        Cohort.open(copy)
