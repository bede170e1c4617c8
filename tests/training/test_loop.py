"""The loop: schedule, averages, checkpoints, logs, and what it does when something goes wrong."""

import errno
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Generator, nn

from mrtutor.presets import StagePreset
from mrtutor.training import loop
from mrtutor.training.loop import Stage, fit, learning_rate_factor

SETTINGS = StagePreset(20, 4, 0.05, warmup=2, validate_every=10, checkpoint_every=5, ema_decay=0.9)


class LearningObjective:
    """Least squares, with a number of its own that grows at each step; not a number after step `breaks`."""

    def __init__(self, breaks: int = 999):
        self.count, self.breaks = 0, breaks

    def __call__(self, model, batch, generator):
        self.count += 1
        noise = 0.01 * torch.randn(batch["x"].shape, generator=generator)
        loss = (model(batch["x"] + noise) - batch["y"]).square().mean()
        return loss * (float("nan") if self.count > self.breaks else 1), {"count": torch.tensor(float(self.count))}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def batches(count: int, generator: Generator) -> dict[str, torch.Tensor]:
    x = torch.randn(count, 3, generator=generator)
    return {"x": x, "y": x.sum(dim=1, keepdim=True)}


def stage(settings: StagePreset = SETTINGS, breaks: int = 999, **more) -> Stage:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    return Stage("test", model, LearningObjective(breaks), batches, settings, **more)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, SETTINGS) for step in range(21)]
    assert factors[:3] == [0.5, 1.0, 1.0] and factors[20] == pytest.approx(SETTINGS.final_rate)
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert learning_rate_factor(19, replace(SETTINGS, schedule="constant")) == 1


def test_it_learns_what_is_not_frozen_and_returns_the_averaged_weights(tmp_path: Path) -> None:
    seen, work = [], stage(replace(SETTINGS, steps=200, validate_every=100))
    work.model[0].requires_grad_(False)
    before = work.model[0].weight.clone()
    work.validate = lambda model: seen.append(weights(model)) or {"figure": float(len(seen))}
    work.sheet = lambda model, path: (path.parent.mkdir(exist_ok=True), path.write_text("picture"))
    model = fit(work, tmp_path)
    log = pd.read_csv(tmp_path / "log.csv")
    losses = log[log["name"] == "loss"]["value"]
    assert losses.iloc[-1] < 0.2 * losses.iloc[0] and log[log["split"] == "validation"]["value"].tolist() == [1, 2]
    assert [path.name for path in sorted((tmp_path / "sheets").iterdir())] == ["000100.png", "000200.png"]
    averaged, last = saved(tmp_path)["ema"]["shadow_params"], saved(tmp_path)["model"]
    assert torch.equal(model[0].weight, before) and set(last) == {"2.weight", "2.bias"} and not model.training
    assert torch.equal(model[2].weight, averaged[0]) and not torch.equal(averaged[0], last["2.weight"])
    assert torch.equal(seen[-1], weights(model))


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    whole = fit(stage(), tmp_path / "whole", seed=3)
    fit(stage(), tmp_path / "cut", seed=3, stop_after=7)
    with open(tmp_path / "cut/log.csv", "a") as file:
        file.write("9,train,loss,1\n9,tr")  # a kill came after the checkpoint
    resumed = fit(stage(), tmp_path / "cut", seed=3, resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    logs = [pd.read_csv(tmp_path / name / "log.csv") for name in ("whole", "cut")]
    ends = [log[(log["step"] == 20) & (log["name"] == "count")]["value"].iloc[0] for log in logs]
    assert ends == [15.5, 15.5]  # the objective's own state went on, too
    assert 9 not in logs[1]["step"].to_numpy() and not logs[1].duplicated(["step", "split", "name"]).any()
    assert not torch.equal(weights(whole), weights(fit(stage(), tmp_path / "other", seed=4)))


@pytest.mark.parametrize("change", [{"seed": 1}, {"inputs": {"cohorts": "b"}}, {"learning_rate": 0.1}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict) -> None:
    fit(stage(inputs={"cohorts": "a"}), tmp_path, stop_after=5)
    settings = replace(SETTINGS, learning_rate=change.get("learning_rate", SETTINGS.learning_rate))
    work = stage(settings, inputs=change.get("inputs", {"cohorts": "a"}))
    with pytest.raises(ValueError, match="another run"):
        fit(work, tmp_path, resume=True, seed=change.get("seed", 0))


def test_what_goes_wrong_is_said_and_the_last_checkpoint_kept(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(FloatingPointError, match="step 8"):
        fit(stage(breaks=7), tmp_path)
    assert saved(tmp_path)["step"] == 5
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr(loop.torch, "save", full)
        fit(stage(), tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before and not list(tmp_path.glob(".tmp-*"))
    (tmp_path / "checkpoint.pt").write_bytes(before[:200])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read"):
        fit(stage(), tmp_path, resume=True)
