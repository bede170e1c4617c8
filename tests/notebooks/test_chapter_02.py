"""What chapter 2 shows in plain torch is what the package computes."""

import nbformat
import pytest
import torch

from mrtutor.models.autoencoder import build_autoencoder, from_channels, to_channels
from mrtutor.presets import AutoencoderPreset
from mrtutor.training.objectives import AutoencoderObjective
from tests.notebooks.anatomy import ROOT

SMALL = {"widths": (8, 16), "norm_groups": 4}


@pytest.fixture(scope="module")
def shown() -> dict:
    """The functions of the chapter's cells."""
    names = {"torch": torch, "to_channels": to_channels, "from_channels": from_channels}
    for cell in nbformat.read(ROOT / "notebooks/02_train_autoencoder.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith(("def unshuffle(", "def autoencoder_loss(")):
            definition, _, _ = cell.source.partition("\n\n\n")  # what follows a definition calls it
            exec(definition, names)
    return names


@pytest.mark.parametrize("u", [2, 4, 8])
def test_unshuffle_is_the_package_s(shown: dict, u: int) -> None:
    model = build_autoencoder(AutoencoderPreset(unshuffle=u, **SMALL))
    images = torch.randn(2, 1, 48, 64)  # not square
    assert torch.equal(shown["unshuffle"](images, u), to_channels(model, images))


@pytest.mark.parametrize("kl_weight", [0.0, 2e-4, 1.0])
def test_loss_is_the_package_s(shown: dict, kl_weight: float) -> None:
    torch.manual_seed(1)
    model, image = build_autoencoder(AutoencoderPreset(**SMALL)), torch.rand(2, 1, 32, 64) * 2 - 1
    noise = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(3))
    loss, kl = shown["autoencoder_loss"](model, image, noise, kl_weight)
    objective = AutoencoderObjective(kl_weight=kl_weight)
    expected, logs = objective(model, {"image": image}, torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(kl.detach(), logs["kl"])
