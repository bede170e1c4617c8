"""Whole runs with tiny networks: what each stage reads and leaves, from where it starts, and how it goes on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from mrtutor import load_pretrained
from mrtutor.data.cohort import Cohort, write_cohort
from mrtutor.training import stages
from mrtutor.training.loop import fit
from mrtutor.training.stages import Run, train, train_command
from tests.training.two_processes import SMOKE, autoencoder_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Sheets cost more than the steps here; one test draws them."""
    patch = pytest.MonkeyPatch()
    patch.setattr(stages, "sample_sheet", lambda *_: None)
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def plain(tiny_cohort: Cohort, tmp_path_factory) -> Path:
    """A run whose last stage was the denoiser. Do not change it."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    for stage in ("autoencoder", "text", "denoiser"):
        train_command(stage, [tiny_cohort.path], folder, "smoke", steps=2, device="cpu")
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def changed(a: Path, b: Path) -> set[str]:
    """Names of the tensors that differ."""
    first, second = tensors(a), tensors(b)
    return {name for name in first.keys() | second.keys() if not torch.equal(first[name], second[name])}


def test_a_run_is_a_pipeline_and_says_what_trained_it(plain: Path, tiny_cohort: Cohort) -> None:
    pipe = load_pretrained(plain, device="cpu")
    assert pipe.variant == "none" and pipe.config.mask_padding == SMOKE.mask_padding and pipe.config.findings
    assert pipe.autoencoder.config.latents_std != [1.0] * pipe.autoencoder.config.latent_channels
    about = json.loads((plain / "training.json").read_text())
    assert list(about) == ["autoencoder", "text", "denoiser"]
    denoiser = about["denoiser"]
    assert denoiser["cohorts"] == [{"source": "simulated", "key": tiny_cohort.key, "patients": 4, "seed": None}]
    assert denoiser["steps"] == 2 and denoiser["seconds"] > 0 and denoiser["peak_mib"] > 100
    assert {"error", "error_seen"} == set(denoiser["validation"]) and "cpu" in denoiser["device"]
    assert {"modality", "idh"} == set(pd.read_csv(plain / "training/text/log.csv")["name"])


@pytest.mark.parametrize("variant", ["paper", "D"])
def test_guidance_starts_from_a_pipeline_and_is_cut_and_resumed(
    variant: str, plain: Path, tiny_cohort: Cohort, tmp_path: Path, monkeypatch
) -> None:
    def run(name: str) -> Run:
        return Run(SMOKE, [tiny_cohort], tmp_path / name, steps=3, start=plain, variant=variant)

    whole = train(run("whole"), "guidance")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(stages, "fit", lambda *args, **options: fit(*args, **options, stop_after=2))
        patch.setattr(stages, "_save", lambda *_: sys.exit("killed"))
        train(run("cut"), "guidance")
    for _ in range(2):  # the second time nothing is left to do
        assert not changed(whole, train(run("cut"), "guidance", resume=True))
        assert not changed(tmp_path / "whole/unet", tmp_path / "cut/unet")
    assert not changed(tmp_path / "whole/autoencoder", plain / "autoencoder")
    assert load_pretrained(tmp_path / "whole", device="cpu").variant == variant
    about = json.loads((tmp_path / "whole/training.json").read_text())
    assert about["guidance"]["start"] == str(plain) == about["denoiser"]["start"]
    if variant == "paper":
        base = changed(plain / "unet", tmp_path / "whole/unet")
        assert base and all(name.startswith("mid_block.resnets.0.") for name in base)
        with pytest.raises(ValueError, match="plain"):
            train(Run(SMOKE, [tiny_cohort], tmp_path / "B", steps=2, start=tmp_path / "whole", variant="B"), "guidance")
        still = replace(SMOKE.stages["guidance"], learning_rate=0.0, steps=1)
        still = replace(SMOKE, stages=SMOKE.stages | {"guidance": still})
        again = train(Run(still, [tiny_cohort], tmp_path / "two", start=tmp_path / "whole"), "guidance")
        assert again.name == "guidance" and not changed(whole, again)  # a further round starts from the network


def test_a_crisper_decoder_leaves_the_encoder_and_all_latents(plain: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    train(Run(SMOKE, [tiny_cohort], tmp_path, steps=2, start=plain), "decoder")
    names = {name.split(".")[0] for name in changed(plain / "autoencoder", tmp_path / "autoencoder")}
    assert names == {"decoder", "post_quant_conv"} and (tmp_path / "unet").is_dir()
    stds = [AutoencoderKL.load_config(folder / "autoencoder")["latents_std"] for folder in (plain, tmp_path)]
    assert stds[0] == stds[1]


def test_real_patients_with_gaps_train_together_with_simulated_ones(
    tiny_cohort: Cohort, plain: Path, tmp_path: Path, no_pictures
) -> None:
    """Unknown IDH, a missing sequence, a slice without tumour; and the sheets that show what is drawn."""
    table = tiny_cohort.table.assign(idh="", source="hospital", sequences="FLAIR T1 T1Gd")
    table.loc[0, ["tumour_px", "side", "place", "size", "enhancement", "necrosis", "oedema"]] = [0, *[""] * 6]
    images, masks = np.array(tiny_cohort.images), np.array(tiny_cohort.masks)
    images[:, 3], masks[0] = 0, 0
    real = write_cohort(tmp_path / "real", images, masks, table)
    no_pictures.undo()
    run = Run(SMOKE, [tiny_cohort, real], tmp_path / "run", steps=1, start=plain)
    for stage in ("autoencoder", "text", "guidance"):
        train(run, stage)
        assert stage == "text" or len(list((run.work(stage) / "sheets").glob("*.png"))) == 1
    no_pictures.setattr(stages, "sample_sheet", lambda *_: None)
    about = json.loads((tmp_path / "run/training.json").read_text())
    assert [cohort["source"] for cohort in about["guidance"]["cohorts"]] == ["simulated", "hospital"]
    with pytest.raises(ValueError, match="cohorts"):
        train(replace(run, cohorts=[tiny_cohort]), "guidance", resume=True)


def test_parts_from_elsewhere_are_installed_and_not_trained(plain: Path, tiny_cohort: Cohort, tmp_path: Path) -> None:
    parts = {"text_encoder": str(plain), "vae": str(plain), "unet": str(plain)}
    run = Run(SMOKE, [tiny_cohort], tmp_path, steps=1, **parts)
    for stage in ("autoencoder", "text", "denoiser"):
        train(run, stage)
    assert not changed(tmp_path / "autoencoder", plain / "autoencoder")
    about = json.loads((tmp_path / "training.json").read_text())
    assert about["autoencoder"] == {"given": str(plain)} and about["denoiser"]["start"] == str(plain)


@pytest.mark.parametrize(
    ("stage", "options", "error", "word"),
    [
        ("denoiser", {}, FileNotFoundError, "order"),
        ("guidance", {}, FileNotFoundError, "order"),
        ("paint", {}, ValueError, "autoencoder"),
        ("guidance", {"variant": "none", "start": "plain"}, ValueError, "variant"),
        ("text", {"start": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_said(stage, options, error, word, plain, tiny_cohort, tmp_path: Path) -> None:
    options = {name: str(plain) if value == "plain" else value for name, value in options.items()}
    with pytest.raises(error, match=word):
        train_command(stage, [tiny_cohort.path], tmp_path, "smoke", steps=1, device="cpu", **options)


def test_two_processes_equal_one_that_accumulates(
    plain: Path, tiny_cohort: Cohort, tmp_path: Path, monkeypatch
) -> None:
    """A run moves from one process to two; and parts without a gradient do not hang them."""
    one = train(autoencoder_run(tiny_cohort, tmp_path / "one", 2), "autoencoder")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit", lambda *args, **options: fit(*args, **options, stop_after=3))
        train(autoencoder_run(tiny_cohort, tmp_path / "moved", 2), "autoencoder")
    shutil.copytree(plain, tmp_path / "plain")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file"]
    command += [str(ROOT / "notebooks/accelerate/two_cpus.yaml"), str(ROOT / "tests/training/two_processes.py")]
    command += [str(tiny_cohort.path), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"process-{i}.txt").read_text() for i in (0, 1)] == ["2 gloo"] * 2
    moved = tensors(tmp_path / "moved/autoencoder")
    assert max((moved[name] - value).abs().max().item() for name, value in tensors(one).items()) < 1e-5
    assert not list(tmp_path.rglob(".tmp-*")) and not changed(tmp_path / "A/autoencoder", plain / "autoencoder")
