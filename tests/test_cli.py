"""The command line: one line at the end, one plain line for a mistake, never a traceback; `--help` without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mrtutor.cli import app
from mrtutor.data.cohort import Cohort
from mrtutor.data.nifti import write_nifti
from mrtutor.figures import load_figures
from tests.data.tiny_cases import tiny_subject

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("--weights", "smoke", "--device", "cpu")


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments, words=()):
    """Exit status 2 and one line that has all of the words."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def tiny_simulator(monkeypatch):
    """Replace the simulator by one that takes no time."""

    def simulate(number, **_options):
        return tiny_subject(number, "mutant" if number % 2 else "wild")

    monkeypatch.setattr("mrtutor.simulate.patient.simulate_subject", simulate)
    monkeypatch.setattr("mrtutor.data.sources.simulate_subject", simulate, raising=False)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three cases in a reader's folder; B lacks its segmentation."""
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_nifti(tiny_subject(number), folder)
    next((folder / "TINY-001").glob("*seg*")).unlink()
    return folder


def test_help_is_fast_because_torch_stays_out():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mrtutor.cli import app\n"
        "for command in ([], ['prepare'], ['train']):\n"
        "    r = CliRunner().invoke(app, [*command, '--help'])\n    assert r.exit_code == 0, r.output\n"
        "heavy = {'torch', 'torchio', 'cv2', 'pandas', 'nibabel', 'diffusers', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    shown = subprocess.run([sys.executable, "-m", "mrtutor", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert {"simulate", "prepare", "train", "sample", "evaluate", "info"} <= set(shown.stdout.split())


def test_simulate_then_again_then_info(tiny_simulator, tmp_path):
    command = ("simulate", "--patients", 3, "--seed", 4, "--workers", 1, "--out", tmp_path / "cohort")
    first = done(*command)
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    assert f"{len(cohort)} slices of 3" in first.stdout and str(cohort.path) in first.stdout
    assert cohort.manifest["seed"] == 4
    assert done(*command).stdout.startswith("Already complete")
    about = done("info", tmp_path / "cohort").stdout
    assert f"{len(cohort)} slices of 3" in about and "checksums agree" in about
    refused(*command[:4], 5, *command[5:], words=["seed"])


def test_prepare_lists_what_it_skips(cases, tmp_path):
    labels = tmp_path / "idh.csv"
    labels.write_text("subject_id;idh\nTINY-000;IDH-WT\nTINY-002;not tested\n")
    result = done("prepare", cases, "--labels", labels, "--out", tmp_path / "out", "--workers", 1)
    assert "Skipped" in result.stderr and "TINY-001" in result.stderr
    assert "(1 case(s) skipped)" in result.stdout.splitlines()[-1]
    assert dict(zip(*Cohort.open(tmp_path / "out").patients[["subject_id", "idh"]].T.to_numpy(), strict=True)) == {
        "TINY-000": "wild",
        "TINY-002": "",
    }


def test_real_patients(real_data, tmp_path):
    some = sorted(path for path in real_data.iterdir() if path.is_dir())[:2]
    result = done("prepare", *some, "--labels", real_data / "split.csv", "--out", tmp_path / "out", "--workers", 1)
    assert "2 real patients" in result.stdout


def test_train_then_sample_from_the_run(tiny_cohort, tmp_path):
    run_folder = tmp_path / "run"
    for stage in ("autoencoder", "text", "denoiser", "guidance"):
        options = ("--preset", "smoke", "--steps", 1, "--device", "cpu")
        result = done("train", stage, *options, "--cohort", tiny_cohort.path, "--out", run_folder)
        assert str(run_folder) in result.stdout
    edges = tmp_path / "edges.png"
    Image.fromarray(tiny_cohort.structure(0, "T1Gd")).save(edges)
    done("sample", "--structure", edges, "--weights", run_folder, "--steps", 1, "--out", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").iterdir())) == 9


def test_sample_says_which_slice(cases, tmp_path):
    command = ("sample", "--subject", cases / "TINY-000", "--steps", 1, *SMOKE, "--out", tmp_path / "out")
    result = done(*command, "--slice", 20, "--idh", "mutant", "--seed", 2**63 - 1)
    assert "Slice 20" in result.stdout and "from 0" in result.stdout
    assert len(list((tmp_path / "out").iterdir())) == 9


def test_evaluate(tiny_cohort, tmp_path):
    command = ("evaluate", *SMOKE, "--cohort", tiny_cohort.path, "--count", 8, "--steps", 1, "--out", tmp_path)
    result = done(*command, "--section", "structure")
    table = load_figures(tmp_path / "figures.csv")
    assert {"edge_f1"} <= set(table["metric"]) and set(table["cohort"]) == {"simulated"}
    assert f"{len(table)} figures" in result.stdout
    assert json.loads((tmp_path / "own/spec.json").read_text())["count"] == 8


def test_mistakes(cases, tmp_path, tiny_cohort):
    case, out = cases / "TINY-000", tmp_path / "out"
    refused("prepare", case, "--idh", "blue", "--out", out, words=["blue", "mutant, wild"])
    refused("prepare", tmp_path / "none", "--out", out, words=["none"])
    refused("prepare", case, "--source", "ftp", "--out", out, words=["ftp"])
    refused("prepare", case, "--labels", tmp_path / "no.csv", "--out", out, words=["no.csv"])
    refused("info", tmp_path / "none", words=["none"])
    refused("sample", "--out", out, words=["--subject", "--structure"])
    refused("train", "guidance", "--cohort", tmp_path / "none", "--preset", "smoke", "--out", out, words=["none"])
    refused("train", "everything", "--cohort", tiny_cohort.path, "--out", out, words=["everything"])
    refused("sample", "--subject", case, "--weights", "nothing", "--out", out, words=["nothing"])
    refused("sample", "--subject", case, *SMOKE, "--slice", 60, "--out", out, words=["0 to 59"])
    absent = next(name for name in ("mps", "cuda") if not getattr(torch, name).is_available())
    refused("simulate", "--patients", 1, "--device", absent, "--out", out, words=[absent, "cpu"])


def test_unread_options_are_refused(tmp_path):
    edges = tmp_path / "edges.png"
    Image.fromarray(255 - np.eye(256, dtype=np.uint8) * 255).save(edges)
    refused("sample", "--structure", edges, "--slice", 3, "--edges-of", "T1", words=["--edges-of"])
    refused("sample", "--structure", edges, *SMOKE, "--out", tmp_path / "out", words=["invert"])


@pytest.mark.parametrize(
    "command",
    [("simulate",), ("prepare", "."), ("train", "text"), ("sample", "--subject", "."), ("evaluate",)],
)
def test_out_is_a_file_and_seed_is_too_long(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(*command, "--out", tmp_path / "file/below", words=["file"])
    assert (tmp_path / "file").read_text() == "mine"
    if command[0] != "prepare":
        result = run(*command, "--seed", 2**64, "--out", tmp_path / "out")
        assert result.exit_code == 2 and "--seed" in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(OSError(28, "No space left on device"), 2, "No space left"), (KeyboardInterrupt(), 130, "Interrupted")],
)
def test_trouble_while_writing(tiny_simulator, tmp_path, monkeypatch, error, status, message):
    def fail(*_args, **_options):
        raise error

    command = ("simulate", "--patients", 1, "--out", tmp_path / "out", "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", fail)
        result = run(*command)
    assert result.exit_code == status and message in result.stderr
    assert not list((tmp_path / "out").rglob("*.np*"))
    done(*command)


def test_versions():
    assert "torch" in done("info").stdout
