"""The builder: the same bytes however it is run, interrupted or killed; nothing lost, nothing half-written."""

import multiprocessing
import time

import numpy as np
import pytest

from mrtutor.data import build as build_module
from mrtutor.data.cohort import Cohort
from mrtutor.files import sha256
from tests.data.tiny_cases import TinyCase, tiny_subject

CASES = [TinyCase(number) for number in range(4)]
FILES = ["cohort.json", "masks.npy", "patients.csv", "slices.csv", "slices.npy"]


def build(out, cases=CASES, workers=1, **settings):
    return build_module.build_cohort(cases, out, {"seed": 0, **settings}, workers, progress=False)


def sums(folder):
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == FILES
    return {name: sha256(folder / name) for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checksums of an uninterrupted build; a finished cohort is left alone, other settings or cases are refused."""
    out = tmp_path_factory.mktemp("build") / "whole"
    report = build(out, [*CASES, CASES[0]])
    assert (len(report.cohort.patients), report.skipped, report.already_complete) == (4, [], False)
    assert build(out).already_complete
    for other in ({"seed": 1}, {"cases": CASES[:3]}):
        with pytest.raises(ValueError, match="another"):
            build(out, **other)
    return sums(out)


@pytest.mark.parametrize(
    ("error", "module", "writer"),
    [(KeyboardInterrupt(), np, "savez_compressed"), (OSError(28, "disk full"), build_module, "write_cohort")],
)
def test_interrupted_and_resumed(tmp_path, monkeypatch, whole, error, module, writer):
    """In the middle of the third part, or while the parts are joined; parts of other settings are not taken."""
    write = getattr(module, writer)

    def write_half(*args, **kwargs):
        if "TINY-002" in kwargs.get("about", "TINY-002"):
            raise error
        return write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, writer, write_half)
        for settings in ({"seed": 1}, {}):
            with pytest.raises(type(error)):
                build(tmp_path, **settings)
    with pytest.raises(ValueError, match="half-written"):
        Cohort.open(tmp_path)
    loaded = []
    monkeypatch.setattr(TinyCase, "load", lambda case, load=TinyCase.load: loaded.append(case.number) or load(case))
    build(tmp_path)
    assert loaded == ([2, 3] if module is np else [])
    assert sums(tmp_path) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_refused_while_another_builds_then_killed_and_resumed(tmp_path, whole, workers):
    """Two at once: the second is refused. kill -9 of the first, and a third finishes with the same bytes."""
    out, slow = tmp_path / "out", [TinyCase(number, seconds=1) for number in range(4)]
    process = multiprocessing.get_context("spawn").Process(target=build, args=(out, slow, workers))
    process.start()
    deadline = time.monotonic() + 120
    while len(list(out.glob(".parts/0*.npz"))) < workers:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(BlockingIOError):
        build(out)
    process.kill()
    process.join()
    (out / ".parts/.tmp-left.npz").write_bytes(b"half")
    build(out)
    assert sums(out) == whole


def test_bad_cases_are_skipped_and_what_the_others_say_reaches_the_tables(tmp_path, monkeypatch):
    def load(case, load=TinyCase.load):
        subject = load(case)
        subject["patient"], subject["collection"], subject["notes"] = "one", "UCSF-PDGM", ("read so",)
        subject["split"], subject["idh"] = "test" if case.number == 0 else "", ""
        return subject

    with monkeypatch.context() as patch:
        patch.setattr(TinyCase, "load", load)
        report = build(tmp_path / "out", [*CASES[:2], TinyCase(2, bad=True)])
    assert report.skipped == report.cohort.manifest["skipped"] == [["tiny case 2", "this case is bad"]]
    told = {"patient": "one", "split": "test", "idh": "", "source": "UCSF-PDGM", "side": "right"}
    assert all(set(report.cohort.table[column]) == {word} for column, word in told.items())
    assert report.cohort.patients["age"].tolist() == [40, 41]
    assert report.notes == [["tiny case 0", "read so"], ["tiny case 1", "read so"]]
    with pytest.raises(ValueError, match="bad"):
        build(tmp_path / "none", [TinyCase(1, bad=True)])
    monkeypatch.setattr(TinyCase, "load", lambda case: tiny_subject(0))
    with pytest.raises(ValueError, match="TINY-000"):
        build(tmp_path / "twice", CASES[:2])
