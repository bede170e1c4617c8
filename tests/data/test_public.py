"""Public cohorts: each layout with its quirks is read, or refused with a reason; the run goes on."""

import re
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from public_trees import add_exam, arrays, save, ucsf_tree
from typer.testing import CliRunner

from mrtutor.cli import app
from mrtutor.data.build import build_cohort
from mrtutor.data.cohort import Cohort
from mrtutor.data.public import parse_idh, public_cases, read_table
from mrtutor.data.public_layouts import LAYOUTS, layout_of
from mrtutor.data.skipped import KINDS, count_reasons
from mrtutor.data.volume import check_subject
from mrtutor.vocabulary import Modality

FIRST = {
    "ucsf-pdgm": "UCSF-PDGM-0004",
    "brats-2021": "BraTS2021_00001",
    "brats-2023": "BraTS-GLI-00001-000",
    "upenn-gbm": "UPENN-GBM-00001_11",
}


def cases(root, source, table=None, idh=None):
    """(label -> refusal) of the cases of a tree."""
    return {case.label: case.refusal for case in public_cases([root], source, table, idh)}


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_gives_the_subject_of_the_simulator(tmp_path, source):
    add_exam(tmp_path / "tree", source, FIRST[source], look=2)
    (case,) = public_cases([tmp_path / "tree"], source, idh="wt")
    subject = case.load()
    check_subject(subject)
    assert subject["subject_id"] == layout_of(source).parse(FIRST[source])[0]
    assert (subject["idh"], subject["source"]) == ("wild", source)
    expected = arrays(2, 3)
    for modality in Modality:
        assert np.array_equal(subject[modality].data[0], expected[modality])
    assert np.array_equal(subject["tumour"].data[0], expected["tumour"])  # 1 necrosis, 2 oedema, 3 enhancing


@pytest.mark.parametrize("source", LAYOUTS)
def test_the_folder_may_be_given_at_several_levels(tmp_path, source):
    folder = add_exam(tmp_path / "download" / "tree", source, FIRST[source])
    roots = [folder, folder.parent, tmp_path / "download" / "tree", tmp_path / "download"]
    found = [public_cases([root], source, idh="wild") for root in roots]
    assert found[0] == found[1] == found[2] == found[3]
    assert public_cases(roots, source, idh="wild") == found[0]
    assert found[0][0].refusal is None


def test_labels_of_brats_become_ours(tmp_path):
    """BraTS 2021 has 4 for enhancing; from 2023 on it is 3, and 4 (2024) a resection cavity."""
    for source in ("brats-2021", "brats-2023"):
        folder = add_exam(tmp_path / source, source, FIRST[source])
        (path,) = folder.glob("*seg*")
        path.unlink()
        save(path, np.where(arrays(0, 4)["tumour"] == 2, 4, arrays(0, 3)["tumour"]).astype(np.uint8))
    numbers = {
        source: set(np.unique(public_cases([tmp_path / source], source, idh="wild")[0].load()["tumour"].data).tolist())
        for source in ("brats-2021", "brats-2023")
    }
    assert numbers == {"brats-2021": {0, 1, 3, 4}, "brats-2023": {0, 1, 3}}


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("wildtype", "wild"),
        (" Wildtype ", "wild"),
        ("IDH1 p.R132H", "mutant"),
        ("IDH2 p.Arg172Lys", "mutant"),
        ("mutated (NOS)", "mutant"),
        ("Mutated", "mutant"),
        ("NOS/NEC", None),
        ("unknown", None),
        ("", None),
        (None, None),
        ("probably wildtype", None),
    ],
)
def test_words_for_the_idh_type(word, kind):
    assert parse_idh(word) == kind


def test_a_users_own_table_needs_known_words():
    assert parse_idh("wt", mutations=False) == "wild"
    assert parse_idh("blue", mutations=False) is None


def test_three_digits_in_the_table_four_on_disk_five_in_the_files(tmp_path):
    add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-0004", files="UCSF-PDGM-00004")
    table = write(tmp_path / "t.csv", "ID,IDH", "UCSF-PDGM-004,wildtype")
    (case,) = public_cases([tmp_path / "tree"], "ucsf-pdgm", table)
    assert (case.load()["subject_id"], case.idh) == ("UCSF-PDGM-0004", "wild")


