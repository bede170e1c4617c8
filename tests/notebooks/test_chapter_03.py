"""What chapter 3 shows in plain torch is what the package computes."""

import nbformat
import pytest
import torch
import torch.nn.functional as F

from mrtutor.training.contrastive import contrastive_loss
from tests.notebooks.anatomy import ROOT


@pytest.fixture(scope="module")
def shown() -> dict:
    """The losses of the chapter's cells."""
    names = {"torch": torch, "F": F}
    for cell in nbformat.read(ROOT / "notebooks/03_train_text_encoder.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith(("def info_nce(", "def several_positives(")):
            definition, _, _ = cell.source.partition("\n\n\n")  # what follows a definition calls it
            exec(definition, names)
    return names


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_the_package_s(shown: dict, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator)
    logits = 10 * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    scale, own = torch.tensor(10.0).log(), torch.eye(6, dtype=torch.bool)
    several = own | (torch.rand(6, 6, generator=generator) < 0.4)
    torch.testing.assert_close(shown["info_nce"](logits), contrastive_loss(images, texts, own, scale))
    torch.testing.assert_close(
        shown["several_positives"](logits, several), contrastive_loss(images, texts, several, scale)
    )
