"""What chapter 6 shows in plain torch equals the libraries, its counts are right, and it draws a recorded run."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Generator

from mrtutor.training.logs import Log
from tests.notebooks.runner import ROOT

NOTEBOOK = ROOT / "notebooks/06_train_on_gpu.ipynb"


def _cells() -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]


@pytest.fixture(scope="module")
def chapter() -> dict[str, Any]:
    """The chapter's imports and the functions it defines."""
    names: dict[str, Any] = {"device": torch.device("cpu")}
    for cell in _cells():
        tags = cell.metadata.get("tags", [])
        if cell.source.startswith("import json") or {"ema", "accumulation", "shared", "counted"} & set(tags):
            exec(cell.source, names)
    return names


@pytest.mark.parametrize("decay", [0.5, 0.995])
def test_the_average_is_that_of_diffusers(chapter: dict[str, Any], decay: float) -> None:
    walk = torch.randn(200, 3, generator=Generator().manual_seed(1))
    weight = torch.nn.Parameter(walk[0].clone())
    library = EMAModel([weight], decay=decay, use_ema_warmup=True, power=3 / 4)  # as `fit` builds it
    for value in walk:
        weight.data.copy_(value)
        library.step([weight])
    assert torch.allclose(chapter["average"](walk, decay)[-1], library.shadow_params[0], atol=1e-5)


def test_pieces_of_a_batch_have_its_gradient(chapter: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, objective, batch = chapter["diffusion_step"]("smoke", "guidance", "cpu")  # variant D
    t, noise = torch.tensor([10, 300, 600, 900]), torch.randn_like(batch["latent"])
    whole, halves = (chapter["gradient"](model, objective, batch, t, noise, k) for k in (1, 2))
    assert torch.allclose(whole, halves, rtol=1e-3, atol=1e-5 * whole.abs().max().item())


def test_counting_without_memory_counts_what_there_is(chapter: dict[str, Any]) -> None:
    """On the CPU attention is fused and its matrices are not kept, so there may be a little less, never more."""
    counted = chapter["counted"]("smoke")
    torch.manual_seed(0)
    model, objective, batch = chapter["diffusion_step"]("smoke", on="cpu")
    assert counted["parameters"] == sum(p.numel() for p in model.parameters())
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss, _ = objective(model, batch, Generator())
    real = sum(size for key, size in kept.items() if key not in {p.data_ptr() for p in model.parameters()})
    assert 0.7 * counted["activations"] < real <= 1.01 * counted["activations"] and loss.isfinite()


def test_the_paper_is_counted_without_its_memory(chapter: dict[str, Any]) -> None:
    """Its guidance (variant A) trains fewer weights than the U-Net has, but runs through both networks."""
    denoiser, guidance = (chapter["counted"]("paper", stage) for stage in ("denoiser", "guidance"))
    assert denoiser["parameters"] == 859_520_964 > guidance["parameters"]
    assert 0.5 < guidance["flops"] / denoiser["flops"] < 1.5


def test_a_recorded_run_is_drawn(chapter: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The logs are written by the loop's own `Log`, so the columns are those of the shipped run."""
    for name, value in (("autoencoder", "psnr_db"), ("text", None), ("guidance-D", "error")):
        (tmp_path / name).mkdir()
        with Log(tmp_path / name, 0) as log:
            for step in range(1, 31):
                log.add(step, {"loss": 1 / step})
            if value:
                log.validation(30, {value: 20.0})
        cost = {"steps": 30, "seconds": 60.0, "peak_mib": 900, "threads": 2}
        (tmp_path / name / "cost.json").write_text(json.dumps(cost))
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    names = chapter | {"recorded_dir": str(tmp_path), "Path": Path, "pd": pd}
    for tag in ("recorded", "curves"):
        (cell,) = [c for c in _cells() if tag in c.metadata.get("tags", [])]
        exec(cell.source, names)
    assert list(names["recorded"]) == ["autoencoder", "text", "guidance-D"]
    assert [ax.get_title().split("\n")[0] for ax in names["axes"][0]] == ["autoencoder", "text", "guidance-D"]
    assert "NOT SHOWN" not in capsys.readouterr().out
    plt.close("all")
    plt.switch_backend(backend)