def test_a_file_of_another_patient_does_not_count(tmp_path):
    folder = add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-0004")
    (folder / "UCSF-PDGM-0004_T1c.nii.gz").rename(folder / "UCSF-PDGM-0005_T1c.nii.gz")
    assert "UCSF-PDGM-0004_nifti lacks T1Gd" in cases(tmp_path / "tree", "ucsf-pdgm", idh="wild")[folder.name]


def test_the_bias_corrected_twin_is_read(tmp_path):
    folder = add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-0004")
    for word in ("FLAIR", "SWI", "DWI"):
        save(folder / f"UCSF-PDGM-0004_{word}_bias.nii.gz", arrays(3, 4)["FLAIR"])
    (folder / "UCSF-PDGM-0004_T2.nii.gz").rename(folder / "UCSF-PDGM-0004_T2_bias.nii.gz")
    (case,) = public_cases([tmp_path / "tree"], "ucsf-pdgm", idh="wild")
    subject = case.load()
    assert np.array_equal(subject["FLAIR"].data[0], arrays(3, 4)["FLAIR"])
    assert np.array_equal(subject["T2"].data[0], arrays(0, 4)["T2"])


def test_doubled_files_and_folders_are_refused(tmp_path):
    folder = add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-0004")
    nib.save(nib.load(folder / "UCSF-PDGM-0004_T1.nii.gz"), folder / "UCSF-PDGM-0004_T1.nii")
    add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-0005")
    add_exam(tmp_path / "tree", "ucsf-pdgm", "UCSF-PDGM-005")
    found = cases(tmp_path / "tree", "ucsf-pdgm", idh="wild")
    assert "T1 2 times (UCSF-PDGM-0004_T1.nii and UCSF-PDGM-0004_T1.nii.gz)" in found["UCSF-PDGM-0004_nifti"]
    for name in ("UCSF-PDGM-0005_nifti", "UCSF-PDGM-005_nifti"):
        assert "2 folders, so it is doubled" in found[name]


def test_a_follow_up_never_enters_beside_its_patient(tmp_path):
    for exam in ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU003d", "UCSF-PDGM-0005", "UCSF-PDGM-0005_FU001d"):
        add_exam(tmp_path / "tree", "ucsf-pdgm", exam)
    (tmp_path / "tree/UCSF-PDGM-0005_nifti/UCSF-PDGM-0005_T2.nii.gz").unlink()
    table = write(tmp_path / "t.csv", "ID,IDH", "UCSF-PDGM-004,wildtype", "UCSF-PDGM-005_FU001d,IDH1 p.R132H")
    built = public_cases([tmp_path / "tree"], "ucsf-pdgm", table)
    refusals = {case.label: case.refusal for case in built}
    assert refusals["UCSF-PDGM-0004_nifti"] is None
    assert "earlier UCSF-PDGM-0004_nifti stands" in refusals["UCSF-PDGM-0004_FU003d_nifti"]
    assert "lacks T2" in refusals["UCSF-PDGM-0005_nifti"]  # so the rescan of a day later takes its place …
    assert refusals["UCSF-PDGM-0005_FU001d_nifti"] is None
    assert built[-1].load()["subject_id"] == "UCSF-PDGM-0005"  # … under the patient's own name
    assert built[-1].idh == "mutant"


