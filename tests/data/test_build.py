"""The builder: same files however it is run, resumed after any interruption, nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from subjects import TinyCase, write_case

from mrtutor.data import assemble as assemble_module
from mrtutor.data import build as build_module
from mrtutor.data.build import build_cohort
from mrtutor.data.cohort import Cohort
from mrtutor.data.sources import FolderCase, SimulatedCase, folder_cases, read_labels, simulated_cases
from mrtutor.files import sha256

SETTINGS = {"source": "test", "seed": 0}
CASES = [TinyCase(n) for n in range(4)]
FINAL = ["cohort.json", "masks.npy", "patients.csv", "slices.csv", "slices.npy"]
TESTS = Path(__file__).resolve().parents[1]
# Runs in a process of its own, to be killed: argv = folder, workers.
SLOW_BUILD = """
import signal
import sys
from subjects import TinyCase
from mrtutor.data.build import build_cohort
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with SIGINT ignored
    cases = [TinyCase(n, seconds=0 if n < 2 else 600) for n in range(4)]
    build_cohort(cases, sys.argv[1], {"source": "test", "seed": 0}, workers=int(sys.argv[2]), progress=False)
"""


def build(out, cases=CASES, settings=SETTINGS, workers=1):
    return build_cohort(cases, out, settings, workers=workers, progress=False)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def sums(folder):
    return {name: sha256(folder / name) for name in FINAL}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checksums of an uninterrupted build in one process."""
    out = tmp_path_factory.mktemp("build") / "whole"
    report = build(out)
    assert (report.patients, report.slices, report.skipped, report.already_complete) == (4, 20, [], False)
    assert names(out) == FINAL
    return sums(out)


def test_two_workers_write_the_same_files(tmp_path, whole):
    build(tmp_path / "out", workers=2)
    assert sums(tmp_path / "out") == whole


def test_a_finished_cohort_is_left_alone(tmp_path, whole):
    build(tmp_path / "out")
    before = [p.stat().st_mtime_ns for p in sorted((tmp_path / "out").iterdir())]
    report = build(tmp_path / "out")
    assert report.already_complete
    assert (report.patients, report.slices) == (4, 20)
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "out").iterdir())] == before


def interrupt_at(monkeypatch, number, error):
    """Raise ``error`` in the middle of writing the part of case ``number``."""
    write = np.savez_compressed

    def write_half(file, **arrays):
        if f"TINY-{number:03d}" in str(arrays["about"]):
            file.write(b"half")
            raise error
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", write_half)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_while_writing_a_part(tmp_path, monkeypatch, whole, error):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, error)
        with pytest.raises(type(error)):
            build(out)
    assert names(out) == [".parts"]
    assert names(out / ".parts") == ["000.npz", "001.npz", "settings.json"]
    with pytest.raises(ValueError, match="half-written"):
        Cohort.open(out)
    loaded = []
    monkeypatch.setattr(TinyCase, "load", lambda case, load=TinyCase.load: loaded.append(case.number) or load(case))
    build(out)
    assert loaded == [2, 3]
    assert sums(out) == whole
    assert names(out) == FINAL


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("writer", ["read_part", "write_text", "write_json"])
def test_interrupted_while_joining(tmp_path, monkeypatch, whole, error, writer):
    def fail(*args, **kwargs):
        if writer != "read_part" or args[1] == "masks":
            raise error
        return read_part(*args, **kwargs)

    read_part = assemble_module.read_part
    with monkeypatch.context() as patch:
        patch.setattr(assemble_module, writer, fail)
        with pytest.raises(type(error)):
            build(tmp_path / "out")
    assert "cohort.json" not in names(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".tmp-*"))
    build(tmp_path / "out")
    assert sums(tmp_path / "out") == whole
    assert names(tmp_path / "out") == FINAL


