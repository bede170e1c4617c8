"""Training the baseline on a tiny cohort: finite, logged, resumed bit for bit; and mistakes are explained."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load_file

from mrtutor.baselines import duel as game_of_two
from mrtutor.baselines.duel import Duel, frozen
from mrtutor.baselines.gan_training import train_stylegan2
from mrtutor.baselines.networks import Discriminator
from mrtutor.baselines.stylegan2 import load_stylegan2
from mrtutor.presets import load_preset
from mrtutor.training.checkpoint import NAME
from mrtutor.training.loop import step_generator
from mrtutor.training.stages import Run
from mrtutor.vocabulary import IDH
from tests.cohorts import write_tiny_cohort

SMOKE = load_preset("smoke")
# crops of 64 pixels for speed; an augmentation that soon acts; a log with more than one row
QUICK = replace(
    SMOKE,
    stylegan2=replace(SMOKE.stylegan2, channels=(16, 16, 16, 8, 8), ada_images=16, ada_target=-1.1),
    stages=SMOKE.stages | {"stylegan2": replace(SMOKE.stages["stylegan2"], steps=20, crop=64, validate_every=12)},
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return write_tiny_cohort(tmp_path_factory.mktemp("gan"))


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("run")
    assert train_stylegan2(Run(QUICK, cohort, folder)) == folder / "stylegan2"
    return folder


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "runs" / "stylegan2" / NAME, weights_only=True)["state"]


def tensors(value: object) -> list[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_run_leaves_finite_logs_sheets_costs_and_a_folder_to_ship(trained):
    work = trained / "runs" / "stylegan2"
    with open(work / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"10", "20"} and {row["split"] for row in rows} == {"train"}
    names = {"loss", "loss_discriminator", "sign_real", "r1", "path_length", "augmentation"}
    assert {row["name"] for row in rows} == names
    assert all(math.isfinite(float(row["value"])) for row in rows)
    assert float(rows[-1]["value"]) > 0 and rows[-1]["name"] == "augmentation", "p rose"
    assert cv2.imread(str(work / "sheets" / "000012.png")).shape == (4 * 64, 4 * 64, 3)
    assert (work / "sheets" / "000020.png").is_file()
    cost = json.loads((work / "cost.json").read_text())
    assert cost["steps"] == 20 and cost["seconds"] > 0 and cost["peak_mib"] > 50
    gan = load_stylegan2(trained / "stylegan2")
    assert gan.about["steps"] == 20 and gan.about["cohort"].startswith("test, slices.npy ")
    assert torch.isfinite(gan.sequences([IDH.WILD], seed=0)).all()


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(trained, cohort, tmp_path):
    train_stylegan2(Run(QUICK, cohort, tmp_path), stop_after=7)
    train_stylegan2(Run(QUICK, cohort, tmp_path), resume=True)
    whole, resumed = checkpoint(trained)["duel"], checkpoint(tmp_path)["duel"]
    pairs = list(zip(tensors(whole), tensors(resumed), strict=True))
    assert len(pairs) > 200 and all(torch.equal(a, b) for a, b in pairs), "weights, moments, averages"
    assert all(whole[name] == resumed[name] for name in ("chance", "path_average", "measured"))
    files = [(folder / "stylegan2" / "model.safetensors").read_bytes() for folder in (trained, tmp_path)]
    assert files[0] == files[1]


def test_interrupt_loses_no_checkpoint(cohort, tmp_path, monkeypatch):
    """Ctrl-C in step 5: the checkpoint of step 3 stands, nothing half-written lies about, and the run goes on."""
    settings = replace(QUICK.stages["stylegan2"], steps=6)
    short = replace(QUICK, stages={"stylegan2": settings})
    real = Duel.step

    def interrupted(self, step, batch, random):
        if step == 4:
            raise KeyboardInterrupt
        return real(self, step, batch, random)

    monkeypatch.setattr(Duel, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_stylegan2(Run(short, cohort, tmp_path))
    assert checkpoint(tmp_path)["step"] == load_stylegan2(tmp_path / "stylegan2").about["steps"] == 3
    assert not list(tmp_path.rglob(".tmp-*"))
    monkeypatch.setattr(Duel, "step", real)
    train_stylegan2(Run(short, cohort, tmp_path), resume=True)
    assert checkpoint(tmp_path)["step"] == 6


def test_a_finished_run_leaves_its_folder_again_whatever_the_steps(trained, cohort, tmp_path):
    """`--resume --steps 1` packs what a cut run had reached."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    path = train_stylegan2(Run(QUICK, cohort, tmp_path, steps=1), resume=True)
    assert checkpoint(tmp_path)["step"] == load_stylegan2(path).about["steps"] == 20
    assert (path / "model.safetensors").read_bytes() == (trained / "stylegan2/model.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(game_of_two, "generator_loss", lambda logits: logits.mean() * float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_stylegan2(Run(QUICK, cohort, tmp_path))
    assert not (tmp_path / "stylegan2").exists()


def test_checkpoint_of_another_run_is_refused(trained, cohort):
    with pytest.raises(ValueError, match="another run"):
        train_stylegan2(Run(QUICK, cohort, trained, seed=1), resume=True)
    swapped = cohort.table.assign(idh=cohort.table["idh"].map({"mutant": "wild", "wild": "mutant"}))
    with pytest.raises(ValueError, match="another run"):  # the same pixels under other names
        train_stylegan2(Run(QUICK, replace(cohort, table=swapped), trained), resume=True)
    assert load_stylegan2(trained / "stylegan2").about["seed"] == 0


def test_a_round_goes_on_from_a_finished_generator(trained, cohort, tmp_path, monkeypatch):
    """While the new discriminator learns alone nothing moves; then both do; the card counts both rounds."""
    monkeypatch.setattr(game_of_two, "ALONE", 3)
    shipped, run = trained / "stylegan2", Run(QUICK, cohort, tmp_path, seed=1, steps=5, start=trained / "stylegan2")
    before = load_file(shipped / "model.safetensors")
    train_stylegan2(run, stop_after=3)
    waiting = load_file(tmp_path / "stylegan2/model.safetensors")
    assert all(torch.equal(before[name], waiting[name]) for name in before)
    path = train_stylegan2(run, resume=True)
    moved = load_file(path / "model.safetensors")
    assert not all(torch.equal(before[name], moved[name]) for name in before)
    about = load_stylegan2(path).about
    assert about["steps"] == 25 and [r["steps"] for r in about["rounds"]] == [20, 5]
    assert [r["seed"] for r in about["rounds"]] == [0, 1]
    with open(tmp_path / "runs/stylegan2/log.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [], "fewer than ten steps"
    whole = tmp_path / "whole"
    train_stylegan2(Run(QUICK, cohort, whole, seed=1, steps=5, start=shipped))
    assert (whole / "stylegan2/model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="another run"):
        train_stylegan2(Run(QUICK, cohort, tmp_path, seed=1, steps=5), resume=True)


def test_a_start_that_does_not_fit_is_refused_before_anything_is_trained(trained, cohort, tmp_path):
    with pytest.raises(FileNotFoundError, match="No StyleGAN2 baseline"):
        train_stylegan2(Run(QUICK, cohort, tmp_path, start=tmp_path / "nothing"))
    other = replace(QUICK, stylegan2=replace(QUICK.stylegan2, channels=(16, 8, 8, 8, 8)))
    with pytest.raises(ValueError, match="start from a baseline of this preset"):
        train_stylegan2(Run(other, cohort, tmp_path, start=trained / "stylegan2"))
    assert not (tmp_path / "stylegan2").exists()
    with pytest.raises(ValueError, match=r"write over .* choose another --out"):
        train_stylegan2(Run(QUICK, cohort, trained, start=trained / "stylegan2"))
    assert load_stylegan2(trained / "stylegan2").about["steps"] == 20


def test_manifest_need_not_say_more_than_checksums(cohort, tmp_path):
    """A cohort made by `mrtutor simulate` and one made by `mrtutor prepare` have different manifests."""
    bare = replace(cohort, manifest={"sha256": cohort.manifest["sha256"]})
    train_stylegan2(Run(QUICK, bare, tmp_path, steps=1))
    assert load_stylegan2(tmp_path / "stylegan2").about["steps"] == 1


def duel() -> Duel:
    torch.manual_seed(0)
    return Duel(QUICK.stylegan2, QUICK.stages["stylegan2"], torch.device("cpu"), torch.float32)


def batch() -> dict[str, torch.Tensor]:
    image = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"image": image, "modality": torch.arange(4), "idh": torch.tensor([0, 1, 0, 1])}


def test_each_penalty_comes_when_it_is_due_and_both_players_move():
    game = duel()
    before = [p.detach().clone() for player in (game.generator, game.discriminator) for p in player.parameters()]
    measured = []
    for step in range(1, 4):  # R1 every 3 steps, path length every 2
        values = game.step(step, batch(), step_generator(0, step))
        measured.append((values["r1"] > 0, values["path_length"] > 0))
    assert measured == [(False, False), (False, True), (True, True)]
    after = [p for player in (game.generator, game.discriminator) for p in player.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == len(before)


def test_lazy_penalties_are_counted_in_the_learning_rate():
    game = duel()
    game.step(5, batch(), step_generator(0, 5))  # warm-up over
    generator, discriminator = (o.param_groups[0] for o in game.optimizers.values())
    assert generator["lr"] == pytest.approx(2e-3 * 2 / 3) and generator["betas"][1] == pytest.approx(0.99 ** (2 / 3))
    assert discriminator["lr"] == pytest.approx(2e-3 * 3 / 4)


def test_averaged_generator_follows_slowly():
    game = duel()
    before = game.averaged.start.clone()
    with torch.no_grad():
        game.generator.start.add_(1)
    game._average(step=10**6)
    kept = 0.5 ** (4 / QUICK.stylegan2.ema_images)
    torch.testing.assert_close(game.averaged.start, before + (1 - kept), rtol=0, atol=1e-6)


def test_frozen_network_passes_gradients_and_keeps_none():
    judge = Discriminator(QUICK.stylegan2)
    image = torch.rand(4, 1, 64, 64, requires_grad=True)
    with frozen(judge):
        judge(image, torch.arange(4)).sum().backward()
    assert image.grad.abs().sum() > 0 and all(p.grad is None and p.requires_grad for p in judge.parameters())
