"""Structural guidance: step 0 changes nothing, the exits learn first, each variant trains what it says and no more."""

import pytest
import torch
from torch import nn

from mrtutor.models import build_components
from mrtutor.models.guidance import EXIT_FACTOR, VARIANTS, exit_parameters, guidance_of
from tests.models.tiny_pipelines import SMOKE, open_exits, seeded

GUIDED = ["paper", "A", "B", "C", "D"]


@pytest.fixture
def inputs():
    draw = seeded(1)
    structure = (torch.rand(2, 1, 256, 256, generator=draw) > 0.95).float()
    latents = torch.randn(2, SMOKE.denoiser.latent_channels, 32, 32, generator=draw)
    return latents, torch.tensor([10, 900]), torch.randn(2, 7, SMOKE.text.hidden, generator=draw), structure


def fresh(variant):
    torch.manual_seed(0)
    return build_components(SMOKE, variant)


def opened(variant):
    parts = fresh(variant)
    open_exits(parts["unet"], parts["guidance"])
    return parts


def guided(variant, parts, inputs, **options):
    latents, t, text, structure = inputs
    condition = VARIANTS[variant].condition(structure, parts["autoencoder"])
    return VARIANTS[variant].predict(parts["unet"], parts["guidance"], latents, t, text, condition, **options)


@pytest.mark.parametrize("variant", GUIDED)
def test_step_zero_changes_nothing_and_the_exits_learn_first(variant, inputs):
    parts = fresh(variant)
    first, network = guided(variant, parts, inputs), parts["guidance"]
    assert torch.allclose(first, guided("none", fresh("none"), inputs), atol=1e-5)
    if network is not None:
        first.square().mean().backward()
        assert network.controlnet_mid_block.weight.grad.abs().sum() > 0
        assert all(p.grad is None or p.grad.abs().sum() == 0 for p in network.down_blocks.parameters())


def test_the_papers_network_has_zero_convolutions_before_and_after_the_clone():
    """Eq. 2: z(I; W, B) with W = B = 0; the clone itself starts as the base's encoder and middle block."""
    unet, network = (fresh("paper")[name] for name in ("unet", "guidance"))
    zeros = [*exit_parameters(network), *network.controlnet_cond_embedding.conv_out.parameters()]
    assert all((parameter == 0).all() for parameter in zeros)
    for part in ("conv_in", "down_blocks", "mid_block"):
        mine, theirs = (getattr(net, part).state_dict() for net in (network, unet))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


# beginning of the names of the U-Net's parameters that are trained; "" is all of them
TRAINED = {"none": "", "paper": "mid_block.resnets.0.", "A": None, "B": None, "C": None, "D": ""}


@pytest.mark.parametrize("variant", TRAINED)
def test_each_variant_trains_what_it_says(variant, inputs):
    """After a step with the groups, these parameters have moved and no others."""
    parts = opened(variant)
    unet, network = parts["unet"], parts["guidance"]
    unet.to(memory_format=torch.channels_last)  # as in training; torch 2.13 may crash here, see _needing_gradient
    groups = VARIANTS[variant].trainable_groups(unet, network, 1e-2)
    own, cloned = dict(unet.named_parameters()), list(network.parameters()) if network else []
    before = {name: p.detach().clone() for name, p in own.items()}
    guided(variant, parts, inputs).square().mean().backward()
    torch.optim.SGD(groups).step()
    moved = {name for name, p in own.items() if not torch.equal(p, before[name])}
    start = TRAINED[variant]
    assert moved <= {name for name in own if start is not None and name.startswith(start)}
    assert ("mid_block.resnets.0.norm1.weight" in moved) == (start is not None)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {id(p) for p in [*own.values(), *cloned] if p.requires_grad} == rates.keys()
    if network is not None:
        exits = {id(p) for p in exit_parameters(network)}
        assert all(rate == 1e-2 * (EXIT_FACTOR if key in exits else 1) for key, rate in rates.items())
        assert network.controlnet_cond_embedding.conv_in.weight.grad.abs().sum() > 0


def test_the_middle_variant_leaves_the_skip_connections_alone(inputs):
    parts = opened("A")
    first, other = (guided(variant, parts, inputs) for variant in ("A", "paper"))
    nn.init.zeros_(parts["guidance"].controlnet_down_blocks[0].weight)
    assert torch.equal(first, guided("A", parts, inputs)) and not torch.allclose(first, other)


@pytest.mark.parametrize("variant", GUIDED)
def test_scale_is_for_each_row_and_without_structure_it_is_plain(variant, inputs):
    parts, plain = opened(variant), guided("none", fresh("none"), inputs)
    mixed = guided(variant, parts, inputs, scale=torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert torch.allclose(mixed[0], plain[0], atol=1e-4)
    assert torch.allclose(mixed[1], guided(variant, parts, inputs)[1], atol=1e-4)
    assert not torch.allclose(mixed[1], plain[1], atol=1e-2)
    parts |= {"unet": VARIANTS[variant].plain(parts["unet"]), "guidance": None}
    assert torch.allclose(guided("none", parts, inputs), plain, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_tokens_change_nothing(variant, inputs):
    parts, (latents, t, text, structure) = opened(variant), inputs
    mask, other = torch.ones(2, 7, dtype=torch.bool), text.clone()
    mask[0, 4:], other[0, 4:] = False, 5.0
    first = guided(variant, parts, inputs, mask=mask)
    assert torch.equal(first, guided(variant, parts, (latents, t, other, structure), mask=mask))
    assert not torch.equal(first, guided(variant, parts, inputs)), "the hooks for the mask must be gone"
    short = guided(variant, parts, (latents[:1], t[:1], text[:1, :4], structure[:1]))
    assert torch.allclose(first[:1], short, atol=1e-4), "a masked sentence is the short sentence"


@pytest.mark.parametrize("variant", VARIANTS)
def test_precomputed_structure_gives_the_same_and_networks_are_put_back(variant, inputs):
    parts, (latents, t, text, structure) = opened(variant), inputs
    expected = guided(variant, parts, inputs, scale=0.7)
    fixed = VARIANTS[variant].fixed(parts["unet"], parts["guidance"], structure, parts["autoencoder"])
    with pytest.raises(RuntimeError, match="stop"), fixed as denoise:
        assert torch.allclose(denoise(latents, t, text, 0.7), expected, atol=1e-5)
        twice = denoise(*(torch.cat([part, part]) for part in (latents, t, text)), 0.7)
        assert torch.allclose(twice, torch.cat([expected, expected]), atol=1e-5)
        raise RuntimeError("stop")
    assert torch.equal(guided(variant, parts, inputs, scale=0.7), expected)


def test_unknown_variants_and_networks_of_another_are_refused():
    with pytest.raises(ValueError, match="none, paper, A, B, C, D"):
        guidance_of("E")
    made = {name: fresh(name) for name in ("none", "paper", "C", "D")}
    for variant, parts in made.items():
        for other in made:
            if other == variant:
                VARIANTS[other].check(parts["unet"], parts["guidance"])
                continue
            with pytest.raises(ValueError, match=f"Variant {other}"):
                VARIANTS[other].check(parts["unet"], parts["guidance"])
