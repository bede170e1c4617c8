"""Examples: what is saved is what is loaded; damage and mistakes are named."""

from pathlib import Path

import numpy as np
import pytest

from mrtutor.data import examples
from mrtutor.data.examples import (
    choose_examples,
    example_names,
    examples_cohort,
    load_example,
    save_example,
    write_examples,
)
from mrtutor.data.structure import canny
from mrtutor.files import write_checksums
from mrtutor.vocabulary import IDH, Modality
from tests.cohorts import write_tiny_cohort


def _slice(seed: int = 0, noise: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Four images with a bright disc of different size, and its mask."""
    radius = np.hypot(*np.mgrid[-128:128, -128:128])
    images = np.stack([np.where(radius < 60 + 5 * i + seed, 200, 0) for i in range(4)]).astype(np.uint8)
    if noise:
        images = np.random.default_rng(seed).integers(0, 256, images.shape, dtype=np.uint8)
    return images, (radius < 20).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, mask = _slice()
    save_example("wild_1", images, mask, "wt", "SIM-0007", structure_of="T1ce", folder=tmp_path)
    return tmp_path


def test_round_trip(folder: Path) -> None:
    images, mask = _slice()
    got = load_example("wild_1", folder)
    assert got.images.shape == (4, 256, 256) and got.images.dtype == np.float32
    assert np.array_equal(np.round(got.images * 255).astype(np.uint8), images) and got.images.max() <= 1
    assert np.array_equal(got.mask, mask)
    assert np.array_equal(got.structure, canny(images[2])) and got.structure.any()
    assert (got.idh, got.subject_id, got.source) == (IDH.WILD, "SIM-0007", "simulated")
    assert got.structure_of is Modality.T1GD


def test_the_same_example_is_the_same_file(folder: Path) -> None:
    before = (folder / "wild_1.npz").read_bytes()
    save_example("wild_1", *_slice(), "wild", "SIM-0007", folder=folder)
    assert (folder / "wild_1.npz").read_bytes() == before


def test_examples_as_a_cohort(folder: Path) -> None:
    images, mask = _slice(1)
    save_example("mutant_3", images, mask, "mutant", "SIM-0008", split="train", folder=folder)
    cohort = examples_cohort(folder)
    assert len(cohort) == 2 and cohort.table["tumour_px"].between(900, 1000).all()
    assert list(cohort.rows("train")) == [0] and list(cohort.rows("test", "wild")) == [1]
    assert np.array_equal(cohort.images[0], images) and np.array_equal(cohort.masks[0], mask)
    assert cohort.dataset("train", structure_of="any")[0]["structure"].any()
    with pytest.raises(FileNotFoundError, match="No examples in"):
        examples_cohort(folder / "nothing")


def test_examples_are_chosen_from_test_and_training_patients(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path)
    people = cohort.patients.assign(ring_necrosis=False, mismatch=False)
    signs = people.index[people["split"] == "train"][-2:]  # one of each type: patients take turns
    people.loc[signs, ["ring_necrosis", "mismatch"]] = True
    object.__setattr__(cohort, "patients", people)
    chosen = choose_examples(cohort)
    table = cohort.table.iloc[list(chosen.values())].assign(name=list(chosen))
    assert table["subject_id"].is_unique
    assert all(row["name"].startswith(row["idh"]) for _, row in table.iterrows())
    assert table.set_index("name")["split"]["wild_1"] == "test" and "train" in set(table["split"])
    assert set(people.loc[signs, "subject_id"]) <= set(table["subject_id"])
    assert len(write_examples(cohort, tmp_path / "examples")) == len(chosen)
    assert len(examples_cohort(tmp_path / "examples")) == len(chosen)
    assert {load_example(name, tmp_path / "examples").source for name in chosen} == set(table["source"]) == {"test"}


def test_real_patients_are_no_examples(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path)  # as a real one, without a table of phenotypes
    with pytest.raises(ValueError, match=r"Expected a simulated cohort.*of test patients: make one"):
        write_examples(cohort, tmp_path / "examples")
    assert not (tmp_path / "examples").exists()


def test_unknown_name_lists_the_choices(folder: Path) -> None:
    save_example("mutant_1", *_slice(1), "mutant", "SIM-0008", folder=folder)
    assert example_names(folder) == ["mutant_1", "wild_1"]
    with pytest.raises(ValueError, match=r"Unknown example '../wild_1': expected one of mutant_1, wild_1"):
        load_example("../wild_1", folder)


def test_an_empty_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRTUTOR_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"No examples in {tmp_path / 'examples'}"):
        load_example("wild_1")


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:]])
def test_damage_is_named(folder: Path, damage) -> None:
    path = folder / "wild_1.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="truncated or altered"):
        load_example("wild_1", folder)


def test_another_content_is_named(folder: Path) -> None:
    np.savez(folder / "other.npz", images=_slice()[0])
    write_checksums(folder)
    with pytest.raises(ValueError, match="Example other lacks mask, idh"):
        load_example("other", folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../evil"}, "lower-case letters"),
        ({"images": _slice()[0][:3]}, "images of shape"),
        ({"images": _slice()[0] / 255}, "type uint8, got"),
        ({"mask": _slice()[1][:9]}, "mask of shape"),
        ({"idh": "maybe"}, "Unknown IDH type"),
        ({"structure_of": "CT"}, "Unknown modality"),
        ({"split": "tests"}, "Unknown split 'tests'"),
        ({"images": np.zeros((4, 256, 256), np.uint8)}, "has no edges"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_bad_examples_are_refused_and_nothing_is_written(tmp_path: Path, change: dict, words: str) -> None:
    images, mask = _slice()
    good = {"name": "a", "images": images, "mask": mask, "idh": "wild", "subject_id": "s", "folder": tmp_path}
    with pytest.raises(ValueError, match=words):
        save_example(**(good | change))
    assert not list(tmp_path.iterdir())


def test_the_folder_stays_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_BYTES", 200_000)
    images, mask = _slice(1, noise=True)
    with pytest.raises(ValueError, match="more than 200000: remove one first"):
        save_example("noise", images, mask, "wild", "s", folder=folder)
    assert example_names(folder) == ["wild_1"]


def test_the_examples_that_ship_open_and_are_simulated() -> None:
    names = example_names()
    assert names, "data/examples is empty"
    shipped = [load_example(name) for name in names]
    assert {one.idh for one in shipped} == set(IDH)
    assert all(one.source == "simulated" and one.structure.any() and one.mask.any() for one in shipped)
    assert examples_cohort().simulated
    folder = examples.examples_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2**20
