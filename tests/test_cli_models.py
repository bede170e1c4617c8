"""The commands train, pack, sample, examples and evaluate: the whole path on tiny models, and mistakes in one line."""

from pathlib import Path

import pytest
from subjects import write_case
from typer.testing import CliRunner

import mrtutor.cli_models  # noqa: F401 - its commands join the app
from mrtutor.cli import app
from tests.cohorts import write_tiny_cohort


def run(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and all(word in last for word in words), last


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cohort(tmp_path_factory.mktemp("cli")).path


def test_train_pack_sample(cohort: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    trained = run("train", "all", "--preset", "smoke", "--cohort", cohort, "--out", out, "--steps", 2)
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.count("Done: ") == 4
    again = run("train", "text", "--preset", "smoke", "--cohort", cohort, "--out", out, "--steps", 2, "--resume")
    assert again.exit_code == 0, again.output
    packed = run("pack", "--run", out, "--out", weights, "--preset", "smoke")
    assert packed.exit_code == 0 and "Done: pipeline of" in packed.stdout, packed.output
    case = write_case(tmp_path / "CASE-1")
    sampled = run("sample", "--subject", case, "--pipeline", weights, "--steps", 2, "--out", tmp_path / "pictures")
    assert sampled.exit_code == 0, sampled.output
    assert sampled.stdout.endswith(f"Done: 9 files of synthetic images in {tmp_path / 'pictures'}.\n")


def test_mistakes_are_one_line(cohort: Path, tmp_path: Path) -> None:
    base = ("--cohort", cohort, "--out", tmp_path / "run")
    refused(run("train", "vae", "--preset", "smoke", *base), "Unknown stage 'vae'", "autoencoder, text")
    refused(run("train", "guidance", "--preset", "smoke", *base), "train the earlier stages first")
    refused(run("train", "all", "--preset", "desktop", *base), "smoke, laptop, colab, paper")
    refused(run("train", "all", "--cohort", tmp_path / "none"), "No folder")
    refused(run("pack", "--run", tmp_path / "none", "--out", tmp_path / "w"), "lacks autoencoder")
    refused(run("sample"), "--subject", "--structure")
    refused(run("sample", "--subject", tmp_path, "--pipeline", "nobody"), "No weights 'nobody'")
    refused(run("sample", "--structure", tmp_path / "no.png", "--pipeline", "smoke"), "No structure map")
    refused(run("evaluate", "--cohort", cohort), "--quick")
    assert not (tmp_path / "w").exists() and not list(Path(tmp_path).rglob(".tmp-*"))


def test_examples(cohort: Path, tmp_path: Path) -> None:
    people = (cohort / "patients.csv").read_text().splitlines()
    if "mismatch" not in people[0]:  # the tiny cohort has no phenotype; give it one
        rows = [people[0] + ",mismatch,ring_necrosis", *(row + ",False,False" for row in people[1:])]
        (cohort / "patients.csv").write_text("\n".join(rows) + "\n")
    made = run("examples", "--cohort", cohort, "--out", tmp_path / "examples")
    assert made.exit_code == 0, made.output
    assert "simulated examples in" in made.stdout
