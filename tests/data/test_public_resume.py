"""A public cohort prepared in one go, killed in the middle and resumed: the same files, bit for bit, in flat memory.

The whole of UCSF-PDGM (495 patients in small) takes minutes: `tests/benchmarks/bench_public.py`.
"""

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from public_trees import ucsf_tree

from mrtutor.data.build import build_cohort
from mrtutor.data.cohort import Cohort
from mrtutor.data.public import public_cases
from mrtutor.data.skipped import count_reasons
from mrtutor.files import sha256

FINAL = ("slices.npy", "masks.npy", "slices.csv", "patients.csv", "cohort.json")
TESTS = Path(__file__).resolve().parents[1]
# Runs in a process of its own and stops at its tenth exam, to be killed there: argv = tree, table, out.
STUCK = """
import itertools, sys, time
from mrtutor.data.build import build_cohort
from mrtutor.data.public import PublicCase, public_cases
count, load = itertools.count(), PublicCase.load
PublicCase.load = lambda case: load(case) if next(count) < 9 else time.sleep(600)
tree, table, out = sys.argv[1:]
build_cohort(public_cases([tree], "ucsf-pdgm", table), out, {"source": "ucsf-pdgm"}, progress=False)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucsf") / "tree"
    return root, ucsf_tree(root, patients=24, rows=27, wild_rows=20)


def prepare(tree, out, last=None):
    cases = public_cases([tree[0]], "ucsf-pdgm", tree[1])[:last]
    return build_cohort(cases, out, {"source": "ucsf-pdgm"}, progress=False)


def sums(out):
    return {name: sha256(out / name) for name in FINAL}


def test_killed_in_the_middle_and_resumed(tree, tmp_path):
    report = prepare(tree, tmp_path / "whole")
    assert (report.patients, count_reasons(report.skipped)) == (24, {"follow-up of the same patient": 3})
    out = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STUCK, str(tree[0]), str(tree[1]), str(out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(parts := list((out / ".parts").glob("[!.]*.npz"))) < 6:  # nine exams, three of them follow-ups
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "the build did not get going"
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert not (out / "cohort.json").exists()
    before = {path: path.stat().st_mtime_ns for path in parts}
    assert prepare(tree, out).patients == 24
    assert len(before) == 6
    assert sums(out) == sums(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir()) == sorted(FINAL)
    Cohort.open(out, verify=True)


def test_memory_does_not_grow_with_the_number_of_patients(tree, tmp_path):
    """Python's and numpy's own allocations: one exam at a time is held, whatever their number."""
    peaks = {}
    for last in (6, 27):
        tracemalloc.start()
        prepare(tree, tmp_path / f"of_{last}", last)
        peaks[last] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[27] < 1.15 * peaks[6], peaks
