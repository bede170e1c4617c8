"""The commands simulate, prepare and info: one line at the end, one line for a mistake, never a traceback."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from subjects import REAL, needs_real_cases, tiny_subject, write_case
from typer.testing import CliRunner

import mrtutor.data.simulate as simulate_module
from mrtutor.cli import app
from mrtutor.data.cohort import Cohort


@pytest.fixture
def asked(monkeypatch):
    """Replace the simulator by the tiny one; gives the list of the arguments it was called with."""
    calls = []

    def simulate(number, **options):
        calls.append((number, options))
        return tiny_subject(number, "mutant" if number % 2 else "wild")

    monkeypatch.setattr(simulate_module, "simulate_subject", simulate)
    return calls


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def refused(result, *words):
    """Exit status 2 and one line that says all of the words."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if "patient/s" not in line and line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


def test_help_is_fast_because_torch_stays_out():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mrtutor.cli import app\n"
        "r = CliRunner().invoke(app, ['--help'])\nassert r.exit_code == 0 and 'simulate' in r.output\n"
        "heavy = {'torch', 'torchio', 'cv2', 'pandas', 'nibabel', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_python_m_mrtutor():
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-m", "mrtutor", "--help"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0
    assert {"simulate", "prepare", "info"} <= set(done.stdout.split())


def test_simulate_asks_mkl_to_round_alike_on_every_cpu(tmp_path, monkeypatch):
    seen = []

    def build(*_):  # before any sum is made here
        seen.append(os.environ["MKL_CBWR"])
        raise ValueError("enough")

    monkeypatch.setattr("mrtutor.data.build.build_cohort", build)
    monkeypatch.delenv("MKL_CBWR")
    refused(run("simulate", "--patients", 1, "--out", tmp_path / "out"), "enough")
    assert seen == ["AVX2"]


PATIENT_18 = """
import sys, numpy as np
from mrtutor.data.prepare import prepare_subject
from mrtutor.data.simulate import simulate_subject
np.save(sys.argv[1], prepare_subject(simulate_subject(18)).images)
"""


def test_a_patient_is_the_same_on_every_cpu(tmp_path):
    """The one in data/examples was made on another machine. Left to itself, MKL gave him other pixels on AVX-512."""
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not torch.backends.mkl.is_available():
        pytest.skip("promised for x86 CPUs with AVX2 and torch's MKL")
    root, out = Path(__file__).resolve().parents[1], tmp_path / "images.npy"
    alike = os.environ | {"MKL_CBWR": "AVX2"}
    subprocess.run([sys.executable, "-c", PATIENT_18, str(out)], check=True, cwd=root, env=alike)
    with np.load(root / "data/examples/mutant_3.npz") as shipped:
        assert str(shipped["subject_id"]) == "SIM-0018"
        off = np.abs(np.load(out).astype(int) - shipped["images"]).reshape(-1, shipped["images"].size)
    nearest = off[off.sum(axis=1).argmin()]
    assert nearest.max() <= 1 and nearest.astype(bool).mean() < 1e-4, "26 % of the pixels, by up to 18, without"


