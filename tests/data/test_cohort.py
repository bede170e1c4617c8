"""A cohort folder: what is written is read, what is broken is refused, and rows are chosen fairly."""

import numpy as np
import pandas as pd
import pytest

from mrtutor.data.cohort import COLUMNS, SPLITS, Cohort, choose_rows, split_patients, write_cohort
from mrtutor.data.prepare import describe
from tests.conftest import fake_slices


def write(out, count=4, **columns):
    """A cohort of slices of different real patients; the second without T2, the third without tumour."""
    images, masks = fake_slices(0, count)
    images[1:2, 3], masks[2:3] = 0, 0
    table = pd.DataFrame("", range(count), list(COLUMNS)).assign(source="UCSF-PDGM", sequences="FLAIR T1 T1Gd T2")
    table = table.assign(z_mm=np.nan, tumour_px=[int(mask.any()) for mask in masks])
    table["subject_id"] = table["patient"] = [f"p{n}" for n in range(count)]
    table.loc[1:1, "sequences"] = "FLAIR T1 T1Gd"
    people = pd.DataFrame({"subject_id": ["p1"], "age": [40]})
    return write_cohort(out, images, masks, table.assign(**columns), people, {"seed": 3})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    columns = {"idh": ["", "wild", "", "mutant"], "split": ["test", "train", "test", "validation"]}
    columns |= {"source": ["UCSF-PDGM", "UCSF-PDGM", "UCSF-PDGM", "simulated"], "side": ["", "", "", "left"]}
    columns |= {"subject_id": ["a-1", "p1", "a-2", "NA"], "patient": ["a", "p1", "a", "NA"]}
    return write(tmp_path_factory.mktemp("cohort") / "mixed", necrosis=[None, True, None, False], **columns)


def test_what_is_written_is_read(cohort):
    again = Cohort.open(cohort.path, verify=True)
    assert np.array_equal(again.images[0], fake_slices(0, 4)[0][0]) and not again.images[1, 3].any()
    assert tuple(again.table.columns) == COLUMNS and again.manifest["seed"] == 3
    assert (again.manifest["exams"], again.manifest["patients"], len(again)) == (4, 3, 4)
    assert again.table["subject_id"].tolist() == ["a-1", "p1", "a-2", "NA"], "a patient may be called NA"
    assert again.patients["age"].tolist() == pytest.approx([np.nan, 40, np.nan, np.nan], nan_ok=True)


def test_rows_say_what_they_have(cohort):
    assert cohort.available.tolist() == [[True] * 4, [True, True, True, False], [True] * 4, [True] * 4]
    assert [cohort.idh(row) for row in range(4)] == [None, "wild", None, "mutant"]
    words = "A simulated T1 modality MR image, type of IDH mutant glioma, left, without necrosis"
    said = {0: "A T1 modality MR image, type of glioma", 2: "A T1 modality MR image, no tumour", 3: words}
    assert all(cohort.sentence(row, "T1") == sentence for row, sentence in said.items())
    assert np.array_equal(cohort.slice(0, "t1ce"), cohort.images[0, 2].astype(np.float32) / 255)
    assert set(np.unique(cohort.structure(0, "FLAIR"))) == {0, 255}
    assert cohort.row_of("a-1") == 0 and not cohort.simulated
    asked = {"split": ("test", [0, 2]), "idh": ("wt", [1]), "tumour": (False, [2]), "simulated": (True, [3])}
    assert all(cohort.rows(**{name: word}).tolist() == rows for name, (word, rows) in asked.items())
    for ask, wrong in ((cohort.row_of, "c"), (cohort.rows, "tset")):
        with pytest.raises(ValueError, match=wrong):
            ask(wrong)


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("cohort.json", None, "half-written"),
        ("cohort.json", lambda content: b"{", "no cohort manifest"),
        ("cohort.json", lambda content: content.replace(b": 2,", b": 1,"), "version"),
        ("masks.npy", None, "lacks"),
        ("slices.npy", lambda content: content[:5000], "truncated"),
        ("slices.csv", lambda content: content.replace(b"p1", b"p7"), "SHA-256"),
        ("masks.npy", lambda content: content[:5000] + b"\7" + content[5001:], "SHA-256"),
    ],
)
def test_broken_folders_are_refused(tmp_path, name, change, word):
    file = write(tmp_path / "out", 2).path / name
    content = file.read_bytes()
    file.unlink()
    if change:
        file.write_bytes(change(content))
    for folder, said in ((file.parent, word), (tmp_path, "No cohort")):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            Cohort.open(folder, verify=word == "SHA-256")


def test_tables_that_contradict_themselves_are_refused(tmp_path):
    two_splits = {"split": ["train", "test", "train", "train"], "patient": ["a", "a", "b", "c"]}
    for columns in ({"idh": "mutated"}, {"split": "dev"}, two_splits):
        with pytest.raises(ValueError, match=r"idh|split"):
            write(tmp_path, **columns)
    assert not list(tmp_path.iterdir())


def test_arrays_fit_the_table_and_the_key_changes_with_pixels_and_words(cohort, tmp_path):
    with pytest.raises(ValueError, match="4 rows"):
        write_cohort(tmp_path, cohort.images[:2], cohort.masks[:2], cohort.table)
    same = write_cohort(tmp_path, cohort.images, cohort.masks, cohort.table).key
    brighter = write_cohort(tmp_path, np.maximum(cohort.images, 1), cohort.masks, cohort.table).key
    renamed = write_cohort(tmp_path, cohort.images, cohort.masks, cohort.table.assign(idh="wild")).key
    assert same == cohort.key and len({same, brighter, renamed}) == 3


def test_split_is_stratified_and_fixed_by_name():
    idh = {f"SIM-{n:04d}": ("wild", "mutant")[n % 2] for n in range(100)}
    split = split_patients(idh)
    counts = pd.Series(split).groupby([pd.Series(idh), pd.Series(split)]).size()
    assert counts.to_dict() == {(k, s): n for k in ("mutant", "wild") for s, n in zip(SPLITS, (40, 5, 5), strict=True)}
    assert split_patients(dict(reversed(idh.items()))) == split
    assert (split["SIM-0001"], split["SIM-0005"], split["SIM-0034"]) == ("validation", "train", "test")


def test_few_rows_cover_many_patients(tmp_path):
    numbers = [0] * 9 + [1, 2, 3, 4, 5]  # patient 0 has 9 slices, the others one each; odd ones are wild
    columns = {"patient": [f"p{n}" for n in numbers], "idh": [("mutant", "wild")[n % 2] for n in numbers]}
    cohort = write(tmp_path / "unequal", 14, split="test", tumour_px=[0, *[1] * 13], **columns)
    people, rows = cohort.table["patient"], choose_rows(cohort, 6, seed=1)
    assert people[rows].nunique() == 6 and choose_rows(cohort, 3, seed=1) == rows[:3] != choose_rows(cohort, 3, seed=2)
    assert sorted(choose_rows(cohort, 13)) == [*range(1, 14)] and choose_rows(cohort, 1, tumour=False) == [0]
    with pytest.raises(ValueError, match="fewer"):
        choose_rows(cohort, 14)


def test_the_examples(examples):
    Cohort.open(examples.path, verify=True)
    real = examples.table.iloc[examples.rows(simulated=False)]
    assert (len(examples) - len(real), real["patient"].nunique(), set(real["split"])) == (8, 10, {"test"})
    for row in range(len(examples)):
        said = examples.findings(row)
        found = describe(examples.masks[row], examples.images[row].any(axis=0), said.simulated)
        assert (found.tumour, found.side, found.necrosis) == (said.tumour, said.side, said.necrosis)