def test_upenn_takes_baselines_only(tmp_path):
    for exam in ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM-00002_21", "UPENN-GBM-00003_11"):
        add_exam(tmp_path / "tree", "upenn-gbm", exam)
    (tmp_path / "tree/images_segm/UPENN-GBM-00003_11_segm.nii.gz").unlink()
    table = write(
        tmp_path / "t.csv",
        "ID,Gender,IDH1",
        "UPENN-GBM-00001_11,F,NOS/NEC",
        "UPENN-GBM-00001_21,F,Mutated",  # a later test settles it: the type of a patient does not change
        "UPENN-GBM-00002_21,M,Wildtype",
        "UPENN-GBM-00003_11,M,Wildtype",
    )
    built = {case.label: case for case in public_cases([tmp_path / "tree"], "upenn-gbm", table)}
    assert (built["UPENN-GBM-00001_11"].idh, built["UPENN-GBM-00001_11"].refusal) == ("mutant", None)
    for name in ("UPENN-GBM-00001_21", "UPENN-GBM-00002_21"):
        assert "only the scan before treatment" in built[name].refusal
    assert "lacks tumour" in built["UPENN-GBM-00003_11"].refusal
    automated = tmp_path / "tree/automated_segm/UPENN-GBM-00003_11_automated_approx_segm.nii.gz"
    save(automated, arrays(0, 4)["tumour"])
    assert cases(tmp_path / "tree", "upenn-gbm", table)["UPENN-GBM-00003_11"] is None


def test_types_that_the_table_does_not_settle(tmp_path):
    for number in range(1, 4):
        add_exam(tmp_path / "tree", "ucsf-pdgm", f"UCSF-PDGM-{number:04d}")
    table = write(
        tmp_path / "t.csv",
        "ID,IDH",
        "UCSF-PDGM-001,unknown",
        "UCSF-PDGM-002,wildtype",
        "UCSF-PDGM-002_FU010d,mutated (NOS)",
        "other-cohort-1,wildtype",
    )
    found = list(cases(tmp_path / "tree", "ucsf-pdgm", table).values())
    assert "unknown in the table" in found[0]
    assert "the table says mutant and wild" in found[1]
    assert "no such row" in found[2]
    assert read_table(layout_of("ucsf-pdgm"), table).rows == {"wild": 1, "mutant": 1, "unknown": 1}


