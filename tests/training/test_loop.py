"""The loop: resume is exact, damage is reported, the schedule is what it says."""

import pytest
import torch
from torch import nn

from mrtutor.presets import StagePreset
from mrtutor.training.checkpoint import NAME, load_checkpoint
from mrtutor.training.loop import Stage, fit, learning_rate_factor, step_generator

SETTINGS = StagePreset(8, 4, 1e-2, warmup=2, validate_every=4, checkpoint_every=3)


def regression_stage(settings: StagePreset = SETTINGS, **changes) -> Stage:
    """Fit y = 3x with a small convolutional net; enough for Adam, EMA and norm layers to have state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 1))

    def batches(count, generator):
        x = torch.randn(count, 1, 8, 8, generator=generator)
        return {"x": x, "y": 3 * x}

    def objective(model, batch, generator):
        noise = 0.01 * torch.randn(batch["x"].shape, generator=generator)
        loss = (model(batch["x"] + noise) - batch["y"]).square().mean()
        return loss, {"rmse": loss.detach().sqrt()}

    return Stage("regression", model, objective, batches, settings, **changes)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path):
    whole = weights(fit(regression_stage(), tmp_path / "whole"))
    fit(regression_stage(), tmp_path / "cut", stop_after=5)
    resumed = weights(fit(regression_stage(), tmp_path / "cut", resume=True))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_another_seed_gives_other_weights(tmp_path):
    first = weights(fit(regression_stage(), tmp_path / "a"))
    second = weights(fit(regression_stage(), tmp_path / "b", seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_loss_falls(tmp_path):
    settings = StagePreset(120, 8, 2e-2, warmup=5, ema_decay=0.9, checkpoint_every=200)
    fit(regression_stage(settings), tmp_path)
    lines = [row.split(",") for row in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    losses = [float(value) for _, split, name, value in lines if split == "train" and name == "loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_log_has_no_doubled_rows_after_resume(tmp_path):
    settings = StagePreset(40, 4, 1e-2, warmup=2, validate_every=10, checkpoint_every=7)
    stage = regression_stage(settings, validate=lambda model: {"bias": 1.0})
    fit(stage, tmp_path, stop_after=25)
    fit(regression_stage(settings, validate=lambda model: {"bias": 1.0}), tmp_path, resume=True)
    rows = [tuple(line.split(",")[:3]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert len(rows) == len(set(rows))
    assert ("40", "validation", "bias") in rows


def test_accumulation_of_two_equals_one_batch_of_both_halves(tmp_path):
    """Two accumulated micro-batches give the gradient of their mean."""
    small = StagePreset(1, 4, 1e-2, warmup=1, accumulation=2, clip_norm=1e9, checkpoint_every=9)
    accumulated = weights(fit(regression_stage(small), tmp_path / "two"))
    stage = regression_stage(StagePreset(1, 8, 1e-2, warmup=1, clip_norm=1e9, checkpoint_every=9))

    def joined(_, __):
        halves = [regression_stage().batches(4, step_generator(0, part)) for part in (0, 1)]
        return {key: torch.cat([half[key] for half in halves]) for key in halves[0]}

    stage.batches = joined
    stage.objective = lambda model, batch, generator: ((model(batch["x"]) - batch["y"]).square().mean(), {})
    plain = weights(fit(stage, tmp_path / "one"))
    # Adam's first step is the sign of the gradient, so equality up to the input noise of 0.01 is a sharp test
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(accumulated, plain, strict=True))


def test_truncated_checkpoint_is_reported(tmp_path):
    fit(regression_stage(), tmp_path, stop_after=3)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="delete it"):
        fit(regression_stage(), tmp_path, resume=True)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    fit(regression_stage(), tmp_path, stop_after=3)
    with pytest.raises(ValueError, match="another run"):
        fit(regression_stage(), tmp_path, seed=3, resume=True)


def test_checkpoint_of_other_inputs_is_refused_and_an_old_one_is_taken(tmp_path):
    fit(regression_stage(inputs={"labels": "a", "masks": "m"}), tmp_path, stop_after=3)
    with pytest.raises(ValueError, match="labels was a, now b"):
        fit(regression_stage(inputs={"labels": "b", "masks": "m"}), tmp_path, resume=True)
    saved = torch.load(tmp_path / NAME, weights_only=True)
    del saved["inputs"]  # as it was written before
    del saved["state"]["device"], saved["state"]["mixed_precision"]
    torch.save(saved, tmp_path / NAME)
    fit(regression_stage(inputs={"labels": "b", "masks": "m"}), tmp_path, resume=True)


def test_a_resumed_run_keeps_its_number_format(tmp_path):
    whole = weights(fit(regression_stage(), tmp_path / "whole", mixed_precision="bf16"))
    fit(regression_stage(), tmp_path / "cut", mixed_precision="bf16", stop_after=5)
    resumed = weights(fit(regression_stage(), tmp_path / "cut", mixed_precision="no", resume=True))  # another race won
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_no_checkpoint_means_none(tmp_path):
    assert load_checkpoint(tmp_path, "x") is None


def test_nan_loss_stops_and_keeps_the_checkpoint(tmp_path):
    fit(regression_stage(), tmp_path, stop_after=3)
    before = (tmp_path / NAME).read_bytes()
    stage = regression_stage()
    stage.objective = lambda model, batch, generator: (model(batch["x"]).mean() * float("nan"), {})
    with pytest.raises(FloatingPointError, match="another --seed, or lower the learning rate"):
        fit(stage, tmp_path, resume=True)
    assert (tmp_path / NAME).read_bytes() == before


def test_full_disk_while_writing_a_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    fit(regression_stage(), tmp_path, stop_after=3)
    before = (tmp_path / NAME).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mrtutor.training.checkpoint.torch.save", full)
    with pytest.raises(OSError, match="No space left"):
        fit(regression_stage(), tmp_path, resume=True)
    assert (tmp_path / NAME).read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_schedule_warms_up_and_decays():
    settings = StagePreset(100, 1, 1.0, warmup=10, final_rate=0.1)
    assert learning_rate_factor(0, settings) == pytest.approx(0.1)
    assert learning_rate_factor(9, settings) == pytest.approx(1.0)
    assert learning_rate_factor(100, settings) == pytest.approx(0.1)
    constant = StagePreset(100, 1, 1.0, warmup=0, schedule="constant")
    assert learning_rate_factor(99, constant) == 1.0
