"""What chapter 05 shows in plain torch is what the package and diffusers compute."""

from copy import deepcopy

import nbformat
import pytest
import torch
from torch import nn

from mrtutor.models.denoiser import build_denoiser
from mrtutor.models.guidance import Variant, build_guidance, exit_parameters, predict
from mrtutor.presets import DenoiserPreset
from tests.notebooks.anatomy import ROOT

CHAPTER = ROOT / "notebooks/05_build_structural_guidance.ipynb"
DEFINED = ("zero_conv", "guidance_network", "library_name")  # tags of the cells that define something


@pytest.fixture(scope="module")
def chapter() -> dict:
    """The definitions of the chapter's tagged cells."""
    cells = nbformat.read(CHAPTER, as_version=4).cells
    names = {"nn": nn, "deepcopy": deepcopy}
    for tag in DEFINED:
        (source,) = (cell.source for cell in cells if tag in cell.metadata.get("tags", []))
        exec(compile(source, f"cell {tag}", "exec"), names)
    return names


def unet(attention: tuple[bool, ...], layers: int):
    torch.manual_seed(0)
    widths = (16, 32, 32)[: len(attention)]
    size = DenoiserPreset(widths, attention, layers, heads=2, norm_groups=8, latent_size=16)
    return build_denoiser(size, text_dim=8)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 5, 8, generator=g)
    condition = (torch.rand(2, 64, 16, 16, generator=g) > 0.9).float()
    return latents, torch.tensor([10, 900]), text, condition


@pytest.mark.parametrize(
    ("attention", "layers"), [((False, True), 1), ((True, False), 2), ((False, True, True), 1), ((False, False), 1)]
)
@torch.no_grad()
def test_the_chapters_network_is_the_librarys(chapter, inputs, attention, layers) -> None:
    frozen = unet(attention, layers)
    ours, library = chapter["GuidanceNetwork"](frozen), build_guidance(frozen, Variant.B, stem_width=16)
    for valve in [*ours.exits, ours.middle_exit]:
        nn.init.normal_(valve.weight)
        nn.init.normal_(valve.bias)
    library.load_state_dict({chapter["library_name"](name): value for name, value in ours.state_dict().items()})
    down, middle = ours(*inputs)
    theirs = library(*inputs)
    assert len(down) == len(theirs.down_block_res_samples)
    for mine, wanted in zip(
        [*down, middle], [*theirs.down_block_res_samples, theirs.mid_block_res_sample], strict=True
    ):
        assert wanted.abs().max() > 0.1, "an exit stayed shut: equality would mean nothing"
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)


def test_every_exit_of_both_is_a_zero_convolution(chapter, inputs) -> None:
    frozen = unet((False, True), 1)
    ours = chapter["GuidanceNetwork"](frozen)
    down, middle = ours(*inputs)
    assert all(not r.any() for r in [*down, middle])
    assert sum(p.numel() for p in exit_parameters(build_guidance(frozen, Variant.B))) == sum(
        p.numel() for part in (ours.exits, ours.middle_exit) for p in part.parameters()
    )


@torch.no_grad()
def test_the_clone_is_a_copy_and_the_original_stays_plain(chapter, inputs) -> None:
    frozen = unet((False, True), 1).requires_grad_(False)
    latents, t, text, _ = inputs
    plain = predict(frozen, None, Variant.NONE, latents, t, text, None)
    ours = chapter["GuidanceNetwork"](frozen)
    assert all(p.requires_grad for p in ours.parameters()) and not any(p.requires_grad for p in frozen.parameters())
    for p in ours.parameters():
        p.add_(1)
    assert torch.equal(predict(frozen, None, Variant.NONE, latents, t, text, None), plain)


def test_the_zero_convolution_learns_and_what_lies_behind_it_does_not(chapter) -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    valve = chapter["zero_conv"](3)
    y = valve(x)
    (y - 1).square().mean().backward()
    assert not y.any() and not x.grad.any()
    assert valve.weight.grad.abs().min() > 0 and valve.bias.grad.abs().min() > 0