def test_one_run_over_everything_that_can_be_wrong(tmp_path):
    """The run goes on; the summary counts each kind of reason, in the report, in the manifest and on the screen."""
    root = tmp_path / "tree"
    table = ucsf_tree(root, patients=8, rows=9, wild_rows=6)
    files = {n: root / f"UCSF-PDGM-{n:04d}_nifti" for n in range(1, 9)}
    (files[2] / "UCSF-PDGM-0002_T1.nii.gz").unlink()
    save(files[3] / "UCSF-PDGM-0003_T2.nii", arrays(0, 4)["T2"])
    shifted = files[4] / "UCSF-PDGM-0004_T1c.nii.gz"
    shifted.unlink()
    save(shifted, arrays(0, 4)["T1Gd"], np.diag([1, 1, 2, 1.0]))
    empty = files[5] / "UCSF-PDGM-0005_tumor_segmentation.nii.gz"
    empty.unlink()
    save(empty, np.zeros_like(arrays(0, 4)["tumour"]))
    truncated = files[6] / "UCSF-PDGM-0006_FLAIR.nii.gz"
    half = truncated.read_bytes()[:3000]
    truncated.unlink()
    truncated.write_bytes(half)
    table.write_text(re.sub(r"(PDGM-007,M),[^,]*", r"\1,unknown", table.read_text()))
    arguments = ["prepare", str(root), "--source", "ucsf-pdgm", "--labels", str(table), "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    cohort = Cohort.open(tmp_path / "out", verify=True)
    assert cohort.patients["subject_id"].tolist() == ["UCSF-PDGM-0001", "UCSF-PDGM-0008"]
    assert count_reasons(cohort.manifest["skipped"]) == {
        "doubled file": 1,
        "follow-up of the same patient": 1,
        "missing file": 1,
        "no visible tumour": 1,
        "other grid": 1,
        "unknown IDH type": 1,
        "unreadable file": 1,
    }
    assert "Table: 9 rows (6 wild, 2 mutant, 1 unknown) of 8 patients; 9 exam(s) on disk." in result.stdout
    assert "Skipped by reason: 1 doubled file, 1 follow-up of the same patient, 1 missing file" in result.stderr
    assert result.stdout.endswith("(7 case(s) skipped).\n")


def test_reasons_are_counted_by_kind():
    assert count_reasons([("a", "a lacks T1"), ("b", "b lacks T2"), ("c", "???")]) == {"missing file": 2, "other": 1}
    assert count_reasons([]) == {}
    assert len(set(KINDS.values())) < len(KINDS)  # two messages of doubled things, one kind


def test_a_changed_file_is_prepared_anew(tmp_path):
    folder = add_exam(tmp_path / "tree", "brats-2021", FIRST["brats-2021"])
    (case,) = public_cases([tmp_path / "tree"], "brats-2021", idh="wild")
    before = case.key
    assert public_cases([tmp_path / "tree"], "brats-2021", idh="mutant")[0].key != before
    path = folder / "BraTS2021_00001_t1.nii.gz"
    path.unlink()
    save(path, arrays(5, 4)["T1"])
    assert case.key != before


def test_mistakes(tmp_path):
    add_exam(tmp_path / "tree", "ucsf-pdgm", FIRST["ucsf-pdgm"])
    with pytest.raises(ValueError, match="expected 'folder' or one of ucsf-pdgm, brats-2021, brats-2023, upenn-gbm"):
        public_cases([tmp_path / "tree"], "ucsf", idh="wild")
    for labels, idh in ((None, None), ("t.csv", "wild")):
        with pytest.raises(ValueError, match="either a table of IDH types"):
            public_cases([tmp_path / "tree"], "ucsf-pdgm", labels, idh)
    with pytest.raises(ValueError, match=r"No brats-2021 exam in .*: expected files such as BraTS2021_00001/"):
        public_cases([tmp_path / "tree"], "brats-2021", idh="wild")
    with pytest.raises(FileNotFoundError, match="No folder"):
        public_cases([tmp_path / "none"], "ucsf-pdgm", idh="wild")
    with pytest.raises(FileNotFoundError, match="No table"):
        cases(tmp_path / "tree", "ucsf-pdgm", tmp_path / "none.csv")
    with pytest.raises(ValueError, match="has the columns subject_id, idh: ucsf-pdgm needs ID and IDH"):
        cases(tmp_path / "tree", "ucsf-pdgm", write(tmp_path / "a.csv", "subject_id,idh", "UCSF-PDGM-004,wt"))
    with pytest.raises(ValueError, match="names no patient of ucsf-pdgm"):
        cases(tmp_path / "tree", "ucsf-pdgm", write(tmp_path / "b.csv", "ID,IDH", "A,wildtype"))
    (tmp_path / "c.csv").write_bytes(b"ID,IDH\nUCSF-PDGM-004,\xff\xfe\n")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        cases(tmp_path / "tree", "ucsf-pdgm", tmp_path / "c.csv")


def test_no_follow_up_straddles_a_split(tmp_path):
    table = ucsf_tree(tmp_path / "tree", patients=12, rows=16, wild_rows=10)
    report = build_cohort(
        public_cases([tmp_path / "tree"], "ucsf-pdgm", table), tmp_path / "out", {"source": "x"}, progress=False
    )
    assert report.patients == 12
    assert count_reasons(report.skipped) == {"follow-up of the same patient": 4}
    people = Cohort.open(tmp_path / "out").table.groupby("subject_id")
    assert people["split"].nunique().max() == 1
    assert people["idh"].nunique().max() == 1


def test_the_right_counts_of_the_whole_cohort(tmp_path):
    """495 patients, 501 rows: 398 wild, 103 mutant; read from the tree without preparing it (that is the benchmark)."""
    table = ucsf_tree(tmp_path / "tree")
    assert read_table(layout_of("ucsf-pdgm"), table).rows == {"wild": 398, "mutant": 103, "unknown": 0}
    built = public_cases([tmp_path / "tree"], "ucsf-pdgm", table)
    assert len(built) == 501
    assert Counter(case.idh for case in built) == {"wild": 398, "mutant": 103}
    used = [case for case in built if case.refusal is None]
    assert len({case.exam.patient for case in used}) == len(used) == 495
    assert all("follow-up of" in case.refusal for case in built if case.refusal)
