"""Tiny pipelines and a structure map for the tests of sampling."""

import pytest
import torch
from tiny_pipelines import build

from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Modality, prompt


@pytest.fixture(scope="session")
def pipelines():
    """variant -> pipeline, float32, silent; built once."""
    made = {}

    def get(variant: str) -> MRPipeline:
        if variant not in made:
            made[variant] = build(variant)
            made[variant].precision = torch.float32
            made[variant].set_progress_bar_config(disable=True)
        return made[variant]

    return get


@pytest.fixture
def structure():
    """A brain-like outline and a ring inside, (256, 256) bool."""
    y, x = torch.meshgrid(torch.arange(256) - 128, torch.arange(256) - 128, indexing="ij")
    radius = (y**2 / 1.4 + x**2).sqrt()
    ring = ((y + 20) ** 2 + (x - 30) ** 2).sqrt()
    return ((radius - 80).abs() < 0.7) | ((ring - 18).abs() < 0.7)


@pytest.fixture
def sentences():
    return [prompt(m, IDH.WILD) for m in Modality]