def test_simulate_then_again_then_info(asked, tmp_path):
    out = tmp_path / "cohort"
    result = run("simulate", "--patients", 3, "--seed", 4, "--out", out, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Done: 15 slices of 3 simulated patients in {out} (0 case(s) skipped)."
    assert asked == [(n, {"seed": 4, "noise": True, "device": "cpu"}) for n in range(3)]
    cohort = Cohort.open(out, verify=True)
    assert (cohort.manifest["source"], cohort.manifest["seed"], cohort.manifest["noise"]) == ("simulated", 4, True)
    assert set(cohort.table["source"]) == {"simulated"}
    again = run("simulate", "--patients", 3, "--seed", 4, "--out", out, "--workers", 1)
    assert again.stdout.startswith("Already complete: 15 slices")
    assert len(asked) == 3
    about = run("info", out)
    assert about.exit_code == 0
    assert "15 slices of 3 patients (simulated)" in about.stdout
    assert "checksums agree" in about.stdout
    refused(run("simulate", "--patients", 3, "--seed", 5, "--out", out), "seed was 4, now 5", "--out")


def test_noise_free(asked, tmp_path):
    run("simulate", "--patients", 1, "--out", tmp_path / "clean", "--workers", 1, "--noise-free")
    assert [options["noise"] for _, options in asked] == [False]
    assert Cohort.open(tmp_path / "clean").manifest["noise"] is False


def test_nifti_on_request(asked, tmp_path):
    arguments = ("simulate", "--patients", 2, "--out", tmp_path / "c", "--workers", 1, "--nifti", tmp_path / "v")
    assert run(*arguments).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["TINY-000", "TINY-001"]
    assert len(list((tmp_path / "v").rglob("*.nii.gz"))) == 10
    refused(run(*arguments), "is finished", "another --out")
    labels = tmp_path / "idh.csv"
    labels.write_text("subject_id,idh\nTINY-000,wild\nTINY-001,mutant\n")
    assert (
        run("prepare", tmp_path / "v", "--labels", labels, "--out", tmp_path / "again", "--workers", 1).exit_code == 0
    )
    first, second = Cohort.open(tmp_path / "c"), Cohort.open(tmp_path / "again")
    assert np.abs(first.images[:].astype(int) - second.images[:]).max() <= 8  # the mask is found anew at the rim
    assert np.array_equal(first.masks, second.masks)
    assert first.table["idh"].tolist() == second.table["idh"].tolist()


def test_prepare_lists_what_it_skips(tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cases" / name)
    (tmp_path / "cases/B/B_t2.nii.gz").unlink()
    labels = tmp_path / "idh.csv"
    labels.write_text("subject_id,idh\nA,wild\nB,wild\n")
    result = run("prepare", tmp_path / "cases", "--labels", labels, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "Skipped B: B lacks T2" in result.stderr
    assert "Skipped C: the IDH type of C is unknown" in result.stderr
    assert result.stdout.endswith("(2 case(s) skipped).\n")
    assert "Skipped B: B lacks T2" in run("info", tmp_path / "out").stdout


@needs_real_cases
def test_prepare_both_real_cases(tmp_path):
    result = run("prepare", REAL, "--idh", "mutant", "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "15 slices of 2 real patients" in result.stdout


def test_mistakes(tmp_path):
    case, out = write_case(tmp_path / "case"), tmp_path / "out"
    refused(run("prepare", case, "--idh", "blue", "--out", out), "Unknown IDH type 'blue'", "mutant, wild")
    refused(run("prepare", case, "--out", out), "--labels", "--idh")
    refused(run("prepare", tmp_path / "none", "--idh", "wild", "--out", out), "No folder")
    refused(run("prepare", case, "--idh", "wild", "--source", "ftp", "--out", out), "Unknown source 'ftp'")
    refused(run("prepare", case, "--labels", tmp_path / "no.csv", "--out", out), "No table")
    refused(run("info", tmp_path / "none"), "No folder", "mrtutor simulate")
    (tmp_path / "started/.parts").mkdir(parents=True)
    refused(run("info", tmp_path / "started"), "half-written")
    assert not out.exists()
    for arguments in (["--patients", "0"], ["--seed", "-1"], ["--workers", "0"], ["--patients", "many"]):
        assert run("simulate", *arguments, "--out", out).exit_code == 2
    assert not out.exists()


def test_out_is_a_file(asked, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(run("simulate", "--patients", 1, "--out", tmp_path / "file", "--workers", 1), "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "no permission"),
        (KeyboardInterrupt(), 130, "Interrupted. Nothing is half-written"),
    ],
)
def test_trouble_while_writing(asked, tmp_path, monkeypatch, error, status, message):
    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(
            *((tempfile, "mkstemp") if isinstance(error, PermissionError) else (np, "savez_compressed")), fail
        )
        result = run("simulate", "--patients", 1, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == status
    assert message in result.stderr
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    assert not list((tmp_path / "out").rglob("*.np*"))
    assert run("simulate", "--patients", 1, "--out", tmp_path / "out", "--workers", 1).exit_code == 0


def test_versions():
    result = run("info")
    assert result.exit_code == 0
    assert "torch" in result.stdout
    assert f"CPU cores {os.cpu_count()}" in result.stdout
