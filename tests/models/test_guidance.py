"""Structural guidance: step 0 changes nothing, the exits learn first, every variant follows the structure."""

import pytest
import torch

from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.denoiser import build_denoiser, widen_input
from mrtutor.models.guidance import (
    STRUCTURE_CHANNELS,
    Variant,
    build_guidance,
    exit_parameters,
    predict,
    stem_computed,
    structure_condition,
)
from mrtutor.presets import load_preset

SMOKE = load_preset("smoke")
RESIDUAL = [Variant.A, Variant.B, Variant.C]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_denoiser(SMOKE.denoiser, SMOKE.text.hidden).eval()


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return build_autoencoder(SMOKE.autoencoder).eval()


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(1)
    structure = (torch.rand(2, 1, 256, 256, generator=g) > 0.95).float()
    latents = torch.randn(2, 4, 32, 32, generator=g)
    return latents, torch.tensor([10, 900]), torch.randn(2, 7, SMOKE.text.hidden, generator=g), structure


def guided(unet, guidance, variant, inputs, autoencoder):
    latents, t, text, structure = inputs
    return predict(unet, guidance, variant, latents, t, text, structure_condition(structure, variant, autoencoder))


@pytest.mark.parametrize("variant", RESIDUAL)
def test_step_zero_changes_nothing(variant, unet, autoencoder, inputs):
    latents, t, text, _ = inputs
    plain = predict(unet, None, Variant.NONE, latents, t, text, None)
    assert torch.equal(guided(unet, build_guidance(unet, variant), variant, inputs, autoencoder), plain)


def test_step_zero_of_concat_changes_nothing(unet, autoencoder, inputs):
    latents, t, text, _ = inputs
    plain = predict(unet, None, Variant.NONE, latents, t, text, None)
    wide = widen_input(unet, STRUCTURE_CHANNELS)
    assert torch.allclose(guided(wide, None, Variant.D, inputs, autoencoder), plain, atol=1e-5)


@pytest.mark.parametrize("variant", RESIDUAL)
def test_exits_learn_at_once_and_the_clone_one_step_later(variant, unet, autoencoder, inputs):
    guidance = build_guidance(unet, variant)
    exits = exit_parameters(guidance)
    loss = guided(unet, guidance, variant, inputs, autoencoder).square().mean()
    loss.backward()
    middle = guidance.controlnet_mid_block.weight.grad
    assert middle.abs().sum() > 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in guidance.down_blocks.parameters())
    with torch.no_grad():
        for p in exits:
            p.add_(0.01)
    guidance.zero_grad()
    guided(unet, guidance, variant, inputs, autoencoder).square().mean().backward()
    assert sum(p.grad.abs().sum() for p in guidance.controlnet_cond_embedding.parameters()) > 0


def open_exits(guidance):
    with torch.no_grad():
        for p in exit_parameters(guidance):
            p.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return guidance


@pytest.mark.parametrize("variant", RESIDUAL)
def test_open_exits_let_the_structure_through(variant, unet, autoencoder, inputs):
    guidance = open_exits(build_guidance(unet, variant))
    latents, t, text, structure = inputs
    first = guided(unet, guidance, variant, inputs, autoencoder)
    second = guided(unet, guidance, variant, (latents, t, text, structure.flip(-1)), autoencoder)
    assert (first - second).abs().max() > 1e-3


def test_middle_variant_leaves_the_skip_connections_alone(unet, autoencoder, inputs):
    guidance = open_exits(build_guidance(unet, Variant.A))
    first = guided(unet, guidance, Variant.A, inputs, autoencoder)
    with torch.no_grad():
        for p in guidance.controlnet_down_blocks.parameters():
            p.mul_(100)
    assert torch.equal(first, guided(unet, guidance, Variant.A, inputs, autoencoder))
    assert not torch.equal(first, guided(unet, guidance, Variant.B, inputs, autoencoder))


def test_condition_loses_no_edge_pixel(inputs):
    structure = inputs[-1]
    condition = structure_condition(structure, Variant.B)
    assert condition.shape == (2, STRUCTURE_CHANNELS, 32, 32)
    assert torch.equal(torch.nn.functional.pixel_shuffle(condition, 8), structure)


def test_latent_structure_needs_the_autoencoder(inputs):
    with pytest.raises(ValueError, match="autoencoder"):
        structure_condition(inputs[-1], Variant.C)


def test_precomputed_stem_gives_the_same_and_is_put_back(unet, inputs):
    latents, t, text, structure = inputs
    guidance = open_exits(build_guidance(unet, Variant.B))
    condition = structure_condition(structure, Variant.B)
    plain = predict(unet, guidance, Variant.B, latents, t, text, condition)
    stem = guidance.controlnet_cond_embedding
    with pytest.raises(RuntimeError, match="stop"), stem_computed(guidance):
        features = stem(condition)
        assert torch.equal(predict(unet, guidance, Variant.B, latents, t, text, features), plain)
        raise RuntimeError("stop")
    assert guidance.controlnet_cond_embedding is stem