@pytest.mark.parametrize("where", [(tempfile, "mkstemp"), (os, "replace"), (Path, "mkdir")])
def test_no_permission(tmp_path, monkeypatch, where):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(*where, refuse)
    with pytest.raises(PermissionError):
        build(tmp_path / "out")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def start(out, workers):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    script = out.parent / "slow_build.py"
    script.write_text(SLOW_BUILD)
    return subprocess.Popen(
        [sys.executable, script, out, str(workers)], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for_parts(out, process, count=2, limit=180):
    deadline = time.monotonic() + limit
    while len(list((out / ".parts").glob("0*.npz"))) < count:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "the build did not get going"
        time.sleep(0.1)


def alive(session):
    """Processes of a session that still run."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True).stdout.split()
    return [state for state in listed if not state.startswith("Z")]


def wait_until_gone(session):
    """The pool's helper processes notice the end of their parent a moment later."""
    deadline = time.monotonic() + 30
    while alive(session):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed(tmp_path, whole, workers):
    out = tmp_path / "out"
    process = start(out, workers)
    wait_for_parts(out, process)
    process.kill()
    process.communicate(timeout=60)
    wait_until_gone(process.pid)
    assert set(names(out)) == {".parts"}
    (out / ".tmp-left.npy").write_bytes(b"half")
    (out / ".parts/.tmp-left.npz").write_bytes(b"half")
    build(out)
    assert sums(out) == whole
    assert names(out) == FINAL


def test_ctrl_c_in_one_process(tmp_path):
    process = start(tmp_path / "out", 1)
    wait_for_parts(tmp_path / "out", process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors.decode()
    assert names(tmp_path / "out/.parts") == ["000.npz", "001.npz", "settings.json"]


def test_ctrl_c_reaches_the_parent_alone(tmp_path, whole):
    """A worker under way finishes its patient; none prints a traceback; nothing is left half-written."""
    out = tmp_path / "out"
    script = SLOW_BUILD.replace("600", "5")
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    (tmp_path / "slow_build.py").write_text(script)
    command = [sys.executable, tmp_path / "slow_build.py", out, "2"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_parts(out, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.decode().count("Traceback") == 1
    wait_until_gone(process.pid)
    assert set(names(out / ".parts")) <= {"settings.json", *(f"00{n}.npz" for n in range(4))}
    build(out)
    assert sums(out) == whole


def test_a_killed_worker_is_reported(tmp_path):
    with pytest.raises(RuntimeError):
        build(tmp_path / "out", [TinyCase(0), TinyCase(1, trouble="killed")], workers=2)
    assert "cohort.json" not in names(tmp_path / "out")


def test_a_full_disk_in_a_worker_is_reported(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught:
        build(tmp_path / "out", [TinyCase(0), TinyCase(1, trouble="full disk")], workers=2)
    assert caught.value.errno == errno.ENOSPC


def test_bad_cases_are_skipped_with_their_reason(tmp_path):
    report = build(tmp_path / "out", [*CASES[:3], TinyCase(7, trouble="bad")])
    assert (report.patients, report.skipped) == (3, [("tiny case 7", "this case is bad")])
    cohort = Cohort.open(tmp_path / "out", verify=True)
    assert cohort.manifest["skipped"] == [["tiny case 7", "this case is bad"]]
    assert "TINY-007" not in set(cohort.table["subject_id"])
    again = build(tmp_path / "out", [*CASES[:3], TinyCase(7, trouble="bad")])
    assert again.already_complete
    assert again.skipped == report.skipped


def test_no_case_left(tmp_path):
    with pytest.raises(ValueError, match=r"None of 1 case\(s\) could be prepared.*this case is bad"):
        build(tmp_path / "out", [TinyCase(1, trouble="bad")])
    assert "cohort.json" not in names(tmp_path / "out")


def test_other_settings_are_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"
    build(out)
    with pytest.raises(ValueError, match=r"other settings \(seed was 0, now 1\): choose another --out"):
        build(out, settings={**SETTINGS, "seed": 1})
    with pytest.raises(ValueError, match="cases was 4, now 3"):
        build(out, CASES[:3])
    with pytest.raises(ValueError, match="cases_sha256"):
        build(out, [*CASES[:3], TinyCase(9)])
    monkeypatch.setitem(build_module.PARAMETERS, "gap_mm", 4)
    with pytest.raises(ValueError, match="preparation was"):
        build(out)


def test_parts_of_other_settings_are_refused_but_more_cases_are_welcome(tmp_path, monkeypatch, whole):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build(out, CASES[:2])
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        build(out, settings={**SETTINGS, "seed": 1})
    build(out)
    assert sums(out) == whole


def test_two_cases_of_one_subject_id(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyCase, "key", property(lambda case: f"{case.number}-{case.seconds}"))
    with pytest.raises(ValueError, match="Two cases are called TINY-000"):
        build(tmp_path / "out", [TinyCase(0), replace(TinyCase(0), seconds=0.01)])


def test_no_workers(tmp_path):
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        build(tmp_path / "out", workers=0)


def test_another_version_of_a_finished_cohort(tmp_path):
    build(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/cohort.json").read_text())
    (tmp_path / "out/cohort.json").write_text(json.dumps({**manifest, "version": 0}))
    with pytest.raises(ValueError, match="format version 0"):
        build(tmp_path / "out")


def test_simulated_cases():
    cases = simulated_cases(3, 5, noise=False)
    assert cases == [SimulatedCase(n, 5, noise=False) for n in range(3)]
    assert len({case.key for case in [*cases, SimulatedCase(0, 5, nifti="volumes")]}) == 4
    assert SimulatedCase(0, 5, device="cpu").key == "00000"  # as in cohorts of before, which were made on the CPU
    assert SimulatedCase(0, 5, device="cuda:1").key == "00000-cuda"
    assert SimulatedCase(0, 5, device="cuda", nifti="volumes").key == "00000-cuda-nifti"
    with pytest.raises(ValueError, match="at least 1 patient"):
        simulated_cases(0, 0)
    with pytest.raises(ValueError, match="seed of 0 or more"):
        simulated_cases(1, -1)


@pytest.fixture
def folders(tmp_path):
    for name in ("A", "B"):
        write_case(tmp_path / "cases" / name)
    (tmp_path / "cases" / "empty").mkdir()
    return tmp_path / "cases"


def test_folder_cases(folders, tmp_path):
    both = folder_cases([folders], idh="wt")
    assert [(case.label, case.idh) for case in both] == [("A", "wild"), ("B", "wild")]
    assert folder_cases([folders / "A", folders], idh="wild") == both
    (tmp_path / "idh.csv").write_text("subject_id,idh\nA,Mutant\nB,not known\n")
    assert [case.idh for case in folder_cases([folders], tmp_path / "idh.csv")] == ["mutant", None]
    write_case(tmp_path / "more" / "A")
    with pytest.raises(ValueError, match=r"Several cases have one name .*more.A"):
        folder_cases([folders, tmp_path / "more"], idh="wild")


def test_folder_cases_refuse(folders, tmp_path):
    for labels, idh in ((None, None), (tmp_path / "x.csv", "wild")):
        with pytest.raises(ValueError, match="either a table of IDH types"):
            folder_cases([folders], labels, idh)
    with pytest.raises(FileNotFoundError, match="No folder"):
        folder_cases([tmp_path / "nowhere"], idh="wild")
    with pytest.raises(ValueError, match="No case found"):
        folder_cases([folders / "empty"], idh="wild")
    with pytest.raises(ValueError, match="Unknown IDH"):
        folder_cases([folders], idh="blue")


def test_labels_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="No table"):
        read_labels(tmp_path / "none.csv")
    table = tmp_path / "idh.csv"
    table.write_text("ID,IDH\nA,wild\n")
    with pytest.raises(ValueError, match="has the columns ID, IDH: expected subject_id and idh"):
        read_labels(table)
    table.write_text("subject_id,idh\nA,wild\nA,mutant\n")
    with pytest.raises(ValueError, match="gives A two IDH types"):
        read_labels(table)


def test_short_rows_of_a_table_are_unknown(tmp_path):
    table = tmp_path / "idh.csv"
    table.write_text("subject_id,idh\nA\nB,wild\n")
    assert read_labels(table) == {"A": None, "B": "wild"}
    table.write_text("idh,subject_id\nwild\nmutant\nwild,B\n")
    assert read_labels(table) == {"B": "wild"}


def test_a_repaired_case_is_prepared_anew(folders):
    case = FolderCase(str(folders / "A"), "wild")
    before = case.key
    assert case.key == before
    assert replace(case, idh="mutant").key != before
    os.utime(folders / "A" / "A_t1.nii.gz", (1, 1))
    assert case.key != before


def test_a_real_case_of_unknown_type_is_skipped(folders, tmp_path):
    cases = [FolderCase(str(folders / "A"), "wild"), FolderCase(str(folders / "B"), None)]
    report = build(tmp_path / "out", cases)
    assert report.patients == 1
    assert report.skipped[0][0] == "B"
    assert "IDH type of B is unknown" in report.skipped[0][1]
    assert Cohort.open(tmp_path / "out").table["source"].unique().tolist() == ["real"]
