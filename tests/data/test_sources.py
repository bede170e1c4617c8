"""Public cohorts as they lie on disk: every layout gives the same subject, every fault is told and skips one case."""

import os
import pickle
import shutil

import numpy as np
import pytest

from mrtutor.data.sources import SimulatedCase, find_cases, read_table
from tests.data.fakes import EXAMS, SEQUENCES, add_exam, add_tif_exam, save, volumes


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def faults(root, source="folder", **options):
    """(exam -> why it cannot be used or None), loading each case as a build does."""
    found = {}
    for case in find_cases([root], source, **options):
        try:
            case.load()
            found[case.label] = None
        except ValueError as error:
            found[case.label] = str(error)
    return found


@pytest.mark.parametrize("source", EXAMS)
def test_every_layout_gives_the_same_subject_from_every_level(tmp_path, source):
    folder = add_exam(tmp_path / "Größe 1" / "HGG", source)
    (case,) = find_cases(tmp_path, source, idh="wt")
    subject = case.load()
    for name, voxels in volumes().items():
        assert np.array_equal(subject[name].data[0], voxels)
    assert (subject["subject_id"], subject["source"], subject["idh"]) == (EXAMS[source][0], source, "wild")
    assert pickle.loads(pickle.dumps(case)) == case
    levels = [folder.parent if source == "msd" else folder, folder.parent, tmp_path / "Größe 1"]
    for level in levels:
        assert find_cases(level, source, idh="wt") == [case]
    assert find_cases(levels, source, idh="wt") == [case]  # the same exam several times is one


def test_bids(tmp_path):
    data = volumes()
    stem = "sub-7/ses-1/anat/sub-7_ses-1"
    for name, sequence in zip(("FLAIR", "T1w", "ce-gad_T1w", "T2w"), SEQUENCES, strict=True):
        save(tmp_path / f"{stem}_{name}.nii.gz", data[sequence])
        save(tmp_path / f"derivatives/fmriprep/{stem}_{name}.nii.gz", data[sequence])
    save(tmp_path / f"derivatives/masks/{stem}_dseg.nii.gz", data["tumour"])
    (case,) = find_cases(tmp_path)
    assert (case.label, case.patient) == ("sub-7_ses-1", "sub-7")
    subject = case.load()
    for name, voxels in data.items():
        assert np.array_equal(subject[name].data[0], voxels)


def test_an_exam_is_called_as_its_folder_not_as_what_a_link_points_to(tmp_path):
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "patient8").symlink_to(add_exam(tmp_path / "store", exam="blob17"))
    table = write(tmp_path / "t.csv", "subject_id,idh", "patient8,mutant", "blob17,wild")
    (case,) = find_cases(tmp_path / "cohort", labels=table)
    assert (case.label, case.idh) == ("patient8", "mutant")
    (tmp_path / "cohort" / "up").symlink_to(tmp_path)  # leads back up: searched once
    assert len(find_cases(tmp_path / "cohort")) == 2


