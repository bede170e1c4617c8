"""`train` with components of Stable Diffusion's layout, and `push`: one line for what happened or went wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mrtutor.cli_models
import mrtutor.cli_weights  # noqa: F401 - and its
import mrtutor.models.hub as hub
from mrtutor.cli import app
from mrtutor.sampling.origin import describe, read_origins
from tests.cohorts import write_tiny_cohort
from tests.models.test_hub import tiny_unet, write_sd


def run(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("hub")
    return write_tiny_cohort(folder / "tiny").path, write_sd(folder / "sd")


def test_given_components_are_not_trained(places: tuple[Path, Path], tmp_path: Path) -> None:
    cohort, sd = places
    base = ("--preset", "smoke", "--cohort", cohort, "--out", tmp_path / "run", "--steps", 1)
    for stage, option, name in (("autoencoder", "--vae", "autoencoder"), ("text", "--text-encoder", "text_encoder")):
        done = run("train", stage, *base, option, sd)
        assert done.exit_code == 0, done.output
        assert done.stdout == f"Done: {stage} taken from {sd} to {tmp_path / 'run' / name}; nothing was trained.\n"
    done = run("train", "denoiser", *base, "--unet", sd)
    assert done.exit_code == 0 and "Done: denoiser trained in" in done.stdout, done.output
    origins = read_origins(tmp_path / "run", ["denoiser"])
    assert origins["denoiser"]["start"] == str(sd), "the card must not call it trained from nothing"
    assert describe(origins).endswith(f"from {sd}")


def test_mistakes_are_one_line(places: tuple[Path, Path], tmp_path: Path) -> None:
    cohort, sd = places
    base = ("--preset", "smoke", "--cohort", cohort, "--out", tmp_path / "run", "--steps", 1)
    refused = run("train", "autoencoder", *base, "--vae", tmp_path / "none")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: No autoencoder at") and "HF_TOKEN" in refused.stderr
    assert not (tmp_path / "run/autoencoder").exists()
    tiny_unet(cross_attention_dim=40).save_pretrained(tmp_path / "unet")
    for stage, option in (("autoencoder", "--vae"), ("text", "--text-encoder")):
        run("train", stage, *base, option, sd)
    refused = run("train", "denoiser", *base, "--unet", tmp_path / "unet")
    assert refused.exit_code == 2 and "width 40, the text encoder gives 24" in refused.stderr


def test_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        hub, "push_to_hub", lambda folder, name, private: asked.append((folder, name, private)) or "there"
    )
    done = run("push", "me/mr", "--folder", tmp_path)
    assert done.stdout == f"Done: {tmp_path} uploaded to there.\n"
    run("push", "me/mr", "--folder", tmp_path, "--public")
    assert asked == [(tmp_path, "me/mr", True), (tmp_path, "me/mr", False)]
    monkeypatch.undo()
    refused = run("push", "me/mr", "--folder", tmp_path)
    assert refused.exit_code == 2 and "lacks model_index.json" in refused.stderr