def test_one_bad_exam_is_skipped_with_its_reason_and_the_rest_is_read(tmp_path, monkeypatch):
    words = {
        **dict.fromkeys(("good", "mac")),
        "link": "link_t2.nii.gz (it is a link that leads nowhere)",
        "dir": "dir_flair.nii.gz (it is a folder)",
        "twice": "twice_t1.nii.gz and twice_t1n.nii.gz",
        "no_seg": "no segmentation",
        "empty": "no sequence",
        "locked": "Permission denied",
        "double": "2 folders",
    }
    for name in words:
        add_exam(tmp_path, exam=name)
    add_exam(tmp_path / "other site", exam="double")
    sequences = [f"empty/empty{end}" for end in EXAMS["folder"][1][:4]]
    for path in ("link/link_t2", "dir/dir_flair", "no_seg/no_seg_seg", *sequences):
        (tmp_path / f"{path}.nii.gz").unlink()
    (tmp_path / "mac/._mac_flair.nii.gz").write_bytes(b"macOS")
    (tmp_path / "link/link_t2.nii.gz").symlink_to("gone.nii.gz")
    save(tmp_path / "dir/dir_flair.nii.gz/inner_flair.nii.gz", volumes()["FLAIR"])
    shutil.copy(tmp_path / "twice/twice_t1.nii.gz", tmp_path / "twice/twice_t1n.nii.gz")
    whole = os.listdir

    def listdir(folder):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return whole(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    found = faults(tmp_path)
    assert found.keys() == words.keys()
    for name, word in words.items():
        assert found[name] == word or word in found[name]
    assert faults(tmp_path / "no_seg", segmentation=False) == {"no_seg": None}


def test_upenn_takes_scans_before_treatment_and_the_better_segmentation(tmp_path):
    empty = np.zeros_like(volumes()["tumour"])
    for exam in ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM-00002_11"):
        add_exam(tmp_path, "upenn-gbm", exam)
        save(tmp_path / f"automated_segm/{exam}_automated_approx_segm.nii.gz", empty)
    (tmp_path / "images_segm/UPENN-GBM-00002_11_segm.nii.gz").unlink()
    first, later, second = find_cases(tmp_path, "upenn-gbm")
    assert "after treatment" in later.fault
    assert [bool(case.load()["tumour"].data.any()) for case in (first, second)] == [True, False]


def test_the_layout_or_a_word_says_how_labels_are_numbered(tmp_path):
    folder = add_exam(tmp_path, "brats-2023")
    labels = np.array([0, 1, 2, 4], np.uint8)[volumes()["tumour"]]
    save(folder / f"{folder.name}-seg.nii.gz", labels)
    assert "--label-codes" in faults(tmp_path, "brats-2023")[folder.name]
    for options, enhancing in (({"source": "brats-2024"}, 0), ({"label_codes": "brats-2021"}, 3)):
        (case,) = find_cases(tmp_path, **options)
        assert np.array_equal(case.load()["tumour"].data[0], np.where(labels == 4, enhancing, labels))


@pytest.mark.parametrize("missing", ["", "T1", "T1Gd"])
def test_kaggle_3m(tmp_path, missing):
    add_tif_exam(tmp_path / "kaggle_3m", missing=missing)
    (case,) = find_cases(tmp_path, "kaggle-3m", skull=True)
    subject = case.load()
    assert set(subject.get_images_names()) == {"FLAIR", "T1", "T1Gd", "tumour"} - {missing}
    assert [subject[name] for name in ("skull", "regions", "patient", "idh")] == [True, False, "TCGA-CS-4941", ""]
    assert subject.spacing == pytest.approx((0.94, 0.94, 5))
    flair = subject["FLAIR"].data.numpy()[0, ::-1, ::-1]  # to RAS+
    assert np.array_equal(flair, np.clip(volumes()["FLAIR"] / 16, 0, 255).astype(np.uint8))
    assert subject["FLAIR"].orientation == ("L", "P", "S")
    assert any("copies FLAIR" in note for note in subject["notes"]) == bool(missing)


def test_faults_of_kaggle_3m(tmp_path):
    gone, damaged, other = (add_tif_exam(tmp_path, f"TCGA_CS_494{number}_1") for number in range(3))
    (gone / f"{gone.name}_3_mask.tif").unlink()
    (damaged / f"{damaged.name}_3_mask.tif").write_bytes(b"no picture")
    shutil.copy(other / f"{other.name}_3.tif", other / f"{other.name}_3_mask.tif")
    for name, fault in faults(tmp_path, "kaggle-3m", skull=True).items():
        assert f"{name}_3" in fault


def test_a_changed_file_or_label_changes_the_key(tmp_path):
    folder = add_exam(tmp_path)
    keys = {find_cases(tmp_path)[0].key, find_cases(tmp_path, idh="wild")[0].key}
    save(folder / "patient7_t2.nii.gz", volumes()["T1"])
    assert len(keys | {find_cases(tmp_path)[0].key}) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_one_reader_for_every_table(tmp_path, encoding, separator):
    lines = ["Subject ID,Größe,IDH", "NA,1,IDH-mutant", "b,2,wildtype", "ä,3"]
    table = read_table(write(tmp_path / "t.csv", *[line.replace(",", separator) for line in lines], encoding=encoding))
    assert [table.of(name)["idh"] for name in ("NA", "B", "ä")] == ["mutant", "wild", ""]


UNKNOWN = "mutated (NOS)|-1|negative|Not Available|not tested|?|0|NOS/NEC|indeterminate"


@pytest.mark.parametrize(("words", "types"), [(UNKNOWN, ["mutant", *[""] * 8]), ("1|0|-1", ["mutant", "wild", ""])])
def test_words_are_listed_and_unknown_where_they_say_no_type(tmp_path, words, types):
    words = words.split("|")
    table = read_table(write(tmp_path / "t.csv", "id,idh1", *[f"p{row},{word}" for row, word in enumerate(words)]))
    for row, (word, kind) in enumerate(zip(words, types, strict=True)):
        assert table.of(f"p{row}")["idh"] == kind
        assert f"{word} as {kind or 'unknown'} 1" in str(table)


def test_splits_persons_and_collections_of_a_table_next_to_the_exams(tmp_path):
    for exam in ("BraTS-SSA-00115-000", "BraTS-SSA-00121-000", "BraTS-SSA-00121-001", "BraTS-SSA-00122-000"):
        add_exam(tmp_path / "real", "brats-africa", exam)
    rows = ("115-000,unknown,test,BraTS-SSA-00115-000,BraTS-Africa", "121-000,wild,test,BraTS-SSA-00115,BraTS-Africa")
    lines = ["subject_id,idh,split,patient,collection", *(f"BraTS-SSA-00{row}" for row in rows)]
    write(tmp_path / "real" / "split.csv", *lines)
    *joined, other = find_cases([tmp_path, tmp_path / "real"], "brats-africa", labels="split.csv")
    for case in joined:  # an exam that the table lacks goes with its patient
        assert (case.patient, case.idh, case.split) == ("BraTS-SSA-00115", "wild", "test")
        assert case.load()["collection"] == "BraTS-Africa"
    assert (other.patient, other.idh, other.split) == ("BraTS-SSA-00122", "", "")


def test_the_table_of_ucsf_labels_brats_2021_and_joins_two_scans_of_a_person(tmp_path):
    add_exam(tmp_path, "brats-2021")
    add_exam(tmp_path, "ucsf-pdgm")
    scans = ("UCSF-PDGM-004,,BraTS2021_00001", "UCSF-PDGM-004_FU1d,mutated (NOS),")
    doubtful = ("UCSF-PDGM-001,wildtype,", "UCSF-PDGM-001_FU1d,IDH1 p.R132H,")
    table = read_table(write(tmp_path / "t.csv", "ID,IDH,BraTS21 ID", *scans, *doubtful))
    for case in find_cases(tmp_path, labels=table):
        assert (case.patient, case.idh) == ("UCSF-PDGM-0004", "mutant")  # one person, so one split
    assert table.of("UCSF-PDGM-0001")["idh"] == ""
    assert "two types, so unknown: UCSF-PDGM-0001" in str(table)


def test_mistakes(tmp_path):
    add_exam(tmp_path / "tree")
    table = tmp_path / "t.csv"
    mistakes = [  # text of the table, options, a word of the message
        ("", {"source": "ucsf"}, "ucsf-pdgm"),
        ("", {"source": "kaggle-3m"}, "--skull"),
        ("", {"source": "brats-2021"}, "BraTS2021_00001"),
        ("", {"label_codes": "brats"}, "brats-2015"),
        ("id,idh\npatient7,wt", {"labels": table, "idh": "wild"}, "both"),
        ("id,idh\nsomebody,wt", {"labels": table}, "patient7"),
        ("id,idh", {"labels": table}, "names no exam"),
        ("a,b\n1,2", {"labels": table}, "columns a, b"),
        ("id,split\na,holdout", {"labels": table}, "holdout"),
        ("id,patient,split\na,p,train\nb,p,test", {"labels": table}, "for p, expected one"),
        ("", {"labels": table}, "Cannot read"),
    ]
    for text, options, word in mistakes:
        write(table, text)
        with pytest.raises(ValueError, match=word):
            find_cases(tmp_path, **options)
    for folder, labels in (("none", None), ("tree", "none.csv")):
        with pytest.raises(FileNotFoundError):
            find_cases(tmp_path / folder, labels=labels)


def test_simulated_cases_may_leave_their_volumes(tmp_path, monkeypatch):
    fake = find_cases(add_exam(tmp_path / "fake"))[0].load()
    monkeypatch.setattr("mrtutor.simulate.patient.simulate_subject", lambda number, **options: fake)
    cases = [SimulatedCase(number, 5, nifti=tmp_path / "volumes") for number in range(2)]
    assert len({case.key for case in [*cases, SimulatedCase(0, 5), SimulatedCase(1, 5)]}) == 4
    assert pickle.loads(pickle.dumps(cases[0])).load() is fake
    assert faults(tmp_path / "volumes") == {"patient7": None}


def test_the_real_patients(real_data):
    cases = find_cases(real_data, labels="split.csv")
    assert len(cases) == 47
    people = {case.patient: case.split for case in cases}
    assert [list(people.values()).count(split) for split in ("train", "validation", "test")] == [31, 4, 10]
    subject = cases[-1].load()
    assert (subject["FLAIR"].spacing[2], subject["collection"]) == (3, "TCGA-LGG")
